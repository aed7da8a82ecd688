/**
 * The data of the demo: samples of training, and the evaluation's prompts and questions; files of them are dataset_files.ts. Sample n of a seed
 * depends only on these two. held_out.ts separates training and evaluation. Loads in browsers.
 */
import { KINDS, describe, heldOutPrompts, randomPrompt, randomScene, sceneFor } from "./captions.ts";
import type { Kind, Prompt } from "./captions.ts";
import { Dice } from "./dice.ts";
import { heldOutIn } from "./held_out.ts";
import { QUESTION_KINDS, askAbout, questionsAbout } from "./questions.ts";
import type { Question, QuestionKind } from "./questions.ts";
import type { LayoutOptions, Scene } from "./scene.ts";

const TRAINING = 1; // streams of random numbers
const EVALUATION = 2;
const QUESTIONS = 3;

/** An image of training with all that is said about it. */
export interface Sample {
  readonly scene: Scene;
  /** Undefined for images of several objects that are only asked about. */
  readonly prompt: Prompt | undefined;
  readonly questions: readonly Question[];
  /** All that the image shows, most objects with their colour, and nothing that is held out; a prompt too. */
  readonly description: string;
  /** Sentences about the image that need no image. */
  readonly text: string;
}

export interface SampleOptions extends LayoutOptions {
  /** Questions to an image (default: 2), 16 at most. Some images offer fewer. */
  readonly questions?: number;
}

/** They come round; undefined is any one to four objects without a prompt. Of counts and of positions descriptions say least. */
const ROUND: readonly (Kind | undefined)[] = [...KINDS, "counting", "position", undefined, undefined, undefined];

/** Training sample `index` of a seed. */
export function trainingSample(seed: number, index: number, options: SampleOptions = {}): Sample {
  const { questions = 2 } = options;
  const dice = new Dice(seed, TRAINING, index);
  const kind = ROUND[index % ROUND.length];
  const prompt = kind && randomPrompt(dice, kind);
  const scene = prompt ? sceneFor(dice, prompt, options) : randomScene(dice, options);
  const asked = questionsAbout(dice, scene, questions);
  const [first] = heldOutIn(scene).length === 0 ? questionsAbout(dice, scene, 1) : []; // with the description it could name what is held out
  const description = describe(dice, scene);
  const text = [`${description}.`, ...(first ? [first.question, `${first.answer}.`] : [])].join(" ");
  return { scene, prompt, questions: asked, description, text };
}

/** A question of the evaluation with its image. */
export interface AskedScene extends Question {
  readonly scene: Scene;
}

export interface Evaluation {
  readonly prompts: Readonly<Record<Kind, readonly Prompt[]>>;
  readonly questions: readonly AskedScene[];
}

export interface EvaluationOptions extends LayoutOptions {
  /** Prompts a kind (default: 100). If there are fewer texts (26 of a single object, 72 of two and of counting), some come again. */
  readonly prompts?: number;
  /** Questions a kind of question (default: 50). As many again name a held-out combination, which of shapes is a coloured one. */
  readonly questions?: number;
}

/**
 * The evaluation of the trained model: prompts of every kind that are not in the training data, in an order given by
 * the seed, and questions about images whose layouts it never saw. A question with `heldOut` asks for a combination
 * that no question of training names; the others are about scenes without any.
 */
export function evaluation(seed: number, options: EvaluationOptions = {}): Evaluation {
  const { prompts = 100, questions = 50 } = options;
  const byKind = KINDS.map((kind, k) => {
    const all = new Dice(seed, EVALUATION, k).shuffle(heldOutPrompts(kind));
    return [kind, Array.from({ length: prompts }, (_, i) => all[i % all.length]!)] as const;
  });
  const asked = QUESTION_KINDS.flatMap((kind, k) =>
    Array.from({ length: 2 * questions }, (_, i) =>
      heldOutQuestion(seed, kind, 2 * k * questions + i, i % 2 === 0, options),
    ),
  );
  return { prompts: Object.fromEntries(byKind) as Record<Kind, Prompt[]>, questions: asked };
}

function heldOutQuestion(
  seed: number,
  kind: QuestionKind,
  index: number,
  heldOut: boolean,
  options: LayoutOptions,
): AskedScene {
  const dice = new Dice(seed, QUESTIONS, index);
  for (let attempt = 0; attempt < 10_000; attempt++) {
    const scene = randomScene(dice, { ...options, heldOut: true });
    if (!heldOut && heldOutIn(scene).length > 0) continue;
    const question = askAbout(dice, scene, kind, { heldOut, yes: (index >> 1) % 2 === 0 });
    if (question) return { ...question, scene };
  }
  throw new RangeError(`evaluation: no scene found for a question of the kind ${kind}`);
}
