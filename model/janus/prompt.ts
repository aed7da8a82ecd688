/**
 * Prompts: conversations and image descriptions as the text that Janus was trained on, that text as token ids with every image expanded,
 * and rows of ids as padded batches. The original's `VLChatProcessor` without pictures (those are image/preprocess.ts) and tensors.
 */
import { Template } from "@huggingface/jinja";
import { PromptError } from "../request.ts";
import { ConfigError } from "../io/errors.ts";
import type { Tokenizer } from "./tokenizer.ts";
import { isObject } from "../io/unknown.ts";
import { messageOf } from "../../engine/errors.ts";

/** What the original puts before questions. Image generation has no system prompt. */
export const DEFAULT_SYSTEM_PROMPT =
  "You are a helpful language and vision assistant. You are able to understand the visual content that the user provides, " +
  "and assist the user with a variety of tasks using natural language.";

export type ContentPart = { readonly type: "text"; readonly text: string } | { readonly type: "image" };

export interface Message {
  readonly role: "user" | "assistant";
  /** Text, in which `<image_placeholder>` stands for an image; or parts in order. */
  readonly content: string | readonly ContentPart[];
}

/** The text half of a checkpoint's processor. */
export interface PromptConfig {
  /** Tokens that one image takes between its begin and end tokens. */
  readonly imageTokens: number;
  /** Jinja source; without it the conversation format of the original is used. */
  readonly chatTemplate?: string | undefined;
}

/** The files that a `PromptConfig` is read from, parsed; `chatTemplate` is the text of `chat_template.jinja`. */
export interface PromptFiles {
  readonly processor?: unknown;
  readonly chatTemplate?: string | undefined;
  readonly chatTemplateJson?: unknown;
}

/**
 * Reads `processor_config.json` (either layout) and the chat template. A checkpoint that names DeepSeek's own format (`sft_format`) has no
 * template of its own. Throws `ConfigError`.
 */
export function promptConfig({ processor = {}, chatTemplate, chatTemplateJson }: PromptFiles): PromptConfig {
  if (!isObject(processor)) throw new ConfigError("processor_config.json: the top must be an object");
  const imageTokens = processor.num_image_tokens ?? 576;
  if (typeof imageTokens !== "number" || !Number.isInteger(imageTokens) || imageTokens < 1 || imageTokens > 65536) {
    throw new ConfigError(
      `processor_config.json: num_image_tokens must be a positive integer, got ${JSON.stringify(imageTokens)}`,
    );
  }
  const format = processor.sft_format;
  if (format !== undefined && format !== "deepseek") {
    throw new ConfigError(`processor_config.json: sft_format ${JSON.stringify(format)} is not known; "deepseek" is`);
  }
  const inJson = isObject(chatTemplateJson) ? chatTemplateJson.chat_template : undefined;
  const template = chatTemplate ?? (typeof inJson === "string" ? inJson : undefined);
  return { imageTokens, chatTemplate: format === undefined ? template : undefined };
}

// What Python's str.strip() takes: other than trim() also U+001C to U+001F and U+0085, but not U+FEFF.
const SPACE = "[\\t-\\r\\x1c-\\x20\\x85\\xa0\\u1680\\u2000-\\u200a\\u2028\\u2029\\u202f\\u205f\\u3000]+";
const LEADING_SPACE = new RegExp(`^${SPACE}`);
const strip = (text: string): string => {
  const rest = text.replace(LEADING_SPACE, "");
  let end = rest.length; // by hand from the back: `${SPACE}$` would be quadratic in long runs
  while (end > 0 && LEADING_SPACE.test(rest[end - 1]!)) end--;
  return rest.slice(0, end);
};

export interface ConversationOptions {
  /** Stands before the conversation; "" for none. */
  readonly system?: string;
  /** Whether the text ends where the assistant's answer begins (default), or behind the last message, as training needs it. */
  readonly answer?: boolean;
}

/** Most characters of a prompt: far beyond any context, and what the tokenizer's library takes without running out of stack. */
const MAX_CHARACTERS = 2 ** 20;

/** Text and ids of prompts for one checkpoint. */
export class PromptFormat {
  readonly config: PromptConfig;
  private readonly tokenizer: Tokenizer;
  private readonly roles: Readonly<Record<Message["role"], string>>;
  private readonly template: Template | undefined;

  /** Roles are Janus-Pro's tags if the tokenizer has them, else the plain words of Janus-1.3B; `roles` sets others. */
  constructor(tokenizer: Tokenizer, config: PromptConfig, roles?: Readonly<Record<Message["role"], string>>) {
    this.tokenizer = tokenizer;
    this.config = config;
    const { user, assistant } = tokenizer.specials;
    const hasTags = user !== undefined && assistant !== undefined;
    this.roles =
      roles ??
      (hasTags
        ? { user: this.token(user), assistant: this.token(assistant) }
        : { user: "User", assistant: "Assistant" });
    if (config.chatTemplate !== undefined && roles === undefined) {
      checkTemplate(config.chatTemplate);
      this.template = fromTemplate(() => new Template(config.chatTemplate!));
    }
  }

  /**
   * The text of a conversation, without the begin-of-sentence token. An empty last message of the assistant counts as none.
   * Throws `PromptError` unless messages alternate from the user's on and the last question has content.
   */
  conversation(
    messages: readonly Message[],
    { system = DEFAULT_SYSTEM_PROMPT, answer = true }: ConversationOptions = {},
  ): string {
    const turns = messages.map(({ role, content }) => ({
      role,
      content: typeof content === "string" ? strip(content) : content,
    }));
    if (answer && turns.at(-1)?.role === "assistant" && turns.at(-1)!.content.length === 0) turns.pop();
    for (const [i, { role }] of turns.entries()) {
      const due = i % 2 === 0 ? "user" : "assistant";
      if (role !== due)
        throw new PromptError(
          `message ${i} is of ${JSON.stringify(role)}; "user" and "assistant" take turns, the user first`,
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

  /** Content as one text; an image stands on a line of its own. */
  private written(content: Message["content"]): string {
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
  private byFormat(turns: readonly Message[], answer: boolean): string {
    const ends = ["\n\n", this.token(this.tokenizer.specials.eos)];
    let text = "";
    for (const [i, { role, content }] of turns.entries()) {
      const written = this.written(content);
      text += written === "" ? `${this.roles[role]}:` : `${this.roles[role]}: ${written}${ends[i % 2]}`;
    }
    return answer ? `${text}${this.roles.assistant}:` : text;
  }

  private byTemplate(template: Template, turns: readonly Message[], answer: boolean): string {
    const bos = this.token(this.tokenizer.specials.bos);
    const parts = (content: Message["content"]): readonly ContentPart[] =>
      typeof content !== "string" ? content : content === "" ? [] : [{ type: "text", text: content }];
    const text = fromTemplate(() =>
      template.render({
        messages: turns.map(({ role, content }) => ({ role, content: parts(content) })),
        bos_token: bos,
        eos_token: this.token(this.tokenizer.specials.eos),
        add_generation_prompt: answer,
      }),
    );
    return text.startsWith(bos) ? text.slice(bos.length) : text; // `encode` puts it in front
  }
}

/**
 * A template is a program out of a checkpoint, and nothing here can stop one that runs on: loops over other things than what the conversation
 * holds are refused. Those of the published checkpoints go over messages and their parts.
 */
function checkTemplate(template: string): void {
  const refuse = (what: string): never => {
    throw new ConfigError(
      `the checkpoint's chat template ${what}, which might never end; it is not run. Remove chat_template.jinja to use DeepSeek's format`,
    );
  };
  if (template.length > MAX_TEMPLATE) refuse(`has ${template.length} characters (at most ${MAX_TEMPLATE})`);
  if (/\brange\b/.test(template)) refuse("counts with range");
  if (/\{%-?\s*macro\b/.test(template)) refuse("defines macros");
  let depth = 0;
  for (const [, word] of template.matchAll(/\{%[-+]?\s*(for|endfor)\b/g)) {
    depth += word === "for" ? 1 : -1;
    if (depth > 3) refuse("nests more than three loops");
  }
}

const MAX_TEMPLATE = 2 ** 16; // characters

function fromTemplate<T>(run: () => T): T {
  try {
    return run();
  } catch (error) {
    throw new ConfigError(`the checkpoint's chat template fails: ${messageOf(error)}`);
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
