/** The trainer as a library, for Node: a whole run (`train`), or its parts for loops of one's own (`Trainer`, `Loader`, `AdamW`, …). */
export {
  PRESETS,
  TrainConfigError,
  checkAnyConfig,
  checkConfig,
  checkTokenizerConfig,
  learningRate,
  loadAnyConfig,
  loadConfig,
} from "../config.ts";
export type { Preset, TokenizerConfig, TrainConfig } from "../config.ts";
export { CodeCache } from "./data/codes.ts";
export { Encoder } from "./data/encode.ts";
export type { CodeSource, EncoderOptions, SampleId } from "./data/encode.ts";
export * from "../data/errors.ts";
export { SourceIndex, indexSource } from "./data/index_file.ts";
export { Loader } from "./data/loader.ts";
export type { LoadedStep, LoaderOptions, LoaderSource, LoaderState, SampleEncoder } from "./data/loader.ts";
export { PictureEncoder } from "./stage0/pictures.ts";
export type { Picture } from "./stage0/pictures.ts";
export { Quarantine } from "./data/quarantine.ts";
export type { BadSample } from "./data/quarantine.ts";
export type { RawSample, SourceSpec } from "./data/sources.ts";
export { codesAbout, loadTokenizer, vqEncoder } from "../stage0/image_tokenizer.ts";
export { dryRun, dryRunTokenizer } from "./dry_run.ts";
export type { DryRun, DryRunOptions, MeasuredStep, Timed } from "./dry_run.ts";
export { estimateStep, estimateTokenizerStep } from "../estimate.ts";
export type { StepCounts, StepEstimate, StepMemory } from "../estimate.ts";
export { taskLosses, totalLoss } from "../loss.ts";
export type { TaskLosses } from "../loss.ts";
export type { NotFiniteCause } from "../not_finite.ts";
export { AdamW } from "../../model/nn/optim/index.ts";
export type { AdamWOptions, AdamWParameter, OptimizerReport } from "../../model/nn/optim/index.ts";
export * from "./report/index.ts";
export { Checkpoints } from "./run/checkpoints.ts";
export { RunFolderError, RunLockedError, SaveError, StepExistsError } from "./run/errors.ts";
export type { FileSystem } from "./run/file_system.ts";
export { RunFolder } from "./run/run_folder.ts";
export { IGNORE, TASKS, imageSample, layRows, packSamples, textSample, trainedTokens } from "../samples.ts";
export type { PackedRows, Sample, Task } from "../samples.ts";
export { STAGES, TRAINED, setStage } from "../stages.ts";
export type { Stage } from "../stages.ts";
export { TrainingError } from "../skips.ts";
export { train } from "./train.ts";
export type { RunOptions, RunResult } from "./train.ts";
export { trainTokenizer } from "./stage0/train.ts";
export type { TokenizerRunOptions } from "./stage0/train.ts";
export { Trainer } from "../trainer.ts";
export type { StepReport, TaskReport } from "../trainer.ts";
export { VqTraining } from "../stage0/trainer.ts";
export type { VqLosses, VqStep, VqTrainingOptions, VqTrainingState, VqUsage } from "../stage0/trainer.ts";
