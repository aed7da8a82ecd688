/** MM-Vet's judge: a file of scores, or a model behind an OpenAI-compatible endpoint, which is asked only if one is given. */
import { appendFile, readFile, truncate } from "node:fs/promises";
import { join } from "node:path";
import { messageOf } from "../engine/errors.ts";
import { sleep } from "../engine/index.ts";
import { isObject } from "../model/io/unknown.ts";
import { fileError, fileSize, openFile, writeFileAtomic } from "../model/node/files.ts";
import { sha256 } from "./about.ts";
import { EvalDataError } from "./errors.ts";
import { linesOf, parseLine } from "./read/jsonl.ts";
import type { PredictionLine } from "./predictions.ts";
import { float } from "./python.ts";
import { mean } from "./score/score.ts";

/** Ids as the official files have them: `v1_0` for row 0 of VLMEvalKit's TSV. */
const officialId = (id: string): string => (/^\d+$/.test(id) ? `v1_${id}` : id);
/** The same without the prefix, as `readScores` gives it. */
export const plainId = (id: string): string => (/^v1_\d+$/.test(id) ? id.slice(3) : id);

/** The predictions as the official evaluator reads them: a JSON object from id to answer. */
export async function writeAnswers(folder: string, predictions: readonly PredictionLine[]): Promise<void> {
  const answers = Object.fromEntries(predictions.map(({ id, answer }) => [officialId(id), answer.trim()]));
  await writeFileAtomic(join(folder, "answers.json"), Buffer.from(`${JSON.stringify(answers, null, 2)}\n`));
}

/** A score from 0 to 1: a number, or the mean of a list, one for each run of the official evaluator. Throws `EvalDataError`. */
function scoreIn(value: unknown, where: string): number {
  const inner = isObject(value) && !Array.isArray(value) ? value["score"] : value;
  const scores: unknown[] = [inner].flat();
  const isScore = (score: unknown): score is number => typeof score === "number" && score >= 0 && score <= 1;
  if (scores.length > 0 && scores.every(isScore)) return mean(scores);
  throw new EvalDataError(`${where}: a score from 0 to 1 is required; got ${JSON.stringify(inner)}`);
}

/** Scores by id from a judge's file: JSON (`{id: score}`, `{id: {score}}`) or JSONL (`{id, score}`). Throws `EvalDataError`. */
export async function readScores(path: string): Promise<ReadonlyMap<string, number>> {
  const scores = new Map<string, number>();
  const add = (id: string, value: unknown, where: string): void => {
    const plain = plainId(id);
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

/** What the official evaluators put behind their examples: `question | ground truth | prediction | `, with spaces around <AND> and <OR>. */
const QUESTION = "\n{question} | {answer} | {prediction} | ";

/** Owners of known prompts, by the SHA-256 of the template that `readJudgePrompt` makes of their files. */
const KNOWN_PROMPTS: Readonly<Record<string, string>> = {
  b2e898d219694c36f5bb95ec579dc25b775585237b417185d161f6434b4ad91f: "the prompt of MM-Vet's evaluator",
  "3b0bafe2ec340ff75bd45dee1993f5056f98cd96e4cd1ccf09172c4aedd80f1f": "the prompt of VLMEvalKit",
};
const promptName = (template: string): string => KNOWN_PROMPTS[sha256(template)] ?? "a prompt that is not the official one: the score does not compare with published ones"; // prettier-ignore

/**
 * The judge's prompt of a file: of MM-Vet's `mm-vet_evaluator.py` or `.ipynb` or VLMEvalKit's `mmvet.py`, which have it as
 * a text named `prompt`, or a text file with {question}, {answer} and {prediction}. Throws `EvalDataError`.
 */
export async function readJudgePrompt(path: string): Promise<string> {
  let text: string;
  try {
    text = await readFile(path, "utf8");
  } catch (error) {
    throw fileError(error, path);
  }
  if (!/\.(py|ipynb)$/i.test(path)) return text;
  const code = /\.ipynb$/i.test(path) ? notebookCode(text, path) : text;
  const examples = /^\s*prompt = """([^]*?)"""/m.exec(code)?.[1];
  if (examples === undefined)
    throw new EvalDataError(`${path}: a text prompt = """…""" is required. Use MM-Vet's mm-vet_evaluator.py or .ipynb, or VLMEvalKit's vlmeval/dataset/utils/mmvet.py`); // prettier-ignore
  return examples + QUESTION;
}

function notebookCode(text: string, path: string): string {
  try {
    const { cells } = JSON.parse(text) as { cells: { source: string | string[] }[] };
    return cells.map(({ source }) => [source].flat().join("")).join("\n");
  } catch (error) {
    throw new EvalDataError(`${path}: a notebook is required; ${messageOf(error)}`);
  }
}

export interface Judge {
  /** Base URL, e.g. `https://api.openai.com/v1`. */
  readonly url: string;
  readonly model: string;
  readonly key: string | undefined;
  /** {question}, {answer}, {prediction} */
  readonly prompt: string;
  /** Wait before an endpoint that is busy is asked again, ms (default: 30 s). */
  readonly waitMs?: number;
}

export interface JudgedAnswer {
  readonly id: string;
  readonly question: string;
  readonly expected: string;
  readonly answer: string;
}

const TRIES = 5;
const WAIT_MS = 30_000;

/** One request; waits for an endpoint that is busy. Throws `EvalDataError` with the status. */
async function complete(judge: Judge, content: string, temperature: number, signal: AbortSignal): Promise<string> {
  const { url, model, key, waitMs = WAIT_MS } = judge;
  const target = `${url.replace(/\/+$/, "")}/chat/completions`;
  const headers = { "content-type": "application/json", ...(key && { authorization: `Bearer ${key}` }) };
  const body = JSON.stringify({ model, temperature, messages: [{ role: "user", content }] });
  let reply: unknown;
  for (let tries = 1; ; tries++) {
    try {
      const response = await fetch(target, { method: "POST", headers, body, signal });
      const isBusy = response.status === 429 || response.status >= 500;
      if (isBusy && tries < TRIES) {
        await sleep(waitMs);
        signal.throwIfAborted();
        continue;
      }
      if (!response.ok) throw new EvalDataError(`--judge ${target}: the status must be 200; got ${response.status}`);
      reply = await response.json();
      break;
    } catch (error) {
      if (signal.aborted || error instanceof EvalDataError) throw error;
      throw new EvalDataError(`--judge ${target}: a JSON answer is required; ${messageOf(error)}`);
    }
  }
  const text = (reply as { choices?: { message?: { content?: unknown } }[] })?.choices?.[0]?.message?.content;
  if (typeof text !== "string") throw new EvalDataError(`--judge ${target}: choices[0].message.content is required`);
  return text;
}

/**
 * Judges all answers that the judge's file lacks; it is named by model, prompt and answers, so that no score of another
 * judge is taken. An answer whose score cannot be read in five tries gets 0, as in the official code.
 */
export async function judge(
  folder: string,
  answers: readonly JudgedAnswer[],
  options: Judge & { signal: AbortSignal; onProgress: (done: number, total: number) => void },
): Promise<{ path: string; notice: string }> {
  const { model, prompt } = options;
  const path = join(folder, `judge-${sha256(JSON.stringify([model, prompt, answers])).slice(0, 12)}.jsonl`);
  await cutOff(path);
  const known = new Map((await fileSize(path)) === null ? [] : await readScores(path));
  for (const [done, { id, question, expected, answer }] of answers.entries()) {
    options.onProgress(done, answers.length);
    if (known.has(plainId(id))) continue;
    const truth = expected.replaceAll("<AND>", " <AND> ").replaceAll("<OR>", " <OR> ");
    const values: Record<string, string> = { question, answer: truth, prediction: answer.trim() };
    const content = prompt.replace(/\{(question|answer|prediction)\}/g, (_, name: string) => values[name]!);
    let score: number | null = null;
    for (let i = 0; i < TRIES && score === null; i++) {
      const value = float(await complete(options, content, i * 0.5, options.signal));
      if (value !== null && value >= 0 && value <= 1) score = value;
    }
    known.set(plainId(id), score ?? 0);
    await appendFile(path, `${JSON.stringify({ id, score: score ?? 0, parsed: score !== null })}\n`);
  }
  const unread = (await readFile(path, "utf8")).split("\n").filter((line) => line.endsWith('"parsed":false}')).length;
  return {
    path,
    notice: `judged by ${model} with ${promptName(prompt)}${unread > 0 ? `; ${unread} scores could not be read and count as 0` : ""}`,
  };
}

/** Removes a line that was cut off when the program was killed. */
async function cutOff(path: string): Promise<void> {
  if ((await fileSize(path)) === null) return;
  const bytes = await readFile(path);
  await truncate(path, bytes.lastIndexOf(0x0a) + 1);
}
