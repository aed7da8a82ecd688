/**
 * NaN and infinity on the device: a part of the self-test of `janus doctor`. WGSL lets a device compute as if there were neither (fast math), so
 * each family of ops is tested with them. The correct result is that of PyTorch: NaN propagates through every op.
 */
import { scope, tensor } from "../engine/index.ts";
import type { DType, Device, Nested, Tensor } from "../engine/index.ts";
import { cacheStorage } from "../kernels/attention/cache_format.ts";
import * as F from "../kernels/index.ts";

type Make = (values: Nested, dtype?: DType) => Tensor;

/** An op, its inputs, and its correct results; finite numbers are compared within 1e-3. */
interface Probe {
  readonly op: string;
  readonly run: (make: Make) => Tensor;
  readonly expected: readonly number[];
}

const { NaN: nan, POSITIVE_INFINITY: inf } = Number;
const SPECIAL = [nan, inf, -inf, 1];

const unary = (op: string, run: (x: Tensor) => Tensor, expected: readonly number[], x: readonly number[] = SPECIAL): Probe => ({ op, run: (make) => run(make(x)), expected }); // prettier-ignore

/** `count` zeros with `value` at position `place`: rows long enough for each of the ways in which a device reduces them. */
const row = (count: number, value: number, place: number): number[] =>
  new Array<number>(count).fill(0).with(place, value);
const LENGTHS = [5, 70, 5000];

/** An op along a row that has `value` at its first, a middle and its last position. */
const along = (op: string, run: (x: Tensor) => Tensor, value: number, expected: (count: number, place: number) => readonly number[]): Probe[] =>
  LENGTHS.flatMap((count) => [0, count >> 1, count - 1].map((place) => ({ op, run: (make: Make) => run(make([row(count, value, place)])), expected: expected(count, place) }))); // prettier-ignore

const all =
  (value: number) =>
  (count: number): number[] =>
    new Array<number>(count).fill(value);
const one = (value: number) => (): number[] => [value];

const ELEMENTWISE: readonly Probe[] = [
  unary("add", (x) => F.add(x, F.neg(x)), [nan, nan, nan, 0]),
  unary("mul", (x) => F.mul(x, 0), [nan, nan, nan, 0]),
  unary("div", (x) => F.div(F.full([4], 1, { device: x.device }), x), [nan, 0, 0, 1]),
  unary("neg", F.neg, [nan, -inf, inf, -1]),
  unary("abs", F.abs, [nan, inf, inf, 1]),
  unary("relu", F.relu, [nan, inf, 0, 1]),
  unary("exp", F.exp, [nan, inf, 0, Math.E]),
  unary("log", F.log, [nan, inf, nan, 0]),
  unary("sqrt", F.sqrt, [nan, inf, nan, 1]),
  unary("tanh", F.tanh, [nan, 1, -1, Math.tanh(1)]),
  unary("sigmoid", F.sigmoid, [nan, 1, 0, 1 / (1 + Math.exp(-1))]),
  unary("clamp", (x) => F.clamp(x, -2, 3), [nan, 3, -2, 1]),
  unary("maximum", (x) => F.maximum(x, 0), [nan, inf, 0, 1]),
  { op: "maximum", run: (x) => F.maximum(x([0, 0, -inf]), x([nan, inf, -inf])), expected: [nan, inf, -inf] },
  unary("minimum", (x) => F.minimum(x, 0), [nan, 0, -inf, 0]),
  { op: "minimum", run: (x) => F.minimum(x([0, 0, inf]), x([nan, -inf, inf])), expected: [nan, -inf, inf] },
  unary("eq", (x) => F.eq(x, x), [0, 1, 1, 1]),
  unary("ne", (x) => F.ne(x, x), [1, 0, 0, 0]),
  unary("lt", (x) => F.lt(x, 2), [0, 0, 1, 1]),
  unary("le", (x) => F.le(x, x), [0, 1, 1, 1]),
  unary("gt", (x) => F.gt(x, 2), [0, 1, 0, 0]),
  unary("ge", (x) => F.ge(x, x), [0, 1, 1, 1]),
];

const ALONG_ROWS: readonly Probe[] = [
  ...along("max", (x) => F.max(x, -1), nan, one(nan)),
  ...along("max", (x) => F.max(x, -1), inf, one(inf)),
  ...along("min", (x) => F.min(x, -1), nan, one(nan)),
  ...along("min", (x) => F.min(x, -1), -inf, one(-inf)),
  ...along("sum", (x) => F.sum(x, -1), nan, one(nan)),
  ...along(
    "argmax",
    (x) => F.argmax(x, -1),
    nan,
    (_, place) => [place],
  ),
  ...along(
    "argmax",
    (x) => F.argmax(x, -1),
    inf,
    (_, place) => [place],
  ),
  ...along(
    "argmin",
    (x) => F.argmin(x, -1),
    nan,
    (_, place) => [place],
  ),
  ...along(
    "sort",
    (x) => F.sort(x).indices.slice(1, -1),
    nan,
    (_, place) => [place],
  ),
  ...along("topk", (x) => F.topk(x, 1).values, nan, one(nan)),
  ...along("cumsum", (x) => F.cumsum(x).slice(1, -1), nan, one(nan)),
  ...along("logsumexp", (x) => F.logsumexp(x, -1), nan, one(nan)),
  ...along("logsumexp", (x) => F.logsumexp(x, -1), inf, one(inf)),
  ...along("std", (x) => F.std(x, -1), nan, one(nan)),
  {
    op: "maxPool2d",
    run: (x) =>
      F.maxPool2d(
        x([
          [
            [1, nan],
            [inf, 2],
          ],
        ]),
        2,
      ),
    expected: [nan],
  },
  ...along("softmax", F.softmax, nan, all(nan)),
  ...along("softmax", F.softmax, inf, all(nan)),
  ...along("softmax", F.softmax, -inf, (count, place) =>
    row(count, -1, place).map((v) => (v < 0 ? 0 : 1 / (count - 1))),
  ),
  ...along("logSoftmax", F.logSoftmax, nan, all(nan)),
  ...along("logSoftmax", F.logSoftmax, inf, all(nan)),
  ...along("l2Normalize", F.l2Normalize, nan, all(nan)),
  ...along("rmsNorm", (x) => F.rmsNorm(x, F.ones([x.dim(1)], { device: x.device })), nan, all(nan)),
  ...along("matmul", (x) => F.matmul(x, F.ones([x.dim(1), 1], { device: x.device })), nan, one(nan)),
  ...along("matmul", (x) => F.matmul(x, F.ones([x.dim(1), 1], { device: x.device })), inf, one(inf)),
  ...along("sampleTokens", (x) => F.sampleTokens(x, { temperature: 0, flagged: true }), nan, one(F.NOT_FINITE_FLAG)),
  ...along("sampleTokens", (x) => F.sampleTokens(x, { topP: 0.9, flagged: true }), inf, one(F.NOT_FINITE_FLAG)),
  ...along("sampleTokens", (x) => F.sampleTokens(x, { topK: 3, flagged: true }), nan, one(F.NOT_FINITE_FLAG)),
  ...along("countNonFinite", F.countNonFinite, -inf, one(1)),
];

/** The loss of class 1 of a row. */
const loss = (x: Tensor): Tensor => F.crossEntropy(x, tensor(Int32Array.of(1), { device: x.device }));
/** The same of logits x · wᵀ with x = [1]. */
const linearLoss = (x: Tensor): Tensor =>
  F.linearCrossEntropy(
    F.ones([1, 1], { device: x.device }),
    x.reshape([-1, 1]),
    tensor(Int32Array.of(1), { device: x.device }),
  );

const LOSSES: readonly Probe[] = [
  ...along("crossEntropy", loss, nan, one(nan)),
  ...along("crossEntropy", loss, inf, one(nan)),
  { op: "crossEntropy", run: (x) => loss(x([[0, 0, -inf]])), expected: [Math.log(2)] },
  ...along("linearCrossEntropy", linearLoss, nan, one(nan)),
];

type Part = "query" | "key" | "value";

/** Attention over `tokens` tokens of `width` elements, all zero but the first element of token `token` of one part. Causal for token 0. */
function attend(part: Part, tokens: number, width: number, token: number): Probe {
  const of = (make: Make, name: Part): Tensor =>
    make(row(tokens * width, name === part ? nan : 0, token * width)).reshape([1, 1, tokens, width]);
  const isNaN = (t: number, column: number): boolean =>
    part === "query" ? t === token : part === "key" || column === 0;
  return {
    op: `attention (NaN in a ${part})`,
    run: (make) => F.attention(of(make, "query"), of(make, "key"), of(make, "value"), { causal: token === 0 }),
    expected: Array.from({ length: tokens * width }, (_, i) => (isNaN(Math.floor(i / width), i % width) ? nan : 0)),
  };
}

/** One query over a cache of 3 keys of 4 elements, with NaN in the last one of one part. */
function decode(part: Part): Probe {
  const of = (make: Make, name: Part, tokens: number): Tensor =>
    make(row(4 * tokens, name === part ? nan : 0, 4 * tokens - 4)).reshape([1, 1, tokens, 4]);
  return {
    op: `attentionDecode (NaN in a ${part})`,
    run: (make) => {
      const query = of(make, "query", 1);
      const length = tensor(Uint32Array.of(2), { device: query.device });
      return F.attentionDecode(query, of(make, "key", 3), of(make, "value", 3), length);
    },
    expected: part === "value" ? [nan, 0, 0, 0] : [nan, nan, nan, nan],
  };
}

/** The same from a cache of int8, in which the values that share a scale with NaN are NaN, too. */
function decodeInt8(part: "key" | "value"): Probe {
  const of = (make: Make, name: Part): Tensor => make(row(12, name === part ? nan : 0, 8)).reshape([1, 1, 3, 4]);
  return {
    op: `cacheWrite in int8 (NaN in a ${part})`,
    run: (make) => {
      const query = make(row(4, 0, 0)).reshape([1, 1, 1, 4]);
      const { device } = query;
      const { dtype, columns } = cacheStorage("int8", 4);
      const cache = (): Tensor => F.zeros([1, 1, 3, columns], { dtype, device });
      const [keys, values] = [cache(), cache()];
      F.cacheWrite(keys, values, of(make, "key"), of(make, "value"), tensor(Uint32Array.of(0), { device }));
      return F.attentionDecode(query, keys, values, tensor(Uint32Array.of(2), { device }));
    },
    expected: [nan, nan, nan, nan],
  };
}

const ATTENTION = (["query", "key", "value"] as const).flatMap((part): Probe[] => [
  attend(part, 2, 4, 1),
  attend(part, 40, 64, 0),
  attend(part, 40, 64, 17),
  attend(part, 40, 160, 39),
  decode(part),
  ...(part === "query" ? [] : [decodeInt8(part)]),
]);

const STORED = [nan, inf, -inf, 1, -2];
const STORAGE: readonly Probe[] = (["f16", "bf16"] as const).flatMap((dtype): Probe[] => [
  { op: `${dtype} storage (read)`, run: (make) => F.cast(make(STORED, dtype), "f32"), expected: STORED },
  { op: `${dtype} storage (written)`, run: (make) => F.cast(make(STORED), dtype), expected: STORED },
]);
const OVERFLOW: Probe = { op: "f16 storage (beyond its range)", run: (make) => F.cast(make([65504, 65520, -1e9]), "f16"), expected: [65504, inf, -inf] }; // prettier-ignore

export const PROBES: readonly Probe[] = [...ELEMENTWISE, ...ALONG_ROWS, ...LOSSES, ...ATTENTION, ...STORAGE, OVERFLOW]; // prettier-ignore

function isRight(got: number | undefined, expected: number): boolean {
  if (!Number.isFinite(expected)) return Object.is(got, expected);
  return Math.abs(got! - expected) <= 1e-3 * Math.max(1, Math.abs(expected));
}

/** The ops that lose NaN or infinity on the device, each once. */
export async function lossyOps(device: Device): Promise<string[]> {
  const lossy = new Set<string>();
  const make: Make = (values, dtype = "f32") => tensor(values, { dtype, device });
  for (const { op, run, expected } of PROBES) {
    using result = scope(() => run(make));
    const got = await result.data();
    if (got.length !== expected.length || !expected.every((value, i) => isRight(got[i], value))) lossy.add(op);
  }
  return [...lossy];
}
