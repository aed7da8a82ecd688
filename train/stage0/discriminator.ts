/**
 * The adversarial part of stage 0: a discriminator that distinguishes images from their reconstructions, patch by patch (PatchGAN; Isola et al. 2017),
 * as in LlamaGen, and the losses of the discriminator and the tokenizer (hinge losses; Lim and Ye 2017).
 */
import { ArgumentError, Generator, backward, noGrad, scope, zeroGradients } from "../../engine/index.ts";
import type { Device, Tensor } from "../../engine/index.ts";
import { castInto, groupNorm, maximum, mean, mul, randn, relu, uniform } from "../../kernels/index.ts";
import { Conv2d, Module, Parameter } from "../../model/nn/index.ts";
import { AdamW } from "../../model/nn/optim/index.ts";
import type { AdamWOptions } from "../../model/nn/optim/index.ts";

/** Strides of the convolutions but the last, each of 4 × 4 pixels with a border of one. */
const STRIDES = [2, 2, 2, 1] as const;
const SLOPE = 0.2; // slope of the leaky relu
const DEVIATION = 0.02; // standard deviation of the initial weights

/** Logits a side of images of `side` pixels; 24 is the least that leaves one. */
const patchesOf = (side: number): number => STRIDES.reduce((s, stride) => Math.floor((s - 2) / stride) + 1, side) - 1;

/** Throws `ArgumentError` for images that are too small to be judged; `side` in pixels. */
export function requireJudged(side: number): void {
  if (patchesOf(side) < 1)
    throw new ArgumentError(
      `the discriminator needs images of at least 24 × 24 pixels; got a side of ${side}. Set adversarial.weight=0, or train a tokenizer of larger images`,
    );
}

/**
 * Batch normalisation (Ioffe and Szegedy 2015) of x [N, C, H, W] by the mean and variance of each channel in this batch. There are no running
 * means: a discriminator is never used outside of training.
 */
class BatchNorm2d extends Module {
  readonly weight: Parameter;
  readonly bias: Parameter;
  private readonly channels: number;

  constructor(channels: number, weight: Tensor, bias: Tensor) {
    super();
    this.channels = channels;
    this.weight = new Parameter(weight);
    this.bias = new Parameter(bias);
  }

  /** A group for each channel, over all images as if they were one below the other. */
  forward(x: Tensor): Tensor {
    const [n, c, h, w] = x.shape as [number, number, number, number];
    const one = x.permute([1, 0, 2, 3]).reshape([1, c, n * h, w]);
    const y = groupNorm(one, this.channels, this.weight, this.bias, { eps: 1e-5 });
    return y.reshape([c, n, h, w]).permute([1, 0, 2, 3]);
  }
}

export interface DiscriminatorOptions {
  readonly seed: number;
  readonly device: Device;
  /** Channels of the first convolution (default: 64), twice as many in each of the next. */
  readonly channels?: number;
}

/** pixels [B, 3, S, S] → logits [B, 1, s, s], above 0 if a patch of up to 70 × 70 pixels seems to be of an image and no reconstruction. */
export class PatchDiscriminator extends Module {
  readonly convs: readonly Conv2d[];
  readonly norms: readonly BatchNorm2d[];

  constructor({ seed, device, channels = 64 }: DiscriminatorOptions) {
    super();
    const generator = new Generator(seed, { device });
    let site = 0;
    const normal = (shape: readonly number[]): Tensor => mul(randn(shape, { generator, site: site++, device }), DEVIATION); // prettier-ignore
    const widths = [3, ...STRIDES.map((_, i) => channels * 2 ** i), 1];
    [this.convs, this.norms] = noGrad(() =>
      scope(() => {
        const convs = widths.slice(1).map((width, i) => {
          // Neither the first nor the last convolution has a norm after it; the norms have their own bias.
          const bias = i === 0 || i === STRIDES.length;
          const conv = new Conv2d(widths[i]!, width, 4, {
            stride: STRIDES[i] ?? 1,
            padding: 1,
            bias,
            device,
            init: false,
          });
          castInto(conv.weight, normal(conv.weight.shape));
          const bound = 1 / Math.sqrt(16 * widths[i]!); // PyTorch's default, as in LlamaGen
          if (conv.bias) castInto(conv.bias, uniform([width], -bound, bound, { generator, site: site++, device }));
          return conv;
        });
        const norms = widths.slice(2, -1).map((width) => {
          const around1 = normal([width]).add(1);
          return new BatchNorm2d(width, around1, mul(around1, 0));
        });
        return [convs, norms] as const;
      }),
    );
    generator.dispose();
  }

  forward(pixels: Tensor): Tensor {
    requireJudged(Math.min(pixels.dim(2), pixels.dim(3)));
    return this.convs.reduce((x, conv, i) => {
      if (i === 0) return conv.call(x);
      const y = conv.call(maximum(x, mul(x, SLOPE)));
      const norm = this.norms[i - 1];
      return norm ? norm.call(y) : y;
    }, pixels);
  }
}

export interface AdversaryOptions extends AdamWOptions {
  /** Weight of the losses of both. */
  readonly weight: number;
  readonly seed: number;
  readonly device: Device;
  readonly channels?: number;
}

/** The discriminator with its optimizer. It does not go into the model; a checkpoint has it for resuming. */
export class Adversary {
  readonly discriminator: PatchDiscriminator;
  readonly optimizer: AdamW;
  private readonly weight: number;

  constructor({ weight, seed, device, channels, ...optimizer }: AdversaryOptions) {
    this.weight = weight;
    this.discriminator = new PatchDiscriminator({ seed, device, ...(channels && { channels }) });
    const parameters = [...this.discriminator.namedParameters()];
    this.optimizer = new AdamW(
      parameters.map(([name, tensor]) => ({ name, tensor, decay: tensor.rank > 1 })),
      optimizer,
    );
  }

  /** −mean D(x̂): the tokenizer's loss if its reconstructions [B, 3, S, S] are found out. No gradient goes to the discriminator. */
  generatorLoss(rebuilt: Tensor): Tensor {
    this.learns(false);
    return mean(this.discriminator.call(rebuilt)).mul(-1);
  }

  /**
   * Adds the gradients of ½ · mean(relu(1 − D(x)) + relu(1 + D(x̂))), times `share` of the batch and the weight, to the discriminator's, and
   * returns that loss without either. Images and reconstructions are normalised apart; none of it reaches the tokenizer.
   */
  accumulate(pixels: Tensor, rebuilt: Tensor, share: number): Tensor {
    this.learns(true);
    return scope(() => {
      const loss = scope(() => {
        const real = this.discriminator.call(pixels.detach());
        const fake = this.discriminator.call(rebuilt.detach());
        return mean(relu(real.mul(-1).add(1))).add(mean(relu(fake.add(1)))).mul(0.5); // prettier-ignore
      });
      backward(loss.mul(this.weight * share));
      return loss.detach();
    });
  }

  /** Weights, moments and the optimizer's state by name: all that a checkpoint needs. */
  stateDict(): Record<string, Tensor> {
    return { ...this.discriminator.stateDict(), ...this.optimizer.stateDict() };
  }

  zeroGradients(): void {
    zeroGradients(this.discriminator.parameters());
  }

  private learns(does: boolean): void {
    for (const parameter of this.discriminator.parameters()) parameter.requiresGrad = does;
  }

  dispose(): void {
    this.optimizer.dispose();
    this.discriminator.dispose();
  }
}
