/// <reference lib="esnext.disposable" preserve="true" />
/**
 * The engine: devices, tensors, autograd, kernels and launches. Imports no other folder of the project.
 *
 * @module janus-webgpu/engine
 */
export {
  backward,
  enableGrad,
  gradEnabled,
  noGrad,
  noGradDepth,
  onGrad,
  record,
  setGradientAccumulator,
  watchGradients,
  watchLeaves,
  zeroGradients,
} from "./autograd.ts";
export * from "./capabilities.ts";
export * from "./capture.ts";
export { checkpoint, lastOp, sideEffect } from "./checkpoint.ts";
export { deviceConstant } from "./constants.ts";
export type { ConstantSource } from "./constants.ts";
export { listAdapters } from "./adapters.ts";
export { Device, getDevice, setDevice } from "./device.ts";
export type { DeviceOptions, DeviceStats } from "./device.ts";
export type { IdCheck } from "./faults.ts";
export * from "./dtype.ts";
export * from "./errors.ts";
export { fuseLaunches } from "./fusion.ts";
export type { Fused, FusionRule } from "./fusion.ts";
export { declaredKernels, declaredLibraries, kernel, library, loadKernels, specialise } from "./kernel.ts";
export type { Access, Constants, Kernel, Library, ParamType, Uses } from "./kernel.ts";
export { currentLabel, withLabel } from "./label.ts";
export { grid1d, launch, traceOf } from "./launch.ts";
export type { Bound, LaunchOptions } from "./launch.ts";
export {
  knownOptions,
  nearestName,
  optionNames,
  requireArray,
  requireBoolean,
  requireFunction,
  shown,
} from "./options.ts";
export { now, sleep, userCache } from "./platform.ts";
export * from "./profile.ts";
export * from "./random.ts";
export { broadcastShapes, contiguousStrides, dimArray, normalizeDim, sameShape, sizeOf } from "./shape.ts";
export type { Shape } from "./shape.ts";
export { construct, openScope, scope, tensorsIn } from "./scope.ts";
export { TapeNode } from "./tape.ts";
export type { Backward, Prior, Priors } from "./tape.ts";
export * from "./tensor.ts";
export { adapterFolder, adapterId, findTuned, parseTuned, tunedFile } from "./tuned.ts";
export type { AdapterId, FoundTable, TunedTable, TunedVariants } from "./tuned.ts";
export type { Binding, Cost, Launch, LaunchListener, Pipeline, Storage } from "./types.ts";
export * from "./windows.ts";
export { MAX_DISPATCH_WORK, workOf } from "./work.ts";
