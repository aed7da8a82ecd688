/**
 * Images of a run, as small PNG files in its folder: `samples/step-…/` drawn from the same prompts and seeds during training, and
 * `samples/reconstructions/`, images of the training data with their reconstructions by the image tokenizer.
 */
import { mkdir, readFile, readdir, rm } from "node:fs/promises";
import { join } from "node:path";
import type { RgbImage } from "../../../model/image/image.ts";
import { reconstruct } from "../../../model/janus/image_codes.ts";
import { resizeBicubic } from "../../../model/image/resize.ts";
import { writeFileAtomic } from "../../../model/node/files.ts";
import { encodePng, readImage, readPngText } from "../../../model/node/image_file.ts";
import type { ReadImageOptions } from "../../../model/node/image_file.ts";
import { encodePicture, readPicture } from "../../../model/janus/node/janus.ts";
import type { Janus } from "../../../model/janus/pipeline.ts";
import type { VqModel } from "../../../model/vq.ts";
import type { SourceIndex } from "../data/index_file.ts";
import { isBadSample } from "../data/loader.ts";
import { stepName } from "../run/manifest.ts";

/** Longest side of an image that is kept, pixels. */
const SIDE = 192;
/** Images that are drawn at once: the caches of more take gigabytes. */
const AT_ONCE = 4;
const RECONSTRUCTIONS = "reconstructions";
const PSNR = "psnr";

const stepOf = (name: string): number => Number(name.slice("step-".length));
const samplesFolder = (run: string, name = ""): string => join(run, "samples", name);

function small(image: RgbImage): RgbImage {
  const scale = Math.min(1, SIDE / Math.max(image.width, image.height));
  return resizeBicubic(
    image,
    Math.max(1, Math.round(image.width * scale)),
    Math.max(1, Math.round(image.height * scale)),
  );
}

export interface SampleOptions {
  readonly prompts: readonly string[];
  /** Seed of the first image; each next image has the next seed. */
  readonly seed: number;
  /** Guidance of the images (default: the model's own). */
  readonly guidance?: number | undefined;
  readonly temperature?: number | undefined;
  readonly signal?: AbortSignal;
}

/** Generates an image of each prompt with the model after `step` steps. It uses its own random generators and does not change the model. */
export async function drawSamples(janus: Janus, run: string, step: number, options: SampleOptions): Promise<void> {
  const { prompts, seed, guidance, temperature, ...rest } = options;
  const how = {
    ...rest,
    ...(guidance !== undefined && { guidance }),
    ...(temperature !== undefined && { temperature }),
  };
  const folder = samplesFolder(run, stepName(step));
  for (let from = 0; from < prompts.length; from += AT_ONCE) {
    const pictures = await janus.generate(prompts.slice(from, from + AT_ONCE), { ...how, seed: seed + from }).images();
    await mkdir(folder, { recursive: true });
    for (const [i, picture] of pictures.entries())
      await writeFileAtomic(
        join(folder, `${String(from + i).padStart(3, "0")}.png`),
        await encodePicture({ ...picture, image: small(picture.image) }),
      );
  }
}

/** Removes the samples of steps behind the first `steps`: an earlier process did them and did not save them, and they are done again. */
export async function cutSamples(run: string, steps: number): Promise<void> {
  for (const name of await namesIn(samplesFolder(run)))
    if (/^step-\d+$/.test(name) && stepOf(name) > steps) await rm(samplesFolder(run, name), { recursive: true });
}

/** Saves reconstructions of images by the image tokenizer, replacing earlier ones. */
export async function saveReconstructions(vq: VqModel, run: string, images: readonly RgbImage[]): Promise<void> {
  const folder = samplesFolder(run, RECONSTRUCTIONS);
  if (images.length) await mkdir(folder, { recursive: true });
  for (const [i, input] of images.entries()) {
    const { original, image, psnr } = await reconstruct(vq, input);
    const name = join(folder, String(i).padStart(3, "0"));
    await writeFileAtomic(`${name}-original.png`, await encodePng(small(original)));
    await writeFileAtomic(`${name}.png`, await encodePng(small(image), { [PSNR]: psnr.toFixed(2) }));
  }
  for (const file of await namesIn(folder)) if (Number.parseInt(file) >= images.length) await rm(join(folder, file));
}

/** Names in a folder, in order; none if it is not there. */
async function namesIn(folder: string): Promise<string[]> {
  return (await readdir(folder).catch(() => [] as string[])).sort();
}

export interface SampledStep {
  readonly step: number;
  readonly pictures: readonly { readonly png: Uint8Array; readonly prompt: string; readonly seed: number }[];
}

/** The samples of at most `most` images in all, from steps spread over the run, the first and the last of them included. */
export async function readSamples(run: string, most: number): Promise<SampledStep[]> {
  const steps = (await namesIn(samplesFolder(run))).filter((name) => /^step-\d+$/.test(name));
  const last = steps.at(-1);
  if (last === undefined) return [];
  const perStep = Math.max(1, (await namesIn(samplesFolder(run, last))).length);
  const rows = Math.min(steps.length, Math.max(2, Math.floor(most / perStep)));
  const at = Array.from({ length: rows }, (_, i) => Math.round((i * (steps.length - 1)) / Math.max(1, rows - 1)));
  return Promise.all(
    at.map(async (i) => ({
      step: stepOf(steps[i]!),
      pictures: await picturesIn(run, steps[i]!),
    })),
  );
}

async function picturesIn(run: string, name: string): Promise<SampledStep["pictures"]> {
  const folder = samplesFolder(run, name);
  const files = (await namesIn(folder)).filter((file) => /^\d+\.png$/.test(file));
  return Promise.all(
    files.map(async (file) => {
      const png = await readFile(join(folder, file));
      const { prompt, seed } = await readPicture(png);
      return { png, prompt, seed };
    }),
  );
}

/** Original, reconstruction and their peak signal-to-noise ratio in dB, of each image that was taken. */
export async function readReconstructions(
  run: string,
): Promise<{ readonly original: Uint8Array; readonly png: Uint8Array; readonly psnr: string }[]> {
  const folder = samplesFolder(run, RECONSTRUCTIONS);
  const names = (await namesIn(folder)).filter((name) => /^\d+\.png$/.test(name));
  return Promise.all(
    names.map(async (name) => {
      const [original, png] = await Promise.all(
        [name.replace(".png", "-original.png"), name].map((file) => readFile(join(folder, file))),
      );
      return { original: original!, png: png!, psnr: readPngText(png!).get(PSNR) ?? "?" };
    }),
  );
}

/** The first images that are seen or drawn; those that cannot be read are passed over. */
export async function firstPictures(
  sources: readonly SourceIndex[],
  most: number,
  how: ReadImageOptions = {},
): Promise<RgbImage[]> {
  const images: RgbImage[] = [];
  for (const source of sources) {
    for (let i = 0; i < Math.min(source.count, 2 * most) && images.length < most; i++) {
      try {
        const raw = await source.read(i);
        const path = raw.task === "gen" ? raw.image : raw.task === "und" ? raw.images[0] : undefined;
        if (path) images.push(await readImage(path, how));
      } catch (error) {
        if (!isBadSample(error)) throw error;
      }
    }
  }
  return images;
}
