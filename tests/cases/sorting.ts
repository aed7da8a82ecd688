/** Cases of ops that order elements, write them to indices or add them up along a dimension. */
import { F } from "../../index.ts";
import type { DType } from "../../index.ts";
import type { Case, Input } from "../harness.ts";
import { argsortRef, cumsumRef, flipRef, scatterRef, sortRef } from "../reference/sorting.ts";

type Place = Pick<Input, "shape" | "layout" | "dtype">;

/** Numbers that no step of numeric differentiation makes equal: multiples of 1/16 in some order. */
export const distinct = (n: number) => (random: () => number) =>
  Array.from({ length: n }, (_, i) => ({ i, key: random() }))
    .sort((a, b) => a.key - b.key)
    .map(({ i }) => (i - (n >> 1)) / 16);

const spread = (place: Place): Input => ({
  ...place,
  values: distinct(place.shape.reduce((a, b) => a * b, 1)),
});

const sortRows: readonly (readonly [Place, number, boolean, boolean?])[] = [
  [{ shape: [1] }, 0, false],
  [{ shape: [3, 0] }, 1, false],
  [{ shape: [33] }, 0, true],
  [{ shape: [5, 7] }, 0, false],
  [{ shape: [3, 32] }, -1, true],
  [{ shape: [2, 65] }, 1, false],
  [{ shape: [1, 257] }, -1, true],
  [{ shape: [2, 3, 4] }, 1, true],
  [{ shape: [4, 33], dtype: "f16" }, 1, false],
  [{ shape: [3, 7], dtype: "bf16" }, 1, true],
  [{ shape: [6, 5], layout: "reversed" }, 0, false],
  [{ shape: [3, 9], layout: "inside" }, 1, false],
  [{ shape: [128, 32] }, 1, false, true],
];

const sortCases = sortRows.map(([place, dim, descending, windows = false]): Case => ({
  op: "sort",
  note: `along ${dim}${descending ? ", descending" : ""}`,
  inputs: [spread(place)],
  run: ([x]) => F.sort(x!, dim, descending).values,
  reference: ([x]) => sortRef(x!, dim, descending),
  exact: true,
  windows,
}));

/** Few different values: the order of equal ones, −0 and 0 too, is that of their indices. */
const tied: readonly (readonly [DType, readonly number[], boolean])[] = [
  ["f32", [3, 70], false],
  ["f32", [2, 257], true],
  ["bf16", [5, 33], true],
  ["i32", [4, 66], false],
  ["u8", [3, 35], true],
];
const tiedCases = tied.map(([dtype, shape, descending]): Case => ({
  op: "sort",
  note: `of ties, indices${descending ? ", descending" : ""}`,
  inputs: [
    {
      shape,
      dtype,
      values: (random) =>
        Array.from(
          { length: shape[0]! * shape[1]! },
          () => [0, -0, 1, dtype[0] === "u" ? 3 : -2][Math.floor(4 * random())]!,
        ),
    },
  ],
  run: ([x]) => F.sort(x!, -1, descending).indices,
  reference: ([x]) => argsortRef(x!, -1, descending),
  exact: true,
  gradient: false,
}));

const topRows: readonly (readonly [Place, number, number, boolean])[] = [
  [{ shape: [1] }, 1, 0, true],
  [{ shape: [3, 5] }, 0, 1, true],
  [{ shape: [33] }, 5, 0, true],
  [{ shape: [5, 7] }, 3, 0, false],
  [{ shape: [3, 65] }, 65, -1, true],
  [{ shape: [2, 257] }, 4, 1, false],
  [{ shape: [2, 5, 4] }, 2, 1, true],
  [{ shape: [4, 9], dtype: "f16" }, 2, 1, true],
  [{ shape: [3, 40], dtype: "bf16" }, 7, 1, false],
  [{ shape: [6, 5], layout: "reversed" }, 2, 1, true],
];

const topCases = topRows.flatMap(([place, k, dim, largest], i): Case[] => [
  {
    op: "topk",
    note: `${k} ${largest ? "largest" : "smallest"} along ${dim}`,
    inputs: [spread(place)],
    run: ([x]) => F.topk(x!, k, dim, largest).values,
    reference: ([x]) => sortRef(x!, dim, largest, k),
    exact: true,
  },
  ...(i % 4 === 2
    ? [
        {
          op: "topk",
          note: "indices",
          inputs: [{ ...place, low: 0, high: 3, dtype: "i32" as const }],
          run: ([x]) => F.topk(x!, k, dim, largest).indices,
          reference: ([x]) => argsortRef(x!, dim, largest, k),
          exact: true,
          gradient: false,
        } satisfies Case,
      ]
    : []),
]);

const sumRows: readonly (readonly [Place, number, boolean?])[] = [
  [{ shape: [1] }, 0],
  [{ shape: [3, 0] }, 1],
  [{ shape: [5, 7] }, 0],
  [{ shape: [3, 64] }, 1],
  [{ shape: [2, 65] }, -1],
  [{ shape: [4200] }, 0],
  [{ shape: [2, 257, 3] }, 1],
  [{ shape: [3, 70], dtype: "f16" }, 1],
  [{ shape: [5, 33], dtype: "bf16" }, 1],
  [{ shape: [6, 5], layout: "reversed" }, 0],
  [{ shape: [3, 9], layout: "inside" }, 1],
  [{ shape: [64, 128] }, 1, true],
];

const sumCases: Case[] = [
  ...sumRows.map(([place, dim, windows = false]): Case => ({
    op: "cumsum",
    note: `along ${dim}`,
    // Sums far from 0: none cancels.
    inputs: [{ ...place, low: 0.5, high: 1 }],
    run: ([x]) => F.cumsum(x!, dim),
    reference: ([x]) => cumsumRef(x!, dim),
    terms: place.shape.at(dim)!,
    windows,
  })),
  ...(["i32", "u8"] as const).map((dtype): Case => ({
    op: "cumsum",
    note: "of integers",
    inputs: [{ shape: [3, 70], dtype, low: dtype === "u8" ? 0 : -9, high: 200 }],
    run: ([x]) => F.cumsum(x!),
    reference: ([x]) => cumsumRef(x!, 1),
    exact: true,
    gradient: false,
  })),
];

/** x, dimension, index, source; indices are also outside, and repeat. */
const scatterRows: readonly (readonly [Place, number, Place, Place, boolean?])[] = [
  [{ shape: [1] }, 0, { shape: [1] }, { shape: [1] }],
  [{ shape: [5] }, 0, { shape: [0] }, { shape: [3] }],
  [{ shape: [7] }, 0, { shape: [9] }, { shape: [9] }],
  [{ shape: [3, 4] }, 1, { shape: [3, 5] }, { shape: [3, 5] }],
  [{ shape: [3, 4] }, 0, { shape: [2, 3] }, { shape: [4, 3] }],
  [{ shape: [2, 5, 3] }, 1, { shape: [1, 7, 2] }, { shape: [2, 8, 3] }],
  [{ shape: [4, 33], dtype: "f16" }, 1, { shape: [4, 6] }, { shape: [4, 6], dtype: "f16" }],
  [{ shape: [3, 6], dtype: "bf16" }, -1, { shape: [3, 2] }, { shape: [3, 2], dtype: "bf16" }],
  [{ shape: [1, 9] }, 1, { shape: [1, 520] }, { shape: [1, 520] }],
  [
    { shape: [5, 4], layout: "reversed" },
    1,
    { shape: [5, 3], layout: "reversed" },
    { shape: [5, 3], layout: "inside" },
  ],
  [{ shape: [64, 32] }, 1, { shape: [64, 16] }, { shape: [64, 16] }, true],
];

const scatterCases = (["scatter", "scatterAdd"] as const).flatMap((op) =>
  scatterRows.map(([x, dim, index, source, windows = false]): Case => ({
    op,
    note: `along ${dim}`,
    inputs: [{ ...x }, { ...index, dtype: "i32", low: -2, high: x.shape.at(dim)! + 2 }, { ...source }],
    run: ([a, i, s]) => F[op](a!, dim, i!, s!),
    reference: ([a, i, s]) => scatterRef(a!, dim, i!, s!, op === "scatterAdd"),
    ...(op === "scatter" && { exact: true }),
    terms: 600,
    windows,
  })),
);

const scatterNumbers: readonly DType[] = ["f32", "i32"];
const scatterNumberCases = scatterNumbers.map((dtype): Case => ({
  op: "scatter",
  note: "of a number",
  inputs: [
    { shape: [3, 5], dtype },
    { shape: [2, 3], dtype: "u32", high: 5 },
  ],
  run: ([x, i]) => F.scatter(x!, 1, i!, 7),
  reference: ([x, i]) => scatterRef(x!, 1, i!, 7),
  exact: true,
  gradient: dtype === "f32",
}));

const flips: readonly (readonly [Place, number | readonly number[]])[] = [
  [{ shape: [1] }, 0],
  [{ shape: [3, 0] }, 1],
  [{ shape: [7] }, 0],
  [{ shape: [3, 5] }, 1],
  [{ shape: [3, 5] }, []],
  [{ shape: [2, 3, 33] }, [0, 2]],
  [{ shape: [2, 3, 4] }, [-1, 1, 0]],
  [{ shape: [3, 7], dtype: "f16" }, 1],
  [{ shape: [5, 4], dtype: "bf16" }, 0],
  [{ shape: [6, 5], layout: "reversed" }, 0],
  [{ shape: [3, 9], layout: "inside" }, 1],
];

const flipCases = flips.map(([place, dims]): Case => ({
  op: "flip",
  note: `along ${JSON.stringify(dims)}`,
  inputs: [{ ...place }],
  run: ([x]) => F.flip(x!, dims),
  reference: ([x]) => flipRef(x!, typeof dims === "number" ? [dims] : dims),
  exact: true,
}));

export const sortingCases: Case[] = [
  ...sortCases,
  ...tiedCases,
  ...topCases,
  ...sumCases,
  ...scatterCases,
  ...scatterNumberCases,
  ...flipCases,
];
