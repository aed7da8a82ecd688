/** References of variance, log-sum-exp and the losses of elements. */
import { eachIndex, mapRef, ref, sizeOf, stridesOf } from "../reference.ts";
import type { Ref } from "../reference.ts";

/** `fn` of the elements that share the other dimensions; `dims` ascending. */
function over(x: Ref, dims: readonly number[], keepdim: boolean, fn: (values: Float64Array) => number): Ref {
  const groups = new Map<number, number[]>();
  const inner = x.shape.map((n, d) => (dims.includes(d) ? 1 : n));
  const strides = stridesOf(inner);
  eachIndex(x.shape, (at, flat) => {
    const group = at.reduce((sum, v, d) => sum + (dims.includes(d) ? 0 : v * strides[d]!), 0);
    groups.set(group, [...(groups.get(group) ?? []), x.data[flat]!]);
  });
  const shape = keepdim ? inner : x.shape.filter((_, d) => !dims.includes(d));
  return ref(
    shape,
    Float64Array.from({ length: sizeOf(inner) }, (_, i) => fn(Float64Array.from(groups.get(i)!))),
  );
}

export const varianceRef = (x: Ref, dims: readonly number[], correction: number, keepdim: boolean): Ref =>
  over(x, dims, keepdim, (values) => {
    const mean = values.reduce((a, b) => a + b, 0) / values.length;
    return values.reduce((sum, v) => sum + (v - mean) ** 2, 0) / Math.max(0, values.length - correction);
  });

export const stdRef = (x: Ref, dims: readonly number[], correction: number, keepdim: boolean): Ref =>
  mapRef(Math.sqrt, varianceRef(x, dims, correction, keepdim));

export const logsumexpRef = (x: Ref, dims: readonly number[], keepdim: boolean): Ref =>
  over(x, dims, keepdim, (values) => {
    const top = values.reduce((a, b) => Math.max(a, b), -Infinity);
    const taken = Math.abs(top) === Infinity ? 0 : top;
    return Math.log(values.reduce((sum, v) => sum + Math.exp(v - taken), 0)) + taken;
  });

export const LOSSES = {
  mseLoss: (x: number, t: number) => (x - t) ** 2,
  binaryCrossEntropy: (p: number, t: number) =>
    -(t * Math.max(Math.log(p), -100) + (1 - t) * Math.max(Math.log(1 - p), -100)),
  // As PyTorch computes it: −∞ gives NaN.
  binaryCrossEntropyWithLogits: (x: number, t: number) =>
    (1 - t) * x - (Math.min(x, 0) - Math.log1p(Math.exp(-Math.abs(x)))),
} as const;

export function lossRef(op: keyof typeof LOSSES, x: Ref, t: Ref, reduction: string): Ref {
  const each = mapRef(LOSSES[op], x, t);
  if (reduction === "none") return each;
  const sum = each.data.reduce((a, b) => a + b, 0);
  return ref([], Float64Array.of(reduction === "sum" ? sum : sum / each.data.length));
}
