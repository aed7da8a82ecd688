/** Shape arithmetic of strided walks. */
import type { Shape } from "../../engine/index.ts";

/** Merges adjacent dimensions that are contiguous in all operands (and in a row-major result), and drops those of size 1. */
export function collapse(
  shape: Shape,
  strides: readonly (readonly number[])[],
): { shape: number[]; strides: number[][] } {
  const out: number[] = [];
  const outStrides: number[][] = strides.map(() => []);
  for (const [d, n] of shape.entries()) {
    if (n === 1) continue;
    const last = out.length - 1;
    if (last >= 0 && strides.every((s, i) => outStrides[i]![last] === n * s[d]!)) {
      out[last]! *= n;
      for (const [i, s] of strides.entries()) outStrides[i]![last] = s[d]!;
    } else {
      out.push(n);
      for (const [i, s] of strides.entries()) outStrides[i]!.push(s[d]!);
    }
  }
  return { shape: out, strides: outStrides };
}
