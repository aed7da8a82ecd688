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
  rowWindows,
  scope,
} from "../../engine/index.ts";
import type { Tensor } from "../../engine/index.ts";
import { standard } from "../core/libraries.ts";
import { rowLibrary } from "../core/libraries.ts";
import { contiguousCopy, copy, map } from "../core/map.ts";

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
    throw new DTypeError(`upsampleNearest2x: ${x} is not of a floating dtype; cast it to f32 first`);
  if (x.rank !== 4) throw new ShapeError(`upsampleNearest2x: ${x}; takes x [N, C, H, W]`);
  const y = scope(() => resize(x, true));
  return record("upsampleNearest2x", [x], y, [], (g) => [resize(g, false)]);
}

/** Up: [N, C, H, W] → [N, C, 2H, 2W]; down: the sums of 2 × 2. Rows that do not split into fours are moved in f32. */
function resize(x: Tensor, up: boolean): Tensor {
  const [n, c, h, w] = x.shape as [number, number, number, number];
  const [height, width] = up ? [h, w] : [h / 2, w / 2];
  const granular = width % 4 === 0;
  const source = contiguousCopy(granular || x.dtype === "f32" ? x : map(copy, [x], { dtype: "f32" }));
  const y = empty([n, c, up ? 2 * h : height, up ? 2 * w : width], { dtype: source.dtype, device: x.device });
  // A row of the smaller image goes with two of the larger.
  const small = { rowElements: width, dtype: source.dtype };
  const large = { rowElements: 4 * width, dtype: source.dtype };
  for (const { start, count } of rowWindows(x.device, n * c * height, [small, large], 1, "upsampleNearest2x")) {
    const of = (t: Tensor, row: number): { of: Tensor; start: number; elements: number } => ({
      of: t,
      start: start * row,
      elements: count * row,
    });
    const options = {
      use: { x: rowLibrary(source.dtype, width) },
      params: { rows: count, width: granular ? width / 4 : width },
      grid: grid1d(Math.ceil((count * (granular ? width / 4 : width)) / 64)),
      cost: { flops: up ? 0 : 3 * count * width, bytes: elementBytes(source.dtype, 5 * count * width) },
    };
    if (up) launch(forward, { ...options, buffers: { x: of(source, width), y: of(y, 4 * width) } });
    else launch(backward, { ...options, buffers: { g: of(source, 4 * width), dx: of(y, width) } });
  }
  return y.dtype === x.dtype ? y : map(copy, [y], { dtype: x.dtype });
}
