/** Choice of the matmul kernel and its constants for a problem: a pure function over a committed table. */
import type { Capabilities, Constants, DType, Library, Uses } from "../../engine/index.ts";
import { bucket, chooseVariant } from "../core/variants.ts";
import type { Family, Variant } from "../core/variants.ts";
import { matrixProduct } from "./subgroup_matrix.ts";
import { lanesSubgroup, sizeAny, sizeFixed, sumSubgroup } from "./libraries.ts";

/** A product of m × k by k × n as its operands lie: `transA`: a lies [K, M]; `transB`: b lies [N, K]. */
export interface MatmulProblem {
  readonly batches: number;
  readonly m: number;
  readonly n: number;
  readonly k: number;
  readonly transA: boolean;
  readonly transB: boolean;
  /** How the operands are stored. */
  readonly a: DType;
  readonly b: DType;
  /** An operand would have to be packed first, for any kernel but the naive one. */
  readonly packs: boolean;
}

export type MatmulKernel = "naive" | "register" | "tiled" | "vector" | "matrix";

export interface MatmulChoice {
  readonly kernel: MatmulKernel;
  readonly constants: Constants;
  readonly use: Uses;
  /** Rows and columns that one workgroup computes. */
  readonly rows: number;
  readonly columns: number;
  /** Both operands are first packed into panels, of `rows` rows and of `columns` columns. */
  readonly panels?: boolean;
  /** One pipeline, which takes long to compile, serves all epilogues. */
  readonly byParams?: boolean;
}

const NAIVE: MatmulChoice = { kernel: "naive", constants: {}, use: {}, rows: 1, columns: 256 };

export interface Lanes {
  readonly lanes: number;
  /** Fills slot z. */
  readonly z: Library;
}

/** Invocations in a subgroup that a kernel may rely on, and the library that asks for it; null if there is none. */
export function lanesOf(capabilities: Capabilities): Lanes | null {
  const sizes = capabilities.subgroups;
  if (!sizes) return null;
  if (sizes[0] === sizes[1]) return { lanes: sizes[0], z: sizeAny };
  return capabilities.subgroupSizeControl ? { lanes: Math.min(Math.max(32, sizes[0]), sizes[1]), z: sizeFixed } : null;
}

/**
 * No workgroup memory. With subgroups: one subgroup computes 16 rows × one granule a lane. Without: 8 rows, A read at uniform addresses. Fewer rows
 * if the product has fewer. Each row adds up its terms in their order, so it has the same bits in any number of rows: decoding relies on it.
 * On lavapipe (2 cores, 1024³ f32, processor time of both): 16 rows by subgroup 72–87 ms, 8 rows by subgroup 88–99, 8 rows without 165–184,
 * 16 rows without 230–280 (spills), workgroups of 8 and 64 without alike. Rows along x of the grid 10 % faster than columns (2048³).
 */
function register(p: MatmulProblem, by: Lanes | null, software: boolean, rows = registerRows(p, by)): MatmulChoice {
  const workgroup = by ? by.lanes : software ? 16 : 64;
  const constants = { WORKGROUP: workgroup, LANES: by?.lanes ?? 1, ROWS: rows, TRANS_A: p.transA, TRANS_B: p.transB };
  return {
    kernel: "register",
    constants,
    use: by ? { s: lanesSubgroup, z: by.z } : {},
    rows,
    columns: 4 * workgroup,
  };
}

function registerRows({ m, transA }: MatmulProblem, by: Lanes | null): number {
  const fewest = transA ? 4 : 1;
  return [1, 2, 4, 8].find((n) => n >= fewest && (n >= m || (n === 8 && !by))) ?? 16;
}

/** For GPUs: tiles of `rows` × `columns`. */
function tiled(p: MatmulProblem, rows: 64 | 128, columns: 64 | 128): MatmulChoice {
  return {
    kernel: "tiled",
    constants: { ACROSS_M: rows / 8, ACROSS_N: columns / 8, TRANS_A: p.transA, TRANS_B: p.transB },
    use: {},
    rows,
    columns,
  };
}

/** True if tiles of this size make enough workgroups to fill a large device. */
const fillsDevice = (p: MatmulProblem, rows: number, columns: number): boolean =>
  p.batches * Math.ceil(p.m / rows) * Math.ceil(p.n / columns) >= 128;

/** Workgroups of fewer invocations leave multiprocessors half empty, which hold 16 to 32 workgroups. */
export const VECTOR_INVOCATIONS = 128;

/**
 * Few rows against B [N, K] on GPUs: the invocations of a subgroup (or of a workgroup of 64) share four columns. A row has the same bits in any
 * number of rows. Software devices take register instead: a decode step of 8 layers of Janus-Pro-1B in bf16 on lavapipe takes 156 ms for
 * 1 row (vector 155), 134 for 2 (153), and vector is far behind from 4 on (2048 → 5632 f32: 10.6 ms to 7.9, at 8 rows 17.9 to 8.4).
 */
function vector(p: MatmulProblem, by: Lanes | null, software: boolean): MatmulChoice {
  const lanes = by?.lanes ?? 64;
  const shares = by ? Math.max(1, VECTOR_INVOCATIONS / lanes) : 1;
  const rows = Math.min(lanes, p.m <= 1 ? 1 : p.m <= 2 ? 2 : p.m <= 4 ? 4 : 8);
  return {
    kernel: "vector",
    constants: { WORKGROUP: lanes * shares, LANES: lanes, ROWS: rows, AHEAD: software ? 2 : 4 },
    use: by ? { s: sumSubgroup, z: by.z } : {},
    rows,
    columns: 4 * shares,
  };
}

/** 16 guided images at once. Beyond 8 rows the weights are read again for each 8; tiles of 64 rows would be mostly empty. Not yet measured. */
export const MAX_VECTOR_ROWS = 32;

/** Work (m · n · k) up to which a product that would have to be packed first takes the naive kernel: one launch instead of three. */
const SMALL = 1 << 18;

/**
 * Work (batches · m · n · k) from which a software device takes taller tiles of operands of f32 as they lie, if at most a sixteenth of their rows is
 * empty. On lavapipe, ms of processor time with 16, 24 and 32 rows and in panels (m · n · k): A·Bᵗ 1056 · 384 · 128
 * 4.8, 4.2, 3.9, 4.7; 1760 · 128 · 384 7.2, 6.3, 5.8, 7.3; A·B 1056 · 128 · 768 8.1, 7.2, 8.0, 8.2; Aᵗ·B 768 · 128 · 1760 14.1, 13.4, 15.9, 13.5.
 * Operands of 16 bits gain less, and those of a large model's few small products would need more pipelines than its large ones.
 */
const TALL_SOFTWARE = 1 << 24;
const areF32 = ({ a, b }: MatmulProblem): boolean => a === "f32" && b === "f32";
const tallRows = ({ transA, transB }: Pick<MatmulProblem, "transA" | "transB">): number =>
  transB && !transA ? 32 : 24;

/**
 * Work (m · n · k) from which a software device packs both operands into panels, whose loads step by constants, and takes 32 rows. On lavapipe, ms
 * of processor time as they lie (24 or 32 rows) and in panels, packing included: 2048³ f32 A·B 660, 555; A·Bᵗ 575, 565; Aᵗ·B 690, 570; 600 rows ·
 * [5632, 2048]ᵗ bf16 505, 405. Panels of 16, 24, 40 rows: 660, 600, 645. f32 1056 · 256 · 1024 A·B 21.0, 20.1, Aᵗ·B 1024 · 1024 · 576 45.9, 41.4;
 * A·Bᵗ 576 · 1024 · 1024 41.4, 42.1.
 */
const largeSoftware = (p: MatmulProblem): number => (areF32(p) ? 1 << 28 : 1 << 26);
const PANEL_ROWS = 32;
/** A panel of k terms must fit a binding: the sums of a product in panels stay whole. */
function hasPanels(c: Capabilities, k: number): boolean {
  const lanes = lanesOf(c)?.lanes ?? Infinity;
  const bytes = 4 * Math.max(PANEL_ROWS, 4 * lanes) * Math.ceil(k / 4) * 4;
  return PANEL_ROWS % lanes === 0 && bytes <= c.limits.maxStorageBufferBindingSize;
}

/**
 * Work up to which a software device takes 8 rows and never 4 or 16: a tenth of a millisecond a launch at most, where each of the three takes
 * 0.3 to 1.0 s to compile on lavapipe, and a small model has dozens of products.
 */
const SMALL_SOFTWARE = 1 << 21;

const hasTerms = (_: Capabilities, p: MatmulProblem): boolean => p.k > 0;
/** A lies [M, K] and B [N, K]. */
const isDots = (_: Capabilities, p: MatmulProblem): boolean => p.k > 0 && !p.transA && p.transB;

/** Products with quantised weights have a table of their own, `quantized_variants.ts`. */
const MATMUL: readonly Variant<MatmulProblem, MatmulChoice>[] = [
  {
    name: "naive",
    preferred: (_, p) => p.k === 0 || (p.packs && p.batches * p.m * p.n * p.k <= SMALL),
    choose: () => NAIVE,
  },
  {
    name: "vector-lanes",
    runs: isDots,
    preferred: (c, p) => !c.software && p.m <= MAX_VECTOR_ROWS,
    choose: (c, p) => vector(p, lanesOf(c), c.software),
    instead: "register-lanes",
  },
  {
    name: "subgroup-matrix",
    runs: (c, p) => matrixProduct(c, p) !== null,
    preferred: (c, p) =>
      !c.software && p.m > MAX_VECTOR_ROWS && p.n > MAX_VECTOR_ROWS && p.batches * p.m * p.n * p.k > SMALL,
    choose: (c, p) => matrixProduct(c, p)!,
  },
  {
    name: "subgroup-matrix-128",
    runs: (c, p) => matrixProduct(c, p) !== null,
    preferred: false,
    choose: (c, p) => matrixProduct(c, p, { largest: true })!,
  },
  {
    name: "subgroup-matrix-turned",
    runs: (c, p) => matrixProduct(c, p, { turned: true }) !== null,
    preferred: false,
    choose: (c, p) => matrixProduct(c, p, { turned: true })!,
  },
  {
    name: "vector",
    runs: isDots,
    preferred: false,
    choose: (c, p) => vector(p, null, c.software),
    instead: "register-lanes",
  },
  {
    name: "register-lanes-8",
    runs: hasTerms,
    preferred: (c, p) => c.software && p.m > 2 && p.batches * p.m * p.n * p.k <= SMALL_SOFTWARE,
    choose: (c, p) => register(p, lanesOf(c), c.software, 8),
  },
  {
    name: "register-lanes-panels",
    runs: (c, p) => p.k > 0 && p.batches === 1 && hasPanels(c, p.k),
    preferred: (c, p) => c.software && p.m > 2 * PANEL_ROWS && p.m * p.n * p.k >= largeSoftware(p),
    choose: (c, p) => {
      const choice = register({ ...p, transA: false, transB: false }, lanesOf(c), c.software, PANEL_ROWS);
      return { ...choice, constants: { ...choice.constants, PANELS: true }, panels: true, byParams: true };
    },
    instead: "register-lanes",
  },
  {
    name: "register-lanes-tall",
    runs: (c, p) => p.k > 0 && tallRows(p) % (lanesOf(c)?.lanes ?? Infinity) === 0,
    preferred: (c, p) => {
      const rows = tallRows(p);
      const isFull = Math.ceil(p.m / rows) * rows * 15 <= p.m * 16;
      return c.software && areF32(p) && isFull && p.batches * p.m * p.n * p.k >= TALL_SOFTWARE;
    },
    choose: (c, p) => ({ ...register(p, lanesOf(c), c.software, tallRows(p)), byParams: true }),
    instead: "register-lanes",
  },
  {
    name: "register-lanes",
    runs: hasTerms,
    preferred: (c) => c.software,
    choose: (c, p) => register(p, lanesOf(c), c.software),
  },
  {
    name: "register",
    runs: hasTerms,
    // Few rows against B [K, N]: a granule of columns each, and no tile that is mostly empty.
    preferred: (_, p) => p.m <= 8,
    choose: (c, p) => register(p, null, c.software),
  },
  // On an H200, 4096³ f32: 32, 29 and 33 TFLOP/s for A·B, A·Bᵗ and Aᵗ·B; 128 × 128 30, 29 and 33, 128 × 64 29, 27 and 31.
  {
    name: "tiled-64x128",
    runs: hasTerms,
    preferred: (c, p) => c.vendor.toLowerCase() === "nvidia" && fillsDevice(p, 64, 128),
    choose: (_, p) => tiled(p, 64, 128),
  },
  {
    name: "tiled-128",
    runs: hasTerms,
    preferred: (_, p) => fillsDevice(p, 128, 128),
    choose: (_, p) => tiled(p, 128, 128),
  },
  // Two thirds of the loads of 64 × 64; two waves of 64 share them.
  {
    name: "tiled-128x64",
    runs: hasTerms,
    preferred: (_, p) => fillsDevice(p, 128, 64),
    choose: (_, p) => tiled(p, 128, 64),
  },
  { name: "tiled", runs: hasTerms, choose: (_, p) => tiled(p, 64, 64) },
];

/** Few rows are one class whatever their number: a decoding step must have the same bits in a batch of any size. */
export const MATMUL_FAMILY: Family<MatmulProblem, MatmulChoice> = {
  name: "matmul",
  table: MATMUL,
  classOf: ({ batches, m, n, k, transA, transB, a, b, packs }) =>
    `${a}${transA ? "ᵀ" : ""}·${b}${transB ? "ᵀ" : ""}${packs ? " packed" : ""} ${batches > 1 ? "batched " : ""}${m <= MAX_VECTOR_ROWS ? `≤${MAX_VECTOR_ROWS}` : bucket(m, 2048)}×${bucket(n)}×${bucket(k)}`,
};

/** The kernel of a product; variants whose names end in `-lanes` share loads in a subgroup if there is one. */
export const matmulVariant = (capabilities: Capabilities, p: MatmulProblem): MatmulChoice =>
  chooseVariant(MATMUL_FAMILY, capabilities, p);
