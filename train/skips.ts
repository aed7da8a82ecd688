/** Steps whose losses or gradients are not finite: they change nothing, and too many of them in a row end the run. */
import { JanusError } from "../engine/errors.ts";

/** Training cannot go on: steps whose gradients are not finite, one after the other. The last checkpoint is whole. */
export class TrainingError extends JanusError {}

/** Steps in a row that are skipped before the run ends. */
const MOST_SKIPPED = 3;
/** Samples that a message names; the log has all. */
const MOST_NAMED = 8;

export class SkipLimit {
  private inARow = 0;

  /** Counts a step: null, or what is said of it where it was skipped. Throws `TrainingError` when it is the third such one in a row. */
  count(text: string | null): void {
    this.inARow = text === null ? 0 : this.inARow + 1;
    if (this.inARow >= MOST_SKIPPED)
      throw new TrainingError(
        `${text}; ${this.inARow} steps in a row: the run ends. Lower the learning rate, or look at these samples`,
      );
  }
}

/** What is said of a step (from 0) that was skipped; steps are counted from 1, as checkpoints are. */
export function skipText(
  step: number,
  what: string,
  samples: readonly string[],
  unchanged = "nothing was changed",
): string {
  const more = samples.length - MOST_NAMED;
  const named = [...samples.slice(0, MOST_NAMED), ...(more > 0 ? [`${more} more`] : [])];
  return `step ${step + 1}: ${what} (${named.join(", ")}); ${unchanged}`;
}
