/**
 * Memory and time of the index of image codes and of a folder's names with made entries: `node scripts/run.mjs tests/code_index_size.ts [millions of pictures]` (default: 50,
 * two entries each: 100 million). Prints a line each; exits with 1 if memory passed 500 MB. Part of the long tests with 2 million.
 */
import { randomFillSync } from "node:crypto";
import { mkdtempSync, rmSync, statSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { writeFileAtomic } from "../model/node/files.ts";
import { sortedNames } from "../train/node/data/sorted_names.ts";
import { EntryBuckets, SortedFile, SortedStore, toText, writeSorted } from "../train/node/data/sorted_store.ts";

export interface IndexSize {
  readonly entries: number;
  readonly sortSeconds: number;
  readonly lookupMs: number;
  readonly fileBytes: number;
  /** Most resident memory of the process, bytes. */
  readonly memory: number;
}

const LOOKUPS = 2000;

/** Sorts `entries` made keys, looks some of them up, and adds newer ones that fill memory and runs. */
export async function measureIndex(entries: number, newer = Math.min(entries / 10, 2_000_000)): Promise<IndexSize> {
  const folder = mkdtempSync(join(tmpdir(), "janus-index-size-"));
  try {
    const buckets = await EntryBuckets.create(folder);
    const kept: [string, string][] = [];
    const random = Buffer.alloc(32 * 4096);
    const made = async (count: number, add: (key: string, value: string) => Promise<void>): Promise<void> => {
      for (let i = 0; i < count; i++) {
        const at = 32 * (i % 4096);
        if (at === 0) randomFillSync(random);
        const [key, value] = [random.toString("latin1", at, at + 16), random.toString("latin1", at + 16, at + 32)];
        if (i % Math.ceil(count / LOOKUPS) === 0) kept.push([key, value]);
        await add(key, value);
      }
    };
    const started = Date.now();
    await made(entries, (key, value) => buckets.add(key, value));
    const path = join(folder, "sorted.idx");
    await writeFileAtomic(path, (sink) => writeSorted(sink, [buckets], () => null));
    await buckets.close();
    const sortSeconds = (Date.now() - started) / 1000;
    const store = new SortedStore({ folder, base: await SortedFile.open(path) });
    await made(newer, (key, value) => store.set(key, value));
    const begun = Date.now();
    for (const [key, value] of kept)
      if ((await store.get(key)) !== value) throw new Error(`${toText(Buffer.from(key))} is lost`);
    const lookupMs = (Date.now() - begun) / kept.length;
    await store.close();
    return {
      entries: entries + newer,
      sortSeconds,
      lookupMs,
      fileBytes: statSync(path).size,
      memory: memoryNow(),
    };
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}

/** Sorts `count` made names of images, as a folder that has all of them directly in it. Returns seconds. */
export async function measureNames(count: number): Promise<number> {
  const started = Date.now();
  let [sorted, last] = [0, ""];
  const made = async function* (): AsyncGenerator<string> {
    for (let i = 0; i < count; i++) yield `${Math.imul(i, 0x9e3779b1) >>> 0}_${i}.jpg\0f`;
  };
  for await (const name of sortedNames(made())) {
    if (name <= last) throw new Error(`${name} comes behind ${last}`);
    [sorted, last] = [sorted + 1, name];
  }
  if (sorted !== count) throw new Error(`${sorted} of ${count} names`);
  return (Date.now() - started) / 1000;
}

const memoryNow = (): number => process.resourceUsage().maxRSS * 1024;

if (process.argv.some((word) => word.endsWith("code_index_size.ts"))) {
  const millions = Number(process.argv.at(-1)) || 50;
  const { entries, sortSeconds, lookupMs, fileBytes, memory } = await measureIndex(millions * 2e6);
  console.log(
    `${(entries / 1e6).toFixed(1)} million entries: sorted in ${sortSeconds.toFixed(0)} s, ${(fileBytes / 1e9).toFixed(2)} GB on the disk, ${lookupMs.toFixed(2)} ms a lookup, ${(memory / 1e6).toFixed(0)} MB of memory`,
  );
  const seconds = await measureNames(millions * 2e6);
  console.log(
    `${2 * millions} million names of one folder: sorted in ${seconds.toFixed(0)} s, ${(memoryNow() / 1e6).toFixed(0)} MB of memory`,
  );
  process.exitCode = memoryNow() < 500e6 ? 0 : 1;
}
