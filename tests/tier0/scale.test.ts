/** A run on many devices, on paper: memory by sharding, and the time of a step. */
import { expect, it } from "vitest";
import { JANUS_PRO_7B } from "../../model/janus/config.ts";
import { JANUS_TINY } from "../../model/janus/create.ts";
import { TrainConfigError, checkConfig } from "../../train/config.ts";
import { loadConfig, loadMachine } from "../../train/node/settings.ts";
import { SHARDINGS, countForScale, scaledMemory, scaledStep } from "../../train/scale.ts";
import { errorOf } from "../gpu.ts";

const A100 = loadMachine("a100-40");

it("stage 2 of the 7B model fits 40 GB on eight devices only if weights are divided too", async () => {
  const counts = await countForScale(JANUS_PRO_7B, loadConfig("stage2", ["dtype=bf16"]));
  expect(counts.trained / 1e9).toBeCloseTo(7.03, 1);
  expect(counts.layers * counts.layer + counts.rest).toBe(counts.trained);
  const peak = (sharding: (typeof SHARDINGS)[number], ranks: number): number =>
    scaledMemory(counts, sharding, ranks).peak;
  expect(peak("parameters", 8)).toBeLessThan(A100.memory);
  for (const sharding of ["none", "optimizer"] as const) expect(peak(sharding, 8)).toBeGreaterThan(A100.memory);
  for (const sharding of SHARDINGS) expect(peak(sharding, 1) / counts.memory.recomputed.peak).toBeGreaterThan(0.99);
  const peaks = SHARDINGS.map((sharding) => peak(sharding, 64));
  expect(peaks.toSorted((a, b) => b - a)).toEqual(peaks);
});

it("a step's time is its work, what it waits for, and the optimizer; without sharding it sends 2 (P - 1) / P of the gradients", async () => {
  const config = checkConfig({ stage: 2, batch: 64, length: 224, steps: 100, ratios: { und: 2, text: 3, gen: 5 }, optimizer: { lr: 1e-3 } }); // prettier-ignore
  const counts = await countForScale(JANUS_TINY, config);
  const slow = { ...A100, network: A100.network / 1e6 };
  for (const sharding of SHARDINGS) {
    const [one, four, far] = [scaledStep(counts, A100, sharding, 1), scaledStep(counts, A100, sharding, 4), scaledStep(counts, slow, sharding, 16)]; // prettier-ignore
    expect(one.messages).toBe(0);
    expect(four.compute).toBeLessThan(one.compute / 3);
    expect(four.total).toBeCloseTo(four.compute + four.exposed + four.update, 12);
    expect(far.exposed).toBeGreaterThan(four.exposed);
  }
  expect(scaledStep(counts, A100, "none", 4).sent).toBe(2 * (3 / 4) * 4 * counts.trained);
});

it("refuses a machine that is not known or not complete", async () => {
  expect(await errorOf(() => loadMachine("a200"))).toBeInstanceOf(TrainConfigError);
  expect(() => loadMachine("a200")).toThrow(/--machine: must be one of a100-40, .*; got a200/);
  expect(() => loadMachine(new URL("../../package.json", import.meta.url).pathname)).toThrow(
    /a machine must have the keys/,
  );
});
