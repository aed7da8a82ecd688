/** Evaluates benchmarks: all files are found and checked before a model is loaded, each benchmark then runs or resumes, and is scored. */
import { createHash } from "node:crypto";
import { mkdir, readFile } from "node:fs/promises";
import { basename, join } from "node:path";
import type { Janus } from "../model/janus/pipeline.ts";
import { recipeParts, sha256 } from "./about.ts";
import type { About, ModelAbout } from "./about.ts";
import { ask, isBegun, limited, partOf, predictionsHash, rescored, usable } from "./ask.ts";
import type { Shard } from "./ask.ts";
import type { Work } from "./answering.ts";
import { expectedMd5, findData, openData } from "./data.ts";
import { dpgLayout, draw, genevalLayout, genevalName, isDrawn, readDpgPrompts } from "./draw.ts";
import type { DrawPrompt, Layout } from "./draw.ts";
import { EvalDataError, RecipeError, ResultsError } from "./errors.ts";
import { itemsOf, withoutRotations } from "./items.ts";
import type { Items } from "./items.ts";
import { judge, plainId, readScores, writeAnswers } from "./judge.ts";
import type { Judge } from "./judge.ts";
import { lockBenchmark } from "./lock.ts";
import { loadRecipe } from "./recipe.ts";
import type { AskRecipe, Benchmark, DrawRecipe, LoadedRecipe, RecipeChanges } from "./recipe.ts";
import type { Table } from "./read/table.ts";
import { writeResult } from "./results.ts";
import type { Result } from "./results.ts";
import { readDpgAnswers, readDpgQuestions, scoreDpg } from "./score/dpg.ts";
import { readGenevalPrompts, readJudgedImages, scoreGeneval } from "./score/geneval.ts";
import type { GenevalPrompt } from "./score/geneval.ts";
import type { Score } from "./score/score.ts";
import { scoreOf } from "./score/understanding.ts";
import { fileSize } from "../model/node/files.ts";
import type { RunLock } from "../train/node/run/lock.ts";

export interface EvalOptions {
  readonly benchmarks: readonly Benchmark[];
  /** Folder with the benchmarks' files. */
  readonly data: string;
  readonly out: string;
  readonly changes: RecipeChanges;
  readonly batch: number;
  /** Only the first items of each benchmark; null for all. */
  readonly limit: number | null;
  readonly shard: Shard;
  /** False refuses an output folder that has a run of a benchmark. */
  readonly canResume: boolean;
  /** Files with scores of others by benchmark: a detector's, a VQA model's, a judge's. */
  readonly scores: ReadonlyMap<Benchmark, string>;
  readonly judge: Omit<Judge, "prompt"> | null;
  readonly version: string;
  readonly commit: string | null;
  /** Loads the model, once; it is not called if there is nothing to ask or draw. */
  readonly load: (dtype: DrawRecipe["dtype"]) => Promise<{
    readonly janus: Janus;
    /** Name for the pages. */
    readonly name: string;
    readonly dtype: string;
  }>;
  readonly signal: AbortSignal;
  readonly onNotice: (message: string) => void;
  readonly onProgress: (benchmark: Benchmark, done: number, total: number) => void;
}

export interface Outcome {
  readonly benchmark: Benchmark;
  /** Null if other shards are not complete, or if the images are drawn and not judged. */
  readonly result: Result | null;
  /** What to do next, if there is no result. */
  readonly next: string | null;
  readonly work: Work | null;
}

interface Common {
  readonly loaded: LoadedRecipe;
  readonly folder: string;
  readonly file: About["file"];
}
interface PreparedAsk extends Common {
  readonly kind: "ask";
  readonly recipe: AskRecipe;
  readonly table: Table;
  readonly items: Items;
}
interface PreparedDraw extends Common {
  readonly kind: "draw";
  readonly recipe: DrawRecipe;
  readonly prompts: readonly DrawPrompt[];
  /** GenEval's. */
  readonly metadata: readonly GenevalPrompt[];
  /** DPG's CSV. */
  readonly questions: string | null;
}
type Prepared = PreparedAsk | PreparedDraw;

/** Finds and checks the files of all benchmarks. Throws one `EvalDataError` that names every missing file. */
async function prepareAll(options: EvalOptions): Promise<Prepared[]> {
  const recipes = options.benchmarks.map((benchmark) => loadRecipe(benchmark, options.changes));
  const [dtype, other] = new Set(recipes.map(({ recipe }) => recipe.dtype));
  if (other !== undefined) throw new RecipeError(`eval: all benchmarks of one call must have one dtype, since they share the model; got ${dtype} and ${other}. Use several calls`); // prettier-ignore
  for (const path of options.scores.values())
    if ((await fileSize(path)) === null) throw new EvalDataError(`--scores ${path}: there is no such file`);
  if (options.scores.has("mmvet")) await readScores(options.scores.get("mmvet")!);
  const missing: string[] = [];
  const found: (readonly string[])[] = [];
  for (const { recipe } of recipes) {
    try {
      found.push(await findData(options.data, recipe));
    } catch (error) {
      if (!(error instanceof EvalDataError)) throw error;
      missing.push(error.message);
    }
  }
  if (missing.length > 0) throw new EvalDataError(missing.join("\n"));
  const prepared: Prepared[] = [];
  try {
    for (const [i, loaded] of recipes.entries()) {
      const one = await prepare(options, loaded, found[i]!);
      prepared.push(one);
      if (!options.canResume && (await hasWork(one, options.shard)))
        throw new ResultsError(`${one.folder}: with --resume never the folder must have no run; got one. Use another --out, or --resume auto`); // prettier-ignore
    }
  } catch (error) {
    await closeAll(prepared);
    throw error;
  }
  return prepared;
}

/** True if the folder has predictions or images of this shard. Other shards may have begun this moment: their files do not count. */
async function hasWork(one: Prepared, shard: Shard): Promise<boolean> {
  if (one.kind === "ask") return isBegun(one.folder, shard);
  const layout = layoutOf(one);
  const files = partOf(one.prompts, shard).flatMap((prompt) => layout.files(prompt));
  return (await Promise.all(files.map(fileSize))).some((size) => size !== null);
}

async function closeAll(prepared: readonly Prepared[]): Promise<void> {
  for (const one of prepared) if (one.kind === "ask") await one.table.close();
}

async function prepare(options: EvalOptions, loaded: LoadedRecipe, paths: readonly string[]): Promise<Prepared> {
  const { recipe } = loaded;
  const folder = join(options.out, recipe.benchmark);
  const about = (md5: string): About["file"] => ({ name: paths.map((path) => basename(path)).join(", "), md5, expectedMd5: expectedMd5(paths[0]!, recipe) }); // prettier-ignore
  if (recipe.kind === "ask") {
    const table = await openData(paths, recipe);
    try {
      const items = limited(itemsOf(table, recipe), options.limit);
      return { kind: "ask", recipe, loaded, folder, table, items, file: about(table.md5) };
    } catch (error) {
      await table.close();
      throw error;
    }
  }
  const cut = <T>(all: readonly T[]): readonly T[] => (options.limit === null ? all : all.slice(0, options.limit));
  if (recipe.benchmark === "geneval") {
    const metadata = await readGenevalPrompts(paths[0]!);
    const prompts = cut(metadata.map(({ prompt }, i) => ({ name: genevalName(i), prompt })));
    const md5 = createHash("md5").update(await readFile(paths[0]!)).digest("hex"); // prettier-ignore
    return { kind: "draw", recipe, loaded, folder, prompts, metadata, questions: null, file: about(md5) };
  }
  const { prompts, md5 } = await readDpgPrompts(paths[0]!);
  return { kind: "draw", recipe, loaded, folder, prompts: cut(prompts), metadata: [], questions: paths[1] ?? null, file: about(md5) }; // prettier-ignore
}

const changesOf = ({ loaded }: Prepared): string[] =>
  loaded.changes.map(({ path, from, to }) => `recipe changed: ${path} is ${JSON.stringify(to)} instead of ${JSON.stringify(from) ?? "absent"}`); // prettier-ignore

/** What the data need said about them. */
function noticesOf(one: Prepared): string[] {
  const { file } = one;
  const notices: string[] = [];
  if (file.expectedMd5 !== null && file.expectedMd5 !== file.md5)
    notices.push(`${file.name} has the MD5 ${file.md5}; the recipe's is ${file.expectedMd5}. It is another version, or damaged`); // prettier-ignore
  const short = one.kind === "ask" && one.recipe.scorer.name === "circular" ? withoutRotations(one.items) : 0;
  if (short > 0) notices.push(`${short} questions have fewer rows than options: the file lacks rotations, and the score is not that of circular evaluation`); // prettier-ignore
  return notices;
}

/**
 * Runs the benchmarks in order. Throws `EvalDataError`, `RecipeError`, `ResultsError` before a model is loaded if files or settings are at fault,
 * `RunLockedError` if another process has a benchmark's folder.
 */
export async function evaluate(options: EvalOptions): Promise<Outcome[]> {
  const prepared = await prepareAll(options);
  const locks: RunLock[] = [];
  try {
    for (const one of prepared) if (!isScoredOnly(options, one)) locks.push(await lockBenchmark(one.folder, options));
    await mkdir(options.out, { recursive: true });
    let model: Awaited<ReturnType<EvalOptions["load"]>> | null = null;
    const outcomes: Outcome[] = [];
    for (const one of prepared) {
      const notices = noticesOf(one);
      for (const notice of [...changesOf(one), ...notices]) options.onNotice(`${one.recipe.benchmark}: ${notice}`);
      if (!isScoredOnly(options, one)) model ??= await options.load(one.recipe.dtype);
      const outcome = one.kind === "ask" ? await runAsk(options, one, model!, notices) : await runDraw(options, one, model, notices); // prettier-ignore
      outcomes.push(outcome);
      if (outcome.result) await writeResult(options.out, one.recipe.benchmark, outcome.result);
    }
    return outcomes;
  } finally {
    for (const lock of locks) await lock.release();
    await closeAll(prepared);
  }
}

/** True if nothing is asked or drawn: the images are there, and their scores come from a file. */
const isScoredOnly = ({ scores }: EvalOptions, { kind, recipe }: Prepared): boolean =>
  kind === "draw" && scores.has(recipe.benchmark);

type Model = Awaited<ReturnType<EvalOptions["load"]>>;

const aboutOf = (
  { limit, version, commit }: EvalOptions,
  { loaded, file, recipe }: Prepared,
  model: Model | null,
): About => ({
  // prettier-ignore
  benchmark: recipe.benchmark,
  ...recipeParts(loaded),
  file,
  model: model && modelAbout(model),
  limit,
  version,
  commit,
});

const modelAbout = ({ janus, name, dtype }: Model): ModelAbout => ({ name, fingerprint: janus.fingerprint, dtype });

async function runAsk(
  options: EvalOptions,
  one: PreparedAsk,
  model: Model,
  notices: readonly string[],
): Promise<Outcome> {
  const { recipe, folder, items, table } = one;
  const { benchmark } = recipe;
  const about = aboutOf(options, one, model);
  const { lines, work } = await ask({
    recipe,
    about,
    table: table.path,
    items,
    folder,
    janus: model.janus,
    batch: options.batch,
    shard: options.shard,
    signal: options.signal,
    onProgress: (done, total) => options.onProgress(benchmark, done, total),
  });
  if (!lines) return { benchmark, result: null, next: "other parts of the run are not complete; the one that ends last scores all", work }; // prettier-ignore
  const { predictions, bad } = await usable(folder, await rescored(folder, lines, items, recipe), items, recipe.scorer.name === "circular"); // prettier-ignore
  const judged = benchmark === "mmvet" ? await judgedScores(options, one, predictions) : undefined;
  const score = scoreOf(recipe, predictions, judged?.scores);
  const counts = { items: items.items.length + items.bad.length, scored: predictions.length, bad: bad.length };
  const hash = await predictionsHash(folder, sha256);
  const all = judged ? [...notices, judged.notice] : notices;
  return { benchmark, result: { about, score, counts, notices: all, predictions: hash }, next: null, work };
}

/** Scores of a judge's file, or of the judge; undefined if there is neither. */
async function judgedScores(
  options: EvalOptions,
  { recipe, folder, items }: PreparedAsk,
  predictions: Parameters<typeof writeAnswers>[1],
): Promise<{ scores: ReadonlyMap<string, number>; notice: string } | undefined> {
  await writeAnswers(folder, predictions);
  const file = options.scores.get("mmvet");
  if (file === undefined && !options.judge) return undefined;
  const { path, notice } = file !== undefined ? { path: file, notice: await scoredFrom(file) } : await judgeNow();
  const scores = await readScores(path);
  const known = predictions.filter(({ id }) => scores.has(plainId(id)));
  return { scores: new Map(known.map(({ id }) => [id, scores.get(plainId(id))!])), notice };

  function judgeNow(): ReturnType<typeof judge> {
    if (recipe.judgePrompt === undefined) throw new RecipeError("mmvet: --judge needs the setting judgePrompt of the recipe"); // prettier-ignore
    const questions = new Map(items.items.map(({ id, question }) => [id, question]));
    const answers = predictions.map(({ id, expected, answer }) => ({ id, question: questions.get(id)!, expected, answer })); // prettier-ignore
    const onProgress = (done: number, total: number): void => options.onProgress("mmvet", done, total);
    return judge(folder, answers, {
      ...options.judge!,
      prompt: recipe.judgePrompt,
      signal: options.signal,
      onProgress,
    });
  }
}

const scoredFrom = async (path: string): Promise<string> =>
  `scored from ${basename(path)}, MD5 ${createHash("md5")
    .update(await readFile(path))
    .digest("hex")}`;

const imagesOf = ({ folder }: PreparedDraw): string => join(folder, "images");
const layoutOf = (one: PreparedDraw): Layout =>
  one.recipe.benchmark === "geneval" ? genevalLayout(imagesOf(one), one.recipe, one.metadata) : dpgLayout(imagesOf(one)); // prettier-ignore

async function runDraw(
  options: EvalOptions,
  one: PreparedDraw,
  model: Model | null,
  notices: readonly string[],
): Promise<Outcome> {
  const { recipe, folder, prompts } = one;
  const { benchmark } = recipe;
  const file = options.scores.get(benchmark);
  const images = imagesOf(one);
  if (file === undefined) {
    const layout = layoutOf(one);
    const onProgress = (done: number, total: number): void => options.onProgress(benchmark, done, total);
    await draw({ recipe, about: aboutOf(options, one, model), prompts, folder, janus: model!.janus, shard: options.shard, signal: options.signal, onProgress }, layout); // prettier-ignore
    const judge = benchmark === "geneval" ? "GenEval's evaluate_images.py on that folder (or a detector), then janus eval geneval --scores geneval=results.jsonl" : "DPG-Bench's compute_dpg_bench.py on that folder (or a VQA model), then janus eval dpg --scores dpg=…_detail.txt"; // prettier-ignore
    const isComplete = await isDrawn(layout, prompts);
    const next = isComplete ? `${prompts.length} prompts are drawn in ${images}. Next: ${judge}` : "other parts of the run are not complete"; // prettier-ignore
    return { benchmark, result: null, next, work: null };
  }
  const { score, items } = await scoreDrawn(one, file);
  await mkdir(folder, { recursive: true });
  const drawn = await drawnBy(folder);
  const about = { ...aboutOf(options, one, model), ...drawn };
  const counts = { items, scored: score.headline.n, bad: 0 };
  const from = `${await scoredFrom(file)}${drawn.model ? `, which is taken to judge the images of ${images}` : ""}`;
  return { benchmark, result: { about, score, counts, notices: [...notices, from], predictions: null }, next: null, work: null }; // prettier-ignore
}

/** The model that drew the images of the folder, if this program did. */
async function drawnBy(folder: string): Promise<Partial<Pick<About, "model">>> {
  const { readAbout } = await import("./about.ts");
  if ((await fileSize(join(folder, "run.json"))) === null) return {};
  const { model } = await readAbout(folder);
  return { model };
}

async function scoreDrawn(
  { recipe, metadata, questions }: PreparedDraw,
  file: string,
): Promise<{ score: Score; items: number }> {
  // prettier-ignore
  if (recipe.benchmark === "geneval") {
    const images = await readJudgedImages(file, metadata, recipe);
    return { score: scoreGeneval(images), items: images.length };
  }
  if (questions === null) throw new EvalDataError(`dpg: dpg_bench.csv is required to score; got none. Get it from ${recipe.files[1]?.url ?? "the benchmark"}`); // prettier-ignore
  const asked = await readDpgQuestions(questions);
  const answers = await readDpgAnswers(file, asked);
  return { score: scoreDpg(asked, answers), items: answers.size };
}
