/** Choice of the kernel of a product with a quantised weight: a pure function over a committed table. */
import type { Capabilities, Constants, DType, Uses } from "../../engine/index.ts";
import { bucket, chooseVariant } from "../core/variants.ts";
import type { Family, Variant } from "../core/variants.ts";
import { lanesSubgroup, sumSubgroup } from "./libraries.ts";
import type { Quantization } from "./quantized_format.ts";
import { MAX_VECTOR_ROWS, VECTOR_INVOCATIONS, lanesOf } from "./variants.ts";
import type { Lanes } from "./variants.ts";

/** x [M, K] in dtype `a` times a weight [N, K]. */
export interface QuantizedProblem {
  readonly m: number;
  readonly n: number;
  readonly k: number;
  readonly a: DType;
  readonly kind: Quantization;
}

/** The weight is dequantised to f32 a part at a time, for a plain product. */
interface StagedChoice {
  readonly kernel: "staged";
}

/** A kernel that dequantises in registers. */
export interface RegisterChoice {
  readonly kernel: "register" | "vector";
  readonly constants: Constants;
  readonly use: Uses;
  /** Rows and columns that one workgroup computes. */
  readonly rows: number;
  readonly columns: number;
}

export type QuantizedChoice = RegisterChoice | StagedChoice;

/** Rows beyond which software devices dequantise a part of the weight once, not once for every 16 rows. */
const SOFTWARE_REGISTER_ROWS = 96;

/** Granules of four terms in a group: as many neighbours load one each. */
const SHARING_LANES = 8;

/** Few rows are bound by dequantising, whose shifts are then constants; of many rows, all granules would make a long kernel. */
const atOnce = (kind: Quantization, rows: number): number => (rows > 2 ? 2 : kind === "int4" ? 8 : 4);

/** On lavapipe, 2048 → 5632 in int4, 1 and 2 rows, ms of processor time: sharing loads of x by 8 lanes 3.8 and 5.0, without 6.6 and 17.8, `vector` 7.6 and 18.4. */
function register(p: QuantizedProblem, by: Lanes | null, software: boolean): RegisterChoice {
  const rows = [1, 2, 4, 8].find((count) => count >= p.m || (count === 8 && !by)) ?? 16;
  const workgroup = by ? SHARING_LANES : software ? 16 : 64;
  return {
    kernel: "register",
    constants: { WORKGROUP: workgroup, LANES: by ? SHARING_LANES : 1, ROWS: rows, AT_ONCE: atOnce(p.kind, rows) },
    use: by ? { s: lanesSubgroup, z: by.z } : {},
    rows,
    columns: 4 * workgroup,
  };
}

function vector(p: QuantizedProblem, by: Lanes | null): RegisterChoice {
  const lanes = by?.lanes ?? 64;
  const shares = by ? Math.max(1, VECTOR_INVOCATIONS / lanes) : 1;
  const rows = Math.min(lanes, p.m <= 1 ? 1 : p.m <= 2 ? 2 : p.m <= 4 ? 4 : 8);
  return {
    kernel: "vector",
    constants: { WORKGROUP: lanes * shares, LANES: lanes, ROWS: rows, AT_ONCE: atOnce(p.kind, rows) },
    use: by ? { s: sumSubgroup, z: by.z } : {},
    rows,
    columns: 4 * shares,
  };
}

const sharesGroups = (c: Capabilities): boolean => lanesOf(c)?.lanes === SHARING_LANES;

const QUANTIZED: readonly Variant<QuantizedProblem, QuantizedChoice>[] = [
  {
    name: "vector-lanes",
    preferred: (c, p) => !c.software && p.m <= MAX_VECTOR_ROWS,
    choose: (c, p) => vector(p, lanesOf(c)),
  },
  { name: "vector", preferred: false, choose: (_, p) => vector(p, null) },
  // GPUs have no tiled kernel that dequantises; not yet measured on one. On lavapipe, 2048 → 2816, ms of processor time for 96 / 128 / 600 rows: bf16
  // 41 / 51 / 207, int8 by register-lanes 57 / 76 / 350 and by this 53 / 65 / 234, int4 50 / 65 / 310 and 51 / 63 / 229. The bits are the same.
  {
    name: "staged",
    preferred: (c, p) => p.m > (c.software ? SOFTWARE_REGISTER_ROWS : MAX_VECTOR_ROWS),
    choose: () => ({ kernel: "staged" }),
  },
  {
    name: "register-lanes",
    runs: sharesGroups,
    preferred: (c) => c.software,
    choose: (c, p) => register(p, lanesOf(c), c.software),
    instead: "register",
  },
  { name: "register", choose: (c, p) => register(p, null, c.software) },
];

/** Few rows are one class whatever their number: a decoding step must have the same bits in a batch of any size. */
export const QUANTIZED_FAMILY: Family<QuantizedProblem, QuantizedChoice> = {
  name: "matmul_quantized",
  table: QUANTIZED,
  classOf: ({ m, n, k, a, kind }) =>
    `${a}·${kind} ${m <= MAX_VECTOR_ROWS ? `≤${MAX_VECTOR_ROWS}` : bucket(m, 2048)}×${bucket(n)}×${bucket(k)}`,
};

export const quantizedVariant = (capabilities: Capabilities, p: QuantizedProblem): QuantizedChoice =>
  chooseVariant(QUANTIZED_FAMILY, capabilities, p);
