/**
 * A golden folder as files: `golden.safetensors`, `golden.json` and `image{i}.png`, read strictly and checked for form before anything is
 * computed. entries.ts has the meaning of the entries.
 */
import { f16Value } from "../engine/dtype.ts";
import { readWhole } from "../model/io/bytes.ts";
import type { FileSource, RandomAccess } from "../model/io/bytes.ts";
import { castFloats, isFloatDType } from "../model/io/cast.ts";
import { IoError, quote } from "../model/io/errors.ts";
import { isJsonObject, parseJsonObject } from "../model/io/json.ts";
import type { JsonObject, JsonValue } from "../model/io/json.ts";
import { readSafetensors } from "../model/io/safetensors.ts";
import { specText } from "../model/io/stored.ts";
import type { StoredTensor } from "../model/io/stored.ts";
import type { RgbImage } from "../model/image/image.ts";

/** A golden folder that is malformed, incomplete, or of another model. */
export class GoldenError extends IoError {}

/** Decodes an image file with its stored pixels unchanged; `name` is for messages. */
export type ReadImage = (bytes: Uint8Array, name: string) => Promise<RgbImage>;

/** The reader of Node. */
const readPlain: ReadImage = async (bytes, name) => {
  const { readImage } = await import("../model/node/image_file.ts");
  return readImage(bytes, { plain: true, name });
};

/** A tensor on the host. */
export interface Values {
  readonly shape: readonly number[];
  readonly data: Float32Array | Float64Array | Int32Array;
}

export interface TokenizerCase {
  readonly text: string;
  /** With the begin-of-sentence token in front. */
  readonly ids: readonly number[];
  readonly idsNoSpecial: readonly number[];
  /** Text of `ids`, special tokens left out. */
  readonly decoded: string;
}

/** Known entries of golden.json, if present; the rest is in `others`. */
export interface GoldenJson {
  readonly tokenizer: readonly TokenizerCase[];
  readonly specialIds: ReadonlyMap<string, number> | null;
  readonly imageTokens: number | null;
  readonly understandPrompts: readonly string[] | null;
  readonly greedyText: readonly string[] | null;
  readonly generatePrompts: readonly string[];
  /** `gen{i}_top2_margin_min`, by i. */
  readonly margins: ReadonlyMap<number, number>;
  /** train_file.ts has the contents of these two. */
  readonly train: JsonObject | null;
  readonly trainRows: JsonValue | undefined;
  /** Keys that describe, or are inputs. */
  readonly inputs: readonly string[];
  /** Keys that mean nothing here. */
  readonly unknown: readonly string[];
}

const TENSORS = "golden.safetensors";
const JSON_FILE = "golden.json";
const MAX_JSON = 256 * 2 ** 20; // bytes
const MAX_PICTURE = 128 * 2 ** 20; // bytes

export class Golden {
  readonly name: string;
  readonly json: GoldenJson;
  readonly tensors: ReadonlyMap<string, StoredTensor>;
  /** `image{i}.png` by i, in order, with unchanged stored pixels (as in the original's `Image.open(file).convert("RGB")`). */
  readonly pictures: ReadonlyMap<number, RgbImage>;
  private readonly file: RandomAccess;

  private constructor(
    name: string,
    json: GoldenJson,
    tensors: ReadonlyMap<string, StoredTensor>,
    pictures: ReadonlyMap<number, RgbImage>,
    file: RandomAccess,
  ) {
    this.name = name;
    this.json = json;
    this.tensors = tensors;
    this.pictures = pictures;
    this.file = file;
  }

  /**
   * Opens a folder; everything is checked but the numbers. Throws subclasses of `IoError` and of `ImageError`.
   * @param readImage decodes its images (default: the reader of Node)
   */
  static async open(source: FileSource, readImage: ReadImage = readPlain): Promise<Golden> {
    const names = await source.list();
    for (const name of [TENSORS, JSON_FILE]) {
      if (!names.includes(name))
        throw new GoldenError(
          `${source.name}: there is no ${name}; a golden folder contains ${TENSORS}, ${JSON_FILE} and image0.png, …`,
        );
    }
    const json = parseGolden(
      parseJsonObject(await small(source, JSON_FILE, MAX_JSON), `${source.name}/${JSON_FILE}`),
      `${source.name}/${JSON_FILE}`,
    );
    const file = await source.open(TENSORS);
    try {
      const { tensors } = await readSafetensors(file, TENSORS);
      const indices = names.flatMap((name) => /^image(0|[1-9]\d*)\.png$/.exec(name)?.[1] ?? []).map(Number);
      const pictures = new Map<number, RgbImage>();
      for (const i of indices.sort((a, b) => a - b)) {
        pictures.set(
          i,
          await readImage(await small(source, `image${i}.png`, MAX_PICTURE), `${source.name}/image${i}.png`),
        );
      }
      return new Golden(source.name, json, tensors, pictures, file);
    } catch (error) {
      await file.close?.();
      throw error;
    }
  }

  /** The values of an entry; null if the file has none. Throws `GoldenError` for dtypes that hold no plain numbers. */
  async read(name: string): Promise<Values | null> {
    const stored = this.tensors.get(name);
    if (!stored) return null;
    const bytes = await this.file.read(stored.offset, stored.bytes);
    return { shape: stored.shape, data: numbersOf(bytes, stored) };
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.file.close?.();
  }
}

async function small(source: FileSource, name: string, limit: number): Promise<Uint8Array> {
  const file = await source.open(name);
  try {
    return await readWhole(file, limit);
  } finally {
    await file.close?.();
  }
}

function numbersOf(bytes: Uint8Array, stored: StoredTensor): Values["data"] {
  const { dtype, name } = stored;
  const { buffer } = bytes.slice(); // typed arrays need an aligned start
  if (dtype === "f32") return new Float32Array(buffer);
  if (dtype === "f64") return new Float64Array(buffer);
  if (dtype === "i32") return new Int32Array(buffer);
  if (dtype === "u8" || dtype === "bool") return Int32Array.from(bytes); // masks
  if (dtype === "f16") return Float32Array.from(new Uint16Array(buffer), f16Value);
  if (isFloatDType(dtype)) return new Float32Array(castFloats(bytes, dtype, "f32", name).slice().buffer);
  if (dtype === "i64") {
    return Int32Array.from(new BigInt64Array(buffer), (value) => {
      if (BigInt.asIntN(32, value) !== value)
        throw new GoldenError(`${name} contains ${value}, which is neither a token nor a code`);
      return Number(value);
    });
  }
  throw new GoldenError(`${name} is ${specText(stored)}; f32, f64, f16, bf16, i32, i64, u8 and bool are read`);
}

const KNOWN = [
  "tokenizer",
  "special_ids",
  "num_image_tokens",
  "understand_prompts",
  "und_greedy_text",
  "generate_prompts",
  "train",
];
/** Identification of the folder, and the batch of the trainer. */
const INPUTS = ["kind", "train_rows"];
const MARGIN = /^gen(0|[1-9]\d*)_top2_margin_min$/;

/** Throws `GoldenError` if an entry of a known name has another form than it should. */
function parseGolden(json: JsonObject, file: string): GoldenJson {
  const fail = (what: string, needed: string): never => {
    throw new GoldenError(`${file}: ${what} is not ${needed}`);
  };
  const object = (value: JsonValue | undefined, what: string): JsonObject =>
    isJsonObject(value) ? value : fail(what, "an object");
  const list = (value: JsonValue | undefined, what: string): JsonValue[] =>
    Array.isArray(value) ? value : fail(what, "a list");
  const text = (value: JsonValue | undefined, what: string): string =>
    typeof value === "string" ? value : fail(what, "a text");
  const number = (value: JsonValue | undefined, what: string): number =>
    typeof value === "number" ? value : fail(what, "a number");
  const id = (value: JsonValue | undefined, what: string): number =>
    Number.isInteger(value) && (value as number) >= 0 ? (value as number) : fail(what, "a whole number of at least 0");
  const texts = (key: string): string[] | null =>
    json.has(key) ? list(json.get(key), key).map((item, i) => text(item, `${key}[${i}]`)) : null;
  const ids = (value: JsonValue | undefined, what: string): number[] =>
    list(value, what).map((item, i) => id(item, `${what}[${i}]`));

  const cases = json.has("tokenizer") ? list(json.get("tokenizer"), "tokenizer") : [];
  const specials = json.has("special_ids") ? object(json.get("special_ids"), "special_ids") : null;
  const margins = [...json].flatMap(([key, value]): [number, number][] => {
    const index = MARGIN.exec(key)?.[1];
    return index === undefined ? [] : [[Number(index), number(value, key)]];
  });
  return {
    tokenizer: cases.map((item, i) => {
      const one = object(item, `tokenizer[${i}]`);
      const at = (key: string): string => `tokenizer[${i}].${key}`;
      return {
        text: text(one.get("text"), at("text")),
        ids: ids(one.get("ids"), at("ids")),
        idsNoSpecial: ids(one.get("ids_no_special"), at("ids_no_special")),
        decoded: text(one.get("decoded"), at("decoded")),
      };
    }),
    specialIds:
      specials && new Map([...specials].map(([token, value]) => [token, id(value, `special_ids[${quote(token)}]`)])),
    imageTokens: json.has("num_image_tokens") ? id(json.get("num_image_tokens"), "num_image_tokens") : null,
    understandPrompts: texts("understand_prompts"),
    greedyText: texts("und_greedy_text"),
    generatePrompts: texts("generate_prompts") ?? [],
    margins: new Map(margins),
    train: json.has("train") ? object(json.get("train"), "train") : null,
    trainRows: json.get("train_rows"),
    inputs: [...json.keys()].filter((key) => INPUTS.includes(key)),
    unknown: [...json.keys()].filter((key) => !KNOWN.includes(key) && !INPUTS.includes(key) && !MARGIN.test(key)),
  };
}
