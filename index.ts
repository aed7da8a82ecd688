/** janus-webgpu: the engine and what makes tensors, under one name; `F` holds the ops and `nn` the layers, as in PyTorch. */
export * from "./engine/index.ts";
export { arange, full, manualSeed, ones, randn, uniform, zeros, zerosLike } from "./kernels/index.ts";
export * as F from "./kernels/index.ts";
export * as nn from "./model/nn.ts";
