/** The rows that are measured by default: the ops and shapes that comparisons between engines ask about. */
import { F, QuantizedWeight, noGrad } from "../../index.ts";
import type { DType, Quantization, Tensor } from "../../index.ts";
import { GROUP, QUANTIZED_BITS } from "../../kernels/matmul/quantized_format.ts";
import { ref } from "../../tests/reference.ts";
import type { Ref } from "../../tests/reference.ts";
import { nearestCodes, groupNormRef, upsampleRef } from "../../tests/reference/image.ts";
import { crossEntropyRef } from "../../tests/reference/loss.ts";
import { transposedRef } from "../../tests/reference/matmul.ts";
import { dequantizedRef } from "../../tests/reference/quantize.ts";
import { referenceStep } from "../../tests/reference/optimizer.ts";
import { geluRef, layerNormRef, rmsNormRef, ropeRef, siluRef, softmaxRef } from "../../tests/reference/rows.ts";
import {
  attentionGradientParts,
  attentionParts,
  convParts,
  linearParts,
  matmulParts,
  mlpGradientParts,
  mlpParts,
} from "./checks.ts";
import { exact, plain, slices, times, transpose } from "./products.ts";
import type { Host } from "./products.ts";
import { someOf } from "./row.ts";
import type { InputSpec, Part, Row } from "./row.ts";

type Values = readonly Tensor[];
const table = (row: Omit<Row, "set">): Row => ({ ...row, set: "table" });
const large = (row: Row): Row => {
  const { peer: _, ...rest } = row;
  return { ...rest, set: "large" };
};
const spec = (shape: readonly number[], dtype: DType = "f32", rest: Partial<InputSpec> = {}): InputSpec => ({
  shape,
  dtype,
  ...rest,
});
const all = (got: ArrayLike<number>, expected: ArrayLike<number>, terms = 1): Part[] => [
  { name: "result", got, expected, terms },
];

function matmulRow(
  name: string,
  a: readonly number[],
  b: readonly number[],
  { dtype = "f32" as DType, ta = false, tb = false } = {},
): Row {
  const turn = (x: Tensor, yes: boolean): Tensor => (yes ? F.transpose(x, -1, -2) : x);
  return table({
    name: `matmul ${name}`,
    op: "matmul",
    ...(dtype === "f32" && !ta && !tb && { peer: "matmul" as const }),
    inputs: [spec(a, dtype), spec(b, dtype)],
    run: ([x, y]: Values) => [F.matmul(turn(x!, ta), turn(y!, tb))],
    check: ([x, y], [z], random) => {
      const [left, right] = [plain(x!), plain(y!)];
      return matmulParts(ta ? transpose(left) : left, tb ? transpose(right) : right, z!, random);
    },
  });
}

const batched = table({
  name: "matmul 16 × 256³ f32",
  op: "matmul",
  inputs: [spec([16, 256, 256]), spec([16, 256, 256])],
  run: ([x, y]: Values) => [F.matmul(x!, y!)],
  check: ([x, y], [z], random) =>
    Array.from({ length: 16 }, (_, i) => {
      const [a, b, c] = [x!, y!, z!].map((t) => ref([256, 256], slices(t, [i]).data)) as [Ref, Ref, Ref];
      return matmulParts(plain(a), plain(b), c, random, 1e7);
    }).flat(),
});

const linearRow = (name: string, m: number, k: number, n: number, dtype: DType): Row =>
  table({
    name: `linear ${name} ${m}×${k}→${n} ${dtype}`.replace("  ", " "),
    op: "linear",
    ...(dtype === "f32" && { peer: "linear" as const }),
    inputs: [spec([m, k]), spec([n, k], dtype)],
    run: ([x, w]: Values) => [F.linear(x!, w!)],
    check: ([x, w], [y], random) => linearParts(x!, w!, y!, random),
  });

/** Random words are random weights of either kind. */
const quantizedRow = (name: string, m: number, k: number, n: number, kind: Quantization): Row =>
  table({
    name: `linear ${name} ${m}×${k}→${n} ${kind}`,
    op: "linear",
    inputs: [
      spec([m, k]),
      { shape: [n, (k * QUANTIZED_BITS[kind]) / 32], dtype: "u32", below: 2 ** 32 - 256 },
      spec([n, k / GROUP], "f16", { scale: 0.01 }),
    ],
    run: ([x, words, scales]: Values) => [noGrad(() => F.linear(x!, new QuantizedWeight(words!, scales!, k)))],
    check: ([x, words, scales], [y], random) =>
      linearParts(x!, dequantizedRef(exact(words!), exact(scales!), k), y!, random),
  });

const products: Row[] = [
  matmulRow("1024³ f32", [1024, 1024], [1024, 1024]),
  matmulRow("2048³ f32", [2048, 2048], [2048, 2048]),
  matmulRow("1000×1021×1023 f32 (ragged)", [1000, 1021], [1021, 1023]),
  matmulRow("1024³ f32 A·Bᵗ", [1024, 1024], [1024, 1024], { tb: true }),
  matmulRow("1024³ f32 Aᵗ·B", [1024, 1024], [1024, 1024], { ta: true }),
  matmulRow("1024³ bf16", [1024, 1024], [1024, 1024], { dtype: "bf16" }),
  matmulRow("1024³ f16", [1024, 1024], [1024, 1024], { dtype: "f16" }),
  batched,
  linearRow("matrix-vector", 1, 2048, 5632, "f32"),
  linearRow("matrix-vector", 1, 2048, 5632, "bf16"),
  linearRow("two rows", 2, 2048, 5632, "bf16"),
  quantizedRow("matrix-vector", 1, 2048, 5632, "int8"),
  quantizedRow("matrix-vector", 1, 2048, 5632, "int4"),
  quantizedRow("two rows", 2, 2048, 5632, "int8"),
  quantizedRow("two rows", 2, 2048, 5632, "int4"),
];

const rowwise: Row[] = [
  table({
    name: "layerNorm 1024×2048 f32",
    op: "layerNorm",
    peer: "layerNorm",
    inputs: [spec([1024, 2048]), spec([2048]), spec([2048])],
    run: ([x, w, b]: Values) => [F.layerNorm(x!, w!, b!)],
    check: ([x, w, b], [y]) => all(y!.data, layerNormRef(exact(x!), exact(w!), exact(b!), 1e-5).data, 2048),
  }),
  table({
    name: "rmsNorm 1024×2048 f32",
    op: "rmsNorm",
    peer: "rmsNorm",
    inputs: [spec([1024, 2048]), spec([2048])],
    run: ([x, w]: Values) => [F.rmsNorm(x!, w!, 1e-6)],
    check: ([x, w], [y]) => all(y!.data, rmsNormRef(exact(x!), exact(w!), 1e-6).data, 2048),
  }),
  table({
    name: "softmax 1024×1024 f32",
    op: "softmax",
    peer: "softmax",
    inputs: [spec([1024, 1024], "f32", { scale: 4 })],
    run: ([x]: Values) => [F.softmax(x!)],
    check: ([x], [y]) => all(y!.data, softmaxRef(exact(x!), 1, false).data, 1024),
  }),
  table({
    name: "groupNorm swish 1×128×64×64 f32",
    op: "groupNorm",
    inputs: [spec([1, 128, 64, 64]), spec([128]), spec([128])],
    run: ([x, w, b]: Values) => [F.groupNorm(x!, 32, w!, b!, { eps: 1e-6, swish: true })],
    check: ([x, w, b], [y]) => all(y!.data, groupNormRef(exact(x!), exact(w!), exact(b!), 32, 1e-6, true).data, 16384),
  }),
];

const QKV = [1, 16, 512, 128];
const attentionRow = (name: string, shape: readonly number[], isCausal: boolean, dtype: DType = "f32"): Row =>
  table({
    name: `attention ${name} ${dtype}`,
    op: "attention",
    ...(isCausal && { peer: "attention" as const }),
    inputs: Array.from({ length: 3 }, () => spec(shape, dtype)),
    run: ([q, k, v]: Values) => [F.attention(q!, k!, v!, { causal: isCausal })],
    check: (inputs, [y], random) => attentionParts(inputs, y!, isCausal, random),
  });
const attentionTrainRow = (name: string, shape: readonly number[], dtype: DType = "f32"): Row =>
  table({
    name: `attention ${name} ${dtype}, forward and backward`,
    op: "attention",
    peer: "attentionTrain",
    inputs: Array.from({ length: 4 }, () => spec(shape, dtype)),
    run: ([q, k, v]: Values) => [F.attention(q!, k!, v!, { causal: true })],
    gradients: [0, 1, 2],
    check: (inputs, [y, ...gradients], random) => [
      ...attentionParts(inputs, y!, true, random),
      ...attentionGradientParts(inputs, gradients, random),
    ],
  });
const attention: Row[] = [
  attentionRow("causal B1 H16 T512 D128", QKV, true),
  attentionTrainRow("causal B1 H16 T512 D128", QKV),
  attentionRow("SigLIP B1 H16 T576 D64", [1, 16, 576, 64], false),
  attentionRow("VQ B1 H1 T576 D512", [1, 1, 576, 512], false),
];

function convRow(name: string, c: number, o: number, side: number, kernel = 3, stride = 1): Row {
  const half = kernel >> 1;
  // As the VQ encoder pads before it halves.
  const padding = stride === 1 ? ([half, half, half, half] as const) : ([0, 1, 1, 0] as const);
  return table({
    name: `conv2d ${name}`,
    op: "conv2d",
    ...(stride === 1 && kernel === 3 && { peer: "conv" as const }),
    inputs: [spec([1, c, side, side]), spec([o, c, kernel, kernel]), spec([o])],
    run: ([x, w, b]: Values) => [F.conv2d(x!, w!, b!, { stride, padding: [...padding] })],
    check: (inputs, [y], random) => convParts(inputs, y!, { stride, padding }, random),
  });
}
const convolutions: Row[] = [
  convRow("3×3 128→128 64² f32", 128, 128, 64),
  convRow("3×3 512→512 24² f32", 512, 512, 24),
  convRow("3×3 256→256 48² f32", 256, 256, 48),
  convRow("3×3 128→3 96² f32", 128, 3, 96),
  convRow("1×1 256→128 48² f32", 256, 128, 48, 1),
  convRow("3×3 stride 2 128→128 64² f32", 128, 128, 64, 3, 2),
];

const MLP = [spec([512, 1024]), spec([4096, 1024], "f32", { scale: 0.05 }), spec([4096], "f32", { scale: 0.05 }), spec([1024, 4096], "f32", { scale: 0.05 }), spec([1024], "f32", { scale: 0.05 })]; // prettier-ignore
const mlp = ([x, w1, b1, w2, b2]: Values): Tensor[] => [
  F.linear(F.linear(x!, w1!, b1!, { activation: "gelu" }), w2!, b2!),
];
const CHAINED = 100;
const networks: Row[] = [
  table({
    name: "MLP 512×1024→4096→1024 gelu f32",
    op: "linear",
    peer: "mlp",
    inputs: MLP,
    run: mlp,
    check: (inputs, [y], random) => mlpParts(inputs, y!, random),
  }),
  table({
    name: "MLP 512×1024→4096→1024 gelu f32, forward and backward",
    op: "linear",
    peer: "mlpTrain",
    inputs: [...MLP, spec([512, 1024])],
    run: mlp,
    gradients: [0, 1, 2, 3, 4],
    check: (inputs, [y, ...gradients], random) => [
      ...mlpParts(inputs, y!, random),
      ...mlpGradientParts(inputs, gradients, random),
    ],
  }),
  table({
    name: `${CHAINED} chained ops [4096] f32`,
    op: "mul",
    peer: "chain",
    inputs: [spec([4096])],
    run: ([x]: Values) => {
      let y = x!;
      for (let i = 0; i < CHAINED / 2; i++) y = F.add(F.mul(y, 0.99), 0.01);
      return [y];
    },
    check: ([x], [y]) => {
      const decayed = exact(x!).data.map((v) => {
        for (let i = 0; i < CHAINED / 2; i++) v = v * 0.99 + 0.01;
        return v;
      });
      return all(y!.data, decayed, CHAINED);
    },
  }),
];

const pointwise: Row[] = [
  table({
    name: "add 1024×2048 f32",
    op: "add",
    inputs: [spec([1024, 2048]), spec([1024, 2048])],
    run: ([a, b]: Values) => [F.add(a!, b!)],
    check: ([a, b], [y]) =>
      all(
        y!.data,
        exact(a!).data.map((v, i) => v + b!.data[i]!),
      ),
  }),
  table({
    name: "gelu 576×4096 f32",
    op: "gelu",
    inputs: [spec([576, 4096], "f32", { scale: 3 })],
    run: ([x]: Values) => [F.gelu(x!)],
    check: ([x], [y]) => all(y!.data, exact(x!).data.map(geluRef)),
  }),
  table({
    name: "swiglu 640×5632 f32",
    op: "swiglu",
    inputs: [spec([640, 5632]), spec([640, 5632])],
    run: ([g, u]: Values) => [F.swiglu(g!, u!)],
    check: ([g, u], [y]) =>
      all(
        y!.data,
        exact(g!).data.map((v, i) => siluRef(v) * u!.data[i]!),
      ),
  }),
  table({
    name: "rope 1×16×640×128 f32",
    op: "rope",
    inputs: [spec([1, 16, 640, 128]), { shape: [640], dtype: "i32", below: 4096 }],
    run: ([x, p]: Values) => [F.rope(x!, p!)],
    check: ([x, p], [y]) => all(y!.data, ropeRef(exact(x!), exact(p!), 10_000, 2).data, 4096),
  }),
  table({
    name: "transpose 2048×2048 f32",
    op: "transpose",
    inputs: [spec([2048, 2048])],
    run: ([x]: Values) => [F.transpose(x!, 0, 1).contiguous()],
    check: ([x], [y]) => all(y!.data, transposedRef(exact(x!)).data),
  }),
  table({
    name: "sum 1024×2048 over rows f32",
    op: "sum",
    inputs: [spec([1024, 2048], "f32", { mean: 0.5 })],
    run: ([x]: Values) => [F.sum(x!, 0)],
    check: ([x], [y]) => {
      const sums = new Float64Array(2048);
      for (let i = 0; i < x!.data.length; i++) sums[i % 2048]! += x!.data[i]!;
      return all(y!.data, sums, 1024);
    },
  }),
  table({
    name: "upsampleNearest2x 1×128×48×48 f32",
    op: "upsampleNearest2x",
    inputs: [spec([1, 128, 48, 48])],
    run: ([x]: Values) => [F.upsampleNearest2x(x!)],
    check: ([x], [y]) => all(y!.data, upsampleRef(exact(x!)).data),
  }),
];

const tables: Row[] = [
  table({
    name: "embedding 640 of 16384×2048 bf16",
    op: "embedding",
    inputs: [spec([16384, 2048], "bf16"), { shape: [640], dtype: "i32", below: 16384 }],
    run: ([w, i]: Values) => [F.embedding(w!, i!)],
    check: ([w, i], [y]) => all(y!.data, slices(w!, [...i!.data]).data),
  }),
  table({
    name: "codebookLookup 576 of 16384×8 f32",
    op: "codebookLookup",
    inputs: [spec([576, 8]), spec([16384, 8])],
    run: ([z, c]: Values) => [F.codebookLookup(z!, c!).indices],
    check: ([z, c], [indices], random) => {
      const at = someOf(576, 64, random);
      const nearest = nearestCodes(slices(z!, at), exact(c!), 1e-12);
      // Codes that are equally near within rounding may be taken instead: only clear cases are compared.
      const clear = at.filter((_, i) => nearest[i]!.margin > 1e-5);
      const expected = clear.map((k) => nearest[at.indexOf(k)]!.index);
      return all(
        clear.map((k) => indices!.data[k]!),
        expected,
      );
    },
  }),
  table({
    name: "crossEntropy 576×16384 f32",
    op: "crossEntropy",
    inputs: [spec([576, 16384], "f32", { scale: 4 }), { shape: [576], dtype: "i32", below: 16384 }],
    run: ([x, t]: Values) => [F.crossEntropy(x!, t!)],
    check: ([x, t], [y]) => all(y!.data, crossEntropyRef(exact(x!), exact(t!)).data, 16384),
  }),
  table({
    name: "linearCrossEntropy 64×1024→16384 bf16",
    op: "linearCrossEntropy",
    inputs: [spec([64, 1024]), spec([16384, 1024], "bf16"), { shape: [64], dtype: "i32", below: 16384 }],
    run: ([x, w, t]: Values) => [F.linearCrossEntropy(x!, w!, t!)],
    check: ([x, w, t], [y]) => {
      const logits = ref([64, 16384], times(exact(x!).data, transpose(plain(w!))));
      return all(y!.data, crossEntropyRef(logits, exact(t!)).data, 16384);
    },
  }),
  table({
    name: "sampleTokens greedy 5×16384 f32",
    op: "sampleTokens",
    inputs: [spec([5, 16384])],
    run: ([x]: Values) => [F.sampleTokens(x!, { temperature: 0 })],
    check: ([x], [y]) => {
      const rows = [0, 1, 2, 3, 4].map((i) => slices(x!, [i]).data);
      return all(
        y!.data,
        rows.map((row) => row.indexOf(row.reduce((a, b) => Math.max(a, b)))),
      );
    },
  }),
  table({
    name: "adamwStep 2048×2048 f32",
    op: "adamwStep",
    isPure: false,
    inputs: [spec([2048, 2048]), spec([2048, 2048], "f32", { scale: 0, mean: 0 }), spec([2048, 2048], "f32", { scale: 0 }), spec([2048, 2048]), { shape: [12], values: [0, 1e-3, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0] }], // prettier-ignore
    run: ([master, m, v, grad, state]: Values) => {
      F.adamwPrepare(state!, null);
      F.adamwStep({ master: master!, m: m!, v: v!, grad: grad! }, state!, { weightDecay: 0.1 });
      return [master!];
    },
    check: ([p, m, v, g], [master]) => {
      const step = { p: exact(p!).data, m: exact(m!).data, v: exact(v!).data };
      referenceStep(step, exact(g!).data, 1, 1e-3, 0.1, [0.9, 0.999, 1e-8]);
      return all(master!.data, step.p);
    },
  }),
];

export const tableRows = (): Row[] => [
  ...products,
  ...rowwise,
  ...attention,
  ...convolutions,
  ...networks,
  ...pointwise,
  ...tables,
];

const LONG = [1, 32, 2048, 128];
const normRow = (row: Omit<Row, "set" | "op" | "inputs">, shape: readonly number[]): Row =>
  table({ ...row, op: row.name.split(" ")[0]!, inputs: [spec(shape), spec(shape.slice(-1)), spec(shape.slice(-1))] });

/** Sizes that fill a large GPU. */
export const largeRows = (): Row[] =>
  [
    matmulRow("4096³ f32", [4096, 4096], [4096, 4096]),
    matmulRow("4096³ f16", [4096, 4096], [4096, 4096], { dtype: "f16" }),
    matmulRow("4096³ f16 A·Bᵗ", [4096, 4096], [4096, 4096], { dtype: "f16", tb: true }),
    matmulRow("4096³ f16 Aᵗ·B", [4096, 4096], [4096, 4096], { dtype: "f16", ta: true }),
    matmulRow("4096×2048×5632 bf16 A·Bᵗ", [4096, 2048], [5632, 2048], { dtype: "bf16", tb: true }),
    linearRow("two rows", 2, 4096, 11008, "bf16"),
    linearRow("two rows", 2, 4096, 11008, "f16"),
    attentionRow("causal B1 H32 T2048 D128", LONG, true, "f16"),
    attentionTrainRow("causal B1 H32 T2048 D128", LONG, "f16"),
    attentionRow("causal B1 H32 T2048 D128", LONG, true),
    attentionTrainRow("causal B1 H32 T2048 D128", LONG),
    convRow("3×3 256→256 192² f32", 256, 256, 192),
    convRow("3×3 512→512 96² f32", 512, 512, 96),
    normRow(
      {
        name: "layerNorm 8192×4096 f32",
        run: ([x, w, b]: Values) => [F.layerNorm(x!, w!, b!)],
        check: ([x, w, b], [y], random) =>
          rowsOf(x!, y!, random, (some) => layerNormRef(some, exact(w!), exact(b!), 1e-5)),
      },
      [8192, 4096],
    ),
    normRow(
      {
        name: "rmsNorm 8192×4096 f32",
        run: ([x, w]: Values) => [F.rmsNorm(x!, w!, 1e-6)],
        check: ([x, w], [y], random) => rowsOf(x!, y!, random, (some) => rmsNormRef(some, exact(w!), 1e-6)),
      },
      [8192, 4096],
    ),
    normRow(
      {
        name: "softmax 8192×4096 f32",
        run: ([x]: Values) => [F.softmax(x!)],
        check: ([x], [y], random) => rowsOf(x!, y!, random, (some) => softmaxRef(some, 1, false)),
      },
      [8192, 4096],
    ),
  ].map(large);

/** 64 rows of a result that is computed row by row. */
function rowsOf(x: Host, y: Host, random: () => number, expected: (some: Ref) => Ref): Part[] {
  const at = someOf(x.shape[0]!, 64, random);
  return [{ name: "rows", got: slices(y, at).data, expected: expected(slices(x, at)).data, terms: x.shape[1]! }];
}
