/** Nearest-neighbour upsampling by two, a pure copy, and its gradient. */
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
  record,
  scope,
} from "../../engine/index.ts";
import type { Tensor } from "../../engine/index.ts";
import { standard } from "../core/libraries.ts";
import { rowLibrary } from "../core/libraries.ts";
import { asDType } from "../core/map.ts";
import { granulesOf, rowOperand } from "../core/rows.ts";
import { windowsOf } from "../core/windows.ts";

const forward = kernel(
  "upsample_nearest2x",
  new URL("./upsample_nearest2x.wgsl", import.meta.url),
  { x: "read", y: "write" },
  { rows: "u32", width: "u32" },
  standard,
);
const backward = kernel(
  "upsample_nearest2x_backward",
  new URL("./upsample_nearest2x_backward.wgsl", import.meta.url),
  { g: "read", dx: "write" },
  { rows: "u32", width: "u32" },
  standard,
);

/** x [N, C, H, W] → [N, C, 2H, 2W] of its dtype: every pixel becomes 2 × 2. The gradient adds the four. */
export function upsampleNearest2x(x: Tensor): Tensor {
  checkTensors("upsampleNearest2x", x);
  if (!isFloat(x.dtype))
    throw new DTypeError(`upsampleNearest2x: x must have a floating dtype; got ${x}. Cast it to f32 first.`);
  if (x.rank !== 4) throw new ShapeError(`upsampleNearest2x: x must be [N, C, H, W]; got ${x}. Reshape it.`);
  const y = scope(() => resize(x, true));
  return record("upsampleNearest2x", [x], y, [], (g) => [resize(g, false)]);
}

/** Up: [N, C, H, W] → [N, C, 2H, 2W]; down: the sums of 2 × 2. Rows that do not split into fours are moved in f32. */
function resize(x: Tensor, up: boolean): Tensor {
  const [n, c, h, w] = x.shape as [number, number, number, number];
  const [height, width] = up ? [h, w] : [h / 2, w / 2];
  const source = rowOperand(x, width);
  const y = empty([n, c, up ? 2 * h : height, up ? 2 * w : width], { dtype: source.dtype, device: x.device });
  const granules = granulesOf(width);
  // A row of the smaller image goes with two of the larger.
  for (const { count, buffers } of windowsOf("upsampleNearest2x", n * c * height, { x: source, y })) {
    const options = {
      use: { x: rowLibrary(source.dtype, width) },
      params: { rows: count, width: granules },
      grid: grid1d(Math.ceil((count * granules) / 64)),
      cost: { flops: up ? 0 : 3 * count * width, bytes: elementBytes(source.dtype, 5 * count * width) },
    };
    if (up) launch(forward, { ...options, buffers });
    else launch(backward, { ...options, buffers: { g: buffers.x, dx: buffers.y } });
  }
  return asDType(y, x.dtype);
}
