/** Linear layers with quantised weights, for inference, and the choice between them and `Linear`. */
import { ArgumentError, empty, knownOptions } from "../../engine/index.ts";
import type { Tensor } from "../../engine/index.ts";
import * as F from "../../kernels/index.ts";
import { QuantizedWeight } from "../../kernels/matmul/quantized.ts";
import { GROUP, QUANTIZED_BITS } from "../../kernels/matmul/quantized_format.ts";
import type { Quantization } from "../../kernels/matmul/quantized_format.ts";
import { LAYER_OPTIONS, Linear, adjacentLinears, constant, own } from "./layers.ts";
import type { LayerOptions } from "./layers.ts";
import { Buffer, Module, requirePositive } from "./module.ts";
import type { AnyModule, Parameter } from "./module.ts";

/**
 * y = x · weightᵀ + bias with a weight of 8 or 4 bits: x [..., inFeatures] → [..., outFeatures]. The weight is two buffers, u32 `qweight` and f16
 * `scales`, in the format of `model/io/quantize.ts`; their values are undefined until they are loaded. `inFeatures` is a multiple of 4. The
 * weight has no gradient; that of x goes through it.
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
    options: LayerOptions & { bias?: boolean } = {},
  ) {
    super();
    knownOptions("QuantizedLinear", options, [...LAYER_OPTIONS, "bias"]);
    requirePositive("QuantizedLinear", { inFeatures, outFeatures });
    const groups = Math.ceil(inFeatures / GROUP);
    const device = options.device && { device: options.device };
    const buffer = (columns: number, dtype: "u32" | "f16"): Buffer =>
      own(() => new Buffer(empty([outFeatures, columns], { ...device, dtype, label: "parameter" })));
    this.qweight = buffer(groups * QUANTIZED_BITS[kind], "u32");
    this.scales = buffer(groups, "f16");
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

  forward(x: Tensor): Tensor {
    return F.linear(x, new QuantizedWeight(this.qweight, this.scales, this.inFeatures), this.bias);
  }
}

export type AnyLinear = Linear | QuantizedLinear;

/** Options of a model some of whose linear layers may be quantised. */
export interface QuantizableOptions extends LayerOptions {
  /** Default: the weights are of `dtype`. */
  readonly quantize?: Quantization;
  /** False: the text head keeps `dtype`. Default: true. */
  readonly quantizeHead?: boolean;
}

/** A linear layer, quantised if the options say so. */
export function linearLayer(
  inFeatures: number,
  outFeatures: number,
  { quantize, ...given }: QuantizableOptions & { bias?: boolean; weight?: Parameter },
): AnyLinear {
  const { quantizeHead: _, ...options } = given;
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

/** Linear layers without bias of one input; weights that are not quantised lie behind one another in memory (`adjacentLinears`). */
export const linearLayers = (
  inFeatures: number,
  outFeatures: readonly number[],
  options: QuantizableOptions,
): AnyLinear[] => {
  const { quantize, quantizeHead: _, ...plain } = options;
  return quantize
    ? outFeatures.map((count) => linearLayer(inFeatures, count, { ...options, bias: false }))
    : adjacentLinears(inFeatures, outFeatures, plain);
};
