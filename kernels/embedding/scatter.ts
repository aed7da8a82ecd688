/** Elements written to, or added at, indices along a dimension: deterministic, also if indices repeat. */
import {
  DTypeError,
  ShapeError,
  checkTensors,
  contiguousStrides,
  empty,
  grid1d,
  isFloat,
  kernel,
  launch,
  normalizeDim,
  record,
  sameShape,
  scope,
  sizeOf,
} from "../../engine/index.ts";
import type { Tensor } from "../../engine/index.ts";
import { checkIdRange } from "../core/check_ids.ts";
import { fillInto } from "../core/copy.ts";
import { grid } from "../core/libraries.ts";
import { asDType, contiguousCopy, expression, map } from "../core/map.ts";
import { viewAs } from "../core/rows.ts";
import { windowsOf } from "../core/windows.ts";
import { add } from "../pointwise/elementwise.ts";
import { maskedFill, where } from "../pointwise/masked.ts";
import { cast, pad, slice } from "../views/views.ts";
import { checkIds } from "./embedding.ts";
import { addPicks, pick } from "./gather.ts";

const lastKernel = kernel(
  "scatter_last",
  new URL("./scatter_last.wgsl", import.meta.url),
  { index: "read", last: "read_write" },
  { rows: "u32", n: "u32", picks: "u32" },
  [grid],
);

const before = expression("scatter.before", "a - V4_a(1)");

/**
 * y = x, except y[…, index[…, k, …], …] = source[…, k, …] along dimension `dim`, as in PyTorch: index i32 or u32 of x's
 * rank, no longer than the source, nor (but along `dim`) than x; the source has x's dtype, or is a number. If an index
 * repeats, the last one counts, and only that one has a gradient. An index outside the dimension (a negative one too)
 * writes nothing; a device with `checks` reports it as an error.
 */
export function scatter(x: Tensor, dim: number, index: Tensor, source: Tensor | number): Tensor {
  const isNumber = typeof source === "number";
  const d = check("scatter", x, dim, index, isNumber ? null : source);
  return scope(() => {
    const last = lastPicks(x.shape[d]!, d, index);
    if (isNumber) return maskedFill(x, widen(last, x), source);
    const part = narrow(source, index.shape);
    // A place that no index names has last 0: its pick, −1, is outside the source and gives 0.
    return where(widen(last, x), widen(pick(part, d, map(before, [last])), x), x);
  });
}

/**
 * y = x + Σ of source[…, k, …] at index[…, k, …] along dimension `dim`, added in the order of k; otherwise as `scatter`, of floating dtypes alone.
 * Sums are f32.
 */
export function scatterAdd(x: Tensor, dim: number, index: Tensor, source: Tensor): Tensor {
  const d = check("scatterAdd", x, dim, index, source);
  if (!isFloat(x.dtype))
    throw new DTypeError(`scatterAdd: x must have a floating dtype; got ${x}. Cast it and the source to f32 first.`);
  return scope(() => cast(add(x, widen(sumPicks(narrow(source, index.shape), d, index, x.shape[d]!), x)), x.dtype));
}

/** Σ of source's elements at their indices along dimension `d` of size n, f32; what `pick` undoes. */
function sumPicks(source: Tensor, d: number, index: Tensor, n: number): Tensor {
  const y = scope(() => {
    const from = rowsAlong(asDType(source, "f32"), d);
    return backAlong(addPicks(from, rowsAlong(index, d), n), index.shape.with(d, n), d);
  });
  return record("scatterAdd", [source], y, [index], (g, [saved]) => [pick(g, d, saved!)]);
}

/**
 * Number of the last pick of each position, counted from 1, 0 if there is none: u32 of the index's shape, but `n` long
 * along dimension `d`.
 */
function lastPicks(n: number, d: number, index: Tensor): Tensor {
  const picks = index.shape[d]!;
  const rows = sizeOf(index.shape.toSpliced(d, 1));
  return scope(() => {
    const last = empty([rows, n], { dtype: "u32", device: index.device });
    fillInto(last, 0);
    for (const { count, buffers } of windowsOf("scatter", rows, { index: rowsAlong(index, d), last })) {
      launch(lastKernel, {
        buffers,
        params: { rows: count, n, picks },
        grid: grid1d(Math.ceil((count * picks) / 64)),
        cost: { flops: count * picks, bytes: 8 * count * picks },
      });
    }
    return backAlong(last, index.shape.with(d, n), d);
  });
}

/** `t` as contiguous rows [R, size of dimension d] along dimension `d`. */
function rowsAlong(t: Tensor, d: number): Tensor {
  const order = [...[...t.shape.keys()].filter((k) => k !== d), d];
  const turned = t.strided(
    order.map((k) => t.shape[k]!),
    order.map((k) => t.strides[k]!),
  );
  const n = t.shape[d]!;
  return viewAs(contiguousCopy(turned), [n === 0 ? sizeOf(t.shape.toSpliced(d, 1)) : t.size / n, n]);
}

/** Rows along dimension `d` in the shape that they came from (a view). */
function backAlong(rows: Tensor, shape: readonly number[], d: number): Tensor {
  const others = [...shape.keys()].filter((k) => k !== d);
  const strides = contiguousStrides([...others.map((k) => shape[k]!), shape[d]!]);
  return rows.strided(
    shape,
    shape.map((_, k) => (k === d ? 1 : strides[others.indexOf(k)]!)),
  );
}

/** The beginning of `t` that is as long as `shape` in every dimension. */
const narrow = (t: Tensor, shape: readonly number[]): Tensor =>
  shape.reduce((part, n, k) => (part.shape[k] === n ? part : slice(part, k, 0, n)), t);

/** `t` with zeros behind, as long as `x` in every dimension. */
const widen = (t: Tensor, x: Tensor): Tensor =>
  sameShape(t.shape, x.shape)
    ? t
    : pad(
        t,
        x.shape.map((n, k) => [0, n - t.shape[k]!] as const),
      );

function check(op: string, x: Tensor, dim: number, index: Tensor, source: Tensor | null): number {
  checkTensors(op, x, index, source);
  checkIds(op, index);
  const d = normalizeDim(dim, x.rank, op);
  if (index.rank !== x.rank || index.shape.some((n, k) => k !== d && n > x.shape[k]!))
    throw new ShapeError(
      `${op}: the index must have the rank of x and be no longer, but for dimension ${dim}; got index ${index}, x ${x}. Slice the index.`,
    );
  if (source && (source.rank !== x.rank || index.shape.some((n, k) => n > source.shape[k]!)))
    throw new ShapeError(
      `${op}: the source must be at least as long as the index in each dimension; got source ${source}, index ${index}. Slice the index.`,
    );
  if (source && source.dtype !== x.dtype)
    throw new DTypeError(`${op}: the source must have the dtype of x; got source ${source}, x ${x}. Cast one of them.`);
  checkIdRange(op, "index", index, x.shape[d]!);
  return d;
}
