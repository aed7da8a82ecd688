/**
 * A step of stage 0 as two captures: the gradients of a batch, and the update of all weights. The launches depend on the shape of the batch
 * and on whether losses are adversarial; all else that changes between steps is in tensors (pixels, rates of the codes, learning rates).
 */
import { capture, scope, zeroGradients } from "../../engine/index.ts";
import type { Captured, Tensor } from "../../engine/index.ts";
import { copyInto } from "../../kernels/index.ts";

/** Results of a step's forward and backward, of one part or of all of them. */
export interface BatchResults {
  /** f32 [parts · 3]: reconstruction, codebook and commitment of each part; [parts · 5] with those of generator and discriminator. */
  readonly losses: Tensor;
  /** u32 [M]: the code of each vector. */
  readonly codes: Tensor;
  /** [M, codeDim], before quantisation. */
  readonly vectors: Tensor;
}

/** The two halves of a step; both are synchronous. */
export interface StepHalves {
  /** What gets gradients. */
  readonly leaves: readonly Tensor[];
  /** Gives every leaf its gradient. */
  readonly gradients: (pixels: Tensor) => BatchResults;
  /** Changes the weights by the gradients of the leaves. */
  readonly update: () => void;
}

interface Gradients {
  readonly results: BatchResults;
  /** Of each leaf. */
  readonly grads: readonly (Tensor | null)[];
}

export class StepReplay {
  private readonly pixels: Tensor;
  private readonly first: Captured<Gradients>;
  private readonly second: Captured<void>;

  private constructor(pixels: Tensor, first: Captured<Gradients>, second: Captured<void>) {
    this.pixels = pixels;
    this.first = first;
    this.second = second;
  }

  /**
   * Runs a step on `pixels` and keeps its launches; the results belong to the caller. If it throws, weights and optimizers are as before and no
   * leaf has a gradient.
   */
  static async of(pixels: Tensor, halves: StepHalves): Promise<{ replay: StepReplay; results: BatchResults }> {
    const { device } = pixels;
    const { leaves, gradients, update } = halves;
    device.pool.trim(); // the captures have buffers of their own
    const own = scope(() => pixels.clone()).keep();
    let first: Captured<Gradients> | null = null;
    let results: BatchResults | null = null;
    const take = (): Gradients => {
      const made = gradients(own);
      const grads = leaves.map(({ grad }) => grad);
      for (const leaf of leaves) leaf.grad = null;
      return { results: made, grads };
    };
    try {
      first = await capture(take, { device });
      results = copyOf(first.result.results);
      await device.sync(); // work that the GPU refused (memory) ends the step before weights change
      for (const [i, leaf] of leaves.entries()) leaf.grad = first.result.grads[i]!;
      const second = await capture(() => device.atomic(update), { device });
      return { replay: new StepReplay(own, first, second), results };
    } catch (error) {
      first?.dispose();
      for (const t of [own, ...tensorsOf(first?.result), ...Object.values(results ?? {})]) t.dispose();
      throw error;
    } finally {
      if (first) for (const leaf of leaves) leaf.grad = null;
      else zeroGradients(leaves);
    }
  }

  /** A step on `pixels`. The results belong to the caller. If it throws, nothing has changed. */
  run(pixels: Tensor): BatchResults {
    copyInto(this.pixels, pixels);
    this.first.replay();
    const results = copyOf(this.first.result.results);
    try {
      this.second.replay();
      return results;
    } catch (error) {
      for (const t of Object.values(results)) t.dispose();
      throw error;
    }
  }

  dispose(): void {
    for (const one of [this.first, this.second]) one.dispose();
    for (const t of [this.pixels, ...tensorsOf(this.first.result)]) t.dispose();
  }
}

/** The next replay overwrites the tensors of a capture. */
const copyOf = ({ losses, codes, vectors }: BatchResults): BatchResults =>
  scope(() => ({ losses: losses.clone(), codes: codes.clone(), vectors: vectors.clone() }));

const tensorsOf = (made?: Gradients): Tensor[] =>
  made ? [...Object.values(made.results), ...made.grads.filter((grad) => grad !== null)] : [];
