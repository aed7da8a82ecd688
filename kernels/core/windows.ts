/** Windows over operands larger than one binding, with the bindings of a launch for each window. */
import { rowWindows } from "../../engine/index.ts";
import type { Bound, Tensor, Window, WindowOperand } from "../../engine/index.ts";

/** Elements of a contiguous tensor, as a launch binds them. */
export type BoundRows = Exclude<Bound, Tensor>;

type Operands = Readonly<Record<string, Tensor | null>>;

export interface OperandWindow<O extends Operands> extends Window {
  /** The window's rows of each operand; null of null. */
  readonly buffers: { readonly [K in keyof O]: null extends O[K] ? BoundRows | null : BoundRows };
}

/**
 * Windows of `rows` rows of contiguous operands, each of which has as many rows (of `size / rows` elements): one in all but the largest
 * cases, none without elements. Operands that every launch binds whole are left out.
 * @param granule windows other than the last have a multiple of this many rows
 */
export function windowsOf<O extends Operands>(op: string, rows: number, operands: O, granule = 1): OperandWindow<O>[] {
  const some: (WindowOperand & { readonly of: Tensor })[] = [];
  for (const name in operands) {
    const of: Tensor | null = operands[name]!;
    if (of) some.push({ of, rowElements: of.size / rows, dtype: of.dtype });
  }
  if (rows === 0 || some.every(({ rowElements }) => rowElements === 0)) return [];
  return rowWindows(some[0]!.of.device, rows, some, granule, op).map(({ start, count }) => {
    const buffers: Record<string, BoundRows | null> = {};
    for (const name in operands) {
      const of: Tensor | null = operands[name]!;
      const width = of ? of.size / rows : 0;
      buffers[name] = of && { of, start: start * width, elements: count * width };
    }
    return { start, count, buffers: buffers as OperandWindow<O>["buffers"] };
  });
}
