/** Arithmetic of shapes: sizes, strides, dimensions, broadcasting. */
import { ArgumentError, ShapeError, shapeText } from "./errors.ts";
import { shown } from "./options.ts";

export type Shape = readonly number[];

/** Number of elements. */
export function sizeOf(shape: Shape): number {
  let size = 1;
  for (const n of shape) size *= n;
  return size;
}

/** Strides of row-major elements without gaps. */
export function contiguousStrides(shape: Shape): number[] {
  const strides = new Array<number>(shape.length);
  let step = 1;
  for (let i = shape.length - 1; i >= 0; i--) {
    strides[i] = step;
    step *= shape[i]!;
  }
  return strides;
}

/** True if both have the same dimensions in the same order. */
export function sameShape(a: Shape, b: Shape): boolean {
  return a.length === b.length && a.every((n, i) => n === b[i]);
}

/** Returns `dim` counted from the front. Throws `ShapeError` outside −rank … rank − 1. */
export function normalizeDim(dim: number, rank: number, op: string): number {
  if (!Number.isInteger(dim) || dim < -rank || dim >= rank)
    throw new ShapeError(
      `${op}: the dimension must be from ${-rank} to ${rank - 1} for rank ${rank}; got ${dim}. Change it.`,
    );
  return dim < 0 ? dim + rank : dim;
}

/** Returns `dims` as an array. Throws `ArgumentError` if it is neither a number nor an array. */
export function dimArray(op: string, dims: number | readonly number[]): readonly number[] {
  if (typeof dims === "number") return [dims];
  if (Array.isArray(dims)) return dims as readonly number[];
  throw new ArgumentError(
    `${op}: dims must be a dimension or an array of dimensions; got ${shown(dims)}. Pass e.g. [0, 1].`,
  );
}

/** Returns the broadcast shape. Throws `ShapeError` with both shapes if they do not broadcast. */
export function broadcastShapes(op: string, a: Shape, b: Shape): number[] {
  const rank = Math.max(a.length, b.length);
  return Array.from({ length: rank }, (_, i) => {
    const x = a[a.length - rank + i] ?? 1;
    const y = b[b.length - rank + i] ?? 1;
    if (x !== y && x !== 1 && y !== 1) {
      throw new ShapeError(
        `${op}: shapes must broadcast; got ${shapeText(a)} and ${shapeText(b)}, where dimension ${i - rank} is ${x} and ${y}. Make them equal, or one of them 1.`,
      );
    }
    return x === 1 ? y : x;
  });
}

/** Throws `ShapeError` if `shape` is not an array of whole numbers ≥ 0. */
export function checkShape(shape: Shape, op: string): void {
  if (!Array.isArray(shape))
    throw new ShapeError(`${op}: the shape must be an array; got ${String(shape)}. Pass e.g. [2, 3].`);
  if (!shape.every((n) => Number.isInteger(n) && n >= 0))
    throw new ShapeError(
      `${op}: the dimensions of a shape must be whole numbers ≥ 0; got ${shapeText(shape)}. Pass e.g. [2, 3].`,
    );
}
