/** The tensors of a module or an optimizer as one safetensors file: bytes here, files in model/node/state_file.ts. */
import {
  ArgumentError,
  DTYPES,
  elementBytes,
  knownOptions,
  noGrad,
  requireBoolean,
  scope,
  shown,
  tensor,
  tensorFromBytes,
} from "../../engine/index.ts";
import type { DType, Device, Tensor } from "../../engine/index.ts";
import { contiguous } from "../../kernels/index.ts";
import { blobFile, bytesFile } from "../io/bytes.ts";
import type { ByteSink, RandomAccess } from "../io/bytes.ts";
import { SafetensorsError, quote } from "../io/errors.ts";
import { layoutSafetensors, readSafetensors, writeSafetensors } from "../io/safetensors.ts";
import type { TensorContent } from "../io/safetensors.ts";
import { storedElementBytes } from "../io/stored.ts";
import type { StoredDType, StoredTensor } from "../io/stored.ts";
import { isSameView } from "./state_dict.ts";

/** Arguments of `save` and `load`: modules and optimizers. */
export interface Stateful {
  stateDict(): Readonly<Record<string, Tensor>>;
  loadStateDict(state: Record<string, Tensor>, options?: LoadStateOptions): Promise<void>;
}

export interface LoadStateOptions {
  /** False: names that only one side has are left out. Modules only. Default: true. */
  readonly strict?: boolean;
}

const CHUNK_BYTES = 16 * 2 ** 20;

/**
 * Writes the state dict of `holder` as a safetensors file; tied parameters once, under their first name. Throws
 * `SafetensorsError` if it changes during the write.
 */
export async function writeState(holder: Stateful, sink: ByteSink): Promise<void> {
  await writeSafetensors(sink, contentsOf(holder));
}

/**
 * Returns the state dict of a module or an optimizer as the bytes of a safetensors file; tied parameters once, under
 * their first name. In Node, `save(holder, file)` of janus-webgpu writes a file.
 */
export async function save(holder: Stateful, ...none: readonly never[]): Promise<Uint8Array> {
  const [extra] = none as readonly unknown[];
  if (none.length)
    throw new ArgumentError(
      `save: only a module or an optimizer is taken here, and its bytes are returned; got ${shown(extra)} too. Files are for save of janus-webgpu in Node.`,
    );
  const contents = contentsOf(holder);
  const bytes = new Uint8Array(layoutSafetensors(contents).fileBytes);
  let at = 0;
  const write = async (chunk: Uint8Array): Promise<void> => {
    bytes.set(chunk, at);
    at += chunk.length;
  };
  await writeSafetensors({ write }, contents);
  return bytes;
}

/**
 * Copies the tensors of a safetensors file into a module or an optimizer, cast to the dtypes there. f64 becomes f32; bool and other
 * integers become i32 if they fit. Throws `SafetensorsError` for a damaged file, `StateDictError` for names and shapes
 * that do not fit; in both cases nothing changes.
 */
export async function load(
  holder: Stateful,
  source: Uint8Array | Blob | RandomAccess,
  options: LoadStateOptions = {},
): Promise<void> {
  knownOptions("load", options, ["strict"]);
  requireBoolean("load", "strict", options.strict ?? true);
  const file = fileOf(source);
  const { tensors } = await readSafetensors(file);
  const [first] = Object.values(checkedState("load", holder));
  const state: Record<string, Tensor> = {};
  try {
    for (const [name, stored] of tensors) state[name] = await readTensor(file, stored, first?.device);
    await holder.loadStateDict(state, options);
  } finally {
    for (const t of Object.values(state)) t.dispose();
  }
}

function fileOf(source: Uint8Array | Blob | RandomAccess): RandomAccess {
  if (source instanceof Uint8Array) return bytesFile("the state", source);
  if (source instanceof Blob) return blobFile("name" in source ? String(source.name) : "the state", source);
  if (typeof source?.read === "function") return source;
  throw new ArgumentError(
    `load: the source must be the bytes of a safetensors file or a Blob; got ${typeof source === "string" ? quote(source) : typeof source}. Paths are for load of janus-webgpu in Node.`,
  );
}

function checkedState(op: string, holder: Stateful): Readonly<Record<string, Tensor>> {
  if (typeof holder?.stateDict !== "function" || typeof holder.loadStateDict !== "function")
    throw new ArgumentError(
      `${op}: the first argument must be a module or an optimizer; got ${typeof holder}. Pass it first.`,
    );
  return holder.stateDict();
}

function contentsOf(holder: Stateful): TensorContent[] {
  const written: Tensor[] = [];
  return Object.entries(checkedState("save", holder)).flatMap(([name, t]) => {
    if (written.some((other) => isSameView(other, t))) return [];
    written.push(t);
    return [{ name, dtype: t.dtype, shape: t.shape, chunks: () => chunksOf(name, t) }];
  });
}

async function* chunksOf(name: string, source: Tensor): AsyncGenerator<Uint8Array> {
  const { version } = source.storage;
  const t = noGrad(() => scope(() => contiguous(source.detach())));
  try {
    const bytes = elementBytes(t.dtype, t.size);
    for (let at = 0; at < bytes; at += CHUNK_BYTES) {
      if (source.storage.version !== version)
        throw new SafetensorsError(`save: ${quote(name)} was changed while it was saved. Save between two steps.`);
      yield await t.readBytes(at, Math.min(CHUNK_BYTES, bytes - at));
    }
  } finally {
    t.dispose();
  }
}

async function readTensor(file: RandomAccess, stored: StoredTensor, device?: Device): Promise<Tensor> {
  const { name, dtype, shape, offset } = stored;
  const bytes = await file.read(offset, stored.bytes);
  if (isEngineDType(dtype)) return tensorFromBytes(bytes, shape, dtype, device).keep();
  const data = new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
  const read = READERS[dtype];
  if (!read)
    throw new SafetensorsError(
      `load: ${quote(name)} must be of a dtype that has one here; got ${dtype}. Cast it before saving.`,
    );
  const size = storedElementBytes(dtype);
  const values = Array.from({ length: bytes.length / size }, (_, i) => read(data, i * size));
  const outside = dtype === "f64" ? undefined : values.find((v) => v < -(2 ** 31) || v >= 2 ** 31);
  if (outside !== undefined)
    throw new SafetensorsError(`load: values of ${quote(name)} must fit i32; got ${outside}. Cast it before saving.`);
  return tensor(dtype === "f64" ? Float32Array.from(values) : Int32Array.from(values), {
    shape,
    ...(device && { device }),
  }).keep();
}

const isEngineDType = (dtype: StoredDType): dtype is DType & StoredDType => Object.hasOwn(DTYPES, dtype);

/** Elements of dtypes that become f32 (f64) or i32 (the others). */
const READERS: Partial<Record<StoredDType, (data: DataView, at: number) => number>> = {
  bool: (data, at) => data.getUint8(at),
  i8: (data, at) => data.getInt8(at),
  i16: (data, at) => data.getInt16(at, true),
  u16: (data, at) => data.getUint16(at, true),
  f64: (data, at) => data.getFloat64(at, true),
  i64: (data, at) => Number(data.getBigInt64(at, true)),
  u64: (data, at) => Number(data.getBigUint64(at, true)),
};
