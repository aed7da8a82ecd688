/**
 * Weights in 8 or 4 bits, on the host. The format, also that of files and of the device: rows of a matrix [N, K] in groups of 32 along K, each
 * with one f16 scale; a weight is scale · q. int8: q from −127 to 127, a byte in two's complement. int4: q from −8 to 7, stored as q + 8 in four
 * bits. Values lie in u32 words, the first in the lowest bits; a row is padded with zeros to whole groups, so every row starts on 16 bytes.
 */
import { f16Bits, f16Value } from "../../engine/dtype.ts";
import { GROUP, QUANTIZED_BITS } from "../../kernels/matmul/quantized_format.ts";
import type { Quantization } from "../../kernels/matmul/quantized_format.ts";
import { QuantizationError } from "./errors.ts";

/** Rows of a quantised matrix. */
export interface QuantizedRows {
  /** [rows, groups · 32 · bits / 32] */
  readonly words: Uint32Array;
  /** f16 bits [rows, groups] */
  readonly scales: Uint16Array;
}

/** 1.5 · 2⁵²: adding it to a number of up to 2⁵¹ rounds it to a whole one, ties to even. */
const ROUNDER = 6755399441055744;

/**
 * Quantises rows of `columns` weights. The scale of a group is its largest magnitude / 127 (int8), or its weight of the largest magnitude / −8
 * (int4: that weight becomes −8, and the scale may be negative), rounded to f16. q is weight / scale rounded to the nearest, ties to even, within
 * its range. A group of zeros, or one whose scale rounds to 0, has scale 0 and dequantises to zeros. Dequantising and quantising again gives the
 * same bits if no scale is subnormal in f16 (below 2⁻¹⁴). Throws `QuantizationError` in the name of `name` for a weight that is not finite, or that is
 * beyond the range of the scale.
 */
export function quantizeRows(
  values: Float32Array,
  columns: number,
  kind: Quantization,
  name = "the weight",
): QuantizedRows {
  const bits = QUANTIZED_BITS[kind];
  const rows = values.length / columns;
  const groups = Math.ceil(columns / GROUP);
  const words = new Uint32Array((rows * groups * GROUP * bits) / 32);
  const scales = new Uint16Array(rows * groups);
  const wordsOfGroup = (GROUP * bits) / 32;
  for (let group = 0; group < scales.length; group++) {
    const inRow = (group % groups) * GROUP;
    const first = Math.floor(group / groups) * columns + inRow;
    const count = Math.min(GROUP, columns - inRow);
    const largest = largestOf(values, first, count, name);
    const wanted = bits === 8 ? Math.abs(largest) / 127 : largest / -8;
    const scale = f16Bits(wanted);
    if ((scale & 0x7fff) === 0x7c00)
      throw new QuantizationError(
        `${name}: weights must be at most ${bits === 8 ? "65504 · 127" : "65504 · 8"} to be quantised to ${kind}; got ${largest}. Load it without quantize.`,
      );
    scales[group] = scale & 0x7fff ? scale : 0;
    packGroup(values.subarray(first, first + count), f16Value(scale), bits, words, group * wordsOfGroup);
  }
  return { words, scales };
}

/**
 * Quantises rows of whole groups to int4 that are about whole multiples of known steps, such as those of other formats of 4 bits: of each group, `steps`
 * has the distance of its values. A group whose values all are among the 16 multiples that one scale reaches takes the step or its negative and loses
 * nothing; another one takes that or the usual scale, whichever has the least squared error.
 */
export function requantizeInt4(values: Float32Array, steps: Float32Array, name?: string): QuantizedRows {
  const scales = new Uint16Array(steps.length);
  const words = new Uint32Array(steps.length * 4);
  for (let group = 0; group < steps.length; group++) {
    const part = values.subarray(group * GROUP, (group + 1) * GROUP);
    const step = f16Bits(steps[group]!);
    const isUsable = (step & 0x7fff) !== 0 && (step & 0x7c00) !== 0x7c00;
    const fitting = isUsable ? fittingScale(part, step) : null;
    if (fitting !== null) {
      scales[group] = fitting;
      packGroup(part, f16Value(fitting), 4, words, 4 * group);
    } else {
      const best = leastError(part, isUsable ? [step, step ^ 0x8000] : [], name);
      scales[group] = best.scale;
      words.set(best.words, 4 * group);
    }
  }
  return { words, scales };
}

/** f16 bits of the step or its negative if q is within its range for all values; null if it is for neither, or a value is not finite. */
function fittingScale(values: Float32Array, step: number): number | null {
  const scale = f16Value(step);
  let [low, high] = [0, 0];
  for (let i = 0; i < GROUP; i++) {
    const q = values[i]! / scale;
    if (!(Math.abs(q) < 8.5)) return null;
    if (q < low) low = q;
    if (q > high) high = q;
  }
  if (high < 7.5) return step;
  return low > -7.5 ? step ^ 0x8000 : null;
}

/** A group with the usual scale or one of `others` (f16 bits), whichever has the least error. */
function leastError(
  values: Float32Array,
  others: readonly number[],
  name?: string,
): { scale: number; words: Uint32Array } {
  const usual = quantizeRows(values, GROUP, "int4", name);
  let best = { scale: usual.scales[0]!, words: usual.words };
  let least = groupError(values, best.words, f16Value(best.scale));
  for (const scale of others) {
    const words = new Uint32Array(4);
    packGroup(values, f16Value(scale), 4, words, 0);
    const error = groupError(values, words, f16Value(scale));
    if (error < least) [least, best] = [error, { scale, words }];
  }
  return best;
}

/** Squared error of a group of int4. */
function groupError(values: Float32Array, words: Uint32Array, scale: number): number {
  let sum = 0;
  for (let i = 0; i < GROUP; i++) sum += (values[i]! - scale * (((words[i >> 3]! >>> (4 * (i & 7))) & 15) - 8)) ** 2;
  return sum;
}

/** Groups of int4 as int8 with the same scales and values. */
export function widenToInt8({ words, scales }: QuantizedRows): QuantizedRows {
  const bytes = new Int8Array(words.length * 8);
  for (let i = 0; i < bytes.length; i++) bytes[i] = ((words[i >> 3]! >>> (4 * (i & 7))) & 15) - 8;
  return { words: new Uint32Array(bytes.buffer), scales };
}

/** The weight of the largest magnitude, the first of several. */
function largestOf(values: Float32Array, first: number, count: number, name: string): number {
  let largest = 0;
  for (let i = first; i < first + count; i++) {
    const v = values[i]!;
    if (!(Math.abs(v) < Infinity))
      throw new QuantizationError(
        `${name}: weights must be finite to be quantised; got ${v}. Load the checkpoint again, or load it without quantize.`,
      );
    if (Math.abs(v) > Math.abs(largest)) largest = v;
  }
  return largest;
}

/** Writes the values of one group from word `at` on; those beyond the row are 0. */
function packGroup(values: Float32Array, scale: number, bits: 4 | 8, words: Uint32Array, at: number): void {
  const [low, high, zero] = bits === 8 ? [-127, 127, 0] : [-8, 7, 8];
  const perWord = 32 / bits;
  const mask = 2 ** bits - 1;
  for (let i = 0; i < GROUP; i += perWord) {
    let word = 0;
    for (let j = 0; j < perWord; j++) {
      const v = i + j < values.length && scale !== 0 ? values[i + j]! / scale : 0;
      const q = Math.min(high, Math.max(low, v)) + ROUNDER - ROUNDER;
      word |= ((q + zero) & mask) << (bits * j);
    }
    words[at + i / perWord] = word;
  }
}

/** The weights of quantised rows, exact in f32. */
export function dequantizeRows({ words, scales }: QuantizedRows, columns: number, kind: Quantization): Float32Array {
  const bits = QUANTIZED_BITS[kind];
  const perWord = 32 / bits;
  const groups = Math.ceil(columns / GROUP);
  const out = new Float32Array((scales.length / groups) * columns);
  for (let group = 0, to = 0; group < scales.length; group++) {
    const scale = f16Value(scales[group]!);
    const count = Math.min(GROUP, columns - (group % groups) * GROUP);
    for (let i = 0; i < count; i++, to++) {
      const shifted = words[group * bits + Math.floor(i / perWord)]! >>> (bits * (i % perWord));
      out[to] = scale * (bits === 8 ? (shifted << 24) >> 24 : (shifted & 15) - 8);
    }
  }
  return out;
}
