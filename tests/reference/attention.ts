/** Attention in float64: the whole matrix of scores, masked, row by row. */
import { ref } from "../reference.ts";
import type { Ref } from "../reference.ts";

export interface AttentionMasks {
  readonly scale?: number;
  readonly causal?: boolean;
  readonly starts?: ArrayLike<number>;
  readonly documents?: ArrayLike<number>;
  /** Keys that count, one number a row of the batch; all if left out. */
  readonly lengths?: ArrayLike<number>;
}

/** q [B, Hq, Tq, D], k, v [B, Hkv, Tk, D] → [B, Hq, Tq, D]; a query without keys gives zeros. Hidden keys count nowhere, whatever they hold. */
export function attentionRef(q: Ref, k: Ref, v: Ref, masks: AttentionMasks = {}): Ref {
  const [batch, heads, queries, d] = q.shape as [number, number, number, number];
  const [, kvHeads, keys] = k.shape as [number, number, number];
  const scale = masks.scale ?? 1 / Math.sqrt(d);
  const out = ref(q.shape);
  const weights = new Float64Array(keys);
  const seen = new Uint8Array(keys);
  for (let b = 0; b < batch; b++) {
    const length = masks.lengths ? masks.lengths[b % masks.lengths.length]! : keys;
    const begin = masks.starts?.[b] ?? 0;
    for (let h = 0; h < heads; h++) {
      const kvHead = b * kvHeads + Math.floor((h * kvHeads) / heads);
      for (let i = 0; i < queries; i++) {
        const row = ((b * heads + h) * queries + i) * d;
        let most = -Infinity;
        for (let j = 0; j < keys; j++) {
          const hidden =
            j >= length ||
            j < begin ||
            (masks.causal && j > length - queries + i) ||
            (masks.documents && masks.documents[b * keys + j] !== masks.documents[b * keys + i]);
          let s = 0;
          if (!hidden) for (let c = 0; c < d; c++) s += q.data[row + c]! * k.data[(kvHead * keys + j) * d + c]!;
          seen[j] = hidden ? 0 : 1;
          weights[j] = hidden ? -Infinity : s * scale;
          most = Math.max(most, weights[j]!);
        }
        if (!seen.includes(1)) continue;
        let total = 0;
        for (let j = 0; j < keys; j++) total += weights[j] = seen[j] ? Math.exp(weights[j]! - most) : 0;
        for (let j = 0; j < keys; j++) {
          const p = weights[j]! / total;
          if (seen[j])
            for (let c = 0; c < d; c++)
              out.data[row + c] = out.data[row + c]! + p * v.data[(kvHead * keys + j) * d + c]!;
        }
      }
    }
  }
  return out;
}
