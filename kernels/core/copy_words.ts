/** The copy between two views, in words or granules of four words, in parts that fit a binding: below `copyInto` and the strided path of `map`. */
import { ArgumentError, DTYPES, ShapeError, grid1d, kernel, launch, sizeOf } from "../../engine/index.ts";
import type { Tensor } from "../../engine/index.ts";
import { grid, u32, u32x1 } from "./libraries.ts";
import { collapse } from "./collapse.ts";

const copy = kernel(
  "copy",
  new URL("./copy.wgsl", import.meta.url),
  { src: "read", dst: "write" },
  {
    count: "u32",
    src: "u32",
    dst: "u32",
    shape0: "vec4u",
    shape1: "vec4u",
    src0: "vec4u",
    src1: "vec4u",
    dst0: "vec4u",
    dst1: "vec4u",
  },
  [grid, u32x1, u32],
);

/** Shape, strides and offset of a view counted in units of `per` elements; null if its rows are not whole units. */
export function wordView(t: Tensor, per: number): { shape: number[]; strides: number[]; offset: number } | null {
  const last = t.rank - 1;
  if (per === 1) return { shape: [...t.shape], strides: [...t.strides], offset: t.offset };
  if (last < 0 || t.strides[last] !== 1 || t.shape[last]! % per !== 0 || t.offset % per !== 0) return null;
  const strides = t.strides.map((s, d) => (d === last ? 1 : s / per));
  if (!strides.every((s, d) => Number.isInteger(s) || t.shape[d] === 1)) return null;
  return {
    shape: t.shape.map((n, d) => (d === last ? n / per : n)),
    strides: strides.map(Math.floor),
    offset: t.offset / per,
  };
}

/** True if views of one dtype consist of rows of whole granules of four words. */
export function inFours(...views: readonly Tensor[]): boolean {
  return views.every((t) => wordView(t, 128 / DTYPES[t.dtype].bits) !== null);
}

/** dst = src, in place: views of one shape and dtype in different storages, whose rows are whole 32-bit words (`wordView` is not null). */
export function copyWords(dst: Tensor, src: Tensor): void {
  if (dst.strides.some((s, d) => s === 0 && dst.shape[d]! > 1))
    throw new ArgumentError(
      `copyInto: the destination must not be expanded, so that no elements share memory; got ${dst}. Write to the tensor that was expanded.`,
    );
  const words = inFours(dst, src) ? 4 : 1; // in a unit, in which all below is counted
  const per = (words * 32) / DTYPES[dst.dtype].bits;
  const [to, from] = [wordView(dst, per), wordView(src, per)];
  if (!to || !from)
    throw new ShapeError(
      `copyInto: rows must consist of whole 32-bit words; got ${to ? src : dst}. Use an even number of elements per row, or f32.`,
    );
  const joined = collapse(to.shape, [to.strides, from.strides]);
  if (joined.shape.length > 8)
    throw new ShapeError(
      `copyInto: the destination must have at most 8 dimensions that cannot be merged; got ${joined.shape.length} in ${dst}. Make it contiguous.`,
    );
  const limit = dst.device.limits.maxStorageBufferBindingSize;
  const align = dst.device.limits.minStorageBufferOffsetAlignment / 4;
  const step = Math.max(1, align / words); // units from one place where a binding may begin to the next

  const part = (shape: readonly number[], dstAt: number, srcAt: number): void => {
    const reach = (strides: readonly number[]): number =>
      1 + shape.reduce((sum, n, d) => sum + (n - 1) * strides[d]!, 0);
    const [dstStrides, srcStrides] = joined.strides as [number[], number[]];
    const d = shape.findIndex((n) => n > 1);
    if (
      (d >= 0 && (reach(dstStrides) * words + align + 4) * 4 > limit - 16) ||
      (d >= 0 && (reach(srcStrides) * words + align + 4) * 4 > limit - 16)
    ) {
      const head = Math.ceil(shape[d]! / 2);
      part(shape.with(d, head), dstAt, srcAt);
      part(shape.with(d, shape[d]! - head), dstAt + head * dstStrides[d]!, srcAt + head * srcStrides[d]!);
      return;
    }
    const window = (
      t: Tensor,
      at: number,
      strides: readonly number[],
    ): { bound: { of: Tensor; start: number; elements: number }; inside: number } => {
      const first = Math.floor(at / step) * step;
      const flat = t.strided([t.storage.bytes / 4], [1], 0);
      // For every dtype: a flat view of the storage with `per` elements in a unit.
      return {
        bound: { of: flat, start: first * per, elements: (at - first + reach(strides)) * per },
        inside: at - first,
      };
    };
    const dstWindow = window(dst, dstAt, dstStrides);
    const srcWindow = window(src, srcAt, srcStrides);
    const pair = (values: readonly number[], rest: number): [number[], number[]] => {
      const all = Array.from({ length: 8 }, (_, i) => values[values.length - 1 - i] ?? rest);
      return [all.slice(0, 4), all.slice(4)];
    };
    const [shape0, shape1] = pair(shape, 1);
    const [src0, src1] = pair(srcStrides, 0);
    const [dst0, dst1] = pair(dstStrides, 0);
    const count = sizeOf(shape);
    launch(copy, {
      use: { w: words === 4 ? u32 : u32x1 },
      constants: { RANK: Math.max(1, shape.length) },
      buffers: { src: srcWindow.bound, dst: dstWindow.bound },
      params: {
        count,
        src: srcWindow.inside,
        dst: dstWindow.inside,
        shape0,
        shape1,
        src0,
        src1,
        dst0,
        dst1,
      },
      grid: grid1d(Math.ceil(count / 64)),
      cost: { flops: 0, bytes: count * words * 8 },
    });
    dstWindow.bound.of.dispose();
    srcWindow.bound.of.dispose();
  };
  part(joined.shape, to.offset, from.offset);
}
