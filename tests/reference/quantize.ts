/** References of quantised weights in float64: single groups by the definition of the format, nothing shared with the packing code. */
import { ref } from "../reference.ts";
import type { Ref } from "../reference.ts";

/** The number that f16 bits stand for. */
export function f16Number(bits: number): number {
  const [exponent, fraction] = [(bits >> 10) & 31, bits & 1023];
  const size = exponent === 0 ? fraction * 2 ** -24 : (1024 + fraction) * 2 ** (exponent - 25);
  if (exponent === 31) return fraction ? NaN : bits & 0x8000 ? -Infinity : Infinity;
  return bits & 0x8000 ? -size : size;
}

/** The f16 number nearest to `v`, ties to even, for finite results. */
export function f16Nearest(v: number): number {
  const exponent = Math.max(-14, Math.floor(Math.log2(Math.abs(v) || 2 ** -14)));
  return nearest(v / 2 ** (exponent - 10)) * 2 ** (exponent - 10);
}

/** The whole number nearest to `v`, ties to even. */
export function nearest(v: number): number {
  const down = Math.floor(v);
  const rest = v - down;
  return rest > 0.5 || (rest === 0.5 && down % 2 !== 0) ? down + 1 : down;
}

/** The weights of a group after quantising: scale and q as the format defines them. */
export function quantizedGroup(weights: readonly number[], bits: 4 | 8): { scale: number; q: number[] } {
  const most = Math.max(...weights.map((w) => Math.abs(w)));
  const largest = weights.find((w) => Math.abs(w) === most) ?? 0;
  const scale = f16Nearest(bits === 8 ? most / 127 : largest / -8) + 0; // −0 is 0
  const [low, high] = bits === 8 ? [-127, 127] : [-8, 7];
  return { scale, q: weights.map((w) => (scale === 0 ? 0 : Math.min(high, Math.max(low, nearest(w / scale))))) };
}

/** Weights [N, K] of words [N, groups · bits] and scales [N, groups] of numbers. */
export function dequantizedRef(words: Ref, scales: Ref, columns: number): Ref {
  const [rows, groups] = scales.shape as [number, number];
  const bits = words.shape[1]! / groups; // 32 weights of so many bits are as many words
  const out = new Float64Array(rows * columns);
  for (let n = 0; n < rows; n++)
    for (let k = 0; k < columns; k++) {
      const bit = k * bits;
      const word = words.data[n * words.shape[1]! + Math.floor(bit / 32)]!;
      const field = Math.floor(word / 2 ** (bit % 32)) % 2 ** bits;
      const q = bits === 4 ? field - 8 : field < 128 ? field : field - 256;
      out[n * columns + k] = q * scales.data[n * groups + Math.floor(k / 32)]!;
    }
  return ref([rows, columns], out);
}
