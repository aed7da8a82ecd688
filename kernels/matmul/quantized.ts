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
  grid1d,
  kernel,
  launch,
  scope,
  shapeText,
} from "../../engine/index.ts";
import type { DType, Device, Tensor } from "../../engine/index.ts";
import { contiguousCopy, copy, map } from "../core/map.ts";
import { f32x1, standard } from "../core/libraries.ts";
import { ACTIVATIONS, epilogueOf, isDecodingStep, stepsOf } from "./epilogue.ts";
import type { Activation, Norm } from "./epilogue.ts";
import { params } from "./launch.ts";
import {
  io,
  lanesNone,
  normNone,
  quantizedBindings,
  quantizedScalesEach,
  quantizedScalesEight,
  quantizedInt4,
  quantizedInt8,
  sizeAny,
  sumWorkgroup,
} from "./libraries.ts";
import { MAX_GROUPS, bindPart, partsOf } from "./parts.ts";
import { product } from "./matmul.ts";
import { GROUP, QUANTIZED_BITS } from "./quantized_format.ts";
import type { Quantization } from "./quantized_format.ts";
import { quantizedVariant } from "./quantized_variants.ts";
import type { RegisterChoice } from "./quantized_variants.ts";

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
    const isWhole = words.isContiguous && scales.isContiguous && words.offset % 4 === 0;
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
const shared = [...standard, quantizedBindings, quantizedScalesEach, io, quantizedInt4];
const kernels = {
  register: kernel(
    "matmul_quantized_register",
    new URL("./matmul_quantized_register.wgsl", import.meta.url),
    bindings,
    params,
    [...shared, normNone, lanesNone, sizeAny],
  ),
  vector: kernel(
    "matmul_quantized_vector",
    new URL("./matmul_quantized_vector.wgsl", import.meta.url),
    bindings,
    params,
    [...shared, normNone, sumWorkgroup, sizeAny],
  ),
} satisfies Record<RegisterChoice["kernel"], unknown>;
const dequantizeKernel = kernel(
  "dequantize",
  new URL("./dequantize.wgsl", import.meta.url),
  { b: "read", scales: "read", y: "write" },
  { rows: "u32", loads: "u32", granules: "u32", scales: "u32", first_load: "u32", first_scale: "u32", first_y: "u32" },
  [...standard, quantizedInt4],
);
/** Scales (f16) in a load of 16 bytes. */
const SCALES_AT_ONCE = 8;
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
  /** As in `Product`. */
  readonly norm?: Norm;
  readonly gated?: boolean;
}

/** The product as a new tensor [M, N]; not recorded. Runs inside a scope of the caller, which has checked the shapes. */
export function quantizedProduct(p: QuantizedProduct): Tensor {
  const [n, k] = p.weight.shape;
  const m = p.x.shape[0]!;
  const choice = quantizedVariant(p.x.device.capabilities, { m, n, k, a: p.x.dtype, kind: p.weight.kind });
  if (choice.kernel === "staged") return staged(p);
  const wide = n % 4 === 0 && !p.gated;
  const asF32 = (t: Tensor): Tensor => (t.dtype === "f32" ? t : map(copy, [t], { dtype: "f32" }));
  const y = empty([m, p.gated ? n / 2 : n], { dtype: wide ? p.dtype : "f32", device: p.x.device });
  const residual = p.residual && contiguousCopy(wide ? p.residual : asF32(p.residual));
  const x = p.x.isContiguous && p.x.offset % 4 === 0 ? p.x : contiguousCopy(p.x);
  launchParts({ ...p, x, bias: p.bias && contiguousCopy(p.bias), residual }, y, choice);
  return y.dtype === p.dtype ? y : map(copy, [y], { dtype: p.dtype });
}

/** Bytes of a weight that are dequantised at a time. */
const STAGED_BYTES = 64 * 2 ** 20;

/** Many rows: some rows of the weight at a time as f32, then a plain product. Where kernels add up in order, with the bits of dequantising in registers. */
function staged({ op, x, weight, bias, activation, residual, dtype }: QuantizedProduct): Tensor {
  const [n, k] = weight.shape;
  const { device } = x;
  // 16-bit rows of odd length share words, which a part of the columns cannot be written to.
  const y = empty([x.dim(0), n], { dtype: n % 2 ? "f32" : dtype, device });
  const most = Math.min(STAGED_BYTES, device.limits.maxStorageBufferBindingSize);
  const step = Math.max(4, Math.floor(most / (16 * k)) * 4);
  for (let first = 0; first < n; first += step) {
    const count = Math.min(step, n - first);
    const columns = (t: Tensor): Tensor => t.strided([t.dim(0), count], t.strides, t.offset + first);
    scope(() =>
      product(op, {
        a: x,
        b: dequantized(weight, first, count),
        transB: true,
        out: columns(y),
        bias: bias && bias.strided([count], bias.strides, bias.offset + first),
        activation,
        residual: residual && columns(residual),
      }),
    );
  }
  return y.dtype === dtype ? y : map(copy, [y], { dtype });
}

/** f32 [count, K]: rows of a weight from row `first` on. */
function dequantized(weight: QuantizedWeight, first: number, count: number): Tensor {
  const { words, scales, device, kind } = weight;
  const k = weight.shape[1];
  const y = empty([count, k], { device });
  const sizes = [count, words.dim(1), scales.dim(1), k];
  const operands = [
    { tensor: words, offset: words.offset + first * words.dim(1), steps: [words.dim(1), 1, 0, 0] },
    { tensor: scales, offset: scales.offset + first * scales.dim(1), steps: [scales.dim(1), 0, 1, 0] },
    { tensor: y, offset: 0, steps: [k, 0, 0, 1] },
  ];
  for (const part of partsOf("dequantize", device, sizes, operands, [1, ...sizes.slice(1)], () => -1)) {
    const [b, s, to] = operands.map((operand) => bindPart(operand, part));
    const rows = part.sizes[0]!;
    launch(dequantizeKernel, {
      use: { b: LIBRARIES[kind] },
      buffers: { b: b!.bound, scales: s!.bound, y: to!.bound },
      params: { rows, loads: words.dim(1) / 4, granules: k / 4, scales: scales.dim(1), first_load: b!.offset / 4, first_scale: s!.offset, first_y: to!.offset / 4 }, // prettier-ignore
      grid: grid1d(Math.ceil((rows * words.dim(1)) / 4 / 64)),
      cost: { flops: rows * k, bytes: rows * (4 * words.dim(1) + 2 * scales.dim(1) + 4 * k) },
    });
  }
  return y;
}

/** Rows and columns are split if a tensor is larger than a binding, or the work or the grid than a launch may have; sums stay whole. */
function launchParts(p: QuantizedProduct, y: Tensor, choice: RegisterChoice): void {
  const { weight, residual, x } = p;
  const { device } = y;
  const [n, k] = weight.shape;
  const m = x.shape[0]!;
  if (m === 0 || n === 0) return;
  const [groups, words] = [weight.scales.shape[1]!, weight.words.shape[1]!];
  const operands = {
    a: { tensor: x, offset: x.offset, steps: [k, 0, 1, 0, 0] },
    b: { tensor: weight.words, offset: weight.words.offset, steps: [0, words, 0, 1, 0] },
    scales: { tensor: weight.scales, offset: weight.scales.offset, steps: [0, groups, 0, 0, 1] },
    y: { tensor: y, offset: 0, steps: [y.dim(1), p.gated ? 0 : 1, 0, 0, 0] },
    residual: residual && { tensor: residual, offset: residual.offset, steps: [n, 1, 0, 0, 0] },
  };
  const tooLong = ([rows, columns]: readonly number[]): number => {
    if (rows! > MAX_GROUPS * choice.rows) return 0;
    if (columns! > MAX_GROUPS * choice.columns) return 1;
    if (2 * rows! * columns! * k <= device.maxDispatchWork) return -1;
    return rows! >= columns! ? 0 : 1;
  };
  const all = [operands.a, operands.b, operands.scales, operands.y, ...(operands.residual ? [operands.residual] : [])];
  const wide = n % 4 === 0 && !p.gated;
  const epilogue = epilogueOf(p);
  const isStep = isDecodingStep(device.capabilities, choice, p);
  for (const part of partsOf(p.op, device, [m, n, k, words, groups], all, [1, 4, k, words, groups], tooLong)) {
    const [rows, columns] = part.sizes as [number, number, number, number, number];
    const bind = (operand: (typeof all)[number]): ReturnType<typeof bindPart> => bindPart(operand, part);
    const [a, b, s] = [bind(operands.a), bind(operands.b), bind(operands.scales)];
    const to = p.gated ? { bound: y, offset: 0 } : bind(operands.y);
    const r = operands.residual && bind(operands.residual);
    const yLibrary = wide ? y.dtype : f32x1;
    const activation = p.activation ? ACTIVATIONS[p.activation] : 0;
    const steps = stepsOf({ biased: p.bias !== null, residual: r !== null, activation }, isStep);
    launch(kernels[choice.kernel], {
      use: {
        ...choice.use,
        a: x.dtype,
        b: LIBRARIES[weight.kind],
        ...(choice.kernel === "register" &&
          groups % SCALES_AT_ONCE === 0 &&
          s.offset % SCALES_AT_ONCE === 0 && { g: quantizedScalesEight }),
        y: yLibrary,
        r: r && wide ? residual!.dtype : wide ? "f32" : f32x1,
        ...(isStep && !epilogue.bias && { h: "bf16" }), // as most biases
        ...epilogue.use,
      },
      constants: {
        ...choice.constants,
        ...steps.constants,
        ...(isStep && { BY_COMPONENT: true }),
        ...epilogue.constants,
      },
      buffers: {
        a: a.bound,
        b: b.bound,
        scales: s.bound,
        bias: epilogue.bias ?? a.bound,
        residual: r?.bound ?? a.bound,
        y: to.bound,
      },
      params: {
        size: [rows, columns, k, 1],
        a: [a.offset, k, s.offset, steps.flags],
        b: [b.offset, groups, words, part.starts[1]!],
        y: [to.offset, r?.offset ?? 0, y.dim(1), n],
        batches: [0, 0, 0, 0],
        batches_y: [0, 0, 0, 0],
        alpha: 1,
        ...epilogue.params,
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
