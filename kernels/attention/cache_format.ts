/** How a cache stores keys and values: as floats, or in 8 bits with a scale for every 32 values of a head. */
import type { DType } from "../../engine/index.ts";

/** Floats of a dtype; or int8: 8.5 bits a value, in u32 words. */
export type CacheDType = "f32" | "f16" | "bf16" | "int8";
export const CACHE_DTYPES: readonly CacheDType[] = ["f32", "f16", "bf16", "int8"];

/** Values that share a scale, a bf16 number. Two scales share a word. */
const GROUP = 32;

/** Dtype and last dimension of the tensor that stores heads of `d` elements. int8: d / 4 words of values, then ceil(d / 64) words of scales. */
export const cacheStorage = (dtype: CacheDType, d: number): { readonly dtype: DType; readonly columns: number } =>
  dtype === "int8" ? { dtype: "u32", columns: d / 4 + Math.ceil(d / (2 * GROUP)) } : { dtype, columns: d };

/** The format of a cache whose tensors have `dtype`; null if no cache has. */
export function cacheDTypeOf(dtype: DType): CacheDType | null {
  if (dtype === "u32") return "int8";
  return CACHE_DTYPES.find((one) => one === dtype) ?? null;
}

/** Elements of a cache's array from a row of `d` elements to the next: granules of floats, or words. */
export function cacheStride(dtype: CacheDType, d: number): number {
  const { columns } = cacheStorage(dtype, d);
  return dtype === "int8" ? columns : columns / 4;
}

/** Granules that one invocation of `cache_write` takes: those whose scales share a word. */
export const cacheSpan = (dtype: CacheDType): number => (dtype === "int8" ? (2 * GROUP) / 4 : 1);

/** Bytes of the keys and values of one token in all layers. */
export function cacheBytesPerToken(
  { layers, kvHeads, headDim }: { readonly layers: number; readonly kvHeads: number; readonly headDim: number },
  dtype: CacheDType,
): number {
  const { columns } = cacheStorage(dtype, headDim);
  return 2 * layers * kvHeads * columns * (dtype === "f16" || dtype === "bf16" ? 2 : 4);
}
