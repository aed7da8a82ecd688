/**
 * What all optimizers share: f32 masters of 16-bit parameters, clipping by the norm of all gradients, loss scaling, moving averages, skipped
 * steps, the state dict. How a parameter moves is its rule (rules.ts). A step reads nothing back.
 */
import { ArgumentError, checkTensors, encode, scope, tensor } from "../../../engine/index.ts";
import type { Tensor } from "../../../engine/index.ts";
import {
  ADAMW_STATE,
  adamwCount,
  adamwPrepare,
  adamwState,
  cast,
  castInto,
  copyInto,
  emaStep,
  expand,
  globalGradNorm,
  indexSelect,
  zeros,
  zerosLike,
} from "../../../kernels/index.ts";
import type { LossScaling } from "../../../kernels/index.ts";
import { groupBy } from "./rules.ts";
import type { Moving, Rule } from "./rules.ts";

export interface OptimizerParameter {
  /** Name in the keys of the state dict (default: the position in the list). */
  readonly name?: string;
  /** The parameter the model computes with. If it is f16 or bf16, the optimizer keeps an f32 master of it and rewrites it with each step. */
  readonly tensor: Tensor;
  /** Initial value of the master (f32), if not the tensor's rounded values; copied. */
  readonly master?: Tensor;
  /** How it moves: parameters of one rule are a parameter group. */
  readonly rule: Rule;
}

export interface OptimizerOptions {
  /** Learning rate of all rules. */
  readonly lr: number;
  /** Gradients are scaled down together to at most this norm; the default is no bound. */
  readonly maxNorm?: number;
  /** Losses go through `scale` before backward, so that small gradients do not vanish in f16; the factor starts at `initScale` (default 2^16). */
  readonly lossScaling?: (LossScaling & { readonly initScale?: number }) | null;
  /** Keeps moving averages of the parameters: average ← emaDecay · average + (1 − emaDecay) · parameter. Above 0, below 1. */
  readonly emaDecay?: number | undefined;
}

/** What the device knows of the last step; reading it waits for the GPU. */
export interface OptimizerReport {
  /** Steps taken, without those skipped. */
  readonly step: number;
  readonly lr: number;
  /** Norm of all gradients before clipping, without the scale of the losses; NaN if they were not finite and the step was skipped. */
  readonly gradNorm: number;
  /** Steps skipped so far. */
  readonly skipped: number;
  /** What the next step's losses are multiplied by; 1 without `lossScaling`. */
  readonly scale: number;
}

interface Slot extends Moving {
  readonly name: string;
  readonly tensor: Tensor;
  readonly rule: Rule;
}

/**
 * Moves parameters by the rule of each, all at one learning rate. Step count, learning rate, clipping factor, scale of the losses and the flag
 * that skips a step with gradients that are not finite live in a GPU buffer, so that `step()` may be captured and replayed.
 */
export class Optimizer {
  /** f32 [12], see `ADAMW_STATE`. */
  readonly state: Tensor;
  /** f32 [parameters, 3]: of each parameter, how many steps it has had a gradient in, and the bias corrections of that many. */
  readonly steps: Tensor;
  private readonly options: OptimizerOptions;
  private readonly slots: readonly Slot[];
  private rate: number;

  constructor(parameters: readonly OptimizerParameter[], options: OptimizerOptions) {
    const names = parameters.map((p, i) => p.name ?? String(i));
    const twice = names.find((n, i) => names.indexOf(n) < i);
    if (twice !== undefined)
      throw new ArgumentError(`Optimizer: two parameters are named "${twice}"; names are unique`);
    const device = checkTensors("Optimizer", ...parameters.flatMap((p) => [p.tensor, p.master ?? null]));
    requireApart(parameters.map(({ tensor }, i) => [names[i]!, tensor]));
    for (const { tensor, master, rule } of parameters) {
      rule.check?.(tensor);
      if (master && (tensor.dtype === "f32" || master.dtype !== "f32" || master.shape.join() !== tensor.shape.join())) {
        throw new ArgumentError(`Optimizer: master ${master} for ${tensor}; f32 of the shape of a 16-bit parameter`);
      }
    }
    this.rate = checkRate(options.lr);
    const { lossScaling, emaDecay } = options;
    const { initScale: scale = 2 ** 16 } = lossScaling ?? { initScale: 1 };
    if (!(scale >= 1 && scale <= 1e38))
      throw new ArgumentError(`Optimizer: a loss scale of ${scale}; from 1 to 1e38, which f32 holds`);
    if (emaDecay !== undefined && !(emaDecay > 0 && emaDecay < 1))
      throw new ArgumentError(`Optimizer: decay ${emaDecay} of the moving averages; above 0, below 1`);
    this.options = options;
    this.state = adamwState(this.rate, { scale, device }).keep();
    this.steps = zeros([parameters.length, 3], { device }).keep();
    this.slots = parameters.map(({ tensor, master, rule }, i) => {
      const fresh = (): Tensor => zerosLike(tensor, { dtype: "f32" }).keep();
      const own = tensor.dtype === "f32" ? tensor : fresh();
      if (own !== tensor) scope(() => castInto(own, master ?? cast(tensor.detach(), "f32")));
      const ema = emaDecay === undefined ? null : fresh();
      if (ema) scope(() => castInto(ema, own.detach()));
      const moments = Object.fromEntries(rule.moments.map((key) => [key, fresh()]));
      return { row: i, name: names[i]!, tensor, rule, master: own, moments, ema };
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

  /** The loss to call `backward` with: multiplied by the scale if there is `lossScaling`. `step` takes it out of the gradients again. */
  scale(loss: Tensor): Tensor {
    return this.options.lossScaling ? loss.mul(this.state.strided([], [], ADAMW_STATE.scale)) : loss;
  }

  /**
   * Updates every parameter that has a gradient, and its average. If any gradient is not finite, or any of `losses` (f32), nothing changes but
   * the count of skipped steps and, with `lossScaling`, the scale. If it throws, nothing changes at all.
   */
  step(losses: Tensor | null = null): void {
    const ready = this.slots.filter((s) => s.tensor.grad);
    if (!ready.length) throw new ArgumentError("Optimizer.step: no parameter has a gradient; call backward first");
    this.state.device.atomic(() => scope(() => this.launchStep(ready, losses)));
  }

  private launchStep(ready: readonly Slot[], losses: Tensor | null): void {
    const { emaDecay = 0, maxNorm, lossScaling } = this.options;
    adamwPrepare(this.state, globalGradNorm(ready.map((s) => s.tensor.grad!)), {
      ...ready[0]!.rule.betas,
      ...(maxNorm !== undefined && { maxNorm }),
      ...(lossScaling && { lossScaling }),
      watched: losses,
    });
    for (const { first, count, betas } of runsOf(ready)) adamwCount(this.steps, this.state, first, count, betas);
    const context = { state: this.state, steps: this.steps, emaDecay };
    for (const slot of ready) if (!slot.rule.isJoint) slot.rule.step([slot], context);
    for (const [rule, slots] of groupBy(ready, ({ rule }) => rule)) if (rule.isJoint) rule.step(slots, context);
    for (const { tensor, master, ema } of this.slots)
      if (ema && !tensor.grad) emaStep(ema, master, this.state, emaDecay);
  }

  /** Reads what the last step did. */
  async report(): Promise<OptimizerReport> {
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
   * The tensors that make up the optimizer, but for the averages: `state`, `steps`, and of each parameter `NAME.master` if it is of 16 bits and
   * the moments of its rule (`NAME.m`, `NAME.v`). Not copies.
   */
  stateDict(): Record<string, Tensor> {
    const dict: Record<string, Tensor> = { state: this.state, steps: this.steps };
    for (const { name, tensor, master, moments } of this.slots) {
      if (master !== tensor) dict[`${name}.master`] = master;
      for (const [key, moment] of Object.entries(moments)) dict[`${name}.${key}`] = moment;
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
      if (!own[name]) throw new ArgumentError(`Optimizer.loadStateDict: "${name}" is not of this optimizer`);
    const isOld = !dict["steps"];
    if (isOld) delete own["steps"];
    for (const [name, into] of Object.entries(own)) {
      const from = dict[name];
      if (from?.shape.join() !== into.shape.join())
        throw new ArgumentError(
          `Optimizer.loadStateDict: "${name}" ${from ? `is ${from}, this optimizer's is ${into}` : "is missing"}`,
        );
    }
    scope(() => {
      for (const [name, into] of Object.entries(own))
        if (dict[name] !== into) castInto(into, name === "steps" ? this.stepsOf(dict) : dict[name]!);
      for (const { tensor, master } of this.slots) if (master !== tensor) castInto(tensor, master);
    });
    if (isOld) this.spreadSteps();
    this.rate = (await this.state.data())[ADAMW_STATE.lr]!;
  }

  /** The step counts of a dict in the order of this optimizer's parameters: they have no names, and lie in the order of the dict's. */
  private stepsOf(dict: Readonly<Record<string, Tensor>>): Tensor {
    const order = Object.keys(dict).flatMap((key) => (key.endsWith(".m") ? [key.slice(0, -2)] : []));
    const places = this.slots.map(({ name }) => order.indexOf(name));
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
    for (const { tensor, master, moments, ema } of this.slots)
      for (const t of [...Object.values(moments), ema, master === tensor ? null : master]) t?.dispose();
  }

  [Symbol.dispose](): void {
    this.dispose();
  }
}

interface Run {
  readonly first: number;
  count: number;
  readonly betas: Rule["betas"];
}

/** The slots as runs of neighbours whose steps are counted alike. */
function runsOf(slots: readonly Slot[]): Run[] {
  const runs: Run[] = [];
  for (const { row, rule } of slots) {
    const last = runs.at(-1);
    const { beta1, beta2 } = rule.betas;
    const isNext = last && last.first + last.count === row && last.betas.beta1 === beta1 && last.betas.beta2 === beta2;
    if (isNext) last.count++;
    else runs.push({ first: row, count: 1, betas: rule.betas });
  }
  return runs;
}

/** Throws `ArgumentError` if two of the parameters are one tensor, or views of one storage: each would be stepped for the other. */
function requireApart(parameters: readonly (readonly [string, Tensor])[]): void {
  const names = new Map<Tensor["storage"], string>();
  for (const [name, { storage }] of parameters) {
    const other = names.get(storage);
    if (other !== undefined)
      throw new ArgumentError(
        `Optimizer: parameters must be different tensors; "${other}" and "${name}" share one storage. Give a tied parameter once, as Module.parameters() does.`,
      );
    names.set(storage, name);
  }
}

function checkRate(rate: number): number {
  if (!(rate >= 0 && rate < Infinity)) throw new ArgumentError(`Optimizer: learning rate ${rate}; a finite number ≥ 0`);
  return rate;
}
