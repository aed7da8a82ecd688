/** The map on the disk: the same answers as a Map, whatever is in memory, in runs or in the base; damaged files are not opened. */
import { createHash } from "node:crypto";
import { mkdtempSync, readFileSync, readdirSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, describe, expect, it } from "vitest";
import { writeFileAtomic } from "../../model/node/files.ts";
import {
  EntryBuckets,
  SortedFile,
  SortedStore,
  toBytes,
  toText,
  writeSorted,
} from "../../train/node/data/sorted_store.ts";
import { sortedNames } from "../../train/node/data/sorted_names.ts";
import { measureIndex } from "../code_index_size.ts";
import { isLong } from "../long.ts";

const folder = mkdtempSync(join(tmpdir(), "janus-sorted-"));
afterAll(() => rmSync(folder, { recursive: true, force: true }));
const hash = (text: string): string => toText(createHash("sha256").update(text).digest().subarray(0, 16));

/** A sorted file of entries `from` … `to`, whose values are hashes of `salt`. */
async function sorted(name: string, from: number, to: number, salt: string): Promise<string> {
  const path = join(folder, name);
  const buckets = await EntryBuckets.create(folder);
  for (let i = from; i < to; i++) await buckets.add(hash(`key ${i}`), hash(`${salt} ${i}`));
  await writeFileAtomic(path, (sink) => writeSorted(sink, [buckets], () => ({ salt })));
  await buckets.close();
  return path;
}

describe("sorted store", () => {
  it("finds what a Map would, the newest of each key, in memory, runs and the base", async () => {
    const base = await SortedFile.open(await sorted("base", 0, 3000, "base"));
    expect([base!.count, base!.about]).toEqual([3000, { salt: "base" }]);
    const store = new SortedStore({ folder, base, recent: 70, runs: 3 });
    const wanted = new Map(Array.from({ length: 3000 }, (_, i) => [hash(`key ${i}`), hash(`base ${i}`)]));
    for (let i = 0; i < 1000; i++) {
      const key = hash(`key ${(i * 7919) % 4500}`);
      wanted.set(key, hash(`new ${i}`));
      await store.set(key, hash(`new ${i}`));
    }
    for (const [key, value] of wanted) if ((await store.get(key)) !== value) expect.fail("another value");
    for (let i = 0; i < 200; i++) expect(await store.get(hash(`none ${i}`))).toBe(undefined);
    for (const key of ["\0".repeat(16), "\xff".repeat(16)]) expect(await store.get(key)).toBe(undefined);
    await store.close();
    expect(readdirSync(folder)).toEqual(["base"]);
  });

  it("finds keys that are not spread evenly, and the last of equal ones", async () => {
    const path = join(folder, "uneven");
    const buckets = await EntryBuckets.create(folder);
    const key = (i: number): string => `\x07${"\0".repeat(11)}${toText(Buffer.from([0, i >> 8, i & 255, 9]))}`;
    for (const round of ["first", "second"])
      for (let i = 0; i < 3000; i++) await buckets.add(key(i), hash(`${round} ${i}`));
    await writeFileAtomic(path, (sink) => writeSorted(sink, [buckets], () => null));
    await buckets.close();
    const file = (await SortedFile.open(path))!;
    expect(file.count).toBe(3000);
    for (const i of [0, 1, 127, 128, 1500, 2998, 2999])
      expect(toText((await file.get(toBytes(key(i))))!)).toBe(hash(`second ${i}`));
    expect(await file.get(toBytes(key(3000)))).toBe(null);
    await file.close();
  });

  it("does not open a file that is cut off or none", async () => {
    const path = await sorted("damaged", 0, 10, "x");
    const bytes = readFileSync(path);
    for (const damage of [bytes.subarray(0, 100), bytes.subarray(1), Buffer.alloc(0), Buffer.alloc(64)]) {
      writeFileSync(path, damage);
      expect(await SortedFile.open(path)).toBe(null);
    }
    expect(await SortedFile.open(join(folder, "none"))).toBe(null);
  });
});

it("sorts names in runs as an array is sorted, line breaks and surrogate pairs included", async () => {
  const names = Array.from(
    { length: 500 },
    (_, i) => `${(i * 7919) % 501}${["", "\n", "\u{1f600}", "\uffff", "ä"][i % 5]}.png`,
  );
  async function* given(count: number): AsyncGenerator<string> {
    yield* names.slice(0, count);
  }
  for (const [count, most] of [[500, 7], [500, 500], [500, 501], [7, 7], [3, 9], [0, 3]] as const) {
    const got: string[] = [];
    for await (const name of sortedNames(given(count), most)) got.push(name);
    expect(got).toEqual(names.slice(0, count).sort());
  } // prettier-ignore
});

it.skipIf(!isLong)(
  "keeps the memory of an index of 4 million entries under 500 MB",
  async () => {
    const { memory } = await measureIndex(4e6);
    expect(memory).toBeLessThan(500e6);
  },
  300_000,
);
