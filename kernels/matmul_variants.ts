/** Which matmul kernel runs for which problem, and with which constants: a pure function over a committed table. */
import type { Capabilities, Constants, Uses } from "../engine/index.ts";

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
  /** Library for slot z. */
  readonly z: string;
}

/** Invocations in a subgroup that a kernel may rely on, and the library that asks for it; null where there is none. */
function lanesOf(capabilities: Capabilities): Lanes | null {
  const sizes = capabilities.subgroups;
  if (!sizes) return null;
  if (sizes[0] === sizes[1]) return { lanes: sizes[0], z: "size_any" };
  return capabilities.subgroupSizeControl ? { lanes: Math.min(Math.max(32, sizes[0]), sizes[1]), z: "size_fixed" } : null;
}

/**
 * No workgroup memory. With subgroups: one subgroup computes 16 rows × one granule a lane. Without: 8 rows, A read at uniform addresses.
 * On lavapipe (2 cores, 1024³ f32, processor time of both): 16 rows by subgroup 72–87 ms, 8 rows by subgroup 88–99, 8 rows without 165–184,
 * 16 rows without 230–280 (spills), workgroups of 8 and 64 without alike. Rows along x of the grid 10 % faster than columns (2048³).
 */
function register(p: MatmulProblem, by: Lanes | null, software: boolean): MatmulChoice {
  const rows = by && p.m > 8 ? 16 : 8;
  const workgroup = by ? by.lanes : software ? 16 : 64;
  const constants = { WORKGROUP: workgroup, LANES: by?.lanes ?? 1, ROWS: rows, TRANS_A: p.transA, TRANS_B: p.transB };
  return { kernel: "register", constants, use: by ? { s: "lanes_subgroup", z: by.z } : {}, rows, columns: 4 * workgroup };
}

/** For GPUs: tiles of 128 × 128 where they make enough workgroups to fill a large device, else 64 × 64. */
function tiled(p: MatmulProblem, forced?: string): MatmulChoice {
  const groups = p.batches * Math.ceil(p.m / 128) * Math.ceil(p.n / 128);
  const side = forced === "tiled-128" || (!forced && groups >= 128) ? 16 : 8;
  return { kernel: "tiled", constants: { ACROSS_M: side, ACROSS_N: side, TRANS_A: p.transA, TRANS_B: p.transB }, use: {}, rows: 8 * side, columns: 8 * side };
}

/**
 * Few rows against B [N, K]: the invocations of a subgroup (or of a workgroup of 64) share four columns.
 * On lavapipe, 2048 → 5632 f32, processor time of both cores under load: 1 row 6.0 ms (register by subgroup 7.9), 2 rows 7.1 (8.0),
 * 4 rows 10.6 (7.9), 8 rows 17.9 (8.4); a streaming read of as many bytes took 10.
 */
function vector(p: MatmulProblem, by: Lanes | null): MatmulChoice {
  const lanes = by?.lanes ?? 64;
  const rows = Math.min(lanes, p.m <= 1 ? 1 : p.m <= 2 ? 2 : p.m <= 4 ? 4 : 8);
  return { kernel: "vector", constants: { WORKGROUP: lanes, LANES: lanes, ROWS: rows }, use: by ? { s: "sum_subgroup", z: by.z } : {}, rows, columns: 4 };
}

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
  if (dots && (forced === "vector-lanes" || p.m <= (capabilities.software ? 2 : 8))) return vector(p, by);
  if (capabilities.software) return register(p, by, capabilities.software);
  // Few rows against B [K, N]: a granule of columns each, and no tile that is mostly empty.
  return p.m <= 8 ? register(p, null, capabilities.software) : tiled(p);
}
