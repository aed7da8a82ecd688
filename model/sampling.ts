/** The next tokens of a batch of rows, drawn from their logits on the device. */
import { Generator, tensor } from "../engine/index.ts";
import type { Device, Tensor } from "../engine/index.ts";
import { sampleTokens } from "../kernels/index.ts";
import type { SampleOptions } from "../kernels/index.ts";
import type { SamplingOptions } from "./request.ts";

/** Draws of a batch of rows on the device. */
export class Sampler {
  private readonly generator: Generator;
  private readonly seeds: Tensor;
  private readonly options: SamplingOptions;

  constructor(options: SamplingOptions, rowSeeds: readonly number[], device: Device) {
    this.options = options;
    this.generator = new Generator(0, { device });
    this.seeds = tensor(Uint32Array.from(rowSeeds), { device }).keep();
  }

  /** logits [N, V], with `guidance` [2N, V] → u32 [N], flagged if not finite. Options as for `sampleTokens`. */
  sample(logits: Tensor, step: Tensor, more: Pick<SampleOptions, "guidance" | "into" | "history"> = {}): Tensor {
    const { temperature = 0, topK, topP } = this.options;
    return sampleTokens(logits, {
      temperature,
      ...(topK !== undefined && { topK }),
      ...(topP !== undefined && { topP }),
      generator: this.generator,
      seeds: this.seeds,
      position: step,
      flagged: true,
      ...more,
    });
  }

  dispose(): void {
    this.generator.dispose();
    this.seeds.dispose();
  }
}
