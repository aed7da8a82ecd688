/** The ops: functions over tensors, each with its WGSL kernels and its gradient. */
import { setGradientAccumulator } from "../engine/index.ts";
import { accumulateGradient } from "./core/accumulate.ts";
import { attachMethods } from "./tensor_methods.ts";

setGradientAccumulator(accumulateGradient);
attachMethods();

// Carries the methods' types into the declarations of the package.
export type { TensorMethods } from "./tensor_methods.ts";
export * from "./views/create.ts";
export * from "./pointwise/elementwise.ts";
export * from "./pointwise/finite.ts";
export { expression, map } from "./core/map.ts";
export type { Expression, MapOptions } from "./core/map.ts";
export { copyInto, fillInto } from "./core/copy.ts";
export * from "./reduce/reduce.ts";
export * from "./views/views.ts";
export { attention } from "./attention/attention.ts";
export type { AttentionOptions } from "./attention/attention.ts";
export { advance, attentionDecode, cacheWrite } from "./attention/attention_decode.ts";
export type { DecodeOptions } from "./attention/attention_decode.ts";
export { embedding, indexSelect } from "./embedding/embedding.ts";
export type { EmbeddingOptions } from "./embedding/embedding.ts";
export { gather } from "./embedding/gather.ts";
export { maskedFill, where } from "./pointwise/masked.ts";
export { crossEntropy } from "./loss/cross_entropy.ts";
export type { CrossEntropyOptions, LossReduction } from "./loss/cross_entropy.ts";
export { linearCrossEntropy } from "./loss/linear_cross_entropy.ts";
export type { LinearCrossEntropyOptions } from "./loss/linear_cross_entropy.ts";
export { NOT_FINITE_FLAG, guidance, sampleTokens } from "./sampling/sample.ts";
export type { SampleOptions } from "./sampling/sample.ts";
export { globalGradNorm } from "./optim/grad_norm.ts";
export { countNonFinite } from "./reduce/count_nonfinite.ts";
export { ADAMW_STATE, adamwCount, adamwPrepare, adamwState, adamwStep, emaStep } from "./optim/adamw.ts";
export type { AdamWBetas, AdamWPrepareSettings, AdamWSettings, AdamWTensors, LossScaling } from "./optim/adamw.ts";
export * from "./pointwise/activations.ts";
export { dropout } from "./random/dropout.ts";
export type { DropoutOptions } from "./random/dropout.ts";
export { layerNorm, rmsNorm } from "./norm/norm.ts";
export { rope } from "./rope/rope.ts";
export type { RopeOptions } from "./rope/rope.ts";
export { logSoftmax, softmax } from "./norm/softmax.ts";
export { gemm, matmul } from "./matmul/matmul.ts";
export type { GemmOptions } from "./matmul/matmul.ts";
export { muonStep, orthogonalize } from "./optim/muon.ts";
export type { MuonSettings, MuonTensors } from "./optim/muon.ts";
export { linear } from "./matmul/linear.ts";
export type { LinearOptions } from "./matmul/linear.ts";
export { conv2d } from "./conv/conv2d.ts";
export type { Conv2dOptions } from "./conv/conv2d.ts";
export { groupNorm } from "./norm/group_norm.ts";
export type { GroupNormOptions } from "./norm/group_norm.ts";
export { codebookLookup, codebookLosses, quantize } from "./embedding/codebook_lookup.ts";
export type { CodebookLookup, CodebookLosses } from "./embedding/codebook_lookup.ts";
export { l2Normalize } from "./norm/l2_normalize.ts";
export { upsampleNearest2x } from "./conv/upsample.ts";
/** The WGSL libraries that kernels of one's own include. */
export * as libraries from "./core/libraries.ts";
