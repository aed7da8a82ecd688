/** `janus bench`: measures kernels, the model, training and other engines on this device. */
import { InvalidArgumentError, Option } from "commander";
import type { Command } from "commander";
import type { FloatDType } from "../model/io/cast.ts";
import type { BenchOptions, Measurement, Outcome } from "../bench/bench.ts";
import type { Question, Results } from "../bench/results.ts";
import type { RowSet } from "../bench/rows/index.ts";
import type { AddCommand, Context } from "./context.ts";
import { createDevice, softwareWarning } from "./device.ts";
import { EXIT, UsageError } from "./errors.ts";
import { adapterOption, numberIn, wholeNumber } from "./options.ts";

interface BenchFlags {
  readonly filter: string;
  readonly dtype?: string;
  readonly shapes?: readonly string[];
  readonly repeat: number;
  readonly seconds: number;
  readonly seed: number;
  readonly cold: boolean;
  readonly saveBaseline?: string;
  readonly baseline?: string;
  readonly failAbove?: number;
  readonly aa?: number;
  readonly list?: boolean;
  readonly engines?: readonly (typeof ENGINES)[number][];
  readonly adapter?: string | number;
  readonly json?: true | string;
  readonly md?: string;
  readonly html?: string;
  readonly png?: string;
}

/** `5%` or `0.05` as a share. */
function share(text: string): number {
  const found = /^(\d+(?:\.\d+)?)\s*(%?)$/.exec(text);
  if (!found) throw new InvalidArgumentError("It must be a percentage such as 5%, or a share such as 0.05.");
  return Number(found[1]) / (found[2] ? 100 : 1);
}

const words =
  <T extends string>(choices: readonly T[]) =>
  (text: string): T[] => {
    const found = text.split(",").map((word) => word.trim());
    if (!found.every((word) => (choices as readonly string[]).includes(word))) throw new InvalidArgumentError(`It must be one or several of ${choices.join(", ")}, separated by commas.`); // prettier-ignore
    return found as T[];
  };

interface Sizes {
  readonly choices: readonly string[];
  readonly help: string;
}
const SHAPES: Readonly<Record<"kernels" | "model" | "train", Sizes>> = {
  kernels: {
    choices: ["table", "ops", "1B", "large"] satisfies RowSet[],
    help: "rows to measure, separated by commas. table: the shapes that comparisons ask about. ops: a small row for each op. 1B: shapes of Janus-Pro-1B. large: sizes that fill a GPU (default: table)",
  },
  model: {
    choices: ["tiny", "1B", "7B"],
    help: "sizes of the model, separated by commas; refused if one does not fit the device (default: tiny)",
  },
  train: {
    choices: ["tiny", "1B"],
    help: "sizes of the model, separated by commas; refused if one does not fit the device (default: tiny)",
  },
};

/** The options that all questions have. */
function addOptions(command: Command): Command {
  return command
    .option("--filter <text>", "measure only rows whose name contains this, in any case", "")
    .addOption(new Option("--repeat <n>", "rounds over all rows; a verdict needs 5").argParser(wholeNumber(1, 1000)).default(10))
    .addOption(new Option("--seconds <n>", "seconds for each row and way of calling it").argParser(numberIn(0.01, 600)).default(1))
    .addOption(new Option("--seed <n>", "seed of the inputs").argParser(wholeNumber(0, 4294967295)).default(1))
    .addOption(adapterOption())
    .option("--save-baseline <name>", "keep the results under this name in the user's cache, by adapter and driver")
    .option("--baseline <name>", "compare with the results of this name, or with a file of --json; refused if they come from another adapter or driver")
    .addOption(new Option("--fail-above <percent>", "exit with 1 if a row is slower than the baseline beyond noise and by more than this, e.g. 5%").argParser(share))
    .option("--json [file]", "print one JSON object, or write JSON lines to a file: the run, then each row")
    .option("--md <file>", "write the results as Markdown")
    .option("--html <file>", "write the results as a page with the roofline"); // prettier-ignore
}

function addQuestion(
  bench: Command,
  question: "kernels" | "model" | "train",
  texts: { summary: string; description: string },
): Command {
  const { choices, help } = SHAPES[question];
  return addOptions(bench.command(question).summary(texts.summary).description(texts.description))
    .addOption(new Option("--shapes <names>", help).argParser(words(choices)))
    .option("--png <file>", "write the roofline as a PNG file")
    .option("--list", "print the names of the rows, and measure nothing"); // prettier-ignore
}

const dtypes = (): Option =>
  new Option("--dtype <dtype>", "measure only rows of this dtype").choices(["f32", "f16", "bf16"]);

export const addBench: AddCommand = (program, context) => {
  const bench = program
    .command("bench")
    .summary("measure how fast this device is, and compare with a baseline")
    .description(
      "Measure on this device. Every run measures its own ceilings (multiply-add, streaming read and copy) and shows shares of them; every result is checked before it is timed.",
    );
  addQuestion(bench, "kernels", {
    summary: "each op, as a share of what the device can do",
    description:
      "Measure ops: GPU time by timestamps and wall time of whole calls, op by op and replayed from a capture, with warm and cold caches. A row whose result is not right is reported, not timed.",
  })
    .addOption(dtypes())
    .option("--no-cold", "do not measure with cold caches")
    .addOption(
      new Option("--aa <n>", "measure everything n + 1 times and compare each run with the one before: count false alarms").argParser(wholeNumber(1, 1000)),
    )
    .action((flags: BenchFlags) => kernels(flags, context)); // prettier-ignore
  addQuestion(bench, "model", {
    summary: "decoding, prefill, vision and image tokenizer",
    description:
      "Measure the parts of inference on random weights: decoding steps, prefill, vision tower, image tokenizer. At the tiny size, each result is compared with that of the reference kernels before it is timed.",
  })
    .addOption(modelDtype())
    .action((flags: BenchFlags) => model(flags, context));
  addQuestion(bench, "train", {
    summary: "a training step of each stage",
    description:
      "Measure an optimizer step of stages 1, 2 and 3 on random weights, the longest that the settings allow: tokens/s, MFU (FLOPs that the launches state, as a share of the multiply-add ceiling), bytes.",
  })
    .addOption(modelDtype())
    .action((flags: BenchFlags) => train(flags, context));
  addOptions(
    bench
      .command("peers")
      .summary("this engine beside others; only in a checkout")
      .description(
        "Measure this engine beside others on the same rows: each in a process of its own, in turn, round by round. Every result is checked before it is timed. Needs a checkout and the packages of bench/peers: npm ci --ignore-scripts --prefix bench/peers.",
      ),
  )
    .addOption(
      new Option("--engines <names>", `engines to measure, separated by commas: ${ENGINES.join(", ")} (default: all)`).argParser(words(ENGINES)),
    )
    .option("--list", "print the names of the rows, and measure nothing")
    .action((flags: BenchFlags) => peers(flags, context)); // prettier-ignore
};

/** As `PEERS` of bench/peers.ts, which loads only when it is used; a test compares them. */
export const ENGINES = ["janus", "janus-captured", "jax-js", "tfjs", "ort-web", "ort-node", "torch", "torchlette", "hf-kernels"] as const; // prettier-ignore

const modelDtype = (): Option =>
  new Option("--dtype <dtype>", "dtype of the weights (default: f32 for tiny, bf16 for the others)").choices(["f32", "f16", "bf16"]); // prettier-ignore

const optionsOf = (flags: BenchFlags, { signal, out }: Context): Omit<BenchOptions, "filter" | "isCold"> => {
  const progress = out.progress("rows");
  return {
    rounds: flags.repeat,
    seconds: flags.seconds,
    seed: flags.seed,
    ...(flags.baseline !== undefined && { baseline: flags.baseline }),
    failAbove: flags.failAbove ?? null,
    signal,
    onProgress: (done, total, label) => progress.report({ done, total, label }),
  };
};

/** Options that exclude or need each other. */
function checkFlags({ failAbove, baseline, aa, saveBaseline, list, json, md, html, png }: BenchFlags): void {
  if (failAbove !== undefined && baseline === undefined && aa === undefined)
    throw new UsageError("--fail-above needs a --baseline to compare with, or --aa");
  if (aa !== undefined && (baseline ?? saveBaseline) !== undefined)
    throw new UsageError("--aa compares runs with each other: leave --baseline and --save-baseline out");
  const files = [typeof json === "string" ? json : undefined, md, html, png];
  if ((aa !== undefined || list) && files.some((file) => file !== undefined))
    throw new UsageError(`${list ? "--list" : "--aa"} writes no file: leave --json FILE, --md, --html and --png out`);
}

async function kernels(flags: BenchFlags, context: Context): Promise<void> {
  checkFlags(flags);
  const { kernelsMeasurement } = await import("../bench/bench.ts");
  const { selectRows } = await import("../bench/rows/index.ts");
  const filter = {
    filter: flags.filter,
    ...(flags.dtype && { dtype: flags.dtype }),
    sets: (flags.shapes ?? ["table"]) as RowSet[],
  };
  const rows = selectRows(filter); // refused before a device is opened
  if (flags.list) {
    const names = rows.map(({ name }) => name);
    return context.out.result({ rows: names }, names.join("\n"));
  }
  await measure("kernels", kernelsMeasurement, { ...flags, rowFilter: filter }, context);
}

async function model(flags: BenchFlags, context: Context): Promise<void> {
  checkFlags(flags);
  const { benchModel, modelRowName } = await import("../bench/model.ts");
  const sizes = (flags.shapes ?? ["tiny"]) as ("tiny" | "1B" | "7B")[];
  const dtype = flags.dtype as FloatDType | undefined;
  if (flags.list) {
    const { WORK_NAMES } = await import("../bench/workloads.ts");
    const names = sizes.flatMap((size) =>
      WORK_NAMES.map((name) => modelRowName(size, dtype ?? (size === "tiny" ? "f32" : "bf16"), name)),
    );
    return context.out.result({ rows: names }, names.join("\n"));
  }
  const measurement: Measurement = (device, probes, options) =>
    benchModel(device, probes, { ...options, sizes, ...(dtype && { dtype }) });
  await measure("model", measurement, { ...flags, cold: false, rowFilter: { filter: flags.filter } }, context);
}

async function train(flags: BenchFlags, context: Context): Promise<void> {
  checkFlags(flags);
  const { benchTrain, trainRows } = await import("../bench/train.ts");
  const sizes = (flags.shapes ?? ["tiny"]) as ("tiny" | "1B")[];
  const dtype = flags.dtype as FloatDType | undefined;
  const chosen = { sizes, ...(dtype && { dtype }), filter: { filter: flags.filter } };
  if (flags.list) {
    const names = trainRows(chosen).map(({ name }) => name);
    return context.out.result({ rows: names }, names.join("\n"));
  }
  const measurement: Measurement = (device, probes, options) => benchTrain(device, probes, { ...options, ...chosen });
  await measure("train", measurement, { ...flags, cold: false, rowFilter: chosen.filter }, context);
}

async function peers(flags: BenchFlags, context: Context): Promise<void> {
  checkFlags(flags);
  const { benchPeers, peerRowResults, peerRows, requirePeers } = await import("../bench/peers.ts");
  requirePeers(); // refused before a device is opened
  const names = peerRows(flags.filter).map(({ name }) => name);
  if (flags.list) return context.out.result({ rows: names }, names.join("\n"));
  const measurement: Measurement = async (_, __, options) => {
    const found = await benchPeers({
      ...options,
      onPeers: (some) => options.onFound({ ...peerRowResults(some), peers: some }),
      filter: flags.filter,
      ...(flags.engines && { engines: flags.engines }),
    });
    return { ...peerRowResults(found), peers: found };
  };
  await measure("peers", measurement, { ...flags, cold: false, rowFilter: { filter: flags.filter } }, context);
}

type MeasureFlags = BenchFlags & { readonly rowFilter: BenchOptions["filter"] };

/** Opens the device, measures, writes what was asked for and says whether a row fails. */
async function measure(question: Question, measurement: Measurement, flags: MeasureFlags, context: Context): Promise<void> {
  const { requireBaselineName, toJsonLines, writeWhole } = await import("../bench/files.ts");
  const reports = await import("../bench/reports.ts"); // now: the loader of a checkout may be stopped by the signal that stops the run
  const { runBench } = await import("../bench/bench.ts");
  if (flags.saveBaseline !== undefined) requireBaselineName(flags.saveBaseline);
  const device = await createDevice(flags.adapter);
  try {
    if (device.capabilities.software) context.out.note(softwareWarning(device.name));
    let measured: Results | null = null;
    const onResults = (results: Results): void => {
      measured = results;
      if (typeof flags.json === "string") writeWhole(flags.json, toJsonLines(results));
    };
    const options: BenchOptions = {
      ...optionsOf(flags, context),
      filter: flags.rowFilter,
      isCold: flags.cold,
      onResults,
    };
    if (flags.aa !== undefined) return await againstItself(question, measurement, options, flags, context, device);
    const outcome = await runBench(question, device, measurement, options).catch(async (error: unknown) => {
      if (measured) await writeFiles(measured, {}, flags, reports);
      throw error;
    });
    context.out.close();
    await report(outcome, flags, context, reports);
  } finally {
    device.destroy();
  }
} // prettier-ignore

async function againstItself(
  question: Question,
  measurement: Measurement,
  options: BenchOptions,
  { aa, failAbove = 0.05 }: BenchFlags,
  { out, ...context }: Context,
  device: Awaited<ReturnType<typeof createDevice>>,
): Promise<void> {
  const { compareWithItself } = await import("../bench/bench.ts");
  const { comparisonText } = await import("../bench/columns.ts");
  const { alarms, comparisons } = await compareWithItself(device, measurement, options, { count: aa!, share: failAbove, question }); // prettier-ignore
  out.close();
  const allowed = Math.ceil(comparisons / 20);
  if (alarms.length > allowed) context.exitCode = EXIT.checkFailed;
  const lines = alarms.map(({ run, row }) => `run ${run}: ${row.name}: ${comparisonText(row.comparison!)}`);
  const text = `${alarms.length} false alarms in ${comparisons} comparisons of equal things at ${100 * failAbove} %; at most ${allowed} are expected`;
  out.result({ comparisons, allowed, alarms: lines }, [...lines, text].join("\n"));
}

type Reports = typeof import("../bench/reports.ts");

async function report(outcome: Outcome, flags: BenchFlags, context: Context, reports: Reports): Promise<void> {
  const { saveBaseline } = await import("../bench/files.ts");
  const { out } = context;
  const { results, report: options, failed, missing } = outcome;
  await writeFiles(results, options, flags, reports);
  if (flags.saveBaseline !== undefined) out.note(`baseline: ${saveBaseline(flags.saveBaseline, results)}`);
  if (missing) out.warn(`${missing} rows of the baseline were not measured`);
  for (const { name, comparison } of failed) out.error(`${name} is ${comparison!.ratio.toFixed(2)}× slower than the baseline`); // prettier-ignore
  if (failed.length || results.wrong.length) context.exitCode = EXIT.checkFailed;
  out.result(results, () => reports.textReport(results, options));
}

/** Writes the files that were asked for. */
async function writeFiles(
  results: Results,
  options: Outcome["report"],
  { json, md, html, png }: BenchFlags,
  { htmlReport, markdownReport }: Reports,
): Promise<void> {
  const { toJsonLines, writeWhole } = await import("../bench/files.ts");
  if (typeof json === "string") writeWhole(json, toJsonLines(results));
  if (md !== undefined) writeWhole(md, markdownReport(results, options));
  if (html !== undefined) writeWhole(html, await htmlReport(results, options));
  if (png !== undefined) await writePng(png, results);
}

async function writePng(file: string, results: Outcome["results"]): Promise<void> {
  const { writeWhole } = await import("../bench/files.ts");
  const { rooflinePng } = await import("../bench/roofline.ts");
  const png = await rooflinePng(results);
  if (!png && results.run.incomplete !== undefined) return;
  if (!png) throw new UsageError("--png: no row has a rate to be drawn; leave it out");
  writeWhole(file, png);
}
