/** Results against those of another run, row by row. */
import type { Results, RowResult } from "./results.ts";
import { timeOf } from "./results.ts";
import { compareRounds, median, noiseBetweenRuns } from "./stats.ts";

/**
 * Times of the rounds, in units of what the machine could do in each: ms × rate of the ceiling that bounds the row. A machine that others use,
 * or whose clock changes, is as slow for the ceiling as for the row.
 */
function adjusted(row: RowResult, by: "gflops" | "readGbs" | null): number[] {
  const { rounds } = timeOf(row);
  const probe = by ? row.probes[by] : [];
  return rounds.map((ms, i) => (probe.length === rounds.length ? ms * probe[i]! : ms));
}

/** Which ceiling bounds a row; null if neither does: it is bound by the launch. */
function boundOf({ rates }: RowResult): "gflops" | "readGbs" | null {
  if (!rates || Math.max(rates.flopShare, rates.readShare) < 0.1) return null;
  return rates.flopShare > rates.readShare ? "gflops" : "readGbs";
}

/** The rows with their comparison; those that the baseline lacks stay without one. Says how many rows of the baseline were not measured. */
export function compareResults(
  now: readonly RowResult[],
  baseline: Results,
): { rows: RowResult[]; runNoise: number; missing: number } {
  const before = new Map(baseline.rows.map((row) => [row.name, row]));
  const pairs = now.flatMap((row) => {
    const old = before.get(row.name);
    if (!old) return [];
    const bound = boundOf(old);
    return [{ row, a: adjusted(old, bound), b: adjusted(row, bound) }];
  });
  const runNoise = noiseBetweenRuns(pairs.map(({ a, b }) => median(b) / median(a)));
  const compared = new Map(pairs.map(({ row, a, b }) => [row.name, compareRounds(a, b, { runNoise })]));
  return {
    rows: now.map((row) => ({ ...row, ...(compared.has(row.name) && { comparison: compared.get(row.name)! }) })),
    runNoise,
    missing: before.size - compared.size,
  };
}
