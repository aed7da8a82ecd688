/** A server of the package's small model for tests, its clients, and a load of many requests. */
import { spawn } from "node:child_process";
import { once } from "node:events";
import { fileURLToPath } from "node:url";
import OpenAI from "openai";
import { Device } from "../index.ts";
import { Janus } from "../model/janus/node/janus.ts";
import { startCli } from "./cli.ts";
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

/**
 * Starts a server on a free port.
 * @param folder of the model
 * @param page folder of the page; null for none
 */
export async function serveFolder(
  folder: string,
  settings: Partial<ServerSettings> = {},
  page: string | null = null,
): Promise<TestServer> {
  const log: Record<string, unknown>[] = [];
  const server = await startServer({
    settings: { name: "small", port: 0, apiKey: KEY, context: 256, ...settings },
    page,
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

/** Starts the command as a process; resolves once it says where it answers. */
export async function startServe(
  args: readonly string[],
): Promise<ReturnType<typeof startCli> & { readonly url: string }> {
  const { child, result } = startCli(["serve", "--port", "0", ...args]);
  const url = await new Promise<string>((resolve, reject) => {
    let said = "";
    child.stderr!.on("data", (text: string) => {
      said += text;
      const [, found] = /^\S+ answers at (\S+) \(\d+ answers at once, \d+ tokens each\)$/m.exec(said) ?? [];
      if (found && /the page (was not built|is at)/.test(said)) resolve(found);
    });
    child.on("close", () => reject(new Error(said)));
  });
  return { child, result, url };
}

/** Posts a body as it is. */
export const post = (
  server: Pick<RunningServer, "url">,
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
export async function idleBytes({ url }: Pick<RunningServer, "url">): Promise<number> {
  for (;;) {
    const text = await (await fetch(`${url}/metrics`, { headers: { authorization: `Bearer ${KEY}` } })).text();
    const read = (name: string): number => Number(new RegExp(`^janus_${name} (.*)$`, "m").exec(text)![1]);
    if (["requests_waiting", "text_rows_active", "text_rows_parked", "images_active"].every((name) => read(name) === 0))
      return read("device_live_bytes");
    await new Promise((resolve) => setTimeout(resolve, 10));
  }
}

/** Settings of request `k` of a load: questions, seeds and ways to draw repeat, so that each has an answer that was made alone. */
export const KINDS = 12;
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
  /** They are cancelled within this time of their start. */
  readonly cancelMs: number;
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

/** A process that asks for /health; `stop` resolves to the 99th percentile of its times, ms. A process of its own, so that its times are the server's. */
function probeHealth(url: string): { stop(): Promise<number> } {
  const code = `
    const times = []; let isOver = false;
    process.stdin.on("end", () => (isOver = true)).resume();
    while (!isOver) {
      const at = performance.now();
      const { status } = await fetch(${JSON.stringify(`${url}/health`)});
      times.push(status === 200 ? performance.now() - at : Infinity);
      await new Promise((resolve) => setTimeout(resolve, 50));
    }
    console.log(times.sort((a, b) => a - b)[Math.floor(0.99 * times.length)]);`;
  const child = spawn(process.execPath, ["--input-type=module", "-e", code], { stdio: ["pipe", "pipe", "inherit"] });
  let said = "";
  child.stdout.setEncoding("utf8").on("data", (text: string) => (said += text));
  const closed = once(child, "close");
  return {
    stop: async () => {
      child.stdin.end();
      await closed;
      return Number(said);
    },
  };
}

export type Target = Pick<TestServer, "url" | "client">;

/** Causes of an error, in parentheses: "Connection error." says nothing by itself. */
function causesOf(error: unknown): string {
  const cause = error instanceof Error ? error.cause : undefined;
  return cause instanceof Error ? ` (${String(cause)}${causesOf(cause)})` : "";
}

/** The text of request `k` of a load. */
async function textOf({ client }: Target, k: number, signal: AbortSignal): Promise<string> {
  if (k % 2 === 0)
    return (await client.chat.completions.create(questionOf(k), { signal })).choices[0]!.message.content!;
  let text = "";
  const stream = await client.chat.completions.create({ ...questionOf(k), stream: true }, { signal });
  for await (const part of stream) text += part.choices[0]?.delta.content ?? "";
  return text;
}

/** The answers of a load, made one at a time. */
export async function answersAlone(target: Target): Promise<string[]> {
  const texts: string[] = [];
  for (let k = 0; k < KINDS; k++) texts.push(await textOf(target, k, new AbortController().signal));
  return texts;
}

/** Runs a load; each answer is compared with `alone`, the answers made one at a time. */
export async function runLoad(target: Target, alone: readonly string[], load: Load): Promise<LoadResult> {
  const random = randomFrom(7);
  const leaves = new Set(Array.from({ length: load.cancelled }, (_, k) => Math.floor((k + random()) * (load.requests / load.cancelled)))); // prettier-ignore
  const result = { right: 0, wrong: [] as string[], cancelled: 0, refused: 0 };
  const hostile = async (k: number): Promise<void> => {
    const { status } = await post(target, "/v1/chat/completions", HOSTILE[k % HOSTILE.length]!);
    if (status === 400) result.refused++;
    else result.wrong.push(`${k}: a hostile request got ${status}`);
  };
  const one = async (k: number): Promise<void> => {
    if (k % load.hostileEvery === load.hostileEvery - 1) return hostile(k);
    const controller = new AbortController();
    const timer = leaves.has(k) ? setTimeout(() => controller.abort(), load.cancelMs * random()) : undefined;
    try {
      const text = await textOf(target, k, controller.signal);
      // A stream that is aborted ends without an error.
      if (text === alone[k % KINDS]) result.right++;
      else if (controller.signal.aborted) result.cancelled++;
      else result.wrong.push(`${k}: ${JSON.stringify(text)} instead of ${JSON.stringify(alone[k % KINDS])}`);
    } catch (error) {
      if (controller.signal.aborted) result.cancelled++;
      else result.wrong.push(`${k}: ${String(error)}${causesOf(error)}`);
    } finally {
      clearTimeout(timer);
    }
  };
  const started = performance.now();
  const health = probeHealth(target.url);
  let next = 0;
  const worker = async (): Promise<void> => {
    while (next < load.requests) await one(next++);
  };
  await Promise.all(Array.from({ length: load.atOnce }, worker));
  return { ...result, healthMs: await health.stop(), seconds: (performance.now() - started) / 1000 };
}
