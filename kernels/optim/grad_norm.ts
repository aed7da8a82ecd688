/** The norm of all gradients, on the device: nothing is read back. */
import {
  ArgumentError,
  DTypeError,
  ShapeError,
  checkTensors,
  empty,
  grid1d,
  kernel,
  launch,
  requireArray,
  rowWindows,
  scope,
} from "../../engine/index.ts";
import type { Bound, Device, Tensor } from "../../engine/index.ts";
import { grid } from "../core/libraries.ts";
import { contiguousCopy } from "../core/map.ts";

const partialKernel = kernel(
  "grad_norm",
  new URL("./grad_norm.wgsl", import.meta.url),
  { x: "read", partial: "write" },
  { elements: "u32", parts: "u32", first: "u32" },
  [grid],
);
/** Gradients of one launch of `grad_norm_many`. */
const MANY = 7;
const manyKernel = kernel(
  "grad_norm_many",
  new URL("./grad_norm_many.wgsl", import.meta.url),
  { x0: "read", x1: "read", x2: "read", x3: "read", x4: "read", x5: "read", x6: "read", partial: "write" },
  { elements0: "vec4u", elements1: "vec4u", ends0: "vec4u", ends1: "vec4u", firsts0: "vec4u", firsts1: "vec4u" },
  [grid],
);
const combineKernel = kernel(
  "grad_norm_combine",
  new URL("./grad_norm_combine.wgsl", import.meta.url),
  { partial: "read", y: "write", norm: "write" },
  { count: "u32", parts: "u32" },
  [grid],
);

/** Granules that one invocation squares at least, and the most invocations for one gradient. */
const PART_GRANULES = 16;
const MAX_PARTS = 8192;
/** Elements up to which gradients share a launch: small ones cost their launch more than their elements. */
const SMALL = 1 << 16;
/** Partial sums that one invocation of a later stage adds. */
const FOLD = 64;

/**
 * The L2 norm of all elements of `grads` (f32): f32 [1]; NaN if any of them, or the sum of squares, is not finite.
 * Partial sums of fixed ranges are added in a fixed order: the same gradients give the same bits.
 * @param into f32 [1] to write instead of a new tensor
 */
export function globalGradNorm(grads: readonly Tensor[], into?: Tensor): Tensor {
  requireArray("globalGradNorm", "grads", grads);
  const device = checkTensors("globalGradNorm", ...grads, into ?? null);
  if (into && (into.dtype !== "f32" || into.size !== 1 || !into.isBindable))
    throw new DTypeError(
      `globalGradNorm: the result must be f32 [1] with its own storage; got ${into}. Create it with zeros([1]).`,
    );
  for (const g of grads)
    if (g.dtype !== "f32")
      throw new DTypeError(`globalGradNorm: gradients must be f32; got ${g}. Pass the gradients of leaves.`);
  return scope(() => {
    const norm = into ?? empty([1], { device });
    const plan = gradNormPlan(
      device,
      grads.map(({ size }) => size),
    );
    const partial = empty([Math.max(1, plan.total), 2], { device });
    launchPartials(plan.windows, (i) => grads[i]!, partial);
    return combined(partial, plan.total, norm);
  });
}

/** A window of gradient `of`, and where its partial sums lie among those of all gradients. */
interface NormWindow {
  readonly of: number;
  readonly start: number;
  readonly count: number;
  readonly parts: number;
  readonly first: number;
}

/** How `globalGradNorm` of gradients of given sizes adds up: a list of partial sums, in pairs of f32, that several devices can fill. */
export interface GradNormPlan {
  /** Elements of each gradient. */
  readonly sizes: readonly number[];
  readonly windows: readonly NormWindow[];
  /** Number of partial sums of all gradients. */
  readonly total: number;
}

/** The plan of `globalGradNorm` for gradients of `sizes` elements. */
export function gradNormPlan(device: Device, sizes: readonly number[]): GradNormPlan {
  const windows = sizes.flatMap((size, of) =>
    rowWindows(device, size, [{ rowElements: 1, dtype: "f32" }], 4, "globalGradNorm").map((w) => ({ of, ...w })),
  );
  // All partial sums lie in one list that one binding holds.
  const most = Math.min(
    MAX_PARTS,
    Math.floor((device.limits.maxStorageBufferBindingSize - 16) / 8 / Math.max(1, windows.length)),
  );
  if (most < 1)
    throw new ArgumentError(
      `globalGradNorm: the partial sums must fit one binding; got ${windows.length} gradients. Pass fewer.`,
    );
  let total = 0;
  const placed = windows.map((w) => {
    const parts = Math.min(most, Math.ceil(w.count / 4 / PART_GRANULES));
    total += parts;
    return { ...w, parts, first: total - parts };
  });
  return { sizes, windows: placed, total };
}

/** Writes the partial sums of gradient `of` of the plan (f32, whole) to their places in `partial`, f32 [total, 2]. */
export function gradNormPartials(plan: GradNormPlan, of: number, grad: Tensor, partial: Tensor): void {
  checkTensors("gradNormPartials", grad, partial);
  checkPartials("gradNormPartials", partial, Math.max(1, plan.total));
  if (grad.dtype !== "f32")
    throw new DTypeError(`gradNormPartials: the gradient must be f32; got ${grad}. Pass the gradient of a leaf.`);
  if (grad.size !== plan.sizes[of])
    throw new ShapeError(
      `gradNormPartials: gradient ${of} must have ${plan.sizes[of]} elements, as in the plan; got ${grad}. Pass the whole gradient.`,
    );
  scope(() =>
    launchPartials(
      plan.windows.filter((window) => window.of === of),
      () => grad,
      partial,
    ),
  );
}

/** The norm of all partial sums of a plan, f32 [total, 2] → f32 [1]: the same bits as `globalGradNorm` of the gradients. */
export function gradNormOf(partial: Tensor): Tensor {
  const device = checkTensors("gradNormOf", partial);
  checkPartials("gradNormOf", partial);
  return scope(() => combined(partial.detach(), partial.dim(0), empty([1], { device })));
}

function checkPartials(op: string, partial: Tensor, count?: number): void {
  const { shape } = partial;
  if (
    partial.dtype !== "f32" ||
    !partial.isBindable ||
    shape.length !== 2 ||
    shape[1] !== 2 ||
    shape[0] !== (count ?? shape[0])
  )
    throw new ShapeError(
      `${op}: the partial sums must be f32 [${count ?? "n"}, 2] with their own storage; got ${partial}. Create them with zeros([plan.total, 2]).`,
    );
}

function launchPartials(windows: readonly NormWindow[], gradOf: (i: number) => Tensor, partial: Tensor): void {
  const copies = new Map<number, Tensor>();
  const fromOf = (i: number): Tensor => {
    const copy = copies.get(i) ?? contiguousCopy(gradOf(i));
    copies.set(i, copy);
    return copy;
  };
  const placed = windows.map((window) => ({ ...window, from: fromOf(window.of) }));
  for (const { from, start, count, parts, first } of placed.filter(({ count }) => count > SMALL)) {
    launch(partialKernel, {
      buffers: { x: { of: from, start, elements: count }, partial },
      params: { elements: count, parts, first },
      grid: grid1d(Math.ceil(parts / 64)),
      cost: { flops: 2 * count, bytes: 4 * count },
    });
  }
  const small = placed.filter(({ count }) => count > 0 && count <= SMALL);
  for (let i = 0; i < small.length; i += MANY) launchMany(small.slice(i, i + MANY), partial);
}

/** Folds `total` partial sums, which it frees, into `norm`. */
function combined(partial: Tensor, total: number, norm: Tensor): Tensor {
  const { device } = norm;
  for (let count = total, finished = false; !finished;) {
    const parts = Math.max(1, Math.ceil(count / FOLD));
    finished = parts === 1;
    const y = empty([parts, 2], { device });
    launch(combineKernel, {
      constants: { FINISH: finished },
      buffers: { partial, y, norm },
      params: { count, parts },
      grid: grid1d(Math.ceil(parts / 64)),
      cost: { flops: 2 * count, bytes: 8 * count },
    });
    partial.dispose();
    partial = y;
    count = parts;
  }
  return norm;
}

/** A window of a gradient, and where its partial sums go. */
interface Piece {
  readonly from: Tensor;
  readonly start: number;
  readonly count: number;
  readonly parts: number;
  readonly first: number;
}

/** The partial sums of up to `MANY` pieces. */
function launchMany(pieces: readonly Piece[], partial: Tensor): void {
  const all = Array.from({ length: MANY }, (_, i) => pieces[i] ?? { ...pieces[0]!, count: 0, parts: 0 });
  const bound = ({ from, start }: Piece, elements: number): Bound => ({ of: from, start, elements });
  const [x0, x1, x2, x3, x4, x5, x6] = all.map((piece) => bound(piece, piece.count || 4)) as [Bound, Bound, Bound, Bound, Bound, Bound, Bound]; // prettier-ignore
  const ends = all.map((_, i) => all.slice(0, i + 1).reduce((sum, { parts }) => sum + parts, 0));
  const halves = (values: readonly number[]): [number[], number[]] => [values.slice(0, 4), [...values.slice(4), 0]];
  const [elements0, elements1] = halves(all.map(({ count }) => count));
  const [ends0, ends1] = halves(ends);
  const [firsts0, firsts1] = halves(all.map(({ first }) => first));
  const elements = pieces.reduce((sum, { count }) => sum + count, 0);
  launch(manyKernel, {
    buffers: { x0, x1, x2, x3, x4, x5, x6, partial },
    params: { elements0, elements1, ends0, ends1, firsts0, firsts1 },
    grid: grid1d(Math.ceil(ends.at(-1)! / 64)),
    cost: { flops: 2 * elements, bytes: 4 * elements },
  });
}
