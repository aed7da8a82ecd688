/** The WGSL libraries of `lib/`, which kernels of any family include by `//#use`, and the choice of one for a dtype. */
import { library } from "../../engine/index.ts";
import type { DType, Library } from "../../engine/index.ts";

// Each URL is written out: bundlers find the files by it.
export const finite = library("finite", new URL("./lib/finite.wgsl", import.meta.url));
export const grid = library("grid", new URL("./lib/grid.wgsl", import.meta.url));
export const opaque = library("opaque", new URL("./lib/opaque.wgsl", import.meta.url));
export const philox = library("philox", new URL("./lib/philox.wgsl", import.meta.url));
export const complement = library("complement", new URL("./lib/complement.wgsl", import.meta.url));
export const power = library("power", new URL("./lib/power.wgsl", import.meta.url), [finite]);
export const trig = library("trig", new URL("./lib/trig.wgsl", import.meta.url), [finite, opaque, philox]);
export const erf = library("erf", new URL("./lib/erf.wgsl", import.meta.url));
export const activations = library("activations", new URL("./lib/activations.wgsl", import.meta.url), [
  erf,
  finite,
  opaque,
]);

const f32 = library("f32", new URL("./lib/f32.wgsl", import.meta.url), [finite]);
/** f32, one element per granule: for rows whose length is not a multiple of 4. */
export const f32x1 = library("f32x1", new URL("./lib/f32x1.wgsl", import.meta.url), [finite]);
const f16 = library("f16", new URL("./lib/f16.wgsl", import.meta.url), [finite]);
const bf16 = library("bf16", new URL("./lib/bf16.wgsl", import.meta.url), [finite]);
const i32 = library("i32", new URL("./lib/i32.wgsl", import.meta.url), [finite]);
/** One 32-bit word per granule. */
export const u32x1 = library("u32x1", new URL("./lib/u32x1.wgsl", import.meta.url));
export const u32 = library("u32", new URL("./lib/u32.wgsl", import.meta.url), [finite]);
const u8 = library("u8", new URL("./lib/u8.wgsl", import.meta.url), [finite]);

/** Libraries that nearly every kernel includes: the storage of each dtype, and the folded grid. */
export const standard: readonly Library[] = [grid, f32, f16, bf16, i32, u32, u8];

/**
 * Returns the library for an operand of `dtype` with rows of `columns` elements: one element per granule (f32 only) if
 * the length is not a multiple of 4.
 */
export function rowLibrary(dtype: DType, columns: number): Library | DType {
  return dtype === "f32" && columns % 4 !== 0 ? f32x1 : dtype;
}
