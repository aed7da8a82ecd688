/** References of guidance and sampling; random words come from the host's Philox. */
import { philox } from "../../index.ts";
import { ref } from "../reference.ts";
import type { Ref } from "../reference.ts";

export function guidanceRef(logits: Ref, weight: number): Ref {
  const [rows, columns] = logits.shape as [number, number];
  const out = ref([rows / 2, columns]);
  for (let i = 0; i < out.data.length; i++) {
    const at = 2 * Math.floor(i / columns) * columns + (i % columns);
    const [c, u] = [logits.data[at]!, logits.data[at + columns]!];
    out.data[i] = u + weight * (c - u);
  }
  return out;
}

/** Index of the largest value of each row, the lowest among equals; the first NaN, if there is one. */
export function argmaxRef(logits: Ref): Ref {
  const [rows, columns] = logits.shape as [number, number];
  return ref(
    [rows],
    Array.from({ length: rows }, (_, r) => {
      const row = logits.data.subarray(r * columns, (r + 1) * columns);
      const first = row.findIndex(Number.isNaN);
      return first >= 0 ? first : row.reduce((best, v, i) => (v > row[best]! ? i : best), 0);
    }),
  );
}

export interface DrawSettings {
  readonly temperature: number;
  readonly topK?: number;
  readonly topP?: number;
  readonly key: readonly [number, number];
  /** Second to fourth word of the counter: sample, step, site. */
  readonly counter: readonly [number, number, number];
}

/**
 * The token drawn from a row, by sorting. `sure` is false if rounding in f32 could decide otherwise: two best scores, or a probability
 * sum and its bound, closer than 1e-4.
 */
export function drawRef(
  row: Float64Array,
  { temperature, topK, topP = 1, key, counter }: DrawSettings,
): { token: number; allowed: number; sure: boolean } {
  const order = [...row.keys()].sort((a, b) => row[b]! - row[a]! || a - b);
  let allowed = order.slice(0, topK ?? order.length);
  const top = row[order[0]!]!;
  const weights = allowed.map((i) => Math.exp((row[i]! - top) / temperature));
  const total = weights.reduce((a, b) => a + b, 0);
  let sure = true;
  if (topP < 1) {
    let sum = 0;
    let count = 0;
    while (count < weights.length) {
      sum += weights[count++]! / total;
      // A sum that is the bound (ties that divide evenly) is taken as having reached it.
      if (Math.abs(sum - topP) < 1e-4 && Math.abs(sum - topP) > 1e-9) sure = false;
      if (sum >= topP - 1e-9) break;
    }
    allowed = allowed.slice(0, count);
  }
  const scored = allowed.map((i) => {
    const word = philox([Math.floor(i / 4), ...counter], key)[i % 4]!;
    return { i, score: row[i]! / temperature - Math.log(-Math.log1p(-(word + 0.5) / 2 ** 32)) };
  });
  scored.sort((a, b) => b.score - a.score || a.i - b.i);
  if (scored.length > 1 && scored[0]!.score - scored[1]!.score < 1e-4) sure = false;
  return { token: scored[0]!.i, allowed: allowed.length, sure };
}
