/** Cases of the image ops: convolution, group norm, upsampling, code lookup. */
import { F } from "../../index.ts";
import type { DType } from "../../index.ts";
import { round } from "../harness.ts";
import type { Case, Input } from "../harness.ts";
import { mapRef, ref } from "../reference.ts";
import type { Ref } from "../reference.ts";
import { conv2dRef, groupNormRef, l2NormalizeRef, nearestCodes, upsampleRef } from "../reference/image.ts";

const FLOATS = ["f32", "f16", "bf16"] as const;

interface ConvRow {
  /** [N, C, H, W] */
  readonly x: readonly [number, number, number, number];
  /** [O, kh, kw] */
  readonly k: readonly [number, number, number];
  readonly stride?: number;
  readonly padding?: number | readonly [number, number, number, number];
  readonly bias?: boolean;
  readonly layout?: Input["layout"];
  readonly windows?: boolean;
  /** See `Case.crossesTiles`. */
  readonly tiles?: boolean;
  readonly dtypes?: readonly DType[];
  readonly note?: string;
}

const convRows: readonly ConvRow[] = [
  { x: [1, 1, 1, 1], k: [1, 1, 1] },
  { x: [1, 1, 1, 1], k: [1, 3, 3], padding: 1 },
  { x: [0, 2, 4, 4], k: [3, 3, 3], padding: 1 },
  { x: [2, 3, 5, 7], k: [4, 3, 3], padding: 1, dtypes: FLOATS },
  { x: [2, 2, 5, 7], k: [130, 3, 3], padding: 1, tiles: true, note: "fewer pixels and more channels than a tile" },
  { x: [1, 2, 12, 13], k: [100, 2, 2], tiles: true, note: "more of both" },
  { x: [1, 4, 8, 8], k: [3, 3, 3], padding: 1, dtypes: FLOATS },
  { x: [1, 8, 3, 17], k: [33, 3, 3], padding: 1, bias: false },
  { x: [1, 33, 5, 5], k: [8, 3, 3], padding: 1 },
  { x: [3, 4, 8, 7], k: [17, 3, 3], padding: [2, 0, 1, 1] },
  { x: [1, 2, 7, 33], k: [3, 3, 3], note: "no padding" },
  { x: [2, 5, 6, 40], k: [33, 3, 3], padding: 1, tiles: true, note: "more tiles of 4 × 4 and channels than a panel" },
  { x: [2, 3, 9, 12], k: [4, 3, 3], padding: [0, 2, 3, 1], dtypes: FLOATS },
  { x: [1, 2, 5, 8], k: [3, 3, 3], padding: [2, 1, 0, 1] },
  { x: [1, 2, 3, 16], k: [35, 3, 3], padding: 1, dtypes: ["bf16"] },
  { x: [2, 8, 5, 5], k: [4, 3, 3], padding: 1, layout: "reversed" },
  { x: [1, 3, 8, 8], k: [5, 3, 3], padding: 1, layout: "inside" },
  { x: [1, 4, 8, 8], k: [3, 3, 3], stride: 2, padding: [0, 1, 1, 0], dtypes: FLOATS },
  { x: [2, 3, 7, 5], k: [4, 3, 3], stride: 2, padding: [0, 1, 1, 0] },
  { x: [1, 2, 16, 17], k: [33, 3, 3], stride: 2, padding: 1, bias: false },
  { x: [1, 33, 4, 4], k: [3, 3, 3], stride: 2, padding: [0, 1, 1, 0], dtypes: ["f16"] },
  { x: [1, 8, 5, 5], k: [33, 1, 1], dtypes: FLOATS },
  { x: [2, 33, 4, 4], k: [8, 1, 1] },
  { x: [2, 8, 5, 5], k: [12, 1, 1], layout: "channels last", dtypes: FLOATS },
  { x: [3, 5, 4, 6], k: [3, 1, 1], layout: "channels last", dtypes: ["f32", "f16"] },
  { x: [2, 36, 17, 33], k: [68, 1, 1], layout: "channels last", tiles: true },
  { x: [3, 8, 16, 12], k: [8, 1, 1], layout: "channels last", windows: true, dtypes: ["f32", "bf16"] },
  { x: [3, 4, 1, 3], k: [3, 1, 1], bias: false, stride: 2 },
  { x: [1, 3, 16, 16], k: [8, 8, 8], stride: 8, dtypes: FLOATS },
  { x: [2, 3, 8, 12], k: [33, 4, 4], stride: 4, layout: "reversed" },
  { x: [1, 1, 16, 33], k: [4, 16, 16], stride: 16, note: "columns left over" },
  { x: [2, 3, 7, 8], k: [4, 2, 5], padding: [1, 2, 0, 3], dtypes: FLOATS },
  { x: [1, 2, 9, 10], k: [3, 5, 2], stride: 3, padding: 2 },
  { x: [1, 3, 5, 5], k: [4, 1, 1], padding: 1, note: "padding beyond the kernel" },
  { x: [9, 2, 64, 64], k: [3, 1, 1], note: "a bias summed in stages" },
  { x: [65, 1, 3, 3], k: [2, 2, 2], note: "of many images" },
  { x: [1, 3, 24, 20], k: [5, 3, 3], padding: 1, windows: true },
  { x: [1, 3, 16, 16], k: [35, 3, 3], padding: 1, windows: true },
  { x: [2, 9, 16, 16], k: [12, 3, 3], padding: 1, windows: true },
  { x: [2, 5, 16, 16], k: [3, 3, 3], stride: 2, padding: [0, 1, 1, 0], windows: true, dtypes: ["f32", "bf16"] },
  { x: [3, 8, 16, 12], k: [9, 1, 1], windows: true, dtypes: ["f32", "f16"] },
  { x: [2, 3, 16, 16], k: [8, 4, 4], stride: 4, windows: true },
];

/** The ways in which invocations share a row. */
const sharing = (family: string): { readonly family: string; readonly name: string }[] =>
  ["invocation", "subgroup", "workgroup"].map((name) => ({ family, name }));

const convCases: Case[] = convRows.flatMap((row) =>
  (row.dtypes ?? ["f32"]).map((dtype): Case => {
    const [N, C] = row.x;
    const [O, kh, kw] = row.k;
    const { stride = 1, padding = 0 } = row;
    const sides = typeof padding === "number" ? ([padding, padding, padding, padding] as const) : padding;
    const input = { shape: row.x, dtype, ...(row.layout ? { layout: row.layout } : {}) };
    const weight = { shape: [O, C, kh, kw], dtype, ...(row.layout ? { layout: row.layout } : {}) };
    const OH = Math.floor((row.x[2] + sides[0] + sides[2] - kh) / stride) + 1;
    const OW = Math.floor((row.x[3] + sides[1] + sides[3] - kw) / stride) + 1;
    return {
      op: "conv2d",
      note: `${row.note ? `${row.note}, ` : ""}stride ${stride}, padding ${sides.join()}`,
      inputs: [input, weight, ...(row.bias === false ? [] : [{ shape: [O], dtype }])],
      run: ([x, w, b]) => F.conv2d(x!, w!, b ?? null, { stride, padding }),
      reference: ([x, w, b]) => conv2dRef(x!, w!, b ?? null, stride, sides),
      terms: Math.max(C * kh * kw, N * OH * OW),
      // How 16-bit elements are read and written is the same library in all: the variants are run on them once.
      variants: ["naive", "registers", "subgroup", "subgroup-tall", "winograd", "tiled"]
        .filter(
          (name) =>
            (dtype === "f32" || O === 4) &&
            ((name !== "winograd" && name !== "subgroup-tall") || (kh === 3 && kw === 3 && stride === 1)),
        )
        .map((name) => ({ family: "conv2d", name }))
        .concat(row.bias === false || dtype !== "f32" ? [] : sharing("channel_sums")),
      ...(row.windows ? { windows: true } : {}),
      ...(row.tiles ? { crossesTiles: true } : {}),
    };
  }),
);

interface NormRow {
  readonly shape: readonly number[];
  readonly groups: number;
  readonly layout?: Input["layout"];
  readonly windows?: boolean;
  /** Added to the input: the variance must not drown in the mean. */
  readonly mean?: number;
  readonly affine?: "weight" | "bias" | "none";
}

const normRows: readonly NormRow[] = [
  { shape: [1, 2, 1, 2], groups: 1 },
  { shape: [0, 4, 2, 2], groups: 2 },
  { shape: [2, 6], groups: 1 },
  { shape: [2, 4, 3, 5], groups: 2 },
  { shape: [1, 33, 3, 3], groups: 11 },
  { shape: [3, 8, 4, 4], groups: 4 },
  { shape: [1, 4, 70], groups: 2 },
  { shape: [2, 32, 2, 4], groups: 32 },
  { shape: [1, 2, 33, 16], groups: 1, mean: 50 },
  { shape: [1, 2, 65, 131], groups: 2 },
  { shape: [3, 66, 9, 8], groups: 33 },
  { shape: [33, 4, 8, 8], groups: 2 },
  { shape: [2, 6, 4, 5], groups: 2, layout: "reversed" },
  { shape: [1, 6, 4, 6], groups: 3, layout: "inside" },
  { shape: [2, 4, 4, 4], groups: 2, affine: "none" },
  { shape: [1, 4, 2, 6], groups: 2, affine: "weight" },
  { shape: [1, 4, 2, 6], groups: 2, affine: "bias" },
  { shape: [3, 8, 16, 8], groups: 4, windows: true },
];

const normCases: Case[] = normRows.flatMap((row) =>
  FLOATS.flatMap((dtype) =>
    [false, true].map((swish): Case => {
      const C = row.shape[1]!;
      const affine = row.affine ?? "both";
      // 16-bit inputs are rounded: a mean far from 0 would leave nothing of the values.
      const mean = dtype === "f32" ? (row.mean ?? 0) : 0;
      const parameter = { shape: [C], dtype, low: -1.5, high: 1.5 };
      return {
        op: "groupNorm",
        note: `${row.groups} groups${swish ? ", swish" : ""}${affine === "both" ? "" : `, ${affine}`}`,
        inputs: [
          { shape: row.shape, dtype, low: mean - 1, high: mean + 1, ...(row.layout ? { layout: row.layout } : {}) },
          ...(affine === "both" || affine === "weight" ? [parameter] : []),
          ...(affine === "both" || affine === "bias" ? [parameter] : []),
        ],
        run: ([x, a, b]) =>
          F.groupNorm(x!, row.groups, affine === "bias" ? null : (a ?? null), affine === "bias" ? a! : (b ?? null), {
            swish,
          }),
        reference: ([x, a, b]) =>
          groupNormRef(
            x!,
            affine === "bias" ? null : (a ?? null),
            affine === "bias" ? a! : (b ?? null),
            row.groups,
            1e-5,
            swish,
          ),
        terms: row.shape.reduce((p, n) => p * n, 1) / Math.min(C, row.groups),
        variants: [
          { family: "group_norm", name: "whole" },
          { family: "group_norm", name: "stages" },
          ...(dtype === "f32" ? sharing("group_rows") : []),
        ],
        ...(row.windows ? { windows: true } : {}),
      };
    }),
  ),
);

const upsampleCases: Case[] = [
  { shape: [1, 1, 1, 1] },
  { shape: [0, 2, 4, 4] },
  { shape: [1, 2, 3, 3] },
  { shape: [2, 3, 5, 4] },
  { shape: [1, 1, 2, 33] },
  { shape: [3, 2, 1, 8] },
  { shape: [1, 4, 7, 2] },
  { shape: [2, 2, 4, 16] },
  { shape: [1, 3, 4, 5], layout: "reversed" as const },
  { shape: [1, 2, 3, 8], layout: "inside" as const },
  { shape: [2, 5, 16, 16], windows: true },
].flatMap(({ shape, layout, windows }) =>
  FLOATS.map((dtype): Case => {
    const input = { shape, dtype, ...(layout ? { layout } : {}) };
    return {
      op: "upsampleNearest2x",
      inputs: [input],
      run: ([x]) => F.upsampleNearest2x(x!),
      reference: ([x]) => upsampleRef(x!),
      terms: 4,
      ...(windows ? { windows } : {}),
    };
  }),
);

const unitCases: Case[] = [
  { shape: [2] },
  { shape: [0, 4] },
  { shape: [1, 3] },
  { shape: [33, 8] },
  { shape: [5, 16] },
  { shape: [2, 3, 7] },
  { shape: [257, 2] },
  { shape: [3, 70] },
  { shape: [6, 5], layout: "reversed" as const },
  { shape: [4, 8], layout: "inside" as const },
  { shape: [4, 8], eps: 10 },
  { shape: [160, 16], windows: true },
].flatMap(({ shape, layout, windows, eps = 1e-12 }) =>
  FLOATS.map((dtype): Case => ({
    op: "l2Normalize",
    note: `eps ${eps}`,
    // Away from 0: a row's direction turns fast near it.
    inputs: [{ shape, dtype, avoidZero: 0.2, ...(layout ? { layout } : {}) }],
    run: ([x]) => F.l2Normalize(x!, eps),
    reference: ([x]) => l2NormalizeRef(x!, eps),
    terms: shape.at(-1)!,
    ...(windows ? { windows } : {}),
  })),
);
unitCases.push({
  op: "l2Normalize",
  note: "zeros",
  inputs: [{ shape: [3, 8], values: () => new Float64Array(24) }],
  run: ([x]) => F.l2Normalize(x!),
  reference: ([x]) => l2NormalizeRef(x!, 1e-12),
  exact: true,
  gradient: false,
});

interface CodeRow {
  readonly M: number;
  readonly K: number;
  readonly D: number;
  readonly windows?: boolean;
  /** Every code is there twice: exact ties, which the lower index wins. */
  readonly twice?: boolean;
  readonly layout?: Input["layout"];
  readonly dtypes?: readonly DType[];
}

const codeRows: readonly CodeRow[] = [
  { M: 1, K: 1, D: 8 },
  { M: 0, K: 5, D: 8 },
  { M: 3, K: 2, D: 3 },
  { M: 33, K: 70, D: 8, dtypes: FLOATS },
  { M: 257, K: 65, D: 8 },
  { M: 5, K: 257, D: 16, dtypes: FLOATS },
  { M: 9, K: 34, D: 2, twice: true },
  { M: 70, K: 130, D: 8, twice: true },
  { M: 17, K: 34, D: 3, twice: true },
  { M: 12, K: 40, D: 6, layout: "reversed" },
  { M: 12, K: 40, D: 8, layout: "inside" },
  { M: 7, K: 1000, D: 8 },
  { M: 160, K: 300, D: 8, windows: true, twice: true },
];

/** Squared distances of the best and the next code differ by this at least: f32 cannot mistake them. */
const MARGIN = 1e-4;

/**
 * Rows and codes drawn together: the values of the first input make those of the others too, so that no row is left undecided between two codes.
 * Inputs in order: z, codebook, then the nearest indices or the offset ê − ẑ that the straight-through gradient holds constant.
 */
function codeInputs(
  { M, K, D, twice, layout }: CodeRow,
  dtype: DType,
): { z: Input; codebook: Input; indices: Input; offset: Input } {
  const drawn: { codes: Float64Array; indices: number[]; offset: Float64Array } = {
    codes: new Float64Array(0),
    indices: [],
    offset: new Float64Array(0),
  };
  const draw = (random: () => number): Float64Array => {
    const number = (): number => {
      const v = random() * 1.6 - 0.8;
      return round(v < 0 ? v - 0.2 : v + 0.2, dtype);
    };
    drawn.codes = Float64Array.from({ length: K * D }, number);
    if (twice) drawn.codes.copyWithin(Math.floor(K / 2) * D, 0, Math.floor(K / 2) * D);
    const z = new Float64Array(M * D);
    drawn.indices = [];
    for (let m = 0; m < M; m++) {
      for (;;) {
        for (let d = 0; d < D; d++) z[m * D + d] = number();
        const [nearest] = nearestCodes(ref([1, D], z.slice(m * D, (m + 1) * D)), ref([K, D], drawn.codes), 1e-12);
        if (!(nearest!.margin >= MARGIN)) continue;
        drawn.indices.push(nearest!.index);
        break;
      }
    }
    const rows = l2NormalizeRef(ref([M, D], z), 1e-12).data;
    const codes = l2NormalizeRef(ref([K, D], drawn.codes), 1e-12).data;
    drawn.offset = rows.map((v, i) => codes[drawn.indices[Math.floor(i / D)]! * D + (i % D)]! - v);
    return z;
  };
  const place = layout ? { layout } : {};
  return {
    z: { shape: [M, D], dtype, values: draw, ...place },
    codebook: { shape: [K, D], dtype, values: () => drawn.codes, ...place },
    indices: { shape: [M], dtype: "u32", values: () => drawn.indices },
    offset: { shape: [M, D], values: () => drawn.offset, constant: true },
  };
}

const codeCases: Case[] = codeRows.flatMap((row) =>
  (row.dtypes ?? (["f32"] as const)).flatMap((dtype): Case[] => {
    const note = row.twice ? "ties, " : "";
    const windows = row.windows ? { windows: true } : {};
    const lookUp =
      (pick: "index" | "distance") =>
      ([z, codebook]: Ref[]): Ref =>
        ref(
          [row.M],
          nearestCodes(z!, codebook!, 1e-12).map((n) => n[pick]),
        );
    const { z, codebook, indices, offset } = codeInputs(row, dtype);
    const cases: Case[] = [
      {
        op: "codebookLookup",
        note: `${note}indices`,
        inputs: [z, codebook],
        run: ([a, b]) => F.codebookLookup(a!, b!).indices,
        reference: lookUp("index"),
        exact: true,
        gradient: false,
        ...windows,
      },
      {
        op: "codebookLookup",
        note: `${note}distances`,
        inputs: [z, codebook],
        run: ([a, b]) => F.codebookLookup(a!, b!).distances,
        reference: lookUp("distance"),
        gradient: false,
        terms: row.D,
        ...windows,
      },
      {
        op: "quantize",
        note: row.twice ? "ties" : "straight through",
        // Only the direction of z is learned through the codes: the offset to them is held constant.
        inputs: [z, { ...codebook, constant: true }, offset],
        run: ([a, b]) => F.quantize(a!, b!),
        reference: ([a, , c]) => mapRef((x, y) => x + y, l2NormalizeRef(a!, 1e-12), c!),
        terms: row.D,
        ...windows,
      },
    ];
    if (row.M === 0) return cases;
    const gathered = (codes: Ref, ids: Ref): Ref => {
      const unit = l2NormalizeRef(codes, 1e-12);
      return ref(
        [row.M, row.D],
        Float64Array.from(
          { length: row.M * row.D },
          (_, i) => unit.data[ids.data[Math.floor(i / row.D)]! * row.D + (i % row.D)]!,
        ),
      );
    };
    const loss = ([a, b, ids]: Ref[]): Ref => {
      const rows = l2NormalizeRef(a!, 1e-12).data;
      const codes = gathered(b!, ids!).data;
      return ref([], [rows.reduce((sum, v, i) => sum + (v - codes[i]!) ** 2 / rows.length, 0)]);
    };
    const terms = row.M * row.D;
    cases.push(
      {
        op: "codebookLosses",
        note: `${note}commitment`,
        inputs: [z, { ...codebook, constant: true }, indices],
        run: ([a, b, i]) => F.codebookLosses(a!, b!, i!).commitment,
        reference: loss,
        terms,
        ...windows,
      },
      {
        op: "codebookLosses",
        note: `${note}codebook`,
        inputs: [{ ...z, constant: true }, codebook, indices],
        run: ([a, b, i]) => F.codebookLosses(a!, b!, i!).codebook,
        reference: loss,
        terms,
        ...windows,
      },
    );
    return cases;
  }),
);

export const imageCases: Case[] = [...convCases, ...normCases, ...upsampleCases, ...unitCases, ...codeCases];
