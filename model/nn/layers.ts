/** The layers that models are built of: parameters with PyTorch's names, shapes and initial values, and one op each. */
import { ArgumentError, DTYPES, empty, knownOptions, noGrad, scope } from "../../engine/index.ts";
import type { DType, Device, Tensor, TensorOptions } from "../../engine/index.ts";
import * as F from "../../kernels/index.ts";
import { Module, Parameter, requirePositive } from "./module.ts";

export interface LayerOptions {
  readonly dtype?: DType;
  readonly device?: Device;
  /** False leaves the parameters' values undefined: for models whose weights are loaded next. */
  readonly init?: boolean;
}

/** Names of `LayerOptions`. */
export const LAYER_OPTIONS = ["dtype", "device", "init"] as const satisfies readonly (keyof LayerOptions)[];

/** Creates a tensor of a module: outside the tape and all scopes. */
export const own = <T extends Tensor>(make: () => T): T => noGrad(() => scope(make).keep());

function initial(shape: readonly number[], options: LayerOptions, make: (placed: TensorOptions) => Tensor): Parameter {
  const { dtype, device, init } = options;
  const placed = { ...(dtype && { dtype }), ...(device && { device }) };
  return own(() => new Parameter(init === false ? empty(shape, { ...placed, label: "parameter" }) : make(placed)));
}

/** A parameter whose elements are all `value`. */
export const constant = (shape: readonly number[], value: number, options: LayerOptions): Parameter =>
  initial(shape, options, (placed) => F.full(shape, value, placed));

/** U(−bound, bound); the bound of PyTorch's Linear and Conv2d is 1/√fan_in. */
const uniform = (shape: readonly number[], bound: number, options: LayerOptions): Parameter =>
  initial(shape, options, (placed) => F.uniform(shape, -bound, bound, placed));

/** y = x · weightᵀ + bias: x [..., inFeatures] → [..., outFeatures]; weight [outFeatures, inFeatures]. */
export class Linear extends Module {
  readonly weight: Parameter;
  readonly bias: Parameter | null;

  /** @param options.weight another layer's weight [outFeatures, inFeatures], to be tied to it */
  constructor(
    inFeatures: number,
    outFeatures: number,
    options: LayerOptions & { bias?: boolean; weight?: Parameter } = {},
  ) {
    super();
    knownOptions("Linear", options, [...LAYER_OPTIONS, "bias", "weight"]);
    requirePositive("Linear", { inFeatures, outFeatures });
    const bound = 1 / Math.sqrt(inFeatures);
    this.weight = options.weight ?? uniform([outFeatures, inFeatures], bound, options);
    if (this.weight.shape.join() !== `${outFeatures},${inFeatures}`)
      throw new ArgumentError(
        `Linear: weight must be [${outFeatures}, ${inFeatures}]; got ${this.weight}. Check inFeatures and outFeatures.`,
      );
    this.bias = (options.bias ?? true) ? uniform([outFeatures], bound, options) : null;
  }

  forward(x: Tensor): Tensor {
    return F.linear(x, this.weight, this.bias ?? undefined);
  }
}

/** Bytes at which a tensor may begin inside a storage on any device. */
export const ALIGNMENT = 256;

/**
 * Linear layers without bias, of these outFeatures. If their sizes allow it, the weights lie behind one another in memory, and `joined` finds them as
 * one. The same random draws as for layers that are made one by one.
 */
export function adjacentLinears(inFeatures: number, outFeatures: readonly number[], options: LayerOptions): Linear[] {
  const { init, ...place } = options;
  const isAligned = (n: number): boolean =>
    (n * inFeatures * (DTYPES[options.dtype ?? "f32"].bits / 8)) % ALIGNMENT === 0;
  if (!outFeatures.every(isAligned))
    return outFeatures.map((count) => new Linear(inFeatures, count, { ...options, bias: false }));
  const total = outFeatures.reduce((sum, n) => sum + n, 0);
  const whole = own(() => empty([total, inFeatures], { ...place, label: "parameter" }));
  const bound = 1 / Math.sqrt(inFeatures);
  let first = 0;
  const linears = outFeatures.map((count) => {
    const weight = own(() => {
      const rows = whole.strided([count, inFeatures], [inFeatures, 1], first * inFeatures);
      if (init !== false) F.copyInto(rows, F.uniform([count, inFeatures], -bound, bound, place));
      return new Parameter(rows);
    });
    first += count;
    return new Linear(inFeatures, count, { bias: false, weight });
  });
  whole.dispose();
  return linears;
}

/** The weights of layers without bias as one [sum of outFeatures, inFeatures], a view; null if they do not lie behind one another. */
export const joined = (linears: readonly Linear[]): Tensor | null =>
  linears.some(({ bias }) => bias) ? null : F.joinedRows(linears.map(({ weight }) => weight));

/**
 * Looks up rows of a table: ids [...] (i32 or u32) → f32 [..., dimension] for any dtype of the weight; weight [count,
 * dimension], initially N(0, 1).
 */
export class Embedding extends Module {
  readonly weight: Parameter;

  constructor(count: number, dimension: number, options: LayerOptions = {}) {
    super();
    knownOptions("Embedding", options, LAYER_OPTIONS);
    requirePositive("Embedding", { count, dimension });
    this.weight = initial([count, dimension], options, (placed) => F.randn([count, dimension], placed));
  }

  forward(ids: Tensor): Tensor {
    return F.embedding(this.weight, ids, { dtype: "f32" });
  }
}

/** y = weight · x / √(mean(x²) + eps) over the last dimension (Zhang and Sennrich 2019). */
export class RMSNorm extends Module {
  readonly weight: Parameter;
  readonly eps: number;

  constructor(dimension: number, options: LayerOptions & { eps?: number } = {}) {
    super();
    knownOptions("RMSNorm", options, [...LAYER_OPTIONS, "eps"]);
    requirePositive("RMSNorm", { dimension });
    this.weight = constant([dimension], 1, options);
    this.eps = options.eps ?? 1e-6;
  }

  forward(x: Tensor): Tensor {
    return F.rmsNorm(x, this.weight, this.eps);
  }
}

/** Layer normalisation over the last dimension (Ba et al. 2016). `eps` is 1e-5 by default, as in PyTorch. */
export class LayerNorm extends Module {
  readonly weight: Parameter;
  readonly bias: Parameter;
  readonly eps: number;

  constructor(dimension: number, options: LayerOptions & { eps?: number } = {}) {
    super();
    knownOptions("LayerNorm", options, [...LAYER_OPTIONS, "eps"]);
    requirePositive("LayerNorm", { dimension });
    this.weight = constant([dimension], 1, options);
    this.bias = constant([dimension], 0, options);
    this.eps = options.eps ?? 1e-5;
  }

  forward(x: Tensor): Tensor {
    return F.layerNorm(x, this.weight, this.bias, this.eps);
  }
}

/** Group normalisation over x [N, channels, ...] (Wu and He 2018), optionally fused with swish. `eps` is 1e-5 by default, as in PyTorch. */
export class GroupNorm extends Module {
  readonly weight: Parameter;
  readonly bias: Parameter;
  readonly groups: number;
  readonly eps: number;
  readonly swish: boolean;

  constructor(groups: number, channels: number, options: LayerOptions & { eps?: number; swish?: boolean } = {}) {
    super();
    knownOptions("GroupNorm", options, [...LAYER_OPTIONS, "eps", "swish"]);
    requirePositive("GroupNorm", { groups, channels });
    if (channels % groups)
      throw new ArgumentError(
        `GroupNorm: channels must be a multiple of groups; got ${channels} channels and ${groups} groups. Change one.`,
      );
    this.weight = constant([channels], 1, options);
    this.bias = constant([channels], 0, options);
    this.groups = groups;
    this.eps = options.eps ?? 1e-5;
    this.swish = options.swish ?? false;
  }

  forward(x: Tensor): Tensor {
    return F.groupNorm(x, this.groups, this.weight, this.bias, { eps: this.eps, swish: this.swish });
  }
}

/** 2-D convolution: x [N, inChannels, H, W] → [N, outChannels, H′, W′]; weight [outChannels, inChannels, kernel, kernel]. */
export class Conv2d extends Module {
  readonly weight: Parameter;
  readonly bias: Parameter | null;
  readonly stride: number;
  readonly padding: number | readonly [number, number, number, number];

  /** @param options.padding zeros around x: one number, or [top, right, bottom, left] */
  constructor(
    inChannels: number,
    outChannels: number,
    kernel: number,
    options: LayerOptions & {
      stride?: number;
      padding?: number | readonly [number, number, number, number];
      bias?: boolean;
    } = {},
  ) {
    super();
    knownOptions("Conv2d", options, [...LAYER_OPTIONS, "stride", "padding", "bias"]);
    requirePositive("Conv2d", { inChannels, outChannels, kernel });
    const bound = 1 / Math.sqrt(inChannels * kernel * kernel);
    this.weight = uniform([outChannels, inChannels, kernel, kernel], bound, options);
    this.bias = (options.bias ?? true) ? uniform([outChannels], bound, options) : null;
    this.stride = options.stride ?? 1;
    this.padding = options.padding ?? 0;
  }

  forward(x: Tensor): Tensor {
    return F.conv2d(x, this.weight, this.bias ?? undefined, { stride: this.stride, padding: this.padding });
  }
}
