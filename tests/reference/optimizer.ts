/** AdamW in float64, and what tests of optimizers set up: parameters, their values, their gradients. */
import { tensor } from "../../index.ts";
import type { DType, Tensor } from "../../index.ts";

export const uniform = (n: number, random: () => number, scale = 1): Float64Array =>
  Float64Array.from({ length: n }, () => Math.fround(scale * (2 * random() - 1)));
export const sizeOf = (shape: readonly number[]): number => shape.reduce((a, b) => a * b, 1);

/** A parameter in float64: decoupled weight decay, bias correction, as in the paper's algorithm 2. */
export interface Reference {
  readonly p: Float64Array;
  readonly m: Float64Array;
  readonly v: Float64Array;
}

export function referenceStep(
  { p, m, v }: Reference,
  g: ArrayLike<number>,
  t: number,
  lr: number,
  decay: number,
  [beta1, beta2, epsilon]: readonly [number, number, number],
): void {
  for (let i = 0; i < p.length; i++) {
    m[i] = beta1 * m[i]! + (1 - beta1) * g[i]!;
    v[i] = beta2 * v[i]! + (1 - beta2) * g[i]! ** 2;
    const mean = m[i]! / (1 - beta1 ** t);
    const square = v[i]! / (1 - beta2 ** t);
    p[i] = p[i]! * (1 - lr * decay) - (lr * mean) / (Math.sqrt(square) + epsilon);
  }
}

export interface Shaped {
  readonly shape: readonly number[];
  readonly dtype: DType;
  readonly decay: boolean;
}

export const setGradient = (t: Tensor, values: ArrayLike<number>): void => {
  t.grad?.dispose();
  t.grad = tensor(Float32Array.from(values), { shape: t.shape, device: t.device }).keep();
};
