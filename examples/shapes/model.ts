/** The untrained model of the demo: the whole of Janus-Pro at a small size, and a tokenizer with the words of the shapes. */
import { byteTokenizerFiles } from "../../model/byte_tokenizer.ts";
import type { JanusConfig } from "../../model/janus/config.ts";
import { tinyConfig } from "../../model/janus/create.ts";
import { DEFAULT_SYSTEM_PROMPT } from "../../model/janus/prompt.ts";
import { Tokenizer } from "../../model/janus/tokenizer.ts";
import { trainingSample } from "./dataset.ts";
import type { LayoutOptions } from "./scene.ts";

/** Side of the demo's images, pixels: 8 × 8 codes of 4 × 4 pixels. */
export const PICTURE = 32;
/** On one background a small image tokenizer learns colours in half the steps, and spends fewer codes on nothing. */
export const LAYOUT: LayoutOptions = { grid: 16, origin: 8, backgrounds: ["black"] };
const MERGES = 512;
/** Samples whose words the tokenizer learns. */
const SAMPLES = 300;

/** Defaults of drawing: at the original's guidance of 5 the shapes of one this small fall apart. */
const GUIDANCE = 1.5;

/**
 * The files beside the weights: the tokenizer, learned from the system prompt and from what some training samples say, so that a word is a
 * token, and how images are drawn.
 */
export function shapesFiles(seed: number, temperature: number): Map<string, Uint8Array> {
  const said = Array.from({ length: SAMPLES }, (_, i) => {
    const { prompt, questions, text } = trainingSample(seed, i);
    return [prompt?.text, text, ...questions.flatMap(({ question, answer }) => [question, ` ${answer}`])].join("\n");
  });
  const texts = [...said, ...Array<string>(20).fill(DEFAULT_SYSTEM_PROMPT)];
  const drawing = new TextEncoder().encode(JSON.stringify({ guidance_scale: GUIDANCE, temperature }));
  return byteTokenizerFiles({ texts, merges: MERGES }).set("generation_config.json", drawing);
}

/** Sizes of the model for that tokenizer. */
export function shapesConfig(tokenizer: ReadonlyMap<string, Uint8Array>): JanusConfig {
  const vocabulary = new Tokenizer({ tokenizer: new TextDecoder().decode(tokenizer.get("tokenizer.json")) }).size;
  return tinyConfig({
    vision: { imageSize: PICTURE, patchSize: 4, hidden: 96, layers: 2, heads: 4, intermediate: 384 },
    vq: { baseChannels: 32, multipliers: [1, 1, 2], resBlocks: 1, latentChannels: 64, codeDim: 8, codes: 128 },
    language: { vocabulary, hidden: 128, intermediate: 384, layers: 4, heads: 4, kvHeads: 4, headDim: 32 },
  });
}
