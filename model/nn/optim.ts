/** AdamW, or Muon where told, over the parameters of a model: owns masters, moments and the device state, and steps without reading anything back. */
import { ArgumentError, Tensor, checkTensors, encode, scope, tensor } from "../../engine/index.ts";
import {
  ADAMW_STATE,
  adamwCount,
  adamwPrepare,
  adamwState,
  adamwStep,
  cast,
  copyFrom,
  copyInto,
  emaStep,
  expand,
  globalGradNorm,
  muonStep,
  zeros,
  zerosLike,
  indexSelect,
} from "../../kernels/index.ts";
import type { LossScaling, MuonTensors } from "../../kernels/index.ts";

export interface AdamWParameter {
  /** In the keys of the state dict; the default is the position in the list. */
  readonly name?: string;
  /** What the model computes with. If it is f16 or bf16, the optimizer keeps an f32 master of it and writes it anew with each step. */
  readonly tensor: Tensor;
  /** Where the master starts (f32), if not from the tensor's rounded values; copied. */
  readonly master?: Tensor;
  /** False for parameters without weight decay (norms, biases). */
  readonly decay?: boolean;
  /** A matrix that Muon moves instead of AdamW: one inside the model, no embedding and no head. */
  readonly muon?: boolean;
}

export interface AdamWOptions {
  /** Learning rate. */
  readonly lr: number;
  readonly beta1?: number;
  readonly beta2?: number;
  readonly epsilon?: number;
  readonly weightDecay?: number;
  /** μ of Muon; 0.95 unless told. */
  readonly momentum?: number;
  /** Gradients are scaled down together to at most this norm; the default is no bound. */
  readonly maxNorm?: number;
  /** Losses go through `scale` before backward, so that small gradients do not vanish in f16; the factor starts at `initScale`, 2^16 unless told. */
  readonly lossScaling?: (LossScaling & { readonly initScale?: number }) | null;
  /** Keeps moving averages of the parameters: average ← emaDecay · average + (1 − emaDecay) · parameter. Above 0, below 1. */
  readonly emaDecay?: number | undefined;
}

/** What the device knows of the last step; reading it waits for the GPU. */
export interface AdamWReport {
  /** Steps taken, without those skipped. */
  readonly step: number;
  readonly lr: number;
  /** Norm of all gradients before clipping, without the scale of the losses; NaN where they were not finite and the step was skipped. */
  readonly gradNorm: number;
  /** Steps skipped so far. */
  readonly skipped: number;
  /** What the next step's losses are multiplied by; 1 without `lossScaling`. */
  readonly scale: number;
}

interface Slot {
  /** Position in the list. */
  readonly row: number;
  readonly name: string;
  readonly tensor: Tensor;
  /** The tensor itself if it is f32. */
  readonly master: Tensor;
  readonly m: Tensor;
  /** Null where Muon moves it. */
  readonly v: Tensor | null;
  readonly ema: Tensor | null;
  readonly decay: boolean;
}

/**
 * AdamW (Loshchilov and Hutter 2019) with f32 masters and moments; matrices marked `muon` take Muon's step (`muonStep`) and have no second
 * moment. Step count, learning rate, clipping factor, scale of the losses and the
 * flag that skips a step with gradients that are not finite live in a GPU buffer, so that `step()` may be captured and replayed.
 */
export class AdamW {
  /** f32 [12], see `ADAMW_STATE`. */
  readonly state: Tensor;
  /** f32 [parameters, 3]: of each parameter, how many steps it has had a gradient in, and the bias corrections of that many. */
  readonly steps: Tensor;
  private readonly options: AdamWOptions;
  private readonly slots: readonly Slot[];
  private rate: number;

  constructor(parameters: readonly (Tensor | AdamWParameter)[], options: AdamWOptions) {
    const given = parameters.map((p): AdamWParameter => (p instanceof Tensor ? { tensor: p } : p));
    const names = given.map((p, i) => p.name ?? String(i));
    const twice = names.find((n, i) => names.indexOf(n) < i);
    if (twice !== undefined) throw new ArgumentError(`AdamW: two parameters are named "${twice}"; names are unique`);
    const device = checkTensors("AdamW", ...given.flatMap((p) => [p.tensor, p.master]));
    requireApart(given.map(({ tensor }, i) => [names[i]!, tensor]));
    for (const { tensor, master, muon } of given) {
      if (muon && tensor.rank !== 2) throw new ArgumentError(`AdamW: Muon for ${tensor}; it moves matrices only`);
      if (master && (tensor.dtype === "f32" || master.dtype !== "f32" || master.shape.join() !== tensor.shape.join())) {
        throw new ArgumentError(`AdamW: master ${master} for ${tensor}; f32 of the shape of a 16-bit parameter`);
      }
    }
    this.rate = checkRate(options.lr);
    const { lossScaling, emaDecay, momentum = 0, weightDecay = 0 } = options;
    if (!(momentum >= 0 && momentum < 1))
      throw new ArgumentError(`AdamW: momentum ${momentum} of Muon; at least 0, below 1`);
    if (!(weightDecay >= 0 && weightDecay < Infinity))
      throw new ArgumentError(`AdamW: weightDecay ${weightDecay}; a finite number of at least 0`);
    const { initScale: scale = 2 ** 16 } = lossScaling ?? { initScale: 1 };
    if (!(scale >= 1 && scale <= 1e38))
      throw new ArgumentError(`AdamW: a loss scale of ${scale}; from 1 to 1e38, which f32 holds`);
    if (emaDecay !== undefined && !(emaDecay > 0 && emaDecay < 1))
      throw new ArgumentError(`AdamW: decay ${emaDecay} of the moving averages; above 0, below 1`);
    this.options = options;
    this.state = adamwState(this.rate, { scale, device }).keep();
    this.steps = zeros([given.length, 3], { device }).keep();
    this.slots = given.map(({ tensor, master, decay = true, muon = false }, i) => {
      const fresh = (): Tensor => zerosLike(tensor, { dtype: "f32" }).keep();
      const own = tensor.dtype === "f32" ? tensor : fresh();
      if (own !== tensor) scope(() => copyFrom(own, master ?? cast(tensor.detach(), "f32")));
      const ema = emaDecay === undefined ? null : fresh();
      if (ema) scope(() => copyFrom(ema, own.detach()));
      return { row: i, name: names[i]!, tensor, master: own, m: fresh(), v: muon ? null : fresh(), ema, decay };
    });
  }

  /** Learning rate. */
  get lr(): number {
    return this.rate;
  }

  /** Takes effect with the next step, also in a captured one. */
  set lr(rate: number) {
    this.state.device.write(
      { storage: this.state.storage, offset: 4 * ADAMW_STATE.lr, size: 4 },
      encode([checkRate(rate)], "f32"),
    );
    this.rate = rate; // a refused write has thrown by now
  }

  /** The loss to call `backward` with: multiplied by the scale where there is `lossScaling`. `step` takes it out of the gradients again. */
  scale(loss: Tensor): Tensor {
    return this.options.lossScaling ? loss.mul(this.state.strided([], [], ADAMW_STATE.scale)) : loss;
  }

  /**
   * Updates every parameter that has a gradient, and its average. If any gradient is not finite, or any of `losses` (f32), nothing changes but
   * the count of skipped steps and, with `lossScaling`, the scale. If it throws, nothing changes at all.
   */
  step(losses: Tensor | null = null): void {
    const ready = this.slots.filter((s) => s.tensor.grad);
    if (!ready.length) throw new ArgumentError("AdamW.step: no parameter has a gradient; call backward first");
    this.state.device.atomic(() => scope(() => this.launchStep(ready, losses)));
  }

  private launchStep(ready: readonly Slot[], losses: Tensor | null): void {
    const { weightDecay = 0, emaDecay = 0, momentum, ...settings } = this.options;
    adamwPrepare(this.state, globalGradNorm(ready.map((s) => s.tensor.grad!)), { ...settings, watched: losses });
    for (const { first, count } of runsOf(ready)) adamwCount(this.steps, this.state, first, count, settings);
    const together = new Map<string, Slot[]>(); // Muon's, by shape and decay
    for (const slot of ready) {
      const { row, v, decay } = slot;
      const key = `${slot.master.shape.join()} ${decay}`;
      if (v)
        adamwStep({ ...tensorsOf(slot), v, steps: { table: this.steps, row } }, this.state, {
          ...settings,
          weightDecay: decay ? weightDecay : 0,
          emaDecay,
        });
      else together.set(key, [...(together.get(key) ?? []), slot]);
    }
    for (const slots of together.values()) {
      muonStep(slots.map(tensorsOf), this.state, {
        ...(momentum !== undefined && { momentum }),
        weightDecay: slots[0]!.decay ? weightDecay : 0,
        emaDecay,
      });
    }
    for (const { tensor, master, ema } of this.slots)
      if (ema && !tensor.grad) emaStep(ema, master, this.state, emaDecay);
  }

  /** Reads what the last step did. */
  async report(): Promise<AdamWReport> {
    const state = await this.state.data();
    return {
      step: state[ADAMW_STATE.step]!,
      lr: state[ADAMW_STATE.lr]!,
      gradNorm: state[ADAMW_STATE.skip] ? NaN : state[ADAMW_STATE.norm]!,
      skipped: state[ADAMW_STATE.skipped]!,
      scale: state[ADAMW_STATE.scale]!,
    };
  }

  /** The averages of the parameters by name, f32; none without `emaDecay`. Not copies. Each step that is not skipped moves all of them. */
  averages(): Record<string, Tensor> {
    return Object.fromEntries(this.slots.flatMap(({ name, ema }) => (ema ? [[name, ema]] : [])));
  }

  /**
   * The tensors that make up the optimizer, but for the averages: `state`, `steps`, and of each parameter `NAME.m`, `NAME.v` (not where Muon moves it) and, if it is of 16 bits,
   * `NAME.master`. Not copies.
   */
  stateDict(): Record<string, Tensor> {
    const dict: Record<string, Tensor> = { state: this.state, steps: this.steps };
    for (const { name, tensor, master, m, v } of this.slots) {
      if (master !== tensor) dict[`${name}.master`] = master;
      dict[`${name}.m`] = m;
      if (v) dict[`${name}.v`] = v;
    }
    return dict;
  }

  /**
   * Takes over the values of a `stateDict`, another optimizer's or this one's, the learning rate too, and writes 16-bit parameters from their masters.
   * A dict without `steps` is of an earlier version: see `spreadSteps`. Throws before anything is changed if a name is missing or not known, or a shape differs.
   */
  async loadStateDict(dict: Readonly<Record<string, Tensor>>): Promise<void> {
    const own = this.stateDict();
    for (const name of Object.keys(dict))
      if (!own[name]) throw new ArgumentError(`AdamW.loadStateDict: "${name}" is not of this optimizer`);
    const isOld = !dict["steps"];
    if (isOld) delete own["steps"];
    for (const [name, into] of Object.entries(own)) {
      const from = dict[name];
      if (from?.shape.join() !== into.shape.join())
        throw new ArgumentError(
          `AdamW.loadStateDict: "${name}" ${from ? `is ${from}, this optimizer's is ${into}` : "is missing"}`,
        );
    }
    scope(() => {
      for (const [name, into] of Object.entries(own))
        if (dict[name] !== into) copyFrom(into, name === "steps" ? this.stepsOf(dict) : dict[name]!);
      for (const { tensor, master } of this.slots) if (master !== tensor) copyFrom(tensor, master);
    });
    if (isOld) this.spreadSteps();
    this.rate = (await this.state.data())[ADAMW_STATE.lr]!;
  }

  /** The step counts of a dict in the order of this optimizer's parameters: they have no names, and lie in the order of the dict's. */
  private stepsOf(dict: Readonly<Record<string, Tensor>>): Tensor {
    const order = Object.keys(dict).filter((key) => key.endsWith(".m"));
    const places = this.slots.map(({ name }) => order.indexOf(`${name}.m`));
    if (places.every((place, i) => place === i)) return dict["steps"]!;
    return indexSelect(dict["steps"]!, 0, tensor(Int32Array.from(places), { device: this.steps.device }));
  }

  /** Gives every parameter the step count that is in `state`: earlier versions had that one for all. */
  spreadSteps(): void {
    scope(() => {
      const count = this.state.slice(0, ADAMW_STATE.step, ADAMW_STATE.step + 1).reshape([1, 1]);
      copyInto(this.steps.slice(1, 0, 1), expand(count, [this.slots.length, 1]));
    });
  }

  dispose(): void {
    for (const t of [this.state, this.steps]) t.dispose();
    for (const { tensor, master, m, v, ema } of this.slots)
      for (const t of [m, v, ema, master === tensor ? null : master]) t?.dispose();
  }

  [Symbol.dispose](): void {
    this.dispose();
  }
}

/** The slots as runs of neighbours. */
function runsOf(slots: readonly Slot[]): { readonly first: number; readonly count: number }[] {
  const runs: { first: number; count: number }[] = [];
  for (const { row } of slots) {
    const last = runs.at(-1);
    if (last && last.first + last.count === row) last.count++;
    else runs.push({ first: row, count: 1 });
  }
  return runs;
}

/** What a step of either kind takes of a slot. */
const tensorsOf = ({ tensor, master, m, ema }: Slot): MuonTensors => ({
  master,
  m,
  grad: tensor.grad!,
  copy: master === tensor ? null : tensor,
  ema,
});

/** Throws `ArgumentError` if two of the parameters are one tensor, or views of one storage: each would be stepped for the other. */
function requireApart(parameters: readonly (readonly [string, Tensor])[]): void {
  const names = new Map<Tensor["storage"], string>();
  for (const [name, { storage }] of parameters) {
    const other = names.get(storage);
    if (other !== undefined)
      throw new ArgumentError(
        `AdamW: parameters must be different tensors; "${other}" and "${name}" share one storage. Give a tied parameter once, as Module.parameters() does.`,
      );
    names.set(storage, name);
  }
}

function checkRate(rate: number): number {
  if (!(rate >= 0 && rate < Infinity)) throw new ArgumentError(`AdamW: learning rate ${rate}; a finite number ≥ 0`);
  return rate;
}
