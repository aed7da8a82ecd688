/** Captures hold what they read: constants of the device, tensors freed inside, and what verify compares with. */
import { describe, expect, it } from "vitest";
import {
  AutogradError,
  CaptureError,
  Device,
  F,
  backward,
  capture,
  nn,
  scope,
  setDevice,
  tensor,
  zeroGradients,
} from "../../index.ts";
import type { Tensor } from "../../index.ts";
import { AdamW } from "../../model/nn/optim/index.ts";
import { errorOf } from "../gpu.ts";

/** A device on which no constant has been made yet. */
async function fresh<T>(run: (device: Device) => Promise<T>): Promise<T> {
  const device = await Device.create({ poison: true });
  setDevice(device);
  try {
    return await run(device);
  } finally {
    await device.sync();
    setDevice(null);
    device.destroy();
  }
}

/** Small tensors made and freed: buffers that a capture reuses. */
const litter = (x: Tensor): void =>
  scope(() => void Array.from({ length: 6 }).reduce<Tensor>((y) => y.add(1), x.mul(7)));

describe("constants of a device in a capture", () => {
  it("backward's one is not overwritten by replays, nor afterwards", () =>
    fresh(async () => {
      const w = tensor([1, 2, 3, 4], { requiresGrad: true });
      const x = tensor([1, 1, 1, 1]);
      const step = (): Tensor =>
        scope(() => {
          litter(x);
          backward(w.mul(x).sum());
          const g = w.grad!.mul(1);
          zeroGradients([w]);
          return g;
        });
      const c = await capture(step, { verify: true });
      c.replay();
      expect([...(await c.result.data())]).toEqual([1, 1, 1, 1]);
      expect([...(await step().data())]).toEqual([1, 1, 1, 1]);
    }));

  it("rope's frequencies are not overwritten by replays", () =>
    fresh(async () => {
      const x = tensor(
        Float32Array.from({ length: 16 }, (_, i) => i),
        { shape: [1, 2, 8] },
      );
      const positions = tensor(Int32Array.of(3, 9));
      const turn = (): Tensor => {
        scope(() => litter(F.full([4, 2], 3)));
        return F.rope(x, positions);
      };
      const c = await capture(turn, { verify: true });
      const first = [...(await c.result.data())];
      c.replay();
      c.replay();
      expect([...(await c.result.data())]).toEqual(first);
      expect([...(await turn().data())]).toEqual(first);
    }));

  it("a training step with AdamW, captured first thing: the eager numbers", async () => {
    const run = (captured: boolean): Promise<number[]> =>
      fresh(async () => {
        const w = tensor(
          Float32Array.from({ length: 32 }, (_, i) => Math.sin(i)),
          { shape: [8, 4], requiresGrad: true },
        ).keep();
        const optimizer = new AdamW([w], { lr: 0.01, maxNorm: 1e9 });
        const x = tensor(
          Float32Array.from({ length: 12 }, (_, i) => i / 6 - 1),
          { shape: [3, 4] },
        );
        const y = tensor(Int32Array.of(1, 5, 7));
        const step = (): Tensor =>
          scope(() => {
            const loss = F.crossEntropy(F.linear(x, w), y);
            backward(loss);
            optimizer.step();
            zeroGradients([w]);
            return loss;
          });
        const numbers: number[] = [];
        const c = captured ? await capture(step, { verify: true }) : null;
        for (let i = 0; i < 4; i++) {
          const loss = c ? c.result : step();
          numbers.push(await loss.item(), (await optimizer.report()).gradNorm);
          c?.replay();
        }
        return numbers;
      });
    expect(await run(true)).toEqual(await run(false));
  });
});

describe("what a capture reads", () => {
  it("stays where it is though it is freed in the capture", () =>
    fresh(async () => {
      const x = tensor([1, 2, 3]);
      const c = await capture(() => {
        const y = x.mul(2);
        x.dispose();
        litter(F.full([3], 100));
        return y;
      });
      for (let i = 0; i < 3; i++) {
        expect([...(await c.result.data())]).toEqual([2, 4, 6]);
        c.replay();
      }
    }));

  it("is given back with the capture", () =>
    fresh(async (device) => {
      const live = device.pool.stats.liveBytes;
      const x = tensor([1, 2, 3]);
      const c = await capture(() => {
        const y = x.mul(2);
        x.dispose();
        return y;
      });
      c.dispose();
      c.result.dispose();
      expect(device.pool.stats.liveBytes).toBe(live);
    }));

  it("is given back where the function throws", () =>
    fresh(async (device) => {
      const x = tensor([1, 2, 3]);
      const failing = capture(() => {
        x.mul(2);
        x.dispose();
        throw new Error("half-way");
      });
      await expect(failing).rejects.toThrow("half-way");
      expect(device.pool.stats.liveBytes).toBe(0);
    }));
});

describe("what a capture made", () => {
  it("keeps its buffers though a tensor that no launch binds is disposed after it", () =>
    fresh(async () => {
      const x = tensor([1, 2, 3]);
      const c = await capture(() => {
        litter(x);
        return F.add(F.zeros([0]), 1);
      });
      c.result.dispose();
      const eager = scope(() => Array.from({ length: 8 }, (_, i) => F.full([4], 100 + i)));
      c.replay();
      const values = await Promise.all(eager.map(async (t) => [...(await t.data())]));
      expect(values).toEqual(eager.map((_, i) => Array<number>(4).fill(100 + i)));
    }));

  it("is changed by a replay: backward through it is refused", () =>
    fresh(async () => {
      const x = tensor([1, 2, 3]);
      const w = tensor([1, 1, 1], { requiresGrad: true });
      const c = await capture(() => x.mul(2), { verify: true });
      const z = scope(() => w.mul(c.result).sum());
      F.castInto(x, tensor([10, 20, 30]));
      c.replay();
      const error = await errorOf(() => backward(z));
      expect(error).toBeInstanceOf(AutogradError);
    }));

  it("may not be a gradient that stays", () =>
    fresh(async () => {
      const w = tensor([1, 2], { requiresGrad: true });
      const error = await errorOf(() => capture(() => scope(() => backward(w.mul(2).sum()))));
      expect(error).toBeInstanceOf(CaptureError);
      expect(error.message).toMatch(
        /gradients made in the function must be dropped in it; got one left on Tensor\(\[2\] f32\)/,
      );
      expect(w.grad).toBeNull();
      // One that was there before is added to, by replays as by eager runs.
      scope(() => backward(w.mul(2).sum()));
      const c = await capture(() => scope(() => backward(w.mul(2).sum())), { verify: true });
      c.replay();
      expect([...(await w.grad!.data())]).toEqual([6, 6]);
    }));

  it("is of one device", () =>
    fresh(async (device) => {
      const other = await Device.create({ poison: true });
      const there = tensor([1, 2], { device: other });
      const error = await errorOf(() => capture(() => there.mul(2), { device }));
      expect(error).toBeInstanceOf(CaptureError);
      expect(error.message).toMatch(/inside a capture must be on Device/);
      await other.sync();
      other.destroy();
    }));
});

describe("verify", () => {
  it("compares with the first run, whose numbers a host value that changes once would make others", () =>
    fresh(async () => {
      const x = tensor([1]);
      let runs = 0;
      const error = await errorOf(() => capture(() => x.mul(runs++ === 0 ? 2 : 3), { verify: true }));
      expect(error).toBeInstanceOf(CaptureError);
      expect(error.message).toMatch(/captured and an eager run in result 0/);
    }));

  it("sees what the host writes past the capture, and replays do not", () =>
    fresh(async (device) => {
      const x = tensor([0]);
      const step = (): Tensor => {
        F.addInto(x, F.full([1], 5));
        device.queue.upload(x.storage.live(), 0, new Uint8Array(Float32Array.of(2).buffer));
        return x.mul(1);
      };
      const error = await errorOf(() => capture(step, { verify: true }));
      expect(error).toBeInstanceOf(CaptureError);
      expect(error.message).toMatch(/captured run and its replay in result 0/);
    }));

  it("leaves the state as one run leaves it", () =>
    fresh(async () => {
      const total = tensor([5]);
      using c = await capture(() => F.addInto(total, F.full([1], 2)), { verify: true });
      expect(await total.item()).toBe(7);
      c.replay();
      expect(await total.item()).toBe(9);
    }));

  it("holds a module's step with a layer norm and a linear layer", () =>
    fresh(async () => {
      const layer = new nn.Linear(8, 8);
      const x = F.randn([4, 8]);
      using c = await capture(() => scope(() => layer.call(F.layerNorm(x)).sum()), { verify: true });
      const first = await c.result.item();
      c.replay();
      expect(await c.result.item()).toBe(first);
    }));
});
