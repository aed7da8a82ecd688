/** References of decoding: the valid prefix of the cache, plain softmax; caches of int8. */
import { ref } from "../reference.ts";
import type { Ref } from "../reference.ts";

/** q [B, Hq, Tq, D], caches [B, Hkv, capacity, D]; query t sees keys starts[b] … lengths[b] + t. */
export function decodeRef(
  q: Ref,
  keys: Ref,
  values: Ref,
  lengths: readonly number[],
  starts: readonly number[],
  scale?: number,
): Ref {
  const [b, hq, tq, d] = q.shape as [number, number, number, number];
  const [hkv, capacity] = [keys.shape[1]!, keys.shape[2]!];
  const y = ref(q.shape);
  for (let n = 0; n < b; n++) {
    for (let h = 0; h < hq; h++) {
      const cache = (n * hkv + Math.floor((h * hkv) / hq)) * capacity;
      for (let t = 0; t < tq; t++) {
        const row = ((n * hq + h) * tq + t) * d;
        const end = Math.min(capacity, (lengths[n] ?? lengths[0]!) + t + 1);
        const seen: [number, number][] = [];
        for (let j = starts[n] ?? 0; j < end; j++) {
          let score = 0;
          for (let c = 0; c < d; c++) score += q.data[row + c]! * keys.data[(cache + j) * d + c]!;
          seen.push([j, Math.exp(score * (scale ?? d ** -0.5))]);
        }
        const sum = seen.reduce((s, [, p]) => s + p, 0);
        for (const [j, p] of seen)
          for (let c = 0; c < d; c++) y.data[row + c]! += (p / sum) * values.data[(cache + j) * d + c]!;
      }
    }
  }
  return y;
}

/** The cache with rows of x [B, H, T, D] at lengths[b] …; tokens beyond the capacity are dropped. */
export function cacheWriteRef(cache: Ref, x: Ref, lengths: readonly number[]): Ref {
  const [b, h, t, d] = x.shape as [number, number, number, number];
  const capacity = cache.shape[2]!;
  const y = ref(cache.shape, cache.data.slice());
  for (let row = 0; row < b * h; row++) {
    for (let i = 0; i < t; i++) {
      const at = (lengths[Math.floor(row / h)] ?? lengths[0]!) + i;
      if (at < capacity)
        for (let c = 0; c < d; c++) y.data[(row * capacity + at) * d + c] = x.data[(row * t + i) * d + c]!;
    }
  }
  return y;
}

const word = new DataView(new ArrayBuffer(4));
const bitsOf = (v: number): number => (word.setFloat32(0, v), word.getUint32(0));
const ofBits = (bits: number): number => (word.setUint32(0, bits), word.getFloat32(0));
/** n rounded to a whole number, ties to even. */
const toEven = (n: number): number => (Math.abs(n % 1) === 0.5 ? 2 * Math.round(n / 2) : Math.round(n));

/** Rows of x [..., D] as a cache of int8 stores them. */
export interface Int8Rows {
  /** The numbers that the rows stand for, [..., D]. */
  readonly values: Ref;
  /** [..., words, 4]: the bytes of each row's words of values and of scales, undefined where a value is not finite. */
  readonly bytes: Ref;
}

/** Rounds groups of 32 values as a cache of int8 does: a scale of 1/127 of the largest, rounded up to bf16, and the nearest multiples; NaN if one is not finite. */
export function int8Ref(x: Ref): Int8Rows {
  const d = x.shape.at(-1)!;
  const words = d / 4 + Math.ceil(d / 64);
  const [rows, values] = [x.data.length / d, ref(x.shape)];
  const bytes = ref([...x.shape.slice(0, -1), words, 4]);
  for (let row = 0; row < rows; row++) {
    for (let first = 0; first < 64 * Math.ceil(d / 64); first += 32) {
      const group = x.data.subarray(row * d + Math.min(first, d), row * d + Math.min(first + 32, d));
      const isFinite = group.every(Number.isFinite);
      const peak = group.reduce((most, v) => Math.max(most, Math.abs(v)), 0);
      const exact = Math.max(Math.fround(Math.fround(peak) * Math.fround(1 / 127)), 2 ** -126);
      const bits = isFinite ? (bitsOf(exact) + 0xffff) >>> 16 : 0x7fc0;
      const scale = ofBits(bits << 16);
      const at = 4 * (row * words + d / 4) + first / 16;
      [bytes.data[at], bytes.data[at + 1]] = [bits & 255, bits >> 8];
      for (const [i, v] of group.entries()) {
        const q = toEven(Math.fround(v / scale));
        values.data[row * d + first + i] = isFinite ? q * scale : NaN;
        bytes.data[4 * row * words + first + i] = q & 255;
      }
    }
  }
  return { values, bytes };
}
