/** A request to a causal model (a prompt, how to sample), and its checks. Loads neither kernels nor model. */
import { ArgumentError, DTypeError, JanusError } from "../engine/errors.ts";
import { shown } from "../engine/options.ts";
import { CACHE_DTYPES } from "../kernels/attention/cache_format.ts";

export interface SamplingOptions {
  /** Divides the logits; 0 takes the most probable token. */
  readonly temperature?: number;
  /** Only the k most probable tokens. */
  readonly topK?: number;
  /** Keeps only the fewest of those whose probabilities sum to at least this part (0 < p ≤ 1). */
  readonly topP?: number;
  /** Row k draws as the only row with seed `seed` + k would. A whole number of 32 bits (default: 0). */
  readonly seed?: number;
}

const isNumber = (value: unknown): boolean => typeof value === "number";

/** Throws `ArgumentError` for what is no AbortSignal: an AbortController was meant, or it would fail only when it is asked. */
export function checkSignal(op: string, signal: AbortSignal | undefined): void {
  if (signal !== undefined && typeof signal?.throwIfAborted !== "function")
    throw new ArgumentError(`${op}: signal must be an AbortSignal; got ${shown(signal)}. Pass controller.signal`);
}

/** Throws `ArgumentError` for sampling options out of range, before work starts. */
export function checkSampling(
  op: string,
  { temperature = 0, topK, topP, seed = 0 }: SamplingOptions,
  rows: number,
): void {
  // A text like "0.5" compares as the number and would reach the records of how an image was made.
  if (temperature !== 0 && !(isNumber(temperature) && temperature >= 1e-6 && temperature < Infinity))
    throw new ArgumentError(
      `${op}: temperature must be 0 (the most probable token) or a number of at least 1e-6; got ${shown(temperature)}`,
    );
  if (topK !== undefined && (!Number.isInteger(topK) || topK < 1))
    throw new ArgumentError(`${op}: topK must be a whole number from 1; got ${topK}`);
  if (topP !== undefined && !(isNumber(topP) && topP > 0 && topP <= 1))
    throw new ArgumentError(`${op}: topP must be a number above 0, at most 1; got ${shown(topP)}`);
  checkSeeds(seed, rows);
}

/** Throws `ArgumentError` if `seed` or one of the `count` − 1 seeds after it is not a whole number of 32 bits. */
export function checkSeeds(seed: number, count: number): void {
  if (!Number.isInteger(seed) || seed < 0 || seed + count - 1 > 0xffffffff) {
    throw new ArgumentError(
      `seed ${seed}${count > 1 ? ` for ${count} rows` : ""}; whole numbers from 0 to ${0xffffffff}`,
    );
  }
}

/** A prompt that cannot be asked: empty, too long, or with other images than it names. */
export class PromptError extends JanusError {}

/** Throws `PromptError` if there are no ids, or if one has no row in the embedding. */
export function checkIds(ids: readonly number[], vocabulary: number): void {
  if (ids.length === 0) throw new PromptError("the prompt is empty; it needs at least one token");
  const strange = Array.from(ids).findIndex((id) => !Number.isInteger(id) || id < 0 || id >= vocabulary);
  if (strange >= 0) throw new PromptError(`token id ${ids[strange]} is not in the vocabulary of ${vocabulary}`);
}

/** Throws `PromptError` if `ids` and the new tokens do not fit the model's context. */
export function checkContext(ids: readonly number[], newTokens: number, context: number): void {
  if (ids.length + newTokens <= context) return;
  throw new PromptError(
    `the prompt has ${ids.length} tokens and ${newTokens} are to follow; the context has ${context}. Shorten the prompt${newTokens > 1 ? " or ask for fewer" : ""}`,
  );
}

/** Throws `DTypeError` if `dtype` is given and is none for caches. */
export function checkCacheDType(op: string, dtype: unknown): void {
  if (dtype !== undefined && !CACHE_DTYPES.some((one) => one === dtype))
    throw new DTypeError(`${op}: cacheDType must be f32, f16, bf16 or int8; got ${shown(dtype)}. Use one of them.`);
}
