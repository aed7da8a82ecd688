/** Gradient norm, clipping and AdamW against float64, over steps that clip, that change the rate and that are skipped. */
import { describe, expect, it } from "vitest";
import { CaptureError, F, backward, capture, scope, tensor, zeroGradients } from "../../index.ts";
import type { Tensor } from "../../index.ts";
import { AdamW } from "../../model/nn/optim/index.ts";
import type { AdamWOptions } from "../../model/nn/optim/index.ts";
import { device, seed, small, useDevices } from "../gpu.ts";
import { relativeL2, round, tolerance } from "../harness.ts";
import { referenceStep, setGradient, sizeOf, uniform } from "../reference/optimizer.ts";
import type { Reference, Shaped } from "../reference/optimizer.ts";
import { randomFrom } from "../random.ts";

useDevices();

const parameters: readonly Shaped[] = [
  { shape: [1], dtype: "f32", decay: true },
  { shape: [3], dtype: "bf16", decay: false },
  { shape: [33], dtype: "f32", decay: false },
  { shape: [5, 7], dtype: "f16", decay: true },
  { shape: [257], dtype: "bf16", decay: true },
  { shape: [70, 64], dtype: "bf16", decay: true },
  { shape: [63, 33], dtype: "f32", decay: true },
  // These share launches, three of one rule and two of the other.
  { shape: [4], dtype: "f32", decay: true },
  { shape: [130, 9], dtype: "f32", decay: true },
  { shape: [24, 3, 3, 3], dtype: "f32", decay: true },
  { shape: [32], dtype: "f32", decay: false },
  { shape: [4, 300], dtype: "f32", decay: false },
];

describe("AdamW", () => {
  for (const [name, options] of [
    ["as it comes", { lr: 0.01 }],
    ["with decay", { lr: 0.02, weightDecay: 0.1, beta2: 0.95, epsilon: 1e-6 }],
    ["with decay and clipping", { lr: 0.005, weightDecay: 0.3, beta1: 0.8, maxNorm: 2 }],
    ["with averages", { lr: 0.01, emaDecay: 0.9 }],
  ] as const satisfies readonly (readonly [string, AdamWOptions])[]) {
    it(`agrees with float64 over 20 steps ${name}`, async () => {
      for (const where of ["with decay", "with averages"].includes(name) ? [device, small] : [device]) {
        const live = where.pool.stats.liveBytes;
        const random = randomFrom(seed);
        const starts = parameters.map(({ shape }) => uniform(sizeOf(shape), random));
        const tensors = parameters.map(({ shape, dtype }, i) =>
          tensor(starts[i]!, { shape, dtype, device: where, requiresGrad: true }),
        );
        const masters = tensors.map((t, i) =>
          t.dtype === "f32" ? undefined : tensor(starts[i]!, { shape: t.shape, device: where }),
        );
        const optimizer = new AdamW(
          tensors.map((t, i) => ({
            name: `p${i}`,
            tensor: t,
            decay: parameters[i]!.decay,
            ...(masters[i] && { master: masters[i] }),
          })),
          options,
        );
        for (const t of masters) t?.dispose();
        const references = starts.map((p): Reference => ({
          p: p.slice(),
          m: new Float64Array(p.length),
          v: new Float64Array(p.length),
        }));
        const averages = starts.map((p) => p.slice());
        const settings = {
          beta1: 0.9,
          beta2: 0.999,
          epsilon: 1e-8,
          weightDecay: 0,
          maxNorm: Infinity,
          emaDecay: 0,
          ...options,
        };
        let lr = options.lr;
        let taken = 0;
        for (let step = 1; step <= 20; step++) {
          if (step === 10) optimizer.lr = lr = lr / 3;
          const grads = starts.map((p) => uniform(p.length, random, step % 4 ? 0.1 : 0.001));
          if (step === 7) grads[4]![100] = [NaN, Infinity, -Infinity][seed % 3]!;
          tensors.forEach((t, i) => setGradient(t, grads[i]!));
          optimizer.step();
          if (step === 7) continue;
          taken++;
          const norm = Math.sqrt(grads.reduce((sum, g) => sum + g.reduce((s, x) => s + x * x, 0), 0));
          const factor = Math.min(1, settings.maxNorm / (norm + 1e-6));
          for (const [i, r] of references.entries()) {
            referenceStep(
              r,
              grads[i]!.map((x) => x * factor),
              taken,
              lr,
              parameters[i]!.decay ? settings.weightDecay : 0,
              [settings.beta1, settings.beta2, settings.epsilon],
            );
            averages[i] = averages[i]!.map((x, k) => settings.emaDecay * x + (1 - settings.emaDecay) * r.p[k]!);
          }
        }
        const dict = optimizer.stateDict();
        const allowed = tolerance("forward", ["f32"], 20 * 16);
        for (const [i, t] of tensors.entries()) {
          const { p, m, v } = references[i]!;
          const master = await (dict[`p${i}.master`] ?? t).data();
          expect(relativeL2(master, p), `parameter ${i}`).toBeLessThanOrEqual(allowed);
          // Against the way it has come, of which f32 parameters of about 1 lose a little at each step.
          expect(
            relativeL2(
              master.map((x, k) => x - starts[i]![k]!),
              p.map((x, k) => x - starts[i]![k]!),
            ),
            `movement of ${i}`,
          ).toBeLessThanOrEqual(20 * allowed);
          expect(relativeL2(await dict[`p${i}.m`]!.data(), m), `m of ${i}`).toBeLessThanOrEqual(allowed);
          expect(relativeL2(await dict[`p${i}.v`]!.data(), v), `v of ${i}`).toBeLessThanOrEqual(allowed);
          expect([...(await t.data())], `what the model computes with of ${i}`).toEqual(
            [...master].map((x) => round(x, t.dtype)),
          );
        }
        const kept = optimizer.averages();
        expect(Object.keys(kept)).toEqual(settings.emaDecay ? parameters.map((_, i) => `p${i}`) : []);
        for (const [key, average] of Object.entries(kept)) {
          const i = Number(key.slice(1));
          const moved = (values: ArrayLike<number>): number[] => Array.from(values, (x, k) => x - starts[i]![k]!);
          expect(relativeL2(moved(await average.data()), moved(averages[i]!)), `average of ${key}`).toBeLessThanOrEqual(
            20 * allowed,
          );
        }
        const report = await optimizer.report();
        expect(report).toMatchObject({ step: 19, skipped: 1, lr: Math.fround(lr) });
        zeroGradients(tensors);
        optimizer.dispose();
        for (const t of tensors) t.dispose();
        expect(where.pool.stats.liveBytes).toBe(live);
      }
    });
  }

  it("changes nothing but the count of skipped steps when a gradient is not finite", async () => {
    using p = tensor(uniform(70, randomFrom(seed)), { device, requiresGrad: true });
    using q = tensor(uniform(9, randomFrom(seed + 1)), { dtype: "bf16", device, requiresGrad: true });
    const optimizer = new AdamW([p, q], { lr: 0.1, weightDecay: 0.5, maxNorm: 1, emaDecay: 0.5 });
    const all = (): Promise<number[][]> =>
      Promise.all(
        [p, q, ...Object.values(optimizer.stateDict()).slice(1), ...Object.values(optimizer.averages())].map(
          async (t) => [...(await t.data())],
        ),
      );
    setGradient(p, new Float32Array(70).fill(0.5));
    setGradient(q, new Float32Array(9).fill(-0.5));
    optimizer.step();
    const before = await all();
    expect((await optimizer.report()).step).toBe(1);
    setGradient(q, [0, 0, 0, 0, 0, 0, 0, 0, NaN]);
    optimizer.step();
    optimizer.step();
    expect(await all()).toEqual(before);
    const report = await optimizer.report();
    expect(report).toMatchObject({ step: 1, skipped: 2 });
    expect(report.gradNorm).toBeNaN();
    setGradient(q, new Float32Array(9));
    using losses = tensor([1, Infinity], { device });
    optimizer.step(losses);
    expect(await all(), "a loss").toEqual(before);
    expect((await optimizer.report()).gradNorm).toBeNaN();
    optimizer.step();
    expect((await optimizer.report()).step).toBe(2);
    expect((await all())[0]).not.toEqual(before[0]);
    zeroGradients([p, q]);
    optimizer.dispose();
  });

  it("takes the scale of the losses out of gradients and their norm, and lowers it when they overflow", async () => {
    const start = uniform(33, randomFrom(seed));
    const make = (options: Partial<AdamWOptions>): { w: Tensor; optimizer: AdamW } => {
      const w = tensor(start, { device, requiresGrad: true });
      return { w, optimizer: new AdamW([w], { lr: 0.05, weightDecay: 0.1, maxNorm: 3, ...options }) };
    };
    const [plain, scaled] = [make({}), make({ lossScaling: { initScale: 2 ** 15, growthInterval: 2 } })];
    using x = tensor(uniform(33, randomFrom(seed + 1)), { device });
    const train = ({ w, optimizer }: ReturnType<typeof make>, by = 1): void => {
      scope(() => backward(optimizer.scale(F.sum(F.square(F.sub(w, x))).mul(by))));
      optimizer.step();
      zeroGradients([w]);
    };
    const scales: number[] = [];
    for (let k = 0; k < 6; k++) {
      train(plain);
      if (k === 3) train(scaled, 1e38);
      train(scaled);
      const [a, b] = [await plain.optimizer.report(), await scaled.optimizer.report()];
      expect(Math.abs(b.gradNorm / a.gradNorm - 1)).toBeLessThan(1e-5);
      scales.push(b.scale);
      expect([a.scale, a.skipped, b.skipped]).toEqual([1, 0, k < 3 ? 0 : 1]);
    }
    expect(scales).toEqual([2 ** 15, 2 ** 16, 2 ** 16, 2 ** 15, 2 ** 16, 2 ** 16]);
    expect(relativeL2(await scaled.w.data(), await plain.w.data())).toBeLessThan(1e-5);
    for (const { w, optimizer } of [plain, scaled]) {
      optimizer.dispose();
      w.dispose();
    }
  });

  it("keeps gradients that f16 would lose, and sees those that leave its range", async () => {
    const start = uniform(33, randomFrom(seed));
    // Between the casts gradients are f16: 1e-9 is nothing there, 1e-9 · 2^30 is about 1, 1e-9 · 2^50 beyond.
    const train = async (lossScaling: AdamWOptions["lossScaling"]): Promise<{ skipped: number; gradNorm: number }> => {
      using w = tensor(start, { device, requiresGrad: true });
      using optimizer = new AdamW([w], { lr: 0.05, lossScaling });
      scope(() => backward(optimizer.scale(F.sum(F.cast(F.square(F.cast(w, "f16")), "f32")).mul(1e-9))));
      optimizer.step();
      zeroGradients([w]);
      return optimizer.report();
    };
    const expected = 2e-9 * Math.sqrt(start.reduce((sum, x) => sum + x * x, 0));
    expect(await train(null)).toMatchObject({ skipped: 0, gradNorm: 0 });
    expect(Math.abs((await train({ initScale: 2 ** 30 })).gradNorm / expected - 1)).toBeLessThan(1e-3);
    expect(await train({ initScale: 2 ** 50 })).toMatchObject({ skipped: 1, scale: 2 ** 49, gradNorm: NaN });
  });

  it("is exact about the corrections of early and late steps", async () => {
    using state = F.adamwState(0.1, { device });
    for (const step of [0, 1, 9, 99, 399, 999, 19999]) {
      device.write({ storage: state.storage, offset: 0, size: 4 }, new Uint8Array(Float32Array.of(step).buffer));
      F.adamwPrepare(state, null, { beta1: 0.9, beta2: 0.999 });
      const values = await state.data();
      expect(values[0]).toBe(step + 1);
      expect(Math.abs(values[2]! / (1 - 0.9 ** (step + 1)) - 1)).toBeLessThan(1e-6);
      expect(Math.abs(values[3]! / (1 - 0.999 ** (step + 1)) - 1)).toBeLessThan(1e-6);
    }
  });

  it("counts steps for each parameter: a late one moves by lr at its first gradient, as in PyTorch", async () => {
    using early = F.ones([2], { device, requiresGrad: true });
    using late = F.ones([2], { device, requiresGrad: true });
    using optimizer = new AdamW([early, late], { lr: 0.1 });
    setGradient(early, [1, 1]);
    for (let k = 0; k < 9; k++) optimizer.step();
    setGradient(late, [1, 1]);
    optimizer.step();
    const [value] = await late.data();
    expect(Math.abs(1 - value! - 0.1)).toBeLessThan(1e-6); // with a count of 10 it would move by 0.0447
    expect([...(await optimizer.steps.select(1, 0).data())]).toEqual([10, 1]);
    zeroGradients([early, late]);
  });

  it("agrees with float64 where gradients come late, now and then, or not at all; averages move with every step", async () => {
    const shapes: readonly (readonly number[])[] = [[33], [5, 7], [70], [3], [9, 4], [5]];
    /** Whether a parameter has a gradient in a step (from 1); the fourth matrix is moved by Muon. */
    const has: readonly ((step: number) => boolean)[] = [
      () => true,
      (s) => s > 5,
      (s) => s % 2 === 1,
      (s) => s === 2,
      (s) => s > 4,
      () => false,
    ];
    for (const where of [device, small]) {
      const random = randomFrom(seed);
      const starts = shapes.map((shape) => uniform(sizeOf(shape), random));
      const tensors = shapes.map((shape, i) =>
        tensor(starts[i]!, { shape, device: where, requiresGrad: true, dtype: i === 2 ? "bf16" : "f32" }),
      );
      const masters = tensors.map((t, i) =>
        t.dtype === "f32" ? undefined : tensor(starts[i]!, { shape: t.shape, device: where }),
      );
      const optimizer = new AdamW(
        tensors.map((t, i) => ({ tensor: t, muon: i === 4, ...(masters[i] && { master: masters[i] }) })),
        { lr: 0.01, weightDecay: 0.1, emaDecay: 0.9, maxNorm: 2, momentum: 0 },
      );
      for (const t of masters) t?.dispose();
      const references = starts.map((p): Reference => ({
        p: p.slice(),
        m: new Float64Array(p.length),
        v: new Float64Array(p.length),
      }));
      const averages = starts.map((p) => p.slice());
      const taken = shapes.map(() => 0);
      for (let step = 1; step <= 12; step++) {
        const grads = starts.map((p) => uniform(p.length, random, 0.1));
        const isBad = step === 3 || step === 6; // at step 6 the second parameter has its first gradient
        if (isBad) grads[0]![1] = NaN;
        zeroGradients(tensors);
        const ready = [...shapes.keys()].filter((i) => has[i]!(step));
        for (const i of ready) setGradient(tensors[i]!, grads[i]!);
        optimizer.step();
        if (isBad) continue;
        const norm = Math.sqrt(ready.reduce((sum, i) => sum + grads[i]!.reduce((all, x) => all + x * x, 0), 0));
        const factor = Math.min(1, 2 / (norm + 1e-6));
        for (const i of ready)
          if (i !== 4)
            referenceStep(
              references[i]!,
              grads[i]!.map((x) => x * factor),
              ++taken[i]!,
              0.01,
              0.1,
              [0.9, 0.999, 1e-8],
            );
        if (ready.includes(4)) {
          taken[4]!++;
          references[4]!.p.set(await tensors[4]!.data()); // its step is tested in muon.test.ts
        }
        for (const [i, { p }] of references.entries()) averages[i] = averages[i]!.map((x, k) => 0.9 * x + 0.1 * p[k]!);
      }
      const dict = optimizer.stateDict();
      expect([...(await optimizer.steps.select(1, 0).data())]).toEqual(taken);
      const allowed = 20 * tolerance("forward", ["f32"], 12 * 16);
      for (const [i, t] of tensors.entries()) {
        const average = await optimizer.averages()[i]!.data();
        if (taken[i] === 0) {
          expect(Float64Array.from(average), "never moved").toEqual(starts[i]);
          continue;
        }
        const moved = (values: ArrayLike<number>): number[] => Array.from(values, (x, k) => x - starts[i]![k]!);
        expect(
          relativeL2(moved(await (dict[`${i}.master`] ?? t).data()), moved(references[i]!.p)),
          `movement of ${i}`,
        ).toBeLessThanOrEqual(allowed);
        expect(relativeL2(moved(average), moved(averages[i]!)), `average of ${i}`).toBeLessThanOrEqual(allowed);
      }
      zeroGradients(tensors);
      optimizer.dispose();
      for (const t of tensors) t.dispose();
    }
  });

  it("replays counts that differ", async () => {
    const make = (): { all: Tensor[]; optimizer: AdamW } => {
      const all = [3, 4, 5].map((n, i) => tensor(uniform(n, randomFrom(seed + i)), { device, requiresGrad: true }));
      return { all, optimizer: new AdamW(all, { lr: 0.05, emaDecay: 0.5 }) };
    };
    const step = ({ all, optimizer }: ReturnType<typeof make>, which: readonly number[]): void => {
      scope(() => which.map((i) => F.sum(F.square(all[i]!))).forEach((loss) => backward(loss)));
      optimizer.step();
      zeroGradients(all);
    };
    const [eager, captured] = [make(), make()];
    for (const one of [eager, captured]) for (const which of [[0], [0, 2]]) step(one, which);
    const loop = await capture(() => step(captured, [1, 2]), { device, verify: true });
    for (let k = 0; k < 3; k++) loop.replay();
    for (let k = 0; k < 4; k++) step(eager, [1, 2]);
    expect([...(await captured.optimizer.steps.select(1, 0).data())]).toEqual([2, 4, 5]);
    for (const [i, t] of captured.all.entries()) expect(await t.data()).toEqual(await eager.all[i]!.data());
    for (const [name, t] of Object.entries(captured.optimizer.averages()))
      expect(await t.data()).toEqual(await eager.optimizer.averages()[name]!.data());
    loop.dispose();
    for (const { all, optimizer } of [eager, captured]) for (const t of [...all, optimizer]) t.dispose();
  });

  it("a learning rate that is refused, in a capture, is not taken", async () => {
    using p = tensor([1, 2, 3], { device, requiresGrad: true });
    using optimizer = new AdamW([p], { lr: 0.25 });
    await expect(capture(() => void (optimizer.lr = 0.5), { device })).rejects.toThrow(CaptureError);
    expect([optimizer.lr, (await optimizer.report()).lr]).toEqual([0.25, 0.25]);
  });

  it("takes the state of earlier versions, which had one count for all", async () => {
    using p = tensor([1, 2, 3], { device, requiresGrad: true });
    using q = tensor([1], { device, requiresGrad: true });
    using optimizer = new AdamW([p, q], { lr: 0.1 });
    const { steps: _, ...old } = optimizer.stateDict();
    using state = F.adamwState(0.25, { device });
    device.write({ storage: state.storage, offset: 0, size: 4 }, new Uint8Array(Float32Array.of(41).buffer));
    await optimizer.loadStateDict({ ...old, state });
    expect([...(await optimizer.steps.select(1, 0).data())]).toEqual([41, 41]);
    setGradient(q, [1]);
    optimizer.step();
    const rows = await optimizer.steps.data();
    expect([rows[0], rows[3]]).toEqual([41, 42]);
    expect(Math.abs(rows[4]! / (1 - 0.9 ** 42) - 1)).toBeLessThan(1e-6);
    await expect(optimizer.loadStateDict({ ...optimizer.stateDict(), steps: p })).rejects.toThrow(/"steps" must be/);
    zeroGradients([q]);
  });

  it("gives step counts to the parameters of their names, in whatever order they are", async () => {
    const make = (order: readonly string[]): { tensors: Record<string, Tensor>; optimizer: AdamW } => {
      const tensors: Record<string, Tensor> = {
        a: tensor([1], { device, requiresGrad: true }),
        b: tensor([1], { device, requiresGrad: true }),
      };
      return { tensors, optimizer: new AdamW(order.map((name) => ({ name, tensor: tensors[name]! })), { lr: 0.1 }) }; // prettier-ignore
    };
    const [saved, other] = [make(["a", "b"]), make(["b", "a"])];
    for (let k = 0; k < 4; k++) {
      setGradient(saved.tensors["a"]!, [1]);
      saved.optimizer.step();
    }
    zeroGradients(Object.values(saved.tensors));
    await other.optimizer.loadStateDict(saved.optimizer.stateDict());
    expect([...(await other.optimizer.steps.select(1, 0).data())]).toEqual([0, 4]);
    for (const { tensors, optimizer } of [saved, other])
      for (const t of [...Object.values(tensors), optimizer]) t.dispose();
  });

  it.each([[[33]], [[3, 11]]])(
    "replays a captured training step of %o (a matrix by Muon), rate and count from the device",
    async (shape) => {
      const muon = shape.length === 2;
      const make = (): { w: Tensor; optimizer: AdamW } => {
        const w = tensor(uniform(33, randomFrom(seed)), { shape, device, requiresGrad: true });
        return { w, optimizer: new AdamW([{ tensor: w, muon }], { lr: 0.05, weightDecay: 0.1, maxNorm: 3 }) };
      };
      using x = tensor(uniform(33, randomFrom(seed + 1)), { shape, device });
      const train = ({ w, optimizer }: ReturnType<typeof make>): void => {
        scope(() => backward(F.sum(F.square(F.sub(w, x)))));
        optimizer.step();
        zeroGradients([w]);
      };
      const [eager, captured] = [make(), make()];
      const loop = await capture(() => train(captured), { device, verify: true });
      train(eager);
      for (let step = 2; step <= 6; step++) {
        if (step === 4) eager.optimizer.lr = captured.optimizer.lr = 0.01;
        train(eager);
        loop.replay();
      }
      expect([...(await captured.w.data())]).toEqual([...(await eager.w.data())]);
      expect((await captured.optimizer.report()).step).toBe(6);
      loop.dispose();
      for (const { w, optimizer } of [eager, captured]) {
        optimizer.dispose();
        w.dispose();
      }
    },
  );

  it.each([[[21]], [[3, 7]]])(
    "of %o (a matrix by Muon) goes on from a state dict with the same bits",
    async (shape) => {
      const random = randomFrom(seed);
      const start = uniform(21, random);
      const grads = Array.from({ length: 6 }, () => uniform(21, random));
      // Settings are the caller's to repeat: only what is learned is in the dict.
      const make = (values: ArrayLike<number>): { p: Tensor; optimizer: AdamW } => {
        const p = tensor(Float32Array.from(values), { shape, dtype: "bf16", device, requiresGrad: true });
        return {
          p,
          optimizer: new AdamW([{ name: "w", tensor: p, muon: shape.length === 2 }], { lr: 0.02, weightDecay: 0.1 }),
        };
      };
      const steps = ({ p, optimizer }: ReturnType<typeof make>, from: number, to: number): void => {
        for (const g of grads.slice(from, to)) {
          setGradient(p, g);
          optimizer.step();
        }
      };
      const [through, first, second] = [make(start), make(start), make(new Float32Array(21))];
      steps(through, 0, 6);
      steps(first, 0, 3);
      second.optimizer.lr = 1;
      await second.optimizer.loadStateDict(first.optimizer.stateDict());
      await second.optimizer.loadStateDict(second.optimizer.stateDict());
      expect(second.optimizer.lr).toBe(Math.fround(0.02));
      expect([...(await second.p.data())], "written from the master").toEqual([...(await first.p.data())]);
      steps(second, 3, 6);
      const [a, b] = [through, second].map(
        ({ p, optimizer }) => ({ p, ...optimizer.stateDict() }) as Record<string, Tensor>,
      ) as [Record<string, Tensor>, Record<string, Tensor>];
      for (const name of Object.keys(a))
        expect([...(await b[name]!.data())], `${name} goes on`).toEqual([...(await a[name]!.data())]);
      for (const { p, optimizer } of [through, first, second]) {
        optimizer.dispose();
        zeroGradients([p]);
        p.dispose();
      }
    },
  );

  it("says what is wrong", async () => {
    using p = F.zeros([4], { device, requiresGrad: true });
    using half = F.zeros([4], { dtype: "f16", device });
    using other = F.zeros([5], { device });
    using rows = F.zeros([3, 3], { device });
    expect(() => new AdamW([p], { lr: NaN })).toThrow(/lr must be a finite number of at least 0; got NaN/);
    expect(
      () =>
        new AdamW(
          [
            { name: "a", tensor: p },
            { name: "a", tensor: half },
          ],
          { lr: 1 },
        ),
    ).toThrow(/two parameters named "a"/);
    expect(() => new AdamW([p], { lr: 1, momentum: 1 })).toThrow(/momentum must be at least 0 and below 1; got 1/);
    expect(() => new AdamW([p], { lr: 1, weightDecay: -1 })).toThrow(/weightDecay must be .* got -1/);
    expect(() => new AdamW([p], { lr: 1, emaDecay: 1 })).toThrow(/emaDecay must be above 0 and below 1; got 1/);
    expect(() => new AdamW([p], { lr: 1, lossScaling: { initScale: 0.5 } })).toThrow(
      /initScale must be from 1 .* got 0.5/,
    );
    expect(() => new AdamW([{ tensor: half, master: other }], { lr: 1 })).toThrow(/master/);
    const optimizer = new AdamW([p], { lr: 1 });
    expect(() => optimizer.step()).toThrow(/must have a gradient; got none/);
    await expect(optimizer.loadStateDict({})).rejects.toThrow(/"state" must be .* got none/);
    await expect(optimizer.loadStateDict({ ...optimizer.stateDict(), z: p })).rejects.toThrow(/got "z"/);
    optimizer.dispose();
    using state = F.adamwState(1, { device });
    expect(() => F.adamwStep({ master: p, m: p, v: other, grad: p }, state)).toThrow(/same shape/);
    expect(() => F.adamwStep({ master: p, m: p, v: p, grad: p }, state, { epsilon: 1e-50 })).toThrow(/0 in f32/);
    expect(() => F.adamwStep({ master: half, m: p, v: p, grad: p }, state)).toThrow(/must be f32/);
    expect(() => F.adamwStep({ master: p, m: p, v: p, grad: p, copy: other }, state)).toThrow(/f16 or bf16/);
    expect(() => F.adamwStep({ master: p, m: p, v: p, grad: p, ema: other }, state)).toThrow(/same shape/);
    expect(() => F.adamwStep({ master: p, m: p, v: p, grad: p, ema: p }, state, { emaDecay: 2 })).toThrow(
      /emaDecay must be .*got 2/,
    );
    using part = rows.strided([3], [1], 0);
    expect(() => F.adamwStep({ master: part, m: part, v: part, grad: part }, state)).toThrow(/own storage/);
    expect(() => F.adamwPrepare(state, null, { beta1: 1 })).toThrow(/β must be .*got 1/);
    using steps = F.zeros([2, 3], { device });
    expect(() => F.adamwCount(steps, state, 1, 2)).toThrow(/got 1 to 2/);
    expect(() => F.adamwCount(rows.slice(1, 0, 2), state, 0, 1)).toThrow(/f32 \[parameters, 3\]/);
    expect(() => F.adamwCount(steps, p, 0, 1)).toThrow(/adamwState/);
    expect(() => F.adamwStep({ master: p, m: p, v: p, grad: p, steps: { table: steps, row: 2 } }, state)).toThrow(
      /got 2 to 2/,
    );
    expect(() => F.emaStep(p, other, state, 0.5)).toThrow(/same shape/);
    expect(() => F.emaStep(p, p, state, 2)).toThrow(/emaDecay must be .*got 2/);
  });
});

describe("step with a function", () => {
  it.each([null, { initScale: 1024 }])(
    "has the bits of zeroGrad, backward and step, with loss scaling %o",
    async (lossScaling) => {
      const start = uniform(33, randomFrom(seed));
      const train = async (take: (optimizer: AdamW, loss: () => Tensor) => void): Promise<Uint8Array> => {
        using w = tensor(start, { device, requiresGrad: true });
        using optimizer = new AdamW([w], { lr: 0.1, lossScaling });
        for (let step = 0; step < 3; step++) take(optimizer, () => w.square().mean());
        const bytes = new Uint8Array((await w.data()).buffer);
        optimizer.zeroGrad();
        return bytes;
      };
      const whole = await train((optimizer, loss) => optimizer.step(loss).dispose());
      const parts = await train((optimizer, loss) =>
        scope(() => {
          optimizer.zeroGrad();
          optimizer.scale(loss()).backward();
          optimizer.step();
        }),
      );
      expect(whole).toEqual(parts);
      expect(whole).not.toEqual(new Uint8Array(Float32Array.from(start).buffer));
    },
  );
});
