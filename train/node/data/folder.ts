/**
 * Folders of images: their listing, and what of them is no sample. If images have a text file beside them (`photo.jpg`, `photo.txt`), that is
 * their caption. Otherwise the class of an image is the folder that it lies in, at any depth (`cat/1.png`, `train/cat/1.png`). Each start stats every image, so that one that was overwritten with another size is noticed, whether the
 * listing is in the cache or not.
 */
import { createHash } from "node:crypto";
import type { BigIntStats } from "node:fs";
import { opendir, readFile, stat } from "node:fs/promises";
import { basename, join } from "node:path";
import { FileError, fileError } from "../../../model/node/files.ts";
import { SourceError } from "../../data/errors.ts";
import type { ScanOptions } from "./index_format.ts";
import { sortedNames } from "./sorted_names.ts";
import type { SourceSpec } from "./sources.ts";

/** Names of image files that are read. */
export const IMAGES = /\.(jpe?g|jpe|jfif|png|webp|gif|tiff?|avif)$/i;
/** Images that are named in the report as such, because nothing here decodes them. */
const OTHER_IMAGES = /\.(bmp|dib|heic|heif|jxl|jp2|j2k|ico|svg|psd|tga|exr|hdr|p[bgpn]m|dng|cr2|nef|arw)$/i;
const SPLITS = new Set(["train", "training", "val", "valid", "validation", "dev", "test", "testing"]);
const STATS_AT_ONCE = 64;
/** Lines that are hashed and written at once. */
const LINES_AT_ONCE = 4096;

/** Entries of a folder that are no samples, by reason. */
export interface SkippedFiles {
  readonly reason: string;
  readonly count: number;
  /** The first of them, relative to the folder. */
  readonly example: string;
}

export interface Listing {
  /** Hash of the lines, in hex. */
  readonly hash: string;
  /** Whether images have captions in files of their own; else they have classes. */
  readonly isCaptioned: boolean;
  readonly skipped: readonly SkippedFiles[];
}

const classesText = (path: string): Promise<string> =>
  readFile(path, "utf8").catch((error: unknown) => {
    throw fileError(error, path);
  });

/** Names of classes by folder, of lines `folder name of the class`, as ImageNet's synset file has them. */
export async function readClasses(path: string): Promise<Map<string, string>> {
  const names = new Map<string, string>();
  for (const [i, line] of (await classesText(path))
    .replace(/^\ufeff/, "")
    .split(/\r?\n/)
    .entries()) {
    if (line.trim() === "") continue;
    const [, folder, name] = /^(\S+)\s+(\S.*?)\s*$/.exec(line) ?? [];
    if (folder === undefined || name === undefined)
      throw new SourceError(`${path}:${i + 1}: a line is the name of a folder, a space, the name of its class`);
    if (names.has(folder)) throw new SourceError(`${path}:${i + 1}: a second line for ${folder}`);
    names.set(folder, name);
  }
  return names;
}

/** An entry whose stats are known; null if nothing is there under its name. */
async function statsOf(path: string): Promise<BigIntStats | null> {
  try {
    return await stat(path, { bigint: true });
  } catch (error) {
    const problem = fileError(error, path);
    if (problem instanceof FileError && ["ENOENT", "ELOOP", "ENOTDIR"].includes(problem.code)) return null;
    throw problem;
  }
}

const idOf = ({ dev, ino }: BigIntStats): string => `${dev}:${ino}`;

/** An entry of a folder: its name, and whether it is a folder, a link or another file. */
interface Entry {
  readonly name: string;
  readonly type: "d" | "l" | "f";
}

/** Entries of a folder in the order of their names, whatever their number. */
async function* entriesOf(path: string): AsyncGenerator<Entry> {
  const opened = await opendir(path, { bufferSize: 1024 }).catch((error: unknown) => {
    throw fileError(error, path);
  });
  // No name contains a zero: behind it the type does not change the order.
  const names = async function* (): AsyncGenerator<string> {
    for await (const entry of opened)
      yield `${entry.name}\0${entry.isDirectory() ? "d" : entry.isSymbolicLink() ? "l" : "f"}`;
  };
  for await (const text of sortedNames(names())) {
    const end = text.length - 2;
    yield { name: text.slice(0, end), type: text[end + 1] as Entry["type"] };
  }
}

interface Folder {
  readonly name: string;
  readonly id: string;
}

/** Images that are looked at to find whether they have captions. */
const LOOKED_AT = 1000;
/** Bytes of a caption. */
const MAX_CAPTION = 2 ** 20;

const CAPTION = /\.txt$/i;

/** Names that the caption of an image may have: the ending in either case, accented letters in one code point or in two. */
function captionNames(image: string): string[] {
  const stem = image.replace(/\.[^.]+$/, "");
  const stems = new Set([stem, stem.normalize("NFC"), stem.normalize("NFD")]);
  return [...stems].flatMap((one) => [`${one}.txt`, `${one}.TXT`]);
}

/** A line of the listing of captioned images: the caption itself, so that a change of one is a change of the data. */
export interface CaptionedImage {
  readonly image: string;
  readonly bytes: number;
  readonly text?: string;
  /** Why it is a bad record. */
  readonly bad?: string;
}

class FolderLister {
  readonly skipped = new Map<string, { count: number; example: string }>();
  private readonly spec: SourceSpec;
  private readonly classes: ReadonlyMap<string, string> | null;
  private readonly signal: AbortSignal | undefined;

  constructor(spec: SourceSpec, classes: ReadonlyMap<string, string> | null, signal: AbortSignal | undefined) {
    this.spec = spec;
    this.classes = classes;
    this.signal = signal;
  }

  /** Whether one of the first images has a text file beside it. Images in hidden folders and behind links are not looked at. */
  async isCaptioned(): Promise<boolean> {
    let left = LOOKED_AT;
    const look = async (path: string): Promise<boolean> => {
      const folders: string[] = [];
      for await (const { name, type } of entriesOf(join(this.spec.path, path))) {
        if (name.startsWith(".")) continue;
        if (type === "d") folders.push(name);
        else if (IMAGES.test(name)) {
          if (left-- <= 0) return false;
          if (await this.captionOf(join(path, name))) return true;
        }
      }
      for (const name of folders) if (left > 0 && (await look(join(path, name)))) return true;
      return false;
    };
    return this.classes === null && (await look(""));
  }

  /** Lines of the listing of captioned images, at any depth. */
  async *captioned(path = "", above: readonly string[] = []): AsyncGenerator<string> {
    const folders: Folder[] = [];
    // Captions that were met before their image, and those whose image was met before them.
    const [waiting, used] = [new Set<string>(), new Set<string>()];
    const keyOf = (name: string): string => captionNames(basename(name).normalize("NFC"))[0]!;
    const onCaption = (name: string): void => void (used.delete(keyOf(name)) || waiting.add(keyOf(name)));
    for await (const { name, bytes } of this.images(path, folders, onCaption)) {
      const image = join(path, name);
      const caption = await this.captionOf(image);
      if (caption && !waiting.delete(keyOf(caption.name))) used.add(keyOf(caption.name));
      const line: CaptionedImage = { image, bytes, ...(await this.caption(image, caption)) };
      yield `${JSON.stringify(line)}\n`;
    }
    for (const name of waiting) this.skip("a text without an image", join(path, name));
    await this.requireOneSplit(path, folders);
    for (const { name, id } of folders) {
      if (above.includes(id)) this.skip("link to a folder above it", join(path, name));
      else yield* this.captioned(join(path, name), [...above, id]);
    }
  }

  /** The caption of an image, if it has one. */
  private async captionOf(image: string): Promise<{ readonly name: string; readonly size: bigint } | null> {
    for (const name of captionNames(image)) {
      const stats = await statsOf(join(this.spec.path, name));
      if (stats?.isFile()) return { name, size: stats.size };
    }
    return null;
  }

  private async caption(
    image: string,
    found: { readonly name: string; readonly size: bigint } | null,
  ): Promise<Pick<CaptionedImage, "text" | "bad">> {
    if (!found) return { bad: `it has no caption: ${captionNames(image)[0]} is not there` };
    const { name, size } = found;
    if (size > MAX_CAPTION) return { bad: `its caption ${name} has ${size} bytes; at most ${MAX_CAPTION} are read` };
    const path = join(this.spec.path, name);
    const bytes = await readFile(path).catch((error: unknown) => {
      throw fileError(error, path);
    });
    try {
      const text = new TextDecoder("utf-8", { fatal: true }).decode(bytes).trim();
      return text === "" ? { bad: `its caption ${name} is empty` } : { text };
    } catch {
      return { bad: `its caption ${name} is not UTF-8; save it in UTF-8` };
    }
  }

  /** Lines of the listing. */
  async *lines(): AsyncGenerator<string> {
    const folders: Folder[] = [];
    for await (const { name } of this.images("", folders))
      this.skip("in the root, without the folder of a class", name);
    await this.requireOneSplit("", folders);
    const above = await statsOf(this.spec.path);
    for (const { name, id } of folders) yield* this.folder(name, [...(above ? [idOf(above)] : []), id]);
  }

  /** @param above ids of the folder and those above it: a link back to one of them would never end */
  private async *folder(path: string, above: readonly string[]): AsyncGenerator<string> {
    const folders: Folder[] = [];
    let className: string | null = null;
    for await (const { name, bytes } of this.images(path, folders)) {
      className ??= this.classOf(path);
      yield `${JSON.stringify({ class: className, image: `${path}/${name}`, bytes })}\n`;
    }
    if (folders.length === 0) this.classOf(path); // an empty class has to have a name too
    await this.requireOneSplit(path, folders);
    for (const { name, id } of folders) {
      if (above.includes(id)) this.skip("link to a folder above it", `${path}/${name}`);
      else yield* this.folder(`${path}/${name}`, [...above, id]);
    }
  }

  private classOf(path: string): string {
    const folder = path.slice(path.lastIndexOf("/") + 1);
    if (!this.classes) return folder.replaceAll("_", " ").trim();
    const name = this.classes.get(path) ?? this.classes.get(folder);
    if (name === undefined)
      throw new SourceError(`${this.spec.classes} has no line for the folder ${path} of ${this.spec.path}; add it`);
    return name;
  }

  /** The images that lie directly in a folder; its folders are added to `folders`. */
  private async *images(
    path: string,
    folders: Folder[],
    onCaption?: (name: string) => void,
  ): AsyncGenerator<{ name: string; bytes: number }> {
    let some: Entry[] = [];
    const use = async (entries: readonly Entry[]): Promise<{ name: string; bytes: number }[]> => {
      this.signal?.throwIfAborted();
      const stats = await Promise.all(entries.map(({ name }) => statsOf(join(this.spec.path, path, name))));
      return entries.flatMap(({ name, type }, i) => {
        const [found, shown] = [stats[i]!, join(path, name)];
        if (!found) this.skip(type === "l" ? "broken link" : "cannot be found under its name", shown);
        else if (found.isDirectory()) folders.push({ name, id: idOf(found) });
        else if (!IMAGES.test(name)) this.skip(reasonOf(name), shown);
        else if (!found.isFile()) this.skip("not a file", shown);
        else return [{ name, bytes: Number(found.size) }];
        return [];
      });
    };
    for await (const entry of entriesOf(join(this.spec.path, path))) {
      if (onCaption && CAPTION.test(entry.name) && !entry.name.startsWith(".")) {
        onCaption(entry.name);
        continue;
      }
      if (!this.isLookedAt(entry, path) || some.push(entry) < STATS_AT_ONCE) continue;
      yield* await use(some);
      some = [];
    }
    yield* await use(some);
  }

  /** Whether an entry has to be stat-ed: other files than images are known by their names. */
  private isLookedAt({ name, type }: Entry, path: string): boolean {
    if (name.startsWith(".")) {
      this.skip("hidden", join(path, name));
      return false;
    }
    if (type !== "f" || IMAGES.test(name)) return true;
    this.skip(reasonOf(name), join(path, name));
    return false;
  }

  /** Training on `train` and `test` together is never meant. */
  private async requireOneSplit(path: string, folders: readonly Folder[]): Promise<void> {
    const parent = join(this.spec.path, path);
    const [splits, named]: [string[], string[]] = [[], []];
    for (const { name } of folders) {
      if (!SPLITS.has(name.toLowerCase())) continue;
      if (this.classes?.has(name) || this.classes?.has(join(path, name))) continue; // a class by the user's word
      let [hasImages, hasFolders] = [false, false];
      for await (const entry of entriesOf(join(parent, name))) {
        if (IMAGES.test(entry.name)) hasImages = true;
        else if (entry.type !== "f") hasFolders = true; // a link may be one
      }
      if (hasFolders) splits.push(name);
      else if (hasImages) named.push(name);
    }
    if (named.length > 1)
      throw new SourceError(
        `${parent} has images in the folders ${named.join(" and ")}, which are names of splits, not of classes; each class needs a folder in one of them. If they are classes, say so with --classes`,
      );
    if (splits.length + named.length > 1)
      throw new SourceError(
        `${parent} contains the splits ${[...splits, ...named].join(" and ")}; a source is one of them. Give ${join(parent, splits.find((name) => /^train/i.test(name)) ?? splits[0]!)}`,
      );
  }

  private skip(reason: string, name: string): void {
    const known = this.skipped.get(reason);
    if (known) known.count++;
    else this.skipped.set(reason, { count: 1, example: name });
  }
}

const reasonOf = (name: string): string =>
  OTHER_IMAGES.test(name) ? "an image of a format that is not read" : "not an image by its name";

/**
 * Lists every image of a folder, in order, as JSONL: with its class `{class, image, bytes}`, or its caption `{image, bytes, text}`; `write` gets the lines in parts; memory does not
 * depend on the number of images. Throws `SourceError` for folders without images, with several splits, and for classes without a name.
 */
export async function listFolder(
  spec: SourceSpec,
  { signal }: ScanOptions,
  write: (bytes: Uint8Array) => Promise<void> = async () => undefined,
): Promise<Listing> {
  const classes = spec.classes === undefined ? null : await readClasses(spec.classes);
  const lister = new FolderLister(spec, classes, signal);
  const isCaptioned = await lister.isCaptioned();
  const hash = createHash("sha256");
  let lines: string[] = [];
  let count = 0;
  const flush = async (): Promise<void> => {
    const bytes = new TextEncoder().encode(lines.join(""));
    lines = [];
    hash.update(bytes);
    await write(bytes);
  };
  for await (const line of isCaptioned ? lister.captioned() : lister.lines()) {
    count++;
    if (lines.push(line) === LINES_AT_ONCE) await flush();
  }
  await flush();
  const skipped = [...lister.skipped].map(([reason, rest]) => ({ reason, ...rest }));
  if (count === 0)
    throw new SourceError(
      `${spec.path} has no folders with images, and no images with captions (photo.jpg and photo.txt); give each class a folder with JPEG, PNG, WebP, GIF, TIFF or AVIF files${skipped.length ? `. Not used: ${skippedText(skipped)}` : ""}`,
    );
  return { hash: hash.digest("hex"), skipped, isCaptioned };
}

/** `2 broken link (cat/3.png, …); 1 hidden (.DS_Store)`. */
export const skippedText = (skipped: readonly SkippedFiles[]): string =>
  skipped.map(({ reason, count, example }) => `${count} × ${reason} (${example}${count > 1 ? ", …" : ""})`).join("; ");
