/** CSV and TSV: the header, and a record as an object by columns. Which bytes are a record is scan.ts. */
import { RecordError, SourceError } from "../../data/errors.ts";
import { messageOf } from "../../../engine/errors.ts";
import type { CsvHeader } from "./index_format.ts";
import type { RecordPlace } from "./sources.ts";

/** csv-parse (MIT, no dependencies), loaded by the first CSV file. */
let parser: Promise<typeof import("csv-parse/sync")> | undefined;

/** Cells of one record. Throws what csv-parse throws, e.g. for text behind a closing quote. */
async function cellsOf(text: string, delimiter: string): Promise<string[]> {
  const { parse } = await (parser ??= import("csv-parse/sync"));
  // The line feed of a line end is not part of a record, but the carriage return before it is.
  const record = text.endsWith("\r") ? text.slice(0, -1) : text;
  // A quote inside of an unquoted cell stands for itself, as in files that were written without quoting.
  const rows = parse(record, { delimiter, relax_quotes: true, relax_column_count: true, record_delimiter: "\n" }); // prettier-ignore
  if (rows.length !== 1) throw new RangeError(`${rows.length} records in place of one`);
  return rows[0]!;
}

/** Whether a name says that its file is CSV or TSV. */
export const isCsvName = (path: string): boolean => /\.(csv|tsv|tab)$/i.test(path);

function delimiterOf(path: string, header: string): string {
  if (!/\.csv$/i.test(path)) return "\t";
  return header.includes(",") ? "," : header.includes(";") ? ";" : header.includes("\t") ? "\t" : ",";
}

/** The header of a file. Throws `SourceError` for names that stand twice. */
export async function readHeader(path: string, bytes: Uint8Array): Promise<CsvHeader> {
  const text = new TextDecoder().decode(bytes); // without a byte order mark
  const delimiter = delimiterOf(path, text);
  let cells: string[];
  try {
    cells = await cellsOf(text, delimiter);
  } catch (error) {
    throw new SourceError(`${path}: the first line must name the columns; it cannot be read (${messageOf(error)})`);
  }
  // Tables of pandas have a first column without a name.
  const columns = cells.map((cell, i) => cell.trim() || `column ${i + 1}`);
  const twice = columns.find((name, i) => columns.indexOf(name) !== i);
  if (twice !== undefined)
    throw new SourceError(`${path}: two columns have the name ${JSON.stringify(twice)}; rename one of them`);
  return { columns, delimiter };
}

/** A record by columns; empty cells are left out. Throws `RecordError`. */
export async function parseCsv(bytes: Uint8Array, header: CsvHeader, place: RecordPlace): Promise<object> {
  const fail = (reason: string): never => {
    throw new RecordError(place.file, place.line, reason);
  };
  let cells: string[];
  try {
    cells = await cellsOf(new TextDecoder("utf-8", { fatal: true }).decode(bytes), header.delimiter);
  } catch (error) {
    if (error instanceof TypeError) return fail("the record is not UTF-8; write the file in UTF-8");
    return fail(`the record is not CSV (${messageOf(error)}); put cells with quotes or line ends between quotes`);
  }
  const { columns } = header;
  if (cells.length !== columns.length)
    return fail(`the record has ${cells.length} cells and the header ${columns.length}; put cells with a ${header.delimiter === "\t" ? "tab" : `"${header.delimiter}"`} between quotes`); // prettier-ignore
  return Object.fromEntries(columns.flatMap((name, i) => (cells[i] === "" ? [] : [[name, cells[i]]])));
}
