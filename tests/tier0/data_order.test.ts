/** The keyed permutation: each item once, evenly spread, and the same values for ever. */
import { describe, expect, it } from "vitest";
import { ArgumentError } from "../../engine/errors.ts";
import { orderKey, permute } from "../../train/node/data/order.ts";
import { isLong } from "../long.ts";

const order = (seed: number, n: number, epoch = 0): number[] => {
  const key = orderKey(seed, "und", epoch);
  return Array.from({ length: n }, (_, i) => permute(key, n, i));
};

// Runs that were interrupted resume by these numbers: they may never change.
const GOLDEN_KEY = [4248332445, 135487268];
const GOLDEN_10 = [9, 6, 8, 4, 3, 0, 1, 2, 5, 7];
const GOLDEN_10_VERSION_1 = [9, 6, 8, 0, 2, 5, 4, 1, 3, 7];
const GOLDEN_17 = [2, 12];
const GOLDEN_MILLION = [473957, 81966, 445994, 221265];
const GOLDEN_LARGE = 1096897106081;

describe("keyed permutation", () => {
  it.each([1, 2, 3, 4, 5, 7, 8, 13, 16, 17, 64, 65, 97, 257, 1000, 4096, 4099, 65_537])(
    "has each of %i items once",
    (n) => {
      for (const epoch of n > 5000 ? [0] : [0, 1, 2])
        expect(order(7, n, epoch).sort((a, b) => a - b)).toEqual(Array.from({ length: n }, (_, i) => i));
    },
  );

  it("reaches positions of very large sets", () => {
    const n = 2 ** 52 - 1;
    const key = orderKey(1, "text", 0);
    const items = Array.from({ length: 100 }, (_, i) => permute(key, n, n - 1 - i));
    expect(new Set(items).size).toBe(100);
    for (const item of items) expect(Number.isSafeInteger(item) && item >= 0 && item < n).toBe(true);
    expect(Math.max(...items)).toBeGreaterThan(n / 2);
  });

  it.each([2, 3, 4, 5, 10])("puts each of %i items in each place equally often", (n) => {
    const keys = 6000;
    const counts = Array.from({ length: n * n }, () => 0);
    for (let seed = 0; seed < keys; seed++) for (const [i, item] of order(seed, n).entries()) counts[i * n + item]!++;
    const due = keys / n;
    const sigma = Math.sqrt(due * (1 - 1 / n));
    for (const count of counts) expect(Math.abs(count - due)).toBeLessThan(5 * sigma);
  });

  it("has all six orders of three items", () => {
    const counts = new Map<string, number>();
    for (let seed = 0; seed < 6000; seed++)
      counts.set(order(seed, 3).join(""), (counts.get(order(seed, 3).join("")) ?? 0) + 1);
    expect(counts.size).toBe(6);
    for (const count of counts.values()) expect(Math.abs(count - 1000)).toBeLessThan(5 * Math.sqrt(1000));
  });

  // Chi-squared over all n! orders: its mean is n! − 1, and five standard deviations are allowed. The keys are fixed, so a pass stays a pass.
  it.each(isLong ? [2, 3, 4, 5, 6] : [5, 6])("has each order of %i items equally often", (n) => {
    const keys = 60_000;
    const counts = new Map<string, number>();
    for (let epoch = 0; epoch < keys; epoch++) {
      const found = order(7, n, epoch).join();
      counts.set(found, (counts.get(found) ?? 0) + 1);
    }
    const orders = [1, 1, 2, 6, 24, 120, 720][n]!;
    const due = keys / orders;
    const missing = (orders - counts.size) * due;
    const chi = [...counts.values()].reduce((sum, count) => sum + (count - due) ** 2 / due, missing);
    expect(chi).toBeLessThan(orders - 1 + 5 * Math.sqrt(2 * (orders - 1)));
  });

  it.each(isLong ? [7, 8, 12, 16, 17, 20, 100] : [7, 16, 100])(
    "has each pair of %i items at the first two positions equally often",
    (n) => {
      const keys = 40_000;
      const counts = new Float64Array(n * n);
      for (let epoch = 0; epoch < keys; epoch++) {
        const key = orderKey(7, "gen", epoch);
        counts[permute(key, n, 0) * n + permute(key, n, 1)]!++;
      }
      const pairs = n * (n - 1);
      const due = keys / pairs;
      const chi = counts.reduce((sum, count, at) => (at % (n + 1) === 0 ? sum : sum + (count - due) ** 2 / due), 0);
      for (let i = 0; i < n; i++) expect(counts[i * n + i]).toBe(0);
      expect(chi).toBeLessThan(pairs - 1 + 3 * Math.sqrt(2 * (pairs - 1)));
    },
  );

  it("leaves no trace of the old order", () => {
    const n = 1000;
    const items = order(3, n);
    const neighbours = items.filter((item, i) => i > 0 && Math.abs(item - items[i - 1]!) === 1).length; // 2 expected
    const fixed = items.filter((item, i) => item === i).length; // 1 expected
    expect(neighbours).toBeLessThan(12);
    expect(fixed).toBeLessThan(8);
    const mean = items.slice(0, 100).reduce((sum, item) => sum + item, 0) / 100;
    expect(Math.abs(mean - 499.5)).toBeLessThan(5 * 28.9);
  });

  it("is another one for another seed, name and epoch", () => {
    const keys = [orderKey(1, "und", 0), orderKey(2, "und", 0), orderKey(1, "gen", 0), orderKey(1, "und", 1)];
    expect(new Set(keys.map((key) => key.join())).size).toBe(4);
    expect(order(1, 100)).not.toEqual(order(1, 100, 1));
  });

  it("gives the same values for ever", () => {
    expect(orderKey(42, "gen", 3)).toEqual(GOLDEN_KEY);
    expect(order(42, 10)).toEqual(GOLDEN_10);
    expect(order(42, 17).slice(0, 2)).toEqual(GOLDEN_17);
    const key = orderKey(42, "und", 1);
    expect([0, 1, 2, 999_999].map((i) => permute(key, 1_000_000, i))).toEqual(GOLDEN_MILLION);
    const large = orderKey(2 ** 53 - 1, "text", 2 ** 40);
    expect(permute(large, 2 ** 40 + 9, 123_456_789_012)).toBe(GOLDEN_LARGE);
  });

  it("still has the orders of version 1, by which older runs resume", () => {
    const key = orderKey(42, "und", 0);
    expect(GOLDEN_10_VERSION_1.map((_, i) => permute(key, 10, i, 1))).toEqual(GOLDEN_10_VERSION_1);
    for (const n of [17, 100, 1000])
      for (const i of [0, 5, n - 1]) expect(permute(key, n, i, 1)).toBe(permute(key, n, i));
  });

  it("refuses positions that are not there", () => {
    expect(() => permute([1, 2], 10, 10)).toThrow(ArgumentError);
    expect(() => permute([1, 2], 10, 0.5)).toThrow(ArgumentError);
    expect(() => permute([1, 2], 0, 0)).toThrow(/number of items must be .*; got 0/);
  });
});
