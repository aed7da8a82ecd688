/** The tensors that a module owns: parameters, which training changes, and buffers, which forward changes. */
import { AutogradError, Tensor } from "../../engine/index.ts";

/** A tensor that a module owns and that training changes. It lives until the module is disposed. */
export class Parameter extends Tensor {
  /** Takes over the values of `data`, which may be disposed. */
  constructor(data: Tensor, requiresGrad = true) {
    super(data.storage.retain(), data.shape, data.dtype, data.strides, data.offset);
    this.keep();
    this.requiresGrad = requiresGrad;
  }
}

/**
 * A tensor that a module owns and that no optimizer changes, e.g. running statistics. It is in the state dict, is saved, loaded and disposed with the
 * module, and is not among its parameters.
 */
export class Buffer extends Tensor {
  /** Takes over the values of `data`, which may be disposed. */
  constructor(data: Tensor) {
    super(data.storage.retain(), data.shape, data.dtype, data.strides, data.offset);
    this.keep();
  }

  override get requiresGrad(): boolean {
    return false;
  }

  /** Throws `AutogradError` for true. */
  override set requiresGrad(value: boolean) {
    if (value)
      throw new AutogradError(`requiresGrad: ${this} is a buffer, which has no gradient. Use a Parameter to train it.`);
  }
}

export type Owned = Parameter | Buffer;

export const isOwned = (value: unknown): value is Owned => value instanceof Parameter || value instanceof Buffer;
