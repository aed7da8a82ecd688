/** A server of the package's small model for tests, its clients, and a load of many requests. */
import { fileURLToPath } from "node:url";
import OpenAI from "openai";
import { Device } from "../index.ts";
import { Janus } from "../model/janus/node/janus.ts";
import { startServer } from "../serve/server.ts";
import type { RunningServer } from "../serve/server.ts";
import type { ServerSettings } from "../serve/settings.ts";

export const KEY = "a-key-for-tests";
export const SHAPES = fileURLToPath(new URL("../examples/shapes/checkpoint", import.meta.url));

export interface TestServer extends RunningServer {
  readonly client: OpenAI;
  /** Lines of the log so far, parsed. */
  readonly log: Record<string, unknown>[];
}

/** Starts a server on a free port. @param folder of the model */
export async function serveFolder(folder: string, settings: Partial<ServerSettings> = {}): Promise<TestServer> {
  const log: Record<string, unknown>[] = [];
  const server = await startServer({
    settings: { name: "small", port: 0, apiKey: KEY, context: 256, ...settings },
    page: null,
    write: (line) => log.push(JSON.parse(line) as Record<string, unknown>),
    open: async () => {
      const device = await Device.create();
      const janus = await Janus.fromPretrained(folder, { device });
      const close = (): void => {
        janus.dispose();
        device.destroy();
      };
      return { janus, [Symbol.dispose]: close };
    },
  });
  const client = new OpenAI({ baseURL: `${server.url}/v1`, apiKey: KEY, maxRetries: 0 });
  return { ...server, client, log };
}

/** Posts a body as it is. */
export const post = (
  server: RunningServer,
  path: string,
  body: string,
  headers: Record<string, string> = {},
): Promise<Response> =>
  // prettier-ignore
  fetch(server.url + path, {
    method: "POST",
    body,
    headers: { "content-type": "application/json", authorization: `Bearer ${KEY}`, ...headers },
  });

/** Bytes of live tensors once nothing runs. */
export async function idleBytes(server: RunningServer): Promise<number> {
  const { device } = server.host.model.janus;
  for (let i = 0; i < 200 && (server.host.levels.rows > 0 || server.host.levels.drawing > 0); i++)
    await new Promise((resolve) => setTimeout(resolve, 10));
  await device.sync();
  return device.pool.stats.liveBytes;
}

/** Settings of request `k` of a load: questions, seeds and ways to draw repeat, so that each has an answer that was made alone. */
export const KINDS = 24;
export function questionOf(k: number): OpenAI.ChatCompletionCreateParamsNonStreaming {
  const kind = k % KINDS;
  const shape = ["circle", "square", "ring", "triangle"][kind % 4]!;
  return {
    model: "small",
    messages: [{ role: "user", content: `How many ${shape}s are there?` }],
    seed: kind,
    max_tokens: 2 + (kind % 7),
    temperature: kind % 3 === 0 ? 0 : 0.5 + kind / 20,
    ...(kind % 5 === 0 && { top_p: 0.8 }),
  };
}

export interface Load {
  readonly requests: number;
  /** Requests at once. */
  readonly atOnce: number;
  readonly cancelled: number;
  /** One of this many is hostile. */
  readonly hostileEvery: number;
}

export interface LoadResult {
  readonly right: number;
  readonly wrong: readonly string[];
  readonly cancelled: number;
  readonly refused: number;
  /** 99th percentile of the time of /health, ms. */
  readonly healthMs: number;
  readonly seconds: number;
}

const HOSTILE = ["{", "[]", '{"model":"small"}', '{"model":"small","messages":[{"role":"user","content":[{"type":"image_url","image_url":{"url":"data:image/png;base64,iVBORw0KGgo="}}]}]}']; // prettier-ignore

/** Numbers from 0 to 1 that repeat. */
function randomFrom(seed: number): () => number {
  let state = seed;
  return () => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return state / 2 ** 32;
  };
}

/** Runs a load; each answer is compared with `alone`, the answers made one at a time. */
export async function runLoad(server: TestServer, alone: readonly string[], load: Load): Promise<LoadResult> {
  const { client } = server;
  const random = randomFrom(7);
  const leaves = new Set(Array.from({ length: load.cancelled }, (_, k) => Math.floor((k + random()) * (load.requests / load.cancelled)))); // prettier-ignore
  const result = { right: 0, wrong: [] as string[], cancelled: 0, refused: 0 };
  const started = performance.now();
  const one = async (k: number): Promise<void> => {
    if (k % load.hostileEvery === load.hostileEvery - 1) {
      const { status } = await post(server, "/v1/chat/completions", HOSTILE[k % HOSTILE.length]!);
      if (status === 400) result.refused++;
      else result.wrong.push(`${k}: a hostile request got ${status}`);
      return;
    }
    const controller = new AbortController();
    const timer = leaves.has(k) ? setTimeout(() => controller.abort(), 2000 * random()) : undefined;
    try {
      const { signal } = controller;
      let text = "";
      if (k % 2 === 0) text = (await client.chat.completions.create(questionOf(k), { signal })).choices[0]!.message.content!;
      else for await (const part of await client.chat.completions.create({ ...questionOf(k), stream: true }, { signal })) text += part.choices[0]?.delta.content ?? ""; // prettier-ignore
      if (text === alone[k % KINDS]) result.right++;
      else if (!controller.signal.aborted)
        result.wrong.push(`${k}: ${JSON.stringify(text)} instead of ${JSON.stringify(alone[k % KINDS])}`); // prettier-ignore
      else result.cancelled++;
    } catch (error) {
      if (controller.signal.aborted) result.cancelled++;
      else result.wrong.push(`${k}: ${String(error)}`);
    } finally {
      clearTimeout(timer);
    }
  };
  let next = 0;
  const worker = async (): Promise<void> => {
    while (next < load.requests) await one(next++);
  };
  let isDone = false;
  const times: number[] = [];
  const health = (async (): Promise<void> => {
    while (!isDone) {
      const at = performance.now();
      const { status } = await fetch(`${server.url}/health`);
      if (status !== 200) result.wrong.push(`/health got ${status}`);
      times.push(performance.now() - at);
      await new Promise((resolve) => setTimeout(resolve, 20));
    }
  })();
  await Promise.all(Array.from({ length: load.atOnce }, worker));
  isDone = true;
  await health;
  const healthMs = times.toSorted((a, b) => a - b)[Math.floor(0.99 * times.length)]!;
  return { ...result, healthMs, seconds: (performance.now() - started) / 1000 };
}
