/** SwiGLU of gates and values that lie in one tensor, as a product with joined weights leaves them. */
import { elementBytes, empty, grid1d, kernel, launch, record, scope } from "../../engine/index.ts";
import type { Tensor } from "../../engine/index.ts";
import { activations, standard } from "../core/libraries.ts";
import { contiguousCopy } from "../core/map.ts";
import { windowsOf } from "../core/windows.ts";

const forward = kernel(
  "swiglu_joint",
  new URL("./swiglu_joint.wgsl", import.meta.url),
  { x: "read", y: "write" },
  { count: "u32", granules: "u32" },
  [...standard, activations],
);

const backward = kernel(
  "swiglu_joint_backward",
  new URL("./swiglu_joint_backward.wgsl", import.meta.url),
  { g: "read", x: "read", dx: "write" },
  { count: "u32", granules: "u32" },
  [...standard, activations],
);

/** True if the kernels take x [..., 2F]: its halves are whole granules of rows that follow one another. */
export const isJoint = (x: Tensor): boolean => x.isBindable && x.shape.at(-1)! % 8 === 0;

/** x [..., 2F], bindable with F a multiple of 4 → silu(x[..., : F]) · x[..., F :], of x's dtype. */
export function swigluJoint(x: Tensor): Tensor {
  const columns = x.shape.at(-1)! / 2;
  const shape = x.shape.with(-1, columns);
  const y = scope(() => run(x, empty(shape, { dtype: x.dtype, device: x.device }), columns));
  return record("swiglu", [x], y, [x], (g, [saved]) => [runBackward(g, saved!, columns)]);
}

function run(x: Tensor, y: Tensor, columns: number): Tensor {
  const granules = columns / 4;
  for (const { count: rows, buffers } of windowsOf("swiglu", y.size / columns, { x, y })) {
    const count = rows * granules;
    launch(forward, {
      use: { x: x.dtype, y: y.dtype },
      buffers,
      params: { count, granules },
      grid: grid1d(Math.ceil(count / 256)),
      cost: { flops: 4 * count, bytes: elementBytes(x.dtype, 12 * count) },
    });
  }
  return y;
}

/** The gradient of x by that of the result; of g's dtype. */
function runBackward(grad: Tensor, x: Tensor, columns: number): Tensor {
  const g = contiguousCopy(grad);
  const granules = columns / 4;
  const dx = empty(x.shape, { dtype: g.dtype, device: g.device });
  for (const { count: rows, buffers } of windowsOf("swiglu backward", g.size / columns, { g, x, dx })) {
    const count = rows * granules;
    launch(backward, {
      use: { g: g.dtype, x: x.dtype, y: dx.dtype },
      buffers,
      params: { count, granules },
      grid: grid1d(Math.ceil(count / 128)),
      cost: { flops: 8 * count, bytes: elementBytes(g.dtype, 12 * count) + elementBytes(x.dtype, 8 * count) },
    });
  }
  return dx;
}
