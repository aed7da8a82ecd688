/** Cases of linear with quantised weights: words and scales are inputs, and the reference dequantises them in float64. */
import { F, QuantizedWeight, noGrad } from "../../index.ts";
import type { DType, Tensor } from "../../index.ts";
import type { Case, Input } from "../harness.ts";
import { linearRef } from "../reference/matmul.ts";
import type { activationRefs } from "../reference/matmul.ts";
import { dequantizedRef } from "../reference/quantize.ts";

const variants = ["register", "register-lanes", "vector", "vector-lanes", "staged"].map((name) => ({
  family: "matmul_quantized",
  name,
}));

interface Row {
  readonly x: Input;
  readonly n: number;
  readonly activation?: keyof typeof activationRefs;
  readonly bias?: boolean;
  readonly residual?: boolean;
  readonly dtype?: DType;
  readonly windows?: boolean;
  readonly crossesTiles?: boolean;
  /** In every variant. */
  readonly every?: boolean;
  readonly note?: string;
}

const rows: Row[] = [
  { x: { shape: [1, 256] }, n: 8, note: "one row", every: true },
  { x: { shape: [2, 768] }, n: 36, note: "three loads of scales" },
  { x: { shape: [2, 96] }, n: 36, bias: true, activation: "gelu", residual: true, windows: true },
  { x: { shape: [17, 64] }, n: 68, windows: true, every: true, crossesTiles: true },
  { x: { shape: [3, 44], dtype: "bf16" }, n: 20, note: "part of a group" },
  { x: { shape: [2, 36] }, n: 7, bias: true, residual: true, note: "odd columns" },
  { x: { shape: [2, 32], dtype: "bf16" }, n: 5, note: "odd columns" },
  { x: { shape: [97, 36], dtype: "bf16" }, n: 7, bias: true, residual: true, note: "odd columns of many rows" },
  { x: { shape: [4] }, n: 4, note: "one vector" },
  { x: { shape: [0, 32] }, n: 4, note: "no rows" },
  { x: { shape: [1, 2, 32], layout: "reversed" }, n: 8, note: "batches" },
  { x: { shape: [2, 2, 40], layout: "inside", dtype: "f16" }, n: 12 },
];

export const random32 = (n: number) => (random: () => number) =>
  Float64Array.from({ length: n }, () => Math.floor(random() * 2 ** 32));

/** Numbers that f16 has; a row with an f16 input would be left out of the short form in its turn. */
export const scalesOf = (n: number) => (random: () => number) =>
  Float64Array.from({ length: n }, () => (Math.floor(random() * 512) - 256) / 4096);

const caseOf = (row: Row, kind: "int8" | "int4"): Case => {
  const { x, n, bias = false, activation = null, residual = false, dtype } = row;
  const k = x.shape.at(-1)!;
  const groups = Math.ceil(k / 32);
  const width = groups * (kind === "int8" ? 8 : 4);
  const inputs: Input[] = [
    x,
    { shape: [n, width], dtype: "u32", values: random32(n * width), constant: true },
    { shape: [n, groups], values: scalesOf(n * groups), isFinite: true, constant: true },
    ...(bias ? [{ shape: [n] }] : []),
    ...(residual ? [{ shape: [...x.shape.slice(0, -1), n], dtype: x.dtype ?? "f32" }] : []),
  ];
  const rest = (t: readonly Tensor[]): [Tensor | null, Tensor | null] => [
    bias ? t[3]! : null,
    residual ? t.at(-1)! : null,
  ];
  return {
    op: "linear",
    note: [kind, row.note, activation, bias ? "bias" : "", residual ? "residual" : ""].filter(Boolean).join(" "),
    inputs,
    run: (t) => {
      const [b, r] = rest(t);
      const scales = noGrad(() => F.cast(t[2]!, "f16"));
      return F.linear(t[0]!, new QuantizedWeight(t[1]!, scales, k), b, {
        activation,
        residual: r,
        ...(dtype && { dtype }),
      });
    },
    reference: (r) =>
      linearRef(r[0]!, dequantizedRef(r[1]!, r[2]!, k), bias ? r[3]! : null, activation, residual ? r.at(-1)! : null),
    terms: Math.max(k, n),
    windows: row.windows ?? false,
    crossesTiles: row.crossesTiles ?? false,
    variants: row.every ? variants : [],
  };
};

export const quantizedCases: Case[] = rows.flatMap((row) => [caseOf(row, "int4"), caseOf(row, "int8")]);
