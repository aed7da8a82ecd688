/** The table of cases: one row serves correctness, gradients, variants and speed. Families are in `cases/`. */
import type { Case } from "./harness.ts";
import { elementwiseCases } from "./cases/elementwise.ts";

export const cases: readonly Case[] = [...elementwiseCases];
