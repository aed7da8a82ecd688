/** Answers `/v1/chat/completions`. */
import type { Context } from "hono";
import { anySeed } from "./seed.ts";
import type { Env, Parts } from "./app.ts";
import { invalid } from "./errors.ts";
import { EventQueue } from "./events.ts";
import { chatChunk, chatCompletion, chatHead, chatRequest, usageChunk, usageOf } from "./openai/chat.ts";
import type { ChatHead, ChatRequest } from "./openai/chat.ts";
import type { ServerEvent } from "./sse.ts";
import type { TextRequest, TextResult } from "./text.ts";
import { checkModel, runWork } from "./work.ts";
import type { Work } from "./work.ts";
import { answerOptions, questionIds } from "../model/janus/pipeline.ts";
import type { Janus } from "../model/janus/pipeline.ts";

/** Characters of a token that a prompt is granted before it is read: longer texts are refused without being cut into tokens. */
const CHARACTERS = 32;

export const chat = (c: Context<Env>, parts: Parts): Promise<Response> =>
  runWork(c, parts, async (work) => {
    const { janus, live } = parts.host.model;
    // The body, with its images in base64, is not kept while the request waits.
    const answering = await parts.bodies.json(c.env.incoming, async (body): Promise<Answering> => {
      const asked = chatRequest(body, parts.settings.choices);
      checkModel(asked.model, parts.settings);
      const prepared = await prepare(asked, parts, { janus, capacity: live.capacity, work });
      const head = chatHead(parts.settings.name, janus.fingerprint);
      return { prepared, head, isStream: asked.isStream, hasUsage: asked.hasUsage };
    });
    const { ids, seeds, pixels } = answering.prepared;
    c.set("fields", { stream: answering.isStream, n: seeds.length, images: pixels.length, prompt_tokens: ids.length });
    return answering.isStream ? streamed(c, parts, work, answering) : whole(c, parts, answering);
  });

interface Answering extends Pick<ChatRequest, "isStream" | "hasUsage"> {
  readonly prepared: Omit<TextRequest, "onText">;
  readonly head: ChatHead;
}

async function whole(c: Context<Env>, parts: Parts, { prepared, head }: Answering): Promise<Response> {
  const result = await parts.host.answer({ ...prepared, onText: () => undefined });
  const usage = noteResult(c, prepared, result);
  const choices = result.choices.map((one) => ({ ...one, text: one.text.trimStart() }));
  return c.json(chatCompletion(head, choices, prepared.seeds[0]!, usage));
}

async function streamed(
  c: Context<Env>,
  parts: Parts,
  work: Work,
  { prepared, head, hasUsage }: Answering,
): Promise<Response> {
  // prettier-ignore
  const queue = new EventQueue<ServerEvent>();
  const send = (data: unknown): void => queue.push({ event: null, data });
  // Answers begin with a space, which is not part of what is said.
  const hasBegun = prepared.seeds.map(() => false);
  const isGreeted = prepared.seeds.map(() => false);
  const ended = parts.host
    .answer({
      ...prepared,
      onText: (index, text, finish) => {
        const shown = hasBegun[index] ? text : text.trimStart();
        if (shown) hasBegun[index] = true;
        if (!isGreeted[index]) send(chatChunk(head, index, { role: "assistant", content: "" }, null));
        isGreeted[index] = true;
        if (shown) send(chatChunk(head, index, { content: shown }, null));
        if (finish) send(chatChunk(head, index, {}, finish));
      },
    })
    .then((result) => {
      const usage = noteResult(c, prepared, result);
      if (hasUsage) send(usageChunk(head, usage));
      send("[DONE]");
      queue.end();
    });
  ended.catch((error: unknown) => queue.fail(error));
  return work.stream(queue, ended);
}

/** The usage of an answer, which also goes into the log. */
function noteResult(c: Context<Env>, { ids }: Pick<TextRequest, "ids">, result: TextResult): object {
  const tokens = result.choices.reduce((sum, one) => sum + one.tokens, 0);
  c.set("fields", {
    ...c.var.fields,
    completion_tokens: tokens,
    finish: result.choices.map(({ finish }) => finish).join(),
    queue_ms: Math.round(result.queuedMs),
    first_token_ms: Math.round(result.firstTokenMs),
  });
  return usageOf(ids.length, tokens);
}

interface Model {
  readonly janus: Janus;
  readonly capacity: number;
  readonly work: Work;
}

/** The tokens, pixels and settings of a request. Throws `ApiError`, `PromptError`, `ImageError`, `MissingPartError`. */
async function prepare(
  asked: ChatRequest,
  parts: Parts,
  { janus, capacity, work }: Model,
): Promise<Omit<TextRequest, "onText">> {
  // prettier-ignore
  const { processor } = janus;
  const { images, messages, system, n } = asked;
  const most = parts.settings.images;
  if (images.length > most)
    throw invalid(`messages: a request may have ${most} images; got ${images.length}. Send fewer.`, "messages", "too_many_images"); // prettier-ignore
  if (images.length > 0) janus.model.requirePart("chat", "understand images");
  const characters = JSON.stringify(messages).length + (system?.length ?? 0);
  if (characters > CHARACTERS * capacity)
    throw invalid(`messages: prompt and answer together may have ${capacity} tokens; got ${characters} characters. Shorten the messages.`, "messages", "context_length_exceeded"); // prettier-ignore
  const ids = questionIds(processor, messages, images.length, system);
  if (ids.length + (asked.maxTokens ?? 1) > capacity)
    throw invalid(`messages: prompt and answer together may have ${capacity} tokens; got a prompt of ${ids.length}${asked.maxTokens === undefined ? "" : ` and max_tokens ${asked.maxTokens}`}. Shorten the messages or ask for fewer tokens.`, "messages", "context_length_exceeded"); // prettier-ignore
  const given = asked.maxTokens === undefined ? {} : { maxNewTokens: asked.maxTokens };
  const options = answerOptions(processor, given, ids.length);
  const pixels = await parts.reader.read(images, processor.images, work);
  const seed = asked.seed ?? anySeed(n);
  if (seed + n - 1 > 0xffffffff)
    throw invalid(`seed: seed + n must stay within 32 bits; got ${seed} and ${n}. Use a smaller seed.`, "seed", "invalid_value"); // prettier-ignore
  return {
    ids,
    pixels,
    seeds: Array.from({ length: n }, (_, k) => seed + k),
    temperature: asked.temperature ?? options.temperature ?? 0,
    topP: asked.topP ?? options.topP ?? 1,
    maxTokens: Math.min(options.maxNewTokens!, capacity - ids.length),
    stop: asked.stop ?? options.stop ?? [],
    stopIds: options.stopIds ?? [processor.tokenizer.specials.eos],
    signal: work.signal,
  };
}
