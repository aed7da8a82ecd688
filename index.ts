/** janus-webgpu: the engine and the ops under one name; `F` holds the ops and `nn` the layers, as in PyTorch. */
export * from "./engine/index.ts";
export * from "./kernels/index.ts";
export * as F from "./kernels/index.ts";
export * as nn from "./model/nn.ts";
