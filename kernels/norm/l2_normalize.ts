/** Rows scaled to length 1, and the gradient of that. */
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
  launch,
  record,
  scope,
} from "../../engine/index.ts";
import type { Tensor } from "../../engine/index.ts";
import { finite, standard } from "../core/libraries.ts";
import { asDType, contiguousCopy } from "../core/map.ts";
import { viewAs } from "../core/rows.ts";
import { windowsOf } from "../core/windows.ts";

const forward = kernel(
  "l2_normalize",
  new URL("./l2_normalize.wgsl", import.meta.url),
  { x: "read", y: "write" },
  { rows: "u32", columns: "u32", pitch: "u32", eps: "f32" },
  [...standard, finite],
);
const backward = kernel(
  "l2_normalize_backward",
  new URL("./l2_normalize_backward.wgsl", import.meta.url),
  { x: "read", g: "read", dx: "write" },
  { rows: "u32", columns: "u32", eps: "f32" },
  [...standard, finite],
);

/**
 * x [..., D] → x / max(‖x‖₂, eps) along the last dimension, of x's dtype; arithmetic in f32. Intended for short rows
 * (an invocation works on a whole one). A row shorter than eps is divided by eps, and its gradient too.
 */
export function l2Normalize(x: Tensor, eps = 1e-12): Tensor {
  checkTensors("l2Normalize", x);
  if (!isFloat(x.dtype))
    throw new DTypeError(`l2Normalize: x must have a floating dtype; got ${x}. Cast it to f32 first.`);
  if (x.rank === 0) throw new ShapeError(`l2Normalize: x must be [..., D]; got ${x}. Reshape it.`);
  if (!(eps > 0))
    throw new ArgumentError(`l2Normalize: eps must be a number above 0; got ${eps}. Choose one like 1e-12.`);
  const y = scope(() => {
    const wide = viewAs(unitRows(x, x.dim(-1), eps), x.shape);
    return asDType(wide, x.dtype);
  });
  return record("l2Normalize", [x], y, [x], (g, [saved]) => [l2NormalizeGradient(saved!, g, eps)]);
}

/** x [..., D] → [rows, pitch] f32: the rows scaled to length 1, zeros beyond D. Not recorded on the tape. */
export function unitRows(x: Tensor, pitch: number, eps: number): Tensor {
  const columns = x.dim(-1);
  const rows = columns === 0 ? 0 : x.size / columns;
  const source = contiguousCopy(x);
  const y = empty([rows, pitch], { device: x.device });
  for (const { count, buffers } of windowsOf("l2Normalize", rows, { x: source, y })) {
    launch(forward, {
      use: { x: x.dtype },
      buffers,
      params: { rows: count, columns, pitch, eps },
      grid: grid1d(Math.ceil(count / 64)),
      cost: { flops: 4 * count * columns, bytes: elementBytes(x.dtype, count * columns) + count * pitch * 4 },
    });
  }
  return y;
}

/** The gradient of x [..., D] for that of its normalised rows, f32. Not recorded on the tape. */
export function l2NormalizeGradient(x: Tensor, g: Tensor, eps: number): Tensor {
  const columns = x.dim(-1);
  const rows = columns === 0 ? 0 : x.size / columns;
  const source = contiguousCopy(x);
  const grad = contiguousCopy(g);
  const dx = empty(x.shape, { device: x.device });
  for (const { count, buffers } of windowsOf("l2Normalize", rows, { x: source, g: grad, dx })) {
    launch(backward, {
      use: { x: source.dtype, g: grad.dtype },
      buffers,
      params: { rows: count, columns, eps },
      grid: grid1d(Math.ceil(count / 64)),
      cost: { flops: 8 * count * columns, bytes: 3 * elementBytes("f32", count * columns) },
    });
  }
  return dx;
}
