/** The methods of `Tensor`, as in PyTorch (`a.add(b)`, `x.reshape([2, -1])`) of `Tensor`, with their types. */
import { Tensor, backward } from "../engine/index.ts";
import * as activations from "./pointwise/activations.ts";
import * as elementwise from "./pointwise/elementwise.ts";
import * as finite from "./pointwise/finite.ts";
import * as reduce from "./reduce/reduce.ts";
import { cumsum } from "./reduce/cumsum.ts";
import { logsumexp } from "./reduce/logsumexp.ts";
import { std, variance } from "./reduce/moments.ts";
import { matmul } from "./matmul/matmul.ts";
import { flip } from "./embedding/flip.ts";
import { scatter, scatterAdd } from "./embedding/scatter.ts";
import { sort, topk } from "./sort/sort.ts";
import * as triangles from "./views/triangles.ts";
import { softmax } from "./norm/softmax.ts";
import * as views from "./views/views.ts";

const METHODS = {
  add: elementwise.add,
  sub: elementwise.sub,
  mul: elementwise.mul,
  div: elementwise.div,
  pow: elementwise.pow,
  maximum: elementwise.maximum,
  minimum: elementwise.minimum,
  neg: elementwise.neg,
  abs: elementwise.abs,
  exp: elementwise.exp,
  log: elementwise.log,
  sqrt: elementwise.sqrt,
  rsqrt: elementwise.rsqrt,
  square: elementwise.square,
  tanh: elementwise.tanh,
  sigmoid: elementwise.sigmoid,
  sin: elementwise.sin,
  cos: elementwise.cos,
  relu: elementwise.relu,
  gelu: activations.gelu,
  silu: activations.silu,
  softmax,
  clamp: elementwise.clamp,
  isnan: finite.isnan,
  isinf: finite.isinf,
  isfinite: finite.isfinite,
  nanToNum: finite.nanToNum,
  eq: elementwise.eq,
  ne: elementwise.ne,
  lt: elementwise.lt,
  le: elementwise.le,
  gt: elementwise.gt,
  ge: elementwise.ge,
  matmul,
  sum: reduce.sum,
  mean: reduce.mean,
  max: reduce.max,
  min: reduce.min,
  argmax: reduce.argmax,
  argmin: reduce.argmin,
  sort,
  topk,
  cumsum,
  logsumexp,
  var: variance,
  std,
  scatter,
  scatterAdd,
  tril: triangles.tril,
  triu: triangles.triu,
  repeat: triangles.repeat,
  flip,
  contiguous: views.contiguous,
  clone: views.clone,
  cast: views.cast,
  reshape: views.reshape,
  flatten: views.flatten,
  permute: views.permute,
  transpose: views.transpose,
  unsqueeze: views.unsqueeze,
  squeeze: views.squeeze,
  expand: views.expand,
  slice: views.slice,
  select: views.select,
  split: views.split,
  chunk: views.chunk,
  backward,
} as const;

type Rest<F> = F extends (first: Tensor, ...rest: infer R) => infer Result ? (...rest: R) => Result : never;
/** The methods that `attachMethods` adds to `Tensor`. */
export type TensorMethods = { [K in keyof typeof METHODS]: Rest<(typeof METHODS)[K]> };

declare module "../engine/tensor.ts" {
  interface Tensor extends TensorMethods {}
}

/** Makes the ops of the table methods of `Tensor`. */
export function attachMethods(): void {
  for (const [name, fn] of Object.entries(METHODS)) {
    Object.defineProperty(Tensor.prototype, name, {
      value(this: Tensor, ...rest: unknown[]): unknown {
        return (fn as (...args: unknown[]) => unknown)(this, ...rest);
      },
      configurable: true,
      writable: true,
    });
  }
}
