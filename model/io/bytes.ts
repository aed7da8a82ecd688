/**
 * Sources and sinks of a checkpoint's bytes: small interfaces that files, blobs and memory all fit, so that the readers
 * run unchanged in Node and in browsers. The files of Node are in `model/node/files.ts`.
 */
import { CheckpointError, quote } from "./errors.ts";

/** Random access to the bytes of one file. */
export interface RandomAccess {
  /** For messages. */
  readonly name: string;
  readonly size: number;
  /** Exactly `length` bytes from `offset`; in the front of `into` if that is given. Throws `CheckpointError` if they are not there. */
  read(offset: number, length: number, into?: Uint8Array): Promise<Uint8Array>;
  close?(): Promise<void>;
}

/** A folder of files. */
export interface FileSource {
  /** For messages. */
  readonly name: string;
  list(): Promise<string[]>;
  open(name: string): Promise<RandomAccess>;
}

export interface ByteSink {
  write(bytes: Uint8Array): Promise<void>;
}

/** A folder to write files to. */
export interface FolderSink {
  write(name: string, content: Uint8Array | ((sink: ByteSink) => Promise<void>)): Promise<void>;
}

/** Throws unless the range lies within the file. */
export function checkRange(file: RandomAccess, offset: number, length: number): void {
  if (
    !Number.isSafeInteger(offset) ||
    !Number.isSafeInteger(length) ||
    offset < 0 ||
    length < 0 ||
    offset + length > file.size
  ) {
    throw new CheckpointError(
      `${file.name}: the file ends early: it has ${file.size} bytes, ${length} are needed at ${offset}. Load it again`,
    );
  }
}

/** A file in memory. What `read` returns are views, not copies, unless `into` is given. */
export function bytesFile(name: string, bytes: Uint8Array): RandomAccess {
  const file: RandomAccess = {
    name,
    size: bytes.length,
    read: async (offset, length, into) => {
      checkRange(file, offset, length);
      const view = bytes.subarray(offset, offset + length);
      if (!into) return view;
      into.set(view);
      return into.subarray(0, length);
    },
  };
  return file;
}

/** Bytes of a Blob that are copied at a time. Its stream would need one buffer only, but in Chromium reads of small slices into a buffer never end. */
const BLOB_BYTES = 2 ** 20;

/** A `Blob` or a `File` of a browser. */
export function blobFile(name: string, blob: Blob): RandomAccess {
  const piece = async (at: number, bytes: number): Promise<Uint8Array> =>
    new Uint8Array(await blob.slice(at, at + bytes).arrayBuffer());
  const file: RandomAccess = {
    name,
    size: blob.size,
    read: async (offset, length, into) => {
      checkRange(file, offset, length);
      if (!into) return new Uint8Array(await blob.slice(offset, offset + length).arrayBuffer());
      for (let at = 0; at < length; at += BLOB_BYTES)
        into.set(await piece(offset + at, Math.min(BLOB_BYTES, length - at)), at);
      return into.subarray(0, length);
    },
  };
  return file;
}

/** Bytes of the buffer that a stream is read into. */
const PIECE_BYTES = 2 ** 18;

/**
 * Calls `use` with the pieces of a stream in order; a piece may change after that. All lie in one buffer if the runtime can read into one: pieces that
 * only the garbage collector frees would pile up to 100 MB.
 * @param broken makes the error to throw of one of the stream
 */
export async function eachPiece(
  stream: ReadableStream<Uint8Array>,
  use: (piece: Uint8Array) => Promise<void>,
  broken = (error: unknown): unknown => error,
): Promise<void> {
  const into = readerInto(stream);
  const plain = into ? null : stream.getReader();
  let buffer = new ArrayBuffer(into ? PIECE_BYTES : 0);
  try {
    for (;;) {
      const { done, value } = await (plain ? plain.read() : into!.read(new Uint8Array(buffer))).catch(
        (error: unknown) => {
          throw broken(error);
        },
      );
      if (done || !value) return;
      await use(value);
      if (into) buffer = value.buffer as ArrayBuffer;
    }
  } finally {
    const reader = (into ?? plain)!;
    await reader.cancel().catch(() => undefined);
    reader.releaseLock();
  }
}

/** Null for a stream that cannot be read into a buffer of the caller. */
function readerInto(stream: ReadableStream<Uint8Array>): ReadableStreamBYOBReader | null {
  try {
    return stream.getReader({ mode: "byob" });
  } catch {
    return null;
  }
}

/** Files by name: in memory, or those that a person chose in a browser. */
export function fileSet(name: string, files: ReadonlyMap<string, Uint8Array | Blob>): FileSource {
  return {
    name,
    list: async () => [...files.keys()],
    open: async (file) => {
      const content = files.get(file);
      if (!content) throw new CheckpointError(`${name}: there is no file ${quote(file)}`);
      return content instanceof Uint8Array
        ? bytesFile(`${name}/${file}`, content)
        : blobFile(`${name}/${file}`, content);
    },
  };
}

/** The whole of a small file. Throws when it is longer than `limit`. */
export async function readWhole(file: RandomAccess, limit: number): Promise<Uint8Array> {
  if (file.size > limit) throw new CheckpointError(`${file.name} has ${file.size} bytes; at most ${limit} are read`);
  return file.read(0, file.size);
}
