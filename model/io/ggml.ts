/**
 * Element types of GGUF files: rows are blocks of 32 or 256 weights with their scales. Decoders give the values as ggml computes them in f32,
 * bit for bit; types with our groups and an f16 scale (Q8_0, Q4_0) are also repacked without a change of value. Layouts: ggml-common.h of ggml.
 */
import { f16Value } from "../../engine/dtype.ts";
import { GROUP } from "../../kernels/matmul/quantized_format.ts";
import type { Quantization } from "../../kernels/matmul/quantized_format.ts";
import { castFloats } from "./cast.ts";
import type { FloatDType } from "./cast.ts";
import { QuantizationError } from "./errors.ts";
import type { QuantizedRows } from "./quantize.ts";

/** Writes the weights of the block at `at` to `out`, from `to` on. */
type Decode = (bytes: Uint8Array, at: number, out: Float32Array, to: number) => void;

export interface GgmlType {
  readonly name: string;
  /** Weights of a block, and its bytes. */
  readonly block: number;
  readonly bytes: number;
  /** Of a type with scales. */
  readonly decode?: Decode;
  /** Of a type without. */
  readonly float?: FloatDType;
  /** Same groups and values as ours. */
  readonly packed?: Quantization;
}

const halves = new Float32Array(65_536);
let isFilled = false;

/** The f16 value at `at`. */
function f16(bytes: Uint8Array, at: number): number {
  if (!isFilled) {
    for (let i = 0; i < halves.length; i++) halves[i] = f16Value(i);
    isFilled = true;
  }
  return halves[bytes[at]! | (bytes[at + 1]! << 8)]!;
}

// In the types of 32 weights, byte j has weight j in its low half and weight j + 16 in the high one.
const q4_0: Decode = (bytes, at, out, to) => {
  const d = f16(bytes, at);
  for (let j = 0; j < 16; j++) {
    const q = bytes[at + 2 + j]!;
    out[to + j] = d * ((q & 15) - 8);
    out[to + j + 16] = d * ((q >> 4) - 8);
  }
};
const q4_1: Decode = (bytes, at, out, to) => {
  const [d, m] = [f16(bytes, at), f16(bytes, at + 2)];
  for (let j = 0; j < 16; j++) {
    const q = bytes[at + 4 + j]!;
    out[to + j] = d * (q & 15) + m;
    out[to + j + 16] = d * (q >> 4) + m;
  }
};

/** The fifth bits of 32 weights: bit i of the four bytes at `at`. */
const fifth = (bytes: Uint8Array, at: number, i: number): number => ((bytes[at + (i >> 3)]! >> (i & 7)) & 1) << 4;

const q5_0: Decode = (bytes, at, out, to) => {
  const d = f16(bytes, at);
  for (let j = 0; j < 16; j++) {
    const q = bytes[at + 6 + j]!;
    out[to + j] = d * (((q & 15) | fifth(bytes, at + 2, j)) - 16);
    out[to + j + 16] = d * (((q >> 4) | fifth(bytes, at + 2, j + 16)) - 16);
  }
};
const q5_1: Decode = (bytes, at, out, to) => {
  const [d, m] = [f16(bytes, at), f16(bytes, at + 2)];
  for (let j = 0; j < 16; j++) {
    const q = bytes[at + 8 + j]!;
    out[to + j] = d * ((q & 15) | fifth(bytes, at + 4, j)) + m;
    out[to + j + 16] = d * ((q >> 4) | fifth(bytes, at + 4, j + 16)) + m;
  }
};
const q8_0: Decode = (bytes, at, out, to) => {
  const d = f16(bytes, at);
  for (let j = 0; j < 32; j++) out[to + j] = d * ((bytes[at + 2 + j]! << 24) >> 24);
};

/** Q2_K: 16 groups of 16 with 4-bit scales and minima; four weights a byte, 32 apart. */
const q2_k: Decode = (bytes, at, out, to) => {
  const [d, dmin] = [f16(bytes, at + 80), f16(bytes, at + 82)];
  for (let group = 0; group < 16; group++) {
    const scale = bytes[at + group]!;
    const [dl, ml] = [d * (scale & 15), dmin * (scale >> 4)];
    const from = at + 16 + 32 * (group >> 3) + 16 * (group & 1);
    const shift = 2 * ((group >> 1) & 3);
    for (let i = 0; i < 16; i++) out[to + 16 * group + i] = dl * ((bytes[from + i]! >> shift) & 3) - ml;
  }
};

/** Q3_K: 16 groups of 16 with 6-bit scales; the third bits of all weights come first, and are inverted. */
const q3_k: Decode = (bytes, at, out, to) => {
  const d = f16(bytes, at + 108);
  for (let group = 0; group < 16; group++) {
    const low = (bytes[at + 96 + (group & 7)]! >> (4 * (group >> 3))) & 15;
    const high = (bytes[at + 104 + (group & 3)]! >> (2 * (group >> 2))) & 3;
    const dl = d * ((low | (high << 4)) - 32);
    const from = at + 32 + 32 * (group >> 3) + 16 * (group & 1);
    const masks = at + 16 * (group & 1);
    const shift = 2 * ((group >> 1) & 3);
    for (let i = 0; i < 16; i++) {
      const third = (bytes[masks + i]! >> (group >> 1)) & 1;
      out[to + 16 * group + i] = dl * (((bytes[from + i]! >> shift) & 3) - (third ? 0 : 4));
    }
  }
};

/** 6-bit scale and minimum of group `j` of the 8 of Q4_K and Q5_K, from 12 bytes. */
function scaleMin(bytes: Uint8Array, at: number, j: number): readonly [number, number] {
  if (j < 4) return [bytes[at + j]! & 63, bytes[at + j + 4]! & 63];
  const both = bytes[at + j + 4]!;
  return [(both & 15) | ((bytes[at + j - 4]! >> 2) & 48), (both >> 4) | ((bytes[at + j]! >> 2) & 48)];
}

/** Q4_K and Q5_K: 8 groups of 32; groups 2k and 2k + 1 are the halves of the same 32 bytes. `high` are the fifth bits, if there are any. */
const q45_k =
  (quants: number, high: number | null): Decode =>
  (bytes, at, out, to) => {
    const [d, dmin] = [f16(bytes, at), f16(bytes, at + 2)];
    for (let group = 0; group < 8; group++) {
      const [scale, min] = scaleMin(bytes, at + 4, group);
      const [dl, ml] = [d * scale, dmin * min];
      const from = at + quants + 32 * (group >> 1);
      for (let i = 0; i < 32; i++) {
        const q = (bytes[from + i]! >> (4 * (group & 1))) & 15;
        const fifthBit = high === null ? 0 : ((bytes[at + high + i]! >> group) & 1) << 4;
        out[to + 32 * group + i] = dl * (q | fifthBit) - ml;
      }
    }
  };

/** Q6_K: 16 groups of 16 with 8-bit scales; two halves of 128 weights, each 64 bytes of low and 32 of high bits. */
const q6_k: Decode = (bytes, at, out, to) => {
  const d = f16(bytes, at + 208);
  for (let i = 0; i < 256; i++) {
    const [half, quarter, j] = [i >> 7, (i >> 5) & 3, i & 31];
    const low = (bytes[at + 64 * half + 32 * (quarter & 1) + j]! >> (4 * (quarter >> 1))) & 15;
    const high = (bytes[at + 128 + 32 * half + j]! >> (2 * quarter)) & 3;
    const scale = (bytes[at + 192 + (i >> 4)]! << 24) >> 24;
    out[to + i] = d * scale * ((low | (high << 4)) - 32);
  }
};

/** By their numbers in GGUF files. */
export const GGML_TYPES: ReadonlyMap<number, GgmlType> = new Map([
  [0, { name: "F32", block: 1, bytes: 4, float: "f32" }],
  [1, { name: "F16", block: 1, bytes: 2, float: "f16" }],
  [2, { name: "Q4_0", block: 32, bytes: 18, decode: q4_0, packed: "int4" }],
  [3, { name: "Q4_1", block: 32, bytes: 20, decode: q4_1 }],
  [6, { name: "Q5_0", block: 32, bytes: 22, decode: q5_0 }],
  [7, { name: "Q5_1", block: 32, bytes: 24, decode: q5_1 }],
  [8, { name: "Q8_0", block: 32, bytes: 34, decode: q8_0, packed: "int8" }],
  [10, { name: "Q2_K", block: 256, bytes: 84, decode: q2_k }],
  [11, { name: "Q3_K", block: 256, bytes: 110, decode: q3_k }],
  [12, { name: "Q4_K", block: 256, bytes: 144, decode: q45_k(16, null) }],
  [13, { name: "Q5_K", block: 256, bytes: 176, decode: q45_k(48, 16) }],
  [14, { name: "Q6_K", block: 256, bytes: 210, decode: q6_k }],
  [30, { name: "BF16", block: 1, bytes: 2, float: "bf16" }],
] satisfies [number, GgmlType][]);

/** Names of types that are known and not read, for messages. */
export const OTHER_GGML_TYPES: ReadonlyMap<number, string> = new Map([
  [9, "Q8_1"], [15, "Q8_K"], [16, "IQ2_XXS"], [17, "IQ2_XS"], [18, "IQ3_XXS"], [19, "IQ1_S"], [20, "IQ4_NL"],
  [21, "IQ3_S"], [22, "IQ2_S"], [23, "IQ4_XS"], [24, "I8"], [25, "I16"], [26, "I32"], [27, "I64"], [28, "F64"],
  [29, "IQ1_M"], [34, "TQ1_0"], [35, "TQ2_0"], [39, "MXFP4"], [40, "NVFP4"],
]); // prettier-ignore

/** Weights of whole blocks, exact in f32. */
export function decodeBlocks(bytes: Uint8Array, type: GgmlType): Float32Array {
  if (type.float) return new Float32Array(castFloats(bytes.slice(), type.float, "f32", type.name).buffer);
  const out = new Float32Array((bytes.length / type.bytes) * type.block);
  for (let at = 0, to = 0; at < bytes.length; at += type.bytes, to += type.block) type.decode!(bytes, at, out, to);
  return out;
}

/**
 * Blocks of a type with `packed` in our format: the scales are copied, the values keep their bits. Throws `QuantizationError` in the name of `name`
 * for a scale that is not finite.
 */
export function repackBlocks(bytes: Uint8Array, kind: Quantization, name = "the weight"): QuantizedRows {
  const [blockBytes, perGroup] = kind === "int8" ? [34, 8] : [18, 4];
  const groups = bytes.length / blockBytes;
  const words = new Uint32Array(groups * perGroup);
  const scales = new Uint16Array(groups);
  const values = new Uint8Array(words.buffer);
  for (let group = 0; group < groups; group++) {
    const at = group * blockBytes;
    scales[group] = bytes[at]! | (bytes[at + 1]! << 8);
    if ((scales[group]! & 0x7c00) === 0x7c00)
      throw new QuantizationError(
        `${name}: scales must be finite; got ${f16(bytes, at)} in group ${group}. Download the file again.`,
      );
    if (kind === "int8") values.set(bytes.subarray(at + 2, at + blockBytes), group * GROUP);
    else packNibbles(bytes, at + 2, values, group * 16);
  }
  return { words, scales };
}

/** Weights 0 to 15 are low halves there and 16 to 31 high ones; here, neighbours share a byte. */
function packNibbles(bytes: Uint8Array, at: number, out: Uint8Array, to: number): void {
  for (let i = 0; i < 8; i++) {
    const [a, b] = [bytes[at + 2 * i]!, bytes[at + 2 * i + 1]!];
    out[to + i] = (a & 15) | ((b & 15) << 4);
    out[to + 8 + i] = (a >> 4) | (b & 0xf0);
  }
}
