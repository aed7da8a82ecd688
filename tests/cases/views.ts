/** Cases of views, copies, casts, reductions and creation. */
import { F, isFloat } from "../../index.ts";
import type { DType, Tensor } from "../../index.ts";
import { round } from "../harness.ts";
import type { Case, Input } from "../harness.ts";
import { mapRef, permuteRef, ref, reshapeRef, sizeOf } from "../reference.ts";
import type { Ref } from "../reference.ts";
import { catRef, gatherRef, reduceRef } from "../reference/views.ts";

const floats: readonly DType[] = ["f32", "f16", "bf16"];
type Place = Pick<Input, "shape" | "layout">;

/** One op on one input over shapes and dtypes; copies must be exact for every dtype. */
function rows(
  op: string,
  places: readonly Place[],
  make: (shape: readonly number[]) => { run: (x: Tensor) => Tensor; reference: (x: Ref) => Ref; terms?: number } | null,
  more: Partial<Case> = {},
): Case[] {
  return places.flatMap((place) => {
    const made = make(place.shape);
    if (!made) return [];
    return floats.map((dtype): Case => ({
      op,
      inputs: [{ ...place, dtype }],
      run: ([x]) => made.run(x!),
      reference: ([x]) => made.reference(x!),
      terms: made.terms ?? 1,
      ...more,
    }));
  });
}

const shapes: readonly Place[] = [
  { shape: [1] },
  { shape: [3] },
  { shape: [0, 4] },
  { shape: [33] },
  { shape: [5, 7] },
  { shape: [4, 6], layout: "reversed" },
  { shape: [3, 5], layout: "inside" },
  { shape: [2, 3, 70] },
  { shape: [2, 3, 4, 5], layout: "reversed" },
  { shape: [257, 4] },
  { shape: [33, 64] },
];

const sum = (v: readonly number[]): number => v.reduce((a, b) => a + b, 0);
/** Index of the largest or smallest; the first NaN, if there is one. */
function extremeAt(op: "argmax" | "argmin", v: readonly number[]): number {
  const first = v.findIndex(Number.isNaN);
  return first >= 0 ? first : v.indexOf((op === "argmax" ? Math.max : Math.min)(...v));
}
const all = (shape: readonly number[]): number[] => shape.map((_, d) => d);
/** Distinct values in shuffled order: max, min and their gradients have no ties. */
const distinct = (n: number) => (random: () => number) => {
  const v = Array.from({ length: n }, (_, i) => (i - n / 2) / 64);
  for (let i = n - 1; i > 0; i--) {
    const j = Math.floor(random() * (i + 1));
    [v[i], v[j]] = [v[j]!, v[i]!];
  }
  return v;
};

/** Dimensions to reduce: all, the last, the first, the middle, first and last. */
const dimChoices = (rank: number): number[][] => [
  [...Array(rank).keys()],
  [rank - 1],
  ...(rank > 1 ? [[0]] : []),
  ...(rank > 2 ? [[1], [0, 2], [0, 1]] : []),
];

const reductions: Case[] = [
  ...shapes,
  { shape: [3, 4100] },
  { shape: [4100, 3] },
  { shape: [70000, 1] },
  { shape: [20000], layout: "contiguous" } as Place,
].flatMap((place) =>
  dimChoices(place.shape.length).flatMap((dims) => {
    const terms = dims.reduce((p, d) => p * place.shape[d]!, 1);
    const large = sizeOf(place.shape) > 10000;
    const note = `over ${dims.join(",")}`;
    // Terms around 0 now and then cancel to next to nothing, of which no relative error can be asked: more on one side, if there are
    // thousands of them, or if their sum is the only number.
    const uneven = large ? { low: -1, high: 1.05 } : dims.length === place.shape.length ? { low: -1, high: 2 } : {};
    const base = (dtype: DType): Case[] => [
      {
        op: "sum",
        note,
        inputs: [{ ...place, dtype, ...uneven }],
        run: ([x]) => F.sum(x!, dims),
        reference: ([x]) => reduceRef(x!, dims, false, sum),
        terms,
        windows: place.shape[0] === 33,
      },
      ...(terms > 0 && !large
        ? [
            {
              op: "mean",
              note,
              inputs: [{ ...place, dtype, ...uneven }],
              run: ([x]: Tensor[]) => F.mean(x!, dims, true),
              reference: ([x]: Ref[]) => reduceRef(x!, dims, true, (v) => sum(v) / v.length),
              terms,
            },
            {
              op: "max",
              note,
              inputs: [{ ...place, dtype, values: distinct(sizeOf(place.shape)) }],
              run: ([x]: Tensor[]) => F.max(x!, dims),
              reference: ([x]: Ref[]) => reduceRef(x!, dims, false, (v) => Math.max(...v)),
              terms,
              gradient: dtype === "f32",
            },
            {
              op: "min",
              note,
              inputs: [{ ...place, dtype, values: distinct(sizeOf(place.shape)) }],
              run: ([x]: Tensor[]) => F.min(x!, dims, true),
              reference: ([x]: Ref[]) => reduceRef(x!, dims, true, (v) => Math.min(...v)),
              terms,
              gradient: dtype === "f32",
            },
          ]
        : []),
      ...(terms > 0 && dims.length === 1 && !large
        ? (["argmax", "argmin"] as const).map((op) => ({
            op,
            note,
            inputs: [
              {
                ...place,
                dtype,
                values: (r: () => number) => Array.from({ length: sizeOf(place.shape) }, () => Math.floor(r() * 8)),
              },
            ],
            run: ([x]: Tensor[]) => F[op](x!, dims[0]!),
            reference: ([x]: Ref[]) => reduceRef(x!, dims, false, (v) => extremeAt(op, v)),
            exact: true,
            gradient: false,
          }))
        : []),
    ];
    return large ? base("f32") : (["f32", "bf16"] as const).flatMap(base);
  }),
);

const integerCopies: Case[] = (["i32", "u32", "u8"] as const).flatMap((dtype) =>
  ([{ shape: [5, 8] }, { shape: [5, 7], layout: "reversed" }, { shape: [3, 9], layout: "inside" }] as Place[]).flatMap(
    (place): Case[] => [
      {
        op: "contiguous",
        inputs: [{ ...place, dtype }],
        run: ([x]) => F.contiguous(F.clone(x!)),
        reference: ([x]) => x!,
        exact: true,
        gradient: false,
      },
      {
        op: "cat",
        inputs: [
          { ...place, dtype },
          { ...place, dtype },
        ],
        run: ([x, y]) => F.cat([x!, y!], -1),
        reference: ([x, y]) => catRef([x!, y!], 1),
        exact: true,
        gradient: false,
      },
      {
        op: "pad",
        inputs: [{ ...place, dtype }],
        run: ([x]) => F.pad(x!, [[1, 2]], 9),
        reference: ([x]) =>
          gatherRef(
            x!,
            [place.shape[0]!, place.shape[1]! + 3],
            ([i, j]) => (j! >= 1 && j! <= place.shape[1]! ? [i!, j! - 1] : null),
            9,
          ),
        exact: true,
        gradient: false,
      },
    ],
  ),
);

/** A float as an integer: without its fraction, the nearest of the type, 0 for NaN. */
function truncated(v: number, to: DType): number {
  const [low, high] = { i32: [-(2 ** 31), 2 ** 31 - 1], u32: [0, 2 ** 32 - 1], u8: [0, 255] }[to as "i32"] as [
    number,
    number,
  ];
  return Number.isNaN(v) ? 0 : Math.trunc(Math.min(high, Math.max(low, v)));
}

const casts: Case[] = (["f32", "f16", "bf16", "i32", "u32", "u8"] as const).flatMap((from) =>
  (["f32", "f16", "bf16", "i32", "u32", "u8"] as const).flatMap((to) =>
    ([{ shape: [70] }, { shape: [5, 6], layout: "reversed" }] as Place[]).map((place): Case => ({
      op: "cast",
      note: `to ${to}`,
      inputs: [{ ...place, dtype: from, low: 0, high: 100 }],
      run: ([x]) => F.cast(F.clone(x!), to),
      reference: ([x]) => mapRef((v) => (isFloat(to) ? round(v, to) : truncated(v, to)), x!),
      exact: true,
      gradient: false,
    })),
  ),
);

/** Places of values that are not finite, by the number of elements: none, first, last, both halves of a word, all. */
const places: Readonly<Record<string, (n: number) => readonly number[]>> = {
  none: () => [],
  first: () => [0],
  last: (n) => [n - 1],
  several: (n) => [0, 1, 2, 5, n >> 1, n - 2].filter((i) => i >= 0 && i < n),
  all: (n) => Array.from({ length: n }, (_, i) => i),
};
const NOT_FINITE = [NaN, Infinity, -Infinity];
const nonFiniteCases = [...shapes, { shape: [1031] }, { shape: [66, 64], layout: "reversed" as const }].flatMap(
  (place) =>
    Object.entries(places).flatMap(([note, at]) =>
      floats.map((dtype): Case => {
        const n = sizeOf(place.shape);
        // The largest finite values of the dtype stand beside them.
        const largest = round(
          { f32: 3.4028234e38, f16: 65504, bf16: 3.3895314e38 }[dtype as "f32" | "f16" | "bf16"],
          dtype,
        );
        const bad = new Set(at(n));
        const values = (): number[] =>
          Array.from({ length: n }, (_, i) => (bad.has(i) ? NOT_FINITE[i % 3]! : i % 2 ? largest : -largest));
        return {
          op: "countNonFinite",
          note,
          inputs: [{ ...place, dtype, values }],
          run: ([x]) => F.countNonFinite(x!),
          reference: (x) => ref([], [x[0]!.data.filter((v) => !Number.isFinite(v)).length]),
          exact: true,
          gradient: false,
          windows: n > 1024,
        };
      }),
    ),
);

export const viewCases: Case[] = [
  ...nonFiniteCases,
  ...rows(
    "reshape",
    shapes,
    (s) => ({
      run: (x) => F.mul(F.reshape(x, [-1, s.at(-1)!].slice(s.includes(0) ? 1 : 0).concat(s.includes(0) ? [0] : [])), 2),
      reference: (x) =>
        mapRef((v) => 2 * v, reshapeRef(x, s.includes(0) ? [4, 0] : [sizeOf(s) / s.at(-1)!, s.at(-1)!])),
    }),
    {},
  ).filter((c) => !c.inputs[0]!.shape.includes(0)),
  ...rows("flatten", shapes, (s) => ({
    run: (x) => F.neg(F.flatten(x)),
    reference: (x) => mapRef((v) => -v, reshapeRef(x, [sizeOf(s)])),
  })),
  ...rows("permute", shapes, (s) => ({
    run: (x) => F.contiguous(F.permute(x, all(s).reverse())),
    reference: (x) => permuteRef(x, all(s).reverse()),
  })),
  ...rows(
    "transpose",
    shapes.filter((p) => p.shape.length > 1),
    (s) => ({
      run: (x) => F.neg(F.transpose(x)),
      reference: (x) => mapRef((v) => -v, permuteRef(x, [...all(s).slice(0, -2), s.length - 1, s.length - 2])),
    }),
  ),
  ...rows("contiguous", shapes, () => ({ run: (x) => F.contiguous(F.clone(x)), reference: (x) => x })),
  // Transposed beyond a binding: cut across the rows of the result.
  ...rows(
    "contiguous",
    [
      { shape: [66, 64], layout: "reversed" },
      { shape: [40, 70], layout: "reversed" },
      { shape: [5, 30, 24], layout: "reversed" },
    ],
    () => ({ run: (x) => F.contiguous(x), reference: (x) => x }),
    { windows: true },
  ),
  ...rows("clone", shapes, () => ({ run: F.clone, reference: (x) => x })),
  ...rows("unsqueeze", shapes, (s) => ({
    run: (x) => F.neg(F.unsqueeze(x, -1)),
    reference: (x) => mapRef((v) => -v, reshapeRef(x, [...s, 1])),
  })),
  ...rows("squeeze", shapes, (s) => ({
    run: (x) => F.neg(F.squeeze(F.unsqueeze(x, 0), 0)),
    reference: (x) => mapRef((v) => -v, reshapeRef(x, s)),
  })),
  ...rows("expand", shapes, (s) => ({
    run: (x) => F.mul(F.expand(F.unsqueeze(x, 0), [3, ...s]), 2),
    reference: (x) =>
      gatherRef(
        mapRef((v) => 2 * v, x),
        [3, ...s],
        (i) => i.slice(1),
      ),
    terms: 3,
  })),
  ...rows(
    "slice",
    shapes.filter((p) => !p.shape.includes(0)),
    (s) => ({
      run: (x) => F.contiguous(F.neg(F.slice(x, -1, 1, undefined, 2))),
      reference: (x) =>
        gatherRef(
          mapRef((v) => -v, x),
          s.with(-1, Math.ceil((s.at(-1)! - 1) / 2)),
          (i) => i.with(-1, 1 + 2 * i.at(-1)!),
        ),
    }),
  ),
  ...rows(
    "slice",
    shapes.filter((p) => !p.shape.includes(0)),
    (s) => ({
      run: (x) => F.neg(F.slice(x, 0, 0, -1)),
      reference: (x) =>
        gatherRef(
          mapRef((v) => -v, x),
          s.with(0, s[0]! - 1),
          (i) => i,
        ),
    }),
  ),
  ...rows(
    "select",
    shapes.filter((p) => !p.shape.includes(0)),
    (s) => ({
      run: (x) => F.neg(F.select(x, 0, -1)),
      reference: (x) =>
        gatherRef(
          mapRef((v) => -v, x),
          s.slice(1),
          (i) => [s[0]! - 1, ...i],
        ),
    }),
  ),
  ...rows(
    "split",
    shapes.filter((p) => !p.shape.includes(0)),
    (s) => ({
      run: (x) => F.sum(F.split(x, 2, -1).at(-1)!, -1),
      reference: (x) =>
        reduceRef(
          gatherRef(x, s.with(-1, s.at(-1)! % 2 || 2), (i) => i.with(-1, s.at(-1)! - (s.at(-1)! % 2 || 2) + i.at(-1)!)),
          [s.length - 1],
          false,
          sum,
        ),
    }),
  ).filter((c) => c.inputs[0]!.shape.at(-1)! > 1),
  ...rows(
    "chunk",
    shapes.filter((p) => !p.shape.includes(0)),
    (s) => ({
      run: (x) => F.neg(F.chunk(x, 2, 0)[0]!),
      reference: (x) =>
        gatherRef(
          mapRef((v) => -v, x),
          s.with(0, Math.ceil(s[0]! / 2)),
          (i) => i,
        ),
    }),
  ),
  ...shapes.flatMap((place) =>
    floats.flatMap((dtype): Case[] => {
      const dim = place.shape.length - 1;
      const other = { shape: place.shape.with(dim, place.shape[dim]! + 2), dtype };
      return [
        {
          op: "cat",
          inputs: [{ ...place, dtype }, other],
          run: ([x, y]) => F.cat([x!, y!], -1),
          reference: ([x, y]) => catRef([x!, y!], dim),
        },
        {
          op: "stack",
          inputs: [
            { ...place, dtype },
            { ...place, dtype },
          ],
          run: ([x, y]) => F.stack([x!, y!], 0),
          reference: ([x, y]) => catRef([reshapeRef(x!, [1, ...place.shape]), reshapeRef(y!, [1, ...place.shape])], 0),
        },
        {
          op: "pad",
          inputs: [{ ...place, dtype }],
          run: ([x]) => F.pad(x!, [[1, 2]], 0.5),
          reference: ([x]) =>
            gatherRef(
              x!,
              place.shape.with(dim, place.shape[dim]! + 3),
              (i) => (i[dim]! >= 1 && i[dim]! <= place.shape[dim]! ? i.with(dim, i[dim]! - 1) : null),
              0.5,
            ),
        },
      ];
    }),
  ),
  ...rows("cast", shapes, () => ({
    run: (x) => F.cast(F.mul(F.cast(x, "f32"), 2), "f32"),
    reference: (x) => mapRef((v) => 2 * v, x),
  })),
  ...casts,
  ...integerCopies,
  ...reductions,
  ...[0, 1, 3, 33, 257].flatMap((n): Case[] => [
    { op: "zeros", inputs: [], run: () => F.zeros([n, 3]), reference: () => ref([n, 3]), exact: true, gradient: false },
    {
      op: "ones",
      inputs: [],
      run: () => F.ones([n], { dtype: "bf16" }),
      reference: () => ref([n], new Float64Array(n).fill(1)),
      exact: true,
      gradient: false,
    },
    {
      op: "full",
      inputs: [],
      run: () => F.full([2, n], -2.5, { dtype: "f16" }),
      reference: () => ref([2, n], new Float64Array(2 * n).fill(-2.5)),
      exact: true,
      gradient: false,
    },
    {
      op: "arange",
      inputs: [],
      run: () => F.arange(3, 3 + 2 * n, 2),
      reference: () =>
        ref(
          [n],
          Float64Array.from({ length: n }, (_, i) => 3 + 2 * i),
        ),
      exact: true,
      gradient: false,
    },
  ]),
  {
    op: "argmax",
    note: "more than 65,535 workgroups",
    inputs: [{ shape: [70_000, 3] }],
    run: ([x]) => F.argmax(x!),
    reference: ([x]) => reduceRef(x!, [1], false, (v) => v.indexOf(Math.max(...v))),
    exact: true,
    gradient: false,
  },
  {
    op: "full",
    note: "more than 2^24 elements",
    inputs: [],
    run: () => F.slice(F.full([17_000_000], 3), 0, 16_999_990),
    reference: () => ref([10], new Float64Array(10).fill(3)),
    exact: true,
    gradient: false,
  },
];
