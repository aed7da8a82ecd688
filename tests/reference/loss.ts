/** References of the losses. */
import { ref } from "../reference.ts";
import type { Ref } from "../reference.ts";

export interface LossSettings {
  readonly ignoreIndex?: number;
  readonly reduction?: "sum" | "mean" | "none";
}

/** −log softmax(logits)[target] of each row; rows whose target is ignored or no class are 0 and do not count. */
export function crossEntropyRef(
  logits: Ref,
  targets: Ref,
  { ignoreIndex = -100, reduction = "mean" }: LossSettings = {},
): Ref {
  const [rows, classes] = logits.shape as [number, number];
  const losses = new Float64Array(rows);
  let count = 0;
  for (let r = 0; r < rows; r++) {
    const target = targets.data[r]!;
    if (target === ignoreIndex || target < 0 || target >= classes) continue;
    const row = logits.data.subarray(r * classes, (r + 1) * classes);
    let top = -Infinity;
    for (const v of row) if (v > top) top = v;
    let sum = 0;
    for (const v of row) sum += Math.exp(v - top);
    losses[r] = top + Math.log(sum) - row[target]!;
    count++;
  }
  if (reduction === "none") return ref([rows], losses);
  let total = 0;
  for (const l of losses) total += l;
  return ref([], [reduction === "sum" ? total : total / Math.max(1, count)]);
}

/** Cross-entropy of x · weightᵗ + bias. */
export function linearCrossEntropyRef(
  x: Ref,
  weight: Ref,
  targets: Ref,
  bias: Ref | null,
  settings: LossSettings,
): Ref {
  const [rows, k] = x.shape as [number, number];
  const classes = weight.shape[0]!;
  const logits = ref([rows, classes]);
  for (let r = 0; r < rows; r++) {
    for (let v = 0; v < classes; v++) {
      let sum = bias ? bias.data[v]! : 0;
      for (let i = 0; i < k; i++) sum += x.data[r * k + i]! * weight.data[v * k + i]!;
      logits.data[r * classes + v] = sum;
    }
  }
  return crossEntropyRef(logits, targets, settings);
}
