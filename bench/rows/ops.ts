/** A row for each op of the table of tests, at the largest shape that it has there: small, so these rows show the cost of a call. */
import { isFloat } from "../../index.ts";
import { cases } from "../../tests/cases.ts";
import { makeInput, runCase } from "../../tests/harness.ts";
import type { Case } from "../../tests/harness.ts";
import { sizeOf } from "../../tests/reference.ts";
import type { Row } from "./row.ts";

const elements = ({ inputs }: Case): number => inputs.reduce((sum, { shape }) => sum + sizeOf(shape), 0);

export function opRows(): Row[] {
  const largest = new Map<string, Case>();
  for (const c of cases) {
    const known = largest.get(c.op);
    if (!known || elements(c) > elements(known)) largest.set(c.op, c);
  }
  return [...largest.values()].map((c): Row => ({
    name: nameOf(c),
    op: c.op,
    set: "ops",
    inputs: c.inputs.map(({ shape, dtype = "f32" }) => ({ shape, dtype })),
    run: (inputs) => [c.run([...inputs])],
    check: () => [],
    fromCase: {
      inputs: (device, seed) => c.inputs.map((input, i) => makeInput(input, device, seed + i)),
      leaves: c.inputs.flatMap(({ dtype = "f32", constant }, i) =>
        c.gradient !== false && isFloat(dtype) && !constant ? [i] : [],
      ),
      failures: async (device, seed) => (await runCase(c, device, seed)).failures,
    },
  }));
}

const nameOf = ({ op, inputs }: Case): string =>
  [op, ...inputs.map(({ shape, dtype = "f32" }) => `[${shape.join("×")}]${dtype === "f32" ? "" : dtype}`)].join(" ");
