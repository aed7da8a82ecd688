/**
 * janus-webgpu: the engine and the functions that create tensors; `F` has the ops and `nn` the layers, as in PyTorch;
 * `Janus` is the model.
 */
export * from "./engine/index.ts";
export { arange, full, manualSeed, ones, randn, uniform, zeros, zerosLike } from "./kernels/index.ts";
export * as F from "./kernels/index.ts";
export { QuantizedWeight } from "./kernels/matmul/quantized.ts";
export type { Quantization } from "./kernels/matmul/quantized_format.ts";
export * as nn from "./model/nn/index.ts";
export { load, save } from "./model/nn/state_file.ts";
export type { LoadStateOptions, Stateful } from "./model/nn/state_file.ts";
export { Janus } from "./model/janus/web/janus.ts";
export type { WebPretrainedOptions } from "./model/janus/web/janus.ts";
export type { DownloadProgress } from "./model/io/hub_body.ts";
export { StorageError, modelStorage } from "./model/web/store.ts";
export type { StoredModel } from "./model/web/store.ts";
export { Answer } from "./model/streams.ts";
export type { AnswerResult } from "./model/streams.ts";
export { Pictures } from "./model/janus/pictures.ts";
export type { GenerateEvent, Picture } from "./model/janus/pictures.ts";
export type { RgbImage } from "./model/image/image.ts";
export { toImageData } from "./model/image/web_image.ts";
export type { CanvasLike, ImageDataLike } from "./model/image/web_image.ts";
export type { Files } from "./model/io/file_sources.ts";
export type { Reconstruction } from "./model/janus/image_codes.ts";
export type { AskOptions, GenerateOptions, ImageInput } from "./model/janus/pipeline.ts";
