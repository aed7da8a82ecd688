/** Cases of the losses. */
import { F } from "../../index.ts";
import type { DType } from "../../index.ts";
import type { Case, Input } from "../harness.ts";
import { crossEntropyRef, linearCrossEntropyRef } from "../reference/loss.ts";
import type { LossSettings } from "../reference/loss.ts";

const floats: readonly DType[] = ["f32", "f16", "bf16"];
type Place = Pick<Input, "shape" | "layout">;

/** Class indices, some of them ignored and some no class at all. */
export const labels = (rows: number, classes: number, ignored = -100): Input => ({
  shape: [rows],
  dtype: "i32",
  values: (random) =>
    Array.from({ length: rows }, (_, r) =>
      r % 5 === 1 ? ignored : r % 7 === 3 ? (r % 2 ? -1 : classes) : Math.floor(random() * classes),
    ),
});

const logits: readonly (readonly [Place, LossSettings, { windows?: boolean }?])[] = [
  [{ shape: [1, 1] }, {}],
  [{ shape: [0, 5] }, {}],
  [{ shape: [0, 5] }, { reduction: "none" }],
  [{ shape: [1, 3] }, { reduction: "sum" }],
  [{ shape: [3, 4] }, { reduction: "none" }],
  [{ shape: [33, 7] }, {}],
  [{ shape: [2, 257] }, { reduction: "sum" }],
  [{ shape: [70, 33] }, { reduction: "none" }],
  [{ shape: [5, 129], layout: "reversed" }, {}],
  [{ shape: [4, 12], layout: "inside" }, { reduction: "sum" }],
  [{ shape: [70, 64] }, {}, { windows: true }],
  [{ shape: [7, 700] }, { reduction: "none" }],
  [{ shape: [3, 4100] }, {}],
  [{ shape: [6, 8] }, { ignoreIndex: 2 }],
];

const crossEntropyCases = logits.flatMap(([place, settings, more]) =>
  floats.map((dtype): Case => {
    const [rows, classes] = place.shape as [number, number];
    return {
      op: "crossEntropy",
      note: `${settings.reduction ?? "mean"}${settings.ignoreIndex === undefined ? "" : ` ignore ${settings.ignoreIndex}`}`,
      inputs: [{ ...place, dtype, low: -4, high: 4 }, labels(rows, classes, settings.ignoreIndex)],
      run: ([x, t]) => F.crossEntropy(x!, t!, settings),
      reference: ([x, t]) => crossEntropyRef(x!, t!, settings),
      terms: rows * classes,
      ...more,
    };
  }),
);

const special: Case[] = [
  {
    op: "crossEntropy",
    note: "all rows ignored",
    inputs: [{ shape: [3, 8] }, { shape: [3], dtype: "i32", values: () => [-100, -100, 99] }],
    run: ([x, t]) => F.crossEntropy(x!, t!),
    reference: ([x, t]) => crossEntropyRef(x!, t!),
  },
  {
    op: "crossEntropy",
    note: "large logits and masked classes",
    inputs: [
      {
        shape: [4, 260],
        values: (random) => Array.from({ length: 4 * 260 }, (_, i) => (i % 3 === 1 ? -3e38 : 80 * random())),
        constant: true,
      },
      { shape: [4], dtype: "u32", values: () => [0, 3, 2, 258] },
    ],
    run: ([x, t]) => F.crossEntropy(x!, t!, { reduction: "none" }),
    reference: ([x, t]) => crossEntropyRef(x!, t!, { reduction: "none" }),
    terms: 260,
  },
];

/** M, V, K, chunk; with a bias for every other one. */
const linear: readonly (readonly [
  number,
  number,
  number,
  number | undefined,
  Partial<Pick<Input, "layout">>?,
  { windows?: boolean }?,
])[] = [
  [1, 1, 1, undefined],
  [0, 5, 3, undefined],
  [3, 4, 5, 1],
  [5, 33, 8, 7],
  [33, 20, 12, 8],
  [7, 70, 33, 32],
  [70, 1280, 8, 256],
  [70, 1280, 4, undefined],
  [4, 257, 16, 64],
  [6, 30, 8, 12, { layout: "reversed" }],
  [5, 18, 6, 4, { layout: "inside" }],
  [70, 96, 16, 24, {}, { windows: true }],
];

const linearCrossEntropyCases = linear.flatMap(([rows, classes, k, chunk, place, more], i) =>
  floats.map((dtype): Case => {
    const settings: LossSettings & { reduction: "sum" | "mean" } = { reduction: i % 3 ? "mean" : "sum" };
    const biased: Input[] = i % 2 ? [{ shape: [classes], dtype }] : [];
    return {
      op: "linearCrossEntropy",
      note: `${settings.reduction} chunk ${chunk ?? "default"}`,
      inputs: [
        { shape: [rows, k], dtype, ...place },
        { shape: [classes, k], dtype, ...place },
        labels(rows, classes),
        ...biased,
      ],
      run: ([x, w, t, b]) =>
        F.linearCrossEntropy(x!, w!, t!, { ...settings, bias: b ?? null, ...(chunk ? { chunk } : {}) }),
      reference: ([x, w, t, b]) => linearCrossEntropyRef(x!, w!, t!, b ?? null, settings),
      terms: rows * classes * k,
      ...more,
    };
  }),
);

const linearMixed: Case[] = [
  {
    op: "linearCrossEntropy",
    note: "f32 activations, bf16 weight, ignoring class 3",
    inputs: [{ shape: [9, 16] }, { shape: [40, 16], dtype: "bf16" }, labels(9, 40, 3)],
    run: ([x, w, t]) => F.linearCrossEntropy(x!, w!, t!, { ignoreIndex: 3, chunk: 16, reduction: "sum" }),
    reference: ([x, w, t]) => linearCrossEntropyRef(x!, w!, t!, null, { ignoreIndex: 3, reduction: "sum" }),
    terms: 9 * 40 * 16,
  },
  {
    op: "linearCrossEntropy",
    note: "none chunk 16",
    inputs: [{ shape: [9, 16] }, { shape: [40, 16] }, labels(9, 40)],
    run: ([x, w, t]) => F.linearCrossEntropy(x!, w!, t!, { chunk: 16, reduction: "none" }),
    reference: ([x, w, t]) => linearCrossEntropyRef(x!, w!, t!, null, { reduction: "none" }),
    terms: 9 * 40 * 16,
  },
  {
    op: "linearCrossEntropy",
    note: "more rows than a run",
    inputs: [{ shape: [4100, 2] }, { shape: [6, 2] }, labels(4100, 6), { shape: [6] }],
    run: ([x, w, t, b]) => F.linearCrossEntropy(x!, w!, t!, { bias: b!, chunk: 4 }),
    reference: ([x, w, t, b]) => linearCrossEntropyRef(x!, w!, t!, b!, {}),
    terms: 4100 * 6,
  },
];

export const lossCases: Case[] = [...crossEntropyCases, ...special, ...linearCrossEntropyCases, ...linearMixed];
