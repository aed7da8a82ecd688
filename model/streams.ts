/** Streams that run once, e.g. answers: iterate over them, or await the result. */
import { ArgumentError } from "../engine/errors.ts";

export interface AnswerResult {
  /** The decoded text; answers of Janus begin with a space. */
  readonly text: string;
  /** Without the end token. */
  readonly tokenIds: readonly number[];
  readonly promptTokenIds: readonly number[];
  /** Reason for the end of the answer: an end token, a stop string, or `maxNewTokens`. */
  readonly finish: "end" | "stop" | "length";
  readonly timings: { readonly prefillMs: number; readonly decodeMs: number };
}

/**
 * A stream that runs once: iterate over it, or await its result, which starts it. `result()` during and after an iteration resolves to the result
 * of that iteration. A second iteration throws `ArgumentError`.
 */
export class Once<Event, Result> implements AsyncIterable<Event> {
  private readonly run: AsyncGenerator<Event, Result>;
  private readonly ended: Promise<Result>;
  private end!: { resolve: (result: Result) => void; reject: (error: unknown) => void };
  private isTaken = false;

  constructor(run: AsyncGenerator<Event, Result>) {
    this.run = run;
    this.ended = new Promise((resolve, reject) => (this.end = { resolve, reject }));
    this.ended.catch(() => undefined); // the error surfaces for those who await it
  }

  [Symbol.asyncIterator](): AsyncGenerator<Event> {
    if (this.isTaken) throw new ArgumentError("this stream runs once and has started; ask again for another one");
    this.isTaken = true;
    return this.events();
  }

  /** Resolves to the result of the stream. */
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
      this.end.reject(new ArgumentError("the stream was closed before its end, so there is no result; ask again")); // unless it has ended
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
