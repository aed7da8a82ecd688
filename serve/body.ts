/** The body of a request as JSON, within the limits of one body and of all that are being read. */
import type { IncomingMessage } from "node:http";
import { ApiError, invalid } from "./errors.ts";
import type { ServerSettings } from "./settings.ts";

export class BodyReader {
  private readonly settings: Pick<ServerSettings, "bodyBytes" | "bodiesBytes">;
  /** Bytes of all bodies in memory. */
  private held = 0;

  constructor(settings: Pick<ServerSettings, "bodyBytes" | "bodiesBytes">) {
    this.settings = settings;
  }

  /**
   * Passes the parsed body to `use`; the bytes count until it has returned. Throws `ApiError` 400, 413, 415 and 429.
   */
  async json<T>(message: IncomingMessage, use: (body: unknown) => T): Promise<T> {
    // Pages of other sites can send other types without asking, and must not be able to send work.
    const type = message.headers["content-type"]?.split(";")[0]?.trim().toLowerCase();
    if (type !== "application/json")
      throw new ApiError(415, "the body must have the content type application/json; got another one. Set the header.", { code: "unsupported_media_type" }); // prettier-ignore
    const { bodyBytes } = this.settings;
    const declared = Number(message.headers["content-length"] ?? 0);
    if (declared > bodyBytes) throw tooLarge(bodyBytes);
    let own = 0;
    try {
      const chunks: Buffer[] = [];
      for await (const chunk of message as AsyncIterable<Buffer>) {
        own += chunk.length;
        this.held += chunk.length;
        if (own > bodyBytes) throw tooLarge(bodyBytes);
        if (this.held > this.settings.bodiesBytes)
          throw new ApiError(429, "the server reads too many bodies at once. Send the request again later.", { type: "rate_limit_error", code: "too_many_bytes", retryAfterS: 2 }); // prettier-ignore
        chunks.push(chunk);
      }
      return use(parse(Buffer.concat(chunks)));
    } finally {
      this.held -= own;
    }
  }
}

const tooLarge = (most: number): ApiError => new ApiError(413, `the body must have at most ${most} bytes; got more. Send smaller images.`, { code: "body_too_large" }); // prettier-ignore

function parse(bytes: Buffer): unknown {
  try {
    return JSON.parse(new TextDecoder("utf-8", { fatal: true }).decode(bytes));
  } catch {
    throw invalid("the body must be JSON in UTF-8; got something else. Check its syntax.", undefined, "invalid_json");
  }
}
