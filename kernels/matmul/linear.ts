/** The linear layer: a matrix product with bias, activation and residual in its epilogue, and its gradient. */
import {
  AutogradError,
  DTypeError,
  contiguousStrides,
  ShapeError,
  checkTensors,
  isFloat,
  gradEnabled,
  record,
  scope,
  shapeText,
  knownOptions,
} from "../../engine/index.ts";
import type { DType, Tensor } from "../../engine/index.ts";
import { contiguousCopy, expression, map } from "../core/map.ts";
import { asMatrix, checkEpilogue, product, resultDType } from "./matmul.ts";
import { ACTIVATIONS } from "./epilogue.ts";
import type { Activation } from "./epilogue.ts";
import { activation as activationLibrary } from "./libraries.ts";
import { QuantizedWeight, quantizedProduct } from "./quantized.ts";
import { sumTo } from "../reduce/reduce.ts";

export interface LinearOptions {
  readonly activation?: Activation | null;
  /** Added after the activation; of the result's shape. */
  readonly residual?: Tensor | null;
  /** Dtype of the result; the default is f32, or the 16-bit dtype that x and weight share. */
  readonly dtype?: DType;
}

/** Activations as separate launches. */
const formulas = (name: Activation) => {
  const kind = ACTIVATIONS[name];
  return {
    forward: expression(`linear.${name}.forward`, `activate(${kind}u, a)`, activationLibrary),
    forwardResidual: expression(`linear.${name}.forward_residual`, `activate(${kind}u, a) + b`, activationLibrary),
    backward: expression(`linear.${name}.backward`, `a * activation_slope(${kind}u, b)`, activationLibrary),
  };
};
const FORMULAS = {
  gelu: formulas("gelu"),
  geluTanh: formulas("geluTanh"),
  silu: formulas("silu"),
  relu: formulas("relu"),
} as const satisfies Record<Activation, unknown>;

/**
 * y = activation(x · weightᵗ + bias) + residual: x [..., K], weight [N, K], bias [N] → [..., N]. `gelu` is the exact one (erf), `geluTanh`
 * its tanh form. All of f32, f16, bf16, also mixed; sums are f32. The weight may be larger than a binding.
 * One launch without gradients; with them the value before the activation is kept and the activation is a separate
 * launch. Gradients of weight and bias are f32, that of x has x's dtype. Throws `ShapeError` if sizes do not fit.
 * A quantised weight is for inference: `AutogradError` if anything requires a gradient. Its result has the dtype of x by default.
 */
export function linear(
  x: Tensor,
  weight: Tensor | QuantizedWeight,
  bias: Tensor | null = null,
  options: LinearOptions = {},
): Tensor {
  knownOptions("linear", options, ["activation", "residual", "dtype"]);
  if (weight instanceof QuantizedWeight) return quantizedLinear(x, weight, bias, options);
  const { activation = null, residual = null } = options;
  checkTensors("linear", x, weight, bias, residual);
  if (x.rank === 0 || weight.rank !== 2)
    throw new ShapeError(
      `linear: x must be [..., K] and weight [N, K]; got ${shapeText(x.shape)} and ${shapeText(weight.shape)}. Reshape them.`,
    );
  if (x.shape.at(-1) !== weight.shape[1])
    throw new ShapeError(
      `linear: the last dimension of x must be the weight's ${weight.shape[1]}; got ${x.shape.at(-1)} in x ${shapeText(x.shape)} for weight ${shapeText(weight.shape)}. Make them equal.`,
    );
  const inputs = [x, weight, bias, residual];
  const recorded = gradEnabled() && inputs.some((t) => t?.requiresGrad);
  const dtype = options.dtype ?? resultDType(x, weight);
  const rows = (t: Tensor): Tensor => (t.rank === 1 ? t.strided([1, t.shape[0]!], [0, t.strides[0]!]) : t);
  const forward = (epilogue: { activation?: Activation | null; residual?: Tensor | null }): Tensor => {
    const y = product("linear", { a: rows(x), b: weight, transB: true, bias, dtype, ...epilogue });
    return x.rank === 1 ? y.strided([weight.shape[0]!], [1]) : y;
  };
  if (!recorded || !activation) {
    const y = scope(() => forward({ activation, residual: residual && rows(residual) }));
    return recorded ? recordLinear(inputs, y, null, null) : y;
  }
  const shape = [...x.shape.slice(0, -1), weight.shape[0]!];
  if (residual && residual.shape.join() !== shape.join())
    throw new ShapeError(
      `linear: residual must have the shape of the result, ${shapeText(shape)}; got ${shapeText(residual.shape)}. Make them equal.`,
    );
  return scope(() => {
    const before = forward({});
    const y = residual
      ? map(FORMULAS[activation].forwardResidual, [before, residual], { dtype })
      : map(FORMULAS[activation].forward, [before], { dtype });
    return recordLinear(inputs, y, before, activation);
  });
}

function quantizedLinear(x: Tensor, weight: QuantizedWeight, bias: Tensor | null, options: LinearOptions): Tensor {
  const { activation = null, residual = null, dtype = x.dtype } = options;
  const floats = [x, bias, residual];
  checkTensors("linear", x, weight.words, weight.scales, bias, residual);
  const [n, k] = weight.shape;
  if (x.rank === 0 || x.shape.at(-1) !== k)
    throw new ShapeError(
      `linear: the last dimension of x must be the weight's ${k}; got x ${shapeText(x.shape)} for ${weight}. Make them equal.`,
    );
  for (const t of floats)
    if (t && !isFloat(t.dtype))
      throw new DTypeError(`linear: x, bias and residual must have a floating dtype; got ${t}. Cast it to f32 first.`);
  if (!isFloat(dtype))
    throw new DTypeError(`linear: the result must be f32, f16 or bf16; got ${dtype}. Change the dtype.`);
  if (gradEnabled() && floats.some((t) => t?.requiresGrad))
    throw new AutogradError(
      `linear: a quantised weight must be used without gradients; got ${weight} with an input that requires one. Use noGrad(), or train a model that is not quantised.`,
    );
  const shape = [...x.shape.slice(0, -1), n];
  checkEpilogue("linear", shape, { bias, activation, residual });
  return scope(() => {
    const flat = (t: Tensor): Tensor => asMatrix(t.rank === 1 ? t.strided([1, t.shape[0]!], [0, t.strides[0]!]) : t);
    const y = quantizedProduct({
      op: "linear",
      x: flat(x),
      weight,
      bias,
      activation,
      residual: residual && flat(residual),
      dtype,
    });
    return y.strided(shape, contiguousStrides(shape));
  });
}

/** Puts y on the tape; keeps x only for the weight's gradient and the weight only for x's. */
function recordLinear(
  inputs: readonly (Tensor | null)[],
  y: Tensor,
  before: Tensor | null,
  activation: Activation | null,
): Tensor {
  const [x, weight] = inputs as [Tensor, Tensor];
  const saved = [...(weight.requiresGrad ? [x] : []), ...(x.requiresGrad ? [weight] : []), ...(before ? [before] : [])];
  const shape = x.shape;
  const xDType = x.dtype;
  const columns = weight.shape[0]!;
  return record("linear", inputs, y, saved, (g, kept, needs) => {
    const left = [...kept];
    const keptX = needs[1] ? left.shift()! : null;
    const keptWeight = needs[0] ? left.shift()! : null;
    const inner = activation ? map(FORMULAS[activation].backward, [g, left[0]!], { dtype: g.dtype }) : g;
    const flat = asMatrix(inner);
    const dx = keptWeight && product("linear", { a: flat, b: keptWeight, dtype: xDType });
    return [
      dx &&
        dx.strided(
          shape,
          shape.map((_, d) => shape.slice(d + 1).reduce((p, n) => p * n, 1)),
        ),
      keptX && product("linear", { a: flat, b: asMatrix(keptX), transA: true, dtype: "f32" }),
      needs[2] ? contiguousCopy(sumTo(flat, [columns])) : null,
      needs[3] ? g : null,
    ];
  });
}
