/** Steps whose losses or gradients are not finite: they change nothing, and too many of them in a row end the run. */
import { JanusError } from "../engine/errors.ts";
import { causeText, someNames } from "./not_finite.ts";
import type { NotFiniteCause } from "./not_finite.ts";

/** Training cannot continue: several steps in a row had gradients that are not finite. The last checkpoint is valid. */
export class TrainingError extends JanusError {}

/** Steps in a row that are skipped before the run ends. */
const MAX_SKIPPED = 3;
export class SkipLimit {
  private inARow = 0;

  /** Counts a step: null, or its message if it was skipped. Throws `TrainingError` at the third skipped step in a row. */
  count(skip: Skip | null): void {
    this.inARow = skip === null ? 0 : this.inARow + 1;
    if (skip && this.inARow >= MAX_SKIPPED)
      throw new TrainingError(`${skip.text}; ${this.inARow} steps in a row: the run ends. ${skip.advice}`);
  }
}

export interface Skip {
  readonly text: string;
  readonly advice: string;
  /** True if the step tried a larger loss scale, which is how the scale is found. Such a step does not count. */
  readonly isSearch?: boolean;
}

export interface SkippedStep {
  /** From 0; messages count from 1, as checkpoints do. */
  readonly step: number;
  /** The values that were not finite. */
  readonly what: string;
  readonly samples: readonly string[];
  /** The cause, if one was found. */
  readonly cause: NotFiniteCause | null | undefined;
  /** Loss scale with which gradients in f16 overflowed. */
  readonly lossScale?: number | undefined;
  readonly unchanged?: string;
}

/** Message about a skipped step. */
export function skipOf({
  step,
  what,
  samples,
  cause,
  lossScale,
  unchanged = "nothing was changed",
}: SkippedStep): Skip {
  const all = someNames(samples);
  if (!cause)
    return { text: `step ${step + 1}: ${what} (${all}); ${unchanged}`, advice: "Lower optimizer.lr, or check these samples" }; // prettier-ignore
  const { found, advice } = causeText(cause, lossScale);
  const others = "samples" in cause ? "" : `; the step's samples: ${all}`;
  return { text: `step ${step + 1}: ${what} (${found}${others}); ${unchanged}`, advice };
}
