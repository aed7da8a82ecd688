/**
 * The kernels of attention and which of them run: "tiled" (workgroup memory) on GPUs, "register" (no workgroup memory,
 * one subgroup per tile) on software Vulkan, "naive" (one invocation per row) as the reference.
 */
import { kernel, library } from "../../engine/index.ts";
import type { Capabilities, Constants, DType, Library, Uses } from "../../engine/index.ts";
import { finite, standard } from "../core/libraries.ts";
import { chooseVariant } from "../core/variants.ts";
import type { Family, Variant } from "../core/variants.ts";
import { sizeAny } from "../matmul/libraries.ts";
import { matrixUnit } from "../matmul/subgroup_matrix.ts";
import type { MatrixUnit } from "../matmul/subgroup_matrix.ts";

const lib = (name: string, url: URL, ...included: readonly Library[]): Library =>
  library(`attention_${name}`, url, included);
const keys = lib("keys", new URL("./lib/attention_keys.wgsl", import.meta.url));
const power = lib("power", new URL("./lib/attention_power.wgsl", import.meta.url), finite);
const range = lib("range", new URL("./lib/attention_range.wgsl", import.meta.url));
const block = lib("block", new URL("./lib/attention_block.wgsl", import.meta.url));
const blockGradient = lib("block_gradient", new URL("./lib/attention_block_gradient.wgsl", import.meta.url));
const tile = lib("tile", new URL("./lib/attention_tile.wgsl", import.meta.url));
const matrixF16 = lib("matrix_f16", new URL("./lib/attention_matrix_f16.wgsl", import.meta.url));
const matrixF32 = lib("matrix_f32", new URL("./lib/attention_matrix_f32.wgsl", import.meta.url));
const matrix = lib("matrix", new URL("./lib/attention_matrix.wgsl", import.meta.url));
const matrixGradient = lib("matrix_gradient", new URL("./lib/attention_matrix_gradient.wgsl", import.meta.url));
const lanesNone = lib("lanes_none", new URL("./lib/attention_lanes_none.wgsl", import.meta.url));
const lanesSubgroup = lib("lanes_subgroup", new URL("./lib/attention_lanes_subgroup.wgsl", import.meta.url));
const pass = [...standard, keys, power];
const forwardPass = lib("forward", new URL("./lib/attention_forward.wgsl", import.meta.url), ...pass);
const queryPass = lib("query", new URL("./lib/attention_query.wgsl", import.meta.url), ...pass);
const keyPass = lib("key", new URL("./lib/attention_key.wgsl", import.meta.url), ...pass);

const sizes = {
  rows: "u32",
  queries: "u32",
  keys: "u32",
  heads: "u32",
  group: "u32",
  batch: "u32",
  first: "u32",
  flags: "u32",
  slices: "u32",
  granules: "u32",
  scale: "f32",
} as const;
const views = { q: "vec4u", k: "vec4u", v: "vec4u" } as const;

// The bindings and parameters of each pass, as in its library.
const forward = (name: string, url: URL, ...included: readonly Library[]) =>
  kernel(
    name,
    url,
    { q: "read", k: "read", v: "read", mask: "read", o: "write", lse: "write" },
    { ...sizes, ...views, o: "vec4u", lse: "vec4u" },
    [...standard, forwardPass, ...included],
  );
const query = (name: string, url: URL, ...included: readonly Library[]) =>
  kernel(
    name,
    url,
    { q: "read", k: "read", v: "read", g: "read", stats: "read", mask: "read", dq: "write" },
    { ...sizes, slope: "f32", ...views, g: "vec4u", dq: "vec4u", stats: "vec4u" },
    [...standard, queryPass, ...included],
  );
const key = (name: string, url: URL, ...included: readonly Library[]) =>
  kernel(
    name,
    url,
    { q: "read", k: "read", v: "read", g: "read", stats: "read", mask: "read", dk: "write", dv: "write" },
    { ...sizes, slope: "f32", ...views, g: "vec4u", dk: "vec4u", dv: "vec4u", stats: "vec4u" },
    [...standard, keyPass, ...included],
  );

const naive = {
  forward: forward("attention_naive", new URL("./attention_naive.wgsl", import.meta.url)),
  query: query("attention_naive_query", new URL("./attention_naive_query.wgsl", import.meta.url)),
  key: key("attention_naive_key", new URL("./attention_naive_key.wgsl", import.meta.url)),
};

const tiles8 = [range, tile, lanesNone];
const register = {
  forward: forward("attention_register", new URL("./attention_register.wgsl", import.meta.url), ...tiles8),
  query: query("attention_register_query", new URL("./attention_register_query.wgsl", import.meta.url), ...tiles8),
  key: key("attention_register_key", new URL("./attention_register_key.wgsl", import.meta.url), ...tiles8),
};

const tiles32 = [range, block];
const tiled = {
  forward: forward("attention_tiled", new URL("./attention_tiled.wgsl", import.meta.url), ...tiles32),
  query: query(
    "attention_tiled_query",
    new URL("./attention_tiled_query.wgsl", import.meta.url),
    ...tiles32,
    blockGradient,
  ),
  key: key("attention_tiled_key", new URL("./attention_tiled_key.wgsl", import.meta.url), ...tiles32, blockGradient),
};

const withMatrices = [range, matrixF32, matrix, sizeAny];
const matrices = {
  forward: forward(
    "attention_subgroup_matrix",
    new URL("./attention_subgroup_matrix.wgsl", import.meta.url),
    ...withMatrices,
  ),
  query: query(
    "attention_subgroup_matrix_query",
    new URL("./attention_subgroup_matrix_query.wgsl", import.meta.url),
    ...withMatrices,
    matrixGradient,
  ),
  key: key(
    "attention_subgroup_matrix_key",
    new URL("./attention_subgroup_matrix_key.wgsl", import.meta.url),
    ...withMatrices,
    matrixGradient,
  ),
};

interface Kernels {
  readonly forward: typeof naive.forward;
  readonly query: typeof naive.query;
  readonly key: typeof naive.key;
}

/** Division of the work of one kernel. */
export interface Split {
  readonly constants: Constants;
  /** Workgroups that share a tile of rows, each computing a part of the columns. */
  readonly slices: number;
  /** For `heads` heads of `tokens` rows each: what the kernel's `rows` counts, and the workgroups. */
  readonly work: (heads: number, tokens: number) => { readonly rows: number; readonly groups: number };
}

export interface AttentionVariant extends Kernels {
  /** Slots of the forward kernel, and of those of the gradients. */
  readonly use: Uses;
  readonly gradientUse: Uses;
  /** Splits of the forward, the query and the key kernel, of which the last has two results. */
  readonly split: Split;
  readonly querySplit: Split;
  readonly keySplit: Split;
}

/**
 * Tiles of `rows` rows and of up to `most` chunks of `granules` granules of the head; larger heads take several tiles, each of which
 * recomputes the scores.
 */
function tiles(
  d: number,
  rows: number,
  granules: number,
  most: number,
  least = 1,
): { chunks: number; slices: number; of: (heads: number, tokens: number) => number } {
  const chunks = Math.ceil(d / 4 / granules);
  const slices = Math.ceil(chunks / most);
  // 1, 2 or 4 chunks: few compiled variants.
  const each = Math.max(least, 2 ** Math.ceil(Math.log2(Math.ceil(chunks / slices))));
  return { chunks: each, slices, of: (heads, tokens) => heads * Math.ceil(tokens / rows) * slices };
}

/** One invocation a row. */
function rowSplit(d: number): Split {
  // The sums' array is sized in few steps: few compiled variants.
  return {
    constants: { MOST: d <= 128 ? 32 : 4 ** Math.ceil(Math.log(d / 4) / Math.log(4)) },
    slices: 1,
    work: (heads, tokens) => ({ rows: heads * tokens, groups: Math.ceil((heads * tokens) / 64) }),
  };
}

/** Multiplications of a product from which register tiles are tall: their pipelines compile up to twice as long as those of flat ones. */
export const TALL_WORK = 2 ** 25;

function registerSplit(d: number, lanes: number, most: number, isTall: boolean, least = 1): Split {
  // The sums of a tile (rows · chunks) are loaded and stored once a round: more of them no longer fit the cache of two threads.
  // 32 rows of 64 elements save 10 to 20 % of the time and double that of compiling.
  const rows = lanes === 1 ? 8 : Math.max(lanes, isTall ? 16 : 8);
  const columns = Math.max(lanes, Math.min(4 * lanes, 32));
  const { chunks, slices, of } = tiles(d, rows, lanes, most, lanes === 1 ? most : least);
  const workgroup = lanes === 1 ? 64 : lanes;
  return {
    constants: {
      WORKGROUP: workgroup,
      LANES: lanes,
      ROWS: rows,
      COLUMNS: columns,
      CHUNKS: chunks,
      ROUND: isTall && lanes > 1 ? 2 : 1,
    },
    slices,
    work: (heads, tokens) => ({ rows: of(heads, tokens), groups: Math.ceil((of(heads, tokens) * lanes) / workgroup) }),
  };
}

function tiledSplit(d: number, most: number): Split {
  const { chunks, slices, of } = tiles(d, 32, 16, most);
  return {
    constants: most > 1 ? { PARTS: chunks } : {},
    slices,
    work: (heads, tokens) => ({ rows: of(heads, tokens), groups: of(heads, tokens) }),
  };
}

/** Heads of `d` elements, and how their operands are stored; `g`: the gradient of the result, if gradients are computed. */
export interface AttentionProblem {
  readonly d: number;
  readonly q: DType;
  readonly k: DType;
  readonly g?: DType;
  /** Multiplications of one product (the scores) over all heads, without masks; default: few. Changes tiles, not their results. */
  readonly work?: number;
}

// A fixed subgroup size makes a workgroup of that size one subgroup.
function registers({ d, work = 0 }: AttentionProblem, lanes: number): AttentionVariant {
  const use = { s: lanes === 1 ? lanesNone : lanesSubgroup };
  const isTall = work >= TALL_WORK;
  const querySplit = registerSplit(d, lanes, 4, isTall);
  return {
    ...register,
    use,
    gradientUse: use,
    // Heads of 128 are those of large models, whose short prompts take the pipeline that long ones need anyhow. Tall tiles of smaller heads,
    // down to 36, take it too and skip the chunks that they lack.
    split: registerSplit(d, lanes, 4, isTall || d >= 128, isTall && d > 32 ? 4 : 1),
    querySplit,
    keySplit: lanes === 1 ? registerSplit(d, lanes, 2, isTall) : querySplit,
  };
}

const byTiles = (d: number): AttentionVariant => ({
  ...tiled,
  use: {},
  gradientUse: {},
  split: tiledSplit(d, 2),
  querySplit: tiledSplit(d, 2),
  keySplit: tiledSplit(d, 1),
});

/** Elements of a head up to which the sums of a row of matrices fit registers; two such rows: half as many. */
const MAX_DEPTH = 128;
/** Columns (keys, or queries) of a tile. */
const COLUMNS = 32;
/** Components in 16 bytes. */
const PER = { f16: 8, f32: 4 } as const;

/** One of the kernels on subgroup matrices: constants and slots, and the split of its work. */
interface MatrixPass {
  readonly use: Uses;
  readonly split: Split;
}

interface MatrixWork {
  /** Operands whose rows are multiplied with columns. */
  readonly operands: number;
  /** Weights of columns that are summed up. */
  readonly weights: number;
  /** Workgroups that share rows, each computing a part of the head. */
  readonly slices: number;
  /** Rows lie in registers. */
  readonly hold: boolean;
}

/** Whether rows, columns and terms of heads of `d` elements, cut into `slices`, are whole matrices, and a subgroup's rows its own. */
function dividesIntoMatrices(
  { config: { M, N, K }, lanes, component }: MatrixUnit,
  d: number,
  slices: number,
): boolean {
  const divides = (n: number, ...by: readonly number[]): boolean => by.every((m) => n % m === 0);
  return (
    divides(d, 16, K) &&
    divides(d / slices, N) &&
    divides(COLUMNS, M, N, K) &&
    divides(lanes, M) &&
    divides(COLUMNS, (PER[component] * lanes) / M)
  );
}

/**
 * A pass over heads with matrices; null if the device or the heads do not fit them. The largest workgroup whose tiles fit the memory is taken.
 */
export function matrixPass(
  capabilities: Capabilities,
  unit: MatrixUnit,
  d: number,
  { operands, weights, slices, hold }: MatrixWork,
): MatrixPass | null {
  const { M, N, K } = unit.config;
  const { limits } = capabilities;
  const component = 16 / PER[unit.component];
  const line = d * component + 16;
  const rowsOf = (workgroup: number): number => (workgroup / unit.lanes) * M;
  const bytes = (workgroup: number): number =>
    ((hold ? 0 : operands * Math.max(rowsOf(workgroup), COLUMNS)) + 2 * COLUMNS) * line +
    rowsOf(workgroup) * (operands * (COLUMNS + 4) * 4 + weights * (COLUMNS * component + 16)) +
    16;
  const workgroup = [128, 64, 32].find(
    (n) =>
      n % unit.lanes === 0 &&
      n <= Math.min(limits.maxComputeInvocationsPerWorkgroup, limits.maxComputeWorkgroupSizeX) &&
      bytes(n) <= limits.maxComputeWorkgroupStorageSize,
  );
  if (workgroup === undefined || !dividesIntoMatrices(unit, d, slices)) return null;
  const sizes = { CM: M, CN: N, CK: K, LANES: unit.lanes, WORKGROUP: workgroup, DEPTH: d, PART: d / slices };
  const tasks = (heads: number, tokens: number): number => heads * Math.ceil(tokens / rowsOf(workgroup)) * slices;
  return {
    use: { c: unit.component === "f16" ? matrixF16 : matrixF32, z: unit.size },
    split: {
      constants: { ...sizes, OPERANDS: operands, WEIGHTS: weights, COLUMNS, HOLD: hold },
      slices,
      work: (heads, tokens) => ({ rows: tasks(heads, tokens), groups: tasks(heads, tokens) }),
    },
  };
}

function matrixForward(capabilities: Capabilities, { d, q, k }: AttentionProblem, hold: boolean): MatrixPass | null {
  const unit = d <= MAX_DEPTH ? matrixUnit(capabilities, [q, k]) : null;
  return unit && matrixPass(capabilities, unit, d, { operands: 1, weights: 1, slices: 1, hold });
}

/** On subgroup matrices; a backward that does not fit them (g of another dtype, too little workgroup memory) in tiles. */
function byMatrices(capabilities: Capabilities, problem: AttentionProblem, hold: boolean): AttentionVariant {
  const { d, q, k, g } = problem;
  const { use, split } = matrixForward(capabilities, problem, hold)!;
  const inTiles = byTiles(d);
  const { forward: kernelForward, query: kernelQuery, key: kernelKey } = matrices;
  const unit = g === q ? matrixUnit(capabilities, [q, k]) : null;
  const forQuery = unit && matrixPass(capabilities, unit, d, { operands: 2, weights: 1, slices: 1, hold });
  const slices = Math.ceil((2 * d) / MAX_DEPTH);
  const forKey = unit && matrixPass(capabilities, unit, d, { operands: 2, weights: 2, slices, hold });
  if (!forQuery || !forKey) return { ...inTiles, forward: kernelForward, use, split };
  return {
    forward: kernelForward,
    query: kernelQuery,
    key: kernelKey,
    use,
    gradientUse: forQuery.use,
    split,
    querySplit: forQuery.split,
    keySplit: forKey.split,
  };
}

const ATTENTION: readonly Variant<AttentionProblem, AttentionVariant>[] = [
  {
    name: "register",
    runs: ({ subgroups }) => subgroups !== null && subgroups[0] === subgroups[1],
    preferred: ({ software }) => software,
    choose: ({ subgroups }, problem) => registers(problem, subgroups![0]),
    instead: "register-single",
  },
  { name: "register-single", preferred: ({ software }) => software, choose: (_, problem) => registers(problem, 1) },
  {
    name: "naive",
    preferred: false,
    choose: (_, { d }) => ({
      ...naive,
      use: {},
      gradientUse: {},
      split: rowSplit(d),
      querySplit: rowSplit(d),
      keySplit: rowSplit(d),
    }),
  },
  // AMD's registers do not hold the rows of 128 elements.
  {
    name: "subgroup-matrix-held",
    runs: (c, p) => matrixForward(c, p, true) !== null,
    preferred: ({ software, vendor }) => !software && vendor.toLowerCase() === "nvidia",
    choose: (c, p) => byMatrices(c, p, true),
  },
  {
    name: "subgroup-matrix",
    runs: (c, p) => matrixForward(c, p, false) !== null,
    preferred: ({ software }) => !software,
    choose: (c, p) => byMatrices(c, p, false),
  },
  { name: "tiled", choose: (_, { d }) => byTiles(d) },
];

/** The forward and the gradients are two classes: any variant of the one fits any of the other. */
export const ATTENTION_FAMILY: Family<AttentionProblem, AttentionVariant> = {
  name: "attention",
  table: ATTENTION,
  classOf: ({ d, q, k, g }) => `${g ? "gradients" : "forward"} ${q}·${k}${g ? `·${g}` : ""} d${d}`,
};

/** The kernels of attention for a problem. */
export const attentionVariant = (capabilities: Capabilities, problem: AttentionProblem): AttentionVariant =>
  chooseVariant(ATTENTION_FAMILY, capabilities, problem);
