/** Cases of the row-wise ops: norms, softmax, rotary positions, dropout. */
import { F, Generator, philox, unitFloat } from "../../index.ts";
import type { DType, Tensor } from "../../index.ts";
import type { Case, Input } from "../harness.ts";
import { mapRef } from "../reference.ts";
import type { Ref } from "../reference.ts";
import { layerNormRef, rmsNormRef, ropeRef, softmaxRef } from "../reference/rows.ts";

type Layout = Pick<Input, "shape" | "layout">;

const FLOATS: readonly DType[] = ["f32", "f16", "bf16"];
const ROW_VARIANTS = ["workgroup", "subgroup", "invocation"] as const;
const variants = (family: string): NonNullable<Case["variants"]> => ROW_VARIANTS.map((name) => ({ family, name }));

/** Row lengths 1 to 2048, none to many rows, views. */
const shapes: readonly Layout[] = [
  { shape: [0, 8] },
  { shape: [1] },
  { shape: [5, 1] },
  { shape: [4, 3] },
  { shape: [3, 33] },
  { shape: [2, 3, 70] },
  { shape: [40, 64] },
  { shape: [3, 256] },
  { shape: [1, 257] },
  { shape: [1, 3, 1024] },
  { shape: [2, 2048] },
  { shape: [6, 8], layout: "reversed" },
  { shape: [3, 5, 12], layout: "inside" },
];
/** More rows than a grid dimension has workgroups: one workgroup a row, folded. */
const many: Layout = { shape: [65600, 2] };
const shared = (family: string): NonNullable<Case["variants"]> => variants(family).slice(0, 2);
/** Rows of 128 elements that no window of 4 KiB holds all of, also in 16 bits. */
const cut: Layout = { shape: [5, 7, 128] };

/** 16-bit operands mixed with f32 ones. */
const mixed: readonly (readonly [DType, DType])[] = [
  ["f32", "bf16"],
  ["bf16", "f32"],
  ["f16", "bf16"],
  ["f32", "f16"],
];

const termsOf = (shape: readonly number[]): number =>
  Math.max(
    shape.at(-1)!,
    shape.slice(0, -1).reduce((a, b) => a * b, 1),
  );

/** With rows of one element the gradient of x / √(x² + eps) is eps / (x² + eps)^1.5: of ordinary size only for an eps of that size. */
const epsOf = (s: Layout): number => (s.shape.at(-1)! < 4 ? 0.5 : 1e-6);
/** Nor may x² be far larger than that eps: what is left of 1 − x² / (x² + eps) would be rounding. */
const rangeOf = (s: Layout): { low: number; high: number } =>
  s.shape.at(-1)! < 4 ? { low: -1, high: 1.5 } : { low: -2, high: 3 };

function rms(s: Layout, x: DType, weight: DType | null, more: Partial<Case> = {}): Case {
  const eps = epsOf(s);
  return {
    op: "rmsNorm",
    inputs: [{ ...s, dtype: x, ...rangeOf(s) }, ...(weight ? [{ shape: [s.shape.at(-1)!], dtype: weight }] : [])],
    run: ([t, w]) => F.rmsNorm(t!, w ?? null, eps),
    reference: ([t, w]) => rmsNormRef(t!, w ?? null, eps),
    terms: termsOf(s.shape),
    variants: variants("rms_norm"),
    ...more,
  };
}

function layer(s: Layout, x: DType, weight: DType | null, bias: DType | null, more: Partial<Case> = {}): Case {
  const eps = epsOf(s);
  const columns = s.shape.at(-1)!;
  return {
    op: "layerNorm",
    inputs: [
      { ...s, dtype: x, low: -2, high: 3 },
      ...(weight ? [{ shape: [columns], dtype: weight }] : []),
      ...(bias ? [{ shape: [columns], dtype: bias }] : []),
    ],
    run: (t) => F.layerNorm(t[0]!, weight ? t[1]! : null, bias ? t.at(-1)! : null, eps),
    reference: (t) => layerNormRef(t[0]!, weight ? t[1]! : null, bias ? t.at(-1)! : null, eps),
    terms: termsOf(s.shape),
    variants: variants("layer_norm"),
    ...more,
  };
}

/** Ops of the last dimension alone: a row here makes rows of every length, dtype and layout, in windows and in each variant of `family`. */
const rowOps: readonly {
  readonly op: string;
  readonly run: (x: Tensor) => Tensor;
  readonly reference: (x: Ref) => Ref;
  /** Family of variants; none if its rows are not shared. */
  readonly family?: string;
  /** Other values than −4 to 4, e.g. away from a kink. */
  readonly values?: Pick<Input, "low" | "high" | "avoidZero">;
}[] = [
  {
    op: "softmax",
    run: (x) => F.softmax(x),
    reference: (x) => softmaxRef(x, x.shape.length - 1, false),
    family: "softmax",
  },
  {
    op: "logSoftmax",
    run: (x) => F.logSoftmax(x),
    reference: (x) => softmaxRef(x, x.shape.length - 1, true),
    family: "softmax",
  },
];
const rowOpCases: Case[] = rowOps.flatMap(({ op, run, reference, family, values }) => {
  const row = (s: Layout, dtype: DType, more: Partial<Case> = {}): Case => ({
    op,
    inputs: [{ ...s, dtype, low: -4, high: 4, ...values }],
    run: ([x]) => run(x!),
    reference: ([x]) => reference(x!),
    terms: s.shape.at(-1)!,
    ...(family && { variants: variants(family) }),
    ...more,
  });
  return FLOATS.flatMap((dtype) => [
    ...shapes.map((s) => row(s, dtype)),
    row(cut, dtype, { note: "windows", windows: true }),
  ]);
});

const norms: Case[] = [
  ...shapes.flatMap((s) => FLOATS.flatMap((dtype) => [rms(s, dtype, dtype), layer(s, dtype, dtype, dtype)])),
  ...mixed.flatMap(([x, w]) =>
    [{ shape: [3, 33] }, { shape: [5, 64] }].flatMap((s) => [
      rms(s, x, w, { note: "mixed" }),
      layer(s, x, w, x, { note: "mixed" }),
    ]),
  ),
  ...FLOATS.map((dtype) => rms({ shape: [3, 20] }, dtype, null, { note: "no weight" })),
  layer({ shape: [3, 20] }, "f32", null, null, { note: "no weight, no bias" }),
  layer({ shape: [3, 20] }, "bf16", null, "f32", { note: "bias only" }),
  layer({ shape: [3, 20] }, "f16", "f32", null, { note: "weight only" }),
  layer({ shape: [3, 64] }, "f32", "f32", "f32", {
    note: "far from zero",
    inputs: [{ shape: [3, 64], low: 99, high: 101 }, { shape: [64] }, { shape: [64] }],
  }),
  rms(many, "f32", "f32", { note: "many rows", variants: shared("rms_norm") }),
  layer(many, "f32", "bf16", null, { note: "many rows", variants: shared("layer_norm") }),
  ...FLOATS.flatMap((dtype) => [
    rms(cut, dtype, "f32", { note: "windows", windows: true }),
    layer(cut, dtype, "bf16", "f32", { note: "windows", windows: true }),
  ]),
];

function soft(log: boolean, s: Layout, dtype: DType, dim: number, more: Partial<Case> = {}): Case {
  return {
    op: log ? "logSoftmax" : "softmax",
    inputs: [{ ...s, dtype, low: -4, high: 4 }],
    run: ([x]) => (log ? F.logSoftmax(x!, dim) : F.softmax(x!, dim)),
    reference: ([x]) => softmaxRef(x!, dim < 0 ? dim + s.shape.length : dim, log),
    terms: s.shape.at(dim)!,
    variants: variants("softmax"),
    ...more,
  };
}

const softmaxes: Case[] = [false, true].flatMap((log) => [
  ...FLOATS.flatMap((dtype) => [
    soft(log, { shape: [5, 9] }, dtype, 0, { note: "dim 0" }),
    soft(log, { shape: [3, 6, 4] }, dtype, 1, { note: "dim 1" }),
  ]),
  ...(log ? [] : [soft(log, many, "f32", -1, { note: "many rows", variants: shared("softmax") })]),
  soft(log, { shape: [1, 10240] }, "f32", -1, { note: "one long row" }),
  // Offsets that overflow exp without the maximum taken off, and one value far above the others (no slope is left of its softmax).
  soft(log, { shape: [3, 20] }, "f32", -1, { note: "large", inputs: [{ shape: [3, 20], low: 9990, high: 10000 }] }),
  soft(log, { shape: [2, 12] }, "f32", -1, {
    note: "peaked",
    gradient: log,
    inputs: [
      {
        shape: [2, 12],
        values: (random) => Array.from({ length: 24 }, (_, i) => (i % 12 === 5 ? 40 : -40) + random()),
      },
    ],
  }),
]);
softmaxes.push(
  soft(false, { shape: [3, 20] }, "f32", -1, {
    note: "masked",
    gradient: false,
    inputs: [
      { shape: [3, 20], values: (random) => Array.from({ length: 60 }, (_, i) => (i % 20 > 11 ? -3e38 : random())) },
    ],
  }),
);

function turn(
  s: Layout,
  dtype: DType,
  positions: Input,
  options: { dim?: -2 | -3; theta?: number } = {},
  more: Partial<Case> = {},
): Case {
  const dim = options.dim ?? -2;
  return {
    op: "rope",
    inputs: [
      { ...s, dtype },
      { dtype: "i32", ...positions },
    ],
    run: ([x, p]) => F.rope(x!, p!, options),
    reference: ([x, p]) => ropeRef(x!, p!, options.theta ?? 10000, s.shape.length + dim),
    terms: 2,
    ...more,
  };
}

/** Positions up to the last one of the model's context, not in order. */
const places = (shape: readonly number[]): Input => ({ shape, low: 0, high: 16384 });

const ropes: Case[] = [
  ...FLOATS.flatMap((dtype) => [
    turn({ shape: [2, 3, 5, 16] }, dtype, places([5])),
    turn({ shape: [2, 3, 5, 16] }, dtype, places([2, 5])),
    turn({ shape: [2, 5, 3, 16] }, dtype, places([2, 5]), { dim: -3 }),
    turn({ shape: [0, 4, 8] }, dtype, places([4])),
    turn({ shape: [1, 1, 1, 2] }, dtype, places([1])),
    turn({ shape: [1, 16, 1, 128] }, dtype, { ...places([1]), dtype: "u32" }, {}, { note: "decode" }),
    turn({ shape: [1, 2, 33, 12] }, dtype, places([1, 33])),
    turn({ shape: [7, 70] }, dtype, places([7])),
    turn({ shape: [3, 6] }, dtype, places([3]), { theta: 500000 }),
    turn({ shape: [3, 5, 24] }, dtype, places([3]), { dim: -3 }),
    turn({ shape: [2, 9, 4, 64], layout: "reversed" }, dtype, places([4])),
    turn({ shape: [2, 3, 5, 16], layout: "inside" }, dtype, places([2, 5])),
    turn({ shape: [3, 5, 20, 32] }, dtype, places([3, 20]), {}, { note: "windows", windows: true }),
    turn({ shape: [2, 20, 5, 32] }, dtype, places([20]), { dim: -3 }, { note: "windows", windows: true }),
  ]),
  turn({ shape: [2, 4, 8] }, "f32", { shape: [4], low: -20, high: 0 }, {}, { note: "negative positions" }),
  turn(
    { shape: [64, 128] },
    "f32",
    { shape: [64], values: () => Array.from({ length: 64 }, (_, i) => 16383 - i) },
    {},
    { note: "last positions" },
  ),
  turn({ shape: [4, 128] }, "f32", { shape: [4], values: () => [0, 1, 16383, 1000000] }, {}, { note: "a million" }),
  turn(
    { shape: [2, 5, 3, 16] },
    "f32",
    places([5]),
    {},
    {
      note: "heads of a joint projection",
      inputs: [{ shape: [2, 5, 3, 3, 16] }, { ...places([5]), dtype: "i32" }],
      run: ([x, p]) => F.rope(F.select(x!, 2, 1), p!, { dim: -3 }),
      reference: ([x, p]) => {
        const part = x!.data.filter((_, i) => Math.floor(i / 48) % 3 === 1);
        return ropeRef({ shape: [2, 5, 3, 16], data: part }, p!, 10000, 1);
      },
    },
  ),
];

const SITE = 7;
const SEED = 123456789012;
const STEP = 3;

/** The mask that `dropout` draws, by the host's Philox. */
function kept(index: number, p: number): boolean {
  const words = philox([Math.floor(index / 4), 0, STEP, SITE], [SEED % 2 ** 32, Math.floor(SEED / 2 ** 32)]);
  return unitFloat(words[index % 4]!) >= Math.fround(p);
}

function drop(s: Layout, dtype: DType, p: number, more: Partial<Case> = {}): Case {
  return {
    op: "dropout",
    inputs: [{ ...s, dtype }],
    run: ([x]) => {
      const generator = new Generator(SEED, { device: x!.device });
      generator.setStep(STEP);
      const y = F.dropout(x!, p, { generator, site: SITE });
      generator.dispose();
      return y;
    },
    reference: ([x]) => {
      let index = 0;
      return mapRef((v) => v * (kept(index++, p) ? 1 / (1 - p) : 0), x!);
    },
    ...more,
  };
}

const dropouts: Case[] = [
  ...[
    { shape: [] },
    { shape: [0] },
    { shape: [1] },
    { shape: [3] },
    { shape: [33] },
    { shape: [2, 3, 70] },
    { shape: [257] },
    { shape: [6, 5], layout: "reversed" as const },
    { shape: [4, 6], layout: "inside" as const },
    { shape: [8, 8] },
  ].flatMap((s) => FLOATS.map((dtype, i) => drop(s, dtype, [0.1, 0.5, 0.9][i]!))),
  ...FLOATS.map((dtype) => drop({ shape: [2500] }, dtype, 0.3, { note: "windows", windows: true })),
];

export const rowCases: Case[] = [...norms, ...rowOpCases, ...softmaxes, ...ropes, ...dropouts];
