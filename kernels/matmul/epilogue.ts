/** What products do to their rows besides multiplying: activations, and for few rows an RMS norm before and a gate after. Used by `launch.ts` and `quantized.ts`. */
import type { Capabilities, Constants, Library, Tensor, Uses } from "../../engine/index.ts";
import { rowVariant, rowWorkgroup } from "../core/rows.ts";
import { normSubgroup, normWorkgroup } from "./libraries.ts";

/** Activations that an epilogue computes, by their number in library `matmul_activation`. */
export const ACTIVATIONS = { gelu: 1, geluTanh: 2, silu: 3, relu: 4 } as const;
export type Activation = keyof typeof ACTIVATIONS;

/** An RMS norm over K that a product computes while it loads its rows, and how. */
export interface Norm {
  /** [K], contiguous */
  readonly weight: Tensor;
  readonly eps: number;
  /** Fills slot n. */
  readonly library: Library;
  readonly constants: Constants;
}

/**
 * How a product whose workgroups have `workgroup` invocations sums the squares of rows of `columns` as `rmsNorm` does, with the same bits; null if it
 * cannot.
 */
export function normSums(
  capabilities: Capabilities,
  columns: number,
  workgroup: number,
): Pick<Norm, "library" | "constants"> | null {
  const { library, constants } = rowVariant("rms_norm", capabilities, columns / 4);
  if (library === rowWorkgroup) return { library: normWorkgroup, constants: { NORM_LANES: constants.LANES } };
  // A row to each invocation would be summed by every one of them.
  return constants.LANES > 1 && constants.LANES === workgroup ? { library: normSubgroup, constants: {} } : null;
}

/** What a launch gets for these, and nothing if there is none of them. */
export function epilogueOf({ bias, norm, gated }: { bias: Tensor | null; norm?: Norm; gated?: boolean }): {
  /** The vector of the `bias` binding. */
  readonly bias: Tensor | null;
  readonly use: Uses;
  readonly constants: Constants;
  readonly params: { readonly scale: number; readonly eps: number };
} {
  const vector = norm?.weight ?? bias;
  return {
    bias: vector,
    use: { ...(vector && vector.dtype !== "f32" && { h: vector.dtype }), ...(norm && { n: norm.library }) },
    constants: { ...(norm && { NORM: true, ...norm.constants }), ...(gated && { GATED: true }) },
    params: norm ? { scale: 1 / norm.weight.size, eps: norm.eps } : { scale: 0, eps: 0 },
  };
}

/** What follows a product in one launch. */
export interface Steps {
  readonly biased: boolean;
  readonly residual: boolean;
  /** As in `ACTIVATIONS`; 0: none. */
  readonly activation: number;
}

/**
 * Pipelines take long to compile on software devices: one serves all epilogues of products with 1 or 2 rows, which are those of a decoding step. Other
 * products compile faster without the epilogues that they lack.
 */
export const isDecodingStep = (
  { software }: Capabilities,
  { kernel, rows }: { kernel: string; rows: number },
  { norm, gated }: { norm?: Norm; gated?: boolean },
): boolean => software && kernel === "register" && rows <= 2 && !norm && !gated;

/** What library `matmul_io` is told by constants, or `byParams` by a parameter. */
export function stepsOf(
  { biased, residual, activation }: Steps,
  byParams: boolean,
): { readonly constants: Constants; readonly flags: number } {
  return byParams
    ? { constants: { BY_PARAMS: true }, flags: (biased ? 1 : 0) + (residual ? 2 : 0) + 4 * activation }
    : { constants: { BIAS: biased, RESIDUAL: residual, ACTIVATION: activation }, flags: 0 };
}
