/**
 * Decoding: attention of a few new tokens to a cache of keys and values whose length lives on the GPU, so that a captured step replays. The
 * grid is that of the full cache; parts beyond the length return at once. None of this is on the tape.
 */
import {
  ArgumentError,
  AutogradError,
  DTypeError,
  ShapeError,
  checkNumber,
  checkTensors,
  elementBytes,
  empty,
  gradEnabled,
  grid1d,
  isFloat,
  kernel,
  launch,
  rowWindows,
  scope,
  shapeText,
  storageBytes,
  knownOptions,
} from "../../engine/index.ts";
import type { Capabilities, DType, Tensor } from "../../engine/index.ts";
import { checkIdRange } from "../core/check_ids.ts";
import { finite, standard } from "../core/libraries.ts";
import { contiguousCopy } from "../core/map.ts";
import { bucket, chooseVariant } from "../core/variants.ts";
import type { Family, Variant } from "../core/variants.ts";
import { cacheDTypeOf, cacheSpan, cacheStorage, cacheStride } from "./cache_format.ts";
import { cacheUses, cachedFloat, entryFloat } from "./cache_libraries.ts";
import type { CacheDType } from "./cache_format.ts";

const partialKernel = kernel(
  "attention_decode",
  new URL("./attention_decode.wgsl", import.meta.url),
  { q: "read", keys: "read", values: "read", lengths: "read", starts: "read", parts: "write" },
  { size: "vec4u", first: "u32", rows: "u32", capacity: "u32", stride: "u32", chunks: "u32", scale: "f32" },
  [...standard, finite, cachedFloat],
);

const combineKernel = kernel(
  "attention_decode_combine",
  new URL("./attention_decode_combine.wgsl", import.meta.url),
  { parts: "read", lengths: "read", y: "write" },
  { size: "vec4u", rows: "u32", chunks: "u32" },
  [...standard, finite],
);

const writeKernel = kernel(
  "cache_write",
  new URL("./cache_write.wgsl", import.meta.url),
  { k: "read", v: "read", lengths: "read", keys: "read_write", values: "read_write" },
  { spans: "u32", tokens: "u32", heads: "u32", capacity: "u32", width: "u32", stride: "u32", first: "u32", source: "u32" }, // prettier-ignore
  [...standard, entryFloat],
);

const advanceKernel = kernel(
  "advance",
  new URL("./advance.wgsl", import.meta.url),
  { x: "read_write" },
  { count: "u32", by: "u32" },
);

/** Queries of D = `d` against a cache, and how both are stored. */
interface DecodeProblem {
  readonly d: number;
  readonly q: DType;
  readonly keys: CacheDType;
  /** Keys that the cache holds. */
  readonly capacity: number;
}

interface DecodeChoice {
  /** Chunks of keys that one workgroup takes at a time in `ropeAttention`, which joins their parts too; null: a launch for each of these. */
  readonly shares: number | null;
  /** Invocations of such a chunk. */
  readonly lanes: number;
}

/** Keys of one part; also the invocations of its workgroup in `attentionDecode`. */
export const CHUNK = 64;
/**
 * Invocations of a chunk in `ropeAttention` on software devices: one vector of the CPU, so that a barrier stops one of them and not eight. On
 * lavapipe 16 rows of 4 heads of 32 take 0.27 ms of processor time instead of 0.85 at 11 keys, and 1.1 instead of 2.0 at 130.
 */
const SOFTWARE_LANES = 8;
/**
 * Keys up to which a workgroup takes those of a head alone on GPUs: two launches less a layer. Beyond, few rows would leave most of a GPU idle.
 * Not yet measured on one.
 */
const MAX_WHOLE = 1024;

/** Both have the same bits: chunks of keys in parts, then their sums. */
const DECODE: readonly Variant<DecodeProblem, DecodeChoice>[] = [
  {
    name: "whole",
    preferred: (c, p) => c.software || p.capacity <= MAX_WHOLE,
    choose: (c, { d }) =>
      c.software
        ? { shares: 1, lanes: Math.max(SOFTWARE_LANES, 2 ** Math.ceil(Math.log2(d / 8))) }
        : { shares: Math.max(1, Math.min(4, Math.floor(c.limits.maxComputeInvocationsPerWorkgroup / CHUNK))), lanes: CHUNK }, // prettier-ignore
  },
  { name: "chunks", choose: () => ({ shares: null, lanes: CHUNK }) },
];
export const DECODE_FAMILY: Family<DecodeProblem, DecodeChoice> = {
  name: "attention_decode",
  table: DECODE,
  classOf: ({ d, q, keys, capacity }) => `${q}·${keys} d${d} ${bucket(capacity)} keys`,
};
export const decodeVariant = (capabilities: Capabilities, problem: DecodeProblem): DecodeChoice =>
  chooseVariant(DECODE_FAMILY, capabilities, problem);

export interface DecodeOptions {
  /** Multiplies the scores; D^−0.5 by default. */
  readonly scale?: number;
  /** i32 or u32 [B]: first key of each row that is seen (left-padded batches). */
  readonly starts?: Tensor;
}

/**
 * softmax(scale · q kᵀ) v over a cache: q [B, Hq, Tq, D], keys and values [B, Hkv, capacity, D], or u32 in the format of int8 (`cacheStorage`)
 * → [B, Hq, Tq, D] of q's dtype, a permuted view of [B, Tq, Hq, D]. Query t attends to the keys from `starts` to length + t, inclusive: write the new tokens
 * first (`cacheWrite`), raise the length after all layers (`advance`). Hq is a multiple of Hkv, D of 4. No gradient.
 * @param length u32 [1], or [B] for rows of different lengths: tokens in the cache before these
 */
export function attentionDecode(
  q: Tensor,
  keys: Tensor,
  values: Tensor,
  length: Tensor,
  options: DecodeOptions = {},
): Tensor {
  const op = "attentionDecode";
  knownOptions(op, options, ["scale", "starts"]);
  checkTensors(op, q, keys, values, length, options.starts ?? null);
  if (q.rank !== 4) throw new ShapeError(`${op}: q must be [B, Hq, Tq, D]; got ${q}. Reshape it.`);
  const [b, hq, tq, d] = q.shape as [number, number, number, number];
  const { heads: hkv, capacity, format, columns } = checkCaches(op, keys, values, length, b, d);
  if (hq % hkv)
    throw new ShapeError(
      `${op}: the number of heads of q must be a multiple of the cache's ${hkv}; got ${hq}. Change one of them.`,
    );
  if (!isFloat(q.dtype)) throw new DTypeError(`${op}: q must have a floating dtype; got ${q}. Cast it to f32 first.`);
  const { starts, scale = d ** -0.5 } = options;
  if (starts && (starts.shape.join() !== String(b) || (starts.dtype !== "i32" && starts.dtype !== "u32")))
    throw new ShapeError(`${op}: starts must be i32 or u32 [${b}]; got ${starts}. Cast or reshape it.`);
  if (!Number.isFinite(scale))
    throw new ArgumentError(`${op}: scale must be a finite number; got ${scale}. Change it.`);
  refuseGradient(op, q, keys, values);
  return scope(() => {
    const y = empty([b, tq, hq, d], { dtype: q.dtype, device: q.device });
    const result = (): Tensor => y.strided([b, hq, tq, d], [tq * hq * d, d, hq * d, 1]);
    if (y.size === 0) return result();
    const queries = contiguousCopy(
      q.strided([b, tq, hq, d], [q.strides[0]!, q.strides[2]!, q.strides[1]!, q.strides[3]!]),
    );
    const chunks = Math.ceil(capacity / CHUNK);
    const parts = empty([b * tq * hq, chunks, d + 4], { device: q.device });
    const width = d / 4;
    const perHead = (hq / hkv) * tq;
    const perRow = length.size > 1;
    const lengths = contiguousCopy(length);
    for (const { start, count } of rowWindows(
      q.device,
      b * hkv,
      [{ rowElements: capacity * columns, dtype: keys.dtype }],
      1,
      op,
    )) {
      const cache = { start: start * capacity * columns, elements: count * capacity * columns };
      launch(partialKernel, {
        use: { q: q.dtype, ...cacheUses(format, "cached") },
        constants: { STARTS: starts !== undefined, PER_ROW: perRow },
        buffers: {
          q: queries,
          keys: { of: keys, ...cache },
          values: { of: values, ...cache },
          lengths,
          starts: starts ? contiguousCopy(starts) : lengths,
          parts,
        },
        params: { size: [hq, tq, hkv, width], first: start, rows: count * perHead, capacity, stride: cacheStride(format, d), chunks, scale }, // prettier-ignore
        grid: grid1d(count * perHead * chunks),
        cost: { flops: 4 * count * perHead * capacity * d, bytes: 2 * elementBytes(keys.dtype, cache.elements) },
      });
    }
    launch(combineKernel, {
      use: { y: y.dtype },
      constants: { PER_ROW: perRow },
      buffers: { parts, lengths, y },
      params: { size: [hq, tq, capacity, width], rows: b * tq * hq, chunks },
      grid: grid1d(Math.ceil((b * tq * hq * width) / 64)),
      cost: { flops: 2 * parts.size, bytes: elementBytes("f32", parts.size) + elementBytes(y.dtype, y.size) },
    });
    return result();
  });
}

/**
 * keys[:, :, length + t] = k[:, :, t] and likewise values, in place: k, v [B, H, T, D] into caches [B, H, capacity, D] (cast to their dtype), or
 * u32 caches in the format of int8 (`cacheStorage`), in which 32 values with one that is not finite become NaN.
 * Tokens beyond the capacity are dropped, and reported by a device with `checks`: check the length on the host. The length is not changed, see `advance`.
 * @param length u32 [1] or [B]: tokens in the cache so far
 */
export function cacheWrite(keys: Tensor, values: Tensor, k: Tensor, v: Tensor, length: Tensor): void {
  const op = "cacheWrite";
  checkTensors(op, keys, values, k, v, length);
  if (k.rank !== 4 || k.shape.join() !== v.shape.join() || k.dtype !== v.dtype || !isFloat(k.dtype))
    throw new ShapeError(
      `${op}: k and v must be float tensors [B, H, T, D] of the same shape and dtype; got ${k} and ${v}. Change one of them.`,
    );
  const [b, h, t, d] = k.shape as [number, number, number, number];
  const { heads, capacity, format, columns } = checkCaches(op, keys, values, length, b, d);
  if (heads !== h)
    throw new ShapeError(
      `${op}: k must have the cache's ${heads} heads; got ${h} for a cache of ${shapeText(keys.shape)}. Use a cache for ${h} heads.`,
    );
  if (t > capacity)
    throw new ShapeError(`${op}: the tokens must fit the cache of ${capacity}; got ${t}. Make the cache larger.`);
  refuseGradient(op, k, v);
  checkIdRange(op, "length", length, capacity - t + 1);
  scope(() => {
    const [newKeys, newValues] = [contiguousCopy(k), contiguousCopy(v)];
    // The new tokens are few: bound whole if they fit, so that only the cache decides on the windows.
    const whole = storageBytes(k.dtype, k.size) <= k.device.limits.maxStorageBufferBindingSize;
    const operands = [
      { rowElements: capacity * columns, dtype: keys.dtype },
      ...(whole ? [] : [{ rowElements: t * d, dtype: k.dtype }]),
    ];
    for (const { start, count } of rowWindows(k.device, t * d ? b * h : 0, operands, 1, op)) {
      const rows = whole ? { start: 0, elements: k.size } : { start: start * t * d, elements: count * t * d };
      const cache = { start: start * capacity * columns, elements: count * capacity * columns };
      const spans = count * t * Math.ceil(d / 4 / cacheSpan(format));
      launch(writeKernel, {
        use: { x: k.dtype, ...cacheUses(format, "entry") },
        constants: { PER_ROW: length.size > 1 },
        buffers: {
          k: { of: newKeys, ...rows },
          v: { of: newValues, ...rows },
          lengths: contiguousCopy(length),
          keys: { of: keys, ...cache },
          values: { of: values, ...cache },
        },
        params: {
          spans,
          tokens: t,
          heads: h,
          capacity,
          width: d / 4,
          stride: cacheStride(format, d),
          first: start,
          source: whole ? (start * t * d) / 4 : 0,
        },
        grid: grid1d(Math.ceil(spans / 64)),
        cost: {
          flops: 0,
          bytes: 2 * (elementBytes(k.dtype, count * t * d) + elementBytes(keys.dtype, count * t * columns)),
        },
      });
    }
  });
}

/** x += by in place, for u32 or i32 lengths and positions on the device. */
export function advance(x: Tensor, by: number): void {
  checkTensors("advance", x);
  if (x.dtype !== "u32" && x.dtype !== "i32") throw new DTypeError(`advance: x must be u32 or i32; got ${x}. Cast it.`);
  checkNumber("advance", by, "u32");
  if (!x.isBindable || x.size > 65535 * 64)
    throw new ShapeError(
      `advance: x must be contiguous with at most ${65535 * 64} elements; got ${x}. Use a smaller tensor.`,
    );
  launch(advanceKernel, {
    buffers: { x },
    params: { count: x.size, by },
    grid: [Math.ceil(x.size / 64)],
    cost: { flops: x.size, bytes: 8 * x.size },
  });
}

/** Sizes of caches, and how they are stored. */
interface CacheSizes {
  readonly heads: number;
  readonly capacity: number;
  readonly format: CacheDType;
  /** Elements of a row of a cache. */
  readonly columns: number;
}

/** Sizes of caches that are right for `batch` rows of heads of `d` elements. */
export function checkCaches(
  op: string,
  keys: Tensor,
  values: Tensor,
  length: Tensor,
  batch: number,
  d: number,
): CacheSizes {
  const format = cacheDTypeOf(keys.dtype);
  if (keys.rank !== 4 || keys.shape.join() !== values.shape.join() || keys.dtype !== values.dtype || !format) {
    throw new ShapeError(
      `${op}: the caches must be float tensors [B, H, capacity, D], or u32 in the format of int8, of the same shape and dtype; got ${keys} and ${values}. Change one of them.`,
    );
  }
  const { columns } = cacheStorage(format, d);
  if (keys.dim(0) !== batch || d % 4 || keys.dim(3) !== columns)
    throw new ShapeError(
      `${op}: the caches must have batch ${batch} and head size ${d}, a multiple of 4${format === "int8" ? `, in rows of ${columns} words` : ""}; got ${shapeText(keys.shape)}. Make new caches.`,
    );
  if (!keys.isBindable || !values.isBindable)
    throw new ShapeError(
      `${op}: the caches must be contiguous, each with its own storage; got ${keys} and ${values}. Make them with zeros().`,
    );
  if (length.dtype !== "u32" || !(length.size === 1 || length.size === batch) || length.rank !== 1)
    throw new ShapeError(`${op}: length must be u32 [1] or [${batch}]; got ${length}. Cast or reshape it.`);
  return { heads: keys.dim(1), capacity: keys.dim(2), format, columns };
}

function refuseGradient(op: string, ...tensors: readonly Tensor[]): void {
  if (gradEnabled() && tensors.some((t) => t.requiresGrad))
    throw new AutogradError(
      `${op}: the inputs must not need gradients, as the op has none; got one that does. Call it inside noGrad().`,
    );
}
