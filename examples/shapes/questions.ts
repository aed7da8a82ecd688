/** Questions about a scene with answers of one word, and what of the held-out combinations each one names. */
import { NUMBER_WORDS, article, clearly, phrase, plural } from "./captions.ts";
import type { Dice } from "./dice.ts";
import { isFull, isHeldOutColour, isHeldOutCount, isHeldOutPair, isHeldOutPosition } from "./held_out.ts";
import type { Coloured, Mention } from "./held_out.ts";
import { COLOURS, RELATIONS, SHAPES, boxOf, relations } from "./scene.ts";
import type { Scene, SceneObject } from "./scene.ts";

export const QUESTION_KINDS = ["shape", "colour", "count", "exists", "where", "relation"] as const;
export type QuestionKind = (typeof QUESTION_KINDS)[number];
/** The kinds in words, for tables and pages. */
export const QUESTION_NAMES: Readonly<Record<QuestionKind, string>> = {
  shape: "which shape",
  colour: "which colour",
  count: "how many",
  exists: "is there one",
  where: "what is beside it",
  relation: "is it left of",
};

export interface Question {
  readonly kind: QuestionKind;
  readonly question: string;
  readonly answer: string;
  /** Subject of the question, independent of its wording: the answer to another one with the same subject would reveal this answer. */
  readonly about: string;
  /** True if question and answer together name a held-out combination. */
  readonly heldOut: boolean;
}

const only = <T>(list: readonly T[]): T | undefined => (list.length === 1 ? list[0] : undefined);
const distinct = <T>(list: readonly T[]): T[] => [...new Set(list)];

/** Objects whose shape no other has. */
const unique = ({ objects }: Scene): SceneObject[] =>
  objects.filter((object) => objects.every((other) => other === object || other.shape !== object.shape));

/** Mention of an object in a text. */
interface By {
  readonly shape: boolean;
  readonly colour: boolean;
}

const told = ({ shape, colour }: Coloured, by: By): Mention => ({
  ...(by.shape && { shape }),
  ...(by.colour && { colour }),
});

/** Subject of the count: a shape, a colour, both, or all. If it were mostly shapes, the model would associate numbers with shape names. */
const COUNTED: readonly By[] = [
  { shape: true, colour: false },
  { shape: true, colour: true },
  { shape: false, colour: true },
  { shape: false, colour: false },
];

/** Subject of the search. A single word is easier to find, and is all that a question about a red circle may name. */
const LOOKED_FOR: readonly By[] = [
  { shape: true, colour: true },
  { shape: true, colour: true },
  { shape: true, colour: false },
  { shape: false, colour: true },
];

const fits = (object: Coloured, { shape, colour }: Mention): boolean =>
  (!shape || object.shape === shape) && (!colour || object.colour === colour);

/** `yes` is the answer wanted if it is yes or no. */
type Make = (dice: Dice, scene: Scene, yes: boolean) => Question | undefined;

const MAKERS: Readonly<Record<QuestionKind, Make>> = {
  shape(dice, { objects }) {
    const single = only(objects);
    const object = single ?? dice.pick(objects);
    if (!only(distinct(objects.filter(({ colour }) => colour === object.colour).map(({ shape }) => shape)))) return undefined; // prettier-ignore
    const forms = [`what shape is ${object.colour}?`, `what is the ${object.colour} shape?`];
    const plain = ["what shape is it?", "what shape is in the picture?"];
    const isPlain = single !== undefined && dice.chance(0.5);
    const about = isPlain ? "it" : object.colour;
    return { kind: "shape", question: dice.pick(isPlain ? plain : forms), answer: object.shape, about, heldOut: !isPlain && isHeldOutColour(object) }; // prettier-ignore
  },
  colour(dice, { objects }) {
    const { shape, colour } = dice.pick(objects);
    if (objects.length === 1 && dice.chance(0.5)) {
      const question = dice.pick(["what colour is it?", "what colour is the shape?"]);
      return { kind: "colour", question, answer: colour, about: "it", heldOut: false };
    }
    const same = objects.filter((object) => object.shape === shape);
    if (!only(distinct(same.map((object) => object.colour)))) return undefined;
    const [noun, verb] = same.length === 1 ? [shape, "is"] : [plural(shape), "are"];
    const question = dice.pick([`what colour ${verb} the ${noun}?`, `which colour ${same.length === 1 ? "has" : "have"} the ${noun}?`]); // prettier-ignore
    return { kind: "colour", question, answer: colour, about: shape, heldOut: isHeldOutColour({ colour, shape }) };
  },
  count(dice, { objects }) {
    const { shape, colour } = dice.pick(objects);
    const by = dice.pick(COUNTED);
    const mention = told({ shape, colour }, by);
    const count = objects.filter((object) => fits(object, mention)).length;
    const all = objects.filter((object) => object.shape === shape).length;
    const nouns = phrase(mention, plural);
    const question = dice.pick([`how many ${nouns} are there?`, `how many ${nouns} do you see?`]);
    const heldOut =
      (by.shape && count === all && isHeldOutCount(shape, count)) || // three of four squares may be red
      (isFull(mention) && isHeldOutColour(mention));
    return { kind: "count", question, answer: NUMBER_WORDS[count]!, about: nouns, heldOut };
  },
  exists(dice, { objects }, yes) {
    const { shape, colour } = dice.pick(objects);
    const by = dice.pick(LOOKED_FOR);
    // A "no" is near the truth: the shape is there in another colour, or the colour on another shape.
    const near =
      by.colour && (!by.shape || dice.chance(0.5))
        ? COLOURS.map((other) => ({ shape, colour: other }))
        : SHAPES.map((other) => ({ shape: other, colour }));
    const absent = near.filter((other) => !objects.some((object) => fits(object, told(other, by))));
    const asked = told(yes ? { shape, colour } : dice.pick(absent), by);
    const about = article(phrase(asked));
    const question = `${dice.pick(["is there", "do you see"])} ${about}?`;
    return {
      kind: "exists",
      question,
      answer: yes ? "yes" : "no",
      about,
      heldOut: isFull(asked) && isHeldOutColour(asked),
    };
  },
  where(dice, scene) {
    const [target] = dice.shuffle(unique(scene));
    if (!target) return undefined;
    const others = scene.objects.filter((object) => object !== target);
    const relation = dice.pick(RELATIONS);
    const there = only(others.filter((object) => relations(boxOf(object), boxOf(target)).includes(relation)));
    if (!there || clearly(there, target) !== relation) return undefined;
    const words = `${relation} the ${target.shape}`;
    const question = dice.pick([`what is ${words}?`, `which shape is ${words}?`]);
    const heldOut = isHeldOutPosition(there.shape, relation, target.shape) || isHeldOutPair(there.shape, target.shape);
    return { kind: "where", question, answer: there.shape, about: words, heldOut };
  },
  relation(dice, scene, yes) {
    const [a, b] = dice.shuffle(unique(scene));
    const truth = a && b && clearly(a, b);
    if (!truth) return undefined;
    const relation = yes ? truth : dice.pick(RELATIONS.filter((other) => other !== truth));
    const question = `is the ${a.shape} ${relation} the ${b.shape}?`;
    const heldOut = isHeldOutPosition(a.shape, relation, b.shape) || isHeldOutPair(a.shape, b.shape);
    const about = [a.shape, b.shape].sort().join(); // one relation of two objects determines the others
    return { kind: "relation", question, answer: yes ? "yes" : "no", about, heldOut };
  },
};

export interface AskOptions {
  /** If true, the question names a held-out combination (default: false). */
  readonly heldOut?: boolean;
  /** The answer wanted if it is yes or no (default: either). */
  readonly yes?: boolean;
  /** Questions that are asked already. */
  readonly before?: readonly Question[];
}

/** A question about the scene that is of the kind, and about something else than those before; undefined if the scene offers none in a few tries. */
export function askAbout(dice: Dice, scene: Scene, kind: QuestionKind, options: AskOptions = {}): Question | undefined {
  const { heldOut = false, before = [] } = options;
  const { yes = dice.chance(0.5) } = options; // chosen once: else the more often refused answer would be the rarer
  for (let attempt = 0; attempt < 12; attempt++) {
    const question = MAKERS[kind](dice, scene, yes);
    if (question?.heldOut !== heldOut) continue;
    if (before.every((other) => other.kind !== kind || other.about !== question.about)) return question;
  }
  return undefined;
}

/** Questions of each kind in one conversation: what an image shows on its face is learned from few, what compares takes many (docs/log/demo.md). */
const TIMES: Readonly<Record<QuestionKind, number>> = {
  shape: 1,
  colour: 1,
  count: 2,
  exists: 4,
  where: 2,
  relation: 6,
};
const ASKED = QUESTION_KINDS.flatMap((kind) => Array<QuestionKind>(TIMES[kind]).fill(kind));
/** To each object of the image: more would follow from those before. */
const MAX_EACH = 4;

/** Returns up to `most` questions in random order; none of them names anything held out. */
export function questionsAbout(dice: Dice, scene: Scene, most: number): Question[] {
  const isCountable = unique(scene).length < scene.objects.length;
  const found: Question[] = [];
  for (const kind of dice.shuffle(ASKED)) {
    if (found.length === Math.min(most, MAX_EACH * scene.objects.length)) break;
    if (kind === "count" && !isCountable && dice.chance(0.7)) continue; // else most answers would be "one"
    const question = askAbout(dice, scene, kind, { before: found });
    if (question) found.push(question);
  }
  return found;
}
