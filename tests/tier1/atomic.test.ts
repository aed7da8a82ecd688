/** `Device.atomic`: all launches of a function run, or none. */
import { describe, expect, it } from "vitest";
import { DeviceError, F, capture, scope, tensor } from "../../index.ts";
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
    expect(() => device.atomic(() => loop.replay())).toThrow(/replayed inside atomic/);
    const upload = (): void => {
      scope(() => F.addInto(x, F.ones([3], { device })));
      x.writeBytes(new Uint8Array(12));
    };
    expect(() => device.atomic(upload)).toThrow(/uploaded inside atomic/);
    expect(() => device.atomic(async () => undefined)).toThrow(/synchronous/);
    expect([...(await x.data())]).toEqual([1, 1, 1]);
    loop.dispose();
  });
});
