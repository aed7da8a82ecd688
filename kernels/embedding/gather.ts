/** Elements picked along a dimension, and the sum of their gradients. */
import {
  DTYPES,
  ShapeError,
  checkTensors,
  empty,
  grid1d,
  isFloat,
  kernel,
  launch,
  normalizeDim,
  record,
  scope,
  sizeOf,
} from "../../engine/index.ts";
import type { Tensor } from "../../engine/index.ts";
import { checkIdRange } from "../core/check_ids.ts";
import { grid } from "../core/libraries.ts";
import { arange, full } from "../views/create.ts";
import { BLOCK, checkIds, scatterRows } from "./embedding.ts";
import { asDType, contiguousCopy, copy, expression, map } from "../core/map.ts";
import { viewAs } from "../core/rows.ts";
import { windowsOf } from "../core/windows.ts";
import { permute, reshape, slice } from "../views/views.ts";

const params = { rows: "u32", n: "u32", picks: "u32" } as const;
const forward = kernel(
  "gather",
  new URL("./gather.wgsl", import.meta.url),
  { x: "read", index: "read", y: "write" },
  params,
  [grid],
);
const backwardKernel = kernel(
  "gather_backward",
  new URL("./gather_backward.wgsl", import.meta.url),
  { g: "read", index: "read", dx: "write" },
  params,
  [grid],
);

// Index a into a row of c elements that starts at element b → element; one that is outside the row (a negative one is large) → none's.
const element = expression("gather.element", "select(V4_y(0xffffffffu), V4_y(a) + b, V4_y(a) < c)");

/**
 * y[…, k, …] = x[…, index[…, k, …], …] along dimension `dim`, as in PyTorch: index i32 or u32 of x's rank, no longer than x in the other
 * dimensions; y has the index's shape and x's dtype. An index outside the dimension (a negative one too) gives 0 and no gradient; a device with
 * `checks` reports it as an error.
 * Gradients of an element picked more than once are added in the order of its picks.
 */
export function gather(x: Tensor, dim: number, index: Tensor): Tensor {
  checkTensors("gather", x, index);
  checkIds("gather", index);
  const d = normalizeDim(dim, x.rank, "gather");
  if (index.rank !== x.rank || index.shape.some((n, i) => i !== d && n > x.shape[i]!)) {
    throw new ShapeError(
      `gather: the index must have the rank of x and must not be longer, except in dimension ${dim}; got ${index} for x ${x}. Reshape or slice it.`,
    );
  }
  checkIdRange("gather", "index", index, x.shape[d]!);
  return pick(x, d, index);
}

/** `gather` without its checks: indices outside the dimension are intended. */
export function pick(x: Tensor, d: number, index: Tensor): Tensor {
  const order = [...[...x.shape.keys()].filter((k) => k !== d), d];
  const back = [...x.shape.keys()].map((k) => order.indexOf(k));
  return scope(() => {
    const part = index.shape.reduce((t, n, i) => (i === d || n === t.shape[i] ? t : slice(t, i, 0, n)), x);
    const rows = sizeOf(index.shape.toSpliced(d, 1));
    const lines = reshape(permute(part, order), [rows, x.shape[d]!]);
    const picks = contiguousCopy(
      index.strided(
        order.map((k) => index.shape[k]!),
        order.map((k) => index.strides[k]!),
      ),
    );
    const y = gatherRows(lines, picks.strided([rows, index.shape[d]!], [index.shape[d]!, 1]));
    return permute(
      reshape(
        y,
        order.map((k) => index.shape[k]!),
      ),
      back,
    );
  });
}

/** x [R, n], index [R, k] (bindable) → [R, k]. */
function gatherRows(x: Tensor, index: Tensor): Tensor {
  const [rows, n] = x.shape as [number, number];
  const picks = index.shape[1]!;
  const y = scope(() => {
    const narrow = DTYPES[x.dtype].bits < 32;
    const from = narrow ? map(copy, [x], { dtype: isFloat(x.dtype) ? "f32" : "u32" }) : contiguousCopy(x);
    const out = empty([rows, picks], { dtype: from.dtype, device: x.device });
    if (out.size === 0) return out.dtype === x.dtype ? out : empty([rows, picks], { dtype: x.dtype, device: x.device });
    for (const { count, buffers } of windowsOf("gather", rows, { x: from, index, y: out })) {
      launch(forward, {
        buffers,
        params: { rows: count, n, picks },
        grid: grid1d(Math.ceil((count * picks) / 64)),
        cost: { flops: 0, bytes: 12 * count * picks },
      });
    }
    return asDType(out, x.dtype);
  });
  return record("gather", [x], y, [index], (g, [saved]) => {
    return [addPicks(contiguousCopy(asDType(g, "f32")), saved!, n)];
  });
}

/** Σ over k of g [R, k] (f32, bindable) into the elements of [R, n] that index [R, k] (bindable) names, in the order of k. */
export function addPicks(g: Tensor, index: Tensor, n: number): Tensor {
  return index.shape[1]! > BLOCK && n > 0 ? scatterPicks(g, index, n) : gradientOfRows(g, index, n);
}

/** dx [R, n] for g and index [R, k]: each element walks the k indices of its row, so this is for few of them. */
function gradientOfRows(g: Tensor, index: Tensor, n: number): Tensor {
  const [rows, picks] = g.shape as [number, number];
  const dx = empty([rows, n], { device: g.device });
  for (const { count, buffers } of windowsOf("gather", rows, { g, index, dx })) {
    launch(backwardKernel, {
      buffers,
      params: { rows: count, n, picks },
      grid: grid1d(Math.ceil((count * n) / 64)),
      cost: { flops: count * picks, bytes: 4 * count * n * (picks + 1) },
    });
  }
  return dx;
}

/** The same for many picks per row, added in blocks. */
function scatterPicks(g: Tensor, index: Tensor, n: number): Tensor {
  const [rows, picks] = g.shape as [number, number];
  if (rows * n >= 2 ** 32)
    throw new ShapeError(
      `gather: for a gradient with more than ${BLOCK} picks per row, the rows must have at most 2^32 − 1 elements in all; got ${rows} rows of ${n}. Gather from fewer rows at a time.`,
    );
  const { device } = g;
  const starts = arange(0, rows * n, n, { dtype: "u32", device });
  const places = map(element, [index, viewAs(starts, [rows, 1]), full([1], n, { dtype: "u32", device })], {
    dtype: "u32",
  });
  return viewAs(scatterRows(viewAs(g, [rows * picks, 1]), viewAs(places, [rows * picks]), rows * n, 1), [rows, n]);
}
