/** Products in float64, for checks of large results: loops over rows that lie together in memory, four at a time. */
import { ref, sizeOf } from "../../tests/reference.ts";
import type { Ref } from "../../tests/reference.ts";

export type Numbers = Float64Array | Float32Array | Int32Array | Uint32Array | Uint8Array;

/** A tensor as it was read: contiguous, in no more bits than it needs. */
export interface Host {
  readonly shape: readonly number[];
  readonly data: Numbers;
}

/** As the references take it. */
export const exact = ({ shape, data }: Host): Ref => ref(shape, data);

/** A matrix, or the transpose of one that lies in memory. */
export interface Matrix {
  /** [rows, columns], as it lies in memory. */
  readonly of: Host;
  readonly isTransposed: boolean;
}
export const plain = (of: Host): Matrix => ({ of, isTransposed: false });
export const transpose = ({ of, isTransposed }: Matrix): Matrix => ({ of, isTransposed: !isTransposed });
/** [rows, columns] of a matrix. */
export function sizesOf({ of: { shape }, isTransposed }: Matrix): [number, number] {
  const [rows, columns] = shape as [number, number];
  return isTransposed ? [columns, rows] : [rows, columns];
}

/** Some rows of a matrix, one behind the other. */
export function rowsAt(a: Matrix, at: readonly number[]): Float64Array {
  const { data } = a.of;
  const columns = sizesOf(a)[1];
  const out = new Float64Array(at.length * columns);
  for (const [i, row] of at.entries()) {
    if (!a.isTransposed) out.set(data.subarray(row * columns, (row + 1) * columns), i * columns);
    else for (let j = 0; j < columns; j++) out[i * columns + j] = data[j * a.of.shape[1]! + row]!;
  }
  return out;
}

/** Slices of the first dimension. */
export function slices(x: Host, at: readonly number[]): Ref {
  const step = sizeOf(x.shape.slice(1));
  return ref([at.length, ...x.shape.slice(1)], rowsAt(plain({ shape: [x.shape[0]!, step], data: x.data }), at));
}

/** a [M, K] · b [K, N] → [M, N]. */
export function times(a: Float64Array, b: Matrix): Float64Array {
  const [k, n] = sizesOf(b);
  return b.isTransposed ? byDots(a, b.of.data, k, n) : bySums(a, b.of.data, k, n);
}

/** a · v for a vector v, whose length is the number of columns of a. */
export const timesVector = (a: Matrix, v: Float64Array): Float64Array => times(v, transpose(a));

/** b lies as [N, K]: an element is the product of two rows; two rows of b with four of a at a time. */
function byDots(a: Float64Array, b: Numbers, k: number, n: number): Float64Array {
  const m = a.length / k;
  const out = new Float64Array(m * n);
  const rows = new Float64Array(2 * k);
  for (let j = 0; j < n; j += 2) {
    const isPair = j + 1 < n;
    rows.set(b.subarray(j * k, (isPair ? j + 2 : j + 1) * k));
    let i = 0;
    for (; isPair && i + 4 <= m; i += 4) fourByTwo(a, i * k, rows, out, i * n + j);
    for (; i < m; i++) {
      out[i * n + j] = dot(a, i * k, rows, 0);
      if (isPair) out[i * n + j + 1] = dot(a, i * k, rows, k);
    }
  }
  return out;
}

/** Products of the four rows of a from `from` on with two rows, into out[at], its neighbour, and the same places of the next three rows. */
function fourByTwo(a: Float64Array, from: number, rows: Float64Array, out: Float64Array, at: number): void {
  const k = rows.length / 2;
  const n = (k * out.length) / a.length; // out has as many rows as a
  const [a1, a2, a3] = [from + k, from + 2 * k, from + 3 * k];
  let [s0, s1, s2, s3, u0, u1, u2, u3] = [0, 0, 0, 0, 0, 0, 0, 0];
  for (let t = 0; t < k; t++) {
    const v = rows[t]!;
    const w = rows[k + t]!;
    const x0 = a[from + t]!;
    const x1 = a[a1 + t]!;
    const x2 = a[a2 + t]!;
    const x3 = a[a3 + t]!;
    s0 += x0 * v;
    s1 += x1 * v;
    s2 += x2 * v;
    s3 += x3 * v;
    u0 += x0 * w;
    u1 += x1 * w;
    u2 += x2 * w;
    u3 += x3 * w;
  }
  out.set([s0, u0], at);
  out.set([s1, u1], at + n);
  out.set([s2, u2], at + 2 * n);
  out.set([s3, u3], at + 3 * n);
}

/** Product of two rows, in four sums that do not wait for each other. */
function dot(a: Float64Array, from: number, rows: Float64Array, at: number): number {
  const k = rows.length / 2;
  let [s0, s1, s2, s3] = [0, 0, 0, 0];
  let t = 0;
  for (; t + 4 <= k; t += 4) {
    s0 += a[from + t]! * rows[at + t]!;
    s1 += a[from + t + 1]! * rows[at + t + 1]!;
    s2 += a[from + t + 2]! * rows[at + t + 2]!;
    s3 += a[from + t + 3]! * rows[at + t + 3]!;
  }
  for (; t < k; t++) s0 += a[from + t]! * rows[at + t]!;
  return s0 + s1 + (s2 + s3);
}

/** b lies as [K, N]: a row of the result is a sum of rows of b, of which four are added at a time. */
function bySums(a: Float64Array, b: Numbers, k: number, n: number): Float64Array {
  const m = a.length / k;
  const out = new Float64Array(m * n);
  const rows = new Float64Array(4 * n);
  for (let t = 0; t < k; t += 4) {
    const count = Math.min(4, k - t);
    rows.set(b.subarray(t * n, (t + count) * n));
    rows.fill(0, count * n);
    for (let i = 0; i < m; i++) {
      const at = i * k + t;
      const v0 = a[at]!;
      const v1 = count > 1 ? a[at + 1]! : 0;
      const v2 = count > 2 ? a[at + 2]! : 0;
      const v3 = count > 3 ? a[at + 3]! : 0;
      const to = i * n;
      for (let j = 0; j < n; j++)
        out[to + j]! += v0 * rows[j]! + v1 * rows[n + j]! + (v2 * rows[2 * n + j]! + v3 * rows[3 * n + j]!);
    }
  }
  return out;
}
