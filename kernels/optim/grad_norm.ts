/** The norm of all gradients, on the device: nothing is read back. */
import {
  ArgumentError,
  DTypeError,
  checkTensors,
  empty,
  grid1d,
  kernel,
  launch,
  requireArray,
  rowWindows,
  scope,
} from "../../engine/index.ts";
import type { Tensor } from "../../engine/index.ts";
import { grid } from "../core/libraries.ts";
import { contiguousCopy } from "../core/map.ts";

const partialKernel = kernel(
  "grad_norm",
  new URL("./grad_norm.wgsl", import.meta.url),
  { x: "read", partial: "write" },
  { elements: "u32", parts: "u32", first: "u32" },
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
    const windows = grads.flatMap((g) => {
      const from = contiguousCopy(g);
      return rowWindows(device, g.size, [{ rowElements: 1, dtype: "f32" }], 4, "globalGradNorm").map((w) => ({
        from,
        ...w,
      }));
    });
    // All partial sums lie in one list that one binding holds.
    const most = Math.min(
      MAX_PARTS,
      Math.floor((device.limits.maxStorageBufferBindingSize - 16) / 8 / Math.max(1, windows.length)),
    );
    if (most < 1)
      throw new ArgumentError(
        `globalGradNorm: the partial sums must fit one binding; got ${windows.length} gradients. Pass fewer.`,
      );
    const pieces = windows.map((w) => ({ ...w, parts: Math.min(most, Math.ceil(w.count / 4 / PART_GRANULES)) }));
    const total = pieces.reduce((sum, p) => sum + p.parts, 0);
    let partial = empty([Math.max(1, total), 2], { device });
    let first = 0;
    for (const { from, start, count, parts } of pieces) {
      launch(partialKernel, {
        buffers: { x: { of: from, start, elements: count }, partial },
        params: { elements: count, parts, first },
        grid: grid1d(Math.ceil(parts / 64)),
        cost: { flops: 2 * count, bytes: 4 * count },
      });
      first += parts;
    }
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
  });
}
