/**
 * Where the codes of images are: from an image's hash to its row, and from a file's path, size and time to the image that it contains. The
 * lists of the parts say it; what of them was sorted is in `sorted.idx`, so that opening a cache reads only what came since, and memory does
 * not depend on the number of images. A cache without that file, as earlier releases left it, is sorted when it is opened.
 *
 * Entries of `sorted.idx` (sorted_store.ts): the image's hash, last bit 0 → part u32, row u32; the stamp's hash, last bit 1 → the image's hash.
 * Its JSON: `{covered: {part: bytes of its list that are sorted}, pictures}`.
 */
import { open, readdir, stat } from "node:fs/promises";
import { join } from "node:path";
import { isObject } from "../../../model/io/unknown.ts";
import { openFile, writeFileAtomic } from "../../../model/node/files.ts";
import { EntryBuckets, SortedFile, SortedStore, toBytes, toText, writeSorted } from "./sorted_store.ts";

/** A line of a part's list. Without `row` it says only that a file contains an image that is known. */
export interface Line {
  readonly image: string;
  readonly row?: number;
  readonly path: string;
  readonly bytes: number;
  readonly modified: string;
}

/** Position of an image's codes. */
export interface Position {
  readonly part: number;
  readonly row: number;
}

const FILE = "sorted.idx";
/** Lists that are not sorted are read into memory up to here: about 300,000 images. */
const MAX_UNSORTED = 64 * 2 ** 20; // bytes
const CHUNK_BYTES = 2 ** 20;
/** Value of an image whose codes were found damaged. */
const NONE = "\xff".repeat(16);

const withBit = (hash: string, bit: 0 | 1): string =>
  hash.slice(0, 15) + String.fromCharCode((hash.charCodeAt(15) & 0xfe) | bit);
/** 22 characters of base64url → 16 of Latin-1, undefined for other text. */
const rawHash = (hash: string): string | undefined =>
  /^[A-Za-z0-9_-]{22}$/.test(hash) ? toText(Buffer.from(hash, "base64url")) : undefined;

function positionValue({ part, row }: Position): string {
  const bytes = Buffer.alloc(16);
  bytes.writeUInt32LE(part, 0);
  bytes.writeUInt32LE(row, 4);
  return toText(bytes);
}

export interface CodeIndexOptions {
  /** Bytes of a part's rows. */
  readonly rowBytes: number;
  /** Key of a line's file: 22 characters of base64url. */
  readonly stampOf: (line: Line) => string;
  readonly onNotice?: ((message: string) => void) | undefined;
  /** Bytes of lists from which they are sorted (default: 64 MiB). */
  readonly maxUnsorted?: number | undefined;
}

/** A list that is read up to `end`, from where it was sorted. */
interface List {
  readonly part: number;
  readonly start: number;
  readonly end: number;
  /** Rows that the part's codes have. */
  readonly rows: number;
}

export const partFile = (folder: string, part: number, kind: "codes" | "jsonl"): string =>
  join(folder, `part-${String(part).padStart(5, "0")}.${kind}`);

export class CodeIndex {
  /** Images whose codes are here; one that two writers computed at once counts twice. */
  pictures = 0;
  /** The first part number that nobody has used. */
  nextPart = 0;
  private readonly folder: string;
  private readonly options: CodeIndexOptions;
  private store: SortedStore;

  private constructor(folder: string, options: CodeIndexOptions) {
    this.folder = folder;
    this.options = options;
    this.store = new SortedStore({ folder });
  }

  static async open(folder: string, options: CodeIndexOptions): Promise<CodeIndex> {
    const index = new CodeIndex(folder, options);
    let base = await SortedFile.open(join(folder, FILE));
    let covered = coveredOf(base);
    let lists = await listsOf(folder, covered?.covered ?? {}, options.rowBytes);
    if (base && (!covered || !lists)) {
      await base.close();
      options.onNotice?.(`${join(folder, FILE)} is damaged or of other lists; sorting them`);
      [base, covered] = [null, null];
    }
    lists ??= (await listsOf(folder, {}, options.rowBytes))!;
    const parts = [...lists.map(({ part }) => part), ...Object.keys(covered?.covered ?? {}).map(Number)];
    index.nextPart = Math.max(-1, ...parts) + 1;
    const unsorted = lists.reduce((sum, { start, end }) => sum + end - start, 0);
    index.pictures = covered?.pictures ?? 0;
    if (unsorted > (options.maxUnsorted ?? MAX_UNSORTED)) base = await index.sort(base, lists, covered?.covered ?? {});
    index.store = new SortedStore({ folder, base });
    if (unsorted <= (options.maxUnsorted ?? MAX_UNSORTED))
      for (const list of lists) await index.take(list, (key, value) => index.put(key, value));
    return index;
  }

  /** The image that a file contains; undefined if that is not known. `stamp` and the result are 22 characters of base64url. */
  async imageOf(stamp: string): Promise<string | undefined> {
    const value = await this.store.get(withBit(rawHash(stamp)!, 1));
    return value && toBytes(value).toString("base64url");
  }

  async positionOf(image: string): Promise<Position | undefined> {
    const hash = rawHash(image);
    const value = hash && (await this.store.get(withBit(hash, 0)));
    if (!value || value === NONE) return undefined;
    const bytes = toBytes(value);
    return { part: bytes.readUInt32LE(0), row: bytes.readUInt32LE(4) };
  }

  /** Adds a line of a part that is on the disk. One call at a time. */
  add(line: Line, part: number): Promise<void> {
    return this.enter(line, part, (key, value) => this.put(key, value));
  }

  /** Forgets an image whose codes are damaged. */
  remove(image: string): Promise<void> {
    this.pictures--;
    return this.store.set(withBit(rawHash(image)!, 0), NONE);
  }

  close(): Promise<void> {
    return this.store.close();
  }

  private async put(key: string, value: string): Promise<void> {
    if (!(key.charCodeAt(15) & 1) && !this.store.hasRecent(key)) this.pictures++;
    await this.store.set(key, value);
  }

  private async enter(line: Line, part: number, put: (key: string, value: string) => Promise<void>): Promise<void> {
    const image = rawHash(line.image);
    if (image === undefined) return;
    if (line.row !== undefined) await put(withBit(image, 0), positionValue({ part, row: line.row }));
    await put(withBit(rawHash(this.options.stampOf(line))!, 1), image);
  }

  /** Lines of a list. One that was cut off, and rows that are not there, do not count. Returns the end of the last whole line. */
  private async take(list: List, put: (key: string, value: string) => Promise<void>): Promise<number> {
    let end = list.start;
    for await (const [text, next] of linesOf(partFile(this.folder, list.part, "jsonl"), list)) {
      end = next;
      let line: Line;
      try {
        line = JSON.parse(text) as Line;
      } catch {
        continue; // torn by a crash; its image is computed again
      }
      const isWhole =
        isObject(line) && typeof line.image === "string" && (line.row === undefined || line.row < list.rows);
      if (isWhole) await this.enter(line, list.part, put);
    }
    return end;
  }

  /** Sorts what of the lists is not sorted into `sorted.idx`. */
  private async sort(base: SortedFile | null, lists: readonly List[], before: Covered["covered"]): Promise<SortedFile> {
    this.options.onNotice?.(`${this.folder}: sorting the list of pictures whose codes are known`);
    const covered: Record<string, number> = { ...before };
    const buckets = await EntryBuckets.create(this.folder);
    try {
      for (const list of lists) covered[list.part] = await this.take(list, (key, value) => buckets.add(key, value));
      this.pictures = 0;
      const count = (keys: Buffer, entries: number): void => {
        for (let i = 0; i < entries; i++) if (!(keys[32 * i + 15]! & 1)) this.pictures++;
      };
      const inputs = base ? [base, buckets] : [buckets];
      await writeFileAtomic(join(this.folder, FILE), (sink) =>
        writeSorted(sink, inputs, () => ({ covered, pictures: this.pictures }), count),
      );
    } finally {
      await buckets.close();
      await base?.close();
    }
    const sorted = await SortedFile.open(join(this.folder, FILE));
    if (!sorted) throw new RangeError(`${join(this.folder, FILE)} cannot be read back; is the disk sound?`);
    return sorted;
  }
}

interface Covered {
  readonly covered: Readonly<Record<string, number>>;
  readonly pictures: number;
}

function coveredOf(base: SortedFile | null): Covered | null {
  const about = base?.about;
  return isObject(about) && isObject(about.covered) && typeof about.pictures === "number" ? (about as unknown as Covered) : null; // prettier-ignore
}

/** Lists with what of them is not sorted; null if one is shorter than what was sorted of it. */
async function listsOf(folder: string, covered: Covered["covered"], rowBytes: number): Promise<List[] | null> {
  const lists: List[] = [];
  for (const name of (await readdir(folder)).sort()) {
    const part = Number(/^part-(\d+)\.jsonl$/.exec(name)?.[1] ?? NaN);
    if (Number.isNaN(part)) continue;
    // The list first: rows are on the disk before their lines, also while another process writes.
    const end = (await stat(join(folder, name))).size;
    const codes = await stat(partFile(folder, part, "codes")).catch(() => null);
    const start = covered[part] ?? 0;
    if (start > end) return null;
    lists.push({ part, start, end, rows: Math.floor((codes?.size ?? 0) / rowBytes) });
  }
  return lists.sort((a, b) => a.part - b.part);
}

/** Whole lines between two positions of a file, each with the position behind it. */
async function* linesOf(path: string, { start, end }: Pick<List, "start" | "end">): AsyncGenerator<[string, number]> {
  if (start === end) return;
  const file = await openFile(path);
  try {
    let rest = Buffer.alloc(0);
    let at = start;
    for (let read = start; read < end;) {
      const length = Math.min(CHUNK_BYTES, end - read);
      const bytes = Buffer.concat([rest, await file.read(read, length)]);
      read += length;
      let from = 0;
      for (let to = bytes.indexOf(0x0a); to >= 0; to = bytes.indexOf(0x0a, from)) {
        at += to + 1 - from;
        yield [bytes.toString("utf8", from, to), at];
        from = to + 1;
      }
      rest = bytes.subarray(from);
    }
  } finally {
    await file.close?.();
  }
}

/** Codes of a row; null if the row is not there. */
export async function readRow(folder: string, { part, row }: Position, rowBytes: number): Promise<Uint8Array | null> {
  const file = await open(partFile(folder, part, "codes"), "r").catch(() => null);
  if (!file) return null;
  try {
    const bytes = new Uint8Array(rowBytes);
    const { bytesRead } = await file.read(bytes, 0, rowBytes, row * rowBytes);
    return bytesRead === rowBytes ? bytes : null;
  } finally {
    await file.close();
  }
}
