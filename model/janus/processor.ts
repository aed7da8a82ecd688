/**
 * The small files of a checkpoint that define the conversion of text and images to inputs: tokenizer, prompt format,
 * image preprocessing, defaults of generation, read from a folder of either layout and checked against the model's
 * config.
 */
import type { FileSource } from "../io/bytes.ts";
import { CheckpointError, ConfigError } from "../io/errors.ts";
import { readTextFile } from "../io/small_file.ts";
import { defined, generationConfig, isGenerationKey } from "../generation_config.ts";
import type { AnswerDefaults, GenerationConfig } from "../generation_config.ts";
import { JANUS_PRO_1B, imageTokens } from "./config.ts";
import type { JanusConfig } from "./config.ts";
import { preprocessConfig, preprocessNotices, withInputNorm } from "../image/preprocess.ts";
import type { PreprocessConfig } from "../image/preprocess.ts";
import { PLAIN_ROLES, PromptFormat, promptConfig, promptNotices } from "./prompt.ts";
import type { PromptConfig } from "./prompt.ts";
import { Tokenizer } from "./tokenizer.ts";
import { TokenizerError, tokenizerNotices } from "../tokenizer.ts";
import { isObject } from "../io/unknown.ts";
import { messageOf } from "../../engine/errors.ts";

export interface Processor {
  readonly tokenizer: Tokenizer;
  readonly prompts: PromptFormat;
  readonly images: PreprocessConfig;
  readonly drawing: DrawingDefaults;
  /** The checkpoint's settings of answers; options override them one by one. */
  readonly answers: AnswerDefaults;
  /** Things worth saying about the files: keys that are not known and have no effect, ids that differ from the tokenizer's. */
  readonly notices: readonly string[];
}

/** Defaults of image generation: `guidance_scale` and `temperature` of generation_config.json, else those of the paper's code. */
export interface DrawingDefaults {
  readonly guidance: number;
  readonly temperature: number;
  readonly topK?: number;
  readonly topP?: number;
}

export const DRAWING_DEFAULTS: DrawingDefaults = { guidance: 5, temperature: 1 };

const MAX_TOKENIZER = 64 * 2 ** 20; // bytes; published ones have 4.7 MB
const MAX_SETTINGS = 4 * 2 ** 20;

/** The small files of a folder, by name; undefined for those that it does not have. */
interface SideFiles {
  /** For messages. */
  readonly name: string;
  text(name: string, limit?: number): Promise<string | undefined>;
  json(name: string): Promise<unknown>;
}

async function sideFilesOf(source: FileSource): Promise<SideFiles> {
  const names = await source.list();
  const text = async (name: string, limit = MAX_SETTINGS): Promise<string | undefined> =>
    names.includes(name) ? new TextDecoder().decode(await readTextFile(source, name, limit)) : undefined;
  const json = async (name: string): Promise<unknown> => {
    const found = await text(name);
    if (found === undefined) return undefined;
    try {
      return JSON.parse(found) as unknown;
    } catch (error) {
      throw new ConfigError(`${source.name}/${name} is not JSON: ${messageOf(error)}`);
    }
  };
  return { name: source.name, text, json };
}

/** Reads the processor of a checkpoint's folder. Throws subclasses of `CheckpointError` that name the file and what does not fit. */
export async function readProcessor(source: FileSource, config: JanusConfig): Promise<Processor> {
  const files = await sideFilesOf(source);
  const { tokenizer, notices } = await readTokenizer(files, config);
  const processor = await files.json("processor_config.json");
  const prompt = await readPrompt(files, processor, config, tokenizer);
  const images = await readImages(files, processor, config);
  const generation = await readGeneration(files, config);
  return {
    tokenizer,
    prompts: new PromptFormat(tokenizer, prompt, isPredecessor(config, tokenizer) ? PLAIN_ROLES : undefined),
    images: images.config,
    drawing: { ...DRAWING_DEFAULTS, ...generation.drawing },
    answers: generation.answers,
    notices: [
      ...notices,
      ...promptNotices(processor, `${source.name}/processor_config.json`),
      ...images.notices,
      ...generation.notices,
      ...idNotices(generation.ids, tokenizer, source.name),
    ],
  };
}

/**
 * Whether a checkpoint is Janus-1.3B: it has the sizes of Janus-Pro-1B with the token ids of Janus-Pro-7B. It was trained with plain words for
 * roles, while its tokenizer has tags for them, so the tokenizer alone does not say which.
 */
function isPredecessor({ language }: JanusConfig, { specials }: Tokenizer): boolean {
  const is1B = language.hidden === JANUS_PRO_1B.language.hidden && language.layers === JANUS_PRO_1B.language.layers;
  return is1B && specials.pad === 100_015 && specials.beginOfImage === 100_016;
}

async function readTokenizer(
  files: SideFiles,
  config: JanusConfig,
): Promise<{ tokenizer: Tokenizer; notices: string[] }> {
  const text = await files.text("tokenizer.json", MAX_TOKENIZER);
  if (text === undefined) {
    throw new TokenizerError(
      `${files.name}: there is no tokenizer.json; copy the one of the model that these weights belong to`,
    );
  }
  const settings = await files.json("tokenizer_config.json");
  const tokenizer = new Tokenizer({
    tokenizer: text,
    config: settings,
    specialTokensMap: await files.json("special_tokens_map.json"),
  });
  const rows = config.language.vocabulary;
  if (tokenizer.size > rows) {
    throw new CheckpointError(
      `${files.name}: tokenizer.json has ids up to ${tokenizer.size - 1}, the model has ${rows} rows; they are not of one model`,
    );
  }
  return { tokenizer, notices: tokenizerNotices(settings, `${files.name}/tokenizer_config.json`) };
}

async function readPrompt(
  files: SideFiles,
  processor: unknown,
  config: JanusConfig,
  tokenizer: Tokenizer,
): Promise<PromptConfig> {
  const prompt = promptConfig({
    processor,
    chatTemplate: await files.text("chat_template.jinja"),
    chatTemplateJson: await files.json("chat_template.json"),
    tagOf: (id) => tokenizer.tokenOf(tokenizer.specials[id]!),
  });
  // Without its own number, the processor uses that of the model.
  const declares = isObject(processor) && (processor.num_image_tokens ?? undefined) !== undefined;
  if (declares && prompt.imageTokens !== imageTokens(config)) {
    throw new ConfigError(
      `${files.name}/processor_config.json: num_image_tokens is ${prompt.imageTokens}, the vision tower gives ${imageTokens(config)}; they must agree`,
    );
  }
  return { ...prompt, imageTokens: imageTokens(config) };
}

async function readImages(
  files: SideFiles,
  processor: unknown,
  config: JanusConfig,
): Promise<{ config: PreprocessConfig; notices: string[] }> {
  const preprocessor = await files.json("preprocessor_config.json");
  const nested = isObject(processor) && isObject(processor.image_processor);
  // In transformers' order.
  const settings: unknown = nested ? processor : (preprocessor ?? { image_size: config.vision.imageSize });
  const where = `${files.name}/${nested ? "processor_config.json" : "preprocessor_config.json"}`;
  const images = preprocessConfig(settings, where);
  const notices = preprocessNotices(settings, where);
  if (nested && preprocessor !== undefined)
    notices.push(`${files.name}/preprocessor_config.json has no effect: ${where} has the image processor`);
  if (images.imageSize !== config.vision.imageSize) {
    throw new ConfigError(
      `${files.name}: the processor makes images of ${images.imageSize} pixels, the vision tower takes ${config.vision.imageSize}; they must agree`,
    );
  }
  return { config: withInputNorm(images, config.inputNorm), notices };
}

/**
 * generation_config.json. A key that it does not have and an older config.json has is taken from there, as transformers does without the
 * file: its own keys, then those of its language model.
 */
async function readGeneration(files: SideFiles, config: JanusConfig): Promise<GenerationConfig> {
  const [name, vocabulary] = ["generation_config.json", config.language.vocabulary];
  const own = await files.json(name);
  if (own !== undefined && !isObject(own)) throw new ConfigError(`${files.name}/${name}: the top must be an object`);
  const top = await files.json("config.json");
  const model = isObject(top) ? top : {};
  const language = model.text_config ?? model.language_config;
  const older = olderKeys({ ...(isObject(language) ? language : {}), ...olderKeys(model) });
  const where = `${files.name}/${own === undefined ? "config.json" : name}`;
  if (own === undefined) return generationConfig(older, where, vocabulary);
  const found = generationConfig(own, where, vocabulary);
  const inConfig = generationConfig({ eos_token_id: older.eos_token_id }, `${files.name}/config.json`, vocabulary);
  const [ids, others] = [found.answers.stopIds, inConfig.answers.stopIds];
  if (!ids) return { ...found, answers: { ...found.answers, ...defined({ stopIds: others }) } };
  const left = others?.filter((id) => !ids.includes(id)) ?? [];
  if (left.length === 0) return found;
  const notice = `${files.name}/config.json: eos_token_id names ${left.join(", ")} too, which end no answer: ${name} decides, with ${ids.join(", ")}`;
  return { ...found, notices: [...found.notices, notice] };
}

/** Generation settings in a config.json, without `max_length`, for which older files have a meaningless default. */
const olderKeys = (json: Record<string, unknown>): Record<string, unknown> =>
  Object.fromEntries(
    Object.entries(json).filter(([key, value]) => isGenerationKey(key) && key !== "max_length" && value !== null),
  );

function idNotices(ids: GenerationConfig["ids"], { specials }: Tokenizer, where: string): string[] {
  return Object.entries(ids).flatMap(([name, id]) => {
    const own = specials[name as keyof typeof ids];
    const key = { bos: "bos_token_id", pad: "pad_token_id", beginOfImage: "boi_token_id" }[name as keyof typeof ids];
    return id === own ? [] : [`${where}/generation_config.json: ${key} is ${id}; the tokenizer's ${own} is used`];
  });
}

/** Describes the generation settings of a checkpoint in lines of text: stop ids and settings of answers, settings of image generation. */
export function describeGeneration({ answers, drawing, tokenizer, prompts }: Processor): string[] {
  const token = (id: number): string => `${id} ${JSON.stringify(tokenizer.tokenOf(id) ?? "")}`;
  const { stopIds = [tokenizer.specials.eos], ...settings } = answers;
  const list = (of: object): string =>
    Object.entries(of)
      .map(([name, value]) => `${name} ${JSON.stringify(value)}`)
      .join(", ");
  return [
    `answers end at ${stopIds.map(token).join(", ")}`,
    `answers: ${list({ temperature: 0, ...settings })}`,
    `images: ${list(drawing)}`,
    `system prompt: ${prompts.system === "" ? "none" : JSON.stringify(prompts.system)}`,
  ];
}
