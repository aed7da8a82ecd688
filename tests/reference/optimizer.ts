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

/** One step of torch.optim.SGD in float64; `m` is null before a parameter's first step. Returns the new momentum buffer. */
export function referenceSgd(
  p: Float64Array,
  m: Float64Array | null,
  gradient: ArrayLike<number>,
  lr: number,
  settings: {
    readonly momentum: number;
    readonly dampening: number;
    readonly nesterov: boolean;
    readonly weightDecay: number;
  },
): Float64Array | null {
  const { momentum, dampening, nesterov, weightDecay } = settings;
  const g = p.map((x, i) => gradient[i]! + weightDecay * x);
  const next = momentum === 0 ? null : m === null ? g.slice() : m.map((x, i) => momentum * x + (1 - dampening) * g[i]!);
  for (let i = 0; i < p.length; i++)
    p[i]! -= lr * (next === null ? g[i]! : nesterov ? g[i]! + momentum * next[i]! : next[i]!);
  return next;
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
