/** Options of training the image tokenizer, and what its steps report. */
import { optionNames } from "../../engine/index.ts";
import type { Tensor } from "../../engine/index.ts";
import type { TokenizerConfig } from "../config.ts";
import type { NotFiniteCause } from "../not_finite.ts";
import type { Ranks } from "../ranks.ts";
import type { BatchResults } from "./replay.ts";

export interface VqTrainingOptions {
  readonly lr: number;
  readonly beta1?: number;
  readonly beta2?: number;
  readonly epsilon?: number;
  /** Weight decay of parameters of more than one dimension (default: 0). */
  readonly weightDecay?: number;
  /** Gradients are scaled down together to at most this norm (default: 1). */
  readonly maxNorm?: number;
  /** Weight of the commitment loss (default: 0.25). */
  readonly commitment?: number;
  /**
   * λ of entropy-constrained vector quantisation (Chou, Lookabaugh and Gray 1989): while training a vector takes the code of least
   * d² − λ · ln(share of the code), so that what few codes can hold, flat background say, does not spread over many. Default: 0, which is
   * the nearest code, as always outside of training.
   */
  readonly rateWeight?: number;
  /** Weight of the adversarial losses (discriminator.ts). Default: 0, without a discriminator. */
  readonly adversarial?: number;
  readonly seed?: number;
  /** Launches every step again instead of replaying the captured one, e.g. to look into it. Default: false. */
  readonly eager?: boolean;
  /** The processes that train together; this one alone by default. */
  readonly ranks?: Ranks;
}

/** Names of `VqTrainingOptions`. */
export const VQ_OPTIONS = optionNames<VqTrainingOptions>({
  lr: true,
  beta1: true,
  beta2: true,
  epsilon: true,
  weightDecay: true,
  maxNorm: true,
  commitment: true,
  rateWeight: true,
  adversarial: true,
  seed: true,
  eager: true,
  ranks: true,
});

/** Options of stage 0 from the settings of a run. */
export function vqOptions(config: TokenizerConfig): VqTrainingOptions {
  const { optimizer, commitment, rateWeight, adversarial, seed } = config;
  const { lr, beta1, beta2, epsilon, weightDecay, clip: maxNorm } = optimizer;
  return {
    lr,
    beta1,
    beta2,
    epsilon,
    weightDecay,
    maxNorm,
    commitment,
    rateWeight,
    adversarial: adversarial.weight,
    seed,
  };
}

export interface VqLosses {
  readonly reconstruction: number;
  readonly codebook: number;
  readonly commitment: number;
  /** −mean D(x̂), and the hinge loss of the discriminator; without their weight, and only of steps that have them. */
  readonly adversarial?: number;
  readonly discriminator?: number;
}

/** Results of a step. */
export interface VqStep {
  /** Means over the batch. */
  readonly losses: VqLosses;
  /** Different codes that the batch was held by. */
  readonly used: number;
  /** Before clipping; NaN if the step was skipped. */
  readonly gradNorm: number;
  /** Gradients were not finite: nothing of the tokenizer was changed, and no code counts as used. */
  readonly skipped: boolean;
  /** Gradients of the discriminator were not finite, and it was not changed. */
  readonly discriminatorSkipped?: true;
  /** Why, if either was skipped; samples are positions in the batch. Absent if memory did not suffice to look. */
  readonly cause?: NotFiniteCause;
  /** Vectors of the batch before quantisation, [B · s · s, codeDim]; the caller disposes them. */
  readonly vectors: Tensor;
}

/** Results of the launches of a step; the caller disposes the tensors. */
export interface VqLaunched extends BatchResults {
  /** Share of each part in the batch. */
  readonly shares: readonly number[];
}

/** State for resuming besides weights and moments; JSON. */
export interface VqTrainingState {
  /** Uses of each code since `reseed`. */
  readonly uses: readonly number[];
  /** Share of each code in the uses of the last steps, adding up to 1. */
  readonly shares: readonly number[];
  /** Steps since the last use of each code. */
  readonly idle: readonly number[];
  readonly reseeds: number;
  readonly skipped: number;
}

export interface VqUsage {
  /** Codes that were used since the last time. */
  readonly used: number;
  /** Codes that were moved. */
  readonly moved: number;
  /** exp of the entropy of the codes' use: how many codes the images spread over. */
  readonly perplexity: number;
}
