/** Checks of rows that are too large for the whole of a float64 reference: slices that can be computed alone. */
import { ref, sizeOf } from "../../tests/reference.ts";
import type { Ref } from "../../tests/reference.ts";
import { attentionRef } from "../../tests/reference/attention.ts";
import { conv2dRef } from "../../tests/reference/image.ts";
import { matmulRef, transposedRef } from "../../tests/reference/matmul.ts";
import { geluRef } from "../../tests/reference/rows.ts";
import { slices, someOf } from "./row.ts";
import type { Part } from "./row.ts";

/** Multiply-adds that a check may take: about a second of one core. */
const MAX_MACS = 3e8;

/** a [M, K] · b [K, N]: some rows in full, and every element by the product with a random vector, which a wrong tile anywhere changes. */
export function matmulParts(a: Ref, b: Ref, y: Ref, random: () => number): Part[] {
  const [m, k] = a.shape as [number, number];
  const n = b.shape[1]!;
  const at = someOf(m, Math.max(2, Math.floor(MAX_MACS / (k * n))), random);
  const vector = ref(
    [n, 1],
    Float64Array.from({ length: n }, () => (random() < 0.5 ? -1 : 1)),
  );
  return [
    { name: "rows", got: slices(y, at).data, expected: matmulRef(slices(a, at), b).data, terms: k },
    {
      name: "product with a vector",
      got: matmulRef(y, vector).data,
      expected: matmulRef(a, matmulRef(b, vector)).data,
      terms: k,
    },
  ];
}

/** x [M, K] · weightᵗ [N, K] (+ bias): as `matmulParts`. */
export function linearParts(x: Ref, weight: Ref, y: Ref, random: () => number): Part[] {
  const [m, k] = x.shape as [number, number];
  const n = weight.shape[0]!;
  if (m * k * n <= MAX_MACS)
    return [{ name: "result", got: y.data, expected: matmulRef(x, transposedRef(weight)).data, terms: k }];
  const at = someOf(n, Math.max(2, Math.floor(MAX_MACS / (m * k))), random);
  const columns = transposedRef(slices(transposedRef(y), at));
  return [
    { name: "columns", got: columns.data, expected: matmulRef(x, transposedRef(slices(weight, at))).data, terms: k },
  ];
}

/** Output channels of a convolution. */
export function convParts(
  [x, weight, bias]: readonly Ref[],
  y: Ref,
  { stride = 1, padding }: { readonly stride?: number; readonly padding: readonly [number, number, number, number] },
  random: () => number,
): Part[] {
  const [, c, kh, kw] = weight!.shape as [number, number, number, number];
  const [, o, oh, ow] = y.shape as [number, number, number, number];
  const at = someOf(o, Math.max(2, Math.floor(MAX_MACS / 3 / (c * kh * kw * oh * ow))), random);
  const channels = ref(y.shape.slice(1), y.data); // of one picture
  const expected = conv2dRef(x!, slices(weight!, at), bias ? slices(bias, at) : null, stride, padding);
  return [{ name: "channels", got: slices(channels, at).data, expected: expected.data, terms: c * kh * kw }];
}

/** Heads of x [1, H, T, D] as [1, count, T, D]. */
const heads = (x: Ref, at: readonly number[]): Ref => {
  const chosen = slices(ref(x.shape.slice(1), x.data), at);
  return ref([1, ...chosen.shape], chosen.data);
};

/** Heads of attention, of a batch of one, each in full. */
export function attentionParts([q, k, v]: readonly Ref[], y: Ref, isCausal: boolean, random: () => number): Part[] {
  const [, h, t, d] = q!.shape as [number, number, number, number];
  const at = someOf(h, Math.max(2, Math.floor(MAX_MACS / (t * t * d))), random);
  const expected = attentionRef(heads(q!, at), heads(k!, at), heads(v!, at), { causal: isCausal });
  return [{ name: "heads", got: heads(y, at).data, expected: expected.data, terms: d + t }];
}

/** Gradients of causal attention of some heads: dV = Pᵗ·dY, dS = P ∘ (dY·Vᵗ − rowsum(dY ∘ Y)), dQ = scale · dS·K, dK = scale · dSᵗ·Q. */
export function attentionGradientParts(
  [q, k, v, dy]: readonly Ref[],
  gradients: readonly Ref[],
  random: () => number,
): Part[] {
  const [, h, t, d] = q!.shape as [number, number, number, number];
  const at = someOf(h, 3, random);
  const expected = at.map((head) => {
    const of = (x: Ref): Float64Array => x.data.subarray(head * t * d, (head + 1) * t * d);
    return headGradients(of(q!), of(k!), of(v!), of(dy!), t, d);
  });
  return ["q", "k", "v"].map((name, i) => {
    const flat = new Float64Array(at.length * t * d);
    for (const [j, one] of expected.entries()) flat.set(one[i]!, j * t * d);
    return { name: `gradient of ${name}`, got: heads(gradients[i]!, at).data, expected: flat, terms: d + t };
  });
}

function headGradients(
  q: Float64Array,
  k: Float64Array,
  v: Float64Array,
  dy: Float64Array,
  t: number,
  d: number,
): [Float64Array, Float64Array, Float64Array] {
  const [dq, dk, dv] = [new Float64Array(t * d), new Float64Array(t * d), new Float64Array(t * d)];
  const scale = 1 / Math.sqrt(d);
  const p = new Float64Array(t);
  const dp = new Float64Array(t);
  const dot = (a: Float64Array, i: number, b: Float64Array, j: number): number => {
    let sum = 0;
    for (let c = 0; c < d; c++) sum += a[i * d + c]! * b[j * d + c]!;
    return sum;
  };
  for (let i = 0; i < t; i++) {
    let [top, total, mean] = [-Infinity, 0, 0];
    for (let j = 0; j <= i; j++) top = Math.max(top, (p[j] = scale * dot(q, i, k, j)));
    for (let j = 0; j <= i; j++) total += p[j] = Math.exp(p[j]! - top);
    for (let j = 0; j <= i; j++) mean += (p[j] = p[j]! / total) * (dp[j] = dot(dy, i, v, j));
    for (let j = 0; j <= i; j++) {
      const ds = scale * p[j]! * (dp[j]! - mean);
      for (let c = 0; c < d; c++) {
        dv[j * d + c]! += p[j]! * dy[i * d + c]!;
        dq[i * d + c]! += ds * k[j * d + c]!;
        dk[j * d + c]! += ds * q[i * d + c]!;
      }
    }
  }
  return [dq, dk, dv];
}

const addBias = (x: Ref, bias: Ref): Ref =>
  ref(
    x.shape,
    x.data.map((v, i) => v + bias.data[i % bias.data.length]!),
  );
const mapped = (x: Ref, fn: (v: number, i: number) => number): Ref => ref(x.shape, x.data.map(fn));

/** y = gelu(x·W1ᵗ + b1)·W2ᵗ + b2: some rows. */
export function mlpParts([x, w1, b1, w2, b2]: readonly Ref[], y: Ref, random: () => number): Part[] {
  const at = someOf(x!.shape[0]!, Math.max(2, Math.floor(MAX_MACS / sizeOf([...w1!.shape, 2]))), random);
  const hidden = mapped(addBias(matmulRef(slices(x!, at), transposedRef(w1!)), b1!), geluRef);
  const expected = addBias(matmulRef(hidden, transposedRef(w2!)), b2!);
  return [{ name: "rows", got: slices(y, at).data, expected: expected.data, terms: w1!.shape[0]! }];
}

/** Derivative of gelu by its definition, from a central difference of the reference: exact to 1e-9. */
const geluSlope = (x: number): number =>
  (8 * (geluRef(x + 1e-3) - geluRef(x - 1e-3)) - (geluRef(x + 2e-3) - geluRef(x - 2e-3))) / 12e-3;

/** Gradients of `mlpParts`: of x some rows, of both weights and of b1 some hidden units, of b2 all. */
export function mlpGradientParts(
  [x, w1, b1, w2, , dy]: readonly Ref[],
  [dx, dw1, db1, dw2, db2]: readonly Ref[],
  random: () => number,
): Part[] {
  const [rows, out] = dy!.shape as [number, number];
  const hiddenUnits = w1!.shape[0]!;
  const at = someOf(rows, 16, random);
  const before = addBias(matmulRef(slices(x!, at), transposedRef(w1!)), b1!);
  const dBefore = mapped(matmulRef(slices(dy!, at), w2!), (v, i) => v * geluSlope(before.data[i]!));
  const units = someOf(hiddenUnits, 24, random);
  const own = addBias(matmulRef(x!, transposedRef(slices(w1!, units))), slices(b1!, units)); // [rows, units]
  const w2Columns = slices(transposedRef(w2!), units); // [units, out]
  const dOwn = mapped(matmulRef(dy!, transposedRef(w2Columns)), (v, i) => v * geluSlope(own.data[i]!));
  const ones = ref([1, rows], new Float64Array(rows).fill(1));
  const part = (name: string, got: Ref, expected: Ref, terms: number): Part => ({
    name: `gradient of ${name}`,
    got: got.data,
    expected: expected.data,
    terms,
  });
  return [
    part("x", slices(dx!, at), matmulRef(dBefore, w1!), hiddenUnits + out),
    part("w1", slices(dw1!, units), matmulRef(transposedRef(dOwn), x!), rows + out),
    part("b1", slices(db1!, units), matmulRef(ones, dOwn), rows + out),
    part("w2", slices(transposedRef(dw2!), units), matmulRef(transposedRef(mapped(own, geluRef)), dy!), rows),
    part("b2", db2!, matmulRef(ones, dy!), rows),
  ];
}
