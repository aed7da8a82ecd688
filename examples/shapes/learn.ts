/**
 * The demo's training, from nothing: data, a model of random weights, stage 0 (the image tokenizer), then the three stages of Janus-Pro as
 * `janus train` runs them. Everything lies in one folder; what is finished there is not done again, so an interrupted run goes on.
 */
import { existsSync } from "node:fs";
import { readFile, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { ArgumentError, tensor } from "../../engine/index.ts";
import type { Device } from "../../engine/index.ts";
import { createModel } from "../../model/create.ts";
import { generationPixels } from "../../model/image/preprocess.ts";
import { writeFileAtomic, writeFolderAtomic } from "../../model/node/index.ts";
import { saveModel } from "../../model/save.ts";
import { checkConfig, learningRate } from "../../train/config.ts";
import { STAGES } from "../../train/stages.ts";
import type { Stage } from "../../train/stages.ts";
import { train } from "../../train/train.ts";
import type { StepReport } from "../../train/trainer.ts";
import { VqTraining } from "../../train/vq.ts";
import type { VqLosses, VqUsage } from "../../train/vq.ts";
import { randomScene } from "./captions.ts";
import { writeDataset } from "./dataset.ts";
import { Dice } from "./dice.ts";
import { LAYOUT, PICTURE, shapesConfig, shapesFiles } from "./model.ts";
import { RATIOS } from "./recipe.ts";
import type { Recipe } from "./recipe.ts";
import { render } from "./scene.ts";

/** Tokens of a packed row, and rows that go through the model at once. */
const ROW = 352;
const ROWS = 10;
/** The report's is 0. Over 500 steps of stage 2 losses are the same without it. */
const WEIGHT_DECAY = 0.1;
/** Of the data: goes up where the same settings make another world. */
const VERSION = 2;
/** Questions to a picture, in one conversation: a picture takes 64 tokens, a question ten. */
const QUESTIONS = 6;
/** Of stage 0. Without it flat background took half of the codes, and the Llama had to learn which. */
const RATE_WEIGHT = 0.015;
/** Steps of stage 0 between looks at which codes are used. */
const RESEED = 20;
/** Of its steps, the share in which codes are moved; those without use in the rest retire. */
const MOVED_UNTIL = 0.75;
const TOKENIZER_PICTURES = 4; // a stream of random numbers

/** A line of `tokenizer.jsonl`, the log of stage 0. */
export interface TokenizerStep extends VqLosses {
  readonly step: number;
}

export const TOKENIZER_LOG = "tokenizer.jsonl";
/** Where `learn` puts a stage's run. */
export const runOf = (folder: string, stage: Stage): string => join(folder, `stage${stage}`);

export interface LearnOptions {
  readonly recipe: Recipe;
  readonly seed: number;
  readonly device: Device;
  readonly onStage?: (name: string, steps: number) => void;
  readonly onTokenizer?: (report: TokenizerStep, usage: VqUsage | null) => void;
  readonly onStep?: (stage: Stage, report: StepReport) => void;
  readonly onNotice?: (message: string) => void;
  readonly stop?: AbortSignal;
}

/** Runs what is not yet done of the recipe in `folder`. Returns the folder of the trained model; null where `stop` came first. */
export async function learn(folder: string, options: LearnOptions): Promise<string | null> {
  const { recipe, seed, device, onStage, onStep, onNotice, stop } = options;
  const data = join(folder, "data");
  const done = join(data, "done");
  const about = JSON.stringify({ version: VERSION, ...LAYOUT, seed, pictures: recipe.pictures });
  if (existsSync(done) && (await readFile(done, "utf8")) !== about)
    throw new ArgumentError(`${folder} holds a run of other data than this version's; --fresh begins anew`);
  if (!existsSync(done)) {
    onStage?.("data", recipe.pictures);
    await writeDataset(data, { ...LAYOUT, seed, pictures: recipe.pictures, side: PICTURE, questions: QUESTIONS });
    await writeFile(done, about);
  }
  let model = join(folder, "stage0");
  if (!existsSync(model) && !(await tokenizerStage(folder, model, options))) return null;
  for (const stage of STAGES) {
    const { steps, batch, lr, warmup, cooldown } = recipe.stages[stage];
    onStage?.(`stage ${stage}`, steps);
    const config = checkConfig({
      stage,
      steps,
      batch,
      length: ROW,
      microRows: ROWS,
      ratios: RATIOS[stage],
      optimizer: { lr, warmup, cooldown, weightDecay: WEIGHT_DECAY },
      seed,
      save: { every: 200, keep: 1 },
    });
    const result = await train({
      model,
      run: runOf(folder, stage),
      cache: join(folder, "cache"),
      config,
      sources: [
        { task: "und", path: join(data, "und.jsonl") },
        { task: "gen", path: join(data, "gen.jsonl") },
        { task: "text", path: join(data, "text.jsonl") },
      ],
      device,
      ...(stop && { stop }),
      ...(onNotice && { onNotice }),
      onStep: (report) => onStep?.(stage, report),
    });
    if (result.stopped) return null;
    model = result.checkpoint;
  }
  return model;
}

/** A model of random weights whose image tokenizer then learns; its folder `out` appears when it is whole. False where `stop` came first. */
async function tokenizerStage(folder: string, out: string, options: LearnOptions): Promise<boolean> {
  const { recipe, seed, device, onStage, onTokenizer, stop } = options;
  const { steps, batch, ...optimizer } = recipe.tokenizer;
  onStage?.("stage 0", steps);
  const sideFiles = shapesFiles(seed);
  const config = shapesConfig(sideFiles);
  const model = createModel(config, { seed, device });
  const { vqmodel } = model.model;
  const training = new VqTraining(vqmodel, { lr: optimizer.lr, rateWeight: RATE_WEIGHT, seed });
  let log = "";
  try {
    for (let step = 0; step < steps; step++) {
      if (stop?.aborted) return false;
      training.optimizer.lr = learningRate({ steps, optimizer }, step);
      const pixels = tokenizerPixels(seed, step * batch, batch);
      const input = tensor(pixels, { shape: [batch, 3, PICTURE, PICTURE], device });
      const { losses, vectors } = await training.step(input);
      input.dispose();
      const isDue = (step + 1) % RESEED === 0 && step < MOVED_UNTIL * steps;
      const usage = isDue ? await training.reseed(vectors) : null;
      vectors.dispose();
      log += `${JSON.stringify({ step, ...losses })}\n`;
      onTokenizer?.({ step, ...losses }, usage);
    }
    training.retire(Math.ceil((1 - MOVED_UNTIL) * steps));
    const bytes = 4 * model.parameterCount();
    await writeFileAtomic(join(folder, TOKENIZER_LOG), new TextEncoder().encode(log));
    await writeFolderAtomic(out, bytes, async (sink) => void (await saveModel(model, config, sink, { sideFiles })));
    return true;
  } finally {
    training.dispose();
    model.dispose();
  }
}

/** Pictures of the tokenizer's training from number `from` on: any shapes, layouts for training. float32 [count, 3, S, S]. */
export function tokenizerPixels(seed: number, from: number, count: number): Float32Array {
  const size = 3 * PICTURE ** 2;
  const pixels = new Float32Array(count * size);
  for (let i = 0; i < count; i++) {
    const scene = randomScene(new Dice(seed, TOKENIZER_PICTURES, from + i), LAYOUT);
    pixels.set(generationPixels(render(scene, PICTURE), PICTURE), i * size);
  }
  return pixels;
}
