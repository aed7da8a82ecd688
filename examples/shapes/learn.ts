/**
 * The demo's training, from nothing: data, a model of random weights, stage 0 (the image tokenizer), then the three stages of Janus-Pro as
 * `janus train` runs them. Everything is in one folder; finished parts are not repeated, so an interrupted run resumes.
 */
import { existsSync } from "node:fs";
import { readFile, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { ArgumentError } from "../../engine/index.ts";
import type { Device } from "../../engine/index.ts";
import { createModel } from "../../model/janus/create.ts";
import { writeFolderAtomic } from "../../model/node/index.ts";
import { saveModel } from "../../model/janus/save.ts";
import { checkConfig, checkTokenizerConfig } from "../../train/config.ts";
import type { SourceSpec } from "../../train/node/data/sources.ts";
import type { TokenizerStepEvent } from "../../train/node/report/index.ts";
import type { Task } from "../../train/samples.ts";
import { STAGES } from "../../train/stages.ts";
import type { Stage } from "../../train/stages.ts";
import { train } from "../../train/node/train.ts";
import { trainTokenizer } from "../../train/node/stage0/train.ts";
import type { StepReport } from "../../train/step_report.ts";
import { writeDataset } from "./dataset_files.ts";
import { LAYOUT, PICTURE, shapesConfig, shapesFiles } from "./model.ts";
import { RATIOS } from "./recipe.ts";
import type { Recipe } from "./recipe.ts";

/** Tokens of a packed row, and rows that go through the model at once. */
const ROW = 352;
const ROWS = 12;
/** The report's is 0. With AdamW losses were the same without it over 500 steps of stage 2. */
const WEIGHT_DECAY = 0.1;
/** Version of the data: raised when the same settings make another world. */
const VERSION = 4;
/** Questions to an image, in one conversation: an image takes 64 tokens, a question ten. */
const QUESTIONS = 12;
/** λ of stage 0. Without it flat background took half of the codes; with a fifth of it the code of a patch still said more about distant pixels than about the patch. */
const RATE_WEIGHT = 0.08;
/** Steps of stage 0 between updates of unused codes. */
const RESEED = 20;
/** Share of stage 0's steps in which codes are moved; codes without use in the rest retire. */
const MOVED_UNTIL = 0.75;

/** Folder of a stage's run. */
export const runOf = (folder: string, stage: 0 | Stage): string => join(folder, `stage${stage}`);

export interface LearnOptions {
  readonly recipe: Recipe;
  readonly seed: number;
  readonly device: Device;
  readonly onStage?: (name: string, steps: number) => void;
  readonly onTokenizer?: (report: TokenizerStepEvent) => void;
  readonly onStep?: (stage: Stage, report: StepReport) => void;
  readonly onNotice?: (message: string) => void;
  readonly stop?: AbortSignal;
}

/** Runs the remaining parts of the recipe in `folder`. Returns the folder of the trained model; null if `stop` aborted it. */
export async function learn(folder: string, options: LearnOptions): Promise<string | null> {
  const { recipe, seed, device, onStage, onTokenizer, onStep, onNotice, stop } = options;
  const data = join(folder, "data");
  const done = join(data, "done");
  const about = JSON.stringify({ version: VERSION, ...LAYOUT, seed, pictures: recipe.pictures });
  if (existsSync(done) && (await readFile(done, "utf8")) !== about)
    throw new ArgumentError(`${folder} contains a run on the data of another version; pass --fresh to start over`);
  if (!existsSync(done)) {
    onStage?.("data", recipe.pictures);
    await writeDataset(data, { ...LAYOUT, seed, pictures: recipe.pictures, side: PICTURE, questions: QUESTIONS });
    await writeFile(done, about);
  }
  let model = join(folder, "random");
  if (!existsSync(model)) await randomModel(model, seed, recipe.temperature, device);
  const source = (task: Task): SourceSpec => ({ task, path: join(data, `${task}.jsonl`) });
  const common = {
    cache: join(folder, "cache"),
    device,
    ...(stop && { stop }),
    ...(onNotice && { onNotice }),
  };

  const { steps, batch, lr, warmup, cooldown } = recipe.tokenizer;
  onStage?.("stage 0", steps);
  const tokenizer = await trainTokenizer({
    ...common,
    model,
    run: runOf(folder, 0),
    config: checkTokenizerConfig({
      stage: 0,
      steps,
      batch,
      microBatch: batch,
      optimizer: { lr, warmup, cooldown },
      rateWeight: RATE_WEIGHT,
      reseed: { every: RESEED, until: Math.floor(MOVED_UNTIL * steps) },
      seed,
      save: { every: 200, keep: 1 },
    }),
    sources: [source("und")], // every image once
    onStep: (report) => onTokenizer?.(report),
  });
  if (tokenizer.stopped) return null;
  model = tokenizer.checkpoint;

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
      optimizer: { lr, warmup, cooldown, muon: true, weightDecay: WEIGHT_DECAY },
      seed,
      save: { every: 200, keep: 1 },
    });
    const result = await train({
      ...common,
      model,
      run: runOf(folder, stage),
      config,
      sources: [source("und"), source("gen"), source("text")],
      onStep: (report) => onStep?.(stage, report),
    });
    if (result.stopped) return null;
    model = result.checkpoint;
  }
  return model;
}

/** Writes a model of random weights; its folder `out` appears when it is whole. */
async function randomModel(out: string, seed: number, temperature: number, device: Device): Promise<void> {
  const sideFiles = shapesFiles(seed, temperature);
  const config = shapesConfig(sideFiles);
  const model = createModel(config, { seed, device });
  try {
    const bytes = 4 * model.parameterCount();
    await writeFolderAtomic(out, bytes, async (sink) => void (await saveModel(model, config, sink, { sideFiles })));
  } finally {
    model.dispose();
  }
}
