/**
 * Matrix products.
 *
 * `matmul(a, b)` is the op with gradients. `gemm(options)` is what other kernels' files call (convolutions, linear + cross-entropy,
 * backwards): no gradient, windows of larger tensors as operands, the result written to `out` if given.
 *
 *     gemm({ a, b, transA?, transB?, out?, accumulate?, alpha?, bias?, activation?, residual?, symmetric?, dtype? }) → out
 *
 * computes  out = activation(alpha · A · B [+ out] + bias) + residual.  A is `a` [..., M, K] (stored [..., K, M] with `transA`), B is `b`
 * [..., K, N] (stored [..., N, K] with `transB`); batch dimensions broadcast; the product is [..., M, N].
 * - Operands are any views: a row range of w [V, C] is `w.strided([rows, C], w.strides, w.offset + first * C)`, a column range of x [T, C] is
 *   `x.strided([T, columns], x.strides, x.offset + first)`. Transposing by `transA`/`transB` or by strides is the same, neither copies.
 *   Views whose rows do not start on multiples of 4 elements, or with no dimension of stride 1, are packed by a copy first.
 * - `out` is a view too (with adjacent columns, f32, or 16-bit with rows on multiples of 4), in a separate storage;
 *   without it a new contiguous tensor of `dtype` is made. `accumulate` adds to it.
 * - `a`, `b`, `residual` are f32, f16 or bf16, each its own; sums are f32. Tensors may be larger than a binding.
 * - Call it inside `scope(() => …)` or a backward: it frees its own temporaries, the result belongs to the caller's scope.
 */
import {
  ArgumentError,
  DTypeError,
  ShapeError,
  broadcastShapes,
  checkTensors,
  empty,
  isFloat,
  record,
  sameShape,
  scope,
  shapeText,
  knownOptions,
} from "../../engine/index.ts";
import type { DType, Tensor } from "../../engine/index.ts";
import { copyInto } from "../core/copy.ts";
import { contiguousCopy, copy, map } from "../core/map.ts";
import { ACTIVATIONS } from "./epilogue.ts";
import { productShape, runProduct } from "./launch.ts";
import type { Activation } from "./epilogue.ts";
import { sumTo } from "../reduce/reduce.ts";

const GEMM_OPTIONS: readonly (keyof GemmOptions)[] = [
  "a",
  "b",
  "transA",
  "transB",
  "out",
  "accumulate",
  "alpha",
  "bias",
  "activation",
  "residual",
  "symmetric",
  "dtype",
];

export interface GemmOptions {
  readonly a: Tensor;
  readonly b: Tensor;
  readonly transA?: boolean;
  readonly transB?: boolean;
  readonly out?: Tensor;
  readonly accumulate?: boolean;
  readonly alpha?: number;
  /** [N] */
  readonly bias?: Tensor | null;
  readonly activation?: Activation | null;
  /** Residual of the product's shape. */
  readonly residual?: Tensor | null;
  /** The product is known to equal its transpose, as does the residual: kernels may compute one half. There must be no bias and no `out`. */
  readonly symmetric?: boolean;
  /** Dtype of a new result (default: f32, or the 16-bit dtype that `a` and `b` share). */
  readonly dtype?: DType;
}

/** The product at the head of this file; not recorded on the tape. Throws `ShapeError`, `DTypeError` or `ArgumentError` before any work. */
export function gemm(options: GemmOptions): Tensor {
  knownOptions("gemm", options, GEMM_OPTIONS);
  return product("gemm", options);
}

/** Like `gemm`, with the name of the op for messages. */
export function product(op: string, options: GemmOptions): Tensor {
  const {
    a,
    b,
    transA = false,
    transB = false,
    out,
    bias = null,
    activation = null,
    residual = null,
    accumulate = false,
    alpha = 1,
    symmetric = false,
  } = options;
  const device = checkTensors(op, a, b, out ?? null, bias, residual);
  for (const t of [a, b, out, bias, residual]) {
    if (t && !isFloat(t.dtype))
      throw new DTypeError(`${op}: every tensor must have a floating dtype; got ${t}. Cast it to f32 first.`);
  }
  if (a.rank < 2 || b.rank < 2)
    throw new ShapeError(`${op}: both operands must have at least two dimensions; got ${a} and ${b}. Reshape them.`);
  const { batch, m, n } = productShape(op, a, b, transA, transB);
  const shape = [...batch, m, n];
  checkEpilogue(op, shape, { bias, activation, residual });
  if (out) checkOut(op, out, shape, [a, b, bias, residual]);
  if (symmetric && (m !== n || bias || out)) throw new ArgumentError(`${op}: a symmetric product must be square, without bias and out; got [${m}, ${n}]${bias ? " with a bias" : ""}${out ? " with an out" : ""}. Leave symmetric out.`); // prettier-ignore
  if (accumulate && !out) throw new ArgumentError(`${op}: accumulate needs an out to add to; got none. Pass out.`);
  const y = out ?? empty(shape, { dtype: options.dtype ?? resultDType(a, b), device });
  if (!isFloat(y.dtype))
    throw new DTypeError(`${op}: the result must be f32, f16 or bf16; got ${y.dtype}. Change the dtype.`);
  scope(() => {
    // 16-bit rows that do not split into granules of four share words: they are made in f32 and cast.
    const direct =
      y.dtype === "f32" ||
      (n % 4 === 0 &&
        y.offset % 4 === 0 &&
        y.strides.every((s, d) => d === y.rank - 1 || y.shape[d] === 1 || s % 4 === 0));
    const to = direct ? y : accumulate ? map(copy, [y], { dtype: "f32" }) : empty(shape, { device });
    const asF32 = (t: Tensor): Tensor => (t.dtype === "f32" ? t : map(copy, [t], { dtype: "f32" }));
    runProduct({
      op,
      a,
      b,
      transA,
      transB,
      y: to,
      alpha,
      accumulate,
      symmetric,
      bias: bias && contiguousCopy(bias),
      activation,
      residual: residual && contiguousCopy(n % 4 === 0 ? residual : asF32(residual)),
    });
    if (direct) return;
    if (out) copyInto(y, map(copy, [to], { dtype: y.dtype }));
    else map(copy, [to], { into: y });
  });
  return y;
}

/** Throws if what is added to a product of `shape`, or its activation, is not of the kind that `gemm` describes. */
export function checkEpilogue(
  op: string,
  shape: readonly number[],
  { bias, activation, residual }: Required<Pick<GemmOptions, "bias" | "activation" | "residual">>,
): void {
  if (activation && !(activation in ACTIVATIONS))
    throw new ArgumentError(
      `${op}: activation must be one of ${Object.keys(ACTIVATIONS).join(", ")}; got "${activation}". Change it.`,
    );
  if (bias && !sameShape(bias.shape, [shape.at(-1)!]))
    throw new ShapeError(
      `${op}: bias must be [${shape.at(-1)}], one value per column; got ${shapeText(bias.shape)}. Change it.`,
    );
  if (residual && !sameShape(residual.shape, shape))
    throw new ShapeError(
      `${op}: residual must have the shape of the product, ${shapeText(shape)}; got ${shapeText(residual.shape)}. Make them equal.`,
    );
}

function checkOut(op: string, out: Tensor, shape: readonly number[], others: readonly (Tensor | null)[]): void {
  if (!sameShape(out.shape, shape))
    throw new ShapeError(
      `${op}: out must have the shape of the product, ${shapeText(shape)}; got ${shapeText(out.shape)}. Make them equal.`,
    );
  if (out.shape.at(-1)! > 1 && out.strides.at(-1) !== 1)
    throw new ArgumentError(
      `${op}: the columns of out must be adjacent in memory; got ${out} with strides [${out.strides.join(", ")}]. Pass a contiguous tensor.`,
    );
  if (others.some((t) => t?.storage === out.storage))
    throw new ArgumentError(
      `${op}: out must not share a storage with an operand; got ${out}. Write to another tensor.`,
    );
}

/** f32, or the 16-bit dtype of both. */
export const resultDType = (a: Tensor, b: Tensor): DType => (a.dtype === b.dtype ? a.dtype : "f32");

/**
 * Matrix product a [..., M, K], b [..., K, N] → [..., M, N]; batch dimensions broadcast. A 1-D operand is a row (first) or a column
 * (second), and its dimension is absent from the result. The result is f32, or the 16-bit dtype of both, or `dtype`; gradients are f32.
 * Transposed views are read through their strides. Throws `ShapeError` if the inner sizes or the batch dimensions do not fit.
 */
export function matmul(a: Tensor, b: Tensor, options: { readonly dtype?: DType } = {}): Tensor {
  knownOptions("matmul", options, ["dtype"]);
  checkTensors("matmul", a, b);
  if (a.rank === 0 || b.rank === 0)
    throw new ShapeError(
      `matmul: both operands must have at least one dimension; got ${a} and ${b}. Use mul for scalars.`,
    );
  const dtype = options.dtype ?? resultDType(a, b);
  const y = scope(() => {
    const whole = product("matmul", { a: asRow(a), b: asColumn(b), dtype });
    const shape = whole.shape.filter(
      (_, d) => !(d === whole.rank - 2 && a.rank === 1) && !(d === whole.rank - 1 && b.rank === 1),
    );
    return shape.length === whole.rank ? whole : whole.strided(shape, contiguousSteps(shape));
  });
  return record("matmul", [a, b], y, [a, b], (g, [left, right], needs) => {
    const [a2, b2] = [asRow(left!), asColumn(right!)];
    // The gradient in the shape of the whole product: with the dimensions that 1-D operands took away.
    const [rows, columns] = [a2.shape.at(-2)!, b2.shape.at(-1)!];
    const batch = broadcastShapes("matmul", a2.shape.slice(0, -2), b2.shape.slice(0, -2));
    const inner = [...(a.rank === 1 ? [0] : [g.strides[batch.length]!]), ...(b.rank === 1 ? [0] : [g.strides.at(-1)!])];
    const g2 = g.strided([...batch, rows, columns], [...g.strides.slice(0, batch.length), ...inner]);
    const undo = (t: Tensor, like: Tensor): Tensor => t.strided(like.shape, contiguousSteps(like.shape));
    return [
      needs[0] ? undo(gradientOfLeft(g2, a2, b2), left!) : null,
      needs[1] ? undo(gradientOfRight(g2, a2, b2), right!) : null,
    ];
  });
}

const asRow = (t: Tensor): Tensor => (t.rank === 1 ? t.strided([1, t.shape[0]!], [0, t.strides[0]!]) : t);
const asColumn = (t: Tensor): Tensor => (t.rank === 1 ? t.strided([t.shape[0]!, 1], [t.strides[0]!, 0]) : t);

function contiguousSteps(shape: readonly number[]): number[] {
  return shape.map((_, d) => shape.slice(d + 1).reduce((p, n) => p * n, 1));
}

/** da = g · bᵗ, summed over the batch dimensions in which a was broadcast. */
function gradientOfLeft(g: Tensor, a: Tensor, b: Tensor): Tensor {
  return contiguousCopy(sumTo(product("matmul", { a: g, b, transB: true, dtype: "f32" }), a.shape));
}

/** db = aᵗ · g, summed likewise; if b has no batch dimensions the batches of a and g are rows of one product. */
function gradientOfRight(g: Tensor, a: Tensor, b: Tensor): Tensor {
  if (b.rank > 2 || a.rank === 2)
    return contiguousCopy(sumTo(product("matmul", { a, b: g, transA: true, dtype: "f32" }), b.shape));
  return product("matmul", { a: asMatrix(a), b: asMatrix(g), transA: true, dtype: "f32" });
}

/** [..., N] as [rows, N]; copied only if the rows do not follow one another. */
export function asMatrix(x: Tensor): Tensor {
  const columns = x.shape.at(-1)!;
  const rows = x.shape.slice(0, -1).reduce((p, n) => p * n, 1);
  const flat = x.isContiguous ? x : contiguousCopy(x);
  return flat.strided([rows, columns], [columns, 1]);
}
