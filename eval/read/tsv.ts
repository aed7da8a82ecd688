/** TSV as VLMEvalKit writes it: a header, images as base64 text, several as a Python list. */
import { createHash } from "node:crypto";
import { openFile } from "../../model/node/files.ts";
import { EvalDataError } from "../errors.ts";
import { cellText, delimitedRecords } from "./delimited.ts";
import type { Cell } from "./delimited.ts";
import { MAX_REFERENCE, keyOf, pythonList } from "./table.ts";
import type { ImageCell, RawRow, Table, TableOptions } from "./table.ts";
import type { RandomAccess } from "../../model/io/bytes.ts";

/** Throws `EvalDataError` for a file without a header, with a column twice, or with a row of another length. */
export async function openTsv(path: string, { images, maxRecord }: TableOptions): Promise<Table> {
  const file = await openFile(path);
  try {
    const hash = createHash("md5");
    let columns: string[] | null = null;
    const rows: RawRow[] = [];
    for await (const { at, cells } of delimitedRecords(file, {
      delimiter: "\t",
      hash,
      ...(maxRecord && { maxRecord }),
    })) {
      const where = `${path}, row ${at - 1}`;
      if (!columns) {
        columns = header(path, cells);
        continue;
      }
      if (cells.length !== columns.length)
        throw new EvalDataError(`${where}: a row must have ${columns.length} cells, as the header; got ${cells.length}. The file is cut off, or a quote is missing`); // prettier-ignore
      rows.push(row(file, columns, images, { at: at - 1, cells, where }));
    }
    if (!columns) throw new EvalDataError(`${path}: a header and rows are required; got an empty file`);
    return { path, md5: hash.digest("hex"), columns, rows, close: async () => file.close?.() };
  } catch (error) {
    await file.close?.();
    throw error;
  }
}

function header(path: string, cells: readonly Cell[]): string[] {
  const columns = cells.map(({ bytes, isQuoted }) => cellText(bytes, isQuoted, path));
  const twice = columns.find((name, i) => columns.indexOf(name) !== i);
  if (twice !== undefined)
    throw new EvalDataError(`${path}: column names must differ; got ${JSON.stringify(twice)} twice`);
  return columns;
}

function row(
  file: RandomAccess,
  columns: readonly string[],
  imageColumns: readonly string[],
  { at, cells, where }: { at: number; cells: readonly Cell[]; where: string },
): RawRow {
  const fields = new Map<string, string>();
  const images: ImageCell[] = [];
  for (const [i, cell] of cells.entries()) {
    const name = columns[i]!;
    if (imageColumns.includes(name)) images.push(...imageCells(file, cell, where));
    else fields.set(name, cellText(cell.bytes, cell.isQuoted, where));
  }
  return { at, fields, images };
}

/** The images of a cell: none, one, or those of a list. */
function imageCells(file: RandomAccess, { offset, bytes, isQuoted }: Cell, where: string): ImageCell[] {
  if (bytes.length === 0) return [];
  const length = bytes.length;
  const again = async (): Promise<string> => cellText(Buffer.from(await file.read(offset, length)), isQuoted, where);
  const isList = bytes[0] === 0x5b;
  if (!isList) {
    const short = length <= MAX_REFERENCE ? cellText(bytes, isQuoted, where) : null;
    return [{ key: keyOf(bytes), short, load: again }];
  }
  const parts = pythonList(cellText(bytes, isQuoted, where));
  if (!parts) return [{ key: keyOf(bytes), short: null, load: again }]; // refused as bad base64
  return parts.map((part, k) => ({
    key: keyOf(part),
    short: part.length <= MAX_REFERENCE ? part : null,
    load: async () => pythonList(await again())![k]!,
  }));
}
