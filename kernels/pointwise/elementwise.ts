/**
 * The elementwise table: name, forward expression, backward expressions. Arithmetic is f32 for floats and of the dtype itself for integers;
 * shapes broadcast. In backward expressions `a` is the gradient, `b` and `c` the saved inputs (or `b` the saved result).
 */
import {
  Tensor,
  ArgumentError,
  DTypeError,
  ShapeError,
  checkTensors,
  empty,
  isFloat,
  record,
  roundTo,
  scope,
} from "../../engine/index.ts";
import type { DType, Library } from "../../engine/index.ts";
import { add as addition } from "../core/arithmetic.ts";
import { opaque, power, trig } from "../core/libraries.ts";
import { accumulateInto } from "../core/accumulate.ts";
import { copyInto, fillInto } from "../core/copy.ts";
import { asDType, copy, expression, map } from "../core/map.ts";
import type { Expression } from "../core/map.ts";
import { sumTo } from "../reduce/reduce.ts";

interface UnaryRow {
  readonly forward: string;
  /** d/da: an expression over the gradient `a` and the saved tensor `b`; null if the op has no gradient. */
  readonly backward: string | null;
  readonly saves?: "input" | "result";
  /** Library whose functions the expressions call. */
  readonly library?: Library;
  /** False if a NaN input may give a number (x⁰ = 1). */
  readonly keepsNaN?: boolean;
}

/**
 * Unary ops over `a` with scalars `s.x`, `s.y`. Large arguments of `tanh` and `exp`
 * are cut off, WGSL leaves them undefined; by `select`, not `min`: NaN must come through, WGSL's `min` may drop it. The slopes of
 * tanh and sigmoid come from the input: 1 − y² of a rounded y near 1 has no correct digits left.
 */
const UNARY = {
  neg: { forward: "-a", backward: "-a" },
  abs: { forward: "abs(a)", backward: "a * sign(b)", saves: "input" },
  exp: {
    forward: "select(select(exp(a), infinity_of4(abs(a)), a > V4_a(88.72284)), V4_a(0.0), a < V4_a(-104.0))",
    backward: "a * b",
    saves: "result",
  },
  log: {
    forward: "select(select(log(a), -infinity_of4(abs(a)), a == V4_a(0.0)), nan_of4(a), a < V4_a(0.0))",
    backward: "a / b",
    saves: "input",
  },
  sqrt: { forward: "sqrt(a)", backward: "a * 0.5 / b", saves: "result" },
  rsqrt: { forward: "inverseSqrt(a)", backward: "-0.5 * a * b * b * b", saves: "result" },
  square: { forward: "a * a", backward: "2.0 * a * b", saves: "input" },
  reciprocal: { forward: "1.0 / a", backward: "-a * b * b", saves: "result" },
  tanh: {
    forward: "tanh(select(a, 15.0 * sign(a), abs(a) > V4_a(15.0)))",
    backward: "a * 4.0 * exp(-2.0 * abs(b)) / ((1.0 + exp(-2.0 * abs(b))) * (1.0 + exp(-2.0 * abs(b))))",
    saves: "input",
  },
  sigmoid: {
    forward: "select(1.0 / (1.0 + exp(-a)), V4_a(0.0), a < V4_a(-88.0))",
    backward: "a * exp(-abs(b)) / ((1.0 + exp(-abs(b))) * (1.0 + exp(-abs(b))))",
    saves: "input",
  },
  sin: { forward: "sin4(a)", backward: "a * cos4(b)", saves: "input", library: trig },
  cos: { forward: "cos4(a)", backward: "-a * sin4(b)", saves: "input", library: trig },
  relu: {
    forward: "select(a, V4_a(0.0), a < V4_a(0.0))",
    backward: "select(a, V4_a(0.0), b <= V4_b(0.0))",
    saves: "input",
  },
  addScalar: { forward: "a + s.x", backward: "a" },
  mulScalar: { forward: "a * s.x", backward: "a * s.x" },
  divScalar: { forward: "a / s.x", backward: "a / s.x" },
  clampTo: {
    forward: "select(select(a, V4_a(s.y), a > V4_a(s.y)), V4_a(s.x), a < V4_a(s.x))",
    backward: "select(V4_a(0.0), a, (b >= V4_b(s.x)) & (b <= V4_b(s.y)))",
    saves: "input",
  },
  powScalar: {
    forward: "power4(a, V4_a(s.x))",
    backward: "select(a * s.x * power4(b, V4_b(s.x - 1.0)), V4_a(0.0), V4_b(s.x) == V4_b(0.0))",
    saves: "input",
    library: power,
    keepsNaN: false,
  },
} as const satisfies Record<string, UnaryRow>;

interface BinaryRow {
  readonly forward: string;
  readonly backward: readonly [string, string] | null;
  /** Integers are taken as well as floats. */
  readonly integers?: boolean;
  readonly library?: Library;
  readonly keepsNaN?: boolean;
}

/** Binary ops over `a` and `b`; backward over the gradient `a` and the inputs `b` (first) and `c` (second). */
const BINARY = {
  add: { forward: "a + b", backward: ["a", "a"], integers: true },
  sub: { forward: "a - b", backward: ["a", "-a"], integers: true },
  mul: { forward: "a * b", backward: ["a * c", "a * b"], integers: true },
  // Divided twice, and multiplied in the end: a compiler that divides by c² instead overflows or underflows where the slope does not.
  div: { forward: "a / b", backward: ["a / c", "-a * opaque4(opaque4(b / c) / c)"], library: opaque },
  // Equal ones share the gradient; if one is NaN both get it whole, as in PyTorch.
  maximum: {
    forward: "max(a, b)",
    backward: [
      "a * select(select(vec4f(1.0), vec4f(), b < c), vec4f(0.5), b == c)",
      "a * select(select(vec4f(1.0), vec4f(), c < b), vec4f(0.5), b == c)",
    ],
    integers: true,
  },
  minimum: {
    forward: "min(a, b)",
    backward: [
      "a * select(select(vec4f(1.0), vec4f(), b > c), vec4f(0.5), b == c)",
      "a * select(select(vec4f(1.0), vec4f(), c > b), vec4f(0.5), b == c)",
    ],
    integers: true,
  },
  pow: {
    forward: "power4(a, b)",
    backward: [
      "select(a * c * power4(b, c - 1.0), vec4f(), c == vec4f())",
      "select(a * power4(b, c) * log(b), vec4f(), (b == vec4f()) & (c >= vec4f()))",
    ],
    library: power,
    keepsNaN: false,
  },
} as const satisfies Record<string, BinaryRow>;

/** Comparisons: 1 or 0 as u32. */
const COMPARE = { eq: "==", ne: "!=", lt: "<", le: "<=", gt: ">", ge: ">=" } as const;

interface Formulas<Backward> {
  readonly forward: Expression;
  readonly backward: Backward | null;
}

const UNARY_FORMULAS = formulas<keyof typeof UNARY, UnaryRow, Formulas<Expression>>(UNARY, (op, row) => ({
  forward: formula(op, "forward", row.keepsNaN === false ? row.forward : `select(${row.forward}, a, is_nan_a(a))`, row),
  backward: row.backward === null ? null : formula(op, "backward", row.backward, row),
}));
const BINARY_FORMULAS = formulas<keyof typeof BINARY, BinaryRow, Formulas<readonly Expression[]>>(
  BINARY,
  (op, row) => ({
    forward:
      op === "add"
        ? addition
        : formula(
            op,
            "forward",
            row.keepsNaN === false ? row.forward : `select(select(${row.forward}, b, is_nan_b(b)), a, is_nan_a(a))`,
            row,
          ),
    backward: row.backward?.map((wgsl, i) => formula(op, `backward${i}`, wgsl, row)) ?? null,
  }),
);
// With NaN only "not equal" is true.
const COMPARE_FORMULAS = formulas<keyof typeof COMPARE, string, Expression>(COMPARE, (op, sign) => {
  const unordered = "(is_nan_a(a) | is_nan_b(b))";
  const ordered = `(a ${sign} V4_a(b)) ${op === "ne" ? `| ${unordered}` : `& !${unordered}`}`;
  return formula(op, "forward", `select(V4_y(), V4_y(1), ${ordered})`, {});
});

function formula(op: string, part: string, wgsl: string, row: { readonly library?: Library }): Expression {
  return expression(`${op}.${part}`, wgsl, ...(row.library ? [row.library] : []));
}

/** Applies `make` to each row of a table. */
function formulas<K extends string, Row, Result>(
  table: Readonly<Record<K, Row>>,
  make: (op: K, row: Row) => Result,
): Readonly<Record<K, Result>> {
  const rows = Object.entries<Row>(table) as [K, Row][];
  return Object.fromEntries(rows.map(([op, row]) => [op, make(op, row)])) as Record<K, Result>;
}

function unary(op: keyof typeof UNARY, x: Tensor, scalars: readonly number[] = []): Tensor {
  checkTensors(op, x);
  const row: UnaryRow = UNARY[op];
  if (!isFloat(x.dtype)) throw new DTypeError(`${op}: x must have a floating dtype; got ${x}. Cast it to f32 first.`);
  const { forward, backward } = UNARY_FORMULAS[op];
  const y = map(forward, [x], { scalars });
  const saved = row.saves === "input" ? [x] : row.saves === "result" ? [y] : [];
  return record(op, [x], y, saved, (g, kept) => [backward && map(backward, [g, ...kept], { dtype: g.dtype, scalars })]);
}

function binary(op: keyof typeof BINARY, a: Tensor, b: Tensor | number): Tensor {
  if (typeof b === "number") {
    checkTensors(op, a);
    checkScalar(op, a, b);
    using scalar = constant(b, a);
    return binary(op, a, scalar);
  }
  requireTensor(op, b);
  checkTensors(op, a, b);
  const row: BinaryRow = BINARY[op];
  const dtype = resultDType(op, a, b, row.integers ?? false);
  const { forward, backward } = BINARY_FORMULAS[op];
  const y = map(forward, [a, b], { dtype });
  return record(op, [a, b], y, row.backward?.[0] === "a" ? [] : [a, b], (g, kept, needs) =>
    [a, b].map((input, i) =>
      needs[i] ? sumTo(slopeOf(row.backward![i]!, backward![i]!, [g, ...kept]), input.shape) : null,
    ),
  );
}

/** The gradient by a formula over g and what was saved, f32: g itself if the formula is "a". */
const slopeOf = (wgsl: string, formula: Expression, operands: readonly [Tensor, ...Tensor[]]): Tensor =>
  wgsl === "a" ? asDType(operands[0], "f32") : map(formula, operands, { dtype: "f32", shape: operands[0].shape });

/** The rule for two tensors: their common dtype, f32 for two different floats; integers do not mix with other dtypes. A number takes the tensor's dtype. */
function resultDType(op: string, a: Tensor, b: Tensor, integers: boolean): DType {
  if (a.dtype === b.dtype && (isFloat(a.dtype) || (integers && a.dtype !== "u8"))) return a.dtype;
  if (isFloat(a.dtype) && isFloat(b.dtype)) return "f32";
  throw new DTypeError(
    `${op}: dtypes must be two float dtypes${integers ? ", or i32 or u32 for both" : ""}; got ${a} and ${b}. Cast one of them.`,
  );
}

function requireTensor(op: string, value: unknown): void {
  if (!(value instanceof Tensor))
    throw new ArgumentError(`${op}: the second operand must be a tensor or a number; got ${String(value)}. Pass one.`);
}

/** Throws `ArgumentError` if the dtype of an integer tensor does not represent the number. */
function checkScalar(op: string, a: Tensor, value: number): void {
  if (!isFloat(a.dtype) && (!Number.isInteger(value) || (a.dtype !== "i32" && value < 0)))
    throw new ArgumentError(
      `${op}: a number must fit the dtype of the tensor; got ${value} for ${a}. Cast the tensor to f32 first.`,
    );
}

/** `value` as a tensor of one element that broadcasts with `like`, rounded to its dtype as in PyTorch: 0.1 equals an f16 0.1. */
function constant(value: number, like: Tensor): Tensor {
  const t = empty([], { dtype: like.dtype, device: like.device });
  fillInto(t, value);
  return t;
}

const compare =
  (op: keyof typeof COMPARE) =>
  (a: Tensor, b: Tensor | number): Tensor => {
    checkTensors(op, a);
    return scope(() => {
      if (typeof b === "number") checkScalar(op, a, b);
      const other = typeof b === "number" ? constant(b, a) : b;
      requireTensor(op, other);
      checkTensors(op, a, other);
      if (isFloat(a.dtype) !== isFloat(other.dtype) || (!isFloat(a.dtype) && a.dtype !== other.dtype))
        throw new DTypeError(
          `${op}: both operands must have float dtypes, or the same integer dtype; got ${a} and ${other}. Cast one of them.`,
        );
      return map(COMPARE_FORMULAS[op], [a, other], { dtype: "u32" });
    });
  };

/** a + b, with broadcasting. */
export const add = (a: Tensor, b: Tensor | number): Tensor =>
  typeof b === "number" && isFloat(a.dtype) ? unary("addScalar", a, [b]) : binary("add", a, b);
/** a − b, with broadcasting. */
export const sub = (a: Tensor, b: Tensor | number): Tensor =>
  typeof b === "number" && isFloat(a.dtype) ? unary("addScalar", a, [-b]) : binary("sub", a, b);
/** a · b elementwise, with broadcasting. */
export const mul = (a: Tensor, b: Tensor | number): Tensor =>
  typeof b === "number" && isFloat(a.dtype) ? unary("mulScalar", a, [b]) : binary("mul", a, b);
/** a / b, with broadcasting. */
export const div = (a: Tensor, b: Tensor | number): Tensor =>
  typeof b === "number" && isFloat(a.dtype) ? unary("divScalar", a, [b]) : binary("div", a, b);
/** a to the power b, as in IEEE 754: NaN for a < 0 and a fractional b, x⁰ = 1 for every x. */
export function pow(a: Tensor, b: Tensor | number): Tensor {
  if (typeof b !== "number") return binary("pow", a, b);
  if (b === 2) return square(a);
  if (b === 1) return add(a, 0);
  return unary("powScalar", a, [b]);
}
/** The larger of a and b elementwise; equal ones share the gradient. */
export const maximum = (a: Tensor, b: Tensor | number): Tensor => binary("maximum", a, b);
/** The smaller of a and b elementwise; equal ones share the gradient. */
export const minimum = (a: Tensor, b: Tensor | number): Tensor => binary("minimum", a, b);
/** −x. */
export const neg = (x: Tensor): Tensor => unary("neg", x);
/** |x|; the gradient at 0 is 0. */
export const abs = (x: Tensor): Tensor => unary("abs", x);
/** e^x; infinity above 88.72. */
export const exp = (x: Tensor): Tensor => unary("exp", x);
/** Natural logarithm, x > 0. */
export const log = (x: Tensor): Tensor => unary("log", x);
/** √x, x ≥ 0. */
export const sqrt = (x: Tensor): Tensor => unary("sqrt", x);
/** 1 / √x, x > 0. */
export const rsqrt = (x: Tensor): Tensor => unary("rsqrt", x);
/** x². */
export const square = (x: Tensor): Tensor => unary("square", x);
/** 1 / x. */
export const reciprocal = (x: Tensor): Tensor => unary("reciprocal", x);
/** Hyperbolic tangent. */
export const tanh = (x: Tensor): Tensor => unary("tanh", x);
/** 1 / (1 + e^−x). */
export const sigmoid = (x: Tensor): Tensor => unary("sigmoid", x);
/** Sine of x in radians, with an error of about 1 ulp everywhere. */
export const sin = (x: Tensor): Tensor => unary("sin", x);
/** Cosine of x in radians, with an error of about 1 ulp everywhere. */
export const cos = (x: Tensor): Tensor => unary("cos", x);
/** max(x, 0); the gradient at 0 is 0. */
export const relu = (x: Tensor): Tensor => unary("relu", x);
/** x clamped to [low, high]; the gradient is 0 outside. */
export function clamp(x: Tensor, low: number, high: number): Tensor {
  if (!(low <= high)) throw new ArgumentError(`clamp: low must not exceed high; got ${low} and ${high}. Swap them.`);
  checkTensors("clamp", x);
  return unary("clampTo", x, [roundTo(low, x.dtype), roundTo(high, x.dtype)]);
}
/** 1 if a = b, else 0, as u32, with broadcasting. */
export const eq = compare("eq");
/** 1 if a ≠ b, else 0, as u32, with broadcasting. */
export const ne = compare("ne");
/** 1 if a < b, else 0, as u32, with broadcasting. */
export const lt = compare("lt");
/** 1 if a ≤ b, else 0, as u32, with broadcasting. */
export const le = compare("le");
/** 1 if a > b, else 0, as u32, with broadcasting. */
export const gt = compare("gt");
/** 1 if a ≥ b, else 0, as u32, with broadcasting. */
export const ge = compare("ge");

/** x += y in place, f32 or 16-bit `x`, same shape; not recorded on the tape. */
export function addInto(x: Tensor, y: Tensor): void {
  checkTensors("addInto", x, y);
  accumulateInto(x, y);
}

/** dst = src in place (cast to dst's dtype), broadcasting src; not recorded on the tape. */
export function castInto(dst: Tensor, src: Tensor): void {
  checkTensors("castInto", dst, src);
  const lead = dst.rank - src.rank;
  if (lead < 0 || !src.shape.every((n, d) => n === 1 || n === dst.shape[lead + d]))
    throw new ShapeError(
      `castInto: the source must broadcast to the destination; got ${src} and ${dst}. Make its dimensions equal, or 1.`,
    );
  if (dst.storage === src.storage)
    throw new ArgumentError(
      `castInto: source and destination must not share a storage; got ${src} and ${dst}. Clone the source first.`,
    );
  // Destinations of whole granules accept any source and any row length; other views are written word by word.
  if (dst.isWritable) {
    map(copy, [src], { into: dst, shape: dst.shape });
    return;
  }
  scope(() => {
    const wide = src.dtype === dst.dtype ? src : map(copy, [src], { dtype: dst.dtype });
    const strides = dst.shape.map((_, d) => (d < lead || wide.shape[d - lead] === 1 ? 0 : wide.strides[d - lead]!));
    copyInto(dst, wide.strided(dst.shape, strides));
  });
}
