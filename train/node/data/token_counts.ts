/**
 * How many tokens each record of a source is, for a tokenizer: counted once, without a look at images, and kept beside the index of the source
 * as `index/<source>-<task and tokenizer>.tokens`, a u32 per record (little-endian), 0 for a record that cannot be a sample.
 */
import { createHash } from "node:crypto";
import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { writeFileAtomic } from "../../../model/node/files.ts";
import type { RecordEncoder } from "./encode.ts";
import type { SourceIndex } from "./index_file.ts";
import { isBadSample } from "./loader.ts";
import type { ScanOptions } from "./scan.ts";

/** Raised when records become other samples. */
const VERSION = 2;

export interface TokenCounts {
  /** Tokens of each record; 0 if its text cannot be a sample. Its images may still be bad. */
  readonly counts: Uint32Array;
  readonly total: number;
  readonly longest: number;
  /** Records that cannot be samples. */
  readonly bad: number;
}

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
  const key = createHash("sha256")
    .update(`${VERSION} ${index.task} ${by} ${JSON.stringify(ignored)}`)
    .digest("hex");
  const path = join(cache, "index", `${index.hash.slice(0, 32)}-${key.slice(0, 32)}.tokens`);
  const known = await readFile(path).catch(() => null);
  if (known?.length === 4 * index.count) {
    const view = new DataView(known.buffer, known.byteOffset, known.length);
    return summary(Uint32Array.from({ length: index.count }, (_, i) => view.getUint32(4 * i, true)));
  }
  const counts = new Uint32Array(index.count);
  for (let i = 0; i < index.count; i++) {
    signal?.throwIfAborted();
    try {
      counts[i] = await encoder.tokens(await index.read(i));
    } catch (error) {
      if (!isBadSample(error)) throw error;
    }
    onProgress?.(i + 1);
  }
  const bytes = new DataView(new ArrayBuffer(4 * index.count));
  for (const [i, count] of counts.entries()) bytes.setUint32(4 * i, count, true);
  await writeFileAtomic(path, new Uint8Array(bytes.buffer));
  return summary(counts);
}

const summary = (counts: Uint32Array): TokenCounts => ({
  counts,
  total: counts.reduce((sum, count) => sum + count, 0),
  longest: counts.reduce((most, count) => Math.max(most, count), 0),
  bad: counts.reduce((sum, count) => sum + (count === 0 ? 1 : 0), 0),
});
