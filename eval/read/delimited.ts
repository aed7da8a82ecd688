/**
 * Records of TSV and CSV files with cells of many megabytes, without holding the file: cells are found with
 * `Buffer.indexOf`, some hundred times as fast as parsers that look at each character. Quoting as pandas reads it: a
 * cell is quoted if its first character is a quote; quotes inside other cells stand for themselves.
 */
import type { Hash } from "node:crypto";
import type { RandomAccess } from "../../model/io/bytes.ts";
import { notContent } from "../../model/io/small_file.ts";
import { EvalDataError } from "../errors.ts";

/** A cell in its file. */
export interface Cell {
  readonly offset: number;
  /** Its bytes, without the quotes around it. Valid until the next record. */
  readonly bytes: Buffer;
  readonly isQuoted: boolean;
}

export interface DelimitedRecord {
  /** From 1, the header included. */
  readonly at: number;
  readonly cells: readonly Cell[];
}

const QUOTE = 0x22;
const NEWLINE = 0x0a;
const RETURN = 0x0d;
const WINDOW = 4 * 2 ** 20; // bytes
/** Longest record, bytes: V8's strings end at 512 MiB. */
const MAX_RECORD = 256 * 2 ** 20;

/** Text of a cell. Throws `EvalDataError` if it is not UTF-8. */
export function cellText(bytes: Buffer, isQuoted: boolean, where: string): string {
  let text: string;
  try {
    text = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(bytes);
  } catch {
    throw new EvalDataError(`${where}: the text must be UTF-8; got other bytes. Convert the file`);
  }
  return isQuoted ? text.replaceAll('""', '"') : text;
}

/**
 * The cells of the record at `from` and where the next one begins; null if the record does not end in `buffer`. Throws
 * `EvalDataError` for text behind the quote that ends a cell.
 */
function cut(
  buffer: Buffer,
  { from, isLast, where }: { from: number; isLast: boolean; where: string },
  delimiter: number,
): { cells: Cell[]; next: number } | null {
  const cells: Cell[] = [];
  let newline = -1; // the next one at or behind `at`, found once per record
  for (let at = from; ;) {
    let [start, stop] = [at, at];
    const isQuoted = buffer[at] === QUOTE;
    if (isQuoted) {
      start = at + 1;
      for (stop = buffer.indexOf(QUOTE, start); buffer[stop + 1] === QUOTE && stop >= 0;)
        stop = buffer.indexOf(QUOTE, stop + 2);
      // A quote as the last byte may be the first half of a pair.
      if (stop < 0 || (stop + 1 === buffer.length && !isLast)) return null;
      at = stop + 1;
    }
    const next = buffer.indexOf(delimiter, at);
    if (newline < at) newline = buffer.indexOf(NEWLINE, at);
    const isCell = next >= 0 && (newline < 0 || next < newline);
    if (!isCell && newline < 0 && !isLast) return null;
    const close = isCell ? next : newline < 0 ? buffer.length : newline;
    const end = !isCell && buffer[close - 1] === RETURN && close > at ? close - 1 : close;
    if (isQuoted && end > at)
      throw new EvalDataError(`${where}: a quote inside a quoted cell must be doubled; got ${JSON.stringify(buffer.toString("utf8", at, Math.min(end, at + 40)))} behind a closing one`); // prettier-ignore
    if (!isQuoted) stop = end;
    cells.push({ offset: start, bytes: buffer.subarray(start, stop), isQuoted });
    if (!isCell) return { cells, next: close + 1 };
    at = next + 1;
  }
}

export interface DelimitedOptions {
  readonly delimiter: "\t" | ",";
  /** Gets all bytes of the file in order. */
  readonly hash?: Hash;
  readonly maxRecord?: number;
}

/** The records of a file. Throws `EvalDataError` for a record without an end or longer than `maxRecord`. */
export async function* delimitedRecords(
  file: RandomAccess,
  { delimiter, hash, maxRecord = MAX_RECORD }: DelimitedOptions,
): AsyncGenerator<DelimitedRecord> {
  const code = delimiter.charCodeAt(0);
  let buffer = Buffer.alloc(0);
  let [base, position, at] = [0, 0, 0]; // offset of the buffer in the file; of the next record in it; records so far
  for (let read = 0; ;) {
    const isLast = read === file.size;
    const where = `${file.name}, record ${at + 1}`;
    const record = position < buffer.length ? cut(buffer, { from: position, isLast, where }, code) : null;
    if (record) {
      position = record.next;
      const isEmpty = record.cells.length === 1 && record.cells[0]!.bytes.length === 0 && !record.cells[0]!.isQuoted;
      if (!isEmpty) yield { at: ++at, cells: record.cells.map((cell) => ({ ...cell, offset: base + cell.offset })) };
      continue;
    }
    if (isLast && position < buffer.length)
      throw new EvalDataError(`${where}: a quoted cell must end; got the end of the file. The file is cut off or damaged`); // prettier-ignore
    if (isLast) return;
    if (buffer.length - position > maxRecord)
      throw new EvalDataError(`${where}: a record must have at most ${maxRecord} bytes; got more. A quote is missing, or the image is too large`); // prettier-ignore
    const bytes = await file.read(read, Math.min(Math.max(WINDOW, buffer.length - position), file.size - read));
    hash?.update(bytes);
    const isFirst = read === 0;
    read += bytes.length;
    base += position;
    buffer = Buffer.concat([buffer.subarray(position), bytes]);
    position = 0;
    if (!isFirst) continue;
    const problem = notContent(buffer);
    if (problem) throw new EvalDataError(`${file.name} ${problem}`);
    if (buffer.subarray(0, 3).equals(Buffer.from([0xef, 0xbb, 0xbf]))) position = 3;
  }
}
