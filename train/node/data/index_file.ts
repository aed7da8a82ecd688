/**
 * The index of a source: the position of each of its records, so that any of them is read without those before it. Made in one pass that never
 * has more than a record in memory, kept in a cache folder under the hash of what it indexes, and found again by path, size and time.
 *
 * `index/<hash>.idx`: 16 bytes per record (offset u64, length u32, line u32, little-endian), then a JSON footer, its length u32, and "JIX1".
 * `index/<hash>.jsonl`: the listing that the positions are in, for sources that are not text: of a folder `{class, image, bytes}` a line, of a
 * tar shard the members of a sample (webdataset.ts), of Parquet the pages of a row group (parquet_pages.ts).
 * `index/at-<hash of the path>.json`: what was last found there. A folder is listed at each start, because nothing else says that an image
 * was overwritten; its listing is written only if it is another.
 * With renamed fields the name is `<hash>-<hash of these>`, because the fields of the index are others.
 */
import { ArgumentError } from "../../../engine/errors.ts";
import { knownOptions, requireArray, shown } from "../../../engine/options.ts";
import { createHash } from "node:crypto";
import { mkdir, readFile, stat } from "node:fs/promises";
import { join, resolve } from "node:path";
import type { RandomAccess } from "../../../model/io/bytes.ts";
import { quote } from "../../../model/io/errors.ts";
import { isObject } from "../../../model/io/unknown.ts";
import { fileError, openFile, writeFileAtomic } from "../../../model/node/files.ts";
import type { Task } from "../../samples.ts";
import { SourceChangedError, SourceError } from "../../data/errors.ts";
import { fieldUse } from "./fields.ts";
import type { FieldCount, FieldUse } from "./fields.ts";
import { listFolder, readClasses, skippedText } from "./folder.ts";
import type { Listing, SkippedFiles } from "./folder.ts";
import { INDEX_VERSION, RECORD_BYTES, hashFile } from "./index_format.ts";
import type { Footer, ScanOptions, SourceFormat } from "./index_format.ts";
import { MAGIC, writeIndex } from "./index_write.ts";
import { openRecords, requireRecord } from "./records.ts";
import type { Records } from "./records.ts";
import { imageRoot, parseRecord, sourceTask, withFieldNames } from "./sources.ts";
import type { SourceKind, SourceSpec } from "./sources.ts";
import type { RawSample } from "../../data/raw_sample.ts";

/** Size and time of a file: while they stay the same, so does the source. */
interface Stamp {
  readonly isFolder: boolean;
  readonly bytes: number;
  readonly modified: string;
}

/** What was found at a path. */
interface Found {
  readonly version: 1;
  readonly path: string;
  readonly stamp: Stamp;
  readonly hash: string;
}

/** A source whose records can be read in any order. */
export class SourceIndex {
  readonly spec: SourceSpec;
  readonly format: SourceFormat;
  readonly kind: SourceKind;
  readonly task: Task;
  /** SHA-256 of the file or of the folder's listing, in hex: the same on every machine. */
  readonly hash: string;
  readonly count: number;
  /** Size of the file, or of the listing. */
  readonly bytes: number;
  /** Fields of the records of a file. */
  readonly fields: readonly (FieldCount & { readonly use: FieldUse })[];
  /** Names of fields that `spec.fields` has renamed. */
  readonly renamed: readonly string[];
  /** What of a folder is no sample. */
  readonly skipped: readonly SkippedFiles[];
  private readonly records: Records;
  private readonly images: string;

  constructor(spec: SourceSpec, footer: Footer, records: Records, skipped: readonly SkippedFiles[]) {
    this.spec = spec;
    this.format = footer.format;
    this.kind = footer.kind;
    this.task = sourceTask(spec, footer.kind);
    this.hash = footer.hash;
    this.count = footer.count;
    this.bytes = footer.bytes;
    const ignored = spec.ignoredFields;
    this.fields = footer.fields.map((count) => ({ ...count, use: fieldUse(count.kind, count.field, ignored) }));
    this.renamed = footer.renamed;
    this.skipped = skipped;
    this.records = records;
    this.images = footer.format === "folder" ? resolve(spec.path) : imageRoot(spec);
  }

  /** Record `i` (from 0). Throws `RecordError` if it is not what the source should hold. */
  async read(i: number): Promise<RawSample> {
    requireRecord(this.spec.path, i, this.count);
    const { path: file, ignoredFields, fields } = this.spec;
    const line = await this.records.numberOf(i);
    const place = { file, line, images: this.images, ...(ignoredFields && { ignoredFields }) };
    const { json, images = this.images } = await this.records.read(i, place);
    return parseRecord(withFieldNames(json, fields), this.kind, this.task, { ...place, images });
  }

  /** `file:line` of record `i`, for messages. */
  async nameOf(i: number): Promise<string> {
    requireRecord(this.spec.path, i, this.count);
    return `${this.spec.path}:${await this.records.numberOf(i)}`;
  }

  close(): Promise<void> {
    return this.records.close();
  }
}

const changed = (spec: SourceSpec, what: string): SourceChangedError =>
  new SourceChangedError(
    `${spec.path} is not what was indexed: ${what}. A run resumes only with the data that it began with; restore it, or run janus data index for a new run`,
  );

const sha256 = (text: string): string => createHash("sha256").update(text).digest("hex");

/** Where an index is in the cache, and what the source's hash depends on besides its bytes. */
interface Places {
  readonly folder: string;
  readonly found: string;
  readonly nameOf: (hash: string) => string;
  /** Hash of a file of this hash, with its classes. */
  readonly hashOf: (fileHash: string) => string;
}

/** What the fields of an index depend on is part of its name. The classes of a folder are part of its listing, those of a shard are not. */
async function placesOf(spec: SourceSpec, cache: string, { isFolder }: Stamp): Promise<Places> {
  const { classes = "", fields } = spec;
  const folder = join(cache, "index");
  const by = fields ? `\0${JSON.stringify(fields)}` : "";
  const names = isFolder || classes === "" ? "" : JSON.stringify([...(await readClasses(classes))]);
  return {
    folder,
    found: join(folder, `at-${sha256(`${resolve(spec.path)}\0${classes}${names}${by}`).slice(0, 32)}.json`),
    nameOf: (hash) => (by ? `${hash}-${sha256(by).slice(0, 16)}` : hash),
    hashOf: (fileHash) => (names ? sha256(`${fileHash}\0${names}`) : fileHash),
  };
}

/**
 * Throws `SourceError` that names the fields of sources that are not used, so that none is dropped without a word, and fields to be ignored
 * that no record has.
 */
export function requireKnownFields(sources: readonly Pick<SourceIndex, "spec" | "fields" | "renamed">[]): void {
  for (const { spec, fields } of sources) {
    const refused = fields.filter(({ use }) => use === "refused");
    if (refused.length === 0) continue;
    const names = refused.map(({ field, kind, records }) => `${quote(field)} (${records} of kind ${kind})`).join(", ");
    const flags = [...new Set(refused.map(({ field }) => `--ignore-field ${JSON.stringify(field)}`))].join(" ");
    throw new SourceError(`${spec.path}: fields that are not used: ${names}. Remove them, or allow them with ${flags}`);
  }
  requireIgnoredFields(sources);
}

/** Throws `SourceError` for a field to be renamed that no record of any source has. */
function requireRenamedFields(sources: readonly Pick<SourceIndex, "spec" | "renamed">[]): void {
  const found = new Set(sources.flatMap(({ renamed }) => renamed));
  for (const { spec } of sources)
    for (const [name, given] of Object.entries(spec.fields ?? {}))
      if (![given].flat().some((one) => found.has(one)))
        throw new SourceError(`data.fields.${name} is ${[given].flat().map((one) => quote(one)).join(" or ")}: no record has this field; janus data index lists them`); // prettier-ignore
}

/** Throws `SourceError` for a field to be ignored, or to be renamed, that no record has. */
export function requireIgnoredFields(sources: readonly Pick<SourceIndex, "spec" | "fields" | "renamed">[]): void {
  requireRenamedFields(sources);
  const known = new Set(sources.flatMap(({ fields }) => fields.map(({ field }) => field)));
  const absent = sources.flatMap(({ spec }) => spec.ignoredFields ?? []).find((name) => !known.has(name));
  if (absent !== undefined)
    throw new SourceError(`--ignore-field ${quote(absent)}: no record has this field; janus data index lists them`);
}

/** What a person should know of a source that was opened: files of a folder that are no samples. */
export function noticesOf({ spec, skipped }: Pick<SourceIndex, "spec" | "skipped">): string[] {
  return skipped.length ? [`${spec.path}: not used: ${skippedText(skipped)}`] : [];
}

/** Indexes a source, or finds the index that there is. A source that has changed gets a new one. */
export async function indexSource(spec: SourceSpec, cache: string, options: ScanOptions = {}): Promise<SourceIndex> {
  checkSpec(spec);
  const stamp = await stampOf(spec.path);
  const places = await placesOf(spec, cache, stamp);
  const { folder, found, nameOf } = places;
  const known = await readFound(found);
  const listing = stamp.isFolder ? await listFolder(spec, options) : null;
  if (known && sameStamp(known.stamp, stamp) && (!listing || listing.hash === known.hash)) {
    const opened = await openByHash(spec, join(folder, nameOf(known.hash)), known.hash, listing);
    if (opened) return opened;
    options.onNotice?.(`${spec.path}: its index is damaged or of an earlier version; indexing it`);
  }
  await mkdir(folder, { recursive: true }).catch((error: unknown) => {
    throw fileError(error, folder);
  });
  const { name, footer } = await writeIndex(spec, stamp.isFolder, places, options);
  await remember(found, { version: 1, path: resolve(spec.path), stamp, hash: footer.hash });
  const opened = await openByHash(spec, join(folder, name), footer.hash, listing);
  if (!opened) throw new SourceError(`${folder}: the index of ${spec.path} cannot be read back; is the disk sound?`);
  return opened;
}

/** Throws `ArgumentError` for what a source cannot have: plain JavaScript and configs may pass anything. */
function checkSpec(spec: SourceSpec): void {
  knownOptions("a source", spec, ["path", "task", "images", "classes", "fields", "ignoredFields"]);
  for (const key of ["path", "images", "classes"] as const)
    if (typeof (spec[key] ?? "") !== "string" || (key === "path" && !spec.path))
      throw new ArgumentError(`a source: ${key} must be a path; got ${shown(spec[key])}`);
  if (spec.ignoredFields) requireArray("a source", "ignoredFields", spec.ignoredFields);
  const { fields } = spec as { fields?: unknown };
  const isName = (name: unknown): boolean => typeof name === "string" && name !== "";
  const isValid = isObject(fields) && Object.values(fields).every((given) => (Array.isArray(given) ? given.length > 0 && given.every(isName) : isName(given))); // prettier-ignore
  if (fields !== undefined && !isValid)
    throw new ArgumentError(`a source: fields must be names by what they are used as, { prompt: "TEXT" }; got ${shown(fields)}`); // prettier-ignore
}

/** Opens the index of a source that has one. Throws `SourceError` if there is none, `SourceChangedError` if the source is another. */
export async function openIndex(spec: SourceSpec, cache: string, options: ScanOptions = {}): Promise<SourceIndex> {
  checkSpec(spec);
  const stamp = await stampOf(spec.path);
  const places = await placesOf(spec, cache, stamp);
  const { folder, found, nameOf } = places;
  const known = await readFound(found);
  const listing = stamp.isFolder ? await listFolder(spec, options) : null;
  const opened = known && (await openByHash(spec, join(folder, nameOf(known.hash)), known.hash, listing));
  if (!known || !opened)
    throw new SourceError(
      `${spec.path} has no index in ${cache} that this release reads; make it with janus data index`,
    );
  try {
    if (!listing && sameStamp(known.stamp, stamp)) return opened;
    // Copied or touched: the content decides.
    const hash = listing?.hash ?? places.hashOf(await hashFile(spec.path, options));
    if (hash !== known.hash) throw changed(spec, "its content has another hash");
    if (!listing) await remember(found, { ...known, stamp });
    return opened;
  } catch (error) {
    await opened.close();
    throw error;
  }
}

/** What shows whether a source has changed: size and time of a file; of a folder only its kind, since its listing is read at every start. */
async function stampOf(path: string): Promise<Stamp> {
  const stats = await stat(path, { bigint: true }).catch((error: unknown) => {
    throw fileError(error, path);
  });
  return stats.isDirectory()
    ? { isFolder: true, bytes: 0, modified: "" }
    : { isFolder: false, bytes: Number(stats.size), modified: String(stats.mtimeNs) };
}

const sameStamp = (a: Stamp, b: Stamp): boolean =>
  a.isFolder === b.isFolder && a.bytes === b.bytes && a.modified === b.modified;

async function readFound(path: string): Promise<Found | null> {
  const text = await readFile(path, "utf8").catch(() => null);
  if (text === null) return null;
  try {
    const json = JSON.parse(text) as Found;
    return json.version === 1 && /^[0-9a-f]{64}$/.test(json.hash) ? json : null;
  } catch {
    return null;
  }
}

const remember = (path: string, found: Found): Promise<void> =>
  writeFileAtomic(path, new TextEncoder().encode(`${JSON.stringify(found)}\n`));

/** Null if there is no such index, or a damaged one. */
async function openByHash(
  spec: SourceSpec,
  base: string,
  hash: string,
  listing: Listing | null,
): Promise<SourceIndex | null> {
  const isThere = async (file: string): Promise<boolean> => (await stat(file).catch(() => null)) !== null;
  if (!(await isThere(`${base}.idx`))) return null;
  const index = await openFile(`${base}.idx`);
  const footer = await readFooter(index).finally(async () => await index.close?.());
  const isListed = footer && ["folder", "tar", "parquet"].includes(footer.format);
  if (footer?.hash !== hash || (isListed && !(await isThere(`${base}.jsonl`)))) return null;
  const records = await openRecords(spec, footer, base);
  try {
    return new SourceIndex(spec, footer, records, listing?.skipped ?? []);
  } catch (error) {
    await records.close();
    throw error;
  }
}

async function readFooter(index: RandomAccess): Promise<Footer | null> {
  if (index.size < 8) return null;
  const tail = await index.read(index.size - 8, 8);
  if (new TextDecoder().decode(tail.subarray(4)) !== MAGIC) return null;
  const length = new DataView(tail.buffer, tail.byteOffset).getUint32(0, true);
  if (length > index.size - 8) return null;
  try {
    const json = JSON.parse(new TextDecoder().decode(await index.read(index.size - 8 - length, length))) as Footer;
    return json.version === INDEX_VERSION && (json.entries ?? json.count) * RECORD_BYTES + length + 8 === index.size
      ? json
      : null;
  } catch {
    return null;
  }
}
