/** Fields of records: which are used, which are known to say nothing about training, and which are refused. */
import { isObject } from "../../../model/io/unknown.ts";

/** Kinds of records by their fields. The listing of a folder has records of the kind `folder`. */
export type RecordKind =
  | "conversations"
  | "messages"
  | "pairs"
  | "text"
  | "folder"
  | "preferences"
  | "image_preferences"
  | "prompts";

/** `used`: obeyed. `ignored`: says nothing about training, or was allowed by name. `refused`: a record with it is a bad one. */
export type FieldUse = "used" | "ignored" | "refused";

/** Switches of the loss of a turn. */
export const LOSS_FIELDS = ["loss", "weight", "loss_mask", "train"] as const;

/** Fields of a pair that mean the same, the first that a record has is used: prompts and images. */
export const SAME = [
  ["prompt", "input_prompt", "caption", "text"],
  ["image", "output_image", "file_name"],
] as const;

export const USED: Readonly<Record<RecordKind, ReadonlySet<string>>> = {
  conversations: new Set(conversation("conversations")),
  messages: new Set(conversation("messages")),
  pairs: new Set<string>(SAME.flat()),
  text: new Set(["text"]),
  folder: new Set(["class", "image", "bytes"]),
  preferences: new Set(["image", "images", "system", ...["prompt", "chosen", "rejected"].flatMap(turnFields)]),
  image_preferences: new Set(["prompt", "chosen_image", "rejected_image"]),
  prompts: new Set(["prompt"]),
};

/** Fields of a record with a list of turns: ShareGPT's `from` and `value`, or OpenAI's `role` and `content`. */
function conversation(list: string): string[] {
  const more = ["from", "value", ...LOSS_FIELDS].map((name) => `${list}[].${name}`);
  return [...turnFields(list), "image", "images", "system", ...more];
}

/** A list of turns with OpenAI's `role` and `content`. */
function turnFields(list: string): string[] {
  const parts = ["type", "text", "image_url", "image", "path", "image_url.url"];
  return [
    list,
    ...["role", "content"].map((name) => `${list}[].${name}`),
    ...parts.map((name) => `${list}[].content[].${name}`),
  ];
}

/** Fields of a kind that may be lists of turns. */
const TURN_LISTS: Readonly<Partial<Record<RecordKind, readonly string[]>>> = {
  conversations: ["conversations"],
  messages: ["messages"],
  preferences: ["prompt", "chosen", "rejected"],
};

/** Fields that published sets have beside the data: where a record is from, not what it means. */
export const HARMLESS: ReadonlySet<string> = new Set([
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
  ...["conversations", "messages", "prompt", "chosen", "rejected"].flatMap((list) => [
    `${list}[].content[].detail`,
    `${list}[].content[].image_url.detail`,
  ]),
  // The size of an image, which its file says too.
  "output_image_resolution",
  "token_count",
  "num_tokens",
  "__index_level_0__", // the index of a table of pandas
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
/** `{path: null, bytes: null}`: how Hugging Face's datasets write that there is no image. Either field may be missing. */
const isEmptyImage = (value: unknown): boolean =>
  isObject(value) &&
  (Object.hasOwn(value, "path") || Object.hasOwn(value, "bytes")) &&
  Object.entries(value).every(
    ([name, part]) => (name === "path" || name === "bytes") && (isAbsent(part) || part === ""),
  );

const [PROMPT_FIELDS, IMAGE_FIELDS] = SAME;

/** Name of a field that is not used because another one with the same meaning is. */
export const besideName = (unused: string, used: string): string => `${unused} beside ${used}`;

/** The kind of a record by its fields; undefined if they say nothing. */
export function kindOf(record: unknown): RecordKind | undefined {
  if (!isObject(record)) return undefined;
  const has = (name: string): boolean => Object.hasOwn(record, name) && !isAbsent(record[name]);
  if (has("conversations")) return "conversations";
  if (has("messages")) return "messages";
  if (has("chosen") && has("rejected")) return "preferences";
  if (has("chosen_image") && has("rejected_image")) return "image_preferences";
  const hasPrompt = PROMPT_FIELDS.some((name) => name !== "text" && has(name));
  if (hasPrompt && IMAGE_FIELDS.some((name) => Object.hasOwn(record, name))) return "pairs";
  if (has("text")) return IMAGE_FIELDS.every((name) => isEmpty(record[name])) ? "text" : "pairs";
  if (has("class") && has("image")) return "folder";
  return has("prompt") ? "prompts" : undefined;
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
    for (const name of [...IMAGE_FIELDS, "images"]) if (isEmpty(record[name])) found.delete(name);
  if (kind === "pairs") for (const name of SAME.flat()) if (isEmpty(record[name])) found.delete(name);
  if (kind === "pairs") for (const names of SAME) onlyFirst(record, names, found);
  for (const list of TURN_LISTS[kind] ?? []) {
    const turns = record[list];
    if (!Array.isArray(turns)) continue;
    for (const turn of turns as unknown[]) {
      add(turn, `${list}[].`);
      if (!isObject(turn) || !Array.isArray(turn.content)) continue;
      for (const part of turn.content as unknown[]) {
        add(part, `${list}[].content[].`);
        if (isObject(part)) add(part.image_url, `${list}[].content[].image_url.`);
      }
    }
  }
  return found;
}

/** Of fields that mean the same, the first one is used. Another one that says something else is found as `text beside prompt`. */
function onlyFirst(record: Readonly<Record<string, unknown>>, names: readonly string[], found: Set<string>): void {
  const [first, ...others] = names.filter((name) => found.has(name));
  for (const other of others) {
    if (record[other] === record[first!]) continue;
    found.delete(other);
    found.add(besideName(other, first!));
  }
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

  add(record: unknown, records = 1): void {
    const kind = kindOf(record);
    if (!kind || !isObject(record)) return;
    for (const field of fieldsOf(record, kind)) {
      const key = `${kind} ${field}`;
      const known = this.counts.get(key);
      if (known) known.records += records;
      else if (this.counts.size < MAX_FIELDS) this.counts.set(key, { kind, field, records });
    }
  }

  get list(): FieldCount[] {
    return [...this.counts.values()];
  }
}
