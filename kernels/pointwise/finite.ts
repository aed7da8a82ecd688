/** Tests for NaN and infinity on the bits of values, and their replacement by numbers. */
import { ArgumentError, DTypeError, LARGEST, checkTensors, isFloat, record, knownOptions } from "../../engine/index.ts";
import type { Tensor } from "../../engine/index.ts";
import { expression, map } from "../core/map.ts";

const SIZE = "(bitcast<vec4u>(a) & vec4u(0x7fffffffu))";
const TESTS = {
  isnan: expression("isnan", "select(V4_y(), V4_y(1), is_nan_a(a))"),
  isinf: expression("isinf", `select(V4_y(), V4_y(1), ${SIZE} == vec4u(0x7f800000u))`),
  isfinite: expression("isfinite", `select(V4_y(), V4_y(1), ${SIZE} < vec4u(0x7f800000u))`),
} as const;
const isInfinite = (bits: string): string => `bitcast<vec4u>(a) == vec4u(${bits}u)`;
const replaced = expression(
  "nanToNum.forward",
  `select(select(select(a, V4_a(s.x), is_nan_a(a)), V4_a(s.y), ${isInfinite("0x7f800000")}), V4_a(s.z), ${isInfinite("0xff800000")})`,
);
const replacedBackward = expression(
  "nanToNum.backward",
  `select(V4_a(), a, (bitcast<vec4u>(b) & vec4u(0x7fffffffu)) < vec4u(0x7f800000u))`,
);

function test(op: keyof typeof TESTS, x: Tensor): Tensor {
  checkFloat(op, x);
  return map(TESTS[op], [x], { dtype: "u32" });
}

function checkFloat(op: string, x: Tensor): void {
  checkTensors(op, x);
  if (!isFloat(x.dtype))
    throw new DTypeError(`${op}: x must have a floating dtype; got ${x}. Integers are always finite.`);
}

/** x [...] → 1 if x is NaN, else 0, as u32. */
export const isnan = (x: Tensor): Tensor => test("isnan", x);
/** x [...] → 1 if x is +∞ or −∞, else 0, as u32. */
export const isinf = (x: Tensor): Tensor => test("isinf", x);
/** x [...] → 1 if x is neither NaN nor infinite, else 0, as u32. */
export const isfinite = (x: Tensor): Tensor => test("isfinite", x);

export interface NanToNumOptions {
  /** In place of NaN; default: 0. */
  readonly nan?: number;
  /** In place of +∞; default: the largest number of x's dtype. */
  readonly posinf?: number;
  /** In place of −∞; default: the smallest number of x's dtype. */
  readonly neginf?: number;
}

/**
 * x [...] with numbers in place of NaN and infinities, of x's dtype; no gradient flows through those places.
 * @throws ArgumentError for a replacement that is not finite in x's dtype
 */
export function nanToNum(x: Tensor, options: NanToNumOptions = {}): Tensor {
  checkFloat("nanToNum", x);
  knownOptions("nanToNum", options, ["nan", "posinf", "neginf"]);
  const largest = LARGEST[x.dtype]!;
  const scalars = [options.nan ?? 0, options.posinf ?? largest, options.neginf ?? -largest];
  for (const v of scalars)
    if (!(Math.abs(v) <= largest))
      throw new ArgumentError(
        `nanToNum: a replacement must be a finite number of ${x.dtype}, from ${-largest} to ${largest}; got ${v}. Choose one in that range.`,
      );
  return record("nanToNum", [x], map(replaced, [x], { scalars }), [x], (g, [input]) => [
    map(replacedBackward, [g, input!], { dtype: g.dtype }),
  ]);
}
