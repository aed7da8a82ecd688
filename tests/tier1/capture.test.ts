/** Capture and replay: the same bits as eager, state on the GPU, nothing created, everything released. */
import { describe, expect, it } from "vitest";
import {
  CaptureError,
  DisposedError,
  F,
  Generator,
  capture,
  scope,
  tally,
  tensor,
  zeroGradients,
} from "../../index.ts";
import type { Tensor } from "../../index.ts";
import { created, errorOf, useDevice } from "../gpu.ts";

const device = useDevice();
const values = async (t: Tensor): Promise<number[]> => [...(await t.data())];

describe("replay", () => {
  it("computes again from what its inputs hold now", async () => {
    using x = tensor([1, 2, 3]);
    using c = await capture(() => x.mul(2).add(1), { verify: true });
    expect(await values(c.result)).toEqual([3, 5, 7]);
    scope(() => F.castInto(x, F.full([3], 10)));
    expect(await values(c.result)).toEqual([3, 5, 7]);
    c.replay();
    expect(await values(c.result)).toEqual([21, 21, 21]);
    c.result.dispose();
  });

  it("is counted and listened to like eager launches, in order", async () => {
    using x = tensor([1, 2, 3]);
    const fn = (): Tensor => x.exp().add(1).sum();
    const eager = tally(() => scope(() => void fn()));
    using c = await capture(fn, { verify: true, fuse: false });
    expect(tally(() => c.replay())).toEqual(eager);
    expect(c.launches).toHaveLength(eager.launches);
    c.result.dispose();
  });

  it("counts launches that it joined as the one that runs", async () => {
    using x = tensor([1, 2, 3]);
    using c = await capture(() => x.exp().add(1).sum(), { verify: true });
    expect(tally(() => c.replay()).launches).toBe(2);
    c.result.dispose();
  });

  it("creates nothing", async () => {
    using x = tensor([1, 2, 3]);
    using c = await capture(() => x.exp().add(1).sum(), { verify: true });
    expect(await created(device(), () => Array.from({ length: 20 }, () => c.replay()))).toEqual({
      buffers: 0,
      bindGroups: 0,
      pipelines: 0,
    });
    c.result.dispose();
  });

  it("holds programs of many launches and many kilobytes of parameters", async () => {
    using x = tensor([0]);
    using c = await capture(
      () => {
        for (let i = 0; i < 1200; i++) F.addInto(x, F.full([1], i % 7));
      },
      { verify: true },
    );
    const once = Array.from({ length: 1200 }, (_, i) => i % 7).reduce((a, b) => a + b, 0);
    expect(c.launches).toHaveLength(2400);
    expect(await x.item()).toBe(once);
    c.replay();
    c.replay();
    expect(await x.item()).toBe(3 * once);
  });

  it("is not disturbed by eager work between, nor disturbs it", async () => {
    using x = tensor(Array.from({ length: 64 }, (_, i) => i));
    using c = await capture(() => x.mul(2).add(1).mul(3).add(2), { verify: true });
    const expected = await values(c.result);
    for (let i = 0; i < 5; i++) {
      const eager = scope(() => Array.from({ length: 8 }, (_, k) => x.mul(0).add(k).add(i)));
      c.replay();
      const got = await Promise.all(eager.map(values));
      expect(got.map((g) => new Set(g))).toEqual(eager.map((_, k) => new Set([k + i])));
      expect(await values(c.result)).toEqual(expected);
      for (const t of eager) t.dispose();
    }
    c.result.dispose();
  });

  it("keeps the storage of inputs that were disposed meanwhile", async () => {
    const x = tensor([1, 2, 3]);
    const state = tensor([0, 0, 0]);
    using c = await capture(() => F.addInto(state, x.mul(1)), { verify: true });
    x.dispose();
    state.dispose();
    const others = scope(() => Array.from({ length: 4 }, () => F.full([3], 7)));
    c.replay();
    for (const t of others) {
      expect(await values(t)).toEqual([7, 7, 7]);
      t.dispose();
    }
  });
});

describe("state on the GPU", () => {
  it("a training step: replays are the eager steps bit for bit", async () => {
    const make = (): { w: Tensor; b: Tensor; momentum: Tensor; x: Tensor; y: Tensor } => {
      F.manualSeed(5);
      return scope(() => ({
        w: F.randn([8, 1], { requiresGrad: true }),
        b: F.zeros([1], { requiresGrad: true }),
        momentum: F.zeros([8, 1]),
        x: F.randn([8, 16]),
        y: F.randn([16]),
      }));
    };
    const step = ({ w, b, momentum, x, y }: ReturnType<typeof make>): Tensor =>
      scope(() => {
        const loss = x.mul(w).sum(0).add(b).sub(y).square().mean();
        loss.backward();
        F.castInto(momentum, momentum.mul(0.9).add(w.grad!));
        F.addInto(w, momentum.mul(-0.05));
        F.addInto(b, b.grad!.mul(-0.05));
        zeroGradients([w, b]);
        return loss;
      });
    const eager = make();
    const losses: number[] = [];
    for (let i = 0; i < 8; i++) {
      using loss = step(eager);
      losses.push(await loss.item());
    }
    const captured = make();
    const c = await capture(() => step(captured), { verify: true });
    const replayed = [await c.result.item()];
    for (let i = 1; i < 8; i++) {
      c.replay();
      replayed.push(await c.result.item());
    }
    expect(replayed).toEqual(losses);
    expect(losses.at(-1)!).toBeLessThan(losses[0]!);
    for (const key of ["w", "b", "momentum"] as const)
      expect(await values(captured[key])).toEqual(await values(eager[key]));
    c.dispose();
    for (const t of [...Object.values(eager), ...Object.values(captured), c.result]) t.dispose();
  });

  it("a decode step: token, position and cache live in tensors", async () => {
    const T = 6;
    const make = (): { position: Tensor; token: Tensor; cache: Tensor; places: Tensor; weight: Tensor } => ({
      position: tensor([0]),
      token: tensor([1, -1, 0.5, 2]),
      cache: F.zeros([T, 4]),
      places: F.arange(0, T, 1, { dtype: "f32" }),
      weight: tensor([0.9, -0.3, 0.7, 0.2]),
    });
    const step = ({ position, token, cache, places, weight }: ReturnType<typeof make>): void =>
      scope(() => {
        const here = F.eq(places, position).cast("f32").unsqueeze(1);
        F.addInto(cache, here.mul(token));
        const seen = F.le(places, position).cast("f32").unsqueeze(1);
        F.castInto(token, cache.mul(seen).sum(0).mul(weight).tanh());
        F.addInto(position, F.ones([1]));
      });
    const eager = make();
    const tokens: number[][] = [];
    for (let t = 0; t < T; t++) {
      step(eager);
      tokens.push(await values(eager.token));
    }
    const captured = make();
    using c = await capture(() => step(captured), { verify: true });
    const replayed = [await values(captured.token)];
    for (let t = 1; t < T; t++) {
      c.replay();
      replayed.push(await values(captured.token));
    }
    expect(replayed).toEqual(tokens);
    expect(new Set(tokens.map(String)).size).toBe(T);
    expect(await captured.position.item()).toBe(T);
    for (const t of [...Object.values(eager), ...Object.values(captured)]) t.dispose();
  });

  it("random numbers go on by a write to the generator's step", async () => {
    const generator = new Generator(11);
    using c = await capture(() => F.uniform([4], 0, 1, { generator }), { verify: true });
    const first = await values(c.result);
    generator.setStep(1);
    c.replay();
    const second = await values(c.result);
    expect(second).not.toEqual(first);
    generator.setStep(0);
    c.replay();
    expect(await values(c.result)).toEqual(first);
    generator.dispose();
    c.result.dispose();
  });

  it("verification leaves the state as one run left it", async () => {
    using state = tensor([1]);
    using c = await capture(() => F.addInto(state, F.ones([1])), { verify: true });
    expect(await state.item()).toBe(2);
    c.replay();
    expect(await state.item()).toBe(3);
  });

  it("a result may be a tensor from outside", async () => {
    using state = tensor([1]);
    using c = await capture(
      () => {
        F.addInto(state, F.ones([1]));
        return state;
      },
      { verify: true },
    );
    expect(c.result).toBe(state);
    expect(await state.item()).toBe(2);
  });
});

describe("dispose", () => {
  it("gives every buffer back, and may be called twice", async () => {
    using x = F.ones([4096]);
    const once = async (): Promise<void> => {
      const c = await capture(() => x.exp().add(1).sin().sum(), { verify: true });
      c.replay();
      c.dispose();
      c.dispose();
      expect(() => c.replay()).toThrow(DisposedError);
      c.result.dispose();
    };
    await once();
    const { reservedBytes, liveBytes } = device().pool.stats;
    for (let i = 0; i < 10; i++) await once();
    expect(device().pool.stats).toMatchObject({ reservedBytes, liveBytes });
  });

  it("leaves the result's tensors", async () => {
    using x = tensor([1, 2]);
    const c = await capture(() => x.mul(3));
    c.dispose();
    expect(await values(c.result)).toEqual([3, 6]);
    c.result.dispose();
  });
});

describe("what it refuses", () => {
  /** Captures, expects an error with `message`, and that nothing is left of the attempt. */
  const refused = async (fn: () => unknown, message: RegExp, freed = 0): Promise<void> => {
    const live = device().pool.stats.liveBytes - freed;
    const error = await errorOf(() => capture(fn, { verify: true }));
    expect(error).toBeInstanceOf(CaptureError);
    expect(error.message).toMatch(message);
    expect(device().queue.isCapturing).toBe(false);
    expect(device().pool.stats.liveBytes).toBe(live);
    using x = tensor([1, 2]);
    using y = x.add(1);
    expect(await values(y)).toEqual([2, 3]);
  };

  it("unknown options, and what is no function", async () => {
    const unknown = await errorOf(() => capture(() => 1, { verfy: true } as never));
    expect(unknown.message).toMatch(/capture: options must be .*got verfy\. Did you mean verify\?/);
    expect((await errorOf(() => capture(undefined as never))).message).toMatch(/must be a function; got nothing/);
  });
  it("host data", () =>
    refused(() => tensor([1, 2]).mul(2), /host data must be uploaded outside capture\(\).*Create the tensor/));
  it("random numbers without a generator", () => refused(() => F.randn([4]), /outside capture\(\)/));
  it("a step of a generator", async () => {
    const generator = new Generator(1);
    await refused(() => generator.setStep(3), /host data must be uploaded outside capture\(\)/);
    generator.dispose();
  });
  it("a read-back", async () => {
    using x = tensor([1]);
    let reading: Promise<unknown> = Promise.resolve();
    using _ = await capture(() => {
      reading = errorOf(() => x.data());
    });
    const error = (await reading) as Error;
    expect(error).toBeInstanceOf(CaptureError);
    expect(error.message).toMatch(/data must be read outside capture\(\).*Read after replay\(\)/);
  });
  it("a host number that changes", async () => {
    using x = tensor([1, 2]);
    let n = 0;
    await refused(
      () => x.mul(++n),
      /captured and an eager run in result 0 .* at byte .*in tensors, not in host numbers/,
    );
    await refused(() => F.addInto(x, F.full([2], ++n)), /in state "tensor"/);
  });
  it("state that is freed inside", async () => {
    using w = F.ones([2], { requiresGrad: true });
    scope(() => w.mul(2).sum().backward());
    await refused(
      () => {
        w.mul(3).sum().backward();
        zeroGradients([w]);
      },
      /made before the capture that it changes must stay alive/,
      16,
    );
  });
  it("a capture inside a capture", async () => {
    let inner: Promise<Error> | undefined;
    using _ = await capture(() => {
      inner = errorOf(() => capture(() => 1));
    });
    expect((await inner!).message).toMatch(/must not be called inside capture\(\)/);
  });
  it("an asynchronous function", async () => {
    const error = await errorOf(() => capture(async () => 1));
    expect(error.message).toMatch(/must be synchronous/);
    expect(device().queue.isCapturing).toBe(false);
  });
  it("an exception passes through, and the device goes on", async () => {
    const live = device().pool.stats.liveBytes;
    const error = await errorOf(() =>
      capture(() => {
        F.ones([4]).exp();
        throw new Error("on purpose");
      }),
    );
    expect(error.message).toBe("on purpose");
    expect(device().pool.stats.liveBytes).toBe(live);
    using y = scope(() => F.ones([4]).add(1));
    expect(await values(y)).toEqual([2, 2, 2, 2]);
  });
});
