/** Intervals and tests. All random draws are counter-based, so that a report is the same in each run. */
import { philox, seedWords, unitFloat } from "../engine/random.ts";

export interface Interval {
  readonly low: number;
  readonly high: number;
}

const Z = 1.959963984540054; // 97.5 % of the normal distribution
const RESAMPLES = 1000;

/** 95 % interval of a share, by Wilson's score. */
export function wilson(hits: number, n: number): Interval {
  if (n === 0) return { low: 0, high: 1 };
  const p = hits / n;
  const centre = (p + Z ** 2 / (2 * n)) / (1 + Z ** 2 / n);
  const half = (Z / (1 + Z ** 2 / n)) * Math.sqrt((p * (1 - p)) / n + Z ** 2 / (4 * n ** 2));
  return { low: Math.max(0, centre - half), high: Math.min(1, centre + half) };
}

/** Whole numbers below n, the same for the same stream. */
function* picks(n: number, stream: number): Generator<number, never> {
  const key = seedWords(20);
  for (let block = 0; ; block++)
    for (const word of philox([block, stream, 0, 0xb007], key)) yield Math.floor(unitFloat(word) * n);
}

/** Percentile 2.5 and 97.5 of `statistic` over resamples with replacement of n units. Resamples without a value (null) are left out. */
export function bootstrap(n: number, statistic: (units: readonly number[]) => number | null): Interval | null {
  if (n === 0) return null;
  const values: number[] = [];
  for (let r = 0; r < RESAMPLES; r++) {
    const draw = picks(n, r);
    const value = statistic(Array.from({ length: n }, () => draw.next().value));
    if (value !== null) values.push(value);
  }
  if (values.length === 0) return null;
  values.sort((a, b) => a - b);
  const at = (share: number): number => values[Math.min(values.length - 1, Math.floor(share * values.length))]!;
  return { low: at(0.025), high: at(0.975) };
}

/** Two-sided exact p of McNemar's test: `onlyA` items are right in A alone, `onlyB` in B alone. */
export function mcnemar(onlyA: number, onlyB: number): number {
  const n = onlyA + onlyB;
  if (n === 0) return 1;
  // Sum of binomial probabilities of at most min(onlyA, onlyB), in logarithms.
  let [log, sum] = [-n * Math.LN2, 0];
  for (let k = 0; k <= Math.min(onlyA, onlyB); k++) {
    sum += Math.exp(log);
    log += Math.log(n - k) - Math.log(k + 1);
  }
  return Math.min(1, 2 * sum);
}
