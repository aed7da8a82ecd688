/** Constants that live as long as their device: made once, in buffers that no capture reuses. */
import type { Device } from "./device.ts";
import type { DType } from "./dtype.ts";
import { emptyForHost } from "./tensor.ts";
import type { Shape } from "./shape.ts";
import type { Tensor } from "./tensor.ts";

const constants = new WeakMap<Device, Map<string, Tensor>>();

/** Contents of a constant. `bytes` are the stored bytes of its dtype. */
export interface ConstantSource {
  readonly shape: Shape;
  readonly dtype: DType;
  readonly bytes: Uint8Array;
}

/**
 * Returns the constant of `device` with the name `key`; `make` creates it on the first call. This is the only way to
 * upload host data inside `capture()`: the buffer is never reused, so replays need not write it. The tensor is not
 * counted as live and is not disposed by callers.
 */
export function deviceConstant(device: Device, key: string, make: () => ConstantSource): Tensor {
  const own = constants.get(device) ?? new Map<string, Tensor>();
  constants.set(device, own);
  const known = own.get(key);
  if (known) return known;
  const { shape, dtype, bytes } = make();
  const constant = device.pool.outsideCaptures(() => emptyForHost(shape, { dtype, device, label: key }).escape());
  constant.storage.markConstant();
  device.queue.upload(constant.storage.live(), 0, bytes);
  device.pool.exempt(constant.storage.bytes, key);
  own.set(key, constant);
  return constant;
}
