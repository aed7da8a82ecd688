/** A steady loop creates nothing, and what is alive after a thousand steps is what was alive before. */
import { existsSync, readFileSync } from "node:fs";
import { describe, expect, it } from "vitest";
import { Device, F, elementBytes, scope, storageBytes, tensor, zeroGradients } from "../../index.ts";
import type { Tensor } from "../../index.ts";
import { created, useDevice } from "../gpu.ts";

// Not poisoned: that uploads to every new storage, which submits.
const device = useDevice({ poison: false });
const NOTHING = { buffers: 0, bindGroups: 0, pipelines: 0 };

/** A small regression with momentum, broadcasting, views and casts. */
class Training {
  readonly w = F.randn([8, 5], { requiresGrad: true });
  readonly b = F.zeros([5], { requiresGrad: true, dtype: "bf16" });
  readonly momentum = F.zeros([8, 5]);
  readonly x = F.randn([16, 8, 1]);
  readonly y = F.randn([16, 5]);

  get state(): Tensor[] {
    return [this.w, this.b, this.momentum, this.x, this.y];
  }

  step(): Tensor {
    return scope(() => {
      const hidden = this.x.mul(this.w).sum(1).add(this.b);
      const halves = F.cat(hidden.tanh().chunk(2, 0).reverse(), 0);
      const loss = halves.sub(this.y).square().mean();
      loss.backward();
      F.castInto(this.momentum, this.momentum.mul(0.9).add(this.w.grad!));
      F.addInto(this.w, this.momentum.mul(-0.01));
      zeroGradients([this.w, this.b]);
      return loss;
    });
  }

  dispose(): void {
    for (const t of this.state) t.dispose();
  }
}

describe("a training step", () => {
  it("creates no buffer, bind group or pipeline after warm-up, in fewer submits than launches", async () => {
    const training = new Training();
    for (let i = 0; i < 3; i++) training.step().dispose();
    await device().sync();
    const before = device().stats;
    const made = await created(device(), () => {
      for (let i = 0; i < 50; i++) training.step().dispose();
    });
    expect(made).toEqual(NOTHING);
    const launches = device().stats.launches - before.launches;
    expect(launches).toBeGreaterThan(50 * 10);
    expect(device().stats.submits - before.submits).toBeLessThan(launches / 100);
    training.dispose();
  });

  it("creates nothing either when its loss is read at every step", async () => {
    const training = new Training();
    const losses: number[] = [];
    const step = async (): Promise<void> => {
      using loss = training.step();
      losses.push(await loss.item());
    };
    for (let i = 0; i < 3; i++) await step();
    expect(
      await created(device(), async () => {
        for (let i = 0; i < 20; i++) await step();
      }),
    ).toEqual(NOTHING);
    expect(losses.at(-1)!).toBeLessThan(losses[0]!);
    training.dispose();
  });

  it("leaves exactly its parameters and optimizer state alive after 1,000 steps", async () => {
    const live = device().pool.stats.liveBytes;
    const training = new Training();
    const held = training.state.reduce((sum, t) => sum + storageBytes(t.dtype, t.size), 0);
    expect(device().pool.stats.liveBytes - live).toBe(held);
    let reserved = 0;
    for (let i = 0; i < 1000; i++) {
      training.step().dispose();
      if (i === 10) reserved = device().pool.stats.reservedBytes;
    }
    await device().sync();
    expect(device().pool.stats.liveBytes - live).toBe(held);
    expect(device().pool.stats.reservedBytes).toBe(reserved);
    for (const t of training.state)
      for (const v of await t.data()) if (!Number.isFinite(v)) expect.fail(`${t} holds ${v}`);
    training.dispose();
  });
});

it("a batch of changing size holds under twice its peak on a device without a budget", async () => {
  const own = await Device.create({ memoryBudget: Infinity });
  const step = (n: number): void =>
    scope(() => {
      const kept = [F.full([n, 65536], 1, { device: own })];
      for (let l = 0; l < 24; l++) kept.push(F.mul(kept.at(-1)!, 1));
    });
  let state = 7;
  for (let i = 0; i < 40; i++) {
    state = (state * 16807) % 2147483647;
    step(1 + (state % 8));
    if (i > 10) expect(own.pool.stats.reservedBytes, `step ${i}`).toBeLessThan(2 * own.pool.stats.peakBytes);
  }
  const before = own.stats.buffersCreated;
  for (let i = 0; i < 10; i++) step(8);
  for (let i = 0; i < 20; i++) step(8 - (i % 4));
  const warm = own.stats.buffersCreated;
  for (let i = 0; i < 20; i++) step(8 - (i % 4));
  expect(own.stats.buffersCreated).toBe(warm);
  expect(warm).toBeGreaterThanOrEqual(before);
  await own.sync();
  own.destroy();
});

describe("a decode-like step", () => {
  it("creates nothing after warm-up, with a cache that fills and a token read at every step", async () => {
    const T = 24;
    const cache = F.zeros([T, 8], { dtype: "bf16" });
    const table = F.randn([32, 8]);
    const places = F.arange(T);
    let token = 1;
    const step = async (position: number): Promise<void> => {
      using next = scope(() => {
        const row = table.select(0, token % 32);
        F.castInto(cache.slice(0, position, position + 1), row.unsqueeze(0));
        const seen = F.le(places, position).cast("f32").unsqueeze(1);
        const mixed = cache.cast("f32").mul(seen).mean(0).add(row);
        return table.mul(mixed).sum(1).argmax();
      });
      token = await next.item();
    };
    for (let t = 0; t < 4; t++) await step(t);
    const made = await created(device(), async () => {
      for (let t = 4; t < T; t++) await step(t);
    });
    expect(made.pipelines).toBe(0);
    expect(made.buffers).toBe(0);
    // Each row of the cache and of the table is a binding of its own the first time it is met; the second pass has seen them.
    for (let t = 0; t < T; t++) await step(t);
    token = 1;
    for (let t = 0; t < T; t++) await step(t);
    token = 1;
    expect(
      await created(device(), async () => {
        for (let t = 0; t < T; t++) await step(t);
      }),
    ).toEqual(NOTHING);
    for (const t of [cache, table, places]) t.dispose();
  });
});

it("storages are counted with their padding", () => {
  const live = device().pool.stats.liveBytes;
  using t = tensor([1, 2, 3, 4, 5], { dtype: "bf16" });
  expect(elementBytes("bf16", t.size)).toBe(10);
  expect(device().pool.stats.liveBytes - live).toBe(16);
});

// Each bind group is a mapping of lavapipe's, and Linux kills whoever asks for more than 65,530: long evaluations died of it.
it.runIf(existsSync("/proc/self/maps"))("launches that never come again leave no bind groups behind", async () => {
  const LAUNCHES = 40_000;
  const mappings = (): number => readFileSync("/proc/self/maps", "latin1").split("\n").length;
  const before = { mappings: mappings(), groups: device().stats.bindGroupsCreated };
  const x = F.zeros([64 * LAUNCHES]);
  let most = 0;
  for (let i = 0; i < LAUNCHES; i++) {
    scope(() => void x.slice(0, 64 * i, 64 * i + 64).neg()); // a binding of its own: 256 bytes further on
    if (i % 1000 === 999) {
      await device().sync();
      most = Math.max(most, mappings() - before.mappings);
    }
  }
  x.dispose();
  expect(device().stats.bindGroupsCreated - before.groups).toBeGreaterThanOrEqual(LAUNCHES);
  expect(most).toBeLessThan(26_000);
});
