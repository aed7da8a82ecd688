/** Two folders of safetensors files compared tensor by tensor, on the host, in chunks. Shards of one model count as one file. */
import { readdir } from "node:fs/promises";
import { join, relative, sep } from "node:path";
import { decode } from "../../../engine/dtype.ts";
import type { DType } from "../../../engine/dtype.ts";
import type { RandomAccess } from "../../../model/io/bytes.ts";
import { readSafetensors } from "../../../model/io/safetensors.ts";
import { specText, storedElementBytes } from "../../../model/io/stored.ts";
import type { StoredDType, StoredTensor } from "../../../model/io/stored.ts";
import { fileError, openFile } from "../../../model/node/files.ts";
import { RunFolderError } from "./errors.ts";

const CHUNK_BYTES = 4 * 2 ** 20;
const DECODED: readonly StoredDType[] = ["f32", "f16", "bf16", "i32", "u32", "u8"];

export interface TensorDifference {
  /** Path in the folder, without shard numbers and extension: `model/model`, `optimizer`. */
  readonly file: string;
  readonly name: string;
  readonly state: "equal" | "differs" | "other shape" | "only in a" | "only in b";
  /** ‖a − b‖ / ‖a‖ in float64; null if bytes are equal or the dtype is one that is not computed with. Infinity if a is 0. */
  readonly relativeL2: number | null;
  /** dtype and shape in a and b. */
  readonly specs: readonly [string | null, string | null];
}

export interface FolderDifference {
  readonly equal: boolean;
  readonly tensors: readonly TensorDifference[];
}

export interface CompareOptions {
  /** Bytes of one read of each side; a multiple of 8. */
  readonly chunkBytes?: number;
  readonly onProgress?: (done: { bytes: number; totalBytes: number; tensor: string }) => void;
  readonly signal?: AbortSignal;
}

interface Placed {
  readonly file: string;
  readonly from: RandomAccess;
  readonly tensor: StoredTensor;
}

/** Throws `RunFolderError` for a folder without safetensors files, and what their reader throws. */
export async function compareFolders(a: string, b: string, options: CompareOptions = {}): Promise<FolderDifference> {
  const opened: RandomAccess[] = [];
  try {
    const [inA, inB] = [await tensorsOf(a, opened), await tensorsOf(b, opened)];
    const totalBytes = [...inA.values()].reduce((sum, { tensor }) => sum + tensor.bytes, 0);
    const tensors: TensorDifference[] = [];
    let bytes = 0;
    for (const key of [...new Set([...inA.keys(), ...inB.keys()])].sort()) {
      const [left, right] = [inA.get(key), inB.get(key)];
      tensors.push(await compare(left, right, options));
      bytes += left?.tensor.bytes ?? 0;
      options.onProgress?.({ bytes, totalBytes, tensor: (left ?? right)!.tensor.name });
    }
    return { equal: tensors.every(({ state }) => state === "equal"), tensors };
  } finally {
    for (const file of opened) await file.close?.();
  }
}

async function tensorsOf(folder: string, opened: RandomAccess[]): Promise<Map<string, Placed>> {
  const entries = await readdir(folder, { recursive: true, withFileTypes: true }).catch((error: unknown) => {
    throw fileError(error, folder);
  });
  const found = new Map<string, Placed>();
  for (const entry of entries) {
    if (!entry.name.endsWith(".safetensors") || entry.isDirectory()) continue;
    const path = join(entry.parentPath, entry.name);
    const from = await openFile(path);
    opened.push(from);
    const file = relative(folder, path).split(sep).join("/").replace(/(-\d{5}-of-\d{5})?\.safetensors$/, ""); // prettier-ignore
    for (const [name, tensor] of (await readSafetensors(from)).tensors)
      found.set(`${file}\n${name}`, { file, from, tensor });
  }
  if (!opened.length || !found.size)
    throw new RunFolderError(
      `${folder}: no safetensors files with tensors in it; name a checkpoint's folder, as run/step-00000020`,
    );
  return found;
}

async function compare(
  a: Placed | undefined,
  b: Placed | undefined,
  { chunkBytes = CHUNK_BYTES, signal }: CompareOptions,
): Promise<TensorDifference> {
  const { file, tensor } = (a ?? b)!;
  const specs = [a ? specText(a.tensor) : null, b ? specText(b.tensor) : null] as const;
  const difference = { file, name: tensor.name, relativeL2: null, specs };
  if (!a || !b) return { ...difference, state: a ? "only in a" : "only in b" };
  if (specs[0] !== specs[1]) return { ...difference, state: "other shape" };
  const isDecoded = DECODED.includes(tensor.dtype);
  let isEqual = true;
  let [apart, whole] = [0, 0];
  for (let at = 0; at < tensor.bytes; at += chunkBytes) {
    signal?.throwIfAborted();
    const length = Math.min(chunkBytes, tensor.bytes - at);
    const [left, right] = await Promise.all([a.from.read(a.tensor.offset + at, length), b.from.read(b.tensor.offset + at, length)]); // prettier-ignore
    const isSame = Buffer.compare(left, right) === 0;
    isEqual &&= isSame;
    // The norm of a counts in equal chunks too, and is only known to be needed at the first that differs.
    if (isDecoded) {
      const values = valuesOf(left, tensor.dtype);
      const others = isSame ? values : valuesOf(right, tensor.dtype);
      for (let i = 0; i < values.length; i++) {
        const value = values[i]!;
        whole += value * value;
        if (!isSame) apart += (value - others[i]!) ** 2;
      }
    }
  }
  if (isEqual) return { ...difference, state: "equal" };
  // Bytes differ and values do not: 0 and −0.
  const relativeL2 = isDecoded ? (apart === 0 ? 0 : Math.sqrt(apart / whole)) : null;
  return { ...difference, state: "differs", relativeL2 };
}

const valuesOf = (bytes: Uint8Array, dtype: StoredDType): ArrayLike<number> =>
  decode(bytes, dtype as DType, bytes.length / storedElementBytes(dtype));
