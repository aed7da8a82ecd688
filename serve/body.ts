/** The body of a request as JSON, within the limits of one body and of all that are being read. */
import type { IncomingMessage } from "node:http";
import { ApiError, invalid } from "./errors.ts";
import { Budget } from "./events.ts";
import type { ServerSettings } from "./settings.ts";

export class BodyReader {
  private readonly bodyBytes: number;
  /** Bytes of all bodies in memory. */
  private readonly held: Budget;

  constructor({ bodyBytes, bodiesBytes }: Pick<ServerSettings, "bodyBytes" | "bodiesBytes">) {
    this.bodyBytes = bodyBytes;
    this.held = new Budget(bodiesBytes, "the server reads too many bodies at once");
  }

  /**
   * Passes the parsed body to `use`; the bytes count until it has resolved. Throws `ApiError` 400, 413, 415 and 429.
   */
  async json<T>(message: IncomingMessage, use: (body: unknown) => T | Promise<T>): Promise<T> {
    // Pages of other sites can send other types without asking, and must not be able to send work.
    const type = message.headers["content-type"]?.split(";")[0]?.trim().toLowerCase();
    if (type !== "application/json")
      throw new ApiError(415, "the body must have the content type application/json; got another one. Set the header.", { code: "unsupported_media_type" }); // prettier-ignore
    if ((message.headers["content-encoding"] ?? "identity") !== "identity")
      throw new ApiError(415, "the body must not be compressed; got a content encoding. Send plain JSON.", { code: "unsupported_encoding" }); // prettier-ignore
    const releases: (() => void)[] = [];
    try {
      return await use(parse(await this.bytes(message, releases)));
    } finally {
      for (const release of releases) release();
    }
  }

  private async bytes(message: IncomingMessage, releases: (() => void)[]): Promise<Buffer> {
    const { bodyBytes } = this;
    const declared = Number(message.headers["content-length"] ?? 0);
    if (declared > bodyBytes) throw tooLarge(bodyBytes);
    let own = 0;
    const chunks: Buffer[] = [];
    for await (const chunk of message as AsyncIterable<Buffer>) {
      own += chunk.length;
      if (own > bodyBytes) throw tooLarge(bodyBytes);
      releases.push(this.held.take(chunk.length));
      chunks.push(chunk);
    }
    return Buffer.concat(chunks);
  }
}

const tooLarge = (most: number): ApiError => new ApiError(413, `the body must have at most ${most} bytes; got more. Send smaller images.`, { code: "body_too_large" }); // prettier-ignore

/**
 * Commas and opening brackets of a body, those in texts included. Each may begin a value, and millions of values take seconds to parse, and all
 * memory to check.
 */
const MAX_VALUES = 200_000;

function hasManyValues(bytes: Buffer): boolean {
  let count = 0;
  for (const byte of bytes) if (byte === 0x2c || byte === 0x5b || byte === 0x7b) count++; // , [ {
  return count > MAX_VALUES;
}

function parse(bytes: Buffer): unknown {
  if (hasManyValues(bytes))
    throw invalid(`the body may have ${MAX_VALUES} commas and opening brackets; got more. Send fewer or shorter messages.`, undefined, "too_many_values"); // prettier-ignore
  try {
    return JSON.parse(new TextDecoder("utf-8", { fatal: true }).decode(bytes));
  } catch {
    throw invalid("the body must be JSON in UTF-8; got something else. Check its syntax.", undefined, "invalid_json");
  }
}
