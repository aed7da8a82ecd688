/**
 * The judge: reads the pixels of an image, names the objects in it, and decides by GenEval's rules whether a prompt is
 * satisfied. It knows nothing of how the image was made. measure.ts measures its accuracy.
 */
import type { RgbImage } from "../../model/image/image.ts";
import { NUMBER_WORDS, plural } from "./captions.ts";
import type { Prompt } from "./captions.ts";
import { SHAPES, SIDE, edgeDistance, relations } from "./scene.ts";
import type { Box, Colour, Shape } from "./scene.ts";
import { segment } from "./segment.ts";
import type { Blob } from "./segment.ts";

/** An object seen in an image; its box is in pixels of 64×64. */
export interface Seen extends Box {
  /** Undefined if it resembles none enough. */
  readonly shape: Shape | undefined;
  readonly colour: Colour | undefined;
  /** Fit of the shape: intersection over union with the drawn shape, soft at the edges. */
  readonly fit: number;
  /** The shape that fits best, however badly, and how much less well the next one does. */
  readonly nearest: Shape;
  readonly margin: number;
  /** The worst place: mean difference from the drawn shape over 5×5 pixels, 0 to 1. A piece that is missing or too much stands out here. */
  readonly flaw: number;
  /** Stretch relative to the shape, as a ratio of at least 1. */
  readonly stretch: number;
}

/** What is on a picture; `problem` says why nothing can be seen. */
export interface Detection {
  readonly seen: Seen[];
  readonly problem?: string;
}

export interface Verdict {
  /** Verdict by GenEval's rule: every clause holds, none of the excluded does. */
  readonly correct: boolean;
  /** Correct, and nothing else is in the image. */
  readonly exact: boolean;
  readonly reason: string;
  readonly seen: readonly Seen[];
}

// The worst of 2,100 objects, clean and degraded, fitted 0.74, had a flaw of 0.39 and a stretch of 1.09; shapes that have no name here (bars,
// three quarters of a disc, half a cross, a broken ring) have a flaw of 0.69 or more.
const MIN_FIT = 0.7;
const MAX_FLAW = 0.5;
const MAX_STRETCH = 1.2;
const EDGE = 2; // pixels over which an edge is soft after smoothing

/** Features of a shape of side 1: area, how far its centre of mass lies below the centre of its box, and spread across over spread down. */
const FORMS = Object.fromEntries(
  SHAPES.map((shape) => {
    const side = 200;
    const sums = { area: 0, below: 0, across: 0, down: 0 };
    for (let y = 0; y < side; y++) {
      for (let x = 0; x < side; x++) {
        const [u, v] = [(x + 0.5) / side - 0.5, (y + 0.5) / side - 0.5];
        if (edgeDistance(shape, 1, u, v) >= 0) continue;
        sums.area += 1;
        sums.below += v;
        sums.across += u * u;
        sums.down += v * v;
      }
    }
    const below = sums.below / sums.area;
    const aspect = Math.sqrt(sums.across / sums.area / (sums.down / sums.area - below ** 2));
    return [shape, { area: sums.area / side ** 2, below, aspect }];
  }),
) as Record<Shape, { area: number; below: number; aspect: number }>;

interface Fit {
  readonly fit: number;
  readonly size: number;
  readonly x: number;
  readonly y: number;
}

const drawn = (shape: Shape, { size, x, y }: Omit<Fit, "fit">, column: number, row: number): number =>
  Math.min(1, Math.max(0, 0.5 - edgeDistance(shape, size, column + 0.5 - x, row + 0.5 - y) / EDGE));

/** Overlap over union of the blob with a drawn shape. */
function overlap(cover: Float32Array, window: Window, shape: Shape, size: number, x: number, y: number): number {
  let [both, either] = [0, 0];
  for (let row = window.top; row <= window.bottom; row++) {
    for (let column = window.left; column <= window.right; column++) {
      const should = drawn(shape, { size, x, y }, column, row);
      const is = cover[row * SIDE + column]!;
      both += Math.min(should, is);
      either += Math.max(should, is);
    }
  }
  return either === 0 ? 0 : both / either;
}

interface Window {
  readonly left: number;
  readonly right: number;
  readonly top: number;
  readonly bottom: number;
}

const MAX_BEHIND = 0.15; // at the first guess; a shape that fits less well than the best by more is not looked at closer

/**
 * How well each shape fits, the best first: sizes around the one that the area gives at the place that the centre of mass gives; then, for
 * those near the best, places and sizes around that.
 */
function fitsOf(blob: Blob, window: Window, center: { x: number; y: number }): (Fit & { shape: Shape })[] {
  const better = (shape: Shape, best: Fit, size: number, x: number, y: number): Fit => {
    const fit = overlap(blob.cover, window, shape, size, x, y);
    return fit > best.fit ? { fit, size, x, y } : best;
  };
  const guesses = SHAPES.map((shape) => {
    const { area, below } = FORMS[shape];
    let best: Fit = { fit: -1, size: 0, x: 0, y: 0 };
    for (const factor of [0.88, 0.94, 1, 1.06, 1.12]) {
      const size = factor * Math.sqrt(blob.area / area);
      best = better(shape, best, size, center.x, center.y - below * size);
    }
    return { shape, best };
  });
  const leader = Math.max(...guesses.map(({ best }) => best.fit));
  return guesses
    .map(({ shape, best }) => {
      for (const step of best.fit < leader - MAX_BEHIND ? [] : [1, 0.5]) {
        const { size, x, y } = best;
        for (const dy of [-step, 0, step]) {
          for (const dx of [-step, 0, step]) if (dx !== 0 || dy !== 0) best = better(shape, best, size, x + dx, y + dy);
        }
        for (const change of [-step, step]) best = better(shape, best, best.size + change, best.x, best.y);
      }
      return { shape, ...best };
    })
    .sort((first, second) => second.fit - first.fit);
}

/** The largest mean difference of blob and drawn shape over any 5×5 pixels. */
function flawOf(cover: Float32Array, window: Window, shape: Shape, fit: Fit): number {
  const width = window.right - window.left + 1;
  const height = window.bottom - window.top + 1;
  const difference = Float32Array.from({ length: width * height }, (_, i) => {
    const [column, row] = [window.left + (i % width), window.top + Math.floor(i / width)];
    return drawn(shape, fit, column, row) - cover[row * SIDE + column]!;
  });
  let worst = 0;
  for (let y = 0; y + 5 <= height; y++) {
    for (let x = 0; x + 5 <= width; x++) {
      let sum = 0;
      for (let v = y; v < y + 5; v++) for (let u = x; u < x + 5; u++) sum += difference[v * width + u]!;
      worst = Math.max(worst, Math.abs(sum) / 25);
    }
  }
  return worst;
}

function stretchOf({ cover, area }: Blob, center: { x: number; y: number }, shape: Shape): number {
  let [across, down] = [0, 0];
  cover.forEach((weight, i) => {
    if (weight === 0) return;
    across += weight * ((i % SIDE) + 0.5 - center.x) ** 2;
    down += weight * (Math.floor(i / SIDE) + 0.5 - center.y) ** 2;
  });
  const ratio = area === 0 ? 1 : Math.sqrt(across / down) / FORMS[shape].aspect;
  return Math.max(ratio, 1 / ratio);
}

function look(blob: Blob): Seen {
  let window: Window = { left: SIDE, right: 0, top: SIDE, bottom: 0 };
  let [x, y] = [0, 0];
  blob.cover.forEach((cover, i) => {
    if (cover === 0) return;
    const [column, row] = [i % SIDE, Math.floor(i / SIDE)];
    window = {
      left: Math.min(window.left, column),
      right: Math.max(window.right, column),
      top: Math.min(window.top, row),
      bottom: Math.max(window.bottom, row),
    };
    x += cover * (column + 0.5);
    y += cover * (row + 0.5);
  });
  // A shape that is larger than the blob must be seen to be so.
  window = { left: Math.max(0, window.left - 3), right: Math.min(SIDE - 1, window.right + 3), top: Math.max(0, window.top - 3), bottom: Math.min(SIDE - 1, window.bottom + 3) }; // prettier-ignore
  const center = { x: x / blob.area, y: y / blob.area };
  const [first, second] = fitsOf(blob, window, center) as [Fit & { shape: Shape }, Fit & { shape: Shape }];
  const margin = first.fit - second.fit;
  const flaw = flawOf(blob.cover, window, first.shape, first);
  const stretch = stretchOf(blob, center, first.shape);
  const isClear = first.fit >= MIN_FIT && flaw <= MAX_FLAW && stretch <= MAX_STRETCH;
  return {
    shape: isClear ? first.shape : undefined,
    colour: blob.colour,
    fit: first.fit,
    nearest: first.shape,
    margin,
    flaw,
    stretch,
    x: first.x,
    y: first.y,
    width: first.size,
    height: first.size,
  };
}

/** The objects of an image of any size, the best recognised first, and why there are none if nothing can be recognised. */
export function detect(image: RgbImage): Detection {
  const { blobs, problem } = segment(image);
  const seen = blobs.map(look).sort((a, b) => b.fit - a.fit);
  return problem === undefined ? { seen } : { seen, problem };
}

const says = (count: number, shape: Shape): string =>
  `${NUMBER_WORDS[count] ?? count} ${count === 1 ? shape : plural(shape)}`;

/**
 * GenEval's judgement: for each clause the `count` best recognised objects of the shape are taken; too few, another colour among them, or
 * one of them elsewhere than asked for as seen from any of the target's, and the image is wrong. So it is when an excluded count is there.
 */
export const judge = (image: RgbImage, prompt: Pick<Prompt, "include" | "exclude">): Verdict =>
  judgeSeen(detect(image), prompt);

/** `judge` for an image that was looked at already. */
export function judgeSeen({ seen, problem }: Detection, prompt: Pick<Prompt, "include" | "exclude">): Verdict {
  const wrong = (reason: string): Verdict => ({ correct: false, exact: false, reason, seen });
  if (problem) return wrong(problem);
  const taken: Seen[][] = [];
  for (const { shape, count, colour, position } of prompt.include) {
    const found = seen.filter((object) => object.shape === shape);
    if (found.length < count) return wrong(`expected ${says(count, shape)}, found ${found.length}`);
    const kept = found.slice(0, count);
    const off = colour && kept.find((object) => object.colour !== colour);
    if (off) return wrong(`expected a ${colour} ${shape}, found it ${off.colour ?? "of no known colour"}`);
    if (position) {
      const [relation, target] = position;
      const astray = kept.some((a) => taken[target]!.some((b) => !relations(a, b).includes(relation)));
      if (astray) return wrong(`the ${shape} is not ${relation} the ${prompt.include[target]!.shape}`);
    }
    taken.push(kept);
  }
  for (const { shape, count } of prompt.exclude) {
    const found = seen.filter((object) => object.shape === shape).length;
    if (found >= count) return wrong(`expected fewer than ${says(count, shape)}, found ${found}`);
  }
  const asked = prompt.include.reduce((sum, { count }) => sum + count, 0);
  const extra = seen.length - asked;
  return { correct: true, exact: extra === 0, reason: extra === 0 ? "as asked" : `as asked, and ${extra} more`, seen };
}
