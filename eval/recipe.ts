/**
 * Recipes: all that determines the number of a benchmark besides the model. They are data (`recipes/*.yaml`), checked
 * here; a change of one is printed with every result. An unknown key is refused with its path.
 */
import { readFileSync } from "node:fs";
import { parse } from "yaml";
import { z } from "zod";
import { messageOf } from "../engine/errors.ts";
import { nearestName } from "../engine/options.ts";
import { RecipeError } from "./errors.ts";

export const BENCHMARKS = ["pope", "mme", "mmbench", "seed", "gqa", "mmmu", "mmvet", "geneval", "dpg"] as const;
export type Benchmark = (typeof BENCHMARKS)[number];

const names = z.array(z.string().min(1)).min(1);

/** A file that a person has to get. Null: not known. */
const dataFile = z.strictObject({
  name: z.string(),
  url: z.string(),
  bytes: z.number().int().nullable(),
  md5: z.string().regex(/^[0-9a-f]{32}$/).nullable(), // prettier-ignore
  license: z.string().nullable(),
  note: z.string().optional(),
});
export type DataFile = z.infer<typeof dataFile>;

const common = {
  benchmark: z.enum(BENCHMARKS),
  title: z.string(),
  /** dtype of the weights; "checkpoint" keeps the stored one. */
  dtype: z.enum(["bf16", "f16", "f32", "checkpoint"]),
  scorer: z.strictObject({
    name: z.enum(["yes-no", "mme", "circular", "choice", "exact", "mmmu", "mmvet", "geneval", "dpg"]),
    /** Changes with every change of a rule. */
    version: z.number().int(),
    /** exact: "lower" lower-cases and strips; "vqa" applies VQA's normalisation first. mmmu: whose rules. */
    manner: z.enum(["lower", "vqa", "vlmevalkit", "official"]).optional(),
    /** geneval: thresholds of the official evaluator. */
    threshold: z.number().min(0).max(1).optional(),
    countingThreshold: z.number().min(0).max(1).optional(),
    maxObjects: z.number().int().min(1).optional(),
    positionThreshold: z.number().min(0).optional(),
  }),
  files: z.array(dataFile),
};

const asked = z.strictObject({
  ...common,
  kind: z.literal("ask"),
  prompt: z.strictObject({
    /** {question}, {hint}, {options} */
    template: z.string().regex(/\{question\}/, "must contain {question}"),
    /** For rows without options (default: `template`). */
    withoutOptions: z.string().optional(),
    /** What {hint} becomes if the row has one. */
    hint: z.string().default(""),
    /** What each option becomes: {letter}, {text}. */
    option: z.string().default("{letter}. {text}\n"),
    /** Texts removed from the question first. */
    remove: z.array(z.string()).default([]),
  }),
  system: z.string(),
  /** plain: "User:" and "Assistant:", as the public wrapper writes for every model. model: those of the checkpoint. */
  roles: z.enum(["plain", "model"]),
  decoding: z.strictObject({ maxNewTokens: z.number().int().min(1), temperature: z.literal(0) }),
  /** Columns of the file by purpose, in order of preference. */
  columns: z.strictObject({
    id: names,
    image: names,
    question: names,
    answer: names,
    hint: names.optional(),
    options: z.record(z.string().regex(/^[A-Z]$/), names).optional(),
    /** One column with a list of options, e.g. "['a', 'b']". */
    optionList: names.optional(),
    category: names.optional(),
    split: names.optional(),
    /** Rows with the same group belong to one image (MME). */
    group: names.optional(),
    type: names.optional(),
  }),
  /** Only rows with this value of the split column, if the file has one; "" for all rows. */
  split: z.string().optional(),
  /** Texts that count as an absent value: "pandas", those that pandas reads as NaN ("None" and "NA" among them); "empty", only "". */
  missing: z.enum(["pandas", "empty"]),
  /** What a judge is asked: {question}, {answer} (the expected one), {prediction}. */
  judgePrompt: z.string().regex(/\{answer\}[^]*\{prediction\}|\{prediction\}[^]*\{answer\}/, "must contain {answer} and {prediction}").optional(), // prettier-ignore
});

const drawn = z.strictObject({
  ...common,
  kind: z.literal("draw"),
  imagesPerPrompt: z.number().int().min(1).max(16),
  /** Image k of prompt i has the seed `seed` + i · `imagesPerPrompt` + k. */
  seed: z.number().int().min(0),
  guidance: z.number(),
  temperature: z.number().positive(),
});

const schema = z.discriminatedUnion("kind", [asked, drawn]);
export type Recipe = z.infer<typeof schema>;
export type AskRecipe = z.infer<typeof asked>;
export type DrawRecipe = z.infer<typeof drawn>;

type Settings = Record<string, unknown>;
const isMap = (value: unknown): value is Settings =>
  typeof value === "object" && value !== null && !Array.isArray(value);

function parseMap(text: string, where: string): Settings {
  let settings: unknown;
  try {
    settings = parse(text);
  } catch (error) {
    throw new RecipeError(`${where}: it must be YAML; ${messageOf(error)}`);
  }
  if (!isMap(settings)) throw new RecipeError(`${where}: the top must be a mapping of keys to values`);
  return settings;
}

/** The recipe that ships with the package, unchecked. */
const shipped = (benchmark: Benchmark): Settings =>
  parseMap(readFileSync(new URL(`./recipes/${benchmark}.yaml`, import.meta.url), "utf8"), `the recipe of ${benchmark}`);

/** A change of a recipe: its path, the shipped value (absent: undefined) and the new one. */
export interface Change {
  readonly path: string;
  readonly from: unknown;
  readonly to: unknown;
}

export interface LoadedRecipe<R extends Recipe = Recipe> {
  readonly recipe: R;
  readonly changes: readonly Change[];
}

/** Sets `to[path]` of a tree; a mapping is merged. */
function change(tree: Settings, path: readonly string[], to: unknown, changes: Change[]): void {
  if (isMap(to)) {
    for (const [key, value] of Object.entries(to)) change(tree, [...path, key], value, changes);
    return;
  }
  let open = tree;
  for (const key of path.slice(0, -1)) {
    const next = (open[key] ??= {});
    if (!isMap(next)) throw new RecipeError(`${path.join(".")}: ${key} is a value and has no keys`);
    open = next;
  }
  const key = path.at(-1)!;
  if (JSON.stringify(open[key]) === JSON.stringify(to)) return;
  changes.push({ path: path.join("."), from: open[key], to });
  open[key] = to;
}

/** Splits `pope.system=…` or `system=…` into benchmark, path and value. Throws `RecipeError`. */
function parseSet(text: string): { benchmark: string | null; path: string[]; value: unknown } {
  const at = text.indexOf("=");
  const keys = text.slice(0, Math.max(0, at)).split(".");
  if (at < 1 || keys.some((key) => key === "" || key === "__proto__"))
    throw new RecipeError(
      `--set ${text}: write key=value or benchmark.key=value, for example decoding.maxNewTokens=64`,
    );
  const isNamed = (BENCHMARKS as readonly string[]).includes(keys[0]!);
  let value: unknown;
  try {
    value = parse(text.slice(at + 1)) ?? "";
  } catch (error) {
    throw new RecipeError(`--set ${text}: the value must be YAML; ${messageOf(error)}`);
  }
  return { benchmark: isNamed ? keys[0]! : null, path: isNamed ? keys.slice(1) : keys, value };
}

/** Settings that are no settings: results of another scorer would carry the benchmark's name. */
const FIXED = ["benchmark", "kind", "scorer.name", "scorer.version"];

export interface RecipeChanges {
  /** `key=value` or `benchmark.key=value`. */
  readonly set?: readonly string[];
  /** YAML files of recipes, each with `benchmark:` and the keys it changes. */
  readonly files?: readonly string[];
  /** dtype of the weights, from the command line. */
  readonly dtype?: string;
  /** Prompt of mmvet's judge, from a file. */
  readonly judgePrompt?: string;
}

/** The recipe of a benchmark with a person's changes. Throws `RecipeError`. */
export function loadRecipe(
  benchmark: Benchmark,
  { set = [], files = [], dtype, judgePrompt }: RecipeChanges = {},
): LoadedRecipe {
  const tree = shipped(benchmark);
  const changes: Change[] = [];
  for (const file of files) {
    const own = parseMap(readOwn(file), file);
    if (!(BENCHMARKS as readonly unknown[]).includes(own["benchmark"]))
      throw new RecipeError(`${file}: benchmark must be one of ${BENCHMARKS.join(", ")}; got ${JSON.stringify(own["benchmark"])}`); // prettier-ignore
    if (own["benchmark"] === benchmark) change(tree, [], own, changes);
  }
  for (const text of set) {
    const { benchmark: only, path, value } = parseSet(text);
    if (only === null || only === benchmark) change(tree, path, value, changes);
  }
  if (dtype !== undefined) change(tree, ["dtype"], dtype, changes);
  if (judgePrompt !== undefined && benchmark === "mmvet") change(tree, ["judgePrompt"], judgePrompt, changes);
  const fixed = changes.find(({ path }) => FIXED.includes(path));
  if (fixed) throw new RecipeError(`the recipe of ${benchmark}: ${fixed.path} says what the recipe is and cannot be changed; got ${JSON.stringify(fixed.to)}`); // prettier-ignore
  const result = schema.safeParse(tree);
  if (result.success) return { recipe: result.data, changes };
  const lines = result.error.issues.map((issue) => {
    const path = issue.path.map(String).join(".");
    if (issue.code !== "unrecognized_keys") return `${path || "the top"}: ${issue.message}`;
    const known = knownAt(tree, issue.path, issue.keys);
    return issue.keys
      .map((key) => {
        const nearest = nearestName(key, known);
        return `${path ? `${path}.` : ""}${key} is not known${nearest ? `; did you mean ${nearest}?` : ""}`;
      })
      .join("\n  ");
  });
  throw new RecipeError(`the recipe of ${benchmark}: ${lines.length} problem(s):\n  ${lines.join("\n  ")}`);
}

/** Keys beside an unknown one, for a suggestion. */
function knownAt(tree: Settings, path: readonly PropertyKey[], unknown: readonly string[]): string[] {
  let open: unknown = tree;
  for (const key of path) open = isMap(open) ? open[String(key)] : {};
  return isMap(open) ? Object.keys(open).filter((key) => !unknown.includes(key)) : [];
}

function readOwn(file: string): string {
  try {
    return readFileSync(file, "utf8");
  } catch (error) {
    throw new RecipeError(`--recipe ${file}: the file cannot be read: ${messageOf(error)}`);
  }
}

/** The recipe without the list of files, as it is printed with a number. */
export function printedRecipe(recipe: Recipe): object {
  const { files: _, ...rest } = recipe;
  return rest;
}
