/**
 * How a row of `cases.ts` is checked: fresh random inputs rounded to their dtypes, the op's forward against its float64 reference, every
 * input's gradient against numeric differentiation of that reference. One tolerance table for all.
 */
import { backward, bf16Bits, bf16Value, f16Bits, f16Value, isFloat, scope, tensor } from "../index.ts";
import type { DType, Device, HostArray, Tensor } from "../index.ts";
import { forceVariant } from "../kernels/core/variants.ts";
import { eachIndex, ref, sizeOf, stridesOf } from "./reference.ts";
import type { Ref } from "./reference.ts";
import { isLong } from "./long.ts";
import { randomFrom } from "./random.ts";

export interface Input {
  readonly shape: readonly number[];
  readonly dtype?: DType;
  /** Values are uniform in [low, high), −1 to 1 by default; for integer dtypes whole numbers of that range (0 to 9 by default). */
  readonly low?: number;
  readonly high?: number;
  /** Values are kept this far from 0 (kinks of relu, poles of 1/x). */
  readonly avoidZero?: number;
  /** The values themselves, if they must be of a kind. */
  readonly values?: (random: () => number) => ArrayLike<number>;
  /** No gradient is asked for. */
  readonly constant?: boolean;
  /** Finite by how it is made, such as the scales of quantised weights: no NaN or infinity is tried in it. */
  readonly isFinite?: boolean;
  /** How the input lies in memory: dimensions stored in reverse order, as the inside of a larger tensor, or dimension 1 (channels) last. */
  readonly layout?: "contiguous" | "reversed" | "inside" | "channels last";
}

export interface Case {
  /** Name of the exported op. */
  readonly op: string;
  /** What this row adds. */
  readonly note?: string;
  readonly inputs: readonly Input[];
  readonly run: (inputs: Tensor[]) => Tensor;
  readonly reference: (inputs: Ref[]) => Ref;
  /** Length of the longest sum behind one element of the result (and of a gradient); 1 for elementwise ops. */
  readonly terms?: number;
  /** The result must be equal, not close (integers, copies). */
  readonly exact?: boolean;
  /** False for ops without a gradient. */
  readonly gradient?: boolean;
  /** Variants that all must pass besides the default one, forward and backward, each held by `forceVariant`. */
  readonly variants?: readonly { readonly family: string; readonly name: string }[];
  /** Also run on a device whose bindings hold a few KiB, so that every window is walked. */
  readonly windows?: boolean;
  /** Its result has several tiles in a way of its own: the short form runs it with all its variants. */
  readonly crossesTiles?: boolean;
}

/** Unit roundoff of a stored dtype. */
const EPSILON: Readonly<Record<DType, number>> = { f32: 2 ** -24, f16: 2 ** -11, bf16: 2 ** -8, i32: 0, u32: 0, u8: 0 };

/**
 * The tolerance, the only one: relative L2 error ≤ C · (ε of the widest rounding + ε of f32 · √terms). C covers a handful of roundings a
 * result and WGSL's looser exp, log and division.
 */
const C = { forward: 8, gradient: 16 } as const;

export function tolerance(kind: keyof typeof C, dtypes: readonly DType[], terms: number): number {
  const widest = Math.max(...dtypes.map((d) => EPSILON[d]), EPSILON.f32);
  return C[kind] * (widest + EPSILON.f32 * Math.sqrt(terms));
}

export const caseName = (c: Case): string =>
  `${c.op} ${c.note ? `${c.note} ` : ""}${c.inputs.map((i) => `[${i.shape.join(",")}]${i.dtype && i.dtype !== "f32" ? i.dtype : ""}${i.layout && i.layout !== "contiguous" ? ` ${i.layout}` : ""}`).join(" ")}`;

function makeValues(input: Input, random: () => number): Float64Array {
  const dtype = input.dtype ?? "f32";
  const n = sizeOf(input.shape);
  if (input.values) return Float64Array.from(input.values(random), (v) => round(v, dtype));
  const low = input.low ?? (isFloat(dtype) ? -1 : 0);
  const high = input.high ?? (isFloat(dtype) ? 1 : 10);
  return Float64Array.from({ length: n }, () => {
    let v = low + random() * (high - low);
    if (input.avoidZero && Math.abs(v) < input.avoidZero) v = v < 0 ? v - input.avoidZero : v + input.avoidZero;
    return round(isFloat(dtype) ? v : Math.floor(v), dtype);
  });
}

export function round(v: number, dtype: DType): number {
  if (dtype === "bf16") return bf16Value(bf16Bits(v));
  if (dtype === "f16") return f16Value(f16Bits(v));
  return dtype === "f32" ? Math.fround(v) : v;
}

/** The strides of [N, ..., C], as a view [N, C, ...]. */
export const channelsLast = ([first, ...rest]: readonly number[]): number[] => [
  first!,
  rest.at(-1)!,
  ...rest.slice(0, -1),
];

/** A tensor of `values` that lies in memory as `input` asks. */
export function upload(values: Float64Array, input: Input, device: Device): Tensor {
  const dtype = input.dtype ?? "f32";
  const shape = input.shape;
  if (!input.layout || input.layout === "contiguous") return tensor(values, { shape, dtype, device });
  if (input.layout === "reversed") {
    const reversed = [...shape].reverse();
    const stored = new Float64Array(values.length);
    const strides = stridesOf(reversed).reverse();
    eachIndex(shape, (index, flat) => {
      stored[index.reduce((sum, v, d) => sum + v * strides[d]!, 0)] = values[flat]!;
    });
    using whole = tensor(stored, { shape: reversed, dtype, device });
    return whole.strided(shape, strides);
  }
  if (input.layout === "channels last") {
    const last = [shape[0]!, ...shape.slice(2), shape[1]!];
    const strides = channelsLast(stridesOf(last));
    const stored = new Float64Array(values.length);
    eachIndex(shape, (index, flat) => {
      stored[index.reduce((sum, v, d) => sum + v * strides[d]!, 0)] = values[flat]!;
    });
    using whole = tensor(stored, { shape: last, dtype, device });
    return whole.strided(shape, strides);
  }
  // Inside: one more at the start and two at the end of every dimension.
  const outer = shape.map((n) => n + 3);
  const stored = new Float64Array(sizeOf(outer)).fill(isFloat(dtype) ? 7 : 1);
  const strides = stridesOf(outer);
  const first = strides.reduce((a, b) => a + b, 0);
  eachIndex(shape, (index, flat) => {
    stored[first + index.reduce((sum, v, d) => sum + v * strides[d]!, 0)] = values[flat]!;
  });
  using whole = tensor(stored, { shape: outer, dtype, device });
  return whole.strided(shape, strides, first);
}

/** A tensor with random values as `input` asks. */
export const makeInput = (input: Input, device: Device, seed: number): Tensor =>
  upload(makeValues(input, randomFrom(seed)), input, device);

/** The values that a case's inputs have with `seed`. */
export function drawValues(c: Case, seed: number): Float64Array[] {
  const random = randomFrom(seed);
  return c.inputs.map((input) => makeValues(input, random));
}

export function relativeL2(got: ArrayLike<number>, expected: ArrayLike<number>): number {
  let difference = 0;
  let norm = 0;
  for (let i = 0; i < expected.length; i++) {
    const d = got[i]! - expected[i]!;
    if (Number.isNaN(d)) return Infinity;
    if (d === 0 || got[i] === expected[i]) continue;
    difference += d * d;
  }
  for (let i = 0; i < expected.length; i++) norm += expected[i]! * expected[i]!;
  if (difference === 0) return 0;
  return Math.sqrt(difference) / Math.max(Math.sqrt(norm), 1e-30);
}

/** Elements of each gradient that are differentiated numerically, besides one random direction through all: the short form takes fewer of many. */
const samplesOf = (n: number): number => Math.min(n, isLong || n < 10_000 ? 16 : 3);

export interface CaseResult {
  /** Comparisons made: the forward and one for each input's gradient. */
  readonly checks: number;
  readonly failures: readonly string[];
}

interface DrawnResult extends CaseResult {
  /** Names of the checks that failed; shapes and gradients that are missing have names of their own. */
  readonly failed: readonly string[];
  /** Dtype of the result. */
  readonly dtype: DType;
}

/** How often inputs are drawn again. */
const MAX_DRAWS = 4;

/**
 * Runs one case on `device` with inputs of `seed`, forward and backward with the variant `force` if one is named. Random inputs now and then
 * cancel (x · w + b next to 0, a bias whose gradients add up to next to 0), and no arithmetic of the dtype can then meet a relative bound: if
 * each check that fails is one that the inputs' own rounding moves by more than its bound, inputs are drawn again. Wrong results fail on those too.
 */
export async function runCase(
  c: Case,
  device: Device,
  seed: number,
  force?: { family: string; name: string },
): Promise<CaseResult> {
  for (let draw = 1, drawn = seed; ; draw++, drawn = (drawn + 0x9e3779b9) >>> 0) {
    const { failed, dtype, ...result } = await runDrawn(c, device, drawn, force);
    if (failed.length === 0 || draw === MAX_DRAWS) return result;
    const ill = illConditioned(c, drawn, dtype, failed[0] === FORWARD);
    if (!failed.every((check) => ill.has(check))) return result;
  }
}

/** Names of the checks: of the result, and of the gradient of an input. */
const FORWARD = "forward";
const gradientOf = (input: number): string => `gradient ${input}`;

/** What a case computes with, the same for each of its variants: values of its inputs, the result, and of a dtype of the result its gradients. */
interface Draw {
  readonly values: readonly Float64Array[];
  readonly refs: Ref[];
  readonly expected: Ref;
  readonly gradientsOf: (dtype: DType) => DrawnGradients;
}

interface DrawnGradients {
  /** What the result's elements are weighted with. */
  readonly weights: Float64Array;
  /** Numeric gradient of each input that has a gradient and elements, by its position. */
  readonly numeric: ReadonlyMap<number, Numeric>;
  /** The same elements and directions at other inputs and weights. */
  readonly at: (inputs: readonly Ref[], weights: Float64Array) => ReadonlyMap<number, Numeric>;
}

let lastDraw: { readonly of: Case; readonly seed: number; readonly draw: Draw } | undefined;

function drawOf(c: Case, seed: number): Draw {
  if (lastDraw?.of === c && lastDraw.seed === seed) return lastDraw.draw;
  const values = drawValues(c, seed);
  const refs = values.map((v, i) => ref(c.inputs[i]!.shape, v));
  const expected = c.reference(refs);
  const asked = c.inputs.flatMap((input, i) => (hasGradient(c, input) && refs[i]!.data.length > 0 ? [i] : []));
  const known = new Map<DType, DrawnGradients>();
  const gradientsOf = (dtype: DType): DrawnGradients => {
    const found = known.get(dtype);
    if (found) return found;
    const weights = Float64Array.from({ length: expected.data.length }, weightsFrom(seed, dtype));
    const at = (inputs: readonly Ref[], by: Float64Array): ReadonlyMap<number, Numeric> => {
      const random = randomFrom(seed ^ 0x5bd1e995);
      return new Map(asked.map((i) => [i, differentiate(weighted(c, by), inputs, i, random)]));
    };
    const gradients = { weights, numeric: at(refs, weights), at };
    known.set(dtype, gradients);
    return gradients;
  };
  lastDraw = { of: c, seed, draw: { values, refs, expected, gradientsOf } };
  return lastDraw.draw;
}

function weightsFrom(seed: number, dtype: DType): () => number {
  const random = randomFrom(seed ^ 0x2545f491);
  return () => round(random() * 2 - 1, dtype);
}

const hasGradient = (c: Case, input: Input): boolean =>
  c.gradient !== false && isFloat(input.dtype ?? "f32") && !input.constant;

/** Sum of the result's elements, each times its weight: what a case's gradients are those of. */
const weighted =
  (c: Case, weights: Float64Array) =>
  (inputs: Ref[]): number => {
    const out = c.reference(inputs).data;
    let sum = 0;
    for (let i = 0; i < out.length; i++) sum += out[i]! * weights[i]!;
    return sum;
  };

/** Roundings of f32 by which inputs are moved: a handful, as a result is allowed, for WGSL's log and power alone are several off. */
const MOVED_BY = 4;
/** Random roundings that are tried: that all terms of a sum move the same way, which moves none of its cancelling, is one in 2ⁿ⁻¹. */
const ROUNDINGS = 3;

/**
 * The checks whose reference moves by more than the bound when each input, and each weight of the gradients, moves by a few roundings of f32.
 * `dtype` is that of the result; gradients are left out if `forwardOnly`.
 */
export function illConditioned(c: Case, seed: number, dtype: DType = "f32", forwardOnly = false): ReadonlySet<string> {
  const ill = new Set<string>();
  if (c.exact) return ill;
  const { refs, expected, gradientsOf } = drawOf(c, seed);
  const dtypes = [...c.inputs.map((input) => input.dtype ?? "f32"), dtype];
  const terms = c.terms ?? 1;
  const random = randomFrom(~seed);
  const nudged = (v: Float64Array): Float64Array =>
    v.map((x) => x * (1 + (random() < 0.5 ? -1 : 1) * MOVED_BY * EPSILON.f32));
  for (let k = 0; k < ROUNDINGS; k++) {
    const moved = refs.map(({ shape, data }, i) => (isFloat(dtypes[i]!) ? ref(shape, nudged(data)) : ref(shape, data)));
    if (relativeL2(c.reference(moved).data, expected.data) > tolerance("forward", dtypes, terms)) ill.add(FORWARD);
    if (forwardOnly) continue;
    const { weights, numeric, at } = gradientsOf(dtype);
    for (const [i, { values }] of at(moved, nudged(weights)))
      if (relativeL2(values, numeric.get(i)!.values) > tolerance("gradient", dtypes, terms) + NUMERIC)
        ill.add(gradientOf(i));
  }
  return ill;
}

async function runDrawn(
  c: Case,
  device: Device,
  seed: number,
  force?: { family: string; name: string },
): Promise<DrawnResult> {
  const forced = <T>(fn: () => T): T => (force ? forceVariant(force.family, force.name, fn) : fn());
  const { values, expected, gradientsOf } = drawOf(c, seed);
  const dtypes = c.inputs.map((i) => i.dtype ?? "f32");
  const terms = c.terms ?? 1;
  const failures: string[] = [];
  const failed: string[] = [];
  const fail = (check: string, text: string): void => {
    failed.push(check);
    failures.push(text);
  };
  let checks = 0;
  const tensors = c.inputs.map((input, i) => upload(values[i]!, input, device));
  const asked = c.inputs.map((input) => hasGradient(c, input));
  tensors.forEach((t, i) => {
    if (asked[i]) t.requiresGrad = true;
  });
  const y = forced(() => scope(() => c.run(tensors)));
  const got = await y.data();
  checks++;
  if (y.shape.join() !== expected.shape.join())
    fail("shape", `shape [${y.shape.join()}], reference [${expected.shape.join()}]`);
  else if (c.exact) {
    const at = expected.data.findIndex((v, i) => got[i] !== v && !(Number.isNaN(v) && Number.isNaN(got[i])));
    if (at >= 0) fail("exact", `element ${at} is ${got[at]}, reference ${expected.data[at]}`);
  } else {
    const error = relativeL2(got, expected.data);
    const allowed = tolerance("forward", [...dtypes, y.dtype], terms);
    if (!(error <= allowed))
      fail(
        FORWARD,
        `forward: relative L2 ${error.toExponential(2)} > ${allowed.toExponential(2)}${sample(got, expected.data)}`,
      );
  }
  if (asked.some(Boolean) && y.size > 0 && !failures.length) {
    const { weights, numeric } = gradientsOf(y.dtype);
    const w = tensor(weights, { shape: y.shape, dtype: y.dtype, device });
    forced(() => backward(y, w));
    w.dispose();
    for (const [i, expectedSlopes] of numeric) {
      checks++;
      const gradient = tensors[i]!.grad;
      if (!gradient) {
        fail("missing", `input ${i} has no gradient`);
        continue;
      }
      const g = await gradient.data();
      const analytic = expectedSlopes.same(g);
      const error = relativeL2(analytic, expectedSlopes.values);
      const allowed = tolerance("gradient", [...dtypes, y.dtype], terms) + NUMERIC;
      if (!(error <= allowed))
        fail(
          gradientOf(i),
          `${gradientOf(i)}: relative L2 ${error.toExponential(2)} > ${allowed.toExponential(2)}${sample(analytic, expectedSlopes.values)}`,
        );
    }
  }
  y.dispose();
  for (const t of tensors) t.dispose();
  return { checks, failures, failed, dtype: y.dtype };
}

/** Error of the numeric derivative itself. */
const NUMERIC = 1e-6;

/** Numeric derivatives by some elements of an input and along one random direction through all. */
interface Numeric {
  readonly values: readonly number[];
  /** The same of a gradient. */
  readonly same: (g: HostArray) => number[];
}

function differentiate(
  loss: (inputs: Ref[]) => number,
  refs: readonly Ref[],
  input: number,
  random: () => number,
): Numeric {
  const n = refs[input]!.data.length;
  const at = (move: (x: Float64Array) => void): number => {
    const data = refs[input]!.data.slice();
    move(data);
    return loss(refs.map((r, i) => (i === input ? ref(r.shape, data) : r)));
  };
  // Fourth-order central difference.
  const slope = (move: (x: Float64Array, h: number) => void): number => {
    const h = 1e-3;
    const f = (s: number): number => at((x) => move(x, s * h));
    return (8 * (f(1) - f(-1)) - (f(2) - f(-2))) / (12 * h);
  };
  const indices =
    samplesOf(n) === n
      ? [...Array(n).keys()]
      : Array.from({ length: samplesOf(n) }, (_, k) => (k === 0 ? 0 : k === 1 ? n - 1 : Math.floor(random() * n)));
  const direction = Float64Array.from({ length: n }, () => (random() < 0.5 ? -1 : 1) / Math.sqrt(n));
  return {
    values: [
      ...indices.map((i) => slope((x, h) => (x[i]! += h))),
      slope((x, h) => direction.forEach((d, i) => (x[i]! += h * d))),
    ],
    same: (g) => [...indices.map((i) => g[i]!), direction.reduce((sum, d, i) => sum + d * g[i]!, 0)],
  };
}

function sample(got: ArrayLike<number>, expected: ArrayLike<number>): string {
  let worst = 0;
  for (let i = 0; i < expected.length; i++)
    if (!(Math.abs(got[i]! - expected[i]!) <= Math.abs(got[worst]! - expected[worst]!))) worst = i;
  return `; worst at ${worst}: ${got[worst]} for ${expected[worst]}`;
}
