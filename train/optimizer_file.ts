/**
 * Tensors by name (`AdamW.stateDict()`, an EMA) as a safetensors file of a checkpoint, and back, in chunks: host memory
 * contains one chunk at a time, beside what the device has not yet taken (`Device.throttle`). Names, dtypes and shapes
 * are checked strictly before a byte is written or read.
 */
import { ArgumentError, elementBytes, empty, sizeOf } from "../engine/index.ts";
import type { DType, Device, Tensor } from "../engine/index.ts";
import type { FileSource, FolderSink, RandomAccess } from "../model/io/bytes.ts";
import { CheckpointError, TensorMismatchError, quote } from "../model/io/errors.ts";
import { layoutSafetensors, readSafetensors, writeSafetensors } from "../model/io/safetensors.ts";
import type { TensorContent } from "../model/io/safetensors.ts";
import { specText } from "../model/io/stored.ts";
import type { StoredTensor } from "../model/io/stored.ts";
import type { AdamW } from "../model/nn/optim/index.ts";
import { batchesOf } from "./sharding/pieces.ts";

const CHUNK_BYTES = 16 * 2 ** 20;
const DEVICE_DTYPES: readonly string[] = ["f32", "f16", "bf16", "i32", "u32", "u8"] satisfies DType[];

type Tensors = Readonly<Record<string, Tensor>>;

/** A tensor that is written: one on the device, or one whose bytes are read from several. */
export type SavedTensor = Pick<Tensor, "dtype" | "shape" | "isContiguous" | "toString"> & {
  readonly storage: { readonly version: number };
  check(): void;
  readBytes(offset: number, length: number): Promise<Uint8Array>;
};
type SavedTensors = Readonly<Record<string, SavedTensor>>;

/** Which bytes of a tensor of the file a smaller one takes, in order. */
export interface FilePart {
  /** Shape in the file. */
  readonly shape: readonly number[];
  readonly ranges: readonly { readonly from: number; readonly bytes: number }[];
  /** True if the smaller one does not exist. */
  readonly isAbsent?: boolean;
}

const sortedByName = (tensors: SavedTensors): [string, SavedTensor][] =>
  Object.entries(tensors).sort(([a], [b]) => (a < b ? -1 : 1));

export interface TensorFileOptions {
  /** Size of one read-back or upload; a multiple of 8. */
  readonly chunkBytes?: number;
  readonly signal?: AbortSignal;
}

export interface SaveTensorsOptions extends TensorFileOptions {
  /** Bytes of tensors in a file; if there are more, they are in several, `name-00001-of-00003.safetensors` (default: all in one). A single tensor may be larger. */
  readonly fileBytes?: number;
}

/**
 * Writes `tensors` to the file `name` (or several, with `fileBytes`), sorted by name, byte for byte as on the device. They must not change during the
 * write: a step taken between two chunks throws `CheckpointError`. Throws `ArgumentError` for a tensor that is not
 * contiguous, before anything is written.
 */
export async function saveTensors(
  sink: FolderSink,
  name: string,
  tensors: SavedTensors,
  options: SaveTensorsOptions = {},
): Promise<void> {
  const chunk = chunkBytes(options);
  const sorted = sortedByName(tensors);
  for (const [key, tensor] of sorted) {
    tensor.check();
    if (!tensor.isContiguous)
      throw new ArgumentError(`${name}: ${quote(key)}, ${tensor}, is not contiguous; save contiguous(x)`);
  }
  const versions = new Map(sorted.map(([key, tensor]) => [key, tensor.storage.version]));
  const contents = sorted.map(([key, tensor]): TensorContent => {
    async function* chunks(): AsyncGenerator<Uint8Array> {
      const bytes = elementBytes(tensor.dtype, sizeOf(tensor.shape));
      for (let at = 0; at < bytes; at += chunk) {
        options.signal?.throwIfAborted();
        if (tensor.storage.version !== versions.get(key)) {
          throw new CheckpointError(
            `${name}: ${quote(key)} was changed while it was saved, the file would mix two states; save between two steps, not during one`,
          );
        }
        yield await tensor.readBytes(at, Math.min(chunk, bytes - at));
      }
    }
    return { name: key, dtype: tensor.dtype, shape: tensor.shape, chunks };
  });
  const bytesOf = ({ dtype, shape }: TensorContent): number => elementBytes(dtype as DType, sizeOf(shape));
  const groups = contents.length ? batchesOf(contents, bytesOf, options.fileBytes ?? Infinity) : [[]];
  for (const [i, group] of groups.entries())
    await sink.write(numberedFile(name, i + 1, groups.length), (file) => writeSafetensors(file, group));
}

/** `optimizer-00001-of-00003.safetensors`; the `name` itself if it is the only one. */
const numberedFile = (name: string, number: number, count: number): string =>
  count === 1 ? name : name.replace(/\.\w+$/, (end) => `-${String(number).padStart(5, "0")}-of-${String(count).padStart(5, "0")}${end}`); // prettier-ignore

/** The files of `name` in a folder: itself, or the several that `saveTensors` has made instead. */
async function filesOf(source: FileSource, name: string): Promise<string[]> {
  for (const found of await source.list()) {
    const count = Number(/-of-(\d{5})\.\w+$/.exec(found)?.[1] ?? 1);
    if (found === numberedFile(name, 1, count))
      return Array.from({ length: count }, (_, i) => numberedFile(name, i + 1, count));
  }
  return [name];
}

interface StoredIn extends StoredTensor {
  readonly source: RandomAccess;
}

/** Opens the files of `name` for `work`, which also gets the name of the first for messages. */
async function withStored<T>(
  source: FileSource,
  name: string,
  work: (stored: ReadonlyMap<string, StoredIn>, file: string) => Promise<T>,
): Promise<T> {
  const files: RandomAccess[] = [];
  try {
    for (const each of await filesOf(source, name)) files.push(await source.open(each));
    const stored = new Map<string, StoredIn>();
    for (const file of files)
      for (const [key, tensor] of (await readSafetensors(file)).tensors) stored.set(key, { ...tensor, source: file });
    return await work(stored, files[0]!.name);
  } finally {
    for (const file of files) await file.close?.();
  }
}

/** Bytes of the file that `saveTensors` writes. */
export const tensorFileBytes = (tensors: SavedTensors): number =>
  layoutSafetensors(sortedByName(tensors).map(([name, { dtype, shape }]) => ({ name, dtype, shape }))).fileBytes;

type LoadIntoOptions = TensorFileOptions & {
  readonly optional?: readonly string[];
  readonly parts?: ReadonlyMap<string, FilePart>;
};

/**
 * Fills given tensors (all of a `stateDict`) from the file `name`, straight to the device. Throws `TensorMismatchError` before any of them
 * changes if the file lacks one, has another, or one differs in dtype or shape; an error in reading after that leaves them half filled.
 * @param options.optional names that may be missing in the file; those tensors do not change
 * @param options.parts tensors that take only a part of one in the file
 * @returns the names that it lacks
 */
export async function loadTensorsInto(
  source: FileSource,
  name: string,
  tensors: Tensors,
  { optional = [], parts = new Map(), ...options }: LoadIntoOptions = {},
): Promise<string[]> {
  return withStored(source, name, async (stored, file) => {
    const absent = optional.filter((key) => !stored.has(key));
    const wanted = Object.fromEntries(Object.entries(tensors).filter(([key]) => !absent.includes(key)));
    const taken = new Map([...stored].filter(([key]) => !parts.get(key)?.isAbsent));
    requireSame(file, taken, wanted, parts);
    await upload(taken, tensors, { ...options, parts });
    return absent;
  });
}

/**
 * Fills `tensors`, the `stateDict` of `optimizer` with what is saved beside it, from the file `name` as `loadTensorsInto` does. A file of an earlier
 * version has no `steps`: every parameter gets the one step count that it has.
 */
export async function loadOptimizer(
  source: FileSource,
  name: string,
  optimizer: AdamW,
  { tensors = optimizer.stateDict(), ...options }: Omit<LoadIntoOptions, "optional"> & { readonly tensors?: Tensors } = {}, // prettier-ignore
): Promise<void> {
  const absent = await loadTensorsInto(source, name, tensors, { ...options, optional: ["steps"] });
  if (absent.length) optimizer.spreadSteps();
}

/** The tensors of the file `name` as new ones on `device`. Throws `TensorMismatchError` for dtypes that no device has. */
export async function loadTensors(
  source: FileSource,
  name: string,
  options: TensorFileOptions & { readonly device?: Device } = {},
): Promise<Record<string, Tensor>> {
  const made: Record<string, Tensor> = {};
  try {
    return await withStored(source, name, async (stored, file) => {
      const strange = [...stored.values()].filter(({ dtype }) => !DEVICE_DTYPES.includes(dtype));
      if (strange.length)
        throw new TensorMismatchError(
          `${file}: a device cannot hold all of it:`,
          strange.map((tensor) => `${quote(tensor.name)} is ${specText(tensor)}`),
        );
      const { device } = options;
      for (const [key, { dtype, shape }] of stored)
        made[key] = empty(shape, { dtype: dtype as DType, label: key, ...(device && { device }) }).keep();
      await upload(stored, made, options);
      return made;
    });
  } catch (error) {
    for (const tensor of Object.values(made)) tensor.dispose();
    throw error;
  }
}

function requireSame(
  file: string,
  stored: ReadonlyMap<string, StoredTensor>,
  tensors: Tensors,
  parts: ReadonlyMap<string, FilePart>,
): void {
  const problems: string[] = [];
  for (const name of stored.keys()) if (!Object.hasOwn(tensors, name)) problems.push(`${quote(name)} is not wanted`);
  for (const [name, tensor] of Object.entries(tensors)) {
    const found = stored.get(name);
    const wanted = specText({ dtype: tensor.dtype, shape: parts.get(name)?.shape ?? tensor.shape });
    if (!found) problems.push(`${quote(name)}, ${wanted}, is missing`);
    else if (specText(found) !== wanted) problems.push(`${quote(name)} is ${specText(found)}, it must be ${wanted}`);
    tensor.check();
    if (!tensor.isContiguous)
      throw new ArgumentError(
        `${file}: ${quote(name)} must be loaded into a contiguous tensor; got a view, ${tensor}. Pass a separate tensor.`,
      );
  }
  if (problems.length)
    throw new TensorMismatchError(`${file} does not fit; resume with the config that it was saved with:`, problems);
}

async function upload(
  stored: ReadonlyMap<string, StoredIn>,
  tensors: Tensors,
  { parts = new Map(), ...options }: Omit<LoadIntoOptions, "optional">,
): Promise<void> {
  const chunk = chunkBytes(options);
  let device: Device | null = null;
  for (const [name, { source, offset, bytes: all }] of stored) {
    const tensor = tensors[name]!;
    const { device: own } = tensor;
    device = own;
    let to = 0;
    for (const { from, bytes } of parts.get(name)?.ranges ?? [{ from: 0, bytes: all }])
      for (let at = 0; at < bytes; at += chunk) {
        options.signal?.throwIfAborted();
        const part = await source.read(offset + from + at, Math.min(chunk, bytes - at));
        tensor.writeBytes(part, to);
        to += part.length;
        await own.throttle();
      }
  }
  await device?.sync();
}

function chunkBytes({ chunkBytes: bytes = CHUNK_BYTES }: TensorFileOptions): number {
  if (!Number.isSafeInteger(bytes) || bytes < 8 || bytes % 8)
    throw new ArgumentError(`chunkBytes is ${bytes}; a multiple of 8 of at least 8`);
  return bytes;
}
