/** References of ops that order elements, write them to indices or add them up along a dimension. */
import { eachIndex, permuteRef, ref, sizeOf, stridesOf } from "../reference.ts";
import type { Ref } from "../reference.ts";

/** `fn` of each line along dimension `dim`; all results have one length. */
export function alongDim(x: Ref, dim: number, fn: (line: Float64Array) => ArrayLike<number>): Ref {
  const d = dim < 0 ? dim + x.shape.length : dim;
  const order = [...[...x.shape.keys()].filter((k) => k !== d), d];
  const rows = permuteRef(x, order);
  const n = x.shape[d]!;
  const length = fn(new Float64Array(n)).length;
  const out = ref([...rows.shape.slice(0, -1), length]);
  for (let row = 0; row < sizeOf(rows.shape.slice(0, -1)); row++)
    out.data.set(fn(rows.data.slice(row * n, (row + 1) * n)), row * length);
  return permuteRef(
    out,
    order.map((_, k) => order.indexOf(k)),
  );
}

/** Indices of a line in their order: NaN is the largest, equal values keep their order. */
function orderOf(line: Float64Array, descending: boolean): number[] {
  const before = (a: number, b: number): number => {
    if (Number.isNaN(a) || Number.isNaN(b)) return Number(Number.isNaN(a)) - Number(Number.isNaN(b));
    return a < b ? -1 : Number(a > b);
  };
  return [...line.keys()].sort((i, j) => (descending ? -1 : 1) * before(line[i]!, line[j]!) || i - j);
}

export const sortRef = (x: Ref, dim: number, descending: boolean, k?: number): Ref =>
  alongDim(x, dim, (line) =>
    orderOf(line, descending)
      .map((i) => line[i]!)
      .slice(0, k),
  );

export const argsortRef = (x: Ref, dim: number, descending: boolean, k?: number): Ref =>
  alongDim(x, dim, (line) => orderOf(line, descending).slice(0, k));

export const cumsumRef = (x: Ref, dim: number): Ref =>
  alongDim(x, dim, (line) => {
    let sum = 0;
    return line.map((v) => (sum += v));
  });

/** x with `source` written to, or added at, the indices; those outside do nothing. */
export function scatterRef(x: Ref, dim: number, index: Ref, source: Ref | number, isAdded = false): Ref {
  const d = dim < 0 ? dim + x.shape.length : dim;
  const out = ref(x.shape, x.data.slice());
  const to = stridesOf(x.shape);
  eachIndex(index.shape, (at, flat) => {
    const i = index.data[flat]!;
    if (i < 0 || i >= x.shape[d]!) return;
    const place = at.reduce((sum, v, k) => sum + (k === d ? i : v) * to[k]!, 0);
    const from = typeof source === "number" ? null : stridesOf(source.shape);
    const value = typeof source === "number" ? source : source.data[at.reduce((sum, v, k) => sum + v * from![k]!, 0)]!;
    out.data[place] = isAdded ? out.data[place]! + value : value;
  });
  return out;
}

export const flipRef = (x: Ref, dims: readonly number[]): Ref =>
  dims.reduce((y, d) => alongDim(y, d, (line) => line.toReversed()), x);
