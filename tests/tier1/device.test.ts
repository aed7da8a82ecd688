/** Devices: finding and choosing adapters, capabilities, several at once, and their end. */
import { inspect } from "node:util";
import { afterAll, describe, expect, it, vi } from "vitest";
import {
  ArgumentError,
  DEFAULT_LIMITS,
  Device,
  DeviceError,
  DisposedError,
  F,
  KernelError,
  OutOfMemoryError,
  empty,
  getDevice,
  kernel,
  launch,
  listAdapters,
  nullCapabilities,
  setDevice,
  tensor,
} from "../../index.ts";
import { errorOf } from "../gpu.ts";

const opened: Device[] = [];
const open = async (...args: Parameters<typeof Device.create>): Promise<Device> => {
  const device = await Device.create(...args);
  opened.push(device);
  return device;
};
afterAll(() => opened.forEach((d) => d.destroy()));

const add = async (device: Device): Promise<number> => {
  using x = F.full([3], 2, { device });
  using y = x.add(1);
  return (await y.data())[2]!;
};

describe("bounds checks", () => {
  it("are left out if asked, and change no bit", async () => {
    const values = async (device: Device): Promise<ArrayLike<number>> => {
      using x = tensor(
        Float32Array.from({ length: 35 }, (_, i) => Math.sin(i)),
        { shape: [5, 7], device },
      );
      using y = F.softmax(x);
      return y.data();
    };
    expect(await values(await open({ boundsChecks: false }))).toEqual(await values(await open()));
  });
  it("must be true or false", async () => {
    const error = await errorOf(() => Device.create({ boundsChecks: 0 as unknown as boolean }));
    expect(error).toBeInstanceOf(ArgumentError);
    expect(error.message).toMatch(/Device.create: boundsChecks must be /);
  });
  it("cannot be left out in a browser", async () => {
    vi.stubGlobal("process", { ...process, getBuiltinModule: undefined });
    try {
      vi.resetModules();
      const { requestGPU } = await import("../../engine/platform.ts");
      const error = await errorOf(() => requestGPU(undefined, false));
      expect(error.name).toBe("ArgumentError");
      expect(error.message).toBe(
        "Device.create: boundsChecks must be true in a browser, which always checks; got false. Leave it out.",
      );
    } finally {
      vi.unstubAllGlobals();
    }
  });
});

describe("adapters", () => {
  it("are listed by name, each once", async () => {
    const all = await listAdapters();
    expect(all.length).toBeGreaterThan(0);
    expect(all.every((a) => a.name.length > 0)).toBe(true);
    expect(new Set(all.map((a) => a.name)).size).toBe(all.length);
  });
  it("are chosen by a part of their name in any case, or by their place", async () => {
    const [first] = await listAdapters();
    const byName = await open({ adapter: first!.name.slice(0, 6).toUpperCase() });
    const byIndex = await open({ adapter: 0 });
    expect(byName.name).toBe(first!.name);
    expect(byIndex.name).toBe(first!.name);
    expect(await add(byName)).toBe(3);
    expect(await add(byIndex)).toBe(3);
  });
  it.each(["no such GPU", 99, -1])("%s is refused with the list of those there are", async (adapter) => {
    const error = await errorOf(() => Device.create({ adapter }));
    expect(error).toBeInstanceOf(ArgumentError);
    expect(error.message).toContain(`one of the adapters (0 ${(await listAdapters())[0]!.name}`);
  });
});

describe("capabilities", () => {
  it("are plain data of the adapter", async () => {
    const { capabilities } = await open();
    expect(JSON.parse(JSON.stringify(capabilities))).toEqual(capabilities);
    expect(Object.keys(capabilities.limits).toSorted()).toEqual(Object.keys(DEFAULT_LIMITS).toSorted());
    for (const [name, least] of Object.entries(DEFAULT_LIMITS)) {
      const value = capabilities.limits[name as keyof typeof DEFAULT_LIMITS];
      if (name.startsWith("min")) expect(value).toBeLessThanOrEqual(least);
      else expect(value).toBeGreaterThanOrEqual(least);
    }
    if (capabilities.subgroups) {
      const [least, most] = capabilities.subgroups;
      expect(least).toBeGreaterThanOrEqual(4);
      expect(most).toBeGreaterThanOrEqual(least);
      expect((Math.log2(least) % 1) + (Math.log2(most) % 1)).toBe(0);
    }
  });
  it("follow the features left out and the limits asked for", async () => {
    const plain = await open({
      without: ["subgroups", "subgroup-size-control", "shader-f16", "timestamp-query"],
      limits: "default",
    });
    expect(plain.capabilities).toMatchObject({
      f16: false,
      subgroups: null,
      subgroupSizeControl: false,
      timestamps: false,
      limits: DEFAULT_LIMITS,
    });
    const small = await open({ limits: { maxStorageBufferBindingSize: 4096 } });
    expect(small.limits.maxStorageBufferBindingSize).toBe(4096);
    expect(await add(plain)).toBe(3);
    expect(await add(small)).toBe(3);
  });
  it("beyond the adapter are refused by name", async () => {
    const error = await errorOf(() => Device.create({ limits: { maxBufferSize: 2 ** 52 } }));
    expect(error).toBeInstanceOf(DeviceError);
    expect(error.message).toMatch(/maxBufferSize must be within the adapter's limit.*got 4503599627370496/);
    const unknown = await errorOf(() => Device.create({ limits: { maxFun: 3 } as never }));
    expect(unknown).toBeInstanceOf(ArgumentError);
    expect(unknown.message).toMatch(/keys must be among maxStorageBufferBindingSize.*got maxFun/);
  });
  it("of the null device may be those of any GPU", async () => {
    const device = await open({
      backend: "null",
      capabilities: nullCapabilities({ name: "paper", subgroups: [32, 32], limits: { maxBufferSize: 1024 } }),
    });
    expect(String(device)).toBe(`Device(${device.id}: paper)`);
    expect(device.capabilities.subgroups).toEqual([32, 32]);
    expect(() => empty([1024], { device })).toThrow(OutOfMemoryError);
  });
});

describe("the default device", () => {
  it("is the first one made, or the one that was set", async () => {
    setDevice(null);
    expect(() => getDevice()).toThrow(/a device must exist; got none\. Call `await Device\.create\(\)` first/);
    expect(() => tensor([1])).toThrow(DeviceError);
    const first = await open();
    const second = await open();
    expect(getDevice()).toBe(first);
    setDevice(second);
    using t = tensor([1]);
    expect(t.device).toBe(second);
    second.destroy();
    expect(() => getDevice()).toThrow(DeviceError);
    setDevice(first);
  });
});

describe("two devices", () => {
  it("work side by side and do not mix", async () => {
    const [a, b] = [await open(), await open()];
    using x = tensor([1, 2], { device: a });
    using y = tensor([3, 4], { device: b });
    expect(() => F.add(x, y)).toThrow(DeviceError);
    expect(() => F.add(x, y)).toThrow(
      /add: tensors must be on one device; got Device\(.*\) and Device\(.*\)\. Move one of them/,
    );
    using s = x.add(x);
    using t = y.add(y);
    expect([...(await s.data()), ...(await t.data())]).toEqual([2, 4, 6, 8]);
    expect(a.pool).not.toBe(b.pool);
  });
});

describe("a memory budget", () => {
  it("refuses before it allocates, names what is alive, and leaves the device usable", async () => {
    const device = await open({ memoryBudget: 1 << 20 });
    using held = empty([1 << 17], { device, label: "activations" });
    const before = { ...device.pool.stats };
    const error = await errorOf(() => empty([1 << 18], { device, label: "logits" }));
    expect(error).toBeInstanceOf(OutOfMemoryError);
    expect(error.message).toMatch(
      /logits: .*budget of 1\.0 MiB; got a request for 1\.0 MiB.*memoryBudget.*\n +512\.0 KiB +1 × activations/,
    );
    expect(device.pool.stats).toEqual(before);
    expect(held.disposed).toBe(false);
    expect(await add(device)).toBe(3);
  });
  it("is there by default on software adapters", async () => {
    const device = await open();
    expect(Number.isFinite(device.pool.budget)).toBe(device.capabilities.software);
  });
});

describe("destroy()", () => {
  it("ends the device: its tensors are refused, dispose still works, twice is allowed", async () => {
    const device = await open();
    const x = tensor([1, 2], { device });
    const reading = x.data();
    device.destroy();
    device.destroy();
    await expect(reading).rejects.toThrow(DisposedError);
    expect(() => x.add(1)).toThrow(DisposedError);
    expect(() => x.add(1)).toThrow(/got one that was destroyed/);
    expect(() => tensor([1], { device })).toThrow(DisposedError);
    await expect(x.data()).rejects.toThrow(DisposedError);
    await expect(device.sync()).rejects.toThrow(DisposedError);
    x.dispose();
    const other = await open();
    expect(await add(other)).toBe(3);
  });
});

describe("a kernel of one's own", () => {
  const own = kernel(
    "device_test_scale",
    `struct Params { n: u32, by: f32, }
     @group(0) @binding(0) var<storage, read> x: array<f32>;
     @group(0) @binding(1) var<storage, read_write> y: array<f32>;
     @group(0) @binding(2) var<uniform> params: Params;
const EXTRA = 0.0;
     @compute @workgroup_size(64) fn device_test_scale(@builtin(global_invocation_id) id: vec3u) {
       if (id.x < params.n) { y[id.x] = x[id.x] * params.by + EXTRA; }
     }`,
    { x: "read", y: "write" },
    { n: "u32", by: "f32" },
  );
  const broken = kernel(
    "device_test_broken",
    "@group(0) @binding(0) var<storage, read_write> y: array<f32>;\n@compute @workgroup_size(1)\nfn device_test_broken() {\n  y[0] = 1u;\n}",
    { y: "write" },
  );

  it("runs through the same launch()", async () => {
    const device = await open();
    using x = tensor([1, 2, 3], { device });
    using y = empty([3], { device });
    launch(own, { buffers: { x, y }, params: { n: 3, by: 0.5 }, constants: { EXTRA: 1 }, grid: [1] });
    expect([...(await y.data())]).toEqual([1.5, 2, 2.5]);
  });
  it("that does not compile shows its line at the next sync or read, and compile() tells at once", async () => {
    const device = await open();
    using y = empty([4], { device });
    launch(broken, { buffers: { y }, grid: [1] });
    const error = await errorOf(() => y.data());
    expect(error).toBeInstanceOf(KernelError);
    expect(error.message).toMatch(
      /kernel device_test_broken \(inline\) does not compile\nline 4, column \d+: .*\n +2 @compute.*\n +3 fn.*\n> +4 +y\[0\] = 1u;\n +5 }/,
    );
    expect((error as KernelError).source).toContain("y[0] = 1u;");
    expect(inspect(error), "printed").not.toContain("source");
    await expect(device.compile(broken)).rejects.toThrow(/does not compile/);
    await device.compile(own);
    await device.compile(own, { EXTRA: 2 });
    await device.sync();
    expect(await add(device)).toBe(3);
  });
  it("accepted() throws what is known of the work so far, and does not wait for the end of it on a software device", async () => {
    const device = await open();
    using y = empty([4], { device });
    launch(broken, { buffers: { y }, grid: [1] });
    await expect(device.accepted()).rejects.toThrow(/does not compile/);
    using x = F.ones([64], { device });
    using sum = x.add(1);
    await device.accepted(); // the first launches of pipelines
    const { submits } = device.queue.stats;
    using more = sum.add(1);
    await device.accepted();
    expect(device.queue.stats.submits).toBe(submits + 1);
    expect((await more.data())[63]).toBe(3);
  });
});

it("a software device that is idle gets its first launches before the host has recorded all", async () => {
  const device = await open();
  using x = F.ones([64], { device });
  const adds = (count: number): number => {
    const { submits } = device.queue.stats;
    for (let i = 0; i < count; i++) x.add(1).dispose();
    return device.queue.stats.submits - submits;
  };
  adds(1); // compiles
  await device.sync();
  const { software } = device.capabilities;
  expect(adds(31)).toBe(0);
  expect(adds(1)).toBe(software ? 1 : 0);
  expect(adds(127)).toBe(0);
  expect(adds(1)).toBe(software ? 1 : 0);
  expect(adds(200)).toBe(software ? 0 : 1);
  await device.sync();
  expect(adds(40)).toBe(software ? 1 : 0);
});
