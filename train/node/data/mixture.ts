/**
 * How many samples of each task a step takes. In closed form: of all samples so far generation gets its rounded share, of the others text
 * and understanding get theirs. So every step has exactly the batch's number of samples, no task is ever a whole sample away from its exact
 * share of all so far, none ever goes back (as differences of rounded prefix sums may), and any step is known without those before it.
 */
import { ArgumentError } from "../../../engine/errors.ts";
import { TASKS } from "../../samples.ts";
import type { Task } from "../../samples.ts";
import { ORDER_VERSION, orderKey, permute } from "./order.ts";
import type { OrderVersion } from "./order.ts";

/** Shares of the tasks, whole numbers: und 2, text 3, gen 5. */
export type Ratios = Readonly<Record<Task, number>>;
export type TaskCounts = Record<Task, number>;

export interface Mixture {
  readonly ratios: Ratios;
  /** Samples a step. */
  readonly batch: number;
}

/** Throws `ArgumentError` for shares that are no whole numbers, or are all 0, and for batches of no samples. */
export function checkMixture({ ratios, batch }: Mixture): void {
  for (const task of TASKS) {
    if (!Number.isSafeInteger(ratios[task]) || ratios[task] < 0)
      throw new ArgumentError(
        `the ratio of ${task} must be a whole number from 0 (1:3 for 0.25:0.75); got ${ratios[task]}`,
      );
  }
  if (TASKS.every((task) => ratios[task] === 0))
    throw new ArgumentError("all ratios are 0; give at least one task a share");
  if (!Number.isSafeInteger(batch) || batch < 1)
    throw new ArgumentError(`batch must be a whole number from 1; got ${batch}`);
}

/** Samples of each task in all steps before `step`; they add up to step · batch. */
export function countsBefore({ ratios, batch }: Mixture, step: number): TaskCounts {
  let rest = BigInt(step) * BigInt(batch); // big: the products below leave what a number holds exactly
  let share = TASKS.reduce((sum, task) => sum + BigInt(ratios[task]), 0n);
  const counts = {} as TaskCounts;
  for (const task of [...TASKS].reverse()) {
    const ratio = BigInt(ratios[task]);
    const taken = share === 0n ? 0n : (2n * rest * ratio + share) / (2n * share); // rounded
    counts[task] = Number(taken);
    rest -= taken;
    share -= ratio;
  }
  return counts;
}

/** Samples of each task in `step` (from 0); they add up to the batch. */
export function stepCounts(mixture: Mixture, step: number): TaskCounts {
  const [before, after] = [countsBefore(mixture, step), countsBefore(mixture, step + 1)];
  return Object.fromEntries(TASKS.map((task) => [task, after[task] - before[task]])) as TaskCounts;
}

/** The tasks of the samples of `step` in their order: mixed, so that parts of a step are mixed too, and the same for the same seed. */
export function stepTasks(mixture: Mixture, step: number, seed: number, version: OrderVersion = ORDER_VERSION): Task[] {
  const counts = stepCounts(mixture, step);
  const sorted = TASKS.flatMap((task) => Array.from({ length: counts[task] }, () => task));
  const key = orderKey(seed, "tasks of a step", step);
  return sorted.map((_, i) => sorted[permute(key, sorted.length, i, version)]!);
}
