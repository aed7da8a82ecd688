/** Draws the images of GenEval and DPG-Bench in the folders that their official evaluators read. An image that is there is not drawn again. */
import { createHash } from "node:crypto";
import { mkdir, readFile, readdir } from "node:fs/promises";
import { join } from "node:path";
import type { RgbImage } from "../model/image/image.ts";
import { fileSize, writeFileAtomic } from "../model/node/files.ts";
import { encodePicture } from "../model/janus/node/janus.ts";
import { encodePng } from "../model/node/image_file.ts";
import type { Janus } from "../model/janus/pipeline.ts";
import type { Picture } from "../model/janus/pictures.ts";
import { claimFolder } from "./about.ts";
import type { About } from "./about.ts";
import { partOf } from "./ask.ts";
import type { Shard } from "./ask.ts";
import { EvalDataError } from "./errors.ts";
import type { DrawRecipe } from "./recipe.ts";
import type { GenevalPrompt } from "./score/geneval.ts";

export interface DrawPrompt {
  /** Name of the prompt's file or folder. */
  readonly name: string;
  readonly prompt: string;
}

export interface DrawRun {
  readonly recipe: DrawRecipe;
  readonly about: About;
  readonly prompts: readonly DrawPrompt[];
  readonly folder: string;
  readonly janus: Janus;
  readonly shard: Shard;
  readonly signal: AbortSignal;
  readonly onProgress: (done: number, total: number) => void;
}

/** How the images of a prompt are stored. */
export interface Layout {
  /** Files of a prompt, all of which exist once it is drawn. */
  files(prompt: DrawPrompt): readonly string[];
  write(prompt: DrawPrompt, pictures: readonly Picture[]): Promise<void>;
}

/** Draws the prompts of this shard that lack a file. Resolves to the number of prompts drawn now. */
export async function draw(run: DrawRun, layout: Layout): Promise<number> {
  const { recipe, shard, janus, prompts, signal } = run;
  await mkdir(run.folder, { recursive: true });
  await claimFolder(run.folder, run.about);
  const own = partOf(prompts.map((prompt, i) => ({ prompt, i })), shard); // prettier-ignore
  let drawn = 0;
  run.onProgress(0, own.length);
  for (const [done, { prompt, i }] of own.entries()) {
    signal.throwIfAborted();
    if (!(await isDrawn(layout, [prompt]))) {
      const { imagesPerPrompt: n, guidance, temperature } = recipe;
      const pictures = await janus.generate(prompt.prompt, { n, seed: recipe.seed + i * n, guidance, temperature, signal }).images(); // prettier-ignore
      await layout.write(prompt, pictures);
      drawn++;
    }
    run.onProgress(done + 1, own.length);
  }
  return drawn;
}

/** True if all files of the prompts exist. */
export async function isDrawn(layout: Layout, prompts: readonly DrawPrompt[]): Promise<boolean> {
  const sizes = await Promise.all(prompts.flatMap((prompt) => layout.files(prompt)).map(fileSize));
  return !sizes.includes(null);
}

/** GenEval: `NNNNN/metadata.jsonl` and `NNNNN/samples/KKKK.png`. */
export function genevalLayout(images: string, recipe: DrawRecipe, metadata: readonly GenevalPrompt[]): Layout {
  const sample = (name: string, k: number): string =>
    join(images, name, "samples", `${String(k).padStart(4, "0")}.png`);
  const about = (name: string): string => join(images, name, "metadata.jsonl");
  return {
    files: ({ name }) => [about(name), ...Array.from({ length: recipe.imagesPerPrompt }, (_, k) => sample(name, k))],
    write: async ({ name }, pictures) => {
      await mkdir(join(images, name, "samples"), { recursive: true });
      for (const [k, picture] of pictures.entries()) await writeFileAtomic(sample(name, k), await encodePicture(picture)); // prettier-ignore
      await writeFileAtomic(about(name), Buffer.from(metadata[Number(name)]!.text));
    },
  };
}

export const genevalName = (index: number): string => String(index).padStart(5, "0");

/** DPG-Bench: one PNG file per prompt, its images in rows of two. */
export const dpgLayout = (images: string): Layout => ({
  files: ({ name }) => [join(images, `${name}.png`)],
  write: async ({ name }, pictures) => {
    await mkdir(images, { recursive: true });
    const { image: _, ...how } = pictures[0]!;
    const text = { "janus-webgpu": JSON.stringify({ ...how, seeds: pictures.map(({ seed }) => seed) }) };
    await writeFileAtomic(
      join(images, `${name}.png`),
      await encodePng(tiled(pictures.map(({ image }) => image)), text),
    );
  },
});

/** Images of one size as one, two in a row; a missing last one is black. */
export function tiled(images: readonly RgbImage[]): RgbImage {
  const { width, height } = images[0]!;
  const rows = Math.ceil(images.length / 2);
  const data = new Uint8Array(2 * width * rows * height * 3);
  for (const [k, image] of images.entries()) {
    const [left, top] = [(k % 2) * width, Math.floor(k / 2) * height];
    for (let y = 0; y < height; y++)
      data.set(image.data.subarray(y * width * 3, (y + 1) * width * 3), ((top + y) * 2 * width + left) * 3);
  }
  return { width: 2 * width, height: rows * height, data };
}

/** The prompts of a folder of text files, by name, and an MD5 over names and texts. Throws `EvalDataError` for an empty one. */
export async function readDpgPrompts(folder: string): Promise<{ prompts: DrawPrompt[]; md5: string }> {
  const names = (await readdir(folder)).filter((name) => name.endsWith(".txt")).sort();
  if (names.length === 0) throw new EvalDataError(`${folder}: text files of prompts are required; got none`);
  const hash = createHash("md5");
  const prompts: DrawPrompt[] = [];
  for (const name of names) {
    const text = await readFile(join(folder, name), "utf8");
    hash.update(`${name}\0${text}\0`);
    if (text.trim() === "") throw new EvalDataError(`${join(folder, name)}: a prompt is required; got an empty file`);
    prompts.push({ name: name.slice(0, -4), prompt: text.trim() });
  }
  return { prompts, md5: hash.digest("hex") };
}
