/** Images and prompts that pass the model together, where that gives the bits of passing alone, on the tiny fixture. */
import { describe, expect, it } from "vitest";
import { F, noGrad, scope } from "../../index.ts";
import { prefillPrefix } from "../../model/decoding.ts";
import { generateText } from "../../model/generate.ts";
import type { TextOptions } from "../../model/generate.ts";
import type { PromptRow } from "../../model/causal.ts";
import { decodePicture, decodePictures } from "../../model/janus/image_codes.ts";
import type { Janus } from "../../model/janus/node/index.ts";
import { hasFixtures } from "../fixtures.ts";
import { useTinyJanus } from "../tiny_janus.ts";

describe.skipIf(!hasFixtures)("read together", () => {
  let janus: Janus;
  let expectClean: () => Promise<void>;
  useTinyJanus((tiny) => ({ janus, expectClean } = tiny));

  async function tokensOf(prompts: readonly PromptRow[], options: TextOptions): Promise<number[][]> {
    const rows: number[][] = prompts.map(() => []);
    for await (const step of generateText(janus.model, prompts, options))
      for (const [i, row] of rows.entries()) row.push(step[i]!);
    return rows;
  }

  it("images through the vision tower and out of the image tokenizer, as many as pass at once", async () => {
    const { imageSize } = janus.config.vision;
    const pixels = Array.from({ length: 12 }, (_, n) =>
      Float32Array.from({ length: 3 * imageSize ** 2 }, (_, i) => Math.sin(i * (n + 1))),
    );
    const together = janus.embedImages(pixels);
    const all = (await together.data()) as Float32Array;
    together.dispose();
    for (const [n, one] of pixels.entries()) {
      using alone = janus.embedImages([one]);
      expect(all.slice(n * alone.size, (n + 1) * alone.size)).toEqual(await alone.data());
    }
    const { vqmodel } = janus.model.model;
    const codes = Array.from({ length: 70 }, (_, n) =>
      Array.from({ length: vqmodel.side ** 2 }, (_, i) => (7 * i * n + n) % janus.config.vq.codes),
    );
    let n = 0;
    for await (const image of decodePictures(vqmodel, codes, String)) {
      if (n % 9 === 0) expect(image).toEqual(await decodePicture(vqmodel, codes[n]!));
      n++;
    }
    expect(n).toBe(codes.length);
    await expect(async () => {
      for await (const _ of decodePictures(vqmodel, [codes[0]!.slice(1)], String)); // too short
    }).rejects.toThrow(/an image has/);
    await expectClean();
  });

  it("pictures that are decoded with one that is not finite come, up to that one, which is named", async () => {
    const { vqmodel } = janus.model.model;
    const { weight } = vqmodel.quantize.embedding;
    const last = janus.config.vq.codes - 1;
    const codes = [0, 1, 2, 3].map((n) => new Array<number>(vqmodel.side ** 2).fill(n === 2 ? last : n));
    const row = noGrad(() => weight.slice(0, last, last + 1));
    const saved = row.clone();
    noGrad(() => scope(() => F.copyInto(row, F.full(row.shape, NaN, { dtype: row.dtype }))));
    let seen = 0;
    await expect(async () => {
      for await (const _ of decodePictures(vqmodel, codes, (n) => `picture ${n}`)) seen++;
    }).rejects.toThrow(/picture 2/);
    expect(seen).toBe(2);
    noGrad(() => F.copyInto(row, saved));
    for (const t of [row, saved]) t.dispose();
    await expectClean();
  });

  it("prompts that are read together, in as many passes as they need, and beside one with a prefix", async () => {
    const ids = (n: number): number[] => Array.from({ length: 5 + ((37 * n) % 90) }, (_, i) => 1 + ((i * n) % 50));
    const prompts = Array.from({ length: 40 }, (_, n) => ids(n)); // 40 × 94 tokens and more
    const together = await tokensOf(
      prompts.map((row) => ({ ids: row })),
      { maxNewTokens: 3 },
    );
    for (const n of [0, 1, 12, 25, 39])
      expect((await tokensOf([{ ids: prompts[n]! }], { maxNewTokens: 3 }))[0]).toEqual(together[n]);
    const cache = prefillPrefix(janus.model, { ids: prompts[3]!.slice(0, 20) });
    const rows = prompts
      .slice(2, 6)
      .map((row, i) => ({ ids: row, ...(i === 1 && { prefix: { length: 20, cache: () => cache } }) }));
    const mixed = await tokensOf(rows, { maxNewTokens: 3 });
    expect(mixed).toEqual(together.slice(2, 6));
    cache.dispose();
    await expectClean();
  });
});
