/** Modules and optimizers as safetensors files on disk. */
import { ArgumentError, shown } from "../../engine/index.ts";
import { load as loadBytes, save as saveBytes, writeState } from "../nn/state_file.ts";
import type { LoadStateOptions, Stateful } from "../nn/state_file.ts";
import { openFile, writeFileAtomic } from "./files.ts";

/**
 * Writes the state dict of a module or an optimizer to a safetensors file, atomically: an existing file does not change
 * until the new one is complete. Without a file it returns the bytes. Tied parameters are written once, under their
 * first name. Throws `FileError`.
 */
export function save(holder: Stateful, file: string): Promise<void>;
export function save(holder: Stateful): Promise<Uint8Array>;
export function save(holder: Stateful, file?: string, ...none: readonly unknown[]): Promise<void | Uint8Array> {
  if (none.length)
    throw new ArgumentError(`save: at most a holder and a file must be given; got ${shown(none[0])} too. Remove it.`);
  if (file !== undefined && typeof file !== "string")
    throw new ArgumentError(`save: the file must be a path; got ${shown(file)}. The module or optimizer comes first.`);
  return file === undefined ? saveBytes(holder) : writeFileAtomic(file, (sink) => writeState(holder, sink));
}

/**
 * Copies the tensors of a safetensors file (its path, its bytes or a Blob) into a module or an optimizer, cast to the dtypes there. Throws `FileError`,
 * `SafetensorsError` for a damaged file, `StateDictError` for names and shapes that do not fit; then nothing is changed.
 */
export async function load(
  holder: Stateful,
  source: string | Uint8Array | Blob,
  options: LoadStateOptions = {},
): Promise<void> {
  if (typeof source !== "string") return loadBytes(holder, source, options);
  const file = await openFile(source);
  try {
    await loadBytes(holder, file, options);
  } finally {
    await file.close?.();
  }
}
