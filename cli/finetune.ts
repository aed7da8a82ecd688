/** `janus finetune`: plans a fine-tuning for the memory that there is, says why, and starts it. */
import type { DType } from "../engine/index.ts";
import type { Method, Plan } from "../train/plan.ts";
import type { Survey } from "../train/node/finetune.ts";
import { Option } from "commander";
import type { AddCommand, Context } from "./context.ts";
import { openDevice } from "./device.ts";
import { UsageError } from "./errors.ts";
import { formatBytes, formatCount, formatDuration, indent, table } from "./format.ts";
import { MODEL_ARGUMENT, addHubOptions, resolveModel } from "./model_folder.ts";
import type { HubFlags } from "./model_folder.ts";
import { adapterOption, fieldOption, memorySize, wholeNumber } from "./options.ts";
import type { FieldFlags } from "./options.ts";
import { runTraining, sourcesOf } from "./train.ts";

interface FinetuneFlags extends HubFlags {
  readonly model: string;
  readonly data: readonly string[];
  readonly run: string;
  readonly memory?: number;
  readonly epochs: number;
  readonly method?: Method;
  readonly images?: string;
  readonly classes?: string;
  readonly field?: FieldFlags;
  readonly ignoreField?: readonly string[];
  readonly set?: readonly string[];
  readonly cache: string;
  readonly adapter?: string | number;
  readonly dryRun?: boolean;
}

export const addFinetune: AddCommand = (program, context) => {
  const command = program
    .command("finetune")
    .summary("plan and start a fine-tuning that fits your GPU")
    .description(
      "Fine-tune a model on your data (preferences: janus train dpo). Counts the records and the memory of a step, chooses the method (all weights, all weights with the optimizer's moments in int8, LoRA, or QLoRA on int8 or int4 weights), the length of rows, the rows at once and recomputation, says why and how long it takes, and starts. The same command resumes a run with its settings. The result of LoRA is an adapter: janus generate --lora, janus merge.",
    )
    .requiredOption("--model <model>", MODEL_ARGUMENT)
    .requiredOption("--data <source...>", "files and folders to train on; a task may be named: gen=images.jsonl")
    .option("--run <folder>", "run folder: checkpoints, log, report and quarantine", "finetune")
    .addOption(
      new Option(
        "--memory <size>",
        "memory of the GPU that may be used, e.g. 12GB (default: the device's budget)",
      ).argParser(memorySize),
    )
    .addOption(new Option("--epochs <n>", "how often each record is read").argParser(wholeNumber(1, 1e6)).default(3))
    .addOption(
      new Option("--method <method>", "only this method (default: the first that fits)").choices([
        "full",
        "full int8",
        "LoRA",
        "QLoRA int8",
        "QLoRA int4",
      ]),
    )
    .option("--images <folder>", "base folder of the image paths in the files (default: the folder of each file)")
    .option("--classes <file>", "for folders of images by class: a file with a folder name and its class on each line")
    .addOption(fieldOption())
    .option(
      "--ignore-field <field>",
      "accept records with this field and ignore it; may be repeated. Use the names that janus data index lists",
      (name: string, names?: readonly string[]) => [...(names ?? []), name],
    )
    .option("--set <change...>", "change settings of the plan, e.g. optimizer.lr=1e-4 lora.rank=32")
    .option("--cache <folder>", "folder for indexes of the data and codes of its images", ".janus-cache")
    .addOption(adapterOption())
    .option("--dry-run", "print the plan; train nothing and write only the index of the data")
    .option("--json", "print one JSON object at the end");
  addHubOptions(command).action((flags: FinetuneFlags) => finetune(flags, context));
};

async function finetune(flags: FinetuneFlags, context: Context): Promise<void> {
  const { out, signal } = context;
  const { settingsOfRun, surveyData } = await import("../train/node/finetune.ts");
  const { changeSettings } = await import("../train/node/settings.ts");
  const { field: fields, set = [] } = flags;
  if (set.some((change) => /^data\.fields\b/.test(change)))
    throw new UsageError("--set data.fields has no effect on the records that the plan counts; use --field, e.g. --field prompt=TEXT"); // prettier-ignore
  const sources = sourcesOf({ ...flags, ...(fields && { fields }) });
  const model = await resolveModel(flags.model, context, flags);
  const given = { model, sources, run: flags.run, cache: flags.cache };
  const follow = { showsTimeLeft: true, ...(flags.adapter !== undefined && { adapter: flags.adapter }), ...(flags.memory !== undefined && { memory: flags.memory }) }; // prettier-ignore
  const start = async (config: Parameters<typeof runTraining>[0]): Promise<void> => {
    if (await runTraining(config, given, follow, context)) signal.throwIfAborted();
  };
  const before = flags.dryRun ? null : await settingsOfRun(flags.run);
  if (before) {
    out.note(`${flags.run} has checkpoints: resuming with its settings`);
    await start(changeSettings(before, flags.set ?? []));
    return;
  }
  const survey = await surveyData({ model, sources, cache: flags.cache, signal, onNotice: (message) => out.warn(message) }); // prettier-ignore
  const { plan, flopsPerSecond, memory } = await planOn(survey, flags, context);
  const config = changeSettings(plan.config, flags.set ?? []);
  const seconds = (plan.flops * config.steps) / flopsPerSecond;
  out.text(`${planText(plan, survey, { seconds, memory })}\n`);
  if (flags.dryRun) {
    const { method, tried, estimate } = plan;
    out.result({ method, config, tried, memory: estimate.memory, seconds, survey: { records: survey.records, longest: survey.longest } }, () => "nothing was trained: leave --dry-run out to start"); // prettier-ignore
    return;
  }
  await start(config);
}

/** Plans on the device that will train, so that it is counted with its kernels, and measures the rate of its products. */
async function planOn(
  { sizes, records, longest }: Survey,
  flags: FinetuneFlags,
  context: Context,
): Promise<{ readonly plan: Plan; readonly flopsPerSecond: number; readonly memory: number }> {
  const { planFinetune } = await import("../train/plan.ts");
  const { matmulCeiling } = await import("../train/node/report/speed.ts");
  const device = await openDevice(flags.adapter, context);
  try {
    const memory = flags.memory ?? device.pool.budget;
    if (!Number.isFinite(memory))
      throw new UsageError("--memory is required: the device does not say how much it has. Give that of the GPU, e.g. --memory 12GB"); // prettier-ignore
    context.out.note("counting the memory of a step");
    const plan = await planFinetune({ sizes, records, longest, memory, epochs: flags.epochs, like: device, ...(flags.method && { method: flags.method }) }); // prettier-ignore
    return { plan, flopsPerSecond: await matmulCeiling(device, plan.config.dtype as DType), memory };
  } finally {
    device.destroy();
  }
}

function planText(
  plan: Plan,
  { records, longest }: Survey,
  { seconds, memory }: { readonly seconds: number; readonly memory: number },
): string {
  // prettier-ignore
  const { method, config, estimate, tried } = plan;
  const { trained, frozen } = estimate.parameters;
  const counts = Object.entries(records).filter(([, n]) => n > 0);
  const refused = tried.filter(({ fits }) => !fits);
  const lines = [
    ["method", `${method}: ${formatCount(trained)} parameters train, ${formatCount(frozen)} are frozen`],
    ["records", `${counts.map(([task, n]) => `${task} ${formatCount(n)}`).join(", ")}; the longest has ${formatCount(longest)} tokens`],
    ["rows", `${formatCount(config.length)} tokens, ${config.microRows} at once, ${config.batch} samples a step`],
    ["blocks", config.recompute ? "recomputed in backward" : "not recomputed"],
    ["memory", `${formatBytes(estimate.memory.buffers)} of ${formatBytes(memory)}`],
    ["steps", `${formatCount(config.steps)}, learning rate ${config.optimizer.lr}`],
    ["time", `at least ${formatDuration(1000 * seconds)}, by the rate of matrix products; said again after the first steps`],
  ]; // prettier-ignore
  const why = refused.map((one) => [one.method, `${one.recompute ? "recomputed" : "plain"}, ${one.microRows} at once`, one.bytes === null ? "a tensor is too large" : formatBytes(one.bytes)]); // prettier-ignore
  return [table(lines), ...(why.length ? ["does not fit:", indent(table(why))] : [])].join("\n");
}
