/** Answers and pictures as streams that run once: for those who watch, by iterating; for those who wait, as a promise. */
import { ArgumentError } from "../engine/errors.ts";
import type { RgbImage } from "./image/image.ts";

export interface AnswerResult {
  /** As decoded: answers of Janus begin with a space. */
  readonly text: string;
  /** Without the end token. */
  readonly tokenIds: readonly number[];
  readonly promptTokenIds: readonly number[];
  /** The end token, a stop string, or `maxNewTokens`. */
  readonly finish: "end" | "stop" | "length";
  readonly timings: { readonly prefillMs: number; readonly decodeMs: number };
}

/** A generated picture and all that it takes to make it again. */
export interface Picture {
  readonly image: RgbImage;
  readonly prompt: string;
  readonly seed: number;
  readonly guidance: number;
  readonly temperature: number;
  readonly topK: number | undefined;
  readonly topP: number | undefined;
  /** `Janus.fingerprint` of the model that made it. */
  readonly model: string;
  /** The codes, in raster order. */
  readonly tokenIds: readonly number[];
}

export type GenerateEvent =
  | { readonly type: "progress"; readonly done: number; readonly total: number }
  | { readonly type: "picture"; readonly index: number; readonly picture: Picture };

/**
 * A stream that runs once: iterate over it, or await what it comes to (which starts it). `result()` during and after an iteration gives what
 * that one comes to. Throws `ArgumentError` for a second iteration.
 */
class Once<Event, Result> implements AsyncIterable<Event> {
  private readonly run: AsyncGenerator<Event, Result>;
  private readonly ended: Promise<Result>;
  private end!: { resolve: (result: Result) => void; reject: (error: unknown) => void };
  private isTaken = false;

  constructor(run: AsyncGenerator<Event, Result>) {
    this.run = run;
    this.ended = new Promise((resolve, reject) => (this.end = { resolve, reject }));
    this.ended.catch(() => undefined); // told to those who ask
  }

  [Symbol.asyncIterator](): AsyncGenerator<Event> {
    if (this.isTaken) throw new ArgumentError("this stream is running or has run; it runs once, ask again for another");
    this.isTaken = true;
    return this.events();
  }

  /** What the stream comes to. */
  result(): Promise<Result> {
    if (!this.isTaken) void this.drain();
    return this.ended;
  }

  private async *events(): AsyncGenerator<Event> {
    try {
      for (;;) {
        const step = await this.run.next();
        if (step.done) {
          this.end.resolve(step.value);
          return;
        }
        yield step.value;
      }
    } catch (error) {
      this.end.reject(error);
      throw error;
    } finally {
      await this.run.return(undefined as Result);
      this.end.reject(new ArgumentError("the stream was left before its end; there is no result, ask again")); // unless it has ended
    }
  }

  private async drain(): Promise<void> {
    try {
      for await (const _ of this);
    } catch {
      // `ended` has it
    }
  }
}

/** An answer as it comes: pieces of text, never half a character. */
export class Answer extends Once<string, AnswerResult> {
  /** The whole answer, without white space at its ends. */
  async text(): Promise<string> {
    return (await this.result()).text.trim();
  }
}

/** Pictures as they come. */
export class Pictures extends Once<GenerateEvent, Picture[]> {
  private readonly look: () => Promise<(RgbImage | null)[]>;

  constructor(run: AsyncGenerator<GenerateEvent, Picture[]>, look: () => Promise<(RgbImage | null)[]>) {
    super(run);
    this.look = look;
  }

  images(): Promise<Picture[]> {
    return this.result();
  }

  /**
   * The rows so far of each picture (null before its first row); empty while no codes are sampled, before and after. Costs as much as
   * decoding whole pictures.
   */
  preview(): Promise<(RgbImage | null)[]> {
    return this.look();
  }
}
