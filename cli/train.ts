/** `janus train`: a stage of training from a preset or a YAML file, a line per step; resumes a run that was stopped. */
import { existsSync, statSync } from "node:fs";
import { Option } from "commander";
import type { TokenizerConfig, TrainConfig } from "../train/config.ts";
import { expandShards } from "../train/node/data/shards.ts";
import type { FieldNames, SourceSpec } from "../train/node/data/sources.ts";
import type { StepEvent, TokenizerStepEvent } from "../train/node/report/log.ts";
import type { RunOptions, RunResult } from "../train/node/train.ts";
import type { AddCommand, Context } from "./context.ts";
import { openDevice } from "./device.ts";
import { UsageError } from "./errors.ts";
import { formatBytes, formatCount, formatDuration } from "./format.ts";
import { MODEL_ARGUMENT, addHubOptions, resolveModel } from "./model_folder.ts";
import type { HubFlags } from "./model_folder.ts";
import { adapterOption, wholeNumber } from "./options.ts";
import { withRanks } from "./ranks.ts";
import type { RankedRun } from "./ranks.ts";

interface TrainFlags extends HubFlags {
  readonly model: string;
  readonly run: string;
  readonly data: readonly string[];
  readonly images?: string;
  readonly ignoreField?: readonly string[];
  readonly classes?: string;
  readonly set?: readonly string[];
  readonly cache: string;
  readonly adapter?: string | number;
  readonly resume: "auto" | "never";
  readonly dryRun?: boolean;
  readonly measureStep?: boolean;
  readonly world?: number;
  readonly machine?: string;
}

export const addTrain: AddCommand = (program, context) => {
  const command = program
    .command("train")
    .summary("train a stage of Janus-Pro, or its image tokenizer")
    .description(
      "Train a stage from a preset (stage1, stage2, stage3, for the 7B model stage3-7b; stage0 for the image tokenizer, on the images of the data; dpo on preferences; grpo on prompts, with a program that rewards images) or a YAML file of settings. A run folder with checkpoints is resumed, bit for bit. Ctrl-C, SIGTERM and SIGUSR1 finish the step, save, and exit with the code of the signal; a second one exits at once.",
    )
    .argument("<settings>", "a preset, or a YAML file")
    .requiredOption("--model <model>", `${MODEL_ARGUMENT}; a new run starts from it`)
    .requiredOption(
      "--run <folder>",
      "run folder: checkpoints, log, report and quarantine; each checkpoint is a complete model",
    )
    .requiredOption(
      "--data <source...>",
      "files and folders to train on; a task may be named: gen=images.jsonl. A range stands for several files: 'shard-{000..127}.tar'",
    )
    .option("--images <folder>", "base folder of the image paths in the files (default: the folder of each file)")
    .option("--classes <file>", CLASSES)
    .option(
      "--ignore-field <field>",
      "accept records with this field and ignore it; may be repeated. Use the names that janus data index lists",
      (name: string, names?: readonly string[]) => [...(names ?? []), name],
    )
    .option("--set <change...>", "change settings, e.g. optimizer.lr=2e-5 ratios.text=0")
    .option("--cache <folder>", "folder for indexes of the data and codes of its images", ".janus-cache")
    .addOption(
      new Option(
        "--resume <when>",
        "auto: resume from the newest valid checkpoint of the run folder, if it has one. never: fail if the run folder has a checkpoint",
      )
        .choices(["auto", "never"])
        .default("auto"),
    )
    .addOption(adapterOption())
    .option("--dry-run", "estimate parameters, memory, tokens and time; train and write nothing")
    .option("--measure-step", "with --dry-run: run the longest step once, and compare it with the estimate")
    .addOption(
      new Option(
        "--world <ranks>",
        "with --dry-run: estimate memory and time on so many GPUs, for each way to divide the state; needs no GPU",
      ).argParser(wholeNumber(1, 65_536)),
    )
    .option("--machine <machine>", "with --world: what kind of GPUs, e.g. a100-40; or a YAML file")
    .option("--json", "print one JSON object at the end");
  addHubOptions(command).action(async (settings: string, flags: TrainFlags) => {
    const isStopped = await withRanks(context, flags.adapter, (ranked) => run(settings, flags, context, ranked));
    if (isStopped) context.signal.throwIfAborted();
  });
};

/** Help text of --classes. */
export const CLASSES =
  "a file with a class and its name on each line: for folders of images by class (the folder's name), and tar shards with .cls files";

type SourceFlags = Pick<TrainFlags, "images" | "classes" | "ignoreField"> & { readonly fields?: FieldNames };

/** A source as the options say: `images` applies to files, `classes` to folders and tar shards. */
export function specOf(path: string, { images, classes, ignoreField, fields }: SourceFlags): SourceSpec {
  const isFolder = statSync(path, { throwIfNoEntry: false })?.isDirectory() ?? false;
  const hasClasses = isFolder || /\.tar$/i.test(path);
  return {
    path,
    ...(!isFolder && images !== undefined && { images }),
    ...(hasClasses && classes !== undefined && { classes }),
    ...(!isFolder && fields && { fields }),
    ...(!isFolder && ignoreField && { ignoredFields: ignoreField }),
  };
}

/** `und=a.jsonl` or `a.jsonl`. */
function sourceOf(text: string, flags: SourceFlags): SourceSpec {
  const named = /^(und|text|gen)=(.+)$/.exec(text);
  if (!named && /^\w+=/.test(text)) throw new UsageError(`--data ${text}: the task must be und, text or gen`);
  return { ...specOf(named?.[2] ?? text, flags), ...(named && { task: named[1] as "und" | "text" | "gen" }) };
}

/** Throws `UsageError` for an option that no source uses. */
export function requireUsed(
  sources: readonly SourceSpec[],
  { images, classes, ignoreField, fields }: SourceFlags,
): void {
  const has = (name: keyof SourceSpec): boolean => sources.some((source) => source[name] !== undefined);
  if (classes !== undefined && !has("classes"))
    throw new UsageError("--classes is for folders of images by class and tar shards, and no source is one of them");
  if (fields !== undefined && !has("fields"))
    throw new UsageError("--field is for records of files, and all sources are folders");
  if (images !== undefined && !has("images"))
    throw new UsageError("--images is for files that name images, and all sources are folders");
  if (ignoreField && !has("ignoredFields"))
    throw new UsageError("--ignore-field is for records of files, and all sources are folders");
}

/** Parses `--data`, `--images` and `--classes`. Throws `UsageError` if one of them has no effect. */
export function sourcesOf({ data, ...rest }: SourceFlags & Pick<TrainFlags, "data">): SourceSpec[] {
  const sources = expandShards(data.map((text) => sourceOf(text, rest)));
  requireUsed(sources, rest);
  return sources;
}

/** Resolves to true if the training was stopped before its end. */
async function run(settings: string, flags: TrainFlags, context: Context, ranked: RankedRun): Promise<boolean> {
  const { loadAnyConfig } = await import("../train/node/settings.ts");
  const config = loadAnyConfig(settings, flags.set ?? []);
  const { adviceOn, adviceOnSources } = await import("../train/node/advice.ts");
  for (const message of adviceOn(config)) context.out.warn(message);
  const sources = sourcesOf(flags);
  for (const message of adviceOnSources(sources)) context.out.warn(message);
  if (flags.resume === "never" && existsSync(flags.run)) await requireNoCheckpoints(flags.run);
  if (flags.measureStep && !flags.dryRun)
    throw new UsageError("--measure-step needs --dry-run; a run measures every step");
  if ((flags.world === undefined) !== (flags.machine === undefined))
    throw new UsageError("--world and --machine need each other, e.g. --world 128 --machine a100-40");
  if (flags.world !== undefined && (!flags.dryRun || flags.measureStep))
    throw new UsageError("--world needs --dry-run without --measure-step; to train on many GPUs, start the command with mpirun or srun"); // prettier-ignore
  const model = await resolveModel(flags.model, context, flags);
  if (flags.world !== undefined)
    await (await import("./dry_run_world.ts")).dryRunWorld(model, config, { world: flags.world, machine: flags.machine! }, context); // prettier-ignore
  else if (flags.dryRun) await (await import("./dry_run.ts")).dryRun(model, config, flags, context);
  if (flags.dryRun) return false;
  const { ranks, adapter, watch } = ranked;
  const given = { model, sources, run: flags.run, cache: flags.cache, ranks };
  return await runTraining(config, given, { ...flags, adapter, watch }, context);
}

type AnyConfig = TrainConfig | TokenizerConfig;

/** Trains with settings of any stage, and shows the steps. Resolves to true if a signal has stopped it before its end. */
export async function runTraining(
  config: AnyConfig,
  given: Pick<RunOptions, "model" | "sources" | "run" | "cache" | "ranks">,
  flags: FollowFlags,
  context: Context,
): Promise<boolean> {
  const total = Math.min(config.steps, config.stopAt ?? config.steps);
  if (config.stage === 0) {
    const { trainTokenizer } = await import("../train/node/stage0/train.ts");
    return await follow(total, flags, context, (common, show) =>
      trainTokenizer({ ...given, ...common, config, onStep: (event) => show(event, tokenizerLine(event, total)) }),
    );
  }
  const { train } = await import("../train/node/train.ts");
  return await follow(total, flags, context, (common, show) =>
    train({ ...given, ...common, config, onStep: (event) => show(event, line(event, total)) }),
  );
}

async function requireNoCheckpoints(run: string): Promise<void> {
  const { Checkpoints } = await import("../train/node/run/checkpoints.ts");
  const steps = await new Checkpoints(run).list();
  if (steps.length > 0)
    throw new UsageError(`--resume never: ${run} has checkpoints (the newest of step ${steps.at(-1)}); name another folder, or leave it out to resume`); // prettier-ignore
}

export interface FollowFlags {
  readonly adapter?: string | number;
  /** Bytes of the device's memory that the run may use (default: no bound). */
  readonly memory?: number;
  /** Say once how long the run will take, by its first steps. */
  readonly showsTimeLeft?: boolean;
  readonly watch?: RankedRun["watch"];
}

/** Steps by which the time of a run is estimated; the first one compiles kernels and is left out. */
const TIMED_STEPS = 4;

/** Opens the device, runs a training on it to its end or to a signal, and shows its steps. */
async function follow(
  total: number,
  flags: FollowFlags,
  context: Context,
  start: (
    common: Pick<RunOptions, "device" | "stop" | "onNotice">,
    show: (event: { readonly step: number }, text: string) => void,
  ) => Promise<RunResult>,
): Promise<boolean> {
  const { out, signal } = context;
  const device = await openDevice(flags.adapter, context, flags.memory);
  flags.watch?.(() => device.queue.done());
  try {
    using progress = out.progress("steps");
    const onNotice = (message: string): void => out.warn(message);
    const ends: number[] = [];
    const result = await start({ device, stop: signal, onNotice }, ({ step }, text) => {
      out.note(text);
      const taken = ends.length < TIMED_STEPS ? ends.push(performance.now()) : Infinity;
      const left = total - step - 1;
      if (flags.showsTimeLeft && taken === TIMED_STEPS && left > 0)
        out.note(`about ${formatDuration((left * (ends.at(-1)! - ends[0]!)) / (taken - 1))} left for ${formatCount(left)} steps, by the last ${taken - 1}`); // prettier-ignore
      if (out.isTerminal) progress.report({ done: step + 1, total, label: "training" });
    });
    if (result.stopped)
      out.note(
        `stopped after ${formatCount(result.steps)} of ${formatCount(total)} steps; saved ${result.checkpoint}. The same command resumes from there`,
      );
    out.result(result, result.checkpoint);
    return result.stopped;
  } finally {
    flags.watch?.(null);
    device.destroy();
  }
}

const percent = (share: number): string => `${Math.round(100 * share)} %`;

/**
 * `step 12/600  loss 6.2451  und 7.103 text 8.220 gen 5.914  norm 2.953  lr 2.0e-5  1,234 tokens/s  5.1 images/s  MFU 31 %  memory 12.3 GB
 * padding 4 %  waiting 3 %  1.9 s`, on one line.
 */
function line(event: StepEvent, total: number): string {
  const { step, loss, tasks, gradNorm, lr, skipped, tokens, padding, ms, waitingMs } = event;
  const parts = Object.entries(tasks).map(([task, report]) => `${task} ${report.loss.toFixed(3)}`);
  return [
    `step ${step + 1}/${total}`,
    `loss ${loss.toFixed(4)}`,
    parts.join(" "),
    ...Object.entries(event.measures ?? {}).map(([name, value]) => `${name} ${value.toFixed(3)}`),
    skipped ? "not finite: skipped" : `norm ${gradNorm.toFixed(3)}`,
    `lr ${lr.toExponential(1)}`,
    `${formatCount(Math.round(event.tokensPerSecond))} tokens/s`,
    `${event.imagesPerSecond.toFixed(1)} images/s`,
    `MFU ${percent(event.mfu)}`,
    `memory ${formatBytes(event.memoryBytes)}`,
    `padding ${percent(padding / tokens)}`,
    `waiting ${percent(waitingMs / ms)}`,
    ...(event.communication ? [`ranks ${percent(event.communication.ms / ms)}`] : []),
    formatDuration(ms),
  ].join("  ");
}

const TOKENIZER_LOSSES = ["reconstruction", "codebook", "commitment", "adversarial", "discriminator"] as const;

/** `step 12/600  reconstruction 0.0412  codebook 0.0031  commitment 0.0031  213 codes  norm 0.953 …`, on one line. */
function tokenizerLine(event: TokenizerStepEvent, total: number): string {
  const { step, gradNorm, lr, skipped, reseed, ms, waitingMs } = event;
  return [
    `step ${step + 1}/${total}`,
    ...TOKENIZER_LOSSES.flatMap((loss) => (event[loss] === undefined ? [] : [`${loss} ${event[loss].toFixed(4)}`])),
    `${formatCount(event.used)} codes`,
    ...(reseed ? [`${formatCount(reseed.moved)} moved`] : []),
    skipped ? "not finite: skipped" : `norm ${gradNorm.toFixed(3)}`,
    `lr ${lr.toExponential(1)}`,
    `${event.imagesPerSecond.toFixed(1)} images/s`,
    `memory ${formatBytes(event.memoryBytes)}`,
    `waiting ${percent(waitingMs / ms)}`,
    formatDuration(ms),
  ].join("  ");
}
