/** Cases of decoding against a cache: lengths on the GPU, left padding, grouped heads, caches of 16 and of 8 bits. */
import { F, tensor } from "../../index.ts";
import type { DType, Tensor } from "../../index.ts";
import { cacheStorage } from "../../kernels/attention/cache_format.ts";
import type { Case, Input } from "../harness.ts";
import { mapRef, ref } from "../reference.ts";
import type { Ref } from "../reference.ts";
import { cacheWriteRef, decodeRef, int8Ref } from "../reference/decode.ts";
import { ropeRef } from "../reference/rows.ts";

interface Row {
  /** [B, Hq, Hkv, Tq, capacity, D] */
  readonly sizes: readonly [number, number, number, number, number, number];
  readonly lengths: readonly number[];
  readonly starts?: readonly number[];
  readonly cache?: DType;
  readonly layout?: Input["layout"];
  readonly windows?: boolean;
}

const rows: readonly Row[] = [
  { sizes: [1, 1, 1, 1, 1, 4], lengths: [0] },
  { sizes: [1, 1, 1, 1, 33, 8], lengths: [32] },
  { sizes: [2, 3, 3, 1, 70, 12], lengths: [0] },
  { sizes: [2, 4, 2, 1, 70, 16], lengths: [65] },
  { sizes: [2, 4, 1, 3, 257, 32], lengths: [200, 7] },
  { sizes: [2, 2, 2, 1, 130, 64], lengths: [129, 64], starts: [3, 0] },
  { sizes: [3, 2, 2, 2, 130, 36], lengths: [63], starts: [0, 63, 64] },
  { sizes: [1, 2, 2, 1, 100, 128], lengths: [80], cache: "bf16" },
  { sizes: [2, 2, 1, 4, 66, 20], lengths: [60, 61], cache: "f16", layout: "reversed" },
  { sizes: [1, 1, 1, 1, 90, 512], lengths: [70] },
  { sizes: [2, 2, 2, 5, 64, 32], lengths: [62] },
  { sizes: [3, 4, 2, 1, 16, 32], lengths: [9, 15, 0], windows: true },
];

const constant = (dtype: DType, values: readonly number[]): Input => ({
  shape: [values.length],
  dtype,
  values: () => values,
  constant: true,
});

/** Heads from `from` on of x [B, T, heads, D] as [B, count, T, D]. */
function headsRef(x: Ref, from: number, count: number): Ref {
  const [b, tq, heads, d] = x.shape as [number, number, number, number];
  const part = ref([b, count, tq, d]);
  for (let at = 0; at < part.data.length; at++) {
    const [i, t, h] = [at % d, Math.floor(at / d) % tq, Math.floor(at / (d * tq)) % count];
    const row = Math.floor(at / (d * tq * count));
    part.data[at] = x.data[((row * tq + t) * heads + from + h) * d + i]!;
  }
  return part;
}

interface Sizes {
  readonly b: number;
  readonly hq: number;
  readonly hkv: number;
  readonly capacity: number;
  readonly d: number;
}

/** One token a row, whose position is the length of the cache; in two launches and in one. */
const ropeAttentionCase = (
  { b, hq, hkv, capacity, d }: Sizes,
  lengths: readonly number[],
  dtype: DType,
  cache: DType,
): Case => ({
  op: "ropeAttention",
  note: `length ${lengths.join(",")}`,
  inputs: [
    { shape: [b, 1, hq + 2 * hkv, d], dtype },
    { shape: [b, hkv, capacity, d], dtype: cache },
    constant("u32", lengths),
  ],
  run: ([x, c, n]) => {
    const [keys, values] = [F.clone(c!), F.clone(c!)];
    const y = F.ropeAttention(x!, n!.reshape([b, 1]), { keys, values, length: n! });
    return F.cat([y.contiguous(), keys, values].map((t) => F.cast(t, "f32").reshape([-1])));
  },
  reference: ([x, c, n]) => {
    const positions = ref([b, 1]);
    positions.data.set(n!.data);
    const [q, k] = [headsRef(x!, 0, hq), headsRef(x!, hq, hkv)].map((part) => ropeRef(part, positions, 10000, 2));
    const keys = cacheWriteRef(c!, k!, [...n!.data]);
    const values = cacheWriteRef(c!, headsRef(x!, hq + hkv, hkv), [...n!.data]);
    const y = decodeRef(q!, keys, values, [...n!.data], []);
    const data = Float64Array.from([...y.data, ...keys.data, ...values.data]);
    return { shape: [data.length], data };
  },
  terms: capacity * d,
  gradient: false,
  variants: ["whole", "chunks"].map((name) => ({ family: "attention_decode", name })),
});

/** An empty cache of int8, and one with these keys and values [B, Hkv, capacity, D]. */
const emptyInt8 = (like: Tensor): Tensor => {
  const { dtype, columns } = cacheStorage("int8", like.dim(3));
  return F.zeros([...like.shape.slice(0, 3), columns], { dtype, device: like.device });
};
function int8Caches(k: Tensor, v: Tensor): [Tensor, Tensor] {
  const [keys, values] = [emptyInt8(k), emptyInt8(v)];
  F.cacheWrite(keys, values, k, v, tensor(Uint32Array.of(0), { device: k.device }));
  return [keys, values];
}

const BYTE = F.expression("byte", "(a >> vec4u(u32(s.x))) & vec4u(255u)");
/** Bytes of words [..., N] as u32 [..., N, 4]. */
const bytesOf = (words: Tensor): Tensor => F.stack([0, 8, 16, 24].map((bit) => F.map(BYTE, [words], { scalars: [bit] })), -1); // prettier-ignore

/** Rows of `rows` whose cache is int8. */
const int8Cases = (
  { sizes: [b, hq, hkv, tq, capacity, d], lengths, starts, windows = false }: Row,
  dtype: DType,
): Case[] => [
  {
    op: "attentionDecode",
    note: `int8 length ${lengths.join(",")}${starts ? ` from ${starts.join(",")}` : ""}`,
    inputs: [
      { shape: [b, hq, tq, d], dtype },
      { shape: [b, hkv, capacity, d], low: -2, high: 2 },
      { shape: [b, hkv, capacity, d] },
      constant("u32", lengths),
      ...(starts ? [constant("i32", starts)] : []),
    ],
    run: ([q, k, v, n, s]) => F.attentionDecode(q!, ...int8Caches(k!, v!), n!, s ? { starts: s } : {}),
    reference: ([q, k, v, n, s]) =>
      decodeRef(q!, int8Ref(k!).values, int8Ref(v!).values, [...n!.data], s ? [...s.data] : []),
    terms: capacity * d,
    gradient: false,
    windows,
  },
  {
    op: "cacheWrite",
    note: `int8 length ${lengths.join(",")}`,
    inputs: [{ shape: [b, hkv, tq, d], dtype, isFinite: true }, constant("u32", lengths)],
    run: ([x, n]) => {
      const cache = ref([b, hkv, capacity, d]).shape;
      const like = F.zeros(cache, { device: x!.device });
      const [keys, values] = [emptyInt8(like), emptyInt8(like)];
      F.cacheWrite(keys, values, x!, F.mul(x!, 2), n!);
      return bytesOf(F.cat([keys, values], 0));
    },
    reference: ([x, n]) => {
      const parts = [1, 2].map((times) => {
        const { bytes } = int8Ref(mapRef((v) => times * v, x!));
        const flat = ref([b, hkv, tq, bytes.shape[3]! * 4], bytes.data);
        return cacheWriteRef(ref([b, hkv, capacity, flat.shape[3]!]), flat, [...n!.data]).data;
      });
      const data = Float64Array.from(parts.flatMap((part) => [...part]));
      return { shape: [2 * b, hkv, capacity, data.length / (8 * b * hkv * capacity), 4], data };
    },
    gradient: false,
    windows,
  },
];

/** Sizes, and lengths of the rows, of steps from a cache of int8: heads of a part of a group, of one, of an odd number, and of several words of scales. */
const int8Steps: readonly (readonly [Sizes, readonly number[]])[] = [
  [{ b: 1, hq: 1, hkv: 1, capacity: 33, d: 8 }, [32]],
  [{ b: 3, hq: 4, hkv: 2, capacity: 16, d: 32 }, [9, 15, 0]],
  [{ b: 2, hq: 2, hkv: 1, capacity: 70, d: 72 }, [65, 3]],
  [{ b: 1, hq: 2, hkv: 2, capacity: 130, d: 128 }, [129]],
  [{ b: 1, hq: 1, hkv: 1, capacity: 5, d: 256 }, [4]],
];
const int8Step = ([{ b, hq, hkv, capacity, d }, lengths]: (typeof int8Steps)[number]): Case => ({
  op: "ropeAttention",
  note: `int8 length ${lengths.join(",")}`,
  inputs: [
    { shape: [b, 1, hq + 2 * hkv, d] },
    { shape: [b, hkv, capacity, d] },
    { shape: [b, hkv, capacity, d] },
    constant("u32", lengths),
  ],
  run: ([x, k, v, n]) => {
    const [keys, values] = int8Caches(k!, v!);
    return F.ropeAttention(x!, n!.reshape([b, 1]), { keys, values, length: n! });
  },
  reference: ([x, k, v, n]) => {
    const positions = ref([b, 1]);
    positions.data.set(n!.data);
    const [q, key] = [headsRef(x!, 0, hq), headsRef(x!, hq, hkv)].map((part) => ropeRef(part, positions, 10000, 2));
    const keys = cacheWriteRef(int8Ref(k!).values, int8Ref(key!).values, [...n!.data]);
    const values = cacheWriteRef(int8Ref(v!).values, int8Ref(headsRef(x!, hq + hkv, hkv)).values, [...n!.data]);
    return decodeRef(q!, keys, values, [...n!.data], []);
  },
  terms: capacity * d,
  gradient: false,
  variants: ["whole", "chunks"].map((name) => ({ family: "attention_decode", name })),
});

const floatCases: Case[] = rows.flatMap(
  ({ sizes: [b, hq, hkv, tq, capacity, d], lengths, starts, cache = "f32", layout, windows = false }) =>
    (["f32", "bf16"] as const).flatMap((dtype): Case[] => [
      {
        op: "attentionDecode",
        note: `length ${lengths.join(",")}${starts ? ` from ${starts.join(",")}` : ""}`,
        inputs: [
          { shape: [b, hq, tq, d], dtype, layout },
          { shape: [b, hkv, capacity, d], dtype: cache, low: -2, high: 2 },
          { shape: [b, hkv, capacity, d], dtype: cache },
          constant("u32", lengths),
          ...(starts ? [constant("i32", starts)] : []),
        ],
        run: ([q, k, v, n, s]) => F.attentionDecode(q!, k!, v!, n!, s ? { starts: s } : {}),
        reference: ([q, k, v, n, s]) => decodeRef(q!, k!, v!, [...n!.data], s ? [...s.data] : []),
        terms: capacity * d,
        gradient: false,
        windows,
      },
      {
        op: "cacheWrite",
        note: `length ${lengths.join(",")}`,
        inputs: [
          { shape: [b, hkv, capacity, d], dtype: cache },
          { shape: [b, hkv, tq, d], dtype, layout },
          constant("u32", lengths),
        ],
        run: ([c, x, n]) => {
          const [keys, values] = [F.clone(c!), F.zerosLike(c!)];
          const twice = F.mul(x!, 2);
          F.cacheWrite(keys, values, x!, twice, n!);
          return F.cat([keys, values], 0);
        },
        reference: ([c, x, n]) => {
          const keys = cacheWriteRef(c!, x!, [...n!.data]);
          const values = cacheWriteRef(
            mapRef(() => 0, c!),
            mapRef((v) => 2 * v, x!),
            [...n!.data],
          );
          return { shape: [2 * b, hkv, capacity, d], data: Float64Array.from([...keys.data, ...values.data]) };
        },
        gradient: false,
        windows,
      },
      {
        op: "ropeCache",
        note: `length ${lengths.join(",")}`,
        inputs: [
          { shape: [b, tq, hq + 2 * hkv, d], dtype, layout },
          { shape: [b, hkv, capacity, d], dtype: cache },
          constant("u32", lengths),
          {
            ...constant(
              "i32",
              Array.from({ length: b * tq }, (_, i) => 7 * i),
            ),
            shape: [b, tq],
          },
        ],
        run: ([x, c, n, p]) => {
          const [keys, values] = [F.clone(c!), F.zerosLike(c!)];
          const q = F.ropeCache(x!, p!, { keys, values, length: n! });
          return F.cat([q.contiguous(), keys, values].map((t) => F.cast(t, "f32").reshape([-1])));
        },
        reference: ([x, c, n, p]) => {
          const heads = (from: number, count: number): Ref => headsRef(x!, from, count);
          const [q, k] = [heads(0, hq), heads(hq, hkv)].map((part) => ropeRef(part, p!, 10000, 2));
          const keys = cacheWriteRef(c!, k!, [...n!.data]);
          const values = cacheWriteRef(mapRef(() => 0, c!), heads(hq + hkv, hkv), [...n!.data]); // prettier-ignore
          const data = Float64Array.from([...q!.data, ...keys.data, ...values.data]);
          return { shape: [data.length], data };
        },
        gradient: false,
        windows,
      },
      ...(tq === 1 && !starts && lengths.length === b ? [ropeAttentionCase({ b, hq, hkv, capacity, d }, lengths, dtype, cache)] : []), // prettier-ignore
      {
        op: "advance",
        inputs: [constant("u32", lengths)],
        run: ([n]) => {
          const x = F.clone(n!);
          F.advance(x, tq);
          return x;
        },
        reference: ([n]) => mapRef((v) => v + tq, n!),
        exact: true,
        gradient: false,
      },
    ]),
);

const withInt8: readonly Row[] = [
  ...rows.filter(({ cache, windows }) => !cache && !windows),
  { sizes: [3, 4, 2, 1, 64, 8], lengths: [9, 63, 0], windows: true }, // windows begin where a launch may bind them
];
export const decodeCases: Case[] = [
  ...floatCases,
  ...withInt8.flatMap((row, i) => [...int8Cases(row, "f32"), ...(i % 4 === 2 ? int8Cases(row, "bf16") : [])]),
  ...int8Steps.map(int8Step),
];
