/** `janus tune`: measures which variants of kernels are fastest on this device, and keeps the choice in the user's cache. */
import { accessSync, constants, mkdirSync } from "node:fs";
import { dirname, join } from "node:path";
import { Option } from "commander";
import type { AddCommand, Context } from "./context.ts";
import { createDevice, softwareWarning } from "./device.ts";
import { UsageError } from "./errors.ts";
import { table } from "./format.ts";
import { adapterOption, numberIn, wholeNumber } from "./options.ts";
import { ownVersion } from "./packages.ts";
import type { TunedVariants } from "../engine/index.ts";
import type { Row, RowSet } from "../bench/rows/index.ts";
import type { Measured, TuneResult } from "../bench/tune.ts";

interface TuneFlags {
  readonly seconds: number;
  readonly family?: readonly string[];
  readonly filter: string;
  readonly seed: number;
  readonly submit?: boolean;
  readonly adapter?: string | number;
}

/** The families of kernels that have variants; a test compares them with the tables. */
export const FAMILIES = [
  "matmul",
  "matmul_quantized",
  "attention",
  "conv2d",
  "softmax",
  "rms_norm",
  "layer_norm",
  "group_norm",
  "group_rows",
] as const;

export const addTune: AddCommand = (program, context) => {
  program
    .command("tune")
    .summary("find the fastest kernels for this device")
    .description(
      "Time the variants of each kernel on this device, for the shapes of janus bench kernels. Every result is checked against float64 first. The fastest variants are kept in the user's cache for this adapter and driver, and every later command on it uses them. Results may differ in their last bits from those before tuning.",
    )
    .addOption(new Option("--seconds <n>", "time limit of the search; results measured by then are kept").argParser(numberIn(1, 86400)).default(120))
    .addOption(new Option("--family <name...>", "search only these families").choices(FAMILIES))
    .option("--filter <text>", "use only rows of the bench whose name contains this, in any case", "")
    .addOption(new Option("--seed <n>", "seed of the inputs").argParser(wholeNumber(0, 4294967295)).default(1))
    .addOption(adapterOption())
    .option("--submit", "print the table as JSON, for a pull request to the project; the cache is not changed")
    .option("--json", "print one JSON object")
    .action((flags: TuneFlags) => tuneDevice(flags, context)); // prettier-ignore
};

async function tuneDevice(flags: TuneFlags, context: Context): Promise<void> {
  const { out, signal } = context;
  if (flags.submit && out.json) throw new UsageError("--submit prints JSON by itself: leave --json out");
  const { selectRows } = await import("../bench/rows/index.ts");
  const { mergedVariants, tune } = await import("../bench/tune.ts");
  const { adapterId, tunedFile, userCache } = await import("../engine/index.ts");
  const rowsFor = (...sets: RowSet[]): Row[] => selectRows({ filter: flags.filter, sets });
  rowsFor("table", "1B", "large"); // refused before a device is opened
  const device = await createDevice(flags.adapter, { tuned: false });
  try {
    const { software } = device.capabilities;
    if (software) out.note(softwareWarning(device.name));
    const rows = software ? rowsFor("table", "1B") : rowsFor("table", "1B", "large");
    const info = device.gpu!.adapterInfo;
    const file = join(userCache()!, tunedFile(adapterId(info)));
    if (!flags.submit) await requireFolder(dirname(file)); // before the search, whose result would be lost
    await using _lock = flags.submit ? null : await lockCache(dirname(file), context);
    const before = await variantsBefore(info, context);
    const progress = out.progress("rows");
    const result = await tune(device, rows, {
      seconds: flags.seconds,
      seed: flags.seed,
      ...(flags.family && { families: flags.family }),
      signal,
      onProgress: (done, total, label) => progress.report({ done, total, label }),
    });
    out.close();
    const made = {
      format: 1,
      adapter: adapterId(info),
      date: new Date().toISOString(),
      version: ownVersion(),
      variants: mergedVariants(before, result.measured),
    };
    const text = `${JSON.stringify(made, null, 2)}\n`;
    if (flags.submit) return out.result(made, text.trimEnd());
    const { writeWhole } = await import("../bench/files.ts");
    writeWhole(file, text);
    out.result({ file, ...made, ...result }, `${tuneText(result)}\n${file}`);
  } finally {
    device.destroy();
  }
}

/** Creates the folder of a table. Throws `FileError` if nothing can be written there. */
async function requireFolder(folder: string): Promise<void> {
  const { fileError } = await import("../model/node/files.ts");
  try {
    mkdirSync(folder, { recursive: true });
    accessSync(folder, constants.W_OK);
  } catch (error) {
    throw fileError(error, folder);
  }
}

/** Takes the cache, so that no other search measures at the same time and writes over this one's result. Throws `RunLockedError`. */
export async function lockCache(
  folder: string,
  { out, signal }: Pick<Context, "out" | "signal">,
): Promise<AsyncDisposable> {
  const { RunLock } = await import("../train/node/run/lock.ts");
  const { nodeFileSystem } = await import("../train/node/run/file_system.ts");
  const words = { holder: "janus tune", folder: "cache", instead: "wait until it ends" };
  const lock = await RunLock.take(nodeFileSystem, folder, {
    name: ".lock-of-tune",
    words,
    onNotice: (message) => out.warn(message),
    signal,
  });
  return { [Symbol.asyncDispose]: () => lock.release() };
}

/** The variants of the user's table. A file that is no table is replaced, as its error advises. */
export async function variantsBefore(info: GPUAdapterInfo, { out }: Pick<Context, "out">): Promise<TunedVariants> {
  const { DeviceError, findTuned } = await import("../engine/index.ts");
  try {
    const found = findTuned(info);
    return found && found.from !== "the package" ? found.table.variants : {};
  } catch (error) {
    if (!(error instanceof DeviceError)) throw error;
    out.warn(`the old table is not used: ${error.message}`);
    return {};
  }
}

function tuneText({ measured, left }: TuneResult): string {
  const ms = (m: Measured, variant: string): string =>
    m.candidates.find((c) => c.variant === variant)?.ms?.toPrecision(3) ?? "-";
  const rows = measured.map((m) => [
    m.family,
    m.problem,
    m.preferred,
    ms(m, m.preferred),
    m.best === m.preferred ? "none" : m.best,
    m.best === m.preferred ? "" : ms(m, m.best),
  ]);
  const wrong = measured.flatMap((m) =>
    m.candidates.filter((c) => c.problem).map((c) => `${m.family} ${c.variant}, ${m.problem}: ${c.problem!}`),
  );
  const unmeasured = left ? [`${left} classes of problems were not measured: raise --seconds`] : [];
  return [
    table([["family", "problem", "preferred", "ms", "faster", "ms"], ...rows]),
    ...wrong.map((line) => `not used: ${line}`),
    ...unmeasured,
  ].join("\n");
}
