/** The errors of training data. A bad record or sample is set aside and counted; the others end the run. */
import { JanusError } from "../../engine/errors.ts";

/** Data that cannot be trained on. Base of the errors below. */
export class DataError extends JanusError {}

/** One record that is not what its source should hold. */
export class RecordError extends DataError {
  readonly file: string;
  /** From 1; in the listing for image folders. */
  readonly line: number;
  /** What is wrong and what to do, without the position. */
  readonly reason: string;
  constructor(file: string, line: number, reason: string) {
    super(`${file}:${line}: ${reason}`);
    this.file = file;
    this.line = line;
    this.reason = reason;
  }
}

/** A record that is well-formed and cannot become a sample: too long, an image that cannot be read, special tokens in its text. */
export class SampleError extends DataError {}

/** A source as a whole: of no known kind, empty, without an index. */
export class SourceError extends DataError {}

/** A source that is not the one that was indexed. */
export class SourceChangedError extends SourceError {}

/** A cache of image codes that is of another kind than was asked for, or codes that are none. */
export class CodesError extends DataError {}

/** More bad samples than the budget allows. */
export class QuarantineError extends DataError {}

/** A state that does not belong to this loader. */
export class LoaderStateError extends DataError {}
