/** Rows of errors.test.ts: what ops of networks refuse, and what plain JavaScript gets wrong. */
import {
  ArgumentError,
  DTypeError,
  F,
  Generator,
  ShapeError,
  backward,
  checkpoint,
  empty,
  scope,
  setDevice,
  tensor,
  zeroGradients,
} from "../index.ts";
import type { DType, Tensor } from "../index.ts";

export type ErrorKind = new (...args: never[]) => Error;
/** What a row does; tensors that it makes are freed. */
export type ErrorRow = readonly [
  name: string,
  kind: ErrorKind,
  mentions: readonly (string | RegExp)[],
  provoke: () => unknown,
];

export const t = (shape: readonly number[], dtype: DType = "f32"): Tensor => empty(shape, { dtype });
export const wrong = (value: unknown): never => value as never;

export const networks: readonly ErrorRow[] = [
  [
    "matmul: inner sizes",
    ShapeError,
    ["matmul", "[2, 3]", "[4, 5]", "got 3 and 4", "must be equal"],
    () => F.matmul(t([2, 3]), t([4, 5])),
  ],
  ["matmul: integers", DTypeError, ["matmul", "i32", "Cast"], () => F.matmul(t([2, 3], "i32"), t([3, 2], "i32"))],
  ["matmul: scalars", ShapeError, ["matmul", "[]", "Use mul"], () => F.matmul(t([]), t([3, 2]))],
  [
    "matmul: batches that do not broadcast",
    ShapeError,
    ["matmul", "[2]", "[3]"],
    () => F.matmul(t([2, 4, 4]), t([3, 4, 4])),
  ],
  [
    "gemm: out of another shape",
    ShapeError,
    ["gemm", "[2, 3]", "[2, 5]"],
    () => F.gemm({ a: t([2, 4]), b: t([4, 5]), out: t([2, 3]) }),
  ],
  ["linear: columns", ShapeError, ["linear", "[2, 3]", "[5, 4]", "equal"], () => F.linear(t([2, 3]), t([5, 4]))],
  ["linear: bias", ShapeError, ["linear", "bias", "[4]", "[5]"], () => F.linear(t([2, 3]), t([5, 3]), t([4]))],
  [
    "attention: three dimensions",
    ShapeError,
    ["attention", "[1, 2, 8]", "[B, H, T, D]"],
    () => F.attention(t([1, 2, 8]), t([1, 2, 8]), t([1, 2, 8])),
  ],
  [
    "attention: heads",
    ShapeError,
    ["attention", "multiple"],
    () => F.attention(t([1, 3, 2, 8]), t([1, 2, 2, 8]), t([1, 2, 2, 8])),
  ],
  [
    "attention: keys and values",
    ShapeError,
    ["attention", "k and v"],
    () => F.attention(t([1, 2, 2, 8]), t([1, 2, 2, 8]), t([1, 2, 3, 8])),
  ],
  [
    "attention: documents of floats",
    DTypeError,
    ["attention", "documents", "i32 or u32"],
    () => F.attention(t([1, 2, 2, 8]), t([1, 2, 2, 8]), t([1, 2, 2, 8]), { documents: t([1, 2]) }),
  ],
  ["rmsNorm: weight", ShapeError, ["rmsNorm", "weight", "[3]", "[2, 4]"], () => F.rmsNorm(t([2, 4]), t([3]))],
  ["layerNorm: eps", ArgumentError, ["layerNorm", "eps must be", "got 0"], () => F.layerNorm(t([2, 4]), null, null, 0)],
  ["softmax: integers", DTypeError, ["softmax", "i32", "Cast"], () => F.softmax(t([2], "i32"))],
  [
    "logSoftmax: a dimension that is not there",
    ShapeError,
    ["logSoftmax", "dimension must be", "got 2"],
    () => F.logSoftmax(t([2]), 2),
  ],
  ["rope: an odd head", ShapeError, ["rope", "[2, 3]", "must be even"], () => F.rope(t([2, 3]), t([2], "i32"))],
  ["rope: positions", ShapeError, ["rope", "positions", "[3]"], () => F.rope(t([2, 4]), t([3], "i32"))],
  ["swiglu: an odd half", ShapeError, ["swiglu", "[2, 3]", "[..., 2F]"], () => F.swiglu(t([2, 3]))],
  [
    "dropout: a probability of 1",
    ArgumentError,
    ["dropout", "p must be", "got 1"],
    () => {
      const generator = new Generator(1);
      try {
        F.dropout(t([2]), 1, { generator, site: 0 });
      } finally {
        generator.dispose();
      }
    },
  ],
  ["embedding: ids of floats", DTypeError, ["embedding", "i32 or u32"], () => F.embedding(t([4, 2]), t([3]))],
  [
    "embedding: a table of one dimension",
    ShapeError,
    ["embedding", "[V, C]"],
    () => F.embedding(t([4]), t([3], "i32")),
  ],
  [
    "indexSelect: a matrix of indices",
    ShapeError,
    ["indexSelect", "[2, 2]", "one dimension"],
    () => F.indexSelect(t([4, 2]), 0, t([2, 2], "i32")),
  ],
  [
    "gather: an index too long",
    ShapeError,
    ["gather", "[3, 2]", "[2, 4]"],
    () => F.gather(t([2, 4]), 1, t([3, 2], "i32")),
  ],
  ["where: a mask of floats", DTypeError, ["where", "mask", "Compare"], () => F.where(t([2]), t([2]), t([2]))],
  [
    "maskedFill: a fraction for i32",
    ArgumentError,
    ["maskedFill", "0.5", "i32"],
    () => F.maskedFill(t([2], "i32"), t([2], "u32"), 0.5),
  ],
  [
    "maskedFill: −1 for u32",
    ArgumentError,
    ["maskedFill", "-1", "u32"],
    () => F.maskedFill(t([2], "u32"), t([2], "u32"), -1),
  ],
  [
    "maskedFill: 300 for u8",
    ArgumentError,
    ["maskedFill", "300", "u8"],
    () => F.maskedFill(t([2], "u8"), t([2], "u32"), 300),
  ],
  [
    "maskedFill: beyond i32",
    ArgumentError,
    ["maskedFill", "2147483648", "i32"],
    () => F.maskedFill(t([2], "i32"), t([2], "u32"), 2 ** 31),
  ],
  ["pad: 300 for u8", ArgumentError, ["pad", "300", "u8"], () => F.pad(t([3], "u8"), [[1, 1]], 300)],
  ["pad: a fraction for i32", ArgumentError, ["pad", "0.5", "i32"], () => F.pad(t([3], "i32"), [[1, 1]], 0.5)],
  [
    "maskedFill: infinity",
    ArgumentError,
    ["maskedFill", "Infinity", "finite"],
    () => F.maskedFill(t([2]), t([2], "u32"), Infinity),
  ],
  [
    "conv2d: channels",
    ShapeError,
    ["conv2d", "[1, 3, 4, 4]", "[2, 5, 3, 3]", "Make them equal"],
    () => F.conv2d(t([1, 3, 4, 4]), t([2, 5, 3, 3])),
  ],
  [
    "conv2d: a stride of 0",
    ArgumentError,
    ["conv2d", "stride must be", "got 0"],
    () => F.conv2d(t([1, 3, 4, 4]), t([2, 3, 3, 3]), null, { stride: 0 }),
  ],
  [
    "conv2d: a kernel larger than the image",
    ShapeError,
    ["conv2d", "5 × 5", "4 × 4", "Pad more"],
    () => F.conv2d(t([1, 3, 4, 4]), t([2, 3, 5, 5])),
  ],
  [
    "crossEntropy: targets",
    ShapeError,
    ["crossEntropy", "[3]", "2 rows"],
    () => F.crossEntropy(t([2, 4]), t([3], "i32")),
  ],
  [
    "crossEntropy: targets of floats",
    DTypeError,
    ["crossEntropy", "i32 or u32"],
    () => F.crossEntropy(t([2, 4]), t([2])),
  ],
  [
    "linearCrossEntropy: columns",
    ShapeError,
    ["linearCrossEntropy", "[2, 3]", "[5, 4]"],
    () => F.linearCrossEntropy(t([2, 3]), t([5, 4]), t([2], "i32")),
  ],
  [
    "sampleTokens: topP of 0",
    ArgumentError,
    ["sampleTokens", "topP must be", "got 0"],
    () => F.sampleTokens(t([1, 4]), wrong({ topP: 0 })),
  ],
  [
    "sampleTokens: a tiny temperature",
    ArgumentError,
    ["sampleTokens", "temperature must be", "got -1"],
    () => F.sampleTokens(t([1, 4]), wrong({ temperature: -1 })),
  ],
  ["guidance: an odd number of rows", ShapeError, ["guidance", "[3, 4]", "[2N, V]"], () => F.guidance(t([3, 4]), 5)],
  [
    "groupNorm: groups that do not divide",
    ShapeError,
    ["groupNorm", "got 3", "4 channels", "divide"],
    () => F.groupNorm(t([1, 4, 2]), 3),
  ],
  [
    "upsampleNearest2x: three dimensions",
    ShapeError,
    ["upsampleNearest2x", "[1, 2, 3]", "[N, C, H, W]"],
    () => F.upsampleNearest2x(t([1, 2, 3])),
  ],
  [
    "codebookLookup: columns",
    ShapeError,
    ["codebookLookup", "[4, 8]", "[16, 4]"],
    () => F.codebookLookup(t([4, 8]), t([16, 4])),
  ],
  ["l2Normalize: integers", DTypeError, ["l2Normalize", "i32", "Cast"], () => F.l2Normalize(t([2, 3], "i32"))],
  ["globalGradNorm: bf16", DTypeError, ["globalGradNorm", "bf16"], () => F.globalGradNorm([t([4], "bf16")])],
];

/** What plain JavaScript gets wrong: options that are not known, arguments that are missing or of another kind. */
// prettier-ignore
export const mistakes: readonly ErrorRow[] = [
  ...(
    [
      ["attention", "casual", "causal", () => F.attention(t([1, 1, 2, 4]), t([1, 1, 2, 4]), t([1, 1, 2, 4]), wrong({ casual: true }))],
      ["embedding", "dType", "dtype", () => F.embedding(t([4, 2]), t([1], "i32"), wrong({ dType: "f32" }))],
      ["crossEntropy", "ignore_index", "ignoreIndex", () => F.crossEntropy(t([1, 4]), t([1], "i32"), wrong({ ignore_index: 0 }))],
      ["linearCrossEntropy", "chunks", "chunk", () => F.linearCrossEntropy(t([1, 4]), t([5, 4]), t([1], "i32"), wrong({ chunks: 2 }))],
      ["rope", "tetha", "theta", () => F.rope(t([2, 4]), t([2], "i32"), wrong({ tetha: 5e5 }))],
      ["linear", "activations", "activation", () => F.linear(t([2, 3]), t([4, 3]), null, wrong({ activations: "gelu" }))],
      ["matmul", "dtypes", "dtype", () => F.matmul(t([2, 3]), t([3, 2]), wrong({ dtypes: "f16" }))],
      ["gemm", "trans_a", "transA", () => F.gemm(wrong({ a: t([2, 3]), b: t([3, 2]), trans_a: true }))],
      ["conv2d", "strides", "stride", () => F.conv2d(t([1, 1, 4, 4]), t([1, 1, 3, 3]), null, wrong({ strides: 2 }))],
      ["groupNorm", "epsilon", "eps", () => F.groupNorm(t([1, 4, 2]), 2, null, null, wrong({ epsilon: 1e-6 }))],
      ["sampleTokens", "top_k", "topK", () => F.sampleTokens(t([1, 4]), wrong({ top_k: 3 }))],
      ["dropout", "train", "training", () => F.dropout(t([2]), 0.5, wrong({ train: false }))],
      ["randn", "generater", "generator", () => F.randn([2], wrong({ generater: 1 }))],
      ["full", "dType", "dtype", () => F.zeros([2], wrong({ dType: "f16" }))],
      ["arange", "dtypes", "dtype", () => F.arange(0, 2, 1, wrong({ dtypes: "f16" }))],
      ["tensor", "requires_grad", "requiresGrad", () => tensor([1], wrong({ requires_grad: true }))],
      ["Generator", "divice", "device", () => new Generator(1, wrong({ divice: null }))],
      ["nanToNum", "posInf", "posinf", () => F.nanToNum(t([2]), wrong({ posInf: 0 }))],
      ["var", "keepDim", "keepdim", () => F.var(t([2]), 0, wrong({ keepDim: true }))],
      ["mseLoss", "reductions", "reduction", () => F.mseLoss(t([2]), t([2]), wrong({ reductions: "sum" }))],
      ["maxPool2d", "pading", "padding", () => F.maxPool2d(t([1, 4, 4]), 2, wrong({ pading: 1 }))],
      ["adamwStep", "weight_decay", "weightDecay", () => {
        const x = t([4]);
        F.adamwStep({ master: x, m: x, v: x, grad: x }, t([12]), wrong({ weight_decay: 0.1 }));
      }],
    ] as const
  ).map(
    ([op, got, known, provoke]): ErrorRow => [
      `${op}: option ${got}`,
      ArgumentError,
      [`${op}: options must be`, `got ${got}.`, `Did you mean ${known}?`],
      provoke,
    ],
  ),
  ["a mask for the options of attention", ArgumentError, ["attention", "options must be an object", "Tensor"], () => F.attention(t([1, 1, 2, 4]), t([1, 1, 2, 4]), t([1, 1, 2, 4]), wrong(t([2, 2])))],
  ["dropout: a site without a generator", ArgumentError, ["dropout", "generator and site"], () => F.dropout(t([2]), 0.5, { site: 3 })],
  ["randn: a site without a generator", ArgumentError, ["randn", "site 3 alone"], () => F.randn([2], { site: 3 })],
  ["matmul: one operand", ArgumentError, ["matmul", "tensor 2 of 2", "got nothing"], () => F.matmul(t([2, 3]), wrong(undefined))],
  ["softmax: an array", ArgumentError, ["softmax", "must be a Tensor", "array"], () => F.softmax(wrong([1, 2]))],
  ["sort: a dimension that is not there", ShapeError, ["sort", "dimension must be", "got 2"], () => F.sort(t([3]), 2)],
  ["topk: k above the dimension", ArgumentError, ["topk", "from 0 to 3", "got 4"], () => F.topk(t([3]), 4)],
  ["cumsum: a scalar", ShapeError, ["cumsum", "[..., N]"], () => F.cumsum(t([]))],
  ["scatter: a source of another dtype", DTypeError, ["scatter", "dtype of x"], () => F.scatter(t([3]), 0, t([1], "i32"), t([1], "f16"))],
  ["scatter: a source that is too short", ShapeError, ["scatter", "as long as the index"], () => F.scatter(t([3]), 0, t([2], "i32"), t([1]))],
  ["sum: options for keepdim", ArgumentError, ["sum", "keepdim must be true or false", "Object"], () => F.sum(t([3]), 0, wrong({ keepdim: false }))],
  ["max: options for keepdim", ArgumentError, ["max", "keepdim must be true or false"], () => F.max(t([3]), 0, wrong({}))],
  ["argmax: options for keepdim", ArgumentError, ["argmax", "keepdim must be true or false"], () => F.argmax(t([3]), 0, wrong({}))],
  ["logsumexp: options for keepdim", ArgumentError, ["logsumexp", "keepdim must be true or false"], () => F.logsumexp(t([3]), 0, wrong({}))],
  ["sort: options for descending", ArgumentError, ["sort", "descending must be true or false"], () => F.sort(t([3]), 0, wrong({ descending: false }))],
  ["topk: options for largest", ArgumentError, ["topk", "largest must be true or false"], () => F.topk(t([3]), 1, 0, wrong({ largest: false }))],
  ["mean: options for dims", ArgumentError, ["mean", "dims must be a dimension", "Object"], () => F.mean(t([3]), wrong({ dim: 0 }))],
  ["flip: no dims", ArgumentError, ["flip", "dims must be a dimension", "nothing"], () => F.flip(t([3]), wrong(undefined))],
  ["permute: dims side by side", ArgumentError, ["permute", "dims must be an array", "got 1"], () => F.permute(t([2, 3]), wrong(1))],
  ["stack: a tensor", ArgumentError, ["stack", "tensors must be an array", "Tensor"], () => F.stack(wrong(t([2])))],
  ["expand: a number", ArgumentError, ["expand", "shape must be an array"], () => F.expand(t([1]), wrong(3))],
  ["pad: a number", ArgumentError, ["pad", "pads must be an array"], () => F.pad(t([1]), wrong(3))],
  ["globalGradNorm: a tensor", ArgumentError, ["globalGradNorm", "grads must be an array"], () => F.globalGradNorm(wrong(t([1])))],
  ["tensor: nothing", ArgumentError, ["tensor", "values must be", "nothing"], () => tensor(wrong(undefined))],
  ["tensor: a text", ArgumentError, ["tensor", "values must be", "abc"], () => tensor(wrong("abc"))],
  ["scope: nothing", ArgumentError, ["scope", "must be a function", "nothing"], () => scope(wrong(undefined))],
  ["checkpoint: a tensor", ArgumentError, ["checkpoint", "must be a function"], () => checkpoint(wrong(t([1])))],
  ["backward: a number", ArgumentError, ["backward", "must be a Tensor", "got 3"], () => backward(wrong(3))],
  ["zeroGradients: a module", ArgumentError, ["zeroGradients", "array of tensors"], () => zeroGradients(wrong({}))],
  ["setDevice: a number", ArgumentError, ["setDevice", "Device or null"], () => setDevice(wrong(3))],
  ["multinomial: a text for replacement", ArgumentError, ["multinomial", "replacement must be true or false"], () => F.multinomial(t([3]), 2, wrong({ replacement: "false" }))],
  ["maxPool2d: a text for ceilMode", ArgumentError, ["maxPool2d", "ceilMode must be true or false"], () => F.maxPool2d(t([1, 4, 4]), 2, wrong({ ceilMode: "no" }))],
  ["std: nothing along a dimension", ShapeError, ["std", "must have elements", "[0, 3]"], () => F.std(t([0, 3]), 0)],
  ["sgdStep: a gradient under another name", ArgumentError, ["sgdStep tensors", "got gradient."], () => F.sgdStep(wrong({ master: t([4]), gradient: t([4]) }), t([12]))],
  ["adamwStep: no tensors", ArgumentError, ["adamwStep tensors", "nothing"], () => F.adamwStep(wrong(undefined), t([12]))],
  ["adamwStep: no v", ArgumentError, ["adamwStep", "tensor 3", "nothing"], () => F.adamwStep(wrong({ master: t([4]), m: t([4]), grad: t([4]) }), t([12]))],
  ["flip: a dimension twice", ArgumentError, ["flip", "each dimension once"], () => F.flip(t([2, 3]), [1, -1])],
  ["repeat: too few sizes", ShapeError, ["repeat", "each dimension"], () => F.repeat(t([2, 3]), [2])],
  ["tril: a vector", ShapeError, ["tril", "[..., R, C]"], () => F.tril(t([3]))],
  ["eye: a fraction", ArgumentError, ["eye", "whole numbers", "2.5"], () => F.eye(2.5)],
  ["std: integers", DTypeError, ["std", "i32", "Cast"], () => F.std(t([3], "i32"))],
  ["mseLoss: shapes that broadcast", ShapeError, ["mseLoss", "[3, 1]", "[3]"], () => F.mseLoss(t([3, 1]), t([3]))],
  ["einsum: an equation without sense", ArgumentError, ["einsum", "i>j"], () => F.einsum("i>j", t([2, 3, 4]))],
  ["einsum: an operand without a term", ArgumentError, ["einsum", "2 operands"], () => F.einsum("ij->i", t([2, 3]), t([2]))],
  ["einsum: a rank that does not fit", ShapeError, ["einsum", '"ijk"', "[2, 3]"], () => F.einsum("ijk->i", t([2, 3]))],
  ["einsum: sizes", ShapeError, ["einsum", "dimensions j", "3 and 4"], () => F.einsum("ij,jk->ik", t([2, 3]), t([4, 5]))],
  ["avgPool2d: padding beyond half the kernel", ArgumentError, ["avgPool2d", "at most half", "F.pad"], () => F.avgPool2d(t([1, 4, 4]), 2, { padding: 2 })],
  ["maxPool2d: a kernel larger than the image", ShapeError, ["maxPool2d", "[1, 2, 2]", "smaller"], () => F.maxPool2d(t([1, 2, 2]), 3)],
];
