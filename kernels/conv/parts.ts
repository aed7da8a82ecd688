/**
 * The launches below `conv2d`: weight packing, the convolution, and the weight's gradient, by the kernels of `variants.ts`. One launch if the tensors
 * fit a binding; else images, input channels and output channels are walked in ranges. Nothing here is recorded on the tape.
 */
import { DTYPES, ShapeError, elementBytes, empty, grid1d, kernel, launch } from "../../engine/index.ts";
import type { Bound, DType, Device, Tensor } from "../../engine/index.ts";
import { f32x1, standard } from "../core/libraries.ts";
import { fillInto } from "../core/copy.ts";
import { asDType } from "../core/map.ts";
import { windowsOf } from "../core/windows.ts";
import { sum } from "../reduce/reduce.ts";
import { directVariant } from "./variants.ts";
import type { ConvGeometry } from "./variants.ts";
import { convolveByWinograd, isWithinWork } from "./winograd.ts";

const TILE = 32; // output channels of a packed tile

const pack = kernel(
  "conv2d_pack",
  new URL("./conv2d_pack.wgsl", import.meta.url),
  { x: "read", w: "write" },
  { rows: "u32", start: "u32", outer: "u32", inner: "u32", taps: "u32" },
  standard,
);

/**
 * weight [O, C, kh, kw] of any float dtype → [tiles of 32 outputs, inputs, kh · kw, 32] f32, the order in which the kernels read it. With `flip`
 * outputs are C, inputs O and the taps reversed: the convolution that gives the gradient of the input.
 */
function packWeight(weight: Tensor, flip: boolean): Tensor {
  const [outer, inner, kh, kw] = weight.shape as [number, number, number, number];
  const taps = kh * kw;
  const [outputs, inputs] = flip ? [inner, outer] : [outer, inner];
  const w = empty([Math.ceil(outputs / TILE), inputs, taps, TILE], { device: weight.device });
  for (const { start, count, buffers } of windowsOf("conv2d", w.shape[0]! * inputs, { w })) {
    launch(pack, {
      use: { x: weight.dtype },
      constants: { FLIP: flip },
      buffers: { x: weight, ...buffers },
      params: { rows: count, start, outer, inner, taps },
      grid: grid1d(Math.ceil((count * 8) / 64)),
      cost: { flops: 0, bytes: elementBytes(weight.dtype, weight.size) + buffers.w.elements * 4 },
    });
  }
  return w;
}

const packBoth = kernel(
  "conv2d_pack_both",
  new URL("./conv2d_pack_both.wgsl", import.meta.url),
  { x: "read", w: "write", flipped: "write" },
  { rows: "u32", flipped_rows: "u32", outer: "u32", inner: "u32", taps: "u32" },
  standard,
);

/** Elements up to which a weight is packed both ways at once: the second lives until the backward. */
const BOTH = 1 << 18;

/** `packWeight` both ways in one launch, without flip and with it; null if the weight is not small. */
export function packBothWays(weight: Tensor): [Tensor, Tensor] | null {
  const { device, dtype } = weight;
  const [outer, inner, kh, kw] = weight.shape as [number, number, number, number];
  const taps = kh * kw;
  const made = (tiled: number, summed: number): Tensor =>
    empty([Math.ceil(tiled / TILE), summed, taps, TILE], { device });
  const bytes = 4 * TILE * taps * Math.max(Math.ceil(outer / TILE) * inner, Math.ceil(inner / TILE) * outer);
  if (weight.size === 0 || weight.size > BOTH || bytes > device.limits.maxStorageBufferBindingSize) return null;
  const [w, flipped] = [made(outer, inner), made(inner, outer)];
  const [rows, flippedRows] = [w, flipped].map(({ shape }) => shape[0]! * shape[1]!) as [number, number];
  launch(packBoth, {
    use: { x: dtype },
    buffers: { x: weight, w, flipped },
    params: { rows, flipped_rows: flippedRows, outer, inner, taps },
    grid: grid1d(Math.ceil((8 * (rows + flippedRows)) / 64)),
    cost: { flops: 0, bytes: 2 * elementBytes(dtype, weight.size) + 4 * (w.size + flipped.size) },
  });
  return [w, flipped];
}

/** Elements of `dtype` that a range may have: a binding less the alignment that its start may lose. */
function room(device: Device, dtype: DType): number {
  const { maxStorageBufferBindingSize: limit, minStorageBufferOffsetAlignment: align } = device.limits;
  return Math.floor(((limit - align - 16) * 8) / DTYPES[dtype].bits);
}

/** Binds elements `start` … `start + count` of a contiguous tensor, from a multiple of the alignment; `inside` is their offset in it. */
function range(t: Tensor, start: number, count: number): { bound: Bound; inside: number } {
  const per = (t.device.limits.minStorageBufferOffsetAlignment * 8) / DTYPES[t.dtype].bits;
  const first = Math.floor(start / per) * per;
  return { bound: { of: t, start: first, elements: start - first + count }, inside: start - first };
}

/** 0 … `total` in ranges of at most `most`; none crosses a multiple of `multiple` but those that start on one. */
function ranges(op: string, total: number, most: number, multiple = 1): { first: number; end: number }[] {
  if (most < 1)
    throw new ShapeError(
      `${op}: one channel of an image must fit a binding of the device; got a larger one. Use smaller images.`,
    );
  const out: { first: number; end: number }[] = [];
  for (let first = 0; first < total;) {
    const end = Math.min(total, first + most);
    const rounded = Math.floor(end / multiple) * multiple;
    out.push({ first, end: rounded > first && (end < total || first % multiple !== 0) ? rounded : end });
    first = out.at(-1)!.end;
  }
  return out;
}

/** A convolution, or with `flip` the gradient of its input. */
interface Convolution {
  /** [N, C, H, W], bindable. */
  readonly x: Tensor;
  /** [O, C, kh, kw], contiguous; with `flip` [C, O, kh, kw], its taps reversed. */
  readonly weight: Tensor;
  readonly flip: boolean;
  /** The weight as `packWeight` packs it, if that is done. */
  readonly packed: Tensor | null;
  /** [O] f32. */
  readonly bias: Tensor | null;
  readonly dtype: DType;
  readonly g: ConvGeometry;
}

/** → [N, O, OH, OW] of `dtype`. Accumulates in f32; if one image's channels exceed a binding they are summed over several launches in an f32 result. */
export function convolve({ x, weight, flip, packed: ready, bias, dtype, g }: Convolution): Tensor {
  const device = x.device;
  const { forward: variant, winograd } = directVariant(device.capabilities, { g, x: x.dtype, w: weight.dtype });
  const packed = ready ?? packWeight(weight, flip);
  if (winograd && isWithinWork(device, g)) return convolveByWinograd({ x, packed, bias, dtype, g });
  const area = g.height * g.width;
  const pixels = g.outHeight * g.outWidth;
  const taps = g.kernelHeight * g.kernelWidth;
  const shape = [g.images, g.outputs, g.outHeight, g.outWidth];
  const whole =
    x.size <= room(device, x.dtype) &&
    packed.size <= room(device, "f32") &&
    g.images * g.outputs * pixels <= room(device, "f32");
  const oneTile = packed.size > room(device, "f32");
  const mostChannels = Math.min(
    Math.floor(room(device, x.dtype) / Math.max(1, area)),
    oneTile ? Math.floor(room(device, "f32") / (taps * TILE)) : Infinity,
  );
  // One dispatch is bounded: images and output channels are computed apart from one another, so cutting them changes no bit.
  const work = 2 * pixels * Math.max(1, g.channels) * taps; // FLOPs of an output channel of an image
  const mostOutputs = Math.min(
    whole ? Infinity : Math.floor(room(device, "f32") / Math.max(1, pixels)),
    whole || !oneTile ? Infinity : TILE,
    Math.floor(device.maxDispatchWork / work),
  );
  const mostImages = whole ? Math.max(1, Math.floor(device.maxDispatchWork / (work * g.outputs))) : 1;
  const channelRanges =
    whole || g.channels === 0 ? [{ first: 0, end: g.channels }] : ranges("conv2d", g.channels, mostChannels);
  const outputRanges = ranges("conv2d", g.outputs, mostOutputs, TILE);
  // Granules of four if the contiguous part that a kernel stores splits into fours, else elements (in f32).
  const granular = variant.run % 4 === 0;
  const wide = dtype !== "f32" && (!granular || channelRanges.length > 1);
  const y = empty(shape, { device, dtype: wide ? "f32" : dtype });
  if (y.size === 0) return y;
  const imageRanges = ranges("conv2d", g.images, mostImages);
  for (const n of imageRanges) {
    for (const o of outputRanges) {
      for (const c of channelRanges) {
        const images = n.end - n.first;
        const tile = Math.floor(o.first / TILE);
        const tiles = Math.ceil(o.end / TILE) - tile;
        const channels = c.end - c.first;
        const xr = range(x, (n.first * g.channels + c.first) * area, ((images - 1) * g.channels + channels) * area);
        const yr = range(
          y,
          (n.first * g.outputs + o.first) * pixels,
          ((images - 1) * g.outputs + o.end - o.first) * pixels,
        );
        const wr = range(
          packed,
          (tile * g.channels + c.first) * taps * TILE,
          ((tiles - 1) * g.channels + channels) * taps * TILE,
        );
        launch(variant.kernel, {
          use: { x: x.dtype, y: granular ? y.dtype : f32x1, ...variant.use },
          constants: variant.constants,
          buffers: { x: xr.bound, w: wr.bound, bias: bias ?? wr.bound, y: yr.bound },
          // prettier-ignore
          params: {
            images, channels, height: g.height, width: g.width, out_height: g.outHeight, out_width: g.outWidth,
            kernel_height: g.kernelHeight, kernel_width: g.kernelWidth, stride: g.stride, top: g.top, left: g.left,
            o_first: o.first, o_end: o.end, x_first: xr.inside, x_image: g.channels * area, y_first: yr.inside, y_image: g.outputs * pixels,
            w_first: wr.inside / 4, w_tile: g.channels * taps * (TILE / 4),
            biased: bias && c.first === 0 ? 1 : 0, accumulate: c.first === 0 ? 0 : 1,
          },
          grid: grid1d(
            variant.groups({ images, tiles, granules: (o.end - o.first) * (granular ? pixels / 4 : pixels) }),
          ),
          cost: {
            flops: 2 * images * (o.end - o.first) * pixels * channels * taps,
            bytes:
              elementBytes(x.dtype, images * channels * area) +
              elementBytes(y.dtype, images * (o.end - o.first) * pixels) +
              tiles * channels * taps * TILE * 4,
          },
        });
      }
    }
  }
  return asDType(y, dtype);
}

/** Pixels that one part of the weight's gradient sums in a row: short enough for f32, long enough that the parts stay few. */
const PART_PIXELS = 4096;
/** Workgroups that a large GPU wants; small gradients are split into more parts to reach it. */
const WANTED_GROUPS = 256;
const PARTS_BYTES = 64 << 20;

/** x [N, C, H, W], grad [N, O, OH, OW] (both bindable) → gradient of the weight [O, C, kh, kw], f32: pixels in parts, then the parts in order. */
export function weightGradient(x: Tensor, grad: Tensor, g: ConvGeometry): Tensor {
  const device = x.device;
  const shape = [g.outputs, g.channels, g.kernelHeight, g.kernelWidth];
  const taps = g.kernelHeight * g.kernelWidth;
  const row = g.channels * taps;
  const size = g.outputs * row;
  const area = g.height * g.width;
  const pixels = g.outHeight * g.outWidth;
  if (size === 0 || grad.size === 0 || x.size === 0) {
    const zero = empty(shape, { device });
    fillInto(zero, 0);
    return zero;
  }
  const whole = x.size <= room(device, x.dtype) && grad.size <= room(device, grad.dtype);
  const images = whole ? g.images : 1;
  const tiles = Math.ceil(row / 64) * Math.ceil(g.outputs / 64);
  const wanted = Math.max(Math.ceil((images * pixels) / PART_PIXELS), Math.ceil(WANTED_GROUPS / tiles));
  const affordable = Math.max(1, Math.floor(Math.min(PARTS_BYTES / 4, room(device, "f32")) / size));
  const rows = Math.ceil((images * g.outHeight) / Math.min(wanted, affordable));
  const parts = Math.ceil((images * g.outHeight) / rows);
  // Without parts, a gradient larger than a binding is made in ranges of output channels.
  const fits = parts * size <= room(device, "f32");
  const mostOutputs = Math.min(
    whole ? Infinity : Math.floor(room(device, grad.dtype) / pixels),
    fits ? Infinity : Math.floor(room(device, "f32") / row),
    Math.floor(device.maxDispatchWork / (2 * images * pixels * row)),
  );
  const imageRanges = whole ? [{ first: 0, end: g.images }] : ranges("conv2d", g.images, 1);
  const outputRanges = ranges("conv2d", g.outputs, mostOutputs);
  const channelRanges = whole
    ? [{ first: 0, end: g.channels }]
    : ranges("conv2d", g.channels, Math.floor(room(device, x.dtype) / area));
  const p = empty([parts, ...shape], { device });
  const { weight: variant } = directVariant(device.capabilities, { g, x: x.dtype, w: grad.dtype });
  for (const n of imageRanges) {
    for (const o of outputRanges) {
      for (const c of channelRanges) {
        const count = n.end - n.first;
        const channels = c.end - c.first;
        const outputs = o.end - o.first;
        const xr = range(x, (n.first * g.channels + c.first) * area, ((count - 1) * g.channels + channels) * area);
        const gr = range(grad, (n.first * g.outputs + o.first) * pixels, ((count - 1) * g.outputs + outputs) * pixels);
        const pr = range(p, o.first * row + c.first * taps, (parts - 1) * size + (outputs - 1) * row + channels * taps);
        launch(variant.kernel, {
          use: { x: x.dtype, g: grad.dtype },
          buffers: { x: xr.bound, g: gr.bound, p: pr.bound },
          // prettier-ignore
          params: {
            images: count, channels, outputs, height: g.height, width: g.width, out_height: g.outHeight, out_width: g.outWidth,
            kernel_height: g.kernelHeight, kernel_width: g.kernelWidth, stride: g.stride, top: g.top, left: g.left, rows, parts,
            x_first: xr.inside, x_image: g.channels * area, g_first: gr.inside, g_image: g.outputs * pixels,
            p_first: pr.inside, p_row: row, p_part: size, accumulate: n.first === 0 ? 0 : 1,
          },
          grid: grid1d(
            Math.ceil((channels * (taps / variant.taps)) / variant.across) * Math.ceil(outputs / variant.down) * parts,
          ),
          cost: {
            flops: 2 * count * outputs * pixels * channels * taps,
            bytes:
              elementBytes(x.dtype, count * channels * area) +
              elementBytes(grad.dtype, count * outputs * pixels) +
              parts * outputs * channels * taps * 4,
          },
        });
      }
    }
  }
  return parts === 1 ? p.strided(shape, [row, taps, g.kernelWidth, 1]) : sum(p, [0]);
}
