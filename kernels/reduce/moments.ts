/** Variance and standard deviation over any dimensions, in two passes: the mean, then the squares of the differences from it. */
import {
  ArgumentError,
  DTypeError,
  ShapeError,
  checkTensors,
  isFloat,
  knownOptions,
  noGrad,
  record,
  requireBoolean,
  scope,
} from "../../engine/index.ts";
import type { Tensor } from "../../engine/index.ts";
import { finite } from "../core/libraries.ts";
import { expression, map } from "../core/map.ts";
import { dimsOf, mean, spread, sum } from "./reduce.ts";

const squaredDifference = expression("var.square", "(a - b) * (a - b)");
// Σ divided by s.x; for s.x = 0, 0 / 0 is NaN and the rest infinite, made from bits.
const divided = expression(
  "var.forward",
  "select(a / select(s.x, 1.0, s.x == 0.0), select(infinity_of4(abs(a)), nan_of4(a), (a == vec4f()) | is_nan4(a)), vec4<bool>(s.x == 0.0))",
  finite,
);
const root = expression("std.forward", "sqrt(a)");
// a the gradient, b the input, c the mean.
const varianceBackward = expression("var.backward", "a * (b - c) * (2.0 / s.x)");
const scaledByRoot = expression("std.backward", "select(a * 0.5 / b, vec4f(), b == vec4f())");

export interface VarianceOptions {
  /** The sum of squares is divided by max(0, n − correction). Default: 1, an unbiased variance. */
  readonly correction?: number;
  /** The dimensions stay, with size 1. Default: false. */
  readonly keepdim?: boolean;
}

/**
 * x [...] → variance over `dims` (default: all), f32: Σ (x − mean)² / (n − correction). NaN of one element with correction 1, as in PyTorch.
 * @throws DTypeError for integers, ArgumentError for a correction that is not a number ≥ 0
 */
export function variance(x: Tensor, dims?: number | readonly number[], options: VarianceOptions = {}): Tensor {
  return spreadOf("var", x, dims, options);
}

/** x [...] → standard deviation over `dims` (default: all), f32, the root of `var`. The gradient is 0 if the deviation is 0. */
export function std(x: Tensor, dims?: number | readonly number[], options: VarianceOptions = {}): Tensor {
  return spreadOf("std", x, dims, options);
}

function spreadOf(
  op: "var" | "std",
  x: Tensor,
  dims: number | readonly number[] | undefined,
  options: VarianceOptions,
): Tensor {
  checkTensors(op, x);
  knownOptions(op, options, ["correction", "keepdim"]);
  const { correction = 1, keepdim = false } = options;
  requireBoolean(op, "keepdim", keepdim);
  if (!isFloat(x.dtype)) throw new DTypeError(`${op}: x must have a floating dtype; got ${x}. Cast it to f32 first.`);
  if (typeof correction !== "number" || !(correction >= 0 && correction < Infinity))
    throw new ArgumentError(`${op}: correction must be a number of at least 0; got ${correction}. Use 0 or 1.`);
  const list = dimsOf(op, x, dims);
  const n = list.reduce((p, d) => p * x.shape[d]!, 1);
  if (n === 0)
    throw new ShapeError(
      `${op}: the dimensions must have elements; got ${x}, dimensions [${list.join(", ")}]. Leave it out.`,
    );
  const rest = Math.max(0, n - correction);
  const [y, average] = noGrad(() =>
    scope(() => {
      const center = mean(x, list, true);
      const squares = map(squaredDifference, [x, center], { dtype: "f32", shape: x.shape });
      const total = map(divided, [sum(squares, list, keepdim)], { scalars: [rest] });
      return [op === "std" ? map(root, [total]) : total, center];
    }),
  );
  const shape = x.shape;
  const result = record(op, [x], y!, [x, average!, y!], (g, [input, center, found]) => {
    const scaled = op === "std" ? map(scaledByRoot, [g, found!]) : g;
    return [
      map(varianceBackward, [spread(scaled, shape, list), input!, center!], {
        dtype: "f32",
        shape,
        scalars: [n - correction], // not clamped, as in PyTorch
      }),
    ];
  });
  average!.dispose();
  return result;
}
