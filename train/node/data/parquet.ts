/**
 * Rows of Parquet files as records: images of Hugging Face's columns (`struct<bytes, path>`) as base64, numbers of classes as their names. A row
 * costs one page of each column that is used (parquet_pages.ts).
 */
import type { FileMetaData, SchemaTree } from "hyparquet";
import type { RandomAccess } from "../../../model/io/bytes.ts";
import { JanusError, messageOf } from "../../../engine/errors.ts";
import { isObject } from "../../../model/io/unknown.ts";
import { RecordError, SourceError } from "../../data/errors.ts";
import { fieldUse } from "./fields.ts";
import type { RecordKind } from "./fields.ts";
import { asyncBuffer, leavesOf, loadParquet, readFooter } from "./parquet_pages.ts";
import type { ListedGroup, Page, Parquet } from "./parquet_pages.ts";
import type { RecordPlace, SourceSpec } from "./sources.ts";

/** Bytes of decoded pages that are kept, over all files: rows are often read in order, and a page has many. */
const KEPT_BYTES = 64 * 2 ** 20;

/** Text that is not UTF-8, in place of which nothing is put. */
class BadText {}

/** Rows that were decoded together. */
interface Window {
  readonly start: number;
  readonly rows: readonly Readonly<Record<string, unknown>>[];
  readonly bytes: number;
}

/** Windows of all open files, and one decoding at a time: with many files and samples at once, the memory must not depend on their number. */
const kept = new Map<string, Window>();
let decoding: Promise<unknown> = Promise.resolve();

/** Runs decodings one after the other. */
function inTurn<T>(work: () => Promise<T>): Promise<T> {
  const done = decoding.then(work);
  decoding = done.catch(() => undefined);
  return done;
}

function keep(key: string, window: Window): void {
  kept.set(key, window);
  let bytes = [...kept.values()].reduce((sum, one) => sum + one.bytes, 0);
  for (const [other, one] of kept) {
    if (bytes <= KEPT_BYTES || kept.size === 1) return;
    kept.delete(other);
    bytes -= one.bytes;
  }
}

/**
 * What the columns of a file say about its records: one record with the fields that have values, and how many rows have each. Throws `SourceError` for
 * a file without rows, and for names that stand twice.
 */
export function shapeOf(
  path: string,
  metadata: FileMetaData,
  parquet: Parquet,
): { record: Record<string, unknown>; rows: number } {
  const leaves = leavesOf(parquet.parquetSchema(metadata));
  const names = (leaves[0]?.[0]?.children ?? []).map(({ element }) => element.name);
  const twice = names.find((name, i) => names.indexOf(name) !== i);
  if (twice !== undefined)
    throw new SourceError(`${path}: two columns have the name ${JSON.stringify(twice)}; rename one of them`);
  if (metadata.num_rows === 0n) throw new SourceError(`${path} has no records`);
  const isUsed = leaves.map((_, c) =>
    metadata.row_groups.some(({ columns }) => {
      const meta = columns[c]?.meta_data;
      const nulls = meta?.statistics?.null_count;
      return nulls === undefined || nulls < meta!.num_values;
    }),
  );
  const used = new Set(leaves.flatMap((path, c) => (isUsed[c] ? path : [])));
  const shape = (node: SchemaTree): unknown => {
    const children = node.children.filter((child) => used.has(child));
    if (node.children.length === 0) return node.path.join("."); // another one for each, as their values are
    if (parquet.isListLike(node)) return children.flatMap((list) => (list.children.length ? list.children.map(shape) : [shape(list)])); // prettier-ignore
    return Object.fromEntries(children.map((child) => [child.element.name, shape(child)]));
  };
  const root = leaves[0]?.[0];
  return { record: (root ? shape(root) : {}) as Record<string, unknown>, rows: Number(metadata.num_rows) };
}

/** Names of classes by column, from the features that Hugging Face's datasets write. */
function classNames(metadata: FileMetaData): Map<string, readonly string[]> {
  const names = new Map<string, readonly string[]>();
  const text = metadata.key_value_metadata?.find(({ key }) => key === "huggingface")?.value;
  try {
    const features: unknown = (JSON.parse(text ?? "{}") as { info?: { features?: unknown } }).info?.features;
    for (const [column, feature] of Object.entries(isObject(features) ? features : {}))
      if (isObject(feature) && Array.isArray(feature.names)) names.set(column, feature.names as string[]);
  } catch {
    // Not what datasets writes; the numbers stay.
  }
  return names;
}

export class ParquetReader {
  private readonly file: RandomAccess;
  private readonly parquet: Parquet;
  private readonly metadata: FileMetaData;
  private readonly leaves: readonly SchemaTree[][];
  /** Of each leaf, whether it is decoded. */
  private readonly isRead: readonly boolean[];
  private readonly classes: ReadonlyMap<string, readonly string[]>;
  private readonly key: string;

  private constructor(
    file: RandomAccess,
    parquet: Parquet,
    metadata: FileMetaData,
    isRead: (name: string) => boolean,
    key: string,
  ) {
    this.file = file;
    this.parquet = parquet;
    this.metadata = metadata;
    this.leaves = leavesOf(parquet.parquetSchema(metadata));
    this.isRead = this.leaves.map((path) => isRead(path[1]!.element.name));
    this.classes = classNames(metadata);
    this.key = key;
  }

  /** Columns that are ignored are not read. `hash` of the file. */
  static async open(file: RandomAccess, kind: RecordKind, spec: SourceSpec, hash: string): Promise<ParquetReader> {
    const parquet = await loadParquet();
    const metadata = await readFooter(file, parquet);
    const given = new Set(Object.values(spec.fields ?? {}).flat());
    const isRead = (name: string): boolean => given.has(name) || fieldUse(kind, name, spec.ignoredFields) !== "ignored";
    const key = `${hash} ${JSON.stringify([spec.fields, spec.ignoredFields])}`;
    return new ParquetReader(file, parquet, metadata, isRead, key);
  }

  /** Row `row` (from 0 in its group) of group `g`. Throws `RecordError` if its pages cannot be decoded. */
  async read(g: number, group: ListedGroup, row: number, place: RecordPlace): Promise<unknown> {
    const { start, end } = this.windowOf(group, row);
    const key = `${this.key} ${g} ${start}`;
    const window = kept.get(key) ?? (await inTurn(async () => kept.get(key) ?? (await this.decode(g, group, [start, end], place, key)))); // prettier-ignore
    const record = window.rows[row - start];
    const fail = (reason: string): never => {
      throw new RecordError(place.file, place.line, reason);
    };
    return Object.fromEntries(
      Object.entries(record ?? {}).map(([name, value]) => [name, this.plain(name, value, fail)]),
    );
  }

  /** Rows around a row that no page of a used column divides. */
  private windowOf({ columns, rows }: ListedGroup, row: number): { start: number; end: number } {
    let [start, end] = [0, rows];
    for (const [c, pages] of columns.entries()) {
      if (!this.isRead[c] || pages.length === 0) continue;
      const at = pageOf(pages, row);
      start = Math.max(start, pages[at]![2]);
      end = Math.min(end, pages[at + 1]?.[2] ?? rows);
    }
    return { start, end };
  }

  private async decode(
    g: number,
    { columns, rows, first }: ListedGroup,
    [start, end]: readonly [number, number],
    place: RecordPlace,
    key: string,
  ): Promise<Window> {
    // prettier-ignore
    const { parquet, metadata, file } = this;
    const rowGroup = metadata.row_groups[g]!;
    let bytes = 0;
    const chunks = rowGroup.columns.flatMap((column, c) => {
      const meta = column.meta_data!;
      const startByte = Number(meta.dictionary_page_offset || meta.data_page_offset);
      if (!this.isRead[c] || columns[c]!.length === 0) return [];
      bytes += columns[c]![pageOf(columns[c]!, start)]![1];
      const pageLocations = columns[c]!.map(([offset, length, firstRow]) => ({
        offset: BigInt(offset),
        compressed_page_size: length,
        first_row_index: BigInt(firstRow),
      }));
      const endByte = startByte + Number(meta.total_compressed_size);
      return [{ columnMetadata: meta, pageLocations, range: { startByte, endByte } }];
    });
    const options = { file: asyncBuffer(file), metadata, utf8: false, compressors: parquet.compressors, parsers: PARSERS, geoparquet: false }; // prettier-ignore
    const plan = { chunks, rowGroup, groupStart: first, selectStart: start, selectEnd: end, groupRows: rows };
    try {
      const group = parquet.readRowGroup(options, { metadata, rowStart: 0, fetches: [], groups: [] }, plan);
      const assembled = parquet.assembleAsync(group, parquet.parquetSchema(metadata), PARSERS);
      // Wait for all, so that a second failure is not left without a handler.
      await Promise.allSettled([...group.asyncColumns, ...assembled.asyncColumns].map(({ data }) => data));
      const window = { start, rows: await parquet.asyncGroupToRows(assembled, start, end, undefined, "object"), bytes };
      keep(key, window);
      return window;
    } catch (error) {
      if (error instanceof JanusError) throw error;
      throw new RecordError(
        place.file,
        place.line,
        `its page cannot be decoded (${messageOf(error)}); is the file damaged? Load it again`,
      );
    }
  }

  /** A value as JSON has it; bytes as base64. */
  private plain(column: string, value: unknown, fail: (reason: string) => never): unknown {
    const names = this.classes.get(column);
    const isClass = names && (typeof value === "bigint" || typeof value === "number");
    if (isClass) return names[Number(value)] ?? null; // −1: no class
    const convert = (item: unknown, isInImage: boolean): unknown => {
      if (item instanceof BadText) return fail(`${column} is not UTF-8; write text in UTF-8`);
      if (item instanceof Uint8Array) return isInImage ? base64(item) : bytesOf(item, column, fail);
      if (typeof item === "bigint") return Number.isSafeInteger(Number(item)) ? Number(item) : String(item);
      if (item instanceof Date) return item.toISOString();
      if (Array.isArray(item)) return item.map((one) => convert(one, false));
      if (!isObject(item)) return item ?? null;
      const isImage = "bytes" in item;
      return Object.fromEntries(Object.entries(item).map(([name, one]) => [name, convert(one, isImage)]));
    };
    return convert(value, false);
  }
}

/** Index of the page with a row. */
function pageOf(pages: readonly Page[], row: number): number {
  let [low, high] = [0, pages.length - 1];
  while (low < high) {
    const middle = (low + high + 1) >> 1;
    if (pages[middle]![2] <= row) low = middle;
    else high = middle - 1;
  }
  return low;
}

const strict = new TextDecoder("utf-8", { fatal: true });

/** One bad text must not spoil the other rows of its page. */
function textOf(bytes: Uint8Array): string | BadText {
  try {
    return strict.decode(bytes);
  } catch {
    return new BadText();
  }
}

const PARSERS = { stringFromBytes: (bytes: Uint8Array | undefined) => bytes && textOf(bytes) };

const base64 = (bytes: Uint8Array): string => Buffer.from(bytes.buffer, bytes.byteOffset, bytes.length).toString("base64"); // prettier-ignore

/** Bytes outside of an image column: text of writers that do not mark it, else an image. */
function bytesOf(bytes: Uint8Array, column: string, fail: (reason: string) => never): string {
  const text = textOf(bytes);
  if (typeof text === "string" && !text.includes("\0")) return text;
  return bytes.length === 0 ? fail(`${column} is empty`) : `data:;base64,${base64(bytes)}`;
}
