/**
 * One pass over a file of text: its hash and the positions of its records, a chunk at a time. Records are lines (JSONL), the elements of a list
 * (JSON), or lines of which those between quotes belong together (CSV).
 */
import { createHash } from "node:crypto";
import type { ByteSink } from "../../../model/io/bytes.ts";
import { notContent, withoutMark } from "../../../model/io/small_file.ts";
import { SourceError } from "../../data/errors.ts";
import { isCsvName, readHeader } from "./csv.ts";
import type { RecordKind } from "./fields.ts";
import { EntryWriter, INDEX_VERSION, MAX_LINES, MAX_RECORD, RecordLook, chunksOf } from "./index_format.ts";
import type { CsvHeader, Footer, ScanOptions, SourceFormat } from "./index_format.ts";
import type { FieldNames } from "./sources.ts";

type TextFormat = Extract<SourceFormat, "jsonl" | "json" | "csv">;

const [NEWLINE, QUOTE, BACKSLASH, COMMA] = [0x0a, 0x22, 0x5c, 0x2c];
const [OPEN_LIST, CLOSE_LIST, OPEN_OBJECT, CLOSE_OBJECT] = [0x5b, 0x5d, 0x7b, 0x7d];
/** Bytes of a byte order mark. */
const MARK_BYTES = 3;
const isSpace = (byte: number): boolean => byte === 0x20 || (byte >= 0x09 && byte <= 0x0d);

/** Finds the ends of records: is shown bytes in order and returns the index of the first one that ends a record, else −1. */
interface Splitter {
  end(chunk: Uint8Array, from: number): number;
  /** Throws `SourceError` if the file must not end here, in a record that begins at `line`. */
  finish(line: number): void;
}

const lines: Splitter = { end: (chunk, from) => chunk.indexOf(NEWLINE, from), finish: () => undefined };

/** Position in a cell of CSV: at its start, in plain text, between quotes, behind a quote that may close it. */
type CellState = "start" | "plain" | "quoted" | "closed";

/** A quote opens a cell only at its start; a second quote behind a closing one is a quote in the text. */
function nextState(state: CellState, byte: number, delimiter: number): CellState {
  if (state === "quoted") return byte === QUOTE ? "closed" : "quoted";
  if (byte === NEWLINE || byte === delimiter) return "start";
  return byte === QUOTE && state !== "plain" ? "quoted" : "plain";
}

/** Line ends between quotes belong to a cell. */
class CsvSplitter implements Splitter {
  delimiter = COMMA;
  private readonly path: string;
  private state: CellState = "start";

  constructor(path: string) {
    this.path = path;
  }

  end(chunk: Uint8Array, from: number): number {
    for (let i = from; i < chunk.length; i++) {
      this.state = nextState(this.state, chunk[i]!, this.delimiter);
      if (this.state === "start" && chunk[i] === NEWLINE) return i;
    }
    return -1;
  }

  finish(line: number): void {
    if (this.state === "quoted")
      throw new SourceError(
        `${this.path}:${line}: a cell that begins with a quote does not end before the file does; close the quote, or put the cell between quotes with its own quotes doubled`,
      );
  }
}

/** The elements of one JSON list. The brackets and commas between them are no part of a record. */
class ListSplitter implements Splitter {
  private readonly path: string;
  private depth = 0;
  private isOpened = false;
  private isText = false;
  private isEscaped = false;

  constructor(path: string) {
    this.path = path;
  }

  end(chunk: Uint8Array, from: number): number {
    for (let i = from; i < chunk.length; i++) {
      const byte = chunk[i]!;
      if (this.depth === 0 && this.isOpened && !isSpace(byte))
        throw new SourceError(`${this.path}: there is text behind its JSON list; it must be one list`);
      if (this.isText) {
        if (this.isEscaped) this.isEscaped = false;
        else if (byte === BACKSLASH) this.isEscaped = true;
        else if (byte === QUOTE) this.isText = false;
      } else if (byte === QUOTE) this.isText = true;
      else if (byte === OPEN_LIST || byte === OPEN_OBJECT) {
        this.isOpened = true;
        if (this.depth++ === 0) return i;
      } else if (byte === CLOSE_LIST || byte === CLOSE_OBJECT) {
        if (--this.depth === 0) return i;
      } else if (byte === COMMA && this.depth === 1) return i;
    }
    return -1;
  }

  finish(): void {
    if (this.depth > 0) throw new SourceError(`${this.path} is cut off: its JSON list does not end. Load it again`);
  }
}

/** Positions of records that are not blank, and their fields, gathered from chunks. */
class TextRecords {
  header: CsvHeader | undefined;
  readonly look: RecordLook;
  readonly entries: EntryWriter;
  private readonly path: string;
  private readonly splitter: Splitter;
  private readonly isCsv: boolean;
  private readonly isListing: boolean;
  private offset = 0;
  private start = 0;
  private line = 1;
  /** Line of the record's first byte that is no space. */
  private firstLine = 0;
  private parts: Uint8Array[] = [];

  constructor(path: string, format: TextFormat, sink: ByteSink, { names, kind }: TextOptions) {
    this.path = path;
    this.entries = new EntryWriter(sink);
    this.look = new RecordLook(names);
    this.look.kind = kind;
    this.isListing = kind !== undefined;
    this.isCsv = format === "csv";
    this.splitter = format === "csv" ? new CsvSplitter(path) : format === "json" ? new ListSplitter(path) : lines;
  }

  async push(chunk: Uint8Array): Promise<void> {
    const isMarked = this.offset === 0 && this.splitter instanceof ListSplitter && withoutMark(chunk) !== chunk;
    if (isMarked) this.offset = this.start = MARK_BYTES;
    for (let at = isMarked ? MARK_BYTES : 0; at < chunk.length;) {
      const found = this.splitter.end(chunk, at);
      const end = found < 0 ? chunk.length : found;
      this.passLines(chunk, at, end);
      if (!this.isListing || this.isCsv) this.parts.push(chunk.slice(at, end));
      if (this.offset + end - at - this.start > MAX_RECORD)
        throw new SourceError(
          `${this.path}:${this.firstLine || this.line}: the record is longer than ${MAX_RECORD} bytes; is it one record a line?`,
        );
      this.offset += end - at;
      if (found >= 0) {
        await this.endRecord();
        this.offset++;
        this.start = this.offset;
        if (chunk[found] === NEWLINE) this.line++;
      }
      at = end + 1;
    }
  }

  async finish(): Promise<void> {
    this.splitter.finish(this.firstLine);
    await this.endRecord();
    await this.entries.flush();
  }

  /** Counts the lines of a part of a record. */
  private passLines(chunk: Uint8Array, from: number, end: number): void {
    for (let i = from; i < end && this.firstLine === 0; i++) {
      if (chunk[i] === NEWLINE) this.line++;
      else if (!isSpace(chunk[i]!)) {
        this.firstLine = this.line;
        from = i;
      }
    }
    if (this.firstLine === 0 || this.splitter === lines) return;
    for (let i = chunk.indexOf(NEWLINE, from); i >= 0 && i < end; i = chunk.indexOf(NEWLINE, i + 1)) this.line++;
  }

  private async endRecord(): Promise<void> {
    const line = this.firstLine;
    const bytes = Buffer.concat(this.parts);
    this.parts = [];
    this.firstLine = 0;
    if (line === 0) return;
    if (this.line > MAX_LINES) throw new SourceError(`${this.path} has more than ${MAX_LINES} lines; split it`);
    if (this.isCsv && !this.header) {
      this.header = await readHeader(this.path, bytes);
      (this.splitter as CsvSplitter).delimiter = this.header.delimiter.charCodeAt(0);
      return;
    }
    this.see(bytes);
    await this.entries.add({ offset: this.start, length: this.offset - this.start, line });
  }

  private see(bytes: Uint8Array): void {
    if (this.isListing) return;
    if (this.header) return this.seeCells(bytes, this.header);
    let record: unknown;
    try {
      record = JSON.parse(new TextDecoder().decode(bytes)); // without a byte order mark
    } catch {
      // A bad record; reading it reports it.
    }
    this.look.add(record);
  }

  /** Which cells have something in them: enough to know the fields, and much quicker than their texts. */
  private seeCells(bytes: Uint8Array, { columns, delimiter }: CsvHeader): void {
    const record: Record<string, string> = {};
    let [column, from, state] = [0, 0, "start" as CellState];
    for (let i = 0; i <= bytes.length; i++) {
      if (i < bytes.length) state = nextState(state, bytes[i]!, delimiter.charCodeAt(0));
      if (i < bytes.length && state !== "start") continue;
      const cell = String.fromCharCode(...bytes.subarray(from, Math.min(i, from + 3)));
      if (!["", "\r", '""', '""\r'].includes(cell) && column < columns.length)
        record[columns[column]!] = columns[column]!;
      column++;
      from = i + 1;
    }
    this.look.add(record);
  }
}

/** First bytes of files that are often given for a source. */
const OTHER_FORMATS: readonly (readonly [head: string, name: string, todo: string])[] = [
  ["\x1f\x8b", "compressed by gzip", "unpack it with gunzip"],
  ["\x28\xb5\x2f\xfd", "compressed by zstd", "unpack it with unzstd"],
  ["BZh", "compressed by bzip2", "unpack it with bunzip2"],
  ["\xfd7zXZ", "compressed by xz", "unpack it with unxz"],
  ["ARROW1", "Arrow", "write its rows as Parquet"],
  ["PK\x03\x04", "a zip archive", "unpack it"],
];

/** Bytes of a file's start that `formatOf` needs. */
export const HEAD_BYTES = 512;

/** The format of a file by its first bytes and its name. Throws `SourceError` for files that are not read. */
export function formatOf(head: Uint8Array, path: string): Exclude<SourceFormat, "folder"> {
  const problem = notContent(head);
  if (problem !== null) throw new SourceError(`${path} ${problem}`);
  const ascii = String.fromCharCode(...head);
  const other = OTHER_FORMATS.find(([start]) => ascii.startsWith(start));
  if (other) throw new SourceError(`${path} must be a file of records; it is ${other[1]}: ${other[2]}`);
  if (ascii.startsWith("PAR1")) return "parquet";
  if (ascii.slice(257, 262) === "ustar" || /\.tar$/i.test(path)) return "tar";
  if (/\.parquet$/i.test(path))
    throw new SourceError(`${path} is not a Parquet file: it does not begin with PAR1. Load it again`);
  if (isCsvName(path)) return "csv";
  return /^(\xef\xbb\xbf)?\s*\[/.test(ascii) ? "json" : "jsonl";
}

export interface TextOptions {
  readonly names?: FieldNames | undefined;
  /** Kind of the records, if it is known: that of a listing, whose fields are known too. */
  readonly kind?: RecordKind | undefined;
}

/** Writes the position of each record of a file of text. Throws `SourceError` for files of no known kind or without records. */
export async function scanText(
  path: string,
  format: TextFormat,
  sink: ByteSink,
  options: ScanOptions & TextOptions,
): Promise<Footer> {
  const hash = createHash("sha256");
  const records = new TextRecords(path, format, sink, options);
  let bytes = 0;
  for await (const chunk of chunksOf(path, options)) {
    hash.update(chunk);
    await records.push(chunk);
    bytes += chunk.length;
  }
  await records.finish();
  const { entries, look, header } = records;
  const { count } = entries;
  if (count === 0) throw new SourceError(`${path} has no records`);
  return {
    version: INDEX_VERSION,
    format,
    ...look.result(path, header?.columns),
    hash: hash.digest("hex"),
    bytes,
    count,
    ...(header && { csv: header }),
  };
}
