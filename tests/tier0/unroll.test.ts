/** Loops that are written out before WGSL is compiled. */
import { expect, it } from "vitest";
import { unrolled } from "../../engine/unroll.ts";

const flat = (source: string): string => unrolled(source).replaceAll(/\s+/g, " ").trim();

it("writes out marked loops, from the inside too, and leaves others", () => {
  const source = `const ROWS = COLUMNS / 2u;
const COLUMNS = max(4u, 1u + 2u * 1u);
for (var i = 0u; i < ROWS; i++) { //#unroll
  x[i] = 0u; // a brace: }
  for (var j = 0u; j < COLUMNS % 3u + 1u; j++) { //#unroll
    y[i * 2u + j] = 0u;
  }
}
for (var k = 0u; k < ROWS; k++) { z[k] = 0u; }`;
  const inner = (i: number): string =>
    `{ const i = ${i}u; x[i] = 0u; // a brace: } ${[0, 1].map((j) => `{ const j = ${j}u; y[i * 2u + j] = 0u; }`).join(" ")} }`;
  expect(flat(source)).toBe(
    `const ROWS = COLUMNS / 2u; const COLUMNS = max(4u, 1u + 2u * 1u); ${inner(0)} ${inner(1)} for (var k = 0u; k < ROWS; k++) { z[k] = 0u; }`,
  );
  expect(flat("for (var i = 0u; i < 0u; i++) { //#unroll\n  x = 1u;\n}")).toBe("");
});

it("refuses what is not a loop over constants", () => {
  const loop = (head: string): string => `const N = M;\n${head} { //#unroll\n}\n`;
  for (const head of [
    "for (var i = 0u; i < params.n; i++)",
    "for (var i = 0u; i < N; i++)",
    "for (var i = 1u; i < 4u; i++)",
    "for (var i = 0u; i < 4u; i += 2u)",
    "for (var i = 0u; i < 4u - 5u; i++)",
    "while (true)",
  ])
    expect(() => unrolled(loop(head)), head).toThrow(RangeError);
  expect(() => unrolled("for (var i = 0u; i < 4u; i++) { //#unroll\n x = 1u;\n")).toThrow("must end");
});
