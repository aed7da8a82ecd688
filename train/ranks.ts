/**
 * The processes that train one model together, as an interface for trainers and the run loop: who writes, which samples
 * of a step are whose, and how counts, results and gradients are put together. Neither knows what carries the messages.
 */
import { JanusError } from "../engine/errors.ts";
import type { Tensor } from "../engine/index.ts";

/** An error in another process, or processes that do not do the same work. */
export class RankError extends JanusError {}

/** Passes bytes between processes; all of them make the same calls in the same order. */
export interface Transport {
  readonly rank: number;
  readonly size: number;
  /** Name of this process in messages (default: `rank 2`). */
  readonly name?: string;
  /**
   * Gives `own` to all processes; resolves to what each has given, in rank order.
   * @param lengths bytes that each gives, if all processes know them: it saves a message
   */
  allGather(own: Uint8Array, lengths?: readonly number[]): Promise<Uint8Array[]>;
  /**
   * Gives `parts[p]` to process p; resolves to what each has given this one, in rank order.
   * @param lengths bytes that each gives this one, if all processes know what they get: it saves a message
   */
  allToAll(parts: readonly Uint8Array[], lengths?: readonly number[]): Promise<Uint8Array[]>;
}

/** A transport whose messages of gradients and weights are counted. */
export interface Wire extends Transport {
  /** `allGather` of a few bytes, which are not counted. */
  tell(own: Uint8Array): Promise<Uint8Array[]>;
}

/** What training has sent to other processes: gradients and weights, not the few bytes of `gather`, `once` and `tell`. */
export interface Traffic {
  bytes: number;
  /** Time for which the process had nothing else to do, ms. */
  ms: number;
}

export interface Ranks {
  /** Of this process, from 0. */
  readonly rank: number;
  /** Number of processes. */
  readonly size: number;
  /** `rank 2 on HOST` */
  readonly name: string;
  readonly traffic: Traffic;
  /** Elements of gradients that are summed at a time. */
  readonly bucket: number;
  /**
   * Runs `work` in rank 0, which alone writes files. Resolves in all of them to its result, which must be JSON, or rejects with its error.
   * @param meanwhile what the others do until then; if it throws in one, that rank rejects with its error, when rank 0 is done
   */
  once<T>(work: () => Promise<T>, meanwhile?: () => Promise<void>): Promise<T>;
  /** The JSON `value` of each process, in rank order. Resolves once every process has given its own. */
  gather<T>(value: T): Promise<readonly T[]>;
  /** Sums the gradient of each parameter over all processes in rank order, in place. All processes name the same parameters in the same order. */
  sumGradients(parameters: Iterable<Tensor>): Promise<void>;
  /**
   * Runs `work` when all that was asked for before is done. All processes ask for the same in the same order, and make the same calls in it: so
   * messages of work that overlaps do not mix.
   */
  inTurn<T>(work: (wire: Wire) => Promise<T>): Promise<T>;
}

/** Elements of a bucket: 25 MB of f32, as PyTorch's DistributedDataParallel has. */
export const BUCKET = (25 * 2 ** 20) / 4;

const ALONE: Wire = {
  rank: 0,
  size: 1,
  tell: (own) => Promise.resolve([own]),
  allGather: (own) => Promise.resolve([own]),
  allToAll: (parts) => Promise.resolve([...parts]),
};

/** One process: it writes, and its counts and gradients are already the sums. */
export const ONE_PROCESS: Ranks = {
  rank: 0,
  size: 1,
  name: "rank 0",
  traffic: { bytes: 0, ms: 0 },
  bucket: BUCKET,
  once: (work) => work(),
  gather: (value) => Promise.resolve([value]),
  sumGradients: () => Promise.resolve(),
  inTurn: (work) => work(ALONE),
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
