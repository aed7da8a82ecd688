/** Checkpoints: readers, writers, names, conversion and figures. Takes bytes from anywhere; for folders and the hub see `model/node/`. */
export * from "../../io/bytes.ts";
export { Checkpoint, openCheckpoint, openWeights } from "./checkpoint.ts";
export type { Format, Weights } from "./checkpoint.ts";
export * from "./convert.ts";
export * from "../../io/errors.ts";
export { expectedTensors, modelTensors, unusedTensors } from "./expected.ts";
export * from "./inspect.ts";
export { deepseekName, detectLayout, hfNames, isUnused } from "./names.ts";
export type { Layout, Piece, TensorSource } from "./names.ts";
export * from "../../io/safetensors.ts";
export { isSideFile } from "./side_files.ts";
export type { StoredDType, StoredTensor, TensorSpec } from "../../io/stored.ts";
export { readTorchZip } from "../../io/torch_zip.ts";
