/**
 * The loop of every training run: its start, the step, and periodic work. What a step computes, and what a checkpoint
 * contains besides, is the stage's (train.ts for stages 1 to 3, stage0/train.ts). Checkpoints are complete models
 * (`janus generate --model run/step-…`), and a run resumes from them bit for bit.
 */
import { createHash } from "node:crypto";
import { basename, join } from "node:path";
import { now, optionNames } from "../../engine/index.ts";
import type { Device } from "../../engine/index.ts";
import { readWhole } from "../../model/io/bytes.ts";
import type { FileSource, FolderSink } from "../../model/io/bytes.ts";
import { openCheckpoint } from "../../model/janus/checkpoint/checkpoint.ts";
import type { Checkpoint } from "../../model/janus/checkpoint/checkpoint.ts";
import { fingerprint } from "../../model/janus/load.ts";
import { folderSource } from "../../model/node/files.ts";
import type { TokenizerConfig, TrainConfig } from "../config.ts";
import { requireSame } from "../rank_group.ts";
import { ONE_PROCESS, firstRankFirst } from "../ranks.ts";
import type { Ranks } from "../ranks.ts";
import { SkipLimit } from "../skips.ts";
import type { Skip } from "../skips.ts";
import { indexSource, noticesOf, requireKnownFields } from "./data/index_file.ts";
import type { SourceIndex } from "./data/index_file.ts";
import type { Loader, LoaderState } from "./data/loader.ts";
import { Quarantine } from "./data/quarantine.ts";
import { expandShards } from "./data/shards.ts";
import type { SourceSpec } from "./data/sources.ts";
import { Journal } from "./report/journal.ts";
import type { Due } from "./report/journal.ts";
import type { LogLine } from "./report/log.ts";
import { cancelFill, fillTogether, followFill } from "./run/divided_save.ts";
import { nodeFileSystem } from "./run/file_system.ts";
import type { FileSystem } from "./run/file_system.ts";
import { MANIFEST, MAX_MANIFEST } from "./run/manifest.ts";
import { RunFolder } from "./run/run_folder.ts";
import type { Saved } from "./run/run_folder.ts";
import type { StagedFolder } from "./run/staged_folder.ts";
import { SMALL_FILES, STATE, configHash, newestOf, readState, sideFilesOf, stateFile } from "./run/run_state.ts";
import { messageOf } from "../../engine/errors.ts";

type AnyConfig = TrainConfig | TokenizerConfig;

export interface LoopOptions<Config extends AnyConfig, Event> {
  /** Folder of the model to begin with; a run that is resumed begins with its own. */
  readonly model: string;
  /** Folder of the run; created if needed. */
  readonly run: string;
  readonly config: Config;
  readonly sources: readonly SourceSpec[];
  /** Folder of indexes and image codes. */
  readonly cache: string;
  readonly device: Device;
  /** Called for every step, with its line of `log.jsonl`. */
  readonly onStep?: (event: Event) => void;
  readonly onNotice?: (message: string) => void;
  /** Ends the run after the current step, and saves. Before the first step, the run throws the reason. */
  readonly stop?: AbortSignal;
  /** File system of the run folder (default: that of this machine). */
  readonly fileSystem?: FileSystem;
  /** The processes that train together; each is given the same options (default: this one alone). */
  readonly ranks?: Ranks;
}

/** Names of `LoopOptions`. */
export const LOOP_OPTIONS = optionNames<LoopOptions<AnyConfig, unknown>>({
  model: true,
  run: true,
  config: true,
  sources: true,
  cache: true,
  device: true,
  onStep: true,
  onNotice: true,
  stop: true,
  fileSystem: true,
  ranks: true,
});

export interface RunResult {
  /** Steps that are done. */
  readonly steps: number;
  /** The last checkpoint. */
  readonly checkpoint: string;
  /** Stopped before its end. */
  readonly stopped: boolean;
}

/** Results of a step of any stage. */
export type LoopEvent = LogLine & { readonly step: number };

/** Inputs for loading a stage. */
export interface Start<Config extends AnyConfig> {
  readonly config: Config;
  readonly device: Device;
  readonly ranks: Ranks;
  /** Folders of the run and of the cache. */
  readonly run: string;
  readonly cache: string;
  /** The files of the model: the newest checkpoint of the run, else the model to begin with; with adapters always that. */
  readonly source: FileSource;
  /** The files of the model to begin with, in a run that is resumed too. */
  readonly base: FileSource;
  /** The newest checkpoint of the run; null in a new run. */
  readonly resumed: FileSource | null;
  readonly checkpoint: Checkpoint;
  /** Result of `Stage.state` at the newest checkpoint; null in a new run. */
  readonly state: unknown;
  readonly sideFiles: ReadonlyMap<string, Uint8Array>;
  readonly quarantine: Quarantine;
  readonly onNotice: (message: string) => void;
  /** To be spread into the options of what may be stopped while it loads. */
  readonly signal: { readonly signal?: AbortSignal };
  /** Opens the sources of the data; they are closed when the run ends. */
  readonly openSources: () => Promise<SourceIndex[]>;
  /** Calls `release` when the run ends, however it ends; what was added last goes first. */
  readonly atEnd: (release: () => void | Promise<void>) => void;
}

/** A stage of training, loaded: its samples, its step, and its part of a checkpoint. */
export interface Stage<Sample, Event extends LoopEvent> {
  readonly loader: Pick<Loader<Sample>, "next" | "state" | "waitingMs">;
  /** Steps done. */
  readonly step: number;
  /** Bytes of a checkpoint, without side files and what the loop adds. */
  readonly checkpointBytes: number;
  /** Takes a step; `timing` is when it began and how long it waited for samples, ms. */
  take(samples: readonly Sample[], timing: { readonly started: number; readonly waitingMs: number }): Promise<Event>;
  /** Returns the message for a step that was skipped completely or in part; null for any other. */
  skipOf(event: Event, samples: readonly Sample[]): Skip | null;
  /** State for resuming, besides weights, moments and the state of the data, in the order of the file; JSON. */
  state(loader: LoaderState): object;
  /**
   * Writes weights and moments; `sink` takes this rank's share of the files. All ranks call it. `newest` is the folder of the last checkpoint, else of the model
   * that the run began with.
   */
  save(sink: FolderSink, newest: string): Promise<void>;
  /** Makers of the images that the page shows; null if no page is due. */
  pictures(due: Due): readonly (() => Promise<void>)[] | null;
  /** Whether `pictures` computes with weights that are divided among ranks. The same in all of them. */
  needsWeights?(due: Pick<Due, "at">): boolean;
  /** Runs `work` with these weights whole. All ranks call it. */
  whole?<T>(work: () => Promise<T>): Promise<T>;
}

export type LoadStage<Sample, Event extends LoopEvent, Config extends AnyConfig> = (
  start: Start<Config>,
) => Promise<Stage<Sample, Event>>;

/**
 * Runs a stage to its end, or until `stop`. Throws what readers, sources and devices throw, before the first step if it can: also `FileError`
 * (ENOSPC) if the disk has no room for a checkpoint. A save that fails (`SaveError`: a disk that has become full, an I/O error) ends the run; it
 * resumes from the checkpoint before.
 */
export async function runLoop<Sample, Event extends LoopEvent, Config extends AnyConfig>(
  options: LoopOptions<Config, Event>,
  load: LoadStage<Sample, Event, Config>,
): Promise<RunResult> {
  const { onNotice = () => undefined, fileSystem = nodeFileSystem, stop, ranks = ONE_PROCESS } = options;
  const signal = stop ? { signal: stop } : {};
  await using folder = await firstRankFirst(ranks, () =>
    RunFolder.open(options.run, { create: true, onNotice, fileSystem, isFollower: ranks.rank > 0, ...signal }),
  );
  const releases: (() => void | Promise<void>)[] = [];
  let run: Run<Sample, Event> | null = null;
  try {
    // Once.
    const newest = await ranks.once(() => newestOf(folder, { onNotice, ...signal }));
    const start = await startOf(options, folder, { ranks, newest, atEnd: (release) => void releases.push(release) });
    if (ranks.size > 1) await requireSame(ranks, { ...settingsByName(options.config), ...(await filesOf(start)) });
    const stage = await load(start);
    stop?.throwIfAborted();
    const ready = new Run(options, { folder, stage, ranks, newest, sideFiles: start.sideFiles });
    await requireSame(ranks, ready.identity);
    await ready.requireRoom();
    run = ready;
    await run.begin();
    if (!run.hasSteps) onNotice(run.finished);
    while (run.hasSteps && !(await run.isStopped())) {
      await run.step();
      // Once in a while.
      if (run.isSaveDue) await run.save();
      if (run.hasSteps && !(await run.isStopped())) await run.report();
    }
    // At the end.
    return await run.end();
  } catch (error) {
    await run?.failed(error);
    throw error;
  } finally {
    for (const release of releases.reverse()) await release();
  }
}

/** Opens the start of the run: the newest checkpoint that verifies, else the model given. */
async function startOf<Config extends AnyConfig>(
  options: LoopOptions<Config, never>,
  folder: RunFolder,
  { ranks, newest, atEnd }: Pick<Start<Config>, "ranks" | "atEnd"> & { readonly newest: string | null },
): Promise<Start<Config>> {
  const { config, device, cache, stop, onNotice = () => undefined } = options;
  const signal = stop ? { signal: stop } : {};
  const hasAdapter = "lora" in config && config.lora !== undefined; // whose checkpoints are no models
  const source = folderSource((hasAdapter ? null : newest) ?? options.model);
  const checkpoint = await openCheckpoint(source);
  atEnd(() => checkpoint.close());
  checkpoint.requireUnquantized("train");
  checkpoint.requireWhole("train");
  const state = newest ? await readState(newest, config) : null;
  const file = ranks.rank === 0 ? { file: join(folder.path, "quarantine.jsonl") } : {};
  return {
    config,
    device,
    ranks,
    run: folder.path,
    cache,
    source,
    base: folderSource(options.model),
    resumed: newest === null ? null : folderSource(newest),
    checkpoint,
    state,
    onNotice,
    signal,
    atEnd,
    sideFiles: hasAdapter ? new Map() : await sideFilesOf(source),
    quarantine: new Quarantine({ ...file, ...config.bad, settings: "bad.share, bad.least" }),
    openSources: async () => {
      const indexes: SourceIndex[] = [];
      atEnd(async () => {
        for (const index of indexes) await index.close();
      });
      const { fields } = config.data ?? {};
      for (const spec of expandShards(options.sources.map((source) => ({ ...(fields && { fields }), ...source }))))
        indexes.push(await firstRankFirst(ranks, () => indexSource(spec, cache, { ...signal, onNotice })));
      requireKnownFields(indexes);
      for (const notice of indexes.flatMap(noticesOf)) onNotice(notice);
      return indexes;
    },
  };
}

/** All settings, also those that do not change what is computed: when to save decides which messages are sent. */
function settingsByName(value: unknown, name = "settings"): Record<string, string> {
  if (typeof value !== "object" || value === null || Array.isArray(value))
    return { [name]: JSON.stringify(value) ?? "none" };
  return Object.assign({}, ...Object.entries(value).map(([key, one]) => settingsByName(one, `${name}.${key}`))) as Record<string, string>; // prettier-ignore
}

/** Hashes of the files that the run starts from. */
async function filesOf({ checkpoint, resumed, sideFiles }: Start<AnyConfig>): Promise<Record<string, string>> {
  const hash = createHash("sha256");
  for (const [name, bytes] of sideFiles) hash.update(`${name} ${bytes.length}\n`).update(bytes);
  return {
    model: (await fingerprint(checkpoint)).slice(0, 16),
    "files beside the model": hash.digest("hex").slice(0, 16),
    checkpoint: resumed ? await manifestHash(resumed) : "none",
  };
}

async function manifestHash(folder: FileSource): Promise<string> {
  const file = await folder.open(MANIFEST);
  try {
    return createHash("sha256").update(await readWhole(file, MAX_MANIFEST)).digest("hex").slice(0, 16); // prettier-ignore
  } finally {
    await file.close?.();
  }
}

interface RunParts<Sample, Event extends LoopEvent> {
  readonly folder: RunFolder;
  readonly stage: Stage<Sample, Event>;
  readonly ranks: Ranks;
  /** The checkpoint that the run resumes from. */
  readonly newest: string | null;
  readonly sideFiles: ReadonlyMap<string, Uint8Array>;
}

/** A running training: a stage, its run folder, and its logs and reports. */
class Run<Sample, Event extends LoopEvent> {
  private readonly options: LoopOptions<AnyConfig, Event>;
  private readonly parts: RunParts<Sample, Event>;
  private readonly journal: Journal;
  private readonly skips = new SkipLimit();
  /** Steps done when the run ends. */
  private readonly lastStep: number;
  /** Bytes of a checkpoint. */
  private readonly bytes: number;
  /** State of the data after the last step. */
  private loaderState: LoaderState;
  /** The newest checkpoint. */
  private newest: string | null;

  constructor(options: LoopOptions<AnyConfig, Event>, parts: RunParts<Sample, Event>) {
    const { config, onNotice = () => undefined } = options;
    const { folder, stage, newest, sideFiles } = parts;
    this.options = options;
    this.parts = parts;
    this.journal = new Journal({ run: folder.path, config, onNotice }, stage.step);
    this.lastStep = Math.min(config.steps, config.stopAt ?? config.steps);
    this.bytes = [...sideFiles.values()].reduce((sum, { length }) => sum + length, SMALL_FILES + stage.checkpointBytes);
    this.loaderState = stage.loader.state;
    this.newest = newest;
  }

  get hasSteps(): boolean {
    return this.parts.stage.step < this.lastStep;
  }

  /** Returns the message for a run that has no steps left. */
  get finished(): string {
    const { folder, stage } = this.parts;
    return `${folder.path}: all ${this.lastStep} steps are done already (${stage.step} in its newest checkpoint), and none is trained. To train more, raise steps or stopAt, or name another run folder`;
  }

  get isSaveDue(): boolean {
    // A step that was stopped while bad samples came leaves the number of one that is saved.
    return !this.isSaved && (this.parts.stage.step % this.options.config.save.every === 0 || !this.hasSteps);
  }

  private get isSaved(): boolean {
    const { folder, stage } = this.parts;
    return this.newest !== null && basename(this.newest) === basename(folder.folder(stage.step));
  }

  /** The folder of the newest weights. */
  private get from(): string {
    return this.newest ?? this.options.model;
  }

  /** Throws `FileError` if there are steps to take and the disk has no room for a checkpoint. */
  async requireRoom(): Promise<void> {
    const { ranks, folder } = this.parts;
    if (this.hasSteps) await ranks.once(() => folder.requireRoom(this.bytes));
  }

  /** Where in its data and steps the run is, on which all processes must agree. */
  get identity(): Readonly<Record<string, string | number>> {
    const { step, data } = this.loaderState;
    return { "step of the run": this.parts.stage.step, data, "step of the data": step };
  }

  /** Whether any process was told to stop. */
  async isStopped(): Promise<boolean> {
    return (await this.parts.ranks.gather(this.options.stop?.aborted ?? false)).includes(true);
  }

  begin(): Promise<void> {
    return this.parts.ranks.once(() => this.journal.begin(this.from));
  }

  async step(): Promise<void> {
    const { stage, ranks } = this.parts;
    const started = now();
    const waited = stage.loader.waitingMs;
    // All processes leave at the same step: a signal that came to one of them must not end its wait for samples.
    const stop = ranks.size === 1 ? this.options.stop : undefined;
    const loaded = await stage.loader.next(stop).catch((error: unknown) => this.dataFailed(error));
    if (!loaded) return; // stopped while bad samples came
    const { samples, state } = loaded;
    const event = await stage.take(samples, { started, waitingMs: stage.loader.waitingMs - waited });
    this.loaderState = state;
    await ranks.once(() => this.journal.line(event));
    this.options.onStep?.(event);
    const skip = stage.skipOf(event, samples);
    if (skip) await ranks.once(async () => this.journal.notice(skip.text, "skip"));
    if (!skip?.isSearch) this.skips.count(skip);
  }

  /** Saves, and throws the error of the data, even if the save fails. Returns null if the run was stopped and has steps to save. */
  private async dataFailed(error: unknown): Promise<null> {
    const { stop } = this.options;
    if (stop?.aborted && error === stop.reason && this.parts.stage.step > 0) return null;
    const isKept = this.parts.stage.step === 0 || this.isSaved || this.parts.ranks.size > 1;
    if (!isKept) await this.save().catch((problem: unknown) => this.journal.notice(`not saved: ${messageOf(problem)}`));
    throw error;
  }

  async save(): Promise<void> {
    const { stage, ranks, folder } = this.parts;
    const { report: _report, ...settings } = this.options.config;
    const { keep, keepEvery } = settings.save;
    const content = {
      ...stage.state(this.loaderState),
      config: settings,
      configHash: configHash(this.options.config),
    };
    const fill = (sink: FolderSink): Promise<void> => stage.save(sink, this.from);
    const write = async (): Promise<string> => {
      const kept = { last: keep, ...(keepEvery && { every: keepEvery }) };
      let isFilling = false;
      const together = async (staged: StagedFolder): Promise<void> => {
        isFilling = true;
        await fillTogether(ranks, staged, fill);
        await staged.write(STATE, stateFile(content));
      };
      let saved: Saved;
      try {
        saved = await folder.save(stage.step, together, kept, this.bytes);
      } finally {
        if (!isFilling) await cancelFill(ranks);
      }
      this.journal.event("save", basename(saved.path));
      if (saved.pruneProblem) this.journal.notice(saved.pruneProblem.message);
      return saved.path;
    };
    const follow = (): Promise<void> => followFill(ranks, (path) => folder.staged(stage.step, path), fill);
    const save = (): Promise<string> => ranks.once(write, follow);
    this.newest = await (stage.whole ? stage.whole(save) : save());
  }

  async report(isEnd = false): Promise<void> {
    const { stage, ranks } = this.parts;
    const { stop: signal } = this.options;
    const at = (every: number): boolean => every > 0 && (isEnd || stage.step % every === 0);
    const write = (): Promise<void> =>
      ranks.once(async () => {
        const pictures = stage.pictures({ isEnd, signal, at });
        if (pictures) await this.journal.write(pictures, { isEnd, signal });
      });
    await (stage.whole && stage.needsWeights?.({ at }) ? stage.whole(write) : write());
  }

  async end(): Promise<RunResult> {
    const { stage, ranks } = this.parts;
    if (!this.isSaved) await this.save();
    const stopped = this.hasSteps;
    await ranks.once(async () => this.journal.event(stopped ? "stop" : "end", `${stage.step} steps are done`));
    await this.report(true);
    return { steps: stage.step, checkpoint: this.newest!, stopped };
  }

  /** Notes why the run ends before its time. Never throws. */
  async failed(error: unknown): Promise<void> {
    if (this.parts.ranks.rank === 0) await this.journal.failed(error);
  }
}
