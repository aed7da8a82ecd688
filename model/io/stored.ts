/** A tensor as a checkpoint file holds it: its name, dtype, shape, and the position of its bytes. */
import { shapeText } from "../../engine/errors.ts";
import type { Quantization } from "../../kernels/matmul/quantized_format.ts";
import type { FloatDType } from "./cast.ts";
import { quote } from "./errors.ts";

/** Bits of an element. The engine computes with f32, f16 and bf16; the others are carried unchanged. */
const STORED_DTYPES = {
  bool: 8,
  u8: 8,
  i8: 8,
  f8_e4m3: 8,
  f8_e5m2: 8,
  f8_e8m0: 8,
  u16: 16,
  i16: 16,
  f16: 16,
  bf16: 16,
  u32: 32,
  i32: 32,
  f32: 32,
  u64: 64,
  i64: 64,
  f64: 64,
} as const;

export type StoredDType = keyof typeof STORED_DTYPES;
export const isStoredDType = (name: string): name is StoredDType => Object.hasOwn(STORED_DTYPES, name);
export const storedDTypes = (): string[] => Object.keys(STORED_DTYPES);
export const storedElementBytes = (dtype: StoredDType): number => STORED_DTYPES[dtype] / 8;

/** What describes a tensor before it has a position in a file. */
export interface TensorSpec {
  readonly name: string;
  readonly dtype: StoredDType;
  readonly shape: readonly number[];
}

export interface StoredTensor extends TensorSpec {
  /** The file's name in its folder. */
  readonly file: string;
  /** First byte in the file. */
  readonly offset: number;
  readonly bytes: number;
  /** For a tensor that is decoded while it is read (`decoded.ts`): how its file stores it. */
  readonly encoded?: Encoding;
}

/** How a file stores a tensor whose values are decoded to f32. */
export interface Encoding {
  /** For people: Q4_K, MLX 4-bit. */
  readonly format: string;
  /** In the file. */
  readonly bytes: number;
  /** Dtype of a copy if no other is asked for. */
  readonly dtype: FloatDType;
  /** The weights in our quantised format without a change of value, if there are such. */
  readonly packed?: {
    readonly kind: Quantization;
    /** Words and scales of `count` rows from row `first` on. */
    rows(first: number, count: number): Promise<{ readonly words: Uint32Array; readonly scales: Uint16Array }>;
  };
  /** Steps between the values of each group of 32 of these rows, as the file has them: scales that lose little in int4. */
  readonly steps?: (first: number, count: number) => Promise<Float32Array>;
}

/** No checkpoint of this kind has more (7B: 1018); bounds what a hostile file can ask for. */
export const MAX_TENSORS = 16_384;
export const MAX_RANK = 32;
const MAX_NAME = 1024;

/** Number of elements; NaN when that is beyond 2^53 − 1. */
export function elementCount(shape: readonly number[]): number {
  if (shape.includes(0)) return 0;
  const n = shape.reduce((a, b) => a * b, 1);
  return n <= Number.MAX_SAFE_INTEGER ? n : NaN;
}

/** Why a tensor may not have this name; null if it may. Names of `Object.prototype` would be special in plain objects. */
export function nameProblem(name: string): string | null {
  if (name === "") return "a tensor without a name";
  if (name.length > MAX_NAME) return `a tensor's name of ${name.length} characters (at most ${MAX_NAME})`;
  if (name in Object.prototype) return `a tensor named ${quote(name)}, a name that JavaScript gives a meaning`;
  return null;
}

/** `bf16 [16, 8]` for messages. */
export const specText = ({ dtype, shape }: { dtype: StoredDType; shape: readonly number[] }): string =>
  `${dtype} ${shapeText(shape)}`;
