/** Stage 0: the losses of the image tokenizer's training against host arithmetic, learning, and what happens to unused codes. */
import { createHash } from "node:crypto";
import { expect, it } from "vitest";
import { noGrad, scope, tensor } from "../../index.ts";
import type { Tensor } from "../../index.ts";
import type { JanusConfig } from "../../model/janus/config.ts";
import { createModel, tinyConfig } from "../../model/janus/create.ts";
import type { VqModel } from "../../model/vq.ts";
import { VqTraining } from "../../train/stage0/trainer.ts";
import { Injected, injecting, spread } from "../failures.ts";
import { useDevice } from "../gpu.ts";
import { isLong } from "../long.ts";

useDevice();

const configOf = (imageSize: number): JanusConfig =>
  tinyConfig({
    vision: { imageSize, patchSize: 8, hidden: 32, layers: 1, heads: 2, intermediate: 64 },
    vq: { multipliers: [1, 1], resBlocks: 1, codes: 32, baseChannels: 32, latentChannels: 32 },
    language: { layers: 1, hidden: 32, intermediate: 64, heads: 2, kvHeads: 2, headDim: 16, vocabulary: 64 },
  });
// 8 × 8 pixels, 4 × 4 codes of 32.
const config = configOf(32);

/** Two colours in four quarters: pictures that few codes can hold. */
function pictures(count: number, side = config.vq.imageSize): Tensor {
  const data = new Float32Array(count * 3 * side * side);
  for (let b = 0; b < count; b++)
    for (let c = 0; c < 3; c++)
      for (let y = 0; y < side; y++)
        for (let x = 0; x < side; x++) {
          const quarter = Number(y >= side / 2) * 2 + Number(x >= side / 2);
          data[((b * 3 + c) * side + y) * side + x] = (b * 7 + quarter * 3 + c) % 2 ? 0.8 : -0.8;
        }
  return tensor(data, { shape: [count, 3, side, side] });
}

it("the losses are the means of the definition, from vectors, codes and pictures read back", async () => {
  const model = createModel(config, { seed: 1 });
  const { vqmodel } = model.model;
  const training = new VqTraining(vqmodel, { lr: 1e-12 });
  using pixels = pictures(3);
  const [z, codebook, rebuilt] = await Promise.all(
    noGrad(() =>
      scope(() => [
        vqmodel.encodeVectors(pixels).permute([0, 2, 3, 1]).contiguous().clone(),
        vqmodel.quantize.embedding.weight.clone(),
        vqmodel.call(pixels),
      ]),
    ).map(async (t) => {
      const data = await t.data();
      t.dispose();
      return data;
    }),
  );
  const { losses, vectors } = await training.step(pixels);
  const dim = config.vq.codeDim;
  const unit = (data: ArrayLike<number>, row: number): number[] => {
    const v = Array.from({ length: dim }, (_, i) => data[row * dim + i]!);
    const length = Math.hypot(...v);
    return v.map((x) => x / length);
  };
  const codes = Array.from({ length: config.vq.codes }, (_, k) => unit(codebook!, k));
  let distance = 0;
  const rows = z!.length / dim;
  for (let r = 0; r < rows; r++) {
    const v = unit(z!, r);
    distance += Math.min(...codes.map((code) => code.reduce((sum, x, i) => sum + (x - v[i]!) ** 2, 0)));
  }
  const mse = Array.from(await pixels.data()).reduce((sum, x, i) => sum + (x - rebuilt![i]!) ** 2, 0) / pixels.size;
  expect(losses.codebook).toBeCloseTo(distance / (rows * dim), 5);
  expect(losses.commitment).toBeCloseTo(distance / (rows * dim), 5);
  expect(losses.reconstruction).toBeCloseTo(mse, 4);
  expect(vectors.shape).toEqual([rows, dim]);
  vectors.dispose();
  training.dispose();
  model.dispose();
});

it("a batch in parts is the batch: losses, codes, gradients", async () => {
  const steps = await Promise.all(
    [
      [[0, 3]],
      [
        [0, 2],
        [2, 3],
      ],
    ].map(async (parts) => {
      const model = createModel(config, { seed: 1 });
      const training = new VqTraining(model.model.vqmodel, { lr: 1e-3 });
      using pixels = pictures(3);
      const views = scope(() => parts.map(([from, to]) => pixels.slice(0, from!, to!)));
      const { vectors, ...step } = await training.step(...views);
      const [rows, moments] = [await vectors.data(), await training.optimizer.stateDict()["decoder.conv_out.weight.m"]!.data()]; // prettier-ignore
      for (const t of [vectors, ...views]) t.dispose();
      const { uses } = training.state;
      training.dispose();
      model.dispose();
      return { step, rows, moments, uses };
    }),
  );
  const [whole, parted] = steps;
  for (const loss of ["reconstruction", "codebook", "commitment"] as const)
    expect(parted!.step.losses[loss]).toBeCloseTo(whole!.step.losses[loss], 5);
  expect(parted!.step.gradNorm / whole!.step.gradNorm).toBeCloseTo(1, 4);
  expect(parted!.uses).toEqual(whole!.uses);
  expect(parted!.step.used).toBe(whole!.uses.filter((n) => n > 0).length);
  for (const which of ["rows", "moments"] as const) {
    const [a, b] = [whole!, parted!].map((one) => Array.from(one[which]));
    const largest = Math.max(...a!.map(Math.abs));
    expect(Math.max(...a!.map((x, i) => Math.abs(x - b![i]!))) / largest, which).toBeLessThan(1e-4);
  }
});

it("a step whose second part does not fit leaves no gradient and no tensor behind", async () => {
  const model = createModel(config, { seed: 1 });
  const training = new VqTraining(model.model.vqmodel, { lr: 1e-3 });
  using pixels = pictures(2);
  const { device } = pixels;
  using narrow = tensor(new Float32Array(3 * 33 * 33), { shape: [1, 3, 33, 33] });
  const live = device.pool.stats.liveBytes;
  await expect(training.step(pixels, narrow)).rejects.toThrow(/33/);
  expect(device.pool.stats.liveBytes, device.pool.table()).toBe(live);
  expect([...model.model.vqmodel.parameters()].some(({ grad }) => grad !== null)).toBe(false);
  training.dispose();
  model.dispose();
});

it("a replayed step equals an eager one, bit for bit, with other images, rates and learning rates, and creates no buffer", async () => {
  const runs = [true, false].map((eager) => {
    const model = createModel(config, { seed: 1 });
    const training = new VqTraining(model.model.vqmodel, {
      lr: 1e-3,
      rateWeight: 0.5,
      adversarial: 0.1,
      seed: 3,
      eager,
    });
    return { model, training };
  });
  const { device } = runs[0]!.model.parameters()[0]!;
  const launches = [0, 0];
  const created = [0, 0];
  for (let step = 0; step < 4; step++) {
    const seen: unknown[] = [];
    for (const [i, { model, training }] of runs.entries()) {
      using pixels = scope(() => pictures(2 + Number(step === 3), 24).mul(1 - 0.1 * step));
      training.lr = 1e-3 / (step + 1);
      const before = { launches: device.queue.stats.launches, created: device.pool.stats.created };
      const { vectors, ...report } = await training.step(pixels);
      launches[i] = device.queue.stats.launches - before.launches;
      if (step === 2) created[i] = device.pool.stats.created - before.created;
      if (step === 1) await training.reseed(vectors);
      const tensors = step < 2 ? {} : { ...model.model.vqmodel.stateDict(), ...training.optimizer.stateDict() };
      const bits = await Promise.all(Object.entries(tensors).map(async ([name, t]) => [name, createHash("sha256").update(await t.data()).digest("hex")])); // prettier-ignore
      seen.push({ report, bits, vectors: await vectors.data(), state: training.state });
      vectors.dispose();
    }
    expect(seen[1], `step ${step}`).toEqual(seen[0]);
    if (step === 2) expect(launches[1]).toBeLessThan(launches[0]!); // elementwise launches are joined
  }
  expect(created[1]).toBe(0);
  for (const { model, training } of runs) for (const one of [training, model]) one.dispose();
});

it("with a rate weight a vector takes the code of least distance less the weighted log of its share, computed on the host", async () => {
  const model = createModel(config, { seed: 1 });
  const training = new VqTraining(model.model.vqmodel, { lr: 1e-3, rateWeight: 0.5 });
  using pixels = pictures(3);
  (await training.step(pixels)).vectors.dispose();
  const { shares, uses: before } = training.state;
  const codebook = (await model.model.vqmodel.quantize.embedding.weight.data()) as Float32Array;
  const { vectors } = await training.step(pixels);
  const rows = (await vectors.data()) as Float32Array;
  const { codeDim: dim, codes } = config.vq;
  const squared = (r: number, k: number): number => {
    const [a, b] = [rows.slice(r * dim, (r + 1) * dim), codebook.slice(k * dim, (k + 1) * dim)];
    const [x, y] = [a, b].map((v) => Math.hypot(...v));
    return a.reduce((sum, v, i) => sum + (v / x! - b[i]! / y!) ** 2, 0);
  };
  const least = (cost: (r: number, k: number) => number): number[] => {
    const found = Array.from({ length: codes }, () => 0);
    for (let r = 0; r < rows.length / dim; r++) {
      const costs = found.map((_, k) => cost(r, k));
      found[costs.indexOf(Math.min(...costs))]!++;
    }
    return found;
  };
  const used = training.state.uses.map((n, k) => n - before[k]!);
  expect(used).toEqual(least((r, k) => squared(r, k) - 0.5 * Math.log(shares[k]! + 1 / (4 * codes))));
  expect(used).not.toEqual(least(squared));
  training.state.shares.forEach((share, k) => expect(share).toBeCloseTo(0.9 * shares[k]! + (0.1 * used[k]! * dim) / rows.length, 12)); // prettier-ignore
  vectors.dispose();
  training.dispose();
  model.dispose();
});

it("codes out of use retire onto the most used one, and no vector goes to them", async () => {
  const model = createModel(config, { seed: 1 });
  const { vqmodel } = model.model;
  const training = new VqTraining(vqmodel, { lr: 1e-3, rateWeight: 0.5 });
  using pixels = pictures(3);
  expect(() => training.retire(0)).toThrow(/at least 1/);
  for (let step = 0; step < 2; step++) (await training.step(pixels)).vectors.dispose();
  const { uses, idle } = training.state;
  expect(idle.map((n) => n < 2)).toEqual(uses.map((n) => n > 0));
  const dim = config.vq.codeDim;
  const codes = async (): Promise<string[]> => {
    const data = (await vqmodel.quantize.embedding.weight.data()) as Float32Array;
    return uses.map((_, k) => data.slice(k * dim, (k + 1) * dim).join());
  };
  const before = await codes();
  const { shares } = training.state;
  const most = before[shares.indexOf(Math.max(...shares))]!;
  expect(training.retire(3)).toBe(config.vq.codes);
  expect(training.retire(2)).toBe(uses.filter((n) => n > 0).length);
  expect(uses).toContain(0);
  const after = await codes();
  expect(after).toEqual(before.map((code, k) => (uses[k]! > 0 ? code : most)));
  using taken = noGrad(() => vqmodel.encode(pixels));
  const kept = new Set([...uses.keys()].filter((k) => uses[k]! > 0));
  const lowest = after.indexOf(most);
  expect([...new Set(await taken.data())].filter((k) => !kept.has(k) && k !== lowest)).toEqual([]);
  training.dispose();
  model.dispose();
});

it("learns to reconstruct pictures, and moves unused codes to vectors", async () => {
  const model = createModel(config, { seed: 2 });
  const training = new VqTraining(model.model.vqmodel, { lr: 2e-3, seed: 5 });
  using pixels = pictures(4);
  const curve: number[] = [];
  for (let step = 0; step < (isLong ? 60 : 16); step++) {
    const { losses, vectors } = await training.step(pixels);
    curve.push(losses.reconstruction);
    if (step === 9) {
      const before = (await model.model.vqmodel.quantize.embedding.weight.data()) as Float32Array;
      const { used, moved, perplexity } = await training.reseed(vectors);
      expect(used + moved).toBe(config.vq.codes);
      expect(moved).toBeGreaterThan(0);
      expect(perplexity).toBeGreaterThan(1);
      expect(perplexity).toBeLessThanOrEqual(used);
      const after = (await model.model.vqmodel.quantize.embedding.weight.data()) as Float32Array;
      const dim = config.vq.codeDim;
      const rows = Array.from({ length: config.vq.codes }, (_, k) =>
        [before, after].map((data) => data.slice(k * dim, (k + 1) * dim)),
      );
      const changed = rows.filter(([a, b]) => a!.some((v, i) => v !== b![i]));
      expect(changed).toHaveLength(moved);
      const given = (await vectors.data()) as Float32Array;
      for (const [, row] of changed) {
        const nearest = Math.max(
          ...Array.from({ length: given.length / dim }, (_, r) => {
            const v = given.slice(r * dim, (r + 1) * dim);
            return row!.reduce((sum, x, i) => sum + x * v[i]!, 0) / Math.hypot(...v);
          }),
        );
        expect(nearest).toBeCloseTo(1, 4); // a unit vector in the direction of one of them
      }
      await expect(training.reseed(vectors)).rejects.toThrow(/no step since/);
    }
    vectors.dispose();
  }
  expect(curve.at(-1)!).toBeLessThan(curve[0]! / 4);
  training.dispose();
  model.dispose();
});

it("a step that is not finite says why: weights, pictures, samples, gradients", async () => {
  const model = createModel(config, { seed: 1 });
  const { vqmodel } = model.model;
  const training = new VqTraining(vqmodel, { lr: 1e-3, maxNorm: 1e9 });
  const take = async (at: number, value: number): Promise<unknown> => {
    using pixels = pictures(4);
    pixels.writeBytes(new Uint8Array(Float32Array.of(value).buffer), 4 * at);
    using parts = pixels.slice(0, 0, 2);
    using rest = pixels.slice(0, 2, 4);
    const { vectors, skipped, cause } = await training.step(parts, rest);
    vectors.dispose();
    expect(skipped).toBe(cause !== undefined);
    return cause;
  };
  const picture = 3 * config.vq.imageSize ** 2;
  expect(await take(0, 0.5)).toBe(undefined);
  expect(await take(2 * picture + 7, NaN)).toEqual({ kind: "images", samples: ["2"] });
  expect(await take(3 * picture, 3e38)).toEqual({ kind: "samples", samples: ["3"] });
  const weight = vqmodel.decoder.conv_out.weight;
  const first = new Uint8Array((await weight.data()).slice(0, 1).buffer);
  weight.writeBytes(new Uint8Array(Float32Array.of(-Infinity).buffer));
  expect(await take(0, 0.5)).toEqual({
    kind: "weights",
    tensors: ["decoder.conv_out.weight"],
    of: vqmodel.parameters().length,
  });
  weight.writeBytes(first);
  expect(await take(0, 0.5)).toBe(undefined);
  expect(vqmodel.parameters().some(({ grad }) => grad)).toBe(false);
  training.dispose();
  model.dispose();
});

it("a step that fails at any launch or allocation, and a look at the codes that does, leaves everything as it was", async () => {
  const make = (): { vq: VqModel; training: VqTraining; dispose: () => void } => {
    const model = createModel(configOf(96), { seed: 1 });
    const training = new VqTraining(model.model.vqmodel, { lr: 1e-3, rateWeight: 0.1, adversarial: 0.5, seed: 3 });
    return { vq: model.model.vqmodel, training, dispose: () => [training, model].forEach((one) => one.dispose()) };
  };
  const [clean, tried] = [make(), make()];
  using pixels = pictures(2, 24); // the discriminator's least
  using vectors = await clean.training.step(pixels).then((step) => step.vectors);
  (await tried.training.step(pixels)).vectors.dispose();
  const { device } = pixels;
  const stateOf = async ({ vq, training }: ReturnType<typeof make>): Promise<unknown> => {
    const tensors = { ...vq.stateDict(), ...training.optimizer.stateDict(), ...Object.fromEntries(Object.entries(training.adversary!.stateDict()).map(([name, t]) => [`other ${name}`, t])) }; // prettier-ignore
    const bits = await Promise.all(Object.entries(tensors).map(async ([name, t]) => [name, createHash("sha256").update(await t.data()).digest("hex")])); // prettier-ignore
    const grads = [...vq.parameters(), ...training.adversary!.discriminator.parameters()].filter(({ grad }) => grad);
    return { bits, grads: grads.length, state: training.state, lr: training.lr };
  };
  const tries: readonly (readonly [string, (one: ReturnType<typeof make>) => Promise<unknown>])[] = [
    ["reseed", async ({ training }) => training.reseed(vectors)],
    ["step", async ({ training }) => (await training.step(pixels)).vectors.dispose()],
    ["retire", async ({ training }) => training.retire(1)],
  ];
  let before = await stateOf(tried);
  for (const [name, run] of tries) {
    const { counts } = await injecting(device, {}, () => run(clean));
    const live = device.pool.stats.liveBytes;
    for (const kind of ["launches", "allocations"] as const)
      for (const at of spread(counts[kind], isLong ? 3 : 2)) {
        await expect(injecting(device, { [kind]: at }, () => run(tried)), `${name}: ${kind} ${at}`).rejects.toThrow(Injected); // prettier-ignore
        expect(device.pool.stats.liveBytes, `${name}: ${kind} ${at}\n${device.pool.table()}`).toBe(live);
      }
    expect(await stateOf(tried), name).toEqual(before);
    await run(tried);
    before = await stateOf(tried);
    expect(before, `${name} after failures`).toEqual(await stateOf(clean));
  }
  for (const one of [clean, tried]) one.dispose();
});
