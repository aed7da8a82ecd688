/** Stages 1 to 3 as a run: understanding, text and images through one model, with the samples, checkpoints and report of those stages. */
import { ArgumentError, knownOptions, now } from "../../engine/index.ts";
import type { FolderSink } from "../../model/io/bytes.ts";
import { EMA_FILE, openCheckpoint } from "../../model/janus/checkpoint/checkpoint.ts";
import type { JanusConfig } from "../../model/janus/config.ts";
import type { JanusForConditionalGeneration } from "../../model/janus/janus.ts";
import { adapterBytes, reloadAdapter, saveAdapter } from "../../model/janus/adapters.ts";
import { fingerprint, loadModel } from "../../model/janus/load.ts";
import { Janus } from "../../model/janus/pipeline.ts";
import { readProcessor } from "../../model/janus/processor.ts";
import type { Processor } from "../../model/janus/processor.ts";
import { planSave, readUnused, saveModel } from "../../model/janus/save.ts";
import type { SaveOptions } from "../../model/janus/save.ts";
import type { TrainConfig } from "../config.ts";
import type { RecordUse } from "../data/encode.ts";
import { TRAINED_ADAPTER, quantizedBase } from "../lora.ts";
import { loadOptimizer, loadTensorsInto, saveTensors, tensorFileBytes } from "../optimizer_file.ts";
import { needsReference } from "../objective.ts";
import { Policy, drawingOf } from "../policy.ts";
import type { PolicyParts, RewardFunction } from "../policy.ts";
import { ownShare, sumCounts } from "../ranks.ts";
import type { Ranks } from "../ranks.ts";
import type { SavedTensor } from "../optimizer_file.ts";
import { sampleElsewhere } from "../samples.ts";
import type { Sample, Task } from "../samples.ts";
import { ShardedState } from "../sharding/state.ts";
import type { OptimizerPart } from "../sharding/state.ts";
import { skipOf } from "../skips.ts";
import type { Skip } from "../skips.ts";
import { vqEncoder } from "../stage0/image_tokenizer.ts";
import { codesAbout } from "./data/codes_about.ts";
import { Trainer } from "../trainer.ts";
import { CodeCache } from "./data/codes.ts";
import { RecordEncoder } from "./data/encode.ts";
import type { SourceIndex } from "./data/index_file.ts";
import { Loader, checkSources } from "./data/loader.ts";
import type { LoaderState } from "./data/loader.ts";
import { LOOP_OPTIONS, runLoop } from "./loop.ts";
import type { LoopOptions, RunResult, Stage, Start } from "./loop.ts";
import type { Due } from "./report/journal.ts";
import { requireUse } from "./data/sources.ts";
import type { StepEvent } from "./report/log.ts";
import { RewardProgram } from "./reward.ts";
import { drawSamples, firstPictures, readReconstructions, saveReconstructions } from "./report/samples.ts";
import { FlopMeter, matmulCeiling } from "./report/speed.ts";
import { OPTIMIZER } from "./run/run_state.ts";

export type { RunResult } from "./loop.ts";

export interface RunOptions extends LoopOptions<TrainConfig, StepEvent> {
  /** FLOP/s of the device that MFU is a part of (default: measured, for about a second). */
  readonly ceiling?: number;
  /** With grpo, in place of its command: rewards images. */
  readonly reward?: RewardFunction;
}

/** The optimizer's state lies in several files if it is larger, so that ranks write them at the same time: as much as a file of weights has at most. */
const OPTIMIZER_FILE_BYTES = 5e9;

type Tokens = Partial<Record<Task, number>>;

/** State of these stages in a checkpoint, besides weights and moments; JSON. */
interface JanusState {
  readonly step: number;
  readonly skipped: number;
  readonly loader: LoaderState;
  /** Trained tokens so far. */
  readonly tokens: Readonly<Tokens>;
  /** With adapters, dpo and grpo: the fingerprint of the model that the run began with. */
  readonly base?: string;
}

/** Trains stage 1, 2 or 3. Throws as `runLoop` does, and `ArgumentError` for an option that is not known. */
export async function train(options: RunOptions): Promise<RunResult> {
  knownOptions("train", options, [...LOOP_OPTIONS, "ceiling", "reward"]);
  requireReward(options);
  return runLoop(options, (start) => loadStage(start, options));
}

/** Throws `ArgumentError` if images cannot be rewarded. */
function requireReward({ config: { grpo }, reward, ranks }: RunOptions): void {
  if (grpo && (grpo.reward === undefined) === (reward === undefined))
    throw new ArgumentError(`train: grpo needs one reward, a command as grpo.reward or a function; got ${reward ? "both" : "none"}.`); // prettier-ignore
  if (!grpo && reward) throw new ArgumentError("train: a reward must come with grpo; got none in the settings. Leave it out."); // prettier-ignore
  if (grpo && ranks && ranks.size > 1) throw new ArgumentError(`train: grpo trains in one process, which draws the images and has them rewarded; got ${ranks.size}. Start one.`); // prettier-ignore
}

const useOfConfig = ({ dpo, grpo }: TrainConfig): RecordUse => (dpo ? "preferences" : grpo ? "prompts" : "samples");

/** The fingerprint of the model that the run began with, and that model where it must stay beside the one that trains. */
async function baseOf({ config, base, device, signal, atEnd, ...start }: Start<TrainConfig>): Promise<Base | null> {
  if (!config.lora && !needsReference(config)) return null;
  const checkpoint = await openCheckpoint(base);
  try {
    const hash = await fingerprint(checkpoint);
    const before = (start.state as JanusState | null)?.base;
    if (start.state && before !== hash)
      throw new ArgumentError(
        `train: the model must be the one that ${start.run} began with; got another one, ${base.name}. Pass the same model.`,
      );
    if (!needsReference(config)) return { hash, name: base.name, reference: null };
    const reference = await loadModel(checkpoint, {
      device,
      dtype: config.dtype,
      onNotice: () => undefined,
      ...signal,
    });
    atEnd(() => reference.dispose());
    return { hash, name: base.name, reference };
  } finally {
    await checkpoint.close();
  }
}

interface Base {
  readonly hash: string;
  readonly name: string;
  readonly reference: JanusForConditionalGeneration | null;
}

async function loadStage(start: Start<TrainConfig>, { ceiling: measured, reward }: RunOptions): Promise<JanusStage> {
  const { config, device, source, checkpoint, signal, onNotice, atEnd } = start;
  const state = start.state as JanusState | null;
  const processor = await readProcessor(source, checkpoint.config);
  for (const notice of [...checkpoint.notices, ...processor.notices]) onNotice(notice);
  const unused = config.lora ? new Map() : await readUnused(checkpoint);

  // The data, before what takes longer.
  const sources = await start.openSources();
  requireUse(sources, useOfConfig(config));
  checkSources(byTask(sources), config.ratios);
  const base = await baseOf(start);

  // The model.
  const ceiling = measured ?? (await matmulCeiling(device, config.dtype));
  const about = await codesAbout(checkpoint, config.data.plain, config.dtype);
  const model = await loadModel(checkpoint, { device, dtype: config.dtype, onNotice, ...quantizedBase(config), ...signal }); // prettier-ignore
  atEnd(() => model.dispose());
  await checkpoint.close();
  const trainer = new Trainer(model, checkpoint.config, config, processor.tokenizer.specials.pad, {
    ranks: start.ranks,
    reference: base?.reference ?? null,
    ...(config.grpo && { drawing: drawingOf(config.grpo, processor) }),
  });
  atEnd(() => trainer.dispose());

  // Its samples.
  const codes = await CodeCache.open(start.cache, about, { onNotice });
  atEnd(() => codes.close());
  const encoder = encoderOf(config, processor, model, checkpoint.config, codes);
  const { quarantine } = start;
  const { seed, batch, ratios } = config;
  const share = { ranks: start.ranks, other: sampleElsewhere };
  const loader = new Loader(byTask(sources), encoder, { seed, batch, ratios, quarantine, share }, state?.loader);
  atEnd(() => loader.dispose());

  // The optimizer, and its state.
  const sharded = trainer.shards && (await ShardedState.of(trainer.shards, trainer.optimizer));
  if (state && start.resumed) {
    if (config.lora) await reloadAdapter(model, start.resumed, TRAINED_ADAPTER);
    const how = { ...signal, ...(sharded && { parts: sharded.parts }) };
    await loadOptimizer(start.resumed, OPTIMIZER, trainer.optimizer, how);
    if (config.ema) await loadTensorsInto(start.resumed, EMA_FILE, trainer.optimizer.averages(), how);
    trainer.resume(state.step, state.skipped);
  }
  const extras = { sideFiles: start.sideFiles, unused };
  const { bytes } = config.lora
    ? { bytes: adapterBytes(model, TRAINED_ADAPTER) }
    : await planSave(model, checkpoint.config, extras);
  const tokens = { ...state?.tokens };
  const policy = policyOf(start, { model, processor, ...(reward && { reward }) });
  return new JanusStage({ run: start.run, ranks: start.ranks, base, policy, sizes: checkpoint.config, processor, trainer, sharded, loader, sources, ceiling, extras, bytes, tokens }); // prettier-ignore
}

function policyOf(
  { config: { grpo, seed }, checkpoint, atEnd }: Start<TrainConfig>,
  given: Pick<PolicyParts, "model" | "processor"> & { readonly reward?: RewardFunction },
): Policy | null {
  if (!grpo) return null;
  let { reward } = given;
  if (!reward) {
    const program = new RewardProgram(grpo.reward!, grpo); // requireReward
    atEnd(() => program.close());
    reward = (images) => program.rewards(images);
  }
  return new Policy({ ...given, sizes: checkpoint.config, config: grpo, seed, reward });
}

function byTask(sources: readonly SourceIndex[]): Partial<Record<Task, SourceIndex[]>> {
  const found: Partial<Record<Task, SourceIndex[]>> = {};
  for (const source of sources) (found[source.task] ??= []).push(source);
  return found;
}

function encoderOf(
  config: TrainConfig,
  processor: Processor,
  { model }: JanusForConditionalGeneration,
  sizes: JanusConfig,
  codes: CodeCache,
): RecordEncoder {
  const { truncate, system, plain } = config.data;
  return new RecordEncoder(processor, {
    seed: config.seed,
    truncate,
    pictures: { plain },
    ...(system !== undefined && { system }),
    codes: codes.source(vqEncoder(model.vqmodel, sizes.vq.imageSize)),
    use: useOfConfig(config),
    drop: config.conditioningDropout,
    maxTokens: Math.min(config.length, sizes.language.maxPositions),
  });
}

interface StageParts {
  /** Folder of the run. */
  readonly run: string;
  /** With adapters, dpo and grpo: the model that the run began with. */
  readonly base: Base | null;
  /** With grpo: draws the images that are trained. */
  readonly policy: Policy | null;
  readonly sizes: JanusConfig;
  readonly processor: Processor;
  readonly trainer: Trainer;
  /** What the ranks divide of the optimizer; null: nothing. */
  readonly sharded: ShardedState | null;
  readonly loader: Loader;
  readonly sources: readonly SourceIndex[];
  readonly ranks: Ranks;
  /** FLOP/s that MFU is a part of. */
  readonly ceiling: number;
  readonly extras: SaveOptions;
  /** Bytes of the weights in a checkpoint: the model's, or an adapter's. */
  readonly bytes: number;
  /** Trained tokens so far; counted on. */
  readonly tokens: Tokens;
}

class JanusStage implements Stage<Sample, StepEvent> {
  readonly loader: Loader;
  readonly checkpointBytes: number;
  private readonly parts: StageParts;
  private readonly meter: FlopMeter;
  private lossScale = Infinity;

  constructor(parts: StageParts) {
    const { trainer, loader, bytes } = parts;
    this.parts = parts;
    this.loader = loader;
    this.meter = new FlopMeter(trainer.device);
    const files = [this.stateOf("stateDict"), ...(trainer.config.ema ? [this.stateOf("averages")] : [])];
    this.checkpointBytes = files.reduce((sum, tensors) => sum + tensorFileBytes(tensors), bytes);
  }

  get step(): number {
    return this.parts.trainer.step;
  }

  /** The optimizer's tensors, whole, as files have them. */
  private stateOf(kind: OptimizerPart): Readonly<Record<string, SavedTensor>> {
    return this.parts.sharded?.whole(kind) ?? this.parts.trainer.optimizer[kind]();
  }

  needsWeights({ at }: Pick<Due, "at">): boolean {
    const { every, sampleEvery = every, prompts } = this.parts.trainer.config.report;
    return every > 0 && prompts.length > 0 && at(sampleEvery);
  }

  whole<T>(work: () => Promise<T>): Promise<T> {
    return this.parts.trainer.whole(work);
  }

  async take(
    samples: readonly Sample[],
    { started, waitingMs }: { readonly started: number; readonly waitingMs: number },
  ): Promise<StepEvent> {
    const { trainer, policy, ceiling, tokens } = this.parts;
    const drawn = await policy?.draw(samples, trainer.step);
    const trained = drawn?.samples ?? samples;
    let flops = 0;
    this.meter.start();
    const report = await trainer.take(trained).finally(() => (flops = this.meter.stop()));
    const ms = now() - started;
    const own = ownShare(trained, this.parts.ranks).reduce(
      (sum, { task, images: seen }) => sum + seen.length + Number(task === "gen"),
      0,
    );
    const images = (await sumCounts(this.parts.ranks, [own]))[0]!;
    if (!report.skipped)
      for (const [task, { tokens: n }] of Object.entries(report.tasks))
        tokens[task as Task] = (tokens[task as Task] ?? 0) + n;
    return {
      ...report,
      ...(drawn && { measures: { reward: drawn.reward, flat: drawn.flat, ...report.measures } }),
      ms,
      waitingMs,
      tokensPerSecond: ((report.tokens - report.padding) * 1000) / ms,
      imagesPerSecond: (images * 1000) / ms,
      flops,
      mfu: (flops * 1000) / ms / ceiling,
      memoryBytes: trainer.device.pool.stats.reservedBytes,
    };
  }

  skipOf({ step, skipped, notFinite, cause, lossScale }: StepEvent): Skip | null {
    // Gradients that left the range of f16 under a loss scale that could still fall are how that scale is found.
    const hasFallen = lossScale !== undefined && lossScale < this.lossScale;
    this.lossScale = lossScale ?? this.lossScale;
    if (!skipped) return null;
    const { tasks = [], samples = [] } = notFinite ?? {};
    const { backoffFactor } = this.parts.trainer.config.lossScaling;
    const what = tasks.length ? `the loss of ${tasks.join(", ")} was not finite` : "gradients were not finite";
    const unchanged = `nothing was changed${lossScale === undefined ? "" : `, the loss scale is ${lossScale} now`}`;
    const before = lossScale !== undefined && lossScale > 1 ? lossScale / backoffFactor : undefined; // it stops at 1
    const skip = skipOf({ step, what, samples, cause, lossScale: before, unchanged });
    return { ...skip, isSearch: tasks.length === 0 && hasFallen };
  }

  state(loader: LoaderState): JanusState {
    const { trainer, tokens, base } = this.parts;
    return { step: trainer.step, skipped: trainer.skipped, loader, tokens, ...(base && { base: base.hash }) };
  }

  async save(sink: FolderSink): Promise<void> {
    const { trainer, sizes, extras, base, sharded } = this.parts;
    const write = async (): Promise<void> => {
      if (trainer.config.lora) await saveAdapter(trainer.model, sink, { name: TRAINED_ADAPTER, base: base!.name });
      else await saveModel(trainer.model, sizes, sink, extras);
      await saveTensors(sink, OPTIMIZER, this.stateOf("stateDict"), { fileBytes: OPTIMIZER_FILE_BYTES });
      if (trainer.config.ema) await saveTensors(sink, EMA_FILE, this.stateOf("averages"));
    };
    await (sharded ? sharded.together(write) : write());
  }

  /** Samples of the prompts, if they are due, and once the first training images through the image tokenizer. */
  pictures({ at, signal }: Due): (() => Promise<void>)[] | null {
    const { run, sizes, processor, trainer, sources } = this.parts;
    const { every, sampleEvery: _, reconstructions, ...how } = trainer.config.report;
    const isSampled = this.needsWeights({ at });
    if (!isSampled && !at(every)) return null;
    const draw = (): Promise<void> => {
      const janus = new Janus(run, sizes, trainer.model, processor, `${run}, step ${trainer.step}`);
      trainer.model.eval(); // no dropout
      return drawSamples(janus, run, trainer.step, { ...how, ...(signal && { signal }) }).finally(
        () => void trainer.model.train(),
      );
    };
    const reconstructOnce = async (): Promise<void> => {
      if (reconstructions === 0 || (await readReconstructions(run)).length > 0) return;
      const drawn = sources.filter(({ task }) => task === "gen");
      const images = await firstPictures(drawn, reconstructions, { plain: trainer.config.data.plain });
      await saveReconstructions(trainer.model.model.vqmodel, run, images);
    };
    return [...(isSampled ? [draw] : []), reconstructOnce];
  }
}
