/**
 * Bicubic resizing with antialias, equal to Pillow's to the last bit (its `Resample.c`, filter BICUBIC, 8-bit channels):
 * two passes, horizontal first, each with fixed-point weights of 22 bits and a result rounded to 8 bits. (From 12.2 on, Pillow takes images
 * more than 100 times as tall as wide vertically first; the original was made with the older order, which is kept.)
 */
import { ArgumentError } from "../../engine/errors.ts";
import { checkImage } from "./image.ts";
import type { RgbImage } from "./image.ts";

// The 32 bits hold 8 of the pixel and 2 free ones: Σ|weight| < 2 for this kernel, so a sum fits an int32.
const PRECISION_BITS = 22;
const HALF = 1 << (PRECISION_BITS - 1);
const A = -0.5; // the kernel's free parameter
const RADIUS = 2; // radius of the kernel

/** Part of an image, pixels. */
export interface Window {
  readonly left: number;
  readonly top: number;
  readonly width: number;
  readonly height: number;
}

/** A range of outputs: `count` from `from` on, of `total`. */
interface Range {
  readonly from: number;
  readonly count: number;
  readonly total: number;
}

/** Inputs that each output of a range sums, all packed: output i takes `weights[start[i] …]` from `first[i]` on. */
interface Taps {
  readonly first: Int32Array;
  readonly start: Int32Array; // one more than there are outputs
  readonly weights: Int32Array;
}

function bicubic(distance: number): number {
  const t = Math.abs(distance);
  if (t < 1) return ((A + 2) * t - (A + 3)) * t * t + 1;
  if (t < 2) return (((t - 5) * t + 8) * t - 4) * A;
  return 0;
}

function tapsOf(inputs: number, { from, count: outputs, total }: Range): Taps {
  const scale = inputs / total;
  const filterScale = Math.max(scale, 1);
  const inverse = 1 / filterScale; // the original multiplies by it: dividing gives other last bits
  const support = RADIUS * filterScale;
  const first = new Int32Array(outputs);
  const start = new Int32Array(outputs + 1);
  const window = (i: number): [number, number, number] => {
    const center = (from + i + 0.5) * scale;
    return [
      Math.max(0, Math.trunc(center - support + 0.5)),
      Math.min(inputs, Math.trunc(center + support + 0.5)),
      center,
    ];
  };
  for (let i = 0; i < outputs; i++) {
    const [low, high] = window(i);
    first[i] = low;
    start[i + 1] = start[i]! + high - low;
  }
  const weights = new Int32Array(start[outputs]!);
  const exact = new Float64Array(Math.ceil(support) * 2 + 1);
  for (let i = 0; i < outputs; i++) {
    const [low, high, center] = window(i);
    let sum = 0;
    for (let j = low; j < high; j++) sum += exact[j - low] = bicubic((j - center + 0.5) * inverse);
    for (let j = 0; j < high - low; j++) {
      const fixed = (sum === 0 ? exact[j]! : exact[j]! / sum) * (1 << PRECISION_BITS);
      weights[start[i]! + j] = Math.trunc(fixed < 0 ? fixed - 0.5 : fixed + 0.5);
    }
  }
  return { first, start, weights };
}

// `Uint8ClampedArray` clamps as the original does; the values stored here are integers.
function resizeRows({ width, height, data }: RgbImage, { first, start, weights }: Taps): RgbImage {
  const newWidth = first.length;
  const out = new Uint8ClampedArray(newWidth * height * 3);
  for (let y = 0, at = 0; y < height; y++) {
    for (let x = 0; x < newWidth; x++, at += 3) {
      let r = HALF;
      let g = HALF;
      let b = HALF;
      const end = start[x + 1]!;
      for (let k = start[x]!, from = (y * width + first[x]!) * 3; k < end; k++, from += 3) {
        const weight = weights[k]!;
        r = (r + Math.imul(weight, data[from]!)) | 0;
        g = (g + Math.imul(weight, data[from + 1]!)) | 0;
        b = (b + Math.imul(weight, data[from + 2]!)) | 0;
      }
      out[at] = r >> PRECISION_BITS;
      out[at + 1] = g >> PRECISION_BITS;
      out[at + 2] = b >> PRECISION_BITS;
    }
  }
  return { width: newWidth, height, data: new Uint8Array(out.buffer) };
}

/** @param skipped input rows that `data` lacks at its top */
function resizeColumns({ width, data }: RgbImage, { first, start, weights }: Taps, skipped: number): RgbImage {
  const newHeight = first.length;
  const row = width * 3;
  const out = new Uint8ClampedArray(row * newHeight);
  const sums = new Int32Array(row);
  for (let y = 0; y < newHeight; y++) {
    sums.fill(HALF);
    for (let k = start[y]!, from = (first[y]! - skipped) * row; k < start[y + 1]!; k++, from += row) {
      const weight = weights[k]!;
      for (let x = 0; x < row; x++) sums[x] = sums[x]! + Math.imul(weight, data[from + x]!);
    }
    for (let x = 0; x < row; x++) out[y * row + x] = sums[x]! >> PRECISION_BITS;
  }
  return { width, height: newHeight, data: new Uint8Array(out.buffer) };
}

/** Rows `from` … `to` of an image, without a copy. */
const rowsOf = ({ width, data }: RgbImage, from: number, to: number): RgbImage => ({
  width,
  height: to - from,
  data: data.subarray(from * width * 3, to * width * 3),
});

/** Columns of an image. */
function columnsOf({ width, height, data }: RgbImage, from: number, count: number): RgbImage {
  const out = new Uint8Array(count * height * 3);
  for (let y = 0; y < height; y++)
    out.set(data.subarray((y * width + from) * 3, (y * width + from + count) * 3), y * count * 3);
  return { width: count, height, data: out };
}

/** `image` as [height, width, 3] of the given size. The data is shared with `image` when the size is already that. */
export const resizeBicubic = (image: RgbImage, width: number, height: number): RgbImage =>
  resizeWindow(image, width, height, { left: 0, top: 0, width, height });

/**
 * The part `window` of what `resizeBicubic` returns, to the last bit. Only input rows and outputs of that part are computed: work and memory
 * depend on the window and the input, not on the size that the whole would have.
 */
export function resizeWindow(image: RgbImage, width: number, height: number, window: Window): RgbImage {
  checkImage("resizeBicubic", image);
  if (!(Number.isInteger(width) && Number.isInteger(height) && width > 0 && height > 0))
    throw new ArgumentError(`resizeBicubic: the new size must be positive integers; got ${width}×${height}`);
  const { left, top } = window;
  const isInside = [left, top, width - left - window.width, height - top - window.height].every((gap) => gap >= 0);
  if (!isInside || ![left, top, window.width, window.height].every(Number.isInteger))
    throw new ArgumentError(`resizeWindow: the window must lie in ${width}×${height}; got ${JSON.stringify(window)}`);
  const columns = height === image.height ? null : tapsOf(image.height, { from: top, count: window.height, total: height }); // prettier-ignore
  const last = window.height - 1;
  const [from, to] = columns
    ? [columns.first[0]!, columns.first[last]! + columns.start[last + 1]! - columns.start[last]!]
    : [top, top + window.height];
  const rows = from === 0 && to === image.height ? image : rowsOf(image, from, to);
  const isWhole = width === image.width && window.width === width;
  const wide = isWhole
    ? rows
    : width === image.width
      ? columnsOf(rows, left, window.width)
      : resizeRows(rows, tapsOf(image.width, { from: left, count: window.width, total: width }));
  return columns ? resizeColumns(wide, columns, from) : wide;
}
