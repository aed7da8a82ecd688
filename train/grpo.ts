/**
 * Group relative policy optimization (Shao et al. 2024) of images: those of a prompt that a reward prefers to the others of their group are made likelier.
 * Loss of a code: −min(ρ A, clip(ρ, 1 − ε, 1 + ε) A) + β (e^d − d − 1), ρ the ratio of its probability now to that when it was drawn, A the advantage of its
 * image, d = log π₀ − log π. Probabilities are those of the distribution that codes are drawn from: with guidance and temperature.
 */
import { ArgumentError, scope, tensor } from "../engine/index.ts";
import type { Tensor } from "../engine/index.ts";
import { clamp, crossEntropy, indexSelect, minimum, stack } from "../kernels/index.ts";
import type { JanusForConditionalGeneration } from "../model/janus/janus.ts";
import type { GrpoConfig, TrainConfig } from "./config.ts";
import { hiddenStates } from "./loss.ts";
import { unitGroups, withReference } from "./objective.ts";
import type { Objective, ObjectiveModel, RowLosses } from "./objective.ts";
import { imageSample, targetsOf } from "./samples.ts";
import type { PackedRows, Sample, Task } from "./samples.ts";

/** Distribution that codes are drawn from. */
export interface Drawing {
  readonly guidance: number;
  readonly temperature: number;
}

/** The trained codes of rows: flat positions of their tokens and of the same tokens without the prompt's words, the codes, and their advantages. */
interface Codes {
  readonly at: Int32Array;
  readonly unconditional: Int32Array;
  readonly to: Int32Array;
  readonly advantages: Float32Array;
}

export class RewardedImages implements Objective {
  /** Divergence from the frozen model, nats a code; codes whose ratio was clipped. */
  readonly measures = ["kl", "clipped"];
  private readonly of: ObjectiveModel;
  private readonly config: GrpoConfig;
  private readonly drawing: Drawing;
  /** Log-probabilities of each group when its codes were drawn, and by the frozen model. */
  private readonly kept = new Map<number, { readonly old: Tensor; readonly base: Tensor | null }>();

  constructor(of: ObjectiveModel, config: GrpoConfig, drawing: Drawing) {
    this.of = of;
    this.config = config;
    this.drawing = drawing;
  }

  groupsOf(samples: readonly Sample[], config: Pick<TrainConfig, "length" | "microRows">): Sample[][][] {
    const units = samples.map((sample) => {
      const { drawn } = sample;
      if (!drawn) throw new ArgumentError(`grpo: every sample must be an image that was drawn; got "${sample.name}". Draw it first.`); // prettier-ignore
      return drawn.unconditional ? [sample, drawn.unconditional] : [sample];
    });
    return unitGroups(units, config);
  }

  countsOf(rows: PackedRows): Record<Task, number> {
    return { und: 0, text: 0, gen: codesOf(rows).to.length };
  }

  lossesOf(rows: PackedRows, group: number | null): RowLosses {
    const { beta, clip } = this.config;
    return scope(() => {
      const codes = codesOf(rows);
      const kept = group === null ? undefined : this.kept.get(group);
      const base = beta === 0 ? null : (kept?.base ?? withReference(this.of, (one) => this.logProbabilities(one, rows, codes))); // prettier-ignore
      const now = this.logProbabilities(this.of.model, rows, codes);
      const old = kept?.old ?? now.detach();
      if (group !== null && !kept && this.config.updates > 1)
        this.kept.set(group, { old: old.clone().keep(), base: base && base.clone().keep() });
      const ratio = now.sub(old).exp();
      const advantages = tensor(codes.advantages, { device: now.device });
      const clipped = clamp(ratio, 1 - clip, 1 + clip);
      const gain = minimum(ratio.mul(advantages), clipped.mul(advantages)).sum();
      const away = base ? base.sub(now) : null;
      const kl = away ? away.exp().sub(away).sub(1).sum() : null;
      const loss = kl ? kl.mul(beta).sub(gain) : gain.neg();
      const isClipped = ratio.detach().ne(clipped.detach()).cast("f32").sum();
      return {
        losses: { und: null, text: null, gen: loss },
        measures: stack([kl ? kl.detach() : isClipped.mul(0), isClipped]),
      };
    });
  }

  endStep(): void {
    for (const { old, base } of this.kept.values()) {
      old.dispose();
      base?.dispose();
    }
    this.kept.clear();
  }

  /** Log-probabilities of codes, f32 [M]. */
  private logProbabilities(model: JanusForConditionalGeneration, rows: PackedRows, codes: Codes): Tensor {
    const { guidance, temperature } = this.drawing;
    const { device } = model;
    const upload = (values: Int32Array): Tensor => tensor(values, { shape: [values.length], device });
    return scope(() => {
      const flat = hiddenStates(model, rows, this.of.imageSize).reshape([rows.rows * rows.length, -1]);
      const logitsAt = (at: Int32Array): Tensor => model.codeLogits(indexSelect(flat, 0, upload(at)));
      const own = logitsAt(codes.at); // [M, codes]
      const guided = codes.unconditional.length === 0 ? own : own.mul(guidance).sub(logitsAt(codes.unconditional).mul(guidance - 1)); // prettier-ignore
      return crossEntropy(guided.mul(1 / temperature), upload(codes.to), { reduction: "none" }).neg();
    });
  }
}

function codesOf(rows: PackedRows): Codes {
  const [at, unconditional, to, advantages]: [number[], number[], number[], number[]] = [[], [], [], []];
  const targets = targetsOf(rows);
  for (const [{ drawn }, own] of targets) {
    if (!drawn) continue; // the row without words of another
    at.push(...own.at);
    to.push(...own.to);
    advantages.push(...own.at.map(() => drawn.advantage));
    if (drawn.unconditional) unconditional.push(...targets.get(drawn.unconditional)!.at);
  }
  return { at: Int32Array.from(at), unconditional: Int32Array.from(unconditional), to: Int32Array.from(to), advantages: Float32Array.from(advantages) }; // prettier-ignore
}

/** Standard deviations below this are noise of rewards that are all alike: such a group teaches nothing. */
const LEAST_DEVIATION = 1e-6;

/** Rewards of a group → how many standard deviations each is above their mean; 0 if all are alike. */
export function advantagesOf(rewards: readonly number[]): number[] {
  const mean = rewards.reduce((sum, r) => sum + r, 0) / rewards.length;
  const deviation = Math.sqrt(rewards.reduce((sum, r) => sum + (r - mean) ** 2, 0) / rewards.length);
  return rewards.map((r) => (deviation < LEAST_DEVIATION ? 0 : (r - mean) / deviation));
}

/** An image that was drawn for a prompt, as a sample. `pad` is the id that stands for words in the row without them. */
export function drawnSample(
  prompt: { readonly ids: readonly number[]; readonly name: string },
  codes: readonly number[],
  { advantage, guidance, pad }: { readonly advantage: number; readonly guidance: number; readonly pad: number },
): Sample {
  const unconditional = guidance === 1 ? null : imageSample(prompt.ids, codes, pad, prompt.name);
  return { ...imageSample(prompt.ids, codes, null, prompt.name), drawn: { advantage, unconditional } };
}
