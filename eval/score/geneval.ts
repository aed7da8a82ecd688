/** GenEval: scores from the official evaluator's `results.jsonl`, or from any detector's boxes by its rules. */
import { EvalDataError } from "../errors.ts";
import { linesOf, parseLine } from "../read/jsonl.ts";
import type { DrawRecipe } from "../recipe.ts";
import { openFile } from "../../model/node/files.ts";
import { isObject } from "../../model/io/unknown.ts";
import { bootstrap } from "../statistics.ts";
import { groupBy, mean, spreadOf } from "./score.ts";
import type { Figure, Score } from "./score.ts";

export const TAGS = ["single_object", "two_object", "counting", "colors", "position", "color_attr"] as const;

interface Clause {
  readonly class: string;
  readonly count: number;
  readonly color?: string;
  /** Relation, and the index of the clause it relates to. */
  readonly position?: readonly [string, number];
}

/** A line of `evaluation_metadata.jsonl`. */
export interface GenevalPrompt {
  readonly tag: string;
  readonly prompt: string;
  readonly include: readonly Clause[];
  readonly exclude: readonly Clause[];
  /** The line as it stands in the file. */
  readonly text: string;
}

const RELATIONS: readonly unknown[] = ["left of", "right of", "above", "below"];

function clauses(value: unknown, where: string): Clause[] {
  if (value === undefined) return [];
  if (!Array.isArray(value)) throw new EvalDataError(`${where}: include and exclude must be lists of clauses`);
  return value.map((one: unknown, i) => {
    const { class: name, count, color, position } = isObject(one) ? one : {};
    const isCount = typeof count === "number" && Number.isInteger(count) && count > 0;
    if (typeof name !== "string" || !isCount)
      throw new EvalDataError(`${where}: a clause must have a class and a count from 1; got ${JSON.stringify(one)}`);
    const [relation, target] = Array.isArray(position) ? (position as unknown[]) : [];
    const isPosition = RELATIONS.includes(relation) && Number.isInteger(target) && Number(target) >= 0 && Number(target) < i; // prettier-ignore
    if ((color !== undefined && typeof color !== "string") || (position !== undefined && !isPosition))
      throw new EvalDataError(`${where}: a color must be a text, a position one of ${RELATIONS.join(", ")} and the index of a clause before; got ${JSON.stringify(one)}`); // prettier-ignore
    return one as unknown as Clause;
  });
}

/** Reads the prompts. Throws `EvalDataError` with the line. */
export async function readGenevalPrompts(path: string): Promise<GenevalPrompt[]> {
  const file = await openFile(path);
  try {
    const prompts: GenevalPrompt[] = [];
    for await (const { at, bytes } of linesOf(file)) {
      const where = `${path}:${at}`;
      const { tag, prompt, include, exclude } = parseLine(bytes, where);
      if (typeof tag !== "string" || typeof prompt !== "string" || prompt === "")
        throw new EvalDataError(`${where}: a tag and a prompt are required. Use GenEval's evaluation_metadata.jsonl`);
      prompts.push({ tag, prompt, include: clauses(include, where), exclude: clauses(exclude, where), text: bytes.toString("utf8").trim() }); // prettier-ignore
    }
    if (prompts.length === 0) throw new EvalDataError(`${path}: at least one prompt is required; got none`);
    return prompts;
  } finally {
    await file.close?.();
  }
}

/** `[x0, y0, x1, y1]` in pixels. */
type Box = readonly [number, number, number, number];

export interface Detection {
  readonly class: string;
  readonly box: Box;
  readonly score: number;
  /** Colour of the object, by any classifier; needed for prompts that name colours. */
  readonly color?: string;
}

/** Relations of object a to object b: offsets of the centres, less a share of the sizes, that point mostly in one direction. */
export function relations(a: Box, b: Box, threshold: number): string[] {
  const axis = (i: 0 | 1): { offset: number; left: number } => {
    const offset = (a[i] + a[i + 2]!) / 2 - (b[i] + b[i + 2]!) / 2;
    const sizes = Math.abs(a[i + 2]! - a[i]) + Math.abs(b[i + 2]! - b[i]);
    return { offset, left: Math.max(Math.abs(offset) - threshold * sizes, 0) * Math.sign(offset) };
  };
  const [x, y] = [axis(0), axis(1)];
  if (Math.abs(x.left) < 1e-3 && Math.abs(y.left) < 1e-3) return [];
  const norm = Math.hypot(x.offset, y.offset);
  const [dx, dy] = [x.left / norm, y.left / norm];
  return [dx < -0.5 && "left of", dx > 0.5 && "right of", dy < -0.5 && "above", dy > 0.5 && "below"].filter((name) => name !== false); // prettier-ignore
}

/** Whether an image shows what its prompt asks for. Throws `EvalDataError` if a colour is asked for and the detections have none. */
export function isRight(
  prompt: GenevalPrompt,
  detections: readonly Detection[],
  { scorer }: DrawRecipe,
  where: string,
): boolean {
  // prettier-ignore
  const threshold = prompt.tag === "counting" ? (scorer.countingThreshold ?? 0.9) : (scorer.threshold ?? 0.3);
  const objects = (name: string): Detection[] =>
    detections
      .filter((one) => one.class === name && one.score > threshold)
      .reverse() // of equal scores the last comes first
      .sort((a, b) => b.score - a.score)
      .slice(0, scorer.maxObjects ?? 16);
  const groups: (Detection[] | null)[] = [];
  let isAll = true;
  for (const { class: name, count, color, position } of prompt.include) {
    const found = objects(name).slice(0, count);
    let isMatch = found.length >= count;
    if (isMatch && color !== undefined) {
      const strange = found.find((one) => one.color === undefined);
      if (strange) throw new EvalDataError(`${where}: the prompt "${prompt.prompt}" names a colour; each ${name} must have a color. Classify the crops, or use the official evaluator's results.jsonl`); // prettier-ignore
      isMatch = found.filter((one) => one.color === color).length >= count;
    }
    if (isMatch && position) {
      const targets = groups[position[1]];
      isMatch = Boolean(targets) && found.every((one) => targets!.every((other) => relations(one.box, other.box, scorer.positionThreshold ?? 0.1).includes(position[0]))); // prettier-ignore
    }
    groups.push(isMatch ? found : null);
    isAll &&= isMatch;
  }
  return isAll && prompt.exclude.every(({ class: name, count }) => objects(name).length < count);
}

/** A judged image. */
export interface JudgedImage {
  readonly tag: string;
  /** Number of its prompt: images of one prompt are resampled together. */
  readonly prompt: string;
  readonly isRight: boolean;
}

function detectionsOf(value: unknown, where: string): Detection[] {
  if (!Array.isArray(value)) throw new EvalDataError(`${where}: detections must be a list`);
  return value.map((one: unknown) => {
    const { class: name, box, score, color } = isObject(one) ? one : {};
    const isBox = Array.isArray(box) && box.length === 4 && box.every((side) => Number.isFinite(side));
    if (typeof name !== "string" || !isBox || !Number.isFinite(score) || (color !== undefined && typeof color !== "string"))
      throw new EvalDataError(`${where}: a detection must have a class, a box of 4 finite numbers, a finite score and perhaps a color; got ${JSON.stringify(one)}`); // prettier-ignore
    return one as unknown as Detection;
  });
}

/** Judged images from the official evaluator (`correct`) or from detections (`detections`), one image per line. */
export async function readJudgedImages(
  path: string,
  prompts: readonly GenevalPrompt[],
  recipe: DrawRecipe,
): Promise<JudgedImage[]> {
  // prettier-ignore
  const file = await openFile(path);
  try {
    const images: JudgedImage[] = [];
    const seen = new Set<string>();
    for await (const { at, bytes } of linesOf(file)) {
      const where = `${path}:${at}`;
      const line = parseLine(bytes, where);
      const { filename, tag, prompt, correct, detections } = line;
      if (typeof filename !== "string") throw new EvalDataError(`${where}: a filename is required`);
      const [place, number] = /(\d{5})[\\/]samples[\\/]\d+\.png$/.exec(filename) ?? [filename];
      if (seen.has(place)) throw new EvalDataError(`${where}: each image must be judged once; got ${place} again`);
      seen.add(place);
      const asked = number === undefined ? undefined : prompts[Number(number)];
      if (!asked) throw new EvalDataError(`${where}: the filename must be NNNNN/samples/KKKK.png of a prompt in evaluation_metadata.jsonl; got ${filename}`); // prettier-ignore
      const isOfficial = typeof correct === "boolean" && typeof tag === "string";
      if (isOfficial && (tag !== asked.tag || prompt !== asked.prompt))
        throw new EvalDataError(`${where}: the tag and the prompt must be those of line ${Number(number) + 1} of evaluation_metadata.jsonl, ${asked.tag}, ${JSON.stringify(asked.prompt)}; got ${tag}, ${JSON.stringify(prompt)}`); // prettier-ignore
      if (!isOfficial && detections === undefined) throw new EvalDataError(`${where}: correct and tag (the official results.jsonl), or detections are required`); // prettier-ignore
      const isGood = isOfficial ? correct : isRight(asked, detectionsOf(detections, where), recipe, where);
      images.push({ tag: asked.tag, prompt: number!, isRight: isGood });
    }
    if (images.length === 0) throw new EvalDataError(`${path}: at least one judged image is required; got none`);
    return images;
  } finally {
    await file.close?.();
  }
}

/** The mean of the six kinds' shares, not of all images. Intervals by resampling prompts. */
export function scoreGeneval(images: readonly JudgedImage[]): Score {
  const rate = (of: readonly JudgedImage[]): number => mean(of.map((one) => (one.isRight ? 1 : 0)));
  const figures = groupBy(images, ({ tag }) => tag).map(([name, of]): Figure => {
    const prompts = groupBy(of, ({ prompt }) => prompt).map(([, same]) => same);
    const interval = bootstrap(prompts.length, (units) => rate(units.flatMap((i) => prompts[i]!)));
    return { name, value: rate(of), interval, n: of.length };
  });
  const kinds = TAGS.map((tag) => figures.find(({ name }) => name === tag));
  const missing = TAGS.filter((_, i) => !kinds[i]);
  const all = kinds.filter((one) => one !== undefined);
  const value = missing.length > 0 ? null : mean(all.map((one) => one.value!));
  const prompts = groupBy(images, ({ prompt }) => prompt);
  return {
    headline: { name: "overall", value, interval: value === null ? null : spreadOf(value, all, 1 / TAGS.length), n: images.length, note: "mean of the six kinds" }, // prettier-ignore
    figures: [
      ...figures,
      { name: "images", value: rate(images), interval: null, n: images.length, note: "share of all images" },
      { name: "prompts", value: mean(prompts.map(([, of]) => (of.some((one) => one.isRight) ? 1 : 0))), interval: null, n: prompts.length, note: "share of prompts with a right image" }, // prettier-ignore
    ],
    notes: [
      ...(missing.length > 0 ? [`no overall score: the kinds ${missing.join(", ")} are missing`] : []),
      ...(prompts.length < 553 && missing.length === 0 ? [`${prompts.length} of 553 prompts`] : []),
      ...(images.length !== 4 * prompts.length ? [`${images.length} images of ${prompts.length} prompts; the benchmark has four of each`] : []), // prettier-ignore
    ],
  };
}
