/** Cases of norm, linear and SwiGLU in one launch: plain and quantised weights, few rows and more, all kernels for few rows. */
import { F, QuantizedWeight, noGrad } from "../../index.ts";
import type { DType } from "../../index.ts";
import type { Case, Input } from "../harness.ts";

import { linearRef } from "../reference/matmul.ts";
import { ref } from "../reference.ts";
import type { Ref } from "../reference.ts";
import { dequantizedRef } from "../reference/quantize.ts";
import { rmsNormRef, siluRef } from "../reference/rows.ts";
import { scalesOf, random32 } from "./quantized.ts";

interface Row {
  /** [M, K] */
  readonly x: readonly [number, number];
  readonly n: number;
  readonly gated?: boolean;
  readonly gain?: DType;
  /** In every variant. */
  readonly every?: boolean;
}

const rows: readonly Row[] = [
  { x: [1, 256], n: 12 },
  { x: [2, 96], n: 36, gated: true, gain: "bf16", every: true },
  { x: [3, 64], n: 72, gain: "f16", every: true },
  { x: [17, 64], n: 8, gated: true },
];

/** silu(gate) · up of the halves of rows. */
function gatedRef(y: Ref): Ref {
  const half = y.shape.at(-1)! / 2;
  const out = ref([...y.shape.slice(0, -1), half]);
  for (let at = 0; at < out.data.length; at++) {
    const gate = 2 * half * Math.floor(at / half) + (at % half);
    out.data[at] = siluRef(y.data[gate]!) * y.data[gate + half]!;
  }
  return out;
}

const VARIANTS = ["register", "register-lanes", "vector", "vector-lanes"];

const caseOf = ({ x, n, gated = false, gain = "f32", every = false }: Row, kind: "bf16" | "int8" | "int4"): Case => {
  const k = x[1];
  const groups = Math.ceil(k / 32);
  const width = groups * (kind === "int8" ? 8 : 4);
  const weight: Input[] =
    kind === "bf16"
      ? [{ shape: [n, k], dtype: "bf16" }]
      : [
          { shape: [n, width], dtype: "u32", values: random32(n * width) },
          { shape: [n, groups], values: scalesOf(n * groups), isFinite: true },
        ];
  const family = kind === "bf16" ? "matmul" : "matmul_quantized";
  return {
    op: "normLinear",
    note: `${kind}${gated ? " gated" : ""}`,
    inputs: [{ shape: x }, { shape: [k], dtype: gain }, ...weight],
    run: ([a, g, w, s]) =>
      noGrad(() => F.normLinear(a!, g!, s ? new QuantizedWeight(w!, F.cast(s, "f16"), k) : w!, { eps: 1e-5, gated })),
    reference: ([a, g, w, s]) => {
      const y = linearRef(rmsNormRef(a!, g!, 1e-5), s ? dequantizedRef(w!, s, k) : w!, null, null, null);
      return gated ? gatedRef(y) : y;
    },
    terms: k,
    gradient: false,
    variants: [{ family: "norm_linear", name: "fused" }, ...(every ? VARIANTS.map((name) => ({ family, name })) : [])],
  };
};

export const normLinearCases: Case[] = rows.flatMap((row) =>
  (["bf16", "int8", "int4"] as const).map((kind) => caseOf(row, kind)),
);
