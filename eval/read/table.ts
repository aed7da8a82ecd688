/** Rows of the files that benchmarks come in, whatever their format: texts by column, and images that are read when they are needed. */
import { createHash } from "node:crypto";

/** One image of a row, not yet read. */
export interface ImageCell {
  /** Equal for equal content, so that the features of an image are computed once. */
  readonly key: string;
  /** The value if it is too short to be an image: the id of another row, or a path. */
  readonly short: string | null;
  /** Base64 text, a data URL, or the bytes of an image file. */
  load(): Promise<string | Uint8Array>;
}

export interface RawRow {
  /** From 1, without a header. */
  readonly at: number;
  readonly fields: ReadonlyMap<string, string>;
  readonly images: readonly ImageCell[];
}

export interface Table {
  readonly path: string;
  readonly md5: string;
  readonly columns: readonly string[];
  readonly rows: readonly RawRow[];
  close(): Promise<void>;
}

/** Columns that may hold images, by name; the others are texts. */
export interface TableOptions {
  readonly images: readonly string[];
  readonly maxRecord?: number;
}

/** Longer values are images; shorter ones name another row. VLMEvalKit has this limit. */
export const MAX_REFERENCE = 64;

/** True for a structure, which is no text of a question: its cell counts as empty. */
export const isStruct = (value: unknown): boolean =>
  typeof value === "object" && value !== null && Object.getPrototypeOf(value) === Object.prototype;

export const keyOf = (value: string | Uint8Array): string =>
  createHash("sha256").update(value).digest("hex").slice(0, 32);

/** Parts of a list as Python writes it, `['a', "b"]`; null for what is none. */
export function pythonList(text: string): string[] | null {
  const inside = /^\s*\[([\s\S]*)\]\s*$/.exec(text)?.[1];
  if (inside === undefined) return null;
  const parts: string[] = [];
  const part = /\s*(?:'((?:[^'\\]|\\[\s\S])*)'|"((?:[^"\\]|\\[\s\S])*)"|([^\s,'"][^,]*?))\s*(,|$)/y;
  while (part.lastIndex < inside.trimEnd().length) {
    const found = part.exec(inside);
    if (!found) return null;
    const quoted = found[1] ?? found[2];
    parts.push(quoted === undefined ? found[3]! : unescape(quoted));
  }
  return parts;
}

const ESCAPES: Readonly<Record<string, string>> = { n: "\n", t: "\t", r: "\r" };

const unescape = (text: string): string =>
  text.includes("\\") ? text.replace(/\\(?:x([0-9a-f]{2})|u([0-9a-f]{4})|([\s\S]))/gi, (_, x?: string, u?: string, c?: string) => x ?? u ? String.fromCharCode(Number.parseInt((x ?? u)!, 16)) : (ESCAPES[c!] ?? c!)) : text; // prettier-ignore
