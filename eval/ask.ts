/** Runs a benchmark of questions: asks what has no prediction yet, then scores. */
import { mkdir, readFile } from "node:fs/promises";
import { join } from "node:path";
import { ImageError } from "../model/image/image.ts";
import { PromptError } from "../model/request.ts";
import { fileSize, writeFileAtomic } from "../model/node/files.ts";
import type { Janus } from "../model/janus/pipeline.ts";
import { claimFolder } from "./about.ts";
import type { About } from "./about.ts";
import { Answerer } from "./answering.ts";
import type { Question, Work } from "./answering.ts";
import { EvalDataError, ResultsError, RowError } from "./errors.ts";
import { imageFile } from "./items.ts";
import type { BadRow, Item, Items } from "./items.ts";
import { PredictionsFile, isBad, packIds, readLines } from "./predictions.ts";
import type { Line, PredictionLine } from "./predictions.ts";
import { messageText } from "./prompt.ts";
import type { AskRecipe } from "./recipe.ts";
import { parseAnswer } from "./score/understanding.ts";

/** Part k of n of a run: the k-th of n runs of consecutive items of the schedule. */
export interface Shard {
  readonly index: number;
  readonly count: number;
}

export interface AskRun {
  readonly recipe: AskRecipe;
  readonly about: About;
  /** The benchmark's file, for paths of images beside it. */
  readonly table: string;
  readonly items: Items;
  /** Folder of this benchmark's results. */
  readonly folder: string;
  readonly janus: Janus;
  readonly batch: number;
  readonly shard: Shard;
  readonly signal: AbortSignal;
  readonly onProgress: (done: number, total: number) => void;
}

/** Items; those of one window are sorted by length. */
const WINDOW = 128;
/** A benchmark with more bad rows than this share is not scored. */
const MAX_BAD_SHARE = 0.05;
const FEW_BAD = 10;

/** The first `limit` items, and the bad rows before the last of them; items of one group (rotations, questions about one image) count as one. */
export function limited({ items, bad, otherSplits }: Items, limit: number | null): Items {
  if (limit === null || items.length === 0) return { items, bad, otherSplits };
  const groups = new Set<string>();
  for (const { id, group } of items) if (groups.size < limit) groups.add(group ?? id);
  const kept = items.filter(({ id, group }) => groups.has(group ?? id));
  const last = kept.reduce((most, { at }) => Math.max(most, at), 0);
  return { items: kept, bad: bad.filter(({ at }) => at < last), otherSplits };
}

interface Scheduled {
  readonly item: Item;
  readonly prompt: string;
  readonly ids: readonly number[];
}

/**
 * The order of all items, whatever the batch: questions about the same images follow one another; the images of a window
 * are sorted by their shortest question, and their questions by length. Items that cannot be asked are bad.
 */
function schedule(items: readonly Item[], answerer: Answerer, recipe: AskRecipe): (Scheduled | BadRow)[] {
  const groups = new Map<string, (Scheduled | BadRow)[]>();
  for (const item of items) {
    const key = item.images.map((image) => image.key).join();
    const group = groups.get(key) ?? [];
    group.push(scheduled(item, answerer, recipe));
    groups.set(key, group);
  }
  const size = (one: Scheduled | BadRow): number => ("item" in one ? one.ids.length : 0);
  const order: (Scheduled | BadRow)[] = [];
  let window: (Scheduled | BadRow)[][] = [];
  const close = (): void => {
    order.push(...window.sort(([a], [b]) => size(a!) - size(b!)).flat());
    window = [];
  };
  for (const group of groups.values()) {
    window.push(group.sort((a, b) => size(a) - size(b)));
    if (window.flat().length >= WINDOW) close();
  }
  close();
  return order;
}

function scheduled(item: Item, answerer: Answerer, recipe: AskRecipe): Scheduled | BadRow {
  const prompt = messageText(item, recipe, answerer.placeholder);
  try {
    return { item, prompt, ids: answerer.ids(prompt, item.images.length) };
  } catch (error) {
    if (error instanceof PromptError) return { at: item.at, id: item.id, reason: error.message };
    throw error;
  }
}

/** True if there are predictions of this shard, or of all. */
export const isBegun = async (folder: string, shard: Shard): Promise<boolean> =>
  (await fileSize(fileOf(folder, shard))) !== null || (await fileSize(wholeFile(folder))) !== null;

/** The part of a shard. */
export const partOf = <T>(all: readonly T[], { index, count }: Shard): readonly T[] =>
  all.slice(Math.floor((index * all.length) / count), Math.floor(((index + 1) * all.length) / count));

const wholeFile = (folder: string): string => join(folder, "predictions.jsonl");
const fileOf = (folder: string, { index, count }: Shard): string =>
  count === 1 ? wholeFile(folder) : join(folder, `predictions-${index + 1}-of-${count}.jsonl`);

/**
 * Asks all items of this shard that have no prediction. Resolves to the counts of work, and to all lines once every
 * shard is complete, else null. Throws `ResultsError` for a folder of another run.
 */
export async function ask(run: AskRun): Promise<{ lines: readonly Line[] | null; work: Work }> {
  const { recipe, folder, shard, janus, items } = run;
  await mkdir(folder, { recursive: true });
  await claimFolder(folder, run.about);
  using answerer = new Answerer(janus, recipe);
  const all = schedule(items.items, answerer, recipe);
  const isComplete = (await linesFor(wholeFile(folder), all)).lines.length === all.length;
  if (!isComplete) await askShard(run, answerer, partOf(all, shard));
  return { lines: await merged(folder, all, shard), work: answerer.work };
}

async function askShard(run: AskRun, answerer: Answerer, own: readonly (Scheduled | BadRow)[]): Promise<void> {
  const path = fileOf(run.folder, run.shard);
  const { lines, bytes } = await linesFor(path, own);
  await using file = await PredictionsFile.open(path, bytes);
  run.onProgress(lines.length, own.length);
  for (let at = lines.length; at < own.length; at += run.batch) {
    run.signal.throwIfAborted();
    await file.append(await answerBatch(run, answerer, own.slice(at, at + run.batch)));
    run.onProgress(Math.min(own.length, at + run.batch), own.length);
  }
}

/** The lines of a file that begins with the items `own`, in order. Throws `ResultsError` for another one. */
async function linesFor(path: string, own: readonly (Scheduled | BadRow)[]): ReturnType<typeof readLines> {
  const read = await readLines(path);
  const strange = read.lines.findIndex((line, i) => line.id !== idOf(own[i]));
  if (strange >= 0) throw new ResultsError(`${path}:${strange + 1}: the item ${String(idOf(own[strange]))} is required here; got ${read.lines[strange]!.id}. The file is of another run; use another --out`); // prettier-ignore
  return read;
}

const idOf = (one: Scheduled | BadRow | undefined): string | null =>
  one === undefined ? null : "item" in one ? one.item.id : one.id;

async function answerBatch(run: AskRun, answerer: Answerer, batch: readonly (Scheduled | BadRow)[]): Promise<Line[]> {
  const { recipe, table } = run;
  const bad = new Map<number, string>();
  const questions = new Map<number, Question>();
  for (const [i, one] of batch.entries()) {
    if (!("item" in one)) {
      bad.set(i, one.reason);
      continue;
    }
    const where = `${table}, row ${one.item.at}`;
    const images = one.item.images.map((cell) => ({ key: cell.key, load: () => imageFile(cell, table, where) }));
    try {
      await answerer.prepare(images);
      questions.set(i, { ids: one.ids, images });
    } catch (error) {
      if (error instanceof RowError) bad.set(i, error.reason);
      else if (error instanceof ImageError) bad.set(i, error.message);
      else throw error;
    }
  }
  const results = questions.size === 0 ? [] : await answerer.answer([...questions.values()], run.signal);
  const answered = new Map([...questions.keys()].map((i, k) => [i, results[k]!]));
  return batch.map((one, i): Line => {
    if (!("item" in one) || bad.has(i)) return { id: idOf(one)!, at: "item" in one ? one.item.at : one.at, bad: bad.get(i)! }; // prettier-ignore
    const { item, prompt, ids } = one;
    const { text, tokenIds, finish } = answered.get(i)!;
    return {
      id: item.id,
      at: item.at,
      category: item.category,
      group: item.group,
      prompt,
      promptIds: packIds(ids),
      answer: text,
      finish,
      tokens: tokenIds.length,
      expected: item.answer,
      ...parseAnswer(item, text, recipe),
    };
  });
}

/** The lines of all shards in the order of the schedule, written as one file; null if one is incomplete. */
async function merged(folder: string, all: readonly (Scheduled | BadRow)[], { count }: Shard): Promise<Line[] | null> {
  const whole = (await linesFor(wholeFile(folder), all)).lines;
  if (whole.length === all.length) return whole;
  const lines: Line[] = [];
  for (let index = 0; index < count; index++) {
    const shard = { index, count };
    const part = partOf(all, shard);
    const there = (await linesFor(fileOf(folder, shard), part)).lines;
    if (there.length < part.length) return null;
    lines.push(...there);
  }
  await writeLines(folder, lines);
  return lines;
}

const writeLines = (folder: string, lines: readonly Line[]): Promise<void> =>
  writeFileAtomic(wholeFile(folder), Buffer.from(lines.map((line) => `${JSON.stringify(line)}\n`).join("")));

/** The lines scored by the recipe of now: a run is scored again with another scorer, and not asked again. */
export async function rescored(
  folder: string,
  lines: readonly Line[],
  { items }: Items,
  recipe: AskRecipe,
): Promise<readonly Line[]> {
  const byId = new Map(items.map((item) => [item.id, item]));
  const now = lines.map((line): Line => {
    if (isBad(line)) return line;
    const { parsed: _, correct: _correct, drawn: _drawn, ...answered } = line;
    return { ...answered, ...parseAnswer(byId.get(line.id)!, line.answer, recipe) };
  });
  if (now.some((line, i) => JSON.stringify(line) !== JSON.stringify(lines[i]))) await writeLines(folder, now);
  return now;
}

/** Predictions without those of groups that lack a row, and the bad rows, which are listed in `bad.jsonl`. Throws `EvalDataError` if too many are bad. */
export async function usable(
  folder: string,
  lines: readonly Line[],
  { items, bad }: Items,
  isCircular: boolean,
): Promise<{ predictions: readonly PredictionLine[]; bad: readonly BadRow[] }> {
  const rows = [...bad, ...lines.filter(isBad).map(({ at, id, bad: reason }) => ({ at, id, reason }))];
  if (rows.length > 0)
    await writeFileAtomic(
      join(folder, "bad.jsonl"),
      Buffer.from(rows.map((row) => `${JSON.stringify(row)}\n`).join("")),
    );
  const total = items.length + bad.length;
  if (rows.length > FEW_BAD && rows.length > MAX_BAD_SHARE * total)
    throw new EvalDataError(`${folder}/bad.jsonl: at most ${100 * MAX_BAD_SHARE} % of the rows may be bad; got ${rows.length} of ${total}, the first: row ${rows[0]!.at}, ${rows[0]!.reason}`); // prettier-ignore
  // If a rotation could not be asked, the others do not make a right answer.
  const broken = new Set(isCircular ? rows.map(({ id }) => String(Number(id) % 1_000_000)) : []);
  const predictions = lines.filter((line): line is PredictionLine => !isBad(line) && !(line.group !== null && broken.has(line.group))); // prettier-ignore
  return { predictions, bad: rows };
}

export const predictionsHash = async (folder: string, hash: (bytes: Uint8Array) => string): Promise<string> => hash(await readFile(join(folder, "predictions.jsonl"))); // prettier-ignore
