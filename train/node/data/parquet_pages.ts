/**
 * Where the pages of a Parquet file are and which rows they have, so that a row is read by decoding one page of each column. Files rarely say
 * it themselves (the page index is optional), so one pass over the headers of the pages finds it: for each row group a line `{first, rows,
 * columns: [[offset, bytes, first row], …]}` in the listing.
 */
import type { Compressors, FileMetaData, SchemaTree } from "hyparquet";
import type { RandomAccess } from "../../../model/io/bytes.ts";
import { JanusError, messageOf } from "../../../engine/errors.ts";
import { SourceError } from "../../data/errors.ts";

/** The parts of hyparquet (MIT, no dependencies) that are used, loaded by the first Parquet file. */
export async function loadParquet() {
  const [metadata, column, rowGroup, schema, encoding, { compressors }] = await Promise.all([
    import("hyparquet/src/metadata.js"),
    import("hyparquet/src/column.js"),
    import("hyparquet/src/rowgroup.js"),
    import("hyparquet/src/schema.js"),
    import("hyparquet/src/encoding.js"),
    import("hyparquet-compressors"),
  ]);
  return { ...metadata, ...column, ...rowGroup, ...schema, ...encoding, compressors: compressors as Compressors };
}

export type Parquet = Awaited<ReturnType<typeof loadParquet>>;

/** Bytes of a page before it was compressed: usually 1 MB; pyarrow puts up to 1,024 images into one. */
const MAX_PAGE = 2 ** 30;
/** Values of a page; a column with one value throughout has all its rows in one. */
const MAX_VALUES = 2 ** 24;
/** Bytes that are read for a page's header; more only if it is longer. */
const HEADER_BYTES = 512;
const MAX_HEADER = 2 ** 20;
const MAX_FOOTER = 64 * 2 ** 20;

/** A page: its position, its bytes with the header, and its first row in the row group. */
export type Page = readonly [offset: number, bytes: number, firstRow: number];

/** A line of the listing. */
export interface ListedGroup {
  /** First row of the group in the file. */
  readonly first: number;
  readonly rows: number;
  /** Pages with rows of each leaf column, in the order of the file's footer. */
  readonly columns: readonly (readonly Page[])[];
}

/** A file as hyparquet reads it. */
export const asyncBuffer = (
  file: RandomAccess,
): { byteLength: number; slice(start: number, end?: number): Promise<ArrayBuffer> } => ({
  byteLength: file.size,
  // A new array of exactly these bytes.
  slice: async (start, end = file.size) => (await file.read(start, end - start, new Uint8Array(end - start))).buffer as ArrayBuffer, // prettier-ignore
});

const damaged = (file: RandomAccess, why: string): SourceError =>
  new SourceError(`${file.name} is damaged or cut off: ${why}. Load it again`);

/** The footer of a file. Throws `SourceError` if it cannot be read. */
export async function readFooter(file: RandomAccess, parquet: Parquet): Promise<FileMetaData> {
  const tail = file.size >= 12 ? Buffer.from(await file.read(file.size - 8, 8)) : Buffer.alloc(8);
  const mark = tail.toString("latin1", 4);
  if (mark === "PARE") throw new SourceError(`${file.name} is an encrypted Parquet file; write it without encryption`);
  if (mark !== "PAR1") throw damaged(file, "it does not end with PAR1");
  if (tail.readUInt32LE(0) > MAX_FOOTER) throw damaged(file, `a footer of ${tail.readUInt32LE(0)} bytes`);
  try {
    return await parquet.parquetMetadataAsync(asyncBuffer(file), { geoparquet: false });
  } catch (error) {
    if (error instanceof JanusError) throw error;
    throw damaged(file, `its footer cannot be read (${messageOf(error)})`);
  }
}

/** The leaf columns of a schema, with what stands above each, the root first. */
export function leavesOf(tree: SchemaTree, above: readonly SchemaTree[] = []): SchemaTree[][] {
  const path = [...above, tree];
  return tree.children.length === 0 ? [path] : tree.children.flatMap((child) => leavesOf(child, path));
}

class GroupLister {
  private readonly file: RandomAccess;
  private readonly parquet: Parquet;
  private readonly leaves: readonly SchemaTree[][];

  constructor(file: RandomAccess, parquet: Parquet, metadata: FileMetaData) {
    this.file = file;
    this.parquet = parquet;
    this.leaves = leavesOf(parquet.parquetSchema(metadata));
  }

  async group({ columns, num_rows }: FileMetaData["row_groups"][number], first: number): Promise<ListedGroup> {
    const rows = Number(num_rows);
    if (columns.length !== this.leaves.length) throw damaged(this.file, "a row group lacks columns");
    const listed: Page[][] = [];
    for (const [c, column] of columns.entries()) listed.push(await this.pages(column, this.leaves[c]!, rows));
    return { first, rows, columns: listed };
  }

  private async pages(
    { meta_data: meta, file_path: path }: FileMetaData["row_groups"][number]["columns"][number],
    leaf: readonly SchemaTree[],
    rows: number,
  ): Promise<Page[]> {
    const { file } = this;
    if (path !== undefined || !meta) throw new SourceError(`${file.name} has columns in other files; write it as one`);
    const start = Number(meta.dictionary_page_offset || meta.data_page_offset);
    const end = start + Number(meta.total_compressed_size);
    if (!(start >= 4 && end <= file.size)) throw damaged(file, `a column at byte ${start} to ${end}`);
    const pages: Page[] = [];
    const total = Number(meta.num_values);
    let [row, values] = [0, 0];
    // Not until all rows have begun: the last one may continue on another page.
    for (let at = start; at < end && values < total;) {
      const { header, bytes } = await this.header(at, end);
      const [body, whole] = [at + bytes, bytes + header.compressed_page_size];
      if (at + whole > end) throw damaged(file, `a page at byte ${at} is longer than its column`);
      const isData = header.type === "DATA_PAGE" || header.type === "DATA_PAGE_V2";
      if (isData) {
        const found = await this.rowsOf(header, body, leaf, meta.codec);
        // A page may begin inside of a row; then it is read with the page before it.
        const last = pages.at(-1);
        if (found.isInside && last) pages[pages.length - 1] = [last[0], at + whole - last[0], last[2]];
        else pages.push([at, whole, row]);
        row += found.rows;
        values += (header.data_page_header ?? header.data_page_header_v2)?.num_values ?? 0;
      }
      at += whole;
    }
    if (row !== rows) throw damaged(file, `${leaf.at(-1)!.path.join(".")} has ${row} of ${rows} rows`);
    return pages;
  }

  private async header(
    at: number,
    end: number,
  ): Promise<{ header: ReturnType<Parquet["parquetHeader"]>; bytes: number }> {
    for (let length = HEADER_BYTES; ; length *= 8) {
      const part = await this.file.read(at, Math.min(length, end - at), new Uint8Array(Math.min(length, end - at)));
      const reader = { view: new DataView(part.buffer, part.byteOffset, part.length), offset: 0 };
      try {
        const header = this.parquet.parquetHeader(reader);
        this.check(header, at);
        return { header, bytes: reader.offset };
      } catch (error) {
        if (error instanceof SourceError) throw error;
        if (at + length < end && length < MAX_HEADER) continue;
        throw damaged(this.file, `no page begins at byte ${at} (${messageOf(error)})`);
      }
    }
  }

  /** Sizes are taken from the file, and memory is allocated by them: refuse a bomb. */
  private check(header: ReturnType<Parquet["parquetHeader"]>, at: number): void {
    const { compressed_page_size: stored, uncompressed_page_size: size, type } = header;
    const values = (header.data_page_header ?? header.data_page_header_v2 ?? header.dictionary_page_header)?.num_values;
    if (type === undefined || !(stored >= 0) || !(size >= 0) || !((values ?? 0) >= 0))
      throw damaged(this.file, `no page begins at byte ${at}`);
    if (size > MAX_PAGE || (values ?? 0) > MAX_VALUES)
      throw new SourceError(
        `${this.file.name}: a page at byte ${at} has ${values} values in ${size} bytes; at most ${MAX_VALUES} in ${MAX_PAGE} are read. Write the file with smaller pages`,
      );
  }

  /** Rows that begin in a page, and whether it begins inside of a row. */
  private async rowsOf(
    {
      data_page_header: v1,
      data_page_header_v2: v2,
      compressed_page_size: stored,
      uncompressed_page_size: size,
    }: ReturnType<Parquet["parquetHeader"]>,
    body: number,
    leaf: readonly SchemaTree[],
    codec: string,
  ): Promise<{ rows: number; isInside: boolean }> {
    const most = this.parquet.getMaxRepetitionLevel([...leaf]);
    if (v2) return { rows: v2.num_rows, isInside: false };
    if (!v1) throw damaged(this.file, `a page at byte ${body} without a header`);
    if (most === 0) return { rows: v1.num_values, isInside: false };
    const bytes = await this.file.read(body, stored, new Uint8Array(stored));
    try {
      const page = this.unpacked(bytes, size, codec);
      const levels = new Array<number>(v1.num_values);
      const reader = { view: new DataView(page.buffer, page.byteOffset, page.byteLength), offset: 0 };
      this.parquet.readRleBitPackedHybrid(reader, Math.ceil(Math.log2(most + 1)), levels);
      return { rows: levels.filter((level) => level === 0).length, isInside: levels[0] !== 0 };
    } catch (error) {
      throw damaged(this.file, `a page at byte ${body} cannot be unpacked (${messageOf(error)})`);
    }
  }

  private unpacked(bytes: Uint8Array, size: number, codec: string): Uint8Array {
    if (codec === "UNCOMPRESSED") return bytes;
    const unpack = this.parquet.compressors[codec as keyof Compressors];
    if (!unpack) throw new RangeError(`compressed by ${codec}`);
    return unpack(bytes, size);
  }
}

/** The pages of each row group, in order. Throws `SourceError` for files that are damaged, cut off or bombs. */
export async function* listGroups(
  file: RandomAccess,
  parquet: Parquet,
  metadata: FileMetaData,
  signal?: AbortSignal,
): AsyncGenerator<ListedGroup> {
  const lister = new GroupLister(file, parquet, metadata);
  let first = 0;
  for (const group of metadata.row_groups) {
    signal?.throwIfAborted();
    yield await lister.group(group, first);
    first += Number(group.num_rows);
  }
  if (first !== Number(metadata.num_rows))
    throw damaged(file, `its row groups have ${first} rows, the footer says ${metadata.num_rows}`);
}
