/** A GPU whose memory ends without a word before: errors, what stays usable, and second attempts. */
import { afterEach, expect, it } from "vitest";
import { Device, F, OutOfMemoryError, empty, scope } from "../../index.ts";
import type { Tensor } from "../../index.ts";
import { errorOf } from "../gpu.ts";
import { limitMemory } from "../limited_memory.ts";
import type { LimitedMemory } from "../limited_memory.ts";

const MiB = 2 ** 20;
const opened: Device[] = [];

async function open(limitBytes: number): Promise<{ device: Device; memory: LimitedMemory }> {
  const device = await Device.create({ memoryBudget: Infinity });
  opened.push(device);
  return { device, memory: limitMemory(device.gpu!, limitBytes) };
}
afterEach(() => {
  for (const device of opened.splice(0)) device.destroy();
});

const mib = (count: number, device: Device, label?: string): Tensor =>
  empty([(count * MiB) / 4], { device, ...(label && { label }) });

it("the next sync() rejects with the size, its label and the table of what was alive; the device stays usable", async () => {
  const { device } = await open(100 * MiB);
  using weights = F.full([16 * MiB], 2, { device }); // 64 MiB
  await device.sync();
  const logits = mib(48, device, "logits");
  using one = F.full([1], 1, { device });
  F.copyInto(logits, one.expand([12 * MiB]));
  const error = await errorOf(() => device.sync());
  expect(error).toBeInstanceOf(OutOfMemoryError);
  expect(error.message).toMatch(
    /^logits: the GPU must have 48\.0 MiB of free memory; got an out-of-memory error with 64\.0 MiB in use\. The budget is now 112\.0 MiB\..*smaller batch.*Alive:\n +64\.0 MiB +1 × /s,
  );
  expect(error.message).not.toContain("previous error");
  logits.dispose();
  await device.sync();
  // What was there before is as it was, and new work runs.
  using part = weights.slice(0, 0, 4);
  expect([...(await part.data())]).toEqual([2, 2, 2, 2]);
  using small = F.full([4], 3, { device });
  using sum = F.add(small, part);
  expect([...(await sum.data())]).toEqual([5, 5, 5, 5]);
});

it("a buffer that is free again when the refusal comes is named all the same, if work used it", async () => {
  const { device } = await open(100 * MiB);
  using one = F.full([1], 1, { device });
  using copied = F.full([1], 0, { device });
  await device.sync();
  const between = mib(128, device, "between");
  F.copyInto(between, one.expand([32 * MiB]));
  using first = between.slice(0, 0, 1);
  F.copyInto(copied, first);
  between.dispose();
  first.dispose();
  await expect(device.sync()).rejects.toThrow(/^between: the GPU must have 128\.0 MiB/);
  device.pool.budget = Infinity;
  mib(128, device, "unused").dispose();
  await device.sync();
});

it("a read rejects with it, too", async () => {
  const { device } = await open(10 * MiB);
  using x = F.full([8 * MiB], 1, { device });
  const error = await errorOf(() => x.data());
  expect(error).toBeInstanceOf(OutOfMemoryError);
  expect(error.message).toContain("must have 32.0 MiB of free memory");
});

it("a read-back for whose copy there is no memory rejects with it, and a smaller one works", async () => {
  const { device, memory } = await open(100 * MiB);
  using x = F.full([16 * MiB], 1, { device });
  await device.sync();
  memory.limitBytes = 70 * MiB;
  const error = await errorOf(() => x.data());
  expect(error).toBeInstanceOf(OutOfMemoryError);
  expect(error.message).toMatch(/^read-back: the GPU must have 64\.0 MiB of free memory/);
  using few = x.slice(0, 0, 2);
  expect([...(await few.data())]).toEqual([1, 1]);
});

it("afterwards the budget is what the GPU held: the same step is refused at once, or fits after the trim", async () => {
  const { device, memory } = await open(64 * MiB);
  scope(() => void F.full([4 * MiB], 1, { device })); // 16 MiB that stay in the pool
  scope(() => void F.full([3 * MiB], 1, { device })); // and 12 of another size
  const step = (count: number): Tensor => F.full([(count * MiB) / 4], 1, { device });
  const first = step(48);
  await expect(device.sync()).rejects.toThrow(OutOfMemoryError);
  first.dispose();
  expect(memory.usedBytes, "the free buffers are given up").toBeLessThan(4 * MiB);
  expect(device.pool.budget).toBe(76 * MiB - 1);
  using again = step(48);
  using part = again.slice(0, 0, 1);
  expect(await part.item()).toBe(1);
  const { refused } = memory;
  expect(() => step(40)).toThrow(/budget of 76\.0 MiB; got a request for 40\.0 MiB with 48\.0 MiB in use/);
  expect(memory.refused, "refused before it asks the GPU").toBe(refused);
});

it("a buffer that nothing refers to yet is created once more after the trim, and nobody notices", async () => {
  const { device, memory } = await open(64 * MiB);
  scope(() => void F.full([8 * MiB], 1, { device }));
  await device.sync(); // 32 MiB wait in the pool
  const x = mib(48, device);
  await device.sync();
  expect(memory.refused).toBe(1);
  F.copyInto(x, F.full([1], 5, { device }).expand([12 * MiB]));
  using part = x.slice(0, 12 * MiB - 2);
  expect([...(await part.data())]).toEqual([5, 5]);
  expect(device.pool.stats.reservedBytes).toBeLessThan(64 * MiB);
  x.dispose();
});

it("is told once where also the second attempt fails, and counts stay right", async () => {
  const { device, memory } = await open(8 * MiB);
  const x = mib(48, device, "x");
  const error = await errorOf(() => device.sync());
  expect(error).toBeInstanceOf(OutOfMemoryError);
  expect(error.message).not.toContain("more errors");
  expect(memory.refused).toBe(2);
  expect(device.pool.stats.reservedBytes).toBe(0);
  x.dispose();
  expect(device.pool.stats).toMatchObject({ liveBytes: 0, reservedBytes: 0 });
  await device.sync();
});
