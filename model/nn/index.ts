/**
 * `nn`: modules, parameters, layers, containers, optimizers, and modules as files.
 *
 * @module janus-webgpu/nn
 */
export * from "./activations.ts";
export * from "./batch_norm.ts";
export * from "./containers.ts";
export type { ForwardHook, ForwardPreHook, RemovableHandle } from "./hooks.ts";
export * from "./layers.ts";
export {
  LoraLinear,
  adapterNames,
  addAdapter,
  linearLayersOf,
  mergeAdapters,
  removeAdapters,
  setAdapters,
} from "./lora.ts";
export type { LoraOptions } from "./lora.ts";
export * from "./module.ts";
export * from "./optim/index.ts";
export { QuantizedLinear } from "./quantized_linear.ts";
export * from "./state_file.ts";
