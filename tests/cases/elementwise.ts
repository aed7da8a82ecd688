/** Cases of the elementwise table: unary and binary ops, comparisons, scalars, broadcasting. */
import { F } from "../../index.ts";
import type { DType, Tensor } from "../../index.ts";
import type { Case, Input } from "../harness.ts";
import { mapRef } from "../reference.ts";

const shapes: readonly Pick<Input, "shape" | "layout">[] = [
  { shape: [] },
  { shape: [0] },
  { shape: [1] },
  { shape: [3] },
  { shape: [33] },
  { shape: [5, 7] },
  { shape: [257, 8] },
  { shape: [2, 3, 70] },
  { shape: [6, 5], layout: "reversed" },
  { shape: [4, 6], layout: "inside" },
];

const floats: readonly DType[] = ["f32", "f16", "bf16"];

interface Unary {
  readonly op: string;
  readonly run: (x: Tensor) => Tensor;
  readonly reference: (x: number) => number;
  readonly range?: Partial<Input>;
}

const unary: readonly Unary[] = [
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
  {
    op: "clamp",
    run: (x) => F.clamp(x, -0.5, 0.5),
    reference: (x) => Math.min(0.5, Math.max(-0.5, x)),
    range: { values: undefined },
  },
  { op: "pow", run: (x) => F.pow(x, 1.7), reference: (x) => x ** 1.7, range: { low: 0.2, high: 3 } },
];

/** Values of −1 to 1 that stay 0.02 away from the bounds of clamp. */
const awayFromHalf = (n: number) => (random: () => number) =>
  Array.from({ length: n }, () => {
    const v = random() * 2 - 1;
    return Math.abs(Math.abs(v) - 0.5) < 0.02 ? v * 1.2 : v;
  });

const size = (shape: readonly number[]): number => shape.reduce((a, b) => a * b, 1);

/** A third of the values are NaN or infinite. */
const withSpecials = (n: number) => (random: () => number) =>
  Array.from({ length: n }, () => [NaN, Infinity, -Infinity, 0][Math.floor(random() * 12)] ?? random() * 2 - 1);

const LARGEST: Readonly<Record<string, number>> = {
  f32: 3.4028234663852886e38,
  f16: 65504,
  bf16: 3.3895313892515355e38,
};

/** isnan, isinf, isfinite, and the replacement of what is not finite. */
const finiteCases: Case[] = shapes.flatMap((place) =>
  floats.flatMap((dtype): Case[] => {
    const inputs = [{ ...place, dtype, values: withSpecials(size(place.shape)) }];
    const test = (op: "isnan" | "isinf" | "isfinite", is: (v: number) => boolean): Case => ({
      op,
      inputs,
      run: ([x]) => F[op](x!),
      reference: ([x]) => mapRef((v) => Number(is(v)), x!),
      exact: true,
      gradient: false,
    });
    const replace = (v: number, nan: number, posinf: number, neginf: number): number =>
      Number.isNaN(v) ? nan : v === Infinity ? posinf : v === -Infinity ? neginf : v;
    return [
      test("isnan", Number.isNaN),
      test("isinf", (v) => Math.abs(v) === Infinity),
      test("isfinite", Number.isFinite),
      {
        op: "nanToNum",
        inputs,
        run: ([x]) => F.nanToNum(x!),
        reference: ([x]) => mapRef((v) => replace(v, 0, LARGEST[dtype]!, -LARGEST[dtype]!), x!),
        exact: true,
        gradient: false,
      },
      {
        op: "nanToNum",
        note: "given",
        inputs: [{ ...place, dtype }],
        run: ([x]) => F.nanToNum(x!, { nan: 2, posinf: 3, neginf: -4 }),
        reference: ([x]) => mapRef((v) => replace(v, 2, 3, -4), x!),
      },
    ];
  }),
);

interface Binary {
  readonly op: string;
  readonly run: (a: Tensor, b: Tensor | number) => Tensor;
  readonly reference: (a: number, b: number) => number;
  readonly range?: Partial<Input>;
  readonly integers?: boolean;
}

const binary: readonly Binary[] = [
  { op: "add", run: F.add, reference: (a, b) => a + b, integers: true },
  { op: "sub", run: F.sub, reference: (a, b) => a - b, integers: true },
  { op: "mul", run: F.mul, reference: (a, b) => a * b, integers: true },
  { op: "div", run: F.div, reference: (a, b) => a / b, range: { avoidZero: 0.2 } },
  { op: "maximum", run: F.maximum, reference: Math.max, integers: true },
  { op: "minimum", run: F.minimum, reference: Math.min, integers: true },
  { op: "pow", run: F.pow, reference: powRef, range: { low: 0.3, high: 2 } },
];

const compare: readonly Binary[] = [
  { op: "eq", run: F.eq, reference: (a, b) => Number(a === b) },
  { op: "ne", run: F.ne, reference: (a, b) => Number(a !== b) },
  { op: "lt", run: F.lt, reference: (a, b) => Number(a < b) },
  { op: "le", run: F.le, reference: (a, b) => Number(a <= b) },
  { op: "gt", run: F.gt, reference: (a, b) => Number(a > b) },
  { op: "ge", run: F.ge, reference: (a, b) => Number(a >= b) },
];

/** a^b as IEEE 754 and C have it; JavaScript makes 1 to the power NaN or ∞ NaN. */
function powRef(a: number, b: number): number {
  return a === 1 ? 1 : a ** b;
}

/** Pairs of shapes: equal, odd, broadcast either way, strided. */
const pairs: readonly (readonly [Pick<Input, "shape" | "layout">, Pick<Input, "shape" | "layout">])[] = [
  [{ shape: [] }, { shape: [] }],
  [{ shape: [0, 3] }, { shape: [3] }],
  [{ shape: [1] }, { shape: [1] }],
  [{ shape: [33] }, { shape: [33] }],
  [{ shape: [5, 7] }, { shape: [7] }],
  [{ shape: [5, 1] }, { shape: [1, 6] }],
  [{ shape: [2, 1, 4] }, { shape: [3, 1] }],
  [{ shape: [257, 3] }, { shape: [] }],
  [{ shape: [6, 5], layout: "reversed" }, { shape: [6, 5] }],
  [
    { shape: [3, 4], layout: "inside" },
    { shape: [3, 4], layout: "reversed" },
  ],
  [{ shape: [70, 32] }, { shape: [70, 32] }],
];

/** Far enough apart that max, min and their gradients have no kink: the second input lies on a lattice between the first's values. */
const lattice = (n: number, shift: number) => (random: () => number) =>
  Array.from({ length: n }, () => Math.floor(random() * 16 - 8) / 8 + shift);

export const elementwiseCases: Case[] = [
  ...unary.flatMap(({ op, run, reference, range }) =>
    shapes.flatMap((s) =>
      floats.map((dtype): Case => ({
        op,
        inputs: [{ ...s, ...(op === "clamp" ? { values: awayFromHalf(size(s.shape)) } : range), dtype }],
        run: ([x]) => run(x!),
        reference: ([x]) => mapRef(reference, x!),
        windows: s.shape[0] === 257,
      })),
    ),
  ),
  ...binary.flatMap(({ op, run, reference, range, integers }) =>
    pairs.flatMap(([a, b]) => [
      ...floats.map((dtype): Case => {
        const kinky = op === "maximum" || op === "minimum";
        return {
          op,
          inputs: [
            { ...a, ...range, dtype, ...(kinky ? { values: lattice(size(a.shape), 0) } : {}) },
            {
              ...b,
              ...range,
              dtype: a.shape.length === 1 ? "f32" : dtype,
              ...(kinky ? { values: lattice(size(b.shape), 1 / 32) } : {}),
            },
          ],
          run: ([x, y]) => run(x!, y!),
          reference: ([x, y]) => mapRef(reference, x!, y!),
          terms: 257 * 3,
          windows: a.shape[0] === 70,
        };
      }),
      ...(integers
        ? (["i32", "u32"] as const).map((dtype): Case => ({
            op,
            inputs: [
              { ...a, dtype, low: 5, high: 90 },
              { ...b, dtype, low: 0, high: 5 },
            ],
            run: ([x, y]) => run(x!, y!),
            reference: ([x, y]) => mapRef(reference, x!, y!),
            exact: true,
            gradient: false,
          }))
        : []),
    ]),
  ),
  ...compare.flatMap(({ op, run, reference }) =>
    pairs.flatMap(([a, b]) =>
      (["f32", "i32", "bf16"] as const).map((dtype): Case => ({
        op,
        inputs: [
          { ...a, dtype, values: lattice(size(a.shape), dtype === "i32" ? 0 : 0.25) },
          { ...b, dtype, values: lattice(size(b.shape), dtype === "i32" ? 0 : 0.25) },
        ].map((i) =>
          dtype === "i32"
            ? { ...i, values: (r: () => number) => Array.from({ length: size(i.shape) }, () => Math.floor(r() * 4)) }
            : i,
        ),
        run: ([x, y]) => run(x!, y!),
        reference: ([x, y]) => mapRef(reference, x!, y!),
        exact: true,
        gradient: false,
      })),
    ),
  ),
  ...binary.map(({ op, run, reference, range }): Case => ({
    op,
    note: "scalar",
    inputs: [
      { shape: [33], ...range, ...(op === "maximum" || op === "minimum" ? { values: lattice(33, 1 / 32) } : {}) },
    ],
    run: ([x]) => run(x!, 0.5),
    reference: ([x]) => mapRef((v) => reference(v, 0.5), x!),
  })),
  ...finiteCases,
];
