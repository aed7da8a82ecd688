/** Copies between views (word by word) and fills: the in-place primitives below `cat`, `pad`, caches and gradients. */
import { ArgumentError, DTYPES, ShapeError, elementBytes, encode, grid1d, kernel, launch, rowWindows, sameShape, sizeOf } from "../engine/index.ts";
import type { Tensor } from "../engine/index.ts";
import { collapse, contiguousCopy } from "./map.ts";

const copy = kernel(
  "copy",
  new URL("./copy.wgsl", import.meta.url),
  { src: "read", dst: "write" },
  { words: "u32", src: "u32", dst: "u32", shape0: "vec4u", shape1: "vec4u", src0: "vec4u", src1: "vec4u", dst0: "vec4u", dst1: "vec4u" },
);

const fill = kernel("fill", new URL("./fill.wgsl", import.meta.url), { y: "write" }, { granules: "u32", value: "u32" });

/** True if the elements of view `dst` and of `src` (once contiguous) make whole words, so that `copyInto` can move them. */
export function fitsWords(dst: Tensor, src: Tensor): boolean {
  const per = 32 / DTYPES[dst.dtype].bits;
  if (per === 1 || src.size === 0) return true;
  return wordView(dst, per) !== null && dst.shape.at(-1)! % per === 0;
}

/** Shape, strides and offset of a view counted in words; null where its rows are not whole words. */
function wordView(t: Tensor, per: number): { shape: number[]; strides: number[]; offset: number } | null {
  const last = t.rank - 1;
  if (per === 1) return { shape: [...t.shape], strides: [...t.strides], offset: t.offset };
  if (last < 0 || t.strides[last] !== 1 || t.shape[last]! % per !== 0 || t.offset % per !== 0) return null;
  const strides = t.strides.map((s, d) => (d === last ? 1 : s / per));
  if (!strides.every((s, d) => Number.isInteger(s) || t.shape[d] === 1)) return null;
  return { shape: t.shape.map((n, d) => (d === last ? n / per : n)), strides: strides.map(Math.floor), offset: t.offset / per };
}

/**
 * dst = src, in place, between views of one shape and dtype in different storages; not recorded on the tape.
 * Rows of 16-bit and 8-bit elements must start and end on whole words.
 */
export function copyInto(dst: Tensor, src: Tensor): void {
  if (!sameShape(dst.shape, src.shape) || dst.dtype !== src.dtype) throw new ShapeError(`copyInto: ${src} into ${dst}; shape and dtype must agree`);
  if (dst.storage === src.storage) throw new ArgumentError(`copyInto: ${src} and ${dst} share a storage; clone the source first`);
  if (dst.size === 0) return;
  const per = 32 / DTYPES[dst.dtype].bits;
  const to = wordView(dst, per);
  const unfit = (): ShapeError => new ShapeError(`copyInto: rows of ${dst} do not fall on whole 32-bit words; use an even number of elements a row, or f32`);
  if (!to) throw unfit();
  const source = wordView(src, per) ? src : contiguousCopy(src);
  const from = wordView(source, per);
  if (!from) throw unfit();
  const joined = collapse(to.shape, [to.strides, from.strides]);
  if (joined.shape.length > 8) throw new ShapeError(`copyInto: ${dst} has ${joined.shape.length} dimensions that cannot be joined, at most 8`);
  const limit = dst.device.limits.maxStorageBufferBindingSize;
  const align = dst.device.limits.minStorageBufferOffsetAlignment / 4;

  const part = (shape: readonly number[], dstAt: number, srcAt: number): void => {
    const reach = (strides: readonly number[]): number => 1 + shape.reduce((sum, n, d) => sum + (n - 1) * strides[d]!, 0);
    const [dstStrides, srcStrides] = joined.strides as [number[], number[]];
    const d = shape.findIndex((n) => n > 1);
    if (d >= 0 && (reach(dstStrides) + align + 4) * 4 > limit - 16 || d >= 0 && (reach(srcStrides) + align + 4) * 4 > limit - 16) {
      const head = Math.ceil(shape[d]! / 2);
      part(shape.with(d, head), dstAt, srcAt);
      part(shape.with(d, shape[d]! - head), dstAt + head * dstStrides[d]!, srcAt + head * srcStrides[d]!);
      return;
    }
    const window = (t: Tensor, at: number, strides: readonly number[]): { bound: { of: Tensor; start: number; elements: number }; inside: number } => {
      const first = Math.floor(at / align) * align;
      const words = t.strided([t.storage.bytes / 4], [1], 0);
      // Counted in words whatever the dtype: a flat view of the storage, `per` elements to a word.
      return { bound: { of: words, start: first * per, elements: (at - first + reach(strides)) * per }, inside: at - first };
    };
    const dstWindow = window(dst, dstAt, dstStrides);
    const srcWindow = window(source, srcAt, srcStrides);
    const pair = (values: readonly number[], rest: number): [number[], number[]] => {
      const all = Array.from({ length: 8 }, (_, i) => values[values.length - 1 - i] ?? rest);
      return [all.slice(0, 4), all.slice(4)];
    };
    const [shape0, shape1] = pair(shape, 1);
    const [src0, src1] = pair(srcStrides, 0);
    const [dst0, dst1] = pair(dstStrides, 0);
    const words = sizeOf(shape);
    launch(copy, {
      buffers: { src: srcWindow.bound, dst: dstWindow.bound },
      params: { words, src: srcWindow.inside, dst: dstWindow.inside, shape0, shape1, src0, src1, dst0, dst1 },
      grid: grid1d(Math.ceil(words / 64)),
      cost: { flops: 0, bytes: words * 8 },
    });
    dstWindow.bound.of.dispose();
    srcWindow.bound.of.dispose();
  };
  part(joined.shape, to.offset, from.offset);
  if (source !== src) source.dispose();
}

/** y = value everywhere, in place; `y` is contiguous and alone in its storage (or starts on the storage alignment). */
export function fillInto(y: Tensor, value: number): void {
  if (y.size === 0) return;
  const per = 32 / DTYPES[y.dtype].bits;
  const bytes = encode(new Array<number>(per).fill(value), y.dtype);
  const word = new DataView(bytes.buffer, bytes.byteOffset, 4).getUint32(0, true);
  for (const { start, count } of rowWindows(y.device, y.size, [{ rowElements: 1, dtype: y.dtype }], 1, "fill")) {
    const granules = Math.ceil((count * DTYPES[y.dtype].bits) / 128);
    launch(fill, {
      buffers: { y: { of: y, start, elements: count } },
      params: { granules, value: word },
      grid: grid1d(Math.ceil(granules / 256)),
      cost: { flops: 0, bytes: elementBytes(y.dtype, count) },
    });
  }
}
