/** One pass over a JSONL file: its hash and the positions of its lines, a chunk at a time. */
import { createHash } from "node:crypto";
import type { ByteSink } from "../../../model/io/bytes.ts";
import { notContent } from "../../../model/io/small_file.ts";
import { openFile } from "../../../model/node/files.ts";
import { SourceError } from "../../data/errors.ts";
import { FieldCounter, kindOf } from "./fields.ts";
import type { FieldCount } from "./fields.ts";
import type { SourceKind } from "./sources.ts";

export interface ScanOptions {
  readonly onProgress?: (progress: { readonly bytes: number; readonly totalBytes: number }) => void;
  readonly signal?: AbortSignal;
  readonly onNotice?: (message: string) => void;
}

/** Version of an index. Version 1 had no `fields`; such an index is made a second time. */
export const INDEX_VERSION = 2;

/** What an index says of its source. */
export interface Footer {
  readonly version: typeof INDEX_VERSION;
  readonly kind: SourceKind;
  /** SHA-256 of the file, or of the listing, in hex. */
  readonly hash: string;
  readonly bytes: number;
  readonly count: number;
  /** Fields that records have; empty for the listing of a folder. */
  readonly fields: readonly FieldCount[];
}

/** A record in an index: offset u64, length u32, line u32, little-endian. */
export const RECORD_BYTES = 16;

const CHUNK_BYTES = 2 ** 20;
const MAX_LINE = 64 * 2 ** 20; // bytes; a text of a whole book has 1 MB
const MAX_LINES = 2 ** 32 - 1;
/** First records that may be broken before the file is refused. */
const KIND_RECORDS = 1000;
const NEWLINE = 0x0a;
const isSpace = (byte: number): boolean => byte === 0x20 || (byte >= 0x09 && byte <= 0x0d);

/** Chunks of a file in order. A chunk is used before the next one is read into its place. */
async function* chunksOf(path: string, { onProgress, signal }: ScanOptions): AsyncGenerator<Uint8Array> {
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

/** Positions of lines that are not blank, and the fields of their records, gathered from chunks. */
class Lines {
  count = 0;
  readonly fields = new FieldCounter();
  kind: SourceKind | undefined;
  private readonly path: string;
  private readonly sink: ByteSink;
  private out = new Uint8Array(RECORD_BYTES * 4096);
  private filled = 0;
  private offset = 0;
  private start = 0;
  private line = 1;
  private isBlank = true;
  /** Chunks of the line; null for the listing of a folder, whose fields are known. */
  private parts: Uint8Array[] | null;
  private tried = 0;

  constructor(path: string, sink: ByteSink, kind: SourceKind | undefined) {
    this.path = path;
    this.sink = sink;
    this.kind = kind;
    this.parts = kind ? null : [];
  }

  async push(chunk: Uint8Array): Promise<void> {
    for (let at = 0; at < chunk.length;) {
      const found = chunk.indexOf(NEWLINE, at);
      const end = found < 0 ? chunk.length : found;
      for (let i = at; this.isBlank && i < end; i++) this.isBlank = isSpace(chunk[i]!);
      this.parts?.push(chunk.slice(at, end));
      if (this.offset + end - at - this.start > MAX_LINE)
        throw new SourceError(
          `${this.path}:${this.line}: the line is longer than ${MAX_LINE} bytes; is it one record a line?${this.asArray()}`,
        );
      this.offset += end - at;
      if (found >= 0) {
        await this.endLine();
        this.offset++;
        this.start = this.offset;
      }
      at = end + 1;
    }
  }

  async finish(): Promise<void> {
    await this.endLine();
    await this.flush();
  }

  private async endLine(): Promise<void> {
    if (!this.isBlank) {
      this.look();
      if (this.filled === this.out.length) await this.flush();
      const view = new DataView(this.out.buffer, this.filled, RECORD_BYTES);
      view.setBigUint64(0, BigInt(this.start), true);
      view.setUint32(8, this.offset - this.start, true);
      view.setUint32(12, this.line, true);
      this.filled += RECORD_BYTES;
      this.count++;
    }
    this.isBlank = true;
    if (this.parts) this.parts = [];
    if (++this.line > MAX_LINES) throw new SourceError(`${this.path} has more than ${MAX_LINES} lines; split it`);
  }

  /** Finds the kind by one of the first records, and counts the fields of all. */
  private look(): void {
    if (!this.parts) return;
    const text = new TextDecoder().decode(Buffer.concat(this.parts)); // without a byte order mark
    if (this.count === 0 && text.trimStart().startsWith("["))
      throw new SourceError(`${this.path} is not JSONL: it begins with a list.${this.asArray()}`);
    let record: unknown;
    try {
      record = JSON.parse(text);
    } catch {
      // A bad record; reading it reports it.
    }
    this.fields.add(record);
    if (this.kind || ++this.tried > KIND_RECORDS) return;
    const kind = kindOf(record);
    this.kind = kind === "folder" ? undefined : kind; // listings are ours
  }

  private readonly asArray = (): string => ` Turn a JSON list into JSONL with: jq -c '.[]' FILE.json > FILE.jsonl`;

  private async flush(): Promise<void> {
    if (this.filled) await this.sink.write(this.out.subarray(0, this.filled));
    this.filled = 0;
  }
}

/** First bytes of files that are often given for JSONL. */
const OTHER_FORMATS: readonly (readonly [head: string, name: string, todo: string])[] = [
  ["\x1f\x8b", "compressed by gzip", "unpack it with gunzip"],
  ["\x28\xb5\x2f\xfd", "compressed by zstd", "unpack it with unzstd"],
  ["PAR1", "Parquet", "write its rows as JSONL, one record a line"],
  ["ARROW1", "Arrow", "write its rows as JSONL, one record a line"],
  ["PK\x03\x04", "a zip archive", "unpack it"],
];

/** Throws `SourceError` if a file begins as one of another format. */
function requireLines(chunk: Uint8Array, path: string): void {
  const problem = notContent(chunk);
  if (problem !== null) throw new SourceError(`${path} ${problem}`);
  const head = String.fromCharCode(...chunk.subarray(0, 8));
  const other = OTHER_FORMATS.find(([start]) => head.startsWith(start));
  if (other) throw new SourceError(`${path} must be JSONL; it is ${other[1]}: ${other[2]}`);
}

/**
 * Writes a record for each line of `path` that is not blank. `kind` if it is known (default: that of the first records).
 * Throws `SourceError` for files of no known kind or without records.
 */
export async function scan(path: string, sink: ByteSink, options: ScanOptions, kind?: SourceKind): Promise<Footer> {
  const hash = createHash("sha256");
  const lines = new Lines(path, sink, kind);
  let bytes = 0;
  for await (const chunk of chunksOf(path, options)) {
    if (bytes === 0) requireLines(chunk, path);
    hash.update(chunk);
    await lines.push(chunk);
    bytes += chunk.length;
  }
  await lines.finish();
  if (lines.count === 0) throw new SourceError(`${path} has no records`);
  if (!lines.kind)
    throw new SourceError(
      `${path}: its records are of no known kind; they have "conversations", "messages", "prompt" and "image", "text" and "image" or "file_name", or "text"`,
    );
  const { count, fields } = lines;
  return { version: INDEX_VERSION, kind: lines.kind, hash: hash.digest("hex"), bytes, count, fields: fields.list };
}
