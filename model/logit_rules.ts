/** Rules for the logits of text: a penalty for tokens that were seen, and tokens that never come. */
import { scope, tensor } from "../engine/index.ts";
import type { Tensor } from "../engine/index.ts";
import { arange, copyInto, expression, map } from "../kernels/index.ts";
import type { CausalModel } from "./causal.ts";

const penalised = expression("repetition_penalty", "select(a, select(a * s.x, a / s.x, a > V4_a(0.0)), b != V4_b())");
// Beyond every logit, and far from the end of f32.
const NEVER = -1e30;

export interface RuleOptions {
  /** Divides the positive logits of tokens that stand in the prompt or the answer so far, multiplies the negative ones (Keskar et al. 2019); 1 for none. */
  readonly repetitionPenalty?: number;
  /** Ids that are never sampled. */
  readonly suppressTokens?: readonly number[];
}

/** What changes logits before a token is drawn: tokens that were seen, and tokens that never come. */
export class LogitRules {
  /** f32 [V], added to the logits; null if nothing is suppressed. */
  private readonly bias: Tensor | null;
  /** u32 [B, V]: not 0 if the token has been seen; null without a penalty. */
  private readonly seen: Tensor | null;
  private readonly penalty: number;

  /** @param rows token ids of the prompt of each row */
  constructor(
    { device, language: { vocabulary } }: Pick<CausalModel, "device" | "language">,
    rows: readonly (readonly number[])[],
    { repetitionPenalty = 1, suppressTokens = [] }: RuleOptions,
  ) {
    this.penalty = repetitionPenalty;
    const bias = new Float32Array(vocabulary);
    for (const id of suppressTokens) bias[id] = NEVER;
    this.bias = suppressTokens.length ? tensor(bias, { device }).keep() : null;
    if (repetitionPenalty === 1) this.seen = null;
    else {
      const seen = new Uint32Array(rows.length * vocabulary);
      for (const [row, ids] of rows.entries()) for (const id of ids) seen[row * vocabulary + id] = 1;
      this.seen = tensor(seen, { shape: [rows.length, vocabulary], device }).keep();
    }
  }

  /** logits [R, V] of the first R rows → the same with penalties. */
  apply(logits: Tensor): Tensor {
    let changed = logits;
    if (this.seen) {
      const seen = this.seen.slice(0, 0, logits.dim(0));
      changed = map(penalised, [changed, seen], { scalars: [this.penalty] });
    }
    return this.bias ? changed.add(this.bias) : changed;
  }

  /** Marks the tokens u32 [R] of the first R rows as seen. */
  see(tokens: Tensor): void {
    if (!this.seen) return;
    const seen = this.seen.slice(0, 0, tokens.size);
    const ids = arange(0, this.seen.dim(1), 1, { dtype: "u32", device: tokens.device });
    copyInto(seen, seen.maximum(ids.eq(tokens.unsqueeze(1))));
  }

  /** Row `row` becomes row `from` of `other`. */
  copyRow(row: number, other: LogitRules, from: number): void {
    if (this.seen && other.seen) copyRowInto(this.seen, row, other.seen, from);
  }

  dispose(): void {
    this.bias?.dispose();
    this.seen?.dispose();
  }
}

/** `to[row] = from[at]`, also within one tensor. */
function copyRowInto(to: Tensor, row: number, from: Tensor, at: number): void {
  scope(() => copyInto(to.slice(0, row, row + 1), from.slice(0, at, at + 1).clone()));
}
