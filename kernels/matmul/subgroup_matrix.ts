/** Products on subgroup matrices (tensor cores): which configuration of the device, which tile, and the kernel's constants. Pure functions. */
import type { Capabilities, DType, Library, SubgroupMatrixConfig } from "../../engine/index.ts";
import { matrixF16, matrixF32, sizeAny, sizeFixed } from "./libraries.ts";
import type { MatmulChoice, MatmulProblem } from "./variants.ts";

/** Matrices that the subgroups of a device multiply. */
export interface MatrixUnit {
  readonly config: SubgroupMatrixConfig;
  readonly component: "f16" | "f32";
  /** Invocations of a subgroup, and the library that asks for them. */
  readonly lanes: number;
  readonly size: Library;
}

/**
 * The unit for operands of these dtypes; null if the device has none that keeps their values. All f16: f16 components, else f32 ones, for any
 * dtype; sums are f32. bf16 does not fit f16's range, and f16 sums lose too much over long rows (that is all Metal has beside f32): neither
 * is used. Of several the largest: fewer loads of each component.
 */
export function matrixUnit(capabilities: Capabilities, dtypes: readonly DType[]): MatrixUnit | null {
  const { subgroups, subgroupSizeControl, f16 } = capabilities;
  if (!subgroups || (subgroups[0] !== subgroups[1] && !subgroupSizeControl)) return null;
  const of = (component: string): SubgroupMatrixConfig | undefined =>
    capabilities.subgroupMatrix
      .filter((c) => c.componentType === component && c.resultComponentType === "f32")
      .toSorted((x, y) => y.M * y.N * y.K - x.M * x.N * x.K)[0];
  const half = f16 && dtypes.every((dtype) => dtype === "f16") ? of("f16") : undefined;
  const config = half ?? of("f32");
  if (!config) return null;
  return {
    config,
    component: half ? "f16" : "f32",
    lanes: subgroupSizeControl ? Math.min(Math.max(32, subgroups[0]), subgroups[1]) : subgroups[0],
    size: subgroupSizeControl ? sizeFixed : sizeAny,
  };
}

export interface Tile {
  readonly rows: number;
  readonly columns: number;
  readonly terms: number;
  readonly invocations: number;
  /** Problems that it is for, `turned`: whether tiles are turned; default: all. */
  readonly only?: (p: MatmulProblem, turned: boolean) => boolean;
}

/**
 * Tiles from the largest; the first that fits the device and makes enough workgroups is taken, else the last that fits. Registers and waves as AMD's and
 * NVIDIA's compilers in Mesa have them (navi31; ad102), with operands whose terms lie inside / others: 128 × 128 by 256 invocations 144 and 10 of 16;
 * 128 and 16 of 48 / 192 and 8; 160 and 8, thus the next one for those: 96 and 16; 88 and 16 / 120 and 12; 96 and 16. 128 × 128 by 128 invocations
 * spills on AMD and holds 8 of 48 warps on NVIDIA.
 */
const TILES: readonly Tile[] = [
  { rows: 128, columns: 128, terms: 32, invocations: 256, only: (p, turned) => turned || (!p.transA && p.transB) },
  { rows: 128, columns: 64, terms: 32, invocations: 256, only: (_, turned) => !turned },
  { rows: 64, columns: 64, terms: 32, invocations: 128 },
];

/** Workgroups that fill a large device. */
const FILLS_DEVICE = 128;

/** Subgroups along the rows of a tile and along its columns. */
function divided(
  { rows, columns, terms, invocations }: Tile,
  { config, lanes }: MatrixUnit,
): readonly [number, number] | null {
  const subgroups = invocations / lanes;
  const down = 2 ** Math.floor(Math.log2(subgroups) / 2);
  const across = subgroups / down;
  const fits = (n: number, parts: number, of: number): boolean => n % (parts * of) === 0;
  return Number.isInteger(across) &&
    fits(rows, down, config.M) &&
    fits(columns, across, config.N) &&
    terms % config.K === 0
    ? [down, across]
    : null;
}

/** Constants of `matmul_subgroup_matrix.wgsl`; null if the tile does not fit the device. */
export function constantsOf(
  capabilities: Capabilities,
  unit: MatrixUnit,
  p: MatmulProblem,
  tile: Tile,
  turned: boolean,
): Record<string, number | boolean> | null {
  const split = divided(tile, unit);
  const { limits } = capabilities;
  if (
    !split ||
    tile.invocations > limits.maxComputeInvocationsPerWorkgroup ||
    tile.invocations > limits.maxComputeWorkgroupSizeX
  )
    return null;
  const { M, N, K } = unit.config;
  const [down, across] = split;
  const [turnA, turnB] = [turned && p.transA, turned && !p.transB];
  const [lineA, widthA] = p.transA && !turnA ? [tile.terms, tile.rows] : [tile.rows, tile.terms];
  const [lineB, widthB] = p.transB || turnB ? [tile.columns, tile.terms] : [tile.terms, tile.columns];
  const componentBytes = unit.component === "f16" ? 2 : 4;
  const fours = (lines: number, width: number): number => (lines * width) / 4 / tile.invocations;
  // Whole units of 16 bytes, or whole blocks of 4 × 4, for each invocation.
  const each = (turn: boolean): number => (turn ? 4 : 4 / componentBytes);
  if (fours(lineA, widthA) % each(turnA) !== 0 || fours(lineB, widthB) % each(turnB) !== 0) return null;
  const tileBytes = (lines: number, width: number): number => lines * (width * componentBytes + 16);
  const bytes = Math.max(tileBytes(lineA, widthA) + tileBytes(lineB, widthB), down * M * (tile.columns + 4) * 4);
  if (bytes > limits.maxComputeWorkgroupStorageSize) return null;
  return {
    CM: M,
    CN: N,
    CK: K,
    LANES: unit.lanes,
    WORKGROUP: tile.invocations,
    DOWN: down,
    ACROSS: across,
    BM: tile.rows,
    BN: tile.columns,
    BK: tile.terms,
    TRANS_A: p.transA,
    TRANS_B: p.transB,
    TURN_A: turnA,
    TURN_B: turnB,
    LINES_A: lineA,
    WIDTH_A: widthA,
    LINES_B: lineB,
    WIDTH_B: widthB,
  };
}

/**
 * AMD's compiler loads matrices across the terms from workgroup memory by 2 bytes: Aᵗ · B has 200 loads for 16 products, turned 32. NVIDIA's has a
 * transposing load.
 */
const isTurned = ({ vendor }: Capabilities): boolean => vendor.toLowerCase() === "amd";

/**
 * What a product on subgroup matrices takes; null if the device or the operands have no matrices.
 * @param largest the largest tile, however few workgroups it makes
 * @param turned tiles are transposed on their way into workgroup memory, if their terms lie outside
 */
export function matrixProduct(
  capabilities: Capabilities,
  p: MatmulProblem,
  { largest = false, turned = isTurned(capabilities) }: { readonly largest?: boolean; readonly turned?: boolean } = {},
): MatmulChoice | null {
  const unit = matrixUnit(capabilities, [p.a, p.b]);
  if (!unit || p.k === 0) return null;
  let choice: MatmulChoice | null = null;
  for (const tile of TILES) {
    const constants = tile.only?.(p, turned) === false ? null : constantsOf(capabilities, unit, p, tile, turned);
    if (!constants) continue;
    const { rows, columns } = tile;
    const use = { c: unit.component === "f16" ? matrixF16 : matrixF32, z: unit.size };
    choice = { kernel: "matrix", constants, use, rows, columns };
    if (largest || p.batches * Math.ceil(p.m / rows) * Math.ceil(p.n / columns) >= FILLS_DEVICE) break;
  }
  return choice;
}
