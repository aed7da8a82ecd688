/** One AdamW update with moments of 8 bits: 2.03 bytes a parameter instead of 8; on request without an f32 master. */
import { ArgumentError, elementBytes, empty, grid1d, kernel, launch, scope } from "../../engine/index.ts";
import type { Bound, Tensor } from "../../engine/index.ts";
import { philox, standard } from "../core/libraries.ts";
import { contiguousCopy } from "../core/map.ts";
import { checkStep, checkSteps } from "./adamw.ts";
import type { AdamWSettings, AdamWTensors } from "./adamw.ts";

const update = kernel(
  "adamw8",
  new URL("./adamw8.wgsl", import.meta.url),
  {
    p: "read_write",
    moments: "read_write",
    g: "read",
    copy: "read_write",
    ema: "read_write",
    state: "read",
    steps: "read",
  },
  {
    elements: "u32",
    rest1: "f32",
    rest2: "f32",
    epsilon: "f32",
    decay: "f32",
    fresh: "f32",
    row: "u32",
    start: "u32",
  },
  [...standard, philox],
);

/** Elements that share their scales. */
const BLOCK = 256;
/** u32 words of a block: bytes of m and of v, and their largest magnitudes. */
const WORDS = 130;
/** Blocks after which a binding may begin: 32 · 130 words are whole alignments of 256 bytes. */
const UNIT = 32;

/** Shape of the moments of a parameter of `size` elements, u32; zeros at the start. */
export const moments8Shape = (size: number): [number, number] => [Math.ceil(size / BLOCK), WORDS];

export interface AdamW8Tensors extends Omit<AdamWTensors, "m" | "v"> {
  /** u32 [blocks, 130] of `moments8Shape`, updated in place. */
  readonly moments: Tensor;
}

/**
 * One update of one parameter, in place, as `adamwStep` with moments that are rounded to 8 bits after it: relative to the largest of their block of 256,
 * m in steps of (q / 127)⁴, v in steps of (q / 255)⁸. The update itself is computed from the moments before they are rounded. A master in bf16 is rounded
 * by chance (the same for the same step, row and element), and has no copy.
 */
export function adamw8Step(tensors: AdamW8Tensors, state: Tensor, settings: AdamWSettings = {}): void {
  scope(() => {
    const given = { ...tensors, grad: contiguousCopy(tensors.grad) };
    requireTensors(given, state, settings);
    const { device } = tensors.master;
    for (const window of windows(device.limits.maxStorageBufferBindingSize, tensors.master.size))
      launchWindow(window, given, state, settings);
  });
}

function requireTensors(tensors: AdamW8Tensors, state: Tensor, settings: AdamWSettings): void {
  const { master, moments, grad, copy = null, ema = null, steps = null } = tensors;
  const isRounded = master.dtype === "bf16";
  // What is asked of an f32 master holds for one in bf16 too, but for its dtype.
  checkStep("adamw8Step", isRounded ? { master: grad, grad, copy: master, ema } : tensors, state, settings);
  if (isRounded && copy)
    throw new ArgumentError(`adamw8Step: a master in bf16 must have no copy; got ${copy}. Leave it out.`);
  if (steps) checkSteps("adamw8Step", steps.table, steps.row, 1);
  const shape = moments8Shape(master.size);
  if (moments.dtype !== "u32" || moments.shape.join() !== shape.join() || !moments.isBindable)
    throw new ArgumentError(
      `adamw8Step: moments must be u32 [${shape.join(", ")}] with their own storage; got ${moments}. Create them with zeros.`,
    );
}

function launchWindow({ first, count }: Window, tensors: AdamW8Tensors, state: Tensor, settings: AdamWSettings): void {
  const { master, moments, grad, copy = null, ema = null, steps = null } = tensors;
  const { beta1 = 0.9, beta2 = 0.999, epsilon = 1e-8, weightDecay = 0, emaDecay = 0 } = settings;
  const { device, dtype } = master;
  const part = (of: Tensor): Bound => ({ of, start: first, elements: count });
  launch(update, {
    use: { p: dtype, c: copy?.dtype ?? "bf16" },
    constants: { STOCHASTIC: dtype === "bf16", COPY: copy !== null, EMA: ema !== null, OWN: steps !== null },
    buffers: {
      p: part(master),
      moments: { of: moments, start: (first / BLOCK) * WORDS, elements: Math.ceil(count / BLOCK) * WORDS },
      g: part(grad),
      copy: copy ? part(copy) : empty([4], { dtype: "bf16", device }),
      ema: ema ? part(ema) : empty([4], { device }),
      state,
      steps: steps?.table ?? empty([4], { device }),
    },
    params: {
      elements: count,
      rest1: 1 - beta1,
      rest2: 1 - beta2,
      epsilon,
      decay: weightDecay,
      fresh: 1 - emaDecay,
      row: steps?.row ?? 0,
      start: first / 4,
    },
    grid: grid1d(Math.ceil(count / BLOCK)),
    cost: {
      flops: 40 * count,
      bytes: 9 * count + elementBytes(dtype, 2 * count) + (ema ? 8 * count : 0) + (copy ? elementBytes(copy.dtype, count) : 0), // prettier-ignore
    },
  });
}

interface Window {
  readonly first: number;
  readonly count: number;
}

/** Runs of elements that fit a binding. */
function* windows(limit: number, size: number): Generator<Window> {
  const unit = UNIT * BLOCK;
  const most = Math.max(unit, Math.floor((limit - 16) / 4 / unit) * unit);
  for (let first = 0; first < size; first += most) yield { first, count: Math.min(most, size - first) };
}
