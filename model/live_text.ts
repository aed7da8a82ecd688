/**
 * Text in rows that join and leave between tokens: answers to several people from one step of the model. A row computes the same bits
 * whatever the other rows are, so each answer is the one that `generateText` gives alone.
 */
import { ArgumentError, Generator, construct, noGrad, scope, tensor } from "../engine/index.ts";
import type { Tensor } from "../engine/index.ts";
import { arange, full, rowSettings, sampleTokens } from "../kernels/index.ts";
import type { CausalModel, PromptRow } from "./causal.ts";
import { CapturedSteps, cacheFor, embedRows, emptyRows, lastStates, readsTogether } from "./decoding.ts";
import type { DecodingOptions } from "./decoding.ts";
import { LogitRules } from "./logit_rules.ts";
import type { TextOptions } from "./generate.ts";
import type { KvCache } from "./llama.ts";
import { PromptError, checkIds, checkSampling } from "./request.ts";
import type { SamplingOptions } from "./request.ts";

/** Settings that all rows share. */
export interface LiveTextOptions
  extends
    Pick<DecodingOptions, "cacheDType" | "eager">,
    Pick<TextOptions, "topK" | "repetitionPenalty" | "suppressTokens"> {
  /** Most rows at once. */
  readonly rows: number;
  /** Most tokens of a prompt and its answer. */
  readonly capacity: number;
}

/** Settings of one row. */
export type RowOptions = Pick<SamplingOptions, "temperature" | "topP" | "seed">;

/** A prompt that joins. */
export interface Joining {
  readonly prompt: PromptRow;
  readonly options: RowOptions;
}

/** A row, and the promise of its first token. */
export interface Joined {
  readonly row: LiveRow;
  readonly first: Promise<number>;
}

/** An answer that is being made. */
export interface LiveRow {
  readonly options: RowOptions;
  /** Tokens whose keys and values are in the cache. */
  readonly length: number;
  /** Tokens sampled so far; while a first token is computed it counts already. */
  readonly made: number;
}

class Row implements LiveRow {
  readonly options: RowOptions;
  slot: number;
  length: number;
  made = 1;
  /** The token that the next step takes; null while it is computed. */
  last: number | null = null;
  /** Keys and values of a row that waits, and its rules; null while it has a slot. */
  parked: { readonly cache: KvCache; readonly rules: LogitRules | null } | null = null;

  constructor(options: RowOptions, slot: number, length: number) {
    this.options = options;
    this.slot = slot;
    this.length = length;
  }
}

/** u32 words from one part of the control tensor to the next that a launch may bind. */
const PART = 64;
const SETTINGS = 4; // words of a row
/** The cache has a multiple of this capacity: a row then begins where a launch may bind it. */
const CAPACITY_STEP = 64;

/** Numbers of rows for which a step is captured. The rows between are computed too, and nobody reads them. */
const BUCKETS = [1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64];
export const MAX_ROWS = BUCKETS.at(-1)!;

/** How the tokens of a step are drawn: each way costs more than the one before it, and gives the same tokens for rows that need less. */
type Draws = "greedy" | "random" | "topP";

function drawsOf(rows: readonly Row[]): Draws {
  const random = rows.filter(({ options: { temperature = 0 } }) => temperature > 0);
  if (random.length === 0) return "greedy";
  return random.some(({ options: { topP = 1 } }) => topP < 1) ? "topP" : "random";
}

export class LiveText {
  readonly rows: number;
  readonly capacity: number;
  private readonly model: CausalModel;
  private readonly options: LiveTextOptions;
  private readonly cache: KvCache;
  private readonly rules: LogitRules;
  private readonly generator: Generator;
  /** u32, uploaded before each step: tokens, lengths, settings of the rows. */
  private readonly control: Tensor;
  /** u32 [rows]: tokens that the last step sampled. */
  private readonly sampled: Tensor;
  private readonly slots: (Row | null)[];
  private readonly captures = new CapturedSteps<string>();

  /** Throws `ArgumentError` for settings out of range, `OutOfMemoryError` if the cache does not fit. */
  constructor(model: CausalModel, options: LiveTextOptions) {
    const { rows, capacity } = options;
    if (!Number.isInteger(rows) || rows < 1 || rows > MAX_ROWS)
      throw new ArgumentError(`LiveText: rows must be a whole number from 1 to ${MAX_ROWS}; got ${rows}. Change it.`);
    if (!Number.isInteger(capacity) || capacity < 2 || capacity > model.language.maxPositions)
      throw new ArgumentError(
        `LiveText: capacity must be a whole number from 2 to the model's ${model.language.maxPositions}; got ${capacity}. Change it.`,
      );
    checkSampling("LiveText", options, 1);
    this.model = model;
    this.options = options;
    [this.rows, this.capacity] = [rows, capacity];
    this.slots = new Array<Row | null>(rows).fill(null);
    const { device } = model;
    [this.cache, this.rules, this.generator, this.control, this.sampled] = construct(() => {
      const words = Math.ceil((2 * PART + SETTINGS * rows) / PART) * PART;
      const zeros = (count: number): Tensor => full([count], 0, { dtype: "u32", device }).keep();
      return [
        cacheFor(model, rows, Math.ceil(capacity / CAPACITY_STEP) * CAPACITY_STEP, options),
        new LogitRules(model, new Array<readonly number[]>(rows).fill([]), options),
        new Generator(0, { device }),
        zeros(words),
        zeros(rows),
      ];
    });
  }

  /** Rows that can join now. */
  get free(): number {
    return this.slots.filter((row) => row === null).length;
  }

  /** Throws what `join` throws for a prompt that cannot be asked. */
  check(ids: readonly number[], options: RowOptions): void {
    checkSampling("LiveText", options, 1);
    checkIds(ids, this.model.language.vocabulary);
    if (ids.length >= this.capacity)
      throw new PromptError(
        `the prompt has ${ids.length} tokens; prompt and answer together may have ${this.capacity}. Shorten the prompt`,
      );
  }

  /** True if prompts without images may be read together: their tokens are the same then. Products of many rows have other bits on GPUs. */
  get readsTogether(): boolean {
    return readsTogether(this.model.device);
  }

  /**
   * Runs a prompt and gives it a row. Its first token comes by the promise; the row takes part in steps once it has come. Throws `PromptError` and
   * `ArgumentError` before any work, `ArgumentError` if no row is free, `OutOfMemoryError`.
   */
  join(prompt: PromptRow, options: RowOptions = {}): Joined {
    return this.joinAll([{ prompt, options }])[0]!;
  }

  /**
   * `join` of several prompts: those without images are read together if `readsTogether`, padded to the longest. If one throws, none has joined.
   */
  joinAll(joining: readonly Joining[]): readonly Joined[] {
    for (const { prompt, options } of joining) this.check(prompt.ids, options);
    const joined: Joined[] = [];
    try {
      while (joined.length < joining.length) joined.push(...this.joinRun(joining.slice(joined.length)));
    } catch (error) {
      for (const { row } of joined) this.leave(row);
      throw error;
    }
    return joined;
  }

  /** Joins the first prompts, as many as can be read together into free places next to one another. */
  private joinRun(joining: readonly Joining[]): readonly Joined[] {
    const slot = this.freeSlot();
    const isPlain = ({ prompt }: Joining): boolean => !prompt.images && this.readsTogether;
    let count = 1;
    while (count < joining.length && this.slots[slot + count] === null && joining.slice(0, count + 1).every(isPlain))
      count++;
    const group = joining.slice(0, count);
    const rows = group.map(({ prompt, options }, i) => new Row(options, slot + i, prompt.ids.length));
    const sampled = construct(() => this.prefill(group, rows)).keep();
    for (const row of rows) this.slots[row.slot] = row;
    const tokens = sampled.data().finally(() => sampled.dispose());
    return rows.map((row, i) => {
      const first = tokens.then((all) => (row.last = all[i]!));
      first.catch(() => undefined); // the caller may await another one of them first
      return { row, first };
    });
  }

  /** The row's place is free at once. */
  leave(live: LiveRow): void {
    const row = live as Row;
    if (this.slots[row.slot] === row) this.slots[row.slot] = null;
    row.parked?.cache.dispose();
    row.parked?.rules?.dispose();
    row.parked = null;
  }

  /** Takes the row's keys and values out of its place, which is free then; `resume` continues with the same bits. */
  park(live: LiveRow): void {
    const row = live as Row;
    row.parked = construct(() => {
      const cache = cacheFor(this.model, 1, row.length, this.options);
      cache.copyRow(0, this.cache, row.slot, row.length);
      const rules = this.ownRules([]);
      rules?.copyRow(0, this.rules, row.slot);
      return { cache, rules };
    });
    this.slots[row.slot] = null;
  }

  /** Gives a parked row a place again. Throws `ArgumentError` if none is free. */
  resume(live: LiveRow): void {
    const row = live as Row;
    row.slot = this.freeSlot();
    const { cache, rules } = row.parked!;
    this.cache.copyRow(row.slot, cache, 0, row.length);
    if (rules) this.rules.copyRow(row.slot, rules, 0);
    this.slots[row.slot] = row;
    cache.dispose();
    rules?.dispose();
    row.parked = null;
  }

  /**
   * Enqueues a step: the next token of every row whose last one has come. Resolves, once it is enqueued, to these rows and the promise of their
   * tokens, flagged as `isFlagged` tells if not finite. Rows may join before the tokens come, but no row may be parked and no other step begin.
   */
  async step(): Promise<{ readonly rows: readonly LiveRow[]; readonly tokens: Promise<readonly number[]> }> {
    this.compact();
    const count = this.slots.findLastIndex((row) => row !== null && row.last !== null) + 1;
    const bucket = this.bucketOf(count);
    if (count === 0) return { rows: [], tokens: Promise.resolve([]) };
    const active = this.slots.slice(0, count).flatMap((row) => (row && row.last !== null ? [row] : []));
    this.upload(active);
    await this.run(bucket, drawsOf(active));
    const slots = active.map(({ slot }) => slot);
    for (const row of active) {
      row.length++;
      row.made++;
    }
    const tokens = this.sampled.data().then((all) => {
      for (const [i, row] of active.entries()) row.last = all[slots[i]!]!;
      return active.map(({ last }) => last!);
    });
    return { rows: active, tokens };
  }

  dispose(): void {
    for (const row of this.slots) if (row) this.leave(row);
    for (const part of [this.captures, this.cache, this.rules, this.generator, this.control, this.sampled])
      part.dispose();
  }

  private freeSlot(): number {
    const slot = this.slots.indexOf(null);
    if (slot < 0) throw new ArgumentError(`LiveText: a row must be free; got ${this.rows} in use. Wait until one leaves.`); // prettier-ignore
    return slot;
  }

  private bucketOf(count: number): number {
    return Math.min(this.rows, BUCKETS.find((bucket) => bucket >= count) ?? this.rows);
  }

  /** Rules of rows with these prompts, if they depend on their tokens. */
  private ownRules(...prompts: readonly (readonly number[])[]): LogitRules | null {
    const { repetitionPenalty = 1 } = this.options;
    return repetitionPenalty === 1 ? null : new LogitRules(this.model, prompts, this.options);
  }

  /** Keys and values of the prompts in the slots of `rows`, which lie next to one another, and the first tokens, u32 [R]. */
  private prefill(group: readonly Joining[], rows: readonly Row[]): Tensor {
    const { device } = this.model;
    const prompts = group.map(({ prompt }) => prompt);
    const [{ slot }] = rows as readonly [Row];
    const rules = this.ownRules(...prompts.map(({ ids }) => ids));
    try {
      return noGrad(() =>
        scope(() => {
          const longest = Math.max(...prompts.map(({ ids }) => ids.length));
          const positions = arange(0, longest, 1, { device });
          const cache = emptyRows(this.cache, slot, rows.length);
          const states = this.model.hidden(embedRows(this.model, prompts, longest), { positions, cache }); // [R, T, hidden]
          const settings = Uint32Array.from(rows.flatMap((row) => this.settingsOf(row, 0)));
          const tokens = this.draw(
            lastStates(states, prompts),
            tensor(settings, { shape: [rows.length, SETTINGS], device }),
            rules ?? this.rules,
            drawsOf(rows),
          );
          if (rules) for (const [i, row] of rows.entries()) this.rules.copyRow(row.slot, rules, i);
          return tokens;
        }),
      );
    } finally {
      rules?.dispose();
    }
  }

  private settingsOf({ options }: Row, position: number): readonly number[] {
    const { seed = 0, temperature = 0, topP = 1 } = options;
    return rowSettings({ seed, position, temperature, topP });
  }

  /** hidden [R, hidden], settings u32 [R, 4] → tokens u32 [R]. */
  private draw(hidden: Tensor, settings: Tensor, rules: LogitRules, draws: Draws, into?: Tensor): Tensor {
    const { topK } = this.options;
    const tokens = sampleTokens(rules.apply(this.model.logits(hidden)), {
      ...(draws === "greedy"
        ? { temperature: 0 }
        : { generator: this.generator, rows: { settings, hasTopP: draws === "topP" } }),
      flagged: true,
      ...(topK !== undefined && { topK }),
      ...(into && { into }),
    });
    rules.see(tokens);
    return tokens;
  }

  /** Moves the last rows into gaps, if then fewer rows need to be computed. */
  private compact(): void {
    const used = this.slots.filter((row) => row !== null).length;
    for (;;) {
      const last = this.slots.findLastIndex((row) => row !== null);
      const gap = this.slots.indexOf(null);
      if (gap < 0 || gap > last || this.bucketOf(used) >= this.bucketOf(last + 1)) return;
      const row = this.slots[last]!;
      this.cache.copyRow(gap, this.cache, last, row.length);
      this.rules.copyRow(gap, this.rules, last);
      row.slot = gap;
      [this.slots[gap], this.slots[last]] = [row, null];
    }
  }

  private upload(active: readonly Row[]): void {
    const words = new Uint32Array(this.control.size); // places without a row: token 0 at position 0
    // A row whose first token has not come is computed too, at the position behind its prompt, which its own step overwrites.
    for (const row of this.slots) if (row) words[PART + row.slot] = row.length;
    for (const row of active) {
      words[row.slot] = row.last!;
      words.set(this.settingsOf(row, row.made), 2 * PART + SETTINGS * row.slot);
    }
    this.control.writeBytes(new Uint8Array(words.buffer));
  }

  private async run(rows: number, draws: Draws): Promise<void> {
    const step = (): null => this.feed(rows, draws);
    if (this.options.eager) step();
    else await this.captures.run(`${rows} ${draws}`, step, { device: this.model.device });
  }

  /** A step of the first `rows` slots. */
  private feed(rows: number, draws: Draws): null {
    return noGrad(() =>
      scope(() => {
        const { model, cache, control } = this;
        const first = (t: Tensor): Tensor => t.slice(0, 0, rows);
        const part = (from: number, words: number): Tensor => control.slice(0, from, from + words);
        const tokens = part(0, rows);
        const length = part(PART, rows);
        const caches = { keys: cache.keys.map(first), values: cache.values.map(first), length };
        const states = model
          .hidden(model.embedText(tokens.unsqueeze(1)), {
            positions: length.reshape([rows, 1]),
            cache: caches,
            decode: true,
          })
          .reshape([rows, -1]);
        const settings = part(2 * PART, SETTINGS * rows).reshape([rows, SETTINGS]);
        this.draw(states, settings, this.rules, draws, first(this.sampled));
        return null;
      }),
    );
  }
}
