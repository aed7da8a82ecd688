/** The tables of variants: which row is taken, what forcing one does, and that every family's table has a row for every device. */
import { describe, expect, it } from "vitest";
import { ArgumentError, nullCapabilities } from "../../index.ts";
import type { Capabilities } from "../../index.ts";
import { attentionVariant } from "../../kernels/attention/variants.ts";
import { rowVariant } from "../../kernels/core/rows.ts";
import { bucket, chooseVariant, forceVariant, observeVariants } from "../../kernels/core/variants.ts";
import type { Family, Variant } from "../../kernels/core/variants.ts";
import { matmulVariant } from "../../kernels/matmul/variants.ts";
import { PROFILES } from "../null_runs.ts";

const plain: Capabilities = nullCapabilities({});
const software: Capabilities = nullCapabilities({ software: true });

const table: readonly Variant<number, string>[] = [
  { name: "small", runs: (_, n) => n > 0, preferred: (_, n) => n < 10, choose: (_, n) => `small ${n}` },
  { name: "soft", preferred: ({ software: isSoft }) => isSoft, choose: () => "soft" },
  { name: "picky", runs: () => false, preferred: false, choose: () => "picky", instead: "forced" },
  { name: "forced", preferred: false, choose: () => "forced" },
  { name: "last", choose: () => "last" },
];
const family: Family<number, string> = { name: "test", table, classOf: (n) => `${bucket(n, 64)} rows` };
const choose = (capabilities: Capabilities, n: number): string => chooseVariant(family, capabilities, n);
const force = (name: string, n: number): string => forceVariant("test", name, () => choose(plain, n));

describe("a table", () => {
  it("gives the first row that runs and is preferred", () => {
    expect([choose(plain, 1), choose(plain, 0), choose(plain, 10), choose(software, 10)]).toEqual([
      "small 1",
      "last",
      "last",
      "soft",
    ]);
  });
  it("gives the forced row, also one that is never preferred, while it is forced", () => {
    expect([force("forced", 1), force("last", 1), force("soft", 1), choose(plain, 1)]).toEqual([
      "forced",
      "last",
      "soft",
      "small 1",
    ]);
  });
  it("gives what stands instead of a forced row that does not run, else the default", () => {
    expect([force("picky", 1), force("small", 0)]).toEqual(["forced", "last"]);
  });
  it("refuses a name that it does not have", () => {
    expect(() => force("other", 1)).toThrow(ArgumentError);
    expect(() => force("other", 1)).toThrow(
      'test: the variant must be one of small, soft, picky, forced, last; got "other". Force one of these.',
    );
    expect(choose(plain, 1), "nothing stays forced").toBe("small 1");
  });
});

describe("a measured table", () => {
  const tuned: Capabilities = nullCapabilities({
    tuned: { test: { "8 rows": "last", "16 rows": "gone", "64 rows": "picky" } },
  });
  it("comes before our preferences, for its classes", () => {
    expect([choose(tuned, 5), choose(tuned, 8), choose(tuned, 4)]).toEqual(["last", "last", "small 4"]);
  });
  it("is ignored where it names what does not exist or does not run", () => {
    expect([choose(tuned, 9), choose(tuned, 60)]).toEqual(["small 9", "last"]);
  });
  it("gives way to a forced row", () => {
    expect(forceVariant("test", "forced", () => choose(tuned, 8))).toBe("forced");
  });
  it("is made of what calls choose, with the rows that run", () => {
    const choices = observeVariants(() => [1, 7, 8, 8, 100].forEach((n) => choose(plain, n)));
    expect(choices.map(({ problem, chosen }) => `${problem} ${chosen}`)).toEqual([
      "1 rows small",
      "8 rows small",
      "64 rows last",
    ]);
    expect(choices[0]!.candidates).toEqual(["small", "soft", "forced", "last"]);
  });
  it("can be forced for one class of problems", () => {
    const both = forceVariant("test", "forced", () => [choose(plain, 8), choose(plain, 2)], "8 rows");
    expect(both).toEqual(["forced", "small 2"]);
  });
});

describe.each(Object.entries(PROFILES))("a device like %s", (_, capabilities) => {
  it("has a variant of rows, attention and products of every size", () => {
    for (const granules of [0, 1, 4, 5, 1000]) {
      const { rows, constants } = rowVariant("softmax", capabilities, granules);
      expect(constants.WORKGROUP).toBe(rows * constants.LANES);
      expect(constants.WORKGROUP).toBeLessThanOrEqual(256);
    }
    for (const d of [4, 64, 128, 576])
      expect(attentionVariant(capabilities, { d, q: "bf16", k: "bf16" }).forward.name).toMatch(/^attention_/);
    for (const m of [1, 8, 33, 4096])
      for (const k of [0, 4, 64])
        for (const packs of [false, true]) {
          const p = { batches: 1, m, n: 64, k, transA: false, transB: true, a: "f32", b: "bf16", packs } as const;
          const isNaive = matmulVariant(capabilities, p).kernel === "naive";
          expect(isNaive, JSON.stringify(p)).toBe(k === 0 || (packs && m * 64 * k <= 2 ** 18));
        }
  });
});
