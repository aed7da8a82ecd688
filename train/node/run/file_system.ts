/**
 * The few file operations that run folders use, as an interface: tests replace it with a file system that records,
 * fails or crashes. Each operation is one that the system does at once or not at all, save `write`; a write or a name
 * is durable through a power failure once `sync` (a file's bytes) and `syncFolder` (the names in a folder) has
 * returned.
 */
import { constants } from "node:fs";
import { lstat, mkdir, open, readdir, rename, rmdir, unlink } from "node:fs/promises";
import { join } from "node:path";
import type { RandomAccess } from "../../../model/io/bytes.ts";
import { FileError, fileError, freeBytes, openFile } from "../../../model/node/files.ts";

/** `other`: links, sockets and the like. */
export type EntryKind = "file" | "folder" | "other";

export interface Entry {
  readonly name: string;
  readonly kind: EntryKind;
}

/** A new file that is being written. */
export interface OutputFile {
  /** Appends all of `bytes`. */
  write(bytes: Uint8Array): Promise<void>;
  sync(): Promise<void>;
  close(): Promise<void>;
}

/** All of them throw `FileError` with the system's code. */
export interface FileSystem {
  /** A folder that must not exist yet, in one that does. */
  makeFolder(path: string): Promise<void>;
  /** A file that must not exist yet. */
  create(path: string): Promise<OutputFile>;
  syncFolder(path: string): Promise<void>;
  /** A folder replaces an empty folder, never a full one. */
  rename(from: string, to: string): Promise<void>;
  removeFile(path: string): Promise<void>;
  /** An empty one. */
  removeFolder(path: string): Promise<void>;
  list(path: string): Promise<Entry[]>;
  open(path: string): Promise<RandomAccess>;
  /** Null if there is nothing. Links are not followed. */
  kind(path: string): Promise<EntryKind | null>;
  /** Bytes that this user may still write to the disk of a folder. */
  freeBytes(folder: string): Promise<number>;
}

async function named<T>(path: string, work: Promise<T>): Promise<T> {
  try {
    return await work;
  } catch (error) {
    throw fileError(error, path);
  }
}

const kindOf = (entry: { isFile(): boolean; isDirectory(): boolean }): EntryKind =>
  entry.isFile() ? "file" : entry.isDirectory() ? "folder" : "other";

/** Systems and mounts that cannot sync a folder say so by these; Windows cannot even open one. */
const CANNOT_SYNC = ["EINVAL", "ENOTSUP"];

/** The files of this machine. */
export const nodeFileSystem: FileSystem = {
  makeFolder: async (path) => {
    await named(path, mkdir(path));
  },
  create: async (path) => {
    const handle = await named(path, open(path, "wx"));
    return {
      write: async (bytes) => {
        for (let done = 0; done < bytes.length;) {
          const { bytesWritten } = await named(path, handle.write(bytes, done, bytes.length - done));
          if (bytesWritten === 0) throw new FileError(`${path} takes no more bytes`, "EIO");
          done += bytesWritten;
        }
      },
      sync: () => named(path, handle.sync()),
      close: () => named(path, handle.close()),
    };
  },
  syncFolder: async (path) => {
    if (process.platform === "win32") return;
    const handle = await named(path, open(path, constants.O_RDONLY));
    try {
      await handle.sync();
    } catch (error) {
      const code = error instanceof Error && "code" in error ? String(error.code) : "";
      if (!CANNOT_SYNC.includes(code)) throw fileError(error, path);
    } finally {
      await handle.close();
    }
  },
  rename: (from, to) => named(from, rename(from, to)),
  removeFile: (path) => named(path, unlink(path)),
  removeFolder: (path) => named(path, rmdir(path)),
  list: async (path) => {
    const entries = await named(path, readdir(path, { withFileTypes: true }));
    return entries.map((entry) => ({ name: entry.name, kind: kindOf(entry) }));
  },
  open: (path) => openFile(path),
  kind: async (path) => {
    try {
      return kindOf(await lstat(path));
    } catch (error) {
      const code = error instanceof Error && "code" in error ? error.code : null;
      if (code === "ENOENT" || code === "ENOTDIR") return null;
      throw fileError(error, path);
    }
  },
  freeBytes,
};

/** Removes a folder and all in it, following no links. */
export async function removeTree(files: FileSystem, path: string): Promise<void> {
  for (const { name, kind } of await files.list(path)) {
    const entry = join(path, name);
    await (kind === "folder" ? removeTree(files, entry) : files.removeFile(entry));
  }
  await files.removeFolder(path);
}

/** Writes a new file as a whole, and fsyncs it. */
export async function writeSynced(
  files: FileSystem,
  path: string,
  write: (file: OutputFile) => Promise<void>,
): Promise<void> {
  const file = await files.create(path);
  let isWritten = false;
  try {
    await write(file);
    await file.sync();
    isWritten = true;
  } finally {
    // The first error is the one that counts.
    await file.close().catch((error: unknown) => {
      if (isWritten) throw error;
    });
  }
}

/** Makes a folder with those above it, and fsyncs the parents, so that their names are durable. */
export async function makeFolders(files: FileSystem, path: string, parentOf: (path: string) => string): Promise<void> {
  if ((await files.kind(path)) !== null) return;
  const parent = parentOf(path);
  await makeFolders(files, parent, parentOf);
  await files.makeFolder(path).catch(async (error: unknown) => {
    // Somebody else was quicker.
    if (!(error instanceof FileError && error.code === "EEXIST")) throw error;
  });
  await files.syncFolder(parent);
}
