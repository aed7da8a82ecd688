/**
 * The tokenizer of a checkpoint: byte-level BPE as its `tokenizer.json` declares it. Splitting and merging is `@huggingface/tokenizers`;
 * reading the files, special tokens, decoding and streaming is here. Prompts are prompt.ts.
 */
import { Tokenizer as BpeTokenizer } from "@huggingface/tokenizers";
import { ArgumentError, messageOf } from "../engine/errors.ts";
import { CheckpointError, quote, someOf } from "./io/errors.ts";
import { isObject, showJson, unknownKeys } from "./io/unknown.ts";
import { slowness } from "./tokenizer_patterns.ts";

/** Tokenizer files that are malformed, of another kind, or lack a token that the model needs. */
export class TokenizerError extends CheckpointError {}

/** The tokenizer's files, each as text or parsed. */
export interface TokenizerFiles {
  readonly tokenizer: unknown;
  /** `tokenizer_config.json` */
  readonly config?: unknown;
  /** `special_tokens_map.json` */
  readonly specialTokensMap?: unknown;
}

/** Ids of the tokens that begin, end and fill up a text. They differ between checkpoints. */
export interface TextSpecialIds {
  readonly bos: number;
  readonly eos: number;
  /** Undefined if the tokenizer has none. */
  readonly pad: number | undefined;
}

/** Looks up tokens by their strings: those that the files declare under a key, and the id of the first one that there is. */
export interface SpecialTokens {
  readonly declared: (key: string) => (string | undefined)[];
  /** Notes a token that is missing, for one error that names all. */
  readonly find: (...names: (string | undefined)[]) => number;
  readonly idOf: (token: string) => number | undefined;
}

type Json = Record<string, unknown>;

const MAX_ID = 2 ** 24;
const MAX_DEPTH = 16; // depth of nested pre-tokenizers
const MAX_CACHED = 2 ** 16; // pieces

function parsed(value: unknown, file: string): Json {
  let json = value;
  if (typeof value === "string") {
    try {
      json = JSON.parse(value);
    } catch (error) {
      throw new TokenizerError(`${file} is not JSON: ${messageOf(error)}`);
    }
  }
  if (!isObject(json)) throw new TokenizerError(`${file}: the top must be an object`);
  return json;
}

/** Keys of tokenizer_config.json that are read, and those without effect on a byte-level tokenizer as tokenizer.json declares it. */
const CONFIG_KEYS: ReadonlySet<string> = new Set([
  "bos_token", "eos_token", "pad_token", "unk_token", "sep_token", "cls_token", "mask_token", "additional_special_tokens",
  "image_token", "boi_token", "eoi_token", "extra_special_tokens", "added_tokens_decoder", "model_specific_special_tokens",
  "model_max_length", "max_length", "padding_side", "truncation_side", "pad_to_multiple_of", "pad_token_type_id", "stride",
  "truncation_strategy", "add_bos_token", "add_eos_token", "add_prefix_space", "clean_up_tokenization_spaces", "legacy",
  "sp_model_kwargs", "spaces_between_special_tokens", "use_default_system_prompt", "chat_template", "split_special_tokens",
  "tokenizer_class", "processor_class", "auto_map", "tokenizer_file", "name_or_path", "backend", "is_local", "errors",
  "model_input_names", "special_tokens_map_file", "transformers_version", "local_files_only", "from_slow", "trim_offsets",
  "_commit_hash", "do_lower_case", "use_fast", "response_schema", "bos_token_id", "eos_token_id", "pad_token_id",
]); // prettier-ignore

/** Names the keys of tokenizer_config.json that are not known. */
export const tokenizerNotices = (config: unknown, where: string): string[] =>
  isObject(config) ? unknownKeys(config, CONFIG_KEYS, where) : [];

/** Throws `TokenizerError` for a tokenizer_config.json that wants other ends of a text than a token in front and none behind. */
function checkEnds(config: Json): void {
  for (const [key, value] of [
    ["add_bos_token", true],
    ["add_eos_token", false],
  ] as const)
    // prettier-ignore
    if (config[key] === !value)
      throw new TokenizerError(`tokenizer_config.json: ${key} must be ${value}; got ${!value}. The model is not used so`);
}

/** Declared by a string, or by an object `{content}`. */
function contentOf(token: unknown): string | undefined {
  if (typeof token === "string") return token;
  return isObject(token) && typeof token.content === "string" ? token.content : undefined;
}

/**
 * The declared pre-tokenizer with what the library gets wrong replaced: its `Digits` knows only decimal digits, while the reference
 * takes every numeral (Nd, Nl, No). Kinds of splits that it would silently do otherwise are refused.
 */
function preTokenizer(declared: unknown, depth = 0): Json | null {
  if (declared === null || declared === undefined) return null;
  const fail = (what: string): never => {
    throw new TokenizerError(`tokenizer.json: ${what}; only byte-level BPE tokenizers are supported`);
  };
  if (!isObject(declared) || depth > MAX_DEPTH) return fail("the pre_tokenizer is malformed");
  switch (declared.type) {
    case "Sequence": {
      const steps = Array.isArray(declared.pretokenizers)
        ? (declared.pretokenizers as unknown[])
        : fail("a Sequence without pretokenizers");
      return { ...declared, pretokenizers: steps.map((step) => preTokenizer(step, depth + 1)) };
    }
    case "Digits": {
      const pattern = { Regex: declared.individual_digits === true ? "\\p{N}" : "\\p{N}+" };
      return { type: "Split", pattern, behavior: "Isolated", invert: false };
    }
    case "Split":
      if (declared.behavior !== "Isolated" || declared.invert === true || !isObject(declared.pattern)) {
        return fail(`a Split with behavior ${showJson(declared.behavior)}, invert ${showJson(declared.invert)}`);
      }
      // The same matches, but not tried from every space of a run: that takes minutes for 100,000 of them.
      if (declared.pattern.Regex === "\\s+$") return { ...declared, pattern: { Regex: "(?<!\\s)\\s+$" } };
      checkPattern(declared.pattern);
      return declared;
    case "ByteLevel":
      return declared;
    default:
      return fail(`a pre-tokenizer of type ${showJson(declared.type)}`);
  }
}

/** Most characters that a normalizer may make of one. */
const MAX_GROWTH = 64;

/** The declared normalizer, if its patterns take linear time and it does not let a text grow beyond all measure. Throws `TokenizerError`. */
function checkNormalizer(declared: unknown, depth = 0): { growth: number } {
  const fail = (what: string): never => {
    throw new TokenizerError(`tokenizer.json: ${what}`);
  };
  if (declared === null || declared === undefined) return { growth: 1 };
  if (!isObject(declared) || depth > MAX_DEPTH) return fail("the normalizer is malformed");
  let growth = 1;
  if (declared.type === "Sequence") {
    const steps = Array.isArray(declared.normalizers) ? (declared.normalizers as unknown[]) : fail("a Sequence without normalizers"); // prettier-ignore
    for (const step of steps) growth *= checkNormalizer(step, depth + 1).growth;
  } else if (declared.type === "Replace") {
    const pattern = isObject(declared.pattern) ? declared.pattern : fail("a Replace without a pattern");
    const content = typeof declared.content === "string" ? declared.content : "";
    checkPattern(pattern);
    const taken = typeof pattern.String === "string" ? pattern.String.length : 1;
    growth = Math.max(1, content.length / taken);
  }
  if (growth > MAX_GROWTH) fail(`the normalizer makes more than ${MAX_GROWTH} characters of one`);
  return { growth };
}

/** A pattern of a Split or a Replace: a text, or a regular expression that takes linear time. Throws `TokenizerError`. */
function checkPattern(pattern: Json): void {
  const { Regex: regex, String: text } = pattern;
  if (regex === undefined && typeof text === "string" && text !== "") return;
  if (typeof regex !== "string")
    throw new TokenizerError(
      `tokenizer.json: a pattern must be {"Regex": …} or {"String": …}, not empty; got ${showJson(pattern)}`,
    );
  const why = slowness(regex);
  if (why !== null)
    throw new TokenizerError(
      `tokenizer.json: the pattern ${quote(regex)} ${why}; only patterns that take linear time are run. Use the tokenizer.json of the published model`,
    );
}

/** Throws if the library would crash or answer nonsense later. Returns the largest id. */
function checkModel(json: Json): number {
  const fail = (what: string): never => {
    throw new TokenizerError(`tokenizer.json: ${what}`);
  };
  const { model, decoder, added_tokens: added } = json;
  if (!isObject(model) || (model.type !== "BPE" && model.type !== undefined)) {
    fail(`the model is ${isObject(model) ? showJson(model.type) : "missing"}; only byte-level BPE is supported`);
  }
  if (!isObject(decoder) || decoder.type !== "ByteLevel")
    fail("the decoder is not ByteLevel; only byte-level BPE is supported");
  let last = 0;
  const isId = (id: unknown): boolean => {
    if (typeof id !== "number" || !Number.isInteger(id) || id < 0 || id >= MAX_ID) return false;
    last = Math.max(last, id);
    return true;
  };
  const { vocab, merges, dropout = null } = model as Json;
  if (dropout !== null && dropout !== 0) fail(`the model's dropout must be 0 or absent, as the same text is always split alike; got ${showJson(dropout)}`); // prettier-ignore
  if (!isObject(vocab) || !Array.isArray(merges)) return fail("the model has no vocab or no merges");
  for (const [token, id] of Object.entries(vocab)) if (!isId(id)) fail(`the id of ${quote(token)} is ${showJson(id)}`);
  // All of one kind: the library checks the first and assumes the same of the others.
  const asText = typeof merges[0] === "string";
  for (const merge of merges as unknown[]) {
    const pair =
      asText && typeof merge === "string"
        ? merge.split(" ")
        : !asText && Array.isArray(merge)
          ? (merge as unknown[])
          : [];
    if (pair.length !== 2 || !pair.every((part) => typeof part === "string")) fail(`${showJson(merge)} is not a merge`);
  }
  if (!Array.isArray(added)) return fail("added_tokens is missing");
  for (const token of added as unknown[]) {
    if (!isObject(token) || typeof token.content !== "string" || token.content === "" || !isId(token.id)) {
      fail(`${showJson(token)} is not an added token`);
    }
  }
  return last;
}

/** The printable characters that stand for the bytes 0 to 255 in a byte-level vocabulary: themselves, or the next free ones from U+0100. In the bytes' order. */
export const byteOfCharacter: ReadonlyMap<string, number> = (() => {
  const isPrintable = (b: number): boolean => (b >= 0x21 && b <= 0x7e) || (b >= 0xa1 && b !== 0xad);
  const map = new Map<string, number>();
  let free = 0x100;
  for (let b = 0; b < 256; b++) map.set(String.fromCharCode(isPrintable(b) ? b : free++), b);
  return map;
})();

/**
 * In place of the library's cache of merged pieces: that one deletes and inserts its key at every look-up, which in a JavaScript Map leaves
 * a chain to walk and makes a frequent piece 100 times dearer than no cache.
 */
class PieceCache {
  private readonly pieces = new Map<string, string[]>();

  get(piece: string): string[] | undefined {
    return this.pieces.get(piece);
  }

  put(piece: string, tokens: string[]): void {
    if (this.pieces.size >= MAX_CACHED) this.pieces.clear();
    this.pieces.set(piece, tokens);
  }

  clear(): void {
    this.pieces.clear();
  }
}

const utf8 = new TextEncoder();

/** A byte-level BPE tokenizer with the special tokens of a text model. */
export class TextTokenizer {
  readonly specials: TextSpecialIds;
  /** One more than the largest id. Rows of the embedding from here on have no token. */
  readonly size: number;
  /** `model_max_length`, if the files give one that means something. */
  readonly maxLength: number | undefined;
  private readonly bpe: BpeTokenizer;
  private readonly addedIds = new Set<number>();
  private readonly skippedIds = new Set<number>();

  /** Throws `TokenizerError` for malformed files, tokenizers of another kind, and special tokens that are missing (all are named). */
  constructor(files: TokenizerFiles) {
    const json = parsed(files.tokenizer, "tokenizer.json");
    const config = parsed(files.config ?? {}, "tokenizer_config.json");
    const map = parsed(files.specialTokensMap ?? {}, "special_tokens_map.json");
    this.size = checkModel(json) + 1;
    checkNormalizer(json.normalizer);
    checkEnds(config);
    const declared = {
      ...json,
      normalizer: json.normalizer ?? null,
      post_processor: null,
      pre_tokenizer: preTokenizer(json.pre_tokenizer),
    };
    try {
      this.bpe = new BpeTokenizer(declared, {});
    } catch (error) {
      throw new TokenizerError(`tokenizer.json is malformed: ${messageOf(error)}`);
    }
    Object.assign(this.bpe.model!, { cache: new PieceCache() });
    const added = json.added_tokens as { id: number; content: string; special?: boolean }[];
    for (const { id, special } of added) {
      this.addedIds.add(id);
      if (special === true) this.skippedIds.add(id);
    }
    this.specials = this.lookUp([config, map]);
    for (const id of Object.values(this.specials) as (number | undefined)[])
      if (id !== undefined) this.skippedIds.add(id);
    const maxLength = config.model_max_length; // without a limit transformers writes 1e30
    this.maxLength =
      typeof maxLength === "number" && maxLength >= 1 && maxLength < 1e9 ? Math.floor(maxLength) : undefined;
  }

  private lookUp(sources: readonly Json[]): TextSpecialIds {
    const missing: string[] = [];
    const found = this.findSpecials({
      declared: (key) => sources.map((source) => contentOf(source[key])),
      find: (...names) => {
        const known = names.filter((name) => name !== undefined);
        const id = known.map((name) => this.idOf(name)).find((value) => value !== undefined);
        if (id === undefined) missing.push(known[0]!);
        return id ?? -1;
      },
      idOf: (token) => this.idOf(token),
    });
    if (missing.length === 0) return found;
    throw new TokenizerError(
      `the tokenizer lacks ${missing.length} of the tokens that ${this.needs}: ${someOf(missing, 10)}; is it the tokenizer of this checkpoint?`,
    );
  }

  /** Completes "the tokenizer lacks some of the tokens that". */
  protected get needs(): string {
    return "begin and end a text";
  }

  /** Each by the string that a file declares for it, else by that of Llama's tokenizers. */
  protected findSpecials({ declared, find, idOf }: SpecialTokens): TextSpecialIds {
    const pad = declared("pad_token").find((token) => token !== undefined);
    return {
      bos: find(...declared("bos_token"), "<|begin_of_text|>", "<s>"),
      eos: find(...declared("eos_token"), "<|end_of_text|>", "</s>"),
      pad: pad === undefined ? undefined : idOf(pad),
    };
  }

  /** The id of a token by its string, as it stands in the vocabulary. */
  idOf(token: string): number | undefined {
    return this.bpe.token_to_id(token);
  }

  /** The string of a token in the vocabulary; undefined for ids that have none. */
  tokenOf(id: number): string | undefined {
    return this.bpe.id_to_token(id);
  }

  /**
   * `text` as ids, with the begin-of-sentence token in front (`bos: false` leaves it out). Strings of special tokens in the text become
   * those tokens. Halves of surrogate pairs count as U+FFFD.
   */
  encode(text: string, { bos = true }: { bos?: boolean } = {}): number[] {
    // To the library a lone surrogate is a separate code point, which becomes U+FFFD only after the text was split.
    const { ids } = this.bpe.encode(text.replace(/\p{Surrogate}/gu, "\ufffd"), { add_special_tokens: false });
    return bos ? [this.specials.bos, ...ids] : ids;
  }

  /**
   * The text of `ids`. Special tokens are left out (`skipSpecials: false` shows them), ids without a token too; bytes that are no UTF-8
   * become U+FFFD. Tokens that were added as text stand for their own characters (the Rust library reads them as bytes and so loses ø).
   */
  decode(ids: Iterable<number>, { skipSpecials = true }: { skipSpecials?: boolean } = {}): string {
    const bytes: number[] = [];
    for (const id of ids) for (const byte of this.bytesOf(id, skipSpecials)) bytes.push(byte);
    return newDecoder().decode(Uint8Array.from(bytes));
  }

  /** A decoder that takes tokens as they come and never gives part of a character. */
  stream({ skipSpecials = true }: { skipSpecials?: boolean } = {}): TextStream {
    return new TextStream((id) => this.bytesOf(id, skipSpecials));
  }

  private bytesOf(id: number, skipSpecials: boolean): Iterable<number> {
    if (!Number.isInteger(id) || id < 0) throw new ArgumentError(`decode: ${String(id)} is not a token id`);
    const token = this.tokenOf(id);
    if (token === undefined || (skipSpecials && this.skippedIds.has(id))) return [];
    if (this.addedIds.has(id)) return utf8.encode(token);
    const bytes: number[] = [];
    for (const character of token) {
      const byte = byteOfCharacter.get(character);
      if (byte === undefined) return utf8.encode(token); // not a byte-level token
      bytes.push(byte);
    }
    return bytes;
  }
}

const newDecoder = (): TextDecoder => new TextDecoder("utf-8", { ignoreBOM: true });

/** Text out of a stream of token ids. */
export class TextStream {
  private readonly decoder = newDecoder();
  private readonly bytesOf: (id: number) => Iterable<number>;

  constructor(bytesOf: (id: number) => Iterable<number>) {
    this.bytesOf = bytesOf;
  }

  /** The text that this token completes: often a word, sometimes nothing, never half a character. */
  push(id: number): string {
    return this.decoder.decode(Uint8Array.from(this.bytesOf(id)), { stream: true });
  }

  /** Returns the rest at the end: U+FFFD for an incomplete character. */
  flush(): string {
    return this.decoder.decode();
  }
}
