/** References of the row-wise ops. */
import { ref } from "../reference.ts";
import type { Ref } from "../reference.ts";

export function rmsNormRef(x: Ref, weight: Ref | null, eps: number): Ref {
  const n = x.shape.at(-1)!;
  const out = ref(x.shape);
  for (let at = 0; at < x.data.length; at += n) {
    let squares = 0;
    for (let i = 0; i < n; i++) squares += x.data[at + i]! ** 2;
    const rms = Math.sqrt(squares / n + eps);
    for (let i = 0; i < n; i++) out.data[at + i] = (x.data[at + i]! / rms) * (weight ? weight.data[i]! : 1);
  }
  return out;
}

export function layerNormRef(x: Ref, weight: Ref | null, bias: Ref | null, eps: number): Ref {
  const n = x.shape.at(-1)!;
  const out = ref(x.shape);
  for (let at = 0; at < x.data.length; at += n) {
    let mean = 0;
    for (let i = 0; i < n; i++) mean += x.data[at + i]! / n;
    let variance = 0;
    for (let i = 0; i < n; i++) variance += (x.data[at + i]! - mean) ** 2 / n;
    const deviation = Math.sqrt(variance + eps);
    for (let i = 0; i < n; i++)
      out.data[at + i] =
        ((x.data[at + i]! - mean) / deviation) * (weight ? weight.data[i]! : 1) + (bias ? bias.data[i]! : 0);
  }
  return out;
}

/** Along dimension `dim`, counted from the front. */
export function softmaxRef(x: Ref, dim: number, log: boolean): Ref {
  const n = x.shape[dim]!;
  const inner = x.shape.slice(dim + 1).reduce((a, b) => a * b, 1);
  const out = ref(x.shape);
  for (let o = 0; o < x.data.length; o += n * inner) {
    for (let i = o; i < o + inner; i++) {
      let most = -Infinity;
      for (let k = 0; k < n; k++) most = Math.max(most, x.data[i + k * inner]!);
      let sum = 0;
      for (let k = 0; k < n; k++) sum += Math.exp(x.data[i + k * inner]! - most);
      for (let k = 0; k < n; k++) {
        const v = x.data[i + k * inner]! - most;
        out.data[i + k * inner] = log ? v - Math.log(sum) : Math.exp(v) / sum;
      }
    }
  }
  return out;
}

/** x [B, outer, T, inner, D] with positions [B, T]: pairs (i, i + D/2) turned by position · theta^(−2i/D). */
export function ropeRef(x: Ref, positions: Ref, theta: number, tokenDim: number): Ref {
  const D = x.shape.at(-1)!;
  const T = x.shape[tokenDim]!;
  const inner = x.shape.slice(tokenDim + 1, -1).reduce((a, b) => a * b, 1);
  const perBatch = positions.shape.length === 2 ? x.data.length / D / positions.shape[0]! : Infinity;
  const out = ref(x.shape);
  for (let row = 0; row < x.data.length / D; row++) {
    const token = Math.floor(row / inner) % T;
    const batch = Math.floor(row / perBatch);
    const position = positions.data[batch * T + token]!;
    for (let i = 0; i < D / 2; i++) {
      const angle = position * theta ** ((-2 * i) / D);
      const u = x.data[row * D + i]!;
      const v = x.data[row * D + i + D / 2]!;
      out.data[row * D + i] = u * Math.cos(angle) - v * Math.sin(angle);
      out.data[row * D + i + D / 2] = v * Math.cos(angle) + u * Math.sin(angle);
    }
  }
  return out;
}

/** erf by its power series below 3, by a continued fraction of erfc above. */
export function erf(x: number): number {
  const a = Math.abs(x);
  return x < 0 ? erfc(a) - 1 : 1 - erfc(a);
}

/** erfc(a) for a ≥ 0. */
function erfc(a: number): number {
  if (a < 3) {
    let term = a;
    let sum = a;
    for (let n = 1; Math.abs(term) > 1e-18; n++) {
      term *= (-a * a) / n;
      sum += term / (2 * n + 1);
    }
    return 1 - (2 / Math.sqrt(Math.PI)) * sum;
  }
  let fraction = 0;
  for (let n = 60; n > 0; n--) fraction = n / 2 / (a + fraction);
  return Math.exp(-a * a) / Math.sqrt(Math.PI) / (a + fraction);
}

// At −∞ each has its limit, 0; silu is 0 in f32 from −104 on.
export const geluRef = (x: number): number =>
  x === -Infinity ? 0 : x < 0 ? 0.5 * x * erfc(-x / Math.SQRT2) : 0.5 * x * (2 - erfc(x / Math.SQRT2));
/** x / 2 · (1 + tanh(u)) with (1 + tanh(u)) / 2 = 1 / (1 + e^−2u), which does not cancel. */
export const geluTanhRef = (x: number): number =>
  x === -Infinity ? 0 : x / (1 + Math.exp(-2 * Math.sqrt(2 / Math.PI) * (x + 0.044715 * x ** 3)));
export const siluRef = (x: number): number => (x < -104 ? 0 : x / (1 + Math.exp(-x)));
