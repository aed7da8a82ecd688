/** One row of `janus verify`: the comparison of a computed value with a golden value, and all bounds. */
import { shapeText } from "../engine/errors.ts";
import type { Values } from "./file.ts";

/** Bounds for a float32 implementation, from the README of the fixtures. They also apply to 16-bit weights. */
export const BOUNDS = {
  /** Activations, logits, pixels, vectors. */
  activations: { maxAbs: 2e-3, relativeL2: 1e-4 },
  /** One difference of two logits. It may be near 0, when a relative error means nothing. */
  margin: { maxAbs: 2e-3, relativeL2: Infinity },
  /** Greedy tokens must be equal if the two best logits are further apart. */
  greedyMargin: 1e-2,
  /** Image codes must be equal if the two nearest are further apart (squared distance). */
  codeMargin: 1e-4,
  /** Gradients of a parameter; of their norm too, which cannot be further off than they are. */
  gradients: { maxAbs: Infinity, relativeL2: 1e-3 },
  /**
   * Noise as a share of the norm of all gradients: float32 cannot represent values below its last place. The gradient
   * of a key's bias is such: softmax does not see it, mathematically it is 0, and what implementations report is the
   * rounding of sums of terms that cancel.
   */
  gradientNoise: 2 ** -23,
  /** Losses, before and after steps of AdamW. */
  losses: { maxAbs: 2e-4, relativeL2: Infinity },
  /** Parameters after steps of AdamW. The README has no bound for them; this is that of activations. */
  parameters: { maxAbs: 2e-3, relativeL2: 1e-4 },
  /**
   * Bound on what AdamW has changed, as relative L1, in addition to `parameters`: a step is so small beside its parameter that an error of several percent
   * would pass there. The same as `gradients`, but L1: AdamW moves an element by the learning rate however small its gradient is, so the one
   * in a million whose sign is chance weighs two there, and would weigh a thousand in an L2.
   */
  update: 1e-3,
} as const;

export interface Bound {
  readonly maxAbs: number;
  readonly relativeL2: number;
}

export interface Comparison {
  readonly entry: string;
  readonly shape: readonly number[] | null;
  /** Null if it does not apply or something is not finite. */
  readonly maxAbs: number | null;
  readonly relativeL2: number | null;
  /** Tokens, codes or texts that are equal, as a share of all. */
  readonly equalShare: number | null;
  /** Null for what was not computed. */
  readonly pass: boolean | null;
  readonly note?: string;
}

const none = { maxAbs: null, relativeL2: null, equalShare: null } as const;

/** An entry that is not held against anything, and why. */
export const notComputed = (entry: string, shape: readonly number[] | null, note: string): Comparison => ({
  entry,
  shape,
  ...none,
  pass: null,
  note,
});

export const failed = (entry: string, shape: readonly number[] | null, note: string): Comparison => ({
  entry,
  shape,
  ...none,
  pass: false,
  note,
});

/** The row of values that can only be wrong because of their shape; null if they can be compared. */
function shapeProblem(entry: string, golden: Values, ours: readonly number[]): Comparison | null {
  if (golden.shape.join() !== ours.join())
    return failed(entry, golden.shape, `the shape is ${shapeText(golden.shape)}, computed is ${shapeText(ours)}`);
  // Nothing differs in nothing: that must not count as checked.
  return golden.data.length === 0 ? failed(entry, golden.shape, "it contains no values") : null;
}

/** Numbers that should be near each other. NaN and infinities fail, on either side. */
export function close(
  entry: string,
  golden: Values,
  ours: Values,
  bound: Bound = BOUNDS.activations,
  note?: string,
): Comparison {
  const problem = shapeProblem(entry, golden, ours.shape);
  if (problem) return problem;
  const { shape, data } = golden;
  let [maxAbs, squares, norm, strange] = [0, 0, 0, 0];
  for (let i = 0; i < data.length; i++) {
    const difference = Math.abs(data[i]! - ours.data[i]!);
    if (!Number.isFinite(difference)) strange++;
    maxAbs = Math.max(maxAbs, difference);
    squares += difference * difference;
    norm += data[i]! * data[i]!;
  }
  if (strange) return failed(entry, shape, `${strange} of ${data.length} values are not finite`);
  const relativeL2 = squares === 0 ? 0 : Math.sqrt(squares) / Math.max(Math.sqrt(norm), 1e-30);
  const pass = maxAbs <= bound.maxAbs && relativeL2 <= bound.relativeL2;
  return {
    entry,
    shape,
    maxAbs,
    relativeL2: bound.relativeL2 === Infinity ? null : relativeL2,
    equalShare: null,
    pass,
    ...(note && { note }),
  };
}

const norm = (values: ArrayLike<number>): number =>
  Math.sqrt(Array.prototype.reduce.call(values, (sum, x) => (sum as number) + (x as number) ** 2, 0) as number);

const minus = (a: Values["data"], b: Values["data"]): Float64Array => Float64Array.from(a, (x, i) => x - b[i]!);

/** True if the gradient of a parameter is only rounding error. @param total the norm of all gradients */
export const isNoise = (gradient: ArrayLike<number>, total: number): boolean =>
  norm(gradient) <= BOUNDS.gradientNoise * total;

/** The gradient of one parameter. @param total the norm of all gradients */
export function gradient(entry: string, golden: Values, ours: Values, total: number): Comparison {
  const row = close(entry, golden, ours, BOUNDS.gradients);
  if (row.pass || row.maxAbs === null || !isNoise(minus(golden.data, ours.data), total)) return row;
  return { ...row, relativeL2: null, pass: true, note: "differs by less than the rounding of all gradients" };
}

export interface Stepped {
  readonly before: Values["data"];
  readonly after: Values;
  readonly steps: number;
  readonly lr: number;
  /** True if its gradient is only rounding error, so that the direction of its steps is random. */
  readonly isNoise: boolean;
}

/** A parameter after steps of AdamW: itself, and what the steps have changed of it. */
export function stepped(entry: string, golden: Values, { before, after, steps, lr, isNoise }: Stepped): Comparison {
  // A step moves an element by about the learning rate at most: two by twice that, if they go apart.
  if (isNoise)
    return close(entry, golden, after, { maxAbs: 2 * lr * steps, relativeL2: Infinity }, "its gradient is rounding");
  const row = close(entry, golden, after, BOUNDS.parameters);
  if (!row.pass || row.relativeL2! <= steps * 2 ** -23) return row; // no more than each step's rounding of the parameter
  const sum = (values: Float64Array): number => values.reduce((total, x) => total + Math.abs(x), 0);
  const update = sum(minus(golden.data, after.data)) / Math.max(sum(minus(golden.data, before)), 1e-30);
  if (update <= BOUNDS.update) return row;
  return { ...row, pass: false, note: `of what the steps have changed, the relative L1 is ${update.toExponential(1)}` };
}

/** Names in any order. */
export function sameNames(entry: string, golden: readonly string[], ours: readonly string[]): Comparison {
  const [theirs, own] = [new Set(golden), new Set(ours)];
  const missing = golden.filter((name) => !own.has(name));
  const extra = ours.filter((name) => !theirs.has(name));
  const all = new Set([...golden, ...ours]).size;
  const list = (names: readonly string[]): string =>
    names.slice(0, 3).join(", ") + (names.length > 3 ? ` and ${names.length - 3} more` : "");
  const note = [
    ...(missing.length ? [`only in the file: ${list(missing)}`] : []),
    ...(extra.length ? [`only computed: ${list(extra)}`] : []),
  ].join("; ");
  return {
    entry,
    shape: [golden.length],
    ...none,
    equalShare: all ? (all - missing.length - extra.length) / all : 1,
    pass: note === "",
    ...(note && { note }),
  };
}

/** Things that must all be equal: ids, codes, texts. */
export function equal(
  entry: string,
  shape: readonly number[],
  golden: readonly unknown[],
  ours: readonly unknown[],
  note?: string,
): Comparison {
  const count = Math.max(golden.length, ours.length);
  if (count === 0) return failed(entry, shape, "it contains no values");
  let same = 0;
  for (let i = 0; i < count; i++) if (i < golden.length && i < ours.length && golden[i] === ours[i]) same++;
  return { entry, shape, ...none, equalShare: same / count, pass: same === count, ...(note && { note }) };
}

/** Ids of the same shape that must be equal, except at the places that `mayDiffer` excuses; `excuse` says which those are. */
export function equalTokens(
  entry: string,
  golden: Values,
  ours: Values,
  mayDiffer: (at: number) => boolean = () => false,
  excuse = "",
): Comparison {
  const problem = shapeProblem(entry, golden, ours.shape);
  if (problem) return problem;
  const different = Array.from(golden.data, (_, at) => at).filter((at) => golden.data[at] !== ours.data[at]);
  const wrong = different.filter((at) => !mayDiffer(at));
  const note = wrong.length
    ? `${wrong.length} differ, the first at ${wrong[0]}`
    : different.length
      ? `${different.length} differ ${excuse}`
      : undefined;
  return {
    entry,
    shape: golden.shape,
    ...none,
    equalShare: 1 - different.length / golden.data.length,
    pass: wrong.length === 0,
    ...(note && { note }),
  };
}

/** Margins of logits [N, V]: how far the second best of each row is behind the best; NaN if there is a NaN. */
export function marginsOf({ shape, data }: Values): number[] {
  const columns = shape[1]!;
  return Array.from({ length: shape[0]! }, (_, row) => {
    let [best, second] = [-Infinity, -Infinity];
    for (let c = 0; c < columns; c++) {
      const value = data[row * columns + c]!;
      if (Number.isNaN(value)) return NaN;
      if (value > best) [best, second] = [value, best];
      else if (value > second) second = value;
    }
    return best - second;
  });
}

/** A golden continuation and ours, tokens [T] each. */
export interface Continuation {
  readonly golden: ArrayLike<number>;
  readonly free: ArrayLike<number>;
  /** The model's logits [T, V] after each golden prefix. */
  readonly forced: () => Promise<Values>;
}

/**
 * Greedy tokens [N, T]. After each golden prefix the golden token must be the model's best one, or as good as that up to the bound; so must
 * be the free run's token at which it leaves the golden one. What a free run does after it has left is another text, and proves nothing.
 */
export async function greedy(entry: string, golden: Values, rows: readonly Continuation[]): Promise<Comparison> {
  const length = rows[0]?.free.length ?? 0;
  const problem = shapeProblem(entry, golden, [rows.length, length]);
  if (problem) return problem;
  let same = 0;
  const wrong: string[] = [];
  for (const [r, { golden: expected, free, forced }] of rows.entries()) {
    const differs = Array.from(expected, (token, t) => (token === free[t] ? -1 : t)).filter((t) => t >= 0);
    same += length - differs.length;
    const [left] = differs;
    const logits = await forced();
    const place = rows.length > 1 ? `row ${r} at ${left}` : `at ${left}`;
    if (left !== undefined && !isAsGood(logits, left, free[left]!))
      wrong.push(`${place} the free run takes ${free[left]!}, ${expected[left]!} is better`);
    const worse = Array.from(expected, (token, t) => (isAsGood(logits, t, token) ? -1 : t)).filter((t) => t >= 0);
    if (worse.length)
      wrong.push(
        `${rows.length > 1 ? `row ${r} ` : ""}would take others at ${worse.slice(0, 5).join(", ")}${worse.length > 5 ? ", …" : ""}`,
      );
  }
  const excuse = same < golden.data.length ? `leaves where two tokens are within ${BOUNDS.greedyMargin}` : "";
  const note = wrong.join("; ") || excuse;
  return {
    entry,
    shape: golden.shape,
    ...none,
    equalShare: same / golden.data.length,
    pass: wrong.length === 0,
    ...(note && { note }),
  };
}

/** True if `token` is the best one of row t, within the bound; always false if there is a NaN. */
function isAsGood({ shape, data }: Values, t: number, token: number): boolean {
  const row = data.subarray(t * shape[1]!, (t + 1) * shape[1]!);
  let best = -Infinity;
  for (const value of row) best = Math.max(best, value); // keeps a NaN
  return best - row[token]! <= BOUNDS.greedyMargin;
}
