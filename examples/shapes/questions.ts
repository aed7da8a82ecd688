/** Questions about a scene with answers of one word, and what of the held-out combinations each one names. */
import { NUMBER_WORDS, clearly, plural } from "./captions.ts";
import type { Dice } from "./dice.ts";
import { isHeldOutColour, isHeldOutCount, isHeldOutPair, isHeldOutPosition } from "./held_out.ts";
import { COLOURS, RELATIONS, SHAPES, boxOf, relations } from "./scene.ts";
import type { Scene, SceneObject } from "./scene.ts";

export const QUESTION_KINDS = ["shape", "colour", "count", "exists", "where", "relation"] as const;
export type QuestionKind = (typeof QUESTION_KINDS)[number];

export interface Question {
  readonly kind: QuestionKind;
  readonly question: string;
  readonly answer: string;
  /** Whether question and answer together name a combination that is held out. */
  readonly heldOut: boolean;
}

const only = <T>(list: readonly T[]): T | undefined => (list.length === 1 ? list[0] : undefined);
const distinct = <T>(list: readonly T[]): T[] => [...new Set(list)];

/** Objects whose shape no other has. */
const unique = ({ objects }: Scene): SceneObject[] =>
  objects.filter((object) => objects.every((other) => other === object || other.shape !== object.shape));

/** `yes` is what the answer shall be where it is yes or no. */
type Make = (dice: Dice, scene: Scene, yes: boolean) => Question | undefined;

const MAKERS: Readonly<Record<QuestionKind, Make>> = {
  shape(dice, { objects }) {
    const single = only(objects);
    const object = single ?? dice.pick(objects);
    if (!only(distinct(objects.filter(({ colour }) => colour === object.colour).map(({ shape }) => shape)))) return undefined; // prettier-ignore
    const forms = [`what shape is ${object.colour}?`, `what is the ${object.colour} shape?`];
    const plain = ["what shape is it?", "what shape is in the picture?"];
    const isPlain = single !== undefined && dice.chance(0.5);
    return { kind: "shape", question: dice.pick(isPlain ? plain : forms), answer: object.shape, heldOut: !isPlain && isHeldOutColour(object) }; // prettier-ignore
  },
  colour(dice, { objects }) {
    const { shape, colour } = dice.pick(objects);
    const same = objects.filter((object) => object.shape === shape);
    if (!only(distinct(same.map((object) => object.colour)))) return undefined;
    const [noun, verb] = same.length === 1 ? [shape, "is"] : [plural(shape), "are"];
    const question = dice.pick([`what colour ${verb} the ${noun}?`, `which colour ${same.length === 1 ? "has" : "have"} the ${noun}?`]); // prettier-ignore
    return { kind: "colour", question, answer: colour, heldOut: isHeldOutColour({ colour, shape }) };
  },
  count(dice, { objects }) {
    if (dice.chance(0.25)) {
      const question = dice.pick(["how many shapes are there?", "how many shapes are in the picture?"]);
      return { kind: "count", question, answer: NUMBER_WORDS[objects.length]!, heldOut: false };
    }
    const { shape } = dice.pick(objects);
    const count = objects.filter((object) => object.shape === shape).length;
    const question = dice.pick([`how many ${plural(shape)} are there?`, `how many ${plural(shape)} do you see?`]);
    return { kind: "count", question, answer: NUMBER_WORDS[count]!, heldOut: isHeldOutCount(shape, count) };
  },
  exists(dice, { objects }, yes) {
    const { shape, colour } = dice.pick(objects);
    // A "no" is near the truth: the shape is there in another colour, or the colour on another shape.
    const near = dice.chance(0.5)
      ? COLOURS.map((other) => ({ shape, colour: other }))
      : SHAPES.map((other) => ({ shape: other, colour }));
    const absent = near.filter((a) => objects.every((b) => a.shape !== b.shape || a.colour !== b.colour));
    const asked = yes ? { shape, colour } : dice.pick(absent);
    const name = `${asked.colour} ${asked.shape}`;
    const question = dice.pick([`is there a ${name}?`, `do you see a ${name}?`]).replace("a orange", "an orange");
    return { kind: "exists", question, answer: yes ? "yes" : "no", heldOut: isHeldOutColour(asked) };
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
    return { kind: "where", question, answer: there.shape, heldOut };
  },
  relation(dice, scene, yes) {
    const [a, b] = dice.shuffle(unique(scene));
    const truth = a && b && clearly(a, b);
    if (!truth) return undefined;
    const relation = yes ? truth : dice.pick(RELATIONS.filter((other) => other !== truth));
    const question = `is the ${a.shape} ${relation} the ${b.shape}?`;
    const heldOut = isHeldOutPosition(a.shape, relation, b.shape) || isHeldOutPair(a.shape, b.shape);
    return { kind: "relation", question, answer: yes ? "yes" : "no", heldOut };
  },
};

export interface AskOptions {
  /** Whether the question shall name a held-out combination. Not, unless told. */
  readonly heldOut?: boolean;
  /** The answer where it is yes or no; either unless told. */
  readonly yes?: boolean;
}

/** A question about the scene that is of the kind; undefined where the scene offers none in a few tries. */
export function askAbout(dice: Dice, scene: Scene, kind: QuestionKind, options: AskOptions = {}): Question | undefined {
  const { heldOut = false, yes = dice.chance(0.5) } = options; // chosen once: else the more often refused answer would be the rarer
  for (let attempt = 0; attempt < 12; attempt++) {
    const question = MAKERS[kind](dice, scene, yes);
    if (question && question.heldOut === heldOut) return question;
  }
  return undefined;
}

/** Questions of different kinds, in random order, none of them about what is held out. */
export function questionsAbout(dice: Dice, scene: Scene, count: number): Question[] {
  const isCountable = unique(scene).length < scene.objects.length;
  const found: Question[] = [];
  for (const kind of dice.shuffle(QUESTION_KINDS)) {
    if (found.length === count) break;
    if (kind === "count" && !isCountable && dice.chance(0.7)) continue; // else most answers would be "one"
    const question = askAbout(dice, scene, kind);
    if (question) found.push(question);
  }
  return found;
}
