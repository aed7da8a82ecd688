/**
 * 3 × 3 convolutions of stride 1 by Winograd's F(4×4, 3×3): a tile of 4 × 4 outputs takes 36 products of a channel instead of 144. Pixels and weights
 * are transformed, multiplied as 36 matrices, and transformed back, strip by strip of tiles. For software Vulkan.
 */
import { elementBytes, empty, kernel, launch, library, scope } from "../../engine/index.ts";
import type { Capabilities, Device, DType, Tensor } from "../../engine/index.ts";
import { copyInto } from "../core/copy.ts";
import { f32x1, standard } from "../core/libraries.ts";
import { asDType } from "../core/map.ts";
import type { ConvGeometry, ConvProblem } from "./variants.ts";

const transforms = library("conv2d_winograd", new URL("./lib/conv2d_winograd.wgsl", import.meta.url));
const transformWeight = kernel(
  "conv2d_winograd_weight",
  new URL("./conv2d_winograd_weight.wgsl", import.meta.url),
  { w: "read", u: "write" },
  { channels: "u32", step: "u32" },
  [transforms],
);
const transformInput = kernel(
  "conv2d_winograd_input",
  new URL("./conv2d_winograd_input.wgsl", import.meta.url),
  { x: "read", v: "write" },
  // prettier-ignore
  { channels: "u32", height: "u32", granules: "u32", across: "u32", down: "u32", top: "i32", first: "u32", end: "u32", step: "u32" },
  [...standard, transforms],
);
const multiply = kernel(
  "conv2d_winograd",
  new URL("./conv2d_winograd.wgsl", import.meta.url),
  { u: "read", v: "read", m: "write" },
  { terms: "u32", step_u: "u32", step_v: "u32", step_m: "u32" },
);
const transformOutput = kernel(
  "conv2d_winograd_output",
  new URL("./conv2d_winograd_output.wgsl", import.meta.url),
  { m: "read", bias: "read", y: "write" },
  {
    outputs: "u32",
    out_height: "u32",
    out_width: "u32",
    across: "u32",
    down: "u32",
    first: "u32",
    end: "u32",
    step: "u32",
    biased: "u32",
  },
  [...standard, transforms],
);

/** Points of the transform, for each of which there is a matrix product. */
const POINTS = 36;
/** Tiles of a panel, and output channels of a block, that an invocation group multiplies. */
const PANEL = 32;
/** Bytes of a strip's transformed pixels and sums. 4 to 64 MiB take the same time (128 → 128 at 384²: 579 to 624 ms). */
const STRIP_BYTES = 16 << 20;

/** Elements between the matrices of two points: else their elements would fall into the same sets of the caches. */
const PAD = 80;

const panelsOf = (tiles: number): number => Math.ceil(tiles / PANEL);
const blocksOf = ({ outputs }: ConvGeometry): number => Math.ceil(outputs / PANEL);
/** Fours of channels, an even number. */
const termsOf = ({ channels }: ConvGeometry): number => 2 * Math.ceil(channels / 8);

/** Tiles of 4 × 4 outputs. */
export const winogradTiles = (g: ConvGeometry): number =>
  g.images * Math.ceil(g.outHeight / 4) * Math.ceil(g.outWidth / 4);

/** Bytes of a panel's transformed pixels or sums, whichever are more. */
const panelBytes = (g: ConvGeometry): number =>
  POINTS * 4 * (PANEL * Math.max(4 * termsOf(g), PANEL * blocksOf(g)) + PAD);

/** Bytes of x or of y in f32, whichever are more. */
const imageBytes = (g: ConvGeometry, x: DType): number =>
  g.images * Math.max(4 * g.outputs * g.outHeight * g.outWidth, elementBytes(x, g.channels * g.height * g.width));

/** True if rows of x split into granules that lie under tiles, and the weight and one image fit bindings: images do not change each other's bits. */
export function fitsWinograd({ limits }: Capabilities, { g, x }: ConvProblem): boolean {
  const weight = POINTS * (blocksOf(g) * PANEL * termsOf(g) * 16 + PAD * 4);
  return (
    g.channels * g.outputs > 0 &&
    g.left === 1 &&
    g.width % 4 === 0 &&
    g.width <= 4 * Math.ceil(g.outWidth / 4) &&
    Math.max(imageBytes({ ...g, images: 1 }, x), weight, panelBytes(g)) <= limits.maxStorageBufferBindingSize &&
    Math.max(2 * termsOf(g), g.outputs) <= limits.maxComputeWorkgroupsPerDimension
  );
}

/** Work of a launch for a panel of tiles: the FLOPs that the product reports, or the bytes of a transform. */
const panelWork = (g: ConvGeometry): number => Math.max(18 * 16 * PANEL * g.channels * g.outputs, 2 * panelBytes(g));

/** True if a launch may have the work of a panel, and of the weight's transform. */
export function isWithinWork({ maxDispatchWork }: Device, g: ConvGeometry): boolean {
  const weight = (POINTS + 9) * 4 * PANEL * blocksOf(g) * 4 * termsOf(g);
  return Math.max(panelWork(g), weight) <= maxDispatchWork;
}

export interface WinogradOptions {
  /** [N, C, H, W], contiguous. */
  readonly x: Tensor;
  /** The weight as conv2d_pack packs it. */
  readonly packed: Tensor;
  /** [O] f32. */
  readonly bias: Tensor | null;
  readonly dtype: DType;
  readonly g: ConvGeometry;
}

/** → [N, O, OH, OW] of `dtype`. */
export function convolveByWinograd({ x, packed, bias, dtype, g }: WinogradOptions): Tensor {
  const { device } = x;
  const granular = g.outWidth % 4 === 0;
  const made = (images: number): Tensor =>
    empty([images, g.outputs, g.outHeight, g.outWidth], { device, dtype: granular ? dtype : "f32" });
  const y = made(g.images);
  if (y.size === 0) return asDType(y, dtype);
  scope(() => {
    const u = transformed(packed, g);
    if (imageBytes(g, x.dtype) <= device.limits.maxStorageBufferBindingSize) return convolveStrips(x, u, bias, y, g);
    for (let i = 0; i < g.images; i++)
      scope(() => {
        const one = made(1);
        convolveStrips(x.slice(0, i, i + 1).clone(), u, bias, one, { ...g, images: 1 });
        copyInto(y.slice(0, i, i + 1), one);
      });
  });
  return asDType(y, dtype);
}

/** The packed weight at the points. */
function transformed(packed: Tensor, g: ConvGeometry): Tensor {
  const [blocks, terms] = [blocksOf(g), termsOf(g)];
  const u = empty([POINTS, blocks * terms * PANEL * 4 + PAD], { device: packed.device });
  launch(transformWeight, {
    buffers: { w: packed, u },
    params: { channels: g.channels, step: u.shape[1]! },
    grid: [blocks, 2 * terms],
    cost: { flops: 0, bytes: (packed.size + u.size) * 4 },
  });
  return u;
}

/** y [N, O, OH, OW] from x, which fit bindings, and the transformed weight u. */
function convolveStrips(x: Tensor, u: Tensor, bias: Tensor | null, y: Tensor, g: ConvGeometry): void {
  const { device } = x;
  const { maxStorageBufferBindingSize: limit, maxComputeWorkgroupsPerDimension: most } = device.limits;
  const [blocks, terms, tiles] = [blocksOf(g), termsOf(g), winogradTiles(g)];
  const bytes = Math.min(STRIP_BYTES / 2, limit);
  const fitting = Math.floor(Math.min(bytes / panelBytes(g), device.maxDispatchWork / panelWork(g)));
  const strip = Math.min(panelsOf(tiles), most, Math.max(1, fitting));
  const flops = 18 * g.images * g.outputs * g.outHeight * g.outWidth * g.channels; // of the convolution, as for all its kernels
  const place = { across: Math.ceil(g.outWidth / 4), down: Math.ceil(g.outHeight / 4) };
  const v = empty([POINTS, strip * 4 * terms * PANEL + PAD], { device });
  const m = empty([POINTS, blocks * PANEL * strip * PANEL + PAD], { device });
  for (let first = 0; first < tiles; first += strip * PANEL) {
    const end = Math.min(tiles, first + strip * PANEL);
    const panels = panelsOf(end - first);
    launch(transformInput, {
      use: { x: x.dtype },
      buffers: { x, v },
      // prettier-ignore
      params: { ...place, first, end, channels: g.channels, height: g.height, granules: g.width / 4, top: g.top, step: v.shape[1]! },
      grid: [panels, terms / 2],
      cost: { flops: 0, bytes: elementBytes(x.dtype, panels * PANEL * 16 * g.channels) + v.size * 4 },
    });
    launch(multiply, {
      buffers: { u, v, m },
      params: { terms, step_u: u.shape[1]! / 4, step_v: v.shape[1]! / 4, step_m: m.shape[1]! / 4 },
      grid: [blocks, panels, POINTS],
      cost: { flops: Math.round((flops * (end - first)) / tiles), bytes: (u.size + v.size + m.size) * 4 },
    });
    launch(transformOutput, {
      use: { y: g.outWidth % 4 === 0 ? y.dtype : f32x1 },
      buffers: { m, bias: bias ?? m, y },
      params: {
        ...place,
        first,
        end,
        outputs: g.outputs,
        out_height: g.outHeight,
        out_width: g.outWidth,
        biased: bias ? 1 : 0,
        step: m.shape[1]!,
      },
      grid: [panels, Math.ceil(g.outputs / 8)],
      cost: { flops: 0, bytes: m.size * 4 + elementBytes(y.dtype, panels * PANEL * 16 * g.outputs) },
    });
  }
}
