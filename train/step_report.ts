/** What a step of training reports, and what the processes that share it tell each other. */
import type { Tensor } from "../engine/index.ts";
import type { NotFiniteCause } from "./not_finite.ts";
import type { Sample, Task } from "./samples.ts";

export interface TaskReport {
  /** Cross-entropy per trained token, nats; with dpo the loss per pair, with grpo per code. */
  readonly loss: number;
  /** Trained tokens; with dpo pairs. */
  readonly tokens: number;
}

export interface StepReport {
  /** Counted from 0. */
  readonly step: number;
  /** Weighted sum of the tasks' sums, per trained token. */
  readonly loss: number;
  readonly tasks: Readonly<Partial<Record<Task, TaskReport>>>;
  readonly lr: number;
  /** Before clipping, without the scale of the losses; NaN if the step was skipped. */
  readonly gradNorm: number;
  /** A loss or gradients were not finite: nothing was changed. */
  readonly skipped: boolean;
  /**
   * For a skipped step: the tasks whose loss is not finite and the samples of the rows that gave it. No task if losses are finite
   * and only gradients are not; then it is all samples of the step.
   */
  readonly notFinite?: { readonly tasks: readonly Task[]; readonly samples: readonly string[] };
  /** Why, of a step that was skipped; absent if memory did not suffice to look. */
  readonly cause?: NotFiniteCause;
  /** With f16: what losses of the next step are multiplied by. */
  readonly lossScale?: number;
  /** Number of tokens of all rows, and of padding tokens. */
  readonly tokens: number;
  readonly padding: number;
  /** With several processes: how long this one waited for messages of the others, ms, and how many bytes it sent. */
  readonly communication?: { readonly ms: number; readonly bytes: number };
  /** With dpo `accuracy` and `margin`, per pair; with grpo `kl` and `clipped`, per code. */
  readonly measures?: Readonly<Record<string, number>>;
}

/** Results of forward and backward of a step, besides gradients. */
export interface Accumulated {
  /** f32 [parts]: sums of cross-entropies. The caller disposes it. */
  readonly losses: Tensor;
  /** f32 [measures]: sums over all rows; null if the objective has none. The caller disposes it. */
  readonly measures: Tensor | null;
  /** The losses, each with its task, and its rows. */
  readonly parts: readonly { readonly task: Task; readonly rows: readonly (readonly Sample[])[] }[];
  /** Trained tokens of all rows, or pairs. */
  readonly counts: Readonly<Record<Task, number>>;
  /** As in `StepReport`. */
  readonly tokens: number;
  readonly padding: number;
}

/** What each process tells the others of a step; losses that are not finite travel as null, as JSON has no name for them. */
export interface OwnPart {
  readonly losses: readonly {
    readonly task: Task;
    readonly value: number | null;
    readonly samples: readonly string[];
  }[];
  readonly counts: Readonly<Record<Task, number>>;
  readonly measures: readonly (number | null)[];
  readonly tokens: number;
  readonly padding: number;
}

/** The cause of a skipped step from what each process found: of the kind that comes first, with all its samples. */
export function joinCauses(found: readonly (NotFiniteCause | null)[]): NotFiniteCause | null {
  const kinds: readonly NotFiniteCause["kind"][] = ["weights", "images", "samples", "overflow", "gradients"];
  const causes = found.filter((cause) => cause !== null);
  const kind = kinds.find((each) => causes.some((cause) => cause.kind === each));
  const same = causes.filter((cause) => cause.kind === kind);
  const first = same.find((cause) => cause.kind !== "gradients" || cause.tensors.length > 0) ?? same[0];
  if (!first || !("samples" in first)) return first ?? null;
  return { ...first, samples: same.flatMap((cause) => ("samples" in cause ? cause.samples : [])) };
}
