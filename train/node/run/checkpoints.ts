/**
 * Read-only access to the checkpoints of a run folder: lists them, verifies them, and finds the newest valid one. It
 * needs no lock, so that a person may look at a run while it trains.
 */
import { createHash } from "node:crypto";
import { join } from "node:path";
import { readWhole } from "../../../model/io/bytes.ts";
import type { RandomAccess } from "../../../model/io/bytes.ts";
import { nodeFileSystem } from "./file_system.ts";
import type { FileSystem } from "./file_system.ts";
import { MANIFEST, MAX_MANIFEST, parseManifest, requireStep, stepName, stepOf } from "./manifest.ts";
import type { Manifest, ManifestEntry } from "./manifest.ts";
import { messageOf } from "../../../engine/errors.ts";

const CHUNK_BYTES = 4 * 2 ** 20;

export interface Verdict {
  readonly step: number;
  /** Path of the checkpoint's folder. */
  readonly path: string;
  readonly verified: boolean;
  /** Problems, one line each. */
  readonly problems: readonly string[];
  /** Bytes of all files by the manifest, without the manifest itself; 0 if that cannot be read. */
  readonly bytes: number;
  readonly files: number;
}

export interface VerifyOptions {
  /** If false, only the manifest and the sizes are checked, not the bytes. */
  readonly hashes?: boolean;
  readonly onProgress?: (done: { step: number; bytes: number; totalBytes: number }) => void;
  readonly signal?: AbortSignal;
}

/** The checkpoints of a run folder, read only: needs no lock, so that a person may look at a run while it trains. */
export class Checkpoints {
  /** Path of the run folder. */
  readonly path: string;
  protected readonly fileSystem: FileSystem;

  constructor(path: string, fileSystem: FileSystem = nodeFileSystem) {
    this.path = path;
    this.fileSystem = fileSystem;
  }

  /** The steps that have a folder, whole or not, in ascending order. */
  async list(): Promise<number[]> {
    const entries = await this.fileSystem.list(this.path);
    const steps = entries.map(({ name, kind }) => (kind === "folder" ? stepOf(name) : null));
    return steps.filter((step) => step !== null).sort((a, b) => a - b);
  }

  /** The folder of a step. */
  folder(step: number): string {
    return join(this.path, stepName(requireStep(step)));
  }

  /**
   * Whether a checkpoint is whole: its manifest is there, and every file in it has its size and its sha256. Files that the manifest does not
   * name are no problem (file managers leave some). What cannot be read is a problem, not an error.
   */
  async verify(step: number, options: VerifyOptions = {}): Promise<Verdict> {
    const path = this.folder(step);
    const problems: string[] = [];
    let manifest: Manifest | null = null;
    try {
      manifest = await this.manifest(step);
      if (manifest.step !== step) problems.push(`${MANIFEST} is of step ${manifest.step}`);
    } catch (error) {
      problems.push(messageOf(error));
    }
    const files = manifest?.files ?? new Map<string, ManifestEntry>();
    const totalBytes = [...files.values()].reduce((sum, file) => sum + file.bytes, 0);
    let bytes = 0;
    const read = (count: number): void => {
      bytes += count;
      options.onProgress?.({ step, bytes, totalBytes });
    };
    for (const [name, entry] of files) {
      options.signal?.throwIfAborted();
      const problem = await this.fileProblem(join(path, name), entry, options, read);
      if (problem) problems.push(`${name}: ${problem}`);
    }
    return { step, path, verified: problems.length === 0, problems, bytes: totalBytes, files: files.size };
  }

  /** Searches from the newest checkpoint back to a valid one; `skipped` has the problems of the others. */
  async newestVerified(options: VerifyOptions = {}): Promise<{ newest: Verdict | null; skipped: Verdict[] }> {
    const skipped: Verdict[] = [];
    for (const step of (await this.list()).reverse()) {
      const verdict = await this.verify(step, options);
      if (verdict.verified) return { newest: verdict, skipped };
      skipped.push(verdict);
    }
    return { newest: null, skipped };
  }

  /** Reads the manifest. Throws `FileError`, `JsonError` or `RunFolderError` if it is missing or cannot be read. */
  async manifest(step: number): Promise<Manifest> {
    const path = join(this.folder(step), MANIFEST);
    const file = await this.fileSystem.open(path);
    try {
      return parseManifest(await readWhole(file, MAX_MANIFEST), path);
    } finally {
      await file.close?.();
    }
  }

  private async fileProblem(
    path: string,
    { bytes, sha256 }: ManifestEntry,
    { hashes = true, signal }: VerifyOptions,
    onRead: (bytes: number) => void,
  ): Promise<string | null> {
    let file: RandomAccess;
    try {
      file = await this.fileSystem.open(path);
    } catch (error) {
      return messageOf(error);
    }
    try {
      if (file.size !== bytes) return `${file.size} bytes, the manifest says ${bytes}`;
      if (!hashes) return null;
      const found = await hashOf(file, onRead, signal);
      return found === sha256 ? null : `sha256 ${found}, the manifest says ${sha256}`;
    } catch (error) {
      if (signal?.aborted) throw error;
      return messageOf(error);
    } finally {
      await file.close?.();
    }
  }
}

/** sha256 of a file in hex. The next piece is read while one is hashed. */
async function hashOf(file: RandomAccess, onRead: (bytes: number) => void, signal?: AbortSignal): Promise<string> {
  const hash = createHash("sha256");
  const buffers = [0, 1].map(() => new Uint8Array(Math.min(CHUNK_BYTES, file.size)));
  const read = (at: number): Promise<Uint8Array> => {
    const chunk = file.read(at, Math.min(CHUNK_BYTES, file.size - at), buffers[(at / CHUNK_BYTES) % 2]!);
    chunk.catch(() => undefined); // the error surfaces when it is awaited
    return chunk;
  };
  let next = read(0);
  for (let at = 0; at < file.size; at += CHUNK_BYTES) {
    const chunk = await next;
    if (at + CHUNK_BYTES < file.size) next = read(at + CHUNK_BYTES);
    hash.update(chunk);
    onRead(chunk.length);
    if (signal?.aborted) {
      await next.catch(() => undefined); // the file must not be closed during the read
      signal.throwIfAborted();
    }
  }
  return hash.digest("hex");
}
