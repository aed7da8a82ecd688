/** Draws of indices by weights. */
import {
  ArgumentError,
  DTypeError,
  ShapeError,
  checkTensors,
  empty,
  grid1d,
  isFloat,
  kernel,
  knownOptions,
  launch,
  noGrad,
  requireBoolean,
  scope,
} from "../../engine/index.ts";
import type { Generator, Tensor } from "../../engine/index.ts";
import { checkWords } from "../core/check_ids.ts";
import { grid } from "../core/libraries.ts";
import { asDType, contiguousCopy, expression, map } from "../core/map.ts";
import { windowsOf } from "../core/windows.ts";
import { cumsum } from "../reduce/cumsum.ts";
import { sum } from "../reduce/reduce.ts";
import { topk } from "../sort/sort.ts";
import { uniform } from "../views/create.ts";
import { reshape } from "../views/views.ts";

const search = kernel(
  "multinomial",
  new URL("./multinomial.wgsl", import.meta.url),
  { cumulative: "read", u: "read", tokens: "write" },
  { rows: "u32", columns: "u32", draws: "u32" },
  [grid],
);

// A weight divided by an exponential number −log u: the k largest are k draws without replacement (Efraimidis and Spirakis 2006).
const race = expression("multinomial.race", "a / -log(b)");

// For devices with checks.
const isPositive = expression("multinomial.positive", "select(V4_a(0.0), V4_a(1.0), a > V4_a(0.0))");
const tooFew = expression("multinomial.too_few", "max(s.x - a, V4_a(0.0))");

/** Bits of infinity: from there on f32 words are infinite, NaN or negative. */
const INFINITE = 0x7f800000;
const MINUS_ZERO = 0x80000000;

/** On a device with `checks`: notes that rows of weights [N, C] must be finite and not negative, `needed` of each row above 0. */
function checkWeights(weights: Tensor, needed: number): void {
  if (!weights.device.faults) return;
  const check = { op: "multinomial", input: "weights" };
  const each = { required: "finite and not negative", got: "{value} at position {position}" };
  checkWords(weights, { ...check, limit: INFINITE, ignored: MINUS_ZERO, dtype: "f32", text: each });
  const few = asDType(map(tooFew, [sum(map(isPositive, [weights]), 1)], { scalars: [needed] }), "u32");
  const row = { required: `above 0 at ${needed} or more places of a row`, got: "{value} too few in row {position}" };
  checkWords(few, { ...check, limit: 1, ignored: null, dtype: "u32", text: row });
}

export interface MultinomialOptions {
  /** An index may be drawn more than once. Default: false, as in PyTorch. */
  readonly replacement?: boolean;
  /** Source of the numbers (default: that of the device, see `manualSeed`). */
  readonly generator?: Generator;
  /** Which op of the program draws: other sites give other numbers of the same generator and step. */
  readonly site?: number;
}

/**
 * `count` draws of indices for each row of weights [C] or [N, C], which need not add up to 1 → u32 [count] or [N, count]. Without replacement the
 * draws of a row are different. Weights must be finite, not negative, with a positive, finite sum; without replacement at least `count` of them
 * positive. A device with `checks` reports other weights as an error; the indices are below C for any weights.
 * @throws ArgumentError for a count below 1, or above C without replacement
 */
export function multinomial(weights: Tensor, count: number, options: MultinomialOptions = {}): Tensor {
  checkTensors("multinomial", weights);
  knownOptions("multinomial", options, ["replacement", "generator", "site"]);
  const { replacement = false, ...source } = options;
  requireBoolean("multinomial", "replacement", replacement);
  if (!isFloat(weights.dtype))
    throw new DTypeError(`multinomial: weights must have a floating dtype; got ${weights}. Cast them to f32 first.`);
  if ((weights.rank !== 1 && weights.rank !== 2) || weights.shape.at(-1) === 0)
    throw new ShapeError(
      `multinomial: weights must be [C] or [N, C] with C of at least 1; got ${weights}. Reshape them.`,
    );
  const columns = weights.shape.at(-1)!;
  if (!Number.isInteger(count) || count < 1 || (!replacement && count > columns))
    throw new ArgumentError(
      `multinomial: the number of draws must be a whole number from 1${replacement ? "" : ` to ${columns} without replacement`}; got ${count}. Change it.`,
    );
  const rows = weights.size / columns;
  const shape = [...weights.shape.slice(0, -1), count];
  const drawn = { device: weights.device, ...source };
  return noGrad(() =>
    scope(() => {
      const all = reshape(asDType(weights, "f32"), [rows, columns]);
      checkWeights(all, replacement ? 1 : count);
      if (!replacement) {
        const numbers = uniform([rows, columns], 2 ** -24, 1, drawn);
        return reshape(topk(map(race, [all, numbers]), count).indices, shape);
      }
      return reshape(drawByWeight(contiguousCopy(cumsum(all)), uniform([rows, count], 0, 1, drawn)), shape);
    }),
  );
}

function drawByWeight(cumulative: Tensor, u: Tensor): Tensor {
  const [rows, columns] = cumulative.shape as [number, number];
  const draws = u.shape[1]!;
  const tokens = empty([rows, draws], { dtype: "u32", device: u.device });
  for (const { count, buffers } of windowsOf("multinomial", rows, { cumulative, u, tokens })) {
    launch(search, {
      buffers,
      params: { rows: count, columns, draws },
      grid: grid1d(Math.ceil((count * draws) / 64)),
      cost: {
        flops: Math.ceil(Math.log2(columns + 1)) * count * draws,
        bytes: 4 * (buffers.cumulative.elements + 2 * count * draws),
      },
    });
  }
  return tokens;
}
