/**
 * Windows: parts of tensors that are larger than one binding. A window is a range of rows that fits a binding for every
 * operand and starts where a binding may start.
 */
import { elementBytes, storageBytes } from "./dtype.ts";
import type { DType } from "./dtype.ts";
import type { Device } from "./device.ts";
import { ShapeError } from "./errors.ts";

/** One operand of a windowed loop, with its elements per row. */
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
 * Splits rows 0 … `rows` − 1 into the fewest windows for which each operand's part fits one binding and starts at a
 * multiple of the storage alignment. All but the largest tensors need one window. Leave out operands that fit one
 * binding as a whole if the kernel takes the offset of the window: their alignment would only increase the step. Throws
 * `ShapeError` if a step does not fit.
 * @param granule the number of rows of all windows except the last is a multiple of this
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
      `${op}: ${step} rows must fit one binding of ${limit} bytes; got rows of ${operands.map((o) => `${o.rowElements} ${o.dtype}`).join(", ")}. Make the last dimension smaller, or a multiple of ${align} bytes.`,
    );
  }
  const windows: Window[] = [];
  for (let start = 0; start < rows; start += count) windows.push({ start, count: Math.min(count, rows - start) });
  return windows;
}
