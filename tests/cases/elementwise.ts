/** Cases of the elementwise table. */
import { F } from "../../index.ts";
import type { Case, Input } from "../harness.ts";
import { mapRef } from "../reference.ts";

const shapes: Pick<Input, "shape" | "layout">[] = [{ shape: [] }, { shape: [0] }, { shape: [1] }, { shape: [3] }, { shape: [33] }, { shape: [5, 7] }, { shape: [257, 4] }, { shape: [2, 3, 70] }, { shape: [6, 5], layout: "reversed" }, { shape: [4, 6], layout: "inside" }];

interface Unary {
  readonly op: string;
  readonly run: (x: import("../../index.ts").Tensor) => import("../../index.ts").Tensor;
  readonly reference: (x: number) => number;
  readonly range?: Partial<Input>;
}

const unary: Unary[] = [
  { op: "neg", run: F.neg, reference: (x) => -x },
  { op: "abs", run: F.abs, reference: Math.abs, range: { avoidZero: 0.05 } },
  { op: "exp", run: F.exp, reference: Math.exp, range: { low: -3, high: 3 } },
  { op: "log", run: F.log, reference: Math.log, range: { low: 0.1, high: 5 } },
  { op: "sqrt", run: F.sqrt, reference: Math.sqrt, range: { low: 0.1, high: 5 } },
  { op: "rsqrt", run: F.rsqrt, reference: (x) => 1 / Math.sqrt(x), range: { low: 0.1, high: 5 } },
  { op: "square", run: F.square, reference: (x) => x * x },
  { op: "reciprocal", run: F.reciprocal, reference: (x) => 1 / x, range: { avoidZero: 0.2 } },
  { op: "tanh", run: F.tanh, reference: Math.tanh, range: { low: -3, high: 3 } },
  { op: "sigmoid", run: F.sigmoid, reference: (x) => 1 / (1 + Math.exp(-x)), range: { low: -6, high: 6 } },
  { op: "sin", run: F.sin, reference: Math.sin, range: { low: -3, high: 3 } },
  { op: "cos", run: F.cos, reference: Math.cos, range: { low: -3, high: 3 } },
  { op: "relu", run: F.relu, reference: (x) => Math.max(x, 0), range: { avoidZero: 0.05 } },
  { op: "clamp", run: (x) => F.clamp(x, -2, 2), reference: (x) => Math.min(2, Math.max(-2, x)) },
  { op: "pow", run: (x) => F.pow(x, 1.7), reference: (x) => x ** 1.7, range: { low: 0.2, high: 3 } },
];

export const elementwiseCases: Case[] = [
  ...unary.flatMap(({ op, run, reference, range }) =>
    shapes.flatMap((s) =>
      (["f32", "f16", "bf16"] as const).map(
        (dtype): Case => ({ op, inputs: [{ ...s, ...range, dtype }], run: ([x]) => run(x!), reference: ([x]) => mapRef(reference, x!), windows: s.shape.length === 2 }),
      ),
    ),
  ),
];
