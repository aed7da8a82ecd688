/** Whether a device can have a model, known from the headers of its files. */
import { DeviceError } from "../../engine/index.ts";
import type { Device } from "../../engine/index.ts";
import type { Checkpoint } from "./checkpoint/checkpoint.ts";
import { inspect } from "./checkpoint/inspect.ts";
import { isQuantizable } from "./checkpoint/expected.ts";
import { mainDType } from "./checkpoint/side_files.ts";
import type { LoadOptions } from "./load.ts";

const mb = (bytes: number): string => `${Math.ceil(bytes / 1e6).toLocaleString("en")} MB`;
const elementsOf = (shape: readonly number[]): number => shape.reduce((a, b) => a * b, 1);
/** Bytes of an element of a quantised weight, scales included: no less than what it takes. */
const QUANTIZED_BYTES = { int8: 1.25, int4: 0.75 } as const;

/**
 * Throws `DeviceError` with the numbers if a tensor is larger than the device's largest buffer, or if model, caches and one image do not fit its memory
 * budget. Bindings are no limit: ops walk through a tensor in windows.
 */
export function requireFit(
  op: string,
  checkpoint: Checkpoint,
  device: Device,
  { quantize, dtype, cacheDType = "f32" }: Pick<LoadOptions, "quantize" | "dtype" | "cacheDType">,
): void {
  const kind = checkpoint.quantization ?? quantize;
  const wide = (dtype ?? mainDType(checkpoint)) === "f32" ? 4 : 2;
  const { maxBufferSize } = device.limits;
  for (const [name, { shape }] of checkpoint.parameters) {
    const bytes = elementsOf(shape) * (kind && isQuantizable(name) ? QUANTIZED_BYTES[kind] : wide);
    if (bytes > maxBufferSize)
      throw new DeviceError(
        `${op}: the device must have buffers of ${mb(bytes)} for ${name} of ${checkpoint.name}; got maxBufferSize of ${mb(maxBufferSize)} (${device.name}). Use another adapter, or a smaller model.`,
      );
  }
  const { needs, parameters } = inspect(checkpoint);
  const weights = kind ? needs.quantizedBytes[kind] : parameters * wide;
  const bytes = weights + needs.imageCacheBytes[cacheDType] + needs.decoderBytes;
  const { budget, stats } = device.pool;
  if (bytes + stats.liveBytes > budget)
    throw new DeviceError(
      `${op}: the device must have ${mb(bytes)} for ${checkpoint.name} (weights ${mb(weights)}); got a memory budget of ${mb(budget)}, ${mb(stats.liveBytes)} of it in use (${device.name}). ${kind === "int4" ? "" : 'Pass quantize: "int4", '}${kind === "int4" ? "Use" : "use"} another adapter, or a smaller model.`,
    );
}
