/**
 * What records may look like: conversations (LLaVA's, ShareGPT's and OpenAI's), prompts with images, plain texts, images by class. From a
 * record to a raw sample. Where its bytes are depends on the format of the file: text (scan.ts), tar.ts, parquet.ts, folder.ts.
 */
import { dirname, resolve } from "node:path";
import { messageOf } from "../../../engine/errors.ts";
import { quote } from "../../../model/io/errors.ts";
import { isObject } from "../../../model/io/unknown.ts";
import { RecordError, SourceError } from "../../data/errors.ts";
import type { RecordUse } from "../../data/encode.ts";
import type { RawSample } from "../../data/raw_sample.ts";
import type { Task } from "../../samples.ts";
import { besideName, fieldUse, fieldsOf, isAbsent, kindOf } from "./fields.ts";
import type { RecordKind } from "./fields.ts";
import { RecordReader } from "./record_reader.ts";
import type { ImageRoot } from "./record_reader.ts";

export { kindOf } from "./fields.ts";

/**
 * `conversations`: LLaVA's `{conversations: [{from, value}], image}`; `messages`: OpenAI's `{messages: [{role, content}]}`;
 * `pairs`: `{prompt or caption or text, image or file_name}`; `text`: `{text}`; `folder`: images in a folder for each class. For DPO
 * `preferences`: `{prompt, chosen, rejected}` of answers, and `image_preferences`: `{prompt, chosen_image, rejected_image}`; for GRPO
 * `prompts`: `{prompt}`.
 */
export const SOURCE_KINDS = ["conversations", "messages", "pairs", "text", "folder", "preferences", "image_preferences", "prompts"] as const; // prettier-ignore
export type SourceKind = RecordKind;

export interface SourceSpec {
  /**
   * A file of records (JSONL, a JSON list, CSV, TSV, Parquet, a tar shard), or a folder of images with captions or classes. A range in
   * braces stands for several files: `shard-{000..127}.tar`.
   */
  readonly path: string;
  /** Task of its samples (default: that of the kind, of conversations und). Conversations without images may be `text`. */
  readonly task?: Task;
  /** The folder that image paths are relative to (default: that of the file). */
  readonly images?: string;
  /** A file of lines `class its name`: for folders of classes (default: the folders' names, `_` as space) and `.cls` files in tar shards. */
  readonly classes?: string;
  /** Names of fields or columns by what they are used as: `{ prompt: "TEXT", image: "jpg_bytes" }`; of several names, the first that a record has. */
  readonly fields?: FieldNames;
  /** Fields that records may have though they are not used, as messages name them: `score`, `messages[].name`. */
  readonly ignoredFields?: readonly string[];
}

/** Fields by what they are used as. */
export type FieldNames = Readonly<Record<string, string | readonly string[]>>;

/**
 * The record with its fields renamed as `names` says. A field that has the name already is not used then, and is renamed too: `text beside
 * caption`, which is refused unless it is allowed.
 */
export function withFieldNames(json: unknown, names: FieldNames | undefined): unknown {
  if (!names || !isObject(json)) return json;
  const moved = new Map<string, string>();
  for (const [name, given] of Object.entries(names)) {
    const found = [given].flat().find((one) => !isAbsent(json[one]));
    if (found === undefined || found === name) continue;
    moved.set(found, name);
    if (Object.hasOwn(json, name) && !moved.has(name)) moved.set(name, besideName(name, found));
  }
  if (moved.size === 0) return json;
  return Object.fromEntries(Object.entries(json).map(([name, value]) => [moved.get(name) ?? name, value]));
}

const TASKS_OF: Readonly<Record<SourceKind, readonly Task[]>> = {
  conversations: ["und", "text"],
  messages: ["und", "text"],
  pairs: ["gen"],
  text: ["text"],
  folder: ["gen"],
  preferences: ["und", "text"],
  image_preferences: ["gen"],
  prompts: ["gen"],
};

/** What a run makes of the records of a kind. */
export const useOf = (kind: SourceKind): RecordUse =>
  kind === "preferences" || kind === "image_preferences" ? "preferences" : kind === "prompts" ? "prompts" : "samples";

const USES: Readonly<Record<RecordUse, string>> = {
  samples:
    "records to imitate (conversations, prompts with images, texts); preferences are trained with dpo, prompts alone with grpo",
  preferences: "preferences {prompt, chosen, rejected} or {prompt, chosen_image, rejected_image}",
  prompts: "prompts {prompt} without images",
};

/** Throws `SourceError` for a source whose records are for another kind of training. */
export function requireUse(
  sources: readonly { readonly spec: SourceSpec; readonly kind: SourceKind }[],
  use: RecordUse,
): void {
  const other = sources.find(({ kind }) => useOf(kind) !== use);
  if (other)
    throw new SourceError(
      `${other.spec.path}: the settings need ${USES[use]}; got records of kind ${other.kind}. Change the data, or the settings.`,
    );
}

/** The task of a source. Throws `SourceError` for one that its kind cannot be. */
export function sourceTask(spec: SourceSpec, kind: SourceKind): Task {
  const known = TASKS_OF[kind];
  if (spec.task !== undefined && !known.includes(spec.task))
    throw new SourceError(`${spec.path}: a source of kind ${kind} is for ${known.join(" or ")}, not for ${spec.task}`);
  return spec.task ?? known[0]!;
}

/** Position of a record, for its errors and its images. */
export interface RecordPlace {
  readonly file: string;
  readonly line: number;
  /** The folder of relative image paths, or the images that the record can name. */
  readonly images: ImageRoot;
  /** As in `SourceSpec`. */
  readonly ignoredFields?: readonly string[];
}

/** A key that stands twice in one object of valid JSON, of which `JSON.parse` would drop the first; null if there is none. */
function repeatedKey(text: string): string | null {
  const open: (Set<string> | null)[] = []; // keys of each open object, null for a list
  let last = "";
  for (const [token] of text.matchAll(/"[^"\\]*(?:\\.[^"\\]*)*"|[{}[\]:]/gs)) {
    if (token === "{") open.push(new Set());
    else if (token === "[") open.push(null);
    else if (token === "}" || token === "]") open.pop();
    else if (token !== ":") last = token;
    else {
      const key = last.includes("\\") ? (JSON.parse(last) as string) : last.slice(1, -1);
      const keys = open.at(-1)!;
      if (keys?.has(key)) return key;
      keys?.add(key);
    }
  }
  return null;
}

/** The JSON of a line. Throws `RecordError`. */
export function parseLine(bytes: Uint8Array, place: RecordPlace): unknown {
  let text: string;
  try {
    text = new TextDecoder("utf-8", { fatal: true }).decode(bytes);
  } catch {
    throw new RecordError(place.file, place.line, "the line is not UTF-8; write the file in UTF-8");
  }
  try {
    const json = JSON.parse(text) as unknown;
    const twice = repeatedKey(text);
    if (twice === null) return json;
    throw new RecordError(place.file, place.line, `the key ${quote(twice)} stands twice in one object; leave one`);
  } catch (error) {
    if (error instanceof RecordError) throw error;
    const why = messageOf(error);
    throw new RecordError(place.file, place.line, `the line is not JSON (${quote(why)}); write one record a line`);
  }
}

/**
 * The raw sample of a parsed record. A file may mix kinds that are for its task. Throws `RecordError`.
 * @param kind of the file, for messages about records that are of none
 */
export function parseRecord(json: unknown, kind: SourceKind, task: Task, place: RecordPlace): RawSample {
  const fail = (reason: string): never => {
    throw new RecordError(place.file, place.line, reason);
  };
  if (!isObject(json)) return fail("a record must be a JSON object");
  const found = kindOf(json) ?? kind;
  const own = found === "prompts" ? kind : found; // a pair that lacks its image is no prompt
  if (!TASKS_OF[own].includes(task) || (own === "folder") !== (kind === "folder"))
    return fail(`the record is of kind ${own} and its file is for ${task}; put it into a file of its own`);
  const refused = [...fieldsOf(json, own)].find((field) => fieldUse(own, field, place.ignoredFields) === "refused");
  if (refused !== undefined)
    return fail(
      `the field ${quote(refused)} is not used in a record of kind ${own}; remove it, or allow it with --ignore-field ${JSON.stringify(refused)}`,
    );
  const reader = new RecordReader(json, place.images, fail);
  switch (own) {
    case "text":
      return { task: "text", text: reader.text("text") };
    case "pairs":
      return { task: "gen", ...reader.pair() };
    case "folder":
      return { task: "gen", prompt: reader.text("class"), image: reader.path(json.image, "image") };
    case "prompts":
      return { task: "gen", prompt: reader.text("prompt"), image: "" };
    case "image_preferences": {
      const image = (name: string): string => reader.path(json[name], name);
      return { task: "gen", prompt: reader.text("prompt"), image: image("chosen_image"), rejected: image("rejected_image") }; // prettier-ignore
    }
    case "preferences": {
      const { images, ...conversation } = reader.preference();
      if (task !== "text") return { task: "und", ...conversation, images };
      if (images.length)
        return fail("the record has images and its source is for text; list the source under und, or take it out");
      return { task: "text", ...conversation };
    }
    case "conversations":
    case "messages": {
      const { images, ...conversation } = reader.turns(own);
      if (task !== "text") return { task: "und", ...conversation, images };
      if (images.length)
        return fail("the record has images and its source is for text; list the source under und, or take it out");
      return { task: "text", ...conversation };
    }
  }
}

/** The folder that a source's image paths are relative to. */
export const imageRoot = (spec: SourceSpec): string => resolve(spec.images ?? dirname(spec.path));
