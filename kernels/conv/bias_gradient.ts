/** The gradient of a convolution's bias: one launch if it is small, else stages of short sums. Nothing here is recorded on the tape. */
import { elementBytes, empty, grid1d, kernel, launch, storageBytes } from "../../engine/index.ts";
import type { Tensor } from "../../engine/index.ts";
import { rowLibrary, standard } from "../core/libraries.ts";
import { contiguousCopy } from "../core/map.ts";
import { granulesOf, rowOperand, rowVariant, rowWorkgroup, viewAs } from "../core/rows.ts";
import { sum } from "../reduce/reduce.ts";

const addAll = kernel(
  "conv2d_bias_backward",
  new URL("./conv2d_bias_backward.wgsl", import.meta.url),
  { g: "read", db: "write" },
  { outer: "u32", rows: "u32", inner: "u32" },
  [...standard, rowWorkgroup],
);

/** Granules of a channel up to which one launch adds them, and images, which it walks one after another. */
const MOST = { granules: 8192, images: 64 } as const;

/**
 * Sums dy, contiguous of shape [outer, channels, inner], over all but the channels: f32 [channels]. With `inner` 1 the channels are adjacent.
 */
export function biasGradient(dy: Tensor, [outer, channels, inner]: readonly [number, number, number]): Tensor {
  const isLast = inner === 1;
  const width = isLast ? channels : inner; // elements in a row in memory
  const size = outer * channels * inner;
  const total = isLast ? outer : outer * granulesOf(inner);
  const { maxStorageBufferBindingSize: limit } = dy.device.limits;
  const isSmall = total <= MOST.granules && (isLast || outer <= MOST.images);
  if (size === 0 || !isSmall || storageBytes("f32", size) > limit)
    return isLast ? sum(viewAs(dy, [outer, channels]), 0) : sum(sum(viewAs(dy, [outer, channels, inner]), 2), 0);
  const g = rowOperand(viewAs(dy, [outer, channels, inner]), width);
  const rows = isLast ? granulesOf(channels) : channels;
  const walked = isLast ? outer : granulesOf(inner);
  const variant = rowVariant("channel_sums", dy.device.capabilities, Math.max(walked, Math.min(total, 5)));
  const db = empty([channels], { device: dy.device });
  launch(addAll, {
    use: { g: rowLibrary(g.dtype, width), r: variant.library },
    constants: { ...variant.constants, LAST: isLast },
    buffers: { g: contiguousCopy(g), db },
    params: { outer, rows, inner: isLast ? 1 : granulesOf(inner) },
    grid: grid1d(Math.ceil(rows / variant.rows)),
    cost: { flops: size, bytes: elementBytes(g.dtype, size) },
  });
  return db;
}
