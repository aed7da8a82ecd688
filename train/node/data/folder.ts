/** Folders of images by class: their listing, and the stamps by which a source is recognised without reading it. */
import { createHash } from "node:crypto";
import { readFile, readdir, stat } from "node:fs/promises";
import type { BigIntStats } from "node:fs";
import { join } from "node:path";
import { fileError } from "../../../model/node/files.ts";
import { SourceError } from "../../data/errors.ts";
import type { ScanOptions } from "./scan.ts";
import type { SourceSpec } from "./sources.ts";

/** Size and time of a file, or of a folder's class folders: while they stay the same, so does the source. */
export interface Stamp {
  readonly isFolder: boolean;
  readonly bytes: number;
  readonly modified: string;
}

const PICTURES = /\.(jpe?g|png|webp|gif|tiff?|avif)$/i;
const STATS_AT_ONCE = 64;

async function statsOf(path: string): Promise<BigIntStats> {
  try {
    return await stat(path, { bigint: true });
  } catch (error) {
    throw fileError(error, path);
  }
}

/** Names in a folder, in the order of their UTF-16 codes: the same on every machine. */
async function namesIn(path: string, kind: "folders" | "pictures"): Promise<string[]> {
  const entries = await readdir(path, { withFileTypes: true }).catch((error: unknown) => {
    throw fileError(error, path);
  });
  const isWanted = (entry: (typeof entries)[number]): boolean =>
    kind === "folders"
      ? (entry.isDirectory() || entry.isSymbolicLink()) && !entry.name.startsWith(".")
      : PICTURES.test(entry.name) && !entry.isDirectory() && !entry.name.startsWith(".");
  return entries
    .filter(isWanted)
    .map(({ name }) => name)
    .sort();
}

/** What a source looks like from outside. Of a folder: a hash over the times of its class folders, which change when files come or go. */
export async function stampOf(spec: SourceSpec): Promise<Stamp> {
  const stats = await statsOf(spec.path);
  if (!stats.isDirectory()) return { isFolder: false, bytes: Number(stats.size), modified: String(stats.mtimeNs) };
  const hash = createHash("sha256");
  for (const name of await namesIn(spec.path, "folders")) {
    const inside = await statsOf(join(spec.path, name));
    hash.update(`${name}\0${inside.mtimeNs}\n`);
  }
  if (spec.classes !== undefined) hash.update(await classesText(spec.classes));
  return { isFolder: true, bytes: 0, modified: hash.digest("hex") };
}

const classesText = (path: string): Promise<string> =>
  readFile(path, "utf8").catch((error: unknown) => {
    throw fileError(error, path);
  });

/** The name of each class folder. Lines `folder name of the class`, as ImageNet's synset file has them. */
async function classNames(spec: SourceSpec, folders: readonly string[]): Promise<Map<string, string>> {
  if (spec.classes === undefined) return new Map(folders.map((name) => [name, name.replaceAll("_", " ").trim()]));
  const names = new Map<string, string>();
  for (const [i, line] of (await classesText(spec.classes)).split(/\r?\n/).entries()) {
    if (line.trim() === "") continue;
    const [, folder, name] = /^(\S+)\s+(\S.*?)\s*$/.exec(line) ?? [];
    if (folder === undefined || name === undefined)
      throw new SourceError(`${spec.classes}:${i + 1}: a line is the name of a folder, a space, the name of its class`);
    if (names.has(folder)) throw new SourceError(`${spec.classes}:${i + 1}: a second line for ${folder}`);
    names.set(folder, name);
  }
  const missing = folders.find((name) => !names.has(name));
  if (missing !== undefined)
    throw new SourceError(`${spec.classes} has no line for the folder ${missing} of ${spec.path}; add it`);
  return names;
}

export interface Listing {
  /** Hash of `text`, in hex. */
  readonly hash: string;
  /** JSONL: `{class, image, bytes}`. */
  readonly text: Uint8Array;
}

/** Every image of a folder with its class, in order. Throws `SourceError` for folders without images and classes without a name. */
export async function listFolder(spec: SourceSpec, { signal }: ScanOptions): Promise<Listing> {
  const folders = await namesIn(spec.path, "folders");
  const names = await classNames(spec, folders);
  const lines: string[] = [];
  for (const folder of folders) {
    signal?.throwIfAborted();
    const files = await namesIn(join(spec.path, folder), "pictures");
    for (let at = 0; at < files.length; at += STATS_AT_ONCE) {
      const some = files.slice(at, at + STATS_AT_ONCE);
      const stats = await Promise.all(some.map((file) => statsOf(join(spec.path, folder, file))));
      for (const [i, file] of some.entries())
        lines.push(
          `${JSON.stringify({ class: names.get(folder), image: `${folder}/${file}`, bytes: Number(stats[i]!.size) })}\n`,
        );
    }
  }
  if (lines.length === 0)
    throw new SourceError(
      `${spec.path} holds no folders with images; one folder for each class, with JPEG, PNG, WebP, GIF, TIFF or AVIF files in it`,
    );
  const text = new TextEncoder().encode(lines.join(""));
  return { hash: createHash("sha256").update(text).digest("hex"), text };
}
