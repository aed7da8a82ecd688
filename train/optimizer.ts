/** AdamW over the parameters of a model: owns masters, moments and the device state, and steps without reading anything back. */
import { ArgumentError, Tensor, checkTensors, encode, scope } from "../engine/index.ts";
import {
  ADAMW_STATE,
  adamwPrepare,
  adamwState,
  adamwStep,
  cast,
  clipScale,
  copyFrom,
  globalGradNorm,
  map,
  zeros,
  zerosLike,
} from "../kernels/index.ts";

export interface AdamWParameter {
  /** In the keys of the state dict; the default is the position in the list. */
  readonly name?: string;
  /** What the model computes with. If it is f16 or bf16, the optimizer keeps an f32 master of it and writes it anew with each step. */
  readonly tensor: Tensor;
  /** Where the master starts (f32), if not from the tensor's rounded values; copied. */
  readonly master?: Tensor;
  /** False for parameters without weight decay (norms, biases). */
  readonly decay?: boolean;
}

export interface AdamWOptions {
  /** Learning rate. */
  readonly lr: number;
  readonly beta1?: number;
  readonly beta2?: number;
  readonly epsilon?: number;
  readonly weightDecay?: number;
  /** Gradients are scaled down together to at most this norm; the default is no bound. */
  readonly maxNorm?: number;
}

/** What the device knows of the last step; reading it waits for the GPU. */
export interface AdamWReport {
  /** Steps taken, without those skipped. */
  readonly step: number;
  readonly lr: number;
  /** Norm of all gradients before clipping; NaN where they were not finite and the step was skipped. */
  readonly gradNorm: number;
  readonly skipped: number;
}

interface Slot {
  readonly name: string;
  readonly tensor: Tensor;
  /** The tensor itself if it is f32. */
  readonly master: Tensor;
  readonly m: Tensor;
  readonly v: Tensor;
  readonly decay: boolean;
}

/**
 * AdamW (Loshchilov and Hutter 2019) with f32 masters and moments. Step count, learning rate, clipping factor and the flag that skips a
 * step with gradients that are not finite live in a GPU buffer, so that `step()` may be captured and replayed.
 */
export class AdamW {
  /** f32 [8], see `ADAMW_STATE`. */
  readonly state: Tensor;
  /** f32 [1]: norm of the last step's gradients. */
  readonly gradNorm: Tensor;
  private readonly options: AdamWOptions;
  private readonly slots: readonly Slot[];
  private rate: number;

  constructor(parameters: readonly (Tensor | AdamWParameter)[], options: AdamWOptions) {
    const given = parameters.map((p): AdamWParameter => (p instanceof Tensor ? { tensor: p } : p));
    const names = given.map((p, i) => p.name ?? String(i));
    const twice = names.find((n, i) => names.indexOf(n) < i);
    if (twice !== undefined) throw new ArgumentError(`AdamW: two parameters are named "${twice}"; names are unique`);
    const device = checkTensors("AdamW", ...given.flatMap((p) => [p.tensor, p.master]));
    for (const { tensor, master } of given) {
      if (master && (tensor.dtype === "f32" || master.dtype !== "f32" || master.shape.join() !== tensor.shape.join())) {
        throw new ArgumentError(`AdamW: master ${master} for ${tensor}; f32 of the shape of a 16-bit parameter`);
      }
    }
    this.rate = checkRate(options.lr);
    this.options = options;
    this.state = adamwState(this.rate, device).keep();
    this.gradNorm = zeros([1], { device }).keep();
    this.slots = given.map(({ tensor, master, decay = true }, i) => {
      const fresh = (): Tensor => zerosLike(tensor, { dtype: "f32" }).keep();
      const own = tensor.dtype === "f32" ? tensor : fresh();
      if (own !== tensor) scope(() => copyFrom(own, master ?? cast(tensor.detach(), "f32")));
      return { name: names[i]!, tensor, master: own, m: fresh(), v: fresh(), decay };
    });
  }

  /** Learning rate. */
  get lr(): number {
    return this.rate;
  }

  /** Takes effect with the next step, also in a captured one. */
  set lr(rate: number) {
    this.rate = checkRate(rate);
    this.state.device.write(
      { storage: this.state.storage, offset: 4 * ADAMW_STATE.lr, size: 4 },
      encode([rate], "f32"),
    );
  }

  /** Updates every parameter that has a gradient. If any gradient is not finite, nothing changes but the count of skipped steps. */
  step(): void {
    const ready = this.slots.filter((s) => s.tensor.grad);
    if (!ready.length) throw new ArgumentError("AdamW.step: no parameter has a gradient; call backward first");
    const { maxNorm = Infinity, weightDecay = 0 } = this.options;
    scope(() => {
      globalGradNorm(
        ready.map((s) => s.tensor.grad!),
        this.gradNorm,
      );
      adamwPrepare(this.state, clipScale(this.gradNorm, maxNorm), this.options);
      for (const { tensor, master, m, v, decay } of ready) {
        const copy = master === tensor ? null : tensor;
        adamwStep({ master, m, v, grad: tensor.grad!, copy }, this.state, {
          ...this.options,
          weightDecay: decay ? weightDecay : 0,
        });
      }
    });
  }

  /** Reads what the last step did. */
  async report(): Promise<AdamWReport> {
    const [state, gradNorm] = await Promise.all([this.state.data(), this.gradNorm.item()]);
    return {
      step: state[ADAMW_STATE.step]!,
      lr: state[ADAMW_STATE.lr]!,
      gradNorm,
      skipped: state[ADAMW_STATE.skipped]!,
    };
  }

  /** The tensors that make up the optimizer: `state`, and of each parameter `NAME.m`, `NAME.v` and, if it is of 16 bits, `NAME.master`. Not copies. */
  stateDict(): Record<string, Tensor> {
    const dict: Record<string, Tensor> = { state: this.state };
    for (const { name, tensor, master, m, v } of this.slots) {
      if (master !== tensor) dict[`${name}.master`] = master;
      dict[`${name}.m`] = m;
      dict[`${name}.v`] = v;
    }
    return dict;
  }

  /**
   * Takes over the values of another optimizer's `stateDict`, the learning rate too, and writes 16-bit parameters from their masters.
   * Throws before anything is changed if a name is missing or not known, or a shape differs.
   */
  async loadStateDict(dict: Readonly<Record<string, Tensor>>): Promise<void> {
    const own = this.stateDict();
    for (const name of Object.keys(dict))
      if (!own[name]) throw new ArgumentError(`AdamW.loadStateDict: "${name}" is not of this optimizer`);
    for (const [name, into] of Object.entries(own)) {
      const from = dict[name];
      if (from?.shape.join() !== into.shape.join())
        throw new ArgumentError(
          `AdamW.loadStateDict: "${name}" ${from ? `is ${from}, this optimizer's is ${into}` : "is missing"}`,
        );
    }
    scope(() => {
      for (const [name, into] of Object.entries(own)) copyFrom(into, dict[name]!);
      for (const { tensor, master } of this.slots) if (master !== tensor) map("copy", [master], { into: tensor });
    });
    this.rate = (await this.state.data())[ADAMW_STATE.lr]!;
  }

  dispose(): void {
    this.state.dispose();
    this.gradNorm.dispose();
    for (const { tensor, master, m, v } of this.slots)
      for (const t of [m, v, ...(master === tensor ? [] : [master])]) t.dispose();
  }

  [Symbol.dispose](): void {
    this.dispose();
  }
}

function checkRate(rate: number): number {
  if (!(rate >= 0 && rate < Infinity)) throw new ArgumentError(`AdamW: learning rate ${rate}; a finite number ≥ 0`);
  return rate;
}
