/** Codes of the tiny fixture's tokenizer: the reference's, the same in any batch, and the same from the cache as computed. */
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { afterAll, describe, expect, it } from "vitest";
import { openCheckpoint } from "../../model/janus/checkpoint/checkpoint.ts";
import { convertCheckpoint } from "../../model/janus/checkpoint/convert.ts";
import { folderSource } from "../../model/node/files.ts";
import { CodeCache, codesKey, onlineCodes } from "../../train/node/data/codes.ts";
import { loadTokenizer, vqEncoder } from "../../train/stage0/image_tokenizer.ts";
import { codesAbout, tokenizerHash } from "../../train/node/data/codes_about.ts";
import { memorySink, sourceOfFiles } from "../checkpoint/tiny.ts";
import { golden, hasFixtures } from "../fixtures.ts";
import { useDevice } from "../gpu.ts";

const fixture = (path: string): string =>
  fileURLToPath(new URL(`../../../shared/fixtures/tiny/${path}`, import.meta.url));
const IMAGES = [0, 1, 2, 3].map((i) => fixture(`image${i}.png`));
const temporary = mkdtempSync(join(tmpdir(), "janus-data-codes-"));
afterAll(() => rmSync(temporary, { recursive: true, force: true }));
const device = useDevice();

describe.skipIf(!hasFixtures)("codes of the tiny tokenizer", () => {
  it("are the reference's, the same in any batch, and the same from the cache", async () => {
    const checkpoint = await openCheckpoint(folderSource(fixture("hf")));
    const about = await codesAbout(checkpoint, false);
    expect(about.dtype).toBe("bf16");
    expect([about.tokens, about.codes, about.imageSize]).toEqual([64, 256, 64]);
    const vq = await loadTokenizer(checkpoint, device());
    await checkpoint.close();
    try {
      const encode = vqEncoder(vq, about.imageSize);
      const alone = onlineCodes(encode, about, { batch: 1 });
      const online: number[][] = [];
      for (const path of IMAGES) online.push(Array.from(await alone(path)));
      // image0 is square: both ways of taking pictures give the same pixels, those of the reference.
      const [codes, margin] = [golden("vq.codes").data, golden("vq.margin").data];
      for (let i = 0; i < 64; i++) if (margin[i]! > 1e-4) expect(online[0]![i]).toBe(codes[i]);
      expect(new Set(online.map((row) => row.join())).size).toBe(4);

      const cache = await CodeCache.open(temporary, about);
      const source = cache.source(encode, { batch: 4 });
      const rows = async (): Promise<number[][]> =>
        Promise.all(IMAGES.map(async (path) => Array.from(await source(path))));
      expect(await rows()).toEqual(online); // computed together
      expect(await rows()).toEqual(online); // from the cache
      expect(cache.stats).toEqual({ hits: 4, computed: 4, damaged: 0 });
      await cache.close();
      const again = await CodeCache.open(temporary, about);
      for (const [i, path] of IMAGES.entries()) expect(Array.from((await again.get(path))!)).toEqual(online[i]);
      await again.close();
    } finally {
      vq.dispose();
    }
  });

  it("belong to the same tokenizer in either layout", async () => {
    const hashes: string[] = [];
    for (const layout of ["hf", "deepseek"]) {
      const checkpoint = await openCheckpoint(folderSource(fixture(layout)));
      hashes.push(await tokenizerHash(checkpoint));
      await checkpoint.close();
    }
    expect(hashes[0]).toBe(hashes[1]);
    expect(hashes[0]).toMatch(/^[0-9a-f]{64}$/);
  });

  it("belong to the numbers that are computed with, in whatever dtype they are stored", async () => {
    const original = await openCheckpoint(folderSource(fixture("hf"))); // bf16
    for (const dtype of ["f32", "f16", "bf16"] as const) {
      const files = memorySink();
      await convertCheckpoint(original, files, { layout: "hf", dtype });
      const trained = await openCheckpoint(sourceOfFiles(files.files)); // as a run with this dtype saves it
      const [before, after] = [await codesAbout(original, false, dtype), await codesAbout(trained, false, dtype)];
      expect(codesKey(after), dtype).toBe(codesKey(before));
    }
    const keys = await Promise.all((["f32", "bf16"] as const).map(async (d) => codesKey(await codesAbout(original, false, d)))); // prettier-ignore
    expect(keys[0]).not.toBe(keys[1]);
    await original.close();
  });
});
