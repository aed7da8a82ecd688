/** Fields of records: which are used, which are known to say nothing about training, and which are refused. */
import { isObject } from "../../../model/io/unknown.ts";

/** Kinds of records by their fields. The listing of a folder has records of the kind `folder`. */
export type RecordKind = "conversations" | "messages" | "pairs" | "text" | "folder";

/** `used`: obeyed. `ignored`: says nothing about training, or was allowed by name. `refused`: a record with it is a bad one. */
export type FieldUse = "used" | "ignored" | "refused";

/** Switches of the loss of a turn. */
export const LOSS_FIELDS = ["loss", "weight", "loss_mask", "train"] as const;

const CONVERSATION = ["image", "images", "system"];
const USED: Readonly<Record<RecordKind, ReadonlySet<string>>> = {
  conversations: new Set(["conversations", ...CONVERSATION, ...inside("conversations", ["from", "value"])]),
  messages: new Set([
    "messages",
    ...CONVERSATION,
    ...inside("messages", ["role", "content"]),
    ...["type", "text", "image_url", "image", "path"].map((name) => `messages[].content[].${name}`),
    "messages[].content[].image_url.url",
  ]),
  pairs: new Set(["prompt", "text", "image", "file_name"]),
  text: new Set(["text"]),
  folder: new Set(["class", "image", "bytes"]),
};

function inside(list: string, names: readonly string[]): string[] {
  return [...names, ...LOSS_FIELDS].map((name) => `${list}[].${name}`);
}

/** Fields that published sets have beside the data: where a record is from, not what it means. */
const HARMLESS: ReadonlySet<string> = new Set([
  "id",
  "idx",
  "uuid",
  "key",
  "source",
  "dataset",
  "url",
  "license",
  "author",
  "title",
  "date",
  "timestamp",
  "dump",
  "meta",
  "metadata",
  "language",
  "lang",
  "width",
  "height",
  "sha256",
  "md5",
  // The resolution that OpenAI's models take an image in; here there is one.
  "messages[].content[].detail",
  "messages[].content[].image_url.detail",
  "token_count",
  "num_tokens",
]);

/** The use of a field in records of a kind. `ignored` are fields that the user has allowed, as they are named in messages. */
export function fieldUse(kind: RecordKind, field: string, ignored: readonly string[] = []): FieldUse {
  if (USED[kind].has(field)) return "used";
  return HARMLESS.has(field) || ignored.includes(field) ? "ignored" : "refused";
}

/** Whether a value says nothing: tables written as JSONL have null, "" or [] where a record lacks an image. */
export const isAbsent = (value: unknown): boolean => value === undefined || value === null;
export const isEmpty = (value: unknown): boolean =>
  isAbsent(value) || value === "" || isEmptyImage(value) || (Array.isArray(value) && value.every(isEmptyImage));
/** `{path: null, bytes: null}`: how Hugging Face's datasets write that there is no image. */
const isEmptyImage = (value: unknown): boolean =>
  isObject(value) &&
  Object.hasOwn(value, "path") &&
  Object.entries(value).every(
    ([name, part]) => (name === "path" || name === "bytes") && (isAbsent(part) || part === ""),
  );

/** Fields of a pair that mean the same. */
export const SAME = [
  ["prompt", "text"],
  ["image", "file_name"],
] as const;

const IMAGE_FIELDS = ["image", "images", "file_name"];

/** The kind of a record by its fields; undefined if they say nothing. */
export function kindOf(record: unknown): RecordKind | undefined {
  if (!isObject(record)) return undefined;
  const has = (name: string): boolean => Object.hasOwn(record, name) && !isAbsent(record[name]);
  if (has("conversations")) return "conversations";
  if (has("messages")) return "messages";
  if (has("prompt") && (Object.hasOwn(record, "image") || Object.hasOwn(record, "file_name"))) return "pairs";
  if (has("text")) return isEmpty(record.image) && isEmpty(record.file_name) ? "text" : "pairs";
  if (has("class") && has("image")) return "folder";
  return undefined;
}

/**
 * The fields of a record that have a value, each once: `text`, `messages[].role`, `messages[].content[].type`. Deeper ones are not looked at,
 * so that a record of any depth costs its fields alone.
 */
export function fieldsOf(record: Readonly<Record<string, unknown>>, kind: RecordKind): Set<string> {
  const found = new Set<string>();
  const add = (value: unknown, prefix: string): void => {
    if (!isObject(value)) return;
    for (const name of Object.keys(value)) if (!isAbsent(value[name])) found.add(prefix + name);
  };
  add(record, "");
  if (kind === "text" || kind === "pairs")
    for (const name of IMAGE_FIELDS) if (isEmpty(record[name])) found.delete(name);
  if (kind === "pairs") for (const name of SAME.flat()) if (isEmpty(record[name])) found.delete(name);
  // Of two fields that mean the same, the second one is not used.
  if (kind === "pairs")
    for (const [first, second] of SAME)
      if (found.has(first) && found.delete(second)) found.add(`${second} beside ${first}`);
  const turns = kind === "conversations" ? record.conversations : kind === "messages" ? record.messages : null;
  if (!Array.isArray(turns)) return found;
  for (const turn of turns as unknown[]) {
    add(turn, `${kind}[].`);
    if (kind !== "messages" || !isObject(turn) || !Array.isArray(turn.content)) continue;
    for (const part of turn.content as unknown[]) {
      add(part, "messages[].content[].");
      if (isObject(part)) add(part.image_url, "messages[].content[].image_url.");
    }
  }
  return found;
}

/** Records of an index that have a field, by kind and field. */
export interface FieldCount {
  readonly kind: RecordKind;
  readonly field: string;
  readonly records: number;
}

/** Names of fields that are counted; a file with more has data as names. */
const MAX_FIELDS = 1000;

/** Counts the records that have each field. */
export class FieldCounter {
  private readonly counts = new Map<string, { kind: RecordKind; field: string; records: number }>();

  add(record: unknown): void {
    const kind = kindOf(record);
    if (!kind || !isObject(record)) return;
    for (const field of fieldsOf(record, kind)) {
      const key = `${kind} ${field}`;
      const known = this.counts.get(key);
      if (known) known.records++;
      else if (this.counts.size < MAX_FIELDS) this.counts.set(key, { kind, field, records: 1 });
    }
  }

  get list(): FieldCount[] {
    return [...this.counts.values()];
  }
}
