/**
 * The errors of files and formats. Each names the file, what was required, what came, and what to do. Under the root, `IoError`, are what the
 * system refuses (`FileError`), what the hub refuses (`HubError`), run folders, and `CheckpointError`: what a file contains.
 */
import { JanusError } from "../../engine/errors.ts";

/** Files that cannot be read or written, whatever the reason. Base of all errors of files and formats. */
export class IoError extends JanusError {}

/** A checkpoint whose files do not contain what they must: damaged, incomplete, contradictory. Base of the errors below. */
export class CheckpointError extends IoError {}

/** Bytes that are not strict JSON. */
export class JsonError extends CheckpointError {}

/** A file that is not a well-formed safetensors file. */
export class SafetensorsError extends CheckpointError {}

/** A file that is not a well-formed GGUF file, or has types that are not read. */
export class GgufError extends CheckpointError {}

/** A file that is not a zip archive as `torch.save` writes it. */
export class ZipError extends CheckpointError {}

/** A pickle that is damaged or holds something other than a dictionary of tensors. */
export class PickleError extends CheckpointError {}

/** A pickle that asks for a name or an opcode outside the allow-list. Nothing of it was executed. */
export class UnsafePickleError extends PickleError {
  /** The refused name (`os.system`) or opcode (`INST`). */
  readonly refused: string;
  constructor(message: string, refused: string) {
    super(message);
    this.refused = refused;
  }
}

/** An index of shards that disagrees with itself or with the shards. */
export class ShardIndexError extends CheckpointError {}

/** A config.json that is missing, malformed, contradicts itself or describes a model that is not supported. */
export class ConfigError extends CheckpointError {}

/** Tensors that do not fit the config. `problems` holds one line for each. */
export class TensorMismatchError extends CheckpointError {
  readonly problems: readonly string[];
  constructor(message: string, problems: readonly string[]) {
    const shown = problems.slice(0, 20);
    if (problems.length > shown.length) shown.push(`… and ${problems.length - shown.length} more`);
    super(`${message}\n  ${shown.join("\n  ")}`);
    this.problems = problems;
  }
}

/** The files lack a part of the model, e.g. a GGUF file that has only the language model. */
export class MissingPartError extends CheckpointError {}

/** A weight that cannot be quantised: not finite, or beyond the range of the scale. */
export class QuantizationError extends CheckpointError {}

/** A string out of a file as it may be shown: quoted, control characters escaped, cut to 120 characters. */
export function quote(text: string): string {
  const cut = text.length > 120 ? `${text.slice(0, 117)}…` : text;
  // oxlint-disable-next-line no-control-regex
  return JSON.stringify(cut).replace(
    /[\u007f-\u009f\u200e\u200f\u202a-\u202e\u2066-\u2069]/g,
    (c) => `\\u${c.charCodeAt(0).toString(16).padStart(4, "0")}`,
  );
}

/** `"a", "b" and 3 more`, for messages. */
export function someOf(names: Iterable<string>, shown = 5): string {
  const all = [...names];
  const rest = all.length - shown;
  return all.slice(0, shown).map(quote).join(", ") + (rest > 0 ? ` and ${rest} more` : "");
}
