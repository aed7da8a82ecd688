/** New tensors filled by kernels: constants, ranges and random numbers. From host data: `tensor()` of the engine. */
import { ArgumentError, defaultDraw, elementBytes, empty, grid1d, isFloat, kernel, launch, rowWindows, DTypeError } from "../engine/index.ts";
import type { Generator, Shape, Tensor, TensorOptions } from "../engine/index.ts";
import { fillInto } from "./copy.ts";
import "./lib.ts";

export { manualSeed } from "../engine/index.ts";

const random = kernel(
  "random",
  new URL("./random.wgsl", import.meta.url),
  { state: "read", y: "write" },
  { granules: "u32", start: "u32", site: "u32", low: "f32", high: "f32" },
);

const range = kernel("arange", new URL("./arange.wgsl", import.meta.url), { y: "write" }, { granules: "u32", first: "u32", start: "f32", step: "f32" });

/** A tensor with `value` everywhere. */
export function full(shape: Shape, value: number, options: TensorOptions = {}): Tensor {
  const y = empty(shape, options);
  fillInto(y, value);
  return y;
}

export const zeros = (shape: Shape, options: TensorOptions = {}): Tensor => full(shape, 0, options);
export const ones = (shape: Shape, options: TensorOptions = {}): Tensor => full(shape, 1, options);
/** Zeros of the shape, dtype and device of `x`. */
export const zerosLike = (x: Tensor, options: TensorOptions = {}): Tensor => zeros(x.shape, { dtype: x.dtype, device: x.device, ...options });

/** [start, start + step, …) below `end` (above it for a negative step); `arange(n)` counts from 0. The default dtype is i32 for whole numbers, else f32. */
export function arange(start: number, end?: number, step = 1, options: TensorOptions = {}): Tensor {
  const [from, to] = end === undefined ? [0, start] : [start, end];
  if (step === 0 || ![from, to, step].every(Number.isFinite)) throw new ArgumentError(`arange: start ${from}, end ${to}, step ${step}; finite numbers, step not 0`);
  const count = Math.max(0, Math.ceil((to - from) / step));
  const whole = Number.isInteger(from) && Number.isInteger(step);
  const y = empty([count], { dtype: whole ? "i32" : "f32", ...options });
  for (const w of rowWindows(y.device, count, [{ rowElements: 1, dtype: y.dtype }])) {
    const granules = Math.ceil(w.count / 4);
    launch(range, {
      use: { y: y.dtype },
      buffers: { y: { of: y, start: w.start, elements: w.count } },
      params: { granules, first: w.start, start: from, step },
      grid: grid1d(Math.ceil(granules / 64)),
      cost: { flops: w.count, bytes: elementBytes(y.dtype, w.count) },
    });
  }
  return y;
}

export interface RandomOptions extends TensorOptions {
  /** Where the numbers come from; the default is a generator of the device with seed 0 whose step rises with every call. */
  readonly generator?: Generator;
  /** Which op of the program draws: other sites give other numbers of the same generator and step. */
  readonly site?: number;
}

function draw(op: string, shape: Shape, low: number, high: number, normal: boolean, options: RandomOptions): Tensor {
  const y = empty(shape, options);
  if (!isFloat(y.dtype)) throw new DTypeError(`${op}: dtype ${y.dtype}; random numbers are f32, f16 or bf16`);
  const { generator, site } = options.generator ? { generator: options.generator, site: options.site ?? 0 } : defaultDraw(y.device);
  for (const { start, count } of rowWindows(y.device, y.size, [{ rowElements: 1, dtype: y.dtype }])) {
    const granules = Math.ceil(count / 4);
    launch(random, {
      use: { y: y.dtype },
      constants: { NORMAL: normal },
      buffers: { state: generator.state, y: { of: y, start, elements: count } },
      params: { granules, start: start / 4, site, low, high },
      grid: grid1d(Math.ceil(granules / 64)),
      cost: { flops: 100 * count, bytes: elementBytes(y.dtype, count) },
    });
  }
  if (!options.generator) generator.dispose();
  return y;
}

/** Normal random numbers with mean 0 and standard deviation 1. */
export const randn = (shape: Shape, options: RandomOptions = {}): Tensor => draw("randn", shape, 0, 1, true, options);
/** Uniform random numbers in [low, high). */
export const uniform = (shape: Shape, low = 0, high = 1, options: RandomOptions = {}): Tensor => draw("uniform", shape, low, high, false, options);
