/** Softmax and its logarithm along one dimension; statistics f32. */
import {
  DTypeError,
  ShapeError,
  checkTensors,
  elementBytes,
  empty,
  grid1d,
  isFloat,
  kernel,
  launch,
  normalizeDim,
  record,
  scope,
} from "../../engine/index.ts";
import type { Tensor } from "../../engine/index.ts";
import { opaque, standard } from "../core/libraries.ts";
import { asDType } from "../core/map.ts";
import { granulesOf, rowOperand, rowUses, rowVariant, rowWorkgroup, rowsOf } from "../core/rows.ts";
import { windowsOf } from "../core/windows.ts";
import { transpose } from "../views/views.ts";

const forward = kernel(
  "softmax",
  new URL("./softmax.wgsl", import.meta.url),
  { x: "read", y: "write" },
  { rows: "u32", granules: "u32" },
  [...standard, opaque, rowWorkgroup],
);
const backward = kernel(
  "softmax_backward",
  new URL("./softmax_backward.wgsl", import.meta.url),
  { y: "read", g: "read", dx: "write" },
  { rows: "u32", granules: "u32" },
  [...standard, rowWorkgroup],
);

/**
 * x [...] → exp(x − max) / Σ exp(x − max) along `dim`, of x's dtype and shape. Masked positions have a finite low value
 * such as −3e38; their result is 0. Dimensions other than the last go through a copy in another order.
 * @throws ShapeError for a dimension that x does not have; DTypeError for integers
 */
export const softmax = (x: Tensor, dim = -1): Tensor => alongRows("softmax", x, dim, false);

/** x [...] → log(softmax(x)) along `dim`, computed without small intermediate values; otherwise like `softmax`. */
export const logSoftmax = (x: Tensor, dim = -1): Tensor => alongRows("logSoftmax", x, dim, true);

function alongRows(op: string, x: Tensor, dim: number, log: boolean): Tensor {
  checkTensors(op, x);
  if (!isFloat(x.dtype)) throw new DTypeError(`${op}: x must have a floating dtype; got ${x}. Cast it to f32 first.`);
  if (x.rank === 0) throw new ShapeError(`${op}: x must be [..., C]; got ${x}. Reshape it.`);
  const d = normalizeDim(dim, x.rank, op);
  if (d !== x.rank - 1) return scope(() => transpose(alongRows(op, transpose(x, d, -1), -1, log), d, -1));
  const y = scope(() => run(x, log));
  return record(op, [x], y, [y], (g, [result]) => [gradient(result!, g, log)]);
}

function run(x: Tensor, log: boolean): Tensor {
  const { rows, columns } = rowsOf(x);
  const source = rowOperand(x, columns);
  const y = empty(x.shape, { dtype: source.dtype, device: x.device });
  const granules = granulesOf(columns);
  const variant = rowVariant("softmax", x.device.capabilities, granules);
  for (const { count, buffers } of windowsOf("softmax", rows, { x: source, y })) {
    launch(forward, {
      use: { ...rowUses(columns, { x: source, y }), r: variant.library },
      constants: { ...variant.constants, LOG: log },
      buffers,
      params: { rows: count, granules },
      grid: grid1d(Math.ceil(count / variant.rows)),
      cost: { flops: 6 * count * columns, bytes: elementBytes(source.dtype, 2 * count * columns) },
    });
  }
  return asDType(y, x.dtype);
}

function gradient(result: Tensor, grad: Tensor, log: boolean): Tensor {
  const { rows, columns } = rowsOf(result);
  const y = rowOperand(result, columns);
  const g = rowOperand(grad, columns);
  const dx = empty(y.shape, { dtype: y.dtype, device: y.device });
  const granules = granulesOf(columns);
  const variant = rowVariant("softmax", y.device.capabilities, granules);
  for (const { count, buffers } of windowsOf("softmax", rows, { y, g, dx })) {
    launch(backward, {
      use: { ...rowUses(columns, { y, g, dx }), r: variant.library },
      constants: { ...variant.constants, LOG: log },
      buffers,
      params: { rows: count, granules },
      grid: grid1d(Math.ceil(count / variant.rows)),
      cost: {
        flops: 4 * count * columns,
        bytes: elementBytes(y.dtype, 2 * count * columns) + elementBytes(g.dtype, count * columns),
      },
    });
  }
  return dx;
}
