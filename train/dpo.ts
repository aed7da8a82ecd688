/**
 * Direct preference optimization (Rafailov et al. 2023): of two answers, or two images for a prompt, the preferred one is made likelier relative to the
 * frozen model that the run began with. Loss of a pair: −log σ(β ((log π(c) − log π₀(c)) − (log π(r) − log π₀(r)))), c chosen, r rejected.
 */
import { ArgumentError, scope, tensor } from "../engine/index.ts";
import type { Tensor } from "../engine/index.ts";
import { binaryCrossEntropyWithLogits, matmul, ones, stack } from "../kernels/index.ts";
import type { TrainConfig } from "./config.ts";
import { taskLosses } from "./loss.ts";
import { unitGroups, withReference } from "./objective.ts";
import type { Objective, ObjectiveModel, RowLosses } from "./objective.ts";
import { TASKS, targetsOf } from "./samples.ts";
import type { PackedRows, Sample, Task } from "./samples.ts";

/** Part of a pair that a sample of the rows is. */
interface Part {
  readonly pair: number;
  readonly sign: 1 | -1;
}

export class Preferences implements Objective {
  /** Pairs whose preferred part has become likelier than the other, and β times the log-ratio of the two. */
  readonly measures = ["accuracy", "margin"];
  private readonly of: ObjectiveModel;
  private readonly beta: number;
  private readonly parts = new WeakMap<Sample, Part>();

  constructor(of: ObjectiveModel, beta: number) {
    this.of = of;
    this.beta = beta;
  }

  groupsOf(samples: readonly Sample[], config: Pick<TrainConfig, "length" | "microRows">): Sample[][][] {
    const units = samples.map((sample, pair) => {
      const { rejected } = sample;
      if (!rejected)
        throw new ArgumentError(`dpo: every sample must have one that is preferred less; got "${sample.name}" alone. Set rejected.`); // prettier-ignore
      const own = [{ ...sample }, { ...rejected }]; // a sample may come twice in a step
      for (const [i, part] of own.entries()) this.parts.set(part, { pair, sign: i === 0 ? -1 : 1 });
      return own;
    });
    return unitGroups(units, config);
  }

  countsOf({ samples }: PackedRows): Record<Task, number> {
    const pairs = (task: Task): number => samples.flat().filter((one) => one.task === task).length / 2;
    return { und: pairs("und"), text: pairs("text"), gen: pairs("gen") };
  }

  lossesOf(rows: PackedRows): RowLosses {
    const { model, imageSize } = this.of;
    return scope(() => {
      const before = withReference(this.of, (one) => taskLosses(one, rows, imageSize, "none"));
      const now = taskLosses(model, rows, imageSize, "none");
      const losses: Record<Task, Tensor | null> = { und: null, text: null, gen: null };
      const sums: Tensor[] = [];
      for (const task of TASKS) {
        const [own, base] = [now[task], before[task]];
        if (!own || !base) continue;
        const signs = this.signs(rows, task, own); // [P, M]
        const margins = matmul(signs, own.sub(base).unsqueeze(1)).squeeze(1).mul(this.beta); // [P]
        losses[task] = binaryCrossEntropyWithLogits(margins, ones(margins.shape, { device: margins.device }), { reduction: "sum" }); // prettier-ignore
        const found = margins.detach();
        sums.push(stack([found.gt(0).cast("f32").sum(), found.sum()]));
      }
      const measures = sums.length ? sums.reduce((a, b) => a.add(b)) : null;
      return { losses, measures };
    });
  }

  /** f32 [P, M]: −1 at the tokens of what is preferred, 1 at those of the other part of its pair. Log-probabilities are minus the losses. */
  private signs(rows: PackedRows, task: Task, like: Tensor): Tensor {
    const column = new Map([...rows.targets[task].at].map((at, m) => [at, m]));
    const pairs: number[] = [];
    const at: { readonly row: number; readonly column: number; readonly sign: number }[] = [];
    for (const [sample, tokens] of targetsOf(rows)) {
      if (sample.task !== task) continue;
      const { pair, sign } = this.parts.get(sample)!;
      if (!pairs.includes(pair)) pairs.push(pair);
      for (const token of tokens.at) at.push({ row: pairs.indexOf(pair), column: column.get(token)!, sign });
    }
    const values = new Float32Array(pairs.length * column.size);
    for (const { row, column: m, sign } of at) values[row * column.size + m] = sign;
    return tensor(values, { shape: [pairs.length, column.size], device: like.device });
  }

  endStep(): void {
    // Nothing is kept.
  }
}
