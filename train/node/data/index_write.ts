/** Makes indexes: one pass over a source of any format, into staged files that are renamed when their names, the hashes, are known. */
import { createHash } from "node:crypto";
import { rename } from "node:fs/promises";
import { join, resolve } from "node:path";
import type { ByteSink, RandomAccess } from "../../../model/io/bytes.ts";
import { isObject } from "../../../model/io/unknown.ts";
import { openFile, writeFileAtomic } from "../../../model/node/files.ts";
import { RecordError } from "../../data/errors.ts";
import { listFolder } from "./folder.ts";
import type { SkippedFiles } from "./folder.ts";
import { EntryWriter, INDEX_VERSION, RecordLook, hashFile } from "./index_format.ts";
import type { Footer, ScanOptions } from "./index_format.ts";
import { HEAD_BYTES, formatOf, scanText } from "./scan.ts";
import { sampleOptions } from "./records.ts";
import type { SourceSpec } from "./sources.ts";

export const MAGIC = "JIX1";

/** Bytes of a page from which reading a row is slow: about 0.1 s. */
const LARGE_PAGE = 16e6;

const sha256 = (text: string): string => createHash("sha256").update(text).digest("hex");

/** Where the index of a source is staged, its name from its hash, and its hash from that of the file. */
interface Place {
  readonly folder: string;
  readonly nameOf: (hash: string) => string;
  readonly hashOf: (fileHash: string) => string;
}

const stagedPath = (folder: string, spec: SourceSpec, what: string): string =>
  join(folder, `staged-${what}-${process.pid}-${sha256(resolve(spec.path)).slice(0, 16)}`);

/** Writes an index; returns its name and what of the source is no sample. */
export async function writeIndex(
  spec: SourceSpec,
  isFolder: boolean,
  place: Place,
  options: ScanOptions,
): Promise<{ name: string; footer: Footer }> {
  // prettier-ignore
  if (isFolder) return indexFolder(spec, place, options);
  const file = await openFile(spec.path);
  try {
    const format = formatOf(await file.read(0, Math.min(HEAD_BYTES, file.size)), spec.path);
    if (format === "tar") return await indexShard(spec, file, place, options);
    if (format === "parquet") return await indexParquet(spec, file, place, options);
    return await writeEntries(spec, place, (sink) => scanText(spec.path, format, sink, { ...options, names: spec.fields })); // prettier-ignore
  } finally {
    await file.close?.();
  }
}

async function writeEntries(
  spec: SourceSpec,
  { folder, nameOf }: Place,
  write: (sink: ByteSink) => Promise<Footer>,
): Promise<{ name: string; footer: Footer }> {
  // prettier-ignore
  const staged = stagedPath(folder, spec, "index");
  let footer: Footer | undefined;
  await writeFileAtomic(staged, async (sink) => {
    footer = await write(sink);
    const json = new TextEncoder().encode(JSON.stringify(footer));
    const tail = new Uint8Array(8);
    new DataView(tail.buffer).setUint32(0, json.length, true);
    tail.set(new TextEncoder().encode(MAGIC), 4);
    await sink.write(json);
    await sink.write(tail);
  });
  const name = nameOf(footer!.hash);
  await rename(staged, join(folder, `${name}.idx`));
  return { name, footer: footer! };
}

/** Writes the listing of a folder and indexes it. */
async function indexFolder(
  spec: SourceSpec,
  place: Place,
  options: ScanOptions,
): Promise<{ name: string; footer: Footer }> {
  // prettier-ignore
  const staged = stagedPath(place.folder, spec, "listing");
  let isCaptioned = false;
  let hash = "";
  await writeFileAtomic(staged, async (sink) => {
    ({ hash, isCaptioned } = await listFolder(spec, options, (bytes) => sink.write(bytes)));
  });
  const listing = join(place.folder, `${place.nameOf(hash)}.jsonl`);
  await rename(staged, listing);
  const kind = isCaptioned ? "pairs" : "folder";
  return writeEntries(spec, place, async (sink) => ({ ...(await scanText(listing, "jsonl", sink, { kind })), format: "folder", hash })); // prettier-ignore
}

/** Writes lines of a listing and their positions, and at the end the footer that `finish` gives. */
async function indexListing(
  spec: SourceSpec,
  place: Place,
  lines: AsyncIterable<object>,
  finish: (entries: number) => Promise<Footer>,
): Promise<{ name: string; footer: Footer }> {
  const staged = stagedPath(place.folder, spec, "listing");
  let written: { name: string; footer: Footer } | undefined;
  await writeFileAtomic(staged, async (listing) => {
    written = await writeEntries(spec, place, async (sink) => {
      const entries = new EntryWriter(sink);
      let offset = 0;
      for await (const line of lines) {
        const bytes = new TextEncoder().encode(`${JSON.stringify(line)}\n`);
        await listing.write(bytes);
        await entries.add({ offset, length: bytes.length - 1, line: entries.count + 1 });
        offset += bytes.length;
      }
      await entries.flush();
      return finish(entries.count);
    });
  });
  await rename(staged, join(place.folder, `${written!.name}.jsonl`));
  return written!;
}

async function indexShard(
  spec: SourceSpec,
  file: RandomAccess,
  place: Place,
  options: ScanOptions,
): Promise<{ name: string; footer: Footer }> {
  // prettier-ignore
  const { listShard, requireSamples, sampleRecord } = await import("./webdataset.ts");
  const hash = place.hashOf(await hashFile(spec.path, options));
  const { samples, skipped } = listShard(file, options.signal);
  const look = new RecordLook(spec.fields);
  const how = await sampleOptions(spec);
  const seen = async function* (): AsyncGenerator<object> {
    let line = 0;
    for await (const sample of samples) {
      line++;
      try {
        const at = { file: spec.path, line, images: "" };
        const { json } = await sampleRecord(file, sample, how, at);
        look.add(json);
      } catch (error) {
        if (!(error instanceof RecordError)) throw error; // reading it reports it
        look.problem ??= error.message;
      }
      yield sample;
    }
  };
  return indexListing(spec, place, seen(), async (count) => {
    const files: readonly SkippedFiles[] = skipped();
    requireSamples(spec.path, count, files);
    if (files.length) options.onNotice?.(`${spec.path}: not used: ${files.map(({ count: n, reason, example }) => `${n} × ${reason} (${example})`).join("; ")}`); // prettier-ignore
    return { version: INDEX_VERSION, format: "tar", ...look.result(spec.path), hash, bytes: file.size, count };
  });
}

async function indexParquet(
  spec: SourceSpec,
  file: RandomAccess,
  place: Place,
  options: ScanOptions,
): Promise<{ name: string; footer: Footer }> {
  // prettier-ignore
  const { listGroups, loadParquet, readFooter } = await import("./parquet_pages.ts");
  const { shapeOf } = await import("./parquet.ts");
  const parquet = await loadParquet();
  const metadata = await readFooter(file, parquet);
  const hash = await hashFile(spec.path, options);
  const groups: number[] = [];
  let largest = 0; // page, bytes
  const look = new RecordLook(spec.fields);
  const { record, rows } = shapeOf(spec.path, metadata, parquet);
  look.add(record, rows);
  const listed = async function* (): AsyncGenerator<object> {
    for await (const group of listGroups(file, parquet, metadata, options.signal)) {
      groups.push(group.first);
      for (const [, bytes] of group.columns.flat()) largest = Math.max(largest, bytes);
      yield group;
    }
  };
  const columns = isObject(record) ? Object.keys(record) : [];
  return indexListing(spec, place, listed(), async (entries) => {
    if (largest > LARGE_PAGE)
      options.onNotice?.(
        `${spec.path}: its pages have up to ${Math.round(largest / 1e6)} MB, which are unpacked to read one row; write it with smaller row groups or pages to train faster`,
      );
    const about = look.result(spec.path, columns);
    return {
      version: INDEX_VERSION,
      format: "parquet",
      ...about,
      hash,
      bytes: file.size,
      count: rows,
      entries,
      groups,
    };
  });
}
