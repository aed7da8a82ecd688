/**
 * Stage 0: training the image tokenizer itself, for those who start from nothing. LlamaGen's losses (reconstruction, codebook, commitment with
 * weight 0.25) without its perceptual and adversarial terms, which need networks of their own; codes that nobody uses are moved to where
 * vectors are. Janus never trains the tokenizer: its three stages keep it frozen.
 */
import { ArgumentError, Generator, backward, scope, tensor, zeroGradients } from "../engine/index.ts";
import type { Device, Tensor } from "../engine/index.ts";
import {
  codebookLookup,
  codebookLosses,
  copyInto,
  indexSelect,
  l2Normalize,
  mean,
  quantize,
  square,
  sub,
  sum,
  uniform,
} from "../kernels/index.ts";
import type { VqModel } from "../model/vq.ts";
import { AdamW } from "./optimizer.ts";

export interface VqTrainingOptions {
  readonly lr: number;
  readonly beta1?: number;
  readonly beta2?: number;
  /** Gradients are scaled down together to at most this norm; 1 unless told. */
  readonly maxNorm?: number;
  /** Weight of the commitment loss; 0.25 unless told. */
  readonly commitment?: number;
  readonly seed?: number;
}

export interface VqLosses {
  readonly reconstruction: number;
  readonly codebook: number;
  readonly commitment: number;
}

export interface VqUsage {
  /** Codes that were used since the last time. */
  readonly used: number;
  /** Codes that were moved. */
  readonly moved: number;
  /** exp of the entropy of the codes' use: how many codes the pictures spread over. */
  readonly perplexity: number;
}

/** Trains a tokenizer on batches of pixels. */
export class VqTraining {
  readonly optimizer: AdamW;
  private readonly vq: VqModel;
  private readonly options: VqTrainingOptions;
  private readonly device: Device;
  /** Uses of each code since `reseed`, on the host. */
  private readonly counts: Float64Array;
  private readonly generator: Generator;
  private reseeds = 0;

  constructor(vq: VqModel, options: VqTrainingOptions) {
    this.vq = vq;
    this.options = options;
    const codebook = vq.quantize.embedding.weight;
    this.device = codebook.device;
    this.counts = new Float64Array(codebook.dim(0));
    this.generator = new Generator(options.seed ?? 0, { device: this.device });
    const parameters = [...vq.namedParameters()].map(([name, parameter]) => {
      parameter.requiresGrad = true;
      return { name, tensor: parameter };
    });
    const { lr, beta1 = 0.9, beta2 = 0.95, maxNorm = 1 } = options;
    this.optimizer = new AdamW(parameters, { lr, beta1, beta2, maxNorm });
  }

  /**
   * One step on pixels [B, 3, S, S] in −1 … 1. Gives the losses (means) and, for the caller to dispose, the vectors before quantisation
   * [B · s · s, codeDim].
   */
  async step(pixels: Tensor): Promise<{ losses: VqLosses; vectors: Tensor }> {
    const { commitment: beta = 0.25 } = this.options;
    const { vq } = this;
    const run = scope(() => {
      const z = vq.encodeVectors(pixels); // [B, D, s, s]
      const [batch, dim, s] = z.shape as [number, number, number, number];
      const rows = z.permute([0, 2, 3, 1]).reshape([-1, dim]); // [B · s · s, D]
      const codebook = vq.quantize.embedding.weight;
      const { indices } = codebookLookup(rows.detach(), codebook.detach());
      const straight = quantize(rows, codebook.detach(), indices).reshape([batch, s, s, dim]).permute([0, 3, 1, 2]);
      const reconstruction = mean(square(sub(vq.decodeVectors(straight), pixels)));
      const { codebook: pull, commitment } = codebookLosses(rows, codebook, indices);
      const loss = reconstruction.add(pull).add(commitment.mul(beta));
      return {
        loss,
        parts: [reconstruction.detach(), pull.detach(), commitment.detach()],
        indices,
        vectors: rows.detach(),
      };
    });
    backward(run.loss);
    this.optimizer.step();
    zeroGradients(this.vq.parameters());
    const [parts, indices] = [await Promise.all(run.parts.map((t) => t.item())), await run.indices.data()];
    for (const index of indices) this.counts[index]!++;
    for (const t of [run.loss, ...run.parts, run.indices]) t.dispose();
    return { losses: { reconstruction: parts[0]!, codebook: parts[1]!, commitment: parts[2]! }, vectors: run.vectors };
  }

  /**
   * Moves the codes that have not been used since the last call to vectors drawn from `vectors` [M, D], and starts to count anew. A vector is
   * drawn by the square of its distance from its code (as in k-means++), so codes go where they are missed, not where vectors are many. The
   * moments of moved codes are set to zero. Call it every few dozen steps.
   */
  async reseed(vectors: Tensor): Promise<VqUsage> {
    const total = this.counts.reduce((a, b) => a + b, 0);
    if (total === 0)
      throw new ArgumentError("VqTraining.reseed: no step since the last one; nothing is known of the codes' use");
    const dead = Array.from(this.counts.keys()).filter((code) => this.counts[code] === 0);
    let entropy = 0;
    for (const count of this.counts) if (count > 0) entropy -= (count / total) * Math.log(count / total);
    this.counts.fill(0);
    if (dead.length) await this.move(dead, vectors);
    return {
      used: this.vq.quantize.embedding.weight.dim(0) - dead.length,
      moved: dead.length,
      perplexity: Math.exp(entropy),
    };
  }

  private async move(dead: readonly number[], vectors: Tensor): Promise<void> {
    const codebook = this.vq.quantize.embedding.weight.detach();
    this.generator.setStep(this.reseeds++);
    const [draws, errors] = scope(() => {
      const codes = indexSelect(codebook, 0, codebookLookup(vectors, codebook).indices);
      return [
        uniform([dead.length], 0, 1, { generator: this.generator, device: this.device }),
        sum(square(sub(l2Normalize(vectors), l2Normalize(codes))), 1),
      ] as const;
    });
    const upTo = Float64Array.from(await errors.data()); // sums of the errors up to each vector, itself included
    for (let i = 1; i < upTo.length; i++) upTo[i]! += upTo[i - 1]!;
    const picks = Int32Array.from(await draws.data(), (x) => {
      const at = upTo.findIndex((edge) => x * upTo.at(-1)! < edge);
      return at < 0 ? upTo.length - 1 : at; // all errors are 0
    });
    draws.dispose();
    errors.dispose();
    const moments = this.optimizer.stateDict();
    scope(() => {
      const fresh = l2Normalize(indexSelect(vectors, 0, tensor(picks, { device: this.device })));
      const codebook = this.vq.quantize.embedding.weight;
      const state = [codebook, moments["quantize.embedding.weight.m"]!, moments["quantize.embedding.weight.v"]!];
      for (const [k, code] of dead.entries()) {
        for (const [i, t] of state.entries()) {
          const row = fresh.slice(0, k, k + 1);
          copyInto(t.slice(0, code, code + 1), i === 0 ? row : row.mul(0));
        }
      }
    });
  }

  dispose(): void {
    this.optimizer.dispose();
    this.generator.dispose();
  }
}
