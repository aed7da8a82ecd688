/**
 * One optimizer step of any stage: samples packed into rows, a few rows at a time through the model, gradients added up, one AdamW step. Losses are
 * sums over trained tokens divided by the number of trained tokens of the whole step, so accumulation changes nothing but memory.
 */
import { backward, scope, zeroGradients } from "../engine/index.ts";
import type { Tensor } from "../engine/index.ts";
import { imageTokens } from "../model/config.ts";
import type { JanusConfig } from "../model/config.ts";
import type { JanusForConditionalGeneration } from "../model/janus.ts";
import type { Parameter } from "../model/module.ts";
import { learningRate } from "./config.ts";
import type { TrainConfig } from "./config.ts";
import { taskLosses, totalLoss } from "./loss.ts";
import { AdamW } from "./optimizer.ts";
import { TASKS, layRows, packSamples } from "./samples.ts";
import type { Sample, Task } from "./samples.ts";
import { setStage } from "./stages.ts";

export interface TaskReport {
  /** Cross-entropy per trained token, nats. */
  readonly loss: number;
  readonly tokens: number;
}

export interface StepReport {
  /** Counted from 0. */
  readonly step: number;
  /** Weighted sum of the tasks' sums, per trained token. */
  readonly loss: number;
  readonly tasks: Readonly<Partial<Record<Task, TaskReport>>>;
  readonly lr: number;
  /** Before clipping; NaN where gradients were not finite. */
  readonly gradNorm: number;
  /** Gradients were not finite: nothing was changed. */
  readonly skipped: boolean;
  /** All tokens of all rows, and those of them that are padding. */
  readonly tokens: number;
  readonly padding: number;
}

/** A model in training: what trains, and the optimizer. */
export class Trainer {
  readonly optimizer: AdamW;
  /** What the stage trains, by name. */
  readonly trained: ReadonlyMap<string, Parameter>;
  readonly model: JanusForConditionalGeneration;
  readonly config: TrainConfig;
  /** Steps done. */
  step = 0;
  private readonly sizes: JanusConfig;
  private readonly pad: number;
  /** Steps whose gradients were not finite, since the beginning of the run. */
  skipped = 0;

  /** @param pad id of tokens behind the last sample of a row */
  constructor(model: JanusForConditionalGeneration, sizes: JanusConfig, config: TrainConfig, pad: number) {
    this.model = model.train();
    this.sizes = sizes;
    this.config = config;
    this.pad = pad;
    model.model.language_model.recompute = config.recompute;
    this.trained = setStage(model, config.stage);
    const { beta1, beta2, epsilon, weightDecay, clip: maxNorm } = config.optimizer;
    this.optimizer = new AdamW(
      [...this.trained].map(([name, tensor]) => ({ name, tensor, decay: tensor.rank > 1 })),
      { lr: learningRate(config, 0), beta1, beta2, epsilon, weightDecay, maxNorm },
    );
  }

  /** Takes one optimizer step on all of `samples`. Throws `ArgumentError` for a sample longer than a row before anything is computed. */
  async take(samples: readonly Sample[]): Promise<StepReport> {
    const { config, sizes } = this;
    const packed = packSamples(samples, config.length);
    const groups: Sample[][][] = [];
    for (let r = 0; r < packed.length; r += config.microRows) groups.push(packed.slice(r, r + config.microRows));
    const batches = groups.map((rows) => layRows(rows, config.length, this.pad, imageTokens(sizes)));
    const counts = Object.fromEntries(
      TASKS.map((task) => [task, batches.reduce((sum, { targets }) => sum + targets[task].at.length, 0)]),
    ) as Record<Task, number>;
    const tokens = TASKS.reduce((sum, task) => sum + counts[task], 0);
    const sums: Partial<Record<Task, Tensor>> = {};
    for (const batch of batches) {
      scope(() => {
        const losses = taskLosses(this.model, batch, sizes.vision.imageSize);
        const loss = totalLoss(losses, tokens, config.weights);
        if (loss?.requiresGrad) backward(loss);
        for (const task of TASKS) {
          const part = losses[task]?.detach();
          if (!part) continue;
          const before = sums[task];
          sums[task] = (before ? before.add(part) : part.clone()).keep();
          before?.dispose();
        }
      });
    }
    const lr = (this.optimizer.lr = learningRate(config, this.step));
    this.optimizer.step();
    zeroGradients(this.trained.values());
    const { gradNorm, skipped } = await this.optimizer.report();
    const tasks: Partial<Record<Task, TaskReport>> = {};
    let loss = 0;
    for (const task of TASKS) {
      const sum = sums[task];
      if (!sum) continue;
      const value = await sum.item();
      sum.dispose();
      tasks[task] = { loss: value / counts[task], tokens: counts[task] };
      loss += (config.weights[task] * value) / tokens;
    }
    const isSkipped = skipped > this.skipped;
    this.skipped = skipped;
    return {
      step: this.step++,
      loss,
      tasks,
      lr,
      gradNorm,
      skipped: isSkipped,
      tokens: batches.reduce((sum, { ids }) => sum + ids.length, 0),
      padding: batches.reduce((sum, { padding }) => sum + padding, 0),
    };
  }

  /** Goes on after `step` steps of an earlier run, whose weights and moments have been loaded. */
  resume(step: number, skipped: number): void {
    [this.step, this.skipped] = [step, skipped];
    this.optimizer.lr = learningRate(this.config, step);
  }

  /** Frees the optimizer; the model stays. */
  dispose(): void {
    this.optimizer.dispose();
  }
}
