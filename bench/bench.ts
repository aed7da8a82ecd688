/** A run of the bench: one question on one device, its ceilings, its rows, and what a baseline says about them. */
import type { Device } from "../index.ts";
import { Probes } from "./ceilings.ts";
import type { Ceilings } from "./ceilings.ts";
import { compareResults } from "./compare.ts";
import { loadBaseline } from "./files.ts";
import { benchKernels } from "./kernels.ts";
import { measureLaunches } from "./launches.ts";
import type { MeasureOptions } from "./measure.ts";
import type { ReportOptions } from "./reports.ts";
import type { Question, Results, RowResult } from "./results.ts";
import { selectRows } from "./rows/index.ts";
import type { RowFilter } from "./rows/index.ts";
import { adapterOf, coldBytesOf, runInfo } from "./run_info.ts";
import { failsAbove } from "./stats.ts";

export interface BenchOptions extends MeasureOptions {
  readonly filter: RowFilter;
  /** Whether rows are measured with cold caches too. */
  readonly isCold: boolean;
  /** Name or file of the baseline to compare with. */
  readonly baseline?: string;
  /** Rows that are slower by more than this share fail; null if none does. */
  readonly failAbove: number | null;
}

/** What a question measures, after the ceilings. */
export type Measurement = (
  device: Device,
  probes: Probes | null,
  options: BenchOptions & { readonly coldBytes: number },
) => Promise<Omit<Results, "run">>;

export interface Outcome {
  readonly results: Results;
  readonly report: ReportOptions;
  /** Rows that are slower than the baseline beyond noise and by more than was allowed. */
  readonly failed: readonly RowResult[];
  /** Rows of the baseline that were not measured. */
  readonly missing: number;
}

/** Rows of the tables of kernels. */
export const kernelsMeasurement: Measurement = (device, probes, options) =>
  benchKernels(device, selectRows(options.filter), probes, options);

/** No ceilings: without timestamps nothing short can be timed. */
const UNKNOWN: Ceilings = { gflops: NaN, readGbs: NaN, copyGbs: NaN, matrices: {} };

/** Runs one question. A baseline that is absent or of another adapter is refused before anything is measured. */
export async function runBench(
  question: Question,
  device: Device,
  measurement: Measurement,
  options: BenchOptions,
): Promise<Outcome> {
  const adapter = adapterOf(device);
  const baseline = options.baseline === undefined ? null : loadBaseline(options.baseline, { adapter, question });
  const coldBytes = options.isCold ? coldBytesOf(device) : 0;
  using probes = device.capabilities.timestamps ? new Probes(device) : null;
  await probes?.measure(6);
  const launch = await measureLaunches(device);
  const found = await measurement(device, probes, { ...options, coldBytes });
  const { rows } = found;
  const { rounds, seconds, seed } = options;
  const run = runInfo(device, {
    question,
    settings: { rounds, seconds, seed },
    ceilings: probes?.ceilings ?? UNKNOWN,
    launch,
    coldBytes: rows.some(({ cold }) => cold) ? coldBytes : null,
  });
  if (!baseline) return { results: { run, ...found }, report: {}, failed: [], missing: 0 };
  const compared = compareResults(rows, baseline);
  const { failAbove } = options;
  return {
    results: { run, ...found, rows: compared.rows },
    report: {
      failAbove,
      baseline: { name: options.baseline!, run: baseline.run, runNoise: compared.runNoise },
    },
    failed: compared.rows.filter(({ comparison: c }) => c && failAbove !== null && failsAbove(c, failAbove)),
    missing: compared.missing,
  };
}

export interface Alarm {
  readonly run: number;
  readonly row: RowResult;
}

/**
 * The same rows `count` + 1 times, each run compared with the one before: what is called slower by more than `share` is a false alarm. Returns
 * them with the number of comparisons.
 */
export async function compareWithItself(
  device: Device,
  measurement: Measurement,
  options: BenchOptions,
  {
    count,
    share,
    question = "kernels",
  }: { readonly count: number; readonly share: number; readonly question?: Question },
): Promise<{ alarms: Alarm[]; comparisons: number }> {
  const alarms: Alarm[] = [];
  let comparisons = 0;
  let before: Results | null = null;
  for (let run = 0; run <= count; run++) {
    const { results } = await runBench(question, device, measurement, { ...options, isCold: false });
    const { rows } = before ? compareResults(results.rows, before) : { rows: [] };
    comparisons += rows.length;
    for (const row of rows) if (row.comparison && failsAbove(row.comparison, share)) alarms.push({ run, row });
    before = results;
  }
  return { alarms, comparisons };
}
