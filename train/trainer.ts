/**
 * One optimizer step of any stage: samples packed into rows, a few rows at a time through the model, gradients
 * accumulated, one step of the optimizer. Losses are sums over trained tokens divided by the number of trained tokens
 * of the whole step, so accumulation affects only memory.
 */
import { ArgumentError, OutOfMemoryError, backward, knownOptions, noGrad, scope, tensor, zeroGradients } from "../engine/index.ts"; // prettier-ignore
import type { Device, Tensor } from "../engine/index.ts";
import { stack, zeros } from "../kernels/index.ts";
import { imageTokens } from "../model/janus/config.ts";
import type { JanusConfig } from "../model/janus/config.ts";
import type { JanusForConditionalGeneration } from "../model/janus/janus.ts";
import { adapterNames } from "../model/nn/lora.ts";
import type { Parameter } from "../model/nn/module.ts";
import { checkConfig, learningRate } from "./config.ts";
import type { TrainConfig } from "./config.ts";
import { Preferences } from "./dpo.ts";
import { RewardedImages } from "./grpo.ts";
import type { Drawing } from "./grpo.ts";
import { totalLoss } from "./loss.ts";
import type { TaskLosses } from "./loss.ts";
import { NextTokens, needsReference } from "./objective.ts";
import type { Objective, RowLosses } from "./objective.ts";
import { isFiniteArray, namesNotFinite } from "./not_finite.ts";
import type { NotFiniteCause } from "./not_finite.ts";
import { AdamW } from "../model/nn/optim/index.ts";
import { ONE_PROCESS, ownShare, sumCounts } from "./ranks.ts";
import type { Ranks } from "./ranks.ts";
import { Rounds } from "./sharding/rounds.ts";
import { runSegments, unitsOf } from "./sharding/segments.ts";
import { Shards } from "./sharding/shards.ts";
import { GradientSums } from "./sharding/sums.ts";
import { TASKS, layRows, requireImages } from "./samples.ts";
import type { PackedRows, Sample, Task } from "./samples.ts";
import { microDraws, setTrained } from "./lora.ts";
import { joinCauses } from "./step_report.ts";
import type { Accumulated, OwnPart, StepReport, TaskReport } from "./step_report.ts";

/** A sum of losses of some rows. */
interface Part {
  readonly task: Task;
  readonly rows: readonly Sample[][];
  readonly loss: Tensor;
}

/** Groups of rows, and from the losses of one to what its backward starts from. */
interface GroupRun {
  readonly batches: readonly PackedRows[];
  readonly lossOf: (losses: RowLosses, group: number) => Tensor | null;
}

/** A step after backward. */
interface Finishing {
  readonly own: readonly Sample[];
  readonly accumulated: Accumulated;
  readonly sums: GradientSums | null;
  /** Of all samples of the step, of which this process took `own`. */
  readonly names: readonly string[];
}

export interface TrainerOptions {
  /** The processes that train together (default: this one alone). */
  readonly ranks?: Ranks;
  /** With dpo, and grpo with a beta above 0, without lora: a second, frozen copy of the model as it is before its first step. */
  readonly reference?: JanusForConditionalGeneration | null;
  /** With grpo: how images are drawn. */
  readonly drawing?: Drawing;
}

/** Parameters that no stage's forward uses. */
const TOKENIZER = "model.vqmodel.";

/** What steps minimise. Throws `ArgumentError` if what it needs is not given. */
function objectiveOf(
  model: JanusForConditionalGeneration,
  config: TrainConfig,
  { vision }: JanusConfig,
  { reference = null, drawing }: TrainerOptions,
): Objective {
  const of = { model, imageSize: vision.imageSize, reference };
  const { dpo, grpo } = config;
  const isNeeded = needsReference(config);
  if (isNeeded !== (reference !== null))
    throw new ArgumentError(
      `Trainer: reference must be ${isNeeded ? "a frozen copy of the model with dpo or grpo.beta" : "absent with lora, and without dpo and grpo.beta"}; got ${reference ? "a model" : "none"}.`,
    );
  reference?.eval().setRequiresGrad(false);
  if (dpo) return new Preferences(of, dpo.beta);
  if (!grpo) return new NextTokens(of);
  if (!drawing) throw new ArgumentError("Trainer: drawing must be how images are drawn with grpo; got none. Pass guidance and temperature."); // prettier-ignore
  return new RewardedImages(of, grpo, drawing);
}

const namesOf = (samples: readonly Sample[]): string[] => samples.map(({ name }) => name);

/** A model in training, with its trained parameters and the optimizer. */
export class Trainer {
  readonly optimizer: AdamW;
  /** Parameters that the stage trains, by name. */
  readonly trained: ReadonlyMap<string, Parameter>;
  readonly model: JanusForConditionalGeneration;
  readonly config: TrainConfig;
  /** Steps done. */
  step = 0;
  private readonly sizes: JanusConfig;
  private readonly pad: number;
  private readonly ranks: Ranks;
  /** The trained parameters of each layer of the Llama, and last all others. */
  private readonly units: readonly (readonly Parameter[])[];
  /** What this process keeps of weights, gradients and the optimizer; null: all of it. */
  readonly shards: Shards | null;
  private readonly objective: Objective;
  /** Steps whose gradients were not finite, since the beginning of the run. */
  skipped = 0;

  /**
   * Throws `TrainConfigError` for a setting that is not known or out of range.
   * @param pad id of tokens behind the last sample of a row
   */
  constructor(
    model: JanusForConditionalGeneration,
    sizes: JanusConfig,
    config: TrainConfig,
    pad: number,
    options: TrainerOptions = {},
  ) {
    knownOptions("Trainer", options, ["ranks", "reference", "drawing"]);
    this.config = config = checkConfig(config, "Trainer");
    if (!config.lora) model.requireUnquantized("Trainer");
    model.requireWhole("Trainer");
    const adapters = adapterNames(model);
    if (adapters.length)
      throw new ArgumentError(`Trainer: the model must have no adapters, which checkpoints would lack; got ${adapters.join(", ")}. Merge or remove them.`); // prettier-ignore
    this.model = model.train();
    this.sizes = sizes;
    this.pad = pad;
    this.ranks = options.ranks ?? ONE_PROCESS;
    this.objective = objectiveOf(model, config, sizes, options);
    model.model.language_model.recompute = config.recompute;
    // A third of the traffic of a step. f16 has too small a range for what is between the products of the MLPs.
    model.model.language_model.inner = config.dtype === "bf16" ? "bf16" : null;
    model.model.vision_model.encoder.recompute = config.recompute;
    this.trained = setTrained(model, config);
    const { beta1, beta2, epsilon, weightDecay, clip: maxNorm, muon, momentum, moments = "f32", masters = "f32" } = config.optimizer; // prettier-ignore
    const inner = muon ? model.innerMatrices() : new Set<Tensor>();
    this.units = unitsOf(model, this.trained);
    const { ranks } = this;
    const { sharding: kind = "none" } = config;
    this.shards = kind === "none" || ranks.size === 1 ? null : new Shards(this.trained, { ranks, kind, units: this.units }); // prettier-ignore
    const own = this.shards?.pieces ?? [...this.trained].map(([name, parameter]) => ({ name, parameter, tensor: parameter })); // prettier-ignore
    this.optimizer = new AdamW(
      own.flatMap(({ name, parameter, tensor }) =>
        tensor ? [{ name, tensor, decay: parameter.rank > 1, muon: inner.has(parameter) }] : [],
      ),
      {
        lr: learningRate(config, 0),
        beta1,
        beta2,
        epsilon,
        weightDecay,
        momentum,
        moments,
        masters,
        maxNorm,
        lossScaling: config.dtype === "f16" ? config.lossScaling : null,
        emaDecay: config.ema?.decay,
      },
    );
  }

  /**
   * Takes one optimizer step on all of `samples`; several processes are given the same ones and share them. Throws `ArgumentError` for a sample
   * longer than a row, or with an image of another size, before anything is computed. If it throws, weights, optimizer and counters are as before and
   * no gradient is left.
   */
  async take(samples: readonly Sample[]): Promise<StepReport> {
    const own = ownShare(samples, this.ranks);
    const before = { ...this.ranks.traffic };
    try {
      let report = await this.pass(own, samples);
      for (let more = this.config.grpo?.updates ?? 1; more > 1 && !report.skipped; more--)
        report = await this.pass(own, samples);
      this.step++;
      if (this.ranks.size === 1) return report;
      const { ms, bytes } = this.ranks.traffic;
      return { ...report, communication: { ms: ms - before.ms, bytes: bytes - before.bytes } };
    } finally {
      this.objective.endStep();
    }
  }

  /** One step of the optimizer. */
  private async pass(own: readonly Sample[], all: readonly Sample[]): Promise<StepReport> {
    const sums = this.ranks.size === 1 ? null : new GradientSums(this.ranks, this.order, this.shards?.keep);
    const accumulated = await this.accumulate(own, this.ranks, sums);
    try {
      return await this.finish({ own, accumulated, sums, names: namesOf(all) });
    } finally {
      accumulated.losses.dispose();
      accumulated.measures?.dispose();
      this.dropGradients();
    }
  }

  /** Trained parameters in the order in which backward completes their gradients. */
  private get order(): readonly Parameter[] {
    return [...this.units.slice(0, -1).reverse(), this.units.at(-1)!].flat();
  }

  /** How many of `order` are complete when backward has passed unit `unit`. */
  private completeAfter(unit: number): number {
    const last = this.units.length - 1;
    return this.units.reduce(
      (sum, { length }, i) => (unit === last || (i >= unit && i < last) ? sum + length : sum),
      0,
    );
  }

  private dropGradients(): void {
    zeroGradients(this.trained.values());
    this.shards?.zeroGradients();
  }

  /** Runs `work` with all weights on the device, if they are divided among processes. All of them call it. */
  whole<T>(work: () => Promise<T>): Promise<T> {
    return this.shards ? this.shards.whole(work) : work();
  }

  get device(): Device {
    return this.model.device;
  }

  private async finish({ own, accumulated, sums, names }: Finishing): Promise<StepReport> {
    const { config, ranks } = this;
    await this.device.accepted(); // work that the GPU refused (memory) ends the step before weights change
    const used = await this.sumGradients(sums);
    const gathering = this.gatherParts(accumulated);
    gathering.catch(() => undefined); // awaited below
    // The update of one process needs the losses on the device alone. A GPU is waited for, as in `accepted`; so is a verdict, e.g. on memory for these reads.
    if (ranks.size > 1 || !this.device.capabilities.software || this.device.isUncertain) await gathering;
    const isTrained = this.shards ? used.size > 0 : this.isTrained;
    const lr = await this.updateAll(accumulated.losses, gathering, used);
    const all = await gathering;
    const losses = all.flatMap((part) => part.losses);
    const { gradNorm, skipped, scale } = await this.optimizer.report();
    if (skipped === this.skipped) await this.shards?.spread(used);
    const counts = TASKS.map((task) => all.reduce((sum, part) => sum + part.counts[task], 0));
    const trained = counts.reduce((sum, count) => sum + count, 0);
    const tasks: Partial<Record<Task, TaskReport>> = {};
    let loss = 0;
    for (const [t, task] of TASKS.entries()) {
      if (counts[t] === 0) continue;
      const sum = losses.reduce((total, part) => (part.task === task ? total + (part.value ?? NaN) : total), 0);
      tasks[task] = { loss: sum / counts[t]!, tokens: counts[t]! };
      loss += (config.weights[task] * sum) / trained;
    }
    const bad = losses.filter(({ value }) => !Number.isFinite(value));
    const named = bad.length ? bad.flatMap((part) => part.samples) : names;
    const notFinite = { tasks: TASKS.filter((task) => bad.some((part) => part.task === task)), samples: named };
    const isSkipped = skipped > this.skipped;
    const suspects = bad.length ? own.filter(({ name }) => named.includes(name)) : null;
    const cause = isSkipped ? joinCauses(await ranks.gather(await this.whole(() => this.causeOf(own, suspects)))) : null; // prettier-ignore
    this.skipped = skipped;
    const sumOf = (name: "tokens" | "padding"): number => all.reduce((sum, part) => sum + part[name], 0);
    const measures = this.objective.measures.map((name, m) => [name, all.reduce((sum, part) => sum + (part.measures[m] ?? NaN), 0) / trained] as const); // prettier-ignore
    return {
      step: this.step,
      loss,
      tasks,
      lr,
      gradNorm: isTrained ? gradNorm : 0,
      skipped: isSkipped,
      ...(isSkipped && { notFinite }),
      ...(cause && { cause }),
      ...(config.dtype === "f16" && { lossScale: scale }),
      tokens: sumOf("tokens"),
      padding: sumOf("padding"),
      ...(measures.length > 0 && { measures: Object.fromEntries(measures) }),
    };
  }

  private async gatherParts(accumulated: Accumulated): Promise<readonly OwnPart[]> {
    const { parts, losses, measures, counts, tokens, padding } = accumulated;
    const [values, measured] = await Promise.all([losses.data(), measures?.data()]);
    const sums = measured ? Array.from(measured) : this.objective.measures.map(() => 0);
    const own = parts.map(({ task, rows }, i) => ({
      task,
      value: values[i]!,
      samples: namesOf(rows.flat().filter((sample) => sample.task === task)),
    }));
    return this.ranks.gather<OwnPart>({ losses: own, counts, measures: sums, tokens, padding });
  }

  /** Waits for the sums of gradients over all processes. Resolves to the parameters that have one. */
  private async sumGradients(sums: GradientSums | null): Promise<ReadonlySet<Tensor>> {
    if (!sums) return new Set();
    const started = performance.now();
    const used = await sums.finish();
    this.ranks.traffic.ms += performance.now() - started;
    return used;
  }

  /** `update` that skips the step if a loss of any process is not finite. */
  private async updateAll(
    own: Tensor,
    gathering: Promise<readonly OwnPart[]>,
    used: ReadonlySet<Tensor>,
  ): Promise<number> {
    if (this.ranks.size === 1) return this.update(own);
    const losses = (await gathering).flatMap((part) => part.losses);
    const norm = (await this.shards?.norm(used)) ?? null;
    const all = tensor(losses.map(({ value }) => value ?? NaN), { device: this.device }); // prettier-ignore
    try {
      return this.update(all, norm);
    } finally {
      all.dispose();
      norm?.dispose();
    }
  }

  /**
   * Looks for what made a step not finite, the step's weights being as before. Null if memory does not suffice.
   * @param suspects samples in rows whose loss is not finite; null if all losses are finite and gradients are not
   */
  private async causeOf(
    samples: readonly Sample[],
    suspects: readonly Sample[] | null,
  ): Promise<NotFiniteCause | null> {
    const isUsed = ([name]: readonly [string, Tensor]): boolean => !name.startsWith(TOKENIZER);
    try {
      const used = [...this.model.namedParameters()].filter(isUsed);
      const weights = await namesNotFinite(used);
      if (weights.length) return { kind: "weights", tensors: weights, of: used.length };
      if (!suspects && this.config.dtype === "f16") return { kind: "overflow" }; // the loss scale that it came with is gone
      if (!suspects) return { kind: "gradients", ...(await this.badGradients(samples)) };
      const images = suspects.filter((sample) => !sample.images.every(isFiniteArray));
      if (images.length) return { kind: "images", samples: namesOf(images) };
      if (!suspects.length) return null; // they are another process's
      return { kind: "samples", samples: namesOf(await this.badAlone(suspects)) };
    } catch (error) {
      if (error instanceof OutOfMemoryError) return null;
      throw error;
    }
  }

  /** Names of gradients of this process that are not finite, computed once more. */
  private async badGradients(samples: readonly Sample[]): Promise<{ readonly tensors: string[]; readonly of: number }> {
    const { losses, measures } = await this.accumulate(samples, ONE_PROCESS);
    measures?.dispose();
    try {
      const grads = [...this.trained].flatMap(([name, { grad }]) => (grad ? [[name, grad] as const] : []));
      return { tensors: await namesNotFinite(grads), of: grads.length };
    } finally {
      losses.dispose();
      zeroGradients(this.trained.values());
    }
  }

  /** Returns the `suspects` whose loss alone in a row is not finite; all suspects if there is none. */
  private async badAlone(suspects: readonly Sample[]): Promise<readonly Sample[]> {
    const { config, sizes } = this;
    const { device } = this;
    const lossOf = (sample: Sample): Tensor => {
      const [alone] = this.objective.groupsOf([sample], config);
      const rows = layRows(alone!, config.length, this.pad, imageTokens(sizes));
      return scope(() => this.objective.lossesOf(rows, null).losses[sample.task] ?? zeros([], { device }));
    };
    const losses = noGrad(() => scope(() => stack(suspects.map(lossOf))));
    try {
      const values = await losses.data();
      const bad = suspects.filter((_, i) => !Number.isFinite(values[i]));
      return bad.length ? bad : suspects;
    } finally {
      losses.dispose();
    }
  }

  /**
   * Launches forward and backward of all of `samples`, a few rows at a time; gradients add up. Reads nothing unless there are `sums`, so that the null device takes it
   * too. If it throws, no gradient is left.
   * @param ranks whose trained tokens the losses are divided by
   * @param sums are told which gradients are complete
   */
  async accumulate(
    samples: readonly Sample[],
    ranks = this.ranks,
    sums: GradientSums | null = null,
  ): Promise<Accumulated> {
    const { config, sizes, objective } = this;
    requireImages(samples, sizes.vision.imageSize);
    const groups = objective.groupsOf(samples, config);
    const batches = groups.map((rows) => layRows(rows, config.length, this.pad, imageTokens(sizes)));
    const perBatch = batches.map((rows) => objective.countsOf(rows));
    const own = TASKS.map((task) => perBatch.reduce((sum, found) => sum + found[task], 0));
    const counts = Object.fromEntries(TASKS.map((task, i) => [task, own[i]])) as Record<Task, number>;
    const trained = (await sumCounts(ranks, own)).reduce((sum, count) => sum + count, 0);
    const parts: Part[] = [];
    const measured: Tensor[] = [];
    const isSegmented = sums && this.shards && this.shards.kind !== "optimizer";
    const run: GroupRun = {
      batches,
      lossOf: ({ losses, measures }, group) => {
        if (measures) measured.push(measures.keep());
        for (const task of TASKS) {
          const part = losses[task]?.detach().clone().keep();
          if (part) parts.push({ task, rows: groups[group]!, loss: part });
        }
        const loss = totalLoss(losses, trained, config.weights);
        return loss?.requiresGrad ? this.optimizer.scale(loss) : null;
      },
    };
    try {
      await (isSegmented ? this.runInSegments(run, sums) : this.runGroups(run, sums));
      return {
        parts,
        losses: parts.length ? stack(parts.map((part) => part.loss)) : zeros([1], { device: this.device }),
        measures: measured.length ? noGrad(() => scope(() => stack(measured).sum(0))) : null,
        counts,
        tokens: batches.reduce((sum, { ids }) => sum + ids.length, 0),
        padding: batches.reduce((sum, { padding }) => sum + padding, 0),
      };
    } catch (error) {
      this.dropGradients();
      throw error;
    } finally {
      for (const part of parts) part.loss.dispose();
      for (const one of measured) one.dispose();
    }
  }

  private async runGroups({ batches, lossOf }: GroupRun, sums: GradientSums | null): Promise<void> {
    const { config, objective } = this;
    const { language_model: llama } = this.model.model;
    for (const [g, batch] of batches.entries()) {
      // Signals, and what reads the data, come in between. Before the first group the device would wait for them.
      if (g > 0) await new Promise((resolve) => setTimeout(resolve));
      await this.device.throttle(); // images of all rows would wait in host memory
      const isLast = g === batches.length - 1;
      // Each process draws numbers of its own.
      const group = g * this.ranks.size + this.ranks.rank;
      try {
        if (isLast && sums) llama.onLayerGradients = (layer) => sums.ready(this.completeAfter(layer));
        microDraws({ device: this.device, seed: config.seed, step: this.step, group }, () =>
          scope(() => {
            const loss = lossOf(objective.lossesOf(batch, g), g);
            if (loss) backward(loss);
          }),
        );
      } finally {
        llama.onLayerGradients = null;
      }
    }
  }

  /** All processes take as many rounds as the one that has most. Between rounds gradients wait in host memory, so that they add up as on one device. */
  private async runInSegments({ batches, lossOf }: GroupRun, sums: GradientSums): Promise<void> {
    const rounds = Math.max(...(await this.ranks.gather(batches.length)));
    const rounded = new Rounds({ shards: this.shards!, units: this.units, sums, completeAfter: (unit) => this.completeAfter(unit) }); // prettier-ignore
    const { imageSize } = this.sizes.vision;
    for (let round = 0; round < rounds; round++) {
      const rows = batches[round];
      const group = rows
        ? { rows, imageSize, lossOf: (losses: TaskLosses) => lossOf({ losses, measures: null }, round) }
        : null;
      await runSegments(this.model, group, rounded.between({ isIdle: !group, isLast: round === rounds - 1 }));
    }
  }

  /** False if no parameter has a gradient, e.g. a stage-1 batch without images. */
  private get isTrained(): boolean {
    return [...this.trained.values()].some(({ grad }) => grad !== null);
  }

  /**
   * Launches the optimizer's step on the gradients that have added up, if there are any, and drops them. Returns the learning rate. If it throws,
   * weights and optimizer are as before.
   * @param losses of `accumulate`: if one is not finite, the step is skipped
   * @param norm of the gradients, if they are divided among processes
   */
  update(losses: Tensor, norm: Tensor | null = null): number {
    const before = this.optimizer.lr;
    const lr = (this.optimizer.lr = learningRate(this.config, this.step));
    try {
      if (norm ?? this.isTrained) this.optimizer.step(losses, norm);
      return lr;
    } catch (error) {
      this.optimizer.lr = before;
      throw error;
    } finally {
      this.dropGradients();
    }
  }

  /** Resumes after `step` steps of an earlier run, whose weights and moments have been loaded. */
  resume(step: number, skipped: number): void {
    [this.step, this.skipped] = [step, skipped];
    this.optimizer.lr = learningRate(this.config, step);
  }

  /** Frees the optimizer; the model stays. */
  dispose(): void {
    this.optimizer.dispose();
    this.shards?.dispose();
    this.model.model.language_model.inner = null;
  }
}
