/** What a row of the bench is, how its inputs are made, and how its results are checked before anything is timed. */
import { tensor } from "../../index.ts";
import type { DType, Device, Tensor } from "../../index.ts";
import { uniform } from "../../kernels/index.ts";
import { relativeL2, round, tolerance } from "../../tests/harness.ts";
import { sizeOf } from "../../tests/reference.ts";
import { randomFrom } from "../../tests/random.ts";
import type { Host } from "./products.ts";

/** An input: uniform in [−scale, scale) around `mean`, or whole numbers below `below`. */
export interface InputSpec {
  readonly shape: readonly number[];
  readonly dtype?: DType;
  readonly scale?: number;
  readonly mean?: number;
  readonly below?: number;
  /** The values themselves. */
  readonly values?: readonly number[];
}

/** Part of a result against float64. */
export interface Part {
  readonly name: string;
  readonly got: ArrayLike<number>;
  readonly expected: ArrayLike<number>;
  /** Length of the longest sum behind an element. */
  readonly terms: number;
}

/** Rows that are measured by default; one row for each op of the table of tests; the ops of Janus-Pro-1B at its shapes; sizes that fill a GPU. */
export const ROW_SETS = ["table", "ops", "1B", "large"] as const;
export type RowSet = (typeof ROW_SETS)[number];

/** What other engines compute for a comparison; their inputs are those of the row, in its order. */
export const PEER_OPS = [
  "matmul",
  "linear",
  "layerNorm",
  "rmsNorm",
  "softmax",
  "attention",
  "attentionTrain",
  "conv",
  "mlp",
  "mlpTrain",
  "chain",
] as const;
export type PeerOp = (typeof PEER_OPS)[number];

export interface Row {
  /** Op, sizes and dtype, e.g. `matmul 1024³ f32`: the key under which baselines find it. */
  readonly name: string;
  readonly op: string;
  readonly set: RowSet;
  readonly inputs: readonly InputSpec[];
  /** Called in a scope that frees what it makes but the results. */
  readonly run: (inputs: readonly Tensor[]) => readonly Tensor[];
  /** Positions of inputs whose gradients are results too; the last input then is the gradient of the first result. */
  readonly gradients?: readonly number[];
  /** What other engines know it by (bench/peers); rows without it are ours alone. */
  readonly peer?: PeerOp;
  /** False if `run` changes its inputs or may not be captured. */
  readonly isPure?: boolean;
  /**
   * Results against float64: all elements if that takes about a second, else slices that no other slice has a part in (rows, queries, channels),
   * drawn by `random`. `outputs` are the results and then the gradients.
   */
  readonly check: (inputs: readonly Host[], outputs: readonly Host[], random: () => number) => readonly Part[];
  /** Instead of `inputs` and `check`, for rows of the table of tests: how they lie in memory, and their own check. */
  readonly fromCase?: {
    readonly inputs: (device: Device, seed: number) => Tensor[];
    readonly failures: (device: Device, seed: number) => Promise<readonly string[]>;
    /** Positions of the inputs that may need gradients. */
    readonly leaves: readonly number[];
  };
}

/** dtype of a row: that of its narrowest floating-point input. */
export function dtypeOf({ inputs }: Row): DType {
  const dtypes = inputs.map(({ dtype = "f32" }) => dtype);
  return dtypes.find((d) => d === "f16" || d === "bf16") ?? "f32";
}

/** Elements up to which inputs are drawn on the host, where other engines get the same ones; larger ones are drawn by the device. */
const ON_HOST = 1 << 23;

/** Values of an input, rounded to its dtype. */
export function drawInput(
  { shape, dtype = "f32", scale = 1, mean = 0, below, values: given }: InputSpec,
  seed: number,
): Float32Array {
  if (given) return Float32Array.from(given);
  const random = randomFrom(seed);
  const values = new Float32Array(sizeOf(shape));
  for (let i = 0; i < values.length; i++)
    values[i] = below === undefined ? round(mean + scale * (2 * random() - 1), dtype) : Math.floor(below * random());
  return values;
}

/** The tensors of a row, kept until the caller disposes them. */
export function makeInputs(row: Row, device: Device, seed: number): Tensor[] {
  if (row.fromCase) return row.fromCase.inputs(device, seed).map((t) => t.keep());
  return row.inputs.map((spec, i) => {
    const { shape, dtype = spec.below === undefined ? "f32" : "i32", scale = 1, mean = 0 } = spec;
    if (spec.below === undefined && sizeOf(shape) > ON_HOST)
      return uniform(shape, mean - scale, mean + scale, { device, dtype }).keep();
    return tensor(drawInput(spec, seed + i), { shape, dtype, device }).keep();
  });
}

/** What lies in a tensor. */
export const readHost = async (t: Tensor): Promise<Host> => ({ shape: t.shape, data: await t.data() });

/** The parts that are not right, as sentences; none if all are. The bounds are those of the tests. */
export function wrongParts(parts: readonly Part[], dtypes: readonly DType[], isGradient: boolean): string[] {
  return parts.flatMap(({ name, got, expected, terms }) => {
    const error = relativeL2(got, expected);
    const allowed = tolerance(isGradient ? "gradient" : "forward", dtypes, terms);
    return error <= allowed
      ? []
      : [`${name}: relative L2 error ${error.toExponential(1)}, at most ${allowed.toExponential(1)} is right`];
  });
}

/**
 * `count` different whole numbers below `n`, in order; all of them if there are no more. One of each of `count` equal runs: the first of the
 * first, the last of the last, any of the others.
 */
export function someOf(n: number, count: number, random: () => number): number[] {
  if (n <= count) return Array.from({ length: n }, (_, i) => i);
  const begin = (i: number): number => Math.floor((i * n) / count);
  return Array.from({ length: count }, (_, i) => {
    if (count > 1 && (i === 0 || i === count - 1)) return i && n - 1;
    return begin(i) + Math.floor(random() * (begin(i + 1) - begin(i)));
  });
}
