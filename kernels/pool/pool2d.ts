/** Pooling over windows of two dimensions: the largest value, or the mean. */
import {
  ArgumentError,
  DTypeError,
  ShapeError,
  checkTensors,
  elementBytes,
  empty,
  grid1d,
  isFloat,
  kernel,
  knownOptions,
  launch,
  library,
  record,
  requireBoolean,
  scope,
} from "../../engine/index.ts";
import type { Tensor } from "../../engine/index.ts";
import { finite, standard } from "../core/libraries.ts";
import { asDType, contiguousCopy } from "../core/map.ts";
import { windowsOf } from "../core/windows.ts";

const params = {
  planes: "u32",
  height: "u32",
  width: "u32",
  out_height: "u32",
  out_width: "u32",
  kernel_height: "u32",
  kernel_width: "u32",
  stride_height: "u32",
  stride_width: "u32",
  pad_height: "u32",
  pad_width: "u32",
  dilation_height: "u32",
  dilation_width: "u32",
} as const;
const window = library("pool2d_window", new URL("./lib/pool2d_window.wgsl", import.meta.url));
const forward = kernel(
  "pool2d",
  new URL("./pool2d.wgsl", import.meta.url),
  { x: "read", y: "write", indices: "write" },
  params,
  [...standard, finite, window],
);
const backward = kernel(
  "pool2d_backward",
  new URL("./pool2d_backward.wgsl", import.meta.url),
  { g: "read", indices: "read", dx: "write" },
  params,
  [...standard, window],
);

/** One number for both, or [height, width]. */
export type Size2d = number | readonly [number, number];

interface Pool2dOptions {
  /** Default: the kernel's size. */
  readonly stride?: Size2d;
  /** Rows and columns added on each side, at most half the kernel: −∞ for the maximum, 0 for the mean. Default: 0. */
  readonly padding?: Size2d;
  /** A last window that reaches beyond the padding counts too, if it begins before its end. Default: false. */
  readonly ceilMode?: boolean;
}

export interface MaxPool2dOptions extends Pool2dOptions {
  /** Distance of a window's elements. Default: 1. */
  readonly dilation?: Size2d;
}

export interface AvgPool2dOptions extends Pool2dOptions {
  /** The padding counts in the number that the sum is divided by. Default: true. */
  readonly countIncludePad?: boolean;
}

/**
 * x [N, C, H, W] or [C, H, W] → the largest value of each window, of x's dtype, [..., H', W'] with
 * H' = ⌊(H + 2 · padding − dilation · (kernel − 1) − 1) / stride⌋ + 1. NaN counts as the largest. The gradient goes to
 * the largest element, the first of equal ones.
 */
export function maxPool2d(x: Tensor, kernelSize: Size2d, options: MaxPool2dOptions = {}): Tensor {
  knownOptions("maxPool2d", options, ["stride", "padding", "dilation", "ceilMode"]);
  return pool("maxPool2d", x, kernelSize, options, null);
}

/** x [N, C, H, W] or [C, H, W] → the mean of each window, of x's dtype, [..., H', W'] with H' = ⌊(H + 2 · padding − kernel) / stride⌋ + 1. */
export function avgPool2d(x: Tensor, kernelSize: Size2d, options: AvgPool2dOptions = {}): Tensor {
  knownOptions("avgPool2d", options, ["stride", "padding", "ceilMode", "countIncludePad"]);
  return pool("avgPool2d", x, kernelSize, options, options.countIncludePad ?? true);
}

/** Parameters of the kernels. */
type Geometry = Readonly<Record<Exclude<keyof typeof params, "planes">, number>>;

/** @param includePad null for the maximum */
function pool(
  op: string,
  x: Tensor,
  kernelSize: Size2d,
  options: MaxPool2dOptions,
  includePad: boolean | null,
): Tensor {
  checkTensors(op, x);
  if (!isFloat(x.dtype)) throw new DTypeError(`${op}: x must have a floating dtype; got ${x}. Cast it to f32 first.`);
  if (x.rank !== 3 && x.rank !== 4)
    throw new ShapeError(`${op}: x must be [N, C, H, W] or [C, H, W]; got ${x}. Reshape it.`);
  requireBoolean(op, "ceilMode", options.ceilMode ?? false);
  if (includePad !== null) requireBoolean(op, "countIncludePad", includePad);
  const geometry = geometryOf(op, x, kernelSize, options);
  const constants = { AVERAGE: includePad !== null, OWN: includePad === false };
  const shape = [...x.shape.slice(0, -2), geometry.out_height, geometry.out_width];
  const { y, indices } = scope(() => {
    const out = empty(shape, { device: x.device });
    const at = empty(includePad === null ? shape : [4], { dtype: "u32", device: x.device });
    const planes = x.shape.slice(0, -2).reduce((a, b) => a * b, 1);
    const operands = { x: contiguousCopy(x), y: out, indices: includePad === null ? at : null };
    for (const { count, buffers } of windowsOf(op, planes, operands)) {
      launch(forward, {
        use: { x: x.dtype },
        constants,
        buffers: { ...buffers, indices: buffers.indices ?? at },
        params: { planes: count, ...geometry },
        grid: grid1d(Math.ceil(buffers.y.elements / 64)),
        cost: costOf(geometry, buffers.y.elements, elementBytes(x.dtype, buffers.x.elements)),
      });
    }
    return { y: asDType(out, x.dtype), indices: at };
  });
  const from = x.shape;
  const result = record(op, [x], y, [indices], (g, [saved]) => {
    const dx = empty(from, { device: g.device });
    const planes = from.slice(0, -2).reduce((a, b) => a * b, 1);
    const operands = { g: contiguousCopy(g), indices: includePad === null ? saved! : null, dx };
    for (const { count, buffers } of windowsOf(`${op} backward`, planes, operands)) {
      launch(backward, {
        use: { g: g.dtype },
        constants,
        buffers: { ...buffers, indices: buffers.indices ?? saved! },
        params: { planes: count, ...geometry },
        grid: grid1d(Math.ceil(buffers.dx.elements / 64)),
        cost: costOf(geometry, buffers.g.elements, 4 * buffers.dx.elements),
      });
    }
    return [asDType(dx, g.dtype)];
  });
  indices.dispose();
  return result;
}

const costOf = (g: Geometry, outputs: number, bytes: number): { flops: number; bytes: number } => ({
  flops: outputs * g.kernel_height * g.kernel_width,
  bytes: bytes + 8 * outputs,
});

function geometryOf(op: string, x: Tensor, kernelSize: Size2d, options: MaxPool2dOptions): Geometry {
  const [height, width] = x.shape.slice(-2) as [number, number];
  const kernel2d = pairOf(op, "kernelSize", kernelSize, 1);
  const stride = pairOf(op, "stride", options.stride ?? kernelSize, 1);
  const padding = pairOf(op, "padding", options.padding ?? 0, 0);
  const dilation = pairOf(op, "dilation", options.dilation ?? 1, 1);
  const [out_height, out_width] = [height, width].map((n, i) => {
    const reach = dilation[i]! * (kernel2d[i]! - 1) + 1;
    if (2 * padding[i]! > reach)
      throw new ArgumentError(
        `${op}: padding must be at most half the kernel's reach of ${reach}; got ${padding[i]}. Use F.pad for more.`,
      );
    const free = n + 2 * padding[i]! - reach;
    if (free < 0)
      throw new ShapeError(
        `${op}: windows of ${reach} must fit ${n} elements with padding ${padding[i]}; got ${x}. Use a smaller kernel.`,
      );
    const count = (options.ceilMode ? Math.ceil : Math.floor)(free / stride[i]!) + 1;
    // A last window must begin in the plane or in the padding before it.
    return (count - 1) * stride[i]! >= n + padding[i]! ? count - 1 : count;
  }) as [number, number];
  return {
    height,
    width,
    out_height,
    out_width,
    kernel_height: kernel2d[0],
    kernel_width: kernel2d[1],
    stride_height: stride[0],
    stride_width: stride[1],
    pad_height: padding[0],
    pad_width: padding[1],
    dilation_height: dilation[0],
    dilation_width: dilation[1],
  };
}

function pairOf(op: string, name: string, value: Size2d, least: number): readonly [number, number] {
  const pair: readonly number[] = typeof value === "number" ? [value, value] : value;
  if (!Array.isArray(pair) || pair.length !== 2 || !pair.every((n) => Number.isInteger(n) && n >= least))
    throw new ArgumentError(
      `${op}: ${name} must be a whole number of at least ${least}, or two: [height, width]; got ${JSON.stringify(value)}. Change it.`,
    );
  return pair as unknown as readonly [number, number]; // two numbers, by the check
}
