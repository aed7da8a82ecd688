/**
 * The processes that train one model together, as an interface for trainers and the run loop: who writes, and how
 * counts and gradients are summed. Neither knows how many there are.
 */
import type { Tensor } from "../engine/index.ts";

export interface Ranks {
  /** Runs `work` in the one process that writes files. Resolves in all of them to its result, which must be JSON, or rejects with its error. */
  once<T>(work: () => Promise<T>): Promise<T>;
  /** Each count summed over all processes. */
  sumCounts(counts: readonly number[]): Promise<readonly number[]>;
  /** Sums the gradient of each parameter over all processes, in place. All processes name the same parameters in the same order. */
  sumGradients(parameters: Iterable<Tensor>): Promise<void>;
}

/** One process: it writes, and its counts and gradients are already the sums. */
export const ONE_PROCESS: Ranks = {
  once: (work) => work(),
  sumCounts: (counts) => Promise.resolve(counts),
  sumGradients: () => Promise.resolve(),
};
