/** Rotation of new queries and keys, and the entry of keys and values into their caches: one launch of a decoding step. */
import {
  AutogradError,
  DTYPES,
  ShapeError,
  checkTensors,
  elementBytes,
  empty,
  gradEnabled,
  grid1d,
  kernel,
  knownOptions,
  launch,
  scope,
} from "../../engine/index.ts";
import type { Tensor } from "../../engine/index.ts";
import { cacheWrite, checkCaches } from "../attention/attention_decode.ts";
import { checkIdRange } from "../core/check_ids.ts";
import { standard } from "../core/libraries.ts";
import { contiguousCopy } from "../core/map.ts";
import { frequencies, headsOf, rope, turns } from "./rope.ts";

const rotateInto = kernel(
  "rope_cache",
  new URL("./rope_cache.wgsl", import.meta.url),
  { x: "read", positions: "read", frequencies: "read", lengths: "read", q: "write", keys: "write", values: "write" },
  { size: "vec4u", src: "vec4u", cache: "vec4u" },
  [...standard, turns],
);

/** Caches of keys and values, and how far they are filled. */
export interface Caches {
  /** [B, Hkv, capacity, D], contiguous; or u32 in the format of int8 (`cacheStorage`) */
  readonly keys: Tensor;
  readonly values: Tensor;
  /** u32 [1] or [B] */
  readonly length: Tensor;
}

/**
 * x [B, T, Hq + 2 Hkv, D], the heads of queries, keys and values of new tokens; positions [T] or [B, T] → the rotated queries [B, Hq, T, D], as `rope`
 * makes them. The rotated keys and the values are written into `caches` behind `caches.length` tokens, as `cacheWrite` does. No gradient.
 * @throws ShapeError if the heads of x are too few for the caches, and what `rope` and `cacheWrite` throw
 */
export function ropeCache(
  x: Tensor,
  positions: Tensor,
  caches: Caches,
  options: { readonly theta?: number } = {},
): Tensor {
  const op = "ropeCache";
  knownOptions(op, options, ["theta"]);
  const { keys, values, length } = caches;
  checkTensors(op, x, positions, keys, values, length);
  if (x.rank !== 4) throw new ShapeError(`${op}: x must be [B, T, Hq + 2 Hkv, D]; got ${x}. Reshape it.`);
  const [b, t, heads, d] = x.shape as [number, number, number, number];
  const { heads: hkv, capacity, format } = checkCaches(op, keys, values, length, b, d);
  const hq = heads - 2 * hkv;
  if (hq < 1)
    throw new ShapeError(`${op}: x must have more than twice the cache's ${hkv} heads; got ${x}. Join queries, keys and values.`); // prettier-ignore
  if (gradEnabled() && x.requiresGrad)
    throw new AutogradError(`${op}: x must not need gradients, as the op has none; got ${x}. Call it inside noGrad().`);
  const fits = [x, keys, values].every(
    ({ storage, device }) => storage.bytes <= device.limits.maxStorageBufferBindingSize,
  );
  // Steps from one batch row, token and head to the next, in granules.
  const steps = [0, 1, 2].map((dim) => (x.dim(dim) === 1 ? 0 : x.strides[dim]! / 4));
  const walks = x.strides[3] === 1 && [x.offset / 4, ...steps].every(Number.isInteger);
  const isPlaced = positions.shape.join() === String(t) || positions.shape.join() === `${b},${t}`;
  const isWhole = positions.dtype === "i32" || positions.dtype === "u32";
  if (!fits || !walks || format === "int8" || d % 8 !== 0 || t > capacity || x.size === 0 || !isPlaced || !isWhole)
    return apart(x, positions, caches, { hq, ...options });
  checkIdRange(op, "length", length, capacity - t + 1);
  return scope(() => {
    const q = empty([b, t, hq, d], { dtype: x.dtype, device: x.device });
    const HEADS = headsOf(x.device);
    const half = d / 8;
    launch(rotateInto, {
      use: { x: x.dtype, c: keys.dtype },
      constants: { HEADS, PER_ROW: length.size > 1 },
      buffers: {
        x: x.strided([(x.storage.bytes * 8) / DTYPES[x.dtype].bits], [1], 0),
        positions: contiguousCopy(positions),
        frequencies: frequencies(x.device, d, options.theta ?? 10000),
        lengths: contiguousCopy(length),
        q,
        keys,
        values,
      },
      params: {
        size: [b, t, hq, half],
        src: [...steps, x.offset / 4],
        cache: [hkv, capacity, positions.rank === 2 ? t : 0, 0],
      },
      grid: grid1d(Math.ceil((b * t * Math.ceil(heads / HEADS) * half) / 64)),
      cost: {
        flops: 3 * b * t * (hq + hkv) * d,
        bytes: elementBytes(x.dtype, b * t * (heads + hq) * d) + elementBytes(keys.dtype, 2 * b * t * hkv * d),
      },
    });
    return q.strided([b, hq, t, d], [t * hq * d, d, hq * d, 1]);
  });
}

/** The same by three ops: for operands that one launch does not take, and for their errors. */
function apart(
  x: Tensor,
  positions: Tensor,
  { keys, values, length }: Caches,
  { hq, theta }: { hq: number; theta?: number },
): Tensor {
  return scope(() => {
    const hkv = keys.dim(1);
    const part = (from: number, to: number): Tensor => x.slice(2, from, to).permute([0, 2, 1, 3]);
    const angles = theta === undefined ? {} : { theta };
    const k = rope(part(hq, hq + hkv), positions, angles);
    cacheWrite(keys, values, k, part(hq + hkv, hq + 2 * hkv), length);
    return rope(part(0, hq), positions, angles);
  });
}
