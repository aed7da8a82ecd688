/** Pictures alone: which picture a record is, in which epoch, as the tokenizer's pixels; and records that have none. */
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, expect, it } from "vitest";
import { ImageError } from "../../model/image/image.ts";
import { generationPixels } from "../../model/image/preprocess.ts";
import { encodePng } from "../../model/node/index.ts";
import { SampleError } from "../../train/data/errors.ts";
import { PictureEncoder } from "../../train/node/stage0/pictures.ts";
import { errorOf } from "../gpu.ts";

const home = mkdtempSync(join(tmpdir(), "janus-pictures-"));
afterAll(() => rmSync(home, { recursive: true, force: true }));

const image = (k: number) => ({
  width: 20 + k,
  height: 24,
  data: Uint8Array.from({ length: 3 * (20 + k) * 24 }, (_, i) => (i * (k + 3)) % 256),
});
const of = (epoch: number) => ({ id: "0:0", epoch, name: "data.jsonl:1" });
const encoder = new PictureEncoder(16);
const seen = (images: string[]) => ({ task: "und", messages: [], images }) as const;

it("of a pair it is the picture, of a conversation each epoch the next one", async () => {
  const paths = [0, 1, 2].map((k) => join(home, `${k}.png`));
  for (const [k, path] of paths.entries()) writeFileSync(path, await encodePng(image(k)));
  const pair = await encoder.encode({ task: "gen", prompt: "x", image: paths[1]! }, of(5));
  expect(pair).toEqual({ pixels: generationPixels(image(1), 16), name: "data.jsonl:1" });
  for (const epoch of [0, 1, 2, 3])
    expect((await encoder.encode(seen(paths), of(epoch))).pixels).toEqual(generationPixels(image(epoch % 3), 16));
});

it("records without a picture, and pictures that cannot be read, are refused", async () => {
  for (const raw of [seen([]), { task: "text", text: "a" } as const])
    expect(await errorOf(() => encoder.encode(raw, of(0)))).toBeInstanceOf(SampleError);
  expect(await errorOf(() => encoder.encode(seen([join(home, "none.png")]), of(0)))).toBeInstanceOf(ImageError);
});
