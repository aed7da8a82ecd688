/** Text generation with any causal model: prompts in a batch, sampling on the device, tokens read back a few steps behind. */
import { ArgumentError, construct, requireArray, shown } from "../engine/index.ts";
import type { Tensor } from "../engine/index.ts";
import type { CausalConfig, CausalModel, PromptRow } from "./causal.ts";
import { TokenDecoder, isFlagged, stepsAhead } from "./decoding.ts";
import type { DecodingOptions, Head } from "./decoding.ts";
import { LogitRules } from "./logit_rules.ts";
import type { RuleOptions } from "./logit_rules.ts";
import { checkLookup, lookupText } from "./prompt_lookup.ts";
import type { LookupOptions } from "./prompt_lookup.ts";
import { PromptError, checkCacheDType, checkContext, checkIds, checkSampling } from "./request.ts";
import type { SamplingOptions } from "./request.ts";
import { Sampler } from "./sampling.ts";

export interface TextOptions extends SamplingOptions, DecodingOptions, RuleOptions, LookupOptions {
  /** Most new tokens (default: 512). */
  readonly maxNewTokens?: number;
}

class TextHead implements Head {
  private readonly model: CausalModel;
  private readonly sampler: Sampler;
  private readonly rules: LogitRules;

  constructor(model: CausalModel, prompts: readonly PromptRow[], options: TextOptions) {
    const { seed = 0 } = options;
    this.model = model;
    this.sampler = new Sampler(
      options,
      prompts.map((_, k) => seed + k),
      model.device,
    );
    this.rules = new LogitRules(model, prompts.map(({ ids }) => ids), options); // prettier-ignore
  }

  sample(hidden: Tensor, step: Tensor, into: Tensor): Tensor {
    const logits = this.rules.apply(this.model.logits(hidden)); // [B, V]
    const tokens = this.sampler.sample(logits, step, { into });
    this.rules.see(tokens);
    return tokens;
  }

  embed(tokens: Tensor): Tensor {
    return this.model.embedText(tokens.unsqueeze(1));
  }

  dispose(): void {
    this.sampler.dispose();
    this.rules.dispose();
  }
}

/** Checks the arguments of `generateText`. Throws `PromptError`, `ArgumentError` or `DTypeError`. */
export function checkText(config: CausalConfig, prompts: readonly PromptRow[], options: TextOptions): void {
  const { maxNewTokens = 512, repetitionPenalty = 1, suppressTokens = [], cacheDType } = options;
  const { vocabulary, maxPositions } = config;
  if (!Number.isInteger(maxNewTokens) || maxNewTokens < 1)
    throw new ArgumentError(`generateText: maxNewTokens must be a whole number from 1; got ${maxNewTokens}`);
  if (!(typeof repetitionPenalty === "number" && repetitionPenalty > 0 && repetitionPenalty < Infinity))
    throw new ArgumentError(
      `generateText: repetitionPenalty must be a number above 0 (1: none); got ${shown(repetitionPenalty)}`,
    );
  requireArray("generateText", "suppressTokens", suppressTokens);
  checkCacheDType("generateText", cacheDType);
  const strange = Array.from(suppressTokens).findIndex((id) => !Number.isInteger(id) || id < 0 || id >= vocabulary);
  if (new Set(suppressTokens).size >= vocabulary)
    throw new ArgumentError("generateText: suppressTokens must leave a token; got all of them");
  if (strange >= 0)
    throw new ArgumentError(
      `generateText: suppressTokens has ${suppressTokens[strange]}; ids from 0 to ${vocabulary - 1}`,
    );
  if (prompts.length === 0) throw new ArgumentError("generateText: prompts must hold at least one; got none");
  checkSampling("generateText", options, prompts.length);
  checkLookup(options, prompts.length);
  for (const { ids, images, prefix } of prompts) {
    const places = images ? ids.filter((id) => id === images.placeholder).length : 0;
    if (images && places !== images.embeddings.dim(0))
      throw new PromptError(
        `the prompt has places for ${places} image tokens, ${images.embeddings.dim(0)} embeddings came; they must agree`,
      );
    checkIds(ids, vocabulary);
    checkContext(ids, maxNewTokens, maxPositions);
    if (prefix && !(Number.isInteger(prefix.length) && prefix.length > 0 && prefix.length < ids.length))
      throw new PromptError(`generateText: a prefix must have a whole number of ids from 1 to ${ids.length - 1}, fewer than its prompt; got ${prefix.length}`); // prettier-ignore
    if (prefix && images && ids.includes(images.placeholder, prefix.length))
      throw new PromptError("generateText: the prefix of a prompt must contain all its images; got one behind it");
  }
}

/**
 * Yields token ids as they are sampled: each step yields one for each of the B prompts, up to `maxNewTokens` steps. It
 * has no stop condition: stop iterating when the rows are done. Throws `PromptError` and `ArgumentError` before any
 * work, `NotFiniteError` at the step of a row whose logits are not finite.
 * @param isDone rows whose tokens no longer matter: they may become non-finite, and are then 0
 */
export async function* generateText(
  model: CausalModel,
  prompts: readonly PromptRow[],
  options: TextOptions = {},
  isDone: (row: number) => boolean = () => false,
): AsyncGenerator<Uint32Array> {
  const { maxNewTokens = 512, signal } = options;
  checkText(model.language, prompts, options);
  signal?.throwIfAborted();
  if (options.promptLookup !== undefined) {
    for await (const token of lookupText(model, prompts[0]!, options)) yield Uint32Array.of(token);
    return;
  }
  const reads: Promise<Uint32Array>[] = [];
  const decoder = textDecoder(model, prompts, options);
  try {
    const read = (): void => {
      const tokens = decoder.tokens.data() as Promise<Uint32Array>;
      tokens.catch(() => undefined); // the error surfaces when it is awaited
      reads.push(tokens);
    };
    decoder.begin();
    read();
    for (let made = 1; ;) {
      if (reads.length > stepsAhead(decoder.device, 3) || made === maxNewTokens) {
        const step = made - reads.length;
        yield await checkedTokens(await reads.shift()!, step, decoder, prompts, isDone);
        if (made === maxNewTokens && reads.length === 0) return;
        continue;
      }
      signal?.throwIfAborted();
      await decoder.next();
      read();
      made++;
    }
  } finally {
    await Promise.allSettled(reads);
    decoder.dispose();
  }
}

/** The tokens of step `step`, if those of all rows that are not done are finite. */
async function checkedTokens(
  tokens: Uint32Array,
  step: number,
  decoder: TokenDecoder,
  prompts: readonly PromptRow[],
  isDone: (row: number) => boolean,
): Promise<Uint32Array> {
  const row = tokens.findIndex((token, r) => isFlagged(token) && !isDone(r));
  if (row < 0) return tokens.map((token) => (isFlagged(token) ? 0 : token));
  const { images } = prompts[row]!;
  const place = `token ${step} of ${prompts.length === 1 ? "the answer" : `answer ${row}`}`;
  throw await decoder.notFinite(
    { op: "generateText", head: "language head (lm_head)", place, step },
    images ? [["vision tower (image embeddings)", images.embeddings]] : [],
  );
}

/** The decoder used by `generateText`, whose step can be run, counted and timed separately. Options are not checked. */
export function textDecoder(
  model: CausalModel,
  prompts: readonly PromptRow[],
  options: TextOptions = {},
): TokenDecoder {
  const { maxNewTokens: room = 512, ...decoding } = options;
  return construct(() => {
    const head = new TextHead(model, prompts, options);
    const order = prompts.map((_, i) => i);
    return TokenDecoder.prefill(model, head, { prompts, order, samples: prompts.length, room }, decoding);
  });
}
