/** MM-Vet's judge: a file of scores, or a model behind an OpenAI-compatible endpoint, which is asked only if one is given. */
import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { messageOf } from "../engine/errors.ts";
import { isObject } from "../model/io/unknown.ts";
import { appendFile } from "node:fs/promises";
import { fileError, fileSize, openFile, writeFileAtomic } from "../model/node/files.ts";
import { EvalDataError } from "./errors.ts";
import { linesOf, parseLine } from "./read/jsonl.ts";
import type { PredictionLine } from "./predictions.ts";
import { float } from "./python.ts";

/** Ids as the official files have them: `v1_0` for row 0 of VLMEvalKit's TSV. */
const officialId = (id: string): string => (/^\d+$/.test(id) ? `v1_${id}` : id);

/** The predictions as the official evaluator reads them: a JSON object from id to answer. */
export async function writeAnswers(folder: string, predictions: readonly PredictionLine[]): Promise<void> {
  const answers = Object.fromEntries(predictions.map(({ id, answer }) => [officialId(id), answer.trim()]));
  await writeFileAtomic(join(folder, "answers.json"), Buffer.from(`${JSON.stringify(answers, null, 2)}\n`));
}

/** A score from 0 to 1: a number, or the last of a list. Throws `EvalDataError`. */
function scoreIn(value: unknown, where: string): number {
  const inner = isObject(value) && !Array.isArray(value) ? value["score"] : value;
  const score: unknown = Array.isArray(inner) ? inner.at(-1) : inner;
  if (typeof score === "number" && score >= 0 && score <= 1) return score;
  throw new EvalDataError(`${where}: a score from 0 to 1 is required; got ${JSON.stringify(inner)}`);
}

/** Scores by id from a judge's file: JSON (`{id: score}`, `{id: {score}}`) or JSONL (`{id, score}`). Throws `EvalDataError`. */
export async function readScores(path: string): Promise<ReadonlyMap<string, number>> {
  const scores = new Map<string, number>();
  const add = (id: string, value: unknown, where: string): void => {
    const plain = /^v1_\d+$/.test(id) ? id.slice(3) : id;
    if (scores.has(plain)) throw new EvalDataError(`${where}: each answer must be judged once; got ${id} again`);
    scores.set(plain, scoreIn(value, where));
  };
  if (/\.jsonl$/i.test(path)) {
    const file = await openFile(path);
    try {
      for await (const { at, bytes } of linesOf(file)) {
        const { id, score } = parseLine(bytes, `${path}:${at}`);
        add(String(id), score, `${path}:${at}`);
      }
    } finally {
      await file.close?.();
    }
    return scores;
  }
  let value: unknown;
  try {
    value = JSON.parse(await readFile(path, "utf8"));
  } catch (error) {
    throw error instanceof SyntaxError ? new EvalDataError(`${path}: JSON is required; ${messageOf(error)}`) : fileError(error, path); // prettier-ignore
  }
  if (!isObject(value) || Array.isArray(value))
    throw new EvalDataError(`${path}: an object from id to score is required`);
  for (const [id, score] of Object.entries(value)) add(id, score, `${path}: ${id}`);
  return scores;
}

export interface Judge {
  /** Base URL, e.g. `https://api.openai.com/v1`. */
  readonly url: string;
  readonly model: string;
  readonly key: string | undefined;
  /** {question}, {answer}, {prediction} */
  readonly prompt: string;
}

export interface JudgedAnswer {
  readonly id: string;
  readonly question: string;
  readonly expected: string;
  readonly answer: string;
}

const TRIES = 5;

/** One request. Throws `EvalDataError` with the status. */
async function complete(
  { url, model, key }: Judge,
  content: string,
  temperature: number,
  signal: AbortSignal,
): Promise<string> {
  // prettier-ignore
  const target = `${url.replace(/\/+$/, "")}/chat/completions`;
  const headers = { "content-type": "application/json", ...(key && { authorization: `Bearer ${key}` }) };
  const body = JSON.stringify({ model, temperature, messages: [{ role: "user", content }] });
  let reply: unknown;
  try {
    const response = await fetch(target, { method: "POST", headers, body, signal });
    if (!response.ok) throw new EvalDataError(`--judge ${target}: the status must be 200; got ${response.status}`);
    reply = await response.json();
  } catch (error) {
    if (signal.aborted || error instanceof EvalDataError) throw error;
    throw new EvalDataError(`--judge ${target}: a JSON answer is required; ${messageOf(error)}`);
  }
  const text = (reply as { choices?: { message?: { content?: unknown } }[] })?.choices?.[0]?.message?.content;
  if (typeof text !== "string") throw new EvalDataError(`--judge ${target}: choices[0].message.content is required`);
  return text;
}

/** Judges all answers that `judge.jsonl` lacks. An answer whose score cannot be read in five tries gets 0, as in the official code. */
export async function judge(
  folder: string,
  answers: readonly JudgedAnswer[],
  options: Judge & { signal: AbortSignal; onProgress: (done: number, total: number) => void },
): Promise<string> {
  // prettier-ignore
  const path = join(folder, "judge.jsonl");
  const known = (await fileSize(path)) === null ? new Map<string, number>() : await readScores(path);
  for (const [done, { id, question, expected, answer }] of answers.entries()) {
    options.onProgress(done, answers.length);
    if (known.has(id)) continue;
    const values: Record<string, string> = { question, answer: expected, prediction: answer.trim() };
    const content = options.prompt.replace(/\{(question|answer|prediction)\}/g, (_, name: string) => values[name]!);
    let score: number | null = null;
    for (let i = 0; i < TRIES && score === null; i++) {
      const value = float(await complete(options, content, i * 0.5, options.signal));
      if (value !== null && value >= 0 && value <= 1) score = value;
    }
    await appendFile(path, `${JSON.stringify({ id, score: score ?? 0, parsed: score !== null })}\n`);
  }
  return path;
}
