/**
 * What the data may look like: JSONL of conversations (LLaVA's and OpenAI's), of prompts with images, of plain texts, and folders of images
 * by class. From a record's text to a raw sample; which bytes are a record is index_file.ts. Tar shards and parquet would be kinds here.
 */
import { dirname, resolve } from "node:path";
import { fileURLToPath } from "node:url";
import { quote } from "../../../model/io/errors.ts";
import type { ContentPart, Message } from "../../../model/janus/prompt.ts";
import type { Task } from "../../samples.ts";
import type { RawSample } from "../../data/raw_sample.ts";
import { RecordError, SourceError } from "../../data/errors.ts";
import { isObject } from "../../../model/io/unknown.ts";
import { messageOf } from "../../../engine/errors.ts";

/**
 * `conversations`: LLaVA's `{conversations: [{from, value}], image}`; `messages`: OpenAI's `{messages: [{role, content}]}`;
 * `pairs`: `{prompt, image}`; `text`: `{text}`; `folder`: images in a folder for each class.
 */
export const SOURCE_KINDS = ["conversations", "messages", "pairs", "text", "folder"] as const;
export type SourceKind = (typeof SOURCE_KINDS)[number];

export interface SourceSpec {
  /** A JSONL file, or a folder with a folder of images for each class. */
  readonly path: string;
  /** What its samples count as; without it that of the kind (conversations: und). Conversations without images may be `text`. */
  readonly task?: Task;
  /** The folder that image paths are relative to; without it that of the file. */
  readonly images?: string;
  /** For a folder: a file of lines `folder name of the class`; without it the folders' names, `_` as space. */
  readonly classes?: string;
}

const TASKS_OF: Readonly<Record<SourceKind, readonly Task[]>> = {
  conversations: ["und", "text"],
  messages: ["und", "text"],
  pairs: ["gen"],
  text: ["text"],
  folder: ["gen"],
};

/** The task of a source. Throws `SourceError` for one that its kind cannot be. */
export function sourceTask(spec: SourceSpec, kind: SourceKind): Task {
  const known = TASKS_OF[kind];
  if (spec.task !== undefined && !known.includes(spec.task))
    throw new SourceError(`${spec.path}: a source of kind ${kind} is for ${known.join(" or ")}, not for ${spec.task}`);
  return spec.task ?? known[0]!;
}

type Json = Record<string, unknown>;
/** The kind of a file, by the fields of one of its records; undefined if they say nothing. */
export function kindOf(record: unknown): SourceKind | undefined {
  if (!isObject(record)) return undefined;
  if ("conversations" in record) return "conversations";
  if ("messages" in record) return "messages";
  if ("prompt" in record && "image" in record) return "pairs";
  if ("text" in record) return "text";
  if ("class" in record && "image" in record) return "folder";
  return undefined;
}

/** Position of a record, for its errors and its images. */
export interface RecordPlace {
  readonly file: string;
  readonly line: number;
  /** The folder of relative image paths. */
  readonly images: string;
}

/** The JSON of a line. Throws `RecordError`. */
export function parseLine(bytes: Uint8Array, place: RecordPlace): unknown {
  let text: string;
  try {
    text = new TextDecoder("utf-8", { fatal: true }).decode(bytes);
  } catch {
    throw new RecordError(place.file, place.line, "the line is not UTF-8; write the file again in UTF-8");
  }
  try {
    return JSON.parse(text) as unknown;
  } catch (error) {
    const why = messageOf(error);
    throw new RecordError(place.file, place.line, `the line is not JSON (${quote(why)}); write one record a line`);
  }
}

/** The raw sample of a parsed record. Throws `RecordError`. */
export function parseRecord(json: unknown, kind: SourceKind, task: Task, place: RecordPlace): RawSample {
  const fail = (reason: string): never => {
    throw new RecordError(place.file, place.line, reason);
  };
  if (!isObject(json)) return fail("a record must be a JSON object");
  const reader = new RecordReader(json, place, fail);
  switch (kind) {
    case "text":
      return { task: "text", text: reader.text("text") };
    case "pairs":
      return { task: "gen", prompt: reader.text("prompt"), image: reader.path(json.image, "image") };
    case "folder":
      return { task: "gen", prompt: reader.text("class"), image: reader.path(json.image, "image") };
    case "conversations":
    case "messages": {
      const { messages, system, images } = kind === "messages" ? reader.openAi() : reader.llava();
      const common = { messages, ...(system !== undefined && { system }) };
      if (task !== "text") return { task: "und", ...common, images };
      if (images.length)
        return fail("the record has images and its source is for text; list the source under und, or take it out");
      return { task: "text", ...common };
    }
  }
}

interface Conversation {
  readonly messages: readonly Message[];
  readonly system: string | undefined;
  readonly images: readonly string[];
}

/** A turn before images are counted: its parts in order, an image with its path if the turn itself names it. */
interface Turn {
  readonly role: string;
  readonly parts: readonly (ContentPart & { readonly path?: string })[];
}

const IMAGE_TAG = "<image>";
const LLAVA_ROLES: Readonly<Record<string, string>> = {
  human: "user",
  user: "user",
  gpt: "assistant",
  assistant: "assistant",
  system: "system",
};

class RecordReader {
  private readonly json: Json;
  private readonly place: RecordPlace;
  private readonly fail: (reason: string) => never;

  constructor(json: Json, place: RecordPlace, fail: (reason: string) => never) {
    this.json = json;
    this.place = place;
    this.fail = fail;
  }

  /** A field that holds text. */
  text(name: string): string {
    const value = this.json[name];
    if (typeof value !== "string") return this.fail(`${name} must be a string, got ${shown(value)}`);
    if (value.trim() === "") return this.fail(`${name} is empty; write it or take the record out`);
    return value;
  }

  /** An image as an absolute path. */
  path(value: unknown, where: string): string {
    if (typeof value !== "string" || value === "")
      return this.fail(`${where} must be the path of an image, got ${shown(value)}`);
    if (value.startsWith("file://")) {
      try {
        return fileURLToPath(value);
      } catch {
        return this.fail(`${where} is ${quote(value)}, no file of this machine; give a path`);
      }
    }
    if (/^[a-z][a-z0-9+.-]+:/i.test(value) && !/^[a-z]:[\\/]/i.test(value))
      return this.fail(
        `${where} is ${quote(value)}; only files are read: save the image and give its path, relative to ${this.place.images}`,
      );
    return resolve(this.place.images, value);
  }

  llava(): Conversation {
    const turns = this.list("conversations").map((turn, i): Turn => {
      const at = `conversations[${i}]`;
      if (!isObject(turn) || typeof turn.from !== "string" || typeof turn.value !== "string")
        return this.fail(`${at} must be {"from": "human" or "gpt", "value": text}, got ${shown(turn)}`);
      const role = Object.hasOwn(LLAVA_ROLES, turn.from) ? LLAVA_ROLES[turn.from] : undefined;
      if (!role) return this.fail(`${at}.from is ${quote(turn.from)}; "human", "gpt" and "system" are known`);
      return { role, parts: splitTags(turn.value) };
    });
    return this.conversation(turns);
  }

  openAi(): Conversation {
    const hasList = this.json.image !== undefined || this.json.images !== undefined;
    const turns = this.list("messages").map((turn, i): Turn => {
      const at = `messages[${i}]`;
      if (!isObject(turn) || typeof turn.role !== "string")
        return this.fail(`${at} must be {"role": "user" or "assistant", "content": …}, got ${shown(turn)}`);
      const { role, content } = turn;
      if (typeof content === "string")
        return { role, parts: hasList ? splitTags(content) : [{ type: "text", text: content }] };
      if (!Array.isArray(content))
        return this.fail(`${at}.content must be text or a list of parts, got ${shown(content)}`);
      return { role, parts: (content as unknown[]).map((part, p) => this.part(part, `${at}.content[${p}]`)) };
    });
    return this.conversation(turns);
  }

  /** A part of a message: text, or an image as `{image_url: {url}}`, `{image_url}`, `{image}` or `{path}`. */
  private part(part: unknown, at: string): Turn["parts"][number] {
    if (!isObject(part)) return this.fail(`${at} must be an object with a type, got ${shown(part)}`);
    if (part.type === "text") {
      if (typeof part.text !== "string") return this.fail(`${at}.text must be a string, got ${shown(part.text)}`);
      return { type: "text", text: part.text };
    }
    if (part.type !== "image_url" && part.type !== "image")
      return this.fail(`${at}.type is ${shown(part.type)}; "text", "image_url" and "image" are known`);
    const url = (isObject(part.image_url) ? part.image_url.url : part.image_url) ?? part.image ?? part.path;
    if (url === undefined && part.type === "image") return { type: "image" }; // one of those that the record lists
    return { type: "image", path: this.path(url, at) };
  }

  private list(name: string): unknown[] {
    const value = this.json[name];
    if (!Array.isArray(value) || value.length === 0)
      return this.fail(`${name} must be a list of messages, got ${shown(value)}`);
    return value as unknown[];
  }

  /** Checks that the turns alternate up to an answer, and gives every image its path. */
  private conversation(turns: readonly Turn[]): Conversation {
    const listed = this.listedImages();
    const first = turns[0]!;
    const hasSystem = first.role === "system";
    const rest = hasSystem ? turns.slice(1) : turns;
    const images: string[] = [];
    let taken = 0;
    const messages = rest.map(({ role, parts }, i): Message => {
      const due = i % 2 === 0 ? "user" : "assistant";
      if (role !== due)
        return this.fail(`message ${i} is of ${quote(role)}; "user" and "assistant" take turns, the user first`);
      for (const part of parts) {
        if (part.type !== "image") continue;
        if (due === "assistant") return this.fail(`message ${i}, an answer, holds an image; answers are text`);
        const path = part.path ?? listed[taken++];
        if (path !== undefined) images.push(path);
      }
      const text = joined(parts);
      if (due === "assistant") {
        if (text.trim() === "") return this.fail(`message ${i}, an answer, is empty; write it or take the record out`);
        return { role: "assistant", content: text };
      }
      const content = parts.flatMap((part): ContentPart[] =>
        part.type === "image" ? [{ type: "image" }] : part.text.trim() === "" ? [] : [part],
      );
      if (content.length === 0) return this.fail(`message ${i}, a question, is empty`);
      return { role: "user", content: content.every(({ type }) => type === "text") ? text : content };
    });
    if (messages.length === 0 || messages.length % 2)
      return this.fail("the conversation does not end with an answer; take its last question out");
    if (taken !== listed.length)
      return this.fail(`the messages name ${taken} images by ${IMAGE_TAG} and ${listed.length} are listed`);
    const system = hasSystem ? joined(first.parts) : undefined;
    if (hasSystem && first.parts.some(({ type }) => type === "image"))
      return this.fail("the system message holds an image; put it into a question");
    return { messages, system, images };
  }

  /** `image` or `images`: one path or several. */
  private listedImages(): string[] {
    const value = this.json.images ?? this.json.image;
    if (value === undefined || value === null) return [];
    const list = Array.isArray(value) ? (value as unknown[]) : [value];
    return list.map((item, i) => this.path(item, Array.isArray(value) ? `images[${i}]` : "image"));
  }
}

const joined = (parts: Turn["parts"]): string => parts.map((part) => (part.type === "text" ? part.text : "")).join("");

/** Text around `<image>` tags; white space next to an image is the format's own business. */
function splitTags(value: string): ContentPart[] {
  const pieces = value.split(IMAGE_TAG);
  if (pieces.length === 1) return [{ type: "text", text: value }];
  return pieces.flatMap((piece, i): ContentPart[] => {
    const text = piece.trim();
    return [...(i > 0 ? [{ type: "image" } as const] : []), ...(text ? [{ type: "text", text } as const] : [])];
  });
}

const shown = (value: unknown): string => (value === undefined ? "nothing" : quote(JSON.stringify(value)));

/** The folder that a source's image paths are relative to. */
export const imageRoot = (spec: SourceSpec): string => resolve(spec.images ?? dirname(spec.path));
