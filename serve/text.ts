/** Answers of all clients: requests wait in order, get a row, take turns with others, and leave it at their last token. */
import type { Tensor } from "../engine/index.ts";
import { Line } from "../model/answers.ts";
import { isFlagged } from "../model/decoding.ts";
import type { Joined, Joining, LiveRow, LiveText } from "../model/live_text.ts";
import type { Janus } from "../model/janus/pipeline.ts";
import { Stops } from "../model/stops.ts";
import type { AnswerResult } from "../model/streams.ts";
import { NotFiniteError, OutOfMemoryError } from "../engine/index.ts";
import type { Metrics } from "./metrics.ts";

export interface TextRequest {
  readonly ids: readonly number[];
  /** float32 [3, S, S] of each image. */
  readonly pixels: readonly Float32Array[];
  /** One choice a seed. */
  readonly seeds: readonly number[];
  readonly temperature: number;
  readonly topP: number;
  readonly maxTokens: number;
  readonly stop: readonly string[];
  readonly stopIds: readonly number[];
  /** Ends the request: its rows are free before the next token. */
  readonly signal: AbortSignal;
  /** Called with text as it comes, and once for each choice with the reason of its end. */
  readonly onText: (choice: number, text: string, finish: AnswerResult["finish"] | null) => void;
}

export interface TextResult {
  readonly choices: readonly { readonly text: string; readonly finish: AnswerResult["finish"]; readonly tokens: number }[]; // prettier-ignore
  readonly queuedMs: number;
  readonly firstTokenMs: number;
}

interface Choice {
  readonly job: Job;
  readonly index: number;
  readonly line: Line;
  row: LiveRow | null;
  /** Tokens since it got its row. */
  turn: number;
}

interface Job {
  readonly request: TextRequest;
  readonly choices: readonly Choice[];
  /** Those that have no row yet, or wait for their next turn. */
  readonly waiting: Choice[];
  readonly startedMs: number;
  embeddings: Tensor | null;
  /** Choices that have not joined yet: they need the embeddings of the images. */
  toJoin: number;
  unfinished: number;
  queuedMs: number;
  firstTokenMs: number;
  isOver: boolean;
  readonly resolve: (result: TextResult) => void;
  readonly reject: (error: unknown) => void;
}

/** Tokens after which an answer lets others have its row, if they wait. */
const TURN = 64;
/** Tokens of prompts, padding included, that are read between two steps of the running answers: more, and they would stall. At least one prompt is read. */
const PROMPT_TOKENS = 512;
/** Milliseconds after which no further prompt is read between two steps. */
const ADMIT_MS = 20;

/** A choice that has its row, and the promise of its first token. */
interface JoinedChoice {
  readonly choice: Choice;
  readonly first: Promise<number>;
}

/** Tokens that are computed to read the prompts of a group together. */
const paddedTokens = (group: readonly Choice[]): number =>
  group.length * Math.max(0, ...group.map(({ job }) => job.request.ids.length));

export class TextService {
  private readonly janus: Janus;
  private readonly live: LiveText;
  private readonly metrics: Metrics;
  /** Jobs with waiting choices, in the order of their next turn. */
  private readonly queue: Job[] = [];
  private readonly running = new Set<Choice>();
  private readonly parked = new Set<Choice>();
  /** Jobs whose signal was aborted since the last step. */
  private aborted: Job[] = [];

  constructor(janus: Janus, live: LiveText, metrics: Metrics) {
    this.janus = janus;
    this.live = live;
    this.metrics = metrics;
  }

  get hasWork(): boolean {
    return this.queue.length > 0 || this.running.size > 0;
  }

  get levels(): { readonly waiting: number; readonly rows: number; readonly parked: number } {
    return { waiting: this.queue.length, rows: this.running.size, parked: this.parked.size };
  }

  /** Throws for a request that cannot be answered, before any work. */
  check({ ids, temperature, topP, seeds }: TextRequest): void {
    for (const seed of seeds) this.live.check(ids, { temperature, topP, seed });
  }

  submit(request: TextRequest): Promise<TextResult> {
    this.check(request);
    return new Promise((resolve, reject) => {
      const choices: Choice[] = [];
      const job: Job = {
        request,
        choices,
        waiting: [],
        startedMs: performance.now(),
        embeddings: null,
        toJoin: request.seeds.length,
        unfinished: request.seeds.length,
        queuedMs: 0,
        firstTokenMs: 0,
        isOver: false,
        resolve,
        reject,
      };
      for (const index of request.seeds.keys()) {
        const line = new Line(request.ids, this.janus.processor.tokenizer.stream(), new Stops(request.stop));
        choices.push({ job, index, line, row: null, turn: 0 });
      }
      job.waiting.push(...choices);
      this.queue.push(job);
      request.signal.addEventListener("abort", () => this.drop(job), { once: true });
      if (request.signal.aborted) this.drop(job);
    });
  }

  /** One token of every running answer, and prompts of those that wait. */
  async step(): Promise<void> {
    this.dropAborted();
    this.takeTurns();
    const started = performance.now();
    const { rows, tokens } = await this.live.step();
    const stepped = new Map([...this.running].map((choice) => [choice.row!, choice]));
    const joined = await this.admit();
    const [sampled, firsts] = await Promise.all([tokens, Promise.all(joined.map(({ first }) => first))]);
    if (rows.length) this.metrics.betweenTokens.observe((performance.now() - started) / 1000);
    for (const [i, row] of rows.entries()) this.push(stepped.get(row), sampled[i]!);
    for (const [i, { choice }] of joined.entries()) this.push(choice, firsts[i]!);
  }

  /** Ends every request with an error. */
  failAll(error: unknown): void {
    const jobs = new Set([...this.queue, ...[...this.running, ...this.parked].map(({ job }) => job)]);
    for (const job of jobs) this.finish(job, () => job.reject(error));
  }

  /** Ends the job before the next token. */
  private drop(job: Job): void {
    if (!job.isOver) this.aborted.push(job);
  }

  private dropAborted(): void {
    for (const job of this.aborted) this.finish(job, () => job.reject(job.request.signal.reason));
    this.aborted = [];
  }

  /** If others wait for a row, the answer that has had the longest turn waits behind them. */
  private takeTurns(): void {
    if (this.queue.length === 0 || this.live.free > 0 || this.parked.size >= this.live.rows) return;
    const [longest] = [...this.running].filter(({ turn }) => turn >= TURN).toSorted((a, b) => b.turn - a.turn);
    if (!longest) return;
    try {
      this.live.park(longest.row!);
    } catch (error) {
      if (error instanceof OutOfMemoryError) return; // there is no memory for it to wait in: it goes on
      throw error;
    }
    this.running.delete(longest);
    this.parked.add(longest);
    longest.job.waiting.push(longest);
    if (!this.queue.includes(longest.job)) this.queue.push(longest.job);
  }

  /** Gives free rows to those that wait, one choice of each request after the other. */
  private async admit(): Promise<readonly JoinedChoice[]> {
    const joined: JoinedChoice[] = [];
    const started = performance.now();
    const mayJoin = (): boolean => tokens === 0 || (tokens < PROMPT_TOKENS && performance.now() - started < ADMIT_MS);
    let tokens = 0;
    while (this.queue.length > 0 && this.live.free > 0 && mayJoin()) {
      if (joined.length > 0) await new Promise<void>((resolve) => setImmediate(resolve)); // connections are served in between
      const group = this.nextGroup(PROMPT_TOKENS - tokens);
      tokens += paddedTokens(group);
      joined.push(...this.join(group));
    }
    return joined;
  }

  /**
   * Takes the next choices that wait, at least one: those whose prompts are read together, with at most `room` tokens. One that waited for its next turn
   * gets its row at once.
   */
  private nextGroup(room: number): readonly Choice[] {
    const group: Choice[] = [];
    while (this.queue.length > 0 && this.live.free > group.length) {
      const [job] = this.queue as [Job];
      const [choice] = job.waiting as [Choice];
      const isParked = this.parked.has(choice);
      const isShared =
        [...group, choice].every((one) => one.job.request.pixels.length === 0) && this.live.readsTogether;
      const fits = isShared && paddedTokens([...group, choice]) <= room;
      if (group.length > 0 && !isParked && !fits) break;
      this.queue.shift();
      job.waiting.shift();
      if (job.waiting.length > 0) this.queue.push(job);
      choice.turn = 0;
      if (!isParked) group.push(choice);
      else {
        this.parked.delete(choice);
        this.live.resume(choice.row!);
        this.running.add(choice);
      }
    }
    return group;
  }

  /** Reads the prompts of choices; those whose prompt cannot be read end their request, and are not among the result. */
  private join(group: readonly Choice[]): readonly JoinedChoice[] {
    const choices = group.filter(({ job }) => !job.isOver);
    if (choices.length === 0) return [];
    try {
      const joined = this.live.joinAll(choices.map((choice) => this.joiningOf(choice)));
      return choices.map((choice, i) => this.noteJoined(choice, joined[i]!));
    } catch (error) {
      this.janus.device.check(); // a lost device ends all requests
      const [{ job }] = choices as [Choice];
      if (choices.length > 1) return choices.flatMap((choice) => this.join([choice])); // whose prompt it was
      this.finish(job, () => job.reject(error));
      return [];
    }
  }

  private joiningOf({ job, index }: Choice): Joining {
    const { ids, pixels, temperature, topP, seeds } = job.request;
    if (pixels.length > 0) job.embeddings ??= this.janus.embedImages(pixels);
    const placeholder = this.janus.processor.tokenizer.specials.imagePlaceholder;
    const prompt = job.embeddings ? { ids, images: { embeddings: job.embeddings, placeholder } } : { ids };
    return { prompt, options: { temperature, topP, seed: seeds[index]! } };
  }

  private noteJoined(choice: Choice, { row, first }: Joined): JoinedChoice {
    const { job } = choice;
    choice.row = row;
    if (job.queuedMs === 0) {
      job.queuedMs = performance.now() - job.startedMs;
      this.metrics.queued.observe({ kind: "text" }, job.queuedMs / 1000);
    }
    if (--job.toJoin === 0) this.freeEmbeddings(job);
    this.running.add(choice);
    return { choice, first };
  }

  private push(choice: Choice | undefined, token: number): void {
    if (!choice || choice.job.isOver) return;
    const { job, line, index } = choice;
    const { maxTokens, stopIds, onText } = job.request;
    if (isFlagged(token)) {
      const at = line.tokenIds.length;
      this.finish(job, () =>
        job.reject(new NotFiniteError("serve", "language model", `token ${at} of the answer`, at)),
      );
      return;
    }
    if (job.firstTokenMs === 0) {
      job.firstTokenMs = performance.now() - job.startedMs;
      this.metrics.firstToken.observe(job.firstTokenMs / 1000);
    }
    choice.turn++;
    const text = line.push(token, new Set(stopIds), maxTokens);
    if (text || line.finish) onText(index, text, line.finish);
    if (!line.finish) return;
    this.leave(choice);
    if (--job.unfinished > 0) return;
    const choices = job.choices.map((one) => ({ text: one.line.text, finish: one.line.finish!, tokens: one.line.tokenIds.length })); // prettier-ignore
    this.metrics.tokens.inc({ kind: "prompt" }, job.request.ids.length);
    this.metrics.tokens.inc({ kind: "completion" }, choices.reduce((sum, one) => sum + one.tokens, 0)); // prettier-ignore
    this.finish(job, () => job.resolve({ choices, queuedMs: job.queuedMs, firstTokenMs: job.firstTokenMs }));
  }

  private leave(choice: Choice): void {
    if (choice.row) this.live.leave(choice.row);
    choice.row = null;
    this.running.delete(choice);
    this.parked.delete(choice);
  }

  private finish(job: Job, settle: () => void): void {
    if (job.isOver) return;
    job.isOver = true;
    for (const choice of job.choices) this.leave(choice);
    this.freeEmbeddings(job);
    const at = this.queue.indexOf(job);
    if (at >= 0) this.queue.splice(at, 1);
    settle();
  }

  private freeEmbeddings(job: Job): void {
    job.embeddings?.dispose();
    job.embeddings = null;
  }
}
