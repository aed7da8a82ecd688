/** Finds the cause of a step that was not finite, in this order: weights, images, samples, gradients. It runs only after such a step. */
import { isFloat, scope } from "../engine/index.ts";
import type { Tensor } from "../engine/index.ts";
import { countNonFinite, stack } from "../kernels/index.ts";

export type NotFiniteCause =
  /** Tensors with elements that are not finite, and how many were looked at. Gradients without any are too large for their norm to be an f32. */
  | { readonly kind: "weights" | "gradients"; readonly tensors: readonly string[]; readonly of: number }
  /** Gradients have left the range of f16; all else is finite. */
  | { readonly kind: "overflow" }
  /** Samples whose pixels, or whose loss with weights that are finite, are not. */
  | { readonly kind: "images" | "samples"; readonly samples: readonly string[] };

/** Tensors or samples that a message names; the log has all. */
const MAX_NAMED = 8;

/** Up to eight of `names`, and how many more there are. */
export function someNames(names: readonly string[]): string {
  const more = names.length - MAX_NAMED;
  return [...names.slice(0, MAX_NAMED), ...(more > 0 ? [`${more} more`] : [])].join(", ");
}

/** Names of the tensors with elements that are infinite or NaN, in their order. Reads each once on the device, and one count of each back. */
export async function namesNotFinite(tensors: Iterable<readonly [string, Tensor]>): Promise<string[]> {
  const floats = [...tensors].filter(([, { dtype }]) => isFloat(dtype));
  if (!floats.length) return [];
  const counts = scope(() => stack(floats.map(([, t]) => countNonFinite(t))));
  try {
    const values = await counts.data();
    return floats.flatMap(([name], i) => (values[i]! > 0 ? [name] : []));
  } finally {
    counts.dispose();
  }
}

export const isFiniteArray = (values: Float32Array): boolean => values.every((v) => Number.isFinite(v));

/** Returns the text for a cause, and the advice. `lossScale` is the scale at which gradients in f16 overflowed. */
export function causeText(
  cause: NotFiniteCause,
  lossScale?: number,
): { readonly found: string; readonly advice: string } {
  switch (cause.kind) {
    case "weights":
      return {
        found: `weights not finite: ${someNames(cause.tensors)} (${cause.tensors.length} of ${cause.of} tensors)`,
        advice:
          "Training cannot repair these weights: begin with a checkpoint in which they are finite, and with a lower optimizer.lr if steps of this run caused it", // prettier-ignore
      };
    case "images":
      return {
        found: `images not finite: ${someNames(cause.samples)}`,
        advice: "Take these images out, or repair them",
      };
    case "samples":
      return {
        found: `samples: ${someNames(cause.samples)}`,
        advice: "The weights are finite: check these samples; if they are correct, lower optimizer.lr",
      };
    case "overflow":
      return {
        found: `gradient overflow in f16${lossScale === undefined ? "" : ` (loss scale ${lossScale})`}`,
        advice: "The loss scale falls by itself; if steps are still skipped, train with dtype=bf16",
      };
    case "gradients":
      return {
        found: cause.tensors.length
          ? `gradients not finite: ${someNames(cause.tensors)} (${cause.tensors.length} of ${cause.of} tensors)`
          : "the norm of the gradients is beyond f32",
        advice: "Weights and losses are finite, backward overflows: lower optimizer.lr or the weights of the losses",
      };
  }
}
