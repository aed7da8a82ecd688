/** Gradient norm, clipping and AdamW against float64, over steps that clip, that change the rate and that are skipped. */
import { afterAll, afterEach, beforeAll, describe, expect, it } from "vitest";
import { Device, F, backward, capture, scope, tensor, zeroGradients } from "../../index.ts";
import type { DType, Tensor } from "../../index.ts";
import { AdamW } from "../../train/optimizer.ts";
import type { AdamWOptions } from "../../train/optimizer.ts";
import { randomFrom, relativeL2, round, tolerance } from "../harness.ts";

const seed = Number(process.env["JANUS_TEST_SEED"] ?? Math.floor(Math.random() * 2 ** 31));
let device: Device;
let small: Device;

beforeAll(async () => {
  device = await Device.create({ poison: true });
  small = await Device.create({ poison: true, limits: { maxStorageBufferBindingSize: 4096, minStorageBufferOffsetAlignment: 256 } });
  console.log(`seed ${seed} (JANUS_TEST_SEED=${seed} repeats the inputs)`);
});
afterEach(async () => {
  await device.sync();
  await small.sync();
});
afterAll(() => {
  device.destroy();
  small.destroy();
});

const uniform = (n: number, random: () => number, scale = 1): Float64Array => Float64Array.from({ length: n }, () => Math.fround(scale * (2 * random() - 1)));
const sizeOf = (shape: readonly number[]): number => shape.reduce((a, b) => a * b, 1);

async function valueOf(t: Tensor): Promise<number> {
  const value = await t.item();
  t.dispose();
  return value;
}

describe("globalGradNorm", () => {
  const sets: readonly (readonly (readonly number[])[])[] = [[[1]], [[3]], [[0], [2]], [[33], [5, 7], [1]], [[257], [70, 33], [4, 4, 4]], [[100003]], [[1000, 70], [7], [513, 129]]];
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
        for (const g of grads) g.dispose();
        expect(where.pool.stats.liveBytes).toBe(live);
      }
    });
  }

  it("is NaN where one element is not finite, or the sum of squares", async () => {
    for (const bad of [NaN, Infinity, -Infinity, 1e30]) {
      for (const [size, at] of [[1, 0], [70, 69], [5000, 4321]] as const) {
        const values = new Float32Array(size).fill(0.5);
        values[at] = bad;
        using g = tensor(values, { device });
        using other = F.ones([5], { device });
        const norm = F.globalGradNorm([other, g]);
        const scale = F.clipScale(norm, 1);
        expect(await norm.item()).toBeNaN();
        expect([...(await scale.data())][1]).toBe(1);
        norm.dispose();
        scale.dispose();
      }
    }
  });

  it("takes no 16-bit gradients", () => {
    using g = F.ones([4], { dtype: "bf16", device });
    expect(() => F.globalGradNorm([g])).toThrow(/not f32/);
  });
});

it("clipScale holds to the norm given", async () => {
  for (const [norm, most, expected] of [[2, 1, 0.5], [0.5, 1, 1], [0, 1, 1], [5, Infinity, 1], [1000, 2.5, 0.0025]] as const) {
    using n = tensor([norm], { device });
    using scale = F.clipScale(n, most);
    const [factor, flag] = await scale.data();
    expect(Math.abs(factor! - expected) / expected).toBeLessThan(1e-5);
    expect(flag).toBe(0);
  }
  using n = tensor([1], { device });
  expect(() => F.clipScale(n, 0)).toThrow(/more than 0/);
});

/** A parameter in float64: decoupled weight decay, bias correction, as in the paper's algorithm 2. */
interface Reference {
  readonly p: Float64Array;
  readonly m: Float64Array;
  readonly v: Float64Array;
}

function referenceStep({ p, m, v }: Reference, g: ArrayLike<number>, t: number, lr: number, decay: number, [beta1, beta2, epsilon]: readonly [number, number, number]): void {
  for (let i = 0; i < p.length; i++) {
    m[i] = beta1 * m[i]! + (1 - beta1) * g[i]!;
    v[i] = beta2 * v[i]! + (1 - beta2) * g[i]! ** 2;
    const mean = m[i]! / (1 - beta1 ** t);
    const square = v[i]! / (1 - beta2 ** t);
    p[i] = p[i]! * (1 - lr * decay) - (lr * mean) / (Math.sqrt(square) + epsilon);
  }
}

interface Shaped {
  readonly shape: readonly number[];
  readonly dtype: DType;
  readonly decay: boolean;
}

const parameters: readonly Shaped[] = [
  { shape: [1], dtype: "f32", decay: true },
  { shape: [3], dtype: "bf16", decay: false },
  { shape: [33], dtype: "f32", decay: false },
  { shape: [5, 7], dtype: "f16", decay: true },
  { shape: [257], dtype: "bf16", decay: true },
  { shape: [70, 64], dtype: "bf16", decay: true },
  { shape: [63, 33], dtype: "f32", decay: true },
];

const setGradient = (t: Tensor, values: ArrayLike<number>): void => {
  t.grad?.dispose();
  t.grad = tensor(Float32Array.from(values), { shape: t.shape, device: t.device }).keep();
};

describe("AdamW", () => {
  for (const [name, options] of [
    ["as it comes", { lr: 0.01 }],
    ["with decay", { lr: 0.02, weightDecay: 0.1, beta2: 0.95, epsilon: 1e-6 }],
    ["with decay and clipping", { lr: 0.005, weightDecay: 0.3, beta1: 0.8, maxNorm: 2 }],
  ] as const satisfies readonly (readonly [string, AdamWOptions])[]) {
    it(`agrees with float64 over 20 steps ${name}`, async () => {
      for (const where of name === "with decay" ? [device, small] : [device]) {
        const live = where.pool.stats.liveBytes;
        const random = randomFrom(seed);
        const starts = parameters.map(({ shape }) => uniform(sizeOf(shape), random));
        const tensors = parameters.map(({ shape, dtype }, i) => tensor(starts[i]!, { shape, dtype, device: where, requiresGrad: true }));
        const masters = tensors.map((t, i) => (t.dtype === "f32" ? undefined : tensor(starts[i]!, { shape: t.shape, device: where })));
        const optimizer = new AdamW(
          tensors.map((t, i) => ({ name: `p${i}`, tensor: t, decay: parameters[i]!.decay, ...(masters[i] && { master: masters[i] }) })),
          options,
        );
        for (const t of masters) t?.dispose();
        const references = starts.map((p): Reference => ({ p: p.slice(), m: new Float64Array(p.length), v: new Float64Array(p.length) }));
        const settings = { beta1: 0.9, beta2: 0.999, epsilon: 1e-8, weightDecay: 0, maxNorm: Infinity, ...options };
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
            referenceStep(r, grads[i]!.map((x) => x * factor), taken, lr, parameters[i]!.decay ? settings.weightDecay : 0, [settings.beta1, settings.beta2, settings.epsilon]);
          }
        }
        const dict = optimizer.stateDict();
        const allowed = tolerance("forward", ["f32"], 20 * 16);
        for (const [i, t] of tensors.entries()) {
          const { p, m, v } = references[i]!;
          const master = await (dict[`p${i}.master`] ?? t).data();
          expect(relativeL2(master, p), `parameter ${i}`).toBeLessThanOrEqual(allowed);
          // Against the way it has come, of which f32 parameters of about 1 lose a little at each step.
          expect(relativeL2(master.map((x, k) => x - starts[i]![k]!), p.map((x, k) => x - starts[i]![k]!)), `movement of ${i}`).toBeLessThanOrEqual(20 * allowed);
          expect(relativeL2(await dict[`p${i}.m`]!.data(), m), `m of ${i}`).toBeLessThanOrEqual(allowed);
          expect(relativeL2(await dict[`p${i}.v`]!.data(), v), `v of ${i}`).toBeLessThanOrEqual(allowed);
          expect([...(await t.data())], `what the model computes with of ${i}`).toEqual([...master].map((x) => round(x, t.dtype)));
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
    const optimizer = new AdamW([p, q], { lr: 0.1, weightDecay: 0.5, maxNorm: 1 });
    const all = (): Promise<number[][]> => Promise.all([p, q, ...Object.values(optimizer.stateDict()).slice(1)].map(async (t) => [...(await t.data())]));
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
    optimizer.step();
    expect((await optimizer.report()).step).toBe(2);
    expect((await all())[0]).not.toEqual(before[0]);
    zeroGradients([p, q]);
    optimizer.dispose();
  });

  it("is exact about the corrections of early and late steps", async () => {
    using state = F.adamwState(0.1, device);
    for (const step of [0, 1, 9, 99, 399, 999, 19999]) {
      device.write({ storage: state.storage, offset: 0, size: 4 }, new Uint8Array(Float32Array.of(step).buffer));
      F.adamwPrepare(state, null, { beta1: 0.9, beta2: 0.999 });
      const values = await state.data();
      expect(values[0]).toBe(step + 1);
      expect(Math.abs(values[2]! / (1 - 0.9 ** (step + 1)) - 1)).toBeLessThan(1e-6);
      expect(Math.abs(values[3]! / (1 - 0.999 ** (step + 1)) - 1)).toBeLessThan(1e-6);
    }
  });

  it("replays a captured training step, rate and count from the device", async () => {
    const make = (): { w: Tensor; optimizer: AdamW } => {
      const w = tensor(uniform(33, randomFrom(seed)), { device, requiresGrad: true });
      return { w, optimizer: new AdamW([w], { lr: 0.05, weightDecay: 0.1, maxNorm: 3 }) };
    };
    using x = tensor(uniform(33, randomFrom(seed + 1)), { device });
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
  });

  it("goes on from a state dict with the same bits", async () => {
    const random = randomFrom(seed);
    const start = uniform(21, random);
    const grads = Array.from({ length: 6 }, () => uniform(21, random));
    // Settings are the caller's to repeat: only what is learned is in the dict.
    const make = (values: ArrayLike<number>): { p: Tensor; optimizer: AdamW } => {
      const p = tensor(Float32Array.from(values), { dtype: "bf16", device, requiresGrad: true });
      return { p, optimizer: new AdamW([{ name: "w", tensor: p }], { lr: 0.02, weightDecay: 0.1 }) };
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
    expect(second.optimizer.lr).toBe(Math.fround(0.02));
    expect([...(await second.p.data())], "written from the master").toEqual([...(await first.p.data())]);
    steps(second, 3, 6);
    const [a, b] = [through, second].map(({ p, optimizer }) => ({ p, ...optimizer.stateDict() }) as Record<string, Tensor>) as [Record<string, Tensor>, Record<string, Tensor>];
    for (const name of Object.keys(a)) expect([...(await b[name]!.data())], `${name} goes on`).toEqual([...(await a[name]!.data())]);
    for (const { p, optimizer } of [through, first, second]) {
      optimizer.dispose();
      zeroGradients([p]);
      p.dispose();
    }
  });

  it("says what is wrong", async () => {
    using p = F.zeros([4], { device, requiresGrad: true });
    using half = F.zeros([4], { dtype: "f16", device });
    using other = F.zeros([5], { device });
    using rows = F.zeros([3, 3], { device });
    expect(() => new AdamW([p], { lr: NaN })).toThrow(/learning rate NaN/);
    expect(() => new AdamW([{ name: "a", tensor: p }, { name: "a", tensor: half }], { lr: 1 })).toThrow(/two parameters/);
    expect(() => new AdamW([{ tensor: half, master: other }], { lr: 1 })).toThrow(/master/);
    const optimizer = new AdamW([p], { lr: 1 });
    expect(() => optimizer.step()).toThrow(/no parameter has a gradient/);
    await expect(optimizer.loadStateDict({})).rejects.toThrow(/"state" is missing/);
    await expect(optimizer.loadStateDict({ ...optimizer.stateDict(), z: p })).rejects.toThrow(/"z" is not/);
    optimizer.dispose();
    using state = F.adamwState(1, device);
    expect(() => F.adamwStep({ master: p, m: p, v: other, grad: p }, state)).toThrow(/one shape/);
    expect(() => F.adamwStep({ master: half, m: p, v: p, grad: p }, state)).toThrow(/not f32/);
    expect(() => F.adamwStep({ master: p, m: p, v: p, grad: p, copy: other }, state)).toThrow(/f16 or bf16/);
    using part = rows.strided([3], [1], 0);
    expect(() => F.adamwStep({ master: part, m: part, v: part, grad: part }, state)).toThrow(/storage of its own/);
    expect(() => F.adamwPrepare(state, null, { beta1: 1 })).toThrow(/β 1/);
  });
});
