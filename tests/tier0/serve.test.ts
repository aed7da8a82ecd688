/** The server without a device: what requests may say, which hosts and addresses are allowed, order and bounds. */
import { once } from "node:events";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { IncomingMessage, ServerResponse, createServer } from "node:http";
import { Socket } from "node:net";
import type { AddressInfo } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { describe, expect, it } from "vitest";
import { ArgumentError, DeviceLostError, NotFiniteError, OutOfMemoryError } from "../../index.ts";
import type { PreprocessConfig } from "../../model/image/preprocess.ts";
import { PromptError } from "../../model/request.ts";
import { Gate, createApp } from "../../serve/app.ts";
import { BodyReader } from "../../serve/body.ts";
import { ApiError, apiErrorOf } from "../../serve/errors.ts";
import { EventQueue, Semaphore } from "../../serve/events.ts";
import type { ModelHost } from "../../serve/host.ts";
import { ImageReader, isPublic } from "../../serve/image_input.ts";
import { Log } from "../../serve/log.ts";
import { openMetrics } from "../../serve/metrics.ts";
import { chatRequest } from "../../serve/openai/chat.ts";
import { imagesRequest } from "../../serve/openai/images.ts";
import { withPage } from "../../serve/server.ts";
import { checkSettings, isLoopback } from "../../serve/settings.ts";
import type { ServerSettings } from "../../serve/settings.ts";
import { errorOf } from "../gpu.ts";

const user = (content: unknown): object => ({ role: "user", content });
const chat = (more: object = {}): object => ({ model: "m", messages: [user("hi")], ...more });

function refusal(fn: () => unknown): Pick<ApiError, "status" | "param" | "code" | "message"> {
  try {
    fn();
  } catch (error) {
    if (error instanceof ApiError) return error;
    throw error;
  }
  return expect.fail("nothing was refused");
}

describe("bodies of /v1/chat/completions", () => {
  it("are read with all fields", () => {
    const image = { type: "image_url", image_url: { url: "data:image/png;base64,AA==", detail: "low" } };
    expect(
      chatRequest(
        chat({
          messages: [
            {
              role: "system",
              content: [
                { type: "text", text: "Be " },
                { type: "text", text: "brief." },
              ],
            },
            user([{ type: "text", text: "What is it?" }, image]),
            { role: "assistant", content: "A ring.", refusal: null },
            user("And now?"),
          ],
          temperature: 0.5,
          top_p: 0.9,
          max_tokens: 7,
          max_completion_tokens: 7,
          stop: ["a", "b"],
          seed: 4,
          n: 3,
          stream: true,
          stream_options: { include_usage: true },
          user: "somebody",
          frequency_penalty: 0,
          logit_bias: null,
        }),
        8,
      ),
    ).toEqual({
      model: "m",
      messages: [
        { role: "user", content: [{ type: "text", text: "What is it?" }, { type: "image" }] },
        { role: "assistant", content: "A ring." },
        { role: "user", content: "And now?" },
      ],
      system: "Be brief.",
      images: ["data:image/png;base64,AA=="],
      temperature: 0.5,
      topP: 0.9,
      maxTokens: 7,
      stop: ["a", "b"],
      seed: 4,
      n: 3,
      isStream: true,
      hasUsage: true,
    });
  });

  const refused: readonly [string, unknown, RegExp, string | null][] = [
    ["a list", [], /the body must be a JSON object/, null],
    ["no messages", { model: "m" }, /messages: it is required/, "messages"],
    ["an empty list of messages", chat({ messages: [] }), /messages/, "messages"],
    ["an unknown field", chat({ best_of: 3 }), /best_of: this field is not supported/, "best_of"],
    ["tools", chat({ tools: [{ type: "function" }] }), /tools: it must be empty: the model calls no tools/, "tools"],
    ["a penalty", chat({ presence_penalty: 0.5 }), /presence_penalty: it must be 0: there are no penalties/, "presence_penalty"], // prettier-ignore
    ["a text as temperature", chat({ temperature: "1" }), /temperature: it must be 0, or a number/, "temperature"],
    ["temperature above 2", chat({ temperature: 2.1 }), /temperature/, "temperature"],
    ["top_p 0", chat({ top_p: 0 }), /top_p: it must be a number above 0, at most 1/, "top_p"],
    ["half a token", chat({ max_tokens: 1.5 }), /max_tokens: it must be a whole number from 1/, "max_tokens"],
    ["two limits", chat({ max_tokens: 1, max_completion_tokens: 2 }), /must equal max_completion_tokens/, "max_tokens"],
    ["too many choices", chat({ n: 9 }), /n: it must be a whole number from 1 to 8/, "n"],
    ["a negative seed", chat({ seed: -1 }), /seed: it must be a whole number from 0/, "seed"],
    ["an empty stop text", chat({ stop: "" }), /stop/, "stop"],
    ["five stop texts", chat({ stop: ["a", "b", "c", "d", "e"] }), /stop/, "stop"],
    ["stream options without a stream", chat({ stream_options: {} }), /stream_options: it needs stream/, "stream_options"], // prettier-ignore
    ["a role of functions", chat({ messages: [{ role: "tool", content: "x" }] }), /messages\[0\]/, "messages[0].role"],
    ["a late system message", chat({ messages: [user("a"), { role: "system", content: "b" }] }), /messages\[1\]: a system message must be the first/, "messages[1]"], // prettier-ignore
    ["a name of a speaker", chat({ messages: [{ role: "user", content: "a", name: "n" }] }), /messages\[0\]\.name: this field/, "messages[0].name"], // prettier-ignore
    ["sound", chat({ messages: [user([{ type: "input_audio", input_audio: {} }])] }), /messages\[0\]\.content\[0\]\.type/, "messages[0].content[0].type"], // prettier-ignore
    ["a path", chat({ messages: [user([{ type: "image", path: "/etc/passwd" }])] }), /messages\[0\]\.content\[0\]\.type/, "messages[0].content[0].type"], // prettier-ignore
    ["a number as text", chat({ messages: [user([{ type: "text", text: 5 }])] }), /messages\[0\]\.content\[0\]\.text/, "messages[0].content[0].text"], // prettier-ignore
    ["a prototype", JSON.parse('{"model":"m","messages":[{"role":"user","content":"a"}],"__proto__":{"a":1}}'), /__proto__/, "__proto__"], // prettier-ignore
  ];
  it.each(refused)("%s is refused by name", (_, body, message, param) => {
    const error = refusal(() => chatRequest(body, 8));
    expect(error).toMatchObject({ status: 400, param });
    expect(error.message).toMatch(message);
  });

  it("a nest of lists is refused", () => {
    let deep: unknown = [];
    for (let i = 0; i < 50_000; i++) deep = [deep];
    expect(refusal(() => chatRequest({ model: "m", messages: deep }, 8)).message).toMatch(/16 levels/);
  });
});

describe("bodies of /v1/images/generations", () => {
  const limits = { choices: 4, side: 384, rows: 24 };
  const body = (more: object = {}): object => ({ model: "m", prompt: "a cat", ...more });

  it("are read with all fields", () => {
    const given = { n: 2, size: "384x384", response_format: "b64_json", seed: 9, guidance: 3, temperature: 0, top_p: 0.5, stream: true, partial_images: 5 }; // prettier-ignore
    expect(imagesRequest(body(given), limits)).toEqual({
      model: "m",
      prompt: "a cat",
      n: 2,
      seed: 9,
      settings: { guidance: 3, temperature: 0, topP: 0.5 },
      isStream: true,
      partials: 5,
    });
    expect(imagesRequest(body(), limits)).toMatchObject({ n: 1, settings: {}, isStream: false, partials: 0 });
  });

  it.each<[object, RegExp]>([
    [{ size: "1024x1024" }, /size: it must be "auto" or "384x384": the model has one size/],
    [{ response_format: "url" }, /response_format: it must be "b64_json"/],
    [{ quality: "hd" }, /quality/],
    [{ style: "vivid" }, /style: this field is not supported/],
    [{ partial_images: 2 }, /partial_images: it needs stream/],
    [{ partial_images: 24, stream: true }, /from 0 to 23/],
    [{ n: 5 }, /n: it must be a whole number from 1 to 4/],
    [{ guidance: Infinity }, /guidance/],
  ])("%o is refused by name", (more, message) => {
    expect(refusal(() => imagesRequest(body(more), limits)).message).toMatch(message);
  });
});

describe("settings", () => {
  const of =
    (more: object): (() => unknown) =>
    () =>
      checkSettings({ name: "m", ...more });

  it("a public host needs a key, or the word that everyone may come", () => {
    for (const host of ["127.0.0.1", "localhost", "::1", "[::1]", "127.8.8.8"]) expect(isLoopback(host)).toBe(true);
    for (const host of ["0.0.0.0", "::", "192.168.0.2", "example.org", "127.0.0.1.nip.io"]) {
      expect(isLoopback(host)).toBe(false);
      expect(of({ host })).toThrow(/a host that others can reach needs an API key; got .* Pass --api-key/);
      expect(of({ host, apiKey: "0123456789" })).not.toThrow();
      expect(of({ host, allowPublic: true })).not.toThrow();
    }
  });

  it.each([
    [{ port: 65536 }, /port must be .* from 0 to 65535; got 65536/],
    [{ rows: 0 }, /rows must be/],
    [{ apiKey: "short" }, /the API key must have at least 8/],
    [{ timeoutS: 1.5 }, /timeoutS must be a whole number/],
    [{ host: "" }, /host must be/],
  ])("%o is refused", (more, message) => {
    expect(of(more)).toThrow(ArgumentError);
    expect(of(more)).toThrow(message);
  });
});

describe("images by URL", () => {
  const settings = { remoteImages: true, pixels: 1e6, bodyBytes: 1e6, pixelsBytes: 40 };
  const config = { imageSize: 1 } as PreprocessConfig; // none gets as far as the other fields
  const read = (url: string, remoteImages = true): Promise<Error> =>
    errorOf(() => new ImageReader({ ...settings, remoteImages }).read([url], config, { signal: new AbortController().signal, hold: () => 0 })); // prettier-ignore

  it("those of all requests are bounded until their requests are over", async () => {
    const reader = new ImageReader(settings);
    const releases: (() => void)[] = [];
    const ask = (count: number): Promise<Error> => errorOf(() => reader.read(Array<string>(count).fill("data:,"), config, { signal: new AbortController().signal, hold: (one) => releases.push(one) })); // prettier-ignore
    expect((await ask(2)).message).toMatch(/must be base64/);
    expect(await ask(2)).toMatchObject({ status: 429, code: "too_many_bytes" });
    for (const release of releases) release();
    expect((await ask(3)).message).toMatch(/must be base64/);
  });

  it("knows public addresses", () => {
    for (const address of ["8.8.8.8", "2606:4700:4700::1111"]) expect(isPublic(address)).toBe(true);
    for (const address of [
      "10.0.0.1",
      "127.0.0.1",
      "169.254.169.254",
      "192.168.1.1",
      "100.64.0.1",
      "0.0.0.0",
      "::1",
      "fd00::1",
      "fe80::1",
      "::ffff:10.0.0.1",
      "64:ff9b::a00:1",
      "2002:a00:1::",
      "not",
    ])
      // prettier-ignore
      expect(isPublic(address), address).toBe(false);
  });

  it("fetches none by default, and never from inside", async () => {
    expect((await read("https://example.org/a.png", false)).message).toMatch(/this server fetches no URLs/);
    for (const url of [
      "http://127.0.0.1:1/a.png",
      "http://0x7f.1/",
      "http://[::1]/",
      "http://[::ffff:a00:1]/",
      "http://169.254.169.254/latest",
      "http://localhost:1/",
    ])
      // prettier-ignore
      expect((await read(url)).message, url).toMatch(/the URL must be on a public server/);
    for (const url of ["file:///etc/passwd", "ftp://example.org/a", "nonsense", "javascript:1"])
      expect((await read(url)).message, url).toMatch(/must be a data: URL in base64, or an http or https URL/);
    for (const url of ["data:text/plain,hello", "data:image/png;base64,!!"]) expect((await read(url)).message).toMatch(/must be base64/); // prettier-ignore
    expect((await read("data:image/png;base64,iVBORw0KGgo=")).message).toMatch(/image 0 cannot be decoded/);
  });
});

describe("order and bounds", () => {
  it("a list of events keeps what comes before anybody listens, and throws at its end", async () => {
    const queue = new EventQueue<number>();
    queue.push(1);
    setTimeout(() => {
      queue.push(2);
      queue.fail(new Error("late"));
      queue.push(3);
    });
    const seen: number[] = [];
    const error = await errorOf(async () => {
      for await (const value of queue) seen.push(value);
    });
    expect([seen, error.message]).toEqual([[1, 2], "late"]);
  });

  it("at most two tasks run, in order", async () => {
    const two = new Semaphore(2);
    const begun: number[] = [];
    const ends: (() => void)[] = [];
    const tasks = [0, 1, 2, 3].map((k) => two.run(() => new Promise<void>((resolve) => (begun.push(k), ends.push(resolve))))); // prettier-ignore
    expect(begun).toEqual([0, 1]);
    ends[1]!();
    await tasks[1];
    await Promise.resolve();
    expect(begun).toEqual([0, 1, 2]);
    ends[0]!();
    await tasks[0];
    for (const end of ends) end();
    await new Promise((resolve) => setTimeout(resolve));
    for (const end of ends) end();
    await Promise.all(tasks);
    expect(begun).toEqual([0, 1, 2, 3]);
  });

  it("the gate refuses what is beyond the queue, and all at the end", async () => {
    const gate = new Gate({ queue: 1, rows: 2 });
    const leave = [gate.enter(), gate.enter(), gate.enter()];
    expect(refusal(() => gate.enter())).toMatchObject({ status: 429, code: "queue_full", retryAfterS: 1 });
    leave[0]!();
    gate.enter()();
    gate.isClosed = true;
    expect(refusal(() => gate.enter())).toMatchObject({ status: 503, code: "stopping" });
    const empty = gate.empty();
    leave[1]!();
    leave[2]!();
    await empty;
  });

  it("bodies are bounded, each and together, and must be JSON of that type", async () => {
    const reader = new BodyReader({ bodyBytes: 2000, bodiesBytes: 3000 });
    const message = (
      text: string,
      headers: object = { "content-type": "application/json; charset=utf-8" },
    ): IncomingMessage => {
      // prettier-ignore
      const made = new IncomingMessage(new Socket());
      Object.assign(made.headers, headers);
      made.push(text);
      return made;
    };
    const ended = (text: string, headers?: object): IncomingMessage => {
      const made = message(text, headers);
      made.push(null);
      return made;
    };
    const identity = (body: unknown): unknown => body;
    expect(await reader.json(ended('{"a":1}'), identity)).toEqual({ a: 1 });
    const status = async (made: IncomingMessage): Promise<number> => ((await errorOf(() => reader.json(made, identity))) as ApiError).status; // prettier-ignore
    expect(await status(ended("{"))).toBe(400);
    expect(await status(ended("\ud800"))).toBe(400);
    expect(await status(ended("{}", { "content-type": "text/plain" }))).toBe(415);
    expect(await status(ended("{}", {}))).toBe(415);
    expect(await status(ended(`"${"a".repeat(2000)}"`))).toBe(413);
    expect(await status(ended("{}", { "content-type": "application/json", "content-length": "9999" }))).toBe(413);
    expect(await status(ended("{}", { "content-type": "application/json", "content-encoding": "gzip" }))).toBe(415);
    const values = new BodyReader({ bodyBytes: 1e6, bodiesBytes: 1e6 });
    for (const many of [`[${"1,".repeat(200_001)}1]`, `[${"{},".repeat(150_000)}1]`, "[".repeat(200_001)])
      expect(await errorOf(() => values.json(ended(many), identity))).toMatchObject({ status: 400, code: "too_many_values" }); // prettier-ignore
    const open = message(`"${"a".repeat(1900)}`);
    let use = (): void => undefined;
    const first = reader.json(open, async (body) => {
      await new Promise<void>((resolve) => (use = resolve));
      return body;
    });
    await new Promise((resolve) => setTimeout(resolve));
    expect(await status(ended(`"${"b".repeat(1900)}"`))).toBe(429);
    open.push('"');
    open.push(null);
    await new Promise((resolve) => setTimeout(resolve));
    expect(await status(ended(`"${"b".repeat(1900)}"`)), "it is being used").toBe(429);
    use();
    expect(await first).toHaveLength(1900);
    expect(await reader.json(ended(`"${"b".repeat(1900)}"`), identity)).toHaveLength(1900);
  });

  it("errors become answers without paths or stacks", () => {
    const rows: [unknown, number, string | null][] = [
      [new PromptError("the prompt is empty"), 400, "invalid_prompt"],
      [new DeviceLostError("gone"), 503, "device_lost"],
      [new OutOfMemoryError("/dev/x"), 503, "out_of_memory"],
      [new NotFiniteError("a", "b", "c"), 500, "not_finite"],
      [new Error("ENOENT: /home/somebody/model"), 500, "internal_error"],
      ["a text", 500, "internal_error"],
    ];
    for (const [thrown, status, code] of rows) {
      const error = apiErrorOf(thrown);
      expect(error).toMatchObject({ status, code });
      expect(JSON.stringify(error.body)).not.toMatch(/\/(dev|home)|at .*:\d/);
    }
  });
});

describe("routes", () => {
  /** The application with a model that is lost; requests get no further than what stands around the routes. */
  async function ask(path: string, init: RequestInit = {}, settings: Partial<ServerSettings> = {}): Promise<Response> {
    const lines: string[] = [];
    const checked = checkSettings({ name: "m", ...settings });
    const gone = new ApiError(503, "gone", { code: "device_lost", retryAfterS: 10 });
    const host = {
      isReady: false,
      get model(): never {
        throw gone;
      },
    } as unknown as ModelHost; // all that the routes ask of it here
    const levels = { waiting: 1, rows: 2, parked: 0, drawing: 3, isReady: false, liveBytes: 4, reservedBytes: 5 };
    const log = new Log((line) => lines.push(line));
    const parts = { settings: checked, host, metrics: await openMetrics(() => levels), log, gate: new Gate(checked), bodies: new BodyReader(checked), reader: new ImageReader(checked) }; // prettier-ignore
    const incoming = new IncomingMessage(new Socket());
    const env = { incoming, outgoing: new ServerResponse(incoming) };
    const answer = await createApp(parts).request(`http://localhost${path}`, init, env);
    for (const line of lines) expect(JSON.parse(line)).toMatchObject({ message: "request", status: answer.status });
    return answer;
  }
  const code = async (answer: Response): Promise<unknown> => [answer.status, ((await answer.json()) as { error: { code: string } }).error.code]; // prettier-ignore

  it("ask for the key, but /health does not", async () => {
    const key = { apiKey: "0123456789" };
    for (const path of ["/v1/models", "/v1/models/m", "/metrics"]) {
      expect(await code(await ask(path, {}, key))).toEqual([401, "invalid_api_key"]);
      expect(await code(await ask(path, { headers: { authorization: "Bearer 0123456788" } }, key))).toEqual([401, "invalid_api_key"]); // prettier-ignore
    }
    expect((await ask("/metrics", { headers: { authorization: "Bearer 0123456789" } }, key)).status).toBe(200);
    expect((await ask("/health", {}, key)).status).toBe(503);
  });

  it("without a key answer only under the name of this machine", async () => {
    const named = (host: string, settings = {}): Promise<Response> => ask("/v1/models", { headers: { host } }, settings); // prettier-ignore
    for (const name of ["localhost:8000", "127.0.0.1", "[::1]:8000"]) expect(await code(await named(name))).toEqual([503, "device_lost"]); // prettier-ignore
    for (const name of ["evil.example:8000", ""]) expect(await code(await named(name))).toEqual([403, "wrong_host"]);
    expect(await code(await named("example.org", { allowPublic: true }))).toEqual([503, "device_lost"]);
  });

  it("other paths and methods are refused; nothing is served while the device is lost", async () => {
    const headers = { host: "localhost" };
    expect(await code(await ask("/v1/embeddings", { headers, method: "POST" }))).toEqual([404, "not_found"]);
    const wrong = await ask("/v1/chat/completions", { headers });
    expect(wrong.headers.get("allow")).toBe("POST");
    expect(await code(wrong)).toEqual([405, "method_not_allowed"]);
    for (const path of ["/v1/chat/completions", "/v1/images/generations"]) {
      const lost = await ask(path, { headers, method: "POST" });
      expect(lost.headers.get("retry-after")).toBe("10");
      expect(await code(lost)).toEqual([503, "device_lost"]);
    }
    expect(await (await ask("/metrics", { headers })).text()).toMatch(/janus_images_active 3[^]*janus_device_live_bytes 4/); // prettier-ignore
  });
});

describe("the page", () => {
  async function served(
    page: string | null,
    use: (get: (path: string, headers?: object) => Promise<Response>) => Promise<void>,
  ): Promise<void> {
    // prettier-ignore
    const listener = await withPage(page, (_, answer) => answer.end("the API"));
    const server = createServer(listener).listen(0, "127.0.0.1");
    await once(server, "listening");
    const { port } = server.address() as AddressInfo;
    await use((path, headers = {}) => fetch(`http://127.0.0.1:${port}${path}`, { headers: { ...headers } }));
    server.closeAllConnections();
    server.close();
  }

  it("is served beside the API, isolated, with content types and ranges", async () => {
    const folder = mkdtempSync(join(tmpdir(), "janus-page-"));
    for (const [name, text] of [["index.html", "<p>page"], ["map.wgsl", "fn f() {}"], ["model.safetensors", "0123456789"]] as const) writeFileSync(join(folder, name), text); // prettier-ignore
    await served(folder, async (get) => {
      const index = await get("/");
      expect([index.status, await index.text()]).toEqual([200, "<p>page"]);
      expect(Object.fromEntries(index.headers)).toMatchObject({
        "content-type": "text/html;charset=utf-8",
        "cross-origin-opener-policy": "same-origin",
        "cross-origin-embedder-policy": "require-corp",
      });
      expect((await get("/map.wgsl")).headers.get("content-type")).toBe("text/plain; charset=utf-8");
      const part = await get("/model.safetensors", { range: "bytes=2-4" });
      expect([part.status, await part.text()]).toEqual([206, "234"]);
      for (const path of ["/v1/models", "/health", "/metrics?x=1", "/..%2f..%2fetc/passwd", "/none"]) expect(await (await get(path)).text()).toBe("the API"); // prettier-ignore
    });
    rmSync(folder, { recursive: true });
  });

  it("says how to build it if it was not", async () => {
    await served(null, async (get) => {
      const index = await get("/");
      expect([index.status, await index.text()]).toEqual([404, expect.stringMatching(/The page was not built. Build it with npm run build/)]); // prettier-ignore
      expect(await (await get("/other")).text()).toBe("the API");
    });
  });
});
