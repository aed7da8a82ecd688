/**
 * The codes of images that are to be drawn, computed once by the image tokenizer and kept. A cache belongs to one tokenizer's weights and
 * one way of taking images; another one lies in another folder. Files of a writer are appended to by nobody else, so several may write.
 *
 * `codes/<key>/part-N.codes`: rows of u16 codes, little-endian, and 4 bytes of a hash over image and codes.
 * `codes/<key>/part-N.jsonl`: for each row the image's hash, and the path, size and time by which it is found without being read. A row is on
 * the disk before its line is; what a crash has left without a line or cut off is computed again.
 * `codes/<key>/sorted.idx`: the lists, sorted for searching (code_index.ts).
 */
import { createHash } from "node:crypto";
import { mkdir, open, stat } from "node:fs/promises";
import type { FileHandle } from "node:fs/promises";
import { join, resolve } from "node:path";
import { generationPixels } from "../../../model/image/preprocess.ts";
import { fileError, writeFileAtomic } from "../../../model/node/files.ts";
import { imageBytes, inlineBytes, notReadable, readImage } from "../../../model/node/image_file.ts";
import type { ReadImageOptions } from "../../../model/node/image_file.ts";
import type { CodeSource } from "../../data/encode.ts";
import { ENCODED_AT_ONCE } from "../../stage0/image_tokenizer.ts";
import type { EncodeCodes } from "../../stage0/image_tokenizer.ts";
import { Batcher } from "../../data/batcher.ts";
import { CodesError } from "../../data/errors.ts";
import { CodeIndex, partFile, readRow } from "./code_index.ts";
import type { Line } from "./code_index.ts";

/** All that codes depend on, besides the image. */
export interface CodesAbout {
  /** Hash of the tokenizer's weights, see `tokenizerHash`. */
  readonly weights: string;
  /** Dtype of the computation. */
  readonly dtype: string;
  /** Side of the square that the tokenizer takes, pixels. */
  readonly imageSize: number;
  /** Codes of an image. */
  readonly tokens: number;
  /** Size of the codebook. */
  readonly codes: number;
  /** Whether stored pixels are taken as they are. */
  readonly plain: boolean;
}

/** Version of `generationPixels`; raised whenever it gives other pixels. */
const PREPROCESSING = 1;
const ROWS_OF_PART = 65_536;
const SUM_BYTES = 4;

const digest = (...parts: (string | Uint8Array)[]): Buffer => {
  const hash = createHash("sha256");
  for (const part of parts) hash.update(part);
  return hash.digest();
};
/** 128 bits in 22 characters. */
const shortHash = (...parts: (string | Uint8Array)[]): string =>
  digest(...parts)
    .subarray(0, 16)
    .toString("base64url");

/** The folder's name for what codes depend on. */
export function codesKey({ weights, dtype, imageSize, tokens, codes, plain }: CodesAbout): string {
  const all = { weights, dtype, imageSize, tokens, codes, plain, preprocessing: PREPROCESSING };
  return digest(JSON.stringify(all)).toString("hex").slice(0, 32);
}

/** An image file as it is now. */
interface Seen {
  readonly path: string;
  readonly bytes: number;
  readonly modified: string;
}

/** Whether a name is the image itself, as a data URL. Its codes are found by its content alone. */
const isInline = (path: string): boolean => path.startsWith("data:");

const stampOf = ({ path, bytes, modified }: Pick<Seen, "path" | "bytes" | "modified">): string =>
  shortHash(`${path}\0${bytes}\0${modified}`);

/** An image whose codes are known. */
interface Entry {
  readonly image: string;
  readonly codes: Uint16Array;
  /** Null for an image in a record. */
  readonly seen: Seen | null;
}

/** What the list says in place of a file for an image in a record. */
const inlineSeen = (image: string): Seen => ({ path: `data:${image}`, bytes: 0, modified: "0" });

export interface OpenOptions {
  readonly onNotice?: (message: string) => void;
  /** Bytes of lists from which they are sorted on the disk (default: 64 MiB). */
  readonly maxUnsorted?: number;
}

async function seenFile(path: string): Promise<Seen> {
  try {
    const stats = await stat(path, { bigint: true });
    return { path: resolve(path), bytes: Number(stats.size), modified: String(stats.mtimeNs) };
  } catch (error) {
    throw notReadable(path, error);
  }
}

/** The codes of images that are to be drawn, computed once by the image tokenizer and kept in a folder. */
export class CodeCache {
  readonly about: CodesAbout;
  readonly folder: string;
  /** Since it was opened: codes read from the cache, computed, and found damaged. */
  readonly stats = { hits: 0, computed: 0, damaged: 0 };
  private index!: CodeIndex;
  private writer: { part: number; codes: FileHandle; list: FileHandle; rows: number; listBytes: number } | null = null;
  /** Writes one after the other. */
  private writing: Promise<void> = Promise.resolve();

  private constructor(folder: string, about: CodesAbout) {
    this.folder = folder;
    this.about = about;
  }

  /**
   * Opens the cache for these codes below `cache`; makes it if there is none.
   * @param options.onNotice is told if the lists of a large cache have to be sorted, which takes a while
   */
  static async open(cache: string, about: CodesAbout, options: OpenOptions = {}): Promise<CodeCache> {
    if (!(about.tokens >= 1) || !(about.codes >= 1 && about.codes <= 65_536))
      throw new CodesError(
        `${about.tokens} codes of ${about.codes}: a cache contains codes of 16 bits, at least one a picture`,
      );
    const opened = new CodeCache(join(cache, "codes", codesKey(about)), about);
    try {
      await mkdir(opened.folder, { recursive: true });
      const { rowBytes } = opened;
      opened.index = await CodeIndex.open(opened.folder, { rowBytes, stampOf, ...options });
    } catch (error) {
      throw fileError(error, opened.folder);
    }
    await writeFileAtomic(join(opened.folder, "about.json"), new TextEncoder().encode(`${JSON.stringify(about)}\n`));
    return opened;
  }

  /** Images whose codes are here. */
  get count(): number {
    return this.index.pictures;
  }

  private get rowBytes(): number {
    return this.about.tokens * 2 + SUM_BYTES;
  }

  /** The codes of an image file; null if they are not here. Throws `ImageError` for files that cannot be read, `FileError` if too many are open. */
  async get(path: string): Promise<Uint16Array | null> {
    const { image, isNew, seen } = await this.lookUp(path);
    const codes = await this.read(image);
    if (codes && isNew && seen) await this.put([], [{ image, ...seen }]);
    return codes;
  }

  /** The hash of an image, by its file's path, size and time if those are known; else by its bytes. */
  private async lookUp(path: string): Promise<{ image: string; isNew: boolean; seen: Seen | null }> {
    if (isInline(path)) return { image: shortHash(inlineBytes(path)), isNew: true, seen: null };
    const seen = await seenFile(path);
    const known = await this.index.imageOf(stampOf(seen));
    return { image: known ?? shortHash(await imageBytes(seen.path)), isNew: known === undefined, seen };
  }

  /** Codes from here, else computed by `encode` and kept. Images that are asked for at the same time are computed together. */
  source(encode: EncodeCodes, options: { batch?: number; pictures?: ReadImageOptions } = {}): CodeSource {
    const pictures = { ...options.pictures, plain: this.about.plain };
    const batcher = new Batcher<Float32Array, number[]>(encode, options.batch ?? ENCODED_AT_ONCE);
    const running = new Map<string, Promise<Uint16Array>>(); // by image: the same one may be asked for twice at once
    return async (path) => {
      const cached = await this.get(path);
      if (cached) {
        this.stats.hits++;
        return cached;
      }
      const seen = isInline(path) ? null : await seenFile(path);
      const bytes = seen ? await imageBytes(seen.path) : inlineBytes(path);
      const image = shortHash(bytes);
      const compute = async (): Promise<Uint16Array> => {
        const pixels = generationPixels(
          await readImage(bytes, { ...pictures, name: seen?.path ?? "the image in the record" }),
          this.about.imageSize,
        );
        const codes = checkCodes(await batcher.add(pixels), this.about);
        await this.put([{ image, codes, seen }], []);
        this.stats.computed++;
        return codes;
      };
      let result = running.get(image);
      if (!result) {
        result = compute().finally(() => running.delete(image));
        running.set(image, result);
      }
      return result;
    };
  }

  /** Waits for what is being written, and closes the files. */
  async close(): Promise<void> {
    await this.writing.catch(() => undefined);
    await this.index.close();
    await this.writer?.codes.close();
    await this.writer?.list.close();
    this.writer = null;
  }

  /** The codes of an image by its hash; null if they are not here or damaged. */
  private async read(image: string): Promise<Uint16Array | null> {
    const position = await this.index.positionOf(image);
    if (!position) return null;
    const bytes = await readRow(this.folder, position, this.rowBytes);
    const body = bytes?.subarray(0, this.about.tokens * 2);
    if (bytes && body && digest(image, body).compare(bytes, body.length, bytes.length, 0, SUM_BYTES) === 0) {
      const view = new DataView(bytes.buffer);
      return Uint16Array.from({ length: this.about.tokens }, (_, i) => view.getUint16(2 * i, true));
    }
    this.stats.damaged++;
    await this.inTurn(() => this.index.remove(image));
    return null;
  }

  private put(entries: readonly Entry[], known: readonly (Seen & { image: string })[]): Promise<void> {
    return this.inTurn(() => this.write(entries, known));
  }

  /** Runs writes one after the other. */
  private inTurn(write: () => Promise<void>): Promise<void> {
    const done = this.writing.then(write);
    this.writing = done.catch(() => undefined); // the caller hears of it; the next write is its own
    return done;
  }

  private async write(entries: readonly Entry[], known: readonly (Seen & { image: string })[]): Promise<void> {
    try {
      if (this.writer && this.writer.rows + entries.length > ROWS_OF_PART) {
        await this.writer.codes.close();
        await this.writer.list.close();
        this.writer = null;
      }
      this.writer ??= await this.newPart();
      const { writer } = this;
      const first = writer.rows;
      const rows = new Uint8Array(entries.length * this.rowBytes);
      const view = new DataView(rows.buffer);
      for (const [i, { image, codes }] of entries.entries()) {
        const at = i * this.rowBytes;
        for (const [k, code] of codes.entries()) view.setUint16(at + 2 * k, code, true);
        const end = at + this.about.tokens * 2;
        rows.set(digest(image, rows.subarray(at, end)).subarray(0, SUM_BYTES), end);
      }
      const lines: Line[] = [
        ...entries.map(({ image, seen }, i) => ({ image, row: first + i, ...(seen ?? inlineSeen(image)) })),
        ...known.map(({ image, path, bytes, modified }) => ({ image, path, bytes, modified })),
      ];
      const text = new TextEncoder().encode(lines.map((line) => `${JSON.stringify(line)}\n`).join(""));
      if (rows.length) {
        await writeAt(writer.codes, rows, first * this.rowBytes);
        await writer.codes.datasync();
      }
      await writeAt(writer.list, text, writer.listBytes);
      if (rows.length) await writer.list.datasync();
      writer.rows += entries.length;
      writer.listBytes += text.length;
      for (const line of lines) await this.index.add(line, writer.part);
    } catch (error) {
      throw fileError(error, this.folder);
    }
  }

  /** Files that nobody else writes to: whose list it could make, has the part. */
  private async newPart(): Promise<NonNullable<CodeCache["writer"]>> {
    for (;;) {
      const part = this.index.nextPart++;
      let list: FileHandle;
      try {
        list = await open(partFile(this.folder, part, "jsonl"), "wx");
      } catch (error) {
        if (error instanceof Error && "code" in error && error.code === "EEXIST") continue;
        throw error;
      }
      const codes = await open(partFile(this.folder, part, "codes"), "w");
      return { part, codes, list, rows: 0, listBytes: 0 };
    }
  }
}

async function writeAt(handle: FileHandle, bytes: Uint8Array, position: number): Promise<void> {
  for (let done = 0; done < bytes.length;)
    done += (await handle.write(bytes, done, bytes.length - done, position + done)).bytesWritten;
}

/** Throws `CodesError` unless the codes are as many, and as large, as the tokenizer's are. */
function checkCodes(codes: readonly number[], { tokens, codes: size }: CodesAbout): Uint16Array {
  const bad = codes.find((code) => !Number.isInteger(code) || code < 0 || code >= size);
  if (codes.length !== tokens || bad !== undefined)
    throw new CodesError(
      `the image tokenizer gave ${codes.length} codes${bad === undefined ? "" : `, one of them ${bad}`}; it should give ${tokens} from 0 to ${size - 1}`,
    );
  return Uint16Array.from(codes);
}

/** Codes computed each time they are asked for. */
export function onlineCodes(
  encode: EncodeCodes,
  about: CodesAbout,
  options: { batch?: number; pictures?: ReadImageOptions } = {},
): CodeSource {
  const batcher = new Batcher<Float32Array, number[]>(encode, options.batch ?? ENCODED_AT_ONCE);
  const pictures = { ...options.pictures, plain: about.plain };
  return async (path) =>
    checkCodes(await batcher.add(generationPixels(await readImage(path, pictures), about.imageSize)), about);
}
