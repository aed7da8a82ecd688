/** Bad samples: set aside in a file with the reason, and counted against a budget, so that a broken source does not pass unseen. */
import { appendFile, mkdir, readFile } from "node:fs/promises";
import { dirname } from "node:path";
import { ArgumentError } from "../../../engine/errors.ts";
import { fileError } from "../../../model/node/files.ts";
import type { Task } from "../../samples.ts";
import { QuarantineError } from "../../data/errors.ts";

export interface QuarantineOptions {
  /** JSONL of the bad samples; without it they are only counted. */
  readonly file?: string;
  /** The share of the records seen that may be bad. */
  readonly share?: number;
  /** Bad records that are allowed in any case. */
  readonly least?: number;
  /** Names of the settings that allow more, for the message. */
  readonly settings?: string;
}

export interface BadSample {
  readonly task: Task;
  /** The file or folder. */
  readonly source: string;
  /** From 0. */
  readonly record: number;
  /** What is wrong, with the position. */
  readonly reason: string;
}

/** The file of bad samples with their reasons, and the budget that they are counted against. */
export class Quarantine {
  readonly file: string | undefined;
  readonly share: number;
  readonly least: number;
  private readonly settings: string | undefined;
  /** Samples that the file has already: a resumed run meets them again. */
  private known: Set<string> | null = null;

  constructor(options: QuarantineOptions = {}) {
    const { file, share = 0.001, least = 100 } = options;
    if (!(share >= 0 && share <= 1)) throw new ArgumentError(`Quarantine: share must be from 0 to 1; got ${share}`);
    if (!(least >= 0)) throw new ArgumentError(`Quarantine: least must be at least 0; got ${least}`);
    this.file = file;
    this.share = share;
    this.least = least;
    this.settings = options.settings;
  }

  /** Bad ones that are allowed of `seen` records. */
  allowed(seen: number): number {
    return Math.max(this.least, Math.floor(this.share * seen));
  }

  /**
   * Writes a bad sample down. Throws `QuarantineError` if there are too many.
   * @param bad bad records so far, this one included; a record counts once in all epochs
   * @param seen records so far, good and bad
   */
  async add(sample: BadSample, bad: number, seen: number): Promise<void> {
    await this.write(sample);
    const allowed = this.allowed(seen);
    if (bad <= allowed) return;
    const more = this.settings === undefined ? "" : `, or allow more (${this.settings}) and resume`;
    const where = this.file === undefined ? "" : `; all of them are in ${this.file}`;
    throw new QuarantineError(
      `${bad} of ${seen} records are bad, ${allowed} are allowed (${this.share * 100} % or ${this.least}). The last one: ${sample.reason}${where}. Correct the data${more}`,
    );
  }

  private async write(sample: BadSample): Promise<void> {
    if (this.file === undefined) return;
    try {
      this.known ??= await this.load(this.file);
      const key = keyOf(sample);
      if (this.known.has(key)) return;
      this.known.add(key);
      await appendFile(this.file, `${JSON.stringify(sample)}\n`);
    } catch (error) {
      throw fileError(error, this.file);
    }
  }

  private async load(file: string): Promise<Set<string>> {
    await mkdir(dirname(file), { recursive: true });
    const text = await readFile(file, "utf8").catch(() => "");
    if (text !== "" && !text.endsWith("\n")) await appendFile(file, "\n"); // cut off by a crash
    const keys = text.split("\n").map((line) => {
      try {
        return keyOf(JSON.parse(line) as BadSample);
      } catch {
        return "";
      }
    });
    return new Set(keys);
  }
}

/** Key of a record without the reason: decoders word the same damage in several ways. */
const keyOf = ({ source, record }: BadSample): string => JSON.stringify([source, record]);
