/** A device for a test file, watched: after each test nothing it made is alive, and the GPU has refused nothing. */
import { afterAll, afterEach, beforeAll, beforeEach, expect } from "vitest";
import { Device, setDevice } from "../index.ts";
import type { DeviceOptions } from "../engine/device.ts";

/** Opens a device before the tests of the file and makes it the default one; outputs are poisoned with NaN, out-of-range ids are errors. */
export function useDevice(options: DeviceOptions = {}): () => Device {
  let device: Device;
  let live = 0;
  beforeAll(async () => {
    device = await Device.create({ poison: true, checks: true, ...options });
    setDevice(device);
  });
  beforeEach(() => {
    live = device.pool.stats.liveBytes;
  });
  afterEach(async () => {
    await device.sync();
    expect(device.pool.stats.liveBytes, `bytes left over:\n${device.pool.table()}`).toBe(live);
  });
  afterAll(() => device.destroy());
  return () => device;
}

/** Seed of random inputs. */
export const seed = Number(process.env["JANUS_TEST_SEED"] ?? 1);
/** Devices of `useDevices`; neither is the default one. */
export let device: Device;
/** One whose windows are small, so that ops go through their tensors in several. */
export let small: Device;

/** Opens `device` and `small` before the tests of the file, and says the seed that repeats them. */
export function useDevices(): void {
  beforeAll(async () => {
    device = await Device.create({ poison: true, checks: true });
    small = await Device.create({
      poison: true,
      checks: true,
      limits: { maxStorageBufferBindingSize: 4096, minStorageBufferOffsetAlignment: 256 },
    });
    console.log(`seed ${seed} (JANUS_TEST_SEED=${seed} repeats the inputs)`);
  });
  afterEach(async () => {
    await device.sync();
    await small.sync();
  });
  afterAll(() => {
    device.destroy();
    small.destroy();
  });
}

/** The error that `fn` throws or rejects with; fails when it does not. */
export async function errorOf(fn: () => unknown): Promise<Error> {
  try {
    await fn();
  } catch (error) {
    if (error instanceof Error) return error;
    throw error;
  }
  return expect.fail("no error was raised");
}

/** Counts of what a device created while `fn` ran. */
export async function created(
  device: Device,
  fn: () => unknown,
): Promise<{ buffers: number; bindGroups: number; pipelines: number }> {
  const before = device.stats;
  await fn();
  device.flush();
  const after = device.stats;
  return {
    buffers: after.buffersCreated - before.buffersCreated,
    bindGroups: after.bindGroupsCreated - before.bindGroupsCreated,
    pipelines: after.pipelinesCreated - before.pipelinesCreated,
  };
}
