/**
 * The AdamW update in place, from a state in a GPU buffer, so that a captured training step can be replayed. One launch
 * per tensor: WebGPU's eight bindings hold one parameter with its moments, gradient, 16-bit copy, moving average and
 * step count.
 */
import {
  ArgumentError,
  DTypeError,
  ShapeError,
  checkTensors,
  elementBytes,
  empty,
  grid1d,
  kernel,
  launch,
  sameShape,
  scope,
  storageBytes,
  tensor,
  knownOptions,
} from "../../engine/index.ts";
import type { Device, Tensor } from "../../engine/index.ts";
import { complement, grid, standard } from "../core/libraries.ts";
import { contiguousCopy } from "../core/map.ts";
import { windowsOf } from "../core/windows.ts";

const prepareKernel = kernel(
  "adamw_prepare",
  new URL("./adamw_prepare.wgsl", import.meta.url),
  { norm: "read", watched: "read", state: "read_write" },
  { log_beta1: "f32", log_beta2: "f32", most: "f32", growth: "f32", backoff: "f32", interval: "f32", watched: "u32" },
  [complement],
);

const updateKernel = kernel(
  "adamw",
  new URL("./adamw.wgsl", import.meta.url),
  {
    p: "read_write",
    m: "read_write",
    v: "read_write",
    g: "read",
    copy: "write",
    ema: "read_write",
    state: "read",
    steps: "read",
  },
  { elements: "u32", rest1: "f32", rest2: "f32", epsilon: "f32", decay: "f32", fresh: "f32", row: "u32" },
  standard,
);

const countKernel = kernel(
  "adamw_count",
  new URL("./adamw_count.wgsl", import.meta.url),
  { state: "read", steps: "read_write" },
  { first: "u32", count: "u32", log_beta1: "f32", log_beta2: "f32" },
  [grid, complement],
);

const emaKernel = kernel(
  "ema",
  new URL("./ema.wgsl", import.meta.url),
  { average: "read_write", p: "read", state: "read" },
  { elements: "u32", fresh: "f32" },
  [grid],
);

/** Offsets of the values in the state, f32 [12]. The corrections are those of `step`. `norm` is that of the unscaled gradients, of no meaning if `skip` is 1. */
export const ADAMW_STATE = {
  step: 0,
  lr: 1,
  correction1: 2,
  correction2: 3,
  factor: 4,
  skip: 5,
  skipped: 6,
  norm: 7,
  scale: 8,
  good: 9,
} as const;

/** The state of an optimizer before its first step; losses are to be multiplied by `scale`. */
export function adamwState(lr: number, options: { readonly scale?: number; readonly device?: Device } = {}): Tensor {
  knownOptions("adamwState", options, ["scale", "device"]);
  const { scale = 1, device } = options;
  return tensor(Float32Array.of(0, lr, 0, 0, 1, 0, 0, 0, scale, 0, 0, 0), device ? { device } : {});
}

export interface AdamWBetas {
  readonly beta1?: number;
  readonly beta2?: number;
}

/** Updates of the loss scale, with the names of PyTorch's `GradScaler`. */
export interface LossScaling {
  /** Factor of the scale after `growthInterval` consecutive steps with finite gradients: 2. */
  readonly growthFactor?: number;
  /** Factor after a step with gradients that were not finite: 0.5. The scale does not fall below 1. */
  readonly backoffFactor?: number;
  /** 2000. */
  readonly growthInterval?: number;
}

/** `initScale` is of optimizers, which begin the state with it and hand on the whole of their option. */
const LOSS_SCALING = ["growthFactor", "backoffFactor", "growthInterval", "initScale"] as const;

export interface AdamWPrepareSettings extends AdamWBetas {
  /** Gradients are scaled down together to at most this norm, by min(1, maxNorm / (norm + 1e-6)); the default is no bound. */
  readonly maxNorm?: number;
  /** Without it the scale is constant. */
  readonly lossScaling?: LossScaling | null;
  /** f32 of any shape, such as losses: if one of them is not finite the step is skipped too. */
  readonly watched?: Tensor | null;
}

/**
 * Begins a step: counts it, computes its bias corrections and the factor that undoes the scale of the losses and clips, and moves that
 * scale, all in place in `state` (f32 [12], from `adamwState`).
 * @param norm of the scaled gradients, what `globalGradNorm` gives (f32 [1]); if it is not finite the step is skipped and not counted
 */
export function adamwPrepare(state: Tensor, norm: Tensor | null, settings: AdamWPrepareSettings = {}): void {
  knownOptions("adamwPrepare", settings, ["beta1", "beta2", "maxNorm", "lossScaling", "watched"]);
  knownOptions("adamwPrepare", settings.lossScaling ?? {}, LOSS_SCALING);
  const { beta1 = 0.9, beta2 = 0.999, maxNorm = Infinity, lossScaling = null, watched = null } = settings;
  const { growthFactor = 2, backoffFactor = 0.5, growthInterval = 2000 } = lossScaling ?? {};
  checkTensors("adamwPrepare", state, norm, watched);
  checkBetas("adamwPrepare", beta1, beta2);
  if (!(maxNorm > 0)) throw new ArgumentError(`adamwPrepare: maxNorm must be above 0; got ${maxNorm}. Change it.`);
  if (
    !(
      growthFactor >= 1 &&
      growthFactor < Infinity &&
      backoffFactor > 0 &&
      backoffFactor <= 1 &&
      Number.isInteger(growthInterval) &&
      growthInterval >= 1
    )
  ) {
    throw new ArgumentError(
      `adamwPrepare: growthFactor must be ≥ 1, growthInterval a whole number ≥ 1, backoffFactor in (0, 1]; got ${growthFactor}, ${growthInterval} and ${backoffFactor}. Change them.`,
    );
  }
  checkState("adamwPrepare", state);
  if (norm && (norm.dtype !== "f32" || norm.size !== 1))
    throw new DTypeError(
      `adamwPrepare: the norm must be one f32 element; got ${norm}. Pass the result of globalGradNorm.`,
    );
  if (watched && watched.dtype !== "f32")
    throw new DTypeError(`adamwPrepare: the watched tensor must be f32; got ${watched}. Cast it.`);
  scope(() => {
    const unused = (): Tensor => empty([1], { device: state.device });
    launch(prepareKernel, {
      constants: { NORM: norm !== null, SCALING: lossScaling !== null },
      buffers: {
        norm: norm ? contiguousCopy(norm) : unused(),
        watched: watched ? contiguousCopy(watched) : unused(),
        state,
      },
      // The largest f32 divided by any norm below 1e38 is above 1 or clipped at a norm that is no longer a norm.
      params: {
        log_beta1: Math.log(beta1),
        log_beta2: Math.log(beta2),
        most: Math.min(maxNorm, 3.4e38),
        growth: growthFactor,
        backoff: backoffFactor,
        interval: growthInterval,
        watched: watched?.size ?? 0,
      },
      grid: [1],
      cost: { flops: 60, bytes: 100 },
    });
  });
}

function checkBetas(op: string, ...betas: readonly number[]): void {
  for (const beta of betas)
    if (!(beta > 0 && beta < 1)) throw new ArgumentError(`${op}: β must be between 0 and 1; got ${beta}. Change it.`);
}

function checkState(op: string, state: Tensor): void {
  if (state.dtype !== "f32" || state.size !== 12)
    throw new ShapeError(`${op}: the state must be f32 [12]; got ${state}. Create it with adamwState.`);
}

/** Throws if `steps` is not a table for `adamwCount`, or has no rows `first` to `first + count − 1`. */
export function checkSteps(op: string, steps: Tensor, first: number, count: number): void {
  if (steps.dtype !== "f32" || steps.rank !== 2 || steps.dim(1) !== 3 || !steps.isBindable)
    throw new ShapeError(
      `${op}: steps must be f32 [parameters, 3] with its own storage; got ${steps}. Create it with zeros.`,
    );
  if (!Number.isInteger(first) || !Number.isInteger(count) || first < 0 || count < 0 || first + count > steps.dim(0))
    throw new ArgumentError(
      `${op}: the rows must be in steps, which has ${steps.dim(0)}; got ${first} to ${first + count - 1} of ${steps}. Make steps larger.`,
    );
}

/**
 * Counts the step that `adamwPrepare` began in `state` for parameters `first` to `first + count − 1`, those that have a gradient, in place in their
 * rows of `steps`: f32 [parameters, 3], step count and bias corrections of each, zeros at the start. A skipped step is not counted.
 */
export function adamwCount(steps: Tensor, state: Tensor, first: number, count: number, betas: AdamWBetas = {}): void {
  knownOptions("adamwCount", betas, ["beta1", "beta2"]);
  const { beta1 = 0.9, beta2 = 0.999 } = betas;
  checkTensors("adamwCount", steps, state);
  checkBetas("adamwCount", beta1, beta2);
  checkState("adamwCount", state);
  checkSteps("adamwCount", steps, first, count);
  launch(countKernel, {
    buffers: { state, steps },
    params: { first, count, log_beta1: Math.log(beta1), log_beta2: Math.log(beta2) },
    grid: grid1d(Math.ceil(count / 64)),
    cost: { flops: 40 * count, bytes: 24 * count },
  });
}

/**
 * Updates the average of a parameter that a step does not change: average ← emaDecay · average + (1 − emaDecay) ·
 * parameter, both f32 of one shape, unless the step that `adamwPrepare` began in `state` is skipped.
 */
export function emaStep(average: Tensor, parameter: Tensor, state: Tensor, emaDecay: number): void {
  checkTensors("emaStep", average, parameter, state);
  checkState("emaStep", state);
  checkStep("emaStep", { master: parameter, m: average, grad: average }, state, { emaDecay });
  for (const { count, buffers } of windowsOf("emaStep", average.size, { average, p: parameter })) {
    launch(emaKernel, {
      buffers: { ...buffers, state },
      params: { elements: count, fresh: 1 - emaDecay },
      grid: grid1d(Math.ceil(count / 512)),
      cost: { flops: 3 * count, bytes: 12 * count },
    });
  }
}

export interface AdamWTensors {
  /** The parameter in f32, updated in place. */
  readonly master: Tensor;
  /** Means of the gradient and of its square, f32 of the parameter's shape, updated in place; zeros at the start. */
  readonly m: Tensor;
  readonly v: Tensor;
  readonly grad: Tensor;
  /** The parameter in f16 or bf16, written in the same pass. */
  readonly copy?: Tensor | null;
  /** Moving average of the parameter, f32 of its shape, moved in the same pass: ema ← emaDecay · ema + (1 − emaDecay) · parameter. */
  readonly ema?: Tensor | null;
  /** The parameter's own step count: its row of a table that `adamwCount` moves. Without it the count is that of `state`. */
  readonly steps?: { readonly table: Tensor; readonly row: number } | null;
}

export interface AdamWSettings extends AdamWBetas {
  readonly epsilon?: number;
  /** Decoupled weight decay: p loses learning rate · decay · p a step. */
  readonly weightDecay?: number;
  /** Decay of `ema`, from 0 to 1. */
  readonly emaDecay?: number;
}

/** Names of `AdamWTensors`. */
export const STEP_TENSORS = [
  "master",
  "m",
  "v",
  "grad",
  "copy",
  "ema",
  "steps",
] as const satisfies readonly (keyof AdamWTensors)[];

/** Checks the tensors of an optimizer step: f32 of the same shape (except the copy), and storages that can be written in granules of 4. */
export function checkStep(
  op: string,
  tensors: Omit<AdamWTensors, "m" | "v"> & { readonly m?: Tensor | null; readonly v?: Tensor },
  state: Tensor,
  { emaDecay = 0 }: AdamWSettings,
): void {
  const { master, m, v, grad, copy = null, ema = null } = tensors;
  checkTensors(op, master, m ?? null, v ?? null, grad, copy, ema, state);
  checkState(op, state);
  if (!(emaDecay >= 0 && emaDecay <= 1))
    throw new ArgumentError(`${op}: emaDecay must be from 0 to 1; got ${emaDecay}. Change it.`);
  for (const t of [master, m, v, grad, ema]) {
    if (t && t.dtype !== "f32")
      throw new DTypeError(
        `${op}: master, moments, gradient and average must be f32; got ${t}. Only the copy may have a 16-bit dtype.`,
      );
    if (t && !sameShape(t.shape, master.shape))
      throw new ShapeError(
        `${op}: master, moments, gradient and average must have the same shape; got ${t} for a parameter ${master}. Change one of them.`,
      );
  }
  if (copy && ((copy.dtype !== "f16" && copy.dtype !== "bf16") || !sameShape(copy.shape, master.shape))) {
    throw new DTypeError(
      `${op}: copy must be f16 or bf16 with the shape of the parameter; got ${copy} for ${master}. Change it.`,
    );
  }
  for (const t of [master, m, v, copy, ema]) {
    // The last granule is written completely: after the tensor there must be padding.
    if (t && (!t.isBindable || (t.size % 4 !== 0 && t.storage.bytes !== storageBytes(t.dtype, t.size)))) {
      throw new ArgumentError(
        `${op}: tensors that are written must consist of whole granules of 4 elements; got ${t}, a view. Use a tensor with its own storage.`,
      );
    }
  }
}

/**
 * One AdamW update of one parameter, in place, with the step that `adamwPrepare` began in `state` (and `adamwCount` counted, with `steps`).
 * Loshchilov and Hutter, "Decoupled weight decay regularization" (2019). Arithmetic is f32.
 */
export function adamwStep(tensors: AdamWTensors, state: Tensor, settings: AdamWSettings = {}): void {
  knownOptions("adamwStep tensors", tensors, STEP_TENSORS);
  const { master, m, v, grad, copy = null, ema = null, steps = null } = tensors;
  checkTensors("adamwStep", master, m, v, grad);
  knownOptions("adamwStep", settings, ["beta1", "beta2", "epsilon", "weightDecay", "emaDecay"]);
  const { beta1 = 0.9, beta2 = 0.999, epsilon = 1e-8, weightDecay = 0, emaDecay = 0 } = settings;
  if (!(epsilon >= 1e-37) || !(weightDecay >= 0))
    throw new ArgumentError(
      `adamwStep: ε must be ≥ 1e-37 (less is 0 in f32) and weightDecay ≥ 0; got ${epsilon} and ${weightDecay}. Change them.`,
    );
  checkStep("adamwStep", tensors, state, settings);
  if (steps) checkSteps("adamwStep", steps.table, steps.row, 1);
  scope(() => {
    const from = contiguousCopy(grad);
    const spare = copy ?? empty([4], { dtype: "bf16", device: master.device });
    const unused = ema ?? empty([4], { device: master.device });
    const none = empty([4], { device: master.device });
    const operands = { p: master, m, v, g: from, copy, ema };
    for (const { count, buffers } of windowsOf("adamwStep", master.size, operands)) {
      launch(updateKernel, {
        use: { c: spare.dtype },
        constants: { COPY: copy !== null, EMA: ema !== null, OWN: steps !== null },
        buffers: {
          ...buffers,
          copy: buffers.copy ?? spare,
          ema: buffers.ema ?? unused,
          state,
          steps: steps?.table ?? none,
        },
        params: {
          elements: count,
          rest1: 1 - beta1,
          rest2: 1 - beta2,
          epsilon,
          decay: weightDecay,
          fresh: 1 - emaDecay,
          row: steps?.row ?? 0,
        },
        grid: grid1d(Math.ceil(count / 512)),
        cost: {
          flops: (ema ? 19 : 16) * count,
          bytes: (ema ? 36 : 28) * count + (copy ? elementBytes(copy.dtype, count) : 0),
        },
      });
    }
  });
}
