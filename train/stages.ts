/** The parameters that each of the three stages trains, from the report's section on training. */
import type { JanusForConditionalGeneration } from "../model/janus/janus.ts";
import type { Parameter } from "../model/nn/module.ts";

export const STAGES = [1, 2, 3] as const;
export type Stage = (typeof STAGES)[number];

const ADAPTORS = [
  "model.aligner.",
  "model.generation_embeddings.",
  "model.generation_aligner.",
  "model.generation_head.",
];
const LANGUAGE = ["model.language_model.", "lm_head."];
const VISION = ["model.vision_model."];

/** Prefixes of the parameters that a stage trains; the image tokenizer never is. */
export const TRAINED: Readonly<Record<Stage, readonly string[]>> = {
  1: ADAPTORS,
  2: [...ADAPTORS, ...LANGUAGE],
  3: [...ADAPTORS, ...LANGUAGE, ...VISION],
};

/** Freezes and unfreezes the model's parameters for a stage; returns those that train, by name. */
export function setStage(model: JanusForConditionalGeneration, stage: Stage): Map<string, Parameter> {
  const trained = new Map<string, Parameter>();
  for (const [name, parameter] of model.namedParameters()) {
    parameter.requiresGrad = TRAINED[stage].some((prefix) => name.startsWith(prefix));
    if (parameter.requiresGrad) trained.set(name, parameter);
    else {
      parameter.grad?.dispose();
      parameter.grad = null;
    }
  }
  return trained;
}
