/** Choices by a mask: non-zero elements of a u32, i32 or u8 tensor (what the comparisons give). */
import {
  ArgumentError,
  DTypeError,
  ShapeError,
  broadcastShapes,
  checkNumber,
  checkTensors,
  isFloat,
  record,
  sameShape,
} from "../../engine/index.ts";
import type { Tensor } from "../../engine/index.ts";
import { expression, map } from "../core/map.ts";
import { sumTo } from "../reduce/reduce.ts";

const filled = expression("maskedFill.forward", "select(V4_y(a), V4_y(vec4<S_y>(S_y(s.x))), b != V4_b())");
// Scalars are f32: a 32-bit integer travels as its halves, s.x the lower 16 bits.
const filledInteger = expression(
  "maskedFill.integer",
  "select(V4_y(a), V4_y(vec4<S_y>(bitcast<S_y>(u32(s.x) | (u32(s.y) << 16u)))), b != V4_b())",
);
const filledBackward = expression("maskedFill.backward", "select(a, V4_a(), b != V4_b())");
const chosen = expression("where.forward", "select(V4_y(c), V4_y(b), a != V4_a())");
const chosenBackward = [
  expression("where.backward0", "select(V4_b(), b, a != V4_a())"),
  expression("where.backward1", "select(b, V4_b(), a != V4_a())"),
] as const;

function checkMask(op: string, mask: Tensor): void {
  if (isFloat(mask.dtype))
    throw new DTypeError(`${op}: the mask must have an integer dtype; got ${mask}. Compare it: \`ne(mask, 0)\`.`);
}

/**
 * `value` where the mask is not 0, x elsewhere: x [...], mask u32, i32 or u8 that broadcasts to x → [...] of x's dtype. The value must be
 * finite: WGSL does not carry infinities; take −3e38 for −∞ (−65504 in f16). Integers are exact; what their dtype does not represent is refused.
 */
export function maskedFill(x: Tensor, mask: Tensor, value: number): Tensor {
  checkTensors("maskedFill", x, mask);
  checkMask("maskedFill", mask);
  if (!Number.isFinite(Math.fround(value)))
    throw new ArgumentError(`maskedFill: value must be finite in f32; got ${value}. Use −3e38 for −∞.`);
  checkNumber("maskedFill", value, x.dtype);
  if (!sameShape(broadcastShapes("maskedFill", x.shape, mask.shape), x.shape))
    throw new ShapeError(
      `maskedFill: the mask must broadcast to x; got ${mask} for ${x}. The result has the shape of x.`,
    );
  const y = isFloat(x.dtype)
    ? map(filled, [x, mask], { scalars: [value], shape: x.shape })
    : map(filledInteger, [x, mask], { scalars: [value & 0xffff, (value >>> 16) & 0xffff], shape: x.shape });
  return record("maskedFill", [x], y, [mask], (g, [saved]) => [map(filledBackward, [g, saved!], { shape: g.shape })]);
}

/**
 * a where the mask is not 0, b elsewhere; all three broadcast. Dtype of a and b if they agree, f32 for two different floating dtypes.
 */
export function where(mask: Tensor, a: Tensor, b: Tensor): Tensor {
  checkTensors("where", mask, a, b);
  checkMask("where", mask);
  if (a.dtype !== b.dtype && !(isFloat(a.dtype) && isFloat(b.dtype)))
    throw new DTypeError(
      `where: both values must have float dtypes, or the same dtype; got ${a} and ${b}. Cast one of them.`,
    );
  const shape = broadcastShapes("where", mask.shape, broadcastShapes("where", a.shape, b.shape));
  const y = map(chosen, [mask, a, b], { dtype: a.dtype === b.dtype ? a.dtype : "f32", shape });
  const shapes = [a.shape, b.shape];
  return record("where", [a, b], y, [mask], (g, [saved], needs) =>
    shapes.map((to, i) =>
      needs[i] ? sumTo(map(chosenBackward[i]!, [saved!, g], { dtype: g.dtype, shape: g.shape }), to) : null,
    ),
  );
}
