/** References of the image ops: convolution, group norm, upsampling, code lookup. */
import { ref, sizeOf } from "../reference.ts";
import type { Ref } from "../reference.ts";
import { siluRef } from "./rows.ts";

/** x [N, C, H, W], weight [O, C, kh, kw], bias [O] → [N, O, OH, OW]; padding [top, right, bottom, left]. */
export function conv2dRef(
  x: Ref,
  weight: Ref,
  bias: Ref | null,
  stride: number,
  [top, right, bottom, left]: readonly [number, number, number, number],
): Ref {
  const [N, C, H, W] = x.shape as [number, number, number, number];
  const [O, , kh, kw] = weight.shape as [number, number, number, number];
  const OH = Math.floor((H + top + bottom - kh) / stride) + 1;
  const OW = Math.floor((W + left + right - kw) / stride) + 1;
  const y = ref([N, O, OH, OW]);
  for (let n = 0; n < N; n++) {
    for (let o = 0; o < O; o++) {
      for (let r = 0; r < OH; r++) {
        for (let q = 0; q < OW; q++) {
          let total = bias ? bias.data[o]! : 0;
          for (let i = 0; i < kh; i++) {
            const v = r * stride + i - top;
            if (v < 0 || v >= H) continue;
            for (let j = 0; j < kw; j++) {
              const u = q * stride + j - left;
              if (u < 0 || u >= W) continue;
              for (let c = 0; c < C; c++)
                total += x.data[((n * C + c) * H + v) * W + u]! * weight.data[((o * C + c) * kh + i) * kw + j]!;
            }
          }
          y.data[((n * O + o) * OH + r) * OW + q] = total;
        }
      }
    }
  }
  return y;
}

/** x [N, C, ...] normalised over each of `groups` runs of channels, times weight [C] plus bias [C], then swish if asked. */
export function groupNormRef(
  x: Ref,
  weight: Ref | null,
  bias: Ref | null,
  groups: number,
  eps: number,
  swish: boolean,
): Ref {
  const [N, C] = x.shape as [number, number];
  const area = sizeOf(x.shape.slice(2));
  const run = (C / groups) * area;
  const y = ref(x.shape);
  for (let g = 0; g < N * groups; g++) {
    let mean = 0;
    for (let i = 0; i < run; i++) mean += x.data[g * run + i]! / run;
    let variance = 0;
    for (let i = 0; i < run; i++) variance += (x.data[g * run + i]! - mean) ** 2 / run;
    const scale = 1 / Math.sqrt(variance + eps);
    for (let i = 0; i < run; i++) {
      const c = Math.floor((g * run + i) / area) % C;
      const z = (x.data[g * run + i]! - mean) * scale * (weight ? weight.data[c]! : 1) + (bias ? bias.data[c]! : 0);
      y.data[g * run + i] = swish ? siluRef(z) : z;
    }
  }
  return y;
}

/** x [N, C, H, W] → [N, C, 2H, 2W], each pixel four times. */
export function upsampleRef(x: Ref): Ref {
  const [N, C, H, W] = x.shape as [number, number, number, number];
  const y = ref([N, C, 2 * H, 2 * W]);
  for (let i = 0; i < y.data.length; i++) {
    const q = i % (2 * W);
    const r = Math.floor(i / (2 * W)) % (2 * H);
    const nc = Math.floor(i / (4 * H * W));
    y.data[i] = x.data[(nc * H + Math.floor(r / 2)) * W + Math.floor(q / 2)]!;
  }
  return y;
}

/** Rows of x [..., D] divided by their length, which counts as `eps` at least. */
export function l2NormalizeRef(x: Ref, eps: number): Ref {
  const D = x.shape.at(-1)!;
  const y = ref(x.shape);
  for (let row = 0; row < x.data.length; row += D) {
    let squares = 0;
    for (let d = 0; d < D; d++) squares += x.data[row + d]! ** 2;
    const length = Math.max(Math.sqrt(squares), eps);
    for (let d = 0; d < D; d++) y.data[row + d] = x.data[row + d]! / length;
  }
  return y;
}

/** Per row of z [M, D]: the code of codebook [K, D] that is nearest once both are normalised, the lowest of equals, and its squared distance. */
export function nearestCodes(
  z: Ref,
  codebook: Ref,
  eps: number,
): { index: number; distance: number; margin: number }[] {
  const D = z.shape[1]!;
  const a = l2NormalizeRef(z, eps).data;
  const b = l2NormalizeRef(codebook, eps).data;
  return Array.from({ length: z.shape[0]! }, (_, m) => {
    let index = 0;
    let distance = Infinity;
    let second = Infinity;
    for (let k = 0; k < codebook.shape[0]!; k++) {
      let total = 0;
      for (let d = 0; d < D; d++) total += (a[m * D + d]! - b[k * D + d]!) ** 2;
      // A NaN comes first, as in an argmin.
      if (total < distance || (Number.isNaN(total) && !Number.isNaN(distance))) {
        second = distance;
        [index, distance] = [k, total];
      } else if (total > distance) second = Math.min(second, total);
    }
    return { index, distance, margin: second - distance };
  });
}
