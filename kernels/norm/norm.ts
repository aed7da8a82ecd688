/** Norms over the last dimension: RMS norm and layer norm, one set of kernels; statistics f32. */
import {
  ArgumentError,
  DTypeError,
  ShapeError,
  checkTensors,
  elementBytes,
  empty,
  grid1d,
  isFloat,
  kernel,
  launch,
  record,
  sameShape,
  scope,
  shapeText,
} from "../../engine/index.ts";
import type { Tensor } from "../../engine/index.ts";
import { sumPair } from "../core/arithmetic.ts";
import { opaque, standard } from "../core/libraries.ts";
import { asDType, map } from "../core/map.ts";
import { sumTo } from "../reduce/reduce.ts";
import { granulesOf, rowOperand, rowUses, rowVariant, rowWorkgroup, rowsOf, tableRows, viewAs } from "../core/rows.ts";
import { windowsOf } from "../core/windows.ts";

const forward = kernel(
  "norm",
  new URL("./norm.wgsl", import.meta.url),
  { x: "read", weight: "read", bias: "read", y: "write", statistics: "write" },
  { rows: "u32", granules: "u32", scale: "f32", eps: "f32", base: "u32" },
  [...standard, opaque, rowWorkgroup],
);

const backwardX = kernel(
  "norm_backward",
  new URL("./norm_backward.wgsl", import.meta.url),
  { x: "read", weight: "read", g: "read", statistics: "read", prior: "read", dx: "write" },
  { rows: "u32", granules: "u32", scale: "f32", base: "u32" },
  [...standard, opaque, rowWorkgroup],
);

const backwardWeight = kernel(
  "norm_weight_backward",
  new URL("./norm_weight_backward.wgsl", import.meta.url),
  { x: "read", g: "read", statistics: "read", y: "write" },
  { rows: "u32", granules: "u32", blocks: "u32", base: "u32" },
  [...standard, opaque],
);

type Family = "rms_norm" | "layer_norm";

/** Rows that one invocation of the weight gradient adds up: short enough for many invocations, long enough that the partial sums are small. */
const BLOCK = 32;

/**
 * x [..., C], weight [C] → x / √(mean(x²) + eps) · weight, of x's dtype and shape. Without a weight (null) it counts as 1.
 * Gradients: x in its dtype, weight in f32. Zhang and Sennrich 2019, arXiv:1910.07467.
 * @throws ShapeError if `weight` is not [C]; DTypeError for integers
 */
export function rmsNorm(x: Tensor, weight: Tensor | null = null, eps = 1e-6): Tensor {
  return normalise("rmsNorm", "rms_norm", x, weight, null, eps);
}

/**
 * x [..., C], weight [C], bias [C] → (x − mean) / √(variance + eps) · weight + bias over the last dimension (variance with divisor C), of
 * x's dtype and shape. Weight and bias may be null; the default eps is PyTorch's. Gradients: x in its dtype, weight and bias in f32. Ba et al. 2016, arXiv:1607.06450.
 * @throws ShapeError if `weight` or `bias` is not [C]; DTypeError for integers
 */
export function layerNorm(x: Tensor, weight: Tensor | null = null, bias: Tensor | null = null, eps = 1e-5): Tensor {
  return normalise("layerNorm", "layer_norm", x, weight, bias, eps);
}

function normalise(
  op: string,
  family: Family,
  x: Tensor,
  weight: Tensor | null,
  bias: Tensor | null,
  eps: number,
): Tensor {
  checkTensors(op, x, weight, bias);
  if (x.rank === 0) throw new ShapeError(`${op}: x must be [..., C]; got ${x}. Reshape it.`);
  const { rows, columns } = rowsOf(x);
  for (const [name, t] of [
    ["x", x],
    ["weight", weight],
    ["bias", bias],
  ] as const) {
    if (t && !isFloat(t.dtype))
      throw new DTypeError(`${op}: ${name} must have a floating dtype; got ${t}. Cast it to f32 first.`);
    if (t && t !== x && !sameShape(t.shape, [columns]))
      throw new ShapeError(`${op}: ${name} must be [${columns}] for x ${shapeText(x.shape)}; got ${t}. Reshape it.`);
  }
  if (!(eps > 0) || !Number.isFinite(eps))
    throw new ArgumentError(`${op}: eps must be a finite number above 0; got ${eps}. Choose one like 1e-5.`);
  const [y, statistics] = scope(() => run(family, x, weight, bias, eps, rows, columns));
  const saved = [x, statistics, ...(weight ? [weight] : [])];
  const result = record(op, [x, weight, bias], y, saved, (g, [input, table, factor], needs, priors) => {
    const parts = needs[1] || needs[2] ? weightGradients(family, input!, g, table!, columns) : null;
    return [
      needs[0]
        ? inputGradient(family, {
            x: input!,
            weight: factor ?? null,
            g,
            statistics: table!,
            prior: priors.take(0)?.sum ?? null,
          })
        : null,
      needs[1] ? viewAs(parts!, [columns]) : null,
      needs[2] ? viewAs(parts!, [columns], parts!.offset + columns) : null,
    ];
  });
  statistics.dispose();
  return result;
}

/** y of x's shape, and statistics [rows, 4] for the backward (see norm.wgsl). */
function run(
  family: Family,
  x: Tensor,
  weight: Tensor | null,
  bias: Tensor | null,
  eps: number,
  rows: number,
  columns: number,
): [Tensor, Tensor] {
  const source = rowOperand(x, columns);
  const w = weight ? rowOperand(weight, columns) : source;
  const b = bias ? rowOperand(bias, columns) : source;
  const y = empty(x.shape, { dtype: source.dtype, device: x.device });
  const statistics = empty([rows, 4], { device: x.device });
  const granules = granulesOf(columns);
  const variant = rowVariant(family, x.device.capabilities, granules);
  for (const { start, count, buffers } of windowsOf(family, rows, { x: source, y })) {
    const table = tableRows(statistics, start, count);
    launch(forward, {
      use: { ...rowUses(columns, { x: source, w, b, y }), r: variant.library },
      constants: {
        ...variant.constants,
        CENTRED: family === "layer_norm",
        WEIGHT: weight !== null,
        BIAS: bias !== null,
      },
      buffers: {
        ...buffers,
        weight: weight ? w : buffers.x,
        bias: bias ? b : buffers.x,
        statistics: table.bound,
      },
      params: { rows: count, granules, scale: 1 / columns, eps, base: table.base },
      grid: grid1d(Math.ceil(count / variant.rows)),
      cost: {
        flops: 8 * count * columns,
        bytes: elementBytes(source.dtype, count * columns) + elementBytes(y.dtype, count * columns),
      },
    });
  }
  return [asDType(y, x.dtype), statistics];
}

interface BackwardTensors {
  readonly x: Tensor;
  readonly weight: Tensor | null;
  readonly g: Tensor;
  /** Those that `run` returned. */
  readonly statistics: Tensor;
  /** Gradient of x so far. */
  readonly prior: Tensor | null;
}

function inputGradient(family: Family, { x, weight, g: grad, statistics, prior: sum }: BackwardTensors): Tensor {
  const { rows, columns } = rowsOf(x);
  const source = rowOperand(x, columns);
  const w = weight ? rowOperand(weight, columns) : source;
  const g = rowOperand(grad, columns);
  const prior = sum && rowOperand(sum, columns);
  const dx = empty(x.shape, { dtype: source.dtype, device: x.device });
  const granules = granulesOf(columns);
  const variant = rowVariant(family, x.device.capabilities, granules);
  const operands = { x: source, g, dx, prior };
  for (const { start, count, buffers } of windowsOf(family, rows, operands)) {
    const table = tableRows(statistics, start, count);
    launch(backwardX, {
      use: { ...rowUses(columns, { x: source, w, g, s: prior ?? source, dx }), r: variant.library },
      constants: {
        ...variant.constants,
        CENTRED: family === "layer_norm",
        WEIGHT: weight !== null,
        PRIOR: prior !== null,
      },
      buffers: {
        ...buffers,
        weight: weight ? w : buffers.x,
        prior: buffers.prior ?? buffers.x,
        statistics: table.bound,
      },
      params: { rows: count, granules, scale: 1 / columns, base: table.base },
      grid: grid1d(Math.ceil(count / variant.rows)),
      cost: {
        flops: 14 * count * columns,
        bytes:
          elementBytes(source.dtype, 2 * count * columns) +
          elementBytes(g.dtype, count * columns) +
          (prior ? elementBytes(prior.dtype, count * columns) : 0),
      },
    });
  }
  return dx;
}

/** [1, columns] f32: the weight's gradient; for layer norm [2, columns]: the weight's and the bias's. */
function weightGradients(family: Family, x: Tensor, grad: Tensor, statistics: Tensor, columns: number): Tensor {
  const source = rowOperand(x, columns);
  const g = rowOperand(grad, columns);
  const granules = granulesOf(columns);
  const sections = family === "layer_norm" ? 2 : 1;
  const sums = windowsOf(family, rowsOf(x).rows, { x: source, g }).map(({ start, count, buffers }) => {
    const table = tableRows(statistics, start, count);
    const blocks = Math.ceil(count / BLOCK);
    const y = empty([blocks, sections * columns], { device: x.device });
    launch(backwardWeight, {
      use: rowUses(columns, { x: source, g, y }),
      constants: { BLOCK, BIAS: sections === 2 },
      buffers: { ...buffers, statistics: table.bound, y },
      params: { rows: count, granules, blocks, base: table.base },
      grid: grid1d(Math.ceil((blocks * granules) / 64)),
      cost: {
        flops: 4 * count * columns,
        bytes: elementBytes(source.dtype, count * columns) + elementBytes(g.dtype, count * columns),
      },
    });
    return sumTo(y, [sections * columns]);
  });
  if (!sums.length) return sumTo(empty([0, sections * columns], { device: x.device }), [sections * columns]);
  return sums.reduce((sum, part) => map(sumPair, [sum, part]));
}
