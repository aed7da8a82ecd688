/** Activations of networks, as expressions of the elementwise mechanism: GELU in both forms, SiLU, and the gated product SwiGLU. */
import { DTypeError, ShapeError, checkTensors, isFloat, record, sameShape, scope } from "../../engine/index.ts";
import type { Tensor } from "../../engine/index.ts";
import { activations } from "../core/libraries.ts";
import { expression, map } from "../core/map.ts";
import type { Expression } from "../core/map.ts";
import { chunk } from "../views/views.ts";
import { isJoint, swigluJoint } from "./swiglu.ts";

// Backward expressions are over the gradient `a` and the input `b` (swiglu: the gate `b` and up `c`).
const formula = (name: string, wgsl: string): Expression => expression(name, wgsl, activations);
const ACTIVATIONS = {
  gelu: [formula("gelu.forward", "gelu4(a)"), formula("gelu.backward", "a * gelu_slope4(b)")],
  geluTanh: [formula("geluTanh.forward", "gelu_tanh4(a)"), formula("geluTanh.backward", "a * gelu_tanh_slope4(b)")],
  silu: [formula("silu.forward", "silu4(a)"), formula("silu.backward", "a * silu_slope4(b)")],
} as const;
const gated = formula("swiglu.forward", "silu4(a) * b");
const gateBackward = formula("swiglu.backward0", "a * c * silu_slope4(b)");
const upBackward = formula("swiglu.backward1", "a * silu4(b)");

function activation(op: keyof typeof ACTIVATIONS, x: Tensor): Tensor {
  checkTensors(op, x);
  if (!isFloat(x.dtype)) throw new DTypeError(`${op}: x must have a floating dtype; got ${x}. Cast it to f32 first.`);
  const [forward, backward] = ACTIVATIONS[op];
  return record(op, [x], map(forward, [x]), [x], (g, [input]) => [map(backward, [g, input!], { dtype: g.dtype })]);
}

/** x [...] → x · Φ(x) with the normal distribution function Φ: the exact ("erf") GELU. Hendrycks and Gimpel 2016, arXiv:1606.08415. */
export const gelu = (x: Tensor): Tensor => activation("gelu", x);

/** x [...] → x / 2 · (1 + tanh(√(2/π) · (x + 0.044715 x³))): the approximation of GELU that some models are trained with. */
export const geluTanh = (x: Tensor): Tensor => activation("geluTanh", x);

/** x [...] → x / (1 + e^−x), also called swish. */
export const silu = (x: Tensor): Tensor => activation("silu", x);

/**
 * gate [...], up [...] → silu(gate) · up, of their dtype (f32 if they differ). With one tensor [..., 2F] its halves along the last
 * dimension are gate and up. Shazeer 2020, arXiv:2002.05202.
 * @throws ShapeError if the shapes differ or a single tensor's last dimension is odd; DTypeError for integers
 */
export function swiglu(gate: Tensor, up?: Tensor): Tensor {
  checkTensors("swiglu", gate, up ?? null);
  if (!up) {
    if (gate.rank === 0 || gate.shape.at(-1)! % 2)
      throw new ShapeError(
        `swiglu: a single tensor must be [..., 2F], gate and up; got ${gate}. Pass two tensors otherwise.`,
      );
    return isJoint(gate) && isFloat(gate.dtype) && gate.size > 0
      ? swigluJoint(gate)
      : scope(() => swiglu(...(chunk(gate, 2, -1) as [Tensor, Tensor])));
  }
  for (const t of [gate, up])
    if (!isFloat(t.dtype))
      throw new DTypeError(`swiglu: every tensor must have a floating dtype; got ${t}. Cast it to f32 first.`);
  if (!sameShape(gate.shape, up.shape))
    throw new ShapeError(`swiglu: gate and up must have the same shape; got ${gate} and ${up}. Make them equal.`);
  const y = map(gated, [gate, up], { dtype: gate.dtype === up.dtype ? gate.dtype : "f32" });
  return record("swiglu", [gate, up], y, [gate, up], (g, [a, b], needs) => [
    needs[0] ? map(gateBackward, [g, a!, b!], { dtype: g.dtype }) : null,
    needs[1] ? map(upBackward, [g, a!, b!], { dtype: g.dtype }) : null,
  ]);
}
