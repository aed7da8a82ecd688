/** Sorting along a dimension, stable and deterministic, with the indices of the elements; `topk` returns the first ones. */
import {
  ArgumentError,
  ShapeError,
  checkTensors,
  elementBytes,
  empty,
  grid1d,
  kernel,
  launch,
  normalizeDim,
  requireBoolean,
  scope,
} from "../../engine/index.ts";
import type { Tensor } from "../../engine/index.ts";
import { grid, standard } from "../core/libraries.ts";
import { contiguousCopy } from "../core/map.ts";
import { viewAs } from "../core/rows.ts";
import { windowsOf } from "../core/windows.ts";
import { pick } from "../embedding/gather.ts";
import { rankFloat, rankOf } from "../reduce/reduce.ts";

const blocks = kernel(
  "sort_block",
  new URL("./sort_block.wgsl", import.meta.url),
  { x: "read", keys: "write", indices: "write" },
  { rows: "u32", columns: "u32" },
  [...standard, rankFloat],
);
const merge = kernel(
  "sort_merge",
  new URL("./sort_merge.wgsl", import.meta.url),
  { keys: "read", indices: "read", merged_keys: "write", merged_indices: "write" },
  { rows: "u32", columns: "u32", length: "u32" },
  [grid],
);

/** Elements that an invocation of the first launch walks; the kernel's constant. Each further launch doubles the length of the sorted runs. */
const BLOCK = 32;

export interface Sorted {
  /** The values in their order, of x's dtype. The gradient goes back to where each came from. */
  readonly values: Tensor;
  /** Index of each along the dimension, u32. */
  readonly indices: Tensor;
}

/**
 * x [...] in ascending order along `dim`, or descending. Stable: equal values (−0 and 0 are equal) keep their order. NaN counts as the largest
 * value, as in PyTorch: last in ascending order, first in descending.
 */
export function sort(x: Tensor, dim = -1, descending = false): Sorted {
  requireBoolean("sort", "descending", descending);
  return sorted("sort", x, dim, descending, null);
}

/**
 * The k largest values of x [...] along `dim`, largest first, or the k smallest, smallest first. Of equal values those with the lowest index are
 * taken; NaN counts as the largest value.
 * @throws ArgumentError unless 0 ≤ k ≤ the size of the dimension
 */
export function topk(x: Tensor, k: number, dim = -1, largest = true): Sorted {
  requireBoolean("topk", "largest", largest);
  return sorted("topk", x, dim, largest, k);
}

function sorted(op: string, x: Tensor, dim: number, descending: boolean, k: number | null): Sorted {
  checkTensors(op, x);
  if (x.rank === 0) throw new ShapeError(`${op}: x must be [..., N]; got ${x}. Reshape it to [1].`);
  const d = normalizeDim(dim, x.rank, op);
  const n = x.shape[d]!;
  if (k !== null && !(Number.isInteger(k) && k >= 0 && k <= n))
    throw new ArgumentError(
      `${op}: k must be a whole number from 0 to ${n}, the size of dimension ${dim}; got ${k}. Change k.`,
    );
  return scope(() => {
    const order = [...[...x.shape.keys()].filter((i) => i !== d), d];
    const moved = x.strided(
      order.map((i) => x.shape[i]!),
      order.map((i) => x.strides[i]!),
    );
    const all = viewAs(orderOf(op, moved, descending), moved.shape);
    // The dimension goes back to its position; of topk only the first k columns are kept.
    const steps = order.map((_, i) => all.strides[order.indexOf(i)]!);
    const indices = contiguousCopy(all.strided(x.shape.with(d, k ?? n), steps));
    return { values: pick(x, d, indices), indices };
  });
}

/** Columns of each row of x [..., n] in the order of their values, u32 [rows, n]. */
function orderOf(op: string, x: Tensor, descending: boolean): Tensor {
  const columns = x.shape.at(-1)!;
  const rows = columns === 0 ? 0 : x.size / columns;
  const source = contiguousCopy(x);
  const make = (): Tensor => empty([rows, columns], { dtype: "u32", device: x.device });
  let [keys, indices] = [make(), make()];
  for (const { count, buffers } of windowsOf(op, rows, { x: source, keys, indices })) {
    launch(blocks, {
      use: { x: source.dtype, r: rankOf(source.dtype) },
      constants: { DESCENDING: descending },
      buffers,
      params: { rows: count, columns },
      grid: grid1d(Math.ceil((count * columns) / 64)),
      cost: {
        flops: BLOCK * count * columns,
        bytes: elementBytes(source.dtype, count * columns) + 8 * count * columns,
      },
    });
  }
  for (let length = BLOCK; length < columns; length *= 2) {
    const [mergedKeys, mergedIndices] = [make(), make()];
    const operands = { keys, indices, merged_keys: mergedKeys, merged_indices: mergedIndices };
    for (const { count, buffers } of windowsOf(op, rows, operands)) {
      launch(merge, {
        buffers,
        params: { rows: count, columns, length },
        grid: grid1d(Math.ceil((count * columns) / 64)),
        cost: { flops: Math.ceil(Math.log2(length)) * count * columns, bytes: 16 * count * columns },
      });
    }
    keys.dispose();
    indices.dispose();
    [keys, indices] = [mergedKeys, mergedIndices];
  }
  keys.dispose();
  return indices;
}
