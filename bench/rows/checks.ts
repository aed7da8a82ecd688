/**
 * Checks of rows that are too large for the whole of a float64 reference: slices that can be computed alone, spread over the whole result, and
 * for what is linear the product with a random vector, which a wrong tile anywhere changes.
 */
import { ref, sizeOf } from "../../tests/reference.ts";
import { geluRef } from "../../tests/reference/rows.ts";
import { exact, plain, rowsAt, sizesOf, slices, times, timesVector, transpose } from "./products.ts";
import type { Host, Matrix } from "./products.ts";
import { someOf } from "./row.ts";
import type { Part } from "./row.ts";

/** Multiply-adds that a part of a check may take: about a tenth of a second of one core. */
const MAX_MACS = 1e8;

const signs = (n: number, random: () => number): Float64Array =>
  Float64Array.from({ length: n }, () => (random() < 0.5 ? -1 : 1));

/** a [M, K] · b [K, N]: some rows in full, and unless these are all, every element by a product with a random vector. */
export function matmulParts(a: Matrix, b: Matrix, y: Host, random: () => number, macs = MAX_MACS): Part[] {
  const [m, k] = sizesOf(a);
  const n = sizesOf(b)[1];
  const result = plain({ shape: [m, n], data: y.data });
  const at = someOf(m, Math.max(2, Math.floor(macs / (k * n))), random);
  const rows = { name: "rows", got: rowsAt(result, at), expected: times(rowsAt(a, at), b), terms: k };
  if (at.length === m) return [rows];
  const vector = signs(n, random);
  const expected = timesVector(a, timesVector(b, vector));
  return [rows, { name: "product with a vector", got: timesVector(result, vector), expected, terms: k }];
}

/** x [M, K] · weightᵗ [N, K]: as `matmulParts`. */
export const linearParts = (x: Host, weight: Host, y: Host, random: () => number): Part[] =>
  matmulParts(plain(x), transpose(plain(weight)), y, random);

interface ConvOptions {
  readonly stride?: number;
  /** Top, right, bottom, left. */
  readonly padding: readonly [number, number, number, number];
}

/** A convolution of one picture: some output channels, and a random sum of all of them. */
export function convParts(
  [x, weight, bias]: readonly Host[],
  y: Host,
  options: ConvOptions,
  random: () => number,
): Part[] {
  const [o, c, kh, kw] = weight!.shape as [number, number, number, number];
  const area = sizeOf(y.shape.slice(2));
  const weights = plain({ shape: [o, c * kh * kw], data: weight!.data });
  const channels = plain({ shape: [o, area], data: y.data });
  const channel = (w: Float64Array, b: number): Float64Array =>
    convChannel(x!, { shape: [c, kh, kw], data: w }, b, y.shape, options);
  const at = someOf(o, Math.max(1, Math.floor(MAX_MACS / (c * kh * kw * area))), random);
  const expected = new Float64Array(at.length * area);
  for (const [i, k] of at.entries()) expected.set(channel(rowsAt(weights, [k]), bias ? bias.data[k]! : 0), i * area);
  const terms = c * kh * kw;
  const vector = signs(o, random);
  const sumOfBias = bias ? vector.reduce((sum, v, i) => sum + v * bias.data[i]!, 0) : 0;
  return [
    { name: "channels", got: rowsAt(channels, at), expected, terms },
    {
      name: "sum of channels",
      got: times(vector, channels),
      expected: channel(times(vector, weights), sumOfBias),
      terms: terms + o,
    },
  ];
}

/** One output channel, [OH, OW], of x [1, C, H, W] with weights [C, kh, kw]. */
function convChannel(
  x: Host,
  weights: Host,
  bias: number,
  outShape: readonly number[],
  { stride = 1, padding: [top, , , left] }: ConvOptions,
): Float64Array {
  const [, c, h, w] = x.shape as [number, number, number, number];
  const [, kh, kw] = weights.shape as [number, number, number];
  const [oh, ow] = outShape.slice(2) as [number, number];
  const out = new Float64Array(oh * ow).fill(bias);
  const plane = new Float64Array(h * w);
  for (let k = 0; k < c; k++) {
    plane.set(x.data.subarray(k * h * w, (k + 1) * h * w));
    for (let i = 0; i < kh; i++)
      for (let j = 0; j < kw; j++) {
        const factor = weights.data[(k * kh + i) * kw + j]!;
        const first = Math.max(0, Math.ceil((left - j) / stride));
        const end = Math.min(ow, Math.floor((w - 1 + left - j) / stride) + 1);
        for (let r = 0; r < oh; r++) {
          const v = r * stride + i - top;
          if (v < 0 || v >= h) continue;
          const from = v * w + j - left;
          for (let q = first; q < end; q++) out[r * ow + q]! += factor * plane[from + q * stride]!;
        }
      }
  }
  return out;
}

/** A head of x [1, H, T, D], as a matrix [T, D]. */
const headOf = (x: Host, head: number): Matrix => {
  const [, , t, d] = x.shape as [number, number, number, number];
  return plain({ shape: [t, d], data: x.data.subarray(head * t * d, (head + 1) * t * d) });
};
/** The first rows of a matrix. */
const firstRows = ({ of: { shape, data } }: Matrix, rows: number): Matrix =>
  plain({ shape: [rows, shape[1]!], data: data.subarray(0, rows * shape[1]!) });

/** Weights of some queries of a head, [queries, keys]: the softmax of scaled products over the keys that each sees. */
function weightsOf(q: Matrix, k: Matrix, at: readonly number[], isCausal: boolean): Float64Array {
  const [keys, d] = sizesOf(k);
  const p = times(rowsAt(q, at), transpose(k));
  const scale = 1 / Math.sqrt(d);
  for (const [i, query] of at.entries()) {
    const row = p.subarray(i * keys, (i + 1) * keys);
    const seen = isCausal ? Math.min(keys, query + 1) : keys;
    let [top, total] = [-Infinity, 0];
    for (let j = 0; j < seen; j++) top = Math.max(top, row[j]!);
    for (let j = 0; j < seen; j++) total += row[j] = Math.exp(scale * (row[j]! - top));
    for (let j = 0; j < seen; j++) row[j]! /= total;
    row.fill(0, seen);
  }
  return p;
}

/** Queries of all heads that a check computes, as [head, queries]. */
function someQueries([, h, t, d]: readonly number[], random: () => number): [number, number[]][] {
  const at = someOf(h! * t!, Math.max(2 * h!, Math.floor(MAX_MACS / (t! * d!))), random);
  return Array.from({ length: h! }, (_, head) => [
    head,
    at.filter((i) => Math.floor(i / t!) === head).map((i) => i % t!),
  ]);
}

const joined = (parts: readonly Float64Array[]): Float64Array => {
  const all = new Float64Array(parts.reduce((sum, { length }) => sum + length, 0));
  let at = 0;
  for (const part of parts) {
    all.set(part, at);
    at += part.length;
  }
  return all;
};

/** Attention of a batch of one: some queries of each head. */
export function attentionParts([q, k, v]: readonly Host[], y: Host, isCausal: boolean, random: () => number): Part[] {
  const [, , t, d] = q!.shape as [number, number, number, number];
  const some = someQueries(q!.shape, random);
  const expected = some.map(([head, at]) =>
    times(weightsOf(headOf(q!, head), headOf(k!, head), at, isCausal), headOf(v!, head)),
  );
  const got = some.map(([head, at]) => rowsAt(headOf(y, head), at));
  return [{ name: "queries", got: joined(got), expected: joined(expected), terms: d + t }];
}

/** Queries of a block whose weights are held at once. */
const BLOCK = 256;

/**
 * Gradients of causal attention: of q some queries of each head, of k and v some keys of one head, for which all its queries are needed.
 * dV = Pᵗ·dY, dS = scale · P ∘ (dY·Vᵗ − rowsum(P ∘ dY·Vᵗ)), dQ = dS·K, dK = dSᵗ·Q.
 */
export function attentionGradientParts(
  inputs: readonly Host[],
  gradients: readonly Host[],
  random: () => number,
): Part[] {
  const [, h, t, d] = inputs[0]!.shape as [number, number, number, number];
  const some = someQueries(inputs[0]!.shape, random);
  const part = (name: string, got: readonly Float64Array[], expected: readonly Float64Array[]): Part => ({
    name: `gradient of ${name}`,
    got: joined(got),
    expected: joined(expected),
    terms: d + t,
  });
  const dq = some.map(([head, at]) => {
    const [q, k, v, dy] = inputs.map((x) => headOf(x, head)) as [Matrix, Matrix, Matrix, Matrix];
    return times(slopesOf({ q, k, v, dy }, at).ds, k);
  });
  const head = Math.floor(random() * h);
  const keys = someOf(t, 256, random);
  const [dk, dv] = keyGradients(inputs.map((x) => headOf(x, head)) as [Matrix, Matrix, Matrix, Matrix], keys);
  return [
    part("q", some.map(([k, at]) => rowsAt(headOf(gradients[0]!, k), at)), dq),
    part("k", [rowsAt(headOf(gradients[1]!, head), keys)], [dk]),
    part("v", [rowsAt(headOf(gradients[2]!, head), keys)], [dv]),
  ]; // prettier-ignore
}

interface Head {
  readonly q: Matrix;
  readonly k: Matrix;
  readonly v: Matrix;
  readonly dy: Matrix;
}

/** Weights of some queries and the gradients of their scores, [queries, keys]. */
function slopesOf({ q, k, v, dy }: Head, at: readonly number[]): { p: Float64Array; ds: Float64Array } {
  const [keys, d] = sizesOf(k);
  const p = weightsOf(q, k, at, true);
  const ds = times(rowsAt(dy, at), transpose(v));
  for (let from = 0; from < p.length; from += keys) {
    let mean = 0;
    for (let j = from; j < from + keys; j++) mean += p[j]! * ds[j]!;
    for (let j = from; j < from + keys; j++) ds[j] = (p[j]! * (ds[j]! - mean)) / Math.sqrt(d);
  }
  return { p, ds };
}

/** Gradients of some keys and values of a head, [keys, D] each: a block of queries at a time, over the keys that it sees. */
function keyGradients([q, k, v, dy]: readonly [Matrix, Matrix, Matrix, Matrix], keys: readonly number[]): [Float64Array, Float64Array] {
  const [t, d] = sizesOf(k);
  const sums = [new Float64Array(keys.length * d), new Float64Array(keys.length * d)] as const;
  for (let from = 0; from < t; from += BLOCK) {
    const end = Math.min(t, from + BLOCK);
    const at = Array.from({ length: end - from }, (_, i) => from + i);
    const { p, ds } = slopesOf({ q, k: firstRows(k, end), v: firstRows(v, end), dy }, at);
    const seen = keys.filter((key) => key < end);
    for (const [i, [weights, values]] of ([[ds, q], [p, dy]] as const).entries()) {
      const columns = rowsAt({ of: { shape: [at.length, end], data: weights }, isTransposed: true }, seen);
      const block = times(columns, plain({ shape: [at.length, d], data: rowsAt(values, at) }));
      for (let j = 0; j < block.length; j++) sums[i]![j]! += block[j]!;
    }
  }
  return [...sums];
} // prettier-ignore

/** Adds a bias [N] to each row of x [M, N], in place. */
function addBias(x: Float64Array, bias: Float64Array): Float64Array {
  for (let from = 0; from < x.length; from += bias.length)
    for (let j = 0; j < bias.length; j++) x[from + j]! += bias[j]!;
  return x;
}

/** y = gelu(x·W1ᵗ + b1)·W2ᵗ + b2: some rows. */
export function mlpParts([x, w1, b1, w2, b2]: readonly Host[], y: Host, random: () => number): Part[] {
  const at = someOf(x!.shape[0]!, Math.max(2, Math.floor(MAX_MACS / sizeOf([...w1!.shape, 2]))), random);
  const hidden = addBias(times(rowsAt(plain(x!), at), transpose(plain(w1!))), exact(b1!).data).map(geluRef);
  const expected = addBias(times(hidden, transpose(plain(w2!))), exact(b2!).data);
  return [{ name: "rows", got: rowsAt(plain(y), at), expected, terms: w1!.shape[0]! }];
}

/** Derivative of gelu by its definition, from a central difference of the reference: exact to 1e-9. */
const geluSlope = (x: number): number =>
  (8 * (geluRef(x + 1e-3) - geluRef(x - 1e-3)) - (geluRef(x + 2e-3) - geluRef(x - 2e-3))) / 12e-3;

/** Gradients of `mlpParts`: of x some rows, of both weights and of b1 some hidden units, of b2 all. */
export function mlpGradientParts(
  [x, w1, b1, w2, , dy]: readonly Host[],
  [dx, dw1, db1, dw2, db2]: readonly Host[],
  random: () => number,
): Part[] {
  const [rows, out] = dy!.shape as [number, number];
  const hidden = w1!.shape[0]!;
  const at = someOf(rows, 16, random);
  const before = addBias(times(rowsAt(plain(x!), at), transpose(plain(w1!))), exact(b1!).data);
  const dBefore = times(rowsAt(plain(dy!), at), plain(w2!)).map((v, i) => v * geluSlope(before[i]!));
  // [units, …]: what is multiplied with rows of x and dy lies in rows.
  const units = someOf(hidden, 64, random);
  const own = times(rowsAt(plain(w1!), units), transpose(plain(x!)));
  for (let i = 0; i < own.length; i++) own[i]! += b1!.data[units[Math.floor(i / rows)]!]!;
  const w2Columns = rowsAt(transpose(plain(w2!)), units);
  const dOwn = times(w2Columns, transpose(plain(dy!))).map((v, i) => v * geluSlope(own[i]!));
  const ones = new Float64Array(rows).fill(1);
  const part = (name: string, got: Float64Array, expected: Float64Array, terms: number): Part => ({
    name: `gradient of ${name}`,
    got,
    expected,
    terms,
  });
  return [
    part("x", rowsAt(plain(dx!), at), times(dBefore, plain(w1!)), hidden + out),
    part("w1", rowsAt(plain(dw1!), units), times(dOwn, plain(x!)), rows + out),
    part("b1", slices(db1!, units).data, times(ones, transpose(plain(ref([units.length, rows], dOwn)))), rows + out),
    part("w2", rowsAt(transpose(plain(dw2!)), units), times(own.map(geluRef), plain(dy!)), rows),
    part("b2", exact(db2!).data, times(ones, plain(dy!)), rows),
  ];
}
