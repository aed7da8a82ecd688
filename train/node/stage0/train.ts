/**
 * A run of stage 0, from top to bottom: the image tokenizer of a model trains alone on pictures. Its checkpoints are whole models, whose other
 * weights are those of the model to begin with, byte by byte; they go on bit for bit where they were saved. Stages 1 to 3 are train.ts.
 */
import { basename, join } from "node:path";
import { now, tensor } from "../../../engine/index.ts";
import type { Device, Tensor } from "../../../engine/index.ts";
import type { FolderSink } from "../../../model/io/bytes.ts";
import { openCheckpoint } from "../../../model/janus/checkpoint/checkpoint.ts";
import { folderSource } from "../../../model/node/files.ts";
import { saveOver } from "../../../model/janus/save.ts";
import { learningRate } from "../../config.ts";
import type { TokenizerConfig } from "../../config.ts";
import { SourceError } from "../../data/errors.ts";
import { indexSource } from "../data/index_file.ts";
import type { SourceIndex } from "../data/index_file.ts";
import { Loader } from "../data/loader.ts";
import type { LoaderState } from "../data/loader.ts";
import { PictureEncoder } from "./pictures.ts";
import type { Picture } from "./pictures.ts";
import { Quarantine } from "../data/quarantine.ts";
import { PREFIX, loadTokenizer } from "../../stage0/image_tokenizer.ts";
import { requireJudged } from "../../stage0/discriminator.ts";
import type { TokenizerStepEvent } from "../report/log.ts";
import { TokenizerRecorder } from "../report/recorder.ts";
import { nodeFileSystem } from "../run/file_system.ts";
import { loadOptimizer, saveTensors, tensorFileBytes } from "../../optimizer_file.ts";
import { messageOf } from "../run/errors.ts";
import { RunFolder } from "../run/run_folder.ts";
import {
  DISCRIMINATOR,
  OPTIMIZER,
  SMALL_FILES,
  STATE,
  configHash,
  newestOf,
  readState,
  sideFilesOf,
  stateFile,
} from "../run/run_state.ts";
import type { Task } from "../../samples.ts";
import { SkipLimit, skipOf } from "../../skips.ts";
import type { RunOptions, RunResult } from "../train.ts";
import { VqTraining, vqOptions } from "../../stage0/trainer.ts";
import type { VqLosses, VqStep, VqTrainingState, VqUsage } from "../../stage0/trainer.ts";

/** Steps without use that take a code out at the end of a run with a rate weight: those since codes were last moved, up to 200. */
const retiredAfter = ({ steps, reseed: { every, until = steps } }: TokenizerConfig): number =>
  every > 0 ? Math.max(every, Math.min(200, steps - until)) : 200;

export interface TokenizerRunOptions extends Omit<RunOptions, "config" | "onStep" | "ceiling"> {
  readonly config: TokenizerConfig;
  /** Is told of every step as `log.jsonl` has it. */
  readonly onStep?: (event: TokenizerStepEvent) => void;
}

/** What a checkpoint holds besides weights and moments; JSON. */
interface TokenizerState {
  readonly step: number;
  readonly loader: LoaderState;
  readonly training: VqTrainingState;
  readonly config: Omit<TokenizerConfig, "report">;
  readonly configHash: string;
}

/** Runs the training to its end, or until `stop`. Throws as `train` does, and `SourceError` for a source without pictures. */
export async function trainTokenizer(options: TokenizerRunOptions): Promise<RunResult> {
  const { config, device, onNotice = () => undefined, stop } = options;
  const { fileSystem = nodeFileSystem } = options;
  await using run = await RunFolder.open(options.run, { create: true, onNotice, fileSystem });

  // Where it begins: at the newest checkpoint that verifies, else at the model given.
  const signal = stop ? { signal: stop } : {};
  const newest = await newestOf(run, { onNotice, ...signal });
  const folder = newest ?? options.model;
  const source = folderSource(folder);
  const checkpoint = await openCheckpoint(source);
  const indexes: SourceIndex[] = [];
  const made: { dispose(): void }[] = [];
  let loader: Loader<Picture> | null = null;
  let record: TokenizerRecorder | null = null;
  try {
    const state = newest ? ((await readState(newest, config)) as TokenizerState) : null;
    const sideFiles = await sideFilesOf(source);
    const { imageSize } = checkpoint.config.vq;
    const { seed, batch, rateWeight, adversarial } = config;
    if (adversarial.weight > 0) requireJudged(imageSize);

    // The data: all pictures alike, so each task has the share of its records.
    for (const spec of options.sources) indexes.push(await indexSource(spec, options.cache, signal));
    const texts = indexes.find(({ task }) => task === "text");
    if (texts)
      throw new SourceError(
        `${texts.spec.path} is a source of texts, and stage 0 trains on pictures: give pairs, folders of classes, or conversations about pictures`,
      );
    const of = (task: Task): SourceIndex[] => indexes.filter((index) => index.task === task);
    const count = (task: Task): number => of(task).reduce((sum, index) => sum + index.count, 0);
    const quarantine = new Quarantine({
      file: join(run.path, "quarantine.jsonl"),
      ...config.bad,
      settings: "bad.share, bad.least",
    });
    loader = new Loader(
      { und: of("und"), gen: of("gen") },
      new PictureEncoder(imageSize),
      { seed, batch, ratios: { und: count("und"), text: 0, gen: count("gen") }, quarantine },
      state?.loader,
    );

    // The tokenizer; the rest of the model stays on the disk.
    const vq = await loadTokenizer(checkpoint, device, config.dtype);
    made.push(vq);
    const training = new VqTraining(vq, vqOptions(config));
    made.unshift(training);
    const parameters = new Map([...vq.namedParameters()].map(([name, parameter]) => [PREFIX + name, parameter]));
    await checkpoint.close();

    // The optimizer, and where it was.
    if (state) {
      const { optimizer, adversary } = training;
      for (const [name, tensors] of Object.entries(trained(training)))
        await loadOptimizer(source, name, name === OPTIMIZER ? optimizer : adversary!.optimizer, {
          tensors,
          ...signal,
        });
      training.resume(state.training);
    }
    let step = state?.step ?? 0;
    let last = newest;
    let loaderState = loader.state;
    const carried = [...checkpoint.parameters].filter(([name]) => !parameters.has(name)).map(([, weight]) => weight);
    const checkpointBytes =
      [...carried, ...checkpoint.unused.values()].reduce((sum, { bytes }) => sum + bytes, 4 * vq.parameterCount()) +
      Object.values(trained(training)).reduce((sum, tensors) => sum + tensorFileBytes(tensors), 0) +
      [...sideFiles.values()].reduce((sum, { length }) => sum + length, SMALL_FILES);
    const save = async (): Promise<string> => {
      const { report: _report, ...settings } = config;
      const content: TokenizerState = {
        step,
        loader: loaderState,
        training: training.state,
        config: settings,
        configHash: configHash(config),
      };
      const fill = async (sink: FolderSink): Promise<void> => {
        const base = await openCheckpoint(folderSource(last ?? folder)); // the newest: older ones may be gone by now
        try {
          await saveOver(base, parameters, sink, { sideFiles });
        } finally {
          await base.close();
        }
        for (const [name, tensors] of Object.entries(trained(training))) await saveTensors(sink, name, tensors);
        await sink.write(STATE, stateFile(content));
      };
      const { every: _, keep, keepEvery } = config.save;
      const saved = await run.save(step, fill, { last: keep, ...(keepEvery && { every: keepEvery }) }, checkpointBytes);
      record?.event("save", basename(saved.path));
      if (saved.pruneProblem) record?.notice(saved.pruneProblem.message);
      return saved.path;
    };
    stop?.throwIfAborted();
    const end = Math.min(config.steps, config.stopAt ?? config.steps);
    if (step < end) await run.requireRoom(checkpointBytes);
    record = new TokenizerRecorder({ run: run.path, config, onNotice }, step);
    await record.begin(folder);

    // The loop.
    const isSaved = (): boolean => last !== null && basename(last) === basename(run.folder(step));
    const skips = new SkipLimit();
    while (step < end && !stop?.aborted) {
      const started = now();
      const waited = loader.waitingMs;
      const loaded = await loader.next().catch(async (error: unknown) => {
        if (step > 0 && !isSaved())
          // as in train
          await save().catch((problem: unknown) => record!.notice(`not saved: ${messageOf(problem)}`));
        throw error;
      });
      const waitingMs = loader.waitingMs - waited;
      const rate = (training.lr = learningRate(config, step));
      training.isAdversarial = step >= adversarial.from;
      const report = await takeStep(training, loaded.samples, config, imageSize, step, device);
      loaderState = loaded.state;
      const ms = now() - started;
      const event: TokenizerStepEvent = {
        step: step++,
        ...report,
        lr: rate,
        ms,
        waitingMs,
        imagesPerSecond: (batch * 1000) / ms,
        memoryBytes: device.pool.stats.reservedBytes,
      };
      await record.line(event);
      options.onStep?.(event);
      const names = loaded.samples.map(({ name }) => name);
      const { cause } = event;
      const skip = { step: event.step, samples: names, cause };
      const skipped = event.skipped
        ? skipOf({ ...skip, what: "gradients were not finite" })
        : event.discriminatorSkipped
          ? skipOf({ ...skip, what: "the discriminator's gradients were not finite", unchanged: "it was not changed" })
          : null;
      if (skipped) record.notice(skipped.text, "skip");
      skips.count(skipped);
      if (step === config.steps && rateWeight > 0) training.retire(retiredAfter(config));
      if (step % config.save.every === 0 || step === end) last = await save();
      if (step < end && !stop?.aborted) await record.report(vq, indexes, { isEnd: false, signal: stop });
    }
    if (!last || !isSaved()) last = await save();
    const stopped = step < end;
    record.event(stopped ? "stop" : "end", `${step} steps are done`);
    await record.report(vq, indexes, { isEnd: true });
    return { steps: step, checkpoint: last, stopped };
  } catch (error) {
    await record?.failed(error);
    throw error;
  } finally {
    await loader?.dispose();
    for (const index of indexes) await index.close();
    for (const one of made) one.dispose();
    await checkpoint.close();
  }
}

/** What a checkpoint holds besides the model, by file. */
const trained = ({ optimizer, adversary }: VqTraining): Record<string, Record<string, Tensor>> => ({
  [OPTIMIZER]: optimizer.stateDict(),
  ...(adversary && { [DISCRIMINATOR]: adversary.stateDict() }),
});

/** A step on the pictures, a few at a time, and behind it the look at the codes where that is due. */
async function takeStep(
  training: VqTraining,
  pictures: readonly Picture[],
  { microBatch, reseed: { every, until = Infinity } }: TokenizerConfig,
  side: number,
  step: number,
  device: Device,
): Promise<Omit<VqStep, "losses" | "vectors"> & VqLosses & { readonly reseed?: VqUsage }> {
  const parts: Tensor[] = [];
  let taken: VqStep | null = null;
  try {
    for (let from = 0; from < pictures.length; from += microBatch) {
      const some = pictures.slice(from, from + microBatch);
      const all = new Float32Array(some.length * 3 * side ** 2);
      for (const [i, { pixels }] of some.entries()) all.set(pixels, i * pixels.length);
      parts.push(tensor(all, { shape: [some.length, 3, side, side], device }));
      await device.throttle();
    }
    taken = await training.step(...parts);
    const { losses, vectors, cause, ...report } = taken;
    const isDue = every > 0 && (step + 1) % every === 0 && step < until && !report.skipped;
    const usage = isDue ? await training.reseed(vectors) : null;
    const named =
      cause && "samples" in cause ? { ...cause, samples: cause.samples.map((i) => pictures[Number(i)]!.name) } : cause;
    return { ...losses, ...report, ...(named && { cause: named }), ...(usage && { reseed: usage }) };
  } finally {
    for (const one of [...parts, taken?.vectors]) one?.dispose();
  }
}
