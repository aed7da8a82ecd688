/** The errors of evaluation. A row that cannot be used is counted and listed; the other errors end the run. */
import { ArgumentError } from "../engine/errors.ts";
import { IoError } from "../model/io/errors.ts";

/** A file of a benchmark that is missing or cannot be read as what it should be. */
export class EvalDataError extends IoError {}

/** One row that cannot be asked or scored: bad base64, no image, an answer that is not among the options. */
export class RowError extends EvalDataError {
  /** What is wrong, without the position. */
  readonly reason: string;
  constructor(where: string, reason: string) {
    super(`${where}: ${reason}`);
    this.reason = reason;
  }
}

/** A results folder that cannot be resumed or read. */
export class ResultsError extends IoError {}

/** A recipe, or a change of one, that is not understood. */
export class RecipeError extends ArgumentError {}
