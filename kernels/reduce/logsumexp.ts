/** The logarithm of a sum of exponentials over any dimensions, without overflow. */
import {
  DTypeError,
  ShapeError,
  checkTensors,
  isFloat,
  library,
  noGrad,
  record,
  requireBoolean,
  scope,
} from "../../engine/index.ts";
import type { Tensor } from "../../engine/index.ts";
import { finite } from "../core/libraries.ts";
import { expression, map } from "../core/map.ts";
import { dimsOf, max, spread, sum } from "./reduce.ts";

const powers = library("logsumexp", new URL("./lib/logsumexp.wgsl", import.meta.url), [finite]);
const powerBelow = expression("logsumexp.power", "lse_power4(a, b)", powers);
const logarithm = expression("logsumexp.forward", "lse_log4(a, b)", powers);
const slope = expression("logsumexp.backward", "a * lse_slope4(b, c)", powers); // a: gradient, b: x, c: result

/**
 * x [...] → log Σ e^x over `dims` (default: all), f32. The largest value is subtracted first, so that nothing
 * overflows; of −∞ alone it is −∞, with an ∞ it is ∞.
 */
export function logsumexp(x: Tensor, dims?: number | readonly number[], keepdim = false): Tensor {
  checkTensors("logsumexp", x);
  requireBoolean("logsumexp", "keepdim", keepdim);
  if (!isFloat(x.dtype))
    throw new DTypeError(`logsumexp: x must have a floating dtype; got ${x}. Cast it to f32 first.`);
  const list = dimsOf("logsumexp", x, dims);
  if (list.some((d) => x.shape[d] === 0))
    throw new ShapeError(
      `logsumexp: the dimensions must have elements; got ${x}, dimensions [${list.join(", ")}]. Leave it out.`,
    );
  const shape = x.shape;
  const y = noGrad(() =>
    scope(() => {
      const top = max(x, list, true);
      const total = sum(map(powerBelow, [x, top], { dtype: "f32", shape }), list, true);
      const result = map(logarithm, [total, top]);
      return keepdim
        ? result
        : result.strided(
            shape.filter((_, d) => !list.includes(d)),
            result.strides.filter((_, d) => !list.includes(d)),
          );
    }),
  );
  return record("logsumexp", [x], y, [x, y], (g, [input, result]) => [
    map(slope, [spread(g, shape, list), input!, spread(result!, shape, list)], { dtype: "f32", shape }),
  ]);
}
