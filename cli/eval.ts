/** `janus eval`: the benchmarks of the report, from their files to tables; `list` says what to get, `compare` compares two runs. */
import { spawnSync } from "node:child_process";
import { basename, isAbsolute } from "node:path";
import { fileURLToPath } from "node:url";
import { InvalidArgumentError, Option } from "commander";
import type { FloatDType } from "../model/io/cast.ts";
import type { Outcome } from "../eval/run.ts";
import type { Comparison } from "../eval/compare.ts";
import type { Benchmark } from "../eval/recipe.ts";
import type { Shard } from "../eval/ask.ts";
import { launchedBy } from "../train/node/ranks/launched.ts";
import type { AddCommand, Context } from "./context.ts";
import { UsageError } from "./errors.ts";
import { formatCount, formatDuration, table } from "./format.ts";
import { collect, wholeNumber } from "./options.ts";
import { ownVersion } from "./packages.ts";
import { addModelOptions, openJanus } from "./session.ts";
import type { ModelFlags, Session } from "./session.ts";

interface EvalFlags extends ModelFlags {
  readonly data: string;
  readonly out: string;
  readonly batch: number;
  readonly limit?: number;
  readonly shard?: Shard;
  readonly resume: "auto" | "never";
  readonly set?: readonly string[];
  readonly recipe?: readonly string[];
  readonly scores?: readonly string[];
  readonly judge?: string;
  readonly judgeModel?: string;
  readonly judgePrompt?: string;
}

function shard(text: string): Shard {
  const [, index, count] = /^(\d{1,4})\/(\d{1,4})$/.exec(text)?.map(Number) ?? [];
  if (index === undefined || count === undefined || index < 1 || index > count)
    throw new InvalidArgumentError("It must be k/n with k from 1 to n.");
  return { index: index - 1, count };
}

export const addEval: AddCommand = (program, context) => {
  const command = program
    .command("eval")
    .summary("evaluate a model on the benchmarks of the report")
    .description(
      "Evaluate a model on pope, mme, mmbench, seed, gqa, mmmu, mmvet (questions), geneval and dpg (images), with the recipes of the report. Downloads no data: janus eval list says which files to get. Running the same command again resumes.",
    )
    .argument("[benchmarks...]", "benchmarks to evaluate, in this order")
    .option("--data <folder>", "folder with the benchmarks' files", ".")
    .option("--out <folder>", "folder for predictions, images and results", "results")
    .addOption(new Option("--batch <n>", "questions answered together").argParser(wholeNumber(1, 1024)).default(8))
    .addOption(
      new Option("--limit <n>", "evaluate only the first n questions, images or prompts of each").argParser(wholeNumber(1)),
    )
    .addOption(
      new Option(
        "--shard <k/n>",
        "run part k of n; the part that ends last scores all (default: rank and size of mpirun or srun, else 1/1)",
      ).argParser(shard),
    )
    .addOption(
      new Option("--resume <when>", "auto: resume the run in --out. never: fail if --out has one")
        .choices(["auto", "never"])
        .default("auto"),
    )
    .option("--set <key=value>", "change a recipe, e.g. pope.system=… or decoding.maxNewTokens=64; may be given several times", collect)
    .option("--recipe <file>", "YAML file with changes of a recipe (benchmark: and keys); may be given several times", collect)
    .option("--scores <benchmark=file>", "score geneval or dpg from a detector's or VQA model's file, mmvet from a judge's file", collect)
    .option("--judge <url>", "judge mmvet by a model behind this OpenAI-compatible URL (key: OPENAI_API_KEY)")
    .option("--judge-model <name>", "model of --judge")
    .option("--judge-prompt <file>", "prompt of --judge: MM-Vet's mm-vet_evaluator.py or .ipynb, VLMEvalKit's mmvet.py, or a text with {question}, {answer} and {prediction}")
    .option("--json", "print one JSON object"); // prettier-ignore
  addModelOptions(command).action((benchmarks: string[], flags: EvalFlags) => run(benchmarks, flags, context));
  command
    .command("list")
    .summary("print the benchmarks and the files that they need")
    .description(
      "Print each benchmark with the file to download, its source, size, licence and MD5. Downloads nothing.",
    )
    .option("--json", "print one JSON object")
    .action(() => list(context));
  command
    .command("compare")
    .summary("compare two results folders item by item")
    .description("Compare two results folders: the difference of each benchmark with a test of pairs, and the items that flipped.")
    .argument("<a>", "results folder")
    .argument("<b>", "the other results folder")
    .option("--json", "print one JSON object")
    .action((a: string, b: string) => compare(a, b, context)); // prettier-ignore
};

async function benchmarksOf(names: readonly string[]): Promise<Benchmark[]> {
  const { BENCHMARKS } = await import("../eval/recipe.ts");
  const { nearestName } = await import("../engine/options.ts");
  if (names.length === 0) throw new UsageError(`name at least one benchmark: ${BENCHMARKS.join(", ")}`);
  for (const name of names) {
    if ((BENCHMARKS as readonly string[]).includes(name)) continue;
    const nearest = nearestName(name, BENCHMARKS);
    throw new UsageError(`${name} is no benchmark${nearest ? `; did you mean ${nearest}?` : ""} Known: ${BENCHMARKS.join(", ")}`); // prettier-ignore
  }
  return [...new Set(names)] as Benchmark[];
}

/** `--scores geneval=results.jsonl` */
async function scoresOf(texts: readonly string[] = []): Promise<Map<Benchmark, string>> {
  const scores = new Map<Benchmark, string>();
  for (const text of texts) {
    const [, name, file] = /^(geneval|dpg|mmvet)=(.+)$/s.exec(text) ?? [];
    if (name === undefined) throw new UsageError(`--scores ${text}: write geneval=FILE, dpg=FILE or mmvet=FILE`);
    scores.set(name as Benchmark, file!);
  }
  return scores;
}

/** The part that this process is of those that were started together, or all. */
function ownShard(): Shard {
  const { rank, size } = launchedBy() ?? { rank: 0, size: 1 };
  return { index: rank, count: size };
}

/** The GPU of a process among those that were started together on its machine. */
const ownAdapter = async (localRank: number): Promise<number | undefined> =>
  (await import("./ranks.ts")).adapterOf(localRank);

/** Commit of the checkout that this file belongs to, with a + if it has changes; null in an installed package. */
function ownCommit(): string | null {
  const cwd = fileURLToPath(new URL("..", import.meta.url));
  const git = (...args: string[]): string | null => {
    const { status, stdout } = spawnSync("git", args, { cwd, encoding: "utf8" });
    return status === 0 ? stdout.trim() : null;
  };
  // A package inside another project's checkout is not that project.
  if (git("ls-files", "--error-unmatch", "cli/eval.ts") === null) return null;
  const commit = git("rev-parse", "--short=12", "HEAD");
  return commit && (git("status", "--porcelain", "--untracked-files=no") ? `${commit}+` : commit);
}

async function run(names: readonly string[], flags: EvalFlags, context: Context): Promise<void> {
  const { out, signal } = context;
  const benchmarks = await benchmarksOf(names);
  const scores = await scoresOf(flags.scores);
  const strange = [...scores.keys()].find((name) => !benchmarks.includes(name));
  if (strange) throw new UsageError(`--scores ${strange}=… is given, but ${strange} is not evaluated; name it`);
  if ((flags.judge === undefined) !== (flags.judgeModel === undefined)) throw new UsageError("--judge and --judge-model are needed together"); // prettier-ignore
  if (flags.judge !== undefined && !benchmarks.includes("mmvet")) throw new UsageError("--judge judges mmvet, which is not evaluated; name it"); // prettier-ignore
  if (flags.judge !== undefined && !/^https?:$/.test(URL.canParse(flags.judge) ? new URL(flags.judge).protocol : "")) throw new UsageError(`--judge must be a URL with http or https, e.g. https://api.openai.com/v1; got ${flags.judge}`); // prettier-ignore
  const shard = flags.shard ?? ownShard();
  if (flags.judge !== undefined && shard.count > 1) throw new UsageError("--judge asks from one process: run it without mpirun and --shard, once the answers are there"); // prettier-ignore
  if (flags.judgePrompt !== undefined && flags.judge === undefined) throw new UsageError("--judge-prompt is the prompt of --judge: give both"); // prettier-ignore
  if (flags.plain) throw new UsageError("--plain is not needed: images are always read as the original code does");
  const { evaluate } = await import("../eval/run.ts");
  const { readJudgePrompt } = await import("../eval/judge.ts");
  let session: Session | null = null;
  const started = performance.now();
  using progress = out.progress("items");
  try {
    const outcomes = await evaluate({
      benchmarks,
      data: flags.data,
      out: flags.out,
      changes: {
        set: flags.set ?? [],
        files: flags.recipe ?? [],
        ...(flags.dtype && { dtype: flags.dtype }),
        ...(flags.judgePrompt !== undefined && { judgePrompt: await readJudgePrompt(flags.judgePrompt) }),
      },
      batch: flags.batch,
      limit: flags.limit ?? null,
      shard,
      canResume: flags.resume === "auto",
      scores,
      judge: flags.judge === undefined ? null : { url: flags.judge, model: flags.judgeModel!, key: process.env["OPENAI_API_KEY"] }, // prettier-ignore
      version: ownVersion(),
      commit: ownCommit(),
      load: async (dtype) => {
        const { dtype: _, ...given } = flags;
        const launched = launchedBy();
        const adapter = given.adapter ?? (launched && launched.size > 1 ? await ownAdapter(launched.localRank) : undefined); // prettier-ignore
        const rest = { ...given, ...(adapter !== undefined && { adapter }) };
        session = await openJanus(dtype === "checkpoint" ? rest : { ...rest, dtype: dtype as FloatDType }, context);
        const weights = session.janus.model.parameters()[0];
        const isPath = isAbsolute(flags.model) || flags.model.startsWith(".");
        return {
          janus: session.janus,
          name: isPath ? basename(flags.model) : flags.model,
          dtype: `${weights?.dtype ?? dtype}${flags.quantize ? `, ${flags.quantize}` : ""}${flags.kvCache ? `, cache ${flags.kvCache}` : ""}`,
        };
      },
      signal,
      onNotice: (message) => out.warn(message),
      onProgress: (label, done, total) => progress.report({ done, total, label }),
    }); // prettier-ignore
    progress.stop();
    await print(outcomes, { folder: flags.out, ms: performance.now() - started }, context);
  } finally {
    (session as Session | null)?.[Symbol.dispose]();
  }
}

async function print(
  outcomes: readonly Outcome[],
  { folder, ms }: { folder: string; ms: number },
  { out }: Context,
): Promise<void> {
  // prettier-ignore
  const { figureText } = await import("../eval/report/page.ts");
  const rows = outcomes.map(({ benchmark, result, next }) => {
    const places = benchmark === "geneval" ? 3 : 2;
    return [
      benchmark,
      result ? figureText(result.score.headline, places) : "–",
      result ? result.score.headline.name : (next ?? ""),
    ];
  });
  for (const { benchmark, result, work } of outcomes) {
    for (const note of result?.score.notes ?? []) out.note(`${benchmark}: ${note}`);
    if (result && result.counts.bad > 0) out.warn(`${benchmark}: ${result.counts.bad} rows could not be used; see ${folder}/${benchmark}/bad.jsonl`); // prettier-ignore
    if (work && work.questions > 0) out.note(`${benchmark}: questions asked: ${formatCount(work.questions)}; images encoded: ${formatCount(work.encoded)} of ${formatCount(work.images)}; beginnings of prompts computed: ${formatCount(work.prefixes)}`); // prettier-ignore
  }
  const isScored = outcomes.some(({ result }) => result);
  out.note(formatDuration(ms) + (isScored ? `; tables and recipes: ${folder}/results.html, results.md, results.json` : "")); // prettier-ignore
  out.result({ folder, ms, benchmarks: outcomes }, () => table(rows));
}

async function list({ out }: Context): Promise<void> {
  const { BENCHMARKS, loadRecipe } = await import("../eval/recipe.ts");
  const { detailsText } = await import("../eval/data.ts");
  const recipes = BENCHMARKS.map((benchmark) => loadRecipe(benchmark).recipe);
  const known = recipes.map(({ benchmark, title, files, kind, scorer }) => ({ benchmark, title, kind, scorer, files }));
  out.result({ benchmarks: known }, () =>
    recipes
      .map(({ benchmark, title, files }) => [`${benchmark} (${title})`, ...files.flatMap((file) => [`  ${file.name} from ${file.url}`, `    ${detailsText(file)}`])].join("\n"))
      .join("\n"),
  ); // prettier-ignore
}

const SHOWN_FLIPS = 20;

async function compare(a: string, b: string, { out }: Context): Promise<void> {
  const { compareRuns } = await import("../eval/compare.ts");
  const comparisons = await compareRuns(a, b);
  for (const { benchmark, differs } of comparisons)
    if (differs.length > 0) out.warn(`${benchmark}: the runs differ in ${differs.join(", ")}`);
  out.result({ comparisons }, () => comparisons.map(comparisonText).join("\n"));
}

function comparisonText({ benchmark, a, b, paired, onlyA, onlyB, p, difference, flips }: Comparison): string {
  const value = (figure: number | null): string => (figure === null ? "–" : figure.toFixed(2));
  const lines = [
    `${benchmark}: ${value(a)} and ${value(b)}`,
    `  ${paired} pairs; right only in the first: ${onlyA}, only in the second: ${onlyB}${p === null ? "" : `; McNemar p = ${p.toPrecision(3)}`}`,
  ];
  if (difference) lines.push(`  difference ${value(b! - a!)} [${value(difference.low)}, ${value(difference.high)}] (95 %, resampled pairs)`); // prettier-ignore
  for (const { id, expected, a: first, b: second, right } of flips.slice(0, SHOWN_FLIPS))
    lines.push(`  ${id}: ${JSON.stringify(first)} and ${JSON.stringify(second)}, expected ${JSON.stringify(expected)}: ${right === "a" ? "first" : "second"} right`); // prettier-ignore
  if (flips.length > SHOWN_FLIPS) lines.push(`  ${flips.length - SHOWN_FLIPS} more with --json`);
  return lines.join("\n");
}
