/** `predictions.jsonl`: a line per item in the order of the schedule, written as answers come. A cut-off last line is removed on resuming. */
import { open, readFile, truncate } from "node:fs/promises";
import { isObject } from "../model/io/unknown.ts";
import { fileError, fileSize } from "../model/node/files.ts";
import { ResultsError } from "./errors.ts";
import type { Prediction } from "./score/score.ts";

/** A line of the file: an answered item, or a row that could not be asked. */
export interface PredictionLine extends Prediction {
  /** Row of the benchmark's file. */
  readonly at: number;
  /** The text that was tokenised, image placeholders not expanded. */
  readonly prompt: string;
  /** Token ids; a run of equal ids is written as [id, count]. */
  readonly promptIds: readonly (number | readonly [number, number])[];
  readonly finish: string;
  /** Number of tokens of the answer. */
  readonly tokens: number;
}

export interface BadLine {
  readonly id: string;
  readonly at: number;
  readonly bad: string;
}

export type Line = PredictionLine | BadLine;
export const isBad = (line: Line): line is BadLine => "bad" in line;

/** Runs of at least three equal ids as pairs: an image takes hundreds of the same id. */
export function packIds(ids: readonly number[]): (number | [number, number])[] {
  const packed: (number | [number, number])[] = [];
  for (let i = 0; i < ids.length;) {
    let end = i;
    while (ids[end] === ids[i]) end++;
    if (end - i >= 3) packed.push([ids[i]!, end - i]);
    else packed.push(...ids.slice(i, end));
    i = end;
  }
  return packed;
}

/** The whole lines of a file, in order; none if there is no file. Throws `ResultsError` for a line that is none of ours. */
export async function readLines(path: string): Promise<{ lines: Line[]; bytes: number }> {
  if ((await fileSize(path)) === null) return { lines: [], bytes: 0 };
  const text = await readFile(path, "utf8");
  const whole = text.slice(0, text.lastIndexOf("\n") + 1);
  const lines = whole
    .split("\n")
    .slice(0, -1)
    .map((line, i): Line => {
      let value: unknown;
      try {
        value = JSON.parse(line);
      } catch {
        // refused below
      }
      if (!isObject(value) || typeof value["id"] !== "string" || (typeof value["answer"] !== "string" && typeof value["bad"] !== "string")) // prettier-ignore
        throw new ResultsError(`${path}:${i + 1}: a prediction is required; got another line. Remove the file to start again`); // prettier-ignore
      return value as unknown as Line; // written by `append`
    });
  return { lines, bytes: Buffer.byteLength(whole) };
}

/** Appends to a file whose first `bytes` are whole lines; what follows them is removed. */
export class PredictionsFile implements AsyncDisposable {
  private readonly file: Awaited<ReturnType<typeof open>>;
  private readonly path: string;

  private constructor(path: string, file: Awaited<ReturnType<typeof open>>) {
    this.path = path;
    this.file = file;
  }

  static async open(path: string, bytes: number): Promise<PredictionsFile> {
    try {
      const file = await open(path, "a");
      if ((await file.stat()).size > bytes) await truncate(path, bytes);
      return new PredictionsFile(path, file);
    } catch (error) {
      throw fileError(error, path);
    }
  }

  async append(lines: readonly Line[]): Promise<void> {
    try {
      await this.file.appendFile(lines.map((line) => `${JSON.stringify(line)}\n`).join(""));
    } catch (error) {
      throw fileError(error, this.path);
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.file.close();
  }
}
