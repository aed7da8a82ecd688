/** Opening the device of a command. */
import type { Device, DeviceOptions } from "../engine/device.ts";
import { DeviceError, JanusError, messageOf } from "../engine/errors.ts";
import type { Context } from "./context.ts";

/** Opens the adapter that was asked for, or the fastest one. The caller destroys the device. Throws `DeviceError`, `ArgumentError`. */
export async function createDevice(
  adapter?: string | number,
  options: Pick<DeviceOptions, "tuned" | "memoryBudget"> = {},
): Promise<Device> {
  const { Device: Opened } = await import("../engine/index.ts");
  await import("../kernels/index.ts");
  try {
    return await Opened.create(adapter === undefined ? options : { ...options, adapter });
  } catch (error) {
    throw deviceError(error);
  }
}

/**
 * The same for commands that work with it: warns about a software adapter.
 * @param memoryBudget bytes that tensors may take (default: the engine's)
 */
export async function openDevice(
  adapter: string | number | undefined,
  { out }: Context,
  memoryBudget?: number,
): Promise<Device> {
  const device = await createDevice(adapter, memoryBudget === undefined ? {} : { memoryBudget });
  if (device.capabilities.software) out.warn(softwareWarning(device.name));
  return device;
}

export const softwareWarning = (name: string): string =>
  `${name} is a software adapter: it runs on the CPU; results are correct, but it is much slower than a GPU`;

/** Errors of Dawn and its loader while a device is opened concern the machine; they are not bugs of this package. */
export function deviceError(error: unknown): unknown {
  if (error instanceof JanusError || error instanceof TypeError || error instanceof ReferenceError) return error;
  const message = messageOf(error);
  const wrapped = new DeviceError(`the GPU cannot be opened: ${message}; janus doctor lists the adapters`);
  wrapped.cause = error;
  return wrapped;
}
