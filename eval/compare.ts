/** Two runs of the same benchmarks, paired by item: the difference, its test, and the items that flipped. */
import { join } from "node:path";
import { ResultsError } from "./errors.ts";
import { isBad, readLines } from "./predictions.ts";
import type { PredictionLine } from "./predictions.ts";
import { loadRecipe } from "./recipe.ts";
import type { AskRecipe, Benchmark } from "./recipe.ts";
import { readResults } from "./results.ts";
import type { Result } from "./results.ts";
import { bootstrap, mcnemar } from "./statistics.ts";
import type { Interval } from "./statistics.ts";
import { mean } from "./score/score.ts";
import { scoreOf } from "./score/understanding.ts";

export interface Flip {
  readonly id: string;
  readonly category: string | null;
  readonly expected: string;
  readonly a: string | null;
  readonly b: string | null;
  /** Which one is right. */
  readonly right: "a" | "b";
}

export interface Comparison {
  readonly benchmark: Benchmark;
  readonly a: number | null;
  readonly b: number | null;
  /** Items (questions with all rotations, images with both questions) in both runs. */
  readonly paired: number;
  readonly onlyA: number;
  readonly onlyB: number;
  /** McNemar's exact test of right and wrong units; null if only a judge can tell. */
  readonly p: number | null;
  /** 95 % interval of b − a of the headline, by resampling pairs; null if it has none. */
  readonly difference: Interval | null;
  readonly flips: readonly Flip[];
  /** What differs between the runs besides the model. */
  readonly differs: readonly string[];
}

type Unit = readonly [readonly PredictionLine[], readonly PredictionLine[]];

/** Compares what both folders have. Throws `ResultsError` if they have nothing in common. */
export async function compareRuns(a: string, b: string): Promise<Comparison[]> {
  const [first, second] = [await readResults(a), await readResults(b)];
  const both = [...first.keys()].filter((benchmark) => second.has(benchmark));
  if (both.length === 0) throw new ResultsError(`compare: both folders must have results of one benchmark; got ${[...first.keys()].join(", ") || "none"} in ${a} and ${[...second.keys()].join(", ") || "none"} in ${b}`); // prettier-ignore
  const comparisons: Comparison[] = [];
  for (const benchmark of both) comparisons.push(await compareOne(benchmark, [a, b], [first.get(benchmark)!, second.get(benchmark)!])); // prettier-ignore
  return comparisons;
}

async function compareOne(
  benchmark: Benchmark,
  folders: readonly [string, string],
  results: readonly [Result, Result],
): Promise<Comparison> {
  // prettier-ignore
  const [a, b] = results;
  const differs = (["recipe", "file", "limit"] as const).filter((key) => JSON.stringify(a.about[key]) !== JSON.stringify(b.about[key])); // prettier-ignore
  const figures = { benchmark, a: a.score.headline.value, b: b.score.headline.value, differs };
  const none = { ...figures, paired: 0, onlyA: 0, onlyB: 0, p: null, difference: null, flips: [] };
  if (a.predictions === null || b.predictions === null) return none;
  const lines = await Promise.all(folders.map(async (folder) => (await readLines(join(folder, benchmark, "predictions.jsonl"))).lines.filter((line): line is PredictionLine => !isBad(line)))); // prettier-ignore
  const units = paired(lines[0]!, lines[1]!);
  const flips = flipsOf(units);
  const right = (side: 0 | 1): boolean[] => units.map((unit) => unit[side].every(({ correct }) => correct));
  const [rightA, rightB] = [right(0), right(1)];
  const onlyA = rightA.filter((is, i) => is && !rightB[i]).length;
  const onlyB = rightB.filter((is, i) => is && !rightA[i]).length;
  const isJudged = lines.flat().some(({ correct }) => correct === null);
  return {
    ...figures,
    paired: units.length,
    onlyA,
    onlyB,
    p: isJudged ? null : mcnemar(onlyA, onlyB),
    difference: isJudged ? null : differenceOf(benchmark, units),
    flips: isJudged ? [] : flips,
  };
}

/** Items in both, those of one group (rotations, one image) as one unit. */
function paired(a: readonly PredictionLine[], b: readonly PredictionLine[]): Unit[] {
  const other = new Map(b.map((line) => [line.id, line]));
  const units = new Map<string, [PredictionLine[], PredictionLine[]]>();
  for (const line of a) {
    const same = other.get(line.id);
    if (!same) continue;
    const key = line.group === null ? `id ${line.id}` : `group ${line.category} ${line.group}`;
    const unit = units.get(key) ?? [[], []];
    unit[0].push(line);
    unit[1].push(same);
    units.set(key, unit);
  }
  return [...units.values()];
}

const flipsOf = (units: readonly Unit[]): Flip[] =>
  units.flatMap(([a, b]) =>
    a.flatMap((one, i): Flip[] => {
      const { id, category, expected, parsed, correct } = one;
      const other = b[i]!;
      return correct === other.correct ? [] : [{ id, category, expected, a: parsed, b: other.parsed, right: correct ? "a" : "b" }]; // prettier-ignore
    }),
  );

/** 95 % interval of the difference of the headlines, by resampling units. */
function differenceOf(benchmark: Benchmark, units: readonly Unit[]): Interval | null {
  const recipe = loadRecipe(benchmark).recipe as AskRecipe; // benchmarks that draw have no predictions
  const isShare = recipe.scorer.name !== "yes-no" && recipe.scorer.name !== "mme";
  const right = units.map((unit) => unit.map((lines) => (lines.every(({ correct }) => correct) ? 100 : 0)));
  const headline = (chosen: readonly number[], side: 0 | 1): number | null =>
    isShare
      ? mean(chosen.map((i) => right[i]![side]!))
      : scoreOf(recipe, chosen.flatMap((i, k) => relabelled(units[i]![side], k)), undefined, false).headline.value; // prettier-ignore
  return bootstrap(units.length, (chosen) => {
    const [a, b] = [headline(chosen, 0), headline(chosen, 1)];
    return a === null || b === null ? null : b - a;
  });
}

/** An image that is drawn twice must count as two. */
const relabelled = (lines: readonly PredictionLine[], k: number): PredictionLine[] =>
  lines.map((line) => (line.group === null ? line : { ...line, group: `${k}` }));
