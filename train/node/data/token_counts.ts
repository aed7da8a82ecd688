/**
 * How many tokens each record of a source is, for a tokenizer: counted once, without a look at images, and kept beside the index of the source
 * as `index/<source>-<task and tokenizer>.tokens`, a u32 per record (little-endian), 0 for a record that cannot be a sample.
 */
import { createHash } from "node:crypto";
import { join } from "node:path";
import { openFile, writeFileAtomic } from "../../../model/node/files.ts";
import type { RecordEncoder } from "./encode.ts";
import type { SourceIndex } from "./index_file.ts";
import { isBadSample } from "./loader.ts";
import type { ScanOptions } from "./index_format.ts";

/** Raised when records become other samples. */
const VERSION = 3;

/** Sums over the records of a source. The numbers themselves stay in the file: sources have 100 million records. */
export interface TokenCounts {
  readonly total: number;
  readonly longest: number;
  /** Records whose text cannot be a sample. Its images may still be bad. */
  readonly bad: number;
}

/** Records that are written and read at once. */
const AT_ONCE = 2 ** 16;

/** Names the files that tokens depend on, and the system prompt. */
export function tokenizerHash(sideFiles: ReadonlyMap<string, Uint8Array>, system: string | undefined): string {
  const hash = createHash("sha256");
  for (const name of [...sideFiles.keys()].sort()) hash.update(`${name}\0${sideFiles.get(name)!.length}\0`).update(sideFiles.get(name)!); // prettier-ignore
  return hash.update(JSON.stringify(system ?? null)).digest("hex");
}

/** Counts the tokens of a source's records, or finds what was counted. `encoder` takes samples of any length; `by` is its `tokenizerHash`. */
export async function countTokens(
  index: SourceIndex,
  encoder: Pick<RecordEncoder, "tokens">,
  by: string,
  cache: string,
  { signal, onProgress }: Pick<ScanOptions, "signal"> & { onProgress?: (records: number) => void } = {},
): Promise<TokenCounts> {
  const ignored = [...new Set(index.spec.ignoredFields)].sort(); // a record with another field is a bad one
  const names = index.spec.fields ? ` ${JSON.stringify(index.spec.fields)}` : "";
  const key = createHash("sha256")
    .update(`${VERSION} ${index.task} ${by} ${JSON.stringify(ignored)}${names}`)
    .digest("hex");
  const path = join(cache, "index", `${index.hash.slice(0, 32)}-${key.slice(0, 32)}.tokens`);
  const known = await readCounts(path, index.count);
  if (known) return known;
  const sums = new Sums();
  const tokensOf = async (i: number): Promise<number> => {
    try {
      return await encoder.tokens(await index.read(i));
    } catch (error) {
      if (!isBadSample(error)) throw error;
      return 0;
    }
  };
  await writeFileAtomic(path, async (sink) => {
    for (let first = 0; first < index.count; first += AT_ONCE) {
      const part = new DataView(new ArrayBuffer(4 * Math.min(AT_ONCE, index.count - first)));
      for (let i = 0; i < part.byteLength / 4; i++) {
        signal?.throwIfAborted();
        part.setUint32(4 * i, sums.add(await tokensOf(first + i)), true);
        onProgress?.(first + i + 1);
      }
      await sink.write(new Uint8Array(part.buffer));
    }
  });
  return sums;
}

/** Null if nothing was counted yet, or the file is of another number of records. */
async function readCounts(path: string, count: number): Promise<TokenCounts | null> {
  const file = await openFile(path).catch(() => null);
  try {
    if (file?.size !== 4 * count) return null;
    const sums = new Sums();
    for (let first = 0; first < count; first += AT_ONCE) {
      const bytes = await file.read(4 * first, 4 * Math.min(AT_ONCE, count - first));
      const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
      for (let at = 0; at < bytes.length; at += 4) sums.add(view.getUint32(at, true));
    }
    return sums;
  } finally {
    await file?.close?.();
  }
}

class Sums implements TokenCounts {
  total = 0;
  longest = 0;
  bad = 0;

  add(tokens: number): number {
    this.total += tokens;
    this.longest = Math.max(this.longest, tokens);
    if (tokens === 0) this.bad++;
    return tokens;
  }
}
