/**
 * The samples of each step: in an order that only seed, data and ratios decide, decoded ahead, bad ones replaced by the next of their task.
 * What is decoded ahead belongs to no state: a loader made from the state after a step continues with exactly the samples that would have come.
 */
import { createHash } from "node:crypto";
import { ArgumentError } from "../../../engine/errors.ts";
import type { JanusError } from "../../../engine/errors.ts";
import { now } from "../../../engine/index.ts";
import { ImageError } from "../../../model/image/image.ts";
import { PromptError } from "../../../model/request.ts";
import { TASKS } from "../../samples.ts";
import type { Sample, Task } from "../../samples.ts";
import { RankError } from "../../ranks.ts";
import type { Ranks } from "../../ranks.ts";
import type { SampleEncoder } from "../../data/encode.ts";
import { RecordError, SampleError, SourceError } from "../../data/errors.ts";
import type { SourceIndex } from "./index_file.ts";
import { checkMixture, stepTasks } from "./mixture.ts";
import type { Mixture, Ratios } from "./mixture.ts";
import { ORDER_VERSION, orderKey, permute } from "./order.ts";
import type { OrderKey, OrderVersion } from "./order.ts";
import { checkState, differences } from "./loader_state.ts";
import type { DataParts, LoaderState } from "./loader_state.ts";
import { Quarantine } from "./quarantine.ts";
import type { BadSample } from "./quarantine.ts";

export type { LoaderState } from "./loader_state.ts";

/** What the loader needs of a source. */
export type LoaderSource = Pick<SourceIndex, "spec" | "task" | "hash" | "count" | "read" | "nameOf">;

/** @typeParam T a sample */
export interface LoaderOptions<T = Sample> {
  readonly seed: number;
  /** Samples a step. */
  readonly batch: number;
  readonly ratios: Ratios;
  /** About so many samples are decoded before they are asked for, at the same time (default: those of a step, but 32 to 128). 0 for none. */
  readonly ahead?: number;
  readonly quarantine?: Quarantine;
  /** Decode only this rank's share of each step; in place of the samples of others are those that `other` makes of their task and name. */
  readonly share?: Share<T>;
}

/** @typeParam T a sample */
export interface Share<T> {
  readonly ranks: Ranks;
  readonly other: (task: Task, name: string) => T;
}

export interface LoadedStep<T = Sample> {
  /** From 0. */
  readonly step: number;
  readonly samples: T[];
  /** After this step. */
  readonly state: LoaderState;
}

type Attempt<T> =
  | { readonly kind: "good"; readonly sample: T }
  /** `index` is the record's among those of all sources of the task. */
  | { readonly kind: "bad"; readonly bad: BadSample; readonly index: number }
  | { readonly kind: "failed"; readonly error: unknown };

const LEAST_AHEAD = 32;
/** Each has a file open. */
const MAX_AHEAD = 128;

/** Errors of the sample itself. Others (a lost device, a full disk, a mistake) end the run. */
export const isBadSample = (error: unknown): error is JanusError =>
  [RecordError, SampleError, ImageError, PromptError].some((kind) => error instanceof kind);

/** A record that one of the ranks could not use, or an error that ends the run. */
interface Found {
  readonly task: Task;
  readonly cursor: number;
  readonly bad?: { readonly bad: BadSample; readonly index: number };
  readonly error?: string;
}

interface StreamOptions {
  readonly seed: number;
  /** Samples that are begun before they are taken. */
  readonly depth: number;
  /** The next sample to be begun. */
  readonly cursor: number;
  readonly version: OrderVersion;
}

/** The samples of a task one after the other, over all its sources and epochs. */
class Stream<T> {
  readonly count: number;
  private readonly task: Task;
  private readonly sources: readonly LoaderSource[];
  private readonly encoder: SampleEncoder<T>;
  private readonly seed: number;
  private readonly depth: number;
  private readonly version: OrderVersion;
  private readonly queue: Promise<Attempt<T>>[] = [];
  /** Samples of this rank's share, by cursor. */
  private readonly begun = new Map<number, Promise<Attempt<T>>>();
  /** Index of the next sample to be begun. */
  private cursor: number;
  private key: { readonly epoch: number; readonly words: OrderKey } | null = null;
  private isDisposed = false;

  constructor(
    task: Task,
    sources: readonly LoaderSource[],
    encoder: SampleEncoder<T>,
    { seed, depth, cursor, version }: StreamOptions,
  ) {
    this.task = task;
    this.sources = sources;
    this.encoder = encoder;
    this.seed = seed;
    this.depth = depth;
    this.version = version;
    this.cursor = cursor;
    this.count = sources.reduce((sum, { count }) => sum + count, 0);
  }

  /** The next sample; others are begun behind it. */
  take(): Promise<Attempt<T>> {
    while (!this.isDisposed && this.queue.length < Math.max(1, this.depth + 1))
      this.queue.push(this.begin(this.cursor++));
    return this.queue.shift()!;
  }

  /** The sample at `cursor`, begun if it was not yet. */
  at(cursor: number): Promise<Attempt<T>> {
    const attempt = this.begun.get(cursor) ?? this.begin(cursor);
    this.begun.set(cursor, attempt);
    return attempt;
  }

  /** Name of the record at `cursor`, which another rank reads. */
  nameAt(cursor: number): Promise<string> {
    const { source, record } = this.place(cursor);
    return source.nameOf(record);
  }

  /** Drops what was begun before `cursor`. */
  forget(cursor: number): void {
    for (const each of this.begun.keys()) if (each < cursor) this.begun.delete(each);
  }

  async dispose(): Promise<void> {
    this.isDisposed = true;
    await Promise.all([...this.queue.splice(0), ...this.begun.values()]);
  }

  private place(cursor: number): { source: LoaderSource; record: number; index: number; epoch: number } {
    const epoch = Math.floor(cursor / this.count);
    if (this.key?.epoch !== epoch) this.key = { epoch, words: orderKey(this.seed, this.task, epoch) };
    const index = permute(this.key.words, this.count, cursor % this.count, this.version);
    let record = index;
    for (const source of this.sources) {
      if (record < source.count) return { source, record, index, epoch };
      record -= source.count;
    }
    throw new SourceError(`${this.task}: a source has become shorter`);
  }

  /** Never rejects: an error is reported when it is the sample's turn. */
  private async begin(cursor: number): Promise<Attempt<T>> {
    const { source, record, index, epoch } = this.place(cursor);
    let name = source.spec.path;
    try {
      name = await source.nameOf(record);
      const sample = await this.encoder.encode(await source.read(record), {
        id: `${source.hash}:${record}`,
        epoch,
        name,
      });
      return { kind: "good", sample };
    } catch (error) {
      if (!isBadSample(error)) return { kind: "failed", error };
      const reason = error instanceof RecordError ? error.message : `${name}: ${error.message}`;
      return { kind: "bad", bad: { task: this.task, source: source.spec.path, record, reason }, index };
    }
  }
}

/** Throws `SourceError` if a task that the ratios ask for has no samples. */
export function checkSources(
  sources: Readonly<Partial<Record<Task, readonly Pick<LoaderSource, "count">[]>>>,
  ratios: Ratios,
): void {
  for (const task of TASKS) {
    const count = (sources[task] ?? []).reduce((sum, source) => sum + source.count, 0);
    if (ratios[task] > 0 && count === 0)
      throw new SourceError(`the ratio of ${task} is ${ratios[task]} and no source has records for it; add one`);
  }
}

/** @typeParam T what the encoder makes of a record */
export class Loader<T = Sample> {
  /** Time that `next` has waited for samples, ms. */
  waitingMs = 0;
  private readonly mixture: Mixture;
  private readonly seed: number;
  private readonly ahead: number;
  private readonly quarantine: Quarantine;
  private readonly streams = new Map<Task, Stream<T>>();
  private readonly data: string;
  private readonly version: OrderVersion;
  private step: number;
  private cursors: Record<Task, number>;
  private skipped: number;
  /** Bad records by task.  */
  private readonly bad: Readonly<Record<Task, Set<number>>>;
  /** Bad samples of each task since its last good one. */
  private readonly inARow: Record<Task, number> = { und: 0, text: 0, gen: 0 };
  /** `bad` as the state has it: the state is asked for at each step. */
  private readonly badText: Record<Task, string>;
  private readonly of: DataParts;
  private readonly share: Share<T> | null;
  private isRunning = false;
  private failure: Error | null = null;

  /**
   * @param sources of each task; those of a task are one set, of which an epoch has each sample once
   * @param state of an earlier loader of the same sources, seed, batch and ratios
   */
  constructor(
    sources: Readonly<Partial<Record<Task, readonly LoaderSource[]>>>,
    encoder: SampleEncoder<T>,
    options: LoaderOptions<T>,
    state?: LoaderState,
  ) {
    this.share = options.share && options.share.ranks.size > 1 ? options.share : null;
    const { seed, batch, ratios, ahead = Math.min(MAX_AHEAD, Math.max(LEAST_AHEAD, batch)) } = options;
    checkSources(sources, ratios);
    if (!Number.isInteger(ahead) || ahead < 0)
      throw new ArgumentError(`Loader: ahead must be a whole number from 0; got ${ahead}`);
    this.ahead = ahead;
    this.mixture = { ratios, batch };
    checkMixture(this.mixture);
    this.seed = seed;
    this.quarantine = options.quarantine ?? new Quarantine();
    const used = (task: Task): readonly LoaderSource[] => (ratios[task] ? (sources[task] ?? []) : []);
    this.of = {
      seed,
      batch,
      ratios: TASKS.map((task) => ratios[task]),
      sources: TASKS.map((task) => used(task).map(({ hash, count }) => ({ hash, count }))),
    };
    const hashes = this.of.sources.map((all) => all.map(({ hash }) => hash));
    this.data = createHash("sha256")
      .update(JSON.stringify([seed, batch, this.of.ratios, hashes]))
      .digest("hex");
    if (state) checkState(state, this.data, () => differences(state.of, this.of, TASKS.map(used)));
    this.version = state?.version ?? ORDER_VERSION;
    this.step = state?.step ?? 0;
    this.cursors = { und: 0, text: 0, gen: 0, ...state?.cursors };
    this.skipped = state?.skipped ?? 0;
    this.bad = { und: badRecords(state, "und"), text: badRecords(state, "text"), gen: badRecords(state, "gen") };
    this.badText = { und: "", text: "", gen: "", ...state?.bad };
    const whole = TASKS.reduce((sum, task) => sum + ratios[task], 0);
    for (const task of TASKS) {
      if (ratios[task] === 0) continue;
      const own = sources[task] ?? [];
      const other = own.find((source) => source.task !== task);
      if (other) throw new SourceError(`${other.spec.path} is a source for ${other.task}, listed under ${task}`);
      const depth = ahead === 0 ? 0 : Math.max(1, Math.floor((ahead * ratios[task]) / whole));
      const stream = new Stream(task, own, encoder, { seed, depth, cursor: this.cursors[task], version: this.version });
      this.streams.set(task, stream);
    }
  }

  /** Samples of a task in an epoch. */
  epochSize(task: Task): number {
    return this.streams.get(task)?.count ?? 0;
  }

  get state(): LoaderState {
    const { version, step, skipped, data, of } = this;
    return { version, step, cursors: { ...this.cursors }, skipped, bad: { ...this.badText }, data, of };
  }

  /**
   * The samples of the next step. Throws `QuarantineError` if too many records are bad, `SourceError` if all of a task are; then the loader
   * is at its end, as it is if `signal` aborts while bad samples come (it throws the reason; good samples are still returned).
   */
  async next(signal?: AbortSignal): Promise<LoadedStep<T>> {
    if (this.failure) throw this.failure;
    if (this.isRunning) throw new ArgumentError("Loader.next: the previous call is still running; await it first");
    this.isRunning = true;
    try {
      const step = this.step;
      const samples: T[] = [];
      const found = this.share ? await this.settle(this.share, step) : null;
      for (const [i, task] of stepTasks(this.mixture, step, this.seed, this.version).entries())
        samples.push(await (found ? this.takeShared(this.share!, { task, i, found }) : this.take(task, signal)));
      this.step++;
      if (this.share) this.beginShare(this.share);
      return { step, samples, state: this.state };
    } catch (error) {
      this.failure = error instanceof Error ? error : new Error(String(error));
      throw error;
    } finally {
      this.isRunning = false;
    }
  }

  /** Begins nothing more, and waits for what was begun. */
  async dispose(): Promise<void> {
    this.failure ??= new ArgumentError("Loader.next: the loader was disposed");
    await Promise.all([...this.streams.values()].map((stream) => stream.dispose()));
  }

  /**
   * Ranks tell each other which records of a step are bad, until each of its positions has a good one: then all of them set aside the same records, in
   * the same order as one process.
   */
  private async settle({ ranks }: Share<T>, step: number): Promise<readonly Found[]> {
    const found: Found[] = [];
    const settled = new Set<string>();
    for (;;) {
      const own = this.positions(step, found).filter(({ i }) => i % ranks.size === ranks.rank);
      const started = now();
      const news = await Promise.all(
        own.map(async ({ task, cursor }): Promise<Found[]> => {
          const attempt = await this.streams.get(task)!.at(cursor);
          const key = `${task} ${cursor}`;
          if (attempt.kind === "good" || settled.has(key)) return [];
          settled.add(key);
          if (attempt.kind === "bad") return [{ task, cursor, bad: { bad: attempt.bad, index: attempt.index } }];
          this.failure ??= attempt.error instanceof Error ? attempt.error : new Error(String(attempt.error));
          return [{ task, cursor, error: `${ranks.name}: ${this.failure.message}` }];
        }),
      );
      const all = await ranks.gather(news.flat());
      this.waitingMs += now() - started;
      if (this.failure) throw this.failure;
      for (const { error } of all.flat()) if (error !== undefined) throw new RankError(error);
      found.push(...all.flat());
      const isSettled = all.every(({ length }) => length === 0);
      if (isSettled || this.isOverBudget(found) || TASKS.some((task) => this.isAllBad(task, found))) return found;
    }
  }

  /** True if more records are bad than may be: `setAside` ends the run at one of them. */
  private isOverBudget(found: readonly Found[]): boolean {
    const known = TASKS.reduce((sum, task) => sum + this.bad[task].size, 0);
    const added = found.flatMap(({ task, bad }) => (bad && !this.bad[task].has(bad.index) ? [`${task} ${bad.index}`] : [])); // prettier-ignore
    // At most so many will have been seen.
    const seen = TASKS.reduce((sum, task) => sum + Math.min(this.cursors[task] + found.length + this.mixture.batch, this.epochSize(task)), 0); // prettier-ignore
    return known + new Set(added).size > this.quarantine.allowed(seen);
  }

  /** True if as many records as there are come one after the other and are bad: `setAside` ends the run. */
  private isAllBad(task: Task, found: readonly Found[]): boolean {
    const bad = new Set(found.flatMap((each) => (each.task === task ? [each.cursor] : [])));
    let run = this.inARow[task];
    for (const cursor of [...bad].sort((a, b) => a - b)) {
      run = bad.has(cursor - 1) || cursor === this.cursors[task] ? run + 1 : 1;
      if (run >= this.epochSize(task)) return true;
    }
    return false;
  }

  /** Which record, by cursor, each position of a step takes if the bad ones are those in `found`. */
  private positions(step: number, found: readonly Found[]): { task: Task; i: number; cursor: number }[] {
    const bad = new Set(found.map(({ task, cursor }) => `${task} ${cursor}`));
    const next = { ...this.cursors };
    return stepTasks(this.mixture, step, this.seed, this.version).map((task, i) => {
      while (bad.has(`${task} ${next[task]}`)) next[task]++;
      return { task, i, cursor: next[task]++ };
    });
  }

  /** The sample at position `i` of a step whose bad records are known. */
  private async takeShared(
    { ranks, other }: Share<T>,
    { task, i, found }: { readonly task: Task; readonly i: number; readonly found: readonly Found[] },
  ): Promise<T> {
    for (;;) {
      const cursor = this.cursors[task]++;
      const bad = found.find((each) => each.task === task && each.cursor === cursor)?.bad;
      if (bad) {
        await this.setAside(task, bad);
        continue;
      }
      this.inARow[task] = 0;
      const stream = this.streams.get(task)!;
      if (i % ranks.size !== ranks.rank) return other(task, await stream.nameAt(cursor));
      const attempt = await stream.at(cursor);
      stream.forget(cursor + 1);
      return (attempt as Extract<Attempt<T>, { kind: "good" }>).sample; // settled
    }
  }

  /** Begins this rank's samples of the next step. */
  private beginShare({ ranks }: Share<T>): void {
    if (this.ahead === 0) return;
    for (const { task, i, cursor } of this.positions(this.step, []))
      if (i % ranks.size === ranks.rank) void this.streams.get(task)!.at(cursor);
  }

  /** The next good sample of a task. */
  private async take(task: Task, signal: AbortSignal | undefined): Promise<T> {
    for (;;) {
      if (this.failure) throw this.failure;
      const started = now();
      const attempt = await this.streams.get(task)!.take();
      this.waitingMs += now() - started;
      if (attempt.kind === "failed") throw attempt.error;
      this.cursors[task]++;
      if (attempt.kind === "good") {
        this.inARow[task] = 0;
        return attempt.sample;
      }
      await this.setAside(task, attempt);
      signal?.throwIfAborted();
    }
  }

  /** Counts a bad sample. Throws if it is one too many, or the last record of a task that has no good one. */
  private async setAside(
    task: Task,
    { bad, index }: { readonly bad: BadSample; readonly index: number },
  ): Promise<void> {
    this.skipped++;
    this.inARow[task]++;
    if (!this.bad[task].has(index)) this.badText[task] += `${this.badText[task] && ","}${index}`;
    this.bad[task].add(index);
    const count = this.epochSize(task);
    const all = TASKS.reduce((sum, each) => sum + this.bad[each].size, 0);
    const seen = TASKS.reduce((sum, each) => sum + Math.min(this.cursors[each], this.epochSize(each)), 0);
    await this.quarantine.add(bad, all, seen);
    if (this.inARow[task] >= count && this.bad[task].size === count)
      throw new SourceError(
        `none of the ${count} records of ${task} can be used. The last one: ${bad.reason}. Correct the data, or set the ratio of ${task} to 0`,
      );
    // A source without a good record must not keep timers and signals from their turn.
    await new Promise((resolve) => setImmediate(resolve));
  }
}

const badRecords = (state: LoaderState | undefined, task: Task): Set<number> =>
  new Set((state?.bad?.[task] || null)?.split(",").map(Number));
