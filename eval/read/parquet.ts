/** Parquet files of the Hugging Face hub: texts, and images as `struct<bytes, path>` or lists of them. Row groups are read one at a time. */
import { createHash } from "node:crypto";
import { parquetMetadataAsync, parquetReadObjects } from "hyparquet";
import type { AsyncBuffer, FileMetaData } from "hyparquet";
import { compressors } from "hyparquet-compressors";
import { messageOf } from "../../engine/errors.ts";
import { openFile } from "../../model/node/files.ts";
import { isObject } from "../../model/io/unknown.ts";
import type { RandomAccess } from "../../model/io/bytes.ts";
import { EvalDataError } from "../errors.ts";
import { MAX_REFERENCE, isStruct, keyOf } from "./table.ts";
import type { ImageCell, RawRow, Table, TableOptions } from "./table.ts";

const CHUNK = 8 * 2 ** 20; // bytes

async function md5Of(file: RandomAccess): Promise<string> {
  const hash = createHash("md5");
  for (let at = 0; at < file.size; at += CHUNK) hash.update(await file.read(at, Math.min(CHUNK, file.size - at)));
  return hash.digest("hex");
}

/** Row groups of a file; the images of the last one that was asked for stay in memory. */
class Groups {
  readonly starts: readonly number[];
  private readonly buffer: AsyncBuffer;
  private readonly metadata: FileMetaData;
  private readonly columns: readonly string[];
  private last: { group: number; rows: Promise<Record<string, unknown>[]> } | null = null;

  constructor(buffer: AsyncBuffer, metadata: FileMetaData, columns: readonly string[]) {
    this.buffer = buffer;
    this.metadata = metadata;
    this.columns = columns;
    let row = 0;
    this.starts = [
      ...metadata.row_groups.map((group) => (row += Number(group.num_rows)) - Number(group.num_rows)),
      row,
    ];
  }

  read(group: number, columns: readonly string[]): Promise<Record<string, unknown>[]> {
    return parquetReadObjects({
      file: this.buffer,
      metadata: this.metadata,
      columns: [...columns],
      rowStart: this.starts[group]!,
      rowEnd: this.starts[group + 1]!,
      compressors,
      utf8: false,
    });
  }

  images(group: number): Promise<Record<string, unknown>[]> {
    if (this.last?.group !== group) this.last = { group, rows: this.read(group, this.columns) };
    return this.last.rows;
  }
}

/** Throws `EvalDataError` for what is no parquet file or uses a codec that is not known. */
export async function openParquet(path: string, { images }: TableOptions): Promise<Table> {
  const file = await openFile(path);
  try {
    const slice = async (start: number, end = file.size): Promise<ArrayBuffer> => {
      const bytes = await file.read(start, end - start);
      return bytes.buffer.slice(bytes.byteOffset, bytes.byteOffset + bytes.byteLength) as ArrayBuffer;
    };
    const buffer: AsyncBuffer = { byteLength: file.size, slice };
    const { columns, rows } = await readRows(buffer, images);
    return { path, md5: await md5Of(file), columns, rows, close: async () => file.close?.() };
  } catch (error) {
    await file.close?.();
    if (error instanceof Error && !("code" in error) && !(error instanceof EvalDataError))
      throw new EvalDataError(`${path}: a Parquet file is required; ${messageOf(error)}. Download it again`);
    throw error;
  }
}

async function readRows(buffer: AsyncBuffer, images: readonly string[]): Promise<Pick<Table, "columns" | "rows">> {
  const metadata = await parquetMetadataAsync(buffer);
  // The first element of the schema is its root; its children are the columns.
  const columns = topColumns(metadata);
  const own = images.filter((name) => columns.includes(name));
  const groups = new Groups(buffer, metadata, own);
  const rows: RawRow[] = [];
  for (let group = 0; group + 1 < groups.starts.length; group++) {
    for (const [r, values] of (await groups.read(group, columns)).entries()) {
      const fields = new Map<string, string>();
      const cells: ImageCell[] = [];
      for (const [name, value] of Object.entries(values)) {
        if (own.includes(name))
          cells.push(...imageCells(value, async (k) => contents((await groups.images(group))[r]![name])[k]!)); // prettier-ignore
        else if (value !== null && value !== undefined && !isStruct(value)) fields.set(name, text(value));
      }
      rows.push({ at: rows.length + 1, fields, images: cells });
    }
  }
  return { columns, rows };
}

function topColumns({ schema }: FileMetaData): string[] {
  const names: string[] = [];
  let at = 1;
  const skip = (): void => {
    const { num_children: children = 0 } = schema[at++]!;
    for (let i = 0; i < children; i++) skip();
  };
  while (at < schema.length) {
    names.push(schema[at]!.name);
    skip();
  }
  return names;
}

function text(value: unknown): string {
  if (typeof value === "string") return value;
  if (value instanceof Uint8Array) return new TextDecoder().decode(value);
  return JSON.stringify(value, (_, one: unknown) => (typeof one === "bigint" ? Number(one) : one)) ?? "";
}

/** The contents of an image column: bytes, or a text (base64, or the id of another row). */
function contents(value: unknown): (string | Uint8Array)[] {
  if (value === null || value === undefined) return [];
  if (Array.isArray(value)) return value.flatMap(contents);
  if (value instanceof Uint8Array || typeof value === "string") return [value];
  if (!isObject(value)) return [""];
  const { bytes, path } = value;
  if (bytes === null || bytes === undefined) return typeof path === "string" ? [path] : [""];
  return contents(bytes);
}

const imageCells = (value: unknown, load: (k: number) => Promise<string | Uint8Array>): ImageCell[] =>
  contents(value).map((content, k) => ({
    key: keyOf(content),
    short: typeof content === "string" && content.length <= MAX_REFERENCE ? content : null,
    load: () => load(k),
  }));
