/**
 * The small files of a checkpoint that say how text and pictures become its inputs: tokenizer, prompt format, image preprocessing, read
 * from a folder of either layout and checked against the model's config.
 */
import { readWhole } from "../io/bytes.ts";
import type { FileSource } from "../io/bytes.ts";
import { CheckpointError, ConfigError } from "../io/errors.ts";
import { imageTokens } from "./config.ts";
import type { JanusConfig } from "./config.ts";
import { preprocessConfig } from "../image/preprocess.ts";
import type { PreprocessConfig } from "../image/preprocess.ts";
import { PromptFormat, promptConfig } from "./prompt.ts";
import { Tokenizer } from "./tokenizer.ts";
import { TokenizerError } from "../tokenizer.ts";
import { isObject } from "../io/unknown.ts";
import { messageOf } from "../../engine/errors.ts";

export interface Processor {
  readonly tokenizer: Tokenizer;
  readonly prompts: PromptFormat;
  readonly images: PreprocessConfig;
  readonly drawing: DrawingDefaults;
}

/** Defaults of drawing: `guidance_scale` and `temperature` of generation_config.json, else those of the paper's code. */
export interface DrawingDefaults {
  readonly guidance: number;
  readonly temperature: number;
}

export const DRAWING_DEFAULTS: DrawingDefaults = { guidance: 5, temperature: 1 };

const MAX_TOKENIZER = 64 * 2 ** 20; // bytes; published ones have 4.7 MB
const MAX_SETTINGS = 4 * 2 ** 20;

async function readOptional(
  source: FileSource,
  names: readonly string[],
  name: string,
  limit: number,
): Promise<string | undefined> {
  if (!names.includes(name)) return undefined;
  const file = await source.open(name);
  try {
    return new TextDecoder().decode(await readWhole(file, limit));
  } finally {
    await file.close?.();
  }
}

function parseOptional(text: string | undefined, where: string): unknown {
  if (text === undefined) return undefined;
  try {
    return JSON.parse(text) as unknown;
  } catch (error) {
    throw new ConfigError(`${where} is not JSON: ${messageOf(error)}`);
  }
}

/** Reads the processor of a checkpoint's folder. Throws subclasses of `CheckpointError` that name the file and what does not fit. */
export async function readProcessor(source: FileSource, config: JanusConfig): Promise<Processor> {
  const names = await source.list();
  const read = (name: string, limit = MAX_SETTINGS): Promise<string | undefined> =>
    readOptional(source, names, name, limit);
  const json = async (name: string): Promise<unknown> => parseOptional(await read(name), `${source.name}/${name}`);
  const tokenizerText = await read("tokenizer.json", MAX_TOKENIZER);
  if (tokenizerText === undefined) {
    throw new TokenizerError(
      `${source.name}: there is no tokenizer.json; copy the one of the model that these weights belong to`,
    );
  }
  const tokenizer = new Tokenizer({
    tokenizer: tokenizerText,
    config: await json("tokenizer_config.json"),
    specialTokensMap: await json("special_tokens_map.json"),
  });
  const rows = config.language.vocabulary;
  if (tokenizer.size > rows) {
    throw new CheckpointError(
      `${source.name}: tokenizer.json has ids up to ${tokenizer.size - 1}, the model has ${rows} rows; they are not of one model`,
    );
  }
  const [processor, preprocessor] = [await json("processor_config.json"), await json("preprocessor_config.json")];
  const prompt = promptConfig({
    processor,
    chatTemplate: await read("chat_template.jinja"),
    chatTemplateJson: await json("chat_template.json"),
  });
  // Without a number of its own the processor follows the model.
  const declares = isObject(processor) && processor.num_image_tokens !== undefined;
  if (declares && prompt.imageTokens !== imageTokens(config)) {
    throw new ConfigError(
      `${source.name}/processor_config.json: num_image_tokens is ${prompt.imageTokens}, the vision tower gives ${imageTokens(config)}; they must agree`,
    );
  }
  const nested = isObject(processor) && isObject(processor.image_processor);
  const settings: unknown = preprocessor ?? (nested ? processor : { image_size: config.vision.imageSize });
  const images = preprocessConfig(
    settings,
    `${source.name}/${preprocessor ? "preprocessor_config.json" : "processor_config.json"}`,
  );
  if (images.imageSize !== config.vision.imageSize) {
    throw new ConfigError(
      `${source.name}: the processor makes pictures of ${images.imageSize} pixels, the vision tower takes ${config.vision.imageSize}`,
    );
  }
  const prompts = new PromptFormat(tokenizer, { ...prompt, imageTokens: imageTokens(config) });
  const generation = await json("generation_config.json");
  return { tokenizer, prompts, images, drawing: drawingDefaults(generation, `${source.name}/generation_config.json`) };
}

function drawingDefaults(json: unknown, where: string): DrawingDefaults {
  if (json === undefined) return DRAWING_DEFAULTS;
  if (!isObject(json)) throw new ConfigError(`${where} is not a JSON object`);
  const number = (name: string, fallback: number, least: number): number => {
    const value = json[name] ?? fallback;
    if (typeof value !== "number" || !Number.isFinite(value) || value < least)
      throw new ConfigError(`${where}: ${name} is ${JSON.stringify(value)}; a number from ${least}`);
    return value;
  };
  return {
    guidance: number("guidance_scale", DRAWING_DEFAULTS.guidance, 0),
    temperature: number("temperature", DRAWING_DEFAULTS.temperature, 0),
  };
}
