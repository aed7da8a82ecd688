/** Linear layers with quantised weights, for inference, and the choice between them and `Linear`. */
import { ArgumentError, empty, knownOptions } from "../../engine/index.ts";
import type { Tensor } from "../../engine/index.ts";
import * as F from "../../kernels/index.ts";
import { QuantizedWeight } from "../../kernels/matmul/quantized.ts";
import { GROUP, QUANTIZED_BITS } from "../../kernels/matmul/quantized_format.ts";
import type { Quantization } from "../../kernels/matmul/quantized_format.ts";
import { ALIGNMENT, LAYER_OPTIONS, Linear, adjacentLinears, adjacentRows, constant, joined, own } from "./layers.ts";
import type { LayerOptions } from "./layers.ts";
import { Buffer, Module, requirePositive } from "./module.ts";
import type { AnyModule, Parameter } from "./module.ts";

/** u32 and f16 tensors in the format of a quantised weight, or rows of larger ones. */
interface WeightParts {
  readonly qweight: Tensor;
  readonly scales: Tensor;
}

/** Parts of a weight [outFeatures, inFeatures], whose values are undefined. */
function weightParts(
  inFeatures: number,
  outFeatures: number,
  kind: Quantization,
  { device }: LayerOptions,
): WeightParts {
  const groups = Math.ceil(inFeatures / GROUP);
  const make = (columns: number, dtype: "u32" | "f16"): Tensor =>
    own(() => empty([outFeatures, columns], { ...(device && { device }), dtype, label: "parameter" }));
  return { qweight: make(groups * QUANTIZED_BITS[kind], "u32"), scales: make(groups, "f16") };
}

/**
 * y = x · weightᵀ + bias with a weight of 8 or 4 bits: x [..., inFeatures] → [..., outFeatures]. The weight is two buffers, u32 `qweight` and f16
 * `scales`, in the format of `model/io/quantize.ts`; their values are undefined until they are loaded. `inFeatures` is a multiple of 4. No gradient goes through it.
 */
export class QuantizedLinear extends Module {
  readonly qweight: Buffer;
  readonly scales: Buffer;
  readonly bias: Parameter | null;
  readonly kind: Quantization;
  readonly inFeatures: number;
  readonly outFeatures: number;

  constructor(
    inFeatures: number,
    outFeatures: number,
    kind: Quantization,
    options: LayerOptions & { bias?: boolean; parts?: WeightParts } = {},
  ) {
    super();
    knownOptions("QuantizedLinear", options, [...LAYER_OPTIONS, "bias", "parts"]);
    requirePositive("QuantizedLinear", { inFeatures, outFeatures });
    const { qweight, scales } = options.parts ?? weightParts(inFeatures, outFeatures, kind, options);
    [this.qweight, this.scales] = [new Buffer(qweight), new Buffer(scales)];
    for (const t of [qweight, scales]) t.dispose();
    this.bias = (options.bias ?? true) ? constant([outFeatures], 0, options) : null;
    this.kind = kind;
    this.inFeatures = inFeatures;
    this.outFeatures = outFeatures;
  }

  /** Throws `ArgumentError`: the weight is in `qweight` and `scales`. */
  get weight(): Parameter {
    throw new ArgumentError(
      `QuantizedLinear: the layer must have a weight that is not quantised; got one in ${this.kind}. Load the model without quantize, or read qweight and scales.`,
    );
  }

  /** The weight as products take it, a view. */
  get quantizedWeight(): QuantizedWeight {
    return new QuantizedWeight(this.qweight, this.scales, this.inFeatures);
  }

  forward(x: Tensor): Tensor {
    return F.linear(x, this.quantizedWeight, this.bias);
  }
}

export type AnyLinear = Linear | QuantizedLinear;

/** Options of a model some of whose linear layers may be quantised. */
export interface QuantizableOptions extends LayerOptions {
  /** Default: the weights are of `dtype`. */
  readonly quantize?: Quantization;
}

/** A linear layer, quantised if the options say so. */
export function linearLayer(
  inFeatures: number,
  outFeatures: number,
  { quantize, ...options }: QuantizableOptions & { bias?: boolean; weight?: Parameter },
): AnyLinear {
  if (!quantize) return new Linear(inFeatures, outFeatures, options);
  const { weight: _tied, ...own } = options; // a quantised head is not tied to the embedding, which keeps its dtype
  return new QuantizedLinear(inFeatures, outFeatures, quantize, own);
}

/** The quantised layers below a module, with their paths. */
export function* quantizedLayers(module: AnyModule, prefix = ""): Generator<[string, QuantizedLinear]> {
  for (const [name, child] of module.children())
    if (child instanceof QuantizedLinear) yield [prefix + name, child];
    else yield* quantizedLayers(child, `${prefix}${name}.`);
}

/**
 * Linear layers without bias of one input, of these outFeatures. If their sizes allow it, the weights lie behind one another in memory, and
 * `joinedWeight` finds them as one.
 */
export function linearLayers(
  inFeatures: number,
  outFeatures: readonly number[],
  options: QuantizableOptions,
): AnyLinear[] {
  const { quantize: kind, ...plain } = options;
  if (!kind) return adjacentLinears(inFeatures, outFeatures, plain);
  const scaleBytes = 2 * Math.ceil(inFeatures / GROUP);
  if (outFeatures.some((count) => (count * scaleBytes) % ALIGNMENT))
    return outFeatures.map((count) => linearLayer(inFeatures, count, { ...options, bias: false }));
  const total = outFeatures.reduce((sum, n) => sum + n, 0);
  const whole = weightParts(inFeatures, total, kind, plain);
  let first = 0;
  const layers = outFeatures.map((count) => {
    const rows = (t: Tensor): Tensor => t.strided([count, t.dim(1)], [t.dim(1), 1], first * t.dim(1));
    const parts = { qweight: rows(whole.qweight), scales: rows(whole.scales) };
    first += count;
    return new QuantizedLinear(inFeatures, count, kind, { ...plain, bias: false, parts });
  });
  for (const t of [whole.qweight, whole.scales]) t.dispose();
  return layers;
}

/** The weights of layers without bias as one [sum of outFeatures, inFeatures], a view; null if they do not lie behind one another. */
export function joinedWeight(layers: readonly AnyLinear[]): Tensor | QuantizedWeight | null {
  const plain = layers.filter((layer) => layer instanceof Linear);
  if (plain.length) return plain.length === layers.length ? joined(plain) : null;
  const quantized = layers as readonly QuantizedLinear[];
  if (quantized.some(({ bias }) => bias)) return null;
  const [words, scales] = [adjacentRows(quantized.map((l) => l.qweight)), adjacentRows(quantized.map((l) => l.scales))];
  if (!words || !scales) return null;
  return new QuantizedWeight(words, scales, quantized[0]!.inFeatures);
}
