/**
 * The text chunks of PNG files (tEXt, zTXt, iTXt; PNG specification, 11.3.3): inserted into a finished file and read back.
 * Every chunk's bounds are checked, and the checksum of those that are read. This module does not encode or decode the
 * image itself.
 */
import { ArgumentError } from "../../engine/errors.ts";
import { ImageFormatError } from "./image.ts";

const SIGNATURE = [0x89, 0x50, 0x4e, 0x47, 0x0d, 0x0a, 0x1a, 0x0a];
const MAX_TEXTS = 1000;

const CRC_TABLE = Uint32Array.from({ length: 256 }, (_, n) => {
  let c = n;
  for (let bit = 0; bit < 8; bit++) c = c & 1 ? 0xedb88320 ^ (c >>> 1) : c >>> 1;
  return c;
});

/** CRC-32 as in ISO 3309. */
function crc32(bytes: Uint8Array): number {
  let c = 0xffffffff;
  for (const byte of bytes) c = CRC_TABLE[(c ^ byte) & 0xff]! ^ (c >>> 8);
  return (c ^ 0xffffffff) >>> 0;
}

interface Chunk {
  readonly type: string;
  readonly data: Uint8Array;
  /** Type and data, over which the checksum runs. */
  readonly checked: Uint8Array;
  readonly crc: number;
  /** Offset of the chunk's end in the file. */
  readonly end: number;
}

const latin1 = (bytes: Uint8Array): string => {
  let text = "";
  for (const byte of bytes) text += String.fromCharCode(byte);
  return text;
};

function* chunks(png: Uint8Array): Generator<Chunk> {
  if (!SIGNATURE.every((byte, i) => png[i] === byte))
    throw new ImageFormatError("not a PNG file: its signature is missing");
  const view = new DataView(png.buffer, png.byteOffset, png.byteLength);
  for (let at = SIGNATURE.length; ;) {
    const length = at + 12 <= png.length ? view.getUint32(at) : Infinity;
    if (length > png.length - at - 12)
      throw new ImageFormatError(`a PNG file that ends early: a chunk at byte ${at} of ${png.length}`);
    const checked = png.subarray(at + 4, at + 8 + length);
    const type = latin1(checked.subarray(0, 4));
    at += 12 + length;
    yield { type, data: checked.subarray(4), checked, crc: view.getUint32(at - 4), end: at };
    if (type === "IEND") return;
  }
}

function chunkBytes(type: string, data: Uint8Array): Uint8Array {
  const out = new Uint8Array(data.length + 12);
  const view = new DataView(out.buffer);
  view.setUint32(0, data.length);
  for (let i = 0; i < 4; i++) out[4 + i] = type.charCodeAt(i);
  out.set(data, 8);
  view.setUint32(data.length + 8, crc32(out.subarray(4, data.length + 8)));
  return out;
}

function concat(parts: readonly Uint8Array[]): Uint8Array {
  const out = new Uint8Array(parts.reduce((sum, part) => sum + part.length, 0));
  let at = 0;
  for (const part of parts) {
    out.set(part, at);
    at += part.length;
  }
  return out;
}

/** tEXt if the text is printable Latin-1 (which every reader shows), else iTXt in UTF-8. */
function textChunk(key: string, text: string): Uint8Array {
  // The rules of the specification: printable Latin-1, no space in front, behind or doubled.
  if (!/^[\x20-\x7e\xa1-\xff]{1,79}$/.test(key) || /^ | $| {2}/.test(key)) {
    throw new ArgumentError(
      `PNG text: the key ${JSON.stringify(key)} must be 1 to 79 printable Latin-1 characters with single spaces inside`,
    );
  }
  if (text.includes("\0"))
    throw new ArgumentError(
      `PNG text: the text of ${JSON.stringify(key)} contains a zero character, which PNG cannot store`,
    );
  const keyword = Uint8Array.from(key, (c) => c.charCodeAt(0));
  if (/^[\n\x20-\x7e\xa1-\xff]*$/.test(text)) {
    return chunkBytes("tEXt", concat([keyword, Uint8Array.of(0), Uint8Array.from(text, (c) => c.charCodeAt(0))]));
  }
  // After the keyword: its end, not compressed, method 0, no language, no translated keyword.
  return chunkBytes("iTXt", concat([keyword, new Uint8Array(5), new TextEncoder().encode(text)]));
}

/** `png` with one text chunk for each entry of `text`, right behind its header. Throws `ArgumentError` for what PNG cannot hold. */
export function insertTextChunks(png: Uint8Array, text: Readonly<Record<string, string>>): Uint8Array {
  const added = Object.entries(text).map(([key, value]) => textChunk(key, value));
  const [header] = chunks(png);
  if (header?.type !== "IHDR") throw new ImageFormatError("a PNG file whose header is not its first chunk");
  return concat([png.subarray(0, header.end), ...added, png.subarray(header.end)]);
}

/**
 * The texts of a PNG file, by key; of several with one key the last. `inflate` undoes zlib compression (it is to refuse more than it can
 * take); without it compressed texts are left out. Throws `ImageFormatError` for a file that is no PNG or is damaged.
 */
export function readTextChunks(png: Uint8Array, inflate?: (bytes: Uint8Array) => Uint8Array): Map<string, string> {
  const texts = new Map<string, string>();
  for (const { type, data, checked, crc } of chunks(png)) {
    if (type !== "tEXt" && type !== "zTXt" && type !== "iTXt") continue;
    const fail = (what: string): never => {
      throw new ImageFormatError(`a damaged ${type} chunk in a PNG file: ${what}`);
    };
    if (crc32(checked) !== crc) fail("its checksum does not agree");
    const zeroFrom = (from: number): number => {
      const at = data.indexOf(0, from);
      return at < 0 ? fail("a zero byte is missing") : at;
    };
    const keyEnd = zeroFrom(0);
    let at = keyEnd + 1;
    let compressed = type === "zTXt";
    if (type === "iTXt") {
      compressed = data[at] === 1;
      at = zeroFrom(zeroFrom(at + 2) + 1) + 1; // flag, method, language, translated keyword
    } else if (compressed) at++; // method
    if (compressed && !inflate) continue;
    let bytes = data.subarray(at);
    if (compressed) {
      try {
        bytes = inflate!(bytes);
      } catch (error) {
        fail(`its text does not unpack: ${String(error)}`);
      }
    }
    if (texts.size >= MAX_TEXTS) fail(`more than ${MAX_TEXTS} texts`);
    texts.set(
      latin1(data.subarray(0, keyEnd)),
      type === "iTXt" ? new TextDecoder("utf-8", { ignoreBOM: true }).decode(bytes) : latin1(bytes),
    );
  }
  return texts;
}
