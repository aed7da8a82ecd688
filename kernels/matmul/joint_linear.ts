/** Linear layers of one input as one product: their weights lie behind one another in memory. */
import { ShapeError, checkTensors, knownOptions, record, scope } from "../../engine/index.ts";
import type { DType, Prior, Priors, Tensor } from "../../engine/index.ts";
import { inputGradient, weightGradient } from "./linear.ts";
import { asMatrix, product, resultDType } from "./matmul.ts";

/**
 * Matrices [Nᵢ, K] that lie behind one another in one storage, as one view [ΣNᵢ, K]; null if they do not, or have different dtypes. Not on the
 * tape.
 */
export function joinedRows(parts: readonly Tensor[]): Tensor | null {
  const [first] = parts;
  if (!first) return null;
  const columns = first.shape[1]!;
  let end = first.offset;
  for (const part of parts) {
    const isNext = part.storage === first.storage && part.dtype === first.dtype && part.offset === end;
    if (!isNext || part.strides.join() !== `${columns},1` || part.shape[1] !== columns) return null;
    end += part.size;
  }
  return first.strided([(end - first.offset) / columns, columns], [columns, 1], first.offset);
}

/**
 * x [..., K] times each of the weights [Nᵢ, K] transposed, the results behind one another: → [..., ΣNᵢ], of `dtype`, by default f32 or the 16-bit
 * dtype of both. The bits are those of single `linear` layers. Gradients of the weights are f32, parts of one tensor.
 * @throws ShapeError if the weights do not lie behind one another in one storage, or x does not fit them
 */
export function jointLinear(x: Tensor, weights: readonly Tensor[], options: { readonly dtype?: DType } = {}): Tensor {
  knownOptions("jointLinear", options, ["dtype"]);
  checkTensors("jointLinear", x, ...weights);
  return scope(() => {
    const whole = weights.every((w) => w.rank === 2) ? joinedRows(weights) : null;
    if (!whole || x.rank < 2 || x.shape.at(-1) !== whole.shape[1])
      throw new ShapeError(
        `jointLinear: x must be [..., M, K] and the weights [N, K], behind one another in one storage; got ${x} and ${weights.join(", ")}. Use linear() for each.`,
      );
    const y = product("jointLinear", { a: x, b: whole, transB: true, dtype: options.dtype ?? resultDType(x, whole) });
    const isTrained = weights.some((w) => w.requiresGrad);
    const saved = [...(isTrained ? [x] : []), ...(x.requiresGrad ? [whole] : [])];
    const [shape, dtype] = [x.shape, x.dtype];
    const sizes = weights.map((w) => w.shape[0]!);
    return record("jointLinear", [x, ...weights], y, saved, (g, kept, needs, priors) => {
      const flat = asMatrix(g);
      return [
        needs[0] ? inputGradient(flat, kept.at(-1)!, shape, dtype, priors) : null,
        ...(isTrained ? weightGradients(flat, asMatrix(kept[0]!), sizes, needs.slice(1), priors) : weights.map(() => null)), // prettier-ignore
      ];
    });
  });
}

/** The weights' gradients, of `sizes` rows: by one product, if all are needed and what they are added to lies together. */
function weightGradients(
  g: Tensor,
  x: Tensor,
  sizes: readonly number[],
  needs: readonly boolean[],
  priors: Priors,
): (Tensor | null)[] {
  const taken = sizes.map((_, i) => (needs[i] ? priors.take(i + 1) : null));
  const firsts = sizes.map((_, i) => sizes.slice(0, i).reduce((sum, n) => sum + n, 0));
  const places = taken.every((prior): prior is Prior => prior !== null) ? taken : null;
  if (places?.every(({ sum }) => !sum)) {
    const all = weightGradient(g, x, null);
    const columns = all.shape[1]!;
    return sizes.map((rows, i) => all.strided([rows, columns], [columns, 1], all.offset + firsts[i]! * columns));
  }
  const sums = places?.every(({ sum, inPlace }) => sum?.dtype === "f32" && inPlace)
    ? places.map(({ sum }) => sum!)
    : [];
  const together = joinedRows(sums);
  if (together) {
    weightGradient(g, x, { sum: together, inPlace: true });
    return sums;
  }
  const part = (i: number): Tensor => g.strided([g.shape[0]!, sizes[i]!], g.strides, g.offset + firsts[i]!);
  return sizes.map((_, i) => (needs[i] ? weightGradient(part(i), x, taken[i]!) : null));
}
