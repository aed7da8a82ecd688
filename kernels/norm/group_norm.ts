/**
 * Group norm over NCHW images, with swish fused, and its gradients. Small groups take a launch a pass; for others statistics are computed in
 * f32, in stages of short sums over the whole map.
 */
import {
  ArgumentError,
  DTypeError,
  ShapeError,
  checkTensors,
  elementBytes,
  empty,
  grid1d,
  isFloat,
  kernel,
  launch,
  library,
  record,
  sameShape,
  scope,
  shapeText,
  sizeOf,
  knownOptions,
} from "../../engine/index.ts";
import type { DType, Tensor } from "../../engine/index.ts";
import { fillInto } from "../core/copy.ts";
import { activations, finite, grid, opaque, rowLibrary, standard } from "../core/libraries.ts";
import { asDType, contiguousCopy } from "../core/map.ts";
import { rowOperand, rowVariant, rowWorkgroup } from "../core/rows.ts";
import { bucket, chooseVariant } from "../core/variants.ts";
import type { Family } from "../core/variants.ts";
import { windowsOf } from "../core/windows.ts";
import { sum } from "../reduce/reduce.ts";

const CHANNEL_PARAMS = {
  rows: "u32",
  first: "u32",
  channels: "u32",
  per_group: "u32",
  granules: "u32",
  scale: "f32",
  eps: "f32",
  weighted: "u32",
  biased: "u32",
} as const;
/** Parameters of the kernels that walk channels. */
const channelWalk = library("group_norm_channels", new URL("./lib/group_norm_channels.wgsl", import.meta.url), [
  activations,
]);
const stage = kernel(
  "group_norm_stats",
  new URL("./group_norm_stats.wgsl", import.meta.url),
  { x: "read", stats: "write" },
  { rows: "u32", first: "u32", granules: "u32" },
  [...standard, opaque, finite],
);
const finish = kernel(
  "group_norm_finish",
  new URL("./group_norm_finish.wgsl", import.meta.url),
  { sums: "read", weight: "read", totals: "write", dweight: "write", dbias: "write" },
  { images: "u32", channels: "u32", per_group: "u32", chunks: "u32", weighted: "u32" },
  [grid],
);
/** Chunks of a channel that one invocation of it adds; more are added first. */
const MAX_CHUNKS = 16;
const merge = kernel(
  "group_norm_merge",
  new URL("./group_norm_merge.wgsl", import.meta.url),
  { stats: "read", merged: "write" },
  { rows: "u32", parts: "u32", covered: "u32", elements: "u32" },
  [grid, opaque],
);
const apply = kernel(
  "group_norm",
  new URL("./group_norm.wgsl", import.meta.url),
  { x: "read", stats: "read", weight: "read", bias: "read", y: "write" },
  CHANNEL_PARAMS,
  [...standard, channelWalk],
);
const partials = kernel(
  "group_norm_sums",
  new URL("./group_norm_sums.wgsl", import.meta.url),
  { x: "read", g: "read", stats: "read", weight: "read", bias: "read", sums: "write" },
  CHANNEL_PARAMS,
  [...standard, channelWalk],
);
const backwardKernel = kernel(
  "group_norm_backward",
  new URL("./group_norm_backward.wgsl", import.meta.url),
  { x: "read", g: "read", stats: "read", sums: "read", weight: "read", bias: "read", dx: "write" },
  CHANNEL_PARAMS,
  [...standard, channelWalk],
);

const whole = kernel(
  "group_norm_whole",
  new URL("./group_norm_whole.wgsl", import.meta.url),
  { x: "read", weight: "read", bias: "read", y: "write", stats: "write" },
  CHANNEL_PARAMS,
  [...standard, channelWalk, opaque, rowWorkgroup],
);
const wholeBackward = kernel(
  "group_norm_whole_backward",
  new URL("./group_norm_whole_backward.wgsl", import.meta.url),
  {
    x: "read",
    g: "read",
    stats: "read",
    weight: "read",
    bias: "read",
    dx: "write",
    dweight: "write",
    dbias: "write",
  },
  CHANNEL_PARAMS,
  [...standard, channelWalk, rowWorkgroup],
);

/** Granules or parts that one invocation sums in a stage; the kernels' constant. */
const CHUNK = 64;
/** Granules that one workgroup of the elementwise kernels covers. */
const BLOCK = 256;

export interface GroupNormOptions {
  /** Added to the variance; 1e-5 by default, as in PyTorch. */
  readonly eps?: number;
  /** The result z is replaced by z · sigmoid(z). */
  readonly swish?: boolean;
}

/** The sizes of one call; a granule is 4 elements of a channel, or 1 if channels do not split into fours. */
interface Geometry {
  readonly images: number;
  readonly channels: number;
  readonly pixels: number;
  readonly groups: number;
  readonly width: 1 | 4;
  readonly eps: number;
  readonly swish: boolean;
}

/** Granules of a group up to which one launch is faster than three: they stay in the caches. */
const MAX_WHOLE = 4096;
/** Channels that the invocations of one group walk in the backward, those of all images: the kernel's constant. */
const MAX_WALKED = 32;
/** Granules in those channels up to which one launch is faster than three. */
const MAX_WALKED_GRANULES = 1 << 14;

interface GroupNormProblem extends Geometry {
  readonly pass: "forward" | "backward";
}

const groupGranules = ({ channels, groups, pixels, width }: Geometry): number => (channels / groups) * (pixels / width);
const walked = ({ images, channels, groups }: Geometry): number => (images * channels) / groups;

/** "whole": a launch for the forward and one for the backward. "stages": sums by stages, three launches each and more. */
export const GROUP_NORM_FAMILY: Family<GroupNormProblem, "whole" | "stages"> = {
  name: "group_norm",
  table: [
    {
      name: "whole",
      // The backward binds its tensors whole, at up to 4 bytes an element.
      runs: ({ limits }, p) =>
        p.pass === "forward" ||
        (walked(p) <= MAX_WALKED && 4 * p.images * p.channels * p.pixels <= limits.maxStorageBufferBindingSize),
      // GPUs keep the backward in stages: it has few workgroups, not yet measured on one, and NVIDIA's compiler puts its arrays in memory.
      preferred: ({ software }, p) =>
        p.pass === "forward"
          ? groupGranules(p) <= MAX_WHOLE
          : software && p.images * groupGranules(p) <= MAX_WALKED_GRANULES,
      choose: () => "whole",
      instead: "stages",
    },
    { name: "stages", choose: () => "stages" },
  ],
  classOf: (p) => `${p.pass} ${bucket(groupGranules(p))} granules ${bucket(walked(p))} channels`,
};

const isWhole = (x: Tensor, g: Geometry, pass: GroupNormProblem["pass"]): boolean =>
  chooseVariant(GROUP_NORM_FAMILY, x.device.capabilities, { ...g, pass }) === "whole";

/**
 * Group normalisation (Wu and He 2018): x [N, C, ...] is normalised to mean 0 and variance 1 over each of `groups`
 * groups of C / groups channels of an image, then multiplied by weight [C] and added to bias [C] (either may be null),
 * and optionally passed through swish → x's shape and dtype. The variance is the biased one. Gradients: of x in its
 * dtype, of weight and bias in f32.
 */
export function groupNorm(
  x: Tensor,
  groups: number,
  weight: Tensor | null = null,
  bias: Tensor | null = null,
  options: GroupNormOptions = {},
): Tensor {
  checkTensors("groupNorm", x, weight, bias);
  knownOptions("groupNorm", options, ["eps", "swish"]);
  const g = geometry(x, groups, weight, bias, options);
  if (x.size === 0)
    return record(
      "groupNorm",
      [x, weight, bias],
      empty(x.shape, { dtype: x.dtype, device: x.device }),
      [],
      (_, __, needs) => emptyGradients(x, weight, bias, needs),
    );
  const [y, stats] = scope(() => {
    const input = rowOperand(x, g.pixels);
    if (isWhole(x, g, "forward")) return normaliseWhole(input, vector(weight), vector(bias), x.dtype, g);
    const statistics = groupStats(input, g);
    return [normalise(input, statistics, vector(weight), vector(bias), x.dtype, g), statistics];
  });
  const out = record(
    "groupNorm",
    [x, weight, bias],
    y,
    [x, stats, ...(weight ? [weight] : []), ...(bias ? [bias] : [])],
    (grad, [input, saved, ...rest], needs) =>
      gradients(input!, grad, saved!, weight ? rest[0]! : null, bias ? rest.at(-1)! : null, g, needs),
  );
  stats.dispose();
  return out;
}

function geometry(
  x: Tensor,
  groups: number,
  weight: Tensor | null,
  bias: Tensor | null,
  { eps = 1e-5, swish = false }: GroupNormOptions,
): Geometry {
  for (const t of [x, weight, bias])
    if (t && !isFloat(t.dtype))
      throw new DTypeError(`groupNorm: every tensor must have a floating dtype; got ${t}. Cast it to f32 first.`);
  if (x.rank < 2) throw new ShapeError(`groupNorm: x must be [N, C, ...]; got ${x}. Reshape it.`);
  const [images, channels] = x.shape as [number, number];
  if (!Number.isInteger(groups) || groups < 1 || channels % groups !== 0)
    throw new ShapeError(
      `groupNorm: the number of groups must divide the ${channels} channels of x ${shapeText(x.shape)}; got ${groups}. Change one of them.`,
    );
  for (const [name, t] of Object.entries({ weight, bias })) {
    if (t && !sameShape(t.shape, [channels]))
      throw new ShapeError(
        `groupNorm: ${name} must be [${channels}], one value per channel of x ${shapeText(x.shape)}; got ${shapeText(t.shape)}. Change it.`,
      );
  }
  if (!(eps > 0)) throw new ArgumentError(`groupNorm: eps must be a number above 0; got ${eps}. Choose one like 1e-5.`);
  const pixels = sizeOf(x.shape.slice(2));
  return { images, channels, pixels, groups, width: pixels % 4 === 0 ? 4 : 1, eps, swish };
}

const vector = (t: Tensor | null): Tensor | null => t && contiguousCopy(asDType(t, "f32"));

/** [images · groups, 2] f32: mean and sum of squared differences from it of every group. */
function groupStats(x: Tensor, g: Geometry): Tensor {
  const rows = g.images * g.groups;
  const elements = (g.channels / g.groups) * g.pixels;
  let parts = Math.ceil(elements / g.width / CHUNK);
  let stats = empty([rows, parts, 2], { device: x.device });
  for (const { start, count, buffers } of windowsOf("groupNorm", rows, { x })) {
    launch(stage, {
      use: { x: rowLibrary(x.dtype, g.pixels) },
      buffers: { ...buffers, stats },
      params: { rows: count, first: start, granules: elements / g.width },
      grid: grid1d(Math.ceil((count * parts) / 64)),
      cost: { flops: 3 * count * elements, bytes: elementBytes(x.dtype, count * elements) },
    });
  }
  for (let covered = CHUNK * g.width; parts > 1; covered *= CHUNK) {
    const merged = empty([rows, Math.ceil(parts / CHUNK), 2], { device: x.device });
    launch(merge, {
      buffers: { stats, merged },
      params: { rows, parts, covered, elements },
      grid: grid1d(Math.ceil((rows * Math.ceil(parts / CHUNK)) / 64)),
      cost: { flops: 6 * rows * parts, bytes: 8 * rows * parts },
    });
    stats = merged;
    parts = Math.ceil(parts / CHUNK);
  }
  return stats;
}

function channelParams(
  g: Geometry,
  first: number,
  rows: number,
  weight: Tensor | null,
  bias: Tensor | null,
): Record<keyof typeof CHANNEL_PARAMS, number> {
  const perGroup = g.channels / g.groups;
  return {
    rows,
    first,
    channels: g.channels,
    per_group: perGroup,
    granules: g.pixels / g.width,
    scale: 1 / (perGroup * g.pixels),
    eps: g.eps,
    weighted: weight ? 1 : 0,
    biased: bias ? 1 : 0,
  };
}

function normalise(
  x: Tensor,
  stats: Tensor,
  weight: Tensor | null,
  bias: Tensor | null,
  dtype: DType,
  g: Geometry,
): Tensor {
  const y = empty(x.shape, { dtype: g.width === 1 ? "f32" : dtype, device: x.device });
  for (const { start, count, buffers } of windowsOf("groupNorm", g.images * g.channels, { x, y })) {
    launch(apply, {
      use: { x: rowLibrary(x.dtype, g.pixels), y: rowLibrary(y.dtype, g.pixels) },
      constants: { SWISH: g.swish },
      buffers: { ...buffers, stats, weight: weight ?? stats, bias: bias ?? stats },
      params: channelParams(g, start, count, weight, bias),
      grid: grid1d(count * Math.ceil(g.pixels / g.width / BLOCK)),
      cost: {
        flops: (g.swish ? 8 : 4) * count * g.pixels,
        bytes: elementBytes(x.dtype, count * g.pixels) + elementBytes(y.dtype, count * g.pixels),
      },
    });
  }
  return asDType(y, dtype);
}

/** The result, and the statistics [images · groups, 2]. */
function normaliseWhole(
  x: Tensor,
  weight: Tensor | null,
  bias: Tensor | null,
  dtype: DType,
  g: Geometry,
): [y: Tensor, stats: Tensor] {
  const { device } = x;
  const rows = g.images * g.groups;
  const elements = (g.channels / g.groups) * g.pixels;
  const y = empty(x.shape, { dtype: g.width === 1 ? "f32" : dtype, device });
  const stats = empty([rows, 2], { device });
  const variant = rowVariant("group_rows", device.capabilities, groupGranules(g));
  for (const { start, count, buffers } of windowsOf("groupNorm", rows, { x, y })) {
    launch(whole, {
      use: { x: rowLibrary(x.dtype, g.pixels), y: rowLibrary(y.dtype, g.pixels), r: variant.library },
      constants: { ...variant.constants, SWISH: g.swish },
      buffers: { ...buffers, weight: weight ?? buffers.x, bias: bias ?? buffers.x, stats },
      params: channelParams(g, start, count, weight, bias),
      grid: grid1d(Math.ceil(count / variant.rows)),
      cost: {
        flops: (g.swish ? 13 : 9) * count * elements,
        bytes: elementBytes(x.dtype, count * elements) + elementBytes(y.dtype, count * elements),
      },
    });
  }
  return [asDType(y, dtype), stats];
}

/** Gradients of x, weight and bias. The two sums of every channel make the last two, and once weighted and added over a group the first. */
function gradients(
  input: Tensor,
  grad: Tensor,
  stats: Tensor,
  weightIn: Tensor | null,
  biasIn: Tensor | null,
  g: Geometry,
  needs: readonly boolean[],
): (Tensor | null)[] {
  const x = rowOperand(input, g.pixels);
  const dy = rowOperand(grad, g.pixels);
  const weight = vector(weightIn);
  const bias = vector(biasIn);
  const rows = g.images * g.channels;
  const device = x.device;
  const use = { x: rowLibrary(x.dtype, g.pixels), g: rowLibrary(dy.dtype, g.pixels) };
  if (isWhole(x, g, "backward")) return gradientsWhole();
  const chunks = Math.ceil(g.pixels / g.width / CHUNK);
  const parts = empty([rows, chunks, 2], { device });
  for (const { start, count, buffers } of windowsOf("groupNorm", rows, { x, g: dy })) {
    launch(partials, {
      use,
      constants: { SWISH: g.swish },
      buffers: { ...buffers, stats, weight: weight ?? stats, bias: bias ?? stats, sums: parts },
      params: channelParams(g, start, count, weight, bias),
      grid: grid1d(Math.ceil((count * chunks) / 64)),
      cost: {
        flops: (g.swish ? 14 : 5) * count * g.pixels,
        bytes: elementBytes(x.dtype, count * g.pixels) + elementBytes(dy.dtype, count * g.pixels),
      },
    });
  }
  const few = chunks <= MAX_CHUNKS ? parts : sum(parts, [1]); // [N · C, chunks, 2]
  const { totals, dweight, dbias } = finishSums(few, weight, g);
  return [needs[0] ? inputGradient() : null, needs[1] ? dweight : null, needs[2] ? dbias : null];

  function gradientsWhole(): (Tensor | null)[] {
    const dx = empty(input.shape, { dtype: g.width === 1 ? "f32" : input.dtype, device });
    const all = [empty([g.channels], { device }), empty([g.channels], { device })] as const;
    const variant = rowVariant("group_rows", device.capabilities, g.pixels / g.width);
    launch(wholeBackward, {
      use: { ...use, dx: rowLibrary(dx.dtype, g.pixels), r: variant.library },
      constants: { ...variant.constants, SWISH: g.swish },
      buffers: { x, g: dy, stats, weight: weight ?? stats, bias: bias ?? stats, dx, dweight: all[0], dbias: all[1] },
      params: channelParams(g, 0, g.images * g.groups, weight, bias),
      grid: grid1d(Math.ceil(g.groups / variant.rows)),
      cost: {
        flops: (g.swish ? 30 : 12) * rows * g.pixels,
        bytes: elementBytes(x.dtype, 2 * rows * g.pixels) + elementBytes(dy.dtype, rows * g.pixels),
      },
    });
    return [dx, ...all].map((t, i) => (needs[i] ? t : null));
  }

  function inputGradient(): Tensor {
    const dx = empty(input.shape, { dtype: g.width === 1 ? "f32" : input.dtype, device });
    for (const { start, count, buffers } of windowsOf("groupNorm", rows, { x, g: dy, dx })) {
      launch(backwardKernel, {
        use: { ...use, dx: rowLibrary(dx.dtype, g.pixels) },
        constants: { SWISH: g.swish },
        buffers: { ...buffers, stats, sums: totals, weight: weight ?? stats, bias: bias ?? stats },
        params: channelParams(g, start, count, weight, bias),
        grid: grid1d(count * Math.ceil(g.pixels / g.width / BLOCK)),
        cost: {
          flops: (g.swish ? 16 : 7) * count * g.pixels,
          bytes: elementBytes(x.dtype, 2 * count * g.pixels) + elementBytes(dy.dtype, count * g.pixels),
        },
      });
    }
    return dx;
  }
}

/** Sums of each group for the gradient of x, f32 [N · groups, 2], and the gradients of weight and bias, f32 [C]. */
function finishSums(sums: Tensor, weight: Tensor | null, g: Geometry): Record<"totals" | "dweight" | "dbias", Tensor> {
  const { device } = sums;
  const groups = g.images * g.groups;
  const totals = empty([groups, 2], { device });
  const [dweight, dbias] = [empty([g.channels], { device }), empty([g.channels], { device })];
  const chunks = sums.size / (2 * g.images * g.channels);
  launch(finish, {
    buffers: { sums, weight: weight ?? sums, totals, dweight, dbias },
    params: {
      images: g.images,
      channels: g.channels,
      per_group: g.channels / g.groups,
      chunks,
      weighted: weight ? 1 : 0,
    },
    grid: grid1d(Math.ceil((groups + g.channels) / 64)),
    cost: { flops: 3 * sums.size, bytes: 8 * sums.size },
  });
  return { totals, dweight, dbias };
}

/** Zeros: an input without elements. */
function emptyGradients(
  x: Tensor,
  weight: Tensor | null,
  bias: Tensor | null,
  needs: readonly boolean[],
): (Tensor | null)[] {
  return [x, weight, bias].map((t, i) => {
    if (!t || !needs[i]) return null;
    const zero = empty(t.shape, { device: x.device });
    fillInto(zero, 0);
    return zero;
  });
}
