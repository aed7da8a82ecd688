/**
 * Launches as plain data, and the only function that records them. The same records are encoded, captured, profiled and
 * counted.
 */
import { DeviceError, DisposedError, KernelError } from "./errors.ts";
import type { Device } from "./device.ts";
import { knownOptions } from "./options.ts";
import { packParams } from "./kernel.ts";
import type { Constants, Kernel, Uses } from "./kernel.ts";
import { Tensor } from "./tensor.ts";
import type { Binding, Cost, Launch, Storage } from "./types.ts";

/** Operand of a launch: a whole contiguous tensor, or a window of `elements` from element `start`. */
export type Bound = Tensor | { readonly of: Tensor; readonly start: number; readonly elements: number };

export interface LaunchOptions<B extends string, P extends string> {
  readonly buffers: Readonly<Record<B, Bound>>;
  readonly params?: Readonly<Record<P, number | readonly number[]>>;
  readonly constants?: Constants;
  readonly use?: Uses;
  readonly grid: readonly [number, number?, number?];
  readonly cost?: Cost;
}

/**
 * Records one launch of `kernel` on the device of its tensors. Tensors must be contiguous; a window must start at a
 * multiple of the device's storage alignment. A launch whose grid contains a zero does nothing. Throws `KernelError`
 * for buffers, parameters or a grid that do not fit.
 */
export function launch<B extends string, P extends string>(kernel: Kernel<B, P>, options: LaunchOptions<B, P>): void {
  checkOptions(kernel, options);
  let device: Device | null = null;
  const bindings: Binding[] = [];
  const read: Storage[] = [];
  const written: Storage[] = [];
  for (const name in kernel.bindings) {
    const bound = options.buffers[name];
    const tensor = bound instanceof Tensor ? bound : bound?.of;
    if (!(tensor instanceof Tensor))
      throw new KernelError(
        `kernel "${kernel.name}": buffer "${name}" must be a tensor, or { of, start, elements }; got ${typeof bound}. Pass it in buffers.`,
      );
    if (tensor.disposed)
      throw new DisposedError(
        `kernel "${kernel.name}": buffer "${name}" must be alive; got ${tensor}. Keep it out of the scope.`,
      );
    device ??= tensor.device;
    if (tensor.device !== device)
      throw new DeviceError(
        `kernel "${kernel.name}": buffers must be on one device, ${device as Device}; got "${name}" on ${tensor.device}. Move it.`,
      );
    if (!tensor.isContiguous)
      throw new KernelError(
        `kernel "${kernel.name}": buffer "${name}" must be contiguous; got ${tensor}. Pass contiguous(x).`,
      );
    bindings.push(
      bound instanceof Tensor ? tensor.binding(0, tensor.size) : tensor.binding(bound.start, bound.elements),
    );
    (kernel.bindings[name] === "read" ? read : written).push(tensor.storage);
  }
  for (const storage of written) {
    if (read.includes(storage))
      throw new KernelError(
        `kernel "${kernel.name}": a launch must not read and write the same storage; got ${storage.label}, ${storage.bytes} bytes, for both. Pass clone(x).`,
      );
  }
  const [x, y = 1, z = 1] = options.grid;
  if (x === 0 || y === 0 || z === 0) return;
  device!.queue.enqueue({
    kernel,
    constants: options.constants,
    uses: options.use,
    bindings,
    params: packParams(kernel, options.params ?? {}),
    grid: [x, y, z],
    cost: options.cost ?? null,
  });
  for (const storage of written) storage.markWritten();
}

const OPTIONS = ["buffers", "params", "constants", "use", "grid", "cost"] as const;

/** Checks for mistakes of plain JavaScript: unknown or missing names, and grids that are not whole numbers. */
function checkOptions(kernel: Kernel, options: LaunchOptions<string, string>): void {
  const op = `kernel "${kernel.name}"`;
  knownOptions(op, options, OPTIONS);
  const { buffers, grid } = options as Partial<LaunchOptions<string, string>>;
  for (const name in kernel.bindings) {
    if (buffers?.[name]) continue;
    const needed = Object.keys(kernel.bindings);
    const missing = needed.filter((other) => !buffers?.[other]);
    throw new KernelError(
      `${op}: buffers must have ${needed.join(", ")}; got none for ${missing.join(", ")}. Pass a tensor for each.`,
    );
  }
  if (!Array.isArray(grid) || grid.length < 1 || grid.length > 3 || !grid.every((n) => Number.isInteger(n) && n! >= 0))
    throw new KernelError(
      `${op}: grid must be one to three whole numbers of at least 0; got ${grid === undefined ? "none" : JSON.stringify(grid)}. Use grid1d(workgroups).`,
    );
}

/**
 * Returns a grid of `groups` workgroups, folded into two dimensions if they exceed one dimension. Kernels get their
 * flat index from `flat_group` of library `grid`, and must guard the tail.
 */
export function grid1d(groups: number, perDimension = 65535): [number, number, number] {
  if (groups <= perDimension) return [groups, 1, 1];
  const y = Math.ceil(groups / perDimension);
  return [Math.ceil(groups / y), y, 1];
}

/** Formats launches without addresses, numbering buffers by first appearance. For golden traces. */
export function traceOf(launches: readonly Launch[]): string[] {
  const names = new Map<Storage, number>();
  return launches.map((l) => {
    const buffers = l.bindings.map((b) => {
      if (!names.has(b.storage)) names.set(b.storage, names.size);
      return `#${names.get(b.storage)}${b.offset ? `+${b.offset}` : ""}:${b.size}`;
    });
    return `${l.label} ${l.pipeline.key} (${buffers.join(" ")}) [${l.params ? [...l.params].join(",") : ""}] ${l.grid.join("×")}`;
  });
}
