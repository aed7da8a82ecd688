/** Cases of the ops that pick elements by indices or masks. */
import { F } from "../../index.ts";
import type { DType } from "../../index.ts";
import { round } from "../harness.ts";
import type { Case, Input } from "../harness.ts";
import { embeddingRef, indexSelectRef, pickRef, whereRef } from "../reference/indexing.ts";

const floats: readonly DType[] = ["f32", "f16", "bf16"];
type Place = Pick<Input, "shape" | "layout">;

/** Tables [V, C], and shapes of the ids. */
const tables: readonly (readonly [Place, Place, { windows?: boolean }?])[] = [
  [{ shape: [1, 1] }, { shape: [1] }],
  [{ shape: [3, 4] }, { shape: [0] }],
  [{ shape: [5, 3] }, { shape: [] }],
  [{ shape: [7, 8] }, { shape: [33] }],
  [{ shape: [33, 20] }, { shape: [2, 5] }],
  [{ shape: [10, 33] }, { shape: [3, 4] }],
  [{ shape: [70, 16] }, { shape: [257] }, { windows: true }],
  [{ shape: [257, 64] }, { shape: [2, 70] }, { windows: true }],
  [{ shape: [4, 260] }, { shape: [5] }],
  [
    { shape: [6, 12], layout: "reversed" },
    { shape: [4, 3], layout: "reversed" },
  ],
  [
    { shape: [5, 10], layout: "inside" },
    { shape: [7], layout: "inside" },
  ],
];

/** Ids that also fall outside the table on both sides. */
const around = (n: number, dtype: DType): Partial<Input> =>
  dtype === "i32" ? { dtype, low: -2, high: n + 2 } : { dtype, low: 0, high: n + 1 };

const embeddingCases = tables.flatMap(([table, at, more], i) =>
  floats.map((dtype): Case => {
    const ids = i % 2 ? "i32" : "u32";
    return {
      op: "embedding",
      inputs: [
        { ...table, dtype },
        { ...at, ...around(table.shape[0]!, ids) },
      ],
      run: ([w, k]) => F.embedding(w!, k!),
      reference: ([w, k]) => embeddingRef(w!, k!),
      exact: true,
      terms: 64,
      ...more,
    };
  }),
);

const wideCases = (
  [
    [12, 8],
    [9, 7],
  ] as const
).flatMap((shape) =>
  (["f16", "bf16"] as const).map((dtype): Case => ({
    op: "embedding",
    note: "as f32",
    inputs: [
      { shape, dtype },
      { shape: [20], dtype: "i32", high: shape[0] },
    ],
    run: ([w, k]) => F.embedding(w!, k!, { dtype: "f32" }),
    reference: ([w, k]) => embeddingRef(w!, k!),
    exact: true,
    terms: 20,
  })),
);

const integerCases = (["i32", "u32", "u8"] as const).flatMap((dtype) =>
  (
    [
      [5, 4],
      [6, 3],
    ] as const
  ).map((shape): Case => ({
    op: "embedding",
    note: "of integers",
    inputs: [
      { shape, dtype, high: 200 },
      { shape: [9], dtype: "i32", low: -1, high: 7 },
    ],
    run: ([w, k]) => F.embedding(w!, k!),
    reference: ([w, k]) => embeddingRef(w!, k!),
    exact: true,
    gradient: false,
  })),
);

const selections: readonly (readonly [Place, number, number])[] = [
  [{ shape: [1] }, 0, 1],
  [{ shape: [7] }, 0, 3],
  [{ shape: [5, 3] }, 1, 0],
  [{ shape: [3, 33] }, 0, 5],
  [{ shape: [4, 6] }, -1, 9],
  [{ shape: [2, 5, 4] }, 1, 3],
  [{ shape: [2, 3, 4, 5] }, -2, 6],
  [{ shape: [70, 3] }, 0, 33],
  [{ shape: [3, 257] }, 1, 70],
  [{ shape: [5, 6], layout: "reversed" }, 0, 4],
  [{ shape: [3, 4, 5], layout: "inside" }, 2, 7],
];

const indexSelectCases = selections.flatMap(([place, dim, count]) =>
  floats.map((dtype): Case => ({
    op: "indexSelect",
    note: `along ${dim}`,
    inputs: [
      { ...place, dtype },
      { shape: [count], ...around(place.shape.at(dim)!, "i32") },
    ],
    run: ([x, k]) => F.indexSelect(x!, dim, k!),
    reference: ([x, k]) => indexSelectRef(x!, dim, k!),
    exact: true,
    terms: 16,
  })),
);

const picks: readonly (readonly [Place, number, Place, { windows?: boolean }?])[] = [
  [{ shape: [1] }, 0, { shape: [1] }],
  [{ shape: [5] }, 0, { shape: [7] }],
  [{ shape: [3, 4] }, 1, { shape: [3, 0] }],
  [{ shape: [3, 4] }, 0, { shape: [2, 4] }],
  [{ shape: [33, 7] }, 1, { shape: [33, 1] }],
  [{ shape: [5, 6] }, -1, { shape: [4, 9] }],
  [{ shape: [3, 4, 5] }, 1, { shape: [2, 6, 3] }],
  [{ shape: [2, 70] }, 0, { shape: [3, 33] }],
  [{ shape: [300, 8] }, 1, { shape: [300, 4] }, { windows: true }],
  [{ shape: [4, 5], layout: "reversed" }, 1, { shape: [4, 2], layout: "reversed" }],
  [{ shape: [3, 257], layout: "inside" }, 1, { shape: [3, 5], layout: "inside" }],
];

const gatherCases = picks.flatMap(([place, dim, at, more]) =>
  floats.map((dtype): Case => ({
    op: "gather",
    note: `along ${dim}`,
    inputs: [
      { ...place, dtype },
      { ...at, ...around(place.shape.at(dim)!, "i32") },
    ],
    run: ([x, k]) => F.gather(x!, dim, k!),
    reference: ([x, k]) => pickRef(x!, dim, k!),
    exact: true,
    terms: 16,
    ...more,
  })),
);

const gatherIntegers = (["i32", "u8"] as const).map((dtype): Case => ({
  op: "gather",
  note: "of integers",
  inputs: [
    { shape: [4, 5], dtype, high: 250 },
    { shape: [4, 3], dtype: "u32", high: 6 },
  ],
  run: ([x, k]) => F.gather(x!, 1, k!),
  reference: ([x, k]) => pickRef(x!, 1, k!),
  exact: true,
  gradient: false,
}));

/** x, mask. */
const masked: readonly (readonly [Place, Place, { windows?: boolean }?])[] = [
  [{ shape: [] }, { shape: [] }],
  [{ shape: [0] }, { shape: [1] }],
  [{ shape: [1] }, { shape: [1] }],
  [{ shape: [3] }, { shape: [3] }],
  [{ shape: [33] }, { shape: [1] }],
  [{ shape: [5, 7] }, { shape: [7] }],
  [{ shape: [5, 7] }, { shape: [5, 1] }],
  [{ shape: [2, 3, 70] }, { shape: [3, 1] }],
  [{ shape: [257, 8] }, { shape: [257, 8] }, { windows: true }],
  [{ shape: [6, 5], layout: "reversed" }, { shape: [6, 5] }],
  [
    { shape: [4, 6], layout: "inside" },
    { shape: [4, 6], layout: "inside" },
  ],
];

const maskedFillCases = masked.flatMap(([place, mask, more], i) =>
  floats.map((dtype): Case => ({
    op: "maskedFill",
    inputs: [
      { ...place, dtype },
      { ...mask, dtype: i % 3 === 0 ? "u8" : i % 3 === 1 ? "u32" : "i32", high: 2 },
    ],
    run: ([x, m]) => F.maskedFill(x!, m!, -1024),
    reference: ([x, m]) => whereRef(m!, { shape: [], data: Float64Array.of(-1024) }, x!),
    exact: true,
    ...more,
  })),
);

const whereCases = masked.flatMap(([place, mask, more], i) =>
  floats.map((dtype): Case => ({
    op: "where",
    inputs: [
      { ...mask, dtype: i % 2 ? "u8" : "u32", high: 2 },
      { ...place, dtype },
      { shape: place.shape.slice(i % 3 === 2 ? 1 : 0), dtype },
    ],
    run: ([m, a, b]) => F.where(m!, a!, b!),
    reference: ([m, a, b]) => whereRef(m!, a!, b!),
    exact: true,
    terms: 16,
    ...more,
  })),
);

const mixed: Case[] = [
  {
    op: "where",
    note: "of two dtypes, broadcast against each other",
    inputs: [
      { shape: [3, 1], dtype: "u32", high: 2 },
      { shape: [1, 5], dtype: "bf16" },
      { shape: [2, 1, 1], dtype: "f32" },
    ],
    run: ([m, a, b]) => F.where(m!, a!, b!),
    reference: ([m, a, b]) => whereRef(m!, a!, b!),
    exact: true,
    terms: 30,
  },
  {
    op: "where",
    note: "of integers",
    inputs: [
      { shape: [7], dtype: "u8", high: 2 },
      { shape: [7], dtype: "i32", low: -(2 ** 31), high: 2 ** 31 },
      { shape: [1], dtype: "i32" },
    ],
    run: ([m, a, b]) => F.where(m!, a!, b!),
    reference: ([m, a, b]) => whereRef(m!, a!, b!),
    exact: true,
    gradient: false,
  },
  ...floats.map((dtype): Case => ({
    op: "maskedFill",
    note: "for minus infinity",
    inputs: [
      { shape: [3, 7], dtype, constant: true },
      { shape: [7], dtype: "u8", high: 2 },
    ],
    run: ([x, m]) => F.maskedFill(x!, m!, dtype === "f16" ? -65504 : -3e38),
    reference: ([x, m]) =>
      whereRef(m!, { shape: [], data: Float64Array.of(dtype === "f16" ? -65504 : round(-3e38, dtype)) }, x!),
    exact: true,
  })),
  {
    op: "maskedFill",
    note: "of integers",
    inputs: [
      { shape: [3, 5], dtype: "i32", low: -9 },
      { shape: [5], dtype: "u8", high: 2 },
    ],
    run: ([x, m]) => F.maskedFill(x!, m!, -7),
    reference: ([x, m]) => whereRef(m!, { shape: [], data: Float64Array.of(-7) }, x!),
    exact: true,
    gradient: false,
  },
  ...(
    [
      ["i32", 16777217],
      ["i32", -16777217],
      ["i32", -(2 ** 31)],
      ["i32", 2 ** 31 - 1],
      ["u32", 2 ** 32 - 1],
      ["u32", 2 ** 31 + 1],
      ["u8", 255],
    ] as const
  ).map(([dtype, value]): Case => ({
    op: "maskedFill",
    note: `of ${dtype} with ${value}`,
    inputs: [
      { shape: [3, 5], dtype, high: 9 },
      { shape: [5], dtype: "u8", high: 2 },
    ],
    run: ([x, m]) => F.maskedFill(x!, m!, value),
    reference: ([x, m]) => whereRef(m!, { shape: [], data: Float64Array.of(value) }, x!),
    exact: true,
    gradient: false,
  })),
];

export const indexCases: Case[] = [
  ...embeddingCases,
  ...wideCases,
  ...integerCases,
  ...indexSelectCases,
  ...gatherCases,
  ...gatherIntegers,
  ...maskedFillCases,
  ...whereCases,
  ...mixed,
];
