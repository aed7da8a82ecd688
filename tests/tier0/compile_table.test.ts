/** The table of what compilers of GPUs make of the kernels: figures out of machine code, faults, what has become worse. */
import { readFileSync } from "node:fs";
import { describe, expect, it } from "vitest";
import { CHIPS } from "../../bench/compile/chips.ts";
import { figuresOf } from "../../bench/compile/figures.ts";
import type { Figures, Pipeline } from "../../bench/compile/figures.ts";
import { compare, faultsOf, parseTable, printTable } from "../../bench/compile/table.ts";

const chip = (name: string) => CHIPS.find((c) => c.name === name)!;
const fine: Figures = {
  lanes: 64,
  registers: 96,
  spills: 0,
  scalarSpills: 0,
  scratch: 0,
  shared: 8192,
  waves: 4,
  loop: 81,
  fma: 79,
  div: 1,
  matrix: 0,
};
const matmul = (change: Partial<Figures>) => ({ "matmul_tiled a:f32": { ...fine, ...change } });

describe("faults", () => {
  it("there are none in what fits", () => expect(faultsOf(chip("navi31"), matmul({}))).toEqual([]));
  it.each([
    [{ spills: 2 }, "spills 2 registers"],
    [{ scratch: 256 }, "has 256 bytes of scratch memory"],
    [{ waves: 3 }, "3 waves of 16, at least 4 are wanted"],
  ])("%j is one", (change, text) => {
    expect(faultsOf(chip("navi31"), matmul(change))).toEqual([`navi31 matmul_tiled a:f32: ${text}`]);
  });
  it("few waves are one only of products and attention; NVIDIA wants a third of its warps", () => {
    expect(faultsOf(chip("navi31"), { "map f:add": { ...fine, waves: 2 } })).toEqual([]);
    expect(faultsOf(chip("ad102"), matmul({ waves: 15 }))).toHaveLength(1);
    expect(faultsOf(chip("ad102"), matmul({ waves: 16 }))).toEqual([]);
  });
});

describe("comparison", () => {
  const against = (change: Partial<Figures>) => compare({ navi31: matmul({}) }, { navi31: matmul(change) });
  it.each([{ waves: 3 }, { scratch: 4 }, { spills: 1 }, { fma: 70 }, { div: 2 }])("%j is worse", (change) => {
    expect(against(change).worse).toHaveLength(1);
  });
  it("what is better or new is said and is no fault", () => {
    expect(against({ waves: 8 })).toEqual({ worse: [], notes: ["better: navi31 matmul_tiled a:f32: waves 4, now 8"] });
    expect(compare({}, { navi31: matmul({}) }).worse).toEqual([]);
  });
});

it("the hot loop is found in AMD's code and in NVIDIA's", () => {
  const of = (name: string, code: string, statistics: Record<string, number>): Figures => {
    const line: Pipeline = { label: "x", result: 0, invocations: 64, shared: 0, subgroup: 64, statistics, code };
    return figuresOf(chip(name), line);
  };
  const amd = of(
    "navi31",
    "BB0:\n\ts_mov_b32 s0, 0 ; x\nBB1:\n\tv_dual_fmac_f32 v0, v1, v2 :: v_dual_fmac_f32 v3, v4, v5\n\ts_cbranch_scc0 BB1\nBB2:\n\tv_rcp_iflag_f32 v1, v1\n\ts_endpgm",
    { VGPRs: 96, "Subgroups per SIMD": 8, "Scratch size": 0, "Spilled VGPRs": 0, "Spilled SGPRs": 0 },
  );
  expect(amd).toMatchObject({ registers: 96, waves: 4, loop: 2, fma: 100, div: 1, matrix: 0 });
  const nvidia = of(
    "ad102",
    "block 0 {\n  r0 = mov 0x0\n} -> [1]\nblock 1 {\n  r1 = ffma r1 r2 r3 // delay=4\n@!p0 r2 = iadd3 r2 0x1 rZ\n} -> [1, 2]\nblock 2 {\n  exit\n} -> []",
    { "Number of GPRs": 32, "Max warps/SM": 48, "SLM size": 0, "Spills to memory": 0, "Spills to reg": 0 },
  );
  expect(nvidia).toMatchObject({ registers: 32, waves: 48, loop: 2, fma: 50, scratch: 0 });
});

it("the committed table has no fault, and reads as it was written", () => {
  const text = readFileSync(new URL("../../bench/results/compile.json", import.meta.url), "utf8");
  const table = parseTable(text);
  expect(Object.keys(table).toSorted()).toEqual(CHIPS.map((c) => c.name).toSorted());
  expect(Object.entries(table).flatMap(([name, rows]) => faultsOf(chip(name), rows))).toEqual([]);
  expect(printTable(table)).toBe(text);
});
