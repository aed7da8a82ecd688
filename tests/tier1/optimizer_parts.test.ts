/** What AdamW is made of: the norm of all gradients, and the launch that prepares a step. */
import { describe, expect, it } from "vitest";
import { F, tensor } from "../../index.ts";
import type { Tensor } from "../../index.ts";
import { device, seed, small, useDevices } from "../gpu.ts";
import { tolerance } from "../harness.ts";
import { sizeOf, uniform } from "../reference/optimizer.ts";
import { randomFrom } from "../random.ts";

useDevices();

async function valueOf(t: Tensor): Promise<number> {
  const value = await t.item();
  t.dispose();
  return value;
}

describe("globalGradNorm", () => {
  const sets: readonly (readonly (readonly number[])[])[] = [
    [[1]],
    [[3]],
    [[0], [2]],
    [[33], [5, 7], [1]],
    [[257], [70, 33], [4, 4, 4]],
    [[100003]],
    [[1000, 70], [7], [513, 129]],
    [[200, 200], ...Array.from({ length: 16 }, (_, i) => [3 * i + 1])], // small ones share launches
  ];
  for (const shapes of sets) {
    it(`of ${shapes.map((s) => `[${s.join(",")}]`).join(" ")}`, async () => {
      const random = randomFrom(seed);
      const values = shapes.map((s) => uniform(sizeOf(s), random));
      const expected = Math.sqrt(values.reduce((sum, v) => sum + v.reduce((s, x) => s + x * x, 0), 0));
      const count = values.reduce((n, v) => n + v.length, 0);
      for (const where of [device, small]) {
        const live = where.pool.stats.liveBytes;
        const grads = shapes.map((shape, i) => tensor(values[i]!, { shape, device: where }));
        const first = await valueOf(F.globalGradNorm(grads));
        expect(Math.abs(first - expected) / expected).toBeLessThanOrEqual(tolerance("forward", ["f32"], count));
        expect(await valueOf(F.globalGradNorm(grads)), "the same bits again").toBe(first);
        const plan = F.gradNormPlan(
          where,
          values.map((v) => v.length),
        );
        const partial = F.zeros([Math.max(1, plan.total), 2], { device: where });
        for (const [i, g] of [...grads.entries()].toReversed()) F.gradNormPartials(plan, i, g, partial);
        expect(await valueOf(F.gradNormOf(partial)), "the same bits, gradient by gradient").toBe(first);
        for (const t of [...grads, partial]) t.dispose();
        expect(where.pool.stats.liveBytes).toBe(live);
      }
    });
  }

  it("is NaN where one element is not finite, or the sum of squares", async () => {
    for (const bad of [NaN, Infinity, -Infinity, 1e30]) {
      for (const [size, at] of [
        [1, 0],
        [70, 69],
        [5000, 4321],
      ] as const) {
        const values = new Float32Array(size).fill(0.5);
        values[at] = bad;
        using g = tensor(values, { device });
        using other = F.ones([5], { device });
        for (const place of [1, 6, 8]) {
          const grads = Array.from({ length: 9 }, (_, i) => (i === place ? g : other));
          expect(await valueOf(F.globalGradNorm(grads)), `gradient ${place}`).toBeNaN();
        }
      }
    }
  });

  it("takes no 16-bit gradients", () => {
    using g = F.ones([4], { dtype: "bf16", device });
    expect(() => F.globalGradNorm([g])).toThrow(/must be f32/);
    const plan = F.gradNormPlan(device, [4]);
    using partial = F.zeros([plan.total, 2], { device });
    using other = F.ones([5], { device });
    expect(() => F.gradNormPartials(plan, 0, g, partial)).toThrow(/must be f32/);
    expect(() => F.gradNormPartials(plan, 0, other, partial)).toThrow(/must have 4 elements, as in the plan; got/);
    expect(() => F.gradNormPartials(plan, 0, other, other)).toThrow(/partial sums must be f32 \[1, 2\]/);
    expect(() => F.gradNormOf(other)).toThrow(/partial sums must be f32 \[n, 2\]/);
  });
});

describe("adamwPrepare", () => {
  const { step, factor, skip, skipped, norm: place, scale, good } = F.ADAMW_STATE;

  it("holds to the norm given, and takes out the scale of the losses", async () => {
    for (const [norm, most, expected] of [
      [2, 1, 0.5],
      [0.5, 1, 1],
      [0, 1, 1],
      [5, Infinity, 1],
      [1000, 2.5, 0.0025],
    ] as const) {
      for (const by of [1, 2 ** 16, 3]) {
        using n = tensor([norm * by], { device });
        using state = F.adamwState(1, { scale: by, device });
        F.adamwPrepare(state, n, { maxNorm: most });
        const values = await state.data();
        expect(Math.abs((values[factor]! * by) / expected - 1)).toBeLessThan(1e-5);
        expect(Math.abs(values[place]! - norm)).toBeLessThanOrEqual(1e-6 * norm);
        expect([values[step], values[skip], values[skipped], values[scale]]).toEqual([1, 0, 0, by]);
      }
    }
    using n = tensor([1], { device });
    using state = F.adamwState(1, { device });
    expect(() => F.adamwPrepare(state, n, { maxNorm: 0 })).toThrow(/above 0/);
  });

  it("skips where the norm or something watched is not finite, and counts it", async () => {
    using fine = tensor([1], { device });
    using state = F.adamwState(1, { device });
    for (const bad of [NaN, Infinity, -Infinity]) {
      using norm = tensor([bad], { device });
      using watched = tensor([0, 1, bad, 2, 3], { device });
      F.adamwPrepare(state, norm);
      F.adamwPrepare(state, fine, { watched });
    }
    let values = await state.data();
    expect([values[step], values[skip], values[skipped]]).toEqual([0, 1, 6]);
    using watched = tensor([0, 1, 2], { device });
    F.adamwPrepare(state, fine, { watched });
    values = await state.data();
    expect([values[step], values[skip], values[skipped]]).toEqual([1, 0, 6]);
  });

  it("moves the scale of the losses as GradScaler does", async () => {
    using fine = tensor([1], { device });
    using bad = tensor([NaN], { device });
    using state = F.adamwState(1, { scale: 8, device });
    const lossScaling = { growthFactor: 4, backoffFactor: 0.25, growthInterval: 3 };
    const seen: number[][] = [];
    for (const norm of [fine, fine, fine, fine, fine, bad, fine, fine, fine, bad, bad, bad, bad]) {
      F.adamwPrepare(state, norm, { lossScaling });
      const values = await state.data();
      seen.push([values[scale]!, values[good]!]);
    }
    expect(seen).toEqual([
      [8, 1],
      [8, 2],
      [32, 0],
      [32, 1],
      [32, 2],
      [8, 0],
      [8, 1],
      [8, 2],
      [32, 0],
      [8, 0],
      [2, 0],
      [1, 0],
      [1, 0],
    ]);
    F.adamwPrepare(state, fine);
    expect((await state.data())[good], "without scaling").toBe(0);
    for (const wrong of [{ growthFactor: 0.5 }, { backoffFactor: 0 }, { backoffFactor: 2 }, { growthInterval: 1.5 }]) {
      expect(() => F.adamwPrepare(state, fine, { lossScaling: wrong })).toThrow(/growthFactor must be/);
    }
  });
});
