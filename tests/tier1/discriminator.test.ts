/** The discriminator of stage 0 and its losses against float64 loops, its gradients against differences of them, and that the two sides compete. */
import { describe, expect, it } from "vitest";
import { ArgumentError, backward, scope, tensor } from "../../index.ts";
import type { Tensor } from "../../index.ts";
import { castInto } from "../../kernels/index.ts";
import { createModel, tinyConfig } from "../../model/janus/create.ts";
import { Adversary, PatchDiscriminator, requireJudged } from "../../train/stage0/discriminator.ts";
import { VqTraining } from "../../train/stage0/trainer.ts";
import { useDevice } from "../gpu.ts";
import { ref } from "../reference.ts";
import type { Ref } from "../reference.ts";
import { conv2dRef } from "../reference/image.ts";

const device = useDevice();

/** A fraction of a sine, the same for the same numbers: inputs without a generator. */
const noise = (shape: readonly number[], seed: number, scale = 1): Float64Array =>
  Float64Array.from({ length: shape.reduce((a, b) => a * b, 1) }, (_, i) => {
    const x = Math.sin(12.9898 * (i + 1) + 78.233 * seed) * 43758.5453;
    return Math.fround(scale * (2 * (x - Math.floor(x)) - 1));
  });

const lengthOf = (values: ArrayLike<number>): number => Math.sqrt(Array.from(values).reduce((sum, v) => sum + v * v, 0)); // prettier-ignore

const SIDE = 25;
const SHAPE = [2, 3, SIDE, SIDE] as const;
const onDevice = (data: Float64Array, shape: readonly number[]): Tensor => tensor(Float32Array.from(data), { shape: [...shape], device: device() }); // prettier-ignore

type Weights = Map<string, Ref>;

/** Convolutions of 4 × 4 with a border of one, strides 2, 2, 2, 1, 1; batch norm behind the three in the middle; leaky relu of slope 0.2 between. */
function judge(x: Ref, weights: Weights): Ref {
  const strides = [2, 2, 2, 1, 1];
  let y = x;
  for (const [i, stride] of strides.entries()) {
    y = conv2dRef(y, weights.get(`convs.${i}.weight`)!, weights.get(`convs.${i}.bias`) ?? null, stride, [1, 1, 1, 1]);
    if (i > 0 && i < 4) y = batchNorm(y, weights.get(`norms.${i - 1}.weight`)!, weights.get(`norms.${i - 1}.bias`)!);
    if (i < 4) y = ref(y.shape, y.data.map((v) => (v > 0 ? v : 0.2 * v))); // prettier-ignore
  }
  return y;
}

function batchNorm(x: Ref, weight: Ref, bias: Ref): Ref {
  const [n, c, h, w] = x.shape as [number, number, number, number];
  const y = ref(x.shape);
  for (let k = 0; k < c; k++) {
    const places: number[] = [];
    for (let b = 0; b < n; b++) for (let i = 0; i < h * w; i++) places.push((b * c + k) * h * w + i);
    const mean = places.reduce((sum, at) => sum + x.data[at]!, 0) / places.length;
    const variance = places.reduce((sum, at) => sum + (x.data[at]! - mean) ** 2, 0) / places.length;
    for (const at of places)
      y.data[at] = ((x.data[at]! - mean) / Math.sqrt(variance + 1e-5)) * weight.data[k]! + bias.data[k]!;
  }
  return y;
}

const meanOf = ({ data }: Ref, of: (v: number) => number): number => data.reduce((sum, v) => sum + of(v), 0) / data.length; // prettier-ignore

/** ½ · mean(relu(1 − D(x)) + relu(1 + D(x̂))), and −mean D(x̂). */
const hinge = (real: Ref, fake: Ref, weights: Weights): number =>
  0.5 * (meanOf(judge(real, weights), (v) => Math.max(0, 1 - v)) + meanOf(judge(fake, weights), (v) => Math.max(0, 1 + v))); // prettier-ignore
const fooled = (fake: Ref, weights: Weights): number => -meanOf(judge(fake, weights), (v) => v);

/** Gives all parameters values of their own, such that logits lie on both sides of ±1. */
function settle(discriminator: PatchDiscriminator): Weights {
  const weights: Weights = new Map();
  for (const [i, [name, parameter]] of [...discriminator.namedParameters()].entries()) {
    const values = noise(parameter.shape, 40 + i, parameter.rank > 1 ? 0.3 : 0.5);
    if (name.startsWith("norms") && name.endsWith("weight")) for (const k of values.keys()) values[k]! += 1;
    for (const k of values.keys()) values[k] = Math.fround(values[k]!);
    scope(() => castInto(parameter, onDevice(values, parameter.shape)));
    weights.set(name, ref(parameter.shape, values));
  }
  return weights;
}

function settled(): { adversary: Adversary; weights: Weights } {
  const adversary = new Adversary({ weight: 0.5, seed: 1, device: device(), channels: 2, lr: 1e-3 });
  return { adversary, weights: settle(adversary.discriminator) };
}

/** The slope of `f` over the number at a place of `data`. */
function slope(data: Float64Array, at: number, f: () => number): number {
  const [kept, step] = [data[at]!, 1e-5];
  const [up, down] = [kept + step, kept - step].map((value) => {
    data[at] = value;
    return f();
  });
  data[at] = kept;
  return (up! - down!) / (2 * step);
}

describe("the discriminator", () => {
  const [real, fake] = [ref(SHAPE, noise(SHAPE, 1)), ref(SHAPE, noise(SHAPE, 2))];

  it("is the network of the definition, and its losses are", async () => {
    const { adversary, weights } = settled();
    expect([...weights.keys()].filter((name) => name.endsWith("bias"))).toEqual(["convs.0.bias", "convs.4.bias", "norms.0.bias", "norms.1.bias", "norms.2.bias"]); // prettier-ignore
    using x = onDevice(real.data, SHAPE);
    using y = onDevice(fake.data, SHAPE);
    using logits = adversary.discriminator.call(x);
    const expected = judge(real, weights);
    expect(logits.shape).toEqual([2, 1, 1, 1]);
    expect(expected.shape).toEqual([2, 1, 1, 1]);
    const found = await logits.data();
    for (const [i, v] of expected.data.entries()) expect(found[i]).toBeCloseTo(v, 4);
    using generator = scope(() => adversary.generatorLoss(y).detach());
    expect(await generator.item()).toBeCloseTo(fooled(fake, weights), 4);
    using loss = adversary.accumulate(x, y, 0.25);
    expect(await loss.item()).toBeCloseTo(hinge(real, fake, weights), 4);
    adversary.zeroGradients();
    adversary.dispose();
  });

  it("learns by gradients that are differences of the loss, of which the tokenizer's pictures get none", async () => {
    const { adversary, weights } = settled();
    using x = onDevice(real.data, SHAPE);
    using y = onDevice(fake.data, SHAPE);
    for (const t of [x, y]) t.requiresGrad = true;
    adversary.accumulate(x, y, 0.25).dispose();
    expect([x.grad, y.grad]).toEqual([null, null]);
    for (const [name, parameter] of adversary.discriminator.namedParameters()) {
      const gradient = await parameter.grad!.data();
      const { data } = weights.get(name)!;
      const largest = Math.max(...Array.from(gradient, Math.abs));
      for (const at of [0, Math.floor(data.length / 2), data.length - 1]) {
        const expected = 0.5 * 0.25 * slope(data, at, () => hinge(real, fake, weights));
        expect(Math.abs(gradient[at]! - expected), `${name} ${at}`).toBeLessThan(1e-5 + 1e-3 * largest);
      }
    }
    adversary.zeroGradients();
    adversary.dispose();
  });

  it("hands the generator gradients to its pictures, and takes none itself", async () => {
    const { adversary, weights } = settled();
    using y = onDevice(fake.data, SHAPE);
    y.requiresGrad = true;
    using loss = scope(() => adversary.generatorLoss(y));
    backward(loss);
    expect(adversary.discriminator.parameters().every(({ grad }) => grad === null)).toBe(true);
    const gradient = await y.grad!.data();
    const largest = Math.max(...Array.from(gradient, Math.abs));
    expect(largest).toBeGreaterThan(0);
    for (const at of [0, 700, 1875, 2500, 3749]) {
      const expected = slope(fake.data, at, () => fooled(fake, weights));
      expect(Math.abs(gradient[at]! - expected), `${at}`).toBeLessThan(1e-6 + 1e-3 * largest);
    }
    y.grad!.dispose();
    adversary.dispose();
  });

  it("begins as LlamaGen's does: 2.8 M weights of deviation 0.02, norms around 1, and the same for the same seed", async () => {
    const make = (seed: number): PatchDiscriminator => new PatchDiscriminator({ seed, device: device() });
    const [a, b, c] = [make(1), make(1), make(2)];
    expect(a.parameterCount()).toBe(2_765_633);
    const read = (d: PatchDiscriminator, name: string): Promise<ArrayLike<number>> => d.stateDict()[name]!.data();
    for (const name of Object.keys(a.stateDict()).filter((key) => !/norms.*bias/.test(key))) {
      const [first, again, other] = [await read(a, name), await read(b, name), await read(c, name)];
      expect(
        Array.from(again).every((v, i) => v === first[i]),
        name,
      ).toBe(true);
      expect(Array.from(other).filter((v, i) => v === first[i]).length, name).toBeLessThan(10);
    }
    const first = await read(a, "convs.2.weight");
    const bias = Array.from(await read(a, "convs.0.bias"), Math.abs);
    expect(Math.max(...bias)).toBeLessThanOrEqual(1 / Math.sqrt(48));
    expect(Math.max(...bias)).toBeGreaterThan(0.8 / Math.sqrt(48));
    const deviation = Math.sqrt(Array.from(first).reduce((sum, v) => sum + v * v, 0) / first.length);
    expect(Math.abs(deviation / 0.02 - 1)).toBeLessThan(5 / Math.sqrt(2 * first.length));
    const norm = Array.from(await read(a, "norms.2.weight"));
    expect(norm.reduce((sum, v) => sum + v, 0) / norm.length).toBeCloseTo(1, 2);
    expect(new Set(norm).size).toBeGreaterThan(500);
    expect(Array.from(await read(a, "norms.2.bias")).every((v) => v === 0)).toBe(true);
    for (const one of [a, b, c]) one.dispose();
  });

  it("says which pictures are too small to be judged", () => {
    expect(() => requireJudged(24)).not.toThrow();
    expect(() => requireJudged(23)).toThrow(ArgumentError);
    expect(() => requireJudged(8)).toThrow(/at least 24 × 24 pixels; got a side of 8\. Set adversarial\.weight=0/);
  });
});

describe("with a discriminator", () => {
  // 24 × 24 pixels, 12 × 12 codes.
  const config = tinyConfig({
    vision: { imageSize: 24, patchSize: 2, hidden: 32, layers: 1, heads: 2, intermediate: 64 },
    vq: { multipliers: [1, 1], resBlocks: 1, codes: 32, baseChannels: 32, latentChannels: 32 },
    language: { layers: 1, hidden: 32, intermediate: 64, heads: 2, kvHeads: 2, headDim: 16, vocabulary: 64 },
  });
  const shape = [2, 3, 24, 24];

  it("a step without its losses is a step of a training without it, bit for bit", async () => {
    const after = async (adversarial: number): Promise<ArrayLike<number>> => {
      const model = createModel(config, { seed: 1, device: device() });
      const training = new VqTraining(model.model.vqmodel, { lr: 1e-3, adversarial });
      training.isAdversarial = false;
      using pixels = onDevice(noise(shape, 3, 0.9), shape);
      const { losses, vectors } = await training.step(pixels);
      vectors.dispose();
      expect(Object.keys(losses)).toEqual(["reconstruction", "codebook", "commitment"]);
      const weights = await model.model.vqmodel.decoder.conv_out.weight.data();
      training.dispose();
      model.dispose();
      return weights;
    };
    const [without, beside] = [await after(0), await after(0.5)];
    expect(Array.from(beside).every((v, i) => v === without[i])).toBe(true);
  });

  it("losses and gradients of parts are those of each, by their share; a discriminator that is not finite stands still alone", async () => {
    const model = createModel(config, { seed: 1, device: device() });
    const training = new VqTraining(model.model.vqmodel, { lr: 0, adversarial: 0.5, seed: 4, maxNorm: 1e9 });
    const adversary = training.adversary!;
    using pixels = onDevice(noise([3, 3, 24, 24], 3, 0.9), [3, 3, 24, 24]);
    const take = async (...parts: [number, number][]): Promise<{ losses: number[]; moments: ArrayLike<number>[] }> => {
      const views = scope(() => parts.map(([from, to]) => pixels.slice(0, from, to)));
      scope(() => { for (const [name, t] of Object.entries(adversary.optimizer.stateDict())) if (name.endsWith(".m")) castInto(t, t.mul(0)); }); // prettier-ignore
      scope(() => { for (const [name, t] of Object.entries(training.optimizer.stateDict())) if (name.endsWith(".m")) castInto(t, t.mul(0)); }); // prettier-ignore
      const { losses, vectors } = await training.step(...views);
      for (const t of [vectors, ...views]) t.dispose();
      const moments = [
        await adversary.stateDict()["convs.1.weight.m"]!.data(),
        await training.optimizer.stateDict()["decoder.conv_out.weight.m"]!.data(),
      ];
      return { losses: Object.values(losses) as number[], moments };
    };
    const [one, two, both] = [await take([0, 2]), await take([2, 3]), await take([0, 2], [2, 3])];
    expect(both.losses).toHaveLength(5);
    for (const [i, loss] of both.losses.entries()) expect(loss).toBeCloseTo((2 * one.losses[i]! + two.losses[i]!) / 3, 4); // prettier-ignore
    for (const [i, moments] of both.moments.entries()) {
      const off = Array.from(moments, (m, k) => m - (2 * one.moments[i]![k]! + two.moments[i]![k]!) / 3);
      expect(lengthOf(off) / lengthOf(moments)).toBeLessThan(1e-3);
    }
    const { skipped, discriminatorSkipped, vectors } = await training.step(pixels);
    vectors.dispose();
    expect([skipped, discriminatorSkipped]).toEqual([false, undefined]);
    // relu(1 − D) of an infinite D(x) is 0 or infinite; of the two passes one is.
    scope(() => castInto(adversary.discriminator.convs[4]!.bias!, tensor([3e38], { device: device() })));
    scope(() => castInto(adversary.discriminator.convs[4]!.weight, adversary.discriminator.convs[4]!.weight.detach().mul(0).add(3e38))); // prettier-ignore
    const broken = await training.step(pixels);
    broken.vectors.dispose();
    expect(broken.discriminatorSkipped).toBe(true);
    training.dispose();
    model.dispose();
  });

  it("the discriminator tells a tokenizer that stands still apart, and the tokenizer is pulled where it is fooled", async () => {
    const model = createModel(config, { seed: 1, device: device() });
    const training = new VqTraining(model.model.vqmodel, { lr: 1e-3, adversarial: 0.5, seed: 4 });
    training.optimizer.lr = 0; // the tokenizer's rate alone
    using pixels = onDevice(noise(shape, 3, 0.9), shape);
    const take = async (): Promise<{ adversarial: number; discriminator: number }> => {
      const { losses, vectors, skipped } = await training.step(pixels);
      vectors.dispose();
      expect(skipped).toBe(false);
      return { adversarial: losses.adversarial!, discriminator: losses.discriminator! };
    };
    const first = await take();
    expect(first.discriminator).toBeCloseTo(1, 0); // hinge losses of logits around 0
    for (let i = 0; i < 2; i++) await take();
    const told = await take();
    expect(told.discriminator).toBeLessThan(0.3);
    expect(told.adversarial).toBeGreaterThan(0.8);
    training.optimizer.lr = 5e-3;
    training.adversary!.optimizer.lr = 0;
    let last = told;
    for (let i = 0; i < 3; i++) last = await take();
    expect(last.adversarial).toBeLessThan(told.adversarial - 0.3);
    training.dispose();
    model.dispose();
  });
});
