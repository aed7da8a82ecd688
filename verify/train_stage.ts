/** One stage of golden training: AdamW steps on the golden batch, as the trainer does them, and their results. */
import { backward, noGrad, scope, zeroGradients } from "../engine/index.ts";
import type { Tensor } from "../engine/index.ts";
import { globalGradNorm } from "../kernels/index.ts";
import type { JanusForConditionalGeneration } from "../model/janus/janus.ts";
import type { Parameter } from "../model/nn/module.ts";
import { taskLosses, totalLoss } from "../train/loss.ts";
import { AdamW } from "../model/nn/optim/index.ts";
import { TASKS } from "../train/samples.ts";
import type { PackedRows, Task } from "../train/samples.ts";
import { setStage } from "../train/stages.ts";
import type { Stage } from "../train/stages.ts";
import { equal, failed, gradient, isNoise, stepped } from "./compare.ts";
import type { Comparison } from "./compare.ts";
import type { Values } from "./file.ts";
import { UnusableInput } from "./inputs.ts";
import type { GoldenInputs } from "./inputs.ts";
import type { TrainStage, TrainTensor } from "./train_file.ts";

/** Means over the trained tokens of all, and of each task; a task without any has 0. */
export interface Losses {
  readonly all: number;
  readonly tasks: Readonly<Record<Task, number>>;
}

/** Results of a stage. */
export interface Outcome {
  /** Before each step, and after the last one. */
  readonly losses: readonly Losses[];
  readonly gradNorms: readonly number[];
  readonly tokens: Readonly<Record<Task, number>>;
  readonly trainable: readonly string[];
  readonly noGrad: readonly string[];
  readonly frozen: Comparison;
  /** Comparisons by entry. */
  readonly tensors: ReadonlyMap<string, Comparison>;
}

const tokensOf = ({ targets }: PackedRows): Record<Task, number> =>
  Object.fromEntries(TASKS.map((task) => [task, targets[task].at.length])) as Record<Task, number>;
const sumOf = (tokens: Readonly<Record<Task, number>>): number => TASKS.reduce((sum, task) => sum + tokens[task], 0);

interface Forward {
  /** Sums. */
  readonly losses: Readonly<Record<Task, Tensor | null>>;
  readonly total: Tensor;
}

/** The losses of the rows as the trainer computes them. */
export function forward(model: JanusForConditionalGeneration, rows: PackedRows, imageSize: number): Forward {
  return scope(() => {
    const losses = { ...taskLosses(model, rows, imageSize) };
    const total = totalLoss(losses, sumOf(tokensOf(rows)));
    if (!total) throw new UnusableInput("no token of train_rows is trained");
    return { losses, total };
  });
}

/** Reads and frees. */
export async function read({ losses, total }: Forward, rows: PackedRows): Promise<Losses> {
  const tokens = tokensOf(rows);
  try {
    const means = await Promise.all(
      TASKS.map(async (task) => [task, losses[task] ? (await losses[task].item()) / tokens[task] : 0] as const),
    );
    return { all: await total.item(), tasks: Object.fromEntries(means) as Record<Task, number> };
  } finally {
    for (const t of [total, ...Object.values(losses)]) t?.dispose();
  }
}

/** The steps of one stage. */
export class StageRun {
  private readonly model: JanusForConditionalGeneration;
  private readonly batch: PackedRows;
  private readonly stage: TrainStage;
  private readonly inputs: GoldenInputs;
  private readonly signal: AbortSignal | undefined;
  private readonly trained: ReadonlyMap<string, Parameter>;
  private readonly all: ReadonlyMap<string, Parameter>;
  private readonly rows = new Map<string, Comparison>();
  /** Parameters whose gradient is rounding. */
  private readonly noise = new Set<string>();

  constructor(
    model: JanusForConditionalGeneration,
    number: Stage,
    batch: PackedRows,
    stage: TrainStage,
    inputs: GoldenInputs,
    signal: AbortSignal | undefined,
  ) {
    this.model = model;
    this.trained = setStage(model, number);
    this.all = new Map(model.namedParameters());
    this.batch = batch;
    this.stage = stage;
    this.inputs = inputs;
    this.signal = signal;
  }

  async outcome(): Promise<Outcome> {
    const { steps, settings, key } = this.stage;
    const { lr, betas, eps, clip, weightDecay } = settings!;
    const { imageSize } = this.inputs.config.vision;
    const tokens = tokensOf(this.batch);
    const [losses, gradNorms]: [Losses[], number[]] = [[], []];
    let untouched: string[] = [];
    const before = await this.valuesBefore();
    const frozen = await this.frozenBits();
    using optimizer = new AdamW(
      [...this.trained].map(([name, tensor]) => ({ name, tensor })),
      { lr, beta1: betas[0], beta2: betas[1], epsilon: eps, maxNorm: clip, weightDecay },
    );
    for (let k = 0; k <= steps.length; k++) {
      this.signal?.throwIfAborted();
      const trains = k < steps.length || k === 0;
      const pass = trains
        ? scope(() => {
            const found = forward(this.model, this.batch, imageSize);
            if (found.total.requiresGrad) backward(found.total);
            return found;
          })
        : noGrad(() => forward(this.model, this.batch, imageSize));
      losses.push(await read(pass, this.batch));
      if (k === 0) {
        untouched = [...this.trained].filter(([, { grad }]) => !grad).map(([name]) => name);
        await this.compareGradients();
      }
      if (k < steps.length) {
        // If the batch reaches nothing that this stage trains, there is no step to make.
        const moves = untouched.length < this.trained.size;
        if (moves) optimizer.step();
        gradNorms.push(moves ? (await optimizer.report()).gradNorm : 0);
        await this.compareParameters(k + 1, before);
      }
      zeroGradients(this.trained.values());
    }
    const entry = `train${key}.frozen`;
    const row = equal(entry, [frozen.length], frozen, await this.frozenBits());
    return {
      losses,
      gradNorms,
      tokens,
      trainable: [...this.trained.keys()],
      noGrad: untouched,
      frozen: row.pass ? row : { ...row, note: "frozen parameters have changed, or have a gradient" },
      tensors: this.rows,
    };
  }

  /** Compares the requested values with `compare`; if the model cannot have them, the row says why. */
  private async each(
    tensors: readonly TrainTensor[],
    compare: (golden: Values, parameter: Parameter, name: string, entry: string) => Promise<Comparison>,
  ): Promise<void> {
    for (const { entry, shape, parameter: name } of tensors) {
      const parameter = this.all.get(name);
      const golden = (await this.inputs.golden.read(entry))!;
      const row = !parameter
        ? failed(entry, shape, `the model has no parameter ${name}`)
        : await compare(golden, parameter, name, entry);
      this.rows.set(entry, row);
    }
  }

  private async compareGradients(): Promise<void> {
    const grads = [...this.trained.values()].flatMap(({ grad }) => grad ?? []);
    const total = grads.length ? await valueOf(scope(() => globalGradNorm(grads))) : 0;
    for (const [name, { grad }] of this.trained)
      if (grad && this.stage.tensors.some(({ parameter, after }) => after !== null && parameter === name))
        if (isNoise(await floats(grad), total)) this.noise.add(name);
    await this.each(
      this.stage.tensors.filter(({ after }) => after === null),
      async (golden, { grad, shape, size }, name, entry) => {
        if (!this.trained.has(name)) return failed(entry, golden.shape, "it is frozen in this stage");
        // What the batch does not reach has the gradient 0, whether a program writes that down or not.
        const data = grad ? await floats(grad) : new Float32Array(size);
        return gradient(entry, golden, { shape, data }, total);
      },
    );
  }

  private async compareParameters(steps: number, before: ReadonlyMap<string, Float32Array>): Promise<void> {
    await this.each(
      this.stage.tensors.filter(({ after }) => after === steps),
      async (golden, parameter, name, entry) => {
        const after = { shape: parameter.shape, data: await floats(parameter) };
        const { lr } = this.stage.settings!;
        return stepped(entry, golden, {
          before: before.get(name)!,
          after,
          steps,
          lr,
          isNoise: this.noise.has(name),
        });
      },
    );
  }

  /** Values of the parameters that are compared after steps. */
  private async valuesBefore(): Promise<Map<string, Float32Array>> {
    const values = new Map<string, Float32Array>();
    for (const { after, parameter: name } of this.stage.tensors) {
      const parameter = this.all.get(name);
      if (after !== null && parameter) values.set(name, await floats(parameter));
    }
    return values;
  }

  /** Digests of what this stage does not train, one parameter on the host at a time. A gradient that one has got shows in its digest. */
  private async frozenBits(): Promise<string[]> {
    const bits: string[] = [];
    for (const [name, parameter] of this.all) {
      if (this.trained.has(name)) continue;
      const data = await floats(parameter);
      const digest = await crypto.subtle.digest("SHA-256", data as Float32Array<ArrayBuffer>);
      bits.push(`${name} ${Buffer.from(digest).toString("hex")}${parameter.grad ? " and a gradient" : ""}`);
    }
    return bits;
  }
}

const floats = async (t: Tensor): Promise<Float32Array> => (await t.data()) as Float32Array;

async function valueOf(t: Tensor): Promise<number> {
  try {
    return await t.item();
  } finally {
    t.dispose();
  }
}
