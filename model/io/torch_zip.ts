/**
 * Files of `torch.save`: a zip archive of stored (uncompressed) entries below one root folder, with a pickle `data.pkl` that
 * describes the tensors and one entry `data/<key>` per storage. This file owns the container; `pickle.ts` reads the description.
 * Checksums are not compared: PyTorch can be set not to write them, and does not check them itself.
 */
import type { RandomAccess } from "./bytes.ts";
import { PickleError, ZipError, quote } from "./errors.ts";
import { MAX_PICKLE, readTensorPickle } from "./pickle.ts";
import type { PickledTensor } from "./pickle.ts";
import { MAX_TENSORS, storedElementBytes } from "./stored.ts";
import type { StoredTensor } from "./stored.ts";

const END = 0x06054b50; // end of central directory
const END64_LOCATOR = 0x07064b50;
const END64 = 0x06064b50;
const CENTRAL = 0x02014b50;
const LOCAL = 0x04034b50;
const FLAG_ENCRYPTED = 1;
const FLAG_SIZES_LATER = 8; // the local header leaves them out; PyTorch sets it always
const MAX_ENTRIES = MAX_TENSORS + 64;
const MAX_DIRECTORY = 64 * 2 ** 20;
const MAX_COMMENT = 65_535;
const utf8 = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true });

export interface ZipEntry {
  readonly name: string;
  /** Offset of the local header. */
  readonly headerOffset: number;
  readonly bytes: number;
}

const view = (bytes: Uint8Array): DataView => new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);

/** A 64-bit number as a JavaScript number; what is beyond 2^53 is beyond any file. */
function u64(data: DataView, at: number): number {
  return Number(data.getBigUint64(at, true));
}

/** The entries of a zip archive, from its central directory. Throws `ZipError` unless all are stored and none overlap. */
export async function readZipDirectory(from: RandomAccess): Promise<ReadonlyMap<string, ZipEntry>> {
  const fail = failure(from);
  const { count, offset, bytes, limit } = await findDirectory(from, fail);
  if (count > MAX_ENTRIES) fail(`${count} entries; at most ${MAX_ENTRIES}`);
  if (bytes > MAX_DIRECTORY) fail(`a directory of ${bytes} bytes; at most ${MAX_DIRECTORY}`);
  if (offset + bytes !== limit)
    fail(`the directory at ${offset} with ${bytes} bytes does not end where the archive ends, ${limit}`);
  const directory = await from.read(offset, bytes);
  const entries = new Map<string, ZipEntry>();
  let at = 0;
  for (let i = 0; i < count; i++) {
    const { entry, next } = centralEntry(directory, at, fail);
    if (entries.has(entry.name)) fail(`the entry ${quote(entry.name)} stands twice in the archive`);
    if (entry.headerOffset + 30 + entry.bytes > offset) fail(`the entry ${quote(entry.name)} lies outside of the file`);
    entries.set(entry.name, entry);
    at = next;
  }
  if (at !== bytes) fail(`${bytes - at} bytes are left in the directory after its ${count} entries`);
  let end = 0;
  for (const entry of [...entries.values()].sort((a, b) => a.headerOffset - b.headerOffset)) {
    if (entry.headerOffset < end) fail(`the entry ${quote(entry.name)} overlaps the one before it`);
    end = entry.headerOffset + 30 + entry.bytes;
  }
  return entries;
}

const failure =
  (from: RandomAccess) =>
  (message: string): never => {
    throw new ZipError(`${from.name}: ${message}; the file is damaged or not one of torch.save, load it again`);
  };
type Fail = (message: string) => never;

interface Directory {
  count: number;
  offset: number;
  bytes: number;
  /** Offset of the records after the directory. */
  limit: number;
}

async function findDirectory(from: RandomAccess, fail: Fail): Promise<Directory> {
  if (from.size < 22) fail(`${from.size} bytes are too few for a zip archive`);
  const tailBytes = Math.min(from.size, 22 + MAX_COMMENT);
  const tailOffset = from.size - tailBytes;
  const tail = view(await from.read(tailOffset, tailBytes));
  // The record whose comment reaches just to the end of the file; the last one, should there be several.
  let at = tailBytes - 22;
  while (at >= 0 && !(tail.getUint32(at, true) === END && at + 22 + tail.getUint16(at + 20, true) === tailBytes)) at--;
  if (at < 0) fail("no end of a zip archive was found");
  if (tail.getUint16(at + 4, true) !== 0 || tail.getUint16(at + 6, true) !== 0) fail("an archive of several volumes");
  const end: Directory = {
    count: tail.getUint16(at + 10, true),
    bytes: tail.getUint32(at + 12, true),
    offset: tail.getUint32(at + 16, true),
    limit: tailOffset + at,
  };
  if (tail.getUint16(at + 8, true) !== end.count) fail("an archive of several volumes");
  const hasLocator = at >= 20 && tail.getUint32(at - 20, true) === END64_LOCATOR;
  if (hasLocator) return findDirectory64(from, end, u64(tail, at - 20 + 8), tailOffset + at - 20, fail);
  if (end.count === 0xffff || end.bytes === 0xffffffff || end.offset === 0xffffffff)
    fail("the ZIP64 record is missing");
  return end;
}

async function findDirectory64(
  from: RandomAccess,
  end: Directory,
  offset: number,
  limit: number,
  fail: Fail,
): Promise<Directory> {
  if (offset + 56 > limit) fail("the ZIP64 record lies outside of the file");
  const record = view(await from.read(offset, 56));
  if (record.getUint32(0, true) !== END64) fail("there is no ZIP64 record where the file says");
  const end64: Directory = { count: u64(record, 32), bytes: u64(record, 40), offset: u64(record, 48), limit: offset };
  if (u64(record, 24) !== end64.count) fail("an archive of several volumes");
  const agree = (small: number, large: number, sentinel: number): boolean => small === sentinel || small === large;
  if (
    !agree(end.count, end64.count, 0xffff) ||
    !agree(end.bytes, end64.bytes, 0xffffffff) ||
    !agree(end.offset, end64.offset, 0xffffffff)
  ) {
    fail("the two end records of the archive disagree");
  }
  return end64;
}

function centralEntry(directory: Uint8Array, at: number, fail: Fail): { entry: ZipEntry; next: number } {
  if (at + 46 > directory.length) fail("the directory ends early");
  const data = view(directory);
  if (data.getUint32(at, true) !== CENTRAL) fail(`no directory entry at byte ${at} of the directory`);
  const [nameBytes, extraBytes, commentBytes] = [28, 30, 32].map((i) => data.getUint16(at + i, true)) as [
    number,
    number,
    number,
  ];
  const extraAt = at + 46 + nameBytes;
  const next = extraAt + extraBytes + commentBytes;
  if (next > directory.length) fail("the directory ends early");
  const name = decodeName(directory.subarray(at + 46, extraAt), fail);
  const of = `of the entry ${quote(name)}`;
  const method = data.getUint16(at + 10, true);
  if (data.getUint16(at + 8, true) & FLAG_ENCRYPTED) fail(`the content ${of} is encrypted`);
  if (method !== 0) fail(`the content ${of} is compressed (method ${method}); torch.save stores it as it is`);
  if (data.getUint16(at + 34, true) !== 0) fail(`the content ${of} is in another volume`);
  const sizes = [
    { value: data.getUint32(at + 24, true), what: "size" },
    { value: data.getUint32(at + 20, true), what: "stored size" },
    { value: data.getUint32(at + 42, true), what: "offset" },
  ];
  // The ZIP64 field holds, in this order, just those that do not fit in 32 bits.
  const large = findExtra(data, extraAt, extraBytes, of, fail);
  let used = 0;
  const [bytes, stored, headerOffset] = sizes.map(({ value, what }) => {
    if (value !== 0xffffffff) return value;
    if (!large || used + 8 > large.bytes) return fail(`the ZIP64 ${what} ${of} is missing`);
    used += 8;
    return u64(data, large.at + used - 8);
  }) as [number, number, number];
  if (bytes !== stored) fail(`the content ${of} has ${bytes} bytes and is stored in ${stored}`);
  return { entry: { name, headerOffset, bytes }, next };
}

function findExtra(
  data: DataView,
  at: number,
  bytes: number,
  of: string,
  fail: Fail,
): { at: number; bytes: number } | null {
  const end = at + bytes;
  let found: { at: number; bytes: number } | null = null;
  while (at < end) {
    if (at + 4 > end) fail(`the extra field ${of} ends early`);
    const field = { at: at + 4, bytes: data.getUint16(at + 2, true) };
    if (field.at + field.bytes > end) fail(`the extra field ${of} ends early`);
    if (data.getUint16(at, true) === 1) found = field;
    at = field.at + field.bytes;
  }
  return found;
}

function decodeName(bytes: Uint8Array, fail: Fail): string {
  let name = "";
  try {
    name = utf8.decode(bytes);
  } catch {
    fail("the name of an entry is not UTF-8");
  }
  if (
    name === "" ||
    name.includes("\0") ||
    name.includes("\\") ||
    name.startsWith("/") ||
    name.split("/").includes("..")
  ) {
    fail(`the entry name ${quote(name)} is not one that torch.save writes`);
  }
  return name;
}

/** First byte of an entry's content, which only its local header gives. */
export async function zipDataOffset(from: RandomAccess, entry: ZipEntry): Promise<number> {
  const fail = failure(from);
  const of = `of the entry ${quote(entry.name)}`;
  const nameBytes = new TextEncoder().encode(entry.name);
  if (entry.headerOffset + 30 + nameBytes.length > from.size) fail(`the local header ${of} ends early`);
  const local = await from.read(entry.headerOffset, 30 + nameBytes.length);
  const data = view(local);
  if (data.getUint32(0, true) !== LOCAL) fail(`there is no local header ${of} where the directory says`);
  const flags = data.getUint16(6, true);
  if (flags & FLAG_ENCRYPTED || data.getUint16(8, true) !== 0)
    fail(`the local header ${of} disagrees with the directory`);
  const sizes = [data.getUint32(18, true), data.getUint32(22, true)];
  const known = flags & FLAG_SIZES_LATER ? [0, entry.bytes, 0xffffffff] : [entry.bytes, 0xffffffff];
  if (!sizes.every((size) => known.includes(size))) fail(`the local header ${of} disagrees with the directory`);
  if (data.getUint16(26, true) !== nameBytes.length || !nameBytes.every((b, i) => local[30 + i] === b))
    fail(`the local header ${of} has another name`);
  const offset = entry.headerOffset + 30 + nameBytes.length + data.getUint16(28, true);
  if (offset + entry.bytes > from.size) fail(`the content ${of} lies outside of the file`);
  return offset;
}

/** The tensors of a file of `torch.save`. `file` is the name that they carry. Throws `ZipError` or `PickleError`; executes nothing. */
export async function readTorchZip(from: RandomAccess, file = from.name): Promise<ReadonlyMap<string, StoredTensor>> {
  const fail = failure(from);
  await refuseOldFormats(from);
  const entries = await readZipDirectory(from);
  const roots = [...entries.keys()].filter((name) => /^[^/]+\/data\.pkl$/.test(name));
  if (roots.length !== 1) fail(roots.length ? `${roots.length} entries named data.pkl` : "there is no data.pkl in it");
  const root = roots[0]!.slice(0, -"data.pkl".length);
  const read = async (entry: ZipEntry, limit: number): Promise<Uint8Array> => {
    if (entry.bytes > limit) fail(`${quote(entry.name)} has ${entry.bytes} bytes; at most ${limit}`);
    return from.read(await zipDataOffset(from, entry), entry.bytes);
  };
  const order = entries.get(`${root}byteorder`);
  if (order) {
    const text = String.fromCharCode(...(await read(order, 16)));
    if (text !== "little") fail(`byte order ${quote(text)}; only little`);
  }
  const tensors = readTensorPickle(await read(entries.get(roots[0]!)!, MAX_PICKLE), `${from.name}: data.pkl`);
  return locate(from, file, root, entries, tensors);
}

async function locate(
  from: RandomAccess,
  file: string,
  root: string,
  entries: ReadonlyMap<string, ZipEntry>,
  tensors: ReadonlyMap<string, PickledTensor>,
): Promise<Map<string, StoredTensor>> {
  const offsets = new Map<string, number>();
  const found = new Map<string, StoredTensor>();
  for (const [name, { storage, shape, first, elements }] of tensors) {
    const entry = entries.get(`${root}data/${storage.key}`);
    if (!entry)
      throw new ZipError(`${from.name}: the storage ${quote(storage.key)} of tensor ${quote(name)} is missing`);
    const itemBytes = storedElementBytes(storage.dtype);
    if (entry.bytes !== storage.elements * itemBytes) {
      throw new PickleError(
        `${from.name}: the storage ${quote(storage.key)} of tensor ${quote(name)} should have ${storage.elements} elements of ${storage.dtype}, its entry has ${entry.bytes} bytes`,
      );
    }
    let offset = offsets.get(storage.key);
    if (offset === undefined) {
      offset = await zipDataOffset(from, entry);
      offsets.set(storage.key, offset);
    }
    found.set(name, {
      name,
      dtype: storage.dtype,
      shape,
      file,
      offset: offset + first * itemBytes,
      bytes: elements * itemBytes,
    });
  }
  return found;
}

/** Before PyTorch 1.6 a file was several pickles in a row, before 0.1 a tar archive. */
async function refuseOldFormats(from: RandomAccess): Promise<void> {
  const head = await from.read(0, Math.min(from.size, 300));
  const text = String.fromCharCode(...head);
  const isOld =
    (head[0] === 0x80 && text.slice(2, 14) === "\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19") || text.slice(257, 262) === "ustar";
  if (isOld)
    throw new ZipError(
      `${from.name}: written in the format before PyTorch 1.6; load it there and save it again with a current torch.save`,
    );
}
