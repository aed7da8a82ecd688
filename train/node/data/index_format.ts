/** The parts that indexes of all formats share: their footer, the positions of records, and reading a file in chunks. */
import { createHash } from "node:crypto";
import type { ByteSink, RandomAccess } from "../../../model/io/bytes.ts";
import { openFile } from "../../../model/node/files.ts";
import { SourceError } from "../../data/errors.ts";
import { FieldCounter, kindOf } from "./fields.ts";
import type { FieldCount, RecordKind } from "./fields.ts";
import { withFieldNames } from "./sources.ts";
import type { FieldNames } from "./sources.ts";

export interface ScanOptions {
  readonly onProgress?: (progress: { readonly bytes: number; readonly totalBytes: number }) => void;
  readonly signal?: AbortSignal;
  readonly onNotice?: (message: string) => void;
}

/** `jsonl`: an object a line; `json`: a list of objects; `csv`: columns with a header; `tar`: WebDataset; `folder`: images with classes or captions. */
export type SourceFormat = "jsonl" | "json" | "csv" | "tar" | "parquet" | "folder";

/** Version of an index; one of an earlier version is made a second time. Version 3 kept the carriage return of CRLF in the last cells of CSV. */
export const INDEX_VERSION = 4;

/** What an index says of its source. */
export interface Footer {
  readonly version: typeof INDEX_VERSION;
  readonly format: SourceFormat;
  readonly kind: RecordKind;
  /** SHA-256 of the file, or of the listing of a folder, in hex. */
  readonly hash: string;
  readonly bytes: number;
  readonly count: number;
  /** Entries of the index, if these are not the records: the row groups of Parquet. */
  readonly entries?: number;
  /** Fields that records have, by the names that they are used under; empty for the listing of a folder. */
  readonly fields: readonly FieldCount[];
  /** Names of fields that were renamed. */
  readonly renamed: readonly string[];
  /** Columns of CSV. */
  readonly csv?: CsvHeader;
  /** First row of each row group of Parquet. */
  readonly groups?: readonly number[];
}

/** Header of a CSV file. */
export interface CsvHeader {
  readonly columns: readonly string[];
  readonly delimiter: string;
}

/** A record in an index: offset u64, length u32, line u32, little-endian. */
export const RECORD_BYTES = 16;
/** Bytes of a record of text; a text of a whole book has 1 MB. */
export const MAX_RECORD = 64 * 2 ** 20;
export const MAX_LINES = 2 ** 32 - 1;
/** First records that may be broken before the file is refused. */
const KIND_RECORDS = 1000;

const CHUNK_BYTES = 2 ** 20;

/** Chunks of a file in order. A chunk is used before the next one is read into its place. */
export async function* chunksOf(path: string, { onProgress, signal }: ScanOptions): AsyncGenerator<Uint8Array> {
  const file = await openFile(path);
  try {
    const buffer = new Uint8Array(CHUNK_BYTES);
    for (let at = 0; at < file.size;) {
      signal?.throwIfAborted();
      const length = Math.min(CHUNK_BYTES, file.size - at);
      yield await file.read(at, length, buffer);
      at += length;
      onProgress?.({ bytes: at, totalBytes: file.size });
    }
  } finally {
    await file.close?.();
  }
}

/** SHA-256 of a file, in hex. */
export async function hashFile(path: string, options: ScanOptions): Promise<string> {
  const hash = createHash("sha256");
  for await (const chunk of chunksOf(path, options)) hash.update(chunk);
  return hash.digest("hex");
}

/** A position of an index. */
export interface Entry {
  readonly offset: number;
  readonly length: number;
  readonly line: number;
}

/** Writes positions to an index. */
export class EntryWriter {
  count = 0;
  private readonly sink: ByteSink;
  private readonly out = new Uint8Array(RECORD_BYTES * 4096);
  private filled = 0;

  constructor(sink: ByteSink) {
    this.sink = sink;
  }

  async add({ offset, length, line }: Entry): Promise<void> {
    if (this.filled === this.out.length) await this.flush();
    const view = new DataView(this.out.buffer, this.filled, RECORD_BYTES);
    view.setBigUint64(0, BigInt(offset), true);
    view.setUint32(8, length, true);
    view.setUint32(12, line, true);
    this.filled += RECORD_BYTES;
    this.count++;
  }

  async flush(): Promise<void> {
    if (this.filled) await this.sink.write(this.out.subarray(0, this.filled));
    this.filled = 0;
  }
}

/** Entry `i` of an index. */
export async function readEntry(index: RandomAccess, i: number): Promise<Entry> {
  const bytes = await index.read(i * RECORD_BYTES, RECORD_BYTES);
  const view = new DataView(bytes.buffer, bytes.byteOffset, RECORD_BYTES);
  return {
    offset: Number(view.getBigUint64(0, true)),
    length: view.getUint32(8, true),
    line: view.getUint32(12, true),
  };
}

/** Finds the kind of a source by one of its first records, and counts the fields of all. */
export class RecordLook {
  kind: RecordKind | undefined;
  /** What is wrong with the first record that could not be looked at. */
  problem: string | undefined;
  private readonly names: FieldNames | undefined;
  private readonly fields = new FieldCounter();
  private readonly given: ReadonlySet<string>;
  private readonly renamed = new Set<string>();
  private tried = 0;

  constructor(names: FieldNames | undefined) {
    this.names = names;
    this.given = new Set(Object.values(names ?? {}).flat());
  }

  /** @param records how many have these fields */
  add(json: unknown, records = 1): void {
    if (this.given.size && typeof json === "object")
      for (const name of Object.keys(json ?? {})) if (this.given.has(name)) this.renamed.add(name);
    const record = withFieldNames(json, this.names);
    this.fields.add(record, records);
    if (this.kind || ++this.tried > KIND_RECORDS) return;
    const kind = kindOf(record);
    this.kind = kind === "folder" ? undefined : kind; // listings are ours
  }

  /** What the footer says of the records. Throws `SourceError` if none of the first ones has a kind. */
  result(path: string, columns?: readonly string[]): Pick<Footer, "kind" | "fields" | "renamed"> {
    if (!this.kind) {
      const found = columns?.length
        ? `; it has ${columns
            .slice(0, 20)
            .map((name) => `"${name}"`)
            .join(", ")}`
        : "";
      throw new SourceError(
        `${path}: its records are of no known kind${found}; they have "conversations", "messages", "prompt" and "image", "text" and "image" or "file_name", or "text". Name other fields with data.fields (--field)${this.problem === undefined ? "" : `. The first bad one: ${this.problem}`}`,
      );
    }
    return { kind: this.kind, fields: this.fields.list, renamed: [...this.renamed] };
  }
}
