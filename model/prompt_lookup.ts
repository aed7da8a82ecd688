/**
 * Greedy text by prompt lookup (Saxena 2023): what followed the last tokens where they stood before, in the prompt or the answer, is a draft of the
 * next ones, and one step of the model checks it. A row of a step has the bits that it has alone, so the tokens are those of one step each.
 */
import { ArgumentError, construct, noGrad, scope, shown } from "../engine/index.ts";
import type { Tensor } from "../engine/index.ts";
import { copyInto, full, sampleTokens } from "../kernels/index.ts";
import type { CausalModel, PromptRow } from "./causal.ts";
import { CapturedSteps, cacheFor, isFlagged, notFiniteError, runPrompt } from "./decoding.ts";
import type { DecodingOptions } from "./decoding.ts";
import type { KvCache } from "./llama.ts";
import { LogitRules } from "./logit_rules.ts";
import type { RuleOptions } from "./logit_rules.ts";
import type { SamplingOptions } from "./request.ts";

export interface LookupOptions {
  /** Drafts up to so many tokens (at most 15) from what the prompt and the answer say already, for one step to check: the same tokens, in fewer steps where texts repeat. For a single prompt at temperature 0. Default: no. */
  readonly promptLookup?: number;
  /** With `promptLookup`: called after each step with the tokens of its draft and how many of them were right. */
  readonly onLookup?: (step: { readonly drafted: number; readonly accepted: number }) => void;
}

type Options = LookupOptions & SamplingOptions & DecodingOptions & RuleOptions & { readonly maxNewTokens?: number };

/** Tokens of a draft at most: with the token before it, a step has as many rows as keep their bits on every device, with room. */
export const MAX_DRAFT = 15;
/** Tokens at the end that must stand together before, tried from the most. */
const MATCHED = [3, 2];
/** u32 words from one part of the control tensor to the next that a launch may bind. */
const PART = 64;

/** The tokens, at most `most`, behind the latest earlier occurrence of the last tokens of `ids`; empty if there is none. */
export function draftOf(ids: readonly number[], most: number): readonly number[] {
  if (most < 1) return [];
  for (const count of MATCHED) {
    const last = ids.slice(-count);
    for (let at = ids.length - count - 1; at >= 0 && last.length === count; at--)
      if (last.every((id, i) => ids[at + i] === id)) return ids.slice(at + count, at + count + most);
  }
  return [];
}

/** Throws `ArgumentError` for requests whose tokens drafts could change. */
export function checkLookup(options: Options, prompts: number): void {
  const { promptLookup, temperature = 0, repetitionPenalty = 1 } = options;
  if (promptLookup === undefined) return;
  const refuse = (required: string, got: unknown): never => {
    throw new ArgumentError(`generateText: ${required}; got ${shown(got)}. Change it, or leave promptLookup out.`);
  };
  if (!(Number.isInteger(promptLookup) && promptLookup >= 1 && promptLookup <= MAX_DRAFT))
    refuse(`promptLookup must be a whole number from 1 to ${MAX_DRAFT}`, promptLookup);
  if (prompts !== 1) refuse("promptLookup needs a single prompt", prompts);
  if (temperature !== 0) refuse("promptLookup needs temperature 0", temperature);
  if (repetitionPenalty !== 1) refuse("promptLookup needs repetitionPenalty 1", repetitionPenalty);
}

/** Yields the token ids of the answer. The options are checked. Throws `NotFiniteError` at the token whose logits are not finite. */
export async function* lookupText(model: CausalModel, prompt: PromptRow, options: Options): AsyncGenerator<number> {
  const { maxNewTokens = 512, promptLookup = 0, signal, onLookup } = options;
  const decoder = construct(() => new LookupDecoder(model, prompt, prompt.ids.length + maxNewTokens, options));
  try {
    const ids = [...prompt.ids];
    const checked = async (token: number): Promise<number> => {
      if (isFlagged(token)) throw await decoder.notFinite(prompt, ids.length - prompt.ids.length);
      ids.push(token);
      return token;
    };
    yield await checked((await decoder.tokens(1))[0]!);
    for (let made = 1; made < maxNewTokens;) {
      signal?.throwIfAborted();
      const draft = draftOf(ids, Math.min(promptLookup, maxNewTokens - made - 1));
      const next = await decoder.step([ids.at(-1)!, ...draft], ids.length - 1);
      const wrong = draft.findIndex((id, i) => next[i] !== id);
      const accepted = wrong < 0 ? draft.length : wrong;
      onLookup?.({ drafted: draft.length, accepted });
      made += accepted + 1;
      for (const token of next.subarray(0, accepted + 1)) yield await checked(token);
    }
  } finally {
    decoder.dispose();
  }
}

/** A prompt in a cache, and steps of several tokens behind it, one captured for each number of tokens. */
class LookupDecoder {
  private readonly model: CausalModel;
  private readonly options: Options;
  private readonly cache: KvCache;
  private readonly rules: LogitRules;
  /** u32, uploaded before each step: tokens, the length of the cache, positions. */
  private readonly control: Tensor;
  /** u32: the token behind each token of the last step. */
  private readonly sampled: Tensor;
  private readonly captures = new CapturedSteps<number>();
  /** Hidden states of the last step, in the first of [1, tokens, hidden]. */
  private readonly hidden: Tensor;

  constructor(model: CausalModel, prompt: PromptRow, capacity: number, options: Options) {
    const { device } = model;
    [this.model, this.options] = [model, options];
    this.cache = cacheFor(model, 1, capacity, options);
    this.rules = new LogitRules(model, [prompt.ids], options);
    [this.control, this.sampled] = [3, 1].map((parts) => full([parts * PART], 0, { dtype: "u32", device }).keep()) as [Tensor, Tensor]; // prettier-ignore
    this.hidden = noGrad(() =>
      scope(() => {
        const last = runPrompt(model, prompt, this.cache).slice(1, -1);
        this.draw(last);
        return last.expand([1, MAX_DRAFT + 1, last.dim(2)]).clone();
      }),
    ).keep();
  }

  /** The tokens behind the first `count` tokens of the last step. */
  async tokens(count: number): Promise<Uint32Array> {
    return ((await this.sampled.data()) as Uint32Array).subarray(0, count);
  }

  /** Feeds tokens to positions `length` and following. Resolves to the token behind each. */
  async step(tokens: readonly number[], length: number): Promise<Uint32Array> {
    const count = tokens.length;
    const words = new Uint32Array(this.control.size);
    words.set(tokens);
    words[PART] = length;
    words.set(tokens.map((_, i) => length + i), 2 * PART); // prettier-ignore
    this.control.writeBytes(new Uint8Array(words.buffer));
    const step = (): null => this.feed(count);
    const options = { device: this.model.device, verify: this.options.verify ?? false };
    if (this.options.eager) step();
    else await this.captures.run(count, step, options);
    return this.tokens(count);
  }

  notFinite({ images }: PromptRow, step: number): Promise<Error> {
    const inputs = images ? [["vision tower (image embeddings)", images.embeddings] as const] : [];
    const at = { op: "generateText", head: "language head (lm_head)", place: `token ${step} of the answer`, step };
    return notFiniteError(at, [...inputs, ["language model (hidden states)", this.hidden]]);
  }

  dispose(): void {
    for (const part of [this.captures, this.cache, this.rules, this.control, this.sampled, this.hidden]) part.dispose();
  }

  /** The step that is captured. */
  private feed(count: number): null {
    return noGrad(() =>
      scope(() => {
        const { model, control } = this;
        const part = (at: number, words: number): Tensor => control.slice(0, at * PART, at * PART + words);
        const cache = { keys: this.cache.keys, values: this.cache.values, length: part(1, 1) };
        const positions = part(2, count).reshape([1, count]);
        const states = model.hidden(model.embedText(part(0, count).unsqueeze(0)), { positions, cache, decode: true });
        copyInto(this.hidden.slice(1, 0, count), states);
        this.draw(states);
        return null;
      }),
    );
  }

  /** hidden [1, T, hidden] → tokens, in `sampled`. */
  private draw(hidden: Tensor): void {
    const logits = this.rules.apply(this.model.logits(hidden.reshape([hidden.dim(1), -1])));
    sampleTokens(logits, { temperature: 0, flagged: true, into: this.sampled.slice(0, 0, hidden.dim(1)) });
  }
}
