/** Cases of the activations. */
import { F } from "../../index.ts";
import type { DType, Tensor } from "../../index.ts";
import type { Case, Input } from "../harness.ts";
import { mapRef } from "../reference.ts";
import { geluRef, geluTanhRef, siluRef } from "../reference/rows.ts";

const FLOATS: readonly DType[] = ["f32", "f16", "bf16"];
const shapes: readonly Pick<Input, "shape" | "layout">[] = [
  { shape: [] },
  { shape: [0] },
  { shape: [1] },
  { shape: [3] },
  { shape: [33] },
  { shape: [5, 7] },
  { shape: [2, 3, 70] },
  { shape: [257] },
  { shape: [6, 5], layout: "reversed" },
  { shape: [4, 6], layout: "inside" },
  { shape: [50, 64] },
];

const unary: readonly {
  readonly op: string;
  readonly run: (x: Tensor) => Tensor;
  readonly reference: (x: number) => number;
}[] = [
  { op: "gelu", run: F.gelu, reference: geluRef },
  { op: "geluTanh", run: F.geluTanh, reference: geluTanhRef },
  { op: "silu", run: F.silu, reference: siluRef },
];

/** 1e-4 to 1e4 of both signs. */
const wide = (n: number) => (): number[] =>
  Array.from({ length: n }, (_, i) => (i % 2 ? -1 : 1) * 10 ** (-4 + (8 * i) / (n - 1)));

const swiglu = (s: Pick<Input, "shape" | "layout">, gate: DType, up: DType, more: Partial<Case> = {}): Case => ({
  op: "swiglu",
  inputs: [
    { ...s, dtype: gate, low: -4, high: 4 },
    { ...s, dtype: up, low: -2, high: 2 },
  ],
  run: ([g, u]) => F.swiglu(g!, u!),
  reference: ([g, u]) => mapRef((a, b) => siluRef(a) * b, g!, u!),
  ...more,
});

export const activationCases: Case[] = [
  ...unary.flatMap(({ op, run, reference }): Case[] => {
    const row = (input: Input, more: Partial<Case> = {}): Case => ({
      op,
      inputs: [input],
      run: ([x]) => run(x!),
      reference: ([x]) => mapRef(reference, x!),
      ...more,
    });
    return [
      ...shapes.flatMap((s) =>
        FLOATS.map((dtype) => row({ ...s, dtype, low: -4, high: 4 }, { windows: s.shape[0] === 50 })),
      ),
      // Relative precision in the lower tail, in which 1 + erf and 1 + tanh cancel, and nothing wrong far out.
      row({ shape: [64], low: -9, high: -4 }, { note: "tail", gradient: false }),
      row({ shape: [65], values: wide(65) }, { note: "1e-4 to 1e4", gradient: false }),
      row({ shape: [65], values: () => wide(65)().map((v) => -Math.abs(v)) }, { note: "-1e4 to -1e-4" }),
    ];
  }),
  ...shapes.flatMap((s) => FLOATS.map((dtype) => swiglu(s, dtype, dtype, { windows: s.shape[0] === 50 }))),
  swiglu({ shape: [5, 12] }, "f32", "bf16", { note: "mixed" }),
  swiglu({ shape: [5, 7] }, "f16", "f32", { note: "mixed" }),
  swiglu({ shape: [65] }, "f32", "f32", {
    note: "1e-4 to 1e4",
    inputs: [{ shape: [65], values: wide(65) }, { shape: [65] }],
    gradient: false,
  }),
  ...FLOATS.flatMap((dtype) =>
    [{ shape: [3, 14] }, { shape: [2, 5, 64] }, { shape: [1, 2] }, { shape: [4, 6], layout: "inside" as const }].map(
      (s): Case => ({
        op: "swiglu",
        note: "one tensor",
        inputs: [{ ...s, dtype, low: -4, high: 4 }],
        run: ([x]) => F.swiglu(x!),
        reference: ([x]) => {
          const n = s.shape.at(-1)!;
          const out = new Float64Array(x!.data.length / 2);
          for (let i = 0; i < out.length; i++) {
            const at = Math.floor(i / (n / 2)) * n + (i % (n / 2));
            out[i] = siluRef(x!.data[at]!) * x!.data[at + n / 2]!;
          }
          return { shape: s.shape.with(-1, n / 2), data: out };
        },
      }),
    ),
  ),
];
