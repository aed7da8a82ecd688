/** Attention of a decoding step from the joined products of queries, keys and values: rotation, cache and attention in one launch. */
import {
  DTYPES,
  checkNumber,
  checkTensors,
  elementBytes,
  empty,
  gradEnabled,
  grid1d,
  isFloat,
  kernel,
  knownOptions,
  launch,
  scope,
} from "../../engine/index.ts";
import type { Tensor } from "../../engine/index.ts";
import { CHUNK, attentionDecode, decodeVariant } from "../attention/attention_decode.ts";
import type { DecodeOptions } from "../attention/attention_decode.ts";
import { cacheDTypeOf, cacheStorage, cacheStride } from "../attention/cache_format.ts";
import { cacheUses, cachedFloat, entryFloat } from "../attention/cache_libraries.ts";
import { checkIdRange } from "../core/check_ids.ts";
import { finite, standard } from "../core/libraries.ts";
import { contiguousCopy } from "../core/map.ts";
import { frequencies, turns } from "./rope.ts";
import { ropeCache } from "./rope_cache.ts";
import type { Caches } from "./rope_cache.ts";

const step = kernel(
  "rope_attention",
  new URL("./rope_attention.wgsl", import.meta.url),
  { x: "read", frequencies: "read", lengths: "read", keys: "read_write", values: "read_write", parts: "read_write", y: "write" }, // prettier-ignore
  { size: "vec4u", src: "vec4u", chunks: "u32", stride: "u32", scale: "f32", per_row: "u32" },
  [...standard, turns, finite, cachedFloat, entryFloat],
);

export interface RopeAttentionOptions extends DecodeOptions {
  /** Base of the frequencies, as for `rope`. */
  readonly theta?: number;
}

/**
 * x [B, T, Hq + 2 Hkv, D], the heads of queries, keys and values of new tokens → attention of the rotated queries to the cache, [B, Hq, T, D]: the
 * result and the bits of `ropeCache` and `attentionDecode`, one after the other. One launch if T is 1 and `positions` is `caches.length`. No gradient.
 * @throws what these two throw
 */
export function ropeAttention(
  x: Tensor,
  positions: Tensor,
  caches: Caches,
  options: RopeAttentionOptions = {},
): Tensor {
  const op = "ropeAttention";
  knownOptions(op, options, ["theta", "scale", "starts"]);
  const { theta, ...rest } = options;
  checkTensors(op, x, positions, caches.keys, caches.values, caches.length, rest.starts ?? null);
  const fused = rest.starts ? null : fusedStep(x, positions, caches, { theta, scale: rest.scale });
  if (fused) return fused;
  return scope(() => {
    const q = ropeCache(x, positions, caches, theta === undefined ? {} : { theta });
    return attentionDecode(q, caches.keys, caches.values, caches.length, rest);
  });
}

/** True if both are the same elements. */
const isSame = (a: Tensor, b: Tensor): boolean =>
  a.storage === b.storage && a.offset === b.offset && a.size === b.size && a.isContiguous && b.isContiguous;

/** Null for operands that one launch does not take, wrong ones among them. */
function fusedStep(
  x: Tensor,
  positions: Tensor,
  { keys, values, length }: Caches,
  { theta = 10000, scale }: { theta: number | undefined; scale: number | undefined },
): Tensor | null {
  const format = cacheDTypeOf(keys.dtype);
  if (x.rank !== 4 || keys.rank !== 4 || !isFloat(x.dtype) || !format) return null;
  const [b, t, heads, d] = x.shape as [number, number, number, number];
  const [hkv, capacity] = [keys.dim(1), keys.dim(2)];
  const hq = heads - 2 * hkv;
  const caches = [keys, values];
  const { columns } = cacheStorage(format, d);
  const isCache = caches.every(
    (c) => c.shape.join() === `${b},${hkv},${capacity},${columns}` && c.dtype === keys.dtype && c.isBindable,
  );
  const isPlaced = isSame(positions, length) && length.dtype === "u32" && length.rank === 1 && positions.size === b;
  const most = x.device.limits.maxStorageBufferBindingSize;
  const fits = [x, ...caches].every(({ storage }) => storage.bytes <= most) && keys.storage !== values.storage;
  const isWhole = t === 1 && d % 8 === 0 && d <= 4 * CHUNK && hq >= 1 && hq % hkv === 0 && x.size > 0;
  const steps = [b === 1 ? 0 : x.strides[0]!, x.strides[2]!, x.offset];
  const walks = x.strides[3] === 1 && steps.every((n) => n % 4 === 0);
  if (!isCache || !isPlaced || !fits || !isWhole || !walks || (gradEnabled() && x.requiresGrad)) return null;
  const variant = decodeVariant(x.device.capabilities, { d, q: x.dtype, keys: format, capacity });
  if (!variant.shares) return null;
  if (scale !== undefined) checkNumber("ropeAttention", scale, "f32");
  checkIdRange("ropeAttention", "length", length, capacity);
  return scope(() => {
    const chunks = Math.ceil(capacity / CHUNK);
    const y = empty([b, 1, hq, d], { dtype: x.dtype, device: x.device });
    launch(step, {
      use: { x: x.dtype, ...cacheUses(format, "cached", "entry") },
      constants: {
        SHARES: variant.shares!,
        ...(variant.lanes !== CHUNK && { LANES: variant.lanes }),
        WIDTH: d / 4,
      },
      buffers: {
        x: x.strided([(x.storage.bytes * 8) / DTYPES[x.dtype].bits], [1], 0),
        frequencies: frequencies(x.device, d, theta),
        lengths: contiguousCopy(length),
        keys,
        values,
        parts: empty([b * hq, chunks, d + 4], { device: x.device }),
        y,
      },
      params: {
        size: [b, hq, hkv, capacity],
        src: [...steps.map((n) => n / 4), d / 4],
        chunks,
        stride: cacheStride(format, d),
        scale: scale ?? d ** -0.5,
        per_row: length.size > 1 ? 1 : 0,
      },
      grid: grid1d(b * hkv),
      cost: {
        flops: 4 * b * hq * capacity * d,
        bytes: 2 * elementBytes(keys.dtype, keys.size) + elementBytes(x.dtype, x.size + y.size),
      },
    });
    return y.strided([b, hq, 1, d], [hq * d, d, hq * d, 1]);
  });
}
