/**
 * Products with a quantised weight: y = activation(x · Wᵗ + bias) + residual, W [N, K] of 8 or 4 bits (`quantized_format.ts`). Kernels dequantise in
 * registers; sums are f32. The weight has no gradient; that of x is `quantized_gradient.ts`.
 */
import {
  ArgumentError,
  DTypeError,
  ShapeError,
  elementBytes,
  empty,
  kernel,
  launch,
  shapeText,
} from "../../engine/index.ts";
import type { DType, Device, Tensor } from "../../engine/index.ts";
import { contiguousCopy, copy, map } from "../core/map.ts";
import { f32x1, standard } from "../core/libraries.ts";
import { ACTIVATIONS, params } from "./launch.ts";
import type { Activation } from "./launch.ts";
import { io, lanesNone, quantizedBindings, quantizedInt4, quantizedInt8, sizeAny, sumWorkgroup } from "./libraries.ts";
import { bindPart, partsOf } from "./parts.ts";
import { GROUP, QUANTIZED_BITS } from "./quantized_format.ts";
import type { Quantization } from "./quantized_format.ts";
import { quantizedVariant } from "./quantized_variants.ts";
import type { QuantizedChoice } from "./quantized_variants.ts";

/** A quantised matrix [N, K] on a device. It does not own its tensors. */
export class QuantizedWeight {
  /** [N, K] */
  readonly shape: readonly [number, number];
  readonly kind: Quantization;
  /** u32 [N, groups · bits]: groups = ceil(K / 32) */
  readonly words: Tensor;
  /** f16 [N, groups] */
  readonly scales: Tensor;

  /**
   * @param words u32 [N, groups · 4] (int4) or [N, groups · 8] (int8), contiguous
   * @param scales f16 [N, groups], contiguous
   * @param columns K, a multiple of 4
   */
  constructor(words: Tensor, scales: Tensor, columns: number) {
    const op = "QuantizedWeight";
    if (!Number.isInteger(columns) || columns <= 0 || columns % 4)
      throw new ArgumentError(
        `${op}: columns must be a multiple of 4; got ${columns}. Pad the weight and x with zeros.`,
      );
    if (words.dtype !== "u32" || scales.dtype !== "f16")
      throw new DTypeError(`${op}: words must be u32 and scales f16; got ${words} and ${scales}. Use quantizeRows.`);
    const [rows, groups] = [scales.shape[0] ?? 0, Math.ceil(columns / GROUP)];
    const kind = words.shape[1] === groups * QUANTIZED_BITS.int4 ? "int4" : "int8";
    const isWhole = words.isContiguous && scales.isContiguous && words.offset === 0 && scales.offset === 0;
    if (
      !isWhole ||
      shapeText(scales.shape) !== shapeText([rows, groups]) ||
      shapeText(words.shape) !== shapeText([rows, groups * QUANTIZED_BITS[kind]])
    )
      throw new ShapeError(
        `${op}: for ${columns} columns, scales must be [N, ${groups}] and words [N, ${4 * groups}] (int4) or [N, ${8 * groups}] (int8), contiguous; got ${shapeText(scales.shape)} and ${shapeText(words.shape)}. Use quantizeRows.`,
      );
    this.shape = [rows, columns];
    this.kind = kind;
    this.words = words;
    this.scales = scales;
  }

  get device(): Device {
    return this.words.device;
  }

  toString(): string {
    return `QuantizedWeight(${shapeText(this.shape)} ${this.kind})`;
  }
}

const bindings = { a: "read", b: "read", scales: "read", bias: "read", residual: "read", y: "read_write" } as const;
const shared = [...standard, quantizedBindings, io, quantizedInt4];
const kernels = {
  register: kernel(
    "matmul_quantized_register",
    new URL("./matmul_quantized_register.wgsl", import.meta.url),
    bindings,
    params,
    [...shared, lanesNone, sizeAny],
  ),
  vector: kernel(
    "matmul_quantized_vector",
    new URL("./matmul_quantized_vector.wgsl", import.meta.url),
    bindings,
    params,
    [...shared, sumWorkgroup, sizeAny],
  ),
} satisfies Record<QuantizedChoice["kernel"], unknown>;
const LIBRARIES = { int8: quantizedInt8, int4: quantizedInt4 } as const;

export interface QuantizedProduct {
  readonly op: string;
  /** [M, K] */
  readonly x: Tensor;
  readonly weight: QuantizedWeight;
  readonly bias: Tensor | null;
  readonly activation: Activation | null;
  /** [M, N] */
  readonly residual: Tensor | null;
  readonly dtype: DType;
}

/** The product as a new tensor [M, N]; not recorded. Runs inside a scope of the caller, which has checked the shapes. */
export function quantizedProduct(p: QuantizedProduct): Tensor {
  const [n] = p.weight.shape;
  const m = p.x.shape[0]!;
  const wide = n % 4 === 0;
  const asF32 = (t: Tensor): Tensor => (t.dtype === "f32" ? t : map(copy, [t], { dtype: "f32" }));
  const y = empty([m, n], { dtype: wide ? p.dtype : "f32", device: p.x.device });
  const residual = p.residual && contiguousCopy(wide ? p.residual : asF32(p.residual));
  const x = p.x.isContiguous && p.x.offset % 4 === 0 ? p.x : contiguousCopy(p.x);
  launchParts({ ...p, x, bias: p.bias && contiguousCopy(asF32(p.bias)), residual }, y);
  return y.dtype === p.dtype ? y : map(copy, [y], { dtype: p.dtype });
}

const MAX_GROUPS = 65535;

/** Rows and columns are split if a tensor is larger than a binding, or the work or the grid than a launch may have; sums stay whole. */
function launchParts(p: QuantizedProduct, y: Tensor): void {
  const { weight, residual, x } = p;
  const { device } = y;
  const [n, k] = weight.shape;
  const m = x.shape[0]!;
  if (m === 0 || n === 0) return;
  const choice = quantizedVariant(device.capabilities, { m, n, k, a: x.dtype, kind: weight.kind });
  const [groups, words] = [weight.scales.shape[1]!, weight.words.shape[1]!];
  const operands = {
    a: { tensor: x, offset: x.offset, steps: [k, 0, 1, 0, 0] },
    b: { tensor: weight.words, offset: 0, steps: [0, words, 0, 1, 0] },
    scales: { tensor: weight.scales, offset: 0, steps: [0, groups, 0, 0, 1] },
    y: { tensor: y, offset: 0, steps: [n, 1, 0, 0, 0] },
    residual: residual && { tensor: residual, offset: residual.offset, steps: [n, 1, 0, 0, 0] },
  };
  const tooLong = ([rows, columns]: readonly number[]): number => {
    if (rows! > MAX_GROUPS * choice.rows) return 0;
    if (columns! > MAX_GROUPS * choice.columns) return 1;
    if (2 * rows! * columns! * k <= device.maxDispatchWork) return -1;
    return rows! >= columns! ? 0 : 1;
  };
  const all = [operands.a, operands.b, operands.scales, operands.y, ...(operands.residual ? [operands.residual] : [])];
  const wide = n % 4 === 0;
  for (const part of partsOf(p.op, device, [m, n, k, words, groups], all, [1, 4, k, words, groups], tooLong)) {
    const [rows, columns] = part.sizes as [number, number, number, number, number];
    const bind = (operand: (typeof all)[number]): ReturnType<typeof bindPart> => bindPart(operand, part);
    const [a, b, s, to] = [bind(operands.a), bind(operands.b), bind(operands.scales), bind(operands.y)];
    const r = operands.residual && bind(operands.residual);
    const yLibrary = wide ? y.dtype : f32x1;
    launch(kernels[choice.kernel], {
      use: {
        ...choice.use,
        a: x.dtype,
        b: LIBRARIES[weight.kind],
        y: yLibrary,
        r: r && wide ? residual!.dtype : wide ? "f32" : f32x1,
      },
      constants: {
        ...choice.constants,
        BIAS: p.bias !== null,
        RESIDUAL: r !== null,
        ACTIVATION: p.activation ? ACTIVATIONS[p.activation] : 0,
      },
      buffers: {
        a: a.bound,
        b: b.bound,
        scales: s.bound,
        bias: p.bias ?? a.bound,
        residual: r?.bound ?? a.bound,
        y: to.bound,
      },
      params: {
        size: [rows, columns, k, 1],
        a: [a.offset, k, 1, s.offset],
        b: [b.offset, groups, words, part.starts[1]!],
        y: [to.offset, r?.offset ?? 0, n, n],
        batches: [0, 0, 0, 0],
        batches_y: [0, 0, 0, 0],
        alpha: 1,
      },
      grid: [Math.ceil(rows / choice.rows), Math.ceil(columns / choice.columns)],
      cost: {
        flops: 2 * rows * columns * k,
        bytes:
          elementBytes(x.dtype, rows * k) + columns * (4 * words + 2 * groups) + elementBytes(y.dtype, rows * columns),
      },
    });
  }
}
