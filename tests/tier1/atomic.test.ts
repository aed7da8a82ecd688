/** `Device.atomic`: all launches of a function run, or none. */
import { describe, expect, it } from "vitest";
import { DeviceError, F, Generator, backward, capture, manualSeed, scope, tensor, zeroGradients } from "../../index.ts";
import type { Tensor } from "../../index.ts";
import { errorOf, device, useDevices } from "../gpu.ts";

useDevices();

const stop = (): never => {
  throw new RangeError("half-way");
};

describe("atomic", () => {
  it("runs none of the launches of a function that throws; what was launched before it runs", async () => {
    using x = tensor([1, 2, 3, 4], { device });
    using y = F.zeros([4], { device });
    const live = device.pool.stats.liveBytes;
    scope(() => F.addInto(x, F.ones([4], { device })));
    expect(() =>
      device.atomic(() =>
        scope(() => {
          for (let k = 0; k < 300; k++) F.addInto(x, F.ones([4], { device })); // more than one submit takes
          F.copyInto(y, x);
          stop();
        }),
      ),
    ).toThrow(RangeError);
    expect([...(await x.data())]).toEqual([2, 3, 4, 5]);
    expect([...(await y.data())]).toEqual([0, 0, 0, 0]);
    expect(device.pool.stats.liveBytes).toBe(live);
  });

  it("runs all of them in order otherwise, nested too, and gives the result", async () => {
    using x = F.zeros([3], { device });
    using y = device.atomic(() =>
      scope(() => {
        for (let k = 0; k < 600; k++) F.addInto(x, F.ones([3], { device }));
        return device.atomic(() => F.mul(x, 2));
      }),
    );
    expect([...(await y.data())]).toEqual([1200, 1200, 1200]);
    expect([...(await x.data())]).toEqual([600, 600, 600]);
  });

  it("a nested one that throws and is caught is undone only by the outer one", async () => {
    using x = F.zeros([3], { device });
    expect(() => device.atomic(() => { scope(() => F.addInto(x, F.ones([3], { device }))); device.atomic(stop); })).toThrow(RangeError); // prettier-ignore
    expect([...(await x.data())]).toEqual([0, 0, 0]);
  });

  it("frees buffers that its launches use only when they have run", async () => {
    using x = F.ones([1000], { device });
    using y = device.atomic(() => {
      const z = scope(() => F.mul(F.add(x, 1), 3));
      device.pool.trim();
      const result = F.add(z, 1);
      z.dispose();
      device.pool.trim();
      return result;
    });
    expect((await y.data()).every((v) => v === 7)).toBe(true);
    await device.sync();
  });

  it("refuses to read, to replay, and to upload to what has a launch waiting; and async functions", async () => {
    using x = F.zeros([3], { device });
    const loop = await capture(() => scope(() => F.addInto(x, F.ones([3], { device }))), { device });
    const reading: Promise<Error>[] = [];
    device.atomic(() => void reading.push(errorOf(() => x.data())));
    expect(await reading[0]).toBeInstanceOf(DeviceError);
    expect(() => device.atomic(() => loop.replay())).toThrow(/replay: must not be called inside atomic/);
    const upload = (): void => {
      scope(() => F.addInto(x, F.ones([3], { device })));
      x.writeBytes(new Uint8Array(12));
    };
    expect(() => device.atomic(upload)).toThrow(/upload: must not be called inside atomic/);
    expect(() => device.atomic(async () => undefined)).toThrow(/synchronous/);
    expect([...(await x.data())]).toEqual([1, 1, 1]);
    loop.dispose();
  });

  it("takes host data of new tensors, and constants, though launches wait on the buffers that were freed", async () => {
    using x = F.ones([1, 1, 2, 8], { device });
    using positions = tensor(Int32Array.of(0, 1), { device });
    const generator = new Generator(0, { device });
    const litter = (): void => scope(() => void [1, 2, 3, 4, 5].map((k) => F.add(F.sum(x), k)));
    const values = scope(() => [F.rope(x, positions, { theta: 1234 }), F.randn([4], { device, generator, site: 0 })]);
    const make = (): Tensor[] => {
      litter();
      return [F.rope(x, positions, { theta: 4321 }), F.randn([4], { device }), tensor([1, 2], { device })];
    };
    manualSeed(0, device);
    let failed: Tensor[] = [];
    expect(() => device.atomic(() => scope(() => ((failed = make()), stop())))).toThrow(RangeError);
    expect(failed).toHaveLength(3);
    manualSeed(0, device);
    const [rope, draws, host] = device.atomic(() => scope(make)) as [Tensor, Tensor, Tensor];
    using again = F.rope(x, positions, { theta: 4321 });
    expect(await rope.data()).toEqual(await again.data());
    expect((await rope.data()).every(Number.isFinite)).toBe(true);
    expect(await draws.data()).toEqual(await values[1]!.data());
    expect([...(await host.data())]).toEqual([1, 2]);
    for (const t of [rope, draws, host, generator.state, ...values]) t.dispose();
  });

  it("leaves the gradients as they were when it throws", async () => {
    using w = tensor([1, 2], { device, requiresGrad: true });
    using v = tensor([3, 4], { device, requiresGrad: true });
    const add = (): void => scope(() => backward(F.sum(F.mul(w, v))));
    const fail = (fn: () => void): void => expect(() => device.atomic(() => (fn(), stop()))).toThrow(RangeError);
    const live = device.pool.stats.liveBytes;
    fail(() => [add(), add()]);
    expect([w.grad, v.grad]).toEqual([null, null]);
    expect(device.pool.stats.liveBytes).toBe(live);
    add();
    const held = device.pool.stats.liveBytes;
    for (const fn of [add, () => zeroGradients([w, v]), () => [zeroGradients([w]), add(), add()]]) {
      fail(fn);
      expect([[...(await w.grad!.data())], [...(await v.grad!.data())]]).toEqual([[3, 4], [1, 2]]); // prettier-ignore
      expect(device.pool.stats.liveBytes).toBe(held);
    }
    fail(add);
    device.atomic(() => [add(), zeroGradients([v]), add()]);
    expect([[...(await w.grad!.data())], [...(await v.grad!.data())]]).toEqual([[9, 12], [1, 2]]); // prettier-ignore
    expect(device.pool.stats.liveBytes).toBe(held);
    zeroGradients([w, v]);
  });
});
