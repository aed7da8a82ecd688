/**
 * Views that are on the tape: other shapes and strides of the same storage, and the copies that make a view contiguous
 * or concatenate tensors. Backward of a view is the reverse view, or a sum or a scatter of the gradient.
 */
import {
  ArgumentError,
  ShapeError,
  checkDType,
  checkNumber,
  checkTensors,
  contiguousStrides,
  empty,
  isFloat,
  normalizeDim,
  record,
  requireArray,
  sameShape,
  scope,
  shapeText,
  sizeOf,
} from "../../engine/index.ts";
import type { DType, Device, Shape, Tensor } from "../../engine/index.ts";
import { collapse } from "../core/collapse.ts";
import { contiguousCopy, copy, map } from "../core/map.ts";
import { sumTo } from "../reduce/reduce.ts";
import { copyInto, fillInto, fitsWords } from "../core/copy.ts";

/** `x` itself if kernels can bind it, else a row-major copy. */
export function contiguous(x: Tensor): Tensor {
  checkTensors("contiguous", x);
  if (x.isBindable) return x;
  return record("contiguous", [x], contiguousCopy(x), [], (g) => [g]);
}

/** Returns a copy with its own storage. */
export function clone(x: Tensor): Tensor {
  checkTensors("clone", x);
  return record("clone", [x], map(copy, [x]), [], (g) => [g]);
}

/** The same values as `dtype`, rounded to nearest; the gradient is cast back. Floats to integers truncate towards zero and saturate; NaN becomes 0. */
export function cast(x: Tensor, dtype: DType): Tensor {
  checkTensors("cast", x);
  checkDType(dtype);
  if (x.dtype === dtype) return x;
  const from = x.dtype;
  const y = map(copy, [x], { dtype });
  return isFloat(from) && isFloat(dtype)
    ? record("cast", [x], y, [], (g) => [g.dtype === from ? g : map(copy, [g], { dtype: from })])
    : y;
}

/** A view of shape `shape` with the same elements in row-major order (a copy if the strides do not allow a view). One size may be −1. */
export function reshape(x: Tensor, shape: Shape): Tensor {
  checkTensors("reshape", x);
  if (!Array.isArray(shape))
    throw new ShapeError(`reshape: the shape must be an array; got ${String(shape)}. Pass e.g. [2, -1].`);
  const known = shape.reduce((p, n) => (n === -1 ? p : p * n), 1);
  const unknown = shape.filter((n) => n === -1).length;
  const full = shape.map((n) => (n === -1 ? x.size / known : n));
  if (unknown > 1 || !full.every((n) => Number.isInteger(n) && n >= 0) || sizeOf(full) !== x.size) {
    throw new ShapeError(
      `reshape: the shape must have the ${x.size} elements of ${x}; got ${shapeText(shape)}. Change it.`,
    );
  }
  const from = x.shape;
  const strides = viewStrides(x, full);
  const y = strides ? x.strided(full, strides) : scope(() => contiguousCopy(x).strided(full, contiguousStrides(full)));
  return record("reshape", [x], y, [], (g) => [reshape(g, from)]);
}

/** Strides that give `x` the shape `shape` (of as many elements) without a copy; null if none do. */
function viewStrides(x: Tensor, shape: Shape): number[] | null {
  if (x.size === 0) return contiguousStrides(shape);
  const runs = collapse(x.shape, [x.strides]);
  const strides = new Array<number>(shape.length).fill(1);
  let d = shape.length - 1;
  for (let r = runs.shape.length - 1; r >= 0; r--) {
    // The last dimensions that make up this run of evenly spaced elements.
    let left = runs.shape[r]!;
    let step = runs.strides[0]![r]!;
    for (; left > 1; d--) {
      const n = shape[d]!;
      if (left % n !== 0) return null;
      strides[d] = step;
      step *= n;
      left /= n;
    }
  }
  return strides;
}

/** All dimensions from `start` to `end` (inclusive) as one. */
export function flatten(x: Tensor, start = 0, end = -1): Tensor {
  checkTensors("flatten", x);
  if (x.rank === 0) return reshape(x, [1]);
  const a = normalizeDim(start, x.rank, "flatten");
  const b = normalizeDim(end, x.rank, "flatten");
  if (a > b)
    throw new ShapeError(`flatten: the first dimension must not come after the last; got ${a} and ${b}. Swap them.`);
  return reshape(x, [...x.shape.slice(0, a), sizeOf(x.shape.slice(a, b + 1)), ...x.shape.slice(b + 1)]);
}

/** Dimensions in another order: `permute(x, [0, 2, 1])`. */
export function permute(x: Tensor, dims: readonly number[]): Tensor {
  checkTensors("permute", x);
  requireArray("permute", "dims", dims);
  const order = dims.map((d) => normalizeDim(d, x.rank, "permute"));
  if (order.length !== x.rank || new Set(order).size !== x.rank)
    throw new ShapeError(`permute: dims must name each dimension of ${x} once; got [${dims.join(", ")}]. Change it.`);
  const back = order.map((_, i) => order.indexOf(i));
  const y = x.strided(
    order.map((d) => x.shape[d]!),
    order.map((d) => x.strides[d]!),
  );
  return record("permute", [x], y, [], (g) => [permute(g, back)]);
}

/** Dimensions `a` and `b` exchanged. */
export function transpose(x: Tensor, a = -2, b = -1): Tensor {
  checkTensors("transpose", x);
  const order = x.shape.map((_, i) => i);
  const [i, j] = [normalizeDim(a, x.rank, "transpose"), normalizeDim(b, x.rank, "transpose")];
  [order[i], order[j]] = [j, i];
  return permute(x, order);
}

/** A dimension of size 1 before dimension `dim` (−1: at the end). */
export function unsqueeze(x: Tensor, dim: number): Tensor {
  checkTensors("unsqueeze", x);
  const d = normalizeDim(dim, x.rank + 1, "unsqueeze");
  return reshape(x, x.shape.toSpliced(d, 0, 1));
}

/** Without the dimensions of size 1, or without dimension `dim`, which must have size 1. */
export function squeeze(x: Tensor, dim?: number): Tensor {
  checkTensors("squeeze", x);
  if (dim === undefined)
    return reshape(
      x,
      x.shape.filter((n) => n !== 1),
    );
  const d = normalizeDim(dim, x.rank, "squeeze");
  if (x.shape[d] !== 1)
    throw new ShapeError(
      `squeeze: the dimension must have size 1; got dimension ${dim} of ${x}, with size ${x.shape[d]}. Choose another.`,
    );
  return reshape(x, x.shape.toSpliced(d, 1));
}

/** `x` repeated without a copy: dimensions of size 1 take the size in `shape`, new ones may come in front; −1 keeps a size. */
export function expand(x: Tensor, shape: Shape): Tensor {
  checkTensors("expand", x);
  requireArray("expand", "shape", shape);
  const extra = shape.length - x.rank;
  const full = shape.map((n, d) => (n === -1 ? (x.shape[d - extra] ?? -1) : n));
  const fits =
    extra >= 0 && full.every((n, d) => n >= 0 && (d < extra || x.shape[d - extra] === n || x.shape[d - extra] === 1));
  if (!fits)
    throw new ShapeError(
      `expand: only dimensions of size 1 can grow, and new ones must come first; got ${x} to ${shapeText(shape)}. Change the shape.`,
    );
  const strides = full.map((n, d) => (d < extra || (x.shape[d - extra] === 1 && n !== 1) ? 0 : x.strides[d - extra]!));
  const from = x.shape;
  return record("expand", [x], x.strided(full, strides), [], (g) => [sumTo(g, from)]);
}

/** Elements `start` ≤ i < `end` (every `step`-th) of dimension `dim`; negative positions count from the end. */
export function slice(x: Tensor, dim: number, start = 0, end?: number, step = 1): Tensor {
  checkTensors("slice", x);
  const d = normalizeDim(dim, x.rank, "slice");
  const n = x.shape[d]!;
  const clampTo = (i: number): number => Math.min(n, Math.max(0, i < 0 ? i + n : i));
  const [a, b] = [clampTo(start), clampTo(end ?? n)];
  if (!Number.isInteger(step) || step < 1 || !Number.isInteger(start) || !Number.isInteger(b))
    throw new ArgumentError(
      `slice: start, end and step must be whole numbers, and step ≥ 1; got ${start}, ${end} and ${step}. Change them.`,
    );
  const count = Math.max(0, Math.ceil((b - a) / step));
  const y = x.strided(
    x.shape.with(d, count),
    x.strides.with(d, x.strides[d]! * step),
    x.offset + (count ? a * x.strides[d]! : 0),
  );
  const from = x.shape;
  return record("slice", [x], y, [], (g) => [
    assemble(from, g.dtype, g.device, 0, [
      [g, (t) => t.strided(g.shape, t.strides.with(d, t.strides[d]! * step), a * t.strides[d]!)],
    ]),
  ]);
}

/** Dimension `dim` at `index`, without that dimension. */
export function select(x: Tensor, dim: number, index: number): Tensor {
  checkTensors("select", x);
  const d = normalizeDim(dim, x.rank, "select");
  const i = normalizeDim(index, x.shape[d]!, "select: index");
  return scope(() => squeeze(slice(x, d, i, i + 1), d));
}

/** Cuts dimension `dim` into parts of `size` (the last may be smaller), or of the sizes given. */
export function split(x: Tensor, size: number | readonly number[], dim = 0): Tensor[] {
  checkTensors("split", x);
  if (typeof size !== "number") requireArray("split", "sizes", size);
  const d = normalizeDim(dim, x.rank, "split");
  const n = x.shape[d]!;
  if (typeof size === "number" && !(Number.isInteger(size) && size > 0))
    throw new ArgumentError(`split: the size of the parts must be a whole number ≥ 1; got ${size}. Change it.`);
  const sizes =
    typeof size === "number"
      ? Array.from({ length: Math.ceil(n / size) }, (_, i) => Math.min(size, n - i * size))
      : size;
  if (sizes.reduce((a, b) => a + b, 0) !== n || !sizes.every((s) => Number.isInteger(s) && s >= 0)) {
    throw new ShapeError(
      `split: the parts must add up to dimension ${dim} of ${x}; got ${JSON.stringify(size)}. Change them.`,
    );
  }
  let at = 0;
  return sizes.map((s) => slice(x, d, at, (at += s)));
}

/** Cuts dimension `dim` into `chunks` equal parts (the last may be smaller). */
export function chunk(x: Tensor, chunks: number, dim = 0): Tensor[] {
  checkTensors("chunk", x);
  if (!Number.isInteger(chunks) || chunks < 1)
    throw new ArgumentError(`chunk: the number of chunks must be a whole number ≥ 1; got ${chunks}. Change it.`);
  return split(x, Math.max(1, Math.ceil(x.dim(dim) / chunks)), dim);
}

/** Tensors one after the other along `dim`; the other sizes must agree. */
export function cat(tensors: readonly Tensor[], dim = 0): Tensor {
  requireArray("cat", "tensors", tensors);
  checkTensors("cat", ...tensors);
  const first = tensors[0]!;
  const d = normalizeDim(dim, first.rank, "cat");
  for (const t of tensors) {
    if (t.dtype !== first.dtype || !sameShape(t.shape.with(d, 0), first.shape.with(d, 0))) {
      throw new ShapeError(
        `cat: tensors must have the same dtype and the same shape except in dimension ${dim}; got ${first} and ${t}. Cast or reshape one of them.`,
      );
    }
  }
  const sizes = tensors.map((t) => t.shape[d]!);
  let end = 0;
  const parts = tensors.map((t): Part => {
    const at = end;
    end += t.shape[d]!;
    return [t, (y) => y.strided(t.shape, y.strides, at * y.strides[d]!)];
  });
  const y = scope(() => assemble(first.shape.with(d, end), first.dtype, first.device, null, parts));
  return record("cat", tensors, y, [], (g, _, needs) => {
    const grads = split(g, sizes, d);
    return grads.map((p, i) => (needs[i] ? p : null));
  });
}

/** Tensors of one shape along a new dimension `dim`. */
export function stack(tensors: readonly Tensor[], dim = 0): Tensor {
  requireArray("stack", "tensors", tensors);
  checkTensors("stack", ...tensors);
  return scope(() =>
    cat(
      tensors.map((t) => unsqueeze(t, dim)),
      dim,
    ),
  );
}

/** Pads `x` with `value`: `pads` has [before, after] for each of the last dimensions, in their order. */
export function pad(x: Tensor, pads: readonly (readonly [number, number])[], value = 0): Tensor {
  checkTensors("pad", x);
  requireArray("pad", "pads", pads);
  checkNumber("pad", value, x.dtype);
  const lead = x.rank - pads.length;
  if (lead < 0 || !pads.flat().every((n) => Number.isInteger(n) && n >= 0))
    throw new ShapeError(
      `pad: pads must be pairs of whole numbers ≥ 0, one pair for each of the last dimensions; got ${JSON.stringify(pads)} for ${x}. Change them.`,
    );
  const shape = x.shape.map((n, d) => (d < lead ? n : n + pads[d - lead]![0] + pads[d - lead]![1]));
  const inner = (t: Tensor): Tensor =>
    t.strided(x.shape, t.strides, t.offset + pads.reduce((sum, [before], i) => sum + before * t.strides[lead + i]!, 0));
  const y = scope(() => assemble(shape, x.dtype, x.device, value, [[x, inner]]));
  return record("pad", [x], y, [], (g) => [inner(g)]);
}

type Part = readonly [source: Tensor, place: (y: Tensor) => Tensor];

/**
 * A new tensor filled with `fill` (not at all for null), each part copied to its position. 16-bit and 8-bit elements share words: if a part
 * does not fall on whole words the work is done in f32 (exact for them) and cast back.
 */
function assemble(shape: Shape, dtype: DType, device: Device, fill: number | null, parts: readonly Part[]): Tensor {
  const y = empty(shape, { dtype, device });
  if (parts.every(([source, place]) => fitsWords(place(y), source))) {
    if (fill !== null) fillInto(y, fill);
    for (const [source, place] of parts) copyInto(place(y), source);
    return y;
  }
  y.dispose();
  const wide = assemble(
    shape,
    "f32",
    device,
    fill,
    parts.map(([source, place]) => [map(copy, [source], { dtype: "f32" }), place]),
  );
  return map(copy, [wide], { dtype });
}
