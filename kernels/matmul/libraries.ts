/** The WGSL libraries of products, in `lib/`. */
import { library } from "../../engine/index.ts";
import { activations, standard } from "../core/libraries.ts";

export const activation = library("matmul_activation", new URL("./lib/matmul_activation.wgsl", import.meta.url), [
  activations,
]);
export const io = library("matmul_io", new URL("./lib/matmul_io.wgsl", import.meta.url), [...standard, activation]);
/** Values of other invocations: none, or those of the subgroup. */
export const lanesNone = library("lanes_none", new URL("./lib/lanes_none.wgsl", import.meta.url));
export const lanesSubgroup = library("lanes_subgroup", new URL("./lib/lanes_subgroup.wgsl", import.meta.url));
/** Sums over the invocations that share columns. */
export const sumWorkgroup = library("sum_workgroup", new URL("./lib/sum_workgroup.wgsl", import.meta.url));
export const sumSubgroup = library("sum_subgroup", new URL("./lib/sum_subgroup.wgsl", import.meta.url));
/** The norm of the rows of A: none, or by the invocations of a subgroup or of a workgroup. */
export const normNone = library("norm_none", new URL("./lib/norm_none.wgsl", import.meta.url));
const normSquares = library("norm_squares", new URL("./lib/norm_squares.wgsl", import.meta.url));
export const normSubgroup = library("norm_subgroup", new URL("./lib/norm_subgroup.wgsl", import.meta.url), [
  normSquares,
]);
export const normWorkgroup = library("norm_workgroup", new URL("./lib/norm_workgroup.wgsl", import.meta.url), [
  normSquares,
]);
/** The subgroup size: any, or LANES asked for. */
export const sizeAny = library("size_any", new URL("./lib/size_any.wgsl", import.meta.url));
export const sizeFixed = library("size_fixed", new URL("./lib/size_fixed.wgsl", import.meta.url));
/** Components of subgroup matrices: f16 operands as they are, or any operands as f32. */
export const matrixF16 = library("matrix_f16", new URL("./lib/matrix_f16.wgsl", import.meta.url));
export const matrixF32 = library("matrix_f32", new URL("./lib/matrix_f32.wgsl", import.meta.url));
/** Bindings of the kernels of plain and of quantised weights. */
export const matmulBindings = library("matmul_bindings", new URL("./lib/matmul_bindings.wgsl", import.meta.url));
export const quantizedBindings = library(
  "quantized_bindings",
  new URL("./lib/quantized_bindings.wgsl", import.meta.url),
);
/** Scales of quantised weights: each by itself, or eight to a load. */
export const quantizedScalesEach = library("quantized_scales_each", new URL("./lib/quantized_scales_each.wgsl", import.meta.url)); // prettier-ignore
export const quantizedScalesEight = library("quantized_scales_eight", new URL("./lib/quantized_scales_eight.wgsl", import.meta.url)); // prettier-ignore
/** Quantised weights of a word as floats. */
export const quantizedInt8 = library("quantized_int8", new URL("./lib/quantized_int8.wgsl", import.meta.url));
export const quantizedInt4 = library("quantized_int4", new URL("./lib/quantized_int4.wgsl", import.meta.url));
