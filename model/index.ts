/**
 * The model and its parts, for research: modules, configs, loading and saving, prompts, images, generation. Loads in browsers.
 *
 * @module janus-webgpu/model
 */
export * from "./byte_tokenizer.ts";
export * from "./janus/config.ts";
export * from "./janus/create.ts";
export * from "./answers.ts";
export * from "./causal.ts";
export * from "./decoding.ts";
export * from "./janus/generate_images.ts";
export * from "./generate.ts";
export * from "./image/image.ts";
export * from "./image/preprocess.ts";
export { resizeBicubic } from "./image/resize.ts";
export * from "./janus/janus.ts";
export * from "./llama.ts";
export * from "./janus/load.ts";
export * from "./janus/pictures.ts";
export * from "./janus/pipeline.ts";
export * from "./janus/processor.ts";
export * from "./janus/prompt.ts";
export type { AnswerDefaults, DrawingSettings } from "./generation_config.ts";
export * from "./janus/save.ts";
export { saveAdapter } from "./janus/adapters.ts";
export type { SaveAdapterOptions } from "./janus/adapters.ts";
export * from "./siglip.ts";
export * from "./request.ts";
export * from "./sampling.ts";
export { Answer } from "./streams.ts";
export type { AnswerResult } from "./streams.ts";
export * from "./janus/tokenizer.ts";
export * from "./tokenizer.ts";
export * from "./vq.ts";
