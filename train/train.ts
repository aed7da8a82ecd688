/**
 * A training run, from top to bottom: config, model, data, optimizer, the loop, and what happens once in a while. A run folder holds checkpoints
 * that are models by themselves (`janus generate --model run/step-…`) and go on bit for bit where they were saved.
 */
import { createHash } from "node:crypto";
import { basename, join } from "node:path";
import { ArgumentError, JanusError, now } from "../engine/index.ts";
import type { Device } from "../engine/index.ts";
import type { FileSource, FolderSink } from "../model/checkpoint/bytes.ts";
import { readWhole } from "../model/checkpoint/bytes.ts";
import { EMA_FILE, openCheckpoint } from "../model/checkpoint/checkpoint.ts";
import { isSideFile } from "../model/checkpoint/side_files.ts";
import { loadModel } from "../model/load.ts";
import { folderSource } from "../model/node/files.ts";
import { Janus } from "../model/pipeline.ts";
import { readProcessor } from "../model/processor.ts";
import { planSave, readUnused, saveModel } from "../model/save.ts";
import { checkConfig } from "./config.ts";
import type { TrainConfig } from "./config.ts";
import { CodeCache } from "./data/codes.ts";
import { Encoder } from "./data/encode.ts";
import { indexSource } from "./data/index_file.ts";
import type { SourceIndex } from "./data/index_file.ts";
import { Loader } from "./data/loader.ts";
import type { LoaderState } from "./data/loader.ts";
import { Quarantine } from "./data/quarantine.ts";
import type { SourceSpec } from "./data/sources.ts";
import { codesAbout, vqEncoder } from "./data/tokenizer.ts";
import type { StepEvent } from "./report/log.ts";
import { Recorder } from "./report/recorder.ts";
import { matmulCeiling } from "./report/speed.ts";
import { RunFolderError } from "./run/errors.ts";
import { nodeFileSystem } from "./run/file_system.ts";
import type { FileSystem } from "./run/file_system.ts";
import { loadTensorsInto, saveTensors, tensorFileBytes } from "./run/optimizer_file.ts";
import { RunFolder } from "./run/run_folder.ts";
import type { Task } from "./samples.ts";
import { Trainer } from "./trainer.ts";

/** Training cannot go on: steps whose gradients are not finite, one after the other. The last checkpoint is whole. */
export class TrainingError extends JanusError {}

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

const STATE = "state.json";
const OPTIMIZER = "optimizer.safetensors";
/** More than the files take that are made at each save: settings, state, manifest. */
const SMALL_FILES = 2 ** 20;
/** Steps in a row that are skipped before the run ends. */
const MOST_SKIPPED = 3;
/** Samples that a message names; the log has all. */
const MOST_NAMED = 8;
/** Settings that may be others when a run is resumed: they change when it ends and what it costs, not what it computes. */
const FREE: readonly string[] = [
  "save",
  "steps",
  "stopAt",
  "microRows",
  "recompute",
  "report",
] satisfies (keyof TrainConfig)[];

/** The settings that may not, by name. */
const boundSettings = (config: TrainConfig): Map<string, string> =>
  new Map(
    Object.entries(config)
      .filter(([key, value]) => !FREE.includes(key) && value !== undefined)
      .map(([key, value]) => [key, JSON.stringify(value)]),
  );

const configHash = (config: TrainConfig): string =>
  createHash("sha256")
    .update(JSON.stringify([...boundSettings(config)].sort(([a], [b]) => (a < b ? -1 : 1))))
    .digest("hex");

async function sideFilesOf(source: FileSource): Promise<Map<string, Uint8Array>> {
  const files = new Map<string, Uint8Array>();
  for (const name of await source.list()) {
    if (!isSideFile(name)) continue;
    const file = await source.open(name);
    try {
      files.set(name, await readWhole(file, 64 * 2 ** 20));
    } finally {
      await file.close?.();
    }
  }
  return files;
}

async function readState(folder: string, config: TrainConfig): Promise<RunState> {
  const file = await folderSource(folder).open(STATE);
  try {
    const state = JSON.parse(new TextDecoder().decode(await readWhole(file, 2 ** 20))) as RunState;
    const [now, before] = [boundSettings(config), boundSettings(checkConfig(state.config, `${folder}/${STATE}`))];
    const other = [...new Set([...now.keys(), ...before.keys()])].filter((key) => now.get(key) !== before.get(key));
    if (other.length)
      throw new ArgumentError(
        `${folder} was trained with other settings (${other.join(", ")}); resume with the same ones, or begin a new run from its model`,
      );
    return state;
  } finally {
    await file.close?.();
  }
}

/** What was not finite in a step that was skipped; steps are counted from 1, as checkpoints are. */
function skipText({ step, notFinite, lossScale }: StepEvent): string {
  const { tasks = [], samples = [] } = notFinite ?? {};
  const what = tasks.length ? `the loss of ${tasks.join(", ")} was not finite` : "gradients were not finite";
  const named = [...samples.slice(0, MOST_NAMED), ...(samples.length > MOST_NAMED ? [`${samples.length - MOST_NAMED} more`] : [])]; // prettier-ignore
  const scale = lossScale === undefined ? "" : `, the loss scale is ${lossScale} now`;
  return `step ${step + 1}: ${what} (${named.join(", ")}); nothing was changed${scale}`;
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
  const { newest, skipped: damaged } = await run.newestVerified(signal);
  const damage = damaged.map(({ path, problems }) => `${path} is damaged: ${problems.join("; ")}`);
  if (!newest && damage.length)
    throw new RunFolderError(
      `${run.path} has no checkpoint that is whole; mend one, or train in another folder:\n  ${damage.join("\n  ")}`,
    );
  for (const one of damage) onNotice(`${one}; it is passed over`);
  const folder = newest?.path ?? options.model;
  const source = folderSource(folder);
  const checkpoint = await openCheckpoint(source);
  const indexes: SourceIndex[] = [];
  const made: { dispose(): void }[] = [];
  let loader: Loader | null = null;
  let codes: CodeCache | null = null;
  let record: Recorder | null = null;
  try {
    const state = newest ? await readState(folder, config) : null;
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

    // The model.
    const ceiling = options.ceiling ?? (await matmulCeiling(device, config.dtype));
    const about = await codesAbout(checkpoint, false, config.dtype);
    const model = await loadModel(checkpoint, { device, dtype: config.dtype, ...signal });
    made.push(model);
    await checkpoint.close();
    const trainer = new Trainer(model, checkpoint.config, config, processor.tokenizer.specials.pad);
    made.unshift(trainer);

    // Its samples.
    codes = await CodeCache.open(options.cache, about);
    const encoder = new Encoder(processor, {
      seed: config.seed,
      codes: codes.source(vqEncoder(model.model.vqmodel, checkpoint.config.vq.imageSize)),
      drop: config.conditioningDropout,
      maxTokens: config.length,
    });
    const quarantine = new Quarantine({ file: join(run.path, "quarantine.jsonl") });
    const { seed, batch, ratios } = config;
    loader = new Loader(byTask, encoder, { seed, batch, ratios, quarantine }, state?.loader);

    // The optimizer, and where it was.
    const averages = trainer.optimizer.averages();
    if (state) {
      await loadTensorsInto(source, OPTIMIZER, trainer.optimizer.stateDict(), signal);
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
        await sink.write(STATE, new TextEncoder().encode(`${JSON.stringify(content, null, 2)}\n`));
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
    record = await Recorder.open({ run: run.path, config, device, ceiling, onNotice }, trainer.step, folder);
    const report = (isEnd: boolean): Promise<void> => {
      const janus = (): Janus =>
        new Janus(run.path, checkpoint.config, model, processor, `${run.path}, step ${trainer.step}`);
      return record!.report(janus, indexes, { isEnd, signal: stop });
    };

    // The loop.
    let last = newest?.path ?? null;
    let inARow = 0;
    let lossScale = Infinity;
    while (trainer.step < end && !stop?.aborted) {
      const started = now();
      const waited = loader.waitingMs;
      const loaded = await loader.next();
      const event = await record.step(() => trainer.take(loaded.samples), loaded.samples, {
        started,
        waitingMs: loader.waitingMs - waited,
      });
      loaderState = loaded.state;
      for (const [task, { tokens: n }] of Object.entries(event.tasks))
        tokens[task as Task] = (tokens[task as Task] ?? 0) + n;
      options.onStep?.(event);
      if (event.skipped) record.notice(skipText(event), "skip");
      // Gradients that left the range of f16 under a loss scale that could still fall are how that scale is found.
      const hasFallen = event.lossScale !== undefined && event.lossScale < lossScale;
      lossScale = event.lossScale ?? lossScale;
      const isSearch = event.skipped && !event.notFinite?.tasks.length && hasFallen;
      if (!isSearch) inARow = event.skipped ? inARow + 1 : 0;
      if (inARow >= MOST_SKIPPED)
        throw new TrainingError(
          `${skipText(event)}; ${inARow} steps in a row: the run ends. Lower the learning rate, or look at these samples`,
        );
      if (trainer.step % config.save.every === 0 || trainer.step === end) last = await save();
      if (trainer.step < end && !stop?.aborted) await report(false);
    }
    if (last === null || basename(last) !== basename(run.folder(trainer.step))) last = await save();
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
