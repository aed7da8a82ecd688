/** One file over HTTP to the disk: resumption by Range, and a check of length and hash before it counts as there. */
import { createHash } from "node:crypto";
import type { Hash } from "node:crypto";
import { createReadStream } from "node:fs";
import { mkdir, open, rename, rm, stat, utimes } from "node:fs/promises";
import type { FileHandle } from "node:fs/promises";
import { dirname } from "node:path";
import { setTimeout as delay } from "node:timers/promises";
import type { HubFile } from "../io/hub_listing.ts";
import { fileError, fileSize } from "./files.ts";
import { Retry, checkContentRange, eachChunk } from "../io/hub_body.ts";
import type { Transport } from "./hub_http.ts";
import { HubError, HubIntegrityError } from "./hub_settings.ts";

export type { HubFile } from "../io/hub_listing.ts";

const newHash = (file: HubFile): Hash =>
  file.hash.length === 64 ? createHash("sha256") : createHash("sha1").update(`blob ${file.bytes}\0`);

/** The part of an incomplete file that is on disk, and its hash so far. */
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

  /** Resumes the partial file of an earlier run, if it is not too long. */
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
      await transport.persist(file.name, async (progress) => {
        if (partial.bytes < file.bytes) await transfer(file, partial, transport, progress, onBytes);
      });
      const hash = await partial.finish();
      if (hash === file.hash) return;
      // What an earlier run left may have been wrong: once more, from the start.
      if (!again)
        throw new HubIntegrityError(
          `${file.name}: its hash is ${hash}, the hub says ${file.hash}; the file was removed, try again`,
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
  const start = partial.bytes;
  const range: Record<string, string> = start > 0 ? { range: `bytes=${start}-` } : {};
  await transport.request(file.url, { what: file.name, headers: range, pass: [416] }, async (response, alive) => {
    if (response.status === 416) {
      await partial.restart();
      throw new Retry("the server refused to continue");
    }
    if (response.status === 206 && start > 0) checkContentRange(response, file, start);
    else if (response.status !== 200)
      throw new HubError(`${file.name}: the whole file was requested, the server answers HTTP ${response.status}`);
    else if (start > 0) await partial.restart(); // a server that ignores Range starts over
    const length = response.headers.get("content-length");
    if (length !== null && Number(length) !== file.bytes - partial.bytes)
      throw new HubIntegrityError(
        `${file.name}: the server sends ${length} bytes, the hub says ${file.bytes - partial.bytes}`,
      );
    await eachChunk(response, async (chunk) => {
      if (partial.bytes + chunk.length > file.bytes)
        throw new HubIntegrityError(
          `${file.name}: the server sends more than the ${file.bytes} bytes that the hub says`,
        );
      await partial.append(chunk);
      alive();
      progress();
      onBytes(partial.bytes);
    });
    if (partial.bytes < file.bytes)
      throw new Retry(`the connection ended after ${partial.bytes} of ${file.bytes} bytes`);
  });
}

const LOCK_MS = 2000;

/** Prevents two processes from writing the same file. The holder touches the lock regularly; a lock that is not touched has no holder. */
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
