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
import { rmsNorm } from "../norm/norm.ts";
import { swiglu } from "../pointwise/activations.ts";
import { normSums } from "./epilogue.ts";
import type { Norm } from "./epilogue.ts";
import { runProduct } from "./launch.ts";
import { linear } from "./linear.ts";
import { QuantizedWeight, quantizedProduct } from "./quantized.ts";
import { quantizedVariant } from "./quantized_variants.ts";
import { MAX_VECTOR_ROWS, matmulVariant } from "./variants.ts";

export interface NormLinearOptions {
  /** Of the norm, as for `rmsNorm` (default: 1e-6). */
  readonly eps?: number;
  /** The weight's rows are those of the gate, then those of up: the result is silu(gate) · up, [..., N / 2]. */
  readonly gated?: boolean;
}

/**
 * linear(rmsNorm(x, gain, eps), weight), with `gated` also `swiglu` of it: x [..., K], gain [K], weight [N, K] → [..., N] or [..., N / 2]. The results
 * and errors of these ops. One launch for few rows of f32 without gradients: each workgroup computes the norm of its rows.
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
  const norm = fusedNorm(x, gain, weight, { eps, gated });
  if (norm) return fused(x, weight, norm, gated);
  return scope(() => {
    const y = linear(rmsNorm(x, gain, eps), weight);
    return gated ? swiglu(y) : y;
  });
}

/**
 * Rows up to which a launch computes the norm. On GPUs all rows of the kernel for few rows, since kernels may round otherwise; software devices,
 * which round alike, take a launch of its own as soon as that is faster.
 */
const maxRows = ({ capabilities }: Device): number => (capabilities.software ? MAX_SOFTWARE_ROWS : MAX_VECTOR_ROWS);
const MAX_SOFTWARE_ROWS = 4;

/** How one launch computes the norm; null if it cannot, or if an operand is wrong. */
function fusedNorm(
  x: Tensor,
  gain: Tensor,
  weight: Tensor | QuantizedWeight,
  { eps, gated }: Required<NormLinearOptions>,
): Norm | null {
  const [n, k] = weight.shape as [number, number];
  const m = k > 0 ? x.size / k : 0;
  const { device } = x;
  const isSized = x.rank > 1 && weight.shape.length === 2 && x.shape.at(-1) === k && gain.shape.join() === String(k) && eps > 0 && Number.isFinite(eps); // prettier-ignore
  const isFitting = k % 4 === 0 && n % (gated ? 4 : 1) === 0 && n > 0 && m > 0 && m <= maxRows(device);
  if (!isSized || !isFitting || x.dtype !== "f32" || !x.isBindable || !isFloat(gain.dtype)) return null;
  const tensors = weight instanceof QuantizedWeight ? [] : [weight];
  if (gradEnabled() && [x, gain, ...tensors].some((t) => t.requiresGrad)) return null;
  if (gated && !isOnePart(device, weight, m)) return null;
  const choice =
    weight instanceof QuantizedWeight
      ? quantizedVariant(device.capabilities, { m, n, k, a: x.dtype, kind: weight.kind })
      : plainVariant(device, weight, m);
  if (choice?.kernel !== "vector" && choice?.kernel !== "register") return null;
  const sums = normSums(device.capabilities, k, choice.constants["WORKGROUP"] as number);
  return sums && { weight: contiguousCopy(gain), eps, ...sums };
}

/** Null for a weight that would have to be packed first. */
function plainVariant(device: Device, weight: Tensor, m: number): ReturnType<typeof matmulVariant> | null {
  const [n, k] = weight.shape as [number, number];
  if (!isFloat(weight.dtype) || !weight.isContiguous || weight.offset % 4) return null;
  const shape = { batches: 1, m, n, k, transA: false, transB: true };
  return matmulVariant(device.capabilities, { ...shape, a: "f32", b: weight.dtype, packs: false });
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

function fused(x: Tensor, weight: Tensor | QuantizedWeight, norm: Norm, gated: boolean): Tensor {
  return scope(() => {
    const [n, k] = weight.shape as [number, number];
    const rows = x.strided([x.size / k, k], [k, 1]);
    const columns = gated ? n / 2 : n;
    const shape = [...x.shape.slice(0, -1), columns];
    const none = { bias: null, activation: null, residual: null };
    if (weight instanceof QuantizedWeight) {
      const y = quantizedProduct({ op: "normLinear", x: rows, weight, dtype: "f32", norm, gated, ...none });
      return y.strided(shape, contiguousStrides(shape));
    }
    const y = empty([x.size / k, columns], { device: x.device });
    runProduct({ op: "normLinear", a: rows, b: weight, transA: false, transB: true, y, alpha: 1, accumulate: false, norm, gated, ...none }); // prettier-ignore
    return y.strided(shape, contiguousStrides(shape));
  });
}
