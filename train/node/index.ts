/**
 * The trainer as a library, for Node: a whole run (`train`), or its parts for custom loops (`Trainer`, `Loader`, `AdamW`, …).
 *
 * @module janus-webgpu/train
 */
export * from "../index.ts";
export { CodeCache } from "./data/codes.ts";
export { codesAbout } from "./data/codes_about.ts";
export { RecordEncoder } from "./data/encode.ts";
export type { EncoderOptions } from "./data/encode.ts";
export { SourceIndex, indexSource, noticesOf, requireKnownFields } from "./data/index_file.ts";
export { Loader } from "./data/loader.ts";
export type { LoadedStep, LoaderOptions, LoaderSource, LoaderState } from "./data/loader.ts";
export { PictureEncoder } from "./stage0/pictures.ts";
export { Quarantine } from "./data/quarantine.ts";
export type { BadSample } from "./data/quarantine.ts";
export { expandShards } from "./data/shards.ts";
export type { FieldNames, SourceSpec } from "./data/sources.ts";
export { dryRun, dryRunTokenizer } from "./dry_run.ts";
export type { DryRun, DryRunOptions, MeasuredStep, Timed } from "./dry_run.ts";
export * from "./report/index.ts";
export { RewardProgram } from "./reward.ts";
export { Checkpoints } from "./run/checkpoints.ts";
export { RunFolderError, RunLockedError, SaveError, StepExistsError } from "./run/errors.ts";
export type { FileSystem } from "./run/file_system.ts";
export { RunFolder } from "./run/run_folder.ts";
export { PRESETS, loadAnyConfig, loadConfig } from "./settings.ts";
export type { Preset } from "./settings.ts";
export { train } from "./train.ts";
export type { RunOptions, RunResult } from "./train.ts";
export { trainTokenizer } from "./stage0/train.ts";
export type { TokenizerRunOptions } from "./stage0/train.ts";
