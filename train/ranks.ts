/**
 * The processes that train one model together, as an interface for trainers and the run loop: who writes, which samples
 * of a step are whose, and how counts, results and gradients are put together. Neither knows what carries the messages.
 */
import type { Tensor } from "../engine/index.ts";

export interface Ranks {
  /** Of this process, from 0. */
  readonly rank: number;
  /** Number of processes. */
  readonly size: number;
  /** Runs `work` in rank 0, which alone writes files. Resolves in all of them to its result, which must be JSON, or rejects with its error. */
  once<T>(work: () => Promise<T>): Promise<T>;
  /** The JSON `value` of each process, in rank order. Resolves once every process has given its own. */
  gather<T>(value: T): Promise<readonly T[]>;
  /** Sums the gradient of each parameter over all processes in rank order, in place. All processes name the same parameters in the same order. */
  sumGradients(parameters: Iterable<Tensor>): Promise<void>;
}

/** One process: it writes, and its counts and gradients are already the sums. */
export const ONE_PROCESS: Ranks = {
  rank: 0,
  size: 1,
  once: (work) => work(),
  gather: (value) => Promise.resolve([value]),
  sumGradients: () => Promise.resolve(),
};

/** Each count summed over all processes. */
export async function sumCounts(ranks: Ranks, counts: readonly number[]): Promise<number[]> {
  const all = await ranks.gather(counts);
  return counts.map((_, i) => all.reduce((sum, own) => sum + own[i]!, 0));
}

/** The samples of a step that process `rank` of `size` takes: every `size`-th, so that each has its share of every task. */
export function ownShare<T>(samples: readonly T[], { rank, size }: Pick<Ranks, "rank" | "size">): readonly T[] {
  return size === 1 ? samples : samples.filter((_, i) => i % size === rank);
}

/** Runs `work` in rank 0, and in the others after it, e.g. to open what rank 0 makes. */
export async function firstRankFirst<T>(ranks: Ranks, work: () => Promise<T>): Promise<T> {
  const made = ranks.rank === 0 ? { value: await work() } : null;
  await ranks.gather(null);
  return made ? made.value : work();
}
