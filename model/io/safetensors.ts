/**
 * The safetensors format: 8 bytes little-endian N, N bytes of JSON `{name: {dtype, shape, data_offsets}}`, then the data.
 * The reader is strict: it takes only headers whose tensors tile the data exactly. Offsets count from byte 8 + N.
 */
import type { ByteSink, RandomAccess } from "./bytes.ts";
import { SafetensorsError, quote } from "./errors.ts";
import { JsonReader } from "./json.ts";
import {
  MAX_RANK,
  MAX_TENSORS,
  elementCount,
  isStoredDType,
  nameProblem,
  specText,
  storedDTypes,
  storedElementBytes,
} from "./stored.ts";
import type { StoredTensor, TensorSpec } from "./stored.ts";

/** The bound of the format's own implementation. */
const MAX_HEADER = 100_000_000;
const MAX_METADATA = 4096; // entries
const FIELDS = ["dtype", "shape", "data_offsets"];

export interface SafetensorsFile {
  readonly tensors: ReadonlyMap<string, StoredTensor>;
  readonly metadata: ReadonlyMap<string, string>;
}

/** Reads and checks a header. `file` is the name that its tensors carry. Throws `SafetensorsError`, or `JsonError` for its text. */
export async function readSafetensors(from: RandomAccess, file = from.name): Promise<SafetensorsFile> {
  const fail = (message: string): never => {
    throw new SafetensorsError(`${from.name}: ${message}; the file is damaged or not safetensors, load it again`);
  };
  if (from.size < 8) fail(`${from.size} bytes are too few for a header`);
  const prefix = await from.read(0, 8);
  const headerBytes = Number(new DataView(prefix.buffer, prefix.byteOffset, 8).getBigUint64(0, true));
  if (headerBytes > MAX_HEADER) fail(`a header of ${headerBytes} bytes; at most ${MAX_HEADER}`);
  if (headerBytes > from.size - 8) fail(`a header of ${headerBytes} bytes in a file of ${from.size}`);
  const header = await from.read(8, headerBytes);
  const base = 8 + headerBytes;
  const { tensors, metadata } = parseHeader(header, from.name, file, base);
  checkTiling([...tensors.values()], base, from.size, fail);
  return { tensors, metadata };
}

function parseHeader(header: Uint8Array, name: string, file: string, base: number): SafetensorsFile {
  const tensors = new Map<string, StoredTensor>();
  const metadata = new Map<string, string>();
  const json = new JsonReader(header, `${name}: header`);
  json.object((key) => {
    if (key === "__metadata__") {
      json.object((entry) => {
        if (metadata.size >= MAX_METADATA) json.fail(`more than ${MAX_METADATA} entries in __metadata__`);
        metadata.set(entry, json.string());
      });
      return;
    }
    const problem = nameProblem(key);
    if (problem) json.fail(problem);
    if (tensors.size >= MAX_TENSORS) json.fail(`more than ${MAX_TENSORS} tensors`);
    tensors.set(key, parseTensor(json, key, file, base));
  });
  json.end();
  return { tensors, metadata };
}

function parseTensor(json: JsonReader, name: string, file: string, base: number): StoredTensor {
  const of = (): string => `of tensor ${quote(name)}`;
  let dtype: string | undefined;
  const shape: number[] = [];
  const offsets: number[] = [];
  const found: string[] = [];
  json.object((field) => {
    found.push(field);
    if (field === "dtype") dtype = json.string();
    else if (field === "shape") {
      json.array((i) => {
        if (i >= MAX_RANK) json.fail(`the shape ${of()} has more than ${MAX_RANK} dimensions`);
        shape.push(json.whole(() => `dimension ${i} ${of()}`));
      });
    } else if (field === "data_offsets") {
      json.array((i) => {
        if (i >= 2) json.fail(`data_offsets ${of()} has more than 2 numbers`);
        offsets.push(json.whole(() => `data_offsets ${of()}`));
      });
    } else json.fail(`unknown field ${quote(field)} ${of()}`);
  });
  const missing = FIELDS.find((field) => !found.includes(field));
  if (missing) json.fail(`${missing} ${of()} is missing`);
  const type = dtype!.toLowerCase();
  if (!isStoredDType(type) || dtype !== type.toUpperCase()) {
    return json.fail(`dtype ${quote(dtype!)} ${of()} is not known (${storedDTypes().join(", ").toUpperCase()})`);
  }
  const [begin, end] = offsets;
  if (begin === undefined || end === undefined || begin > end) json.fail(`data_offsets ${of()} must be [begin, end]`);
  const bytes = elementCount(shape) * storedElementBytes(type);
  const spec = { name, dtype: type, shape };
  if (!Number.isSafeInteger(bytes)) json.fail(`${specText(spec)} ${of()} has too many elements`);
  if (bytes !== end - begin)
    json.fail(`${specText(spec)} ${of()} needs ${bytes} bytes, its data_offsets hold ${end - begin}`);
  return { ...spec, file, offset: base + begin, bytes };
}

function checkTiling(tensors: StoredTensor[], base: number, size: number, fail: (message: string) => never): void {
  tensors.sort((a, b) => a.offset - b.offset || a.bytes - b.bytes);
  let at = base;
  for (const { name, offset, bytes } of tensors) {
    if (offset > at) fail(`${offset - at} unused bytes before tensor ${quote(name)}`);
    if (offset < at) fail(`tensor ${quote(name)} overlaps the one before it`);
    at += bytes;
  }
  if (at !== size) fail(`the tensors end at byte ${at}, the file at ${size}`);
}

export interface SafetensorsLayout {
  /** The 8 length bytes and the header, padded with spaces to a multiple of 8. */
  readonly header: Uint8Array;
  /** Bytes of each tensor, in the order given. */
  readonly bytes: readonly number[];
  /** Size of the whole file. */
  readonly fileBytes: number;
}

/** The header of a file that holds `tensors` in the order given. The same tensors give the same bytes. */
export function layoutSafetensors(
  tensors: readonly TensorSpec[],
  metadata: Readonly<Record<string, string>> = { format: "pt" },
): SafetensorsLayout {
  const names = new Set<string>();
  const bytes: number[] = [];
  const entries: string[] = Object.keys(metadata).length ? [`"__metadata__":${JSON.stringify(metadata)}`] : [];
  let at = 0;
  for (const { name, dtype, shape } of tensors) {
    const problem = names.has(name)
      ? `two tensors named ${quote(name)}`
      : name === "__metadata__"
        ? "a tensor named __metadata__"
        : nameProblem(name);
    if (problem) throw new SafetensorsError(`cannot write ${problem}`);
    names.add(name);
    const size = elementCount(shape) * storedElementBytes(dtype);
    bytes.push(size);
    const value = { dtype: dtype.toUpperCase(), shape, data_offsets: [at, at + size] };
    entries.push(`${JSON.stringify(name)}:${JSON.stringify(value)}`);
    at += size;
  }
  const text = new TextEncoder().encode(`{${entries.join(",")}}`);
  const padded = Math.ceil(text.length / 8) * 8;
  const header = new Uint8Array(8 + padded).fill(0x20);
  new DataView(header.buffer).setBigUint64(0, BigInt(padded), true);
  header.set(text, 8);
  return { header, bytes, fileBytes: header.length + at };
}

export interface TensorContent extends TensorSpec {
  /** The bytes, in pieces of any size. A piece is used before the next is asked for. */
  chunks(): AsyncIterable<Uint8Array> | Iterable<Uint8Array>;
}

/** Writes a file: header first, then the tensors in the order given. Throws if one gives more or fewer bytes than its shape. */
export async function writeSafetensors(
  sink: ByteSink,
  tensors: readonly TensorContent[],
  metadata?: Readonly<Record<string, string>>,
): Promise<void> {
  const { header, bytes } = layoutSafetensors(tensors, metadata);
  await sink.write(header);
  for (const [i, tensor] of tensors.entries()) {
    let written = 0;
    for await (const chunk of tensor.chunks()) {
      written += chunk.length;
      if (written > bytes[i]!) break;
      await sink.write(chunk);
    }
    if (written !== bytes[i])
      throw new SafetensorsError(
        `${specText(tensor)} ${quote(tensor.name)} has ${bytes[i]} bytes, ${written} were given`,
      );
  }
}

/** A file in memory. */
export function encodeSafetensors(
  tensors: readonly (TensorSpec & { data: Uint8Array })[],
  metadata?: Readonly<Record<string, string>>,
): Uint8Array {
  const { header, bytes, fileBytes } = layoutSafetensors(tensors, metadata);
  const file = new Uint8Array(fileBytes);
  file.set(header);
  let at = header.length;
  for (const [i, tensor] of tensors.entries()) {
    if (tensor.data.length !== bytes[i])
      throw new SafetensorsError(
        `${specText(tensor)} ${quote(tensor.name)} has ${bytes[i]} bytes, ${tensor.data.length} were given`,
      );
    file.set(tensor.data, at);
    at += bytes[i]!;
  }
  return file;
}
