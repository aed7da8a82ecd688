/**
 * Weights that MLX quantised (mode "affine"): for a matrix [N, K], `X.weight` u32 [N, K · bits / 32], values in the lowest bits first, and `X.scales` and
 * `X.biases` [N, K / group]: weight = scale · q + bias, with q from 0 on. Layout: documentation of `mlx.core.quantize`.
 */
import { castFloats, isFloatDType } from "./cast.ts";
import type { FloatDType } from "./cast.ts";
import type { EncodedTensor } from "./decoded.ts";
import { GROUP } from "../../kernels/matmul/quantized_format.ts";
import { specText } from "./stored.ts";
import type { StoredTensor } from "./stored.ts";

export interface MlxFormat {
  readonly bits: number;
  readonly groupSize: number;
}

export const MLX_BITS: readonly number[] = [2, 4, 8];
export const MLX_GROUPS: readonly number[] = [32, 64, 128];

/** The three tensors of a quantised weight. */
export interface MlxParts {
  readonly weight: StoredTensor;
  readonly scales: StoredTensor;
  readonly biases: StoredTensor;
}

/** Reads the bytes of a stored tensor. */
export type ReadStored = (tensor: StoredTensor, offset: number, length: number) => Promise<Uint8Array>;

/** Why the three tensors are not a weight of this format; null if they are. */
export function mlxProblem({ weight, scales, biases }: MlxParts, { bits, groupSize }: MlxFormat): string | null {
  const [words, groups] = [weight.shape[1] ?? 0, scales.shape[1] ?? 0];
  const isMatrix = weight.dtype === "u32" && weight.shape.length === 2 && scales.shape.length === 2;
  if (!isMatrix || words * 32 !== groups * groupSize * bits || weight.shape[0] !== scales.shape[0])
    return `misshapen: ${weight.name} in ${bits} bits and groups of ${groupSize} does not go with ${scales.name}: ${specText(weight)} and ${specText(scales)}`;
  if (!isFloatDType(scales.dtype)) return `dtype: ${scales.name}, expected f32, f16, bf16, found ${scales.dtype}`;
  return specText(scales) === specText(biases)
    ? null
    : `misshapen: ${biases.name}, expected ${specText(scales)}, found ${specText(biases)}`;
}

/** The weight as a tensor to decode, under the name of its `weight`. The parts fit the format. */
export function mlxTensor(parts: MlxParts, format: MlxFormat, read: ReadStored): EncodedTensor {
  const { weight, scales, biases } = parts;
  const [rows, groups] = scales.shape as [number, number];
  const columns = groups * format.groupSize;
  const floats = async (tensor: StoredTensor, first: number, count: number): Promise<Float32Array> => {
    const rowBytes = tensor.bytes / rows;
    const bytes = await read(tensor, first * rowBytes, count * rowBytes);
    return new Float32Array(castFloats(bytes.slice(), tensor.dtype as FloatDType, "f32", tensor.name).buffer);
  };
  return {
    name: weight.name,
    shape: [rows, columns],
    encoded: {
      format: `MLX ${format.bits}-bit, groups of ${format.groupSize}`,
      bytes: weight.bytes + scales.bytes + biases.bytes,
      dtype: scales.dtype === "f32" ? "bf16" : (scales.dtype as FloatDType),
      steps: async (first, count) => repeated(await floats(scales, first, count), format.groupSize / GROUP),
    },
    rows: async (first, count) => {
      const rowBytes = weight.bytes / rows;
      const words = new Uint32Array((await read(weight, first * rowBytes, count * rowBytes)).slice().buffer);
      const [s, b] = [await floats(scales, first, count), await floats(biases, first, count)];
      return decodeAffine(words, s, b, format);
    },
  };
}

/** scale · q + bias of whole groups, rounded once to f32. */
export function decodeAffine(
  words: Uint32Array,
  scales: Float32Array,
  biases: Float32Array,
  { bits, groupSize }: MlxFormat,
): Float32Array {
  const out = new Float32Array(scales.length * groupSize);
  const [perWord, mask] = [32 / bits, 2 ** bits - 1];
  for (let group = 0, word = 0, to = 0; group < scales.length; group++) {
    const [scale, bias] = [scales[group]!, biases[group]!];
    for (let i = 0; i < groupSize; i += perWord, word++) {
      const packed = words[word]!;
      for (let j = 0; j < perWord; j++) out[to++] = scale * ((packed >>> (bits * j)) & mask) + bias;
    }
  }
  return out;
}

const repeated = (values: Float32Array, times: number): Float32Array =>
  Float32Array.from({ length: values.length * times }, (_, i) => values[Math.floor(i / times)]!);
