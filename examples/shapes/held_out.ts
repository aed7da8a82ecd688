/**
 * Combinations that no prompt, description or question of training names, by a fixed rule (numbers are positions in
 * `SHAPES` and `COLOURS`, counted from 0):
 * - colours: colour c on shape c mod 6 (8 of 48: red circle, orange square, …, purple circle, pink square);
 * - shape pairs: shapes s and s + 3 together (3 of 15: circle and cross, square and ring, triangle and diamond);
 * - counts, 2 to 4: exactly 2 + s mod 3 of shape s (6 of 18: two circles, three squares, four triangles, two crosses, …);
 * - positions: shape s left of shape s + 1, and shape s above shape s + 2, mod 6 (12 of 96 between shapes that may be named together; named
 *   from the other side, "a square right of a circle", they are for training);
 * - attributes: two objects of different shape and colour with c1 + c2 + s1 + s2 divisible by 5 (a fifth of them);
 * - layouts: an eighth of all scenes, by a hash of their contents. Only these are used for images of the evaluation.
 *   Images of training may show such a combination, and are described with less: a red circle is "a circle" or "a red
 *   shape"; the questions of a conversation, each free of it, may name its parts. (Images without red circles teach
 *   that there are none: docs/log/demo.md.) Every shape and every colour is still named with most others. A single
 *   object cannot be held out: there the evaluation's wordings are, as (opening + article + shape) mod 4 = 0
 *   (captions.ts), besides the layouts.
 */
import { COLOURS, SHAPES, boxOf, relations } from "./scene.ts";
import type { Colour, Relation, Scene, Shape } from "./scene.ts";

const shapeNumber = Object.fromEntries(SHAPES.map((shape, i) => [shape, i])) as Record<Shape, number>;
const colourNumber = Object.fromEntries(COLOURS.map((colour, i) => [colour, i])) as Record<Colour, number>;

/** Cyclic distance from shape `a` to shape `b` in the list. */
const step = (a: Shape, b: Shape): number => (shapeNumber[b] - shapeNumber[a] + SHAPES.length) % SHAPES.length;

export interface Coloured {
  readonly colour: Colour;
  readonly shape: Shape;
}

/** Mention of an object in a text. */
export type Mention = Partial<Coloured>;

export const isHeldOutColour = ({ colour, shape }: Coloured): boolean =>
  colourNumber[colour] % SHAPES.length === shapeNumber[shape];

export const isHeldOutPair = (a: Shape, b: Shape): boolean => step(a, b) === 3;

export const isHeldOutCount = (shape: Shape, count: number): boolean => count === 2 + (shapeNumber[shape] % 3);

export const isHeldOutPosition = (a: Shape, relation: Relation, b: Shape): boolean =>
  (relation === "left of" && step(a, b) === 1) || (relation === "above" && step(a, b) === 2);

export function isHeldOutAttributes(a: Coloured, b: Coloured): boolean {
  if (a.shape === b.shape || a.colour === b.colour) return false;
  return (colourNumber[a.colour] + colourNumber[b.colour] + shapeNumber[a.shape] + shapeNumber[b.shape]) % 5 === 0;
}

/** True if a wording of a single object is held out. */
export const isHeldOutWording = (opening: number, article: number, shape: Shape): boolean =>
  (opening + article + shapeNumber[shape]) % 4 === 0;

/** True if the layout belongs to the evaluation; training shows all others. FNV-1a over the contents of the scene. */
export function isHeldOutLayout({ background, objects }: Scene): boolean {
  let hash = 0x811c9dc5;
  const parts = objects.map(({ shape, colour, size, x, y }) => `${shape} ${colour} ${size} ${x} ${y}`).sort(); // their order does not show
  for (const character of [background, ...parts].join()) {
    hash = Math.imul(hash ^ character.charCodeAt(0), 0x01000193);
  }
  hash = Math.imul(hash ^ (hash >>> 16), 0x45d9f3b); // the low bits of FNV mix badly
  return ((hash ^ (hash >>> 16)) & 7) === 0;
}

/** Returns what is held out among the named objects, wherever they are: counts, colours, pairs, attributes. */
export function heldOutAmong(objects: readonly Mention[]): string[] {
  const found: string[] = [];
  for (const shape of SHAPES) {
    const these = objects.filter((object) => object.shape === shape);
    const plain = these.filter(({ colour }) => !colour); // named "two squares", beside a red square or not
    for (const { length } of [these, plain]) if (isHeldOutCount(shape, length)) found.push(`${length} of ${shape}`);
  }
  objects.forEach((a, i) => {
    if (isFull(a) && isHeldOutColour(a)) found.push(`${a.colour} ${a.shape}`);
    for (const b of objects.slice(i + 1)) {
      if (a.shape && b.shape && isHeldOutPair(a.shape, b.shape)) found.push(`${a.shape} and ${b.shape}`);
      if (isFull(a) && isFull(b) && isHeldOutAttributes(a, b)) {
        found.push(`${a.colour} ${a.shape} and ${b.colour} ${b.shape}`);
      }
    }
  });
  return found;
}

export const isFull = (mention: Mention): mention is Coloured =>
  mention.shape !== undefined && mention.colour !== undefined;

/** Everything held out that the scene shows, in words; its layout apart. */
export function heldOutIn({ objects }: Scene): string[] {
  const found = heldOutAmong(objects);
  for (const a of objects) {
    for (const b of objects) {
      for (const relation of a.shape === b.shape ? [] : relations(boxOf(a), boxOf(b))) {
        if (isHeldOutPosition(a.shape, relation, b.shape)) found.push(`${a.shape} ${relation} ${b.shape}`);
      }
    }
  }
  return found;
}
