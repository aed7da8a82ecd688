/**
 * The AdamW update in place, from a state that lives in a GPU buffer, so that a captured training step replays. One launch a tensor:
 * WebGPU's eight bindings hold one parameter with its moments, gradient and 16-bit copy.
 */
import { ArgumentError, DTypeError, ShapeError, checkTensors, elementBytes, empty, grid1d, kernel, launch, rowWindows, sameShape, scope, storageBytes, tensor } from "../engine/index.ts";
import type { Device, Tensor } from "../engine/index.ts";
import { contiguousCopy } from "./map.ts";

const prepareKernel = kernel("adamw_prepare", new URL("./adamw_prepare.wgsl", import.meta.url), { clip: "read", state: "read_write" }, { log_beta1: "f32", log_beta2: "f32" });

const updateKernel = kernel(
  "adamw",
  new URL("./adamw.wgsl", import.meta.url),
  { p: "read_write", m: "read_write", v: "read_write", g: "read", copy: "write", state: "read" },
  { elements: "u32", rest1: "f32", rest2: "f32", epsilon: "f32", decay: "f32" },
);

/** Where in the state its values are: f32 [8]. */
export const ADAMW_STATE = { step: 0, lr: 1, correction1: 2, correction2: 3, factor: 4, skip: 5, skipped: 6 } as const;

/** The state of an optimizer before its first step. */
export function adamwState(lr: number, device?: Device): Tensor {
  return tensor(Float32Array.of(0, lr, 0, 0, 1, 0, 0, 0), device ? { device } : {});
}

export interface AdamWBetas {
  readonly beta1?: number;
  readonly beta2?: number;
}

/**
 * Begins a step: counts it and computes its bias corrections, in place in `state` (f32 [8], from `adamwState`).
 * @param clip what `clipScale` gives: multiplies all gradients; where it says "not finite" the step is skipped and not counted
 */
export function adamwPrepare(state: Tensor, clip: Tensor | null, { beta1 = 0.9, beta2 = 0.999 }: AdamWBetas = {}): void {
  checkTensors("adamwPrepare", state, clip);
  for (const beta of [beta1, beta2]) if (!(beta > 0 && beta < 1)) throw new ArgumentError(`adamwPrepare: β ${beta}; between 0 and 1`);
  if (state.dtype !== "f32" || state.size !== 8) throw new ShapeError(`adamwPrepare: the state ${state} is not f32 [8]; make it by adamwState`);
  if (clip && (clip.dtype !== "f32" || clip.size !== 2)) throw new ShapeError(`adamwPrepare: clip ${clip} is not f32 [2]; make it by clipScale`);
  scope(() => {
    launch(prepareKernel, {
      constants: { CLIP: clip !== null },
      buffers: { clip: clip ? contiguousCopy(clip) : empty([2], { device: state.device }), state },
      params: { log_beta1: Math.log(beta1), log_beta2: Math.log(beta2) },
      grid: [1],
      cost: { flops: 50, bytes: 40 },
    });
  });
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
}

export interface AdamWSettings extends AdamWBetas {
  readonly epsilon?: number;
  /** Decoupled weight decay: p loses learning rate · decay · p a step. */
  readonly weightDecay?: number;
}

/**
 * One AdamW update of one parameter, in place, with the step that `adamwPrepare` began in `state`.
 * Loshchilov and Hutter, "Decoupled weight decay regularization" (2019). Arithmetic is f32.
 */
export function adamwStep(tensors: AdamWTensors, state: Tensor, settings: AdamWSettings = {}): void {
  const { master, m, v, grad, copy = null } = tensors;
  checkTensors("adamwStep", master, m, v, grad, copy, state);
  const { beta1 = 0.9, beta2 = 0.999, epsilon = 1e-8, weightDecay = 0 } = settings;
  if (!(epsilon > 0) || !(weightDecay >= 0)) throw new ArgumentError(`adamwStep: ε ${epsilon}, weight decay ${weightDecay}; ε > 0, decay ≥ 0`);
  for (const t of [master, m, v, grad]) {
    if (t.dtype !== "f32") throw new DTypeError(`adamwStep: ${t} is not f32; only the copy may be of 16 bits`);
    if (!sameShape(t.shape, master.shape)) throw new ShapeError(`adamwStep: ${t} for a parameter ${master}; master, m, v and gradient have one shape`);
  }
  if (copy && ((copy.dtype !== "f16" && copy.dtype !== "bf16") || !sameShape(copy.shape, master.shape))) {
    throw new DTypeError(`adamwStep: copy ${copy} of ${master}; f16 or bf16 of the same shape`);
  }
  for (const t of [master, m, v, copy]) {
    // The last granule is written whole: what is behind the tensor must be padding.
    if (t && (!t.isBindable || (t.size % 4 !== 0 && t.storage.bytes !== storageBytes(t.dtype, t.size)))) {
      throw new ArgumentError(`adamwStep: ${t} is a view that cannot be written in granules of 4; use a tensor with a storage of its own`);
    }
  }
  scope(() => {
    const from = contiguousCopy(grad);
    const spare = copy ?? empty([4], { dtype: "bf16", device: master.device });
    const operands = [{ rowElements: 1, dtype: "f32" as const }, { rowElements: 1, dtype: spare.dtype }];
    for (const { start, count } of rowWindows(master.device, master.size, operands, 1, "adamwStep")) {
      const of = (t: Tensor): { of: Tensor; start: number; elements: number } => ({ of: t, start, elements: count });
      launch(updateKernel, {
        use: { c: spare.dtype },
        constants: { COPY: copy !== null },
        buffers: { p: of(master), m: of(m), v: of(v), g: of(from), copy: copy ? of(copy) : spare, state },
        params: { elements: count, rest1: 1 - beta1, rest2: 1 - beta2, epsilon, decay: weightDecay },
        grid: grid1d(Math.ceil(count / 512)),
        cost: { flops: 16 * count, bytes: 28 * count + (copy ? elementBytes(copy.dtype, count) : 0) },
      });
    }
  });
}
