/**
 * The trainer as a library that loads anywhere: the step of each stage, losses, samples and their encoders, settings and estimates. Files, run
 * folders and the loop over them are node/index.ts, which exports all of this too.
 */
export { TrainConfigError, checkAnyConfig, checkConfig, checkTokenizerConfig, learningRate } from "./config.ts";
export type { TokenizerConfig, TrainConfig } from "./config.ts";
export { Batcher } from "./data/batcher.ts";
export { RecordEncoder } from "./data/encode.ts";
export type { CodeSource, EncoderOptions, RecordUse, SampleEncoder, SampleId } from "./data/encode.ts";
export * from "./data/errors.ts";
export type { RawSample } from "./data/raw_sample.ts";
export { loadTokenizer, vqEncoder } from "./stage0/image_tokenizer.ts";
export { PictureEncoder } from "./stage0/pictures.ts";
export type { Picture } from "./stage0/pictures.ts";
export { estimateStep, estimateTokenizerStep } from "./estimate.ts";
export type { StepCounts, StepEstimate, StepMemory } from "./estimate.ts";
export { TRAINED_ADAPTER, quantizedBase } from "./lora.ts";
export { METHODS, planFinetune } from "./plan.ts";
export type { Candidate, Method, Plan, PlanRequest } from "./plan.ts";
export { advantagesOf, drawnSample } from "./grpo.ts";
export type { Drawing } from "./grpo.ts";
export { Policy, RewardError, drawingOf } from "./policy.ts";
export type { DrawnStep, PolicyParts, RewardFunction, RewardRequest } from "./policy.ts";
export { taskLosses, totalLoss } from "./loss.ts";
export type { TaskLosses } from "./loss.ts";
export type { NotFiniteCause } from "./not_finite.ts";
export { AdamW } from "../model/nn/optim/index.ts";
export type { AdamWOptions, AdamWParameter, OptimizerReport } from "../model/nn/optim/index.ts";
export { ONE_PROCESS, ownShare, sumCounts } from "./ranks.ts";
export type { Ranks } from "./ranks.ts";
export { RankError, RankGroup } from "./rank_group.ts";
export type { Transport } from "./rank_group.ts";
export {
  IGNORE,
  TASKS,
  imageSample,
  layRows,
  packSamples,
  promptSample,
  textSample,
  trainedTokens,
} from "./samples.ts";
export type { DrawnImage, PackedRows, Sample, Task } from "./samples.ts";
export { STAGES, TRAINED, setStage } from "./stages.ts";
export type { Stage } from "./stages.ts";
export { loadTensors, loadTensorsInto, saveTensors } from "./optimizer_file.ts";
export type { TensorFileOptions } from "./optimizer_file.ts";
export { TrainingError } from "./skips.ts";
export { Trainer } from "./trainer.ts";
export type { StepReport, TaskReport } from "./step_report.ts";
export type { TrainerOptions } from "./trainer.ts";
export { VqTraining } from "./stage0/trainer.ts";
export type { VqLosses, VqStep, VqTrainingOptions, VqTrainingState, VqUsage } from "./stage0/options.ts";
