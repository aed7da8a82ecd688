/**
 * GenEval's six kinds of prompts about shapes: their contents, wordings, and scenes that fit exactly. Training uses
 * what held_out.ts leaves it, the evaluation what that keeps back. Questions are questions.ts.
 */
import type { Dice } from "./dice.ts";
import {
  heldOutAmong,
  heldOutIn,
  isHeldOutAttributes,
  isHeldOutColour,
  isHeldOutCount,
  isHeldOutLayout,
  isHeldOutPair,
  isHeldOutPosition,
  isHeldOutWording,
} from "./held_out.ts";
import type { Coloured, Mention } from "./held_out.ts";
import { COLOURS, RELATIONS, SHAPES, boxOf, inReadingOrder, layOut, relations } from "./scene.ts";
import type { Colour, LayoutOptions, Relation, Scene, SceneObject, Shape } from "./scene.ts";

export const KINDS = ["single_object", "two_object", "counting", "colors", "position", "color_attr"] as const;
export type Kind = (typeof KINDS)[number];
/** The kinds in words, for tables and pages. */
export const KIND_NAMES: Readonly<Record<Kind, string>> = {
  single_object: "one object",
  two_object: "two objects",
  counting: "counting",
  colors: "colours",
  position: "position",
  color_attr: "colour attribution",
};

/** At least `count` of the shape; all of them in the colour, and there as seen from those of the clause with this number. */
export interface Clause {
  readonly shape: Shape;
  readonly count: number;
  readonly colour?: Colour;
  readonly position?: readonly [Relation, number];
}

/** A prompt in the form of GenEval's metadata: the image must show every `include` and no `exclude`. */
export interface Prompt {
  readonly kind: Kind;
  readonly text: string;
  readonly include: readonly Clause[];
  readonly exclude: readonly Clause[];
}

export const NUMBER_WORDS = ["zero", "one", "two", "three", "four"] as const;
const OPENINGS = ["", "a photo of ", "a picture of ", "an image of ", "a drawing of ", "draw "];
const ARTICLES = ["a", "one", "a single"];
const JOINS = ["and", "with"];
const RELATION_WORDS: Readonly<Record<Relation, readonly string[]>> = {
  "left of": ["left of", "to the left of"],
  "right of": ["right of", "to the right of"],
  above: ["above", "over"],
  below: ["below", "under"],
};

export const plural = (shape: Shape | "shape"): string => (shape === "cross" ? "crosses" : `${shape}s`);
export const article = (word: string): string => (/^[aeiou]/.test(word) ? `an ${word}` : `a ${word}`);

/** A prompt in one of its wordings; `wording` is any whole number from 0, and the wordings come round. */
interface Idea {
  readonly kind: Kind;
  readonly include: readonly Clause[];
  readonly exclude?: readonly Clause[];
  readonly wordings: readonly string[];
}

const opened = (bodies: readonly string[]): string[] =>
  bodies.flatMap((body) => OPENINGS.map((opening) => `${opening}${body}`));

const coloured = ({ colour, shape }: Coloured): string => article(`${colour} ${shape}`);

/** Every prompt of a kind that is held out, or every one that is not. */
function ideas(kind: Kind, heldOut: boolean): Idea[] {
  const found: Idea[] = [];
  const otherShapes = (shape: Shape): Shape[] => SHAPES.filter((other) => other !== shape);
  for (const shape of SHAPES) {
    switch (kind) {
      case "single_object": {
        const wordings = OPENINGS.flatMap((opening, o) =>
          ARTICLES.flatMap((word, a) =>
            isHeldOutWording(o, a, shape) === heldOut ? [`${opening}${word} ${shape}`] : [],
          ),
        );
        found.push({ kind, include: [{ shape, count: 1 }], wordings });
        break;
      }
      case "two_object":
        for (const other of otherShapes(shape)) {
          if (isHeldOutPair(shape, other) !== heldOut) continue;
          const wordings = opened(JOINS.map((join) => `a ${shape} ${join} a ${other}`));
          found.push({ kind, include: [{ shape, count: 1 }, { shape: other, count: 1 }], wordings }); // prettier-ignore
        }
        break;
      case "counting":
        for (const count of [2, 3, 4]) {
          if (isHeldOutCount(shape, count) !== heldOut) continue;
          const words = `${NUMBER_WORDS[count]!} ${plural(shape)}`;
          const include = [{ shape, count }];
          const exclude = [{ shape, count: count + 1 }];
          found.push({ kind, include, exclude, wordings: opened([words, `exactly ${words}`]) });
        }
        break;
      case "colors":
        for (const colour of COLOURS) {
          if (isHeldOutColour({ colour, shape }) !== heldOut) continue;
          const wordings = opened([coloured({ colour, shape }), `one ${colour} ${shape}`, `a ${shape} in ${colour}`]);
          found.push({ kind, include: [{ shape, count: 1, colour }], wordings });
        }
        break;
      case "position":
        for (const other of otherShapes(shape)) {
          for (const relation of isHeldOutPair(shape, other) ? [] : RELATIONS) {
            if (isHeldOutPosition(shape, relation, other) !== heldOut) continue;
            const include: Clause[] = [
              { shape: other, count: 1 },
              { shape, count: 1, position: [relation, 0] },
            ];
            const wordings = opened(RELATION_WORDS[relation].map((words) => `a ${shape} ${words} a ${other}`));
            found.push({ kind, include, wordings });
          }
        }
        break;
      case "color_attr":
        for (const other of otherShapes(shape)) {
          for (const colour of isHeldOutPair(shape, other) ? [] : COLOURS) {
            for (const second of COLOURS) {
              const [a, b] = [
                { shape, colour },
                { shape: other, colour: second },
              ];
              if (colour === second || isHeldOutColour(a) || isHeldOutColour(b)) continue;
              if (isHeldOutAttributes(a, b) !== heldOut) continue;
              const wordings = opened(JOINS.map((join) => `${coloured(a)} ${join} ${coloured(b)}`));
              found.push({
                kind,
                include: [
                  { ...a, count: 1 },
                  { ...b, count: 1 },
                ],
                wordings,
              });
            }
          }
        }
        break;
    }
  }
  return found;
}

const listed = new Map<string, Idea[]>();
function ideasOf(kind: Kind, heldOut: boolean): Idea[] {
  const key = `${kind} ${heldOut}`;
  let list = listed.get(key);
  if (!list) listed.set(key, (list = ideas(kind, heldOut)));
  return list;
}

const promptOf = ({ kind, include, exclude = [], wordings }: Idea, dice: Dice): Prompt => ({ kind, text: dice.pick(wordings), include, exclude }); // prettier-ignore

/** A prompt that training may see, or one that it never does. */
export const randomPrompt = (dice: Dice, kind: Kind, { heldOut = false }: { heldOut?: boolean } = {}): Prompt =>
  promptOf(dice.pick(ideasOf(kind, heldOut)), dice);

/** Every held-out text of a kind, with its contents. */
export const heldOutPrompts = (kind: Kind): Prompt[] =>
  ideasOf(kind, true).flatMap(({ include, exclude = [], wordings }) =>
    wordings.map((text) => ({ kind, text, include, exclude })),
  );

/** Minimum clearness of a position in images that are made to show it; GenEval requires 0.5. */
export const CLEAR = 0.65;

/**
 * An image of the prompt and of nothing else. What the prompt leaves open is random, and its layout is for training; for the evaluation
 * (`heldOut`) the layout is one of those held out, and nothing is held out in it but what the prompt asks for.
 */
export function sceneFor(dice: Dice, prompt: Prompt, options: LayoutOptions & { heldOut?: boolean } = {}): Scene {
  const { heldOut = false } = options;
  for (let attempt = 0; attempt < 200; attempt++) {
    const objects = prompt.include.flatMap(({ shape, count, colour }) => {
      const free = heldOut ? COLOURS.filter((other) => !isHeldOutColour({ colour: other, shape })) : COLOURS;
      const some = dice.shuffle(free).slice(0, 1 + dice.int(2)); // a counted group has one colour, or two
      return Array.from({ length: count }, () => ({ shape, colour: colour ?? dice.pick(some) }));
    });
    const asked = heldOut && !["single_object", "position"].includes(prompt.kind) ? 1 : 0;
    if (heldOut && heldOutAmong(objects).length > asked) continue; // no layout would help
    const accept = (scene: Scene): boolean =>
      fits(scene, prompt) && isHeldOutLayout(scene) === heldOut && (!heldOut || onlyAsked(scene, prompt));
    const scene = layOut(dice, objects, accept, options);
    if (scene) return scene;
  }
  throw new RangeError(`sceneFor: no scene found for "${prompt.text}"`);
}

/** True if nothing is held out in the scene except what the prompt requires. */
function onlyAsked(scene: Scene, { kind, include }: Prompt): boolean {
  const found = heldOutIn(scene);
  if (kind === "position") {
    const [target, subject] = include;
    const [relation] = subject!.position!;
    return found.every((what) => what === `${subject!.shape} ${relation} ${target!.shape}`);
  }
  return found.length <= (kind === "single_object" ? 0 : 1);
}

/**
 * Positions for the objects in the order of the clauses: those that the prompt requires, each clear; objects without
 * one are in reading order.
 */
function fits({ objects }: Scene, { include }: Prompt): boolean {
  const isList = include.length > 1 && include.every(({ position }) => !position);
  if (isList && inReadingOrder(objects).some((object, i) => object !== objects[i])) return false;
  return include.every(({ position }, i) => {
    if (!position) return true;
    const [relation, target] = position;
    return relations(boxOf(objects[i]!), boxOf(objects[target]!), CLEAR).includes(relation);
  });
}

/**
 * Describes a scene in reading order: "a red circle, two blue squares and a shape", or of two objects half of the time
 * the position of one: "a blue square below a circle". A quarter of the objects are described by colour or shape alone,
 * and more if the text would name what is held out.
 */
export function describe(dice: Dice, { objects }: Scene): string {
  const ordered = inReadingOrder(objects);
  const mentions = tell(dice, ordered);
  if (ordered.length === 2 && dice.chance(0.5)) {
    const [a, b] = dice.chance(0.5) ? [0, 1] : [1, 0];
    const relation = clearly(ordered[a]!, ordered[b]!);
    const [subject, target] = [mentions[a]!, mentions[b]!];
    const isToldElsewhere = subject.shape && target.shape && relation && isHeldOutPosition(subject.shape, relation, target.shape); // prettier-ignore
    if (relation && !isToldElsewhere) {
      return `${article(phrase(subject))} ${dice.pick(RELATION_WORDS[relation])} ${article(phrase(target))}`;
    }
  }
  if (mentions.length === 1 && !mentions[0]!.colour) {
    const { wordings } = ideasOf("single_object", false).find(
      ({ include }) => include[0]!.shape === mentions[0]!.shape,
    )!;
    return dice.pick(wordings); // some wordings of "a circle" are held out
  }
  const counts = new Map<string, { mention: Mention; count: number }>();
  for (const mention of mentions) {
    const entry = counts.get(phrase(mention)) ?? { mention, count: 0 };
    counts.set(phrase(mention), { mention, count: entry.count + 1 });
  }
  const parts = [...counts.values()].map(({ mention, count }) =>
    count === 1 ? article(phrase(mention)) : `${NUMBER_WORDS[count]!} ${phrase(mention, plural)}`,
  );
  const last = parts.pop()!;
  return parts.length === 0 ? last : `${parts.join(", ")} and ${last}`;
}

/** "red circle", "circle", "red shape" or "shape". */
export const phrase = ({ colour, shape }: Mention, form: (noun: Shape | "shape") => string = (noun) => noun): string =>
  `${colour ? `${colour} ` : ""}${form(shape ?? "shape")}`;

/** Mentions of the objects that name nothing held out; three quarters of them are as specific as this allows. */
function tell(dice: Dice, objects: readonly Coloured[]): Mention[] {
  const less = ({ shape, colour }: Mention): Mention[] => (shape && colour ? [{ shape }, { colour }] : shape || colour ? [{}] : []); // prettier-ignore
  let told: Mention[] = objects.map(({ shape, colour }) => (dice.chance(0.25) ? dice.pick(less({ shape, colour })) : { shape, colour })); // prettier-ignore
  while (heldOutAmong(told).length > 0) {
    const ways = told.flatMap((mention, i) => less(mention).map((other) => told.with(i, other)));
    const named = ways.map((way) => heldOutAmong(way).length);
    told = dice.pick(ways.filter((_, i) => named[i] === Math.min(...named)));
  }
  return told;
}

/** The relation that one object clearly has to another, with no other relation by GenEval's rule. */
export function clearly(a: SceneObject, b: SceneObject): Relation | undefined {
  const [relation] = relations(boxOf(a), boxOf(b), CLEAR);
  // Above 0.65 on one axis the other can still pass GenEval's 0.5; then both are true and neither is said.
  return relations(boxOf(a), boxOf(b)).length === 1 ? relation : undefined;
}

/** A scene of one to four objects of any shapes and colours, with a layout for training or one for the evaluation (`heldOut`). */
export function randomScene(dice: Dice, options: LayoutOptions & { heldOut?: boolean } = {}): Scene {
  const { heldOut = false } = options;
  for (let attempt = 0; attempt < 1000; attempt++) {
    const count = dice.pick([1, 2, 2, 3, 3, 3, 4, 4]);
    const all = dice.shuffle(SHAPES);
    const some = all.slice(0, 1 + dice.int(count)); // few shapes for many objects: something to count
    const isMixed = dice.chance(0.75); // as many shapes as objects: something to compare
    const objects = Array.from({ length: count }, (_, i) => ({
      shape: isMixed ? all[i]! : dice.pick(some),
      colour: dice.pick(COLOURS),
    }));
    const scene = layOut(dice, objects, (found) => isHeldOutLayout(found) === heldOut, options);
    if (scene) return scene;
  }
  throw new RangeError("randomScene: no scene found");
}
