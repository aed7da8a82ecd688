/** Constants that live as long as a device: made once, in buffers that no capture recycles. */
import type { Device } from "./device.ts";
import type { DType } from "./dtype.ts";
import { emptyForHost } from "./tensor.ts";
import type { Shape } from "./shape.ts";
import type { Tensor } from "./tensor.ts";

const constants = new WeakMap<Device, Map<string, Tensor>>();

/** What a constant is made of. `bytes` are stored bytes of its dtype. */
export interface ConstantSource {
  readonly shape: Shape;
  readonly dtype: DType;
  readonly bytes: Uint8Array;
}

/**
 * The constant of `device` with the name `key`, made by `make` on the first call. It is the one way to upload host data inside `capture()`: its
 * buffer never holds anything else, so that replays need not write it. It is not counted as live, and nobody disposes it.
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
