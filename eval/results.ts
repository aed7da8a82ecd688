/** The results folder: `result.json` of each benchmark, and `results.json` and the pages over all of them. */
import { readFile, readdir } from "node:fs/promises";
import { join } from "node:path";
import { fileSize, writeFileAtomic } from "../model/node/files.ts";
import { messageOf } from "../engine/errors.ts";
import { ResultsError } from "./errors.ts";
import type { About } from "./about.ts";
import { BENCHMARKS } from "./recipe.ts";
import type { Benchmark } from "./recipe.ts";
import type { Score } from "./score/score.ts";
import { resultsMarkdown, resultsPage } from "./report/page.ts";

export interface Result {
  readonly about: About;
  readonly score: Score;
  readonly counts: {
    /** Items asked, or images drawn or judged. */
    readonly items: number;
    readonly scored: number;
    /** Rows that could not be asked or read; listed in `bad.jsonl`. */
    readonly bad: number;
  };
  /** Things about the data worth saying: another MD5 than the recipe's, rows of other splits. */
  readonly notices: readonly string[];
  /** SHA-256 of the predictions file; null for scores of other files. */
  readonly predictions: string | null;
}

export type Results = ReadonlyMap<Benchmark, Result>;

const json = (value: unknown): Uint8Array => Buffer.from(`${JSON.stringify(value, null, 2)}\n`);

/** Writes the result of a benchmark, then `results.json`, `results.md` and `results.html` over all in the folder. */
export async function writeResult(out: string, benchmark: Benchmark, result: Result): Promise<Results> {
  await writeFileAtomic(join(out, benchmark, "result.json"), json(result));
  return writePages(out);
}

export async function writePages(out: string): Promise<Results> {
  const results = await readResults(out);
  await writeFileAtomic(join(out, "results.json"), json({ version: 1, benchmarks: Object.fromEntries(results) }));
  await writeFileAtomic(join(out, "results.md"), Buffer.from(resultsMarkdown(results)));
  await writeFileAtomic(join(out, "results.html"), Buffer.from(resultsPage(results)));
  return results;
}

/** The results in a folder, in the order of the report. Throws `ResultsError` for a file that is none. */
export async function readResults(out: string): Promise<Results> {
  const names = await readdir(out).catch(() => [] as string[]);
  const results = new Map<Benchmark, Result>();
  for (const benchmark of BENCHMARKS) {
    const path = join(out, benchmark, "result.json");
    if (!names.includes(benchmark) || (await fileSize(path)) === null) continue;
    try {
      results.set(benchmark, JSON.parse(await readFile(path, "utf8")) as Result);
    } catch (error) {
      throw new ResultsError(`${path}: a result is required; ${messageOf(error)}. Remove the file and score again`);
    }
  }
  return results;
}
