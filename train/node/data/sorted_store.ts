/**
 * A map of any size from keys of 16 bytes to values of 16 bytes, on the disk: sorted files that are searched in place, and the newest entries in
 * memory. Keys must be hashes: searches and buckets rely on keys that are spread evenly. 100 million entries take 3.2 GB on the disk and, while
 * they are sorted, about 100 MB of memory (tests/code_index_size.ts measures it); V8's `Map` ends at 16,777,216 entries.
 *
 * A sorted file: entries (key, value) in ascending order of keys, then JSON of the user's, its length u32 little-endian, and "JSX1".
 */
import { open, unlink } from "node:fs/promises";
import type { FileHandle } from "node:fs/promises";
import { join } from "node:path";
import type { ByteSink } from "../../../model/io/bytes.ts";

export const KEY_BYTES = 16;
const ENTRY_BYTES = 32;
const MAGIC = "JSX1";
/** Entries that a search reads at once: 4 KB. */
const BLOCK = 128;
/** Guesses by interpolation before bisection; hashes take three for 100 million. */
const MAX_GUESSES = 6;
const BUCKETS = 256; // values of the first byte
/** Entries of a bucket in memory before they are written. */
const CHUNK_ENTRIES = 2048;

/** Keys and values as Latin-1 strings of 16 characters: the smallest form that a `Map` takes. */
export const toBytes = (text: string): Buffer => Buffer.from(text, "latin1");
export const toText = (bytes: Uint8Array): string => Buffer.from(bytes).toString("latin1");

/** The share of all keys that lie below a key, from 0 to 1. */
const shareBelow = (bytes: Buffer, at: number): number => bytes.readUIntBE(at, 6) / 2 ** 48;

async function readAt(file: FileHandle, position: number, length: number): Promise<Buffer> {
  const bytes = Buffer.allocUnsafe(length);
  for (let done = 0; done < length;) {
    const { bytesRead } = await file.read(bytes, done, length - done, position + done);
    if (bytesRead === 0) throw new RangeError(`a sorted file ends at ${position + done}`);
    done += bytesRead;
  }
  return bytes;
}

/** A sorted file that is open. */
export class SortedFile {
  readonly count: number;
  /** What the writer said of it; JSON. */
  readonly about: unknown;
  private readonly file: FileHandle;
  private users = 0;
  private isRetired = false;

  private constructor(file: FileHandle, count: number, about: unknown) {
    this.file = file;
    this.count = count;
    this.about = about;
  }

  /** Null if the file is not there or not whole. Takes over a handle. */
  static async open(path: string | FileHandle): Promise<SortedFile | null> {
    const file = typeof path === "string" ? await open(path, "r").catch(() => null) : path;
    if (!file) return null;
    try {
      const { size } = await file.stat();
      const tail = await readAt(file, size - 8, 8);
      const length = tail.readUInt32LE(0);
      const count = (size - 8 - length) / ENTRY_BYTES;
      if (tail.toString("latin1", 4) === MAGIC && Number.isInteger(count) && count >= 0)
        return new SortedFile(file, count, JSON.parse((await readAt(file, size - 8 - length, length)).toString()));
    } catch {
      // Cut off or damaged.
    }
    await file.close();
    return null;
  }

  /** Keeps the file open until `release`, also if it is closed in between. */
  hold(): void {
    this.users++;
  }

  async release(): Promise<void> {
    this.users--;
    if (this.isRetired && this.users === 0) await this.file.close();
  }

  async close(): Promise<void> {
    this.isRetired = true;
    if (this.users === 0) await this.file.close();
  }

  /** The value of a key; null if it has none. */
  async get(key: Buffer): Promise<Buffer | null> {
    const target = shareBelow(key, 0);
    let [low, high, below, above] = [0, this.count, 0, 1];
    for (let round = 0; low < high; round++) {
      const share = round < MAX_GUESSES && above > below ? (target - below) / (above - below) : 0.5;
      const guess = Math.floor(low + share * (high - low)) - BLOCK / 2;
      const first = Math.max(low, Math.min(guess, high - BLOCK));
      const block = await this.entries(first, Math.min(BLOCK, high - first));
      const last = block.length - ENTRY_BYTES;
      if (compareAt(key, block, 0) < 0) [high, above] = [first, shareBelow(block, 0)];
      else if (compareAt(key, block, last) > 0)
        [low, below] = [first + block.length / ENTRY_BYTES, shareBelow(block, last)];
      else return find(key, block);
    }
    return null;
  }

  /** Entries whose keys begin with a byte. */
  async bucket(byte: number): Promise<Buffer> {
    const [from, to] = [await this.lowerBound(byte), await this.lowerBound(byte + 1)];
    return this.entries(from, to - from);
  }

  /** The first entry whose key begins with `byte` or more. */
  private async lowerBound(byte: number): Promise<number> {
    let [low, high] = [0, this.count];
    while (low < high) {
      const middle = Math.floor((low + high) / 2);
      if ((await readAt(this.file, middle * ENTRY_BYTES, 1))[0]! < byte) low = middle + 1;
      else high = middle;
    }
    return low;
  }

  private entries(first: number, count: number): Promise<Buffer> {
    return readAt(this.file, first * ENTRY_BYTES, count * ENTRY_BYTES);
  }
}

const compareAt = (key: Buffer, entries: Buffer, at: number): number =>
  key.compare(entries, at, at + KEY_BYTES, 0, KEY_BYTES);

function find(key: Buffer, entries: Buffer): Buffer | null {
  let [low, high] = [0, entries.length / ENTRY_BYTES];
  while (low < high) {
    const middle = (low + high) >>> 1;
    const order = compareAt(key, entries, middle * ENTRY_BYTES);
    if (order === 0) return entries.subarray(middle * ENTRY_BYTES + KEY_BYTES, (middle + 1) * ENTRY_BYTES);
    if (order < 0) high = middle;
    else low = middle + 1;
  }
  return null;
}

/** Entries from which a counting sort is faster: its table has 65,536 groups. */
const MIN_COUNTED = 8192;

/**
 * Indices of entries in ascending order of keys, of equal keys in their own order: many by a counting sort by 16 bits, then each small group.
 * @param from first byte of those 16 bits: 1 for a bucket, whose first bytes are equal
 */
function orderOf(entries: Buffer, from: 0 | 1): Uint32Array {
  const count = entries.length / ENTRY_BYTES;
  const compare = (a: number, b: number): number =>
    entries.compare(entries, b * ENTRY_BYTES, b * ENTRY_BYTES + KEY_BYTES, a * ENTRY_BYTES, a * ENTRY_BYTES + KEY_BYTES) || a - b; // prettier-ignore
  if (count < MIN_COUNTED) return Uint32Array.from({ length: count }, (_, i) => i).sort(compare);
  const groupOf = (i: number): number => entries.readUInt16BE(i * ENTRY_BYTES + from);
  const starts = new Uint32Array(2 ** 16 + 1);
  for (let i = 0; i < count; i++) starts[groupOf(i) + 1]!++;
  for (let g = 0; g < 2 ** 16; g++) starts[g + 1]! += starts[g]!;
  const next = starts.slice();
  const order = new Uint32Array(count);
  for (let i = 0; i < count; i++) order[next[groupOf(i)]!++] = i;
  for (let g = 0; g < 2 ** 16; g++)
    if (starts[g + 1]! - starts[g]! > 1) order.subarray(starts[g], starts[g + 1]).sort(compare);
  return order;
}

/** Entries in ascending order of keys; of equal keys the last one stays. */
function sortEntries(entries: Buffer, from: 0 | 1): Buffer {
  const sorted = Buffer.allocUnsafe(entries.length);
  let end = 0;
  for (const i of orderOf(entries, from)) {
    const at = i * ENTRY_BYTES;
    if (end > 0 && sorted.compare(entries, at, at + KEY_BYTES, end - ENTRY_BYTES, end - KEY_BYTES) === 0)
      end -= ENTRY_BYTES;
    entries.copy(sorted, end, at, at + ENTRY_BYTES);
    end += ENTRY_BYTES;
  }
  return sorted.subarray(0, end);
}

/** Entries in any order and number, in buckets of a temporary file. */
export class EntryBuckets {
  private readonly file: FileHandle;
  private readonly open = Array.from({ length: BUCKETS }, () => ({
    bytes: Buffer.alloc(0),
    filled: 0,
    chunks: [] as number[],
  }));
  private end = 0;

  private constructor(file: FileHandle) {
    this.file = file;
  }

  static async create(folder: string): Promise<EntryBuckets> {
    return new EntryBuckets(await temporaryFile(folder));
  }

  async add(key: string, value: string): Promise<void> {
    const bucket = this.open[key.charCodeAt(0)]!;
    if (bucket.bytes.length === 0) bucket.bytes = Buffer.allocUnsafe(CHUNK_ENTRIES * ENTRY_BYTES);
    bucket.bytes.write(key, bucket.filled, "latin1");
    bucket.bytes.write(value, bucket.filled + KEY_BYTES, "latin1");
    bucket.filled += ENTRY_BYTES;
    if (bucket.filled < bucket.bytes.length) return;
    bucket.chunks.push(this.end);
    this.end += bucket.filled;
    bucket.filled = 0;
    await this.file.write(bucket.bytes, 0, bucket.bytes.length, bucket.chunks.at(-1));
  }

  /** Entries of a bucket, in the order in which they came. */
  async bucket(byte: number): Promise<Buffer> {
    const { bytes, filled, chunks } = this.open[byte]!;
    const parts = [];
    for (const at of chunks) parts.push(await readAt(this.file, at, CHUNK_ENTRIES * ENTRY_BYTES));
    return Buffer.concat([...parts, bytes.subarray(0, filled)]);
  }

  close(): Promise<void> {
    return this.file.close();
  }
}

/**
 * Writes a sorted file of all entries of `inputs`; of equal keys the last input's stays.
 * @param about JSON that is kept with it, asked for at the end
 */
export async function writeSorted(
  sink: ByteSink,
  inputs: readonly { bucket(byte: number): Promise<Buffer> }[],
  about: () => unknown,
  onEntries: (keys: Buffer, count: number) => void = () => undefined,
): Promise<void> {
  for (let byte = 0; byte < BUCKETS; byte++) {
    const parts = [];
    for (const input of inputs) parts.push(await input.bucket(byte));
    const sorted = sortEntries(Buffer.concat(parts), 1);
    onEntries(sorted, sorted.length / ENTRY_BYTES);
    if (sorted.length) await sink.write(sorted);
  }
  const json = Buffer.from(JSON.stringify(about() ?? null));
  const tail = Buffer.alloc(8, `\0\0\0\0${MAGIC}`, "latin1");
  tail.writeUInt32LE(json.length);
  await sink.write(Buffer.concat([json, tail]));
}

let names = 0;

/** A file that is gone once it is closed, also by a crash (on Windows it stays until then). */
async function temporaryFile(folder: string): Promise<FileHandle> {
  const path = join(folder, `.sorting-${process.pid}-${++names}`);
  const file = await open(path, "wx+");
  await unlink(path).catch(() => undefined);
  return file;
}

/** Entries in memory before they become a sorted file: about 30 MB. */
const MAX_RECENT = 200_000;
/** Sorted files of one process before they become one. */
const MAX_RUNS = 32;

export interface StoreOptions {
  /** Folder of temporary files. */
  readonly folder: string;
  readonly base?: SortedFile | null;
  /** Most entries in memory. */
  readonly recent?: number;
  readonly runs?: number;
}

/** Entries of a sorted file, and newer ones. */
export class SortedStore {
  private readonly options: StoreOptions;
  private recent = new Map<string, string>();
  /** Entries that are being written. */
  private leaving: ReadonlyMap<string, string> | null = null;
  private runs: SortedFile[] = [];

  constructor(options: StoreOptions) {
    this.options = options;
  }

  hasRecent(key: string): boolean {
    return this.recent.has(key);
  }

  async get(key: string): Promise<string | undefined> {
    const known = this.recent.get(key) ?? this.leaving?.get(key);
    if (known !== undefined) return known;
    const files = [...(this.options.base ? [this.options.base] : []), ...this.runs].reverse();
    for (const file of files) file.hold();
    try {
      const bytes = toBytes(key);
      for (const file of files) {
        const value = await file.get(bytes);
        if (value) return toText(value);
      }
      return undefined;
    } finally {
      for (const file of files) await file.release();
    }
  }

  /** One call at a time. */
  async set(key: string, value: string): Promise<void> {
    this.recent.set(key, value);
    if (this.recent.size >= (this.options.recent ?? MAX_RECENT)) await this.spill();
  }

  private async spill(): Promise<void> {
    [this.leaving, this.recent] = [this.recent, new Map()];
    const entries = sortEntries(toBytes([...this.leaving].map(([key, value]) => key + value).join("")), 0);
    this.runs = [...this.runs, await this.run((sink) => writeSorted(sink, [inBuckets(entries)], () => null))];
    this.leaving = null;
    if (this.runs.length < (this.options.runs ?? MAX_RUNS)) return;
    const old = this.runs;
    this.runs = [await this.run((sink) => writeSorted(sink, old, () => null))];
    for (const file of old) await file.close();
  }

  private async run(write: (sink: ByteSink) => Promise<void>): Promise<SortedFile> {
    const file = await temporaryFile(this.options.folder);
    let at = 0;
    await write({
      write: async (bytes) => {
        for (let done = 0; done < bytes.length;)
          done += (await file.write(bytes, done, bytes.length - done, at + done)).bytesWritten;
        at += bytes.length;
      },
    });
    const opened = await SortedFile.open(file);
    if (!opened)
      throw new RangeError(`a sorted file in ${this.options.folder} cannot be read back; is the disk sound?`);
    return opened;
  }

  async close(): Promise<void> {
    await this.options.base?.close();
    for (const file of this.runs) await file.close();
    this.runs = [];
  }
}

/** Sorted entries in memory as an input of `writeSorted`. */
function inBuckets(entries: Buffer): { bucket(byte: number): Promise<Buffer> } {
  let at = 0;
  return {
    bucket: async (byte) => {
      const from = at;
      while (at < entries.length && entries[at] === byte) at += ENTRY_BYTES;
      return entries.subarray(from, at);
    },
  };
}
