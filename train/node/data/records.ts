/** The records of a source in any format, by number: an entry of the index says where one is, in the source itself or in a listing of it. */
import type { RandomAccess } from "../../../model/io/bytes.ts";
import { openFile } from "../../../model/node/files.ts";
import { RecordError, SourceChangedError, SourceError } from "../../data/errors.ts";
import { parseCsv } from "./csv.ts";
import { readClasses } from "./folder.ts";
import type { CaptionedImage } from "./folder.ts";
import { readEntry } from "./index_format.ts";
import type { Footer } from "./index_format.ts";
import type { ParquetReader } from "./parquet.ts";
import type { ListedGroup } from "./parquet_pages.ts";
import { parseLine } from "./sources.ts";
import type { RecordPlace, SourceSpec } from "./sources.ts";
import type { ListedSample, ShardReader } from "./webdataset.ts";

/** A record before its fields are renamed; its images, if it has them within itself. */
export interface FoundRecord {
  readonly json: unknown;
  readonly images?: RecordPlace["images"];
}

export interface Records {
  /** Number of record `i` for messages: its line in a file of text, its position from 1 in others. */
  numberOf(i: number): Promise<number>;
  /** Throws `RecordError`. */
  read(i: number, place: RecordPlace): Promise<FoundRecord>;
  close(): Promise<void>;
}

interface Parts {
  readonly spec: SourceSpec;
  readonly footer: Footer;
  readonly index: RandomAccess;
  /** What the entries are positions in. */
  readonly data: RandomAccess;
}

/** Records whose entries lead to their bytes. */
class EntryRecords implements Records {
  protected readonly parts: Parts;

  constructor(parts: Parts) {
    this.parts = parts;
  }

  async numberOf(i: number): Promise<number> {
    return (await readEntry(this.parts.index, i)).line;
  }

  async read(i: number, place: RecordPlace): Promise<FoundRecord> {
    const { csv } = this.parts.footer;
    const bytes = await this.bytes(i);
    return { json: csv ? await parseCsv(bytes, csv, place) : parseLine(bytes, place) };
  }

  protected async bytes(entry: number): Promise<Uint8Array> {
    const { index, data, spec } = this.parts;
    const { offset, length } = await readEntry(index, entry);
    if (offset + length > data.size) throw new SourceChangedError(`${spec.path} has become shorter since it was indexed; restore it`); // prettier-ignore
    return data.read(offset, length);
  }

  async close(): Promise<void> {
    await this.parts.index.close?.();
    await this.parts.data.close?.();
  }
}

class CaptionedRecords extends EntryRecords {
  override async read(i: number, place: RecordPlace): Promise<FoundRecord> {
    const { image, text, bad } = parseLine(await this.bytes(i), place) as CaptionedImage;
    if (bad !== undefined) throw new RecordError(place.file, place.line, `${image}: ${bad}`);
    return { json: { image, text } };
  }
}

class ShardRecords extends EntryRecords {
  private readonly file: RandomAccess;
  private readonly reader: ShardReader;

  constructor(parts: Parts, file: RandomAccess, reader: ShardReader) {
    super(parts);
    this.file = file;
    this.reader = reader;
  }

  override async read(i: number, place: RecordPlace): Promise<FoundRecord> {
    return this.reader.read(parseLine(await this.bytes(i), place) as ListedSample, place);
  }

  override async close(): Promise<void> {
    await super.close();
    await this.file.close?.();
  }
}

/** Parsed lines of the listing that are kept: one of a large group has a megabyte. */
const GROUPS_KEPT = 4;

class ParquetRecords extends EntryRecords {
  private readonly file: RandomAccess;
  private readonly reader: ParquetReader;
  private readonly groups = new Map<number, ListedGroup>();

  constructor(parts: Parts, file: RandomAccess, reader: ParquetReader) {
    super(parts);
    this.file = file;
    this.reader = reader;
  }

  override async numberOf(i: number): Promise<number> {
    return i + 1;
  }

  override async read(i: number, place: RecordPlace): Promise<FoundRecord> {
    const firsts = this.parts.footer.groups!;
    let [low, high] = [0, firsts.length - 1];
    while (low < high) {
      const middle = (low + high + 1) >> 1;
      if (firsts[middle]! <= i) low = middle;
      else high = middle - 1;
    }
    const group = await this.group(low);
    return { json: await this.reader.read(low, group, i - group.first, place) };
  }

  private async group(g: number): Promise<ListedGroup> {
    const known = this.groups.get(g);
    if (known) return known;
    const group = JSON.parse(new TextDecoder().decode(await this.bytes(g))) as ListedGroup;
    this.groups.set(g, group);
    if (this.groups.size > GROUPS_KEPT) this.groups.delete(this.groups.keys().next().value!);
    return group;
  }

  override async close(): Promise<void> {
    await super.close();
    await this.file.close?.();
  }
}

/** Opens the records of an indexed source. `base` is the path of the index without its ending. */
export async function openRecords(spec: SourceSpec, footer: Footer, base: string): Promise<Records> {
  const opened: RandomAccess[] = [];
  const open = async (path: string): Promise<RandomAccess> => {
    const file = await openFile(path);
    opened.push(file);
    return file;
  };
  try {
    const { format, kind, hash } = footer;
    const index = await open(`${base}.idx`);
    const isText = format === "jsonl" || format === "json" || format === "csv";
    const parts = { spec, footer, index, data: await open(isText ? spec.path : `${base}.jsonl`) };
    if (format === "folder" && kind === "pairs") return new CaptionedRecords(parts);
    if (isText || format === "folder") return new EntryRecords(parts);
    const file = await open(spec.path);
    if (format === "tar") {
      const { ShardReader } = await import("./webdataset.ts");
      return new ShardRecords(parts, file, new ShardReader(file, kind, await sampleOptions(spec)));
    }
    const { ParquetReader } = await import("./parquet.ts");
    return new ParquetRecords(parts, file, await ParquetReader.open(file, kind, spec, hash));
  } catch (error) {
    for (const file of opened) await file.close?.();
    throw error;
  }
}

/** Options of the samples of a shard. */
export async function sampleOptions({
  fields,
  ignoredFields,
  classes,
}: SourceSpec): Promise<import("./webdataset.ts").SampleOptions> {
  // prettier-ignore
  return {
    ...(fields && { fields }),
    ...(ignoredFields && { ignoredFields }),
    classes: classes === undefined ? null : await readClasses(classes),
  };
}

/** Throws `SourceError` for a record that a source does not have. */
export function requireRecord(path: string, i: number, count: number): void {
  if (!Number.isInteger(i) || i < 0 || i >= count) throw new SourceError(`${path}: record ${i} of ${count}`);
}
