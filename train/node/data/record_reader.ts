/** Fields of a record as what they mean: texts, images, turns with their loss switches. Which fields a record may have is fields.ts. */
import { resolve } from "node:path";
import { fileURLToPath } from "node:url";
import { quote } from "../../../model/io/errors.ts";
import { cutJson, isObject } from "../../../model/io/unknown.ts";
import type { ContentPart, Message } from "../../../model/janus/prompt.ts";
import { LOSS_FIELDS, SAME, isAbsent, isEmpty } from "./fields.ts";

type Json = Readonly<Record<string, unknown>>;

interface Conversation {
  readonly messages: readonly Message[];
  readonly images: readonly string[];
  readonly system?: string;
  readonly untrained?: readonly number[];
}

/** A turn before images are counted: its parts in order, an image with its path if the turn itself names it. */
interface Turn {
  readonly role: string;
  parts: readonly (ContentPart & { readonly path?: string })[];
  /** False if its answer is not trained; undefined if it says nothing. */
  readonly loss: boolean | undefined;
}

const IMAGE_TAG = "<image>";
/** Names of the roles in published sets: ShareGPT's, LLaVA's, OpenAI's. */
const ROLES: Readonly<Record<string, string>> = {
  human: "user",
  user: "user",
  ...Object.fromEntries(["gpt", "assistant", "chatgpt", "bing", "bard", "model"].map((n) => [n, "assistant"])),
  system: "system",
  developer: "system",
};
/** An image inside a record, as `readImage` takes it. */
const INLINE = /^data:(image\/[a-z0-9.+-]+)?;base64,/i;

/** Types of parts, OpenAI's among them. */
const TEXT_PARTS: readonly unknown[] = ["text", "input_text"];
const IMAGE_PARTS: readonly unknown[] = ["image", "image_url", "input_image"];
/** Fields of a part that name its image. */
const PART_IMAGES = ["image_url", "image", "path"] as const;

/** Folder of relative image paths, or the images of a sample by name; undefined for a name that is none of them. */
export type ImageRoot = string | ((name: string) => string | undefined);

export class RecordReader {
  private readonly json: Json;
  private readonly images: ImageRoot;
  private readonly fail: (reason: string) => never;

  constructor(json: Json, images: ImageRoot, fail: (reason: string) => never) {
    this.json = json;
    this.images = images;
    this.fail = fail;
  }

  /** A field that contains text. */
  text(name: string): string {
    const value = this.json[name];
    if (typeof value !== "string") return this.fail(`${name} must be a string, got ${shown(value)}`);
    if (value.trim() === "") return this.fail(`${name} is empty; write it or take the record out`);
    if (INLINE.test(value))
      return this.fail(
        `${name} must be text in UTF-8, got bytes that are not; name another field, or write it in UTF-8`,
      );
    return value;
  }

  /** An image as an absolute path or a data URL: a path, a data URL, or `{path, bytes}` as Hugging Face's datasets write it. */
  path(value: unknown, where: string): string {
    if (isObject(value)) return this.inTable(value, where);
    if (typeof value !== "string" || value === "")
      return this.fail(`${where} must be the path of an image, got ${shown(value)}`);
    if (INLINE.test(value)) return value;
    if (typeof this.images === "function")
      return this.images(value) ?? this.fail(`${where} is ${quote(value)}, which is no image of the sample`);
    if (value.startsWith("file://")) {
      try {
        return fileURLToPath(value);
      } catch {
        return this.fail(`${where} is ${quote(value)}, no file of this machine; give a path`);
      }
    }
    if (/^[a-z][a-z0-9+.-]+:/i.test(value) && !/^[a-z]:[\\/]/i.test(value))
      return this.fail(
        `${where} is ${quote(value)}; only files and base64 data URLs are read: save the image and give its path, relative to ${this.images}`,
      );
    return resolve(this.images, value);
  }

  /** `{path, bytes}`: bytes in base64, else the path. */
  private inTable(value: Json, where: string): string {
    const other = Object.keys(value).find((name) => name !== "path" && name !== "bytes" && !isAbsent(value[name]));
    if (other !== undefined) return this.fail(`${where}.${other} is not used; an image is a path or {path, bytes}`);
    const { bytes } = value;
    if (isEmpty(bytes)) return this.path(value.path, `${where}.path`);
    if (typeof bytes !== "string" || !/^[A-Za-z0-9+/]+=*$/.test(bytes))
      return this.fail(`${where}.bytes must be base64, got ${shown(bytes)}; save the image and give its path`);
    return `data:;base64,${bytes}`;
  }

  /** `{prompt or text, image or file_name}`. */
  pair(): { readonly prompt: string; readonly image: string } {
    const [prompt, image] = SAME.map(
      (names) =>
        names.find((name) => !isEmpty(this.json[name])) ?? names.find((name) => !isAbsent(this.json[name])) ?? names[0],
    );
    return { prompt: this.text(prompt!), image: this.path(this.json[image!], image!) };
  }

  /** The turns of `conversations` or `messages`, each as `{from, value}` or `{role, content}`. */
  turns(list: "conversations" | "messages"): Conversation {
    return this.conversation(
      this.list(list).map((turn, i): Turn => {
        const at = `${list}[${i}]`;
        const hasRole = isObject(turn) && !isAbsent(turn.role);
        const hasFrom = isObject(turn) && !isAbsent(turn.from);
        if (hasRole && hasFrom) return this.fail(`${at} has role and from; leave one of them`);
        return hasRole || (list === "messages" && !hasFrom) ? this.openAi(turn, at) : this.shareGpt(turn, at);
      }),
    );
  }

  /** `{prompt, chosen, rejected}`: a question, or the messages up to one, and two answers to it. Images without a tag come first. */
  preference(): Conversation & { readonly rejected: string } {
    const { prompt } = this.json;
    const turns = Array.isArray(prompt)
      ? this.list("prompt").map((turn, i) => this.openAi(turn, `prompt[${i}]`))
      : [{ role: "user", parts: this.tagged(this.text("prompt"), "prompt"), loss: undefined }];
    const tags = turns.flatMap(({ parts }) => parts.filter((part) => part.type === "image"));
    const first = turns.find(({ role }) => role === "user");
    if (first && tags.length === 0)
      first.parts = [...this.listedImages().map(() => ({ type: "image" }) as const), ...first.parts];
    const [chosen, rejected] = [this.answer("chosen"), this.answer("rejected")];
    if (chosen === rejected) return this.fail("chosen and rejected are the same; take the record out");
    const answer: Turn = { role: "assistant", parts: [{ type: "text", text: chosen }], loss: undefined };
    const answers = turns.filter(({ role }) => role === "assistant").length;
    // Earlier answers belong to the prompt.
    const untrained = Array.from({ length: answers }, (_, i) => 2 * i + 1);
    return { ...this.conversation([...turns, answer]), ...(untrained.length > 0 && { untrained }), rejected };
  }

  /** An answer as text, or as a list of the one message that it is. */
  private answer(name: "chosen" | "rejected"): string {
    const value = this.json[name];
    if (!Array.isArray(value)) return this.text(name);
    const [turn, ...rest] = value as unknown[];
    const { role, parts } = this.openAi(turn, `${name}[0]`);
    if (rest.length > 0 || role !== "assistant" || parts.some(({ type }) => type === "image"))
      return this.fail(`${name} must be a text or one message of the assistant, got ${shown(value)}`);
    const text = joined(parts);
    return text.trim() === "" ? this.fail(`${name} is empty; write it or take the record out`) : text;
  }

  private shareGpt(turn: unknown, at: string): Turn {
    if (!isObject(turn) || typeof turn.from !== "string" || typeof turn.value !== "string")
      return this.fail(`${at} must be {"from": "human" or "gpt", "value": text}, got ${shown(turn)}`);
    const role = Object.hasOwn(ROLES, turn.from) ? ROLES[turn.from] : undefined;
    if (!role) return this.fail(`${at}.from is ${quote(turn.from)}; "human", "gpt" and "system" are known`);
    return { role, parts: this.tagged(turn.value, at), loss: this.lossOf(turn, role, at) };
  }

  private openAi(turn: unknown, at: string): Turn {
    if (!isObject(turn) || typeof turn.role !== "string")
      return this.fail(`${at} must be {"role": "user" or "assistant", "content": …}, got ${shown(turn)}`);
    const { content } = turn;
    const role = Object.hasOwn(ROLES, turn.role) ? ROLES[turn.role]! : turn.role;
    const loss = this.lossOf(turn, role, at);
    if (typeof content === "string") return { role, parts: this.tagged(content, at), loss };
    if (!Array.isArray(content))
      return this.fail(`${at}.content must be text or a list of parts, got ${shown(content)}`);
    return { role, parts: (content as unknown[]).map((part, p) => this.part(part, `${at}.content[${p}]`)), loss };
  }

  /** Whether a turn is trained, by one of `LOSS_FIELDS`: true, 1, false or 0. */
  private lossOf(turn: Json, role: string, at: string): boolean | undefined {
    const names = LOSS_FIELDS.filter((name) => !isAbsent(turn[name]));
    const values = names.map((name) => {
      const value = turn[name];
      if (value !== true && value !== false && value !== 0 && value !== 1)
        return this.fail(
          `${at}.${name} is ${shown(value)}; 0, 1, false and true are known: an answer is trained or not`,
        );
      return Boolean(value);
    });
    if (values.some((value) => value !== values[0]))
      return this.fail(`${at} has ${names.join(" and ")}, which differ; leave one of them`);
    if (values[0] === true && role !== "assistant")
      return this.fail(`${at}.${names[0]} asks to train ${quote(role)}; only answers of the assistant are trained`);
    return values[0];
  }

  /** A part of a message: text, or an image as `{image_url: {url}}`, `{image_url}`, `{image}` or `{path}`. */
  private part(part: unknown, at: string): Turn["parts"][number] {
    if (!isObject(part)) return this.fail(`${at} must be an object with a type, got ${shown(part)}`);
    const isText = TEXT_PARTS.includes(part.type);
    if (!isText && !IMAGE_PARTS.includes(part.type))
      return this.fail(
        `${at}.type is ${shown(part.type)}; ${[...TEXT_PARTS, ...IMAGE_PARTS].map((type) => `"${String(type)}"`).join(", ")} are known`,
      );
    this.requireOneContent(part, isText, at);
    if (isText) {
      if (typeof part.text !== "string") return this.fail(`${at}.text must be a string, got ${shown(part.text)}`);
      return { type: "text", text: part.text };
    }
    const url = (isObject(part.image_url) ? part.image_url.url : part.image_url) ?? part.image ?? part.path;
    if (url === undefined && part.type === "image") return { type: "image" }; // one of those that the record lists
    return { type: "image", path: this.path(url, at) };
  }

  /** A part is one text or one image: of two, the second would be dropped. */
  private requireOneContent(part: Json, isText: boolean, at: string): void {
    const images = PART_IMAGES.filter((name) => !isEmpty(part[name]));
    const [strange] = isText ? images : isEmpty(part.text) ? [] : ["text"];
    if (strange !== undefined)
      this.fail(`${at}.${strange} is not used in a part of type ${shown(part.type)}; make it a part of its own`);
    if (images.length > 1) this.fail(`${at} has ${images.join(" and ")}; leave one of them`);
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
    const hasSystem = turns[0]!.role === "system";
    const rest = hasSystem ? turns.slice(1) : turns;
    const images: string[] = [];
    let taken = 0;
    for (const [i, { role, parts }] of rest.entries()) {
      const due = i % 2 === 0 ? "user" : "assistant";
      if (role !== due)
        return this.fail(`message ${i} is of ${quote(role)}; "user" and "assistant" take turns, the user first`);
      for (const part of parts) {
        if (part.type !== "image") continue;
        if (due === "assistant")
          return this.fail(
            `message ${i}, an answer, contains an image; answers are text (as a part of type text, ${IMAGE_TAG} is a word)`,
          );
        const path = part.path ?? listed[taken++];
        if (path !== undefined) images.push(path);
      }
    }
    const messages = rest.map((turn, i) => this.message(turn, i));
    if (messages.length === 0 || messages.length % 2)
      return this.fail("the conversation does not end with an answer; take its last question out");
    if (taken !== listed.length) {
      const advice =
        taken < listed.length
          ? `put one ${IMAGE_TAG} into a question for each`
          : `list each, or write the content as a list of parts, in which ${IMAGE_TAG} is a word`;
      return this.fail(`the messages name ${taken} images by ${IMAGE_TAG} and ${listed.length} are listed; ${advice}`);
    }
    const system = this.system(hasSystem ? turns[0]! : undefined);
    const untrained = rest.flatMap(({ loss }, i) => (i % 2 === 1 && loss === false ? [i] : []));
    return {
      messages,
      images,
      ...(system !== undefined && { system }),
      ...(untrained.length > 0 && { untrained }),
    };
  }

  private message({ parts }: Turn, i: number): Message {
    const text = joined(parts);
    if (i % 2 === 1) {
      if (text.trim() === "") return this.fail(`message ${i}, an answer, is empty; write it or take the record out`);
      return { role: "assistant", content: text };
    }
    const content = parts.flatMap((part): ContentPart[] =>
      part.type === "image" ? [{ type: "image" }] : part.text.trim() === "" ? [] : [part],
    );
    if (content.length === 0) return this.fail(`message ${i}, a question, is empty`);
    return { role: "user", content: content.every(({ type }) => type === "text") ? text : content };
  }

  /** The system prompt: that of a first message or of the field `system`, "" for none. */
  private system(first: Turn | undefined): string | undefined {
    const field = this.json.system;
    if (first?.parts.some(({ type }) => type === "image"))
      return this.fail("the system message contains an image; put it into a question");
    if (isAbsent(field)) return first && joined(first.parts);
    if (typeof field !== "string") return this.fail(`system must be a string, got ${shown(field)}`);
    if (first) return this.fail("the record has a system message and the field system; leave one of them");
    return field;
  }

  /** `image` or `images`: one path or several; "" and null are no image. */
  private listedImages(): string[] {
    const { image, images } = this.json;
    if (!isEmpty(image) && !isEmpty(images)) return this.fail("the record has image and images; leave one of them");
    const [name, value] = isEmpty(images) ? ["image", image] : ["images", images];
    if (isEmpty(value)) return [];
    if (!Array.isArray(value)) return [this.path(value, name!)];
    return (value as unknown[]).map((item, i) => this.path(item, `${name}[${i}]`));
  }

  /** Text around `<image>` tags; white space next to an image belongs to the format. */
  private tagged(value: string, at: string): ContentPart[] {
    const pieces = value.split(IMAGE_TAG);
    if (pieces.length === 1) return [{ type: "text", text: value }];
    if (value.includes("</image>"))
      return this.fail(
        `${at} has </image>; an image is ${IMAGE_TAG} alone, and what it is comes from the list of images`,
      );
    return pieces.flatMap((piece, i): ContentPart[] => {
      const text = piece.trim();
      return [...(i > 0 ? [{ type: "image" } as const] : []), ...(text ? [{ type: "text", text } as const] : [])];
    });
  }
}

const joined = (parts: Turn["parts"]): string => parts.map((part) => (part.type === "text" ? part.text : "")).join("");

const shown = (value: unknown): string => (value === undefined ? "nothing" : quote(JSON.stringify(cutJson(value))));
