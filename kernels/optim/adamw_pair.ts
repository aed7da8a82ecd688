/** The AdamW update of small parameters, two a launch: they cost their launch more than their elements. */
import { grid1d, kernel, launch, scope } from "../../engine/index.ts";
import type { Bound, Device, Tensor } from "../../engine/index.ts";
import { grid } from "../core/libraries.ts";
import { contiguousCopy } from "../core/map.ts";
import { zeros } from "../views/create.ts";
import { checkStep, checkSteps } from "./adamw.ts";
import type { AdamWSettings, AdamWTensors } from "./adamw.ts";

const update = kernel(
  "adamw_pair",
  new URL("./adamw_pair.wgsl", import.meta.url),
  {
    p0: "read_write",
    moments0: "read_write",
    g0: "read",
    p1: "read_write",
    moments1: "read_write",
    g1: "read",
    state: "read",
    steps: "read",
  },
  {
    granules0: "u32",
    granules1: "u32",
    v0: "u32",
    v1: "u32",
    row0: "u32",
    row1: "u32",
    groups0: "u32",
    rest1: "f32",
    rest2: "f32",
    epsilon: "f32",
    decay: "f32",
  },
  [grid],
);

/** Elements up to which a parameter shares a launch. */
const SMALL = 1 << 16;
/** Elements after which v begins: a binding may begin at any multiple of 256 bytes. */
const UNIT = 64;

/** True if `adamwPair` can move parameters of `size` elements: small ones of whole granules. */
export const canPair = (size: number): boolean => size > 0 && size % 4 === 0 && size <= SMALL;

/** Moments of zeros for a parameter of `shape` that `canPair` allows: m and v as views of one tensor, for one binding. */
export function pairMoments(shape: readonly number[], size: number, device: Device): { m: Tensor; v: Tensor } {
  const width = Math.ceil(size / UNIT) * UNIT;
  return scope(() => {
    const both = zeros([2, width], { device });
    const strides = shape.map((_, d) => shape.slice(d + 1).reduce((p, n) => p * n, 1));
    return { m: both.strided(shape, strides, 0), v: both.strided(shape, strides, width) };
  });
}

/** Tensors of an update whose moments were made by `pairMoments`. */
export type PairTensors = Required<Pick<AdamWTensors, "master" | "m" | "v" | "grad" | "steps">>;

/** True if the moments lie as `pairMoments` lays them out, and a launch can bind them and the parameter. */
export const isPairable = ({ master, m, v }: Pick<PairTensors, "master" | "m" | "v">): boolean =>
  canPair(master.size) &&
  master.isBindable &&
  m.storage === v.storage &&
  m.storage.bytes <= m.device.limits.maxStorageBufferBindingSize;

/** `adamwStep` of two parameters in different storages at once, the bits are the same. Both are `isPairable`. */
export function adamwPair(
  first: PairTensors,
  second: PairTensors,
  state: Tensor,
  settings: Omit<AdamWSettings, "emaDecay">,
): void {
  for (const tensors of [first, second]) {
    checkStep("adamwPair", tensors, state, settings);
    checkSteps("adamwPair", tensors.steps!.table, tensors.steps!.row, 1);
  }
  const { beta1 = 0.9, beta2 = 0.999, epsilon = 1e-8, weightDecay = 0 } = settings;
  const groupsOf = ({ master }: PairTensors): number => Math.ceil(master.size / 512);
  const distance = ({ m, v }: PairTensors): number => v.offset - m.offset;
  const moments = (tensors: PairTensors): Bound => {
    const width = distance(tensors);
    return tensors.m.strided([2, width], [width, 1], tensors.m.offset);
  };
  const elements = first.master.size + second.master.size;
  scope(() =>
    launch(update, {
      buffers: {
        p0: first.master,
        moments0: moments(first),
        g0: contiguousCopy(first.grad),
        p1: second.master,
        moments1: moments(second),
        g1: contiguousCopy(second.grad),
        state,
        steps: first.steps!.table,
      },
      params: {
        granules0: first.master.size / 4,
        granules1: second.master.size / 4,
        v0: distance(first) / 4,
        v1: distance(second) / 4,
        row0: first.steps!.row,
        row1: second.steps!.row,
        groups0: groupsOf(first),
        rest1: 1 - beta1,
        rest2: 1 - beta2,
        epsilon,
        decay: weightDecay,
      },
      grid: grid1d(groupsOf(first) + groupsOf(second)),
      cost: { flops: 16 * elements, bytes: 28 * elements },
    }),
  );
}
