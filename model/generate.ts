/** Text generation with any causal model: prompts in a batch, sampling on the device, tokens read back a few steps behind. */
import { ArgumentError, construct, requireArray, scope, shown, tensor } from "../engine/index.ts";
import type { Tensor } from "../engine/index.ts";
import { arange, copyInto, expression, map } from "../kernels/index.ts";
import type { CausalConfig, CausalModel, PromptRow } from "./causal.ts";
import { TokenDecoder, isFlagged, stepsAhead } from "./decoding.ts";
import type { DecodingOptions, Head } from "./decoding.ts";
import { PromptError, checkCacheDType, checkContext, checkIds, checkSampling } from "./request.ts";
import type { SamplingOptions } from "./request.ts";
import { Sampler } from "./sampling.ts";

export interface TextOptions extends SamplingOptions, DecodingOptions {
  /** Most new tokens (default: 512). */
  readonly maxNewTokens?: number;
  /** Divides the positive logits of tokens that stand in the prompt or the answer so far, multiplies the negative ones (Keskar et al. 2019); 1 for none. */
  readonly repetitionPenalty?: number;
  /** Ids that are never sampled. */
  readonly suppressTokens?: readonly number[];
}

const penalised = expression("repetition_penalty", "select(a, select(a * s.x, a / s.x, a > V4_a(0.0)), b != V4_b())");
// Beyond every logit, and far from the end of f32.
const NEVER = -1e30;

/** What changes logits before a token is drawn: tokens that were seen, and tokens that never come. */
export class LogitRules {
  /** f32 [V], added to the logits; null if nothing is suppressed. */
  private readonly bias: Tensor | null;
  /** u32 [B, V]: not 0 if the token has been seen; null without a penalty. */
  private readonly seen: Tensor | null;
  private readonly penalty: number;

  /** @param rows token ids of the prompt of each row */
  constructor(
    { device, language: { vocabulary } }: Pick<CausalModel, "device" | "language">,
    rows: readonly (readonly number[])[],
    { repetitionPenalty = 1, suppressTokens = [] }: Pick<TextOptions, "repetitionPenalty" | "suppressTokens">,
  ) {
    this.penalty = repetitionPenalty;
    const bias = new Float32Array(vocabulary);
    for (const id of suppressTokens) bias[id] = NEVER;
    this.bias = suppressTokens.length ? tensor(bias, { device }).keep() : null;
    if (repetitionPenalty === 1) this.seen = null;
    else {
      const seen = new Uint32Array(rows.length * vocabulary);
      for (const [row, ids] of rows.entries()) for (const id of ids) seen[row * vocabulary + id] = 1;
      this.seen = tensor(seen, { shape: [rows.length, vocabulary], device }).keep();
    }
  }

  /** logits [R, V] of the first R rows → the same with penalties. */
  apply(logits: Tensor): Tensor {
    let changed = logits;
    if (this.seen) {
      const seen = this.seen.slice(0, 0, logits.dim(0));
      changed = map(penalised, [changed, seen], { scalars: [this.penalty] });
    }
    return this.bias ? changed.add(this.bias) : changed;
  }

  /** Marks the tokens u32 [R] of the first R rows as seen. */
  see(tokens: Tensor): void {
    if (!this.seen) return;
    const seen = this.seen.slice(0, 0, tokens.size);
    const ids = arange(0, this.seen.dim(1), 1, { dtype: "u32", device: tokens.device });
    copyInto(seen, seen.maximum(ids.eq(tokens.unsqueeze(1))));
  }

  /** Row `row` becomes row `from` of `other`. */
  copyRow(row: number, other: LogitRules, from: number): void {
    if (this.seen && other.seen) copyRowInto(this.seen, row, other.seen, from);
  }

  dispose(): void {
    this.bias?.dispose();
    this.seen?.dispose();
  }
}

/** `to[row] = from[at]`, also within one tensor. */
function copyRowInto(to: Tensor, row: number, from: Tensor, at: number): void {
  scope(() => copyInto(to.slice(0, row, row + 1), from.slice(0, at, at + 1).clone()));
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
