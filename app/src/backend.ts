/** What the page talks to: a model in a Worker of this browser, or `janus serve` at the page's own address. */
import type { RgbImage } from "../../model/image/image.ts";
import { readTextChunks } from "../../model/image/png_text.ts";
import type { Message } from "../../model/janus/prompt.ts";
import type { WorkerJanus } from "../../model/janus/web/worker_client.ts";
import { dataUrl, pixelsOf } from "./pixels.ts";

export interface Turn {
  readonly role: "user" | "assistant";
  readonly text: string;
  readonly images: readonly Blob[];
}

export interface AskSettings {
  readonly temperature: number;
  readonly seed: number;
}

export interface DrawSettings {
  readonly n: number;
  readonly seed: number;
  readonly guidance: number;
  readonly temperature: number;
}

/** A picture with what it takes to draw it again; a server may not tell its tokens. */
export interface Drawn {
  readonly image: RgbImage;
  readonly prompt: string;
  readonly seed: number;
  readonly guidance: number;
  readonly temperature: number;
  readonly model: string;
  readonly tokenIds: readonly number[] | null;
}

export type DrawEvent =
  | { readonly type: "partial"; readonly images: readonly (RgbImage | null)[]; readonly share: number }
  | { readonly type: "done"; readonly index: number; readonly drawn: Drawn };

export interface Backend {
  readonly name: string;
  readonly where: string;
  /** Side of its images; null if it is not known. */
  readonly side: number | null;
  readonly defaults: { readonly guidance: number; readonly temperature: number };
  ask(turns: readonly Turn[], settings: AskSettings, signal: AbortSignal): AsyncIterable<string>;
  draw(prompt: string, settings: DrawSettings, signal: AbortSignal): AsyncIterable<DrawEvent>;
}

const messageOf = ({ role, text, images }: Turn): Message => {
  if (role === "assistant" || images.length === 0) return { role, content: text };
  return { role, content: [...images.map((image) => ({ type: "image", image })), { type: "text", text }] } as Message;
};

/** A model in a Worker. */
export class BrowserBackend implements Backend {
  readonly name: string;
  readonly where: string;
  readonly side: number;
  readonly defaults: Backend["defaults"];
  private readonly janus: WorkerJanus;

  constructor(janus: WorkerJanus, name: string, defaults: Backend["defaults"]) {
    this.janus = janus;
    this.name = name;
    const { name: adapter, vendor, architecture, isSoftware } = janus.device;
    this.where = `${[vendor, architecture].filter(Boolean).join(" ") || adapter}${isSoftware ? ", emulated on the CPU" : ""}`;
    this.side = janus.config.vq.imageSize;
    this.defaults = defaults;
  }

  ask(turns: readonly Turn[], { temperature, seed }: AskSettings, signal: AbortSignal): AsyncIterable<string> {
    return this.janus.ask(turns.map(messageOf), { temperature, seed, signal });
  }

  async *draw(prompt: string, settings: DrawSettings, signal: AbortSignal): AsyncGenerator<DrawEvent> {
    const pictures = this.janus.generate(prompt, { ...settings, signal });
    // One preview at a time: a preview costs as much as decoding whole images.
    const state: { running: boolean; latest: readonly (RgbImage | null)[] | null } = { running: false, latest: null };
    for await (const event of pictures) {
      if (event.type === "picture") {
        yield { type: "done", index: event.index, drawn: event.picture };
        continue;
      }
      if (!state.running) {
        state.running = true;
        pictures
          .preview()
          .then((images) => (state.latest = images))
          .catch(() => undefined)
          .finally(() => (state.running = false));
      }
      yield { type: "partial", images: state.latest ?? [], share: event.done / event.total };
    }
  }
}

/** The events of a server-sent stream, as JSON. */
async function* eventsOf(response: Response): AsyncGenerator<Record<string, unknown>> {
  if (!response.ok) {
    const body = (await response.json().catch(() => null)) as { error?: { message?: string } } | null;
    throw new Error(body?.error?.message ?? `the server answers HTTP ${response.status}`);
  }
  const reader = response.body!.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    const lines = (rest + value).split("\n");
    rest = lines.pop()!;
    for (const line of lines) {
      if (!line.startsWith("data:") || line.trim() === "data: [DONE]") continue;
      const event = JSON.parse(line.slice(5)) as Record<string, unknown>;
      const error = event["error"] as { message?: string } | undefined;
      if (error) throw new Error(error.message ?? "the server reports an error");
      yield event;
    }
  }
}

const fromBase64 = (text: string): Uint8Array => Uint8Array.from(atob(text), (c) => c.charCodeAt(0));

/** A model as `/v1/models` describes it. */
interface ServedModel {
  readonly id: string;
  readonly image_size: number | null;
  readonly drawing: Backend["defaults"];
}

/** `janus serve` at the address of the page. */
export class ServerBackend implements Backend {
  readonly name: string;
  readonly where = "janus serve";
  readonly side: number | null;
  readonly defaults: Backend["defaults"];
  private readonly headers: Readonly<Record<string, string>>;

  constructor({ id, image_size: side, drawing }: ServedModel, headers: Readonly<Record<string, string>>) {
    this.name = id;
    this.headers = headers;
    this.side = side;
    this.defaults = drawing;
  }

  /** The models of the server; none if there is no server. `"key"`: it wants a key, or another one. */
  static async find(key: string | null): Promise<ServerBackend[] | "key"> {
    const headers: Record<string, string> = key === null ? {} : { authorization: `Bearer ${key}` };
    try {
      const response = await fetch(new URL("/v1/models", location.href), { headers });
      if (response.status === 401 && response.headers.get("www-authenticate") === "Bearer") return "key";
      if (!response.ok || !response.headers.get("content-type")?.includes("json")) return [];
      const { data } = (await response.json()) as { data: readonly ServedModel[] };
      return data.map((model) => new ServerBackend(model, headers));
    } catch {
      return [];
    }
  }

  private post(path: string, body: object, signal: AbortSignal): Promise<Response> {
    return fetch(new URL(path, location.href), {
      method: "POST",
      headers: { "content-type": "application/json", ...this.headers },
      body: JSON.stringify({ model: this.name, stream: true, ...body }),
      signal,
    });
  }

  async *ask(turns: readonly Turn[], settings: AskSettings, signal: AbortSignal): AsyncGenerator<string> {
    const messages = await Promise.all(
      turns.map(async ({ role, text, images }) => {
        if (role === "assistant" || images.length === 0) return { role, content: text };
        const parts = images.map(async (image) => ({ type: "image_url", image_url: { url: await dataUrl(image) } }));
        return { role, content: [...(await Promise.all(parts)), { type: "text", text }] };
      }),
    );
    const { temperature, seed } = settings;
    const response = await this.post("/v1/chat/completions", { messages, temperature, seed }, signal);
    for await (const event of eventsOf(response)) {
      const [choice] = event["choices"] as readonly { delta?: { content?: string } }[];
      if (choice?.delta?.content) yield choice.delta.content;
    }
  }

  async *draw(prompt: string, settings: DrawSettings, signal: AbortSignal): AsyncGenerator<DrawEvent> {
    const { n, seed, guidance, temperature } = settings;
    const body = { prompt, n, seed, guidance, temperature, partial_images: PARTIALS, response_format: "b64_json" };
    const images: (RgbImage | null)[] = Array.from({ length: n }, () => null);
    for await (const event of eventsOf(await this.post("/v1/images/generations", body, signal))) {
      if (typeof event["b64_json"] !== "string") continue;
      const index = Number(event["image_index"] ?? 0);
      const bytes = fromBase64(event["b64_json"]);
      const image = await pixelsOf(new Blob([bytes as BlobPart]));
      images[index] = image;
      if (event["type"] === "image_generation.completed") {
        const drawn = { image, prompt, seed: Number(event["seed"] ?? seed + index), guidance, temperature };
        yield { type: "done", index, drawn: { ...drawn, model: this.name, tokenIds: tokensIn(bytes) } };
      } else
        yield {
          type: "partial",
          images: [...images],
          share: (Number(event["partial_image_index"]) + 1) / (PARTIALS + 1),
        };
    }
  }
}

const PARTIALS = 4;

/** The tokens that a PNG file of this package carries. */
function tokensIn(png: Uint8Array): readonly number[] | null {
  try {
    const text = readTextChunks(png).get("janus-webgpu");
    return text === undefined ? null : (JSON.parse(text) as { tokenIds: number[] }).tokenIds;
  } catch {
    return null;
  }
}
