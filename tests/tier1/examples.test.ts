/** The examples learn what they state, and the same seed gives the same bits twice. */
import { afterAll, beforeAll, expect, it } from "vitest";
import { Device } from "../../index.ts";
import type { nn } from "../../index.ts";
import { trainConvNet } from "../../examples/conv_net.ts";
import { trainTransformer } from "../../examples/transformer.ts";

let device: Device;
beforeAll(async () => {
  device = await Device.create();
});
afterAll(() => device.destroy());

const mean = (values: readonly number[]): number => values.reduce((a, b) => a + b, 0) / values.length;

async function weights(model: nn.Module<never, unknown>): Promise<ArrayLike<number>[]> {
  const data = [];
  for (const parameter of model.parameters()) data.push(await parameter.data());
  return data;
}

it("the transformer learns its rule: mean loss of the last 20 of 300 steps below 0.05", async () => {
  const live = device.pool.stats.liveBytes;
  const { losses, model } = await trainTransformer();
  expect(losses[0]).toBeGreaterThan(2);
  expect(mean(losses.slice(-20))).toBeLessThan(0.05);
  model.dispose();
  expect(device.pool.stats.liveBytes).toBe(live);
});

it("the convolutional net tells the shapes apart: mean loss of the last 20 of 160 steps below 0.1", async () => {
  const { losses, model } = await trainConvNet();
  expect(losses[0]).toBeGreaterThan(0.8);
  expect(mean(losses.slice(-20))).toBeLessThan(0.1);
  model.dispose();
});

it.each([
  ["transformer", () => trainTransformer({ steps: 12, seed: 7 })],
  ["convolutional net", () => trainConvNet({ steps: 8, seed: 7 })],
])("the same seed gives bit-equal weights twice: %s", async (_, train) => {
  const first = await train();
  const second = await train();
  expect(second.losses).toEqual(first.losses);
  expect(await weights(second.model)).toEqual(await weights(first.model));
  const other = await (_ === "transformer" ? trainTransformer({ steps: 1, seed: 8 }) : trainConvNet({ steps: 1, seed: 8 }));
  expect(other.losses[0]).not.toBe(first.losses[0]);
  for (const run of [first, second, other]) run.model.dispose();
});
