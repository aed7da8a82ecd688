/**
 * Image files, with `sharp`: decoding to 8-bit RGB with limits that are checked before decoding, and PNG files with
 * text chunks. Sizes are not changed here: resize.ts does that as Pillow does, which sharp does not.
 */
import { constants } from "node:fs";
import { open } from "node:fs/promises";
import { inflateSync } from "node:zlib";
import type { Metadata, Sharp, SharpOptions } from "sharp";
import { ArgumentError, JanusError, messageOf } from "../../engine/errors.ts";
import { knownOptions, requireBoolean, shown } from "../../engine/options.ts";
import { ImageError, ImageFormatError, ImageLimitError, checkImage } from "../image/image.ts";
import type { RgbImage } from "../image/image.ts";
import { insertTextChunks, readTextChunks } from "../image/png_text.ts";
import { notContent } from "../io/small_file.ts";
import { shortage } from "./files.ts";

export interface ReadImageOptions {
  /**
   * Use the stored pixels unchanged, like the original's `Image.open(file).convert("RGB")`: no EXIF rotation, alpha
   * dropped. By default the image is rotated upright, with transparent pixels over white.
   */
  readonly plain?: boolean;
  /** The largest file, bytes. */
  readonly maxBytes?: number;
  /** The most pixels an image may have. */
  readonly maxPixels?: number;
  /** The name of the image in messages, if it comes as bytes. */
  readonly name?: string;
}

const MAX_BYTES = 128 * 2 ** 20;
const MAX_PIXELS = 100e6;
const MAX_SIDE = 100_000; // pixels; a longer strip would need gigabytes inside the resize
const MAX_TEXT_BYTES = 16 * 2 ** 20; // limit for one compressed PNG text

const ascii = (bytes: Uint8Array, from: number, to: number): string => String.fromCharCode(...bytes.subarray(from, to));

/** The format that a file's first bytes announce. sharp would also read SVG and PDF, which are programs rather than images. */
function formatOf(bytes: Uint8Array): string | undefined {
  const head = ascii(bytes, 0, 4);
  if (head.startsWith("\xff\xd8\xff")) return "jpeg";
  if (head === "\x89PNG") return "png";
  if (head === "GIF8") return "gif";
  if (head === "RIFF" && ascii(bytes, 8, 12) === "WEBP") return "webp";
  if (head === "II*\0" || head === "MM\0*" || head === "II+\0" || head === "MM\0+") return "tiff";
  if (ascii(bytes, 4, 8) === "ftyp" && /^avi[fs]|^mif1|^msf1/.test(ascii(bytes, 8, 12)))
    return /avi[fs]/.test(ascii(bytes, 8, 40)) ? "avif" : undefined;
  return undefined;
}

/** Brands of ISO media files, among them HEIC: photos of iPhones, whose codec sharp's builds leave out. */
const HEIC = /^(hei[cmsx]|hev[cmsx])/;

/** The name of a known format that is not read; undefined for any other. */
function unreadFormat(bytes: Uint8Array): string | undefined {
  const head = ascii(bytes, 0, 4);
  const brands = ascii(bytes, 4, 8) === "ftyp" ? (ascii(bytes, 8, 40).match(/.{4}/gs) ?? []) : [];
  if (brands.some((brand) => HEIC.test(brand))) return "HEIC";
  if (head.startsWith("BM")) return "BMP";
  if (head.startsWith("\xff\x0a") || ascii(bytes, 4, 8) === "JXL ") return "JPEG XL";
  if (ascii(bytes, 4, 8) === "jP  ") return "JPEG 2000";
  if (head === "%PDF") return "PDF";
  if (head === "8BPS") return "Photoshop";
  if (head === "\0\0\x01\0") return "ICO";
  if (/^\s*(<\?xml[^>]*>\s*)?(<!--.*?-->\s*)*<svg/is.test(ascii(bytes, 0, 1000))) return "SVG";
  return undefined;
}

/** A package that this one needs does not load. */
export class PackageError extends JanusError {}

async function loadSharp(): Promise<(input: Uint8Array, options: SharpOptions) => Sharp> {
  try {
    return (await import("sharp")).default;
  } catch (error) {
    throw new PackageError(
      `the package "sharp", which reads and writes images, does not load: ${String(error)}; run npm install sharp`,
    );
  }
}

/** The bytes of a base64 data URL (`data:image/png;base64,…`). Throws `ImageFormatError` for another one. */
export function inlineBytes(url: string): Uint8Array {
  const [, text] = /^data:(?:image\/[a-z0-9.+-]+)?;base64,([a-z0-9+/=\s]*)$/i.exec(url) ?? [];
  if (text === undefined) throw new ImageFormatError("an image as a data URL must be base64 (data:image/png;base64,…)");
  return Buffer.from(text, "base64");
}

/** The bytes of an image file, not decoded. Throws as `readImage` does. */
export async function imageBytes(path: string, maxBytes = MAX_BYTES): Promise<Uint8Array> {
  try {
    // Without waiting for the other end of a pipe, which is refused below.
    await using file = await open(path, constants.O_RDONLY | (constants.O_NONBLOCK ?? 0));
    const stat = await file.stat();
    if (!stat.isFile()) throw new ImageError(`${path} is not a file`);
    if (stat.size > maxBytes) throw tooManyBytes(path, stat.size, maxBytes);
    const bytes = new Uint8Array(stat.size);
    let filled = 0;
    while (filled < bytes.length) {
      const { bytesRead } = await file.read(bytes, filled);
      if (bytesRead === 0) break;
      filled += bytesRead;
    }
    return bytes.subarray(0, filled);
  } catch (error) {
    if (error instanceof JanusError) throw error;
    throw notReadable(path, error);
  }
}

/** Converts an error of the file system: to `FileError` for a shortage of the machine, else to `ImageError`. */
export const notReadable = (path: string, error: unknown): Error =>
  shortage(error, path) ?? new ImageError(`cannot read the image ${path}: ${messageOf(error)}`);

const tooManyBytes = (name: string, bytes: number, maxBytes: number): ImageLimitError =>
  new ImageLimitError(`${name} has ${bytes} bytes; at most ${maxBytes} are read (maxBytes). Save it smaller`);

/** Pillow's conversion, which no colour profile enters: each ink takes its share of what black leaves. */
function fromCmyk(ink: Uint8Array, channels: number, rgb: Uint8Array): void {
  for (let from = 0, to = 0; to < rgb.length; from += channels, to += 3) {
    const light = 255 - ink[from + 3]!;
    for (let c = 0; c < 3; c++) {
      const product = ink[from + c]! * light + 128;
      rgb[to + c] = Math.max(0, light - (((product >> 8) + product) >> 8));
    }
  }
}

/** 1 (grey), 2 (grey, alpha), 3 or 4 channels. */
function fromChannels(levels: Uint8Array, channels: number, rgb: Uint8Array, dropAlpha: boolean): void {
  const colours = channels > 2 ? 3 : 1;
  for (let from = 0, to = 0; to < rgb.length; from += channels, to += 3) {
    const alpha = dropAlpha || channels === colours ? 255 : levels[from + colours]!;
    for (let c = 0; c < 3; c++) {
      const level = levels[from + (colours === 3 ? c : 0)]!;
      rgb[to + c] = Math.round((level * alpha + 255 * (255 - alpha)) / 255); // over white
    }
  }
}

/** Throws `ArgumentError` for options of `readImage` that are not known, or of another kind: a limit that is no number would limit nothing. */
export function checkReadOptions(op: string, options: ReadImageOptions): void {
  knownOptions(op, options, ["plain", "maxBytes", "maxPixels", "name"]);
  const { plain = false, maxBytes = MAX_BYTES, maxPixels = MAX_PIXELS } = options;
  requireBoolean(op, "plain", plain);
  for (const [name, limit] of Object.entries({ maxBytes, maxPixels }))
    if (typeof limit !== "number" || !(limit > 0))
      throw new ArgumentError(`${op}: ${name} must be a number above 0; got ${shown(limit)}`);
}

/** The format of an image. Throws `ImageFormatError` for one that is not read. */
function requireFormat(bytes: Uint8Array, name: string): string {
  const format = formatOf(bytes);
  if (format) return format;
  const problem = notContent(bytes);
  if (problem) throw new ImageFormatError(`${name} ${problem}`);
  const other = unreadFormat(bytes);
  const what = other ? `is a ${other} file, which is not read` : "is not an image of a known format";
  throw new ImageFormatError(`${name} ${what}; JPEG, PNG, WebP, GIF, TIFF and AVIF are read. Save it as one of these`);
}

function damagedImage(name: string, format: string, error: unknown): ImageFormatError {
  const [why] = messageOf(error)
    .replace(/^Input buffer has corrupt header:?/, "")
    .trim()
    .split("\n");
  return new ImageFormatError(
    `${name} cannot be decoded: its ${format} data is cut off or damaged (${why || "the header"})`,
  );
}

/** Width and height of an image as it is seen, upright, from its header. Throws as `readImage` does. */
export async function imageSize(
  bytes: Uint8Array,
  { name = "the image" }: Pick<ReadImageOptions, "name"> = {},
): Promise<{ readonly width: number; readonly height: number }> {
  const format = requireFormat(bytes, name);
  const sharp = await loadSharp();
  try {
    return (await sharp(bytes, { limitInputPixels: false }).metadata()).autoOrient;
  } catch (error) {
    throw damagedImage(name, format, error);
  }
}

/**
 * Decodes a file (its path, its bytes or a base64 data URL): JPEG, PNG, WebP, GIF, TIFF, AVIF; of an animation the first frame. 16 bits become 8 by their high
 * byte, grey becomes three equal channels, CMYK is converted like Pillow does; embedded colour profiles are not applied, as in the original.
 * Throws `ImageLimitError` before decoding, `ImageFormatError` for unknown or damaged files, `ImageError` for files that cannot be read,
 * `FileError` if the machine is short of open files or memory, `PackageError` if sharp does not load.
 */
export async function readImage(source: string | Uint8Array, options: ReadImageOptions = {}): Promise<RgbImage> {
  checkReadOptions("readImage", options);
  const { plain = false, maxBytes = MAX_BYTES, maxPixels = MAX_PIXELS } = options;
  if (typeof source !== "string" && !(source instanceof Uint8Array))
    throw new ArgumentError(`readImage: the path of a file or its bytes must be given; got ${shown(source)}`);
  const isInline = typeof source === "string" && source.startsWith("data:");
  const name = options.name ?? (typeof source === "string" && !isInline ? source : "the image");
  const bytes = isInline
    ? inlineBytes(source)
    : typeof source === "string"
      ? await imageBytes(source, maxBytes)
      : source;
  if (bytes.length > maxBytes) throw tooManyBytes(name, bytes.length, maxBytes);
  const format = requireFormat(bytes, name);
  const sharp = await loadSharp();
  const damaged = (error: unknown): never => {
    throw damagedImage(name, format, error);
  };
  // The limit is checked below, once both numbers are known. `failOn: "error"`: broken data is an error, harmless oddities are not.
  const load = (): Sharp =>
    sharp(bytes, {
      failOn: "error",
      limitInputPixels: false,
      autoOrient: !plain,
      ignoreIcc: true,
      sequentialRead: true,
    });
  const { width, height, space }: Metadata = await load().metadata().catch(damaged);
  if (width * height > maxPixels || Math.max(width, height) > MAX_SIDE) {
    throw new ImageLimitError(
      `${name} is ${width}×${height}; at most ${maxPixels} pixels are decoded (maxPixels), ${MAX_SIDE} on a side. Make it smaller first`,
    );
  }
  const isCmyk = space === "cmyk";
  const pipeline = isCmyk ? load().pipelineColourspace("cmyk").toColourspace("cmyk") : load().toColourspace("srgb");
  const { data, info } = await pipeline.raw({ depth: "uchar" }).toBuffer({ resolveWithObject: true }).catch(damaged);
  const rgb = new Uint8Array(info.width * info.height * 3);
  if (isCmyk) fromCmyk(data, info.channels, rgb);
  else fromChannels(data, info.channels, rgb, plain);
  return { width: info.width, height: info.height, data: rgb };
}

/** A PNG file of the image, with one text chunk for each entry of `text`. Throws `ArgumentError` for keys and texts that PNG cannot hold. */
export async function encodePng(image: RgbImage, text: Readonly<Record<string, string>> = {}): Promise<Uint8Array> {
  checkImage("encodePng", image);
  const sharp = await loadSharp();
  const { width, height, data } = image;
  const png = await sharp(data, { raw: { width, height, channels: 3 } })
    .png({ compressionLevel: 9, adaptiveFiltering: true })
    .toBuffer();
  return insertTextChunks(png, text);
}

/** Returns the texts of a PNG file by key, including compressed ones. Throws `ImageFormatError` if it is not a PNG or is damaged. */
export function readPngText(png: Uint8Array): Map<string, string> {
  return readTextChunks(png, (bytes) => inflateSync(bytes, { maxOutputLength: MAX_TEXT_BYTES }));
}
