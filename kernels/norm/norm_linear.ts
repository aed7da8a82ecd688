/** RMS norm, linear layer and SwiGLU: one launch for the few rows of a decoding step, else one after the other with the same bits. */
import {
  checkTensors,
  contiguousStrides,
  elementBytes,
  empty,
  gradEnabled,
  isFloat,
  knownOptions,
  scope,
} from "../../engine/index.ts";
import type { Device, Tensor } from "../../engine/index.ts";
import { contiguousCopy } from "../core/map.ts";
import { bucket, chooseVariant } from "../core/variants.ts";
import type { Family, Variant } from "../core/variants.ts";
import { rmsNorm } from "./norm.ts";
import { swiglu } from "../pointwise/activations.ts";
import { normSums } from "../matmul/epilogue.ts";
import type { Norm } from "../matmul/epilogue.ts";
import { runProduct } from "../matmul/launch.ts";
import { linear } from "../matmul/linear.ts";
import { QuantizedWeight, quantizedProduct } from "../matmul/quantized.ts";
import { quantizedVariant } from "../matmul/quantized_variants.ts";
import { MAX_VECTOR_ROWS, matmulVariant } from "../matmul/variants.ts";

export interface NormLinearOptions {
  /** Of the norm, as for `rmsNorm` (default: 1e-6). */
  readonly eps?: number;
  /** The weight's rows are those of the gate, then those of up: the result is silu(gate) · up, [..., N / 2]. */
  readonly gated?: boolean;
}

/** How the norm of a few rows is computed: in the product's launch, or in one before it. */
interface NormProblem {
  readonly m: number;
  readonly n: number;
  readonly k: number;
}

/**
 * Software devices take two launches, for a load is what costs there: three layers of 1B decode two rows in 137 ms of processor time so, in 149 with
 * the norm inside (bf16, lavapipe). GPUs save a launch; not yet measured on one.
 */
const NORM_LINEAR: readonly Variant<NormProblem, boolean>[] = [
  { name: "fused", preferred: (c) => !c.software, choose: () => true },
  { name: "apart", choose: () => false },
];
/** Few rows are one class whatever their number. The choice is true if one launch computes both. */
export const NORM_LINEAR_FAMILY: Family<NormProblem, boolean> = {
  name: "norm_linear",
  table: NORM_LINEAR,
  classOf: ({ n, k }) => `${bucket(n)}×${bucket(k)}`,
};

/**
 * linear(rmsNorm(x, gain, eps), weight), with `gated` also `swiglu` of it: x [..., K], gain [K], weight [N, K] → [..., N] or [..., N / 2]. The results
 * and errors of these ops. For few rows of f32 without gradients the gate is in the product's launch, and the norm can be: each workgroup then
 * computes that of its rows.
 */
export function normLinear(
  x: Tensor,
  gain: Tensor,
  weight: Tensor | QuantizedWeight,
  options: NormLinearOptions = {},
): Tensor {
  knownOptions("normLinear", options, ["eps", "gated"]);
  const { eps = 1e-6, gated = false } = options;
  const parts = weight instanceof QuantizedWeight ? [weight.words, weight.scales] : [weight];
  checkTensors("normLinear", x, gain, ...parts);
  const workgroup = workgroupOf(x, gain, weight, gated);
  const norm = workgroup === null ? null : normOf(x, gain, weight, { eps, workgroup });
  return scope(() => {
    if (norm) return fewRows(x, weight, { norm, gated });
    const rows = rmsNorm(x, gain, eps);
    if (!gated) return linear(rows, weight);
    return workgroup === null ? swiglu(linear(rows, weight)) : fewRows(rows, weight, { gated });
  });
}

/** Invocations of a workgroup of the kernel for few rows; null if another kernel runs, or if an operand is wrong. */
function workgroupOf(x: Tensor, gain: Tensor, weight: Tensor | QuantizedWeight, gated: boolean): number | null {
  const [n, k] = weight.shape as [number, number];
  const m = k > 0 ? x.size / k : 0;
  const { device } = x;
  const isSized = x.rank > 1 && weight.shape.length === 2 && x.shape.at(-1) === k && gain.shape.join() === String(k);
  const isFitting = k % 4 === 0 && n % (gated ? 4 : 1) === 0 && n > 0 && m > 0 && m <= MAX_VECTOR_ROWS;
  if (!isSized || !isFitting || x.dtype !== "f32" || !x.isBindable || !isFloat(gain.dtype)) return null;
  const tensors = weight instanceof QuantizedWeight ? [] : [weight];
  if (gradEnabled() && [x, gain, ...tensors].some((t) => t.requiresGrad)) return null;
  if (gated && !isOnePart(device, weight, m)) return null;
  const choice =
    weight instanceof QuantizedWeight
      ? quantizedVariant(device.capabilities, { m, n, k, a: x.dtype, kind: weight.kind })
      : plainVariant(device, weight, m);
  if (choice?.kernel !== "vector" && choice?.kernel !== "register") return null;
  return choice.constants["WORKGROUP"] as number;
}

/** How the product's launch computes the norm; null if it does not. */
function normOf(
  { size, device: { capabilities } }: Tensor,
  gain: Tensor,
  { shape }: Tensor | QuantizedWeight,
  { eps, workgroup }: { readonly eps: number; readonly workgroup: number },
): Norm | null {
  const [n, k] = shape as [number, number];
  const isFused = eps > 0 && Number.isFinite(eps) && chooseVariant(NORM_LINEAR_FAMILY, capabilities, { m: size / k, n, k }); // prettier-ignore
  const sums = isFused && normSums(capabilities, k, workgroup);
  return sums ? { weight: contiguousCopy(gain), eps, ...sums } : null;
}

/** Null for a weight that would have to be packed first, by itself or in panels. */
function plainVariant(device: Device, weight: Tensor, m: number): ReturnType<typeof matmulVariant> | null {
  const [n, k] = weight.shape as [number, number];
  if (!isFloat(weight.dtype) || !weight.isContiguous || weight.offset % 4) return null;
  const shape = { batches: 1, m, n, k, transA: false, transB: true };
  const choice = matmulVariant(device.capabilities, { ...shape, a: "f32", b: weight.dtype, packs: false });
  return choice.panels ? null : choice;
}

/** True if no binding or bound on work makes the product split: the halves of a gated one must meet in one launch. */
function isOnePart(device: Device, weight: Tensor | QuantizedWeight, m: number): boolean {
  const [n, k] = weight.shape as [number, number];
  const largest = weight instanceof QuantizedWeight ? weight.words : weight;
  const slack = 2 * device.limits.minStorageBufferOffsetAlignment;
  return (
    elementBytes(largest.dtype, largest.size) + slack <= device.limits.maxStorageBufferBindingSize &&
    2 * m * n * k <= device.maxDispatchWork
  );
}

function fewRows(
  x: Tensor,
  weight: Tensor | QuantizedWeight,
  more: { readonly norm?: Norm; readonly gated: boolean },
): Tensor {
  const [n, k] = weight.shape as [number, number];
  const rows = x.strided([x.size / k, k], [k, 1]);
  const columns = more.gated ? n / 2 : n;
  const shape = [...x.shape.slice(0, -1), columns];
  const product = { op: "normLinear", bias: null, activation: null, residual: null, ...more };
  if (weight instanceof QuantizedWeight)
    return quantizedProduct({ ...product, x: rows, weight, dtype: "f32" }).strided(shape, contiguousStrides(shape));
  const y = empty([x.size / k, columns], { device: x.device });
  runProduct({ ...product, a: rows, b: weight, transA: false, transB: true, y, alpha: 1, accumulate: false });
  return y.strided(shape, contiguousStrides(shape));
}
