/**
 * Finding objects in pixels: the background from the border, connected parts that stand out from it, and parts that touch but differ in
 * colour cut apart. Knows colours, but no shapes.
 */
import { resizeBicubic } from "../../model/image/resize.ts";
import type { RgbImage } from "../../model/image/image.ts";
import { COLOURS, PALETTE, SIDE } from "./scene.ts";
import type { Colour, Rgb } from "./scene.ts";

/** A connected part of one colour. `cover` [SIDE × SIDE] says how much of each pixel is the object's: 0 to 1. */
export interface Blob {
  readonly cover: Float32Array;
  readonly area: number;
  readonly rgb: Rgb;
  /** Undefined if the colour is not in the palette. */
  readonly colour: Colour | undefined;
}

export interface Segmentation {
  readonly blobs: readonly Blob[];
  /** Why nothing can be found, if so. */
  readonly problem?: string;
}

const PIXELS = SIDE * SIDE;
const FRAME = 3; // pixels at the border that are taken for background
const MAX_FRAME_SPREAD = 30; // RGB distance of the middle border pixel from the background; noise of ±12 % gives 10
const STANDS_OUT = 56; // RGB distance from the background; the least of a palette colour is 129 (pink on white)
const MIN_AREA = 100; // pixels; the smallest object, a diamond of 20, has 200, one token 64
const MAX_COLOUR_DISTANCE = 0.15; // OKLab; neighbours of the palette are 0.11 to 0.2 apart

/** OKLab of sRGB levels (Björn Ottosson, 2020): distances in it are about as large as they look. */
export function oklab([red, green, blue]: Rgb): [number, number, number] {
  const linear = (level: number): number => {
    const v = Math.min(255, Math.max(0, level)) / 255;
    return v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4;
  };
  const [r, g, b] = [linear(red), linear(green), linear(blue)];
  const l = Math.cbrt(0.4122214708 * r + 0.5363325363 * g + 0.0514459929 * b);
  const m = Math.cbrt(0.2119034982 * r + 0.6806995451 * g + 0.1073969566 * b);
  const s = Math.cbrt(0.0883024619 * r + 0.2817188376 * g + 0.6299787005 * b);
  return [
    0.2104542553 * l + 0.793617785 * m - 0.0040720468 * s,
    1.9779984951 * l - 2.428592205 * m + 0.4505937099 * s,
    0.0259040371 * l + 0.7827717662 * m - 0.808675766 * s,
  ];
}

const LABS = COLOURS.map((colour) => oklab(PALETTE[colour]));
const LIGHTNESS_WEIGHT = 0.6; // a tokenizer loses lightness to the background sooner than hue

/** The number of the nearest colour and its distance. */
function nearest(rgb: Rgb): [number, number] {
  const [l, a, b] = oklab(rgb);
  let best = 0;
  let least = Infinity;
  LABS.forEach((lab, i) => {
    const distance = length(LIGHTNESS_WEIGHT * (l - lab[0]), a - lab[1], b - lab[2]);
    if (distance < least) [best, least] = [i, distance];
  });
  return [best, least];
}

/** The palette's colour of a pixel, undefined when it is far from all. */
export function colourOf(rgb: Rgb): Colour | undefined {
  const [best, distance] = nearest(rgb);
  return distance <= MAX_COLOUR_DISTANCE ? COLOURS[best] : undefined;
}

/** [SIDE × SIDE, 3], each pixel the mean of its neighbourhood with weights 1 2 1: noise goes, edges stay within a pixel. */
function smoothed(image: RgbImage): Float32Array {
  const small = image.width === SIDE && image.height === SIDE ? image : resizeBicubic(image, SIDE, SIDE);
  let from = Float32Array.from(small.data);
  for (const stride of [3, SIDE * 3]) {
    const to = new Float32Array(from.length);
    for (let i = 0; i < PIXELS; i++) {
      const place = stride === 3 ? i % SIDE : Math.floor(i / SIDE);
      const before = place === 0 ? 0 : -stride;
      const after = place === SIDE - 1 ? 0 : stride;
      for (let k = i * 3; k < i * 3 + 3; k++) to[k] = (from[k + before]! + 2 * from[k]! + from[k + after]!) / 4;
    }
    from = to;
  }
  return from;
}

const rgbAt = (pixels: Float32Array, i: number): Rgb => [pixels[i * 3]!, pixels[i * 3 + 1]!, pixels[i * 3 + 2]!];

const length = (x: number, y: number, z: number): number => Math.sqrt(x * x + y * y + z * z);

const distance = (a: Rgb, b: Rgb): number => length(a[0] - b[0], a[1] - b[1], a[2] - b[2]);

const median = (values: readonly number[]): number => [...values].sort((a, b) => a - b)[values.length >> 1]!;

/** The pixels of each connected part (by sides) of those that `inside` takes, largest part first. */
function parts(inside: (i: number) => boolean): number[][] {
  const seen = new Uint8Array(PIXELS);
  const found: number[][] = [];
  for (let start = 0; start < PIXELS; start++) {
    if (seen[start] || !inside(start)) continue;
    const part = [start];
    seen[start] = 1;
    for (let k = 0; k < part.length; k++) {
      const i = part[k]!;
      const x = i % SIDE;
      for (const next of [x > 0 ? i - 1 : -1, x < SIDE - 1 ? i + 1 : -1, i - SIDE, i + SIDE]) {
        if (next < 0 || next >= PIXELS || seen[next] || !inside(next)) continue;
        seen[next] = 1;
        part.push(next);
      }
    }
    found.push(part);
  }
  return found.sort((a, b) => b.length - a.length);
}

/**
 * The part cut by colour, if pixels that no edge has mixed with the background show more than one. Each share comes with its middle
 * colour.
 */
function byColour(
  part: readonly number[],
  pixels: Float32Array,
  contrast: Float32Array,
): { share: number[]; rgb: Rgb }[] {
  const core = part.filter((i) => {
    const [x, y] = [i % SIDE, Math.floor(i / SIDE)];
    let most = 0;
    for (let v = Math.max(0, y - 2); v <= Math.min(SIDE - 1, y + 2); v++) {
      for (let u = Math.max(0, x - 2); u <= Math.min(SIDE - 1, x + 2); u++)
        most = Math.max(most, contrast[v * SIDE + u]!);
    }
    return contrast[i]! >= 0.85 * most;
  });
  const groups = new Map<number, number[]>();
  for (const i of core) {
    const [label] = nearest(rgbAt(pixels, i));
    const group = groups.get(label);
    if (group) group.push(i);
    else groups.set(label, [i]);
  }
  const middle = (list: readonly number[]): Rgb => [0, 1, 2].map((c) => median(list.map((i) => pixels[i * 3 + c]!))) as unknown as Rgb; // prettier-ignore
  const large = [...groups.values()].filter((list) => list.length >= Math.max(MIN_AREA / 2, core.length * 0.2)); // less is a stain
  const middles = (large.length > 0 ? large : [core]).map(middle);
  // Noise can lay one colour over two names: only colours that are as far apart as names are stay apart.
  const kept = middles.filter((rgb, k) => middles.slice(0, k).every((other) => labDistance(rgb, other) > 0.12));
  if (kept.length === 1) return [{ share: [...part], rgb: middle(core) }];
  return kept.map((rgb) => ({
    rgb,
    share: part.filter((i) => kept.every((other) => other === rgb || distance(rgbAt(pixels, i), rgb) < distance(rgbAt(pixels, i), other))), // prettier-ignore
  }));
}

const labDistance = (a: Rgb, b: Rgb): number => {
  const [first, second] = [oklab(a), oklab(b)];
  return length(LIGHTNESS_WEIGHT * (first[0] - second[0]), first[1] - second[1], first[2] - second[2]);
};

/** The objects of an image of any size, seen at 64×64. */
export function segment(image: RgbImage): Segmentation {
  const pixels = smoothed(image);
  const frame: number[] = [];
  for (let i = 0; i < PIXELS; i++) {
    const [x, y] = [i % SIDE, Math.floor(i / SIDE)];
    if (Math.min(x, y, SIDE - 1 - x, SIDE - 1 - y) < FRAME) frame.push(i);
  }
  const background = [0, 1, 2].map((c) => median(frame.map((i) => pixels[i * 3 + c]!))) as unknown as Rgb;
  const contrast = Float32Array.from({ length: PIXELS }, (_, i) => distance(rgbAt(pixels, i), background));
  if (median(frame.map((i) => contrast[i]!)) > MAX_FRAME_SPREAD) return { blobs: [], problem: "no plain background" };
  const blobs: Blob[] = [];
  const outstanding = parts((i) => contrast[i]! > STANDS_OUT).filter((part) => part.length >= MIN_AREA / 2);
  for (const part of outstanding) {
    for (const { share, rgb } of byColour(part, pixels, contrast)) {
      blobs.push(...blobsOf(share, part, rgb, pixels, background));
    }
  }
  return { blobs: blobs.filter(({ area }) => area >= MIN_AREA) };
}

/** Returns the connected pieces of a part that consist of its colour by more than half, with their soft edges. */
function blobsOf(
  share: readonly number[],
  part: readonly number[],
  rgb: Rgb,
  pixels: Float32Array,
  background: Rgb,
): Blob[] {
  const direction = [rgb[0] - background[0], rgb[1] - background[1], rgb[2] - background[2]] as const;
  const squared = direction[0] ** 2 + direction[1] ** 2 + direction[2] ** 2;
  const coverOf = (i: number): number => {
    const [r, g, b] = rgbAt(pixels, i);
    const along = (r - background[0]) * direction[0] + (g - background[1]) * direction[1] + (b - background[2]) * direction[2]; // prettier-ignore
    return Math.min(1, Math.max(0, along / squared));
  };
  const own = new Set(share);
  const others = new Set(part.filter((i) => !own.has(i)));
  return parts((i) => own.has(i) && coverOf(i) > 0.5).map((piece) => {
    const cover = new Float32Array(PIXELS);
    let area = 0;
    for (const i of grown(piece)) {
      if (others.has(i)) continue;
      area += cover[i] = coverOf(i);
    }
    return { cover, area, rgb, colour: colourOf(rgb) };
  });
}

/** The pixels and those up to two away from them. */
function grown(piece: readonly number[]): Set<number> {
  const all = new Set<number>();
  for (const i of piece) {
    const [x, y] = [i % SIDE, Math.floor(i / SIDE)];
    for (let v = Math.max(0, y - 2); v <= Math.min(SIDE - 1, y + 2); v++) {
      for (let u = Math.max(0, x - 2); u <= Math.min(SIDE - 1, x + 2); u++) all.add(v * SIDE + u);
    }
  }
  return all;
}
