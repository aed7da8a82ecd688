/** Answers of the Hugging Face hub, over undici and over a browser's fetch: what may be tried again, bodies, and pieces of files. */
import { checkRange } from "./bytes.ts";
import type { RandomAccess } from "./bytes.ts";
import { quote } from "./errors.ts";
import { HubIntegrityError } from "./hub_errors.ts";
import type { HubFile } from "./hub_listing.ts";

/** Statuses after which a retry may help. */
export const MAY_PASS = [408, 425, 429, 500, 502, 503, 504];
export const MAX_WAIT_MS = 60_000;

/** A failure for which a retry may help. */
export class Retry extends Error {
  readonly waitMs: number | undefined;
  constructor(message: string, waitMs?: number) {
    super(message);
    this.waitMs = waitMs;
  }
}

/** What undici's responses and a browser's have in common. */
export interface HubResponse {
  readonly headers: { get(name: string): string | null };
  readonly body: { getReader(): BodyReader } | null;
}

interface BodyReader {
  read(): Promise<{ readonly done: boolean; readonly value?: unknown }>;
  cancel(): Promise<unknown>;
  releaseLock(): void;
}

export interface DownloadProgress {
  readonly file: string;
  readonly fileBytes: number;
  readonly fileTotal: number;
  /** Bytes of all files, those that were there already included. */
  readonly bytes: number;
  readonly totalBytes: number;
}

/** Milliseconds that the server asks to wait: its header has seconds or a date. */
export function retryAfter({ headers }: HubResponse): number | undefined {
  const text = headers.get("retry-after");
  if (text === null) return undefined;
  const ms = /^[\d.]+$/.test(text) ? Number(text) * 1000 : Date.parse(text) - Date.now();
  return ms > 0 ? ms : undefined;
}

/** The innermost cause of an error: undici says "fetch failed" itself. */
export function causeOf(error: unknown): { readonly message: string; readonly code: string } {
  let inner = error;
  while (inner instanceof Error && inner.cause instanceof Error) inner = inner.cause;
  if (inner instanceof AggregateError && inner.errors[0] instanceof Error) inner = inner.errors[0]; // one an address of the host
  if (!(inner instanceof Error)) return { message: String(inner), code: "" };
  return { message: inner.message, code: "code" in inner && typeof inner.code === "string" ? inner.code : "" };
}

export const inBrackets = ({ message, code }: ReturnType<typeof causeOf>): string =>
  message || code ? ` (${message.includes(code) ? message : `${code}, ${message}`})` : "";

export const brokenConnection = (error: unknown): Retry =>
  new Retry(`the connection broke${inBrackets(causeOf(error))}`);

/** Calls `use` with the pieces of a body in order, to its end or until `use` returns "enough". Throws `Retry` if the connection breaks. */
export async function eachChunk(
  { body }: HubResponse,
  use: (chunk: Uint8Array) => Promise<void | "enough">,
): Promise<void> {
  const reader = body?.getReader();
  if (!reader) return;
  try {
    for (;;) {
      const { done, value } = await reader.read().catch((error: unknown) => {
        throw brokenConnection(error);
      });
      if (done) return;
      if ((await use(value as Uint8Array)) === "enough") return;
    }
  } finally {
    await reader.cancel().catch(() => undefined);
    reader.releaseLock();
  }
}

/** The first `length` bytes of a body. Throws `Retry` if there are fewer. */
export async function firstBytes(response: HubResponse, length: number, alive: () => void): Promise<Uint8Array> {
  const into = new Uint8Array(length);
  let done = 0;
  await eachChunk(response, async (chunk) => {
    alive();
    const part = chunk.subarray(0, length - done);
    into.set(part, done);
    done += part.length;
    return done === length ? "enough" : undefined;
  });
  if (done < length) throw new Retry(`the connection ended after ${done} of ${length} bytes`);
  return into;
}

/** Throws `HubIntegrityError` if an answer with a part of `file` is not that from byte `start` on. */
export function checkContentRange({ headers }: HubResponse, file: HubFile, start: number): void {
  const range = headers.get("content-range") ?? "";
  const [, from, total] = /^bytes (\d+)-\d+\/(\d+|\*)$/.exec(range) ?? [];
  if (Number(from) !== start || (total !== "*" && Number(total) !== file.bytes))
    throw new HubIntegrityError(
      `${file.name}: bytes from ${start} of ${file.bytes} were asked for, the server sends ${quote(range)}`,
    );
}

/** A file of at most this many bytes is read with one request. */
const SMALL_BYTES = 2 ** 20;
/** Bytes of the request for the head of a file: headers of safetensors have about 100 kB. */
const FIRST_BYTES = 2 ** 18;
/** Least bytes of any other: an archive of torch.save has headers of 100 bytes all over the file. */
const MIN_BYTES = 2 ** 13;

/**
 * A file on the hub of which only pieces are read: headers of weight files, without the weights. `readRange` fetches bytes from `start` to before `end`;
 * pieces that were read stay in memory until the file is closed.
 */
export function openPieces(
  file: HubFile,
  readRange: (start: number, end: number) => Promise<Uint8Array>,
): RandomAccess {
  const pieces: { readonly start: number; readonly bytes: Uint8Array }[] = [];
  const pieceOf = async (offset: number, length: number): Promise<(typeof pieces)[number]> => {
    const known = pieces.find(({ start, bytes }) => start <= offset && offset + length <= start + bytes.length);
    if (known) return known;
    const isSmall = file.bytes <= SMALL_BYTES;
    const isHead = offset + length <= FIRST_BYTES;
    const start = isSmall || isHead ? 0 : offset;
    const least = isSmall ? file.bytes : isHead ? FIRST_BYTES : Math.max(length, MIN_BYTES);
    const piece = { start, bytes: await readRange(start, Math.min(file.bytes, start + least)) };
    pieces.push(piece);
    return piece;
  };
  const opened: RandomAccess = {
    name: file.name,
    size: file.bytes,
    read: async (offset, length, into) => {
      checkRange(opened, offset, length);
      const { start, bytes } = await pieceOf(offset, length);
      const found = bytes.subarray(offset - start, offset - start + length);
      if (!into) return found;
      into.set(found);
      return into.subarray(0, length);
    },
    close: async () => void pieces.splice(0),
  };
  return opened;
}
