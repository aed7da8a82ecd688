/** References of decoding: the valid prefix of the cache, plain softmax. */
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
