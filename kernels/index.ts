/**
 * The ops: functions over tensors, each with its WGSL kernels and its gradient.
 *
 * @module janus-webgpu/kernels
 */
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
export { argmax, argmin, max, mean, min, sum, sumTo } from "./reduce/reduce.ts";
export { cumsum } from "./reduce/cumsum.ts";
export { logsumexp } from "./reduce/logsumexp.ts";
export { std, variance as var } from "./reduce/moments.ts";
export type { VarianceOptions } from "./reduce/moments.ts";
export * from "./views/views.ts";
export { repeat, tril, triu } from "./views/triangles.ts";
export { attention } from "./attention/attention.ts";
export type { AttentionOptions } from "./attention/attention.ts";
export { advance, attentionDecode, cacheWrite } from "./attention/attention_decode.ts";
export type { DecodeOptions } from "./attention/attention_decode.ts";
export type { CacheDType } from "./attention/cache_format.ts";
export { embedding, indexSelect } from "./embedding/embedding.ts";
export type { EmbeddingOptions } from "./embedding/embedding.ts";
export { gather } from "./embedding/gather.ts";
export { scatter, scatterAdd } from "./embedding/scatter.ts";
export { flip } from "./embedding/flip.ts";
export { sort, topk } from "./sort/sort.ts";
export type { Sorted } from "./sort/sort.ts";
export { maskedFill, where } from "./pointwise/masked.ts";
export { crossEntropy } from "./loss/cross_entropy.ts";
export type { CrossEntropyOptions, LossReduction } from "./loss/cross_entropy.ts";
export { binaryCrossEntropy, binaryCrossEntropyWithLogits, mseLoss } from "./loss/elementwise_loss.ts";
export type { LossOptions } from "./loss/elementwise_loss.ts";
export { linearCrossEntropy } from "./loss/linear_cross_entropy.ts";
export type { LinearCrossEntropyOptions } from "./loss/linear_cross_entropy.ts";
export { NOT_FINITE_FLAG, guidance, rowSettings, sampleTokens } from "./sampling/sample.ts";
export type { RowSettings, SampleOptions } from "./sampling/sample.ts";
export { multinomial } from "./sampling/multinomial.ts";
export type { MultinomialOptions } from "./sampling/multinomial.ts";
export { globalGradNorm, gradNormOf, gradNormPartials, gradNormPlan } from "./optim/grad_norm.ts";
export type { GradNormPlan } from "./optim/grad_norm.ts";
export { countNonFinite } from "./reduce/count_nonfinite.ts";
export { ADAMW_STATE, adamwCount, adamwPrepare, adamwState, adamwStep, emaStep } from "./optim/adamw.ts";
export type { AdamWBetas, AdamWPrepareSettings, AdamWSettings, AdamWTensors, LossScaling } from "./optim/adamw.ts";
export * from "./pointwise/activations.ts";
export { dropout } from "./random/dropout.ts";
export type { DropoutOptions } from "./random/dropout.ts";
export { layerNorm, rmsNorm } from "./norm/norm.ts";
export { rope } from "./rope/rope.ts";
export type { RopeOptions } from "./rope/rope.ts";
export { rotaryAttention } from "./rope/rotary_attention.ts";
export type { RotaryAttentionOptions } from "./rope/rotary_attention.ts";
export { normLinear } from "./norm/norm_linear.ts";
export type { NormLinearOptions } from "./norm/norm_linear.ts";
export { ropeAttention } from "./rope/rope_attention.ts";
export type { RopeAttentionOptions } from "./rope/rope_attention.ts";
export { ropeCache } from "./rope/rope_cache.ts";
export type { Caches } from "./rope/rope_cache.ts";
export { logSoftmax, softmax } from "./norm/softmax.ts";
export { joinedRows, jointLinear } from "./matmul/joint_linear.ts";
export { gemm, matmul } from "./matmul/matmul.ts";
export type { GemmOptions } from "./matmul/matmul.ts";
export { muonStep, orthogonalize } from "./optim/muon.ts";
export type { MuonSettings, MuonTensors } from "./optim/muon.ts";
export { einsum } from "./matmul/einsum.ts";
export { sgdStep } from "./optim/sgd.ts";
export type { SgdSettings, SgdTensors } from "./optim/sgd.ts";
export { linear } from "./matmul/linear.ts";
export type { LinearOptions } from "./matmul/linear.ts";
export { conv2d } from "./conv/conv2d.ts";
export type { Conv2dOptions } from "./conv/conv2d.ts";
export { avgPool2d, maxPool2d } from "./pool/pool2d.ts";
export type { AvgPool2dOptions, MaxPool2dOptions, Size2d } from "./pool/pool2d.ts";
export { groupNorm } from "./norm/group_norm.ts";
export type { GroupNormOptions } from "./norm/group_norm.ts";
export { codebookLookup, codebookLosses, quantize } from "./embedding/codebook_lookup.ts";
export type { CodebookLookup, CodebookLosses } from "./embedding/codebook_lookup.ts";
export { l2Normalize } from "./norm/l2_normalize.ts";
export { upsampleNearest2x } from "./conv/upsample.ts";
/** The WGSL libraries for custom kernels. */
export * as libraries from "./core/libraries.ts";
