/** The table of cases: one row serves correctness, gradients, variants and speed. Families are in `cases/`. */
import type { Case } from "./harness.ts";
import { activationCases } from "./cases/activations.ts";
import { attentionCases } from "./cases/attention.ts";
import { decodeCases } from "./cases/decode.ts";
import { indexCases } from "./cases/index.ts";
import { lossCases } from "./cases/loss.ts";
import { samplingCases } from "./cases/sampling.ts";
import { elementwiseCases } from "./cases/elementwise.ts";
import { rowCases } from "./cases/rows.ts";
import { matmulCases } from "./cases/matmul.ts";
import { imageCases } from "./cases/image.ts";
import { viewCases } from "./cases/views.ts";

export const cases: readonly Case[] = [...activationCases, ...indexCases, ...lossCases, ...samplingCases, ...rowCases, ...attentionCases, ...decodeCases, ...elementwiseCases, ...matmulCases, ...imageCases, ...viewCases];
