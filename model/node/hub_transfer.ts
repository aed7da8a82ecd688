/** One file over HTTP: redirects, resumption by Range, retries, and a check of length and hash before it counts as there. */
import { createHash } from "node:crypto";
import type { Hash } from "node:crypto";
import { createReadStream } from "node:fs";
import { mkdir, open, rename, rm, stat, utimes } from "node:fs/promises";
import type { FileHandle } from "node:fs/promises";
import { dirname } from "node:path";
import { setTimeout as delay } from "node:timers/promises";
import { quote } from "../io/errors.ts";
import { fileError, fileSize } from "./files.ts";
import { HubAccessError, HubError, HubIntegrityError, HubNetworkError, HubNotFoundError } from "./hub_settings.ts";

export interface Transport {
  readonly token: string | undefined;
  readonly stallMs: number;
  /** Tries in a row that bring nothing before the connection is given up. */
  readonly retries: number;
  /** Wait before the second try; it doubles from there. */
  readonly backoffMs: number;
  readonly signal: AbortSignal | undefined;
}

export interface HubFile {
  readonly name: string;
  readonly url: string;
  readonly bytes: number;
  /** SHA-256 for large files, the SHA-1 of git's blob for small ones: the file's name in the cache. */
  readonly hash: string;
}

const MAX_REDIRECTS = 8;
const MAX_WAIT_MS = 60_000;

/** A failure that another try may mend. */
class Retry extends Error {
  readonly waitMs: number | undefined;
  constructor(message: string, options: { waitMs?: number; cause?: unknown } = {}) {
    super(message, { cause: options.cause });
    this.waitMs = options.waitMs;
  }
}

/** Aborts when nothing has happened for `ms`, or when `signal` does. */
function watchdog(ms: number, signal: AbortSignal | undefined): { signal: AbortSignal; alive(): void; stop(): void } {
  const controller = new AbortController();
  const onAbort = (): void => controller.abort(signal?.reason);
  if (signal?.aborted) onAbort();
  signal?.addEventListener("abort", onAbort, { once: true });
  const timer = setTimeout(() => controller.abort(new Retry(`nothing came for ${ms / 1000} s`)), ms);
  return {
    signal: controller.signal,
    alive: () => void timer.refresh(),
    stop: () => {
      clearTimeout(timer);
      signal?.removeEventListener("abort", onAbort);
    },
  };
}

/** A GET that follows redirects itself: the token goes to the hub's own server only, and never from https to http. */
async function get(
  url: string,
  headers: Record<string, string>,
  transport: Transport,
  signal: AbortSignal,
): Promise<Response> {
  let at = new URL(url);
  const home = at.origin;
  for (let i = 0; i <= MAX_REDIRECTS; i++) {
    const own: Record<string, string> = { "accept-encoding": "identity", "user-agent": "janus-webgpu", ...headers };
    if (transport.token && at.origin === home) own.authorization = `Bearer ${transport.token}`;
    const response = await fetch(at, { headers: own, redirect: "manual", signal }).catch((error: unknown) => {
      transport.signal?.throwIfAborted();
      throw new Retry(`no answer from ${at.host}`, { cause: signal.aborted ? signal.reason : error });
    });
    const location = response.headers.get("location");
    if (![301, 302, 303, 307, 308].includes(response.status) || location === null) return response;
    await response.body?.cancel();
    const next = new URL(location, at);
    if (!/^https?:$/.test(next.protocol) || (at.protocol === "https:" && next.protocol !== "https:")) {
      throw new HubError(`${url} redirects to ${next.protocol}//${next.host}, which is not safe`);
    }
    at = next;
  }
  throw new HubError(`${url} redirects more than ${MAX_REDIRECTS} times`);
}

/** Throws what an HTTP status means. */
async function checkStatus(response: Response, what: string): Promise<void> {
  const { status } = response;
  if (status >= 200 && status < 300) return;
  await response.body?.cancel().catch(() => undefined);
  const code = response.headers.get("x-error-code") ?? "";
  if (code === "GatedRepo")
    throw new HubAccessError(`${what}: access must be asked for on its page; then set HF_TOKEN`);
  if (status === 404 || code === "RepoNotFound") {
    throw new HubNotFoundError(
      `${what}: not found on the hub${status === 401 ? ", or private and HF_TOKEN is not set or not valid" : ""}; check its name`,
    );
  }
  if (status === 401 || status === 403)
    throw new HubAccessError(
      `${what}: HTTP ${status}; it does not exist, or needs a token in HF_TOKEN that may read it`,
    );
  const seconds = Number(response.headers.get("retry-after"));
  if (status === 408 || status === 429 || status >= 500)
    throw new Retry(`HTTP ${status}`, seconds > 0 ? { waitMs: seconds * 1000 } : {});
  throw new HubError(`${what}: HTTP ${status}`);
}

/** Runs `attempt` until it succeeds; waits longer after each failure in a row. `attempt` says by `progress()` that a try brought something. */
async function persist<T>(
  what: string,
  transport: Transport,
  attempt: (progress: () => void) => Promise<T>,
): Promise<T> {
  let failures = 0;
  for (;;) {
    try {
      return await attempt(() => (failures = 0));
    } catch (error) {
      transport.signal?.throwIfAborted();
      if (!(error instanceof Retry)) throw error;
      if (++failures > transport.retries) {
        throw new HubNetworkError(
          `${what}: ${error.message}${causeOf(error)}, ${failures} times in a row; what came is kept, try again later`,
          { cause: error },
        );
      }
      const wait = error.waitMs ?? transport.backoffMs * 2 ** (failures - 1);
      await delay(Math.min(wait, MAX_WAIT_MS), undefined, transport.signal ? { signal: transport.signal } : {});
    }
  }
}

function causeOf(error: Error): string {
  const cause =
    error.cause instanceof Error ? (error.cause.cause instanceof Error ? error.cause.cause : error.cause) : undefined;
  return cause ? ` (${cause.message})` : "";
}

/** The body of a small answer. */
export async function getBytes(url: string, what: string, limit: number, transport: Transport): Promise<Uint8Array> {
  return persist(what, transport, async () => {
    const dog = watchdog(transport.stallMs, transport.signal);
    try {
      const response = await get(url, {}, transport, dog.signal);
      await checkStatus(response, what);
      const chunks: Uint8Array[] = [];
      let bytes = 0;
      await eachChunk(response, dog, async (chunk) => {
        bytes += chunk.length;
        if (bytes > limit) throw new HubError(`${what}: the answer has more than ${limit} bytes`);
        chunks.push(chunk);
      });
      return new Uint8Array(Buffer.concat(chunks));
    } finally {
      dog.stop();
    }
  });
}

async function eachChunk(
  response: Response,
  dog: ReturnType<typeof watchdog>,
  use: (chunk: Uint8Array) => Promise<void>,
): Promise<void> {
  const reader = response.body?.getReader();
  if (!reader) return;
  try {
    for (;;) {
      const { done, value } = await reader.read().catch((error: unknown) => {
        throw new Retry("the connection broke", { cause: dog.signal.aborted ? dog.signal.reason : error });
      });
      if (done) return;
      dog.alive();
      await use(value);
    }
  } finally {
    await reader.cancel().catch(() => undefined);
  }
}

const newHash = (file: HubFile): Hash =>
  file.hash.length === 64 ? createHash("sha256") : createHash("sha1").update(`blob ${file.bytes}\0`);

/** What is on the disk of a file that is not whole yet, and the hash of it so far. */
class Partial {
  readonly path: string;
  private readonly file: HubFile;
  private readonly handle: FileHandle;
  private hash: Hash;
  bytes = 0;

  private constructor(path: string, file: HubFile, handle: FileHandle) {
    this.path = path;
    this.file = file;
    this.handle = handle;
    this.hash = newHash(file);
  }

  /** Takes up what an earlier run left, unless that is too long. */
  static async open(path: string, file: HubFile): Promise<Partial> {
    const size = (await fileSize(path)) ?? 0;
    const partial = new Partial(path, file, await open(path, size > 0 ? "r+" : "w"));
    if (size > file.bytes) await partial.restart();
    else if (size > 0) {
      for await (const chunk of createReadStream(path, { highWaterMark: 2 ** 20 }))
        partial.hash.update(chunk as Uint8Array);
      partial.bytes = size;
    }
    return partial;
  }

  async restart(): Promise<void> {
    await this.handle.truncate(0);
    this.bytes = 0;
    this.hash = newHash(this.file);
  }

  async append(chunk: Uint8Array): Promise<void> {
    for (let done = 0; done < chunk.length;) {
      const { bytesWritten } = await this.handle.write(chunk, done, chunk.length - done, this.bytes + done);
      done += bytesWritten;
    }
    this.hash.update(chunk);
    this.bytes += chunk.length;
  }

  async finish(): Promise<string> {
    await this.handle.sync();
    return this.hash.digest("hex");
  }

  async close(): Promise<void> {
    await this.handle.close();
  }
}

/**
 * Fetches a file to `path`, by way of `path.incomplete`, which a later run resumes. Throws `HubIntegrityError`
 * for a wrong length or hash (the partial file is removed), `HubNetworkError` when the connection does not come back (it is kept).
 */
export async function fetchFile(
  file: HubFile,
  path: string,
  transport: Transport,
  onBytes: (bytes: number) => void,
): Promise<void> {
  await mkdir(dirname(path), { recursive: true });
  const incomplete = `${path}.incomplete`;
  const unlock = await lock(`${incomplete}.lock`, transport.signal);
  try {
    if ((await fileSize(path)) === file.bytes) return; // another process has just brought it
    await fetchPartial(file, incomplete, transport, onBytes);
    await rename(incomplete, path);
  } catch (error) {
    if (error instanceof HubIntegrityError) await rm(incomplete, { force: true });
    throw fileError(error, incomplete);
  } finally {
    await unlock();
  }
}

async function fetchPartial(
  file: HubFile,
  incomplete: string,
  transport: Transport,
  onBytes: (bytes: number) => void,
): Promise<void> {
  const partial = await Partial.open(incomplete, file);
  const resumed = partial.bytes > 0;
  try {
    for (let again = resumed; ; again = false) {
      onBytes(partial.bytes);
      await persist(file.name, transport, async (progress) => {
        if (partial.bytes < file.bytes) await transfer(file, partial, transport, progress, onBytes);
      });
      const hash = await partial.finish();
      if (hash === file.hash) return;
      // What an earlier run left may have been wrong: once more, from the start.
      if (!again)
        throw new HubIntegrityError(
          `${file.name}: its hash is ${hash}, the hub says ${file.hash}; it was thrown away, try again`,
        );
      await partial.restart();
    }
  } finally {
    await partial.close();
  }
}

/** One connection: from the end of the partial file to the end of the file. */
async function transfer(
  file: HubFile,
  partial: Partial,
  transport: Transport,
  progress: () => void,
  onBytes: (bytes: number) => void,
): Promise<void> {
  const dog = watchdog(transport.stallMs, transport.signal);
  try {
    const start = partial.bytes;
    const response = await get(file.url, start > 0 ? { range: `bytes=${start}-` } : {}, transport, dog.signal);
    if (response.status === 416) {
      await response.body?.cancel();
      await partial.restart();
      throw new Retry("the server refused to continue");
    }
    await checkStatus(response, file.name);
    if (response.status === 206 && start > 0) checkContinuation(response, file, start);
    else if (response.status !== 200)
      throw new HubError(`${file.name}: HTTP ${response.status} where the whole file was asked for`);
    else if (start > 0) await partial.restart(); // a server that ignores Range starts over
    const length = response.headers.get("content-length");
    if (length !== null && Number(length) !== file.bytes - partial.bytes) {
      await response.body?.cancel();
      throw new HubIntegrityError(
        `${file.name}: the server sends ${length} bytes, the hub says ${file.bytes - partial.bytes}`,
      );
    }
    await eachChunk(response, dog, async (chunk) => {
      if (partial.bytes + chunk.length > file.bytes)
        throw new HubIntegrityError(
          `${file.name}: the server sends more than the ${file.bytes} bytes that the hub says`,
        );
      await partial.append(chunk);
      progress();
      onBytes(partial.bytes);
    });
    if (partial.bytes < file.bytes)
      throw new Retry(`the connection ended after ${partial.bytes} of ${file.bytes} bytes`);
  } finally {
    dog.stop();
  }
}

function checkContinuation(response: Response, file: HubFile, start: number): void {
  const range = response.headers.get("content-range") ?? "";
  const [, from, , total] = /^bytes (\d+)-(\d+)\/(\d+|\*)$/.exec(range) ?? [];
  if (Number(from) !== start || (total !== "*" && Number(total) !== file.bytes)) {
    throw new HubIntegrityError(
      `${file.name}: bytes from ${start} of ${file.bytes} were asked for, the server sends ${quote(range)}`,
    );
  }
}

const LOCK_MS = 2000;

/** Keeps two processes from writing one file. Whoever holds the lock touches it now and then; one that is not touched is nobody's. */
async function lock(path: string, signal: AbortSignal | undefined): Promise<() => Promise<void>> {
  for (;;) {
    const handle = await open(path, "wx").catch((error: unknown) => {
      if (error instanceof Error && "code" in error && error.code === "EEXIST") return null;
      throw fileError(error, path);
    });
    if (handle) {
      await handle.close();
      const timer = setInterval(() => void utimes(path, new Date(), new Date()).catch(() => undefined), LOCK_MS);
      timer.unref();
      return async () => {
        clearInterval(timer);
        await rm(path, { force: true });
      };
    }
    const age = await stat(path).then(
      (stats) => Date.now() - stats.mtimeMs,
      () => 0,
    );
    if (age > 5 * LOCK_MS) await rm(path, { force: true });
    else await delay(200, undefined, signal ? { signal } : {});
  }
}
