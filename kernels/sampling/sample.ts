/**
 * Next tokens from logits, on the GPU: guidance, and sampling with random state in GPU buffers, so that a captured loop
 * can be replayed.
 */
import {
  ArgumentError,
  DTypeError,
  ShapeError,
  checkSite,
  checkTensors,
  defaultDraw,
  elementBytes,
  empty,
  grid1d,
  isFloat,
  kernel,
  launch,
  library,
  record,
  scope,
  knownOptions,
  requireBoolean,
} from "../../engine/index.ts";
import type { Generator, Tensor } from "../../engine/index.ts";
import { mul } from "../pointwise/elementwise.ts";
import { grid, philox, rowLibrary, standard } from "../core/libraries.ts";
import { asDType, contiguousCopy } from "../core/map.ts";
import { granulesOf, rowOperand } from "../core/rows.ts";
import { windowsOf } from "../core/windows.ts";
import type { BoundRows } from "../core/windows.ts";
import { reshape, stack } from "../views/views.ts";

const sortable = library("sortable", new URL("./lib/sortable.wgsl", import.meta.url));

const histogramKernel = kernel(
  "sample_histogram",
  new URL("./sample_histogram.wgsl", import.meta.url),
  { x: "read", limits: "read", settings: "read", partial: "write" },
  {
    rows: "u32",
    row: "u32",
    first: "u32",
    granules: "u32",
    chunk: "u32",
    chunks: "u32",
    shift: "u32",
    mask: "u32",
    limited: "u32",
    inverse_temperature: "f32",
  },
  [...standard, sortable],
);

const selectKernel = kernel(
  "sample_select",
  new URL("./sample_select.wgsl", import.meta.url),
  { x: "read", partial: "read", before: "read", settings: "read", after: "write" },
  {
    rows: "u32",
    row: "u32",
    first: "u32",
    granules: "u32",
    chunk: "u32",
    chunks: "u32",
    shift: "u32",
    step: "u32",
    top_k: "u32",
    top_p: "f32",
    inverse_temperature: "f32",
  },
  [...standard, sortable],
);

const sampleKernel = kernel(
  "sample",
  new URL("./sample.wgsl", import.meta.url),
  { x: "read", limits: "read", state: "read", seeds: "read", position: "read", best: "write" },
  { rows: "u32", first: "u32", granules: "u32", chunks: "u32", site: "u32", inverse_temperature: "f32", guidance: "f32" }, // prettier-ignore
  [...standard, philox, sortable],
);

const combineKernel = kernel(
  "sample_combine",
  new URL("./sample_combine.wgsl", import.meta.url),
  { best: "read", position: "read", tokens: "write", history: "read_write" },
  { rows: "u32", chunks: "u32", mark: "u32", columns: "u32" },
  [grid],
);

const guidanceKernel = kernel(
  "guidance",
  new URL("./guidance.wgsl", import.meta.url),
  { x: "read", y: "write" },
  { rows: "u32", granules: "u32", weight: "f32" },
  standard,
);

/**
 * Classifier-free guidance: logits [2N, V], rows alternating conditional and unconditional → u + weight · (c − u), [N,
 * V] of the same dtype. Ho and Salimans, "Classifier-free diffusion guidance" (2022).
 */
export function guidance(logits: Tensor, weight: number): Tensor {
  checkTensors("guidance", logits);
  if (!isFloat(logits.dtype))
    throw new DTypeError(`guidance: the logits must have a floating dtype; got ${logits}. Cast it to f32 first.`);
  if (logits.rank !== 2 || logits.shape[0]! % 2)
    throw new ShapeError(
      `guidance: logits must be [2N, V], alternating conditional and unconditional rows; got ${logits}. Reshape them.`,
    );
  if (!Number.isFinite(weight)) throw new ArgumentError(`guidance: weight must be finite; got ${weight}. Change it.`);
  const [rows, columns] = logits.shape as [number, number];
  const y = scope(() => {
    const x = rowOperand(logits, columns);
    const out = empty([rows / 2, columns], { dtype: x.dtype, device: x.device });
    const granules = granulesOf(columns);
    for (const { count, buffers } of windowsOf("guidance", rows / 2, { x, y: out })) {
      launch(guidanceKernel, {
        use: { x: rowLibrary(x.dtype, columns) },
        buffers,
        params: { rows: count, granules, weight },
        grid: grid1d(Math.ceil((count * granules) / 64)),
        cost: { flops: 3 * count * columns, bytes: elementBytes(x.dtype, 3 * count * columns) },
      });
    }
    return asDType(out, logits.dtype);
  });
  return record("guidance", [logits], y, [], (g) => [
    reshape(stack([mul(g, weight), mul(g, 1 - weight)], 1), [rows, columns]),
  ]);
}

const SAMPLE_OPTIONS = [
  "temperature",
  "topK",
  "topP",
  "generator",
  "site",
  "seeds",
  "position",
  "flagged",
  "guidance",
  "into",
  "history",
  "rows",
] as const;

export interface SampleOptions {
  /** Divides the logits; 0 takes the most probable token, the lowest index among equals. Default 1. */
  readonly temperature?: number;
  /** Only the k most probable tokens; equal ones count from the lowest index. */
  readonly topK?: number;
  /** Keeps only the fewest most probable tokens of those whose probabilities sum to at least this part (0 < p ≤ 1). */
  readonly topP?: number;
  /** Seed and step; default: another draw each call, as for `randn`. Pass one if draws must be repeatable or captured. */
  readonly generator?: Generator;
  /** Which op of the program draws: other sites give other numbers. */
  readonly site?: number;
  /** u32 [N]: row k draws as the only row with a generator of seed seeds[k] would (at the generator's step). */
  readonly seeds?: Tensor;
  /** u32 or i32 [1], added to the generator's step: a position that a captured loop counts up. */
  readonly position?: Tensor;
  /** Sets `NOT_FINITE_FLAG` in the token of a row that is not finite: a caller that reads the tokens learns of it by the same read. */
  readonly flagged?: boolean;
  /** The logits are those of `guidance(logits, weight)`: [2N, V], rows alternating conditional and unconditional. */
  readonly guidance?: number;
  /** u32 [N] that the tokens are written into, instead of a new tensor. */
  readonly into?: Tensor;
  /** u32 [N, C]: the tokens are also written into column `position`, if it is below C. */
  readonly history?: Tensor;
  /** Settings of each row, in place of temperature, topP, seeds and position. */
  readonly rows?: RowSettings;
}

/** Rows that are drawn each in its own way, e.g. answers to several people. */
export interface RowSettings {
  /** u32 [N, 4]: seed, position, 1 / temperature and topP of each row, as `rowSettings` writes them. */
  readonly settings: Tensor;
  /** True if a row has a topP below 1: the passes over the logits that it takes are run for all rows. */
  readonly hasTopP: boolean;
}

/** The four words of a row in `RowSettings.settings`: the row draws the bits that it draws alone with these options. */
export function rowSettings(row: {
  readonly seed: number;
  readonly position: number;
  readonly temperature: number;
  readonly topP: number;
}): [number, number, number, number] {
  const random = row.temperature > 0;
  const [inverse, mass] = new Uint32Array(
    Float32Array.of(random ? 1 / row.temperature : 0, random ? row.topP : 1).buffer,
  );
  return [row.seed, row.position, inverse!, mass!];
}

/** Set in the token of a row that is not finite, by `sampleTokens` with `flagged`. */
export const NOT_FINITE_FLAG = 0x80000000;

/** Granules that one invocation scores, and the most chunks of a row. */
const CHUNK_GRANULES = 16;
const MAX_CHUNKS = 256;
/** A filter's histograms count in f32. */
const MAX_FILTERED = 2 ** 24;

/** Throws for what `sampleTokens` does not take, before any work. */
function checkSample(
  logits: Tensor,
  { temperature = 1, topK, topP, seeds, position, generator, site, guidance: weight, into, history }: SampleOptions,
): void {
  checkTensors("sampleTokens", logits, generator?.state ?? null, seeds ?? null, position ?? null, into ?? null, history ?? null); // prettier-ignore
  if (!isFloat(logits.dtype))
    throw new DTypeError(`sampleTokens: the logits must have a floating dtype; got ${logits}. Cast it to f32 first.`);
  if (logits.rank !== 2 || logits.shape[1] === 0)
    throw new ShapeError(`sampleTokens: logits must be [N, V] with V ≥ 1; got ${logits}. Reshape them.`);
  const [logitRows, classes] = logits.shape as [number, number];
  const rows = weight === undefined ? logitRows : logitRows / 2;
  if (temperature !== 0 && !(temperature >= 1e-6 && temperature < Infinity))
    throw new ArgumentError(`sampleTokens: temperature must be 0, or at least 1e-6; got ${temperature}. Change it.`);
  if (topK !== undefined && (!Number.isInteger(topK) || topK < 1))
    throw new ArgumentError(`sampleTokens: topK must be a whole number ≥ 1; got ${topK}. Change it.`);
  if (topP !== undefined && !(topP > 0 && topP <= 1))
    throw new ArgumentError(`sampleTokens: topP must be above 0 and at most 1; got ${topP}. Change it.`);
  checkSite("sampleTokens", site ?? 0);
  if (site !== undefined && !generator)
    throw new ArgumentError(
      `sampleTokens: site must come with a generator; got site ${site} alone. Pass generator, or leave site out.`,
    );
  if (classes > MAX_FILTERED && (topK !== undefined || topP !== undefined))
    throw new ShapeError(
      `sampleTokens: topK and topP need logits of at most ${MAX_FILTERED} tokens; got ${logits}. Leave them out.`,
    );
  if (seeds && (seeds.dtype !== "u32" || seeds.rank !== 1 || seeds.size !== rows))
    throw new ShapeError(`sampleTokens: seeds must be u32 [${rows}], one per row; got ${seeds}. Cast or reshape them.`);
  if (into && (into.dtype !== "u32" || into.rank !== 1 || into.size !== rows || !into.isBindable))
    throw new ShapeError(
      `sampleTokens: into must be u32 [${rows}], contiguous; got ${into}. Pass a tensor of its own.`,
    );
  if (
    history &&
    (history.dtype !== "u32" || history.rank !== 2 || history.dim(0) !== rows || !history.isBindable || !position)
  )
    // prettier-ignore
    throw new ShapeError(
      `sampleTokens: history must be u32 [${rows}, C], contiguous, and come with a position; got ${history}${position ? "" : " without one"}. Change it.`,
    );
  if (position && ((position.dtype !== "u32" && position.dtype !== "i32") || position.size !== 1))
    throw new ShapeError(
      `sampleTokens: position must be u32 or i32 with one element; got ${position}. Cast or reshape it.`,
    );
}

/** Throws for settings of rows that have another shape, or that come with an option that they replace. */
function checkRows(rows: number, options: SampleOptions): void {
  if (options.rows === undefined) return;
  const { settings, hasTopP } = options.rows;
  requireBoolean("sampleTokens", "rows.hasTopP", hasTopP);
  checkTensors("sampleTokens", settings);
  if (settings.dtype !== "u32" || settings.shape.join() !== `${rows},4`)
    throw new ShapeError(
      `sampleTokens: rows.settings must be u32 [${rows}, 4]; got ${settings}. Write four words a row.`,
    );
  const replaced = (["temperature", "topP", "seeds", "position", "history", "guidance"] as const).find((name) => options[name] !== undefined); // prettier-ignore
  if (replaced !== undefined || !options.generator)
    throw new ArgumentError(`sampleTokens: rows must come with a generator and without ${replaced ?? "site"}; got ${replaced ? "both" : "no generator"}. Change the options.`); // prettier-ignore
}

/**
 * Draws one token per row from softmax(logits / temperature): logits [N, V] → u32 [N]. Nothing is read back. The same
 * seed, step, sample, site and logits give the same tokens; rows without their own seeds draw as samples `sample +
 * row`.
 *
 * A token is always below V. −Inf masks a token. A row with a NaN or +Inf logit, or with −Inf alone, is not finite: its
 * token is 0, and with `flagged` also has `NOT_FINITE_FLAG`. Logits beyond ±3e38 · temperature count as equal.
 *
 * Passes over the logits: 1; with topK 4 more, with topP 5 more, with both 8 more (see `limitsOf`).
 */
export function sampleTokens(logits: Tensor, options: SampleOptions = {}): Tensor {
  knownOptions("sampleTokens", options, SAMPLE_OPTIONS);
  const { guidance: weight, ...unguided } = options;
  // Filters read the logits several times, and 16-bit logits are guided in 16 bits.
  const isDirect = logits.dtype === "f32" && logits.rank === 2 && logits.dim(0) % 2 === 0 && Number.isFinite(weight) && logits.isBindable && options.topK === undefined && options.topP === undefined; // prettier-ignore
  if (weight !== undefined && !isDirect) return scope(() => sampleTokens(guidance(logits, weight), unguided));
  checkSample(logits, options);
  const { temperature = 1, topK, topP, seeds, position, flagged = false } = options;
  const [logitRows, classes] = logits.shape as [number, number];
  const rows = weight === undefined ? logitRows : logitRows / 2;
  checkRows(rows, options);
  const random = temperature > 0;
  return scope(() => {
    const tokens = options.into ?? empty([rows], { dtype: "u32", device: logits.device });
    if (rows === 0) return tokens;
    const x = rowOperand(logits, classes);
    const keep = topK !== undefined && topK < classes ? topK : 0;
    const mass = topP ?? 1;
    const inverse = random ? 1 / temperature : 1;
    const { generator, site } =
      options.generator || !random ? { generator: options.generator, site: options.site ?? 0 } : defaultDraw(x.device);
    const isFiltered = random && (keep > 0 || mass < 1 || (options.rows?.hasTopP ?? false));
    const limits = isFiltered ? limitsOf(x, { topK: keep, topP: mass, inverse, rows: options.rows ?? null }) : null;
    const granules = granulesOf(classes);
    const chunks = Math.min(MAX_CHUNKS, Math.ceil(granules / CHUNK_GRANULES));
    const best = empty([rows, chunks, 2], { dtype: "u32", device: x.device });
    // Bindings that a variant does not read are filled with the logits.
    const pairs = weight === undefined ? x : x.strided([rows, 2 * classes], [2 * classes, 1]);
    for (const { start, count, buffers } of windowsOf("sampleTokens", rows, { x: pairs })) {
      launch(sampleKernel, {
        use: { x: rowLibrary(x.dtype, classes) },
        constants: {
          RANDOM: random,
          FILTER: limits !== null,
          SEEDED: random && seeds !== undefined,
          MOVED: random && position !== undefined,
          ...(weight !== undefined && { GUIDED: true }),
          ...(options.rows && { ROWS: true }),
        },
        buffers: {
          ...buffers,
          limits: limits ?? buffers.x,
          state: random ? generator!.state : buffers.x,
          seeds: options.rows ? contiguousCopy(options.rows.settings) : seeds ? contiguousCopy(seeds) : buffers.x,
          position: position ? contiguousCopy(position) : buffers.x,
          best,
        },
        params: {
          rows: count,
          first: start,
          granules,
          chunks,
          site,
          inverse_temperature: inverse,
          guidance: weight ?? 1,
        },
        grid: grid1d(Math.ceil((count * chunks) / 64)),
        cost: { flops: (random ? 100 : 1) * count * classes, bytes: elementBytes(x.dtype, count * classes) },
      });
    }
    const { history } = options;
    launch(combineKernel, {
      ...(history && { constants: { HISTORY: true } }),
      buffers: {
        best,
        position: history ? contiguousCopy(position!) : best,
        tokens,
        history: history ?? empty([1], { dtype: "u32", device: x.device }),
      },
      params: { rows, chunks, mark: flagged ? NOT_FINITE_FLAG : 0, columns: history?.dim(1) ?? 0 },
      grid: grid1d(Math.ceil(rows / 64)),
      cost: { flops: rows * chunks, bytes: 8 * rows * chunks },
    });
    if (generator !== options.generator) generator?.dispose();
    return tokens;
  });
}

interface Bounds {
  /** 0 for all. */
  readonly topK: number;
  /** 1 for all. */
  readonly topP: number;
  /** 1 / temperature. */
  readonly inverse: number;
  /** In place of `topP` and `inverse`. */
  readonly rows: RowSettings | null;
}

/** A pass of the selection; the numbers of the steps are those of sample_select.wgsl. */
interface Pass {
  readonly shift: number;
  readonly step: number;
  /** Bins are sums of weights, not of tokens. */
  readonly isMass: boolean;
}

/** Eight bits of the key a pass. In topP's last one a bin is one key: counts give its weight, and the position at which a tie is cut. */
function passesOf({ topK, topP, rows }: Bounds): Pass[] {
  const of = (steps: readonly number[], mass: boolean): Pass[] =>
    steps.map((step, i) => ({ shift: 24 - 8 * i, step, isMass: mass && i < 3 }));
  return [...of(topK ? [0, 1, 1, 2] : [0], false), ...of(topP < 1 || rows?.hasTopP ? [3, 4, 4, 5] : [], true)];
}

/** Tokens of a chunk, which is a workgroup's: the kernels' fixed-point sums hold no more. */
const CHUNK_TOKENS = 4096;
/** Bins of a chunk's histogram, and its largest key. */
const PARTIAL = 257;

/**
 * The bound of each row's allowed tokens: u32 [N, 8], the first two (sortable key, index among equals). First the topK largest logits, then of
 * these the fewest whose probabilities reach topP. A radix selection: each pass reads the logits once, in chunks of 4,096 tokens, then one
 * workgroup a row picks the bin. topK takes 4 passes, topP 4 and one for the largest logit, which comes with topK's first.
 */
function limitsOf(x: Tensor, bounds: Bounds): Tensor {
  const [rows, classes] = x.shape as [number, number];
  const { device } = x;
  let [before, after] = [0, 1].map(() => empty([rows, 8], { dtype: "u32", device })) as [Tensor, Tensor];
  const chunks = Math.ceil(classes / CHUNK_TOKENS);
  const batch = Math.max(1, Math.floor(device.limits.maxStorageBufferBindingSize / (4 * PARTIAL * chunks)));
  const windows = windowsOf("sampleTokens", rows, { x });
  const settings = bounds.rows ? contiguousCopy(bounds.rows.settings) : empty([1], { dtype: "u32", device }); // not read
  const partial = empty([Math.min(batch, windows[0]!.count), chunks, PARTIAL], { dtype: "u32", device });
  for (const pass of passesOf(bounds)) {
    for (const { start, count, buffers } of windows) {
      for (let row = 0; row < count; row += batch)
        selectionPass(buffers.x, { partial, before, after, settings }, pass, bounds, {
          rows: Math.min(batch, count - row),
          row,
          first: start + row,
        });
    }
    [before, after] = [after, before];
  }
  return before;
}

/** One pass for some rows of a window of the logits: `rows` from row `row` of the window, which is row `first` of all. */
function selectionPass(
  x: BoundRows,
  { partial, before, after, settings }: Readonly<Record<"partial" | "before" | "after" | "settings", Tensor>>,
  { shift, step, isMass }: Pass,
  { topK, topP, inverse, rows }: Bounds,
  where: { readonly rows: number; readonly row: number; readonly first: number },
): void {
  const { dtype, shape, device } = x.of;
  const classes = shape[1]!;
  const chunks = partial.shape[1]!;
  const use = { x: rowLibrary(dtype, classes) };
  // Barriers: on software Vulkan fewer invocations cost less.
  const constants = { WORKGROUP: device.capabilities.software ? 64 : 256, ...(rows && { ROWS: true }) };
  const shared = {
    ...where,
    granules: granulesOf(classes),
    chunk: classes % 4 ? CHUNK_TOKENS : CHUNK_TOKENS / 4,
    chunks,
    shift,
    inverse_temperature: inverse,
  };
  const read = where.rows * classes;
  launch(histogramKernel, {
    use,
    constants: { ...constants, MASS: isMass },
    buffers: { x, limits: before, settings, partial },
    params: {
      ...shared,
      mask: shift === 24 ? 0 : (0xffffffff << (shift + 8)) >>> 0,
      limited: step > 2 && topK ? 1 : 0,
    },
    grid: grid1d(where.rows * chunks),
    cost: { flops: (isMass ? 20 : 5) * read, bytes: elementBytes(dtype, read) + 4 * PARTIAL * where.rows * chunks },
  });
  launch(selectKernel, {
    use,
    constants,
    buffers: { x, partial, before, settings, after },
    params: { ...shared, step, top_k: topK, top_p: topP },
    grid: grid1d(where.rows),
    cost: { flops: 256 * (chunks + 1) * where.rows, bytes: 4 * PARTIAL * where.rows * chunks },
  });
}
