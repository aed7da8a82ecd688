/**
 * Stage 0 as a run: the image tokenizer of a model trains alone on images. Its checkpoints are whole models, whose other weights are those of
 * the model to begin with, byte by byte.
 */
import { ArgumentError, knownOptions, now, tensor } from "../../../engine/index.ts";
import type { Tensor } from "../../../engine/index.ts";
import type { FolderSink } from "../../../model/io/bytes.ts";
import { openCheckpoint } from "../../../model/janus/checkpoint/checkpoint.ts";
import type { Checkpoint } from "../../../model/janus/checkpoint/checkpoint.ts";
import { saveOver } from "../../../model/janus/save.ts";
import type { Parameter } from "../../../model/nn/module.ts";
import { folderSource } from "../../../model/node/files.ts";
import type { VqModel } from "../../../model/vq.ts";
import { learningRate } from "../../config.ts";
import type { TokenizerConfig } from "../../config.ts";
import { SourceError } from "../../data/errors.ts";
import { loadOptimizer, saveTensors, tensorFileBytes } from "../../optimizer_file.ts";
import { skipOf } from "../../skips.ts";
import type { Skip } from "../../skips.ts";
import { requireJudged } from "../../stage0/discriminator.ts";
import { PREFIX, loadTokenizer } from "../../stage0/image_tokenizer.ts";
import { vqOptions } from "../../stage0/options.ts";
import type { VqLosses, VqStep, VqTrainingState, VqUsage } from "../../stage0/options.ts";
import { VqTraining } from "../../stage0/trainer.ts";
import type { SourceIndex } from "../data/index_file.ts";
import { Loader } from "../data/loader.ts";
import type { LoaderState } from "../data/loader.ts";
import { LOOP_OPTIONS, runLoop } from "../loop.ts";
import type { LoopOptions, RunResult, Stage, Start } from "../loop.ts";
import type { Due } from "../report/journal.ts";
import type { TokenizerStepEvent } from "../report/log.ts";
import { firstPictures, saveReconstructions } from "../report/samples.ts";
import { DISCRIMINATOR, OPTIMIZER } from "../run/run_state.ts";
import { PictureEncoder } from "./pictures.ts";
import type { Picture } from "./pictures.ts";

export type TokenizerRunOptions = LoopOptions<TokenizerConfig, TokenizerStepEvent>;

/** State of stage 0 in a checkpoint, besides weights and moments; JSON. */
interface TokenizerState {
  readonly step: number;
  readonly loader: LoaderState;
  readonly training: VqTrainingState;
}

/** Steps without use that take a code out at the end of a run with a rate weight: those since codes were last moved, up to 200. */
const retiredAfter = ({ steps, reseed: { every, until = steps } }: TokenizerConfig): number =>
  every > 0 ? Math.max(every, Math.min(200, steps - until)) : 200;

/** Trains the image tokenizer. Throws as `runLoop` does, `SourceError` for a source without images, `ArgumentError` for an option that is not known. */
export async function trainTokenizer(options: TokenizerRunOptions): Promise<RunResult> {
  knownOptions("trainTokenizer", options, LOOP_OPTIONS);
  if ((options.ranks?.size ?? 1) > 1)
    throw new ArgumentError(`trainTokenizer: stage 0 must run as one process; got ${options.ranks!.size} ranks. Start it without mpirun; stages 1 to 3 run on many.`); // prettier-ignore
  return runLoop(options, loadStage);
}

async function loadStage(start: Start<TokenizerConfig>): Promise<TokenizerStage> {
  const { config, device, source, checkpoint, signal, atEnd } = start;
  const state = start.state as TokenizerState | null;
  const { imageSize } = checkpoint.config.vq;
  if (config.adversarial.weight > 0) requireJudged(imageSize);

  const sources = await start.openSources();
  const loader = loaderOf(start, sources, new PictureEncoder(imageSize), state?.loader);
  atEnd(() => loader.dispose());

  // The tokenizer; the rest of the model stays on the disk.
  const vq = await loadTokenizer(checkpoint, device, config.dtype);
  atEnd(() => vq.dispose());
  const training = new VqTraining(vq, { ...vqOptions(config), ranks: start.ranks });
  atEnd(() => training.dispose());
  await checkpoint.close();

  // The optimizer, and its state.
  if (state) {
    const { optimizer, adversary } = training;
    for (const [name, tensors] of Object.entries(trained(training)))
      await loadOptimizer(source, name, name === OPTIMIZER ? optimizer : adversary!.optimizer, { tensors, ...signal });
    training.resume(state.training);
  }
  return new TokenizerStage({ start, vq, training, loader, sources, step: state?.step ?? 0 });
}

/** All images alike: each task has the share of its records. */
function loaderOf(
  { config, quarantine }: Start<TokenizerConfig>,
  sources: readonly SourceIndex[],
  encoder: PictureEncoder,
  state: LoaderState | undefined,
): Loader<Picture> {
  const texts = sources.find(({ task }) => task === "text");
  if (texts)
    throw new SourceError(
      `${texts.spec.path} is a source of texts, but stage 0 trains on images: pass pairs, folders of classes, or conversations about images`,
    );
  const [und, gen] = (["und", "gen"] as const).map((task) => sources.filter((source) => source.task === task));
  const count = (indexes: readonly SourceIndex[]): number => indexes.reduce((sum, index) => sum + index.count, 0);
  const { seed, batch } = config;
  const ratios = { und: count(und!), text: 0, gen: count(gen!) };
  return new Loader({ und: und!, gen: gen! }, encoder, { seed, batch, ratios, quarantine }, state);
}

/** Files of a checkpoint besides the model. */
const trained = ({ optimizer, adversary }: VqTraining): Record<string, Record<string, Tensor>> => ({
  [OPTIMIZER]: optimizer.stateDict(),
  ...(adversary && { [DISCRIMINATOR]: adversary.stateDict() }),
});

/** Bytes of the model's weights that a checkpoint takes over, and of those that train, in f32. */
function modelBytes(checkpoint: Checkpoint, parameters: ReadonlyMap<string, Parameter>): number {
  const carried = [...checkpoint.parameters].filter(([name]) => !parameters.has(name)).map(([, weight]) => weight);
  const own = [...parameters.values()].reduce((sum, { size }) => sum + 4 * size, 0);
  return [...carried, ...checkpoint.unused.values()].reduce((sum, { bytes }) => sum + bytes, own);
}

interface StageParts {
  readonly start: Start<TokenizerConfig>;
  readonly vq: VqModel;
  readonly training: VqTraining;
  readonly loader: Loader<Picture>;
  readonly sources: readonly SourceIndex[];
  /** Steps done. */
  readonly step: number;
}

class TokenizerStage implements Stage<Picture, TokenizerStepEvent> {
  step: number;
  readonly loader: Loader<Picture>;
  readonly checkpointBytes: number;
  private readonly parts: StageParts;
  /** What trains, under its names in the model. */
  private readonly parameters: ReadonlyMap<string, Parameter>;

  constructor(parts: StageParts) {
    const { vq, training, loader, step, start } = parts;
    this.parts = parts;
    this.step = step;
    this.loader = loader;
    this.parameters = new Map([...vq.namedParameters()].map(([name, parameter]) => [PREFIX + name, parameter]));
    const files = Object.values(trained(training)).map(tensorFileBytes);
    this.checkpointBytes = files.reduce((sum, bytes) => sum + bytes, modelBytes(start.checkpoint, this.parameters));
  }

  async take(
    pictures: readonly Picture[],
    { started, waitingMs }: { readonly started: number; readonly waitingMs: number },
  ): Promise<TokenizerStepEvent> {
    const { training, start } = this.parts;
    const { config, device } = start;
    const lr = (training.lr = learningRate(config, this.step));
    training.isAdversarial = this.step >= config.adversarial.from;
    const report = await this.train(pictures);
    const ms = now() - started;
    const event: TokenizerStepEvent = {
      step: this.step++,
      ...report,
      lr,
      ms,
      waitingMs,
      imagesPerSecond: (config.batch * 1000) / ms,
      memoryBytes: device.pool.stats.reservedBytes,
    };
    if (this.step === config.steps && config.rateWeight > 0) training.retire(retiredAfter(config));
    return event;
  }

  /** A step on the images, a few at a time, followed by the update of unused codes if it is due. */
  private async train(
    pictures: readonly Picture[],
  ): Promise<Omit<VqStep, "losses" | "vectors"> & VqLosses & { readonly reseed?: VqUsage }> {
    const { training, start } = this.parts;
    const { every, until = Infinity } = start.config.reseed;
    const parts: Tensor[] = [];
    let taken: VqStep | null = null;
    try {
      await this.upload(pictures, parts);
      taken = await training.step(...parts);
      const { losses, vectors, cause, ...report } = taken;
      const isDue = every > 0 && (this.step + 1) % every === 0 && this.step < until && !report.skipped;
      const usage = isDue ? await training.reseed(vectors) : null;
      const isNamed = cause && "samples" in cause;
      const named = isNamed ? { ...cause, samples: cause.samples.map((i) => pictures[Number(i)]!.name) } : cause;
      return { ...losses, ...report, ...(named && { cause: named }), ...(usage && { reseed: usage }) };
    } finally {
      for (const one of [...parts, taken?.vectors]) one?.dispose();
    }
  }

  /** Pixels [microBatch, 3, S, S] each, added to `parts`. */
  private async upload(pictures: readonly Picture[], parts: Tensor[]): Promise<void> {
    const { device, config, checkpoint } = this.parts.start;
    const side = checkpoint.config.vq.imageSize;
    for (let from = 0; from < pictures.length; from += config.microBatch) {
      const some = pictures.slice(from, from + config.microBatch);
      const all = new Float32Array(some.length * 3 * side ** 2);
      for (const [i, { pixels }] of some.entries()) all.set(pixels, i * pixels.length);
      parts.push(tensor(all, { shape: [some.length, 3, side, side], device }));
      await device.throttle();
    }
  }

  skipOf(
    { step, cause, skipped, discriminatorSkipped }: TokenizerStepEvent,
    pictures: readonly Picture[],
  ): Skip | null {
    const skip = { step, samples: pictures.map(({ name }) => name), cause };
    if (skipped) return skipOf({ ...skip, what: "gradients were not finite" });
    if (!discriminatorSkipped) return null;
    return skipOf({ ...skip, what: "the discriminator's gradients were not finite", unchanged: "it was not changed" });
  }

  state(loader: LoaderState): TokenizerState {
    return { step: this.step, loader, training: this.parts.training.state };
  }

  async save(sink: FolderSink, newest: string): Promise<void> {
    const { sideFiles } = this.parts.start;
    const base = await openCheckpoint(folderSource(newest)); // older checkpoints may be gone by now
    try {
      await saveOver(base, this.parameters, sink, { sideFiles });
    } finally {
      await base.close();
    }
    for (const [name, tensors] of Object.entries(trained(this.parts.training))) await saveTensors(sink, name, tensors);
  }

  /** Reconstructs the first images of the data with the present tokenizer. */
  pictures({ at }: Due): (() => Promise<void>)[] | null {
    const { vq, sources, start } = this.parts;
    const { every, reconstructions } = start.config.report;
    if (!at(every)) return null;
    return [async () => saveReconstructions(vq, start.run, await firstPictures(sources, reconstructions))];
  }
}
