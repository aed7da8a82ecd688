/** Which matmul kernel runs for which problem, and with which constants: a pure function over a committed table. */
import type { Capabilities, Constants, Library, Uses } from "../../engine/index.ts";
import { lanesSubgroup, sizeAny, sizeFixed, sumSubgroup } from "./libraries.ts";

/** A product of m × k by k × n as its operands lie: `transA`: a lies [K, M]; `transB`: b lies [N, K]. */
export interface MatmulProblem {
  readonly batches: number;
  readonly m: number;
  readonly n: number;
  readonly k: number;
  readonly transA: boolean;
  readonly transB: boolean;
}

export type MatmulKernel = "naive" | "register" | "tiled" | "vector";

export interface MatmulChoice {
  readonly kernel: MatmulKernel;
  readonly constants: Constants;
  readonly use: Uses;
  /** Rows and columns that one workgroup computes. */
  readonly rows: number;
  readonly columns: number;
}

/** The reference variant; also for small products whose operands would have to be packed. */
export const NAIVE: MatmulChoice = { kernel: "naive", constants: {}, use: {}, rows: 1, columns: 256 };

interface Lanes {
  readonly lanes: number;
  /** Fills slot z. */
  readonly z: Library;
}

/** Invocations in a subgroup that a kernel may rely on, and the library that asks for it; null where there is none. */
function lanesOf(capabilities: Capabilities): Lanes | null {
  const sizes = capabilities.subgroups;
  if (!sizes) return null;
  if (sizes[0] === sizes[1]) return { lanes: sizes[0], z: sizeAny };
  return capabilities.subgroupSizeControl ? { lanes: Math.min(Math.max(32, sizes[0]), sizes[1]), z: sizeFixed } : null;
}

/**
 * No workgroup memory. With subgroups: one subgroup computes 16 rows × one granule a lane. Without: 8 rows, A read at uniform addresses. Fewer
 * where there are fewer. Each row adds up its terms in their order, so it has the same bits in any number of rows: decoding relies on it.
 * On lavapipe (2 cores, 1024³ f32, processor time of both): 16 rows by subgroup 72–87 ms, 8 rows by subgroup 88–99, 8 rows without 165–184,
 * 16 rows without 230–280 (spills), workgroups of 8 and 64 without alike. Rows along x of the grid 10 % faster than columns (2048³).
 */
function register(p: MatmulProblem, by: Lanes | null, software: boolean): MatmulChoice {
  const fewest = p.transA ? 4 : 1;
  const rows = [1, 2, 4, 8].find((n) => n >= fewest && (n >= p.m || (n === 8 && !by))) ?? 16;
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

/** For GPUs: tiles of 128 × 128 where they make enough workgroups to fill a large device, else 64 × 64. */
function tiled(p: MatmulProblem, forced?: string): MatmulChoice {
  const groups = p.batches * Math.ceil(p.m / 128) * Math.ceil(p.n / 128);
  const side = forced === "tiled-128" || (!forced && groups >= 128) ? 16 : 8;
  return {
    kernel: "tiled",
    constants: { ACROSS_M: side, ACROSS_N: side, TRANS_A: p.transA, TRANS_B: p.transB },
    use: {},
    rows: 8 * side,
    columns: 8 * side,
  };
}

/**
 * Few rows against B [N, K] on GPUs: the invocations of a subgroup (or of a workgroup of 64) share four columns. A row has the same bits in any
 * number of rows. Software devices take register instead: a decode step of 8 layers of Janus-Pro-1B in bf16 on lavapipe takes 156 ms for
 * 1 row (vector 155), 134 for 2 (153), and vector is far behind from 4 on (2048 → 5632 f32: 10.6 ms to 7.9, at 8 rows 17.9 to 8.4).
 */
function vector(p: MatmulProblem, by: Lanes | null): MatmulChoice {
  const lanes = by?.lanes ?? 64;
  const rows = Math.min(lanes, p.m <= 1 ? 1 : p.m <= 2 ? 2 : p.m <= 4 ? 4 : 8);
  return {
    kernel: "vector",
    constants: { WORKGROUP: lanes, LANES: lanes, ROWS: rows },
    use: by ? { s: sumSubgroup, z: by.z } : {},
    rows,
    columns: 4,
  };
}

/** 16 guided pictures at once. Beyond 8 rows the weights are read again for each 8; tiles of 64 rows would be mostly empty. Not yet measured. */
const MAX_VECTOR_ROWS = 32;

/**
 * The variant of a product. `forced` (tests, bench) names one: register (without subgroups), register-lanes, tiled (64 × 64), tiled-128, vector (where A lies
 * [M, K] and B [N, K]) or vector-lanes; one that cannot run here gives way to its form without subgroups, or to the default.
 * A variant on subgroup matrices will go first on devices that have them and 16-bit operands.
 */
export function chooseMatmul(capabilities: Capabilities, p: MatmulProblem, forced?: string): MatmulChoice {
  const by = lanesOf(capabilities);
  const dots = !p.transA && p.transB;
  if (forced === "register") return register(p, null, capabilities.software);
  if (forced === "register-lanes") return register(p, by, capabilities.software);
  if (forced === "tiled" || forced === "tiled-128") return tiled(p, forced);
  if (dots && forced === "vector") return vector(p, null);
  if (dots && (forced === "vector-lanes" || (!capabilities.software && p.m <= MAX_VECTOR_ROWS))) return vector(p, by);
  if (capabilities.software) return register(p, by, capabilities.software);
  // Few rows against B [K, N]: a granule of columns each, and no tile that is mostly empty.
  return p.m <= 8 ? register(p, null, capabilities.software) : tiled(p);
}
