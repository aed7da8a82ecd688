/**
 * Windows: how an op walks a tensor larger than one binding. A window is a run of rows that fits a binding for every operand and
 * starts where a binding may start.
 */
import { elementBytes, storageBytes } from "./dtype.ts";
import type { DType } from "./dtype.ts";
import type { Device } from "./device.ts";
import { ShapeError } from "./errors.ts";

/** One operand of a windowed loop: elements that one row takes in it. */
export interface WindowOperand {
  readonly rowElements: number;
  readonly dtype: DType;
}

export interface Window {
  readonly start: number;
  readonly count: number;
}

const gcd = (a: number, b: number): number => (b === 0 ? a : gcd(b, a % b));

/**
 * Splits rows 0 … `rows` − 1 into the fewest windows such that each operand's part fits one binding and starts on the storage alignment.
 * One window when everything fits, as for all but the largest tensors. Leave out operands that fit one binding whole when the kernel
 * takes the offset of the window in them: their alignment would only widen the step.
 * @param granule windows other than the last have a multiple of this many rows
 */
export function rowWindows(
  device: Device,
  rows: number,
  operands: readonly WindowOperand[],
  granule = 1,
  op = "windows",
): Window[] {
  const limit = device.limits.maxStorageBufferBindingSize;
  const align = device.limits.minStorageBufferOffsetAlignment;
  if (operands.every((o) => storageBytes(o.dtype, rows * o.rowElements) <= limit))
    return rows ? [{ start: 0, count: rows }] : [];
  let step = granule;
  let most = Infinity;
  for (const o of operands) {
    const bits = elementBytes(o.dtype, o.rowElements) * 8;
    if (bits === 0) continue;
    const unit = (align * 8) / gcd(align * 8, bits);
    step = (step * unit) / gcd(step, unit);
    most = Math.min(most, Math.floor((limit * 8) / bits));
  }
  const count = Math.floor(most / step) * step;
  if (count < 1) {
    throw new ShapeError(
      `${op}: ${step} rows of ${operands.map((o) => `${o.rowElements} ${o.dtype}`).join(", ")} do not fit one binding of ${limit} bytes; make the last dimension smaller or a multiple of ${align} bytes`,
    );
  }
  const windows: Window[] = [];
  for (let start = 0; start < rows; start += count) windows.push({ start, count: Math.min(count, rows - start) });
  return windows;
}
