/**
 * The files of a small byte-level BPE tokenizer for new models: the 256 bytes, merges learned from a few texts, and the
 * special tokens of Janus. They are of the published tokenizers' form, and tokenizer.ts and the libraries of others
 * read them like those.
 */
import { ArgumentError } from "../engine/errors.ts";
import { byteOfCharacter } from "./tokenizer.ts";

export interface ByteTokenizerOptions {
  /** Texts from which merges are learned; without them every byte is a token. */
  readonly texts?: readonly string[];
  /** Maximum number of merges (default: 256); fewer if no pair of tokens occurs twice. */
  readonly merges?: number;
}

/** The special tokens in the order of their ids, which follow the ids of the bytes and merges. */
const SPECIALS = [
  "<｜begin▁of▁sentence｜>",
  "<｜end▁of▁sentence｜>",
  "<｜▁pad▁｜>",
  "<image_placeholder>",
  "<begin_of_image>",
  "<end_of_image>",
  "<|User|>",
  "<|Assistant|>",
] as const;
const NAMED = {
  bos_token: SPECIALS[0],
  eos_token: SPECIALS[1],
  pad_token: SPECIALS[2],
  image_token: SPECIALS[3],
  boi_token: SPECIALS[4],
  eoi_token: SPECIALS[5],
};

/** Each splits the pieces of the one before; merges stay inside the last pieces. Lines, words, punctuation, Chinese and the like, digits. */
const SPLITS = ["[\r\n]", "\\s?\\p{L}+", "\\s?\\p{P}+", "[一-龥ࠀ-一가-퟿]+"];
const DIGIT = "\\p{N}";

/** Characters that stand for the bytes. */
const CHARACTERS: readonly string[] = [...byteOfCharacter.keys()];

const utf8 = new TextEncoder();

/**
 * tokenizer.json, tokenizer_config.json and special_tokens_map.json. Ids: bytes (in the order of their characters), merges, special tokens.
 * The same texts give the same files. Throws `ArgumentError` if the number of merges is not a whole number.
 */
export function byteTokenizerFiles({ texts = [], merges = 256 }: ByteTokenizerOptions = {}): Map<string, Uint8Array> {
  if (!Number.isInteger(merges) || merges < 0 || merges > 100_000)
    throw new ArgumentError(`byteTokenizerFiles: merges must be a whole number from 0 to 100,000; got ${merges}`);
  const vocabulary = [...CHARACTERS].sort();
  const learned = learnMerges(texts, vocabulary, merges);
  const bos = vocabulary.length;
  const tokenizer = {
    version: "1.0",
    truncation: null,
    padding: null,
    added_tokens: SPECIALS.map((content, i) => ({
      id: bos + i,
      content,
      single_word: false,
      lstrip: false,
      rstrip: false,
      normalized: false,
      special: true,
    })),
    normalizer: null,
    pre_tokenizer: {
      type: "Sequence",
      pretokenizers: [
        ...SPLITS.map((Regex) => ({ type: "Split", pattern: { Regex }, behavior: "Isolated", invert: false })),
        { type: "Digits", individual_digits: true },
        { type: "ByteLevel", add_prefix_space: false, trim_offsets: true, use_regex: false },
      ],
    },
    post_processor: {
      type: "TemplateProcessing",
      single: [BEGIN, sequence("A")],
      pair: [BEGIN, sequence("A"), BEGIN, sequence("B")],
      special_tokens: { [SPECIALS[0]]: { id: SPECIALS[0], ids: [bos], tokens: [SPECIALS[0]] } },
    },
    decoder: { type: "ByteLevel", add_prefix_space: true, trim_offsets: true, use_regex: true },
    model: {
      type: "BPE",
      dropout: null,
      unk_token: null,
      continuing_subword_prefix: null,
      end_of_word_suffix: null,
      fuse_unk: false,
      byte_fallback: false,
      ignore_merges: false,
      vocab: Object.fromEntries(vocabulary.map((token, id) => [token, id])),
      merges: learned,
    },
  };
  const config = {
    ...NAMED,
    clean_up_tokenization_spaces: false,
    padding_side: "left",
    // Not LlamaTokenizerFast, as in the published files: newer libraries replace its splitter with their own.
    tokenizer_class: "PreTrainedTokenizerFast",
  };
  const files = { "tokenizer.json": tokenizer, "tokenizer_config.json": config, "special_tokens_map.json": NAMED };
  return new Map(
    Object.entries(files).map(([name, value]) => [name, utf8.encode(`${JSON.stringify(value, null, 2)}\n`)]),
  );
}

const BEGIN = { SpecialToken: { id: SPECIALS[0], type_id: 0 } };
const sequence = (id: string): object => ({ Sequence: { id, type_id: 0 } });

/** The pieces of a text that merges stay inside, as characters of bytes. */
function pieces(text: string): string[] {
  let parts = [text];
  for (const pattern of [...SPLITS, DIGIT]) {
    const split = new RegExp(`(${pattern})`, "u"); // the group keeps the matches
    parts = parts.flatMap((part) => part.split(split)).filter((part) => part !== "");
  }
  return parts.map((part) => Array.from(utf8.encode(part), (byte) => CHARACTERS[byte]!).join(""));
}

/** A piece as token ids, and how often it is there. */
interface Word {
  ids: number[];
  readonly count: number;
}

/**
 * Byte-pair encoding (Sennrich et al. 2016): again and again the most frequent pair of neighbours becomes a token, of equals that of the
 * lowest ids. Appends the new tokens to `vocabulary` and returns the pairs. No token can come up twice: what lies between two ends of
 * tokens was merged as if it stood alone, so its characters were that one token ever since.
 */
function learnMerges(texts: readonly string[], vocabulary: string[], most: number): [string, string][] {
  const counts = new Map<string, number>();
  for (const text of texts) for (const piece of pieces(text)) counts.set(piece, (counts.get(piece) ?? 0) + 1);
  const idOf = new Map(vocabulary.map((token, id) => [token, id]));
  const words = [...counts].map(([piece, count]): Word => ({ ids: Array.from(piece, (c) => idOf.get(c)!), count }));
  const merges: [string, string][] = [];
  while (merges.length < most) {
    const pair = mostFrequent(words);
    if (!pair) break;
    const [left, right] = [vocabulary[pair[0]]!, vocabulary[pair[1]]!];
    const id = vocabulary.push(left + right) - 1;
    merges.push([left, right]);
    for (const word of words) word.ids = merged(word.ids, pair, id);
  }
  return merges;
}

const SHIFT = 2 ** 20; // above any id, so that a pair is one number

function mostFrequent(words: readonly Word[]): [number, number] | null {
  const counts = new Map<number, number>();
  for (const { ids, count } of words) {
    for (let i = 0; i + 1 < ids.length; i++) {
      const key = ids[i]! * SHIFT + ids[i + 1]!;
      counts.set(key, (counts.get(key) ?? 0) + count);
    }
  }
  let [best, most] = [-1, 1]; // once is not worth a token
  for (const [key, count] of counts) if (count > most || (count === most && key < best)) [best, most] = [key, count];
  return best < 0 ? null : [Math.floor(best / SHIFT), best % SHIFT];
}

function merged(ids: number[], [left, right]: [number, number], id: number): number[] {
  if (!ids.some((token, i) => token === left && ids[i + 1] === right)) return ids;
  const out: number[] = [];
  for (let i = 0; i < ids.length; i++) {
    if (ids[i] === left && ids[i + 1] === right) {
      out.push(id);
      i++;
    } else out.push(ids[i]!);
  }
  return out;
}
