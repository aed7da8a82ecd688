/** Tokens of `generateText` as answers: text that grows by whole characters and ends at the end token, a stop string or a number of tokens. */
import { ArgumentError, now, requireArray, shown } from "../engine/index.ts";
import type { CausalModel, PromptRow } from "./causal.ts";
import { checkText, generateText } from "./generate.ts";
import type { TextOptions } from "./generate.ts";
import { Stops } from "./stops.ts";
import type { AnswerResult } from "./streams.ts";

import type { TextStream, TextTokenizer } from "./tokenizer.ts";

export interface AnswerOptions extends TextOptions {
  /** The answer ends before the first of these. */
  readonly stop?: readonly string[];
  /** Ids that end the answer and are not part of it (default: the tokenizer's end token; in `Janus.ask` the checkpoint's). */
  readonly stopIds?: readonly number[];
}

/** Prompts to answer, ordered so that the most expensive comes last. */
export interface AnswerBatch {
  /** Token ids, checked before `rows` is called. */
  readonly prompts: readonly PromptRow[];
  /** The same prompts with their image embeddings. */
  readonly rows: () => readonly PromptRow[];
}

/** Answers a batch of prompts; yields the text of the first one as it comes. Throws what `generateText` throws. */
export async function* generateAnswers(
  model: CausalModel,
  tokenizer: Pick<TextTokenizer, "stream"> & { readonly specials: Pick<TextTokenizer["specials"], "eos"> },
  { prompts, rows }: AnswerBatch,
  options: AnswerOptions = {},
): AsyncGenerator<string, AnswerResult[]> {
  const { maxNewTokens = 512, stop = [], stopIds = [tokenizer.specials.eos], signal } = options;
  checkStops(stop);
  requireArray("generateAnswers", "stopIds", stopIds);
  const strange = stopIds.find((id) => !Number.isInteger(id) || id < 0 || id >= model.language.vocabulary);
  if (strange !== undefined)
    throw new ArgumentError(
      `generateAnswers: stopIds must be ids from 0 to ${model.language.vocabulary - 1}; got ${strange}`,
    );
  const ends = new Set(stopIds);
  const started = now();
  // What can be refused is refused before images are embedded.
  const lines = prompts.map(({ ids }) => new Line(ids, tokenizer.stream(), new Stops(stop)));
  checkText(model.language, prompts, { ...options, maxNewTokens });
  signal?.throwIfAborted();
  let begun = started;
  const isDone = (row: number): boolean => lines[row]!.finish !== null;
  for await (const tokens of generateText(model, rows(), { ...options, maxNewTokens }, isDone)) {
    if (begun === started) begun = now();
    for (const [i, line] of lines.entries()) {
      const text = line.push(tokens[i]!, ends, maxNewTokens);
      if (i === 0 && text) yield text;
    }
    if (lines.every(({ finish }) => finish !== null)) break;
  }
  const timings = { prefillMs: begun - started, decodeMs: now() - begun };
  return lines.map(({ text, tokenIds, promptTokenIds, finish }) => ({
    text,
    tokenIds,
    promptTokenIds,
    finish: finish!,
    timings,
  }));
}

/** Throws `ArgumentError` unless `stop` is a list of texts: others would never end an answer. */
export function checkStops(stop: readonly string[]): void {
  requireArray("generateAnswers", "stop", stop);
  const strange = stop.findIndex((text) => typeof text !== "string");
  if (strange >= 0)
    throw new ArgumentError(`generateAnswers: stop must be a list of texts; got ${shown(stop[strange])} in it`);
}

/** One row's answer as it grows. */
export class Line {
  text = "";
  finish: AnswerResult["finish"] | null = null;
  readonly tokenIds: number[] = [];
  readonly promptTokenIds: readonly number[];
  private readonly stream: TextStream;
  private readonly stops: Stops;

  constructor(promptTokenIds: readonly number[], stream: TextStream, stops: Stops) {
    this.promptTokenIds = promptTokenIds;
    this.stream = stream;
    this.stops = stops;
  }

  /** Takes a token; returns the text that is certain now. */
  push(id: number, ends: ReadonlySet<number>, most: number): string {
    if (this.finish) return "";
    let text = "";
    if (ends.has(id)) this.finish = "end";
    else {
      this.tokenIds.push(id);
      text = this.stops.push(this.stream.push(id));
      if (this.stops.stopped) this.finish = "stop";
      else if (this.tokenIds.length >= most) this.finish = "length";
    }
    if (this.finish === "end" || this.finish === "length")
      text += this.stops.push(this.stream.flush()) + this.stops.flush();
    if (this.stops.stopped) this.finish = "stop";
    this.text += text;
    return text;
  }
}
