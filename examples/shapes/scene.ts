/**
 * The world of the demo: images of one to four coloured shapes on a plain background. Defines scenes, the placement of
 * objects, how positions relate, and the rasteriser. What is kept from training is held_out.ts, words are captions.ts.
 */
import type { RgbImage } from "../../model/image/image.ts";
import type { Dice } from "./dice.ts";

/** Chosen by what the judge distinguishes at 16 pixels after blocks, noise and JPEG (measure.ts prints the table). */
export const SHAPES = ["circle", "square", "triangle", "cross", "ring", "diamond"] as const;
export type Shape = (typeof SHAPES)[number];

export type Rgb = readonly [number, number, number];

/** sRGB. Eight hues, about as far apart in OKLab as eight can be while each keeps its common name. */
export const PALETTE = {
  red: [215, 25, 35],
  orange: [250, 135, 20],
  yellow: [250, 225, 40],
  green: [30, 150, 50],
  cyan: [45, 205, 225],
  blue: [35, 65, 215],
  purple: [125, 35, 165],
  pink: [250, 130, 190],
} as const satisfies Record<string, Rgb>;
export type Colour = keyof typeof PALETTE;
export const COLOURS = Object.keys(PALETTE) as readonly Colour[];

/** Far from every colour in lightness: JPEG halves the resolution of hue, and shapes must stay sharp. */
export const BACKGROUNDS = { white: [248, 248, 248], black: [14, 14, 14] } as const satisfies Record<string, Rgb>;
export type Background = keyof typeof BACKGROUNDS;

/** Side of the image that sizes and places of objects are in. `render` scales to any other. */
export const SIDE = 64;

export interface SceneObject {
  readonly shape: Shape;
  readonly colour: Colour;
  /** Side of the square box around it, pixels of an image of 64×64; `x`, `y` its centre, from the left and from the top. */
  readonly size: number;
  readonly x: number;
  readonly y: number;
}

export interface Scene {
  readonly background: Background;
  readonly objects: readonly SceneObject[];
}

export const RELATIONS = ["left of", "right of", "above", "below"] as const;
export type Relation = (typeof RELATIONS)[number];
export const OPPOSITE: Readonly<Record<Relation, Relation>> = {
  "left of": "right of",
  "right of": "left of",
  above: "below",
  below: "above",
};

/** Centre and sides of a box. */
export interface Box {
  readonly x: number;
  readonly y: number;
  readonly width: number;
  readonly height: number;
}

export const boxOf = ({ x, y, size }: SceneObject): Box => ({ x, y, width: size, height: size });

/**
 * From the top, and from the left if tops are level: the order in which their first image codes come, and captions name them. A model
 * that draws row by row then finds the words of the next object behind those of the last.
 */
export const inReadingOrder = (objects: readonly SceneObject[]): SceneObject[] =>
  [...objects].sort((a, b) => a.y - a.size / 2 - (b.y - b.size / 2) || a.x - a.size / 2 - (b.x - b.size / 2));

/**
 * Position of `a` seen from `b`, by GenEval's rule: the offset of the centres, less a tenth of the summed sides on each axis, over the length
 * of the whole offset, must exceed `least` (0.5 there; more asks for a clearer case). On a diagonal two relations can hold.
 */
export function relations(a: Box, b: Box, least = 0.5): Relation[] {
  const dx = a.x - b.x;
  const dy = a.y - b.y;
  const length = Math.hypot(dx, dy);
  if (length === 0) return [];
  const shrink = (offset: number, sides: number): number =>
    (Math.max(Math.abs(offset) - 0.1 * sides, 0) * Math.sign(offset)) / length;
  const right = shrink(dx, a.width + b.width);
  const down = shrink(dy, a.height + b.height);
  const found: Relation[] = [];
  if (right < -least) found.push("left of");
  if (right > least) found.push("right of");
  if (down < -least) found.push("above");
  if (down > least) found.push("below");
  return found;
}

export interface LayoutOptions {
  /** Boxes begin this many pixels apart, and their sides differ by it. Default: 4. */
  readonly grid?: number;
  /** Start of the first of them, from the left and from the top (default: the first multiple of `grid` off the border). */
  readonly origin?: number;
  /** Backgrounds to choose from (default: both). */
  readonly backgrounds?: readonly Background[];
}

/** Least distance of two boxes, and of a box from the border, pixels. */
const GAP = 6;
const BORDER = 2;
/** Smallest and largest object by their number; four of the largest still fit. */
const SIZES: readonly (readonly [number, number])[] = [[20, 32], [20, 28], [20, 24], [20, 20]]; // prettier-ignore

/**
 * Gives the objects sizes and places: no two boxes come closer than 6 pixels, none closer than 2 to the border. Undefined when it finds
 * none that `accept` takes.
 */
export function layOut(
  dice: Dice,
  objects: readonly Pick<SceneObject, "shape" | "colour">[],
  accept: (scene: Scene) => boolean = () => true,
  options: LayoutOptions = {},
): Scene | undefined {
  const { grid = 4, backgrounds = Object.keys(BACKGROUNDS) as Background[] } = options;
  const { origin = Math.ceil(BORDER / grid) * grid } = options;
  const range = SIZES[objects.length - 1];
  if (!range) throw new RangeError(`layOut: a scene has 1 to ${SIZES.length} objects, got ${objects.length}`);
  for (let attempt = 0; attempt < 60; attempt++) {
    const background = dice.pick(backgrounds);
    const placed: SceneObject[] = [];
    for (const { shape, colour } of objects) {
      const free = placeFor(dice, range, grid, origin, placed);
      if (!free) break;
      placed.push({ shape, colour, ...free });
    }
    const scene = { background, objects: placed };
    if (placed.length === objects.length && accept(scene)) return scene;
  }
  return undefined;
}

function placeFor(
  dice: Dice,
  [least, most]: readonly [number, number],
  grid: number,
  origin: number,
  others: readonly SceneObject[],
): Pick<SceneObject, "size" | "x" | "y"> | undefined {
  for (let attempt = 0; attempt < 20; attempt++) {
    const size = least + grid * dice.int(Math.floor((most - least) / grid) + 1);
    const places = Math.floor((SIDE - BORDER - size - origin) / grid) + 1;
    const x = origin + dice.int(places) * grid + size / 2;
    const y = origin + dice.int(places) * grid + size / 2;
    const clear = others.every(
      (other) => Math.max(Math.abs(x - other.x), Math.abs(y - other.y)) >= (size + other.size) / 2 + GAP,
    );
    if (clear) return { size, x, y };
  }
  return undefined;
}

const HALF_ARM = 0.15; // half the arm of a cross, as a share of its side
const HOLE = 0.52; // hole of a ring, as a share of its radius
const SLOPE = 1 / Math.sqrt(5); // the normal of a side of a triangle as high as wide is (2, 1)/√5

/**
 * Distance from the edge of a shape whose box has side `size` and its centre at 0, negative inside; pixels, `y` down. Exact near the
 * edges, short of the truth around outer corners.
 */
export function edgeDistance(shape: Shape, size: number, x: number, y: number): number {
  const half = size / 2;
  const ax = Math.abs(x);
  const ay = Math.abs(y);
  switch (shape) {
    case "circle":
      return Math.sqrt(x * x + y * y) - half; // Math.hypot takes ten times as long
    case "square":
      return Math.max(ax, ay) - half;
    case "triangle":
      return Math.max((2 * ax - (y + half)) * SLOPE, y - half);
    case "cross": {
      const arm = size * HALF_ARM;
      return Math.min(Math.max(ax - half, ay - arm), Math.max(ay - half, ax - arm));
    }
    case "ring": {
      const radius = Math.sqrt(x * x + y * y);
      return Math.max(radius - half, half * HOLE - radius);
    }
    case "diamond":
      return (ax + ay - half) * Math.SQRT1_2;
  }
}

/** The image of a scene, its edges smoothed over one pixel, at any size. */
export function render(scene: Scene, side = SIDE): RgbImage {
  const data = new Uint8Array(side * side * 3);
  const background: Rgb = BACKGROUNDS[scene.background];
  for (let i = 0; i < data.length; i += 3) data.set(background, i);
  const scale = side / SIDE;
  for (const { shape, colour, size, x, y } of scene.objects) {
    const ink: Rgb = PALETTE[colour];
    const reach = (size * scale) / 2 + 1;
    const [left, right] = [Math.max(0, Math.floor(x * scale - reach)), Math.min(side, Math.ceil(x * scale + reach))];
    const [top, bottom] = [Math.max(0, Math.floor(y * scale - reach)), Math.min(side, Math.ceil(y * scale + reach))];
    for (let row = top; row < bottom; row++) {
      for (let column = left; column < right; column++) {
        const distance = edgeDistance(shape, size * scale, column + 0.5 - x * scale, row + 0.5 - y * scale);
        const cover = Math.min(1, Math.max(0, 0.5 - distance));
        if (cover === 0) continue;
        const at = (row * side + column) * 3;
        for (let c = 0; c < 3; c++) data[at + c] = Math.round(data[at + c]! * (1 - cover) + ink[c]! * cover);
      }
    }
  }
  return { width: side, height: side, data };
}
