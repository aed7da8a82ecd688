/** `janus train`: a stage of training from a preset or a YAML file, a line a step, resumed where it was. */
import type { SourceSpec } from "../train/data/sources.ts";
import type { StepReport } from "../train/trainer.ts";
import type { AddCommand, Context } from "./context.ts";
import { openDevice } from "./device.ts";
import { UsageError } from "./errors.ts";
import { formatCount, formatDuration } from "./format.ts";
import { MODEL_ARGUMENT, resolveModel } from "./model_folder.ts";
import { adapterOption } from "./options.ts";

interface TrainFlags {
  readonly model: string;
  readonly run: string;
  readonly data: readonly string[];
  readonly set?: readonly string[];
  readonly cache: string;
  readonly adapter?: string | number;
  readonly dryRun?: boolean;
}

export const addTrain: AddCommand = (program, context) => {
  program
    .command("train")
    .summary("train a stage of Janus-Pro")
    .description(
      "Train a stage from a preset (stage1, stage2, stage3) or a YAML file of settings. A run folder that has checkpoints is gone on with, bit for bit. Ctrl-C, SIGTERM and SIGUSR1 end the step, save, and leave with the code of the signal; a second one leaves at once.",
    )
    .argument("<settings>", "a preset, or a YAML file")
    .requiredOption("--model <model>", `${MODEL_ARGUMENT}, to begin with`)
    .requiredOption("--run <folder>", "checkpoints, log and quarantine; each checkpoint is a model by itself")
    .requiredOption(
      "--data <source...>",
      "files and folders to train on, where needed with their task: gen=pictures.jsonl",
    )
    .option("--set <change...>", "settings to change, e.g. optimizer.lr=2e-5 ratios.text=0")
    .option("--cache <folder>", "indexes of the data and codes of its pictures", ".janus-cache")
    .addOption(adapterOption())
    .option("--dry-run", "show what it takes, take the longest step once, and write nothing")
    .option("--json", "print one JSON object at the end")
    .action((settings: string, flags: TrainFlags) => run(settings, flags, context));
};

/** `und=a.jsonl` or `a.jsonl`. */
function sourceOf(text: string): SourceSpec {
  const named = /^(und|text|gen)=(.+)$/.exec(text);
  if (named) return { task: named[1] as "und" | "text" | "gen", path: named[2]! };
  if (/^\w+=/.test(text)) throw new UsageError(`--data ${text}: the tasks are und, text and gen`);
  return { path: text };
}

async function run(settings: string, flags: TrainFlags, context: Context): Promise<void> {
  const { out, signal } = context;
  const { loadConfig } = await import("../train/config.ts");
  const config = loadConfig(settings, flags.set ?? []);
  const sources = flags.data.map(sourceOf);
  const model = await resolveModel(flags.model, context);
  if (flags.dryRun) return await (await import("./dry_run.ts")).dryRun(model, config, flags.adapter, context);
  const { train } = await import("../train/train.ts");
  const device = await openDevice(flags.adapter, context);
  try {
    const total = Math.min(config.steps, config.stopAt ?? config.steps);
    const result = await train({
      model,
      run: flags.run,
      config,
      sources,
      cache: flags.cache,
      device,
      stop: signal,
      onNotice: (message) => out.warn(message),
      onStep: (report) => out.note(line(report, total)),
    });
    if (result.stopped)
      out.note(
        `stopped after ${formatCount(result.steps)} of ${formatCount(total)} steps; saved ${result.checkpoint}. The same command goes on from there`,
      );
    out.result(result, result.checkpoint);
    if (result.stopped) signal.throwIfAborted();
  } finally {
    device.destroy();
  }
}

/** `step 12/600  loss 6.2451  und 7.10 text 8.22 gen 5.91  norm 2.95  lr 2.0e-5  1,234 tokens/s  waiting 3 %` */
function line(
  {
    step,
    loss,
    tasks,
    gradNorm,
    lr,
    skipped,
    tokens,
    padding,
    ms,
    waitingMs,
  }: StepReport & { ms: number; waitingMs: number },
  total: number,
): string {
  const parts = Object.entries(tasks).map(([task, report]) => `${task} ${report.loss.toFixed(3)}`);
  const speed = `${formatCount(Math.round(((tokens - padding) * 1000) / ms))} tokens/s`;
  return [
    `step ${step + 1}/${total}`,
    `loss ${loss.toFixed(4)}`,
    parts.join(" "),
    skipped ? "gradients not finite: skipped" : `norm ${gradNorm.toFixed(3)}`,
    `lr ${lr.toExponential(1)}`,
    speed,
    `padding ${Math.round((100 * padding) / tokens)} %`,
    `waiting ${Math.round((100 * waitingMs) / ms)} %`,
    formatDuration(ms),
  ].join("  ");
}
