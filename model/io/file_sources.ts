/** Folders of files as programs have them: the files that a person chose, bytes by name, or a folder on a server. */
import { ArgumentError, messageOf } from "../../engine/errors.ts";
import { blobFile, checkRange, eachPiece, fileSet } from "./bytes.ts";
import type { FileSource, RandomAccess } from "./bytes.ts";
import { CheckpointError, IoError, quote } from "./errors.ts";
import { parseJsonObject } from "./json.ts";
import { isJsonObject } from "./json.ts";

/**
 * The files of a model: `File`s of one folder (an array or a `FileList`), bytes or Blobs by name, the address of a folder on a server, or a source of
 * your own.
 */
export type Files =
  | FileSource
  | Iterable<File>
  | ArrayLike<File>
  | ReadonlyMap<string, Uint8Array | Blob>
  | Readonly<Record<string, Uint8Array | Blob>>
  | URL
  | string;

/** The source of `files`. Throws `ArgumentError` for anything else, for files of several folders, and for two files of one name. */
export function fileSourceOf(op: string, files: Files): FileSource {
  if (typeof files === "string" || files instanceof URL) return urlSource(op, files);
  if (typeof files === "object" && files !== null) {
    if (isFileSource(files)) return files;
    if (files instanceof Map) return fileSet("the files", checkedFiles(op, [...files]));
    const list = listOf(files);
    if (list) return chosenFiles(op, list);
    if (!(files instanceof Blob) && !ArrayBuffer.isView(files))
      return fileSet("the files", checkedFiles(op, Object.entries(files)));
  }
  throw new ArgumentError(
    `${op}: ${FORMS}; got ${files instanceof Blob ? "one file" : typeof files}. Pass all files of the model.`,
  );
}

const FORMS =
  "files must be File objects, bytes or Blobs by name, the URL of a folder, or a source with list() and open()";

const isFileSource = (files: object): files is FileSource =>
  typeof (files as FileSource).open === "function" && typeof (files as FileSource).list === "function";

function listOf(files: object): unknown[] | null {
  if (Symbol.iterator in files) return [...(files as Iterable<unknown>)];
  return "length" in files ? Array.from(files as ArrayLike<unknown>) : null;
}

function checkedFiles(op: string, entries: readonly (readonly [unknown, unknown])[]): Map<string, Uint8Array | Blob> {
  if (entries.length === 0) throw new ArgumentError(`${op}: ${FORMS}; got no file. Pass all files of the model.`);
  for (const [name, content] of entries)
    if (typeof name !== "string" || !(content instanceof Uint8Array || content instanceof Blob))
      throw new ArgumentError(
        `${op}: each file must be a name with a Uint8Array or a Blob; got ${String(name)} with ${typeof content}. Read the file first.`,
      );
  return new Map(entries as readonly (readonly [string, Uint8Array | Blob])[]);
}

/** Files of an `<input type="file" multiple>`, or of one with `webkitdirectory`, which gives those of folders inside the chosen one too. */
function chosenFiles(op: string, list: readonly unknown[]): FileSource {
  const names = new Map<string, Blob>();
  const inner: string[] = [];
  for (const file of list) {
    if (!(file instanceof Blob) || typeof (file as File).name !== "string")
      throw new ArgumentError(
        `${op}: ${FORMS}; got a list with ${file instanceof Blob ? "a Blob without a name" : typeof file}. Pass File objects, or Blobs by name.`,
      );
    const { name, webkitRelativePath: path = "" } = file as Partial<File> & { readonly name: string };
    if (path.split("/").length > 2) inner.push(path);
    else if (names.has(name))
      throw new ArgumentError(
        `${op}: each name must be once among the files; got ${quote(name)} twice. Pass the files of one folder.`,
      );
    else names.set(name, file);
  }
  if (names.size === 0 && inner.length)
    throw new ArgumentError(
      `${op}: the files must be in the chosen folder itself; got ${quote(inner[0]!)}. Choose the folder with config.json.`,
    );
  return fileSet("the chosen files", checkedFiles(op, [...names]));
}

/** Names that a model's folder on a server is asked for: servers list nothing. */
const KNOWN_NAMES = [
  "config.json",
  "generation_config.json",
  "model.safetensors",
  "model.safetensors.index.json",
  "pytorch_model.bin",
  "pytorch_model.bin.index.json",
  "preprocessor_config.json",
  "processor_config.json",
  "tokenizer.json",
  "tokenizer_config.json",
  "special_tokens_map.json",
  "chat_template.json",
  "chat_template.jinja",
];

/** A folder on a server, e.g. https://huggingface.co/OWNER/NAME/resolve/main/. Files are read by ranges if the server has them, else whole. */
function urlSource(op: string, address: string | URL): FileSource {
  let base: URL;
  try {
    const page = (globalThis as { location?: { href: string } }).location?.href;
    base = new URL(address, page);
    if (!/^(https?|blob|data):$/.test(base.protocol)) throw new Error(`its protocol is ${base.protocol}`);
  } catch (error) {
    throw new ArgumentError(
      `${op}: an address must be that of a folder on a server (https://…); got ${quote(String(address))}: ${messageOf(error)}. For folders on disk use Janus.fromPretrained in Node.`,
    );
  }
  if (!base.pathname.endsWith("/")) base.pathname += "/";
  const opened = new Map<string, Promise<RandomAccess | null>>();
  const find = (name: string): Promise<RandomAccess | null> => {
    const known = opened.get(name);
    if (known) return known;
    const file = openUrl(new URL(encodeURIComponent(name), base));
    opened.set(name, file);
    return file;
  };
  return {
    name: base.href,
    list: async () => {
      const found = await Promise.all(KNOWN_NAMES.map(async (name) => ((await find(name)) ? [name] : [])));
      const names = found.flat();
      const indexes = names.filter((name) => name.endsWith(".index.json"));
      const shards = await Promise.all(indexes.map(async (name) => shardsOf((await find(name))!)));
      return [...new Set([...names, ...shards.flat()])];
    },
    open: async (name) => {
      const file = await find(name);
      if (!file) throw new CheckpointError(`${base.href}: there is no file ${quote(name)}`);
      return file;
    },
  };
}

const MAX_INDEX = 16 * 2 ** 20; // bytes

async function shardsOf(index: RandomAccess): Promise<string[]> {
  if (index.size > MAX_INDEX)
    throw new CheckpointError(
      `${index.name} must have at most ${MAX_INDEX} bytes; got ${index.size}. Download it again.`,
    );
  const map = parseJsonObject(await index.read(0, index.size), index.name).get("weight_map");
  const files = isJsonObject(map) ? [...map.values()] : [];
  return files.filter((file) => typeof file === "string");
}

/** Bytes of a file that is not read by ranges: its tensors are hundreds of pieces, and each piece would take the time of a request. */
const MAX_FETCHED_WHOLE = 64 * 2 ** 20;

/** The server does not answer, or not as asked. */
async function request(url: URL, range?: string): Promise<Response> {
  try {
    return await fetch(url, range === undefined ? {} : { headers: { range } });
  } catch (error) {
    throw new IoError(
      `${url.href} must be reachable; got: ${messageOf(error)}. Check the address, the network, and CORS of the server.`,
    );
  }
}

/** A file on a server; null if there is none. */
async function openUrl(url: URL): Promise<RandomAccess | null> {
  const response = await request(url, "bytes=0-0");
  if (response.status === 404) return null;
  if (response.status === 416) return blobFile(url.href, new Blob([])); // no bytes at all
  if (!response.ok)
    throw new IoError(
      `${url.href} must answer; got HTTP ${response.status}. Check the address and the rights to read it.`,
    );
  if (response.headers.get("content-type")?.startsWith("text/html")) {
    await response.body?.cancel();
    return null; // a page for everything that is not there, as servers of single-page applications give
  }
  const size = Number(/\/(\d+)$/.exec(response.headers.get("content-range") ?? "")?.[1] ?? NaN);
  if (response.status !== 206 || !Number.isSafeInteger(size)) return blobFile(url.href, await response.blob()); // the whole file
  await response.arrayBuffer(); // frees the connection
  if (size <= MAX_FETCHED_WHOLE) return blobFile(url.href, await readAll(url, size));
  const file: RandomAccess = {
    name: url.href,
    size,
    read: async (offset, length, into) => {
      checkRange(file, offset, length);
      const bytes = into ? into.subarray(0, length) : new Uint8Array(length);
      if (length > 0) await readRange(url, offset, bytes);
      return bytes;
    },
  };
  return file;
}

async function readAll(url: URL, size: number): Promise<Blob> {
  const response = await request(url);
  const blob = await response.blob();
  if (response.status !== 200 || blob.size !== size)
    throw new IoError(
      `${url.href} must give its ${size} bytes; got HTTP ${response.status} with ${blob.size} bytes. Try again.`,
    );
  return blob;
}

/** Fills `into` with the bytes from `offset` on. */
async function readRange(url: URL, offset: number, into: Uint8Array): Promise<void> {
  const { length } = into;
  const response = await request(url, `bytes=${offset}-${offset + length - 1}`);
  let done = 0;
  if (response.status === 206 && response.body)
    await eachPiece(response.body, async (piece) => {
      into.set(piece.subarray(0, length - done), done);
      done += piece.length;
    });
  if (response.status !== 206 || done !== length)
    throw new IoError(
      `${url.href} must give ${length} bytes at ${offset}; got HTTP ${response.status} with ${done} bytes. Try again.`,
    );
}
