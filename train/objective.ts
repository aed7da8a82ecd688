/**
 * What a step of the trainer minimises: which samples go through the model together, the sums of their losses, and by what these are divided. Next tokens
 * are here; preferences are dpo.ts, rewarded images grpo.ts.
 */
import { noGrad } from "../engine/index.ts";
import type { Tensor } from "../engine/index.ts";
import type { JanusForConditionalGeneration } from "../model/janus/janus.ts";
import { setAdapters } from "../model/nn/lora.ts";
import type { TrainConfig } from "./config.ts";
import { TRAINED_ADAPTER } from "./lora.ts";
import { taskLosses } from "./loss.ts";
import type { TaskLosses } from "./loss.ts";
import { packSamples } from "./samples.ts";
import type { PackedRows, Sample, Task } from "./samples.ts";

export interface RowLosses {
  readonly losses: TaskLosses;
  /** f32 [measures]: sums over what losses are sums over, for the log; null if the objective has no measures. */
  readonly measures: Tensor | null;
}

export interface Objective {
  /** Names of `RowLosses.measures`. */
  readonly measures: readonly string[];
  /** Samples in groups of rows that go through the model at once, by the settings `length` and `microRows`. */
  groupsOf(samples: readonly Sample[], config: Pick<TrainConfig, "length" | "microRows">): Sample[][][];
  /** Number of what the losses of rows are sums over: tokens, or pairs. */
  countsOf(rows: PackedRows): Readonly<Record<Task, number>>;
  /** Losses of rows. `group` is their number in the step; null for rows that are looked at alone. */
  lossesOf(rows: PackedRows, group: number | null): RowLosses;
  /** Frees what is kept from one pass over the samples of a step to the next. */
  endStep(): void;
}

export interface ObjectiveModel {
  readonly model: JanusForConditionalGeneration;
  /** Side of the images that are understood, pixels. */
  readonly imageSize: number;
  /** The model as it was when the run began; null with adapters, without which the model is that one. */
  readonly reference: JanusForConditionalGeneration | null;
}

/** Cross-entropy of the next token or code. */
export class NextTokens implements Objective {
  readonly measures = [];
  private readonly of: ObjectiveModel;

  constructor(of: ObjectiveModel) {
    this.of = of;
  }

  groupsOf(samples: readonly Sample[], { length, microRows }: Pick<TrainConfig, "length" | "microRows">): Sample[][][] {
    const packed = packSamples(samples, length);
    const groups: Sample[][][] = [];
    for (let r = 0; r < packed.length; r += microRows) groups.push(packed.slice(r, r + microRows));
    return groups;
  }

  countsOf({ targets }: PackedRows): Record<Task, number> {
    return { und: targets.und.at.length, text: targets.text.at.length, gen: targets.gen.at.length };
  }

  lossesOf(rows: PackedRows): RowLosses {
    return { losses: taskLosses(this.of.model, rows, this.of.imageSize), measures: null };
  }

  endStep(): void {
    // Nothing is kept.
  }
}

/** Groups of whole units of samples (pairs, or an image with its row without words), as many in a group as fit its rows, at least one. */
export function unitGroups(
  units: readonly (readonly Sample[])[],
  { length, microRows }: Pick<TrainConfig, "length" | "microRows">,
): Sample[][][] {
  const groups: Sample[][][] = [];
  let open: Sample[] = [];
  for (const unit of units) {
    const more = [...open, ...unit];
    if (open.length > 0 && packSamples(more, length).length > microRows) {
      groups.push(packSamples(open, length));
      open = [...unit];
    } else open = more;
  }
  if (open.length > 0) groups.push(packSamples(open, length));
  return groups;
}

/** Whether training compares with a frozen copy of the model that is not the model without its adapter. */
export const needsReference = ({ lora, dpo, grpo }: Pick<TrainConfig, "lora" | "dpo" | "grpo">): boolean =>
  !lora && (dpo !== undefined || (grpo?.beta ?? 0) > 0);

/** Runs `forward` with the model as it was when the run began, without gradients: the reference, or the model without its adapter. */
export function withReference<T>(
  { model, reference }: Pick<ObjectiveModel, "model" | "reference">,
  forward: (model: JanusForConditionalGeneration) => T,
): T {
  if (reference) return noGrad(() => forward(reference));
  setAdapters(model, {});
  try {
    return noGrad(() => forward(model));
  } finally {
    setAdapters(model, { [TRAINED_ADAPTER]: 1 });
  }
}
