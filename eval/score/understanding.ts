/** Scores of answered questions, as the official code computes them. */
import { createHash } from "node:crypto";
import type { Item } from "../items.ts";
import type { AskRecipe } from "../recipe.ts";
import { strip } from "../python.ts";
import { pythonList } from "../read/table.ts";
import { bootstrap } from "../statistics.ts";
import { choice, isOpenAnswer, officialChoice, openAnswers, vqaText, yesNo } from "./answers.ts";
import { groupBy, mean, share, spreadOf } from "./score.ts";
import type { Figure, Prediction, Score } from "./score.ts";

export interface Parsed {
  readonly parsed: string | null;
  readonly correct: boolean | null;
  readonly drawn?: boolean;
}

/** What an answer means, and whether it is right. */
export function parseAnswer(item: Item, answer: string, { scorer }: AskRecipe): Parsed {
  switch (scorer.name) {
    case "yes-no":
    case "mme":
      return compared(yesNo(answer), item.answer);
    case "circular":
    case "choice":
      return compared(choice(answer, item.options), item.answer);
    case "exact": {
      const clean = scorer.manner === "vqa" ? vqaText : (text: string): string => strip(text).toLowerCase();
      return compared(clean(answer), clean(item.answer));
    }
    case "mmmu":
      return scorer.manner === "official" ? officialMmmu(item, answer) : vlmevalkitMmmu(item, answer);
    default:
      return { parsed: null, correct: null };
  }
}

const compared = (parsed: string | null, expected: string): Parsed => ({ parsed, correct: parsed === expected });

/** Open questions become a choice between the answer (A) and "Other Answers" (B). */
function vlmevalkitMmmu({ options, answer: expected }: Item, answer: string): Parsed {
  const isOpen = options.size === 0;
  const open = new Map([["A", expected], ["B", "Other Answers"]]); // prettier-ignore
  // The official map keeps an answer that is itself a capital letter.
  return compared(choice(answer, isOpen ? open : options), isOpen && !/^[A-Z]$/.test(expected) ? "A" : expected);
}

/** Where the official code draws a letter at random, this one draws it from the id, the same in each run. */
function officialMmmu({ id, options, answer: expected }: Item, answer: string): Parsed {
  if (options.size === 0) {
    const parsed = openAnswers(answer);
    return { parsed: JSON.stringify(parsed), correct: isOpenAnswer(parsed, pythonList(expected) ?? [expected]) };
  }
  const letter = officialChoice(answer, options);
  if (letter !== null) return compared(letter, expected);
  const letters = [...options.keys()];
  const drawn = letters[createHash("sha256").update(id).digest().readUInt32BE() % letters.length]!;
  return { ...compared(drawn, expected), drawn: true };
}

const hits = (predictions: readonly Prediction[]): number => predictions.filter(({ correct }) => correct).length;

/**
 * The score of a benchmark of questions.
 * @param judged the judge's score of each answer (MM-Vet)
 * @param hasIntervals false leaves out intervals that have to be resampled
 */
export function scoreOf(
  recipe: AskRecipe,
  predictions: readonly Prediction[],
  judged?: ReadonlyMap<string, number>,
  hasIntervals = true,
): Score {
  const resample = hasIntervals ? bootstrap : (): null => null;
  switch (recipe.scorer.name) {
    case "yes-no":
      return scorePope(predictions, resample);
    case "mme":
      return scoreMme(predictions, resample);
    case "circular":
      return scoreCircular(predictions);
    case "mmvet":
      return scoreMmvet(predictions, judged);
    case "mmmu":
      return scoreShare(predictions, mmmuNotes(predictions, recipe));
    default:
      return scoreShare(predictions, unmatchedNotes(predictions));
  }
}

function unmatchedNotes(predictions: readonly Prediction[]): string[] {
  const unmatched = predictions.filter(({ parsed }) => parsed === null).length;
  return unmatched > 0 ? [`${unmatched} answers name no option; they count as wrong (exact matching, no judge)`] : [];
}

function mmmuNotes(predictions: readonly Prediction[], { scorer }: AskRecipe): string[] {
  const drawn = predictions.filter((one) => one.drawn);
  return scorer.manner !== "official"
    ? ["scored in VLMEvalKit's manner: open questions are a choice between the answer and \"Other Answers\"", ...unmatchedNotes(predictions)]
    : ["scored in MMMU's own manner", ...(drawn.length > 0 ? [`${drawn.length} answers name no option; a letter was drawn for each, ${hits(drawn)} of them right`] : [])]; // prettier-ignore
}

function scoreShare(predictions: readonly Prediction[], notes: readonly string[]): Score {
  return {
    headline: share("accuracy", hits(predictions), predictions.length),
    figures: groupBy(predictions, ({ category }) => category).map(([name, of]) => share(name, hits(of), of.length)),
    notes,
  };
}

/** Counts of a yes/no test: Unknown is no answer of either kind and never right. */
interface Counts {
  truePositive: number;
  falsePositive: number;
  falseNegative: number;
  right: number;
  n: number;
}

function counts(predictions: readonly Prediction[]): Counts {
  const c: Counts = { truePositive: 0, falsePositive: 0, falseNegative: 0, right: 0, n: predictions.length };
  for (const { expected, parsed } of predictions) {
    const [isYes, saidYes] = [expected === "Yes", parsed === "Yes"];
    if (isYes && saidYes) c.truePositive++;
    if (!isYes && saidYes) c.falsePositive++;
    if (isYes && !saidYes) c.falseNegative++;
    if (expected === parsed) c.right++;
  }
  return c;
}

const ratio = (part: number, whole: number): number => (whole === 0 ? 0 : part / whole);
const precision = (c: Counts): number => ratio(c.truePositive, c.truePositive + c.falsePositive);
const recall = (c: Counts): number => ratio(c.truePositive, c.truePositive + c.falseNegative);
const f1 = (c: Counts): number => ratio(2 * precision(c) * recall(c), precision(c) + recall(c));

/** POPE: F1 × 100 of "Yes". A row that lists several categories counts once for each, in the total too. */
function scorePope(predictions: readonly Prediction[], resample: typeof bootstrap): Score {
  const exploded = predictions.flatMap((one) =>
    (one.category ?? "").split(",").map((category) => ({ ...one, category: category || null })),
  );
  const about = (name: string, of: readonly Prediction[]): Figure[] => {
    const c = counts(of);
    return [
      share(`${name}accuracy`, c.right, c.n),
      share(`${name}precision`, c.truePositive, c.truePositive + c.falsePositive),
      share(`${name}recall`, c.truePositive, c.truePositive + c.falseNegative),
    ];
  };
  const f1Figure = (name: string, of: readonly Prediction[]): Figure => {
    const interval = resample(of.length, (units) => 100 * f1(counts(units.map((i) => of[i]!))));
    return { name, value: of.length === 0 ? null : 100 * f1(counts(of)), interval, n: of.length };
  };
  const unknown = predictions.filter(({ parsed }) => parsed === "Unknown").length;
  return {
    headline: f1Figure("F1", exploded),
    figures: [
      ...about("", exploded),
      ...groupBy(exploded, ({ category }) => category).flatMap(([name, of]) => [f1Figure(`${name}: F1`, of), ...about(`${name}: `, of)]), // prettier-ignore
    ],
    notes: unknown > 0 ? [`${unknown} answers are neither yes nor no, or both; they count as wrong`] : [],
  };
}

const PERCEPTION = ["OCR", "artwork", "celebrity", "color", "count", "existence", "landmark", "position", "posters", "scene"]; // prettier-ignore

/** MME: for each kind accuracy + accuracy+ in per cent (0 to 200); perception is the sum of ten kinds. Only images with both questions count. */
function scoreMme(predictions: readonly Prediction[], resample: typeof bootstrap): Score {
  const notes: string[] = [];
  const kinds = new Map<string, Prediction[][]>();
  let alone = 0;
  for (const [category, of] of groupBy(predictions, (one) => one.category)) {
    const images = groupBy(of, ({ group }) => group).map(([, both]) => both);
    const pairs = images.filter(({ length }) => length === 2);
    alone += images.length - pairs.length;
    kinds.set(category, pairs);
  }
  if (alone > 0) notes.push(`${alone} images do not have two questions and are not scored`);
  const value = (pairs: readonly (readonly Prediction[])[]): number | null =>
    pairs.length === 0 ? null : 100 * mean(pairs.map((pair) => hits(pair) / 2)) + 100 * mean(pairs.map((pair) => (hits(pair) === 2 ? 1 : 0))); // prettier-ignore
  const figures = [...kinds].map(([name, pairs]): Figure => {
    const interval = resample(pairs.length, (units) => value(units.map((i) => pairs[i]!)));
    return { name, value: value(pairs), interval, n: pairs.length };
  });
  const missing = PERCEPTION.filter((kind) => !kinds.get(kind)?.length);
  if (missing.length > 0) notes.push(`no sum: the kinds ${missing.join(", ")} are missing`);
  const perception = figures.filter(({ name }) => PERCEPTION.includes(name));
  return { headline: missing.length > 0 ? { name: "perception", value: null, interval: null, n: 0 } : sum("perception", perception), figures, notes }; // prettier-ignore
}

/** A sum of independent figures; half-widths of their intervals add in squares. */
function sum(name: string, figures: readonly Figure[]): Figure {
  const value = figures.reduce((total, one) => total + one.value!, 0);
  return { name, value, interval: spreadOf(value, figures), n: figures.reduce((total, one) => total + one.n, 0) };
}

/** MMBench: a question is right if all its rotations are. */
function scoreCircular(predictions: readonly Prediction[]): Score {
  const groups = groupBy(predictions, ({ group }) => group);
  const questions = groups
    .filter(([group, of]) => of.some(({ id }) => id === group))
    .map(([group, of]) => ({ main: of.find(({ id }) => id === group)!, isRight: of.every(({ correct }) => correct) }));
  const right = (of: typeof questions): number => of.filter(({ isRight }) => isRight).length;
  return {
    headline: share("circular accuracy", right(questions), questions.length),
    figures: [
      share("accuracy of single passes", hits(predictions), predictions.length, "not the score of the benchmark"),
      ...groupBy(questions, ({ main }) => main.category).map(([name, of]) => share(name, right(of), of.length)),
    ],
    notes: [
      ...unmatchedNotes(predictions),
      ...(questions.length < groups.length ? [`${groups.length - questions.length} questions have rotations, but not the row that they rotate; they are not scored`] : []),
    ], // prettier-ignore
  };
}

const CAPABILITIES = ["rec", "ocr", "know", "gen", "spat", "math"];

/** MM-Vet: mean of the judge's scores × 100, and by capability. */
function scoreMmvet(predictions: readonly Prediction[], judged?: ReadonlyMap<string, number>): Score {
  const none: Figure = { name: "score", value: null, interval: null, n: 0 };
  if (!judged) return { headline: none, figures: [], notes: ["not judged: give the answers to a judge (--judge), or its file (--scores mmvet=FILE)"] }; // prettier-ignore
  const missing = predictions.filter(({ id }) => !judged.has(id)).length;
  if (missing > 0)
    return { headline: none, figures: [], notes: [`no score: the judge's file lacks ${missing} of ${predictions.length} answers`] }; // prettier-ignore
  const figure = (name: string, of: readonly Prediction[]): Figure => {
    const scores = of.map(({ id }) => judged.get(id)!);
    const interval = bootstrap(of.length, (units) => 100 * mean(units.map((i) => scores[i]!)));
    return { name, value: of.length === 0 ? null : 100 * mean(scores), interval, n: of.length };
  };
  const capabilities = CAPABILITIES.map((name) => [name, predictions.filter(({ category }) => category?.includes(name))] as const).filter(([, of]) => of.length > 0); // prettier-ignore
  // VLMEvalKit counts an item with one capability twice in the figure of this one.
  const official = capabilities.map(([name, of]) => {
    const alone = of.filter(({ category }) => category === name);
    return alone.length === 0 ? null : { ...figure(name, [...of, ...alone]), name: `${name}, as VLMEvalKit counts`, interval: null };
  }); // prettier-ignore
  return {
    headline: figure("score", predictions),
    figures: [...capabilities.map(([name, of]) => figure(name, of)), ...official.filter((one) => one !== null)],
    notes: [],
  };
}
