/**
 * `Ranks` over any way of passing bytes between processes. Gradients are summed in rank order in f32, which no library of
 * collectives promises (sharding/sums.ts).
 */
import { messageOf } from "../engine/errors.ts";
import type { Tensor } from "../engine/index.ts";
import { BUCKET, RankError } from "./ranks.ts";
import type { Ranks, Traffic, Transport, Wire } from "./ranks.ts";
import { GradientSums } from "./sharding/sums.ts";

export { RankError } from "./ranks.ts";
export type { Transport } from "./ranks.ts";

/** Throws `RankError`, in every process, if one of them has another value for one of these. */
export async function requireSame(ranks: Ranks, own: Readonly<Record<string, string | number>>): Promise<void> {
  const all = await ranks.gather(own);
  for (const name of new Set(all.flatMap((each) => Object.keys(each))))
    for (const [rank, { [name]: other = "none" }] of all.entries()) {
      const { [name]: first = "none" } = all[0]!;
      if (other !== first)
        throw new RankError(`train: all ranks must have the same ${name}; rank 0 has ${first}, rank ${rank} has ${other}. Start them all with the same command, files and release.`); // prettier-ignore
    }
}

/** `Ranks` over any way of passing bytes between processes; gradients are summed in rank order in f32. */
export class RankGroup implements Ranks {
  readonly rank: number;
  readonly size: number;
  readonly name: string;
  readonly traffic: Traffic = { bytes: 0, ms: 0 };
  readonly bucket: number;
  private readonly transport: Transport;
  private readonly wire: Wire;
  /** The last work that was asked for. */
  private last: Promise<unknown> = Promise.resolve();

  /** @param options.bucket elements of gradients that are summed at a time (default: 25 MB of f32) */
  constructor(transport: Transport, options: { readonly bucket?: number } = {}) {
    this.transport = transport;
    this.wire = counting(transport, this.traffic);
    this.rank = transport.rank;
    this.size = transport.size;
    this.name = transport.name ?? `rank ${transport.rank}`;
    this.bucket = options.bucket ?? BUCKET;
  }

  async once<T>(work: () => Promise<T>, meanwhile: () => Promise<void> = () => Promise.resolve()): Promise<T> {
    const isFirst = this.rank === 0;
    const done = await (isFirst ? work() : meanwhile()).then(
      (value) => ({ value, isFailed: false }) as const,
      (error: unknown) => ({ error, isFailed: true }) as const,
    );
    const own = done.isFailed ? { error: `${this.name}: ${messageOf(done.error)}` } : { value: done.value };
    const [first] = await this.gather<{ readonly error?: string; readonly value?: T | void }>(isFirst ? own : {});
    if (done.isFailed) throw done.error;
    if (first!.error !== undefined) throw new RankError(first!.error);
    return (isFirst ? done.value : first!.value) as T;
  }

  async gather<T>(value: T): Promise<readonly T[]> {
    const own = new TextEncoder().encode(JSON.stringify(value));
    const all = await this.enqueue(() => this.transport.allGather(own));
    return all.map((bytes) => JSON.parse(new TextDecoder().decode(bytes)) as T);
  }

  async sumGradients(parameters: Iterable<Tensor>): Promise<void> {
    await new GradientSums(this, [...parameters]).finish();
  }

  inTurn<T>(work: (wire: Wire) => Promise<T>): Promise<T> {
    return this.enqueue(() => work(this.wire));
  }

  private enqueue<T>(work: () => Promise<T>): Promise<T> {
    const done = this.last.then(work);
    this.last = done.catch(() => undefined); // who asked for it gets the error
    return done;
  }
}

/** `transport`, whose messages are counted. */
const counting = (transport: Transport, traffic: Traffic): Wire => ({
  rank: transport.rank,
  size: transport.size,
  tell: (own) => transport.allGather(own),
  allGather: (own, lengths) => {
    traffic.bytes += own.length * (transport.size - 1);
    return transport.allGather(own, lengths);
  },
  allToAll: (parts, lengths) => {
    for (const [to, { length }] of parts.entries()) if (to !== transport.rank) traffic.bytes += length;
    return transport.allToAll(parts, lengths);
  },
});
