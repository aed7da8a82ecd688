/**
 * generation_config.json: stop conditions of answers, and sampling settings that the caller does not override. One
 * reader for all of its keys, with transformers' meaning: each is obeyed, without effect here, or refused by its name.
 * A file with none of them changes nothing.
 */
import { ConfigError } from "./io/errors.ts";
import { isObject, showJson, unknownKeys, unknownNames } from "./io/unknown.ts";

/** Settings of answers that a caller's options replace one by one. Absent: the default of `AnswerOptions`. */
export interface AnswerDefaults {
  /** Ids that end an answer; absent: the tokenizer's end token. */
  readonly stopIds?: readonly number[];
  readonly temperature?: number;
  readonly topK?: number;
  readonly topP?: number;
  readonly repetitionPenalty?: number;
  readonly suppressTokens?: readonly number[];
  readonly stop?: readonly string[];
  /** `max_new_tokens`. */
  readonly maxNewTokens?: number;
  /** `max_length`: most tokens of prompt and answer together. */
  readonly maxLength?: number;
}

/** Settings of image generation. Absent ones have the values of the paper's code. */
export interface DrawingSettings {
  readonly guidance?: number;
  readonly temperature?: number;
  readonly topK?: number;
  readonly topP?: number;
}

export interface GenerationConfig {
  readonly answers: AnswerDefaults;
  readonly drawing: DrawingSettings;
  /** Ids that the file gives to tokens: `bos`, `pad`, `beginOfImage`. The tokenizer decides; a difference is worth a notice. */
  readonly ids: { readonly bos?: number; readonly pad?: number; readonly beginOfImage?: number };
  readonly notices: readonly string[];
}

/** transformers samples from the 50 most probable tokens if `do_sample` is true and `top_k` is not said. */
const DEFAULT_TOP_K = 50;
/** transformers' `max_length` if nobody chose one, which old files have: it bounds nothing there. */
const DEFAULT_MAX_LENGTH = 20;

/** Keys that would change the output, with the values that do not change it. null and empty lists never do. */
const NEUTRAL: ReadonlyMap<string, readonly unknown[]> = new Map<string, readonly unknown[]>([
  ["num_beams", [1]],
  ["num_beam_groups", [1]],
  ["num_return_sequences", [1]],
  ["diversity_penalty", [0]],
  ["penalty_alpha", [0]],
  ["no_repeat_ngram_size", [0]],
  ["encoder_no_repeat_ngram_size", [0]],
  ["encoder_repetition_penalty", [1]],
  ["min_length", [0]],
  ["min_new_tokens", [0]],
  ["forced_bos_token_id", []],
  ["forced_eos_token_id", []],
  ["forced_decoder_ids", []],
  ["begin_suppress_tokens", []],
  ["force_words_ids", []],
  ["constraints", []],
  ["sequence_bias", []],
  ["exponential_decay_length_penalty", []],
  ["watermarking_config", []],
  ["token_healing", [false]],
  ["dola_layers", []],
  ["max_time", []],
]);
/** The same for keys that have an effect only when tokens are sampled. */
const NEUTRAL_SAMPLING: ReadonlyMap<string, readonly unknown[]> = new Map<string, readonly unknown[]>([
  ["min_p", [0]],
  ["top_h", []],
  ["typical_p", [1]],
  ["epsilon_cutoff", [0]],
  ["eta_cutoff", [0]],
]);
/** Keys without effect on the tokens: how transformers computes, what it returns, the origin of a value. */
const HARMLESS: ReadonlySet<string> = new Set([
  "_from_model_config",
  "transformers_version",
  "use_cache",
  "cache_implementation",
  "cache_config",
  "return_legacy_cache",
  "prefill_chunk_size",
  "low_memory",
  "return_dict_in_generate",
  "output_attentions",
  "output_hidden_states",
  "output_scores",
  "output_logits",
  "renormalize_logits",
  "remove_invalid_values",
  "length_penalty",
  "early_stopping",
  "decoder_start_token_id",
  "is_assistant",
  "num_assistant_tokens",
  "num_assistant_tokens_schedule",
  "assistant_confidence_threshold",
  "assistant_early_exit",
  "assistant_lookbehind",
  "target_lookbehind",
  "prompt_lookup_num_tokens",
  "max_matching_ngram_size",
  "compile_config",
  "disable_compile",
]);
const OBEYED: ReadonlySet<string> = new Set([
  "do_sample",
  "temperature",
  "top_k",
  "top_p",
  "repetition_penalty",
  "eos_token_id",
  "bos_token_id",
  "pad_token_id",
  "boi_token_id",
  "generation_kwargs",
  "guidance_scale",
  "suppress_tokens",
  "bad_words_ids",
  "stop_strings",
  "max_new_tokens",
  "max_length",
]);

/** Every key that a generation_config.json may have; older files have them in config.json. */
export const isGenerationKey = (key: string): boolean =>
  OBEYED.has(key) || HARMLESS.has(key) || NEUTRAL.has(key) || NEUTRAL_SAMPLING.has(key);

type Json = Readonly<Record<string, unknown>>;

/** Reads values, and reports a wrong one in one line. */
class Keys {
  readonly json: Json;
  private readonly where: string;

  constructor(json: Json, where: string) {
    this.json = json;
    this.where = where;
  }

  fail(key: string, needed: string): never {
    throw new ConfigError(`${this.where}: ${key} must be ${needed}; got ${showJson(this.json[key])}`);
  }

  /** Undefined if the key is absent or null. */
  number(key: string, needed: string, isValid: (value: number) => boolean): number | undefined {
    const value = this.json[key] ?? undefined;
    if (value === undefined) return undefined;
    return typeof value === "number" && isValid(value) ? value : this.fail(key, needed);
  }

  whole(key: string, least: number): number | undefined {
    return this.number(key, `a whole number from ${least}`, (value) => Number.isInteger(value) && value >= least);
  }

  flag(key: string): boolean | undefined {
    const value = this.json[key] ?? undefined;
    return value === undefined || typeof value === "boolean" ? value : this.fail(key, "true or false");
  }

  /** One id or a list of at least one, below `vocabulary`. */
  ids(key: string, vocabulary = Infinity): readonly number[] | undefined {
    const value = this.json[key] ?? undefined;
    if (value === undefined) return undefined;
    const list: unknown[] = Array.isArray(value) ? value : [value];
    const isId = (id: unknown): id is number => typeof id === "number" && Number.isInteger(id) && id >= 0;
    if (!list.every(isId) || (list.length === 0 && key === "eos_token_id"))
      return this.fail(key, "a token id or a list of them");
    return list.every((id) => id < vocabulary) ? list : this.fail(key, `ids below the model's ${vocabulary} rows`);
  }

  strings(key: string): readonly string[] | undefined {
    const value = this.json[key] ?? undefined;
    if (value === undefined) return undefined;
    const list: unknown[] = Array.isArray(value) ? value : [value];
    const isText = (item: unknown): item is string => typeof item === "string" && item !== "";
    return list.every(isText) ? list : this.fail(key, "a text or a list of texts");
  }
}

/**
 * Reads generation_config.json. `vocabulary` bounds its token ids. Throws `ConfigError` for a value of the wrong kind and for a setting that is
 * not supported; names unknown keys in `notices`.
 */
export function generationConfig(json: Json, where: string, vocabulary: number): GenerationConfig {
  const keys = new Keys(json, where);
  const isSampling = keys.flag("do_sample");
  const notices = checkKeys(keys, isSampling === true, where);
  const stopIds = keys.ids("eos_token_id", vocabulary);
  const maxLength = keys.whole("max_length", 1);
  if (maxLength === DEFAULT_MAX_LENGTH)
    notices.push(`${where}: max_length is ${maxLength}, the default of transformers, and bounds nothing, as there`);
  const { temperature, filters } = samplingOf(keys, isSampling === true);
  return {
    answers: defined({
      stopIds,
      ...(isSampling && { temperature }),
      ...filters, // without do_sample they wait for a caller's temperature
      repetitionPenalty: keys.number("repetition_penalty", "a number above 0", isPositive),
      suppressTokens: suppressed(keys, vocabulary, stopIds),
      stop: keys.strings("stop_strings"),
      maxNewTokens: keys.whole("max_new_tokens", 1),
      maxLength: maxLength === DEFAULT_MAX_LENGTH ? undefined : maxLength,
    }),
    drawing: defined({
      guidance: keys.number("guidance_scale", "a number from 0", isFromZero),
      // Absent, images are sampled as in the paper's code; transformers takes the most probable codes then.
      temperature: isSampling === false ? 0 : temperature,
      ...(isSampling && filters),
    }),
    ids: idsOf(keys),
    notices: [...notices, ...kwargsNotices(json, where)],
  };
}

const isPositive = (value: number): boolean => value > 0 && Number.isFinite(value);
const isFromZero = (value: number): boolean => value === 0 || isPositive(value);

/** Temperature, and the filters of the probabilities: those that the file has, and transformers' default if it samples. */
function samplingOf(
  keys: Keys,
  isSampling: boolean,
): { temperature: number | undefined; filters: { topK?: number; topP?: number } } {
  const temperature = isSampling
    ? (keys.number("temperature", "a number above 0, as do_sample is true", isPositive) ?? 1)
    : keys.number("temperature", "a number from 0", isFromZero);
  const topK = keys.whole("top_k", 0) ?? (isSampling ? DEFAULT_TOP_K : 0);
  const topP = keys.number("top_p", "a number above 0, at most 1", (value) => value > 0 && value <= 1) ?? 1;
  return { temperature, filters: { ...(topK > 0 && { topK }), ...(topP < 1 && { topP }) } };
}

function idsOf(keys: Keys): GenerationConfig["ids"] {
  const kwargs = keys.json["generation_kwargs"] ?? {};
  if (typeof kwargs !== "object" || Array.isArray(kwargs)) return keys.fail("generation_kwargs", "an object");
  const inner = new Keys(kwargs as Json, "generation_kwargs");
  return defined({
    bos: keys.ids("bos_token_id")?.[0],
    pad: keys.json["pad_token_id"] === -1 ? undefined : keys.ids("pad_token_id")?.[0], // older Llama configs say so
    beginOfImage: (inner.ids("boi_token_id") ?? keys.ids("boi_token_id"))?.[0],
  });
}

/** transformers reads one key of `generation_kwargs`. */
function kwargsNotices({ generation_kwargs: kwargs }: Json, where: string): string[] {
  return isObject(kwargs) ? unknownKeys(kwargs, new Set(["boi_token_id"]), `${where}: generation_kwargs`) : [];
}

/** `suppress_tokens`, and the words of `bad_words_ids` that are one token; of these transformers spares the ids that end an answer. */
function suppressed(keys: Keys, vocabulary: number, stopIds: readonly number[] = []): readonly number[] | undefined {
  const words = keys.json["bad_words_ids"] ?? [];
  const needed = "lists of one token id each (longer words are not supported)";
  if (!Array.isArray(words)) return keys.fail("bad_words_ids", needed);
  const ids = words.map((word: unknown): number =>
    Array.isArray(word) && word.length === 1 && Number.isInteger(word[0]) && word[0] >= 0 && word[0] < vocabulary
      ? (word[0] as number)
      : keys.fail("bad_words_ids", needed),
  );
  const all = [...(keys.ids("suppress_tokens", vocabulary) ?? []), ...ids.filter((id) => !stopIds.includes(id))];
  return all.length ? all : undefined;
}

const isNeutral = (value: unknown, allowed: readonly unknown[]): boolean =>
  value === null || (Array.isArray(value) && value.length === 0) || allowed.includes(value);

/** Refuses keys that are not supported; returns notices about the other keys. */
function checkKeys(keys: Keys, isSampling: boolean, where: string): string[] {
  const notices: string[] = [];
  for (const [key, value] of Object.entries(keys.json)) {
    const always = NEUTRAL.get(key);
    const sampling = NEUTRAL_SAMPLING.get(key);
    if (always && !isNeutral(value, always)) keys.fail(key, `${[...always, "absent"].map(String).join(" or ")}, the only values that are supported`); // prettier-ignore
    if (sampling && !isNeutral(value, sampling)) {
      if (isSampling) keys.fail(key, `${[...sampling, "absent"].map(String).join(" or ")}, the only values that are supported`); // prettier-ignore
      notices.push(`${where}: ${key} is not supported and has no effect, even if a temperature is set`);
    }
  }
  const strange = Object.keys(keys.json).filter((key) => !isGenerationKey(key));
  return [...notices, ...unknownNames(strange, where)];
}

/** `object` without the keys whose value is undefined. */
export function defined<T extends object>(object: T): { [K in keyof T]?: Exclude<T[K], undefined> } {
  return Object.fromEntries(Object.entries(object).filter(([, value]) => value !== undefined)) as {
    [K in keyof T]?: Exclude<T[K], undefined>;
  };
}
