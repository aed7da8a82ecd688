/** The random numbers: Philox against its published vectors, the kernels against the host's Philox, and what seeds, steps and sites do. */
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import {
  ArgumentError,
  AutogradError,
  CaptureError,
  Device,
  F,
  Generator,
  backward,
  bf16Bits,
  bf16Value,
  capture,
  f16Bits,
  f16Value,
  manualSeed,
  philox,
  scope,
  sizeOf,
  tensor,
  unitFloat,
} from "../../index.ts";
import type { DType } from "../../index.ts";

let device: Device;
beforeAll(async () => {
  device = await Device.create({ poison: true });
});
afterAll(() => device.destroy());

describe("philox on the host", () => {
  // From the known answers that come with Random123, the authors' own implementation.
  it.each([
    [
      [0, 0, 0, 0],
      [0, 0],
      [0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8],
    ],
    [
      [0xffffffff, 0xffffffff, 0xffffffff, 0xffffffff],
      [0xffffffff, 0xffffffff],
      [0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd],
    ],
    [
      [0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344],
      [0xa4093822, 0x299f31d0],
      [0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1],
    ],
  ] as const)("counter %j, key %j", (counter, key, expected) => {
    expect(philox(counter, key)).toEqual(expected);
  });
});

/** What `uniform` draws in [0, 1), by the host's Philox. */
function expectedUniform(
  count: number,
  seed: readonly [number, number],
  step: number,
  sample: number,
  site: number,
): Float32Array {
  return Float32Array.from({ length: count }, (_, i) =>
    unitFloat(philox([Math.floor(i / 4), sample, step, site], seed)[i % 4]!),
  );
}

describe("the kernels draw the host's numbers", () => {
  it.each([
    [0, 0, 0, 0, [1000]],
    [1, 5, 2, 3, [7, 11]],
    [2 ** 32 + 17, 4294967295, 4294967295, 4294967295, [257]],
    [2 ** 53 - 1, 123456, 0, 1, [3]],
  ] as const)("seed %d, step %d, sample %d, site %d", async (seed, step, sample, site, shape) => {
    using generator = disposable(new Generator(seed, { device }));
    generator.value.setStep(step, sample);
    using y = F.uniform(shape, 0, 1, { generator: generator.value, site, device });
    expect(await y.data()).toEqual(
      expectedUniform(sizeOf(shape), [seed % 2 ** 32, Math.floor(seed / 2 ** 32)], step, sample, site),
    );
  });

  it("in the windows of a tensor larger than a binding", async () => {
    const small = await Device.create({
      poison: true,
      limits: { maxStorageBufferBindingSize: 4096, minStorageBufferOffsetAlignment: 256 },
    });
    using generator = disposable(new Generator(9, { device: small }));
    const y = F.uniform([3001], 0, 1, { generator: generator.value, site: 2, device: small });
    expect(await y.data()).toEqual(expectedUniform(3001, [9, 0], 0, 0, 2));
    y.dispose();
    small.destroy();
  });
});

describe("what the numbers depend on", () => {
  const draw = async (seed: number, step: number, site: number, sample = 0): Promise<number[]> => {
    using generator = disposable(new Generator(seed, { device }));
    generator.value.setStep(step, sample);
    using y = F.randn([64], { generator: generator.value, site, device });
    return [...(await y.data())];
  };

  it("the same seed, step, sample and site give the same bits", async () => {
    expect(await draw(42, 3, 1)).toEqual(await draw(42, 3, 1));
  });

  it.each([
    ["seed", [43, 3, 1, 0]],
    ["upper half of the seed", [42 + 2 ** 32, 3, 1, 0]],
    ["step", [42, 4, 1, 0]],
    ["site", [42, 3, 2, 0]],
    ["sample", [42, 3, 1, 1]],
  ] as const)("another %s gives other numbers", async (_, [seed, step, site, sample]) => {
    const base = await draw(42, 3, 1);
    const other = await draw(seed, step, site, sample);
    expect(other.filter((v, i) => v === base[i])).toEqual([]);
  });

  it("without a generator: manualSeed starts afresh, each call goes on", async () => {
    const two = async (): Promise<number[][]> => {
      F.manualSeed(5, device);
      using a = F.randn([16], { device });
      using b = F.randn([16], { device });
      return [[...(await a.data())], [...(await b.data())]];
    };
    const [first, again] = [await two(), await two()];
    expect(again).toEqual(first);
    expect(first[0]).not.toEqual(first[1]);
  });
});

describe("moments of 2^18 numbers", () => {
  const N = 2 ** 18;
  const moments = (x: ArrayLike<number>): { mean: number; variance: number; skew: number; kurtosis: number } => {
    const power = (k: number, mean: number): number =>
      Array.from(x).reduce((sum, v) => sum + (v - mean) ** k, 0) / x.length;
    const mean = power(1, 0);
    const variance = power(2, mean);
    return { mean, variance, skew: power(3, mean) / variance ** 1.5, kurtosis: power(4, mean) / variance ** 2 };
  };

  // Bounds are five standard errors; the seed is fixed, so a pass stays a pass.
  it("randn: mean 0, variance 1, normal shape", async () => {
    using generator = disposable(new Generator(2024, { device }));
    using y = F.randn([N], { generator: generator.value, device });
    const { mean, variance, skew, kurtosis } = moments(await y.data());
    expect(Math.abs(mean)).toBeLessThan(5 / Math.sqrt(N));
    expect(Math.abs(variance - 1)).toBeLessThan(5 * Math.sqrt(2 / N));
    expect(Math.abs(skew)).toBeLessThan(5 * Math.sqrt(6 / N));
    expect(Math.abs(kurtosis - 3)).toBeLessThan(5 * Math.sqrt(24 / N));
  });

  it("uniform: within its bounds, mean and variance of the interval", async () => {
    using generator = disposable(new Generator(2025, { device }));
    using y = F.uniform([N], -2, 6, { generator: generator.value, device });
    const values = await y.data();
    expect(Math.min(...values.slice(0, 65536))).toBeGreaterThanOrEqual(-2);
    expect(Math.max(...values.slice(0, 65536))).toBeLessThan(6);
    const { mean, variance } = moments(values);
    expect(Math.abs(mean - 2)).toBeLessThan((5 * 8) / Math.sqrt(12 * N));
    expect(Math.abs(variance - 64 / 12)).toBeLessThan(5 * 64 * Math.sqrt(1 / 180 / N));
  });
});

describe("uniform stays in [low, high) of its dtype", () => {
  const N = 2 ** 15;
  const drawn = async (low: number, high: number, dtype: DType): Promise<number[]> => {
    using generator = disposable(new Generator(77, { device }));
    using y = F.uniform([N], low, high, { generator: generator.value, dtype, device });
    return [...(await y.data())];
  };

  // Each range is so narrow for its dtype, or so wide, that today's rounding would leave it within a few thousand draws.
  it.each([
    ["f32", 1, 1 + 2 ** -20],
    ["f32", -1 - 2 ** -20, -1],
    ["f32", 0.1, 0.1 + 1e-7],
    ["f32", 1, 1 + 1e-9], // holds 1 alone
    ["f32", 0, 1e-38],
    ["f32", -1e-40, 1e-40], // subnormal: 0 alone
    ["f32", -3e38, 3e38],
    ["f32", -3.4028234663852886e38, 3.4028234663852886e38],
    ["f16", 0, 1],
    ["f16", 1, 2],
    ["f16", -0.1, 0.1],
    ["f16", 1e-5, 2e-5],
    ["f16", -65504, 65504],
    ["f16", 2047, 2048.5],
    ["bf16", 0, 1],
    ["bf16", -1, 0],
    ["bf16", -0.1, 0.1],
    ["bf16", 1, 1.01],
    ["bf16", -3e38, 3e38],
  ] as const)("%s from %d to %d", async (dtype, low, high) => {
    const values = await drawn(low, high, dtype);
    expect(values.filter((v) => !(v >= low && v < high))).toEqual([]);
    const middle = values.filter((v) => v < low / 2 + high / 2).length / N;
    if (new Set(values).size > 100) expect(Math.abs(middle - 0.5)).toBeLessThan(5 / Math.sqrt(4 * N) + 0.01);
  });

  it.each([
    ["f16", f16Bits, f16Value],
    ["bf16", bf16Bits, bf16Value],
  ] as const)("%s: draws below the bound are the rounded f32 draws", async (dtype, bits, value) => {
    const [wide, narrow] = [await drawn(0, 1, "f32"), await drawn(0, 1, dtype)];
    const rounded = wide.map((v) => value(bits(v)));
    expect(rounded.filter((v) => v === 1).length).toBeGreaterThan(0);
    const last = value(bits(1) - 1);
    expect(narrow).toEqual(rounded.map((v) => Math.min(v, last)));
  });

  it.each([
    ["equal bounds", 1, 1, "f32"],
    ["bounds in the wrong order", 2, 1, "f32"],
    ["a bound that is no number", NaN, 1, "f32"],
    ["an infinite bound", 0, Infinity, "f32"],
    ["a bound beyond f32", 0, 1e39, "f32"],
    ["a bound beyond f16", 0, 70000, "f16"],
    ["a range without a value of the dtype", 1.0001, 1.0002, "bf16"],
  ] as const)("refuses %s", (_, low, high, dtype) => {
    expect(() => F.uniform([2], low, high, { dtype, device })).toThrow(ArgumentError);
    expect(() => F.uniform([2], low, high, { dtype, device })).toThrow(/^uniform: .*; got .*\. /);
  });
});

describe("sites and samples", () => {
  it.each([-1, 0.5, 2 ** 32, NaN])("refuses site %d and sample %d instead of wrapping it", (n) => {
    using generator = disposable(new Generator(7, { device }));
    using logits = tensor([[1, 2]], { device });
    expect(() => F.uniform([2], 0, 1, { generator: generator.value, site: n, device })).toThrow(ArgumentError);
    expect(() => F.randn([2], { generator: generator.value, site: n, device })).toThrow(ArgumentError);
    expect(() => F.sampleTokens(logits, { generator: generator.value, site: n })).toThrow(ArgumentError);
    expect(() => generator.value.setStep(0, n)).toThrow(ArgumentError);
  });
});

describe("dropout", () => {
  it("keeps the expected share, and other elements at other steps and sites", async () => {
    const n = 2 ** 16;
    using generator = disposable(new Generator(7, { device }));
    using x = tensor(new Float32Array(n).fill(1), { device });
    const mask = async (step: number, site: number): Promise<Float32Array> => {
      generator.value.setStep(step);
      using y = F.dropout(x, 0.25, { generator: generator.value, site });
      return (await y.data()) as Float32Array;
    };
    const base = await mask(0, 0);
    expect(new Set(base)).toEqual(new Set([0, Math.fround(1 / 0.75)]));
    const share = base.filter((v) => v > 0).length / n;
    expect(Math.abs(share - 0.75)).toBeLessThan(5 * Math.sqrt((0.25 * 0.75) / n));
    for (const [step, site] of [
      [1, 0],
      [0, 1],
    ] as const) {
      const other = await mask(step, site);
      // Independent masks agree if both keep or both drop: 0.75² + 0.25².
      const agree = other.filter((v, i) => v > 0 === base[i]! > 0).length / n;
      expect(Math.abs(agree - 0.625)).toBeLessThan(5 * Math.sqrt((0.625 * 0.375) / n));
    }
    expect(await mask(0, 0)).toEqual(base);
  });

  it("gives x itself for p = 0 and outside training, and refuses other p and sites", () => {
    using generator = disposable(new Generator(7, { device }));
    using x = tensor([1, 2, 3], { device });
    const options = { generator: generator.value, site: 0 };
    expect(F.dropout(x, 0, options)).toBe(x);
    expect(F.dropout(x, 0.5, { ...options, training: false })).toBe(x);
    for (const p of [-0.1, 1, 1.5, NaN]) expect(() => F.dropout(x, p, options)).toThrow(ArgumentError);
    for (const site of [-1, 0.5, 2 ** 32]) expect(() => F.dropout(x, 0.5, { ...options, site })).toThrow(ArgumentError);
  });

  it("refuses a backward after the generator has moved on, whose mask would be another one", () => {
    using generator = disposable(new Generator(7, { device }));
    using x = tensor([1, 2, 3, 4], { device, requiresGrad: true });
    using loss = scope(() => F.sum(F.dropout(x, 0.5, { generator: generator.value, site: 0 })));
    generator.value.setStep(1);
    expect(() => backward(loss)).toThrow(AutogradError);
  });
});

describe("a refused write or draw changes nothing", () => {
  it("setStep and draws without a generator, in a capture", async () => {
    using generator = disposable(new Generator(7, { device }));
    using x = tensor([1], { device });
    generator.value.setStep(3);
    const draw = (): Promise<ArrayLike<number>> => scope(() => F.randn([3], { device })).data();
    for (const refused of [() => generator.value.setStep(9), () => F.randn([3], { device })]) {
      manualSeed(5, device);
      const [, second] = [await draw(), await draw()];
      manualSeed(5, device);
      await draw();
      const { version } = generator.value.state.storage;
      await expect(capture(() => (refused(), F.mul(x, 2)), { device })).rejects.toThrow(CaptureError);
      expect(await draw()).toEqual(second);
      expect([generator.value.step, (await generator.value.state.data())[2]]).toEqual([3, 3]);
      expect(generator.value.state.storage.version, "what backward saved is as it was").toBe(version);
    }
  });
});

/** A value for `using` that has `dispose()` only. */
function disposable<T extends { dispose(): void }>(value: T): { readonly value: T } & Disposable {
  return { value, [Symbol.dispose]: () => value.dispose() };
}
