/** The cache of codes: found again, computed once, kept through crashes and damage, apart for other tokenizers. */
import { spawnSync } from "node:child_process";
import {
  appendFileSync,
  existsSync,
  mkdtempSync,
  readFileSync,
  readdirSync,
  rmSync,
  truncateSync,
  utimesSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { ImageError } from "../../model/image/image.ts";
import { encodePng } from "../../model/node/image_file.ts";
import { CodeCache, codesKey, onlineCodes } from "../../train/node/data/codes.ts";
import type { CodesAbout } from "../../train/node/data/codes.ts";
import type { EncodeCodes } from "../../train/stage0/image_tokenizer.ts";
import { CodesError } from "../../train/data/errors.ts";

const temporary = mkdtempSync(join(tmpdir(), "janus-codes-"));
afterAll(() => rmSync(temporary, { recursive: true, force: true }));
let count = 0;
const newCache = (): string => join(temporary, `cache${count++}`);
const about: CodesAbout = { weights: "w", dtype: "f32", imageSize: 8, tokens: 4, codes: 16_384, plain: false };
const picture = (i: number): string => join(temporary, `${i}.png`);

beforeAll(async () => {
  for (let i = 0; i < 12; i++) {
    const data = Uint8Array.from({ length: 8 * 8 * 3 }, (_, k) => (k * 7 + i * 31) % 256);
    writeFileSync(picture(i), await encodePng({ width: 8, height: 8, data }));
  }
});

/** Codes by the pixels; counts its calls. */
function encoder(): { encode: EncodeCodes; batches: number[] } {
  const batches: number[] = [];
  const encode: EncodeCodes = async (pixels) => {
    batches.push(pixels.length);
    await new Promise((resolve) => setTimeout(resolve, 1));
    return pixels.map((p) => [0, 50, 100, 150].map((k) => Math.round((p[k]! + 1) * 127.5) * 64));
  };
  return { encode, batches };
}
const pictures = (n: number): string[] => Array.from({ length: n }, (_, i) => picture(i));
async function online(n: number): Promise<number[][]> {
  const codes = onlineCodes(encoder().encode, about);
  return Promise.all(pictures(n).map(async (path) => Array.from(await codes(path))));
}
async function fill(cache: string, n: number): Promise<{ folder: string; batches: number[] }> {
  const opened = await CodeCache.open(cache, about);
  const { encode, batches } = encoder();
  const codes = opened.source(encode, { batch: 4 });
  await Promise.all(pictures(n).map(codes));
  await opened.close();
  return { folder: opened.folder, batches };
}
async function read(cache: string, n: number): Promise<{ codes: (number[] | null)[]; stats: CodeCache["stats"] }> {
  const opened = await CodeCache.open(cache, about);
  const codes: (number[] | null)[] = [];
  for (const path of pictures(n)) codes.push(await opened.get(path).then((row) => row && Array.from(row)));
  await opened.close();
  return { codes, stats: opened.stats };
}

it.skipIf(!existsSync("/dev/zero"))("of a pipe and a device are refused, which would be read for ever", async () => {
  const pipe = join(temporary, "pipe.png");
  spawnSync("mkfifo", [pipe]);
  const opened = await CodeCache.open(newCache(), about);
  const codes = opened.source(encoder().encode);
  for (const path of [pipe, "/dev/zero"]) {
    await expect(codes(path)).rejects.toThrow(ImageError);
    await expect(codes(path)).rejects.toThrow(`${path} is not a file`);
  }
  await opened.close();
});

describe("code cache", () => {
  it("computes a picture once, in batches, and gives the same codes as computing them each time", async () => {
    const cache = newCache();
    const opened = await CodeCache.open(cache, about);
    const { encode, batches } = encoder();
    const codes = opened.source(encode, { batch: 4 });
    const first = await Promise.all(pictures(10).map(codes));
    expect(first.map((row) => Array.from(row))).toEqual(await online(10));
    expect(batches.reduce((sum, n) => sum + n, 0)).toBe(10);
    expect(batches.length).toBeLessThan(10);
    expect(Math.max(...batches)).toBeLessThanOrEqual(4);
    expect(await Promise.all(pictures(10).map(codes))).toEqual(first);
    expect(batches.reduce((sum, n) => sum + n, 0)).toBe(10);
    expect([opened.count, opened.stats]).toEqual([10, { hits: 10, computed: 10, damaged: 0 }]);
    await opened.close();
    expect((await read(cache, 10)).codes).toEqual(await online(10));
  });

  it("resumes where it was", async () => {
    const cache = newCache();
    await fill(cache, 5);
    const { batches } = await fill(cache, 9);
    expect(batches.reduce((sum, n) => sum + n, 0)).toBe(4);
    expect((await read(cache, 9)).codes).toEqual(await online(9));
    expect((await read(cache, 10)).codes[9]).toBe(null);
  });

  it("asks for the same picture at the same time only once", async () => {
    const opened = await CodeCache.open(newCache(), about);
    const { encode, batches } = encoder();
    const codes = opened.source(encode);
    const rows = await Promise.all([codes(picture(0)), codes(picture(0)), codes(picture(0))]);
    expect(batches).toEqual([1]);
    expect(rows[1]).toEqual(rows[0]);
    await opened.close();
  });

  it("knows a picture that was copied or touched by its content, and a changed one as another", async () => {
    const cache = newCache();
    const path = join(temporary, "copy.png");
    await fill(cache, 2);
    writeFileSync(path, readFileSync(picture(1)));
    const opened = await CodeCache.open(cache, about);
    expect(Array.from((await opened.get(path))!)).toEqual((await online(2))[1]);
    utimesSync(path, 1e9, 1e9);
    expect(await opened.get(path)).not.toBe(null);
    writeFileSync(path, readFileSync(picture(5)));
    expect(await opened.get(path)).toBe(null);
    await opened.close();
  });

  it("lets two write at once, each in files of its own", async () => {
    const cache = newCache();
    const both = [await CodeCache.open(cache, about), await CodeCache.open(cache, about)];
    const { encode } = encoder();
    await Promise.all(pictures(8).map((path, i) => both[i % 2]!.source(encode)(path)));
    for (const opened of both) await opened.close();
    expect(readdirSync(both[0]!.folder).filter((name) => name.endsWith(".codes")).length).toBe(2);
    expect((await read(cache, 8)).codes).toEqual(await online(8));
  });

  const crashes: [string, (folder: string) => void, number][] = [
    ["a line that was cut off", (folder) => truncateSync(join(folder, "part-00000.jsonl"), 200), 5],
    [
      "a line of nonsense",
      (folder) => appendFileSync(join(folder, "part-00000.jsonl"), '{"image":"x","row":\n{}\n'),
      0,
    ],
    ["rows without lines", (folder) => appendFileSync(join(folder, "part-00000.codes"), "xyz"), 0],
    ["lines without rows", (folder) => truncateSync(join(folder, "part-00000.codes"), 3 * 12), 3],
    ["a list without codes", (folder) => rmSync(join(folder, "part-00000.codes")), 6],
  ];
  it.each(crashes)("survives %s: what is lost is computed again, the same", async (_, crash, lost) => {
    const cache = newCache();
    const { folder } = await fill(cache, 6);
    crash(folder);
    const found = await read(cache, 6);
    expect(found.codes.filter((row) => row === null).length).toBe(lost);
    const { batches } = await fill(cache, 6);
    expect(batches.reduce((sum, n) => sum + n, 0)).toBe(lost);
    expect((await read(cache, 6)).codes).toEqual(await online(6));
  });

  it("sorts the lists of a large cache on the disk, also those of earlier releases, and reads only what came since", async () => {
    const cache = newCache();
    await fill(cache, 5); // lists alone, as an earlier release left them
    const notices: string[] = [];
    const options = { maxUnsorted: 100, onNotice: (text: string) => void notices.push(text) };
    const open = (): Promise<CodeCache> => CodeCache.open(cache, about, options);
    const all = async (n: number): Promise<(number[] | null)[]> => {
      const opened = await open();
      expect(opened.count).toBe(n);
      const codes = [];
      for (const path of pictures(n + 1)) codes.push(await opened.get(path).then((row) => row && Array.from(row)));
      await opened.close();
      return codes;
    };
    expect(await all(5)).toEqual([...(await online(5)), null]);
    expect(await all(5)).toEqual([...(await online(5)), null]);
    expect(notices.map((text) => /sorting the list/.test(text))).toEqual([true]);
    await fill(cache, 9); // lists behind the sorted ones
    const opened = await CodeCache.open(cache, about, options);
    await opened.close();
    expect(await all(9)).toEqual([...(await online(9)), null]);
    expect(notices.length).toBe(2);

    truncateSync(join(opened.folder, "sorted.idx"), 50);
    await open().then((one) => one.close());
    expect(notices.slice(2)).toEqual([notices[0]]);
    truncateSync(join(opened.folder, "part-00000.jsonl"), 0);
    await open().then((one) => one.close());
    expect(notices[3]).toMatch(/sorted\.idx is damaged or of other lists; sorting them/);
    await fill(cache, 9);
    expect((await read(cache, 9)).codes).toEqual(await online(9));
    expect(readdirSync(opened.folder).filter((name) => name.startsWith("."))).toEqual([]);
  });

  it("computes a picture in a record once, found by its content", async () => {
    const cache = newCache();
    const url = `data:image/png;base64,${readFileSync(picture(1)).toString("base64")}`;
    const { encode, batches } = encoder();
    for (let i = 0; i < 2; i++) {
      const opened = await CodeCache.open(cache, about);
      const codes = opened.source(encode);
      expect(Array.from(await codes(url))).toEqual((await online(2))[1]);
      expect(Array.from(await codes(picture(1)))).toEqual((await online(2))[1]);
      await expect(codes("data:;base64,AAAA")).rejects.toThrow(/^the image in the record is not an image/);
      await opened.close();
    }
    expect(batches).toEqual([1]);
  });

  it("notices codes that were changed on the disk and computes them again", async () => {
    const cache = newCache();
    const { folder } = await fill(cache, 3);
    const path = join(folder, "part-00000.codes");
    const bytes = readFileSync(path);
    bytes[12 + 3]! ^= 1;
    writeFileSync(path, bytes);
    const { codes, stats } = await read(cache, 3);
    expect(codes.filter((row) => row === null).length).toBe(1);
    expect(stats.damaged).toBe(1);
    await fill(cache, 3);
    expect((await read(cache, 3)).codes).toEqual(await online(3));
  });

  it("keeps other tokenizers, dtypes, sizes and ways of taking pictures apart", async () => {
    const cache = newCache();
    await fill(cache, 1);
    const others: Partial<CodesAbout>[] = [{ weights: "v" }, { dtype: "bf16" }, { imageSize: 16 }, { plain: true }];
    expect(new Set([about, ...others.map((other) => ({ ...about, ...other }))].map(codesKey)).size).toBe(5);
    for (const other of others) {
      const opened = await CodeCache.open(cache, { ...about, ...other });
      expect(await opened.get(picture(0))).toBe(null);
      await opened.close();
    }
  });

  it("refuses codes that are none, and says which picture cannot be read; the others are computed", async () => {
    const opened = await CodeCache.open(newCache(), about);
    const broken = opened.source(async (pixels) => pixels.map(() => [1, 2, 3, 16_384]));
    await expect(broken(picture(0))).rejects.toThrow(CodesError);
    const short = opened.source(async (pixels) => pixels.map(() => [1, 2, 3]));
    await expect(short(picture(0))).rejects.toThrow(/gave 3 codes; it should give 4/);
    expect(opened.count).toBe(0);
    const damaged = join(temporary, "damaged.png");
    writeFileSync(damaged, readFileSync(picture(0)).subarray(0, 60));
    const codes = opened.source(encoder().encode);
    const results = await Promise.allSettled([damaged, join(temporary, "none.png"), picture(0)].map(codes));
    expect(results.map(({ status }) => status)).toEqual(["rejected", "rejected", "fulfilled"]);
    for (const result of results.slice(0, 2)) {
      expect((result as PromiseRejectedResult).reason).toBeInstanceOf(ImageError);
      expect(String((result as PromiseRejectedResult).reason)).toMatch(/damaged\.png|none\.png/);
    }
    const lost = opened.source(async () => Promise.reject(new Error("the device is lost")));
    await expect(lost(picture(3))).rejects.toThrow("the device is lost");
    await opened.close();
    await expect(CodeCache.open(newCache(), { ...about, codes: 70_000 })).rejects.toThrow(CodesError);
  });
});
