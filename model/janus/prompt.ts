/**
 * Prompts: conversations and image descriptions as the text that Janus was trained on, that text as token ids with every image expanded,
 * and rows of ids as padded batches. The original's `VLChatProcessor` without images (those are image/preprocess.ts) and tensors.
 */
import { PromptError } from "../request.ts";
import { ConfigError } from "../io/errors.ts";
import type { Tokenizer } from "./tokenizer.ts";
import { isObject, showJson, unknownKeys } from "../io/unknown.ts";
import { ChatTemplate } from "../chat_template.ts";

/** The original's system prompt, which precedes questions. Image generation has none. */
export const DEFAULT_SYSTEM_PROMPT =
  "You are a helpful language and vision assistant. You are able to understand the visual content that the user provides, " +
  "and assist the user with a variety of tasks using natural language.";

/** A part of a message: text, or an image. Where an image comes from is `Janus.ask`'s concern; the text has a placeholder for each. */
export type ContentPart =
  | { readonly type: "text"; readonly text: string }
  | {
      readonly type: "image";
      /** Path, bytes or pixels (see `ImageInput`); without it the next of `AskOptions.images`. */
      readonly image?: unknown;
      /** The same as a `data:` URL, and as the path of a file. */
      readonly url?: string;
      readonly path?: string;
    };

/** Parts as OpenAI writes them. */
export type OpenAiPart =
  | { readonly type: "input_text"; readonly text: string }
  | { readonly type: "image_url"; readonly image_url: string | { readonly url: string } }
  | { readonly type: "input_image"; readonly image_url: string | { readonly url: string } };

export interface Message {
  readonly role: "user" | "assistant";
  /** Text, in which `<image_placeholder>` stands for an image; or parts in order. */
  readonly content: string | readonly (ContentPart | OpenAiPart)[];
}

/** Checked parts, the input of a template. */
type PlainPart = { readonly type: "text"; readonly text: string } | { readonly type: "image" };
interface Turn {
  readonly role: Message["role"];
  readonly content: string | readonly PlainPart[];
}

const IMAGE_TYPES: readonly unknown[] = ["image", "image_url", "input_image"];
const TEXT_TYPES: readonly unknown[] = ["text", "input_text"];

/** Throws `PromptError` with message, part and type if a part is neither a `ContentPart` nor an `OpenAiPart`. */
function plainContent(content: unknown, message: number): string | readonly PlainPart[] {
  if (typeof content === "string") return content;
  if (!Array.isArray(content))
    throw new PromptError(`message ${message}: content must be a text or a list of parts; got ${showJson(content)}`);
  return content.map((part: unknown, i): PlainPart => {
    const where = `message ${message}, part ${i}`;
    if (!isObject(part)) throw new PromptError(`${where} must be an object with a type; got ${showJson(part)}`);
    if (IMAGE_TYPES.includes(part.type)) return { type: "image" };
    if (!TEXT_TYPES.includes(part.type))
      throw new PromptError(
        `${where}: type ${showJson(part.type)} is not supported; it must be one of ${[...TEXT_TYPES, ...IMAGE_TYPES].map(showJson).join(", ")}`,
      );
    if (typeof part.text !== "string")
      throw new PromptError(`${where}: type ${showJson(part.type)} needs a string text; got ${showJson(part.text)}`);
    return { type: "text", text: part.text };
  });
}

/** The text half of a checkpoint's processor. */
export interface PromptConfig {
  /** Tokens that one image takes between its begin and end tokens. */
  readonly imageTokens: number;
  /** Jinja source; without it the conversation format of the original is used. */
  readonly chatTemplate?: string | undefined;
  /** System prompt of conversations without one; "" for none (default: the original's). */
  readonly system?: string;
}

/** The files that a `PromptConfig` is read from, parsed; `chatTemplate` is the text of `chat_template.jinja`. */
export interface PromptFiles {
  readonly processor?: unknown;
  readonly chatTemplate?: string | undefined;
  readonly chatTemplateJson?: unknown;
  /** The tokenizer's string for a special token: the files must name the same one. */
  readonly tagOf?: (token: "imagePlaceholder" | "beginOfImage" | "endOfImage" | "pad") => string | undefined;
}

/** Keys of processor_config.json that name a special token. */
const TAGS = [
  ["image_tag", "imagePlaceholder"],
  ["image_token", "imagePlaceholder"],
  ["image_start_tag", "beginOfImage"],
  ["image_end_tag", "endOfImage"],
  ["pad_tag", "pad"],
] as const;
/** The other known keys: those obeyed or checked in `promptConfig`, and those that only training in the original or loading in transformers reads. */
const KNOWN_KEYS: ReadonlySet<string> = new Set([
  ...TAGS.map(([key]) => key),
  "num_image_tokens", "use_default_system_prompt", "sft_format", "add_special_token", "chat_template", "image_processor",
  "ignore_id", "mask_prompt", "processor_class", "auto_map", "transformers_version", "generation_mode", "tokenizer",
  "system_prompt",
]); // prettier-ignore

/** Names the keys of processor_config.json that are not known. */
export const promptNotices = (processor: unknown, where: string): string[] =>
  isObject(processor) ? unknownKeys(processor, KNOWN_KEYS, where) : [];

/**
 * Reads `processor_config.json` (either layout) and the chat template. A checkpoint that names DeepSeek's own format (`sft_format`) has no
 * template of its own. The system prompt is that of the original in DeepSeek's layout; in transformers' layout it is there if
 * `use_default_system_prompt` is true. Throws `ConfigError`.
 */
export function promptConfig({
  processor,
  chatTemplate,
  chatTemplateJson,
  tagOf = () => undefined,
}: PromptFiles): PromptConfig {
  const json: unknown = processor ?? {};
  if (!isObject(json)) throw new ConfigError("processor_config.json: the top must be an object");
  const fail = (key: string, needed: string): never => {
    throw new ConfigError(`processor_config.json: ${key} must be ${needed}; got ${showJson(json[key])}`);
  };
  const imageTokens = json.num_image_tokens ?? 576;
  if (typeof imageTokens !== "number" || !Number.isInteger(imageTokens) || imageTokens < 1 || imageTokens > 65536)
    return fail("num_image_tokens", "a whole number from 1 to 65536");
  const format = json.sft_format ?? undefined;
  if (format !== undefined && format !== "deepseek") fail("sft_format", '"deepseek", the only format that is known');
  if (![undefined, null, false].includes(json.add_special_token as null))
    fail("add_special_token", "false: prompts have no placeholder besides the image tokens");
  for (const [key, token] of TAGS) {
    const tag = tagOf(token);
    if (json[key] !== undefined && json[key] !== null && tag !== undefined && json[key] !== tag)
      fail(key, `${showJson(tag)}, the tokenizer's token`);
  }
  const flag = json.use_default_system_prompt ?? undefined;
  if (flag !== undefined && typeof flag !== "boolean") fail("use_default_system_prompt", "true or false");
  const own = json.system_prompt ?? undefined;
  if (own !== undefined && typeof own !== "string") return fail("system_prompt", "a string");
  const template =
    chatTemplate ??
    (isObject(chatTemplateJson)
      ? templateIn(chatTemplateJson.chat_template, "chat_template.json")
      : templateIn(json.chat_template, "processor_config.json"));
  return {
    imageTokens,
    chatTemplate: format === undefined ? template : undefined,
    system: own ?? ((flag ?? (format !== undefined || processor === undefined)) ? DEFAULT_SYSTEM_PROMPT : ""),
  };
}

/** Returns a template, or the one named `default` if there are several: `{name: template}` or `[{name, template}]`, as in transformers. */
function templateIn(value: unknown, file: string): string | undefined {
  if (value === undefined || value === null || typeof value === "string") return value ?? undefined;
  const list = Array.isArray(value) ? (value as unknown[]) : [];
  const named = list.find((one): one is Record<string, unknown> => isObject(one) && one.name === "default");
  const found = isObject(value) ? value.default : named?.template;
  if (typeof found === "string") return found;
  throw new ConfigError(
    `${file}: chat_template must be a text, or several by name with one named "default"; got ${showJson(value)}. Remove it to use DeepSeek's format`,
  );
}

// What Python's str.strip() takes: other than trim() also U+001C to U+001F and U+0085, but not U+FEFF.
const SPACE = "[\\t-\\r\\x1c-\\x20\\x85\\xa0\\u1680\\u2000-\\u200a\\u2028\\u2029\\u202f\\u205f\\u3000]+";
const LEADING_SPACE = new RegExp(`^${SPACE}`);
const strip = (text: string): string => {
  const rest = text.replace(LEADING_SPACE, "");
  let end = rest.length; // a loop from the end: `${SPACE}$` would be quadratic in long runs
  while (end > 0 && LEADING_SPACE.test(rest[end - 1]!)) end--;
  return rest.slice(0, end);
};

/** The roles of Janus-1.3B. */
export const PLAIN_ROLES: Readonly<Record<Message["role"], string>> = { user: "User", assistant: "Assistant" };

export interface ConversationOptions {
  /** Stands before the conversation; "" for none (default: the checkpoint's, see `PromptConfig`). */
  readonly system?: string;
  /** If true (default), the text ends where the assistant's answer begins; else after the last message, for training. */
  readonly answer?: boolean;
}

/** Most characters of a prompt: far beyond any context, and what the tokenizer's library takes without running out of stack. */
const MAX_CHARACTERS = 2 ** 20;

/** Text and ids of prompts for one checkpoint. */
export class PromptFormat {
  readonly config: PromptConfig;
  private readonly tokenizer: Tokenizer;
  private readonly roles: Readonly<Record<Message["role"], string>>;
  private readonly template: ChatTemplate | undefined;

  /** Roles are Janus-Pro's tags if the tokenizer has them, else the plain words of Janus-1.3B; `roles` sets others. */
  constructor(tokenizer: Tokenizer, config: PromptConfig, roles?: Readonly<Record<Message["role"], string>>) {
    this.tokenizer = tokenizer;
    this.config = config;
    const { user, assistant } = tokenizer.specials;
    const hasTags = user !== undefined && assistant !== undefined;
    this.roles = roles ?? (hasTags ? { user: this.token(user), assistant: this.token(assistant) } : PLAIN_ROLES);
    if (config.chatTemplate !== undefined && roles === undefined) this.template = new ChatTemplate(config.chatTemplate);
  }

  /** System prompt of conversations without one; "" for none. */
  get system(): string {
    return this.config.system ?? DEFAULT_SYSTEM_PROMPT;
  }

  /**
   * The text of a conversation, without the begin-of-sentence token. An empty last message of the assistant counts as none.
   * Throws `PromptError` if messages do not alternate, beginning with the user, if a part is unknown, or if the last
   * question is empty.
   */
  conversation(
    messages: readonly Message[],
    { system = this.system, answer = true }: ConversationOptions = {},
  ): string {
    if (typeof system !== "string")
      throw new PromptError(`system must be a text, "" for none; got ${showJson(system)}`);
    const turns = messages.map(({ role, content }, i): Turn => {
      const plain = plainContent(content, i);
      return { role, content: typeof plain === "string" ? strip(plain) : plain };
    });
    if (answer && turns.at(-1)?.role === "assistant" && turns.at(-1)!.content.length === 0) turns.pop();
    for (const [i, { role }] of turns.entries()) {
      const due = i % 2 === 0 ? "user" : "assistant";
      if (role !== due)
        throw new PromptError(
          `message ${i}: role must be ${JSON.stringify(due)}, as roles alternate and the user begins; got ${showJson(role)}. A system prompt is the option system`,
        );
    }
    if (answer && turns.length % 2 === 0) throw new PromptError("the last message must be a question of the user");
    for (const [i, { content }] of turns.entries()) {
      if (i % 2 === 0 && this.written(content) === "")
        throw new PromptError("the prompt is empty; write a question or give an image");
    }
    const text = this.template ? this.byTemplate(this.template, turns, answer) : this.byFormat(turns, answer);
    return strip(system === "" ? text : `${system}\n\n${text}`);
  }

  /** The text that asks for an image of `prompt`; it ends in the begin-of-image token. Throws `PromptError` for an empty prompt. */
  generation(prompt: string): string {
    return (
      this.conversation([{ role: "user", content: prompt }], { system: "" }) +
      this.token(this.tokenizer.specials.beginOfImage)
    );
  }

  /**
   * `text` as ids: begin-of-sentence in front, every image placeholder expanded to begin-of-image, `imageTokens` placeholders, end-of-image.
   * Throws `PromptError` when the text does not name as many images as there are.
   */
  encode(text: string, images = 0): number[] {
    const { beginOfImage, endOfImage, imagePlaceholder } = this.tokenizer.specials;
    if (text.length > MAX_CHARACTERS)
      throw new PromptError(`the prompt has ${text.length} characters; at most ${MAX_CHARACTERS} are read, shorten it`);
    const ids = this.tokenizer.encode(text);
    const named = ids.filter((id) => id === imagePlaceholder).length;
    if (named !== images) {
      throw new PromptError(
        `the prompt names ${named} image${named === 1 ? "" : "s"} and ${images} came; ${this.token(imagePlaceholder)} stands once for each`,
      );
    }
    const block = [
      beginOfImage,
      ...Array.from({ length: this.config.imageTokens }, () => imagePlaceholder),
      endOfImage,
    ];
    return ids.flatMap((id) => (id === imagePlaceholder ? block : [id]));
  }

  private token(id: number): string {
    return this.tokenizer.tokenOf(id)!;
  }

  /** Joins content to one text; each image is on its own line. */
  private written(content: Turn["content"]): string {
    if (typeof content === "string") return content;
    let text = "";
    for (const part of content) {
      if (part.type === "text") text += part.text;
      else
        text += `${text === "" || text.endsWith("\n") ? "" : "\n"}${this.token(this.tokenizer.specials.imagePlaceholder)}\n`;
    }
    return strip(text);
  }

  /** DeepSeek's format: what ends a message depends on its position, not by its role. */
  private byFormat(turns: readonly Turn[], answer: boolean): string {
    const ends = ["\n\n", this.token(this.tokenizer.specials.eos)];
    let text = "";
    for (const [i, { role, content }] of turns.entries()) {
      const written = this.written(content);
      text += written === "" ? `${this.roles[role]}:` : `${this.roles[role]}: ${written}${ends[i % 2]}`;
    }
    return answer ? `${text}${this.roles.assistant}:` : text;
  }

  private byTemplate(template: ChatTemplate, turns: readonly Turn[], answer: boolean): string {
    const bos = this.token(this.tokenizer.specials.bos);
    const parts = (content: Turn["content"]): readonly PlainPart[] =>
      typeof content !== "string" ? content : content === "" ? [] : [{ type: "text", text: content }];
    const text = template.render({
      messages: turns.map(({ role, content }) => ({ role, content: parts(content) })),
      bos_token: bos,
      eos_token: this.token(this.tokenizer.specials.eos),
      add_generation_prompt: answer,
    });
    return text.startsWith(bos) ? text.slice(bos.length) : text; // `encode` puts it in front
  }
}

/** Rows of equal length: [rows, length]. */
export interface PromptBatch {
  readonly rows: number;
  readonly length: number;
  readonly inputIds: Int32Array;
  /** 0 on padding, else 1. */
  readonly attentionMask: Int32Array;
  /** From 0 at each row's first token; 0 on padding. */
  readonly positions: Int32Array;
}

/** The unconditional row of an image prompt: everything between its first and last token becomes padding that is attended. */
export function unconditionalRow(ids: readonly number[], pad: number): number[] {
  return ids.map((id, i) => (i === 0 || i === ids.length - 1 ? id : pad));
}

/** Rows of different lengths as one batch, padded on the left. */
export function leftPad(rows: readonly (readonly number[])[], pad: number): PromptBatch {
  const length = rows.reduce((longest, row) => Math.max(longest, row.length), 0);
  const inputIds = new Int32Array(rows.length * length).fill(pad);
  const attentionMask = new Int32Array(inputIds.length);
  const positions = new Int32Array(inputIds.length);
  for (const [r, row] of rows.entries()) {
    const start = (r + 1) * length - row.length;
    inputIds.set(row, start);
    attentionMask.fill(1, start, start + row.length);
    for (let i = 0; i < row.length; i++) positions[start + i] = i;
  }
  return { rows: rows.length, length, inputIds, attentionMask, positions };
}
