/** Quotas: every step full, every task within a sample of its exact share at every step, any step without the others. */
import { describe, expect, it } from "vitest";
import { checkMixture, countsBefore, stepCounts, stepTasks } from "../../train/node/data/mixture.ts";
import type { Mixture } from "../../train/node/data/mixture.ts";
import { TASKS } from "../../train/samples.ts";

const STEPS = 10_000;
const mixture = (und: number, text: number, gen: number, batch: number): Mixture => ({
  ratios: { und, text, gen },
  batch,
});
const MIXTURES: [string, Mixture][] = [
  ["1:0:3 of 256", mixture(1, 0, 3, 256)],
  ["2:3:5 of 512", mixture(2, 3, 5, 512)],
  ["5:1:4 of 128", mixture(5, 1, 4, 128)],
  ["1:1:1 of 7", mixture(1, 1, 1, 7)],
  ["0:0:1 of 3", mixture(0, 0, 1, 3)],
  ["97:89:83 of 1", mixture(97, 89, 83, 1)],
  ["1:1:1 of 1", mixture(1, 1, 1, 1)],
  ["7:1:5 of 3", mixture(7, 1, 5, 3)],
  ["3:1:0 of 2", mixture(3, 1, 0, 2)],
];

describe("mixture", () => {
  it.each(MIXTURES)("keeps %s within a sample at each of 10,000 steps", (_, given) => {
    const { ratios, batch } = given;
    const whole = ratios.und + ratios.text + ratios.gen;
    const sum = { und: 0, text: 0, gen: 0 };
    for (let step = 0; step < STEPS; step++) {
      const counts = stepCounts(given, step);
      let inStep = 0;
      for (const task of TASKS) {
        const exact = (batch * ratios[task]) / whole;
        sum[task] += counts[task];
        inStep += counts[task];
        if (counts[task] < 0 || (ratios[task] === 0 && counts[task] !== 0)) expect.fail(`${task} ${counts[task]}`);
        if (Math.abs(sum[task] - ((step + 1) * batch * ratios[task]) / whole) >= 1)
          expect.fail(`${task} has ${sum[task]} after step ${step}`);
        if (Math.abs(counts[task] - exact) >= 2) expect.fail(`step ${step} has ${counts[task]} of ${task}`);
      }
      if (inStep !== batch) expect.fail(`step ${step} has ${inStep} samples`);
    }
    expect(countsBefore(given, STEPS)).toEqual(sum);
  });

  it("splits the recipe's batches into whole numbers if their shares are whole", () => {
    expect(stepCounts(mixture(1, 0, 3, 256), 77)).toEqual({ und: 64, text: 0, gen: 192 });
    expect(stepCounts(mixture(2, 3, 5, 512), 8).gen).toBe(256);
    expect([0, 1, 2, 3, 4].reduce((sum, step) => sum + stepCounts(mixture(2, 3, 5, 512), step).und, 0)).toBe(512);
  });

  it("is exact for large numbers", () => {
    const given = mixture(3_000_001, 2_999_999, 1, 100_003);
    const before = countsBefore(given, 1e9);
    expect(before.und + before.text + before.gen).toBe(1e9 * 100_003);
    expect(before.gen).toBe(Number((BigInt(1e9) * 100_003n * 2n + 6_000_001n) / 12_000_002n));
  });

  it("mixes the tasks of a step, the same way each time", () => {
    const given = mixture(2, 3, 5, 20);
    const tasks = stepTasks(given, 3, 1);
    expect(tasks).toEqual(stepTasks(given, 3, 1));
    expect(tasks).not.toEqual(stepTasks(given, 4, 1));
    expect(tasks).not.toEqual(stepTasks(given, 3, 2));
    for (const task of TASKS) expect(tasks.filter((t) => t === task).length).toBe(stepCounts(given, 3)[task]);
    expect(tasks).not.toEqual([...tasks].sort());
    expect(tasks).not.toEqual(TASKS.flatMap((task) => tasks.filter((t) => t === task)));
  });

  it("refuses shares that are none", () => {
    expect(() => checkMixture(mixture(0.25, 0, 0.75, 4))).toThrow(/the ratio of und must be a whole number/);
    expect(() => checkMixture(mixture(0, 0, 0, 4))).toThrow(/all ratios are 0/);
    expect(() => checkMixture(mixture(1, 0, -1, 4))).toThrow(/the ratio of gen must be .*; got -1/);
    expect(() => checkMixture(mixture(1, 0, 0, 0))).toThrow(/batch must be a whole number from 1; got 0/);
    expect(() => checkMixture(mixture(1, 0, 3, 256))).not.toThrow();
  });
});
