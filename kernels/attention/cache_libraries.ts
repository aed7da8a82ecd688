/** The WGSL libraries by which kernels read and write caches, for each way in which they are stored. */
import { library } from "../../engine/index.ts";
import type { Uses } from "../../engine/index.ts";
import type { CacheDType } from "./cache_format.ts";

export const cachedFloat = library("cached_float", new URL("./lib/cached_float.wgsl", import.meta.url));
export const entryFloat = library("entry_float", new URL("./lib/entry_float.wgsl", import.meta.url));
const cachedInt8 = library("cached_int8", new URL("./lib/cached_int8.wgsl", import.meta.url));
const entryInt8 = library("entry_int8", new URL("./lib/entry_int8.wgsl", import.meta.url));
const cacheWord = library("cache_word", new URL("./lib/cache_word.wgsl", import.meta.url));

/** The libraries for `slots` of a kernel that reads (`cached`) or writes (`entry`) a cache, whose storage is slot c. */
export function cacheUses(dtype: CacheDType, ...slots: readonly ("cached" | "entry")[]): Uses {
  const all =
    dtype === "int8"
      ? { c: cacheWord, cached: cachedInt8, entry: entryInt8 }
      : { c: dtype, cached: cachedFloat, entry: entryFloat };
  return Object.fromEntries((["c", ...slots] as const).map((slot) => [slot, all[slot]]));
}
