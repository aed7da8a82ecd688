/**
 * Models that the browser keeps for this site, in its origin private file system (OPFS): contents by their hash, in parts of 16 MiB, and a manifest
 * for each model. A part appears when it is whole, so that a download that was broken off, by whatever, resumes behind the last one.
 */
import { sha1 } from "@noble/hashes/legacy.js";
import { sha256 } from "@noble/hashes/sha2.js";
import { bytesToHex } from "@noble/hashes/utils.js";
import { messageOf } from "../../engine/errors.ts";
import { blobFile } from "../io/bytes.ts";
import type { FileSource } from "../io/bytes.ts";
import { CheckpointError, IoError, quote } from "../io/errors.ts";
import type { HubFile } from "../io/hub_listing.ts";

/** The browser's storage cannot be used, or has no room. */
export class StorageError extends IoError {}

/** A model that is kept, with all of its files. */
export interface StoredModel {
  readonly name: string;
  readonly revision: string;
  readonly commit: string;
  readonly bytes: number;
  readonly files: readonly StoredFile[];
}

type StoredFile = Pick<HubFile, "name" | "bytes" | "hash">;

const PART_BYTES = 16 * 2 ** 20;
/** Bytes of one call that writes: the browser copies them. */
const WRITE_BYTES = 2 ** 20;
/** Marks contents whose hash was checked. */
const WHOLE = "whole";
const ROOT = "janus-webgpu";

const partName = (index: number): string => String(index).padStart(6, "0");

async function directory(...path: readonly string[]): Promise<FileSystemDirectoryHandle> {
  const storage = (globalThis as { navigator?: Partial<Navigator> }).navigator?.storage;
  if (typeof storage?.getDirectory !== "function")
    throw new StorageError(
      "modelStorage: the runtime must have an origin private file system (a browser, over HTTPS or localhost); got none. Use Janus.fromFiles.",
    );
  try {
    let at = await storage.getDirectory();
    for (const name of [ROOT, ...path]) at = await at.getDirectoryHandle(name, { create: true });
    return at;
  } catch (error) {
    throw new StorageError(
      `modelStorage: the browser must give this site files; got: ${messageOf(error)}. Leave private browsing, or use Janus.fromFiles.`,
    );
  }
}

/** The folder of a file's contents; null if none of them are stored. */
async function contentsFolder(hash: string): Promise<FileSystemDirectoryHandle | null> {
  return (await directory("blobs")).getDirectoryHandle(hash).catch(() => null);
}

/** The entries of a folder. */
async function entriesOf(folder: FileSystemDirectoryHandle): Promise<Map<string, FileSystemHandle>> {
  const entries = new Map<string, FileSystemHandle>();
  for await (const [name, handle] of folder as unknown as AsyncIterable<[string, FileSystemHandle]>)
    // lib.dom lacks it
    entries.set(name, handle);
  return entries;
}

async function fileAt(folder: FileSystemDirectoryHandle, name: string): Promise<File | null> {
  try {
    return await (await folder.getFileHandle(name)).getFile();
  } catch (error) {
    if (error instanceof DOMException && error.name === "NotFoundError") return null;
    throw error;
  }
}

/** Writes a file whole or not at all. Throws `StorageError` if the browser has no room. */
async function writeFile(
  folder: FileSystemDirectoryHandle,
  name: string,
  content: readonly (Uint8Array | string)[],
): Promise<void> {
  try {
    const handle = await folder.getFileHandle(name, { create: true });
    const writable = await handle.createWritable();
    for (const piece of content) {
      if (typeof piece === "string") await writable.write(piece);
      else
        for (let at = 0; at < piece.length; at += WRITE_BYTES)
          await writable.write(piece.subarray(at, at + WRITE_BYTES) as FileSystemWriteChunkType);
    }
    await writable.close();
  } catch (error) {
    await folder.removeEntry(name).catch(() => undefined);
    throw new StorageError(
      `modelStorage: the browser must store ${quote(name)}; got: ${messageOf(error)}. Delete models with modelStorage.delete, or free the disk.`,
    );
  }
}

/** The contents of a file as far as they are stored, and their hash so far. */
export class PartialFile {
  private readonly file: StoredFile;
  private readonly folder: FileSystemDirectoryHandle;
  private readonly hash: { update(bytes: Uint8Array): unknown; digest(): Uint8Array };
  private parts: number;
  /** One buffer for all parts: pieces that are freed by the garbage collector alone would pile up. */
  private readonly pending: Uint8Array;
  private pendingBytes = 0;
  private storedBytes: number;

  private constructor(file: StoredFile, folder: FileSystemDirectoryHandle, parts: readonly File[]) {
    this.file = file;
    this.folder = folder;
    this.hash =
      file.hash.length === 64
        ? sha256.create()
        : sha1.create().update(new TextEncoder().encode(`blob ${file.bytes}\0`));
    this.parts = parts.length;
    this.pending = new Uint8Array(Math.min(PART_BYTES, file.bytes));
    this.storedBytes = parts.reduce((sum, { size }) => sum + size, 0);
  }

  /** Opens what an earlier download left; parts after a gap are not used. */
  static async open(file: StoredFile): Promise<PartialFile> {
    const folder = await directory("blobs", file.hash);
    const parts: File[] = [];
    for (;;) {
      const part = await fileAt(folder, partName(parts.length));
      if (!part || part.size !== PART_BYTES) break;
      parts.push(part);
    }
    const partial = new PartialFile(file, folder, parts);
    for (const part of parts) {
      await blobFile("a part", part).read(0, part.size, partial.pending);
      partial.hash.update(partial.pending);
    }
    return partial;
  }

  /** Bytes so far, those that wait in memory included. */
  get bytes(): number {
    return this.storedBytes + this.pendingBytes;
  }

  async append(bytes: Uint8Array): Promise<void> {
    for (let at = 0; at < bytes.length;) {
      const piece = bytes.subarray(at, at + PART_BYTES - this.pendingBytes);
      this.pending.set(piece, this.pendingBytes);
      this.pendingBytes += piece.length;
      at += piece.length;
      if (this.pendingBytes === PART_BYTES) await this.writePart();
    }
  }

  private async writePart(): Promise<void> {
    const part = this.pending.subarray(0, this.pendingBytes);
    this.hash.update(part);
    await writeFile(this.folder, partName(this.parts), [part]);
    this.parts++;
    this.storedBytes += this.pendingBytes;
    this.pendingBytes = 0;
  }

  /** Drops what waits in memory: the next connection begins behind the last stored part. */
  dropPending(): void {
    this.pendingBytes = 0;
  }

  /** Checks the hash and marks the contents as whole. Returns the hash; if it is not the file's, the contents are removed. */
  async finish(): Promise<string> {
    if (this.pendingBytes) await this.writePart();
    const hash = bytesToHex(this.hash.digest());
    if (hash === this.file.hash) await writeFile(this.folder, WHOLE, [String(this.file.bytes)]);
    else await removeContents(this.file.hash);
    return hash;
  }
}

/** The contents of a file; null if they are not stored whole. The parts stay on disk until they are read. */
export async function storedContents({ hash, bytes }: StoredFile): Promise<Blob | null> {
  const folder = await contentsFolder(hash);
  if (!folder || !(await fileAt(folder, WHOLE))) return null;
  const parts: File[] = [];
  for (let size = 0; size < bytes;) {
    const part = await fileAt(folder, partName(parts.length));
    if (!part) return null;
    parts.push(part);
    size += part.size;
  }
  const blob = new Blob(parts);
  return blob.size === bytes ? blob : null;
}

/** Bytes of a file that are stored already. */
export async function storedBytes({ hash }: StoredFile): Promise<number> {
  const folder = await contentsFolder(hash);
  let bytes = 0;
  if (!folder) return 0;
  for (const [name, handle] of await entriesOf(folder))
    if (name !== WHOLE) bytes += (await (handle as FileSystemFileHandle).getFile()).size;
  return bytes;
}

async function removeContents(hash: string): Promise<void> {
  await (await directory("blobs")).removeEntry(hash, { recursive: true }).catch(() => undefined);
}

const manifestName = (name: string, revision: string): string => `${encodeURIComponent(`${name}@${revision}`)}.json`;

/** Notes that a model is stored whole. */
export async function writeManifest(model: StoredModel): Promise<void> {
  await writeFile(await directory("models"), manifestName(model.name, model.revision), [JSON.stringify(model)]);
}

/** The manifest of a model, whose files are all stored; null if there is none. */
export async function readManifest(name: string, revision: string): Promise<StoredModel | null> {
  const file = await fileAt(await directory("models"), manifestName(name, revision));
  if (!file) return null;
  const model = JSON.parse(await file.text()) as StoredModel;
  for (const one of model.files) if (!(await storedContents(one))) return null;
  return model;
}

/** The files of a stored model. */
export async function storedSource({ name, files }: Pick<StoredModel, "name" | "files">): Promise<FileSource> {
  return {
    name,
    list: async () => files.map((file) => file.name),
    open: async (asked) => {
      const file = files.find((one) => one.name === asked);
      const contents = file && (await storedContents(file));
      if (!contents) throw new CheckpointError(`${name}: there is no file ${quote(asked)} in the browser's storage`);
      return blobFile(`${name}/${asked}`, contents);
    },
  };
}

async function list(): Promise<StoredModel[]> {
  const models: StoredModel[] = [];
  for (const [, handle] of await entriesOf(await directory("models")))
    models.push(JSON.parse(await (await (handle as FileSystemFileHandle).getFile()).text()) as StoredModel);
  return models.sort((a, b) => (a.name < b.name ? -1 : 1));
}

async function remove(name: string, revision?: string): Promise<boolean> {
  const folder = await directory("models");
  const all = await list();
  const gone = all.filter((model) => model.name === name && (revision === undefined || model.revision === revision));
  for (const model of gone) await folder.removeEntry(manifestName(model.name, model.revision));
  const used = new Set(all.filter((model) => !gone.includes(model)).flatMap(({ files }) => files.map((f) => f.hash)));
  for (const { hash } of gone.flatMap(({ files }) => files)) if (!used.has(hash)) await removeContents(hash);
  return gone.length > 0;
}

/** Removes contents that no model has: those of downloads that were never finished. */
async function removeUnfinished(): Promise<void> {
  const used = new Set((await list()).flatMap(({ files }) => files.map(({ hash }) => hash)));
  for (const hash of (await entriesOf(await directory("blobs"))).keys())
    if (!used.has(hash)) await removeContents(hash);
}

/** The models that `Janus.fromPretrained` has stored in this browser for this site. Its functions throw `StorageError` in other runtimes. */
export const modelStorage = {
  /** All stored models. */
  list,
  /** Removes a model, or one revision of it, with the files that no other model has. Resolves to false if there is none. */
  delete: remove,
  /** Removes what downloads that were not finished have left. */
  deleteUnfinished: removeUnfinished,
  /** Bytes that this site uses, and those that the browser lets it use. */
  async estimate(): Promise<{ readonly usedBytes: number; readonly quotaBytes: number }> {
    await directory();
    const { usage = 0, quota = 0 } = await navigator.storage.estimate();
    return { usedBytes: usage, quotaBytes: quota };
  },
} as const;
