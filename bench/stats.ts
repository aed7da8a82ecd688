/**
 * Statistics of the bench: medians and spreads, and whether one set of rounds is slower than another beyond noise. Robust throughout: a
 * machine that is shared has samples ten times as long as others, and no mean survives those.
 */
import { randomFrom } from "../tests/random.ts";

/** Times of a call, ms. The spread is that of all samples; the median is that of the medians of the rounds. */
export interface Spread {
  readonly medianMs: number;
  readonly p20Ms: number;
  readonly p80Ms: number;
  readonly samples: number;
  /** Median of each round. Rounds of all rows are interleaved, so what the machine does meanwhile meets every row. */
  readonly rounds: readonly number[];
}

/** @param sorted ascending; @param share from 0 to 1 */
export const percentile = (sorted: readonly number[], share: number): number =>
  sorted[Math.min(sorted.length - 1, Math.floor(share * sorted.length))]!;

/** The middle value, or the mean of the two in the middle. */
export function median(values: readonly number[]): number {
  const sorted = [...values].sort((a, b) => a - b);
  const middle = sorted.length >> 1;
  return sorted.length % 2 ? sorted[middle]! : (sorted[middle - 1]! + sorted[middle]!) / 2;
}

/** @param rounds samples of each round, ms; rounds without a sample are left out */
export function spreadOf(rounds: readonly (readonly number[])[]): Spread {
  const filled = rounds.filter((samples) => samples.length > 0);
  const all = filled.flat().sort((a, b) => a - b);
  const medians = filled.map(median);
  return {
    medianMs: median(medians),
    p20Ms: percentile(all, 0.2),
    p80Ms: percentile(all, 0.8),
    samples: all.length,
    rounds: medians,
  };
}

export type Verdict = "slower" | "faster" | "same";

/** How long something takes now against before. */
export interface Comparison {
  /** Time now / time before: above 1 is slower. */
  readonly ratio: number;
  /** Interval of the ratio that covers it in 99 of 100 runs. */
  readonly low: number;
  readonly high: number;
  /** "same" if the interval contains 1. */
  readonly verdict: Verdict;
}

export interface CompareOptions {
  /** Rounds of both lie next to each other in time: each is compared with its neighbour, which drops what both met. */
  readonly isPaired?: boolean;
  /** Standard deviation of ln(time) between two runs of the same code, for rounds of different runs; see `noiseBetweenRuns`. */
  readonly runNoise?: number;
  readonly seed?: number;
}

const RESAMPLES = 2000;
/** Probability that the interval misses on each side. Twenty comparisons of equal things then give two alarms in 1 of 200 cases. */
const TAIL = 0.005;
/** Rounds below which no verdict is given: a median of three has no interval. */
export const MIN_ROUNDS = 5;

/**
 * Compares round medians by the ratio of their medians, with a bootstrap interval over rounds, widened by √(n / (n − 1)): the percentiles of
 * resamples are too narrow for few rounds. Of 1000 comparisons of equal things with drift and outliers 2 to 15 are called slower (10 rounds).
 */
export function compareRounds(
  before: readonly number[],
  now: readonly number[],
  { isPaired = false, runNoise = 0, seed = 1 }: CompareOptions = {},
): Comparison {
  const count = Math.min(before.length, now.length);
  const [a, b] = [before.map(Math.log), now.map(Math.log)];
  const pairs = isPaired ? Array.from({ length: count }, (_, i) => b[i]! - a[i]!) : null;
  const centre = pairs ? median(pairs) : median(b) - median(a);
  const random = randomFrom(seed);
  const pick = (values: readonly number[]): number =>
    median(values.map(() => values[Math.floor(random() * values.length)]!));
  const resamples = Array.from({ length: RESAMPLES }, () => {
    const moved = pairs ? pick(pairs) : pick(b) - pick(a);
    return moved + (runNoise ? runNoise * Math.SQRT2 * gauss(random) : 0);
  }).sort((x, y) => x - y);
  const widen = Math.sqrt(count / Math.max(1, count - 1));
  const low = Math.exp(centre + widen * (percentile(resamples, TAIL) - centre));
  const high = Math.exp(centre + widen * (percentile(resamples, 1 - TAIL) - centre));
  const isKnown = count >= MIN_ROUNDS;
  const verdict = !isKnown || (low <= 1 && high >= 1) ? "same" : low > 1 ? "slower" : "faster";
  return { ratio: Math.exp(centre), low, high, verdict };
}

/** Two runs of one program differ by more than their rounds do (addresses, what else ran): at least by so much, standard deviation of ln(time). */
const LEAST_RUN_NOISE = 0.02;
/** Rows that it takes to estimate the noise between two runs from them. */
const ROWS_FOR_NOISE = 8;

/**
 * Noise between two runs, from the ratios of all their rows: most rows did not change, so the spread of the middle half is noise. Their common
 * shift is not part of it, and stays in each ratio.
 */
export function noiseBetweenRuns(ratios: readonly number[]): number {
  if (ratios.length < ROWS_FOR_NOISE) return LEAST_RUN_NOISE;
  const logs = ratios.map(Math.log);
  const centre = median(logs);
  const deviation = 1.4826 * median(logs.map((x) => Math.abs(x - centre)));
  return Math.max(LEAST_RUN_NOISE, deviation / Math.SQRT2);
}

/** Whether a row is slower beyond noise, and by more than `share` (0.05: 5 %). */
export const failsAbove = ({ ratio, verdict }: Comparison, share: number): boolean =>
  verdict === "slower" && ratio > 1 + share;

/** A normal deviate (Box and Muller). */
const gauss = (random: () => number): number =>
  Math.sqrt(-2 * Math.log(1 - random())) * Math.cos(2 * Math.PI * random());
