/** Batch normalisation with running statistics (Ioffe and Szegedy 2015), as PyTorch's BatchNorm1d and BatchNorm2d. */
import { ArgumentError, ShapeError, checkTensors, knownOptions, scope, sideEffect } from "../../engine/index.ts";
import type { Tensor } from "../../engine/index.ts";
import * as F from "../../kernels/index.ts";
import { LAYER_OPTIONS, constant, own } from "./layers.ts";
import type { LayerOptions } from "./layers.ts";
import { Buffer, Module, requirePositive } from "./module.ts";
import type { Parameter } from "./module.ts";

export interface BatchNormOptions extends LayerOptions {
  /** Added to the variance (default: 1e-5). */
  readonly eps?: number;
  /** Share of a batch in the running statistics (default: 0.1); null for the mean over all batches. */
  readonly momentum?: number | null;
  /** False: no weight and no bias. */
  readonly affine?: boolean;
  /** False: no running statistics; `eval()` then changes nothing. */
  readonly trackRunningStats?: boolean;
}

/**
 * x [N, C, ...] → (x − mean) / √(variance + eps) · weight + bias for each channel. In training mean and variance (divisor: the number of values) are those
 * of the batch, and the running statistics move towards them (the variance there with divisor values − 1; once inside `checkpoint()`); after `eval()` they are the running ones.
 * Arithmetic is f32; the result has x's dtype.
 */
abstract class BatchNorm extends Module {
  readonly weight: Parameter | null;
  readonly bias: Parameter | null;
  /** f32 [C], at first 0. */
  readonly running_mean: Buffer | null;
  /** f32 [C], at first 1. */
  readonly running_var: Buffer | null;
  /** i32 []: batches seen in training. */
  readonly num_batches_tracked: Buffer | null;
  readonly eps: number;
  readonly momentum: number | null;
  private readonly channels: number;
  /** Shapes of x that it takes, behind N and C. */
  protected abstract readonly behind: readonly (readonly string[])[];

  constructor(channels: number, options: BatchNormOptions = {}) {
    super();
    const op = this.constructor.name;
    knownOptions(op, options, [...LAYER_OPTIONS, "eps", "momentum", "affine", "trackRunningStats"]);
    requirePositive(op, { channels });
    const { eps = 1e-5, momentum = 0.1, affine = true, trackRunningStats = true, ...layer } = options;
    if (!(eps > 0 && eps < Infinity))
      throw new ArgumentError(`${op}: eps must be a finite number above 0; got ${String(eps)}. Change it.`);
    if (momentum !== null && !(momentum >= 0 && momentum <= 1))
      throw new ArgumentError(`${op}: momentum must be from 0 to 1, or null; got ${String(momentum)}. Change it.`);
    [this.channels, this.eps, this.momentum] = [channels, eps, momentum];
    this.weight = affine ? constant([channels], 1, layer) : null;
    this.bias = affine ? constant([channels], 0, layer) : null;
    const { device } = layer;
    const buffer = (shape: readonly number[], value: number, dtype: "f32" | "i32"): Buffer | null =>
      trackRunningStats ? own(() => new Buffer(F.full(shape, value, { dtype, ...(device && { device }) }))) : null;
    this.running_mean = buffer([channels], 0, "f32");
    this.running_var = buffer([channels], 1, "f32");
    this.num_batches_tracked = buffer([], 0, "i32");
  }

  forward(x: Tensor): Tensor {
    this.check(x);
    const dims = x.shape.flatMap((_, dim) => (dim === 1 ? [] : [dim]));
    const channelShape = x.shape.map((_, dim) => (dim === 1 ? this.channels : 1));
    const shaped = (t: Tensor): Tensor => F.cast(F.reshape(t, channelShape), "f32");
    const input = F.cast(x, "f32");
    const { running_mean: mean, running_var: variance } = this;
    let centred: Tensor;
    let spread: Tensor;
    if (this.training || !mean || !variance) {
      const batchMean = F.mean(input, dims, true);
      centred = F.sub(input, batchMean);
      spread = F.mean(F.square(centred), dims, true);
      if (this.training) this.track(batchMean, spread, x.size / this.channels);
    } else {
      centred = F.sub(input, shaped(mean));
      spread = shaped(variance);
    }
    const scale = F.rsqrt(F.add(spread, this.eps));
    const y = F.mul(centred, this.weight ? F.mul(scale, shaped(this.weight)) : scale);
    return F.cast(this.bias ? F.add(y, shaped(this.bias)) : y, x.dtype);
  }

  /** Updates the running statistics with those of a batch with `count` values per channel. */
  private track(batchMean: Tensor, batchVariance: Tensor, count: number): void {
    const { running_mean: mean, running_var: variance, num_batches_tracked: batches } = this;
    if (!mean || !variance || !batches) return;
    sideEffect(() =>
      scope(() => {
        F.copyInto(batches, F.add(batches, 1));
        const share = this.momentum ?? F.reciprocal(F.cast(batches, "f32"));
        const rest = typeof share === "number" ? 1 - share : F.add(F.neg(share), 1);
        const move = (running: Buffer, batch: Tensor): void =>
          F.copyInto(running, F.add(F.mul(running, rest), F.mul(F.reshape(batch, [this.channels]), share)));
        move(mean, batchMean.detach());
        move(variance, F.mul(batchVariance.detach(), count / (count - 1)));
      }),
    );
  }

  private check(x: Tensor): void {
    const op = this.constructor.name;
    checkTensors(op, x);
    if (!this.behind.some(({ length }) => x.rank === length + 2) || x.dim(1) !== this.channels) {
      const shapes = this.behind.map((dims) => `[${["N", this.channels, ...dims].join(", ")}]`);
      throw new ShapeError(`${op}: x must be ${shapes.join(" or ")}; got ${x}. Reshape it.`);
    }
    if (this.training && x.size === this.channels)
      throw new ShapeError(
        `${op}: training needs more than one value a channel; got ${x}. Use a larger batch, or eval().`,
      );
  }
}

/** Batch normalisation of x [N, channels] or [N, channels, L]. */
export class BatchNorm1d extends BatchNorm {
  protected readonly behind = [[], ["L"]];
}

/** Batch normalisation of x [N, channels, H, W]. */
export class BatchNorm2d extends BatchNorm {
  protected readonly behind = [["H", "W"]];
}
