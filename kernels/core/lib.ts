/** Registers the WGSL libraries that kernels include by `//#use`, and the table of dtypes to libraries. */
import { library } from "../../engine/index.ts";
import type { DType } from "../../engine/index.ts";

library("f32", new URL("./lib/f32.wgsl", import.meta.url));
library("f32x1", new URL("./lib/f32x1.wgsl", import.meta.url));
library("f16", new URL("./lib/f16.wgsl", import.meta.url));
library("bf16", new URL("./lib/bf16.wgsl", import.meta.url));
library("i32", new URL("./lib/i32.wgsl", import.meta.url));
library("u32", new URL("./lib/u32.wgsl", import.meta.url));
library("u8", new URL("./lib/u8.wgsl", import.meta.url));
library("complement", new URL("./lib/complement.wgsl", import.meta.url));
library("finite", new URL("./lib/finite.wgsl", import.meta.url));
library("grid", new URL("./lib/grid.wgsl", import.meta.url));
library("philox", new URL("./lib/philox.wgsl", import.meta.url));
library("opaque", new URL("./lib/opaque.wgsl", import.meta.url));
library("power", new URL("./lib/power.wgsl", import.meta.url));
library("trig", new URL("./lib/trig.wgsl", import.meta.url));
library("erf", new URL("./lib/erf.wgsl", import.meta.url));

/** The library of a dtype for rows of `columns` elements: one element a granule (f32 only) where rows do not split into fours. */
export function rowLibrary(dtype: DType, columns: number): string {
  return dtype === "f32" && columns % 4 !== 0 ? "f32x1" : dtype;
}
