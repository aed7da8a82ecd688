/** Running sums along a dimension. */
import {
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
import type { DType, Tensor } from "../../engine/index.ts";
import { standard } from "../core/libraries.ts";
import { asDType, contiguousCopy } from "../core/map.ts";
import { viewAs } from "../core/rows.ts";
import { windowsOf } from "../core/windows.ts";

const scan = kernel(
  "cumsum",
  new URL("./cumsum.wgsl", import.meta.url),
  { x: "read", offsets: "read", y: "write" },
  { rows: "u32", n: "u32", chunks: "u32", first: "u32" },
  standard,
);

/** Elements that one invocation adds up; the kernel's constant. */
const CHUNK = 64;

/**
 * y[…, i, …] = Σ x[…, j, …] over j ≤ i along `dim`, of x's dtype (u32 for u8); sums of floats are f32, of integers modulo 2^32. From the first NaN
 * on everything is NaN.
 */
export function cumsum(x: Tensor, dim = -1): Tensor {
  checkTensors("cumsum", x);
  if (x.rank === 0) throw new ShapeError(`cumsum: x must be [..., N]; got ${x}. Reshape it to [1].`);
  const d = normalizeDim(dim, x.rank, "cumsum");
  const y = scope(() => runningSums(x, d, false));
  return record("cumsum", [x], y, [], (g) => [runningSums(g, d, true)]);
}

function runningSums(x: Tensor, d: number, reverse: boolean): Tensor {
  const order = [...[...x.shape.keys()].filter((k) => k !== d), d];
  const turned = x.strided(
    order.map((k) => x.shape[k]!),
    order.map((k) => x.strides[k]!),
  );
  const dtype: DType = isFloat(x.dtype) ? "f32" : x.dtype === "u8" ? "u32" : x.dtype;
  const sums = viewAs(sumRows(contiguousCopy(turned), dtype, x.shape[d]!, reverse), turned.shape);
  const back = sums.strided(
    x.shape,
    order.map((_, k) => sums.strides[order.indexOf(k)]!),
  );
  return asDType(back, isFloat(x.dtype) ? x.dtype : dtype);
}

/** x: contiguous rows of n elements → running sums of `dtype`, [rows, n]. */
function sumRows(x: Tensor, dtype: DType, n: number, reverse: boolean): Tensor {
  const rows = n === 0 ? 0 : x.size / n;
  const y = empty([rows, n], { dtype, device: x.device });
  if (y.size === 0) return y;
  const chunks = Math.ceil(n / CHUNK);
  const offsets = chunks === 1 ? null : sumRows(totalsOf(x, dtype, n, reverse), dtype, chunks, false);
  launchRows(x, y, offsets, { n, reverse });
  return y;
}

/** Totals of the chunks, [rows, chunks]; with `reverse` the first chunk is the last of the row. */
function totalsOf(x: Tensor, dtype: DType, n: number, reverse: boolean): Tensor {
  const totals = empty([x.size / n, Math.ceil(n / CHUNK)], { dtype, device: x.device });
  launchRows(x, totals, null, { n, reverse, totals: true });
  return totals;
}

interface RowScan {
  readonly n: number;
  readonly reverse: boolean;
  readonly totals?: boolean;
}

function launchRows(x: Tensor, y: Tensor, offsets: Tensor | null, { n, reverse, totals = false }: RowScan): void {
  const chunks = Math.ceil(n / CHUNK);
  const unused = offsets ? null : empty([4], { dtype: y.dtype, device: y.device });
  // Offsets and totals are bound whole: their rows are short, and few start where a binding may.
  for (const { start, count, buffers } of windowsOf("cumsum", x.size / n, { x, y: totals ? null : y })) {
    launch(scan, {
      use: { x: x.dtype, y: y.dtype },
      constants: { TOTALS: totals, OFFSETS: offsets !== null, REVERSE: reverse },
      buffers: { x: buffers.x, offsets: offsets ?? unused!, y: buffers.y ?? y },
      params: { rows: count, n, chunks, first: start * chunks },
      grid: grid1d(Math.ceil((count * chunks) / 64)),
      cost: { flops: count * n, bytes: elementBytes(x.dtype, count * n) + 4 * count * (totals ? chunks : n) },
    });
  }
}
