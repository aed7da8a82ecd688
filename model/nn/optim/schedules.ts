/** Learning-rate schedules: pure functions of the step. `optimizer.lr = schedule(step)` before a step, also before a captured one. */
import { ArgumentError, knownOptions } from "../../../engine/index.ts";

/** The learning rate of a step, counted from 0. */
export type Schedule = (step: number) => number;

export interface WarmupOptions {
  /** The highest learning rate. */
  readonly lr: number;
  /** Steps in which the rate rises linearly to `lr` (default: 0); the first has lr / warmup. */
  readonly warmup?: number;
}

export interface ConstantScheduleOptions extends WarmupOptions {
  /** Last steps, in which the rate falls linearly towards 0 (default: 0). Needs `steps`. */
  readonly cooldown?: number;
  /** Steps of the run. */
  readonly steps?: number;
}

export interface DecayScheduleOptions extends WarmupOptions {
  /** Steps of the run, warm-up included. From there on the rate is `end`. */
  readonly steps: number;
  /** Rate behind the last step (default: 0). */
  readonly end?: number;
}

/** Warm-up, a constant learning rate, and a linear decay over the last `cooldown` steps; the last step has lr / (cooldown + 1). */
export function constantSchedule(options: ConstantScheduleOptions): Schedule {
  knownOptions("constantSchedule", options, ["lr", "warmup", "cooldown", "steps"]);
  const { lr, warmup = 0, cooldown = 0, steps = Infinity } = options;
  checkRates("constantSchedule", { lr });
  checkSteps("constantSchedule", { warmup, cooldown, ...(steps !== Infinity && { steps }) });
  if (cooldown > 0 && steps === Infinity)
    throw new ArgumentError(
      `constantSchedule: steps must be given with cooldown ${cooldown}; got none. Pass the steps of the run.`,
    );
  return (step) => {
    const rate = warm(lr, warmup, step);
    const left = Math.max(0, steps - step);
    return left <= cooldown ? (rate * left) / (cooldown + 1) : rate;
  };
}

/** Warm-up, then a linear decay to `end`. Without warm-up it equals torch.optim.lr_scheduler.LinearLR. */
export const linearSchedule = (options: DecayScheduleOptions): Schedule =>
  decay("linearSchedule", options, (progress) => 1 - progress);

/**
 * Warm-up, then a cosine decay to `end`. Without warm-up it equals torch.optim.lr_scheduler.CosineAnnealingLR.
 * Loshchilov and Hutter 2017.
 */
export const cosineSchedule = (options: DecayScheduleOptions): Schedule =>
  decay("cosineSchedule", options, (progress) => (1 + Math.cos(Math.PI * progress)) / 2);

const warm = (lr: number, warmup: number, step: number): number => (step < warmup ? (lr * (step + 1)) / warmup : lr);

/** @param share share of lr − end that is left when `progress` (0 to 1) of the steps behind the warm-up are done */
function decay(op: string, options: DecayScheduleOptions, share: (progress: number) => number): Schedule {
  knownOptions(op, options, ["lr", "warmup", "steps", "end"]);
  const { lr, warmup = 0, steps, end = 0 } = options;
  checkRates(op, { lr, end });
  checkSteps(op, { warmup, steps });
  if (warmup >= steps)
    throw new ArgumentError(`${op}: warmup must be below steps; got ${warmup} of ${steps}. Shorten the warm-up.`);
  return (step) => {
    if (step < warmup) return warm(lr, warmup, step);
    return step >= steps ? end : end + (lr - end) * share((step - warmup) / (steps - warmup));
  };
}

function checkRates(op: string, rates: Readonly<Record<string, number>>): void {
  for (const [name, rate] of Object.entries(rates))
    if (!(rate >= 0 && rate < Infinity))
      throw new ArgumentError(`${op}: ${name} must be a finite number of at least 0; got ${String(rate)}. Change it.`);
}

function checkSteps(op: string, counts: Readonly<Record<string, number>>): void {
  for (const [name, count] of Object.entries(counts))
    if (!Number.isInteger(count) || count < 0)
      throw new ArgumentError(`${op}: ${name} must be a whole number of at least 0; got ${String(count)}. Change it.`);
}
