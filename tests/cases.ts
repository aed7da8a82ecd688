/** The table of cases: one row serves correctness, gradients, variants and speed. Families are in `cases/`. */
import type { Case } from "./harness.ts";
import { activationCases } from "./cases/activations.ts";
import { attentionCases } from "./cases/attention.ts";
import { decodeCases } from "./cases/decode.ts";
import { indexCases } from "./cases/indexing.ts";
import { lossCases } from "./cases/loss.ts";
import { samplingCases } from "./cases/sampling.ts";
import { elementwiseCases } from "./cases/elementwise.ts";
import { quantizedCases } from "./cases/quantized.ts";
import { rowCases } from "./cases/rows.ts";
import { matmulCases } from "./cases/matmul.ts";
import { normLinearCases } from "./cases/norm_linear.ts";
import { matricesCases } from "./cases/matrices.ts";
import { sortingCases } from "./cases/sorting.ts";
import { statisticsCases } from "./cases/statistics.ts";
import { imageCases } from "./cases/image.ts";
import { viewCases } from "./cases/views.ts";

/** Cases by the file that they are in. */
export const families = {
  activations: activationCases,
  attention: attentionCases,
  decode: decodeCases,
  elementwise: elementwiseCases,
  image: imageCases,
  index: indexCases,
  loss: lossCases,
  matmul: matmulCases,
  matrices: matricesCases,
  normLinear: normLinearCases,
  quantized: quantizedCases,
  rows: rowCases,
  sampling: samplingCases,
  sorting: sortingCases,
  statistics: statisticsCases,
  views: viewCases,
} as const satisfies Readonly<Record<string, readonly Case[]>>;
export type Family = keyof typeof families;

export const cases: readonly Case[] = Object.values(families).flat();
