/**
 * Common parts of kernels over rows: how many invocations work on a row, operands whose rows split into granules, and
 * bindings of a table with four numbers per row.
 */
import { contiguousStrides, library, sizeOf } from "../../engine/index.ts";
import type { Bound, Capabilities, DType, Library, Tensor } from "../../engine/index.ts";
import { rowLibrary } from "./libraries.ts";
import { contiguousCopy, copy, map } from "./map.ts";
import { bucket, chooseVariant } from "./variants.ts";
import type { Family, Variant } from "./variants.ts";

/** Fills slot `r` of kernels whose rows may be shared. */
export const rowWorkgroup = library("row_workgroup", new URL("./lib/row_workgroup.wgsl", import.meta.url));
const rowSubgroup = library("row_subgroup", new URL("./lib/row_subgroup.wgsl", import.meta.url));
const rowInvocation = library("row_invocation", new URL("./lib/row_invocation.wgsl", import.meta.url));

export interface RowVariant {
  /** Fills slot `r`. */
  readonly library: Library;
  readonly constants: { readonly WORKGROUP: number; readonly LANES: number };
  /** Rows that one workgroup computes. */
  readonly rows: number;
}

/** The subgroup size if it is fixed and fits a workgroup, else 0. */
function fixedSubgroup({ subgroups, limits }: Capabilities): number {
  const [least, most] = subgroups ?? [0, 0];
  return least === most && least > 1 && least <= limits.maxComputeInvocationsPerWorkgroup ? least : 0;
}

const shared = (fills: Library, lanes: number, rows = 1): RowVariant => ({
  library: fills,
  constants: { WORKGROUP: lanes * rows, LANES: lanes },
  rows,
});

/**
 * Who shares a row of some granules: software devices share it in a subgroup, since workgroup memory and barriers cost more there than the row
 * itself; GPUs in a workgroup; short rows are not shared.
 */
const ROWS: readonly Variant<number, RowVariant>[] = [
  {
    name: "invocation",
    preferred: (c, granules) => granules <= 4 || (c.software && !fixedSubgroup(c)),
    choose: () => shared(rowInvocation, 1, 64),
  },
  {
    name: "subgroup",
    runs: (c) => fixedSubgroup(c) > 0,
    preferred: (c) => c.software,
    choose: (c) => shared(rowSubgroup, fixedSubgroup(c)),
  },
  { name: "workgroup", choose: (_, granules) => shared(rowWorkgroup, workgroupSize(granules)) },
];

const rowFamily = (name: string): Family<number, RowVariant> => ({
  name,
  table: ROWS,
  classOf: (granules) => `${bucket(granules)} granules`,
});

/** One table for several families, each of which can be measured and forced by itself. */
export const ROW_FAMILIES = {
  softmax: rowFamily("softmax"),
  rms_norm: rowFamily("rms_norm"),
  layer_norm: rowFamily("layer_norm"),
  group_rows: rowFamily("group_rows"),
  channel_sums: rowFamily("channel_sums"),
} as const;

/** The variant of a family for rows of `granules` granules. */
export const rowVariant = (
  family: keyof typeof ROW_FAMILIES,
  capabilities: Capabilities,
  granules: number,
): RowVariant => chooseVariant(ROW_FAMILIES[family], capabilities, granules);

/** A power of two that gives each invocation about 4 granules, 32 to 256. */
const workgroupSize = (granules: number): number =>
  Math.min(256, Math.max(32, 2 ** Math.floor(Math.log2(Math.max(1, granules / 2)))));

/**
 * Prepares `x` for kernels over rows of `columns` elements: contiguous, and f32 if it has 16-bit rows whose length is
 * not a multiple of 4. Not recorded.
 */
export function rowOperand(x: Tensor, columns: number): Tensor {
  return columns % 4 !== 0 && x.dtype !== "f32" ? map(copy, [x], { dtype: "f32" }) : contiguousCopy(x);
}

/** Granules of a row of `columns` elements. */
export const granulesOf = (columns: number): number => (columns % 4 === 0 ? columns / 4 : columns);

/** Returns the libraries for operands with rows of `columns` elements: slot → tensor. */
export function rowUses(columns: number, operands: Readonly<Record<string, Tensor>>): Record<string, Library | DType> {
  return Object.fromEntries(Object.entries(operands).map(([slot, t]) => [slot, rowLibrary(t.dtype, columns)]));
}

/** [rows, columns] sizes of a tensor seen as rows of its last dimension. */
export function rowsOf(x: Tensor): { rows: number; columns: number } {
  const columns = x.shape.at(-1)!;
  return { rows: sizeOf(x.shape.slice(0, -1)), columns };
}

/** Rows `start` … of `table` [rows, 4] f32, bound from an aligned row at or before `start`; `base` is the distance to it. */
export function tableRows(table: Tensor, start: number, count: number): { bound: Bound; base: number } {
  const base = start % (table.device.limits.minStorageBufferOffsetAlignment / 16);
  return { bound: { of: table, start: 4 * (start - base), elements: 4 * (count + base) }, base };
}

/** A contiguous view of `t` with another shape. */
export const viewAs = (t: Tensor, shape: readonly number[], offset = t.offset): Tensor =>
  t.strided(shape, contiguousStrides(shape), offset);
