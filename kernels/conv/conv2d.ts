/**
 * Two-dimensional convolution over NCHW images, and its gradients. The kernels and their launches are in `parts.ts`; 1 × 1 kernels and
 * patches go through matrix products, in `conv2d_matmul.ts`.
 *
 * The layout is NCHW throughout, as in checkpoints: the fast kernels read x in place, each lane a pixel of a channel, and transpose nothing; only
 * the weight is packed, once a call. On lavapipe a 3×3, 128 → 128 at 64 × 64 takes 20 ms of processor time by `winograd.ts`, 57 directly; one
 * copy of the map to NHWC takes 20 ms, and NHWC inside would need two.
 */
import {
  ArgumentError,
  DTypeError,
  ShapeError,
  checkTensors,
  empty,
  gradEnabled,
  isFloat,
  record,
  sameShape,
  scope,
  shapeText,
  knownOptions,
} from "../../engine/index.ts";
import type { DType, Tensor } from "../../engine/index.ts";
import { fillInto } from "../core/copy.ts";
import { convolve, packBothWays, weightGradient } from "./parts.ts";
import { convVariant } from "./variants.ts";
import type { ConvGeometry } from "./variants.ts";
import { biasGradient } from "./bias_gradient.ts";
import {
  convolveByProduct,
  inputGradientOfPixels,
  patchGradients,
  productOf,
  weightGradientOfPixels,
} from "./conv2d_matmul.ts";
import { asDType, contiguousCopy } from "../core/map.ts";

export interface Conv2dOptions {
  /** Pixels from one window to the next, in both directions; 1 by default. */
  readonly stride?: number;
  /** Zeros around the image: as many on every side, or [top, right, bottom, left]; 0 by default. */
  readonly padding?: number | readonly [top: number, right: number, bottom: number, left: number];
}

/**
 * y[n, o, r, q] = bias[o] + Σ over c, i, j of x[n, c, r · stride + i − top, q · stride + j − left] · weight[o, c, i, j] (cross-correlation, as
 * in PyTorch): x [N, C, H, W], weight [O, C, kh, kw], bias [O] → [N, O, OH, OW] of x's dtype with OH = ⌊(H + top + bottom − kh) / stride⌋ + 1.
 * Sums are f32. Gradients: of x in its dtype, of weight and bias in f32. A 1 × 1 kernel of stride 1 keeps the layout of x: if that is a view of
 * [N, H, W, C], so are the result and its gradient.
 */
export function conv2d(x: Tensor, weight: Tensor, bias: Tensor | null = null, options: Conv2dOptions = {}): Tensor {
  checkTensors("conv2d", x, weight, bias);
  knownOptions("conv2d", options, ["stride", "padding"]);
  const g = geometry(x, weight, bias, options);
  const reach = (count: number, size: number): number => (count - 1) * g.stride + size;
  const padded =
    g.top > 0 ||
    g.left > 0 ||
    reach(g.outHeight, g.kernelHeight) > g.height ||
    reach(g.outWidth, g.kernelWidth) > g.width;
  const problem = { g, x: x.dtype, w: weight.dtype, product: productOf(g, padded, x) };
  const { product: kind } = convVariant(x.device.capabilities, problem);
  const [y, flipped] = scope((): [Tensor, Tensor | null] => {
    const wide = bias && contiguousCopy(asDType(bias, "f32"));
    if (kind) return [convolveByProduct(kind, x, weight, wide, x.dtype, g), null];
    const own = contiguousCopy(weight);
    const [packed, other] = (gradEnabled() && x.requiresGrad && packBothWays(own)) || [null, null];
    const given = { x: contiguousCopy(x), weight: own, packed, flip: false, bias: wide };
    return [convolve({ ...given, dtype: x.dtype, g }), other];
  });
  const saved = [x, weight, ...(flipped ? [flipped] : [])];
  const out = record("conv2d", [x, weight, bias], y, saved, (dy, [input, kernel, ready], needs, priors) => {
    if (kind === "patches") return patchGradients(dy, input!, kernel!, g, needs, priors);
    const own = contiguousCopy(dy);
    const weights = { weight: kernel!, packed: ready ?? null };
    const dx = (): Tensor =>
      kind ? inputGradientOfPixels(own, kernel!, input!.dtype, g) : inputGradient(own, weights, input!.dtype, g);
    const dWeight = (): Tensor =>
      kind ? weightGradientOfPixels(input!, own, g) : weightGradient(contiguousCopy(input!), own, g);
    const pixels = g.outHeight * g.outWidth;
    return [
      needs[0] ? dx() : null,
      needs[1] ? dWeight() : null,
      needs[2] ? biasGradient(own, [g.images, g.outputs, pixels]) : null,
    ];
  });
  flipped?.dispose(); // the tape has its own handle
  return out;
}

function geometry(x: Tensor, weight: Tensor, bias: Tensor | null, options: Conv2dOptions): ConvGeometry {
  const { stride = 1, padding = 0 } = options;
  for (const t of [x, weight, bias])
    if (t && !isFloat(t.dtype))
      throw new DTypeError(`conv2d: every tensor must have a floating dtype; got ${t}. Cast it to f32 first.`);
  if (x.rank !== 4 || weight.rank !== 4)
    throw new ShapeError(
      `conv2d: x must be [N, C, H, W] and weight [O, C, kh, kw]; got ${shapeText(x.shape)} and ${shapeText(weight.shape)}. Reshape them.`,
    );
  const [images, channels, height, width] = x.shape as [number, number, number, number];
  const [outputs, inner, kernelHeight, kernelWidth] = weight.shape as [number, number, number, number];
  if (inner !== channels)
    throw new ShapeError(
      `conv2d: x must have the weight's ${inner} channels; got ${channels} in x ${shapeText(x.shape)} for weight ${shapeText(weight.shape)}. Make them equal.`,
    );
  if (bias && !sameShape(bias.shape, [outputs]))
    throw new ShapeError(
      `conv2d: bias must be [${outputs}], one value per output channel; got ${shapeText(bias.shape)}. Change it.`,
    );
  const [top, right, bottom, left] = typeof padding === "number" ? [padding, padding, padding, padding] : padding;
  if (![top, right, bottom, left].every((n) => Number.isInteger(n) && n >= 0)) {
    throw new ArgumentError(
      `conv2d: padding must be a whole number ≥ 0, or [top, right, bottom, left]; got ${JSON.stringify(padding)}. Change it.`,
    );
  }
  if (!Number.isInteger(stride) || stride < 1)
    throw new ArgumentError(`conv2d: stride must be a whole number ≥ 1; got ${stride}. Change it.`);
  if (kernelHeight < 1 || kernelWidth < 1)
    throw new ShapeError(
      `conv2d: the kernel of weight must not be empty; got ${shapeText(weight.shape)}. Check its shape.`,
    );
  const outHeight = Math.floor((height + top + bottom - kernelHeight) / stride) + 1;
  const outWidth = Math.floor((width + left + right - kernelWidth) / stride) + 1;
  if (outHeight < 1 || outWidth < 1) {
    throw new ShapeError(
      `conv2d: the kernel must fit ${height} × ${width} pixels with padding ${JSON.stringify(padding)}; got ${kernelHeight} × ${kernelWidth}. Pad more, or use a smaller kernel.`,
    );
  }
  return {
    images,
    channels,
    height,
    width,
    outputs,
    outHeight,
    outWidth,
    kernelHeight,
    kernelWidth,
    stride,
    up: 1,
    top,
    left,
  };
}

/** The convolution of the gradient, with zeros between its pixels if the stride was larger than 1, by the reversed and transposed weight. */
function inputGradient(
  dy: Tensor,
  { weight, packed }: { readonly weight: Tensor; readonly packed: Tensor | null },
  dtype: DType,
  g: ConvGeometry,
): Tensor {
  if (dy.size === 0) {
    const zero = empty([g.images, g.channels, g.height, g.width], { dtype, device: dy.device });
    fillInto(zero, 0);
    return zero;
  }
  const transposed = {
    images: g.images,
    channels: g.outputs,
    height: g.outHeight,
    width: g.outWidth,
    outputs: g.channels,
    outHeight: g.height,
    outWidth: g.width,
    kernelHeight: g.kernelHeight,
    kernelWidth: g.kernelWidth,
    stride: 1,
    up: g.stride,
    top: g.kernelHeight - 1 - g.top,
    left: g.kernelWidth - 1 - g.left,
  };
  return convolve({ x: dy, weight: contiguousCopy(weight), packed, flip: true, bias: null, dtype, g: transposed });
}
