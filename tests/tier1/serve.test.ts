/** `janus serve` on the package's small model, asked by OpenAI's client: answers, images, many at once, refusals, losses and the end. */
import { connect } from "node:net";
import sharp from "sharp";
import OpenAI from "openai";
import type { APIError } from "openai";
import { afterAll, beforeAll, describe, expect, it, onTestFinished } from "vitest";
import { readPicture } from "../../model/janus/node/janus.ts";
import { readImage } from "../../model/node/image_file.ts";
import { EXIT } from "../../cli/errors.ts";
import { addServe } from "../../cli/serve.ts";
import { runHere } from "../cli.ts";
import { errorOf } from "../gpu.ts";
import { isLong } from "../long.ts";
import { KEY, SHAPES, answersAlone, idleBytes, post, questionOf, runLoad, serveFolder, startServe } from "../serve.ts";
import type { TestServer } from "../serve.ts";
import { startServer } from "../../serve/server.ts";

let server: TestServer;
/** Answers made one at a time. */
let alone: readonly string[];
let live = 0;

beforeAll(async () => {
  server = await serveFolder(SHAPES, { rows: 8, queue: 2000, headersS: 1, bodyBytes: 100_000, pixels: 10_000 });
  alone = await answersAlone(server);
  live = await idleBytes(server);
});
afterAll(() => server.stop());

const ask = (more: Partial<OpenAI.ChatCompletionCreateParamsNonStreaming> = {}) =>
  server.client.chat.completions.create({ model: "small", messages: [{ role: "user", content: "What is there?" }], ...more }); // prettier-ignore
const janus = () => server.host.model.janus;

describe("chat", () => {
  it("lists its model", async () => {
    const models = (await server.client.models.list()).data;
    expect(models).toMatchObject([
      { id: "small", object: "model", context: 256, image_size: 32, drawing: { guidance: 1.5, temperature: 0.6 } },
    ]);
    expect(await server.client.models.retrieve("small")).toMatchObject({ id: "small" });
    expect((await errorOf(() => server.client.models.retrieve("other"))) as APIError).toMatchObject({ status: 404, code: "model_not_found", param: "model" }); // prettier-ignore
  });

  it("answers as Janus.ask does, and counts tokens", async () => {
    const options = { temperature: 0.9, seed: 11, maxNewTokens: 12 };
    const expected = await janus()
      .ask("What is there?", { ...options, topP: 0.9 })
      .result();
    const answer = await ask({ temperature: 0.9, seed: 11, max_tokens: 12, top_p: 0.9 });
    expect(answer.choices).toMatchObject([{ index: 0, message: { role: "assistant", content: expected.text.trimStart() } }]); // prettier-ignore
    const { promptTokenIds, tokenIds, finish } = expected;
    expect(answer.choices[0]!.finish_reason).toBe(finish === "length" ? "length" : "stop");
    expect(answer.usage).toEqual({ prompt_tokens: promptTokenIds.length, completion_tokens: tokenIds.length, total_tokens: promptTokenIds.length + tokenIds.length }); // prettier-ignore
    expect(answer).toMatchObject({ object: "chat.completion", model: "small", seed: 11 });
    const cut = await ask({ max_completion_tokens: 1 });
    expect([cut.choices[0]!.finish_reason, cut.usage!.completion_tokens]).toEqual(["length", 1]);
  });

  it("n choices are those of n seeds, streamed or not", async () => {
    const more = { temperature: 1.5, max_tokens: 6, n: 3, seed: 5 };
    const whole = await ask(more);
    for (const [k, { message }] of whole.choices.entries())
      expect(message.content).toBe((await ask({ ...more, n: 1, seed: 5 + k })).choices[0]!.message.content);
    const texts = ["", "", ""];
    const ends: (string | null)[] = [null, null, null];
    let usage: unknown = null;
    const stream = await server.client.chat.completions.create({ model: "small", messages: [{ role: "user", content: "What is there?" }], ...more, stream: true, stream_options: { include_usage: true } }); // prettier-ignore
    for await (const part of stream) {
      for (const { index, delta, finish_reason: reason } of part.choices) {
        texts[index] += delta.content ?? "";
        ends[index] = reason;
      }
      usage = part.usage ?? usage;
    }
    expect(texts).toEqual(whole.choices.map(({ message }) => message.content));
    expect(ends).toEqual(whole.choices.map(({ finish_reason: reason }) => reason));
    expect(usage).toEqual(whole.usage);
  });

  it("sees images, hears the system, and ends at stop texts", async () => {
    const png = await sharp({ create: { width: 40, height: 30, channels: 3, background: "red" } })
      .png()
      .toBuffer();
    const url = `data:image/png;base64,${png.toString("base64")}`;
    const content = [{ type: "image_url" as const, image_url: { url } }, { type: "text" as const, text: "What colour?" }]; // prettier-ignore
    const messages = [
      { role: "system" as const, content: "Be brief." },
      { role: "user" as const, content },
    ];
    const expected = await janus()
      .ask([{ role: "user", content: [{ type: "image" }, { type: "text", text: "What colour?" }] }], {
        images: [await readImage(png)],
        system: "Be brief.",
        maxNewTokens: 9,
      }) // prettier-ignore
      .result();
    const answer = await ask({ messages, max_tokens: 9, n: 2 });
    expect(answer.choices.map(({ message }) => message.content)).toEqual(Array(2).fill(expected.text.trimStart()));
    expect(answer.usage!.prompt_tokens).toBe(expected.promptTokenIds.length);
    const middle = expected.text.trim().slice(1, 3);
    expect((await ask({ messages, max_tokens: 9, stop: middle })).choices[0]!.message.content).toBe(expected.text.trim().slice(0, expected.text.trim().indexOf(middle))); // prettier-ignore
    expect(await idleBytes(server)).toBe(live);
  });
});

describe("images", () => {
  /** Codes of the images of seeds 3 and 4. */
  let drawn: (readonly number[])[] = [];
  const draw = { model: "small", prompt: "two red squares", size: "auto" as const };
  const codesOf = async (b64: string): Promise<readonly number[]> => (await readPicture(Buffer.from(b64, "base64"))).tokenIds; // prettier-ignore

  it("are those of Janus.generate, also beside others in their batch", async () => {
    drawn = (await janus().generate(draw.prompt, { n: 2, seed: 3 }).images()).map(({ tokenIds }) => tokenIds);
    const [answer, other] = await Promise.all([
      server.client.images.generate({ ...draw, n: 2, seed: 3 } as OpenAI.ImageGenerateParamsNonStreaming),
      server.client.images.generate({ ...draw, prompt: "a ring", seed: 9 } as OpenAI.ImageGenerateParamsNonStreaming),
    ]);
    expect(await Promise.all(answer.data!.map((one) => codesOf(one.b64_json!)))).toEqual(drawn); // prettier-ignore
    expect(answer).toMatchObject({ size: "32x32", output_format: "png" });
    const [ring] = await janus().generate("a ring", { seed: 9 }).images();
    expect(await codesOf(other.data![0]!.b64_json!)).toEqual(ring!.tokenIds);
    expect(await idleBytes(server)).toBe(live);
  });

  it("come row by row in a stream", async () => {
    const stream = await server.client.images.generate({ ...draw, stream: true, partial_images: 3, seed: 3 } as OpenAI.ImageGenerateParamsStreaming); // prettier-ignore
    const events: { type: string; partial_image_index?: number; b64_json: string }[] = [];
    for await (const event of stream) events.push(event);
    expect(events.map(({ type, partial_image_index: k }) => [type.split(".")[1], k])).toEqual([["partial_image", 0], ["partial_image", 1], ["partial_image", 2], ["completed", undefined]]); // prettier-ignore
    const [first, second] = await Promise.all(events.map(({ b64_json: b64 }) => readImage(Buffer.from(b64, "base64"))));
    expect([first!.width, first!.height]).toEqual([32, 32]);
    expect(Array.from(first!.data.slice(-96))).toEqual(Array(96).fill(128));
    expect(second!.data.slice(32 * 3 * 8, 32 * 3 * 16)).not.toEqual(first!.data.slice(32 * 3 * 8, 32 * 3 * 16));
    expect(await codesOf(events.at(-1)!.b64_json)).toEqual(drawn[0]);
  });
});

describe("refusals", () => {
  const image = (url: string): string => JSON.stringify({ model: "small", messages: [{ role: "user", content: [{ type: "image_url", image_url: { url } }] }] }); // prettier-ignore
  const large = async (): Promise<string> => `data:image/png;base64,${(await sharp({ create: { width: 101, height: 100, channels: 3, background: "red" } }).png().toBuffer()).toString("base64")}`; // prettier-ignore
  const text = (content: string, more: object = {}): string => JSON.stringify({ model: "small", messages: [{ role: "user", content }], ...more }); // prettier-ignore

  it("say what was wrong, in OpenAI's form", async () => {
    const rows: [string, string, number, RegExp][] = [
      ["chat/completions", "{", 400, /JSON in UTF-8/],
      ["chat/completions", text("x".repeat(100_000)), 413, /at most 100000 bytes/],
      ["chat/completions", text("x".repeat(9000)), 400, /may have 256 tokens; got 9\d\d\d characters/],
      ["chat/completions", text("a b c ".repeat(200)), 400, /may have 256 tokens; got a prompt of \d+/],
      ["chat/completions", text("a", { max_tokens: 256 }), 400, /max_tokens 256/],
      ["chat/completions", text(""), 400, /the prompt is empty/],
      ["chat/completions", text("<image_placeholder>"), 400, /names 1 image and 0 came/],
      ["chat/completions", text("a", { model: "gpt-4o" }), 404, /the model must be "small"/],
      ["chat/completions", image("data:image/png;base64,iVBORw0KGgo="), 400, /image 0 cannot be decoded/],
      ["chat/completions", image("data:image/svg+xml;base64,PHN2Zz4="), 400, /SVG/],
      ["chat/completions", image(await large()), 400, /image 0 is 101×100; at most 10000 pixels/],
      ["chat/completions", image("https://example.org/a.png"), 400, /fetches no URLs/],
      ["chat/completions", image("/etc/passwd"), 400, /must be a data: URL/],
      ["images/generations", '{"model":"small","prompt":""}', 400, /prompt is empty/],
      ["images/generations", '{"model":"small","prompt":"a","size":"64x64"}', 400, /"auto" or "32x32"/],
    ];
    for (const [path, body, status, message] of rows) {
      const answer = await post(server, `/v1/${path}`, body);
      const said = await answer.text();
      const { error } = JSON.parse(said) as { error: { message: string; type: string } };
      expect([answer.status, error.message], body.slice(0, 100)).toEqual([status, expect.stringMatching(message)]);
      expect(error.type).toBe("invalid_request_error");
      expect(said).not.toMatch(/node_modules|\.ts\b|\/work|\bat .*:\d+:\d+/);
    }
    const unknown = await errorOf(() => ask({ best_of: 2 } as object));
    expect(unknown).toBeInstanceOf(OpenAI.BadRequestError);
    expect(unknown).toMatchObject({ status: 400, param: "best_of", code: "unknown_parameter" });
    const stranger = new OpenAI({ baseURL: `${server.url}/v1`, apiKey: "another-key", maxRetries: 0 });
    expect(await errorOf(() => stranger.models.list())).toBeInstanceOf(OpenAI.AuthenticationError);
    expect(await idleBytes(server)).toBe(live);
  });

  it("an address that another program has is refused before a model is loaded", async () => {
    const address = { name: "small", port: Number(new URL(server.url).port) };
    const open = (): never => expect.unreachable();
    const start = (settings: { name: string; port: number; host?: string }) => startServer({ settings, open, write: () => undefined }); // prettier-ignore
    await expect(start(address)).rejects.toThrow(/must listen at 127\.0\.0\.1, port \d+; got EADDRINUSE: .* choose another port/); // prettier-ignore
    await expect(start({ ...address, host: "192.0.2.1", apiKey: KEY } as typeof address)).rejects.toThrow(
      /EADDRNOTAVAIL/,
    );
  });

  /** What the server says to raw bytes, until it closes the connection. */
  const raw = (bytes: string): Promise<string> =>
    new Promise((resolve, reject) => {
      const { port } = new URL(server.url);
      let said = "";
      const socket = connect(Number(port), "127.0.0.1", () => socket.write(bytes));
      socket.setEncoding("utf8").on("data", (data: string) => (said += data));
      socket.on("close", () => resolve(said)).on("error", reject);
    });

  it("floods of headers, broken requests and slow clients lose their connection", async () => {
    expect(await raw(`GET /health HTTP/1.1\r\nHost: localhost\r\nX: ${"a".repeat(20_000)}\r\n\r\n`)).toMatch(/^HTTP\/1.1 431/); // prettier-ignore
    expect(await raw("NONSENSE\r\n\r\n")).toMatch(/^HTTP\/1.1 400[^]*"code":"bad_http"/);
    for (const start of ["OPTIONS * HTTP/1.1\r\nHost: localhost", "GET /v1\\models HTTP/1.1\r\nHost: localhost", "GET /health HTTP/1.1\r\nHost: a b<>"]) // prettier-ignore
      expect(await raw(`${start}\r\nConnection: close\r\n\r\n`), start).toMatch(/^HTTP\/1.1 400[^]*"code":"bad_http"/); // prettier-ignore
    expect(await raw("GET /health HTTP/1.0\r\n\r\n")).toMatch(/^HTTP\/1.1 200/);
    expect(await raw("GET /health HTTP/1.1\r\nHost: loc")).toMatch(/^HTTP\/1.1 408/);
  });
});

describe("many at once", () => {
  it("every answer is the one made alone; who leaves frees his row", async () => {
    const load = { requests: 60, atOnce: 30, cancelled: 6, cancelMs: 500, hostileEvery: 10 };
    const result = await runLoad(server, alone, load);
    expect(result.wrong.slice(0, 5)).toEqual([]);
    expect(result.right + result.cancelled + result.refused).toBe(load.requests);
    expect(result.refused).toBe(6);
    expect(await idleBytes(server)).toBe(live);
  });

  // The server in a process of its own, so that its clients do not slow it down.
  it.runIf(isLong)("10,000 requests, 2,000 at once, 500 cancelled, 1 % hostile", async () => {
    const flags = [
      "--model",
      "shapes",
      "--rows",
      "16",
      "--context",
      "256",
      "--queue",
      "2000",
      "--name",
      "small",
      "--api-key",
      KEY,
    ];
    const { child, url, result: ended } = await startServe(flags);
    onTestFinished(() => void child.kill());
    const target = { url, client: new OpenAI({ baseURL: `${url}/v1`, apiKey: KEY, maxRetries: 0 }) };
    expect(await answersAlone(target)).toEqual(alone);
    const before = await idleBytes(target);
    const load = { requests: 10_000, atOnce: 2000, cancelled: 500, cancelMs: 60_000, hostileEvery: 100 };
    const result = await runLoad(target, alone, load);
    console.log(JSON.stringify({ ...result, wrong: result.wrong.length, before, after: await idleBytes(target) }));
    expect(result.wrong.slice(0, 5)).toEqual([]);
    expect(result.right + result.cancelled + result.refused).toBe(load.requests);
    expect(await idleBytes(target)).toBe(before);
    expect(result.healthMs).toBeLessThan(200);
    child.kill("SIGTERM");
    expect((await ended).code).toBe(EXIT.done);
  });

  it("long answers take turns with short ones", async () => {
    const long = Array.from({ length: 8 }, (_, k) =>
      ask({ max_tokens: 200, temperature: 2, seed: k, stop: ["never"] }),
    );
    const order: string[] = [];
    const noted = long.map((answer) => answer.then(() => order.push("long")));
    const short = Array.from({ length: 3 }, () => ask({ max_tokens: 1 }).then(() => order.push("short")));
    await Promise.all([...noted, ...short]);
    const lengths = (await Promise.all(long)).map(({ usage }) => usage!.completion_tokens);
    if (lengths.every((tokens) => tokens > 100)) expect(order.slice(0, 3)).toEqual(["short", "short", "short"]);
    for (const [k, answer] of (await Promise.all(long)).slice(0, 2).entries())
      expect((await ask({ max_tokens: 200, temperature: 2, seed: k, stop: ["never"] })).choices).toEqual(
        answer.choices,
      );
    expect(await idleBytes(server)).toBe(live);
  });

  it("counts and logs what it did, without what was said", async () => {
    const text = await (await fetch(`${server.url}/metrics`, { headers: { authorization: `Bearer ${KEY}` } })).text();
    expect(text).toMatch(/janus_requests_total\{route="chat",status="200"\} \d{2,}/);
    expect(text).toMatch(/janus_tokens_total\{kind="completion"\} \d{2,}/);
    expect(text).toMatch(/janus_time_to_first_token_seconds_count \d{2,}/);
    const lines = server.log.filter(({ message }) => message === "request");
    expect(lines.find(({ status }) => status === 200)).toMatchObject({ route: "chat", client: "127.0.0.1", completion_tokens: expect.any(Number) as number, first_token_ms: expect.any(Number) as number }); // prettier-ignore
    expect(lines.some(({ error }) => error === "client_closed")).toBe(true);
    expect(JSON.stringify(server.log)).not.toMatch(/What is there|How many|a-key-for-tests/);
  });
});

describe("the end", () => {
  it("a lost device ends requests with 503; the server opens another one and answers as before", async () => {
    // Some of them may have ended by themselves before.
    const running = Array.from({ length: 16 }, (_, seed) =>
      ask({ max_tokens: 200, temperature: 2, stop: ["never"], seed }),
    );
    const ends = Promise.allSettled(running);
    await new Promise((resolve) => setTimeout(resolve, 20));
    janus().device.gpu!.destroy();
    const errors = (await ends).flatMap((end) => (end.status === "rejected" ? [end.reason as APIError] : []));
    expect(errors.length).toBeGreaterThan(0);
    for (const error of errors) {
      expect(error).toMatchObject({ status: 503, code: "device_lost" });
      expect(error.headers!.get("retry-after")).toBe("10");
    }
    for (let i = 0; (await fetch(`${server.url}/health`)).status !== 200; i++) {
      expect(i, "the server is well again").toBeLessThan(6000);
      await new Promise((resolve) => setTimeout(resolve, 10));
    }
    expect((await server.client.chat.completions.create(questionOf(4))).choices[0]!.message.content).toBe(alone[4]);
    expect(await idleBytes(server)).toBe(live);
  });

  it("running requests finish, new ones are refused", async () => {
    const running = await server.client.chat.completions.create({ ...questionOf(0), max_tokens: 40, stream: true });
    let stopped: Promise<number> | null = null;
    let finish: string | null = null;
    for await (const { choices } of running) {
      stopped ??= server.stop(); // at the first piece of the answer
      finish = choices[0]!.finish_reason ?? finish;
    }
    expect(finish).toMatch(/stop|length/);
    expect(await stopped).toBe(0);
    expect((await errorOf(() => ask())).name).toMatch(/Error/);
  });
});

describe("the command", () => {
  it("refuses a public host without a key before it loads anything", async () => {
    const { code, stderr } = await runHere(addServe, ["serve", "--model", "no-such-model", "--host", "0.0.0.0"]);
    expect([code, stderr]).toEqual([EXIT.usage, expect.stringMatching(/needs an API key; got 0\.0\.0\.0 without one/)]);
  });

  it("says where it answers, logs lines of JSON, and ends in order at SIGTERM", async () => {
    const { child, url, result } = await startServe(["--model", "shapes", "--context", "128", "--rows", "2"]);
    const client = new OpenAI({ baseURL: `${url}/v1`, apiKey: "none" });
    const question = {
      model: "shapes",
      max_tokens: 3,
      messages: [{ role: "user" as const, content: "What is there?" }],
    };
    expect((await client.chat.completions.create(question)).choices).toHaveLength(1);
    expect((await fetch(`${url}/`)).status).toBeLessThan(500);
    child.kill("SIGTERM");
    const { code, stdout, stderr } = await result;
    expect([code, stderr]).toEqual([EXIT.done, expect.stringMatching(/stopping: running requests may finish/)]);
    const lines = stdout
      .trim()
      .split("\n")
      .map((line) => JSON.parse(line) as { route?: string });
    expect(lines.map(({ route }) => route)).toContain("chat");
  });
});
