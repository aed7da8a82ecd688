/** Four lengths of the demo's recipe, which differ in steps, samples per step, and images. `smoke` shows only that every part works. */
import type { Stage } from "../../train/stages.ts";

export const LENGTHS = ["smoke", "quick", "default", "full"] as const;
export type Length = (typeof LENGTHS)[number];

export interface StageRecipe {
  readonly steps: number;
  /** Samples a step. */
  readonly batch: number;
  readonly lr: number;
  readonly warmup: number;
  /** Last steps, over which the learning rate falls to 0. */
  readonly cooldown: number;
}

export interface Recipe {
  /** Images of the data set. */
  readonly pictures: number;
  /** Stage 0. */
  readonly tokenizer: StageRecipe;
  readonly stages: Readonly<Record<Stage, StageRecipe>>;
  /** Default temperature of drawing; chosen with prompts of another seed than those that are counted. What has learned little draws nothing at a low one. */
  readonly temperature: number;
  /** Size of the evaluation: prompts per kind, and questions per kind about held-out images; as many again are about held-out combinations. */
  readonly prompts: number;
  readonly questions: number;
}

/** Samples of each task in a step, as in the report. */
export const RATIOS: Readonly<Record<Stage, { und: number; text: number; gen: number }>> = {
  1: { und: 1, text: 0, gen: 3 },
  2: { und: 2, text: 3, gen: 5 },
  3: { und: 5, text: 1, gen: 4 },
};

const tokenizer = (steps: number): StageRecipe => ({
  steps,
  batch: 8,
  lr: 3e-3,
  warmup: Math.min(20, Math.ceil(steps / 4)),
  cooldown: Math.ceil(steps / 4),
});

/**
 * Learning rates are those of a model that starts from random weights, whose matrices take the steps of Muon; the presets start from a trained
 * Llama. Stage 3 is the first one in which the vision tower, random here as well, learns; the rate falls through all of it, which took a third off the losses.
 */
const stages = (one: number, two: number, three: number, batch: number, lr: number): Recipe["stages"] => ({
  1: { steps: one, batch, lr: 1e-3, warmup: Math.min(10, one), cooldown: 0 },
  2: { steps: two, batch, lr, warmup: Math.min(40, Math.ceil(two / 4)), cooldown: 0 },
  3: { steps: three, batch, lr, warmup: Math.min(40, Math.ceil(three / 4)), cooldown: three },
});

/** Short runs take half the samples per step at three times the rate, and learn twice as much in the same time (docs/log/demo.md). */
export const RECIPES: Readonly<Record<Length, Recipe>> = {
  smoke: {
    pictures: 60,
    tokenizer: tokenizer(6),
    stages: stages(1, 2, 6, 10, 5e-3),
    temperature: 1,
    prompts: 1,
    questions: 2,
  },
  quick: {
    pictures: 500,
    tokenizer: tokenizer(24),
    stages: stages(3, 6, 18, 10, 5e-3),
    temperature: 1,
    prompts: 4,
    questions: 4,
  },
  default: {
    pictures: 4000,
    tokenizer: tokenizer(200),
    stages: stages(10, 150, 150, 10, 5e-3),
    temperature: 1,
    prompts: 20,
    questions: 20,
  },
  full: {
    pictures: 24_000,
    tokenizer: tokenizer(1000),
    stages: stages(40, 1500, 2400, 20, 1.5e-3),
    temperature: 0.6,
    prompts: 100,
    questions: 50,
  },
};
