/** Text out of the model: prompts in a batch, sampling on the device, tokens read back a few steps behind. */
import { ArgumentError, DTypeError, Generator, construct, isFloat, tensor } from "../../engine/index.ts";
import type { Device, Tensor } from "../../engine/index.ts";
import { arange, copyInto, expression, map, sampleTokens } from "../../kernels/index.ts";
import { Decoder, isFlagged, stepsAhead } from "../decoding.ts";
import type { DecodingOptions, Head, Row } from "../decoding.ts";
import type { JanusConfig } from "./config.ts";
import type { JanusForConditionalGeneration } from "./janus.ts";
import { PromptError, checkContext } from "./prompt.ts";
import { checkSeeds } from "./processor.ts";

export interface SamplingOptions {
  /** Divides the logits; 0 takes the most probable token. */
  readonly temperature?: number;
  /** Only the k most probable tokens. */
  readonly topK?: number;
  /** Of those, only the fewest whose probabilities sum to at least this part (0 < p ≤ 1). */
  readonly topP?: number;
  /** Row k draws as the only row with seed `seed` + k would. A whole number of 32 bits; 0 unless told. */
  readonly seed?: number;
}

export interface TextOptions extends SamplingOptions, DecodingOptions {
  /** 512 unless told. */
  readonly maxNewTokens?: number;
  /** Divides the positive logits of tokens that stand in the prompt or the answer so far, multiplies the negative ones (Keskar et al. 2019); 1 for none. */
  readonly repetitionPenalty?: number;
  /** Ids that are never sampled. */
  readonly suppressTokens?: readonly number[];
}

const penalised = expression("repetition_penalty", "select(a, select(a * s.x, a / s.x, a > V4_a(0.0)), b != V4_b())");
// Beyond every logit, and far from the end of f32.
const NEVER = -1e30;

/** Throws `ArgumentError` for sampling options out of range, before work starts. */
export function checkSampling(
  op: string,
  { temperature = 0, topK, topP, seed = 0 }: SamplingOptions,
  rows: number,
): void {
  if (temperature !== 0 && !(temperature >= 1e-6 && temperature < Infinity))
    throw new ArgumentError(`${op}: temperature ${temperature}; 0 for the most probable token, or at least 1e-6`);
  if (topK !== undefined && (!Number.isInteger(topK) || topK < 1))
    throw new ArgumentError(`${op}: topK ${topK}; a whole number of at least 1`);
  if (topP !== undefined && !(topP > 0 && topP <= 1)) throw new ArgumentError(`${op}: topP ${topP}; 0 < p ≤ 1`);
  checkSeeds(seed, rows);
}

/** Throws `PromptError` unless every id has a row in the embedding. */
export function checkIds(ids: readonly number[], vocabulary: number): void {
  if (ids.length === 0) throw new PromptError("the prompt is empty; it needs at least one token");
  const strange = Array.from(ids).findIndex((id) => !Number.isInteger(id) || id < 0 || id >= vocabulary);
  if (strange >= 0) throw new PromptError(`token id ${ids[strange]} is not in the vocabulary of ${vocabulary}`);
}

/** Draws of a batch of rows on the device. */
export class Sampler {
  private readonly generator: Generator;
  private readonly seeds: Tensor;
  private readonly options: SamplingOptions;

  constructor(options: SamplingOptions, rowSeeds: readonly number[], device: Device) {
    this.options = options;
    this.generator = new Generator(0, { device });
    this.seeds = tensor(Uint32Array.from(rowSeeds), { device }).keep();
  }

  /** logits [N, V] → u32 [N], flagged where they are not finite. */
  sample(logits: Tensor, step: Tensor): Tensor {
    const { temperature = 0, topK, topP } = this.options;
    return sampleTokens(logits, {
      temperature,
      ...(topK !== undefined && { topK }),
      ...(topP !== undefined && { topP }),
      generator: this.generator,
      seeds: this.seeds,
      position: step,
      flagged: true,
    });
  }

  dispose(): void {
    this.generator.dispose();
    this.seeds.dispose();
  }
}

class TextHead implements Head {
  private readonly model: JanusForConditionalGeneration;
  private readonly sampler: Sampler;
  /** f32 [V], added to the logits; null where nothing is suppressed. */
  private readonly bias: Tensor | null;
  /** u32 [B, V]: not 0 where the token has been seen; null without a penalty. */
  private readonly seen: Tensor | null;
  private readonly penalty: number;

  constructor(
    model: JanusForConditionalGeneration,
    vocabulary: number,
    prompts: readonly Row[],
    options: TextOptions,
    device: Device,
  ) {
    const { seed = 0, suppressTokens = [], repetitionPenalty = 1 } = options;
    this.model = model;
    this.sampler = new Sampler(
      options,
      prompts.map((_, k) => seed + k),
      device,
    );
    this.penalty = repetitionPenalty;
    const bias = new Float32Array(vocabulary);
    for (const id of suppressTokens) bias[id] = NEVER;
    this.bias = suppressTokens.length ? tensor(bias, { device }).keep() : null;
    if (repetitionPenalty === 1) this.seen = null;
    else {
      const seen = new Uint32Array(prompts.length * vocabulary);
      for (const [row, { ids }] of prompts.entries()) for (const id of ids) seen[row * vocabulary + id] = 1;
      this.seen = tensor(seen, { shape: [prompts.length, vocabulary], device }).keep();
    }
  }

  sample(hidden: Tensor, step: Tensor): Tensor {
    let logits = this.model.lm_head.call(hidden); // [B, V]
    if (this.seen) logits = map(penalised, [logits, this.seen], { scalars: [this.penalty] });
    if (this.bias) logits = logits.add(this.bias);
    const tokens = this.sampler.sample(logits, step);
    if (this.seen)
      copyInto(
        this.seen,
        this.seen.maximum(
          arange(0, this.seen.dim(1), 1, { dtype: "u32", device: tokens.device }).eq(tokens.unsqueeze(1)),
        ),
      );
    return tokens;
  }

  embed(tokens: Tensor): Tensor {
    return this.model.embedText(tokens.unsqueeze(1));
  }

  dispose(): void {
    this.sampler.dispose();
    this.bias?.dispose();
    this.seen?.dispose();
  }
}

/** Throws `PromptError`, `ArgumentError` and `DTypeError` for what `generateText` would not take. */
export function checkText(config: JanusConfig, prompts: readonly Row[], options: TextOptions): void {
  const { maxNewTokens = 512, repetitionPenalty = 1, suppressTokens = [], cacheDType = "f32" } = options;
  const { vocabulary, maxPositions } = config.language;
  if (!Number.isInteger(maxNewTokens) || maxNewTokens < 1)
    throw new ArgumentError(`generateText: maxNewTokens ${maxNewTokens}; a whole number of at least 1`);
  if (!(repetitionPenalty > 0 && repetitionPenalty < Infinity))
    throw new ArgumentError(`generateText: repetitionPenalty ${repetitionPenalty}; a number above 0, 1 for none`);
  if (!isFloat(cacheDType)) throw new DTypeError(`generateText: cacheDType ${cacheDType}; one of f32, f16, bf16`);
  const strange = Array.from(suppressTokens).findIndex((id) => !Number.isInteger(id) || id < 0 || id >= vocabulary);
  if (new Set(suppressTokens).size >= vocabulary)
    throw new ArgumentError("generateText: suppressTokens has all tokens; leave one");
  if (strange >= 0)
    throw new ArgumentError(
      `generateText: suppressTokens has ${suppressTokens[strange]}; ids from 0 to ${vocabulary - 1}`,
    );
  if (prompts.length === 0) throw new ArgumentError("generateText: no prompts; give at least one");
  checkSampling("generateText", options, prompts.length);
  for (const { ids, images } of prompts) {
    const places = images ? ids.filter((id) => id === images.placeholder).length : 0;
    if (images && places !== images.embeddings.dim(0))
      throw new PromptError(
        `the prompt has places for ${places} image tokens, ${images.embeddings.dim(0)} embeddings came; they must agree`,
      );
    checkIds(ids, vocabulary);
    checkContext(ids, maxNewTokens, maxPositions);
  }
}

/**
 * Token ids as they are sampled: each step gives one for each of the B prompts, up to `maxNewTokens` of them. It knows no end: stop asking when
 * the rows are done. Throws `PromptError` and `ArgumentError` before any work, `NotFiniteError` at the step of a row whose logits are not
 * finite.
 * @param isDone rows whose tokens no longer matter: they may cease to be finite, and give 0 then
 */
export async function* generateText(
  model: JanusForConditionalGeneration,
  config: JanusConfig,
  prompts: readonly Row[],
  options: TextOptions = {},
  isDone: (row: number) => boolean = () => false,
): AsyncGenerator<Uint32Array> {
  const { maxNewTokens = 512, signal } = options;
  checkText(config, prompts, options);
  signal?.throwIfAborted();
  const reads: Promise<Uint32Array>[] = [];
  const decoder = textDecoder(model, config, prompts, options);
  try {
    const read = (): void => {
      const tokens = decoder.tokens.data() as Promise<Uint32Array>;
      tokens.catch(() => undefined); // told when it is awaited
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
  decoder: Decoder,
  prompts: readonly Row[],
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

/** The decoder below `generateText`, whose step can be run, counted and timed by itself. Options are taken as they are. */
export function textDecoder(
  model: JanusForConditionalGeneration,
  config: JanusConfig,
  prompts: readonly Row[],
  options: TextOptions = {},
): Decoder {
  const { device } = model.lm_head.weight;
  const order = prompts.map((_, i) => i);
  return construct(() => {
    const head = new TextHead(model, config.language.vocabulary, prompts, options, device);
    const room = options.maxNewTokens ?? 512;
    return Decoder.prefill(model, config.language, prompts, order, head, prompts.length, room, { ...options, device });
  });
}
