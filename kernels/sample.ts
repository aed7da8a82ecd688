/** Next tokens from logits, on the GPU: guidance, and sampling whose random numbers live in GPU buffers, so that a captured loop replays. */
import { ArgumentError, DTypeError, ShapeError, checkSite, checkTensors, defaultDraw, elementBytes, empty, grid1d, isFloat, kernel, launch, library, record, rowWindows, scope } from "../engine/index.ts";
import type { Generator, Tensor } from "../engine/index.ts";
import { mul } from "./elementwise.ts";
import { rowLibrary } from "./lib.ts";
import { contiguousCopy, map } from "./map.ts";
import { reshape, stack } from "./views.ts";

library("sortable", new URL("./lib/sortable.wgsl", import.meta.url));

const thresholdKernel = kernel(
  "sample_threshold",
  new URL("./sample_threshold.wgsl", import.meta.url),
  { x: "read", threshold: "write" },
  { rows: "u32", first: "u32", granules: "u32", top_k: "u32", top_p: "f32", inverse_temperature: "f32" },
);

const sampleKernel = kernel(
  "sample",
  new URL("./sample.wgsl", import.meta.url),
  { x: "read", threshold: "read", state: "read", seeds: "read", position: "read", best: "write" },
  { rows: "u32", first: "u32", granules: "u32", chunks: "u32", site: "u32", inverse_temperature: "f32" },
);

const combineKernel = kernel("sample_combine", new URL("./sample_combine.wgsl", import.meta.url), { best: "read", tokens: "write" }, { rows: "u32", chunks: "u32" });

const guidanceKernel = kernel("guidance", new URL("./guidance.wgsl", import.meta.url), { x: "read", y: "write" }, { rows: "u32", granules: "u32", weight: "f32" });

/** Contiguous logits whose rows are whole granules: 16-bit rows that do not split into fours become f32. */
const rowsOfGranules = (x: Tensor, columns: number): Tensor => (x.dtype !== "f32" && columns % 4 !== 0 ? map("copy", [x], { dtype: "f32" }) : contiguousCopy(x));

/**
 * Classifier-free guidance: logits [2N, V], rows in turn conditional and unconditional → u + weight · (c − u), [N, V] of the same dtype.
 * Ho and Salimans, "Classifier-free diffusion guidance" (2022).
 */
export function guidance(logits: Tensor, weight: number): Tensor {
  checkTensors("guidance", logits);
  if (!isFloat(logits.dtype)) throw new DTypeError(`guidance: the logits ${logits} are not of a floating dtype`);
  if (logits.rank !== 2 || logits.shape[0]! % 2) throw new ShapeError(`guidance: logits ${logits}; they are [2N, V], conditional and unconditional rows in turn`);
  if (!Number.isFinite(weight)) throw new ArgumentError(`guidance: weight ${weight} is not finite`);
  const [rows, columns] = logits.shape as [number, number];
  const y = scope(() => {
    const x = rowsOfGranules(logits, columns);
    const out = empty([rows / 2, columns], { dtype: x.dtype, device: x.device });
    const granules = columns % 4 ? columns : columns / 4;
    for (const { start, count } of rowWindows(x.device, rows / 2, [{ rowElements: 2 * columns, dtype: x.dtype }, { rowElements: columns, dtype: x.dtype }], 1, "guidance")) {
      launch(guidanceKernel, {
        use: { x: rowLibrary(x.dtype, columns) },
        buffers: { x: { of: x, start: 2 * start * columns, elements: 2 * count * columns }, y: { of: out, start: start * columns, elements: count * columns } },
        params: { rows: count, granules, weight },
        grid: grid1d(Math.ceil((count * granules) / 64)),
        cost: { flops: 3 * count * columns, bytes: elementBytes(x.dtype, 3 * count * columns) },
      });
    }
    return out.dtype === logits.dtype ? out : map("copy", [out], { dtype: logits.dtype });
  });
  return record("guidance", [logits], y, [], (g) => [reshape(stack([mul(g, weight), mul(g, 1 - weight)], 1), [rows, columns])]);
}

export interface SampleOptions {
  /** Divides the logits; 0 takes the most probable token, the lowest index among equals. Default 1. */
  readonly temperature?: number;
  /** Only the k most probable tokens; equal ones count from the lowest index. */
  readonly topK?: number;
  /** Of those, only the fewest most probable ones whose probabilities sum to at least this part (0 < p ≤ 1). */
  readonly topP?: number;
  /** Seed and step; the default is another draw each call, as for `randn`. Pass one where draws must be repeatable or captured. */
  readonly generator?: Generator;
  /** Which op of the program draws: other sites give other numbers. */
  readonly site?: number;
  /** u32 [N]: row k draws as the only row with a generator of seed seeds[k] would (at the generator's step). */
  readonly seeds?: Tensor;
  /** u32 or i32 [1], added to the generator's step: a position that a captured loop counts up. */
  readonly position?: Tensor;
}

/** Granules that one invocation scores, and the most chunks of a row. */
const CHUNK_GRANULES = 16;
const MOST_CHUNKS = 256;

/**
 * One token a row, drawn from softmax(logits / temperature): logits [N, V] → u32 [N]. Nothing is read back. The same seed, step, sample,
 * site and logits give the same tokens; rows without seeds of their own draw as samples `sample + row`.
 */
export function sampleTokens(logits: Tensor, options: SampleOptions = {}): Tensor {
  const { temperature = 1, topK, topP, seeds, position } = options;
  checkTensors("sampleTokens", logits, options.generator?.state, seeds, position);
  if (!isFloat(logits.dtype)) throw new DTypeError(`sampleTokens: the logits ${logits} are not of a floating dtype`);
  if (logits.rank !== 2 || logits.shape[1] === 0) throw new ShapeError(`sampleTokens: logits ${logits}; they are [N, V] with V ≥ 1`);
  const [rows, classes] = logits.shape as [number, number];
  if (temperature !== 0 && !(temperature >= 1e-6 && temperature < Infinity)) throw new ArgumentError(`sampleTokens: temperature ${temperature}; 0, or at least 1e-6`);
  if (topK !== undefined && (!Number.isInteger(topK) || topK < 1)) throw new ArgumentError(`sampleTokens: topK ${topK}; a whole number ≥ 1`);
  if (topP !== undefined && !(topP > 0 && topP <= 1)) throw new ArgumentError(`sampleTokens: topP ${topP}; 0 < p ≤ 1`);
  checkSite("sampleTokens", options.site ?? 0);
  const random = temperature > 0;
  if (seeds && (seeds.dtype !== "u32" || seeds.rank !== 1 || seeds.size !== rows)) throw new ShapeError(`sampleTokens: seeds ${seeds} for ${rows} rows; u32, one a row`);
  if (position && ((position.dtype !== "u32" && position.dtype !== "i32") || position.size !== 1)) throw new ShapeError(`sampleTokens: position ${position}; u32 or i32 of one element`);
  return scope(() => {
    const tokens = empty([rows], { dtype: "u32", device: logits.device });
    if (rows === 0) return tokens;
    const x = rowsOfGranules(logits, classes);
    const keep = topK !== undefined && topK < classes ? topK : 0;
    const mass = topP ?? 1;
    const filtered = random && (keep > 0 || mass < 1);
    const inverse = random ? 1 / temperature : 1;
    const { generator, site } = options.generator || !random ? { generator: options.generator, site: options.site ?? 0 } : defaultDraw(x.device);
    const threshold = filtered ? thresholds(x, keep, mass, inverse) : null;
    const granules = classes % 4 ? classes : classes / 4;
    const chunks = Math.min(MOST_CHUNKS, Math.ceil(granules / CHUNK_GRANULES));
    const best = empty([rows, chunks, 2], { dtype: "u32", device: x.device });
    // What a variant does not read is bound to the logits again.
    for (const { start, count } of rowWindows(x.device, rows, [{ rowElements: classes, dtype: x.dtype }], 1, "sampleTokens")) {
      const window = { of: x, start: start * classes, elements: count * classes };
      launch(sampleKernel, {
        use: { x: rowLibrary(x.dtype, classes) },
        constants: { RANDOM: random, FILTER: filtered, SEEDED: random && seeds !== undefined, MOVED: random && position !== undefined },
        buffers: {
          x: window,
          threshold: threshold ?? window,
          state: random ? generator!.state : window,
          seeds: seeds ? contiguousCopy(seeds) : window,
          position: position ? contiguousCopy(position) : window,
          best,
        },
        params: { rows: count, first: start, granules, chunks, site, inverse_temperature: inverse },
        grid: grid1d(Math.ceil((count * chunks) / 64)),
        cost: { flops: (random ? 100 : 1) * count * classes, bytes: elementBytes(x.dtype, count * classes) },
      });
    }
    launch(combineKernel, { buffers: { best, tokens }, params: { rows, chunks }, grid: grid1d(Math.ceil(rows / 64)), cost: { flops: rows * chunks, bytes: 8 * rows * chunks } });
    if (generator !== options.generator) generator?.dispose();
    return tokens;
  });
}

/** The places at which each row's allowed tokens end: u32 [N, 2] (sortable key, index among equals). */
function thresholds(x: Tensor, topK: number, topP: number, inverse: number): Tensor {
  const [rows, classes] = x.shape as [number, number];
  const threshold = empty([rows, 2], { dtype: "u32", device: x.device });
  // One workgroup a row with barriers: on software Vulkan fewer invocations cost less.
  const workgroup = x.device.capabilities.software ? 64 : 256;
  for (const { start, count } of rowWindows(x.device, rows, [{ rowElements: classes, dtype: x.dtype }], 1, "sampleTokens")) {
    launch(thresholdKernel, {
      use: { x: rowLibrary(x.dtype, classes) },
      constants: { WORKGROUP: workgroup },
      buffers: { x: { of: x, start: start * classes, elements: count * classes }, threshold },
      params: { rows: count, first: start, granules: classes % 4 ? classes : classes / 4, top_k: topK, top_p: topP, inverse_temperature: inverse },
      grid: grid1d(count),
      cost: { flops: 100 * count * classes, bytes: 40 * elementBytes(x.dtype, count * classes) },
    });
  }
  return threshold;
}
