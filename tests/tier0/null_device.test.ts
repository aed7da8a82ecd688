/** The null device: the same program, counted instead of computed. */
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import {
  ArgumentError,
  Device,
  DeviceError,
  DisposedError,
  F,
  OutOfMemoryError,
  capture,
  empty,
  getDevice,
  nullCapabilities,
  profile,
  scope,
  setDevice,
  tally,
  tensor,
} from "../../index.ts";
import type { Tensor } from "../../index.ts";

let device: Device;
beforeAll(async () => {
  device = await Device.create({ backend: "null" });
});
afterAll(() => setDevice(null));

/** Two elementwise ops and a sum over [64, 128]. */
const program = (x: Tensor, w: Tensor): Tensor => F.sum(F.mul(F.exp(x), w));

describe("a program on the null device", () => {
  it("has shapes and dtypes, and takes and disposes tensors as on a GPU", () => {
    expect(getDevice()).toBe(device);
    expect(device.isNull).toBe(true);
    expect(String(device)).toBe(`Device(${device.id}: null device)`);
    const live = device.pool.stats.liveBytes;
    const y = scope(() =>
      F.cat([F.ones([2, 3]), F.randn([4, 3])])
        .reshape([3, 6])
        .cast("bf16"),
    );
    expect([y.shape, y.dtype]).toEqual([[3, 6], "bf16"]);
    y.dispose();
    expect(device.pool.stats.liveBytes).toBe(live);
  });

  it("is counted: launches, FLOPs, bytes, pipelines, kernels", () => {
    using x = tensor(new Float32Array(64 * 128), { shape: [64, 128] });
    using w = tensor(new Float32Array(128));
    let sum: Tensor | undefined;
    const counts = tally(() => void (sum = scope(() => program(x, w))));
    const n = 64 * 128;
    expect(sum!.shape).toEqual([]);
    expect(counts.byKernel.get("map")).toBe(1); // exp
    expect(counts.byKernel.get("map_strided")).toBe(1); // mul with broadcasting
    expect(counts.byKernel.get("reduce")).toBeGreaterThanOrEqual(2);
    expect(counts.launches).toBe([...counts.byKernel.values()].reduce((a, b) => a + b, 0));
    expect(counts.pipelines.size).toBeLessThanOrEqual(counts.launches);
    // exp reads and writes n, mul reads n + 128 and writes n, the first stage of the sum reads n.
    const bytes = 4 * (n + n) + 4 * (n + 128 + n) + 4 * n;
    expect(counts.bytes).toBeGreaterThanOrEqual(bytes);
    expect(counts.bytes).toBeLessThan(bytes * 1.1);
    expect(counts.flops).toBeGreaterThanOrEqual(3 * n);
    expect(counts.flops).toBeLessThan(3.3 * n);
    sum!.dispose();
  });

  it("counts the same twice, and the launches that the device counts", () => {
    using x = F.ones([64, 128]);
    using w = F.ones([128]);
    const before = device.stats.launches;
    const run = (): unknown => tally(() => scope(() => void program(x, w)));
    const first = tally(() => scope(() => void program(x, w)));
    expect(device.stats.launches - before).toBe(first.launches);
    expect(run()).toEqual(first);
  });

  it("knows the peak of live bytes", () => {
    using x = F.ones([1024]);
    device.pool.resetPeak();
    const live = device.pool.stats.liveBytes;
    scope(() => {
      using a = F.add(x, 1); // 4096 bytes
      const b = F.add(a, 1);
      b.dispose();
      F.add(a, 2);
    });
    expect(device.pool.stats.peakBytes - live).toBe(8192);
    expect(device.pool.stats.liveBytes).toBe(live);
  });

  it("differentiates: as many gradients as on a GPU, no bytes left", () => {
    using x = F.randn([64, 128]);
    using w = F.randn([128]);
    x.requiresGrad = w.requiresGrad = true;
    const live = device.pool.stats.liveBytes;
    scope(() => program(x, w).backward());
    expect(x.grad!.shape).toEqual([64, 128]);
    expect(w.grad!.shape).toEqual([128]);
    expect(device.pool.stats.liveBytes - live).toBe(4 * 64 * 128 + 4 * 128);
  });

  it("differentiates a chain of 20,000 ops, longer than any call stack", () => {
    using x = F.ones([1], { requiresGrad: true });
    const live = device.pool.stats.liveBytes;
    const chain = (): Tensor =>
      scope(() => {
        let t = x.mul(1);
        for (let i = 0; i < 20_000; i++) {
          using before = t;
          t = before.mul(2);
        }
        return t;
      });
    const y = chain();
    y.backward();
    y.dispose();
    expect(device.pool.stats.liveBytes - live).toBe(16);
    chain().dispose();
    expect(device.pool.stats.liveBytes - live).toBe(16);
  });

  it("captures and replays by count", async () => {
    using x = F.ones([16]);
    using captured = await capture(() => F.exp(x), { verify: true });
    const counts = tally(() => captured.replay());
    expect(counts.launches).toBe(1);
    captured.result.dispose();
  });

  it("makes tensors of any size without memory", () => {
    const counts = tally(() => scope(() => void F.add(empty([102400, 4096], { dtype: "bf16" }), 1)));
    expect(counts.launches).toBe(1);
    expect(counts.bytes).toBe(2 * 2 * 102400 * 4096);
  });
});

describe("what it refuses", () => {
  it("reading, with a typed error", async () => {
    using x = F.ones([2, 2]);
    await expect(x.data()).rejects.toThrow(DeviceError);
    await expect(x.data()).rejects.toThrow(/needs a device that computes; got the null device\. Run on a GPU/);
    using one = F.ones([1]);
    await expect(one.item()).rejects.toThrow(DeviceError);
    await expect(x.array()).rejects.toThrow(DeviceError);
    await expect(x.print()).rejects.toThrow(DeviceError);
  });
  it("timing", async () => {
    await expect(profile(() => undefined)).rejects.toThrow(/must have timestamps/);
  });
  it("counting an asynchronous function", () => {
    expect(() => tally(async () => undefined)).toThrow(ArgumentError);
  });
  it("more than the budget, or than a buffer", async () => {
    const small = await Device.create({
      backend: "null",
      memoryBudget: 1 << 20,
      capabilities: nullCapabilities({ limits: { maxBufferSize: 1 << 19 } }),
    });
    expect(() => empty([1 << 18], { device: small })).toThrow(OutOfMemoryError);
    const a = empty([1 << 17], { device: small });
    const b = empty([1 << 17], { device: small });
    expect(() => empty([1], { device: small })).toThrow(OutOfMemoryError);
    for (const t of [a, b]) t.dispose();
    empty([1], { device: small }).dispose();
    small.destroy();
    expect(() => empty([1], { device: small })).toThrow(DisposedError);
  });
});

it("sync, flush and compile do nothing", async () => {
  const before = device.stats.submits;
  device.flush();
  await device.sync();
  expect(device.stats.submits).toBe(before);
});
