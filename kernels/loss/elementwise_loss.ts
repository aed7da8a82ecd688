/** Losses of elements: squared differences, and cross-entropy of probabilities or logits of two classes. */
import {
  ArgumentError,
  DTypeError,
  ShapeError,
  checkTensors,
  isFloat,
  knownOptions,
  library,
  record,
  sameShape,
  scope,
} from "../../engine/index.ts";
import type { Tensor } from "../../engine/index.ts";
import { finite } from "../core/libraries.ts";
import { expression, map } from "../core/map.ts";
import type { Expression } from "../core/map.ts";
import { mean, sum } from "../reduce/reduce.ts";
import type { LossReduction } from "./cross_entropy.ts";

export interface LossOptions {
  /** Reduction of the elements' losses (default: "mean"). */
  readonly reduction?: LossReduction;
}

interface LossFormulas {
  /** Over the input `a` and the target `b`. */
  readonly forward: Expression;
  /** Gradients of input and target, over the gradient `a`, the input `b` and the target `c`. */
  readonly backward: readonly [Expression, Expression];
}

const binary = library("binary_cross_entropy", new URL("./lib/binary_cross_entropy.wgsl", import.meta.url), [finite]);

const formulas = (op: string, forward: string, backward: readonly [string, string]): LossFormulas => ({
  forward: expression(`${op}.forward`, forward, binary),
  backward: [expression(`${op}.backward0`, backward[0], binary), expression(`${op}.backward1`, backward[1], binary)],
});

const LOSSES = {
  mseLoss: formulas("mseLoss", "(a - b) * (a - b)", ["2.0 * a * (b - c)", "-2.0 * a * (b - c)"]),
  binaryCrossEntropy: formulas("binaryCrossEntropy", "bce4(a, b)", [
    "a * bce_slope4(b, c)",
    "a * bce_target_slope4(b)",
  ]),
  binaryCrossEntropyWithLogits: formulas("binaryCrossEntropyWithLogits", "bce_logits4(a, b)", [
    "a * bce_logits_slope4(b, c)",
    "-a * b",
  ]),
} as const;

function loss(op: keyof typeof LOSSES, input: Tensor, target: Tensor, options: LossOptions): Tensor {
  checkTensors(op, input, target);
  knownOptions(op, options, ["reduction"]);
  const { reduction = "mean" } = options;
  if (!["sum", "mean", "none"].includes(reduction))
    throw new ArgumentError(`${op}: reduction must be "sum", "mean" or "none"; got ${String(reduction)}. Change it.`);
  for (const t of [input, target])
    if (!isFloat(t.dtype))
      throw new DTypeError(`${op}: input and target must have a floating dtype; got ${t}. Cast it to f32 first.`);
  if (!sameShape(input.shape, target.shape))
    throw new ShapeError(
      `${op}: input and target must have one shape; got ${input} and ${target}. Expand one of them.`,
    );
  const { forward, backward } = LOSSES[op];
  return scope(() => {
    const losses = record(
      op,
      [input, target],
      map(forward, [input, target], { dtype: "f32" }),
      [input, target],
      (g, kept, needs) =>
        backward.map((formula, i) => (needs[i] ? map(formula, [g, ...kept], { dtype: "f32", shape: g.shape }) : null)),
    );
    if (reduction === "none") return losses;
    return reduction === "sum" ? sum(losses) : mean(losses);
  });
}

/** (input − target)² of tensors of the same shape, averaged (default), summed, or per element: f32. */
export const mseLoss = (input: Tensor, target: Tensor, options: LossOptions = {}): Tensor =>
  loss("mseLoss", input, target, options);

/**
 * −(t log p + (1 − t) log(1 − p)) of probabilities p and targets t from 0 to 1, of one shape: f32. Logarithms are at
 * least −100, as in PyTorch; a p outside 0 … 1 gives NaN. Prefer `binaryCrossEntropyWithLogits`, which has no such
 * bounds.
 */
export const binaryCrossEntropy = (input: Tensor, target: Tensor, options: LossOptions = {}): Tensor =>
  loss("binaryCrossEntropy", input, target, options);

/** `binaryCrossEntropy(sigmoid(input), target)` without its loss of precision: f32. */
export const binaryCrossEntropyWithLogits = (input: Tensor, target: Tensor, options: LossOptions = {}): Tensor =>
  loss("binaryCrossEntropyWithLogits", input, target, options);
