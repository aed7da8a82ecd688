/**
 * The gradient of the input of a product with a quantised weight: dX = dY · W, dY [M, N], W [N, K] dequantised in registers. Weights stay as they are: no
 * dequantised weight is ever stored, and the weight has no gradient.
 */
import { elementBytes, empty, kernel, launch } from "../../engine/index.ts";
import type { Capabilities, Constants, DType, Tensor } from "../../engine/index.ts";
import { contiguousCopy, copy, map } from "../core/map.ts";
import { standard } from "../core/libraries.ts";
import { pad } from "../views/views.ts";
import { params } from "./launch.ts";
import { io, quantizedBindings, quantizedInt4, quantizedInt8, quantizedScalesEach } from "./libraries.ts";
import { MAX_GROUPS, bindPart, partsOf } from "./parts.ts";
import type { Operand } from "./parts.ts";
import type { QuantizedWeight } from "./quantized.ts";

const backward = kernel(
  "matmul_quantized_backward",
  new URL("./matmul_quantized_backward.wgsl", import.meta.url),
  { a: "read", b: "read", scales: "read", bias: "read", residual: "read", y: "read_write" },
  params,
  [...standard, quantizedBindings, quantizedScalesEach, io, quantizedInt4],
);
const LIBRARIES = { int8: quantizedInt8, int4: quantizedInt4 } as const;

/**
 * Rows of dY that share the words of a weight, and invocations of a workgroup. On lavapipe, [128, 5632] · [5632, 2048], ms of processor time: bf16 weights
 * 167, int4 335, int8 346.
 */
const constantsOf = (
  { software }: Capabilities,
  rows: number,
): { readonly ROWS: number; readonly WORKGROUP: number } => ({
  ROWS: [1, 2, 4].find((count) => count >= rows) ?? 8,
  WORKGROUP: software ? 16 : 64,
});

/** dX = dY · W as a new tensor [M, K] of `dtype`; not recorded. Runs inside a scope of the caller. dY [M, N] of a floating dtype. */
export function quantizedInputGradient(dy: Tensor, weight: QuantizedWeight, dtype: DType): Tensor {
  const [n, k] = weight.shape;
  const m = dy.shape[0]!;
  const padded = n % 4 ? pad(dy, [[0, 4 - (n % 4)]]) : dy;
  const a = padded.isContiguous && padded.offset % 4 === 0 ? padded : contiguousCopy(padded);
  const operands = {
    a: { tensor: a, offset: a.offset, steps: [a.dim(1), 1, 0, 0, 0] },
    b: { tensor: weight.words, offset: weight.words.offset, steps: [0, weight.words.dim(1), 1, 0, 0] },
    scales: { tensor: weight.scales, offset: weight.scales.offset, steps: [0, weight.scales.dim(1), 0, 1, 0] },
  };
  const constants = constantsOf(dy.device.capabilities, m);
  const parts = (y: Tensor): ReturnType<typeof partsOf> => {
    const sizes = [m, n, weight.words.dim(1), weight.scales.dim(1), k];
    const tooLong = ([rows, terms]: readonly number[]): number => {
      if (rows! > MAX_GROUPS * constants.ROWS) return 0;
      if (2 * rows! * terms! * k <= y.device.maxDispatchWork) return -1;
      return rows! > 1 ? 0 : 1;
    };
    // Columns stay whole: a part of them would be no flat range of the weight. Parts of the terms are added up.
    return partsOf(
      "linear",
      y.device,
      sizes,
      [...Object.values(operands), resultOf(y)],
      [1, 4, ...sizes.slice(2)],
      tooLong,
    );
  };
  const make = (type: DType): Tensor => empty([m, k], { dtype: type, device: dy.device });
  let y = make(dtype);
  if (m === 0) return y;
  let found = parts(y);
  if (dtype !== "f32" && found.some(({ starts }) => starts[1]! > 0)) {
    y.dispose();
    found = parts((y = make("f32")));
  }
  for (const part of found) launchPart(part, operands, weight, y, constants);
  return y.dtype === dtype ? y : map(copy, [y], { dtype });
}

const resultOf = (y: Tensor): Operand => ({ tensor: y, offset: 0, steps: [y.dim(1), 0, 0, 0, 1] });

function launchPart(
  part: ReturnType<typeof partsOf>[number],
  operands: Readonly<Record<"a" | "b" | "scales", Operand>>,
  weight: QuantizedWeight,
  y: Tensor,
  constants: Constants & { readonly ROWS: number; readonly WORKGROUP: number },
): void {
  const [rows, terms] = part.sizes as [number, number, number, number, number];
  const k = weight.shape[1];
  const { tensor: dy, steps } = operands.a;
  const [a, b, scales] = [operands.a, operands.b, operands.scales].map((operand) => bindPart(operand, part)) as [Bound, Bound, Bound]; // prettier-ignore
  const to = bindPart(resultOf(y), part);
  const words = weight.words.dim(1);
  launch(backward, {
    use: { a: dy.dtype, b: LIBRARIES[weight.kind], y: y.dtype, r: "f32" },
    constants: { ...constants, ACCUMULATE: part.starts[1]! > 0 },
    buffers: { a: a.bound, b: b.bound, scales: scales.bound, bias: b.bound, residual: b.bound, y: to.bound },
    params: {
      size: [rows, k, terms, 1],
      a: [a.offset, steps[0]!, scales.offset, 0],
      b: [b.offset, weight.scales.dim(1), words, 0],
      y: [to.offset, 0, k, k],
      batches: [0, 0, 0, 0],
      batches_y: [0, 0, 0, 0],
      alpha: 1,
      scale: 0,
      eps: 0,
    },
    grid: [Math.ceil(rows / constants.ROWS), Math.ceil(k / 8 / constants.WORKGROUP)],
    cost: {
      flops: 2 * rows * terms * k,
      bytes:
        elementBytes(dy.dtype, rows * terms) +
        terms * (4 * words + 2 * weight.scales.dim(1)) +
        elementBytes(y.dtype, rows * k),
    },
  });
}

type Bound = ReturnType<typeof bindPart>;
