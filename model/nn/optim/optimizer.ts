/**
 * What all optimizers share: f32 masters of 16-bit parameters, clipping by the norm of all gradients, loss scaling, moving averages, skipped
 * steps, the state dict. How a parameter moves is its rule (rules.ts). A step reads nothing back.
 */
import {
  ArgumentError,
  Tensor,
  backward,
  checkTensors,
  encode,
  isFloat,
  knownOptions,
  scope,
  shown,
  tensor,
  zeroGradients,
} from "../../../engine/index.ts";
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
  mul,
  zeros,
  zerosLike,
} from "../../../kernels/index.ts";
import type { LossScaling } from "../../../kernels/index.ts";
import { groupBy } from "./rules.ts";
import type { Moving, Rule, StepContext } from "./rules.ts";

export interface OptimizerParameter {
  /** Name in the keys of the state dict (default: the position in the list). */
  readonly name?: string;
  /** The parameter the model computes with. If it is f16 or bf16, the optimizer keeps an f32 master of it and rewrites it with each step. */
  readonly tensor: Tensor;
  /** Initial value of the master (f32), if not the tensor's rounded values; copied. */
  readonly master?: Tensor;
  /** Update rule: parameters with the same rule are a parameter group. */
  readonly rule: Rule;
  /** Factor of the learning rate for this parameter (default: 1), e.g. 10 for a new head. */
  readonly lrScale?: number;
}

export interface OptimizerOptions {
  /** Learning rate of all rules (default: 1e-3, as in PyTorch). */
  readonly lr?: number;
  /** Gradients are scaled down together to at most this norm; the default is no bound. */
  readonly maxNorm?: number;
  /** Losses go through `scale` before backward, so that small gradients do not vanish in f16; the factor starts at `initScale` (default 2^16). */
  readonly lossScaling?: (LossScaling & { readonly initScale?: number }) | null;
  /** Keeps moving averages of the parameters: average ← emaDecay · average + (1 − emaDecay) · parameter. Above 0, below 1. */
  readonly emaDecay?: number | undefined;
}

/** Names of `OptimizerOptions`. */
export const OPTIMIZER_OPTIONS = [
  "lr",
  "maxNorm",
  "lossScaling",
  "emaDecay",
] as const satisfies readonly (keyof OptimizerOptions)[];

/** State of the last step on the device; reading it waits for the GPU. */
export interface OptimizerReport {
  /** Steps taken, without those skipped. */
  readonly step: number;
  readonly lr: number;
  /** Norm of all gradients before clipping, without the scale of the losses; NaN if they were not finite and the step was skipped. */
  readonly gradNorm: number;
  /** Steps skipped so far. */
  readonly skipped: number;
  /** Factor of the next step's losses; 1 without `lossScaling`. */
  readonly scale: number;
}

interface Slot extends Moving {
  readonly name: string;
  readonly lrScale: number;
  readonly tensor: Tensor;
  readonly rule: Rule;
}

/**
 * Updates each parameter with its rule, all with one learning rate. Step count, learning rate, clipping factor, loss
 * scale and the flag that skips a step with gradients that are not finite are in a GPU buffer, so that `step()` can be
 * captured and replayed.
 */
export class Optimizer {
  /** f32 [12], see `ADAMW_STATE`. */
  readonly state: Tensor;
  /** f32 [parameters, 3]: of each parameter, how many steps it has had a gradient in, and the bias corrections of that many. */
  readonly steps: Tensor;
  private readonly options: OptimizerOptions;
  private readonly slots: readonly Slot[];
  /** What `state` is multiplied by for each `lrScale` but 1, and room for the product. */
  private readonly scaled: ReadonlyMap<number, { readonly factors: Tensor; readonly state: Tensor }>;
  private rate: number;

  constructor(parameters: readonly OptimizerParameter[], options: OptimizerOptions = {}) {
    knownOptions("Optimizer", options, OPTIMIZER_OPTIONS);
    if (options.lossScaling) knownOptions("Optimizer.lossScaling", options.lossScaling, LOSS_SCALING_OPTIONS);
    entriesOf("Optimizer", parameters, ["rule"]);
    const names = parameters.map((p, i) => p.name ?? String(i));
    const twice = names.find((n, i) => names.indexOf(n) < i);
    if (twice !== undefined)
      throw new ArgumentError(`Optimizer: names must be unique; got two parameters named "${twice}". Rename one.`);
    const device = checkTensors("Optimizer", ...parameters.flatMap((p) => [p.tensor, p.master ?? null]));
    requireApart(parameters.map(({ tensor }, i) => [names[i]!, tensor]));
    for (const { tensor, master, rule, lrScale = 1 } of parameters) {
      if (typeof (rule as Partial<Rule> | undefined)?.step !== "function")
        throw new ArgumentError(
          `Optimizer: a rule must be made by adamw(), sgd() or muon(); got ${shown(rule)}. Pass one.`,
        );
      if (!isFloat(tensor.dtype) || tensor.node)
        throw new ArgumentError(
          `Optimizer: a parameter must be a leaf of a floating dtype; got ${tensor}${tensor.node ? `, made by ${tensor.node.name}` : ""}. Pass model.parameters().`,
        );
      rule.check?.(tensor);
      if (!(lrScale >= 0 && lrScale < Infinity))
        throw new ArgumentError(
          `Optimizer: lrScale must be a finite number of at least 0; got ${String(lrScale)}. Change it.`,
        );
      if (master && (tensor.dtype === "f32" || master.dtype !== "f32" || master.shape.join() !== tensor.shape.join())) {
        throw new ArgumentError(
          `Optimizer: a master must be f32 of the shape of a 16-bit parameter; got ${master} for ${tensor}. Leave it out.`,
        );
      }
    }
    this.rate = checkRate(options.lr ?? 1e-3);
    const { lossScaling, emaDecay, maxNorm = Infinity } = options;
    if (typeof maxNorm !== "number" || !(maxNorm > 0))
      throw new ArgumentError(
        `Optimizer: maxNorm must be a number above 0; got ${String(maxNorm)}. Leave it out for none.`,
      );
    const { initScale: scale = 2 ** 16 } = lossScaling ?? { initScale: 1 };
    if (!(scale >= 1 && scale <= 1e38))
      throw new ArgumentError(`Optimizer: initScale must be from 1 to 1e38, which f32 holds; got ${scale}. Change it.`);
    if (emaDecay !== undefined && !(emaDecay > 0 && emaDecay < 1))
      throw new ArgumentError(`Optimizer: emaDecay must be above 0 and below 1; got ${emaDecay}. Change it.`);
    this.options = options;
    this.state = adamwState(this.rate, { scale, device }).keep();
    this.steps = zeros([parameters.length, 3], { device }).keep();
    this.scaled = new Map(
      [...new Set(parameters.map(({ lrScale = 1 }) => lrScale))]
        .filter((lrScale) => lrScale !== 1)
        .map((lrScale) => {
          const factors = Float32Array.from({ length: this.state.size }, (_, i) =>
            i === ADAMW_STATE.lr ? lrScale : 1,
          );
          return [lrScale, { factors: tensor(factors, { device }).keep(), state: zerosLike(this.state).keep() }];
        }),
    );
    this.slots = parameters.map(({ tensor, master, rule, lrScale = 1 }, i) => {
      const fresh = (): Tensor => zerosLike(tensor, { dtype: "f32" }).keep();
      const own = tensor.dtype === "f32" || rule.isMasterless ? tensor : fresh();
      if (own !== tensor) scope(() => castInto(own, master ?? cast(tensor.detach(), "f32")));
      const ema = emaDecay === undefined ? null : fresh();
      if (ema) scope(() => castInto(ema, own.detach()));
      const spec = rule.momentSpec?.(tensor);
      const moment = (): Tensor =>
        spec ? zeros(spec.shape, { dtype: spec.dtype, device: tensor.device }).keep() : fresh();
      const together = rule.makeMoments?.(tensor);
      for (const t of Object.values(together ?? {})) t.keep();
      const moments = together ?? Object.fromEntries(rule.moments.map((key) => [key, moment()]));
      return { row: i, name: names[i]!, tensor, rule, lrScale, master: own, moments, ema };
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
    checkTensors("Optimizer.scale", loss);
    return this.options.lossScaling ? loss.mul(this.state.strided([], [], ADAMW_STATE.scale)) : loss;
  }

  /** Frees the gradients of all parameters. */
  zeroGrad(): void {
    zeroGradients(this.slots.map(({ tensor }) => tensor));
  }

  /**
   * Updates every parameter that has a gradient, and its average. If any gradient is not finite, or any of `losses` (f32), nothing changes but
   * the count of skipped steps and, with `lossScaling`, the scale. If it throws, nothing changes at all.
   * @param norm f32 [1]: norm of all gradients, if parameters are pieces of larger ones; then none of them needs a gradient
   */
  step(losses?: Tensor | null, norm?: Tensor | null): void;
  /**
   * A whole training step: clears the gradients, calls `compute` (synchronous) for the loss [], calls `backward` with it (times the scale if
   * there is `lossScaling`), and updates as above. Returns the loss, outside of the tape; every other tensor made by `compute` is freed. The gradients stay until
   * the next step or `zeroGrad`. If it throws, nothing changes, and there are no gradients.
   */
  step(compute: () => Tensor): Tensor;
  step(what: Tensor | null | (() => Tensor) = null, norm: Tensor | null = null): Tensor | void {
    if (typeof what === "function") return this.stepOn(what);
    const ready = this.slots.filter((s) => s.tensor.grad);
    if (!ready.length && !norm)
      throw new ArgumentError(
        "Optimizer.step: at least one parameter must have a gradient; got none. Call backward first.",
      );
    this.state.device.atomic(() => scope(() => this.launchStep(ready, what, norm)));
  }

  private stepOn(compute: () => Tensor): Tensor {
    this.zeroGrad();
    try {
      return scope(() => {
        const loss = scope(compute);
        if (!(loss instanceof Tensor))
          throw new ArgumentError(
            `Optimizer.step: the function must return the loss, a tensor; got ${shown(loss)}. Return it, e.g. F.mseLoss(net.call(x), y).`,
          );
        backward(this.scale(loss));
        const value = loss.detach();
        this.step(value.dtype === "f32" ? value : null);
        return value;
      });
    } catch (error) {
      this.zeroGrad();
      throw error;
    }
  }

  private launchStep(ready: readonly Slot[], losses: Tensor | null, norm: Tensor | null): void {
    const { emaDecay = 0, maxNorm, lossScaling } = this.options;
    adamwPrepare(this.state, norm ?? globalGradNorm(ready.map((s) => s.tensor.grad!)), {
      ...(ready[0] ?? this.slots[0]!).rule.betas,
      ...(maxNorm !== undefined && { maxNorm }),
      ...(lossScaling && { lossScaling }),
      watched: losses,
    });
    for (const { first, count, betas } of runsOf(ready)) adamwCount(this.steps, this.state, first, count, betas);
    for (const { factors, state } of this.scaled.values()) copyInto(state, mul(this.state, factors));
    const contextOf = (lrScale: number): StepContext => ({
      state: this.scaled.get(lrScale)?.state ?? this.state,
      steps: this.steps,
      emaDecay,
    });
    for (const slot of ready) if (!slot.rule.isJoint) slot.rule.step([slot], contextOf(slot.lrScale));
    for (const [rule, slots] of groupBy(ready, ({ rule }) => rule))
      if (rule.isJoint)
        for (const [lrScale, alike] of groupBy(slots, (slot) => slot.lrScale)) rule.step(alike, contextOf(lrScale));
    for (const { tensor, master, ema } of this.slots)
      if (ema && !tensor.grad) emaStep(ema, master.dtype === "f32" ? master : cast(master.detach(), "f32"), this.state, emaDecay); // prettier-ignore
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
      if (!own[name])
        throw new ArgumentError(
          `Optimizer.loadStateDict: every name must be one of this optimizer; got "${name}". Load a state of the same parameters and rules.`,
        );
    const isOld = !dict["steps"];
    if (isOld) delete own["steps"];
    for (const [name, into] of Object.entries(own)) {
      const from = dict[name];
      if (from?.shape.join() !== into.shape.join() || (from.dtype === "u32") !== (into.dtype === "u32"))
        throw new ArgumentError(
          `Optimizer.loadStateDict: "${name}" must be ${into}; got ${from ? String(from) : "none"}. Load a state of the same parameters and rules.`,
        );
    }
    scope(() => {
      for (const [name, into] of Object.entries(own))
        if (into.dtype === "u32" && dict[name]!.dtype === "u32") {
          if (dict[name] !== into) copyInto(into, dict[name]!); // bytes, no numbers
        } else if (dict[name] !== into) castInto(into, name === "steps" ? this.stepsOf(dict) : dict[name]!);
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

  /** Sets the step count of every parameter to that in `state`: earlier versions had one count for all. */
  spreadSteps(): void {
    scope(() => {
      const count = this.state.slice(0, ADAMW_STATE.step, ADAMW_STATE.step + 1).reshape([1, 1]);
      copyInto(this.steps.slice(1, 0, 1), expand(count, [this.slots.length, 1]));
    });
  }

  dispose(): void {
    for (const t of [this.state, this.steps]) t.dispose();
    for (const { factors, state } of this.scaled.values()) for (const t of [factors, state]) t.dispose();
    for (const { tensor, master, moments, ema } of this.slots)
      for (const t of [...Object.values(moments), ema, master === tensor ? null : master]) t?.dispose();
  }

  [Symbol.dispose](): void {
    this.dispose();
  }
}

const LOSS_SCALING_OPTIONS = ["initScale", "growthFactor", "backoffFactor", "growthInterval"];

/**
 * The parameters given to an optimizer, each as an object. Throws `ArgumentError` if they are not an array of at least one tensor or `{ tensor, … }`, or
 * one has an option that is not known.
 * @param known options of a parameter besides `name`, `tensor`, `master` and `lrScale`
 */
export function entriesOf<P extends { readonly tensor: Tensor }>(
  op: string,
  parameters: readonly (Tensor | P)[],
  known: readonly string[],
): P[] {
  const help = "Pass model.parameters(), or objects { name, tensor }.";
  if (!Array.isArray(parameters) || parameters.length === 0)
    throw new ArgumentError(
      `${op}: parameters must be an array of at least one tensor; got ${Array.isArray(parameters) ? "an empty array" : shown(parameters)}. ${help}`,
    );
  return parameters.map((p: Tensor | P, i) => {
    const entry = p instanceof Tensor ? ({ tensor: p } as unknown as P) : p; // the other fields of P are optional
    if (!(entry?.tensor instanceof Tensor))
      throw new ArgumentError(`${op}: parameter ${i} must be a tensor or { tensor }; got ${shown(p)}. ${help}`);
    knownOptions(`${op}: parameter ${i}`, entry, ["name", "tensor", "master", "lrScale", ...known]);
    return entry;
  });
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

/** Throws `ArgumentError` if two of the parameters have elements in common: each would be stepped for the other. Parts of one storage may be apart. */
function requireApart(parameters: readonly (readonly [string, Tensor])[]): void {
  const known = new Map<Tensor["storage"], (readonly [string, Tensor])[]>();
  for (const [name, t] of parameters) {
    const others = known.get(t.storage) ?? [];
    const other = others.find(([, o]) => !areApart(o, t));
    if (other)
      throw new ArgumentError(
        `Optimizer: parameters must be different tensors; "${other[0]}" and "${name}" share one storage. Give a tied parameter once, as Module.parameters() does.`,
      );
    known.set(t.storage, [...others, [name, t]]);
  }
}

const areApart = (a: Tensor, b: Tensor): boolean =>
  a.dtype === b.dtype &&
  a.isContiguous &&
  b.isContiguous &&
  (a.offset + a.size <= b.offset || b.offset + b.size <= a.offset);

function checkRate(rate: number): number {
  if (!(rate >= 0 && rate < Infinity))
    throw new ArgumentError(`Optimizer: lr must be a finite number of at least 0; got ${rate}. Change it.`);
  return rate;
}
