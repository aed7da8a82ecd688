/**
 * The golden values of training computed by the trainer: of each stage a fresh model in f32, and a row for every value: losses, gradients,
 * parameters after steps, and that what is frozen has not changed.
 */
import { noGrad, zeroGradients } from "../engine/index.ts";
import type { JanusForConditionalGeneration } from "../model/janus/janus.ts";
import { TASKS } from "../train/samples.ts";
import { STAGES } from "../train/stages.ts";
import { BOUNDS, close, equal, failed, notComputed, sameNames } from "./compare.ts";
import type { Bound, Comparison } from "./compare.ts";
import { GoldenError } from "./file.ts";
import type { Values } from "./file.ts";
import { whyImpossible } from "./inputs.ts";
import type { GoldenInputs } from "./inputs.ts";
import { goldenBatches, separateRows } from "./train_batch.ts";
import type { GoldenBatch } from "./train_batch.ts";
import { parseStages } from "./train_file.ts";
import type { TrainStage } from "./train_file.ts";
import { StageRun, forward, read } from "./train_stage.ts";
import type { Outcome as StageOutcome } from "./train_stage.ts";

interface Outcome extends StageOutcome {
  /** Images of the batch, if the files leave open which ones. */
  readonly pictures: string | undefined;
}

/** A row to come. */
interface Wanted {
  readonly entry: string;
  readonly shape: readonly number[] | null;
  readonly judge: (outcome: Outcome) => Comparison;
}

export class Training {
  private readonly inputs: GoldenInputs;
  private readonly load: () => Promise<JanusForConditionalGeneration>;
  private readonly signal: AbortSignal | undefined;
  private readonly stages: readonly TrainStage[];

  /** @param load a fresh model in f32; it is disposed here */
  constructor(inputs: GoldenInputs, load: () => Promise<JanusForConditionalGeneration>, signal?: AbortSignal) {
    this.inputs = inputs;
    this.load = load;
    this.signal = signal;
    this.stages = parseStages(inputs.golden);
  }

  /** Number of computed rows. */
  get count(): number {
    return this.stages.reduce((sum, stage) => sum + wanted(stage).length, 0);
  }

  /** The rows of one stage after another; at any time one model is on the device. */
  async *rows(): AsyncGenerator<Comparison> {
    for (const stage of this.stages) {
      const rows = wanted(stage).sort((a, b) => a.entry.localeCompare(b.entry, "en", { numeric: true }));
      let outcome: Outcome | string;
      try {
        outcome = await this.run(stage);
      } catch (error) {
        outcome = whyImpossible(error);
      }
      for (const { entry, shape, judge } of rows)
        yield typeof outcome === "string" ? failed(entry, shape, outcome) : judge(outcome);
      for (const entry of stage.unknown) yield notComputed(entry, null, "not known");
    }
  }

  private async run(stage: TrainStage): Promise<Outcome> {
    const { key, settings } = stage;
    const number = STAGES.find((n) => String(n) === key);
    if (!number) throw new GoldenError(`there is no stage ${key}; stages are ${STAGES.join(", ")}`);
    if (!settings) throw new GoldenError(`golden.json has no train.${key}`);
    const batches = await goldenBatches(this.inputs);
    const model = await this.load();
    try {
      const batch = await this.choose(model, batches);
      const run = new StageRun(model, number, separateRows(batch, this.inputs), stage, this.inputs, this.signal);
      const pictures = batches.length > 1 ? `of images ${batch.pictures.join(", ")}` : undefined;
      return { ...(await run.outcome()), pictures };
    } finally {
      zeroGradients(model.parameters());
      model.dispose();
    }
  }

  /** If no file says which images the batch has, those whose first loss is nearest; whether they are right shows in all that follows. */
  private async choose(model: JanusForConditionalGeneration, batches: readonly GoldenBatch[]): Promise<GoldenBatch> {
    const step = this.stages.flatMap(({ steps }) => steps.slice(0, 1)).at(0);
    const und = step?.tasks.get("und")?.loss ?? null;
    const golden = und ?? step?.loss ?? null;
    if (golden === null || batches.length === 1) return batches[0]!;
    const distances: number[] = [];
    for (const batch of batches) {
      this.signal?.throwIfAborted();
      const rows = separateRows(batch, this.inputs);
      const pass = noGrad(() => forward(model, rows, this.inputs.config.vision.imageSize));
      const { all, tasks } = await read(pass, rows);
      distances.push(Math.abs((und === null ? all : tasks.und) - golden));
    }
    return batches[distances.indexOf(Math.min(...distances))]!;
  }
}

/** A row for each value of a stage. Steps count from 1. */
function wanted(stage: TrainStage): Wanted[] {
  const { key, steps, finalLoss, trainable, noGrad: without, tensors, settings } = stage;
  const rows: Wanted[] = [];
  const add = (
    name: string,
    shape: readonly number[] | null,
    judge: (outcome: Outcome, entry: string) => Comparison,
  ): void => {
    const entry = `train${key}.${name}`;
    rows.push({ entry, shape, judge: (outcome) => judge(outcome, entry) });
  };
  const number = (name: string, golden: number | null, bound: Bound, ours: (outcome: Outcome) => number): void => {
    if (golden === null) return;
    const value = (data: number): Values => ({ shape: [], data: Float64Array.of(data) });
    add(name, [], (outcome, entry) => close(entry, value(golden), value(ours(outcome)), bound, outcome.pictures));
  };
  for (const [k, { loss, gradNorm, tasks }] of steps.entries()) {
    const step = `step${k + 1}`;
    number(`loss.${step}`, loss, BOUNDS.losses, ({ losses }) => losses[k]!.all);
    number(`grad_norm.${step}`, gradNorm, BOUNDS.gradients, ({ gradNorms }) => gradNorms[k]!);
    for (const [name, of] of tasks) {
      const task = TASKS.find((one) => one === name);
      if (!task) {
        const note = `tasks are ${TASKS.join(", ")}`;
        add(`per_task.${name}.${step}`, null, (_, entry) => failed(entry, null, note));
        continue;
      }
      number(`loss.${name}.${step}`, of.loss, BOUNDS.losses, ({ losses }) => losses[k]!.tasks[task]);
      if (of.tokens !== null)
        add(`tokens.${name}.${step}`, [], ({ tokens }, entry) => equal(entry, [], [of.tokens], [tokens[task]]));
    }
  }
  number("final_loss", finalLoss, BOUNDS.losses, ({ losses }) => losses.at(-1)!.all);
  if (trainable)
    add("trainable", [trainable.length], (outcome, entry) => sameNames(entry, trainable, outcome.trainable));
  if (without) add("no_grad", [without.length], (outcome, entry) => sameNames(entry, without, outcome.noGrad));
  if (settings) add("frozen", null, ({ frozen }) => frozen);
  for (const { entry, shape, after } of tensors)
    rows.push({
      entry,
      shape,
      judge: ({ tensors: found }) =>
        found.get(entry) ?? failed(entry, shape, `golden.json has ${steps.length} steps, not ${after}`),
    });
  return rows;
}

/** The stage that a row belongs to, for printing; null for rows of other things. */
export const trainStage = ({ entry }: Comparison): string | null => /^train\d+(?=\.)/.exec(entry)?.[0] ?? null;

/** Largest deviation of the rows of a stage that passes. */
export function worst(rows: readonly Comparison[]): string {
  const most = (kind: RegExp, of: "maxAbs" | "relativeL2"): string[] => {
    const values = rows.filter(({ entry }) => kind.test(entry)).flatMap((row) => row[of] ?? []);
    return values.length ? [Math.max(...values).toExponential(1)] : [];
  };
  const rounding = rows.filter(({ entry, note }) => entry.includes(".grad.") && note !== undefined).length;
  return [
    ...most(/^train\d+\.(final_)?loss/, "maxAbs").map((n) => `losses ${n}`),
    ...most(/^train\d+\.grad\./, "relativeL2").map((n) => `gradients ${n} (relative)`),
    ...(rounding ? [`${rounding} gradients nothing but rounding`] : []),
    ...most(/^train\d+\.after\d+\./, "relativeL2").map((n) => `parameters ${n} (relative)`),
  ].join(", ");
}
