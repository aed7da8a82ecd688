/** `/v1/chat/completions`: requests as OpenAI's clients write them, and answers as they read them. */
import { randomUUID } from "node:crypto";
import * as z from "zod";
import type { Message } from "../../model/janus/prompt.ts";
import type { AnswerResult } from "../../model/streams.ts";
import { invalid } from "../errors.ts";
import * as fields from "./fields.ts";

const textPart = z.strictObject({ type: z.literal("text"), text: z.string() });
const imagePart = z.strictObject({
  type: z.literal("image_url"),
  // There is one resolution, so that every detail means the same.
  image_url: z.strictObject({ url: z.string(), detail: z.enum(["auto", "low", "high"]).optional() }),
});
const part = z.discriminatedUnion("type", [textPart, imagePart]);
const content = z.union([z.string(), z.array(part).min(1)]);

const message = z.discriminatedUnion("role", [
  z.strictObject({ role: z.enum(["system", "developer"]), content: z.union([z.string(), z.array(textPart).min(1)]) }),
  z.strictObject({ role: z.literal("user"), content }),
  // Messages of answers are sent back as they came.
  z.strictObject({ role: z.literal("assistant"), content, annotations: fields.empty("annotations are not read").optional() }), // prettier-ignore
]);

const schema = (choices: number) =>
  z.strictObject({
    model: z.string(),
    messages: z.array(message).min(1),
    temperature: fields.temperature.optional(),
    top_p: fields.topP.optional(),
    max_tokens: fields.count(1e6).optional(),
    max_completion_tokens: fields.count(1e6).optional(),
    stop: z.union([z.string().min(1), z.array(z.string().min(1)).max(4)]).optional(),
    seed: fields.seed.optional(),
    n: fields.count(choices).optional(),
    stream: z.boolean().optional(),
    stream_options: z.strictObject({ include_usage: z.boolean().optional(), include_obfuscation: z.boolean().optional() }).optional(), // prettier-ignore
    // Without effect here.
    user: fields.label.optional(),
    safety_identifier: fields.label.optional(),
    prompt_cache_key: fields.label.optional(),
    metadata: z.record(z.string(), z.string()).optional(),
    service_tier: fields.neutral(["auto", "default"], "there is one tier").optional(),
    // Only values that ask for nothing.
    store: fields.neutral([false], "nothing is stored").optional(),
    logprobs: fields.neutral([false], "probabilities are not returned").optional(),
    top_logprobs: fields.neutral([0], "probabilities are not returned").optional(),
    frequency_penalty: fields.neutral([0], "there are no penalties").optional(),
    presence_penalty: fields.neutral([0], "there are no penalties").optional(),
    logit_bias: fields.empty("there is no bias").optional(),
    tools: fields.empty("the model calls no tools").optional(),
    tool_choice: fields.neutral(["none", "auto"], "the model calls no tools").optional(),
    parallel_tool_calls: z.boolean().optional(),
    modalities: z.array(z.literal("text")).optional(),
    response_format: z.strictObject({ type: z.literal("text") }).optional(),
  });

type Body = z.infer<ReturnType<typeof schema>>;

export interface ChatRequest {
  readonly model: string;
  readonly messages: readonly Message[];
  readonly system: string | undefined;
  /** URLs of the images, in the order of their parts. */
  readonly images: readonly string[];
  readonly temperature: number | undefined;
  readonly topP: number | undefined;
  readonly maxTokens: number | undefined;
  readonly stop: readonly string[] | undefined;
  readonly seed: number | undefined;
  readonly n: number;
  readonly isStream: boolean;
  readonly hasUsage: boolean;
}

/** Checks a body. Throws `ApiError` 400. @param choices most choices of a request */
export function chatRequest(body: unknown, choices: number): ChatRequest {
  const given = fields.checkFields(schema(choices), body);
  const { max_tokens: older, max_completion_tokens: newer, stop, stream = false } = given;
  if (older !== undefined && newer !== undefined && older !== newer)
    throw invalid("max_tokens: it must equal max_completion_tokens if both are given. Send one of them.", "max_tokens", "invalid_value"); // prettier-ignore
  if (given.stream_options && !stream)
    throw invalid("stream_options: it needs stream. Leave it out.", "stream_options", "invalid_value");
  return {
    model: given.model,
    ...conversationOf(given.messages),
    temperature: given.temperature,
    topP: given.top_p,
    maxTokens: newer ?? older,
    stop: typeof stop === "string" ? [stop] : stop,
    seed: given.seed,
    n: given.n ?? 1,
    isStream: stream,
    hasUsage: given.stream_options?.include_usage ?? false,
  };
}

const textOf = (parts: Body["messages"][number]["content"]): string =>
  typeof parts === "string" ? parts : parts.map((one) => (one.type === "text" ? one.text : "")).join("");

/** The system message in front, and the others with a place for each image. */
function conversationOf(messages: Body["messages"]): Pick<ChatRequest, "messages" | "system" | "images"> {
  const images: string[] = [];
  const isSystem = ({ role }: Body["messages"][number]): boolean => role === "system" || role === "developer";
  const [first] = messages;
  const system = first && isSystem(first) ? textOf(first.content) : undefined;
  const turns = (system === undefined ? messages : messages.slice(1)).map((one, i): Message => {
    if (one.role !== "user" && one.role !== "assistant") {
      const param = `messages[${i + (system === undefined ? 0 : 1)}]`;
      throw invalid(`${param}: a ${one.role} message must be the first one. Join them into one.`, param, "invalid_value"); // prettier-ignore
    }
    if (typeof one.content === "string") return { role: one.role, content: one.content };
    const parts = one.content.map((item) => {
      if (item.type === "text") return item;
      images.push(item.image_url.url);
      return { type: "image" } as const;
    });
    return { role: one.role, content: parts };
  });
  return { messages: turns, system, images };
}

export interface ChatHead {
  readonly id: string;
  readonly created: number;
  readonly model: string;
  readonly system_fingerprint: string;
}

/** What all parts of an answer have in common. */
export const chatHead = (model: string, fingerprint: string): ChatHead => ({
  id: `chatcmpl-${randomUUID()}`,
  created: Math.floor(Date.now() / 1000),
  model,
  system_fingerprint: `fp_${fingerprint.slice(0, 12)}`,
});

export const finishReason = (finish: AnswerResult["finish"]): "stop" | "length" =>
  finish === "length" ? "length" : "stop";

export const usageOf = (prompt: number, completion: number): object => ({
  prompt_tokens: prompt,
  completion_tokens: completion,
  total_tokens: prompt + completion,
});

export interface ChatChoice {
  readonly text: string;
  readonly finish: AnswerResult["finish"];
}

/** The whole answer. */
export const chatCompletion = (
  head: ChatHead,
  choices: readonly ChatChoice[],
  seed: number,
  usage: object,
): object => ({
  // prettier-ignore
  ...head,
  object: "chat.completion",
  choices: choices.map(({ text, finish }, index) => ({
    index,
    message: { role: "assistant", content: text, refusal: null },
    logprobs: null,
    finish_reason: finishReason(finish),
  })),
  usage,
  seed,
});

/** A part of a streamed answer: `delta` of choice `index`. */
export const chatChunk = (
  head: ChatHead,
  index: number,
  delta: object,
  finish: AnswerResult["finish"] | null,
): object => ({
  // prettier-ignore
  ...head,
  object: "chat.completion.chunk",
  choices: [{ index, delta, logprobs: null, finish_reason: finish && finishReason(finish) }],
});

/** The last part of a streamed answer, if usage was asked for. */
export const usageChunk = (head: ChatHead, usage: object): object => ({
  ...head,
  object: "chat.completion.chunk",
  choices: [],
  usage,
});
