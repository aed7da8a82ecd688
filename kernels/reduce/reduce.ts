/**
 * Reductions over any dimensions: sum, mean, max, min, argmax, argmin, and the sum that undoes a broadcast. Results are f32; sums and extremes of
 * i32 and u32 are exact and keep their dtype (u8 becomes u32); sums beyond its range saturate. NaN propagates.
 */
import {
  ShapeError,
  checkTensors,
  contiguousStrides,
  dimArray,
  elementBytes,
  empty,
  grid1d,
  isFloat,
  kernel,
  launch,
  library,
  normalizeDim,
  record,
  requireBoolean,
  rowWindows,
  sameShape,
  scope,
  shapeText,
  sizeOf,
  storageBytes,
} from "../../engine/index.ts";
import type { DType, Library, Shape, Tensor, WindowOperand } from "../../engine/index.ts";
import { product, scaled, sumPair } from "../core/arithmetic.ts";
import { f32x1, finite, grid, opaque, standard } from "../core/libraries.ts";
import { copyInto, fillInto } from "../core/copy.ts";
import { contiguousCopy, copy, expression, map } from "../core/map.ts";
import { windowsOf } from "../core/windows.ts";

const reduceSum = library(
  "reduce_sum",
  "fn combine_T(a: vec4f, b: vec4f) -> vec4f { return a + b; }\nfn fold_T(v: vec4f, w: u32) -> f32 { return select((v.x + v.y) + (v.z + v.w), v.x, w == 1u); }",
);
const reduceMax = library(
  "reduce_max",
  "//#use finite\nfn combine_T(a: vec4f, b: vec4f) -> vec4f { return max4(a, b); }\nfn fold_T(v: vec4f, w: u32) -> f32 { return select(max1(max1(v.x, v.y), max1(v.z, v.w)), v.x, w == 1u); }",
  [finite],
);
const reduceMin = library(
  "reduce_min",
  "//#use finite\nfn combine_T(a: vec4f, b: vec4f) -> vec4f { return min4(a, b); }\nfn fold_T(v: vec4f, w: u32) -> f32 { return select(min1(min1(v.x, v.y), min1(v.z, v.w)), v.x, w == 1u); }",
  [finite],
);

const stage = kernel(
  "reduce",
  new URL("./reduce.wgsl", import.meta.url),
  { x: "read", y: "write" },
  { outer: "u32", n: "u32", inner: "u32", chunk: "u32", chunks: "u32", first: "u32", scale: "f32" },
  [...standard, reduceSum],
);

const integerStage = kernel(
  "reduce_integer",
  new URL("./reduce_integer.wgsl", import.meta.url),
  { x: "read", y: "write" },
  { outer: "u32", n: "u32", inner: "u32", chunk: "u32", chunks: "u32", divisor: "f32" },
  [grid, opaque],
);

/** Granules that one invocation combines in a stage. */
const CHUNK = 64;

/** Combination of two parts: within a stage, and of partial results. */
const COMBINE = {
  sum: { library: reduceSum, pair: sumPair },
  max: { library: reduceMax, pair: expression("max_pair", "max_a(a, b)") },
  min: { library: reduceMin, pair: expression("min_pair", "min_a(a, b)") },
} as const;
const equalTo = expression("equal_to", "select(V4_y(), V4_y(1), a == V4_a(b))");
const quotient = expression("divide", "a / b");

type Kind = "sum" | "max" | "min";
type Reduction = Kind | "mean";

/** [outer, n, inner] → [outer, inner], f32. `x` is contiguous; n > 0. */
function reduceMiddle(kind: Kind, x: Tensor, outer: number, n: number, inner: number, scale = 1): Tensor {
  const rows = inner === 1;
  const granular = rows ? n : inner;
  if (x.dtype !== "f32" && (granular % 4 !== 0 || !["f16", "bf16"].includes(x.dtype))) {
    return reduceMiddle(kind, map(copy, [x], { dtype: "f32" }), outer, n, inner, scale);
  }
  const wide = granular % 4 === 0;
  const width = wide ? 4 : 1;
  const length = rows ? n / width : n;
  const columns = rows ? 1 : inner / width;
  const chunks = Math.ceil(length / CHUNK);
  const y = empty([outer, chunks, inner], { device: x.device });
  const use = { x: wide ? x.dtype : f32x1, y: wide && !rows ? ("f32" as const) : f32x1, r: COMBINE[kind].library };
  // Windows of whole outer rows. y is bound whole if it fits, as it nearly always does.
  const limit = x.device.limits.maxStorageBufferBindingSize;
  const whole = storageBytes("f32", y.size) <= limit;
  const operands: WindowOperand[] = [{ rowElements: n * inner, dtype: x.dtype }];
  if (!whole) operands.push({ rowElements: chunks * inner, dtype: "f32" });
  for (const { start, count } of rowWindows(x.device, outer, operands, 1, "reduce")) {
    const elements = chunks * inner;
    launch(stage, {
      use,
      constants: { ROWS: rows },
      buffers: {
        x: { of: x, start: start * n * inner, elements: count * n * inner },
        y: whole ? y : { of: y, start: start * elements, elements: count * elements },
      },
      params: {
        outer: count,
        n: length,
        inner: columns,
        chunk: CHUNK,
        chunks,
        first: whole ? start * chunks * columns : 0,
        scale: chunks === 1 ? scale : 1,
      },
      grid: grid1d(Math.ceil((count * chunks * columns) / 64)),
      cost: { flops: count * n * inner, bytes: elementBytes(x.dtype, count * n * inner) },
    });
  }
  if (chunks === 1) return y.strided([outer, inner], contiguousStrides([outer, inner]));
  return reduceMiddle(kind, y, outer, chunks, inner, scale);
}

/** Reduces over `dims` of any tensor; the result has the other dimensions (or size 1 in place with `keepdim`). */
function reduceDims(kind: Reduction, x: Tensor, dims: readonly number[], keepdim: boolean): Tensor {
  const kept = x.shape.map((_, d) => d).filter((d) => !dims.includes(d));
  const finalShape = keepdim ? x.shape.map((n, d) => (dims.includes(d) ? 1 : n)) : kept.map((d) => x.shape[d]!);
  const n = dims.reduce((p, d) => p * x.shape[d]!, 1);
  // Neighbouring dimensions are reduced without a copy; others are brought to the end first.
  const together = dims.every((d, i) => i === 0 || d === dims[i - 1]! + 1);
  const before = dims.length ? dims[0]! : x.rank;
  const outer = together ? sizeOf(x.shape.slice(0, before)) : sizeOf(kept.map((d) => x.shape[d]!));
  const inner = together ? sizeOf(x.shape.slice(before + dims.length)) : 1;
  const order = [...kept, ...dims];
  const source = together
    ? contiguousCopy(x)
    : contiguousCopy(
        x.strided(
          order.map((d) => x.shape[d]!),
          order.map((d) => x.strides[d]!),
        ),
      );
  if (outer * inner === 0) return empty(finalShape, { dtype: resultOf(kind, x.dtype), device: x.device });
  const flat = isFloat(x.dtype)
    ? reduceFloats(kind, source, outer, n, inner)
    : reduceIntegers(kind, source, outer, n, inner);
  return flat.strided(finalShape, contiguousStrides(finalShape));
}

/** Dtype in which integers are reduced. */
const wordOf = (dtype: DType): DType => (dtype === "u8" ? "u32" : dtype);
const resultOf = (kind: Reduction, dtype: DType): DType => (kind === "mean" || isFloat(dtype) ? "f32" : wordOf(dtype));

/** [outer, n, inner] of floats → [outer, inner], f32. `x` is contiguous; n > 0. */
const reduceFloats = (kind: Reduction, x: Tensor, outer: number, n: number, inner: number): Tensor =>
  kind === "mean" ? reduceLong("sum", x, outer, n, inner, 1 / n) : reduceLong(kind, x, outer, n, inner, 1);

/** [outer, n, inner] of integers → [outer, inner], exact; a mean is the exact sum divided in f32. `x` is contiguous; n > 0. */
function reduceIntegers(kind: Reduction, x: Tensor, outer: number, n: number, inner: number): Tensor {
  const dtype = wordOf(x.dtype);
  let from = x.dtype === dtype ? x : map(copy, [x], { dtype });
  for (let length = n, isFirst = true; ; isFirst = false) {
    const chunks = Math.ceil(length / CHUNK);
    const isLast = chunks === 1;
    const y = empty(isLast ? [outer, inner] : [outer, chunks, inner, 2], {
      dtype: isLast ? resultOf(kind, x.dtype) : "u32",
      device: x.device,
    });
    for (const { count, buffers } of windowsOf(kind, outer, { x: from, y })) {
      launch(integerStage, {
        constants: {
          KIND: { sum: 0, mean: 0, max: 1, min: 2 }[kind],
          SIGNED: dtype === "i32",
          FIRST: isFirst,
          LAST: isLast,
          MEAN: kind === "mean",
        },
        buffers,
        params: { outer: count, n: length, inner, chunk: CHUNK, chunks, divisor: n },
        grid: grid1d(Math.ceil((count * chunks * inner) / 64)),
        cost: { flops: count * length * inner, bytes: 4 * buffers.x.elements },
      });
    }
    if (isLast) return y;
    from = y;
    length = chunks;
  }
}

/** As `reduceMiddle`, also if one outer row exceeds a binding: each such row is cut along n, its parts reduced, then joined. */
function reduceLong(kind: Kind, x: Tensor, outer: number, n: number, inner: number, scale: number): Tensor {
  if (storageBytes(x.dtype, n * inner) <= x.device.limits.maxStorageBufferBindingSize)
    return reduceMiddle(kind, x, outer, n, inner, scale);
  const y = empty([outer, inner], { device: x.device });
  for (let o = 0; o < outer; o++) {
    const parts = rowWindows(x.device, n, [{ rowElements: inner, dtype: x.dtype }], 1, kind).map(({ start, count }) => {
      const part = x.strided(
        [1, count, inner],
        contiguousStrides([1, count, inner]),
        x.offset + (o * n + start) * inner,
      );
      return reduceMiddle(kind, contiguousCopy(part), 1, count, inner);
    });
    const joined = parts.reduce((sum, part) => map(COMBINE[kind].pair, [sum, part]));
    copyInto(y.strided([1, inner], [inner, 1], o * inner), map(scaled, [joined], { scalars: [scale] }));
  }
  return y;
}

/** The dimensions that `dims` names, ascending; all if it is left out. */
export function dimsOf(op: string, x: Tensor, dims: number | readonly number[] | undefined): number[] {
  if (dims === undefined) return x.shape.map((_, d) => d);
  const list = dimArray(op, dims).map((d) => normalizeDim(d, x.rank, op));
  if (new Set(list).size !== list.length)
    throw new ShapeError(
      `${op}: dims must name each dimension at most once; got ${JSON.stringify(dims)} for ${x}. Remove the second.`,
    );
  return list.sort((a, b) => a - b);
}

/** The gradient of a reduced tensor, seen in the shape of its input (no copy). */
export function spread(g: Tensor, shape: Shape, dims: readonly number[]): Tensor {
  const strides = contiguousStrides(shape.map((n, d) => (dims.includes(d) ? 1 : n)));
  return contiguousCopy(g).strided(
    shape,
    strides.map((s, d) => (dims.includes(d) ? 0 : s)),
  );
}

/** x [...] → sum over `dims` (default: all), f32, or exact for integers. An empty sum is 0. */
export function sum(x: Tensor, dims?: number | readonly number[], keepdim = false): Tensor {
  checkTensors("sum", x);
  requireBoolean("sum", "keepdim", keepdim);
  return linearReduction("sum", x, dimsOf("sum", x, dims), keepdim, 1);
}

/** x [...] → mean over `dims` (all if left out), f32; of integers their exact sum, divided. */
export function mean(x: Tensor, dims?: number | readonly number[], keepdim = false): Tensor {
  checkTensors("mean", x);
  requireBoolean("mean", "keepdim", keepdim);
  const list = dimsOf("mean", x, dims);
  const n = list.reduce((p, d) => p * x.shape[d]!, 1);
  if (n === 0)
    throw new ShapeError(
      `mean: x must have elements along dimensions ${shapeText(list)}; got ${x}. The mean of nothing is not defined.`,
    );
  return linearReduction("mean", x, list, keepdim, 1 / n);
}

function linearReduction(
  name: "sum" | "mean",
  x: Tensor,
  dims: readonly number[],
  keepdim: boolean,
  scale: number,
): Tensor {
  const shape = x.shape;
  const y =
    x.size === 0
      ? zeroReduction(x, dims, keepdim, resultOf(name, x.dtype))
      : scope(() => reduceDims(name, x, dims, keepdim));
  return record(name, [x], y, [], (g) => [
    scale === 1 ? spread(g, shape, dims) : map(scaled, [spread(g, shape, dims)], { scalars: [scale] }),
  ]);
}

function zeroReduction(x: Tensor, dims: readonly number[], keepdim: boolean, dtype: DType = "f32"): Tensor {
  const y = empty(
    keepdim ? x.shape.map((n, d) => (dims.includes(d) ? 1 : n)) : x.shape.filter((_, d) => !dims.includes(d)),
    { dtype, device: x.device },
  );
  fillInto(y, 0);
  return y;
}

/** x [...] → largest value over `dims` (default: all), f32, or exact for integers. The gradient is shared by equal maxima. */
export function max(x: Tensor, dims?: number | readonly number[], keepdim = false): Tensor {
  return extreme("max", x, dims, keepdim);
}

/** x [...] → smallest value over `dims` (default: all), f32, or exact for integers. The gradient is shared by equal minima. */
export function min(x: Tensor, dims?: number | readonly number[], keepdim = false): Tensor {
  return extreme("min", x, dims, keepdim);
}

function extreme(
  kind: "max" | "min",
  x: Tensor,
  dims: number | readonly number[] | undefined,
  keepdim: boolean,
): Tensor {
  checkTensors(kind, x);
  requireBoolean(kind, "keepdim", keepdim);
  const list = dimsOf(kind, x, dims);
  if (list.some((d) => x.shape[d] === 0))
    throw new ShapeError(
      `${kind}: x must have elements along dimensions ${shapeText(list)}; got ${x}. The ${kind} of nothing is not defined.`,
    );
  const y = scope(() => reduceDims(kind, x, list, keepdim));
  return record(kind, [x], y, [x, y], (g, [input, best]) => {
    const equal = map(equalTo, [input!, spread(best!, input!.shape, list)], { dtype: "f32" });
    const share = map(quotient, [contiguousCopy(g), reduceDims("sum", equal, list, keepdim)]);
    return [map(product, [equal, spread(share, input!.shape, list)])];
  });
}

// The rank of a value in the order of all, as u32. A NaN comes first.
export const rankFloat = library(
  "rank_float",
  "//#use finite\nfn rank_T(v: f32, lowest: bool) -> u32 {\n  let u = select(bitcast<u32>(v), 0u, v == 0.0);\n  let rank = select(u | 0x80000000u, ~u, u >= 0x80000000u);\n  return select(select(rank, ~rank, lowest), 0xffffffffu, is_nan(v));\n}",
  [finite],
);
const rankI32 = library(
  "rank_i32",
  "fn rank_T(v: i32, lowest: bool) -> u32 { let rank = bitcast<u32>(v) ^ 0x80000000u; return select(rank, ~rank, lowest); }",
);
const rankU32 = library("rank_u32", "fn rank_T(v: u32, lowest: bool) -> u32 { return select(v, ~v, lowest); }");

/** The library that ranks values of `dtype` as u32 (slot `r`): equal values, and −0 and 0, have one rank. */
export const rankOf = (dtype: DType): Library => (isFloat(dtype) ? rankFloat : dtype === "i32" ? rankI32 : rankU32);

const argStage = kernel(
  "arg_reduce",
  new URL("./arg_reduce.wgsl", import.meta.url),
  { x: "read", y: "write" },
  { rows: "u32", columns: "u32" },
  [...standard, rankFloat],
);

/** x [...] → index of the largest value along `dim`, u32; the lowest index wins ties, the first NaN wins over all. */
export function argmax(x: Tensor, dim = -1, keepdim = false): Tensor {
  return argReduce("argmax", x, dim, keepdim);
}

/** x [...] → index of the smallest value along `dim`, u32; the lowest index wins ties, the first NaN wins over all. */
export function argmin(x: Tensor, dim = -1, keepdim = false): Tensor {
  return argReduce("argmin", x, dim, keepdim);
}

function argReduce(op: "argmax" | "argmin", x: Tensor, dim: number, keepdim: boolean): Tensor {
  checkTensors(op, x);
  requireBoolean(op, "keepdim", keepdim);
  const d = normalizeDim(dim, x.rank, op);
  if (x.shape[d] === 0)
    throw new ShapeError(`${op}: x must have elements along dimension ${dim}; got ${x}. Check its shape.`);
  return scope(() => argRows(op, x, d, keepdim));
}

function argRows(op: "argmax" | "argmin", x: Tensor, d: number, keepdim: boolean): Tensor {
  const n = x.shape[d]!;
  const kept = x.shape.toSpliced(d, 1);
  const rows = sizeOf(kept);
  const order = [...x.shape.keys()].filter((i) => i !== d);
  const last = contiguousCopy(x.strided([...kept, n], [...order.map((i) => x.strides[i]!), x.strides[d]!]));
  const y = empty(keepdim ? x.shape.with(d, 1) : kept, { dtype: "u32", device: x.device });
  for (const { count, buffers } of windowsOf(op, rows, { x: last, y })) {
    launch(argStage, {
      use: { x: last.dtype, r: rankOf(last.dtype) },
      constants: { LOWEST: op === "argmin" },
      buffers,
      params: { rows: count, columns: n },
      grid: grid1d(count),
      cost: { flops: count * n, bytes: elementBytes(last.dtype, count * n) },
    });
  }
  return y;
}

/** Sums `g` down to `shape`, the inverse of broadcasting. `g` itself if the shapes agree. Not recorded on the tape. */
export function sumTo(g: Tensor, shape: Shape): Tensor {
  if (sameShape(g.shape, shape)) return g;
  const lead = g.rank - shape.length;
  const dims = g.shape.map((_, d) => d).filter((d) => d < lead || (shape[d - lead] === 1 && g.shape[d] !== 1));
  if (g.size === 0) return zeroReduction(g, dims, true).strided(shape, contiguousStrides(shape));
  return reduceDims("sum", g, dims, true).strided(shape, contiguousStrides(shape));
}
