/**
 * Encoded tensors as if a file contained their values: a virtual file of f32 tensors, each decoded row by row when it is read. Checkpoints use it
 * like any other file, so that converting, loading and inspecting need no second path.
 */
import type { RandomAccess } from "./bytes.ts";
import { checkRange } from "./bytes.ts";
import { elementCount } from "./stored.ts";
import type { Encoding, StoredTensor } from "./stored.ts";

/** A tensor to decode; its rows are those of its last dimension. */
export interface EncodedTensor {
  readonly name: string;
  readonly shape: readonly number[];
  readonly encoded: Encoding;
  /** Values of `count` rows from row `first` on. */
  rows(first: number, count: number): Promise<Float32Array>;
}

export interface DecodedFile {
  readonly file: RandomAccess;
  /** The tensors, with positions in `file`. */
  readonly tensors: ReadonlyMap<string, StoredTensor>;
}

/** The virtual file of `tensors`. `name` is that of the file for messages and in `StoredTensor.file`; closing it calls `close`. */
export function decodedFile(
  name: string,
  tensors: readonly EncodedTensor[],
  close: () => Promise<void> = async () => undefined,
): DecodedFile {
  const stored = new Map<string, StoredTensor>();
  const placed: { readonly from: StoredTensor; readonly tensor: EncodedTensor }[] = [];
  let at = 0;
  for (const tensor of tensors) {
    const { shape, encoded } = tensor;
    const bytes = 4 * elementCount(shape);
    const from: StoredTensor = { name: tensor.name, dtype: "f32", shape, file: name, offset: at, bytes, encoded };
    stored.set(tensor.name, from);
    placed.push({ from, tensor });
    at += bytes;
  }
  const file: RandomAccess = {
    name,
    size: at,
    read: async (offset, length, into = new Uint8Array(length)) => {
      checkRange(file, offset, length);
      for (let done = 0; done < length;) {
        const { from, tensor } = findAt(placed, offset + done);
        const start = offset + done - from.offset;
        const part = Math.min(length - done, from.bytes - start);
        into.set(await bytesOf(tensor, start, part), done);
        done += part;
      }
      return into.subarray(0, length);
    },
    close,
  };
  return { file, tensors: stored };
}

/** The tensor with the byte at `offset`; `placed` is in order of offsets. */
function findAt<T extends { readonly from: StoredTensor }>(placed: readonly T[], offset: number): T {
  let [low, high] = [0, placed.length - 1];
  while (low < high) {
    const middle = (low + high + 1) >> 1;
    if (placed[middle]!.from.offset <= offset) low = middle;
    else high = middle - 1;
  }
  return placed[low]!;
}

/** Bytes `start` to `start + length` of the values of a tensor. */
async function bytesOf(tensor: EncodedTensor, start: number, length: number): Promise<Uint8Array> {
  const rowBytes = 4 * tensor.shape.at(-1)!;
  const first = Math.floor(start / rowBytes);
  const values = await tensor.rows(first, Math.ceil((start + length) / rowBytes) - first);
  return new Uint8Array(values.buffer, values.byteOffset + start - first * rowBytes, length);
}
