/** Files of Node for the checkpoint readers: random access, folders, and atomic writes. */
import { constants } from "node:fs";
import { link, mkdir, open, readdir, rename, rm, rmdir, stat, statfs } from "node:fs/promises";
import type { FileHandle } from "node:fs/promises";
import { basename, dirname, join, resolve } from "node:path";
import { checkRange } from "../io/bytes.ts";
import type { ByteSink, FileSource, FolderSink, RandomAccess } from "../io/bytes.ts";
import { IoError, quote } from "../io/errors.ts";

/** A file or folder that cannot be read or written: absent, not allowed, no room. */
export class FileError extends IoError {
  /** Error code of the system: ENOENT, EACCES, ENOSPC, … */
  readonly code: string;
  constructor(message: string, code: string, cause?: unknown) {
    super(message);
    this.code = code;
    this.cause = cause;
  }
}

const REASONS: Readonly<Record<string, string>> = {
  ENOENT: "does not exist",
  EACCES: "may not be read or written by this user",
  EPERM: "may not be changed by this user",
  ENOTDIR: "is not a folder",
  EISDIR: "is a folder, not a file",
  ENOSPC: "cannot be written: the disk is full",
  EDQUOT: "cannot be written: the disk quota is used up",
  EROFS: "cannot be written: the file system is read-only",
  EEXIST: "exists already; name another one",
  EMFILE: "cannot be opened: too many files are open (ulimit -n)",
  ENFILE: "cannot be opened: too many files are open on this machine",
  ENOMEM: "cannot be read: there is no memory left",
};

/** An error of the file system as one of ours; others pass unchanged. */
export function fileError(error: unknown, path: string): unknown {
  if (!(error instanceof Error) || !("errno" in error) || !("code" in error) || typeof error.code !== "string")
    return error;
  return new FileError(`${path} ${REASONS[error.code] ?? `cannot be used (${error.message})`}`, error.code, error);
}

/** A shortage of this machine, independent of the file: a trainer must not quarantine the file because of it. */
const SHORT = new Set(["EMFILE", "ENFILE", "ENOMEM"]);

/** Returns the error if a file could not be read because of a shortage of the machine; undefined if the file itself is at fault. */
export function shortage(error: unknown, path: string): FileError | undefined {
  const found = fileError(error, path);
  return found instanceof FileError && SHORT.has(found.code) ? found : undefined;
}

async function named<T>(path: string, work: Promise<T>): Promise<T> {
  try {
    return await work;
  } catch (error) {
    throw fileError(error, path);
  }
}

/** Without waiting for the other end of a pipe: that is refused below, as no file. */
const READ = constants.O_RDONLY | (constants.O_NONBLOCK ?? 0);

/** Opens a file for reading anywhere in it. */
export async function openFile(path: string, name = path): Promise<RandomAccess> {
  const handle = await named(path, open(path, READ));
  try {
    const stats = await handle.stat();
    if (!stats.isFile()) throw new FileError(`${path} is not a file`, "EISDIR");
    const file: RandomAccess = {
      name,
      size: stats.size,
      read: async (offset, length, into) => {
        checkRange(file, offset, length);
        const out = into ? into.subarray(0, length) : new Uint8Array(length);
        for (let done = 0; done < length;) {
          const { bytesRead } = await named(path, handle.read(out, done, length - done, offset + done));
          if (bytesRead === 0) throw new FileError(`${path} has become shorter while it was read`, "EIO");
          done += bytesRead;
        }
        return out;
      },
      close: () => handle.close(),
    };
    return file;
  } catch (error) {
    await handle.close();
    throw error;
  }
}

/** The files directly in a folder, links to files included. */
export function folderSource(path: string): FileSource {
  return {
    name: path,
    list: async () => {
      const entries = await named(path, readdir(path, { withFileTypes: true }));
      return entries
        .filter((entry) => entry.isFile() || entry.isSymbolicLink())
        .map((entry) => entry.name)
        .sort();
    },
    open: (name) => {
      if (name !== basename(name) || name === "..")
        throw new FileError(`${quote(name)} is not the name of a file in ${path}`, "EINVAL");
      return openFile(join(path, name));
    },
  };
}

async function writeAll(handle: FileHandle, path: string, bytes: Uint8Array): Promise<void> {
  for (let done = 0; done < bytes.length;) {
    const { bytesWritten } = await named(path, handle.write(bytes, done, bytes.length - done));
    done += bytesWritten;
  }
}

/** Makes a rename durable. Some systems cannot sync a folder; they keep the order by themselves. */
async function syncFolder(path: string): Promise<void> {
  try {
    const handle = await open(path, constants.O_RDONLY);
    try {
      await handle.sync();
    } finally {
      await handle.close();
    }
  } catch {
    // Windows
  }
}

let count = 0;
const temporaryName = (path: string): string =>
  join(dirname(resolve(path)), `.${basename(path)}.${process.pid}-${++count}.tmp`);

/** @param shown the path in messages, if the file has another name while it is written */
async function writeSynced(path: string, write: (sink: ByteSink) => Promise<void>, shown = path): Promise<void> {
  const handle = await named(shown, open(path, "wx"));
  try {
    await write({ write: (bytes) => writeAll(handle, shown, bytes) });
    await named(shown, handle.sync());
  } finally {
    await handle.close();
  }
}

/** Writes a file at once: whoever looks finds the old content or the whole new one. Nothing stays behind when `write` fails. */
export async function writeFileAtomic(
  path: string,
  write: Uint8Array | ((sink: ByteSink) => Promise<void>),
): Promise<void> {
  await throughTemporary(path, write, (temporary) => rename(temporary, path));
}

/** The same for a file that must not exist yet, even with two concurrent writers: returns false, and writes nothing, if it exists. */
export async function writeNewFile(
  path: string,
  write: Uint8Array | ((sink: ByteSink) => Promise<void>),
): Promise<boolean> {
  try {
    await throughTemporary(path, write, async (temporary) => {
      try {
        await link(temporary, path);
      } catch (error) {
        // Disks without hard links (FAT, some network ones): not safe from a writer at the same moment, but no worse than looking first.
        const code = error instanceof Error && "code" in error ? error.code : "";
        if (code === "EEXIST" || (await fileSize(path)) !== null) throw error;
        await rename(temporary, path);
      }
      await rm(temporary, { force: true });
    });
    return true;
  } catch (error) {
    if (error instanceof FileError && error.code === "EEXIST") return false;
    throw error;
  }
}

async function throughTemporary(
  path: string,
  write: Uint8Array | ((sink: ByteSink) => Promise<void>),
  place: (temporary: string) => Promise<void>,
): Promise<void> {
  const temporary = temporaryName(path);
  try {
    await writeSynced(temporary, write instanceof Uint8Array ? (sink) => sink.write(write) : write, path);
    await named(path, place(temporary));
  } catch (error) {
    await rm(temporary, { force: true });
    throw error;
  }
  await syncFolder(dirname(resolve(path)));
}

/**
 * Fills a folder that must not exist yet, or be empty: written beside it, synced, then renamed. Nothing remains if
 * `fill` fails. `bytes` is what it will take; throws `FileError` at once when the disk has less.
 */
export async function writeFolderAtomic(
  path: string,
  bytes: number,
  fill: (sink: FolderSink) => Promise<void>,
): Promise<void> {
  const parent = dirname(resolve(path));
  await requireNewFolder(path);
  await named(parent, mkdir(parent, { recursive: true }));
  await requireRoom(parent, bytes, path);
  const temporary = temporaryName(path);
  await named(temporary, mkdir(temporary));
  try {
    await fill({
      write: (name, write) =>
        writeSynced(join(temporary, name), write instanceof Uint8Array ? (sink) => sink.write(write) : write),
    });
    await syncFolder(temporary);
    await rmdir(path).catch(() => undefined); // an empty one; a full one stays, and the rename says so
    await named(path, rename(temporary, path));
  } catch (error) {
    await rm(temporary, { recursive: true, force: true });
    throw error;
  }
  await syncFolder(parent);
}

/** Throws `FileError` (EEXIST) when there is something in the folder already. */
export async function requireNewFolder(path: string): Promise<void> {
  const entries = await readdir(path).catch((error: unknown) => {
    if (error instanceof Error && "code" in error && error.code === "ENOENT") return [];
    throw fileError(error, path);
  });
  if (entries.length) throw new FileError(`${path} exists and is not empty; name a new folder`, "EEXIST");
}

/** Bytes that this user may still write to the disk of `folder`; infinite if the file system does not report them (some network ones). */
export async function freeBytes(folder: string): Promise<number> {
  const { blocks, bavail, bsize } = await named(folder, statfs(folder));
  return blocks === 0 ? Infinity : bavail * bsize;
}

/** Throws `FileError` (ENOSPC) when the disk of `folder` has less than `bytes` free. */
export async function requireRoom(folder: string, bytes: number, path = folder, free = freeBytes): Promise<void> {
  const has = await free(folder);
  if (has < bytes) {
    throw new FileError(
      `${path} needs ${gigabytes(bytes)}, its disk has ${gigabytes(has)} free; make room or name another folder`,
      "ENOSPC",
    );
  }
}

const gigabytes = (bytes: number): string => `${(bytes / 1e9).toFixed(2)} GB`;

export async function fileSize(path: string): Promise<number | null> {
  return stat(path).then(
    (stats) => (stats.isFile() ? stats.size : null),
    () => null,
  );
}
