/** The bench uses the device that it is given: here the default device is another one, which must stay unused. */
import { afterEach, beforeEach, expect, it } from "vitest";
import { callOf } from "../../bench/kernels.ts";
import { measureLaunches } from "../../bench/launches.ts";
import { benchModel, requireRoom } from "../../bench/model.ts";
import { selectRows } from "../../bench/rows/index.ts";
import { benchTrain } from "../../bench/train.ts";
import { workloads } from "../../bench/workloads.ts";
import { Device, empty, getDevice, setDevice } from "../../index.ts";
import { JANUS_TINY, createModel } from "../../model/janus/create.ts";

let device: Device;
let other: Device;
beforeEach(async () => {
  device = await Device.create({ backend: "null" });
  other = await Device.create({ backend: "null" });
  setDevice(other);
});
afterEach(() => {
  device.destroy();
  other.destroy();
});

const requireUnused = (): void => expect([getDevice() === other, other.pool.stats.peakBytes]).toEqual([true, 0]);

const options = { isCold: false, failAbove: null, rounds: 1, seconds: 0.01, seed: 1 };

it("model: all work of the tiny model", () => {
  using work = workloads(createModel(JANUS_TINY, { device }), JANUS_TINY);
  for (const { run } of work.list) run();
  requireUnused();
});

it("model: a row of the 1B model, measured", async () => {
  await requireRoom(device, ["1B"]);
  const filter = { filter: "vision tower" };
  expect((await benchModel(device, null, { ...options, sizes: ["1B"], filter })).rows).toHaveLength(1);
  requireUnused();
});

// The null device takes the whole step; only the loss cannot be read.
it.each(["tiny", "1B"] as const)("train: a step of the %s model", async (size) => {
  const measured = benchTrain(device, null, { ...options, sizes: [size], filter: { filter: "stage 1" } });
  await expect(measured).rejects.toThrow(/^read: needs a device that computes/);
  requireUnused();
});

it("kernels: launches and all rows", async () => {
  expect((await measureLaunches(device)).recordUs).toBeGreaterThan(0);
  for (const row of selectRows({ sets: ["table", "1B", "large"] })) {
    const inputs = row.inputs.map(({ shape, dtype, below }, i) => {
      const t = empty(shape, { dtype: dtype ?? (below === undefined ? "f32" : "i32"), device }).keep();
      t.requiresGrad = row.gradients?.includes(i) ?? false;
      return t;
    });
    callOf(row, inputs)();
    for (const t of inputs) t.dispose();
  }
  requireUnused();
});
