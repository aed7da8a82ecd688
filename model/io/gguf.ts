/**
 * The header of a GGUF file (versions 2 and 3, little-endian): counts, metadata, and name, dimensions, type and position of each tensor. The reader
 * is strict: it refuses sizes that the file cannot contain before it allocates, types that are not read, and tensors that overlap. Of arrays in the
 * metadata, short ones of numbers are kept, else the length. Format: docs/gguf.md of ggml.
 */
import type { RandomAccess } from "./bytes.ts";
import { GgufError, quote } from "./errors.ts";
import { GGML_TYPES, OTHER_GGML_TYPES } from "./ggml.ts";
import type { GgmlType } from "./ggml.ts";
import { MAX_TENSORS, elementCount, nameProblem } from "./stored.ts";

export type GgufValue = number | string | boolean | readonly number[] | { readonly length: number };

export interface GgufTensor {
  readonly name: string;
  readonly type: GgmlType;
  /** Outermost dimension first, as in other formats; GGUF has them reversed. */
  readonly shape: readonly number[];
  /** First byte in the file. */
  readonly offset: number;
  readonly bytes: number;
}

export interface GgufFile {
  readonly metadata: ReadonlyMap<string, GgufValue>;
  readonly tensors: ReadonlyMap<string, GgufTensor>;
}

/** Bounds of what a hostile file can ask for; a vocabulary of 100,000 tokens with its merges takes 5 MB. */
const MAX_HEADER = 100_000_000;
const MAX_METADATA = 4096; // entries
const MAX_DIMENSIONS = 4;
const MAX_ALIGNMENT = 65_536;
/** Elements of an array of numbers that is kept. */
const MAX_KEPT = 16;
const FIRST_READ = 2 ** 18;

const [STRING, ARRAY] = [8, 9];
/** Bytes and reader of a number, by its type. */
const NUMBERS: ReadonlyMap<number, readonly [number, (view: DataView, at: number) => number | boolean]> = new Map([
  [0, [1, (view, at) => view.getUint8(at)]],
  [1, [1, (view, at) => view.getInt8(at)]],
  [2, [2, (view, at) => view.getUint16(at, true)]],
  [3, [2, (view, at) => view.getInt16(at, true)]],
  [4, [4, (view, at) => view.getUint32(at, true)]],
  [5, [4, (view, at) => view.getInt32(at, true)]],
  [6, [4, (view, at) => view.getFloat32(at, true)]],
  [7, [1, (view, at) => view.getUint8(at) !== 0]],
  [10, [8, (view, at) => Number(view.getBigUint64(at, true))]],
  [11, [8, (view, at) => Number(view.getBigInt64(at, true))]],
  [12, [8, (view, at) => view.getFloat64(at, true)]],
] as const);

/** The bytes that were read end before the header does; more of the file may have it. */
class NeedMore extends Error {}

/** Reads and checks the header. Throws `GgufError`. */
export async function readGguf(file: RandomAccess): Promise<GgufFile> {
  for (let length = FIRST_READ; ; length *= 4) {
    const bytes = await file.read(0, Math.min(length, file.size, MAX_HEADER));
    try {
      return new HeaderReader(bytes, file).read();
    } catch (error) {
      if (!(error instanceof NeedMore)) throw error;
      if (bytes.length === file.size) fail(file, "the file ends within its header");
      if (bytes.length === MAX_HEADER) fail(file, `a header of more than ${MAX_HEADER} bytes`);
    }
  }
}

function fail(file: RandomAccess, message: string): never {
  throw new GgufError(`${file.name}: ${message}; the file is damaged or not GGUF. Download it again.`);
}

class HeaderReader {
  private readonly view: DataView;
  private readonly file: RandomAccess;
  private at = 0;

  constructor(bytes: Uint8Array, file: RandomAccess) {
    this.view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
    this.file = file;
  }

  read(): GgufFile {
    this.start();
    const [tensorCount, entryCount] = [this.count("tensors", MAX_TENSORS), this.count("metadata", MAX_METADATA)];
    const metadata = new Map<string, GgufValue>();
    for (let i = 0; i < entryCount; i++) {
      const key = this.string();
      if (metadata.has(key)) this.fail(`two entries of metadata named ${quote(key)}`);
      metadata.set(key, this.value(this.u32(), key));
    }
    const infos = Array.from({ length: tensorCount }, () => this.tensor());
    return {
      metadata,
      tensors: this.place(
        infos,
        alignmentOf(metadata, (message) => this.fail(message)),
      ),
    };
  }

  private start(): void {
    if (this.file.size < 4 || this.u32() !== 0x46554747) this.fail('it does not begin with "GGUF"');
    const version = this.u32();
    if (version === 2 || version === 3) return;
    const isSwapped = version === 0x02000000 || version === 0x03000000;
    throw new GgufError(
      `${this.file.name}: GGUF must have version 2 or 3, little-endian; got ${isSwapped ? "a big-endian file" : `version ${version}`}. Convert the model again with a current llama.cpp.`,
    );
  }

  private tensor(): GgufTensor {
    const name = this.string();
    const problem = nameProblem(name);
    if (problem) this.fail(problem);
    const rank = this.u32();
    if (rank < 1 || rank > MAX_DIMENSIONS)
      this.fail(`tensor ${quote(name)} has ${rank} dimensions (1 to ${MAX_DIMENSIONS})`);
    const shape = Array.from({ length: rank }, () => this.u64()).reverse();
    const type = this.type(name);
    const [count, columns] = [elementCount(shape), shape.at(-1)!];
    const bytes = (count / type.block) * type.bytes;
    if (count < 1 || !Number.isSafeInteger(count) || !Number.isSafeInteger(bytes) || columns % type.block)
      this.fail(`tensor ${quote(name)} has [${shape.join(", ")}] weights in ${type.name}, of ${type.block} a block`);
    return { name, type, shape, offset: this.u64(), bytes };
  }

  private type(name: string): GgmlType {
    const id = this.u32();
    const type = GGML_TYPES.get(id);
    if (type) return type;
    const known = [...GGML_TYPES.values()].map((one) => one.name).join(", ");
    throw new GgufError(
      `${this.file.name}: tensor ${quote(name)} must have one of the types ${known}; got ${OTHER_GGML_TYPES.get(id) ?? `type ${id}`}. Use a file of another quantisation of this model.`,
    );
  }

  /** The tensors with their positions in the file, checked. */
  private place(infos: readonly GgufTensor[], alignment: number): Map<string, GgufTensor> {
    const base = Math.ceil(this.at / alignment) * alignment;
    const tensors = new Map<string, GgufTensor>();
    for (const info of infos) {
      const name = quote(info.name);
      if (tensors.has(info.name)) this.fail(`two tensors named ${name}`);
      if (info.offset % alignment) this.fail(`tensor ${name} is not aligned to ${alignment} bytes`);
      const offset = base + info.offset;
      if (!Number.isSafeInteger(offset) || offset + info.bytes > this.file.size)
        this.fail(`tensor ${name} needs ${info.bytes} bytes at ${offset} of a file of ${this.file.size}`);
      tensors.set(info.name, { ...info, offset });
    }
    const sorted = [...tensors.values()].sort((a, b) => a.offset - b.offset);
    for (const [i, { name, offset, bytes }] of sorted.entries())
      if (offset + bytes > (sorted[i + 1]?.offset ?? Infinity))
        this.fail(`tensor ${quote(name)} overlaps ${quote(sorted[i + 1]!.name)}`);
    return tensors;
  }

  private value(type: number, key: string): GgufValue {
    if (type === STRING) return this.string();
    if (type === ARRAY) return this.array(key);
    const number = NUMBERS.get(type);
    if (!number) return this.fail(`metadata ${quote(key)} has the unknown type ${type}`);
    return number[1](this.view, this.take(number[0]));
  }

  private array(key: string): readonly number[] | { readonly length: number } {
    const [type, length] = [this.u32(), this.u64()];
    const bytes = type === STRING ? 8 : NUMBERS.get(type)?.[0];
    if (bytes === undefined) return this.fail(`the array ${quote(key)} has elements of the unknown type ${type}`);
    if (length * bytes > this.file.size) this.fail(`the array ${quote(key)} has ${length} elements`);
    if (type === STRING) for (let i = 0; i < length; i++) this.take(this.u64());
    else if (length <= MAX_KEPT) return Array.from({ length }, () => Number(this.value(type, key)));
    else this.take(length * bytes);
    return { length };
  }

  private string(): string {
    const length = this.u64();
    const at = this.take(length);
    try {
      return utf8.decode(new Uint8Array(this.view.buffer, this.view.byteOffset + at, length));
    } catch {
      return this.fail(`a text of ${length} bytes at ${at} is not UTF-8`);
    }
  }

  private count(what: string, most: number): number {
    const count = this.u64();
    if (count > most) this.fail(`it has ${count} ${what}; at most ${most}`);
    return count;
  }

  private u32 = (): number => this.view.getUint32(this.take(4), true);
  private u64 = (): number => Number(this.view.getBigUint64(this.take(8), true));

  /** Position of the next `bytes` bytes. */
  private take(bytes: number): number {
    const at = this.at;
    if (bytes > this.file.size - at) this.fail(`${bytes} bytes at ${at} are beyond its end at ${this.file.size}`);
    if (at + bytes > this.view.byteLength) throw new NeedMore();
    this.at += bytes;
    return at;
  }

  private fail(message: string): never {
    return fail(this.file, message);
  }
}

const utf8 = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true });

function alignmentOf(metadata: ReadonlyMap<string, GgufValue>, refuse: (message: string) => never): number {
  const alignment = metadata.get("general.alignment") ?? 32;
  const isValid = typeof alignment === "number" && alignment >= 8 && alignment <= MAX_ALIGNMENT && alignment % 8 === 0;
  return isValid ? alignment : refuse(`general.alignment must be a multiple of 8 up to ${MAX_ALIGNMENT}`);
}
