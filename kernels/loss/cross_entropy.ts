/**
 * Cross-entropy of logits against class indices. The parts that `linear_cross_entropy.ts` shares walk the classes in runs of columns:
 * statistics of a run join those of the columns before, and the gradient of a run needs the row's log-sum alone.
 */
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
  knownOptions,
} from "../../engine/index.ts";
import type { Tensor } from "../../engine/index.ts";
import { product } from "../core/arithmetic.ts";
import { checkIdRange } from "../core/check_ids.ts";
import { fillInto } from "../core/copy.ts";
import { grid, opaque, rowLibrary, standard } from "../core/libraries.ts";
import { asDType, contiguousCopy, expression, map } from "../core/map.ts";
import { granulesOf, rowOperand } from "../core/rows.ts";
import { windowsOf } from "../core/windows.ts";
import { sum } from "../reduce/reduce.ts";

const partialKernel = kernel(
  "cross_entropy_partial",
  new URL("./cross_entropy_partial.wgsl", import.meta.url),
  { x: "read", partial: "write" },
  { rows: "u32", granules: "u32", chunks: "u32" },
  standard,
);

const combineKernel = kernel(
  "cross_entropy_combine",
  new URL("./cross_entropy_combine.wgsl", import.meta.url),
  { partial: "read", x: "read", targets: "read", state: "read_write" },
  { rows: "u32", first: "u32", columns: "u32", column: "u32", chunks: "u32" },
  standard,
);

const finishKernel = kernel(
  "cross_entropy_finish",
  new URL("./cross_entropy_finish.wgsl", import.meta.url),
  { state: "read", targets: "read", losses: "write", lse: "write", counted: "write" },
  { rows: "u32", classes: "u32", ignore: "i32" },
  [grid, opaque],
);

const backwardKernel = kernel(
  "cross_entropy_backward",
  new URL("./cross_entropy_backward.wgsl", import.meta.url),
  { x: "read", lse: "read", targets: "read", coefficient: "read", dx: "write" },
  { rows: "u32", first: "u32", granules: "u32", steps: "u32", column: "u32" },
  standard,
);

const meanOf = expression("crossEntropy.mean", "a / max(b, V4_b(1.0))");
const coefficientOf = expression("crossEntropy.coefficient", "a * b / max(c, V4_c(1.0))");

/** Granules that one invocation walks for a row's statistics, and the most chunks of a row: one invocation joins them. */
const CHUNK_GRANULES = 32;
const MAX_CHUNKS = 128;

export type LossReduction = "sum" | "mean" | "none";

export interface CrossEntropyOptions {
  /** Rows with this target count nowhere. */
  readonly ignoreIndex?: number;
  /** Reduction of the rows' losses; `"mean"` divides by the number of rows that count (by 1 if none does). */
  readonly reduction?: LossReduction;
}

/** Running statistics of each row: state f32 [M, 4]. `joinColumns` initialises them with column 0. */
export const newState = (rows: number, like: Tensor): Tensor => empty([rows, 4], { device: like.device });

/**
 * Joins the logits x [rows, columns] (bindable), whose first column is class `column` and whose rows are rows `first` … of the targets
 * and the state. Columns come in ascending order, the first with column 0.
 */
export function joinColumns(x: Tensor, targets: Tensor, state: Tensor, column: number, first = 0): void {
  const [rows, columns] = x.shape as [number, number];
  const granules = granulesOf(columns);
  const chunks = Math.min(MAX_CHUNKS, Math.ceil(granules / CHUNK_GRANULES));
  const use = { x: rowLibrary(x.dtype, columns) };
  for (const { start, count, buffers } of windowsOf("crossEntropy", rows, { x })) {
    const partial = empty([count, chunks, 2], { device: x.device });
    launch(partialKernel, {
      use,
      buffers: { ...buffers, partial },
      params: { rows: count, granules, chunks },
      grid: grid1d(Math.ceil((count * chunks) / 64)),
      cost: { flops: 3 * count * columns, bytes: elementBytes(x.dtype, count * columns) },
    });
    launch(combineKernel, {
      use,
      buffers: { ...buffers, partial, targets, state },
      params: { rows: count, first: first + start, columns, column, chunks },
      grid: grid1d(Math.ceil(count / 64)),
      cost: { flops: 4 * count * chunks, bytes: 8 * count * chunks },
    });
    partial.dispose();
  }
}

export interface RowLosses {
  /** f32 [M]: 0 for rows that do not count. */
  readonly losses: Tensor;
  /** f32 [M]: log Σ e^logit. */
  readonly lse: Tensor;
  /** f32 [M]: 1 for rows that count, else 0. */
  readonly counted: Tensor;
}

/** The losses of rows whose columns have all been joined. */
export function finishRows(state: Tensor, targets: Tensor, classes: number, ignoreIndex: number): RowLosses {
  const rows = targets.size;
  const [losses, lse, counted] = [0, 1, 2].map(() => empty([rows], { device: state.device })) as [
    Tensor,
    Tensor,
    Tensor,
  ];
  launch(finishKernel, {
    buffers: { state, targets, losses, lse, counted },
    params: { rows, classes, ignore: ignoreIndex },
    grid: grid1d(Math.ceil(rows / 64)),
    cost: { flops: 10 * rows, bytes: 32 * rows },
  });
  return { losses, lse, counted };
}

/** Combined losses of the rows, and the number of rows that count (f32 []) if the reduction is the mean. */
export function reduceLosses(
  { losses, counted }: RowLosses,
  reduction: LossReduction,
): { loss: Tensor; count: Tensor | null } {
  if (reduction === "none") return { loss: losses, count: null };
  const total = sum(losses);
  if (reduction === "sum") return { loss: total, count: null };
  const count = sum(counted);
  return { loss: map(meanOf, [total, count]), count };
}

/** Returns the factor of each row's gradient: f32 [M], 0 for rows that do not count. `g` is the gradient of the loss, [] or [M]. */
export function rowCoefficients(g: Tensor, counted: Tensor, count: Tensor | null): Tensor {
  const options = { dtype: "f32", shape: counted.shape } as const;
  return count ? map(coefficientOf, [counted, g, count], options) : map(product, [counted, g], options);
}

/** The gradient of the logits x [rows, columns], which lie as in `joinColumns`, written to `dx` of their shape. */
export function columnsBackward(
  x: Tensor,
  dx: Tensor,
  lse: Tensor,
  targets: Tensor,
  coefficient: Tensor,
  column: number,
  first = 0,
): void {
  const [rows, columns] = x.shape as [number, number];
  const granules = granulesOf(columns);
  const steps = Math.ceil(granules / 4);
  for (const { start, count, buffers } of windowsOf("crossEntropy backward", rows, { x, dx })) {
    launch(backwardKernel, {
      use: { x: rowLibrary(x.dtype, columns), y: rowLibrary(dx.dtype, columns) },
      buffers: { ...buffers, lse, targets, coefficient },
      params: { rows: count, first: first + start, granules, steps, column },
      grid: grid1d(Math.ceil((count * steps) / 64)),
      cost: {
        flops: 4 * count * columns,
        bytes: elementBytes(x.dtype, count * columns) + elementBytes(dx.dtype, count * columns),
      },
    });
  }
}

/** Throws if `targets` are not i32 or u32 [M], or if an option is unknown or out of range. */
export function checkTargets(op: string, rows: number, targets: Tensor, ignoreIndex: number, reduction: string): void {
  if (targets.dtype !== "i32" && targets.dtype !== "u32")
    throw new DTypeError(`${op}: the targets must be i32 or u32; got ${targets}. Cast them.`);
  if (targets.rank !== 1 || targets.size !== rows)
    throw new ShapeError(
      `${op}: targets must have one class index for each of the ${rows} rows; got ${targets}. Reshape them.`,
    );
  if (!["sum", "mean", "none"].includes(reduction))
    throw new ArgumentError(`${op}: reduction must be "sum", "mean" or "none"; got "${reduction}". Change it.`);
  if (!Number.isInteger(ignoreIndex) || Math.abs(ignoreIndex) > 2 ** 31 - 1)
    throw new ArgumentError(`${op}: ignoreIndex must be a 32-bit integer; got ${ignoreIndex}. Change it.`);
}

/**
 * Cross-entropy: logits [M, V], targets i32 or u32 [M] → −log softmax(logits)[target], f32: summed or averaged [] (the default is the
 * mean), or each row's [M]. Statistics are f32 for any dtype of the logits; the gradient has the dtype of the logits. A
 * target that is neither `ignoreIndex` (default −100) nor a class 0 … V − 1 is ignored too, a device with `checks`
 * reports it as an error: check labels on the host.
 */
export function crossEntropy(logits: Tensor, targets: Tensor, options: CrossEntropyOptions = {}): Tensor {
  checkTensors("crossEntropy", logits, targets);
  knownOptions("crossEntropy", options, ["ignoreIndex", "reduction"]);
  const { ignoreIndex = -100, reduction = "mean" } = options;
  if (!isFloat(logits.dtype))
    throw new DTypeError(`crossEntropy: the logits must have a floating dtype; got ${logits}. Cast it to f32 first.`);
  if (logits.rank !== 2 || logits.shape[1] === 0)
    throw new ShapeError(
      `crossEntropy: logits must be [M, V] with V ≥ 1; got ${logits}. Flatten the dimensions before V.`,
    );
  const [rows, classes] = logits.shape as [number, number];
  checkTargets("crossEntropy", rows, targets, ignoreIndex, reduction);
  checkIdRange("crossEntropy", "targets", targets, classes, ignoreIndex);
  const dtype = logits.dtype;
  const [loss, saved, mean] = scope(() => {
    if (rows === 0) return [zero(reduction === "none" ? [0] : [], logits), [], false] as const;
    const x = rowOperand(logits, classes);
    const labels = contiguousCopy(targets);
    const state = newState(rows, logits);
    joinColumns(x, labels, state, 0);
    const found = finishRows(state, labels, classes, ignoreIndex);
    const { loss: total, count } = reduceLosses(found, reduction);
    return [total, [x, labels, found.lse, found.counted, ...(count ? [count] : [])], count !== null] as const;
  });
  const y = record("crossEntropy", [logits], loss, saved, (g, kept) => {
    if (!kept.length) return [zero([0, classes], g)];
    const [x, labels, lse, counted, count] = kept as [Tensor, Tensor, Tensor, Tensor, Tensor | undefined];
    const coefficient = rowCoefficients(g, counted, mean ? count! : null);
    const dx = empty([rows, classes], { dtype: x.dtype, device: x.device });
    columnsBackward(x, dx, lse, labels, coefficient, 0);
    return [asDType(dx, dtype)];
  });
  for (const t of saved) if (t !== logits && t !== targets) t.dispose();
  return y;
}

function zero(shape: readonly number[], like: Tensor): Tensor {
  const y = empty(shape, { device: like.device });
  fillInto(y, 0);
  return y;
}
