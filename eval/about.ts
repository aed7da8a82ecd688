/** What a number of a benchmark depends on, printed with it and compared on resuming. */
import { createHash } from "node:crypto";
import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { fileSize, writeFileAtomic } from "../model/node/files.ts";
import { isObject } from "../model/io/unknown.ts";
import { ResultsError } from "./errors.ts";
import { printedRecipe } from "./recipe.ts";
import type { Change, LoadedRecipe } from "./recipe.ts";

export interface ModelAbout {
  readonly name: string;
  readonly fingerprint: string;
  /** dtype of the weights on the device. */
  readonly dtype: string;
}

export interface About {
  readonly benchmark: string;
  readonly recipe: object;
  readonly changes: readonly Change[];
  /** The benchmark's file; `expectedMd5` is the recipe's of a file of this name, null if it is not known. */
  readonly file: { readonly name: string; readonly md5: string; readonly expectedMd5: string | null };
  /** Null for a score of files that no model of ours made. */
  readonly model: ModelAbout | null;
  /** Only the first items; null for all. */
  readonly limit: number | null;
  readonly version: string;
  readonly commit: string | null;
}

export const RUN_FILE = "run.json";

const KEYS = ["benchmark", "recipe", "file", "model", "limit", "version", "commit"] as const;

export const recipeParts = ({ recipe, changes }: LoadedRecipe): Pick<About, "recipe" | "changes"> => ({ recipe: printedRecipe(recipe), changes }); // prettier-ignore

/** Writes the run's description, or checks that the folder's is the same. Throws `ResultsError` that names what differs. */
export async function claimFolder(folder: string, about: About): Promise<void> {
  const path = join(folder, RUN_FILE);
  const write = (): Promise<void> => writeFileAtomic(path, Buffer.from(`${JSON.stringify(about, null, 2)}\n`));
  if ((await fileSize(path)) === null) return write();
  const there = await readAbout(folder);
  const differs = differences(partsToKeep(about), partsToKeep(there));
  if (differs.length > 0)
    throw new ResultsError(`${folder}: a run resumes only as it began; got ${differs.join("; ")}. Use another --out, or remove the folder`); // prettier-ignore
  if (JSON.stringify(there) !== JSON.stringify(about)) await write();
}

/** What must be equal to resume. The same model may have another name: a folder, or a link to it. */
function partsToKeep(about: About): unknown {
  const { model } = about;
  const parts = Object.fromEntries(KEYS.map((key) => [key, about[key]]));
  const of = { ...parts, recipe: asking(about.recipe), model: model && { fingerprint: model.fingerprint, dtype: model.dtype } }; // prettier-ignore
  return JSON.parse(JSON.stringify(of)) as unknown;
}

/** Where two JSON values differ: `recipe.decoding.maxNewTokens is 4 instead of 2048`. */
function differences(now: unknown, then: unknown, path: readonly string[] = []): string[] {
  if (isObject(now) && isObject(then))
    return [...new Set([...Object.keys(now), ...Object.keys(then)])].flatMap((key) =>
      differences(now[key], then[key], [...path, key]),
    );
  if (JSON.stringify(now) === JSON.stringify(then)) return [];
  return [`${path.join(".")} is ${short(now)} instead of ${short(then)}`];
}

/** The part of a recipe that answers depend on. The rest is how they are scored, which may change. */
function asking(recipe: object): object {
  const { scorer, judgePrompt: _, ...rest } = recipe as { scorer?: { name?: string }; judgePrompt?: string };
  return { ...rest, scorer: scorer?.name };
}

const short = (value: unknown): string => {
  const text = JSON.stringify(value) ?? "nothing";
  return text.length <= 120 ? text : `${text.slice(0, 117)}…`;
};

export async function readAbout(folder: string): Promise<About> {
  const path = join(folder, RUN_FILE);
  try {
    const value: unknown = JSON.parse(await readFile(path, "utf8"));
    if (isObject(value) && isObject(value["recipe"])) return value as unknown as About; // written by `claimFolder`
    throw new Error("got another JSON value");
  } catch (error) {
    throw new ResultsError(`${path}: the description of an evaluation is required; ${error instanceof Error ? error.message : String(error)}`); // prettier-ignore
  }
}

export const sha256 = (bytes: Uint8Array | string): string => createHash("sha256").update(bytes).digest("hex");
