/**
 * A training run, from top to bottom: config, model, data, optimizer, the loop, and what happens once in a while. A run folder holds checkpoints
 * that are models by themselves (`janus generate --model run/step-…`) and go on bit for bit where they were saved.
 */
import { basename, join } from "node:path";
import { now } from "../../engine/index.ts";
import type { Device } from "../../engine/index.ts";
import type { FolderSink } from "../../model/io/bytes.ts";
import { EMA_FILE, openCheckpoint } from "../../model/janus/checkpoint/checkpoint.ts";
import { loadModel } from "../../model/janus/load.ts";
import { folderSource } from "../../model/node/files.ts";
import { Janus } from "../../model/janus/pipeline.ts";
import { readProcessor } from "../../model/janus/processor.ts";
import { planSave, readUnused, saveModel } from "../../model/janus/save.ts";
import type { TrainConfig } from "../config.ts";
import { CodeCache } from "./data/codes.ts";
import { Encoder } from "./data/encode.ts";
import { indexSource } from "./data/index_file.ts";
import type { SourceIndex } from "./data/index_file.ts";
import { Loader, checkSources } from "./data/loader.ts";
import type { LoaderState } from "./data/loader.ts";
import { Quarantine } from "./data/quarantine.ts";
import type { SourceSpec } from "./data/sources.ts";
import { codesAbout, vqEncoder } from "../stage0/image_tokenizer.ts";
import type { StepEvent } from "./report/log.ts";
import { Recorder } from "./report/recorder.ts";
import { matmulCeiling } from "./report/speed.ts";
import { nodeFileSystem } from "./run/file_system.ts";
import type { FileSystem } from "./run/file_system.ts";
import { loadOptimizer, loadTensorsInto, saveTensors, tensorFileBytes } from "../optimizer_file.ts";
import { messageOf } from "./run/errors.ts";
import { RunFolder } from "./run/run_folder.ts";
import {
  OPTIMIZER,
  SMALL_FILES,
  STATE,
  configHash,
  newestOf,
  readState,
  sideFilesOf,
  stateFile,
} from "./run/run_state.ts";
import type { Task } from "../samples.ts";
import { SkipLimit, skipOf } from "../skips.ts";
import type { Skip } from "../skips.ts";
import { Trainer } from "../trainer.ts";

export interface RunOptions {
  /** Folder of the model to begin with; a run that is resumed begins with its own. */
  readonly model: string;
  /** Folder of the run; made where there is none. */
  readonly run: string;
  readonly config: TrainConfig;
  readonly sources: readonly SourceSpec[];
  /** Folder of indexes and image codes. */
  readonly cache: string;
  readonly device: Device;
  /** Is told of every step as `log.jsonl` has it. */
  readonly onStep?: (event: StepEvent) => void;
  readonly onNotice?: (message: string) => void;
  /** Ends the run after the step that is going on; what is done is saved. Before the first step the run throws its reason. */
  readonly stop?: AbortSignal;
  /** FLOP/s of the device that MFU is a part of; measured, for about a second, unless told. */
  readonly ceiling?: number;
  /** Of the run folder; that of this machine unless given. */
  readonly fileSystem?: FileSystem;
}

export interface RunResult {
  /** Steps that are done. */
  readonly steps: number;
  /** The last checkpoint. */
  readonly checkpoint: string;
  /** Stopped before its end. */
  readonly stopped: boolean;
}

/** What a checkpoint holds besides weights and moments; JSON. */
interface RunState {
  readonly step: number;
  readonly skipped: number;
  readonly loader: LoaderState;
  /** Trained tokens so far. */
  readonly tokens: Readonly<Partial<Record<Task, number>>>;
  readonly config: Omit<TrainConfig, "report">;
  /** SHA-256 in hex of those settings that a run that is resumed must have. */
  readonly configHash: string;
}

/** What is said of a step that was skipped. */
function skipOfStep({ step, notFinite, cause, lossScale }: StepEvent, { lossScaling }: TrainConfig): Skip {
  const { tasks = [], samples = [] } = notFinite ?? {};
  const what = tasks.length ? `the loss of ${tasks.join(", ")} was not finite` : "gradients were not finite";
  const unchanged = `nothing was changed${lossScale === undefined ? "" : `, the loss scale is ${lossScale} now`}`;
  const before = lossScale !== undefined && lossScale > 1 ? lossScale / lossScaling.backoffFactor : undefined; // it stops at 1
  return skipOf({ step, what, samples, cause, lossScale: before, unchanged });
}

/**
 * Runs the training to its end, or until `stop`. Throws what readers, sources and devices throw, before the first step where it can: also `FileError`
 * (ENOSPC) where the disk has no room for a checkpoint. A save that fails (`SaveError`: a disk that has become full, an I/O error) ends the run; it
 * goes on from the checkpoint before.
 */
export async function train(options: RunOptions): Promise<RunResult> {
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
  let loader: Loader | null = null;
  let codes: CodeCache | null = null;
  let record: Recorder | null = null;
  try {
    const state = newest ? ((await readState(newest, config)) as RunState) : null;
    const processor = await readProcessor(source, checkpoint.config);
    const sideFiles = await sideFilesOf(source);
    const unused = await readUnused(checkpoint);

    // The data, before what takes longer.
    const byTask: Partial<Record<Task, SourceIndex[]>> = {};
    for (const spec of options.sources) {
      const index = await indexSource(spec, options.cache, signal);
      indexes.push(index);
      (byTask[index.task] ??= []).push(index);
    }
    checkSources(byTask, config.ratios);

    // The model.
    const ceiling = options.ceiling ?? (await matmulCeiling(device, config.dtype));
    const about = await codesAbout(checkpoint, config.data.plain, config.dtype);
    const model = await loadModel(checkpoint, { device, dtype: config.dtype, onNotice, ...signal });
    made.push(model);
    await checkpoint.close();
    const trainer = new Trainer(model, checkpoint.config, config, processor.tokenizer.specials.pad);
    made.unshift(trainer);

    // Its samples.
    codes = await CodeCache.open(options.cache, about);
    const { truncate, system, plain } = config.data;
    const encoder = new Encoder(processor, {
      seed: config.seed,
      truncate,
      pictures: { plain },
      ...(system !== undefined && { system }),
      codes: codes.source(vqEncoder(model.model.vqmodel, checkpoint.config.vq.imageSize)),
      drop: config.conditioningDropout,
      maxTokens: Math.min(config.length, checkpoint.config.language.maxPositions),
    });
    const quarantine = new Quarantine({
      file: join(run.path, "quarantine.jsonl"),
      ...config.bad,
      settings: "bad.share, bad.least",
    });
    const { seed, batch, ratios } = config;
    loader = new Loader(byTask, encoder, { seed, batch, ratios, quarantine }, state?.loader);

    // The optimizer, and where it was.
    const averages = trainer.optimizer.averages();
    if (state) {
      await loadOptimizer(source, OPTIMIZER, trainer.optimizer, signal);
      if (config.ema) await loadTensorsInto(source, EMA_FILE, averages, signal);
      trainer.resume(state.step, state.skipped);
    }
    const tokens: Partial<Record<Task, number>> = { ...state?.tokens };
    let loaderState = loader.state;
    const extras = { sideFiles, unused };
    const checkpointBytes =
      (await planSave(model, checkpoint.config, extras)).bytes +
      tensorFileBytes(trainer.optimizer.stateDict()) +
      (config.ema ? tensorFileBytes(averages) : 0) +
      [...sideFiles.values()].reduce((sum, { length }) => sum + length, SMALL_FILES);
    const save = async (): Promise<string> => {
      const step = trainer.step;
      const { report: _report, ...trained } = config;
      const content: RunState = {
        step,
        skipped: trainer.skipped,
        loader: loaderState,
        tokens,
        config: trained,
        configHash: configHash(config),
      };
      const fill = async (sink: FolderSink): Promise<void> => {
        await saveModel(model, checkpoint.config, sink, extras);
        await saveTensors(sink, OPTIMIZER, trainer.optimizer.stateDict());
        if (config.ema) await saveTensors(sink, EMA_FILE, averages);
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
    if (trainer.step < end) await run.requireRoom(checkpointBytes);
    record = new Recorder({ run: run.path, config, device, ceiling, onNotice }, trainer.step);
    await record.begin(folder);
    const report = (isEnd: boolean): Promise<void> => {
      const janus = (): Janus =>
        new Janus(run.path, checkpoint.config, model, processor, `${run.path}, step ${trainer.step}`);
      return record!.report(janus, indexes, { isEnd, signal: stop });
    };

    // The loop.
    let last = newest;
    const isSaved = (): boolean => last !== null && basename(last) === basename(run.folder(trainer.step));
    const skips = new SkipLimit();
    let lossScale = Infinity;
    while (trainer.step < end && !stop?.aborted) {
      const started = now();
      const waited = loader.waitingMs;
      const loaded = await loader.next().catch(async (error: unknown) => {
        // What is done is kept. Where that fails too, the error of the data is the one to throw.
        if (trainer.step > 0 && !isSaved())
          await save().catch((problem: unknown) => record!.notice(`not saved: ${messageOf(problem)}`));
        throw error;
      });
      const event = await record.step(() => trainer.take(loaded.samples), loaded.samples, {
        started,
        waitingMs: loader.waitingMs - waited,
      });
      loaderState = loaded.state;
      if (!event.skipped)
        for (const [task, { tokens: n }] of Object.entries(event.tasks))
          tokens[task as Task] = (tokens[task as Task] ?? 0) + n;
      options.onStep?.(event);
      const skipped = event.skipped ? skipOfStep(event, config) : null;
      if (skipped) record.notice(skipped.text, "skip");
      // Gradients that left the range of f16 under a loss scale that could still fall are how that scale is found.
      const hasFallen = event.lossScale !== undefined && event.lossScale < lossScale;
      lossScale = event.lossScale ?? lossScale;
      const isSearch = event.skipped && !event.notFinite?.tasks.length && hasFallen;
      if (!isSearch) skips.count(skipped);
      if (trainer.step % config.save.every === 0 || trainer.step === end) last = await save();
      if (trainer.step < end && !stop?.aborted) await report(false);
    }
    if (!last || !isSaved()) last = await save();
    const stopped = trainer.step < end;
    record.event(stopped ? "stop" : "end", `${trainer.step} steps are done`);
    await report(true);
    return { steps: trainer.step, checkpoint: last, stopped };
  } catch (error) {
    await record?.failed(error);
    throw error;
  } finally {
    await loader?.dispose();
    await codes?.close();
    for (const index of indexes) await index.close();
    for (const one of made) one.dispose();
    await checkpoint.close();
  }
}
