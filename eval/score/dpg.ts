/**
 * DPG-Bench: scores from answers of a VQA model to questions about each image. A question counts only if the questions
 * it depends on were answered yes. The official code has faults that its published figures contain; both figures are given:
 * - it skips the first row of the CSV; an image with a question that depends on that one is dropped;
 * - its categories are those of the last of the four images, without the dependency rule.
 */
import { openFile } from "../../model/node/files.ts";
import { EvalDataError } from "../errors.ts";
import { cellText, delimitedRecords } from "../read/delimited.ts";
import { linesOf, parseLine } from "../read/jsonl.ts";
import { bootstrap } from "../statistics.ts";
import { groupBy, mean } from "./score.ts";
import type { Figure, Score } from "./score.ts";

export interface DpgQuestion {
  readonly id: number;
  readonly parents: readonly number[];
  /** `attribute`, of `attribute - color (…)`. */
  readonly category: string;
  readonly text: string;
  /** The row that the official code skips. */
  readonly isFirst: boolean;
}

/** Questions by item, in the order of the CSV. */
export type DpgQuestions = ReadonlyMap<string, readonly DpgQuestion[]>;

const COLUMNS = ["item_id", "proposition_id", "dependency", "tuple", "question_natural_language"] as const;

export async function readDpgQuestions(path: string): Promise<DpgQuestions> {
  const file = await openFile(path);
  try {
    const items = new Map<string, DpgQuestion[]>();
    let places: number[] | null = null;
    for await (const { at, cells } of delimitedRecords(file, { delimiter: "," })) {
      const where = `${path}, row ${at - 1}`;
      const texts = cells.map(({ bytes, isQuoted }) => cellText(bytes, isQuoted, where));
      if (!places) {
        places = COLUMNS.map((name) => texts.indexOf(name));
        const missing = COLUMNS.filter((_, i) => places![i]! < 0);
        if (missing.length > 0) throw new EvalDataError(`${path}: the columns ${missing.join(", ")} are required; got ${texts.join(", ")}. Use dpg_bench.csv`); // prettier-ignore
        continue;
      }
      const [item, id, dependency, tuple, text] = places.map((place) => texts[place] ?? "");
      const parents = dependency!.split(",").map((one) => Number(one.trim()));
      if (item === "" || !/^\d+$/.test(id!) || parents.some((parent) => !Number.isInteger(parent)))
        throw new EvalDataError(`${where}: an item_id, a whole proposition_id and whole dependencies are required; got ${JSON.stringify([item, id, dependency])}`); // prettier-ignore
      const category = tuple!.split("(")[0]!.split("-")[0]!.trim();
      const questions = items.get(item!) ?? [];
      if (questions.some((one) => one.id === Number(id))) throw new EvalDataError(`${where}: proposition ${id} of item ${item} is there twice`); // prettier-ignore
      items.set(item!, [...questions, { id: Number(id), parents: parents.filter((parent) => parent !== 0), category, text: text!, isFirst: at === 2 }]); // prettier-ignore
    }
    if (items.size === 0) throw new EvalDataError(`${path}: at least one question is required; got none`);
    return items;
  } finally {
    await file.close?.();
  }
}

/** Answers of an item: for each of its images whether each question was answered "yes". */
export type DpgAnswers = ReadonlyMap<string, readonly ReadonlyMap<number, boolean>[]>;

/** The official `…_detail.txt` (`path, (x0, y0, x1, y1), question, answer`), or JSONL of `{item, image, question, answer}`. */
export async function readDpgAnswers(path: string, questions: DpgQuestions): Promise<DpgAnswers> {
  const file = await openFile(path);
  const answers = new Map<string, Map<number, Map<number, boolean>>>();
  try {
    for await (const { at, bytes } of linesOf(file)) {
      const where = `${path}:${at}`;
      const { item, image, text, id, isYes } = bytes[0] === 0x7b ? jsonAnswer(bytes, where) : detailAnswer(bytes.toString("utf8"), where); // prettier-ignore
      const asked = questions.get(item);
      if (!asked) throw new EvalDataError(`${where}: the item ${JSON.stringify(item)} is not in the CSV`);
      const images = answers.get(item) ?? new Map<number, Map<number, boolean>>();
      const of = images.get(image) ?? new Map<number, boolean>();
      // The detail file has no ids: questions of one item may have the same text, in order.
      const question = asked.find((one) => (id === undefined ? one.text === text : one.id === id) && !of.has(one.id));
      if (!question) throw new EvalDataError(`${where}: item ${item} has no such question, or it was answered before: ${text ?? id}`); // prettier-ignore
      of.set(question.id, isYes);
      images.set(image, of);
      answers.set(item, images);
    }
  } finally {
    await file.close?.();
  }
  if (answers.size === 0) throw new EvalDataError(`${path}: at least one answer is required; got none`);
  const inOrder = (images: Map<number, Map<number, boolean>>): Map<number, boolean>[] =>
    [...images].sort(([a], [b]) => a - b).map(([, of]) => of);
  return new Map([...answers].map(([item, images]) => [item, inOrder(images)]));
}

interface Answered {
  readonly item: string;
  /** 0 to 3: in the file of four, from left to right, then down. */
  readonly image: number;
  readonly id?: number;
  readonly text?: string;
  readonly isYes: boolean;
}

function jsonAnswer(bytes: Uint8Array, where: string): Answered {
  const { item, image, question, answer } = parseLine(bytes, where);
  const isImage = typeof image === "number" && [0, 1, 2, 3].includes(image);
  if ((typeof item !== "string" && typeof item !== "number") || !isImage || !Number.isInteger(question) || typeof answer !== "string")
    throw new EvalDataError(`${where}: item, image (0 to 3), question (the proposition_id) and answer are required`);
  return { item: String(item), image, id: question as number, isYes: answer === "yes" };
} // prettier-ignore

function detailAnswer(line: string, where: string): Answered {
  const found = /^(.*), \((\d+), (\d+), \d+, \d+\), (.*), (.*)$/.exec(line.trimEnd());
  if (!found) throw new EvalDataError(`${where}: a line must be path, (x0, y0, x1, y1), question, answer; got ${JSON.stringify(line.slice(0, 80))}`); // prettier-ignore
  const [, path, left, top, text, answer] = found;
  const name = path!.split(/[\\/]/).at(-1)!;
  const image = (Number(top) > 0 ? 2 : 0) + (Number(left) > 0 ? 1 : 0);
  return { item: name.split(".")[0]!, image, text: text!, isYes: answer === "yes" };
}

interface ItemScore {
  /** Mean over the images. */
  readonly score: number;
  /** Category → whether each question counts. */
  readonly categories: readonly (readonly [string, number])[];
}

/** Questions of one image by the dependency rule, in order: a question set to 0 sets those that depend on it to 0. Null: a parent has no answer. */
function byRule(
  questions: readonly DpgQuestion[],
  answers: ReadonlyMap<number, boolean>,
  isStrict: boolean,
): Map<number, number> | null {
  // prettier-ignore
  const scores = new Map(questions.map(({ id }) => [id, answers.get(id) ? 1 : 0]));
  for (const { id, parents } of questions) {
    // The official code stops at the first parent with a 0, before it meets one that is missing.
    for (const parent of parents) {
      const value = scores.get(parent);
      if (value === undefined && isStrict) return null;
      if (value !== 0) continue;
      scores.set(id, 0);
      break;
    }
  }
  return scores;
}

/** As the official code computes it; null for an item that it drops. */
function officialItem(all: readonly DpgQuestion[], images: readonly ReadonlyMap<number, boolean>[]): ItemScore | null {
  const questions = all.filter(({ isFirst }) => !isFirst);
  if (questions.length === 0) return null;
  const scores: number[] = [];
  for (const answers of images) {
    const scored = byRule(questions, answers, true);
    if (!scored) return null;
    scores.push(mean([...scored.values()]));
  }
  const last = images.at(-1)!;
  return { score: mean(scores), categories: questions.map(({ id, category }) => [category, last.get(id) ? 1 : 0]) };
}

/** All questions that were answered, all images, categories by the dependency rule. */
function wholeItem(all: readonly DpgQuestion[], images: readonly ReadonlyMap<number, boolean>[]): ItemScore {
  const scores: number[] = [];
  const categories: [string, number][] = [];
  for (const answers of images) {
    const asked = all.filter(({ id }) => answers.has(id));
    const scored = byRule(asked, answers, false)!;
    scores.push(mean([...scored.values()]));
    for (const { id, category } of asked) categories.push([category, scored.get(id)!]);
  }
  return { score: mean(scores), categories };
}

/** Both figures. Items whose images lack answers (but the first row's) are not scored by the official rule and are named. */
export function scoreDpg(questions: DpgQuestions, answers: DpgAnswers): Score {
  const official: ItemScore[] = [];
  const whole: ItemScore[] = [];
  let [dropped, incomplete] = [0, 0];
  for (const [item, images] of answers) {
    const asked = questions.get(item)!;
    const isWhole = images.every((of) => asked.every(({ id, isFirst }) => isFirst || of.has(id)));
    if (isWhole) whole.push(wholeItem(asked, images));
    else incomplete++;
    const score = isWhole ? officialItem(asked, images) : null;
    if (score) official.push(score);
    else if (isWhole) dropped++;
  }
  const overall = (name: string, of: readonly ItemScore[], note: string): Figure => {
    const value = (units: readonly ItemScore[]): number => 100 * mean(units.map(({ score }) => score));
    if (of.length === 0) return { name, value: null, interval: null, n: 0, note };
    return { name, value: value(of), interval: bootstrap(of.length, (units) => value(units.map((i) => of[i]!))), n: of.length, note }; // prettier-ignore
  };
  const categories = (of: readonly ItemScore[], suffix: string): Figure[] =>
    groupBy(of.flatMap((one) => one.categories), ([category]) => category).map(([name, pairs]) => ({ name: name + suffix, value: 100 * mean(pairs.map(([, value]) => value)), interval: null, n: pairs.length })); // prettier-ignore
  return {
    headline: overall("overall", official, "as the official code computes it"),
    figures: [
      ...categories(official, ""),
      overall("overall, every question", whole, "first row included, nothing dropped"),
      ...categories(whole, ", every image by the rule"),
    ],
    notes: [
      "the official code skips the first row of the CSV, and its categories are those of the last image without the dependency rule",
      ...(dropped > 0 ? [`the official code drops ${dropped} items, whose questions depend on the row it skips`] : []),
      ...(incomplete > 0 ? [`${incomplete} items lack answers and are not scored`] : []),
      ...(answers.size < questions.size ? [`${answers.size} of ${questions.size} items`] : []),
    ],
  };
}
