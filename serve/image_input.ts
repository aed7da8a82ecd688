/** Images of requests: data URLs, and if allowed URLs on public servers, as the pixels that the model sees. */
import { lookup } from "node:dns";
import type { LookupAddress } from "node:dns";
import ipaddr from "ipaddr.js";
import { Agent, request } from "undici";
import { understandingPixels } from "../model/image/preprocess.ts";
import type { PreprocessConfig } from "../model/image/preprocess.ts";
import { inlineBytes, readImage } from "../model/node/image_file.ts";
import { invalid } from "./errors.ts";
import { Budget, Semaphore } from "./events.ts";
import type { ServerSettings } from "./settings.ts";
import type { Work } from "./work.ts";

/** Images that are decoded at once: each takes its pixels in host memory. */
const DECODERS = 2;
const REMOTE_S = 20;

type ImageSettings = Pick<ServerSettings, "remoteImages" | "pixels" | "bodyBytes" | "pixelsBytes">;

/** True for addresses that are public: not of this machine, not of its networks, and none that only stands for another. */
export const isPublic = (address: string): boolean =>
  ipaddr.isValid(address) && ipaddr.process(address).range() === "unicast";

type LookupCallback = (error: Error | null, addresses?: LookupAddress[] | string, family?: number) => void;

/** Resolves a name for a connection. A name with any address that is not public is refused, so that no answer of a name server leads inside. */
function publicLookup(host: string, options: { readonly all?: boolean }, done: LookupCallback): void {
  lookup(host, { all: true }, (error, addresses) => {
    if (error) return done(error);
    if (addresses.length === 0 || !addresses.every(({ address }) => isPublic(address)))
      return done(new Error("not a public address"));
    if (options.all) done(null, addresses);
    else done(null, addresses[0]!.address, addresses[0]!.family);
  });
}

type Holder = Pick<Work, "signal" | "hold">;

export class ImageReader {
  private readonly settings: ImageSettings;
  private readonly decoders = new Semaphore(DECODERS);
  /** Bytes of the pixels of all requests, waiting ones included. */
  private readonly held: Budget;
  private agent: Agent | null = null;

  constructor(settings: ImageSettings) {
    this.settings = settings;
    this.held = new Budget(settings.pixelsBytes, "too many images wait to be seen");
  }

  /**
   * The pixels of each URL, float32 [3, S, S]. They count as held until the request is over. Throws `ApiError`, `ImageError`.
   */
  async read(urls: readonly string[], config: PreprocessConfig, { signal, hold }: Holder): Promise<Float32Array[]> {
    if (urls.length > 0) hold(this.held.take(urls.length * 3 * config.imageSize ** 2 * 4));
    const images: Float32Array[] = [];
    for (const [i, url] of urls.entries()) {
      signal.throwIfAborted();
      const bytes = /^data:/i.test(url) ? inlineBytes(url) : await this.fetch(url, i, signal);
      images.push(
        await this.decoders.run(async () => {
          const image = await readImage(bytes, { maxPixels: this.settings.pixels, name: `image ${i}` });
          return understandingPixels(image, config);
        }),
      );
    }
    return images;
  }

  async close(): Promise<void> {
    await this.agent?.close();
  }

  /** The bytes of a public URL. Redirects are not followed. */
  private async fetch(text: string, index: number, signal: AbortSignal): Promise<Uint8Array> {
    const where = `image ${index}`;
    const url = URL.canParse(text) ? new URL(text) : null;
    if (!this.settings.remoteImages || !url || !/^https?:$/.test(url.protocol))
      throw invalid(`${where}: image_url must be a data: URL in base64${this.settings.remoteImages ? ", or an http or https URL" : "; this server fetches no URLs"}. Send the image itself.`, "messages", "invalid_image_url"); // prettier-ignore
    const bare = url.hostname.replace(/^\[|\]$/g, "");
    // A number is connected to without a lookup.
    if (ipaddr.isValid(bare) && !isPublic(bare)) throw refused(where);
    this.agent ??= new Agent({ connect: { lookup: publicLookup as never, timeout: 5000 } });
    const limit = AbortSignal.any([signal, AbortSignal.timeout(REMOTE_S * 1000)]);
    try {
      const { statusCode, body } = await request(url, { dispatcher: this.agent, signal: limit, headers: { accept: "image/*" } }); // prettier-ignore
      if (statusCode !== 200) {
        body.destroy();
        throw refused(where);
      }
      const chunks: Uint8Array[] = [];
      let bytes = 0;
      for await (const chunk of body as AsyncIterable<Uint8Array>) {
        bytes += chunk.length;
        if (bytes > this.settings.bodyBytes) throw invalid(`${where}: the image must have at most ${this.settings.bodyBytes} bytes; got more. Send a smaller one.`, "messages", "image_too_large"); // prettier-ignore
        chunks.push(chunk);
      }
      return Buffer.concat(chunks);
    } catch (error) {
      signal.throwIfAborted();
      if (error instanceof Error && "status" in error) throw error;
      throw refused(where);
    }
  }
}

/** One message for everything that can go wrong: which addresses and ports answer inside is nobody's business. */
const refused = (where: string): Error => invalid(`${where}: the URL must be on a public server that answers with the image; got none. Send the image as a data: URL.`, "messages", "invalid_image_url"); // prettier-ignore
