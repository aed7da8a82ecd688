/** Cases of attention. */
import { F } from "../../index.ts";
import type { DType, Tensor } from "../../index.ts";
import type { Case, Input } from "../harness.ts";
import { attentionRef } from "../reference/attention.ts";
import type { AttentionMasks } from "../reference/attention.ts";

/** The default is one of them, or on software Vulkan "register". */
const variant = (name: string): { family: string; name: string } => ({ family: "attention", name });
const all = ["naive", "register-single", "tiled"].map(variant);

export interface Row {
  /** B, Hq, Hkv, Tq, Tk, D. */
  readonly sizes: readonly [number, number, number, number, number, number];
  readonly note?: string;
  readonly causal?: boolean;
  readonly scale?: number;
  /** Values of starts, one a row of the batch. */
  readonly starts?: readonly number[];
  /** Lengths of the documents of each row of the batch; ids are not in order. */
  readonly documents?: readonly (readonly number[])[];
  readonly masks?: DType;
  readonly dtype?: DType;
  readonly kv?: DType;
  readonly layout?: Input["layout"];
  /** q, k and v are [B, T, H, D], permuted in the run. */
  readonly tokensFirst?: boolean;
  readonly windows?: boolean;
  readonly range?: number;
  /** Only the gradient of v: one key has probability 1, the gradients of q and k are exactly 0 and a relative error says nothing. */
  readonly values?: boolean;
  readonly variants?: "all" | "naive" | "default";
}

const ids = (lengths: readonly number[]): number[] =>
  lengths.flatMap((n, i) => new Array<number>(n).fill((i * 7 + 3) % 5));

/** A case of attention. */
export function row(r: Row): Case {
  const [b, hq, hkv, tq, tk, d] = r.sizes;
  const { causal = false, dtype = "f32", kv = dtype, masks: integers = "i32", layout = "contiguous", range = 1 } = r;
  const shape = (h: number, t: number): number[] => (r.tokensFirst ? [b, t, h, d] : [b, h, t, d]);
  const headsFirst = (x: Tensor): Tensor => (r.tokensFirst ? F.permute(x, [0, 2, 1, 3]) : x);
  const inputs: Input[] = [
    { shape: shape(hq, tq), dtype, layout, low: -range, high: range, constant: r.values ?? false },
    { shape: shape(hkv, tk), dtype: kv, layout, low: -range, high: range, constant: r.values ?? false },
    { shape: shape(hkv, tk), dtype: kv, layout },
  ];
  if (r.starts) inputs.push({ shape: [b], dtype: integers, values: () => r.starts! });
  if (r.documents) inputs.push({ shape: [b, tk], dtype: integers, values: () => r.documents!.flatMap(ids) });
  const scale = r.scale === undefined ? {} : { scale: r.scale };
  return {
    op: "attention",
    note: [
      r.note,
      causal && "causal",
      r.starts && "starts",
      r.documents && "documents",
      r.tokensFirst && "tokens first",
    ]
      .filter(Boolean)
      .join(" "),
    inputs,
    run: ([q, k, v, ...rest]) =>
      F.attention(headsFirst(q!), headsFirst(k!), headsFirst(v!), {
        causal,
        ...scale,
        ...(r.starts ? { starts: rest[0]! } : {}),
        ...(r.documents ? { documents: rest.at(-1)! } : {}),
      }),
    reference: ([q, k, v, ...rest]) => {
      const masks: AttentionMasks = {
        causal,
        ...scale,
        ...(r.starts ? { starts: rest[0]!.data } : {}),
        ...(r.documents ? { documents: rest.at(-1)!.data } : {}),
      };
      return attentionRef(swap(q!), swap(k!), swap(v!), masks);
    },
    terms: d + tk,
    // Each dtype and width is one more kernel to compile, seconds on software Vulkan: all variants if they differ.
    variants:
      r.variants === "all" || (r.variants === undefined && dtype === "f32" && kv === "f32" && d <= 36)
        ? all
        : r.variants === "default"
          ? []
          : [variant("naive")],
    ...(r.windows ? { windows: true } : {}),
  };

  /** [B, T, H, D] → [B, H, T, D]. */
  function swap(x: import("../reference.ts").Ref): import("../reference.ts").Ref {
    if (!r.tokensFirst) return x;
    const [xb, t, h, n] = x.shape as [number, number, number, number];
    const data = new Float64Array(x.data.length);
    for (let i = 0; i < xb; i++)
      for (let j = 0; j < t; j++)
        for (let e = 0; e < h; e++)
          for (let c = 0; c < n; c++) data[((i * h + e) * t + j) * n + c] = x.data[((i * t + j) * h + e) * n + c]!;
    return { shape: [xb, h, t, n], data };
  }
}

const rows: Row[] = [
  { sizes: [1, 1, 1, 1, 1, 4], values: true },
  { sizes: [1, 1, 1, 1, 1, 1], note: "one element" },
  { sizes: [0, 2, 2, 3, 3, 8], note: "no rows" },
  { sizes: [1, 2, 1, 0, 3, 8], note: "no queries" },
  { sizes: [1, 2, 1, 3, 0, 8], note: "no keys" },
  { sizes: [2, 2, 2, 3, 3, 4], causal: true },
  { sizes: [1, 2, 2, 16, 16, 32] },
  { sizes: [1, 2, 2, 17, 17, 32], causal: true },
  { sizes: [1, 1, 1, 15, 31, 36], note: "head of 36" },
  { sizes: [2, 2, 2, 33, 33, 33], causal: true, note: "odd head" },
  { sizes: [1, 2, 2, 5, 9, 3], note: "odd head" },
  { sizes: [1, 3, 3, 33, 33, 64], causal: true },
  { sizes: [1, 1, 1, 70, 70, 128], causal: true, variants: "all" },
  { sizes: [1, 1, 1, 33, 33, 512], note: "head of 512" },
  { sizes: [1, 1, 1, 20, 20, 132], note: "head of 132", causal: true },
  { sizes: [1, 1, 1, 257, 257, 16], causal: true },
  { sizes: [1, 1, 1, 257, 257, 4], note: "full" },
  {
    // As much work as TALL_WORK.
    sizes: [2, 2, 1, 257, 257, 128],
    causal: true,
    starts: [9, 0],
    documents: [
      [100, 7, 150],
      [33, 224],
    ],
    note: "tall tiles, grouped",
    variants: "default",
  },
  { sizes: [1, 4, 4, 420, 420, 48], causal: true, note: "tall tiles, chunks behind the head", variants: "default" },
  { sizes: [1, 2, 2, 3, 70, 32], causal: true, note: "more keys" },
  { sizes: [1, 2, 2, 70, 33, 32], causal: true, note: "more queries: some see no key" },
  { sizes: [1, 2, 2, 3, 70, 32], note: "more keys" },
  { sizes: [2, 4, 2, 33, 33, 16], causal: true, note: "grouped" },
  { sizes: [1, 6, 2, 7, 19, 20], note: "grouped" },
  { sizes: [3, 2, 1, 33, 33, 16], causal: true, starts: [0, 5, 20] },
  { sizes: [3, 1, 1, 33, 33, 16], starts: [0, 17, 33], masks: "u32", note: "one row has no key" },
  { sizes: [2, 1, 1, 3, 40, 16], causal: true, starts: [0, 37] },
  { sizes: [2, 2, 1, 40, 40, 16], causal: true, documents: [[7, 20, 13], [40]] },
  {
    sizes: [2, 1, 1, 33, 33, 16],
    documents: [
      [1, 1, 31],
      [16, 17],
    ],
    masks: "u32",
  },
  {
    sizes: [2, 2, 2, 37, 37, 8],
    causal: true,
    starts: [4, 0],
    documents: [
      [10, 20, 7],
      [1, 35, 1],
    ],
  },
  { sizes: [1, 2, 2, 33, 33, 16], scale: 0.7, range: 3, note: "large scores" },
  { sizes: [2, 2, 2, 9, 9, 8], layout: "reversed" },
  { sizes: [2, 2, 1, 9, 9, 8], layout: "inside", causal: true },
  { sizes: [2, 4, 2, 21, 21, 16], tokensFirst: true, causal: true },
  { sizes: [1, 3, 3, 18, 18, 64], tokensFirst: true },
  { sizes: [2, 2, 2, 20, 20, 16], windows: true, causal: true, starts: [0, 3] },
  { sizes: [1, 4, 2, 12, 18, 32], windows: true },
  { sizes: [2, 4, 2, 12, 12, 32], windows: true, tokensFirst: true, causal: true, documents: [[5, 7], [12]] },
  ...(["f16", "bf16"] as const).flatMap((dtype): Row[] => [
    { sizes: [1, 2, 1, 33, 33, 32], causal: true, dtype, variants: dtype === "f16" ? "all" : "naive" },
    { sizes: [2, 2, 2, 17, 40, 28], dtype, starts: [3, 0] },
    { sizes: [1, 2, 2, 9, 9, 6], dtype, note: "head of 6" },
    { sizes: [1, 2, 1, 19, 19, 8], dtype, tokensFirst: true, documents: [[9, 10]] },
    { sizes: [1, 2, 1, 12, 30, 32], causal: true, kv: dtype, note: "f32 queries", variants: "default" },
    { sizes: [2, 2, 1, 20, 20, 32], dtype, windows: true, causal: true },
  ]),
];

export const attentionCases: Case[] = rows.map(row);
