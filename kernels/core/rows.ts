/**
 * What kernels over rows share: how many invocations work on a row, operands whose rows split into granules, and bindings of a
 * table with four numbers a row.
 */
import { contiguousStrides, library, sizeOf } from "../../engine/index.ts";
import type { Bound, Capabilities, DType, Library, Tensor } from "../../engine/index.ts";
import { rowLibrary } from "./libraries.ts";
import { contiguousCopy, copy, map } from "./map.ts";
import { forcedVariant } from "./variants.ts";

/** Fills slot `r` of kernels whose rows may be shared. */
export const rowWorkgroup = library("row_workgroup", new URL("./lib/row_workgroup.wgsl", import.meta.url));
const rowSubgroup = library("row_subgroup", new URL("./lib/row_subgroup.wgsl", import.meta.url));
const rowInvocation = library("row_invocation", new URL("./lib/row_invocation.wgsl", import.meta.url));

/** Who shares a row: all invocations of a workgroup, those of a subgroup (no workgroup memory), or none. */
export const ROW_VARIANTS = ["workgroup", "subgroup", "invocation"] as const;
type RowVariantName = (typeof ROW_VARIANTS)[number];

export interface RowVariant {
  /** Fills slot `r`. */
  readonly library: Library;
  readonly constants: { readonly WORKGROUP: number; readonly LANES: number };
  /** Rows that one workgroup computes. */
  readonly rows: number;
}

/**
 * The variant of family `family` for rows of `granules` granules. Software devices share a row in a subgroup, since workgroup memory and
 * barriers cost more there than the row itself; GPUs in a workgroup; short rows are not shared. A forced variant that the device cannot
 * run (subgroups of a size that varies) gives way to the default.
 */
export function rowVariant(family: string, capabilities: Capabilities, granules: number): RowVariant {
  const [least, most] = capabilities.subgroups ?? [0, 0];
  const fixed = least === most && least > 1 && least <= capabilities.limits.maxComputeInvocationsPerWorkgroup;
  const shared = capabilities.software ? (fixed ? "subgroup" : "invocation") : "workgroup";
  const forced = forcedVariant(family) as RowVariantName | undefined;
  const name = forced && (forced !== "subgroup" || fixed) ? forced : granules <= 4 ? "invocation" : shared;
  const lanes = { workgroup: workgroupSize(granules), subgroup: least, invocation: 1 }[name];
  const workgroup = name === "invocation" ? 64 : lanes;
  const fills = { workgroup: rowWorkgroup, subgroup: rowSubgroup, invocation: rowInvocation }[name];
  return { library: fills, constants: { WORKGROUP: workgroup, LANES: lanes }, rows: workgroup / lanes };
}

/** A power of two that gives each invocation about 4 granules, 32 to 256. */
const workgroupSize = (granules: number): number =>
  Math.min(256, Math.max(32, 2 ** Math.floor(Math.log2(Math.max(1, granules / 2)))));

/** `x` as kernels over rows of `columns` elements bind it: contiguous, and f32 where 16-bit rows would not split into fours. Not recorded. */
export function rowOperand(x: Tensor, columns: number): Tensor {
  return columns % 4 !== 0 && x.dtype !== "f32" ? map(copy, [x], { dtype: "f32" }) : contiguousCopy(x);
}

/** Granules of a row of `columns` elements. */
export const granulesOf = (columns: number): number => (columns % 4 === 0 ? columns / 4 : columns);

/** What fills the slots of operands with rows of `columns` elements: slot → tensor. */
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
