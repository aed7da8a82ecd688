/**
 * `npm run demo [-- --model NAME]`: a Janus-Pro from file to picture and from picture to words. Without a model it makes a tiny one with
 * random weights, so the pictures are noise and the answer is babble: what is shown is that every part runs. Writes to demo/.
 */
import { existsSync, mkdirSync } from "node:fs";
import { parseArgs } from "node:util";
import { Device, Janus, encodePicture, savePicture } from "../index.node.ts";
import type { RgbImage } from "../index.node.ts";
import { encodePng, writeFileAtomic } from "../model/node/index.ts";
import { newCheckpoint } from "./new_checkpoint.ts";

const FOLDER = "demo";
const PROMPT = "a red circle on the left of a blue square";
const QUESTION = "What is in this picture?";

const { values } = parseArgs({
  options: { model: { type: "string" }, n: { type: "string", default: "4" }, seed: { type: "string", default: "1" } },
});
const started = performance.now();
const seconds = (): string => `${((performance.now() - started) / 1000).toFixed(1)} s`;

/** Pictures side by side. */
function row(pictures: readonly RgbImage[]): RgbImage {
  const { width, height } = pictures[0]!;
  const data = new Uint8Array(3 * width * height * pictures.length);
  for (const [k, picture] of pictures.entries()) {
    for (let y = 0; y < height; y++)
      data.set(picture.data.subarray(3 * width * y, 3 * width * (y + 1)), 3 * width * (pictures.length * y + k));
  }
  return { width: width * pictures.length, height, data };
}

const device = await Device.create();
console.log(`device: ${device.name}${device.capabilities.software ? " (software: correct, slow)" : ""}`);
mkdirSync(FOLDER, { recursive: true });
const model = values.model ?? `${FOLDER}/tiny`;
if (!values.model && !existsSync(model)) {
  await newCheckpoint(model, { seed: 0, texts: [PROMPT, QUESTION], device });
  console.log(`${seconds()}  made ${model}: the whole of Janus-Pro in 2.7 M random weights`);
}
using janus = await Janus.fromPretrained(model, { device });
console.log(`${seconds()}  loaded ${model}, weights ${janus.fingerprint.slice(0, 12)}`);

const pictures = await janus.generate(PROMPT, { n: Number(values.n), seed: Number(values.seed) }).images();
for (const [k, picture] of pictures.entries()) await savePicture(`${FOLDER}/picture-${k}.png`, picture);
await writeFileAtomic(`${FOLDER}/pictures.png`, await encodePng(row(pictures.map(({ image }) => image))));
console.log(`${seconds()}  drew ${pictures.length} pictures of "${PROMPT}": ${FOLDER}/pictures.png`);

const { text, promptTokenIds, tokenIds } = await janus
  .ask(QUESTION, { images: [await encodePicture(pictures[0]!)], maxNewTokens: 48, temperature: values.model ? 0 : 1 })
  .result();
console.log(
  `${seconds()}  asked about the first one (${promptTokenIds.length} tokens in, ${tokenIds.length} out)\n  ${QUESTION}\n  ${JSON.stringify(text.trim())}`,
);

const { psnr, image, original } = await janus.reconstruct(pictures[0]!.image);
await writeFileAtomic(`${FOLDER}/reconstruction.png`, await encodePng(row([original, image])));
console.log(
  `${seconds()}  through the image tokenizer and back: PSNR ${psnr.toFixed(1)} dB, ${FOLDER}/reconstruction.png`,
);
if (!values.model)
  console.log(
    "The weights are random: noise and babble are right. `npm run demo -- --model deepseek-ai/Janus-Pro-1B` shows the real model.",
  );
device.destroy();
