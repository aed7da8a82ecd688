/**
 * The convolutions that are matrix products: 1 × 1 (weight · pixels), and patches, whose windows are adjacent (stride = kernel, as in a patch
 * embedding, or a 1 × 1 kernel on an image whose channels are adjacent). On lavapipe 2.5 and 6 times as fast as the general kernel. Nothing here
 * is recorded on the tape.
 */
import { elementBytes, empty, grid1d, kernel, launch } from "../../engine/index.ts";
import type { DType, Priors, Tensor } from "../../engine/index.ts";
import { biasGradient } from "./bias_gradient.ts";
import type { ConvGeometry } from "./variants.ts";
import { copyInto, fillInto } from "../core/copy.ts";
import { rowLibrary, standard } from "../core/libraries.ts";
import { asDType, contiguousCopy } from "../core/map.ts";
import { granulesOf, viewAs } from "../core/rows.ts";
import { windowsOf } from "../core/windows.ts";
import { gemm } from "../matmul/matmul.ts";
import { sum } from "../reduce/reduce.ts";

const addBias = kernel(
  "conv2d_bias",
  new URL("./conv2d_bias.wgsl", import.meta.url),
  { x: "read", bias: "read", y: "write" },
  { rows: "u32", first: "u32", channels: "u32", granules: "u32" },
  standard,
);

/** Returns the matrix product that computes a convolution of x, or null if there is none. */
export function productOf(g: ConvGeometry, padded: boolean, x: Tensor): "pixels" | "patches" | null {
  if (padded || g.images * g.channels * g.outputs === 0) return null;
  if (g.kernelHeight !== g.stride || g.kernelWidth !== g.stride) return null;
  return g.stride === 1 && (x.isContiguous || !windows(x, g).isBindable) ? "pixels" : "patches";
}

/** x [N, C, H, W], weight [O, C, kh, kw], bias [O] f32 → [N, O, OH, OW] of `dtype`; patches come as a view of [N, OH, OW, O]. */
export function convolveByProduct(
  kind: "pixels" | "patches",
  x: Tensor,
  weight: Tensor,
  bias: Tensor | null,
  dtype: DType,
  g: ConvGeometry,
): Tensor {
  if (kind === "patches") {
    const y = gemm({ a: unfold(x, g), b: matrix(weight, g), transB: true, bias, dtype });
    return y.strided(
      [g.images, g.outputs, g.outHeight, g.outWidth],
      [g.outHeight * g.outWidth * g.outputs, 1, g.outWidth * g.outputs, g.outputs],
    );
  }
  const y = gemm({ a: matrix(weight, g), b: rows(contiguousCopy(x), g.channels, g), dtype: bias ? "f32" : dtype });
  return image(bias ? biased(y, bias, dtype, g) : y, g.outputs, g);
}

/** "pixels": the gradient of x [N, C, H, W], of `dtype`; dy is contiguous. */
export function inputGradientOfPixels(dy: Tensor, weight: Tensor, dtype: DType, g: ConvGeometry): Tensor {
  const dx = gemm({ a: matrix(weight, g), transA: true, b: rows(dy, g.outputs, g), dtype });
  return image(dx, g.channels, g);
}

/** Elements up to which the weight's gradients of all images are made at once and then added up: two launches instead of one an image. */
const BATCHED = 1 << 18;

/** "pixels": the gradient of the weight [O, C, 1, 1], f32; dy is contiguous. */
export function weightGradientOfPixels(x: Tensor, dy: Tensor, g: ConvGeometry): Tensor {
  const shape = [g.outputs, g.channels, 1, 1];
  const [a, b] = [rows(dy, g.outputs, g), rows(contiguousCopy(x), g.channels, g)];
  if (g.images > 1 && g.images * g.outputs * g.channels <= BATCHED)
    return viewAs(sum(gemm({ a, b, transB: true, dtype: "f32" }), 0), shape);
  const out = empty([g.outputs, g.channels], { device: x.device });
  for (let n = 0; n < g.images; n++) gemm({ a: one(a, n), b: one(b, n), transB: true, out, accumulate: n > 0 });
  return viewAs(out, shape);
}

/** "patches": the gradients of x, weight and bias. */
export function patchGradients(
  dy: Tensor,
  x: Tensor,
  weight: Tensor,
  g: ConvGeometry,
  needs: readonly boolean[],
  priors: Priors,
): (Tensor | null)[] {
  const shape = [g.outputs, g.channels, g.kernelHeight, g.kernelWidth];
  const own = pixelsFirst(dy, g);
  return [
    needs[0] ? inputGradientOfPatches(own, weight, x.dtype, g, priors) : null,
    needs[1] ? viewAs(gemm({ a: own, transA: true, b: unfold(x, g), dtype: "f32" }), shape) : null,
    needs[2] ? biasGradient(own, [own.dim(0), g.outputs, 1]) : null,
  ];
}

/** The gradient of x [N, C, H, W], of `dtype`, from that of the result as rows [N · OH · OW, O]. */
function inputGradientOfPatches(dy: Tensor, weight: Tensor, dtype: DType, g: ConvGeometry, priors: Priors): Tensor {
  if (g.stride === 1) {
    const prior = priors.take(0)?.sum ?? null;
    const dx = gemm({ a: dy, b: matrix(weight, g), dtype, residual: prior && unfold(prior, g) });
    const { height: h, width: w, channels: c } = g;
    return dx.strided([g.images, c, h, w], [h * w * c, 1, w * c, c]);
  }
  const shape = [g.images, g.channels, g.height, g.width];
  const patches = gemm({ a: dy, b: matrix(weight, g), dtype: "f32" });
  const dx = empty(shape, { device: dy.device });
  // Rows and columns left over at the end belong to no patch.
  if (g.height % g.stride || g.width % g.stride) fillInto(dx, 0);
  const target = windows(dx, g);
  copyInto(target, viewAs(patches, target.shape));
  return asDType(dx, dtype);
}

/** The weight as [O, C · kh · kw]. */
function matrix(weight: Tensor, g: ConvGeometry): Tensor {
  const width = g.channels * g.kernelHeight * g.kernelWidth;
  return contiguousCopy(weight).strided([g.outputs, width], [width, 1]);
}

/** Contiguous [N, channels, H, W] as [N, channels, pixels], for a kernel that keeps the size; and back. */
const rows = (t: Tensor, channels: number, g: ConvGeometry): Tensor =>
  viewAs(t, [g.images, channels, g.height * g.width]);
const image = (t: Tensor, channels: number, g: ConvGeometry): Tensor =>
  viewAs(t, [g.images, channels, g.height, g.width]);

const one = (t: Tensor, n: number): Tensor =>
  t.strided(t.shape.slice(1), t.strides.slice(1), t.offset + n * t.strides[0]!);

/** A view of an image as [N, OH, OW, C, kh, kw]: its windows side by side. */
function windows(t: Tensor, g: ConvGeometry): Tensor {
  const [n, c, h, w] = t.strides as [number, number, number, number];
  return t.strided(
    [g.images, g.outHeight, g.outWidth, g.channels, g.kernelHeight, g.kernelWidth],
    [n, h * g.stride, w * g.stride, c, h, w],
  );
}

/** The windows as rows [N · OH · OW, C · kh · kw]: a copy. */
function unfold(x: Tensor, g: ConvGeometry): Tensor {
  const width = g.channels * g.kernelHeight * g.kernelWidth;
  return contiguousCopy(windows(x, g)).strided([g.images * g.outHeight * g.outWidth, width], [width, 1]);
}

/** A gradient [N, O, OH, OW] as rows [N · OH · OW, O]; a copy unless it lies that way, as the result of patches does. */
function pixelsFirst(dy: Tensor, g: ConvGeometry): Tensor {
  const [n, o, h, w] = dy.strides as [number, number, number, number];
  const seen = dy.strided([g.images, g.outHeight, g.outWidth, g.outputs], [n, h, w, o]);
  return contiguousCopy(seen).strided([g.images * g.outHeight * g.outWidth, g.outputs], [g.outputs, 1]);
}

/** y [N, O, pixels] plus the bias of its channel, of `dtype`. */
function biased(x: Tensor, bias: Tensor, dtype: DType, g: ConvGeometry): Tensor {
  const pixels = g.height * g.width;
  const y = empty(x.shape, { dtype: pixels % 4 === 0 ? dtype : "f32", device: x.device });
  for (const { start, count, buffers } of windowsOf("conv2d", g.images * g.outputs, { x, y })) {
    const granules = granulesOf(pixels);
    launch(addBias, {
      use: { x: rowLibrary(x.dtype, pixels), y: rowLibrary(y.dtype, pixels) },
      buffers: { ...buffers, bias },
      params: { rows: count, first: start, channels: g.outputs, granules },
      grid: grid1d(count * Math.ceil(granules / 256)),
      cost: {
        flops: count * pixels,
        bytes: elementBytes(x.dtype, count * pixels) + elementBytes(y.dtype, count * pixels),
      },
    });
  }
  return asDType(y, dtype);
}
