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
import type { Found, Question, Results, RowResult, RunInfo, WrongRow } from "./results.ts";
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
  /** Called with all that was measured so far: after each row, and once more before an error is thrown that ends the run. */
  readonly onResults?: (results: Results) => void;
}

/** What a question measures, after the ceilings. */
export type Measurement = (
  device: Device,
  probes: Probes | null,
  options: BenchOptions & { readonly coldBytes: number; readonly onFound: (found: Found) => void },
) => Promise<Found>;

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
  const { rounds, seconds, seed } = options;
  const about = runInfo(device, {
    question,
    settings: { rounds, seconds, seed },
    ceilings: UNKNOWN,
    launch,
    coldBytes,
  });
  const runOf = ({ rows }: Found): RunInfo => ({
    ...about,
    ceilings: probes?.ceilings ?? UNKNOWN,
    coldBytes: rows.some(({ cold }) => cold) ? coldBytes : null,
  });
  const found = await reporting(options, runOf, (reports) =>
    measurement(device, probes, { ...options, ...reports, coldBytes }),
  );
  const { rows } = found;
  const run = runOf(found);
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

type Reports = Required<Pick<BenchOptions, "onRow">> & { readonly onFound: (found: Found) => void };

/** Calls `measure` with what it is to report to, and hands all reports of a run on to `onResults`, marked as incomplete. */
async function reporting(
  { onResults }: BenchOptions,
  runOf: (found: Found) => RunInfo,
  measure: (reports: Reports) => Promise<Found>,
): Promise<Found> {
  const rows: RowResult[] = [];
  const wrong: WrongRow[] = [];
  let latest: Found | null = null;
  const show = (incomplete: string): void => {
    if (latest) onResults?.({ run: { ...runOf(latest), incomplete }, ...latest });
  };
  const onFound = (found: Found): void => {
    latest = found;
    show("the run had not ended");
  };
  const onRow = (row: RowResult | WrongRow): void => {
    if (row.kind === "row") rows.push(row);
    else wrong.push(row);
    onFound({ rows, wrong });
  };
  try {
    return await measure({ onRow, onFound });
  } catch (error) {
    show(error instanceof Error ? error.message.split("\n")[0]! : String(error));
    throw error;
  }
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
