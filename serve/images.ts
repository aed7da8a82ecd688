/** Answers `/v1/images/generations`. */
import type { Context } from "hono";
import { encodePicture } from "../model/janus/node/janus.ts";
import type { Picture } from "../model/janus/pictures.ts";
import type { Janus } from "../model/janus/pipeline.ts";
import type { RgbImage } from "../model/image/image.ts";
import { encodePng } from "../model/node/image_file.ts";
import { checkContext } from "../model/request.ts";
import type { Env, Parts } from "./app.ts";
import { invalid } from "./errors.ts";
import { EventQueue } from "./events.ts";
import { imageLook, imagesRequest, imagesUsage } from "./openai/images.ts";
import type { ImagesRequest } from "./openai/images.ts";
import type { DrawRequest } from "./pictures.ts";
import { anySeed } from "./seed.ts";
import type { ServerEvent } from "./sse.ts";
import { checkModel, runWork } from "./work.ts";
import type { Work } from "./work.ts";

const GREY = 128;

interface Drawing {
  readonly request: Omit<DrawRequest, "onPartial" | "onPicture">;
  readonly created: number;
  readonly side: number;
  /** Codes of an image. */
  readonly codes: number;
}

export const images = (c: Context<Env>, parts: Parts): Promise<Response> =>
  runWork(c, parts, async (work) => {
    const { janus } = parts.host.model;
    janus.model.requirePart("images", "generate images");
    const { side: rows, imageSize: side } = janus.model.model.vqmodel;
    const limits = { choices: parts.settings.choices, side, rows };
    const asked = await parts.bodies.json(c.env.incoming, (body) => imagesRequest(body, limits));
    checkModel(asked.model, parts.settings);
    const request = prepare(asked, janus, rows ** 2, work.signal);
    const drawing = { request, created: Math.floor(Date.now() / 1000), side, codes: rows ** 2 };
    c.set("fields", { stream: asked.isStream, n: asked.n, prompt_tokens: request.ids.length });
    return asked.isStream ? streamed(c, parts, work, drawing) : whole(c, parts, drawing);
  });

function prepare(asked: ImagesRequest, janus: Janus, codes: number, signal: AbortSignal): Drawing["request"] {
  const { prompts, drawing } = janus.processor;
  const { n, prompt, settings, partials } = asked;
  if (prompt.length > 32 * janus.config.language.maxPositions)
    throw invalid(`prompt: it must fit ${janus.config.language.maxPositions} tokens; got ${prompt.length} characters. Shorten it.`, "prompt", "context_length_exceeded"); // prettier-ignore
  const ids = prompts.encode(prompts.generation(prompt));
  checkContext(ids, codes - 1, janus.config.language.maxPositions);
  const seed = asked.seed ?? anySeed(n);
  if (seed + n - 1 > 0xffffffff)
    throw invalid(`seed: seed + n must stay within 32 bits; got ${seed} and ${n}. Use a smaller seed.`, "seed", "invalid_value"); // prettier-ignore
  const { topK, topP, ...rest } = drawing;
  return {
    prompt,
    ids,
    seeds: Array.from({ length: n }, (_, k) => seed + k),
    settings: { ...rest, topK, topP, ...settings },
    partials,
    signal,
  };
}

async function whole(c: Context<Env>, parts: Parts, { request, created, side, codes }: Drawing): Promise<Response> {
  const nothing = (): void => undefined;
  const { pictures, queuedMs } = await parts.host.draw({ ...request, onPartial: nothing, onPicture: nothing });
  c.set("fields", { ...c.var.fields, queue_ms: Math.round(queuedMs) });
  const data = await Promise.all(pictures.map(async (picture) => ({ b64_json: await base64(picture), seed: picture.seed }))); // prettier-ignore
  return c.json({ created, data, ...imageLook(side), usage: imagesUsage(request.ids.length, codes * data.length) });
}

async function streamed(
  c: Context<Env>,
  parts: Parts,
  work: Work,
  { request, created, side, codes }: Drawing,
): Promise<Response> {
  // prettier-ignore
  const queue = new EventQueue<ServerEvent>();
  const look = { created_at: created, ...imageLook(side) };
  // PNG files are made one after the other, so that events keep their order.
  let sent: Promise<void> = Promise.resolve();
  let making = 0;
  const send = (make: () => Promise<object & { readonly type: string }>): void => {
    making++;
    sent = sent.then(make).then((data) => {
      making--;
      queue.push({ event: data.type, data });
    });
    sent.catch(() => undefined); // it is awaited at the end
  };
  const ended = parts.host
    .draw({
      ...request,
      onPartial: (index, partial, picture) => {
        // A client that reads slowly misses partial images: they would pile up in memory.
        if (queue.size + making >= 2 * request.seeds.length) return;
        send(async () => ({
          type: "image_generation.partial_image",
          partial_image_index: partial,
          image_index: index,
          b64_json: toBase64(await encodePng(filled(picture, side))),
          ...look,
        }));
      },
      onPicture: (index, picture) =>
        send(async () => ({
          type: "image_generation.completed",
          image_index: index,
          seed: picture.seed,
          b64_json: await base64(picture),
          ...look,
          usage: imagesUsage(request.ids.length, codes),
        })),
    })
    .then(async ({ queuedMs }) => {
      c.set("fields", { ...c.var.fields, queue_ms: Math.round(queuedMs) });
      await sent;
      queue.end();
    });
  ended.catch((error: unknown) => queue.fail(error));
  return work.stream(queue, ended);
}

const toBase64 = (bytes: Uint8Array): string => Buffer.from(bytes).toString("base64");
const base64 = async (picture: Picture): Promise<string> => toBase64(await encodePicture(picture));

/** The rows so far over grey, in the size of the whole image. */
function filled({ width, data }: RgbImage, side: number): RgbImage {
  const whole = new Uint8Array(3 * width * side).fill(GREY);
  whole.set(data);
  return { width, height: side, data: whole };
}
