/** New tensors filled by kernels: constants, ranges and random numbers. From host data: `tensor()` of the engine. */
import {
  ArgumentError,
  LARGEST,
  checkDType,
  checkNumber,
  checkSite,
  defaultDraw,
  elementBytes,
  empty,
  grid1d,
  halfOpenRange,
  integerRange,
  isFloat,
  kernel,
  launch,
  scope,
  DTypeError,
  knownOptions,
} from "../../engine/index.ts";
import type { DType, Generator, Shape, Tensor, TensorOptions } from "../../engine/index.ts";
import { fillInto } from "../core/copy.ts";

export { manualSeed } from "../../engine/index.ts";
import { expression, map } from "../core/map.ts";
import { philox, standard, trig } from "../core/libraries.ts";
import { windowsOf } from "../core/windows.ts";

const random = kernel(
  "random",
  new URL("./random.wgsl", import.meta.url),
  { state: "read", y: "write" },
  { granules: "u32", start: "u32", site: "u32", low: "f32", high: "f32", least: "f32", most: "f32", scale: "f32" },
  [...standard, philox, trig],
);

const range = kernel(
  "arange",
  new URL("./arange.wgsl", import.meta.url),
  { y: "write" },
  { granules: "u32", first: "u32", start: "u32", step: "u32" },
  standard,
);

const TENSOR_OPTIONS = ["dtype", "device", "requiresGrad"] as const;

/** A tensor with `value` everywhere. An integer dtype refuses a number that it does not represent. */
export function full(shape: Shape, value: number, options: TensorOptions = {}): Tensor {
  const dtype = options.dtype ?? "f32";
  checkDType(dtype);
  knownOptions("full", options, TENSOR_OPTIONS);
  checkNumber("full", value, dtype);
  const y = empty(shape, options);
  fillInto(y, value);
  return y;
}

/** Zeros of a shape; f32 on the default device unless `options` say otherwise. */
export const zeros = (shape: Shape, options: TensorOptions = {}): Tensor => full(shape, 0, options);
/** Ones of a shape; f32 on the default device unless `options` say otherwise. */
export const ones = (shape: Shape, options: TensorOptions = {}): Tensor => full(shape, 1, options);
/** Zeros of the shape, dtype and device of `x`. */
export const zerosLike = (x: Tensor, options: TensorOptions = {}): Tensor =>
  zeros(x.shape, { dtype: x.dtype, device: x.device, ...options });

/**
 * [start, start + step, …) below `end` (above it for a negative step); `arange(n)` counts from 0. The default dtype is i32 for whole numbers,
 * else f32. Integers are exact, whole numbers of i32 in a float dtype rounded once; a value beyond the dtype is refused.
 */
export function arange(start: number, end?: number, step = 1, options: TensorOptions = {}): Tensor {
  knownOptions("arange", options, TENSOR_OPTIONS);
  const [from, to] = end === undefined ? [0, start] : [start, end];
  if (step === 0 || ![from, to, step].every(Number.isFinite))
    throw new ArgumentError(
      `arange: start, end and step must be finite, and step not 0; got ${from}, ${to} and ${step}. Change them.`,
    );
  const count = Math.max(0, Math.ceil((to - from) / step));
  const whole = Number.isInteger(from) && Number.isInteger(step);
  const dtype = options.dtype ?? (whole ? "i32" : "f32");
  checkDType(dtype);
  checkRange(from, step, count, dtype);
  const isWhole = !isFloat(dtype) || isWholeRange(from, step, count);
  const y = empty([count], { ...options, dtype });
  for (const w of windowsOf("arange", count, { y })) {
    const granules = Math.ceil(w.count / 4);
    launch(range, {
      use: { y: y.dtype },
      constants: { WHOLE: isWhole, NARROW: dtype === "bf16" },
      buffers: w.buffers,
      params: { granules, first: w.start, start: bitsOf(from, isWhole), step: bitsOf(step, isWhole) },
      grid: grid1d(Math.ceil(granules / 64)),
      cost: { flops: w.count, bytes: elementBytes(y.dtype, w.count) },
    });
  }
  return y;
}

/** Throws `ArgumentError` if the dtype does not represent the first and the last of `count` values and, for integers, the step. */
function checkRange(from: number, step: number, count: number, dtype: DType): void {
  const last = from + Math.max(0, count - 1) * step;
  if (isFloat(dtype)) {
    const largest = LARGEST[dtype]!;
    if (!(Math.abs(from) <= largest && Math.abs(last) <= largest && Math.abs(step) <= LARGEST.f32!))
      throw new ArgumentError(
        `arange: values must be finite in ${dtype}, at most ${largest}; got start ${from}, step ${step}, last value ${last}. Choose smaller ones.`,
      );
    return;
  }
  if (!Number.isSafeInteger(step))
    throw new ArgumentError(`arange: the step must be a whole number for ${dtype}; got ${step}. Use dtype f32.`);
  checkNumber("arange", from, dtype);
  checkNumber("arange", last, dtype);
}

/** True if all `count` values are whole numbers of i32: they are then computed in i32 and rounded once. */
function isWholeRange(from: number, step: number, count: number): boolean {
  const [least, most] = integerRange("i32")!;
  return (
    [from, from + Math.max(0, count - 1) * step].every((v) => Number.isInteger(v) && v >= least && v <= most) &&
    Number.isSafeInteger(step)
  );
}

/** A number as the word that the kernel takes: integers modulo 2^32, in which sums of them are exact. */
const bitsOf = (value: number, isWhole: boolean): number =>
  !isWhole ? new Uint32Array(Float32Array.of(value).buffer)[0]! : value >>> 0;

const isEqual = expression("eye", "select(V4_y(), V4_y(1), a == b)");

/** The identity: ones on the diagonal of [rows, columns], zeros elsewhere; square if `columns` is left out. */
export function eye(rows: number, columns = rows, options: TensorOptions = {}): Tensor {
  knownOptions("eye", options, TENSOR_OPTIONS);
  const dtype = options.dtype ?? "f32";
  checkDType(dtype);
  for (const n of [rows, columns])
    if (!Number.isInteger(n) || n < 0)
      throw new ArgumentError(`eye: rows and columns must be whole numbers of at least 0; got ${n}. Change it.`);
  const y = scope(() => {
    const at = { dtype: "i32", ...(options.device && { device: options.device }) } as const;
    const row = arange(0, rows, 1, at).strided([rows, 1], [1, 1]);
    return map(isEqual, [row, arange(0, columns, 1, at)], { dtype, shape: [rows, columns] });
  });
  y.requiresGrad = options.requiresGrad ?? false;
  return y;
}

export interface RandomOptions extends TensorOptions {
  /** Source of the numbers (default: a generator of the device with seed 0 whose step rises with every call). */
  readonly generator?: Generator;
  /** Which op of the program draws: other sites give other numbers of the same generator and step. */
  readonly site?: number;
}

/** Parameters of a draw: the interval of a uniform one; mean and standard deviation of a normal one as `low` and `high`. */
interface Interval {
  readonly low: number;
  readonly high: number;
  readonly least: number;
  readonly most: number;
  readonly scale: number;
}
const STANDARD_NORMAL: Interval = { low: 0, high: 1, least: 0, most: 0, scale: 1 };

/**
 * Returns the kernel's parameters for [low, high). Throws `ArgumentError` if a bound is not finite in the dtype, or if
 * no value is in the interval.
 */
function interval(low: number, high: number, dtype: DType): Interval {
  const largest = LARGEST[dtype]!;
  if (!(Math.abs(low) <= largest && Math.abs(high) <= largest && low < high)) {
    throw new ArgumentError(
      `uniform: bounds of ${dtype} must be finite, at most ${largest}, the first below the second; got ${low} and ${high}. The interval is [low, high).`,
    );
  }
  const range = halfOpenRange(dtype, low, high);
  if (!range)
    throw new ArgumentError(
      `uniform: [low, high) must hold a value of ${dtype}; got ${low} and ${high}. Use a wider interval or f32.`,
    );
  const scale = Number.isFinite(Math.fround(Math.fround(high) - Math.fround(low))) ? 1 : 2;
  return { low: low / scale, high: high / scale, least: range[0] / scale, most: range[1] / scale, scale };
}

function draw(op: string, shape: Shape, bounds: readonly [number, number] | null, options: RandomOptions): Tensor {
  knownOptions(op, options, [...TENSOR_OPTIONS, "generator", "site"]);
  const dtype = options.dtype ?? "f32";
  checkDType(dtype);
  if (!isFloat(dtype)) throw new DTypeError(`${op}: dtype must be f32, f16 or bf16; got ${dtype}. Change it.`);
  checkSite(op, options.site ?? 0);
  if (options.site !== undefined && !options.generator)
    throw new ArgumentError(
      `${op}: site must come with a generator; got site ${options.site} alone. Pass generator, or leave site out.`,
    );
  const held = bounds ? interval(...bounds, dtype) : STANDARD_NORMAL;
  const y = empty(shape, options);
  const { generator, site } = options.generator
    ? { generator: options.generator, site: options.site ?? 0 }
    : defaultDraw(y.device);
  for (const { start, count, buffers } of windowsOf(op, y.size, { y })) {
    const granules = Math.ceil(count / 4);
    launch(random, {
      use: { y: y.dtype },
      constants: { NORMAL: !bounds },
      buffers: { state: generator.state, ...buffers },
      params: { granules, start: start / 4, site, ...held },
      grid: grid1d(Math.ceil(granules / 64)),
      cost: { flops: 100 * count, bytes: elementBytes(y.dtype, count) },
    });
  }
  if (!options.generator) generator.dispose();
  return y;
}

/** Normal random numbers with mean 0 and standard deviation 1. */
export const randn = (shape: Shape, options: RandomOptions = {}): Tensor => draw("randn", shape, null, options);
/**
 * Uniform random numbers in [low, high), also after rounding to the dtype: a number that would round to `high` is the largest value below it.
 * Throws `ArgumentError` for bounds that are not finite in the dtype or have no value of it between them.
 */
export const uniform = (shape: Shape, low = 0, high = 1, options: RandomOptions = {}): Tensor =>
  draw("uniform", shape, [low, high], options);
