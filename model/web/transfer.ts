/** Files of the hub over `fetch`: retries, what each status means, ranges, and whole files into the browser's storage. */
import { messageOf } from "../../engine/errors.ts";
import { eachPiece } from "../io/bytes.ts";
import type { RandomAccess } from "../io/bytes.ts";
import { MAX_WAIT_MS, MAY_PASS, Retry, brokenConnection, checkContentRange, eachChunk, firstBytes, openPieces, retryAfter } from "../io/hub_body.ts"; // prettier-ignore
import { HubAccessError, HubError, HubIntegrityError, HubNetworkError, HubNotFoundError } from "../io/hub_errors.ts";
import type { HubFile } from "../io/hub_listing.ts";
import { PartialFile, storedContents } from "./store.ts";

export interface Connection {
  readonly token: string | undefined;
  /** Tries in a row that bring nothing before the connection is given up. */
  readonly retries: number;
  /** Wait before the second try; it doubles from there. */
  readonly backoffMs: number;
  readonly signal: AbortSignal | undefined;
}

/** A connection counts as broken after so long without a byte. */
const STALL_MS = 30_000;
const delay = (ms: number, signal: AbortSignal | undefined): Promise<void> =>
  new Promise((resolve, reject) => {
    const onAbort = (): void => {
      clearTimeout(timer);
      reject(signal!.reason as Error);
    };
    const timer = setTimeout(() => {
      signal?.removeEventListener("abort", onAbort);
      resolve();
    }, ms);
    signal?.addEventListener("abort", onAbort, { once: true });
  });

/** Runs `attempt` until it succeeds; waits longer after each failure in a row. `attempt` says by `progress()` that a try brought something. */
async function persist<T>(
  what: string,
  connection: Connection,
  attempt: (progress: () => void) => Promise<T>,
): Promise<T> {
  const { retries, backoffMs, signal } = connection;
  for (let failures = 0; ;) {
    signal?.throwIfAborted();
    try {
      return await attempt(() => (failures = 0));
    } catch (error) {
      signal?.throwIfAborted();
      if (!(error instanceof Retry)) throw error;
      const wait = Math.min(MAX_WAIT_MS, error.waitMs ?? backoffMs * 2 ** failures);
      if (++failures > retries)
        throw new HubNetworkError(
          `${what}: the hub must answer; got: ${error.message}, ${failures} times in a row. What came is kept; try again later.`,
          { cause: error },
        );
      await delay(wait, signal);
    }
  }
}

/** One GET. Throws `Retry` for what may pass, a `HubError` for what will not. `use` calls `alive` for each piece of the answer. */
async function request<T>(
  url: string,
  { what, range, connection }: { readonly what: string; readonly range?: string; readonly connection: Connection },
  use: (response: Response, alive: () => void) => Promise<T>,
): Promise<T> {
  const { token, signal } = connection;
  const stall = new AbortController();
  let timer: ReturnType<typeof setTimeout>;
  const alive = (): void => {
    clearTimeout(timer);
    timer = setTimeout(() => stall.abort(), STALL_MS);
  };
  alive();
  try {
    const response = await fetch(url, {
      headers: { ...(token && { authorization: `Bearer ${token}` }), ...(range && { range }) },
      signal: signal ? AbortSignal.any([signal, stall.signal]) : stall.signal,
    });
    requireOk(response, what);
    return await use(response, alive);
  } catch (error) {
    signal?.throwIfAborted();
    if (stall.signal.aborted) throw new Retry(`nothing came for ${STALL_MS / 1000} s`);
    // Browsers do not say why: no network, no such host, no CORS.
    if (error instanceof TypeError) throw new Retry(`no answer from ${new URL(url).host} (${messageOf(error)})`);
    throw error;
  } finally {
    clearTimeout(timer!);
  }
}

function requireOk(response: Response, what: string): void {
  const { status } = response;
  if (response.ok) return;
  if (MAY_PASS.includes(status)) throw new Retry(`HTTP ${status}`, retryAfter(response));
  if (status === 404)
    throw new HubNotFoundError(`${what}: it must be on the hub; got HTTP 404. Check the name, or pass a token.`);
  if (status === 401 || status === 403)
    throw new HubAccessError(
      `${what}: the hub must allow access; got HTTP ${status}. Ask for access on its page, or pass a token that may read it.`,
    );
  throw new HubError(`${what}: the hub must send it; got HTTP ${status}. Check the endpoint.`);
}

/** The body of a small answer, of at most `limit` bytes. */
export function fetchBytes(
  url: string,
  { what, limit, connection }: { readonly what: string; readonly limit: number; readonly connection: Connection },
): Promise<Uint8Array> {
  return persist(what, connection, () =>
    request(url, { what, connection }, async (response, alive) => {
      const chunks: Uint8Array[] = [];
      let bytes = 0;
      await eachChunk(response, async (chunk) => {
        alive();
        chunks.push(chunk);
        bytes += chunk.length;
        if (bytes > limit) throw new HubError(`${what}: the answer must have at most ${limit} bytes; got more.`);
      });
      return new Uint8Array(await new Blob(chunks as BlobPart[]).arrayBuffer());
    }),
  );
}

/** A file on the hub of which only pieces are read: the headers of weight files. Pieces stay in memory. */
export const openRemote = (file: HubFile, connection: Connection): RandomAccess =>
  openPieces(file, (start, end) => readRange(file, { start, end }, connection));

function readRange(
  file: HubFile,
  { start, end }: { readonly start: number; readonly end: number },
  connection: Connection,
): Promise<Uint8Array> {
  const what = file.name;
  return persist(what, connection, () =>
    request(file.url, { what, range: `bytes=${start}-${end - 1}`, connection }, async (response, alive) => {
      if (response.status === 206) checkVisibleRange(response, file, start);
      else if (start > 0)
        throw new HubError(`${what}: the server must send parts of files; got HTTP ${response.status}. Use another endpoint.`); // prettier-ignore
      return firstBytes(response, end - start, alive);
    }),
  );
}

/** `checkContentRange`, where the server lets pages of other sites see the header. */
function checkVisibleRange(response: Response, file: HubFile, start: number): void {
  if (response.headers.has("content-range")) checkContentRange(response, file, start);
}

/**
 * Fetches a file into the browser's storage, from where an earlier try ended; tabs do not fetch the same file twice. Throws `HubIntegrityError` for a
 * wrong length or hash (its contents are removed), `HubNetworkError` when the connection does not come back (they are kept).
 */
export async function fetchFile(
  file: HubFile,
  connection: Connection,
  onBytes: (bytes: number) => void,
): Promise<void> {
  const { signal } = connection;
  await navigator.locks.request(`janus-webgpu ${file.hash}`, signal ? { signal } : {}, async () => {
    if (await storedContents(file)) return;
    for (let isResumed = true; isResumed;) {
      const partial = await PartialFile.open(file);
      isResumed = partial.bytes > 0;
      onBytes(partial.bytes);
      await persist(file.name, connection, async (progress) => {
        if (partial.bytes < file.bytes) await transfer(file, partial, { connection, progress, onBytes });
      });
      const hash = await partial.finish();
      if (hash === file.hash) return;
      // What an earlier try left may have been wrong: once more, from the start.
      if (!isResumed)
        throw new HubIntegrityError(
          `${file.name}: its hash must be ${file.hash}; got ${hash}. The file was removed, try again.`,
        );
    }
  });
}

interface Transfer {
  readonly connection: Connection;
  readonly progress: () => void;
  readonly onBytes: (bytes: number) => void;
}

/** One connection: from the end of the stored parts to the end of the file. */
async function transfer(
  file: HubFile,
  partial: PartialFile,
  { connection, progress, onBytes }: Transfer,
): Promise<void> {
  partial.dropPending();
  const start = partial.bytes;
  const range = start > 0 ? { range: `bytes=${start}-` } : {};
  await request(file.url, { what: file.name, connection, ...range }, async (response, alive) => {
    if (response.status === 206) checkVisibleRange(response, file, start);
    // A server that ignores Range sends the file from its start.
    let skip = response.status === 206 ? 0 : start;
    const take = async (chunk: Uint8Array): Promise<void> => {
      alive();
      progress();
      const rest = chunk.subarray(skip);
      skip -= chunk.length - rest.length;
      if (partial.bytes + rest.length > file.bytes)
        throw new HubIntegrityError(
          `${file.name}: the server must send ${file.bytes} bytes, as the hub lists; got more. Try again.`,
        );
      await partial.append(rest);
      onBytes(partial.bytes);
    };
    if (response.body) await eachPiece(response.body, take, brokenConnection);
    if (partial.bytes < file.bytes)
      throw new Retry(`the connection ended after ${partial.bytes} of ${file.bytes} bytes`);
  });
}
