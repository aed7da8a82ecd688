/// <reference types="@webgpu/types" />
/** The ops: functions over tensors, each with its WGSL kernels and its gradient. */
import "./lib.ts";
import "./tensor_methods.ts";
export * from "./create.ts";
export * from "./elementwise.ts";
export { expression, map } from "./map.ts";
export type { MapOptions } from "./map.ts";
export { copyInto, fillInto } from "./copy.ts";
export * from "./reduce.ts";
export * from "./views.ts";
export { rowLibrary } from "./lib.ts";
