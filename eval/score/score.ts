/** Scores: one headline figure and others by category, each with its 95 % interval and its count. */
import { wilson } from "../statistics.ts";
import type { Interval } from "../statistics.ts";

export interface Figure {
  readonly name: string;
  /** Null if it cannot be computed from the rows there are. */
  readonly value: number | null;
  /** 95 %; null for figures without one. */
  readonly interval: Interval | null;
  /** What it is the mean over: items, groups, images. */
  readonly n: number;
  readonly note?: string;
}

export interface Score {
  readonly headline: Figure;
  readonly figures: readonly Figure[];
  /** Things that a reader of the headline has to know. */
  readonly notes: readonly string[];
}

/** An answered item, as in `predictions.jsonl`. */
export interface Prediction {
  readonly id: string;
  readonly category: string | null;
  readonly group: string | null;
  readonly expected: string;
  /** Raw text. */
  readonly answer: string;
  readonly parsed: string | null;
  /** Null if only a judge can tell. */
  readonly correct: boolean | null;
  /** mmmu, official: the letter was drawn, since the answer names none. */
  readonly drawn?: boolean;
}

/** A share in per cent with Wilson's interval. */
export function share(name: string, hits: number, n: number, note?: string): Figure {
  const { low, high } = wilson(hits, n);
  return {
    name,
    value: n === 0 ? null : (100 * hits) / n,
    interval: n === 0 ? null : { low: 100 * low, high: 100 * high },
    n,
    ...(note !== undefined && { note }),
  };
}

/** Values by a key, keys in order of their names; those without a key are left out. */
export function groupBy<T>(values: readonly T[], key: (value: T) => string | null): [string, T[]][] {
  const groups = new Map<string, T[]>();
  for (const value of values) {
    const name = key(value);
    if (name === null) continue;
    const group = groups.get(name);
    if (group) group.push(value);
    else groups.set(name, [value]);
  }
  return [...groups].sort(([a], [b]) => (a < b ? -1 : a > b ? 1 : 0));
}

export const mean = (values: readonly number[]): number =>
  values.reduce((sum, value) => sum + value, 0) / values.length;
