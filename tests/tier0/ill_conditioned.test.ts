/** Which inputs the harness may draw again: those that cancel, which are few, and never those that merely fail. */
import { expect, it } from "vitest";
import { F } from "../../index.ts";
import { cases } from "../cases.ts";
import { illConditioned } from "../harness.ts";
import type { Case } from "../harness.ts";
import { isLong } from "../long.ts";

const sumOf = (values: readonly number[]): Case => ({
  op: "sum",
  inputs: [{ shape: [values.length], values: () => [...values] }],
  run: ([x]) => F.sum(x!),
  reference: ([x]) => ({ shape: [], data: Float64Array.of(Array.from(x!.data).reduce((a, b) => a + b, 0)) }),
  terms: values.length,
});

it("inputs that cancel to next to nothing, and no others", () => {
  expect([...illConditioned(sumOf([1, -1, 1e-4]), 1)]).toEqual(["forward"]);
  expect([...illConditioned(sumOf([1, -0.5, 1e-4]), 1)]).toEqual([]);
});

/** y = x · 0 + b: the bias's gradient is the sum of the weights that the seed draws. */
const biased = (rows: number): Case => ({
  op: "add",
  inputs: [{ shape: [rows, 1], constant: true }, { shape: [1] }],
  run: ([x, b]) => F.add(F.mul(x!, 0), b!),
  reference: ([, b]) => ({ shape: [rows, 1], data: new Float64Array(rows).fill(b!.data[0]!) }),
  terms: rows,
});

it("and those whose gradients cancel", () => {
  // The five weights of this seed add up to 0.00002.
  expect([...illConditioned(biased(5), 45687)]).toEqual(["gradient 1"]);
  expect([...illConditioned(biased(1), 45687)]).toEqual([]);
});

it("are at most one case in a hundred of the table", () => {
  const small = cases.filter((c) => c.inputs.every(({ shape }) => shape.reduce((a, b) => a * b, 1) <= 512));
  expect(small.length).toBeGreaterThan(2000);
  const drawn = small.map((c, i) => [c, 1000 + i] as const).filter((_, i) => isLong || i % 6 === 0);
  const found = drawn.filter(([c, seed]) => illConditioned(c, seed).size > 0);
  expect(found.length / drawn.length).toBeLessThan(0.01);
});
