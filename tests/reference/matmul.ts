/** References of matmul and linear: plain loops in float64. */
import { ref, sizeOf, stridesOf } from "../reference.ts";
import type { Ref } from "../reference.ts";
import { geluRef, geluTanhRef, siluRef } from "./rows.ts";

/** a [..., M, K] · b [..., K, N] with broadcast batch dimensions; 1-D operands as in PyTorch. */
export function matmulRef(a: Ref, b: Ref): Ref {
  const [aShape, bShape] = [
    a.shape.length === 1 ? [1, ...a.shape] : a.shape,
    b.shape.length === 1 ? [...b.shape, 1] : b.shape,
  ];
  const [m, k, n] = [aShape.at(-2)!, aShape.at(-1)!, bShape.at(-1)!];
  const rank = Math.max(aShape.length, bShape.length) - 2;
  const batchOf = (shape: readonly number[]): number[] =>
    Array.from({ length: rank }, (_, d) => shape[d - rank + shape.length - 2] ?? 1);
  const [aBatch, bBatch] = [batchOf(aShape), batchOf(bShape)];
  const batch = aBatch.map((v, d) => (v === 1 ? bBatch[d]! : v));
  const out = new Float64Array(sizeOf(batch) * m * n);
  const index = (z: number, own: readonly number[]): number => {
    let [rest, flat] = [z, 0];
    const steps = stridesOf(own);
    for (let d = rank - 1; d >= 0; d--) {
      if (own[d] !== 1) flat += (rest % batch[d]!) * steps[d]!;
      rest = Math.floor(rest / batch[d]!);
    }
    return flat;
  };
  for (let z = 0; z < sizeOf(batch); z++) {
    const [fromA, fromB] = [index(z, aBatch) * m * k, index(z, bBatch) * k * n];
    for (let i = 0; i < m; i++) {
      for (let t = 0; t < k; t++) {
        const v = a.data[fromA + i * k + t]!;
        for (let j = 0; j < n; j++) out[(z * m + i) * n + j]! += v * b.data[fromB + t * n + j]!;
      }
    }
  }
  return ref([...batch, ...(a.shape.length === 1 ? [] : [m]), ...(b.shape.length === 1 ? [] : [n])], out);
}

/** Last two dimensions swapped. */
export function transposedRef(x: Ref): Ref {
  const [rows, columns] = [x.shape.at(-2)!, x.shape.at(-1)!];
  const out = ref([...x.shape.slice(0, -2), columns, rows]);
  for (let i = 0; i < x.data.length; i++) {
    const column = i % columns;
    const row = Math.floor(i / columns) % rows;
    out.data[i - row * columns - column + column * rows + row] = x.data[i]!;
  }
  return out;
}

export const activationRefs = {
  gelu: geluRef,
  geluTanh: geluTanhRef,
  silu: siluRef,
  relu: (x: number): number => Math.max(x, 0),
} as const;

/** x [..., K] · weight [N, K]ᵗ + bias, through an activation, plus residual. */
export function linearRef(
  x: Ref,
  weight: Ref,
  bias: Ref | null,
  activation: keyof typeof activationRefs | null,
  residual: Ref | null,
): Ref {
  const y = matmulRef(x, transposedRef(weight));
  const n = weight.shape[0]!;
  for (let i = 0; i < y.data.length; i++) {
    const before = y.data[i]! + (bias ? bias.data[i % n]! : 0);
    y.data[i] = (activation ? activationRefs[activation](before) : before) + (residual ? residual.data[i]! : 0);
  }
  return y;
}
