/**
 * Stage 0: training the image tokenizer itself, for training from scratch. LlamaGen's losses (reconstruction, codebook,
 * commitment with weight 0.25, the adversarial one if it has a weight) without its perceptual one, which needs a
 * trained VGG16; unused codes are moved close to vectors. Janus never trains the tokenizer: its three stages keep it
 * frozen.
 */
import {
  ArgumentError,
  Generator,
  OutOfMemoryError,
  backward,
  knownOptions,
  noGrad,
  scope,
  tensor,
  zeroGradients,
} from "../../engine/index.ts";
import type { Device, Tensor } from "../../engine/index.ts";
import {
  argmax,
  cat,
  codebookLookup,
  codebookLosses,
  copyInto,
  countNonFinite,
  indexSelect,
  l2Normalize,
  matmul,
  mean,
  quantize,
  square,
  stack,
  sub,
  sum,
  uniform,
  zeros,
} from "../../kernels/index.ts";
import type { VqModel } from "../../model/vq.ts";
import { Adversary } from "./discriminator.ts";
import { ONE_PROCESS, sumCounts } from "../ranks.ts";
import type { Ranks } from "../ranks.ts";
import { VQ_OPTIONS } from "./options.ts";
import type { VqLaunched, VqLosses, VqStep, VqTrainingOptions, VqTrainingState, VqUsage } from "./options.ts";
import { StepReplay } from "./replay.ts";
import type { BatchResults } from "./replay.ts";
import { namesNotFinite } from "../not_finite.ts";
import type { NotFiniteCause } from "../not_finite.ts";
import { AdamW } from "../../model/nn/optim/index.ts";

/** In the order in which a part returns them. */
const LOSSES = ["reconstruction", "codebook", "commitment", "adversarial", "discriminator"] as const;

/** Values of tensors of one element each, read back at once. */
async function valuesOf(make: () => readonly Tensor[]): Promise<ArrayLike<number>> {
  const all = scope(() => stack(make()));
  return all.data().finally(() => all.dispose());
}

/** For each of `draws` (uniform in 0 … 1) a position, drawn by its share of `weights`. */
async function drawBy(weights: Tensor, draws: Tensor): Promise<Int32Array> {
  const upTo = Float64Array.from(await weights.data()); // sums up to each position, itself included
  for (let i = 1; i < upTo.length; i++) upTo[i]! += upTo[i - 1]!;
  return Int32Array.from(await draws.data(), (x) => {
    const at = upTo.findIndex((edge) => x * upTo.at(-1)! < edge);
    return at < 0 ? upTo.length - 1 : at; // all weights are 0
  });
}

/** Factor by which a step decays a code's share. */
const SHARE_KEPT = 0.9;

/** Trains a tokenizer on batches of pixels. */
export class VqTraining {
  readonly optimizer: AdamW;
  /** Null if the adversarial losses have no weight. */
  readonly adversary: Adversary | null;
  /** True if the next steps have adversarial losses, if their weight is set. */
  isAdversarial = true;
  private readonly vq: VqModel;
  private readonly options: VqTrainingOptions;
  private readonly ranks: Ranks;
  private readonly device: Device;
  /** Uses of each code since `reseed`, on the host. */
  private readonly counts: Float64Array;
  /** A running mean of the codes' shares, on the host. */
  private readonly shares: Float64Array;
  private readonly idle: Uint32Array;
  /** λ · ln(share) of each code, f32; null without a rate weight. */
  private readonly rates: Tensor | null;
  private readonly generator: Generator;
  /** Shapes of the last step, and whether it was adversarial. */
  private key = "";
  private replay: StepReplay | null = null;
  private reseeds = 0;
  private skipped = 0;

  constructor(vq: VqModel, options: VqTrainingOptions) {
    knownOptions("VqTraining", options, VQ_OPTIONS);
    this.vq = vq;
    this.options = options;
    this.ranks = options.ranks ?? ONE_PROCESS;
    const codebook = vq.quantize.embedding.weight;
    this.device = codebook.device;
    this.counts = new Float64Array(codebook.dim(0));
    this.shares = new Float64Array(codebook.dim(0)).fill(1 / codebook.dim(0));
    this.idle = new Uint32Array(codebook.dim(0));
    this.rates = (options.rateWeight ?? 0) === 0 ? null : zeros([codebook.dim(0)], { device: this.device }).keep();
    this.generator = new Generator(options.seed ?? 0, { device: this.device });
    const parameters = [...vq.namedParameters()].map(([name, parameter]) => {
      parameter.requiresGrad = true;
      return { name, tensor: parameter, decay: parameter.rank > 1 };
    });
    const { lr, beta1 = 0.9, beta2 = 0.95, epsilon = 1e-8, weightDecay = 0, maxNorm = 1 } = options;
    const settings = { lr, beta1, beta2, epsilon, weightDecay, maxNorm };
    this.optimizer = new AdamW(parameters, settings);
    const { adversarial: weight = 0, seed = 0 } = options;
    this.adversary = weight > 0 ? new Adversary({ ...settings, weight, seed, device: this.device }) : null;
  }

  /** Learning rate of tokenizer and discriminator; takes effect with the next step. */
  get lr(): number {
    return this.optimizer.lr;
  }

  set lr(rate: number) {
    this.optimizer.lr = rate;
    if (this.adversary) this.adversary.optimizer.lr = rate;
  }

  /**
   * One step on pixels [B, 3, S, S] in −1 … 1; those of several parts go through one by one, and their gradients are added up. If it throws, weights,
   * optimizers and counters are as before and no gradient is left.
   */
  async step(...parts: readonly Tensor[]): Promise<VqStep> {
    const launched = await this.launch(...parts);
    try {
      return await this.report(launched, parts);
    } catch (error) {
      launched.vectors.dispose();
      throw error;
    } finally {
      for (const t of [launched.losses, launched.codes]) t.dispose();
    }
  }

  private async report({ losses, shares, codes, vectors }: VqLaunched, parts: readonly Tensor[]): Promise<VqStep> {
    const { gradNorm, skipped } = await this.optimizer.report();
    const values = await losses.data();
    const kinds = values.length / shares.length;
    const other = kinds === LOSSES.length ? await this.adversary!.optimizer.report() : null;
    const mean = (which: number): number =>
      shares.reduce((sum, share, i) => sum + share * values[kinds * i + which]!, 0);
    const indices = Array.from(await codes.data());
    const isSkipped = skipped > this.skipped;
    const isOtherSkipped = other !== null && Number.isNaN(other.gradNorm);
    const cause = isSkipped || isOtherSkipped ? await this.causeOf(parts) : null;
    this.skipped = skipped;
    if (!isSkipped) this.count(indices);
    return {
      losses: Object.fromEntries(LOSSES.slice(0, kinds).map((name, i) => [name, mean(i)])) as unknown as VqLosses,
      used: new Set(indices).size,
      gradNorm,
      skipped: isSkipped,
      ...(isOtherSkipped && { discriminatorSkipped: true }),
      ...(cause && { cause }),
      vectors,
    };
  }

  /** The launches of a step: nothing is read back, and no use of a code counted. If it throws, nothing changes and no gradient is left. */
  async launch(...parts: readonly Tensor[]): Promise<VqLaunched> {
    const own = parts.reduce((sum, pixels) => sum + pixels.dim(0), 0);
    const total = (await sumCounts(this.ranks, [own]))[0]!;
    const shares = parts.map((pixels) => pixels.dim(0) / total);
    const adversary = this.isAdversarial ? this.adversary : null;
    this.writeRates();
    const key = JSON.stringify([...parts.map(({ shape }) => shape), adversary !== null]);
    const isKnown = key === this.key;
    if (!isKnown) this.dropReplay();
    // The gradients of several parts or processes are added up between the launches; a profile needs the launches themselves.
    const canReplay = isKnown && parts.length === 1 && this.ranks.size === 1 && !this.device.queue.isTiming && !this.options.eager; // prettier-ignore
    const results = canReplay ? await this.replayed(parts[0]!, adversary) : await this.eager(parts, shares, adversary);
    this.key = key;
    return { ...results, shares };
  }

  private async eager(
    parts: readonly Tensor[],
    shares: readonly number[],
    adversary: Adversary | null,
  ): Promise<BatchResults> {
    const done: BatchResults[] = [];
    try {
      for (const [i, pixels] of parts.entries()) {
        await new Promise((resolve) => setTimeout(resolve)); // signals, and what reads the data, come in between
        done.push(this.accumulate(pixels, shares[i]!, adversary));
      }
      await this.ranks.sumGradients(this.leaves(adversary));
      await this.device.sync(); // work that the GPU refused (memory) ends the step before weights change
      return this.device.atomic(() => {
        this.update(adversary);
        const joined = (of: (part: BatchResults) => Tensor): Tensor => cat(done.map(of));
        return scope(() => ({
          losses: joined(({ losses }) => losses),
          codes: joined(({ codes }) => codes),
          vectors: joined(({ vectors }) => vectors),
        }));
      });
    } finally {
      zeroGradients(this.leaves(this.adversary));
      for (const t of done.flatMap((part) => Object.values(part) as Tensor[])) t.dispose();
    }
  }

  /** The second step in a row of one shape is captured, those after it are replayed. */
  private async replayed(pixels: Tensor, adversary: Adversary | null): Promise<BatchResults> {
    if (this.replay) return this.replay.run(pixels);
    const { replay, results } = await StepReplay.of(pixels, {
      leaves: this.leaves(adversary),
      gradients: (batch) => this.accumulate(batch, 1, adversary),
      update: () => this.update(adversary),
    });
    this.replay = replay;
    return results;
  }

  private dropReplay(): void {
    this.key = "";
    this.replay?.dispose();
    this.replay = null;
  }

  private leaves(adversary: Adversary | null): Tensor[] {
    return [...this.vq.parameters(), ...(adversary?.discriminator.parameters() ?? [])];
  }

  private update(adversary: Adversary | null): void {
    this.optimizer.step();
    adversary?.optimizer.step();
  }

  /** Looks for what made a step not finite, the weights being as before. Null if memory does not suffice. */
  private async causeOf(parts: readonly Tensor[]): Promise<NotFiniteCause | null> {
    const other = this.adversary?.discriminator.namedParameters("discriminator.") ?? [];
    const all = [...this.vq.namedParameters(), ...other];
    const one = (pixels: Tensor, i: number): Tensor => pixels.slice(0, i, i + 1);
    const pictures = parts.flatMap((pixels) => Array.from({ length: pixels.dim(0) }, (_, i) => [pixels, i] as const));
    const lossOf = (pixels: Tensor): Tensor => noGrad(() => scope(() => this.forward(pixels, 1, null).loss));
    try {
      const weights = await namesNotFinite(all);
      if (weights.length) return { kind: "weights", tensors: weights, of: all.length };
      const images = await valuesOf(() => pictures.map(([pixels, i]) => countNonFinite(one(pixels, i))));
      const isBad = [...pictures.keys()].filter((i) => images[i]! > 0);
      if (isBad.length) return { kind: "images", samples: isBad.map(String) };
      const losses = await valuesOf(() => pictures.map(([pixels, i]) => lossOf(one(pixels, i))));
      const isLost = [...pictures.keys()].filter((i) => !Number.isFinite(losses[i]));
      if (isLost.length) return { kind: "samples", samples: isLost.map(String) };
      return { kind: "gradients", ...(await this.badGradients(parts, all)) };
    } catch (error) {
      if (error instanceof OutOfMemoryError) return null;
      throw error;
    }
  }

  /** Names of gradients that are not finite, computed once more. */
  private async badGradients(
    parts: readonly Tensor[],
    all: readonly (readonly [string, Tensor])[],
  ): Promise<{ readonly tensors: string[]; readonly of: number }> {
    try {
      this.dropReplay(); // its buffers are as many as this needs
      for (const pixels of parts)
        scope(() => void this.accumulate(pixels, 1 / parts.length, this.isAdversarial ? this.adversary : null));
      const grads = all.flatMap(([name, { grad }]) => (grad ? [[name, grad] as const] : []));
      return { tensors: await namesNotFinite(grads), of: grads.length };
    } finally {
      zeroGradients(all.map(([, parameter]) => parameter));
    }
  }

  private count(indices: readonly number[]): void {
    for (const code of this.shares.keys()) {
      this.shares[code]! *= SHARE_KEPT;
      this.idle[code]!++;
    }
    for (const index of indices) {
      this.counts[index]!++;
      this.idle[index] = 0;
      this.shares[index]! += (1 - SHARE_KEPT) / indices.length;
    }
  }

  private writeRates(): void {
    const { rateWeight = 0 } = this.options;
    const least = 1 / (4 * this.shares.length); // else an unused code would never be used again
    const rates = Float32Array.from(this.shares, (share) => rateWeight * Math.log(share + least));
    this.rates?.writeBytes(new Uint8Array(rates.buffer));
  }

  /** The code that each of rows [M, D] is held by: u32 [M]. */
  private codesOf(rows: Tensor, codebook: Tensor): Tensor {
    const { rateWeight = 0 } = this.options;
    if (rateWeight === 0) return codebookLookup(rows, codebook).indices;
    const cosines = matmul(l2Normalize(rows), l2Normalize(codebook).transpose(0, 1)); // d² = 2 − 2 · cosine
    return argmax(cosines.mul(2).add(this.rates!), 1);
  }

  /** Adds the gradients of pixels [b, 3, S, S], `share` of the batch. Its losses are unscaled. */
  private accumulate(pixels: Tensor, share: number, adversary: Adversary | null): BatchResults {
    return scope(() => {
      const { loss, rebuilt, losses, ...rest } = this.forward(pixels, share, adversary);
      backward(loss);
      return { losses: stack(adversary ? [...losses, adversary.accumulate(pixels, rebuilt, share)] : losses), ...rest };
    });
  }

  private forward(
    pixels: Tensor,
    share: number,
    adversary: Adversary | null,
  ): Readonly<Record<"loss" | "rebuilt" | "codes" | "vectors", Tensor>> & { readonly losses: readonly Tensor[] } {
    const { commitment: beta = 0.25, adversarial: weight = 0 } = this.options;
    const { vq } = this;
    return scope(() => {
      const z = vq.encodeVectors(pixels); // [b, D, s, s]
      const [batch, dim, s] = z.shape as [number, number, number, number];
      const rows = z.permute([0, 2, 3, 1]).reshape([-1, dim]); // [b · s · s, D]
      const codebook = vq.quantize.embedding.weight;
      const indices = this.codesOf(rows.detach(), codebook.detach());
      const straight = quantize(rows, codebook.detach(), indices).reshape([batch, s, s, dim]).permute([0, 3, 1, 2]);
      const rebuilt = vq.decodeVectors(straight);
      const reconstruction = mean(square(sub(rebuilt, pixels)));
      const { codebook: pull, commitment } = codebookLosses(rows, codebook, indices);
      const own = reconstruction.add(pull).add(commitment.mul(beta));
      const fooled = adversary?.generatorLoss(rebuilt);
      return {
        loss: (fooled ? own.add(fooled.mul(weight)) : own).mul(share),
        losses: [reconstruction, pull, commitment, ...(fooled ? [fooled] : [])].map((one) => one.detach()),
        rebuilt: rebuilt.detach(),
        codes: indices,
        vectors: rows.detach(),
      };
    });
  }

  /**
   * Moves the codes that have not been used since the last call to vectors drawn from `vectors` [M, D], and restarts the count. A vector is
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
    if (dead.length) await this.move(dead, vectors);
    this.counts.fill(0);
    return {
      used: this.vq.quantize.embedding.weight.dim(0) - dead.length,
      moved: dead.length,
      perplexity: Math.exp(entropy),
    };
  }

  /**
   * Puts the codes that the last `steps` steps did not use onto the most used one, to be called at the end of a training with a rate weight: a
   * vector that keeps its distance from a rare code while training takes the nearest afterwards, and codes moved close to vectors would
   * draw it. Of equal codes the lowest is taken. Returns how many codes are left.
   */
  retire(steps: number): number {
    if (!(steps >= 1)) throw new ArgumentError(`VqTraining.retire: steps is ${steps}; at least 1`);
    const codebook = this.vq.quantize.embedding.weight;
    const most = this.shares.reduce((best, share, code) => (share > this.shares[best]! ? code : best), 0);
    const unused = [...this.idle.keys()].filter((code) => this.idle[code]! >= steps && code !== most);
    const write = (): void => {
      const kept = codebook
        .detach()
        .slice(0, most, most + 1)
        .clone();
      for (const code of unused) copyInto(codebook.slice(0, code, code + 1), kept);
    };
    this.device.atomic(() => scope(write));
    return this.idle.length - unused.length;
  }

  private async move(dead: readonly number[], vectors: Tensor): Promise<void> {
    this.generator.setStep(this.reseeds);
    const [draws, errors] = scope(() => {
      const codebook = this.vq.quantize.embedding.weight.detach();
      const codes = indexSelect(codebook, 0, codebookLookup(vectors, codebook).indices);
      return [
        uniform([dead.length], 0, 1, { generator: this.generator, device: this.device }),
        sum(square(sub(l2Normalize(vectors), l2Normalize(codes))), 1),
      ] as const;
    });
    const picks = await drawBy(errors, draws).finally(() => {
      for (const t of [draws, errors]) t.dispose();
    });
    const moments = this.optimizer.stateDict();
    const fresh = scope(() => l2Normalize(indexSelect(vectors, 0, tensor(picks, { device: this.device }))));
    const codebook = this.vq.quantize.embedding.weight;
    const state = [codebook, moments["quantize.embedding.weight.m"]!, moments["quantize.embedding.weight.v"]!];
    const write = (): void => {
      for (const [k, code] of dead.entries()) {
        for (const [i, t] of state.entries()) {
          const row = fresh.slice(0, k, k + 1);
          copyInto(t.slice(0, code, code + 1), i === 0 ? row : row.mul(0));
        }
      }
    };
    try {
      this.device.atomic(() => scope(write));
    } finally {
      fresh.dispose();
    }
    this.reseeds++;
  }

  get state(): VqTrainingState {
    return {
      uses: [...this.counts],
      shares: [...this.shares],
      idle: [...this.idle],
      reseeds: this.reseeds,
      skipped: this.skipped,
    };
  }

  /** Resumes an earlier training from `state`; weights and the optimizer's tensors have been loaded. */
  resume({ uses, shares, idle, reseeds, skipped }: VqTrainingState): void {
    if (![uses, shares, idle].every((list) => list?.length === this.counts.length))
      throw new ArgumentError(
        `VqTraining.resume: uses, shares and idle are lists of ${this.counts.length} numbers, one a code; a state of an earlier version has not all of them`,
      );
    this.counts.set(uses);
    this.shares.set(shares);
    this.idle.set(idle);
    [this.reseeds, this.skipped] = [reseeds, skipped];
  }

  dispose(): void {
    this.dropReplay();
    this.rates?.dispose();
    this.optimizer.dispose();
    this.adversary?.dispose();
    this.generator.dispose();
  }
}
