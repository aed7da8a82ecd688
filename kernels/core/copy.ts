/** Copies between views (word by word) and fills: the in-place primitives below `cat`, `pad`, caches and gradients. */
import {
  ArgumentError,
  DTYPES,
  ShapeError,
  checkNumber,
  elementBytes,
  empty,
  encode,
  grid1d,
  kernel,
  launch,
  sameShape,
} from "../../engine/index.ts";
import type { Tensor } from "../../engine/index.ts";
import { grid } from "./libraries.ts";
import { copyWords, wordView } from "./copy_words.ts";
import { contiguousCopy } from "./map.ts";
import { windowsOf } from "./windows.ts";

const fill = kernel(
  "fill",
  new URL("./fill.wgsl", import.meta.url),
  { y: "write" },
  { granules: "u32", value: "u32" },
  [grid],
);

/** True if the elements of view `dst` and of `src` (once contiguous) make whole words, so that `copyInto` can move them. */
export function fitsWords(dst: Tensor, src: Tensor): boolean {
  const per = 32 / DTYPES[dst.dtype].bits;
  if (per === 1 || src.size === 0) return true;
  return wordView(dst, per) !== null && dst.shape.at(-1)! % per === 0;
}

/**
 * dst = src, in place, between views of one shape and dtype in different storages; not recorded on the tape.
 * Rows of 16-bit and 8-bit elements must start and end on whole words.
 */
export function copyInto(dst: Tensor, src: Tensor): void {
  if (!sameShape(dst.shape, src.shape) || dst.dtype !== src.dtype)
    throw new ShapeError(
      `copyInto: shape and dtype must be equal; got ${src} into ${dst}. Cast or reshape the source.`,
    );
  if (dst.storage === src.storage)
    throw new ArgumentError(
      `copyInto: source and destination must not share a storage; got ${src} and ${dst}. Clone the source first.`,
    );
  if (dst.size === 0) return;
  const source = wordView(src, 32 / DTYPES[src.dtype].bits) ? src : contiguousCopy(src);
  copyWords(dst, source);
  if (source !== src) source.dispose();
}

/** Fills y with `value` in place; `y` may be a view (rows of 16-bit and 8-bit elements on whole words). */
export function fillInto(y: Tensor, value: number): void {
  checkNumber("fillInto", value, y.dtype);
  if (y.size === 0) return;
  if (!y.isWritable) {
    const own = empty(y.shape, { dtype: y.dtype, device: y.device });
    fillInto(own, value);
    copyWords(y, own);
    own.dispose();
    return;
  }
  const per = 32 / DTYPES[y.dtype].bits;
  const bytes = encode(new Array<number>(per).fill(value), y.dtype);
  const word = new DataView(bytes.buffer, bytes.byteOffset, 4).getUint32(0, true);
  for (const { count, buffers } of windowsOf("fill", y.size, { y })) {
    const granules = Math.ceil((count * DTYPES[y.dtype].bits) / 128);
    launch(fill, {
      buffers,
      params: { granules, value: word },
      grid: grid1d(Math.ceil(granules / 256)),
      cost: { flops: 0, bytes: elementBytes(y.dtype, count) },
    });
  }
}
