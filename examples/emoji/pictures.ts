/**
 * Emoji as pictures with words: Microsoft's Fluent Emoji (MIT) as npm has them, with the names, tags and groups of emojibase-data (MIT) in English and
 * Chinese. Which pictures training may see depends on their first code point alone, so that skin tones and other variants of a picture never cross.
 */
import { readFileSync } from "node:fs";
import { createRequire } from "node:module";
import sharp from "sharp";
import type { RgbImage } from "../../index.node.ts";

/** Side of the pictures, pixels. */
export const SIDE = 64;

export interface Words {
  readonly label: string;
  readonly tags: readonly string[];
}

export interface Emoji {
  /** Code points in hex, separated by `-`. */
  readonly code: string;
  /** The first code point. */
  readonly base: string;
  readonly group: number;
  readonly en: Words;
  readonly zh: Words;
  /** A variant in skin tone. */
  readonly isTone: boolean;
  readonly svg: string;
}

/** Groups of emojibase, as questions name them. */
export const GROUPS: Readonly<Record<number, string>> = {
  0: "a face or a feeling",
  1: "a person or a part of the body",
  3: "an animal or a plant",
  4: "food or drink",
  5: "a place or a vehicle",
  6: "a game or a celebration",
  7: "an object",
  8: "a symbol",
};

interface Entry extends Words {
  readonly hexcode: string;
  readonly group?: number;
  readonly skins?: readonly Entry[];
}

interface Icons {
  readonly icons: Readonly<
    Record<string, { readonly body: string; readonly width?: number; readonly height?: number }>
  >;
  readonly aliases?: Readonly<Record<string, { readonly parent: string }>>;
  readonly width: number;
  readonly height: number;
}

const require = createRequire(import.meta.url);
const readJson = <T>(name: string): T => JSON.parse(readFileSync(require.resolve(name), "utf8")) as T;

/** Without the selector of the coloured form, which one list has and the other has not. */
const plain = (code: string): string => code.toLowerCase().replaceAll("-fe0f", "");

/** Words of an emoji and of its variants by code. A variant has the tags of its emoji. */
function wordsOf(
  language: "en" | "zh",
): Map<string, Words & { readonly group: number | undefined; readonly isTone: boolean }> {
  const found = new Map<string, Words & { group: number | undefined; isTone: boolean }>();
  for (const { hexcode, label, tags = [], group, skins = [] } of readJson<Entry[]>(
    `emojibase-data/${language}/data.json`,
  )) {
    found.set(plain(hexcode), { label, tags, group, isTone: false });
    for (const skin of skins) found.set(plain(skin.hexcode), { label: skin.label, tags, group, isTone: true });
  }
  return found;
}

/** All pictures that have words in both languages, in the order of their codes. */
export function loadEmoji(): Emoji[] {
  const { icons, aliases = {}, width, height } = readJson<Icons>("@iconify-json/fluent-emoji-flat/icons.json");
  const names = readJson<Record<string, string>>("@iconify-json/fluent-emoji-flat/chars.json");
  const [en, zh] = [wordsOf("en"), wordsOf("zh")];
  const found: Emoji[] = [];
  for (const [char, name] of Object.entries(names).sort(([a], [b]) => (a < b ? -1 : 1))) {
    const code = plain(char);
    const [english, chinese, icon] = [en.get(code), zh.get(code), icons[name] ?? icons[aliases[name]?.parent ?? ""]];
    const { group } = english ?? {};
    if (!english || !chinese || !icon || group === undefined || GROUPS[group] === undefined) continue;
    const box = `0 0 ${icon.width ?? width} ${icon.height ?? height}`;
    const svg = `<svg xmlns="http://www.w3.org/2000/svg" viewBox="${box}" width="${SIDE}" height="${SIDE}">${icon.body}</svg>`;
    found.push({ code, base: code.split("-")[0]!, group, en: english, zh: chinese, isTone: english.isTone, svg });
  }
  return found;
}

/** Whether a picture is kept from training: a tenth of the first code points, by a hash. FNV-1a. */
export function isHeldOut({ base }: Pick<Emoji, "base">): boolean {
  let hash = 0x811c9dc5;
  for (const character of base) hash = Math.imul(hash ^ character.charCodeAt(0), 0x01000193);
  hash = Math.imul(hash ^ (hash >>> 16), 0x45d9f3b); // the low bits of FNV mix badly
  return ((hash ^ (hash >>> 16)) >>> 0) % 10 === 0;
}

/** The picture on white. */
export async function pixelsOf({ svg }: Pick<Emoji, "svg">): Promise<RgbImage> {
  const { data } = await sharp(Buffer.from(svg)).resize(SIDE, SIDE).flatten({ background: "#ffffff" }).removeAlpha().raw().toBuffer({ resolveWithObject: true }); // prettier-ignore
  return { width: SIDE, height: SIDE, data: new Uint8Array(data) };
}
