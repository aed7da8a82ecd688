/**
 * WebDataset's tar shards: files that have the same path up to the first dot of their name are one sample, `.json` and `.txt` its record, images
 * its images. The listing of a shard has a line `{key, members}` or `{key, bad}` for each sample: where its members are, so that any sample is
 * read without those before it.
 */
import type { RandomAccess } from "../../../model/io/bytes.ts";
import { quote } from "../../../model/io/errors.ts";
import { isObject } from "../../../model/io/unknown.ts";
import { RecordError, SourceError } from "../../data/errors.ts";
import { SAME, besideName, fieldUse, isEmpty, kindOf } from "./fields.ts";
import type { RecordKind } from "./fields.ts";
import { IMAGES } from "./folder.ts";
import type { SkippedFiles } from "./folder.ts";
import { MAX_RECORD } from "./index_format.ts";
import { parseLine, withFieldNames } from "./sources.ts";
import type { RecordPlace, SourceSpec } from "./sources.ts";
import { membersOf, readMember } from "./tar.ts";
import type { SparsePiece, TarMember } from "./tar.ts";

/** Bytes of an image, as `readImage` takes them. */
const MAX_IMAGE = 128 * 2 ** 20;
/** Members of a sample; more are a mistake in the names. */
const MAX_MEMBERS = 1000;

/** A member of a sample in the listing. */
type Member = readonly [extension: string, offset: number, size: number, sparse?: readonly SparsePiece[]];

/** A line of the listing. */
export interface ListedSample {
  readonly key: string;
  readonly members: readonly Member[];
  /** Why it is a bad record. */
  readonly bad?: string;
}

const isImage = (extension: string): boolean => IMAGES.test(`.${extension}`);

/** The key and the extension of a member, as WebDataset splits its path; null for names without an extension and hidden files. */
function split(path: string): [key: string, extension: string] | null {
  const [, key, extension] = /^((?:.*\/)?[^./]+)\.([^/]+)$/s.exec(path) ?? [];
  return key === undefined ? null : [key, extension!.toLowerCase()];
}

/** A path as members are named: without its folder, the extension in lower case. */
function memberName(path: string): string {
  const name = path.replace(/^.*\//, "");
  return split(name)?.join(".") ?? name;
}

const leavesFolder = (path: string): boolean =>
  path.startsWith("/") || /^[a-z]:/i.test(path) || path.split(/[/\\]/).includes("..");

/** Gathers the members of samples, which lie one after the other. */
class SampleLister {
  readonly skipped = new Map<string, { count: number; example: string }>();
  private readonly keys = new Set<string>();
  private open: { key: string; members: Member[]; bad: string | undefined } | null = null;

  /** The sample that ends before this member, if one does. */
  add(member: TarMember): ListedSample | null {
    const path = member.path.replace(/^(\.\/)+/, "");
    const parts = split(path);
    if (!parts) return this.skip(/(^|\/)\./.test(path) ? "hidden" : "without an extension", path);
    const [key, extension] = parts;
    const done = this.open?.key === key ? null : this.finish();
    this.open ??= { key, members: [], bad: this.keys.has(key) ? "its key stands twice in the shard; rename one of the two samples" : undefined }; // prettier-ignore
    this.keys.add(key);
    this.open.bad ??= this.problem(path, extension, member, this.open.members);
    if (this.open.bad === undefined)
      this.open.members.push([extension, member.offset, member.size, ...(member.sparse ? [member.sparse] : [])] as unknown as Member); // prettier-ignore
    return done;
  }

  finish(): ListedSample | null {
    const { open } = this;
    this.open = null;
    if (!open) return null;
    return open.bad === undefined ? { key: open.key, members: open.members } : { key: open.key, members: [], bad: open.bad }; // prettier-ignore
  }

  private problem(
    path: string,
    extension: string,
    { size, skip }: TarMember,
    members: readonly Member[],
  ): string | undefined {
    // prettier-ignore
    if (leavesFolder(path)) return `its member ${quote(path)} leaves the folder; pack it with relative names`;
    if (skip !== undefined) return `its member ${extension} is ${skip}`;
    const most = isImage(extension) ? MAX_IMAGE : MAX_RECORD;
    if (size > most) return `its member ${extension} has ${size} bytes; at most ${most} are read`;
    if (members.some(([known]) => known === extension)) return `it has two members ${extension}; rename one of them`;
    if (members.length === MAX_MEMBERS) return `it has more than ${MAX_MEMBERS} members; are the names right?`;
    return undefined;
  }

  private skip(reason: string, example: string): null {
    const known = this.skipped.get(reason);
    if (known) known.count++;
    else this.skipped.set(reason, { count: 1, example });
    return null;
  }
}

export interface ShardListing {
  readonly samples: AsyncIterable<ListedSample>;
  /** Members that are no sample; complete at the end of `samples`. */
  readonly skipped: () => SkippedFiles[];
}

/** The samples of a shard, in order. */
export function listShard(file: RandomAccess, signal?: AbortSignal): ShardListing {
  const lister = new SampleLister();
  const samples = async function* (): AsyncGenerator<ListedSample> {
    for await (const member of membersOf(file, signal)) {
      const sample = lister.add(member);
      if (sample) yield sample;
    }
    const last = lister.finish();
    if (last) yield last;
  };
  return { samples: samples(), skipped: () => [...lister.skipped].map(([reason, rest]) => ({ reason, ...rest })) };
}

type Json = Record<string, unknown>;

export interface SampleOptions extends Pick<SourceSpec, "fields" | "ignoredFields"> {
  /** Names of the classes in `.cls` files. */
  readonly classes: ReadonlyMap<string, string> | null;
}

/** A sample as a record, with its images by name. */
export interface SampleRecord {
  readonly json: Json;
  readonly images: ReadonlyMap<string, Member>;
}

/**
 * The record of a sample: the fields of `.json`, `text` from `.txt`, `prompt` from `.cls`, and the images in the order of the tar file if the
 * record names none. Other members are fields by their extensions. Throws `RecordError`.
 */
export async function sampleRecord(
  file: RandomAccess,
  { key, members, bad }: ListedSample,
  { classes, fields, ignoredFields }: SampleOptions,
  place: RecordPlace,
): Promise<SampleRecord> {
  const fail = (reason: string): never => {
    throw new RecordError(place.file, place.line, `sample ${quote(key)}: ${reason}`);
  };
  if (bad !== undefined) return fail(bad);
  const read = ([, offset, size, sparse]: Member): Promise<Uint8Array> => readMember(file, { offset, size, ...(sparse && { sparse }) }); // prettier-ignore
  const json: Json = {};
  const images = new Map<string, Member>();
  const names: string[] = [];
  for (const member of members) {
    const [extension] = member;
    if (isImage(extension)) {
      names.push(extension);
      for (const name of [extension, `${key}.${extension}`, `${key}.${extension}`.replace(/^.*\//, "")]) images.set(name, member); // prettier-ignore
    } else if (extension === "json") {
      const record = parseLine(await read(member), place);
      if (!isObject(record)) return fail("its .json must be an object");
      Object.assign(json, record);
    }
  }
  for (const member of members) {
    const [extension] = member;
    if (extension === "json" || isImage(extension)) continue;
    const name = extension === "txt" ? "text" : extension === "cls" ? "prompt" : extension;
    const text = await textOf(member);
    // Programs end text files with a line feed, which is not part of a caption.
    const value = extension === "cls" ? classOf(text, classes, fail) : extension === "txt" ? text.trim() : text;
    json[isEmpty(json[name]) || json[name] === value ? name : besideName(extension, name)] = value;
  }
  if (names.length && !namesImages(json, fields)) Object.assign(json, names.length === 1 ? { image: names[0] } : { images: names }); // prettier-ignore
  return { json, images };

  async function textOf(member: Member): Promise<string> {
    const [extension] = member;
    // What is not used is not read: it may be anything.
    if (isIgnored(extension, fields, ignoredFields)) return "x";
    try {
      return new TextDecoder("utf-8", { fatal: true }).decode(await read(member));
    } catch (error) {
      if (!(error instanceof TypeError)) throw error;
      // Another field may be anything: it is refused by its name.
      return extension === "txt" || extension === "cls"
        ? fail(`its .${extension} is not UTF-8; save it in UTF-8`)
        : "\ufffd";
    }
  }
}

function isIgnored(extension: string, fields: SourceSpec["fields"], ignored: readonly string[] | undefined): boolean {
  if (extension === "txt" || extension === "cls") return false;
  const isNamed = Object.values(fields ?? {}).flat().includes(extension); // prettier-ignore
  return !isNamed && fieldUse("pairs", extension, ignored) === "ignored";
}

function classOf(text: string, classes: ReadonlyMap<string, string> | null, fail: (reason: string) => never): string {
  const id = text.trim();
  const name = classes?.get(id) ?? (classes === null && !/^\d+$/.test(id) ? id : undefined);
  return name ?? fail(`its .cls is the class ${quote(id)}, which has no name; give --classes FILE with a line "${id} name" for each class`); // prettier-ignore
}

/** Whether a record says itself which images it has. */
function namesImages(json: Json, fields: SourceSpec["fields"]): boolean {
  const record = withFieldNames(json, fields) as Json;
  const isNamed = [...SAME[1], "images"].some((name) => !isEmpty(record[name]));
  const turns = record.messages ?? record.conversations;
  return isNamed || (Array.isArray(turns) && turns.some(hasImageParts));
}

const hasImageParts = (turn: unknown): boolean =>
  isObject(turn) &&
  Array.isArray(turn.content) &&
  turn.content.some((part) => isObject(part) && ["image_url", "image", "path"].some((name) => !isEmpty(part[name])));

/** Samples of a shard, read by their lines of the listing. */
export class ShardReader {
  private readonly file: RandomAccess;
  private readonly kind: RecordKind;
  private readonly options: SampleOptions;

  constructor(file: RandomAccess, kind: RecordKind, options: SampleOptions) {
    this.file = file;
    this.kind = kind;
    this.options = options;
  }

  /** The record, its images as data URLs. Throws `RecordError`. */
  async read(line: ListedSample, place: RecordPlace): Promise<{ json: unknown; images: RecordPlace["images"] }> {
    const { json, images } = await sampleRecord(this.file, line, this.options, place);
    if (images.size === 0 && this.kind === "pairs")
      throw new RecordError(place.file, place.line, `sample ${quote(line.key)}: it has no image beside ${line.members.map(([extension]) => extension).join(", ")}`); // prettier-ignore
    if (this.kind === "pairs" && kindOf(withFieldNames(json, this.options.fields)) === undefined)
      throw new RecordError(place.file, place.line, `sample ${quote(line.key)}: it has an image and no text (.txt, .json or .cls)`); // prettier-ignore
    const urls = new Map<Member, string>();
    for (const member of new Set(images.values())) {
      const [, offset, size, sparse] = member;
      const bytes = await readMember(this.file, { offset, size, ...(sparse && { sparse }) });
      urls.set(member, `data:;base64,${Buffer.from(bytes.buffer, bytes.byteOffset, bytes.length).toString("base64")}`);
    }
    const find = (name: string): Member | undefined => images.get(name) ?? images.get(memberName(name));
    return { json, images: (name) => urls.get(find(name)!) };
  }
}

/** Throws `SourceError` if a listing has no samples. */
export function requireSamples(path: string, count: number, skipped: readonly SkippedFiles[]): void {
  if (count > 0) return;
  const why = skipped.map(({ reason, count: n, example }) => `${n} × ${reason} (${example})`).join("; ");
  throw new SourceError(`${path} has no samples${why ? `. Not used: ${why}` : ""}`);
}
