/** The table of results: what its columns are called and mean, and how numbers are written. One table for the terminal, Markdown and HTML. */
import { failsAbove } from "./stats.ts";
import type { Comparison, Spread } from "./stats.ts";
import { wallOf } from "./results.ts";
import type { Flag, RowResult } from "./results.ts";

export interface Column {
  readonly head: string;
  /** What it means, for the legend. */
  readonly meaning: string;
  readonly cell: (row: RowResult) => string;
  /** Numbers are flush right. */
  readonly isText?: boolean;
}

/** Three digits. */
export function number(value: number): string {
  if (value === 0) return "0";
  const size = Math.abs(value);
  if (size >= 1e6) return value.toExponential(2);
  if (size >= 100) return value.toLocaleString("en-US", { maximumFractionDigits: 0 });
  return value.toPrecision(3);
}
const percent = (share: number): string => `${(100 * share).toFixed(0)} %`;
const medianOf = (spread: Spread | null): string => (spread ? number(spread.medianMs) : "-");

const FLAGS: Readonly<Record<Flag, string>> = { "gpu>wall": "GPU > wall", "host-bound": "host-bound" };

/** `1.06× slower (1.02 to 1.10)`; a verdict only beyond noise. */
export function comparisonText({ ratio, low, high, verdict }: Comparison): string {
  const interval = `${low.toFixed(2)} to ${high.toFixed(2)}`;
  return verdict === "same" ? `same (${interval})` : `${ratio.toFixed(2)}× ${verdict} (${interval})`;
}

const COLUMNS: readonly Column[] = [
  { head: "row", meaning: "op, sizes and dtype", cell: ({ name }) => name, isText: true },
  { head: "launches", meaning: "kernels that a call launches", cell: ({ launches }) => String(launches) },
  { head: "GPU ms", meaning: "GPU time of these launches by timestamps, median of rounds", cell: ({ gpu }) => medianOf(gpu) },
  { head: "eager ms", meaning: "wall time of a call, op by op; calls are put behind each other, the wait for the device is shared", cell: ({ eager }) => medianOf(eager) },
  { head: "captured ms", meaning: "wall time of a call, replayed from a capture", cell: ({ captured }) => medianOf(captured) },
  { head: "p20–p80", meaning: "20th and 80th percentile of the shorter of the two", cell: (row) => spread(row) },
  { head: "cold ms", meaning: "wall time of an eager call whose inputs are in no cache", cell: ({ cold }) => medianOf(cold) },
  { head: "GFLOP/s", meaning: "arithmetic that the launches state, by GPU time (wall time without timestamps)", cell: ({ rates }) => (rates ? number(rates.gflops) : "-") },
  { head: "of FMA", meaning: "share of this run's multiply-add ceiling", cell: ({ rates }) => (rates ? percent(rates.flopShare) : "-") },
  { head: "GB/s", meaning: "bytes that the launches state, by the same time", cell: ({ rates }) => (rates ? number(rates.gbytesPerSecond) : "-") },
  { head: "of read", meaning: "share of this run's streaming read; above 100 % the data is in a cache", cell: ({ rates }) => (rates ? percent(rates.readShare) : "-") },
  { head: "of copy", meaning: "share of this run's streaming copy", cell: ({ rates }) => (rates ? percent(rates.copyShare) : "-") },
]; // prettier-ignore

const FLAG_COLUMN: Column = {
  head: "note",
  meaning:
    "GPU > wall: the two clocks contradict each other (other work ran between the timestamps), no rate is given. host-bound: calls take 1.5 times their GPU time or more",
  cell: ({ flags }) => flags.map((flag) => FLAGS[flag]).join(", "),
  isText: true,
};

const spread = (row: RowResult): string => {
  const { p20Ms, p80Ms } = wallOf(row);
  return `${number(p20Ms)}–${number(p80Ms)}`;
};

/** The columns that these rows need. */
export function columnsOf(rows: readonly RowResult[], failAbove: number | null = null): Column[] {
  const extras = [...new Set(rows.flatMap(({ extra }) => Object.keys(extra ?? {})))].map((head): Column => ({
    head,
    meaning: `${head} of a call`,
    cell: ({ extra }) => (extra?.[head] === undefined ? "-" : number(extra[head])),
  }));
  const against: Column = {
    head: "against baseline",
    meaning: "time now / time before with its 99 % interval; slower or faster only if the interval excludes 1",
    cell: ({ comparison }) =>
      comparison
        ? `${comparisonText(comparison)}${failAbove !== null && failsAbove(comparison, failAbove) ? " FAIL" : ""}`
        : "not in it",
    isText: true,
  };
  const columns = COLUMNS.filter(
    ({ head }) =>
      (head !== "cold ms" || rows.some(({ cold }) => cold)) &&
      (head !== "captured ms" || rows.some(({ captured }) => captured)),
  );
  return [
    ...columns,
    ...extras,
    ...(rows.some(({ flags }) => flags.length) ? [FLAG_COLUMN] : []),
    ...(rows.some(({ comparison }) => comparison) ? [against] : []),
  ];
}
