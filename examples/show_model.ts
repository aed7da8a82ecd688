/** `npm run demo -- --model NAME`: shows images and answers of an existing model. */
import { mkdirSync } from "node:fs";
import { join } from "node:path";
import { Janus, encodePicture, savePicture } from "../index.node.ts";
import type { Device, RgbImage } from "../index.node.ts";
import { encodePng, writeFileAtomic } from "../model/node/index.ts";

const PROMPT = "a red circle on the left of a blue square";
const QUESTION = "What is in this image?";

/** Images side by side. */
export function row(images: readonly RgbImage[]): RgbImage {
  const { width, height } = images[0]!;
  const data = new Uint8Array(3 * width * height * images.length);
  for (const [k, image] of images.entries()) {
    for (let y = 0; y < height; y++)
      data.set(image.data.subarray(3 * width * y, 3 * width * (y + 1)), 3 * width * (images.length * y + k));
  }
  return { width: width * images.length, height, data };
}

export interface ShowOptions {
  /** Images go here. */
  readonly folder: string;
  /** Images of the prompt. */
  readonly n: number;
  readonly seed: number;
  readonly device: Device;
  readonly say: (line: string) => void;
}

/** Generates images, asks about one of them, and encodes and decodes it with the image tokenizer. */
export async function showModel(model: string, { folder, n, seed, device, say }: ShowOptions): Promise<void> {
  mkdirSync(folder, { recursive: true });
  using janus = await Janus.fromPretrained(model, { device });
  say(`loaded ${model}, weights ${janus.fingerprint.slice(0, 12)}`);

  const images = await janus.generate(PROMPT, { n, seed }).images();
  for (const [k, generated] of images.entries()) await savePicture(join(folder, `picture-${k}.png`), generated);
  await writeFileAtomic(join(folder, "pictures.png"), await encodePng(row(images.map(({ image }) => image))));
  say(`drew ${images.length} images of "${PROMPT}": ${join(folder, "pictures.png")}`);

  const { text, promptTokenIds, tokenIds } = await janus
    .ask(QUESTION, { images: [await encodePicture(images[0]!)], maxNewTokens: 48 })
    .result();
  say(`asked about the first one (${promptTokenIds.length} tokens in, ${tokenIds.length} out)`);
  say(`${QUESTION} ${JSON.stringify(text.trim())}`);

  const { psnr, image, original } = await janus.reconstruct(images[0]!.image);
  await writeFileAtomic(join(folder, "reconstruction.png"), await encodePng(row([original, image])));
  say(`encoded and decoded by the image tokenizer: PSNR ${psnr.toFixed(1)} dB, ${join(folder, "reconstruction.png")}`);
}
