/**
 * Memory access of the attention kernels: rows of a head read and written through strides, and windows of batch rows
 * and heads if a tensor is larger than one binding.
 */
import { DTYPES, ShapeError, empty, sizeOf, storageBytes } from "../../engine/index.ts";
import type { Bound, DType, Shape, Tensor } from "../../engine/index.ts";
import { copy, map } from "../core/map.ts";

/** A tensor [batch, heads, tokens, row] of an attention kernel. */
export interface Operand {
  readonly tensor: Tensor;
  /** Its heads for one key head. */
  readonly perHead: number;
  /** Elements that the kernel counts as one: 4 if it reads granules, else 1. */
  readonly unit: number;
}

export interface HeadWindow<N extends string> {
  /** First row of the batch, and their number. */
  readonly first: number;
  readonly rows: number;
  /** First key head, and their number. */
  readonly firstHead: number;
  readonly heads: number;
  readonly buffers: Readonly<Record<N, Bound>>;
  /** For each operand its offset in the binding and its strides of batch, head and token, in units. */
  readonly at: Readonly<Record<N, readonly number[]>>;
}

/** Elements from the first to the last of `rows` batch rows and `heads` heads. */
function reach(t: Tensor, rows: number, heads: number): number {
  return (
    1 +
    (rows - 1) * t.strides[0]! +
    (heads - 1) * t.strides[1]! +
    (t.shape[2]! - 1) * t.strides[2]! +
    (t.shape[3]! - 1) * t.strides[3]!
  );
}

/** Elements between two offsets at which a binding may start. */
const granularity = (t: Tensor): number => (t.device.limits.minStorageBufferOffsetAlignment * 8) / DTYPES[t.dtype].bits;

/** True if `heads` heads of one batch row fit a binding, wherever they start. */
function fitsBinding(t: Tensor, heads: number): boolean {
  return storageBytes(t.dtype, granularity(t) + reach(t, 1, heads)) <= t.device.limits.maxStorageBufferBindingSize;
}

/**
 * `x` itself if kernels can read its rows in granules of 4 through its strides, else a row-major copy: [B, T, H, D] permuted is
 * read in place.
 * @param perHead heads that a workgroup needs together
 */
export function readable(x: Tensor, perHead: number): Tensor {
  const granular =
    (x.shape[3] === 1 || x.strides[3] === 1) &&
    x.offset % 4 === 0 &&
    x.strides.every((s, d) => d === 3 || x.shape[d] === 1 || s % 4 === 0);
  return granular && (x.size === 0 || fitsBinding(x, perHead)) ? x : map(copy, [x]);
}

/** A new tensor [B, H, T, D], in memory [B, T, H, D] unless `headMajor` or one batch row of that would exceed a binding. */
export function emptyHeads(shape: Shape, dtype: DType, like: Tensor, headMajor = false): Tensor {
  const [b, h, t, d] = shape as [number, number, number, number];
  const y = empty([b, t, h, d], { dtype, device: like.device });
  const rows = y.strided(shape, [t * h * d, d, h * d, 1]);
  return headMajor || (y.size > 0 && !fitsBinding(rows, h)) ? y.strided(shape, [h * t * d, t * d, d, 1]) : rows;
}

/** As `emptyHeads`, with heads and tokens in the order in which `x` has them. */
export const emptyLike = (x: Tensor): Tensor => emptyHeads(x.shape, x.dtype, x, x.strides[1]! > x.strides[2]!);

/** Part of the attention: `rows` batch rows of `heads` key heads. */
export interface HeadRange {
  readonly op: string;
  readonly rows: number;
  readonly heads: number;
  /** Operations of one key head of one row. */
  readonly work: number;
}

/**
 * Calls `fn` with windows of batch rows and key heads such that each operand's part fits one binding and the work one dispatch: one window in
 * all but the largest cases. Operands of one launch that are written may share an alignment block: the launches run one after the other.
 */
export function overHeads<N extends string>(
  { op, rows, heads, work }: HeadRange,
  operands: Readonly<Record<N, Operand>>,
  fn: (window: HeadWindow<N>) => void,
): void {
  const names = Object.keys(operands) as N[];
  const { maxDispatchWork } = operands[names[0]!].tensor.device;
  const part = (first: number, count: number, firstHead: number, headCount: number): void => {
    const buffers = {} as Record<N, Bound>;
    const at = {} as Record<N, readonly number[]>;
    let fits = count * headCount * work <= maxDispatchWork;
    for (const name of names) {
      const { tensor: t, perHead, unit } = operands[name];
      const begin = t.offset + first * t.strides[0]! + firstHead * perHead * t.strides[1]!;
      const block = granularity(t);
      const start = Math.floor(begin / block) * block;
      const elements = begin - start + reach(t, count, headCount * perHead);
      fits &&= storageBytes(t.dtype, elements) <= t.device.limits.maxStorageBufferBindingSize;
      // Bound as a flat range of the storage: the kernel applies the strides. Strides of dimensions of size 1 are not used.
      const whole = t.strided([(t.storage.bytes * 8) / DTYPES[t.dtype].bits], [1], 0);
      buffers[name] = { of: whole, start, elements };
      at[name] = [(begin - start) / unit, ...[0, 1, 2].map((d) => (t.shape[d] === 1 ? 0 : t.strides[d]! / unit))];
    }
    if (fits) return fn({ first, rows: count, firstHead, heads: headCount, buffers, at });
    const [rowHead, headHead] = [Math.ceil(count / 2), Math.ceil(headCount / 2)];
    if (count > 1) {
      part(first, rowHead, firstHead, headCount);
      part(first + rowHead, count - rowHead, firstHead, headCount);
    } else if (headCount > 1) {
      part(first, count, firstHead, headHead);
      part(first, count, firstHead + headHead, headCount - headHead);
    } else {
      if (work > maxDispatchWork) {
        throw new ShapeError(
          `${op}: one head must take at most ${maxDispatchWork.toExponential(0)} operations, the limit of a dispatch; got ${work.toExponential(1)}. Use fewer tokens.`,
        );
      }
      const most = names.map((n) => operands[n].tensor).reduce((a, b) => (sizeOf(a.shape) > sizeOf(b.shape) ? a : b));
      throw new ShapeError(
        `${op}: one head must fit a binding of ${most.device.limits.maxStorageBufferBindingSize} bytes; got ${most}. Use fewer tokens.`,
      );
    }
  };
  if (rows > 0 && heads > 0) part(0, rows, 0, heads);
}
