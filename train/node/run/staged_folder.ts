/**
 * Writing one checkpoint: files go into a hidden folder, hashed during the write and synced; then the manifest; then
 * the rename. And pruning, which removes the name first. Each step is a separate function, so that tests can run them
 * in a wrong order; the right one is `RunFolder.save`.
 */
import { createHash, randomUUID } from "node:crypto";
import { join } from "node:path";
import { ArgumentError } from "../../../engine/errors.ts";
import type { ByteSink, FolderSink } from "../../../model/io/bytes.ts";
import { quote } from "../../../model/io/errors.ts";
import { removeTree, writeSynced } from "./file_system.ts";
import type { FileSystem } from "./file_system.ts";
import { MANIFEST, encodeManifest, pathProblem, stepName } from "./manifest.ts";
import type { ManifestEntry } from "./manifest.ts";

const SAVING = ".saving-";
const REMOVING = ".removing-";

/** True for a folder left by an interrupted save or pruning. */
export const isLeftover = (name: string): boolean => name.startsWith(SAVING) || name.startsWith(REMOVING);

const hidden = (run: string, prefix: string, step: number): string =>
  join(run, `${prefix}${stepName(step)}-${randomUUID().slice(0, 8)}`);

export class StagedFolder implements FolderSink {
  readonly step: number;
  /** Written files, by path in the folder. */
  readonly files = new Map<string, ManifestEntry>();
  private readonly fileSystem: FileSystem;
  private readonly run: string;
  /** Hidden, then with the step's name. */
  path: string;
  private isPublished = false;
  private readonly names = new Set<string>();
  private readonly folders = new Map<string, Promise<void>>();
  private writing = 0;
  private failure: { error: unknown } | null = null;

  /** @param path of a folder that another process has created, to write some of its files (default: one to `create`) */
  constructor(fileSystem: FileSystem, run: string, step: number, path = hidden(run, SAVING, step)) {
    this.fileSystem = fileSystem;
    this.run = run;
    this.step = step;
    this.path = path;
  }

  /** Takes over files that other processes have written. */
  adopt(files: Readonly<Record<string, ManifestEntry>>): void {
    for (const [name, entry] of Object.entries(files)) {
      this.names.add(name);
      this.files.set(name, entry);
    }
  }

  async create(): Promise<void> {
    await this.fileSystem.makeFolder(this.path);
  }

  /** Writes and syncs a file; folders in its name are made. Several may be written at a time. */
  async write(name: string, content: Uint8Array | ((sink: ByteSink) => Promise<void>)): Promise<void> {
    const problem = pathProblem(name);
    if (problem) throw new ArgumentError(`checkpoint of step ${this.step}: ${quote(name)} ${problem}`);
    if (this.names.has(name))
      throw new ArgumentError(
        `checkpoint of step ${this.step}: ${quote(name)} is written twice; give each file its name`,
      );
    this.names.add(name);
    this.writing++;
    try {
      await this.makeParents(name);
      this.files.set(name, await this.writeFile(name, content));
    } catch (error) {
      this.failure ??= { error };
      throw error;
    } finally {
      this.writing--;
    }
  }

  /** Fsyncs the folders below, so that their names are durable. Throws the error of a failed write, even if its caller caught it. */
  async syncFolders(): Promise<void> {
    if (this.writing)
      throw new ArgumentError(
        `checkpoint of step ${this.step}: ${this.writing} files are still being written; await every write before filling ends`,
      );
    if (this.failure) throw this.failure.error;
    const deepestFirst = [...this.folders.keys()].sort((a, b) => b.split("/").length - a.split("/").length);
    for (const folder of deepestFirst) await this.fileSystem.syncFolder(join(this.path, folder));
  }

  /** Writes the manifest of the files written so far, and fsyncs the folder. */
  async writeManifest(files: ReadonlyMap<string, ManifestEntry> = this.files): Promise<number> {
    const { bytes } = await this.writeFile(MANIFEST, encodeManifest({ step: this.step, files }));
    await this.fileSystem.syncFolder(this.path);
    return bytes;
  }

  /** Renames the folder into place and fsyncs the parent. */
  async publish(): Promise<string> {
    const path = join(this.run, stepName(this.step));
    await this.fileSystem.rename(this.path, path);
    this.path = path;
    this.isPublished = true;
    await this.fileSystem.syncFolder(this.run);
    return path;
  }

  /** Takes it all away again. */
  async discard(): Promise<void> {
    if ((await this.fileSystem.kind(this.path)) === null) return;
    if (this.isPublished) {
      this.path = await hide(this.fileSystem, this.run, this.step);
      await this.fileSystem.syncFolder(this.run).catch(() => undefined); // it may be what has failed before
    }
    await removeTree(this.fileSystem, this.path);
  }

  private async makeParents(name: string): Promise<void> {
    const parts = name.split("/").slice(0, -1);
    for (let depth = 1; depth <= parts.length; depth++) {
      const folder = parts.slice(0, depth).join("/");
      let made = this.folders.get(folder);
      if (!made) this.folders.set(folder, (made = this.fileSystem.makeFolder(join(this.path, folder))));
      await made;
    }
  }

  private async writeFile(
    name: string,
    content: Uint8Array | ((sink: ByteSink) => Promise<void>),
  ): Promise<ManifestEntry> {
    const hash = createHash("sha256");
    let bytes = 0;
    await writeSynced(this.fileSystem, join(this.path, name), async (file) => {
      const sink: ByteSink = {
        write: async (chunk) => {
          hash.update(chunk);
          bytes += chunk.length;
          await file.write(chunk);
        },
      };
      await (content instanceof Uint8Array ? sink.write(content) : content(sink));
    });
    return { bytes, sha256: hash.digest("hex") };
  }
}

/** Renames a checkpoint out of the way; returns its new path. Not yet durable. */
export async function hide(files: FileSystem, run: string, step: number): Promise<string> {
  const path = hidden(run, REMOVING, step);
  await files.rename(join(run, stepName(step)), path);
  return path;
}

/** Removes checkpoints: first the names, and only when that is durable the contents of the folders. A crash in between leaves none that looks whole. */
export async function prune(files: FileSystem, run: string, steps: readonly number[]): Promise<void> {
  const paths: string[] = [];
  for (const step of steps) paths.push(await hide(files, run, step));
  if (paths.length) await files.syncFolder(run);
  for (const path of paths) await removeTree(files, path);
}

export interface Keep {
  /** Number of newest checkpoints to keep; at least 1. */
  readonly last: number;
  /** Steps divisible by it are kept for good. */
  readonly every?: number;
}

export function requireKeep({ last, every }: Keep): void {
  const isCount = (n: number): boolean => Number.isSafeInteger(n) && n >= 1;
  if (!isCount(last)) throw new ArgumentError(`keep.last is ${last}; a whole number of at least 1`);
  if (every !== undefined && !isCount(every))
    throw new ArgumentError(`keep.every is ${every}; a whole number of at least 1`);
}

/**
 * Which of `steps` go once `saved` is on disk. Only what is older than it: newer ones come from a run that went further, and are not this
 * save's to judge. `whole` are those that count as kept; damaged ones do not push a whole one out.
 */
export function stepsToPrune(
  steps: readonly number[],
  whole: ReadonlySet<number>,
  saved: number,
  keep: Keep,
): number[] {
  const older = steps.filter((step) => step < saved).sort((a, b) => b - a);
  const kept = [saved, ...older.filter((step) => whole.has(step))];
  const oldestKept = kept[keep.last - 1] ?? -Infinity;
  return older.filter((step) => step < oldestKept && (keep.every === undefined || step % keep.every !== 0));
}
