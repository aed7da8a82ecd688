/** Every exported op has its rows in the table of cases, or is covered by a test file of its own; and the table is as large as it should be. */
import { existsSync, readFileSync } from "node:fs";
import { describe, expect, it } from "vitest";
import { F, isFloat } from "../../index.ts";
import { cases } from "../cases.ts";
import type { Case } from "../harness.ts";

const LEAST_ROWS = 10;
const LEAST_CHECKS = 1500;

/** Exports that the table does not suit (random numbers, in place, several results, no tensor in), and the file that covers each. */
const ELSEWHERE: Readonly<Record<string, readonly string[]>> = {
  "tier1/in_place.test.ts": ["addInto", "castInto", "copyInto", "fillInto", "sumTo", "zerosLike", "map", "expression"],
  "tier1/tensor.test.ts": ["arange", "full", "ones", "zeros", "manualSeed"],
  "tier1/random.test.ts": ["randn", "uniform"],
  "tier1/optimizer.test.ts": ["adamwCount", "adamwPrepare", "adamwState", "adamwStep", "emaStep"],
  "tier1/optimizer_parts.test.ts": ["globalGradNorm", "gradNormOf", "gradNormPartials", "gradNormPlan"],
  "tier1/joint.test.ts": ["jointLinear", "joinedRows", "rotaryAttention"],
  "tier1/multinomial.test.ts": ["multinomial"],
  "tier1/sampling.test.ts": ["rowSettings"],
  "tier1/sgd.test.ts": ["sgdStep"],
  "tier1/muon.test.ts": ["muonStep", "orthogonalize"],
};
const exported = Object.entries(F).flatMap(([name, value]) => (typeof value === "function" ? [name] : []));
const rowsOf = new Map<string, Case[]>();
for (const c of cases) rowsOf.set(c.op, [...(rowsOf.get(c.op) ?? []), c]);

/** Comparisons that a row makes at least: the forward, and each gradient, for each variant and again on windows. */
function checksOf(c: Case): number {
  const gradients =
    c.gradient === false
      ? 0
      : c.inputs.filter((i) => !i.constant && isFloat(i.dtype ?? "f32") && i.shape.every((n) => n > 0)).length;
  return (1 + gradients) * (1 + (c.variants?.length ?? 0) + (c.windows ? 1 : 0));
}

describe("exported ops", () => {
  const elsewhere = new Map(
    Object.entries(ELSEWHERE).flatMap(([file, names]) => names.map((name) => [name, file] as const)),
  );

  it.each(exported.filter((name) => !elsewhere.has(name)))(`%s has at least ${LEAST_ROWS} rows`, (name) => {
    expect(rowsOf.get(name)?.length ?? 0).toBeGreaterThanOrEqual(LEAST_ROWS);
  });

  it.each([...elsewhere])("%s is covered by %s", (name, file) => {
    expect(exported, "still exported").toContain(name);
    expect((rowsOf.get(name)?.length ?? 0) < LEAST_ROWS, "not needed on the list any more").toBe(true);
    const url = new URL(`../${file}`, import.meta.url);
    expect(existsSync(url)).toBe(true);
    expect(new RegExp(`\\b${name}\\b`).test(readFileSync(url, "utf8")), `${file} names it`).toBe(true);
  });

  it("every row is of an exported op", () => {
    expect([...rowsOf.keys()].filter((op) => !exported.includes(op))).toEqual([]);
  });

  it("rows with a gradient say so by themselves: none is switched off for all rows of a differentiable op", () => {
    // Integers, comparisons, indices and constants have none; everything else must show at least one gradient.
    const without = [...rowsOf]
      .filter(([, rows]) => rows.every((c) => checksOf({ ...c, variants: [], windows: false }) === 1))
      .map(([op]) => op);
    expect(without.toSorted()).toEqual(WITHOUT_GRADIENT.toSorted());
  });
});

/** Ops without a gradient. */
const WITHOUT_GRADIENT = [
  "advance",
  "arange",
  "argmax",
  "argmin",
  "attentionDecode",
  "cacheWrite",
  "codebookLookup",
  "countNonFinite",
  "eq",
  "eye",
  "full",
  "ge",
  "gemm",
  "gt",
  "isfinite",
  "isinf",
  "isnan",
  "le",
  "lt",
  "ne",
  "normLinear",
  "ones",
  "ropeAttention",
  "ropeCache",
  "sampleTokens",
  "zeros",
];

describe("the table", () => {
  it(`makes at least ${LEAST_CHECKS} checks`, () => {
    const checks = cases.reduce((sum, c) => sum + checksOf(c), 0);
    console.log(`${cases.length} rows of ${rowsOf.size} ops, at least ${checks} checks`);
    expect(checks).toBeGreaterThanOrEqual(LEAST_CHECKS);
  });

  it("folds a grid beyond 65,535 workgroups, holds empty, odd and strided inputs", () => {
    const has = (fits: (c: Case) => boolean): boolean => cases.some(fits);
    const elements = (c: Case): number => Math.max(...c.inputs.map((i) => i.shape.reduce((a, b) => a * b, 1)));
    expect(has((c) => elements(c) === 0)).toBe(true);
    expect(has((c) => elements(c) >= 65_536)).toBe(true);
    expect(has((c) => c.inputs.some((i) => i.layout === "reversed"))).toBe(true);
    expect(has((c) => c.inputs.some((i) => i.layout === "inside"))).toBe(true);
  });
});
