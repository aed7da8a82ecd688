/**
 * Cross-entropy of x · weightᵗ without its logits: they are made for a run of classes and rows at a time, joined into the rows'
 * statistics, and recomputed in backward. Memory is that of one run for any vocabulary size.
 */
import {
  ArgumentError,
  DTypeError,
  ShapeError,
  checkTensors,
  empty,
  isFloat,
  record,
  scope,
  knownOptions,
} from "../../engine/index.ts";
import type { Prior, Tensor } from "../../engine/index.ts";
import { checkIdRange } from "../core/check_ids.ts";
import { sumPair } from "../core/arithmetic.ts";
import { copyInto, fillInto } from "../core/copy.ts";
import {
  checkTargets,
  columnsBackward,
  finishRows,
  joinColumns,
  newState,
  reduceLosses,
  rowCoefficients,
} from "./cross_entropy.ts";
import type { CrossEntropyOptions } from "./cross_entropy.ts";
import { contiguousCopy, copy, map } from "../core/map.ts";
import { gemm } from "../matmul/matmul.ts";
import { sum } from "../reduce/reduce.ts";

export interface LinearCrossEntropyOptions extends CrossEntropyOptions {
  /** [V], added to the logits. */
  readonly bias?: Tensor | null;
  /** Classes whose logits are held at a time; the default keeps a run of logits at 64 MiB or less. */
  readonly chunk?: number;
}

/** Rows of a run: with the default chunk 64 MiB of f32 logits. */
const RUN_ROWS = 4096;
const RUN_LOGITS = 1 << 24;
const MAX_CLASSES = 8192;

interface Run {
  readonly column: number;
  readonly classes: number;
  readonly first: number;
  readonly rows: number;
}

/** Runs of classes from the first on, for each of them runs of rows. */
function* runsOf(rows: number, classes: number, chunk: number): Generator<Run> {
  for (let column = 0; column < classes; column += chunk) {
    for (let first = 0; first < rows; first += RUN_ROWS) {
      yield { column, classes: Math.min(chunk, classes - column), first, rows: Math.min(RUN_ROWS, rows - first) };
    }
  }
}

const rowsOf = (t: Tensor, first: number, count: number): Tensor =>
  t.strided([count, t.shape[1]!], t.strides, t.offset + first * t.strides[0]!);

/** The logits of a run, f32 [rows, classes]; the caller disposes them. */
function logitsOf(x: Tensor, weight: Tensor, bias: Tensor | null, run: Run): Tensor {
  return scope(() =>
    gemm({
      a: rowsOf(x, run.first, run.rows),
      b: rowsOf(weight, run.column, run.classes),
      transB: true,
      bias: bias && bias.strided([run.classes], bias.strides, bias.offset + run.column * bias.strides[0]!),
      dtype: "f32",
    }),
  );
}

/**
 * Cross-entropy of linear logits: x [M, K], weight [V, K], targets i32 or u32 [M] → the loss of logits x · weightᵗ (+
 * bias) as in `crossEntropy`: f32 [], summed or averaged (the default), or each row's [M]. The logits [M, V] are never stored. Rows whose
 * target is ignored have a gradient of exactly 0; the gradients are f32.
 */
export function linearCrossEntropy(
  x: Tensor,
  weight: Tensor,
  targets: Tensor,
  options: LinearCrossEntropyOptions = {},
): Tensor {
  knownOptions("linearCrossEntropy", options, ["bias", "ignoreIndex", "reduction", "chunk"]);
  const { bias = null, ignoreIndex = -100, reduction = "mean" } = options;
  checkTensors("linearCrossEntropy", x, weight, targets, bias);
  for (const t of [x, weight, bias])
    if (t && !isFloat(t.dtype))
      throw new DTypeError(
        `linearCrossEntropy: every tensor must have a floating dtype; got ${t}. Cast it to f32 first.`,
      );
  if (x.rank !== 2 || weight.rank !== 2 || x.shape[1] !== weight.shape[1] || weight.shape[0] === 0) {
    throw new ShapeError(
      `linearCrossEntropy: x must be [M, K] and weight [V, K] with V ≥ 1; got ${x} and ${weight}. Flatten the dimensions before K.`,
    );
  }
  const [rows, k] = x.shape as [number, number];
  const classes = weight.shape[0]!;
  if (bias && (bias.rank !== 1 || bias.size !== classes))
    throw new ShapeError(
      `linearCrossEntropy: bias must be [${classes}], one value per class; got ${bias}. Reshape it.`,
    );
  checkTargets("linearCrossEntropy", rows, targets, ignoreIndex, reduction);
  const most = Math.max(1024, Math.min(MAX_CLASSES, RUN_LOGITS / Math.max(1, Math.min(rows, RUN_ROWS))));
  const chunk = options.chunk ?? Math.floor(most / 64) * 64;
  if (!Number.isInteger(chunk) || chunk < 1)
    throw new ArgumentError(`linearCrossEntropy: chunk must be a whole number ≥ 1; got ${chunk}. Change it.`);

  checkIdRange("linearCrossEntropy", "targets", targets, classes, ignoreIndex);
  const [loss, saved] = scope(() => {
    if (rows === 0) return [zeros(reduction === "none" ? [0] : [], x), []] as const;
    const labels = contiguousCopy(targets);
    const state = newState(rows, x);
    for (const run of runsOf(rows, classes, chunk)) {
      const logits = logitsOf(x, weight, bias, run);
      joinColumns(logits, labels, state, run.column, run.first);
      logits.dispose();
    }
    const found = finishRows(state, labels, classes, ignoreIndex);
    const { loss: total, count } = reduceLosses(found, reduction);
    return [total, [labels, found.lse, found.counted, ...(count ? [count] : [])]] as const;
  });
  const y = record(
    "linearCrossEntropy",
    [x, weight, bias],
    loss,
    [x, weight, ...(bias ? [bias] : []), ...saved],
    (g, kept, needs, priors) => {
      const [xs, ws, ...rest] = kept as [Tensor, Tensor, ...Tensor[]];
      const b = bias ? rest.shift()! : null;
      const dx = needs[0] ? (rows ? empty([rows, k], { device: g.device }) : zeros([0, k], g)) : null;
      const prior = needs[1] && rows ? priors.take(1) : null;
      const dweight = needs[1] ? (rows ? begun(prior, [classes, k], g) : zeros([classes, k], g)) : null;
      const dbias = needs[2] ? zeros([classes], g) : null;
      if (!rows) return [dx, dweight, dbias];
      const [labels, lse, counted, count = null] = rest as [Tensor, Tensor, Tensor, Tensor?];
      const coefficient = rowCoefficients(g, counted, count);
      for (const run of runsOf(rows, classes, chunk)) {
        scope(() => {
          const logits = logitsOf(xs, ws, b, run);
          const dlogits = empty(logits.shape, { device: g.device });
          columnsBackward(logits, dlogits, lse, labels, coefficient, run.column, run.first);
          const accumulate = run.first > 0;
          if (dx)
            gemm({
              a: dlogits,
              b: rowsOf(ws, run.column, run.classes),
              out: rowsOf(dx, run.first, run.rows),
              accumulate: run.column > 0,
            });
          if (dweight)
            gemm({
              a: dlogits,
              transA: true,
              b: rowsOf(xs, run.first, run.rows),
              out: rowsOf(dweight, run.column, run.classes),
              accumulate: accumulate || !!prior?.sum,
            });
          if (dbias) addColumns(dbias.strided([run.classes], [1], run.column), dlogits, accumulate);
        });
      }
      return [dx, dweight, dbias];
    },
  );
  for (const t of saved) if (t !== targets) t.dispose();
  return y;
}

/** What the weight's gradient is added to: the sum so far, f32, or undefined values of `shape`. */
const begun = (prior: Prior | null, shape: readonly number[], { device }: Tensor): Tensor => {
  if (!prior?.sum) return empty(shape, { device });
  return prior.inPlace && prior.sum.dtype === "f32" ? prior.sum : map(copy, [prior.sum], { dtype: "f32" });
};

/** The sums of the columns of `dlogits` into a part of dbias, or added to it. */
function addColumns(into: Tensor, dlogits: Tensor, accumulate: boolean): void {
  const part = sum(dlogits, 0);
  copyInto(into, accumulate ? map(sumPair, [into, part]) : part);
}

function zeros(shape: readonly number[], like: Tensor): Tensor {
  const y = empty(shape, { device: like.device });
  fillInto(y, 0);
  return y;
}
