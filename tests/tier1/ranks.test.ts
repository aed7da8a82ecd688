/** The seam for ranks: two or three trainers that share a step, with counts and gradients summed between them, do what one does alone. */
import { expect, it } from "vitest";
import { tensor } from "../../index.ts";
import type { Tensor } from "../../index.ts";
import { createModel, tinyConfig } from "../../model/janus/create.ts";
import { checkConfig } from "../../train/config.ts";
import { RankGroup } from "../../train/rank_group.ts";
import { ONE_PROCESS } from "../../train/ranks.ts";
import type { Ranks } from "../../train/ranks.ts";
import { textSample } from "../../train/samples.ts";
import type { Sample } from "../../train/samples.ts";
import { Trainer } from "../../train/trainer.ts";
import { useDevice } from "../gpu.ts";
import { SMALL } from "../small_model.ts";

useDevice();

const SIZES = tinyConfig(SMALL);
const LENGTH = 32;
const config = checkConfig({
  stage: 2,
  batch: 2,
  length: LENGTH,
  steps: 2,
  ratios: { und: 0, text: 1, gen: 0 },
  optimizer: { lr: 1e-3 },
});

/** A text that fills most of a row; `trained` of its tokens are. */
function text(name: string, first: number, trained: number): Sample {
  const ids = Array.from({ length: 28 }, (_, i) => (first + 37 * i) % 600);
  const labels = ids.map((id, i) => (i >= ids.length - trained ? id : -100));
  return textSample("text", ids, labels, [], -1, name);
}

/** Ranks in this process: each passes on what it has and waits for the others. `bucket` is small, so that gradients are cut. */
function ranksHere(size: number, bucket = 1000): RankGroup[] {
  const arrived: { parts: readonly Uint8Array[]; resolve: (all: Uint8Array[]) => void }[][] = Array.from({ length: size }, () => []); // prettier-ignore
  const exchange = (rank: number, parts: readonly Uint8Array[]): Promise<Uint8Array[]> => {
    const all = new Promise<Uint8Array[]>((resolve) => arrived[rank]!.push({ parts, resolve }));
    while (arrived.every((queue) => queue.length)) {
      const round = arrived.map((queue) => queue.shift()!);
      for (const [to, { resolve }] of round.entries()) resolve(round.map((from) => from.parts[to]!.slice()));
    }
    return all;
  };
  return Array.from({ length: size }, (_, rank) => {
    const allGather = (own: Uint8Array): Promise<Uint8Array[]> => exchange(rank, new Array(size).fill(own));
    return new RankGroup({ rank, size, allGather, allToAll: (parts) => exchange(rank, parts) }, { bucket });
  });
}

async function steps(
  ranks: Ranks,
  samples: readonly Sample[],
  settings = config,
): Promise<{ weights: Map<string, Float32Array>; norms: number[] }> {
  const model = createModel(SIZES, { seed: 3, dtype: "f32" });
  const trainer = new Trainer(model, SIZES, settings, 0, { ranks });
  try {
    const norms: number[] = [];
    for (let step = 0; step < 2; step++) norms.push((await trainer.take(samples)).gradNorm);
    const data = async (weight: Tensor): Promise<Float32Array> => (await weight.data()) as Float32Array;
    const weights = new Map<string, Float32Array>();
    for (const [name, weight] of trainer.trained) weights.set(name, await data(weight));
    return { weights, norms };
  } finally {
    trainer.dispose();
    model.dispose();
  }
}

it("two halves of a step with unequal numbers of trained tokens are the whole step, bit for bit", async () => {
  const samples = [text("a", 5, 20), text("b", 11, 3)];
  const whole = await steps(ONE_PROCESS, samples);
  const halves = await Promise.all(ranksHere(2).map((ranks) => steps(ranks, samples)));
  expect(whole.weights.size).toBeGreaterThan(20);
  for (const half of halves) expect(half).toEqual(whole);
  expect(await steps(ONE_PROCESS, samples.slice(0, 1))).not.toEqual(whole);
});

it("with adapters, dropout draws for each rank what it draws for its rows in one process", async () => {
  const samples = [text("a", 5, 20), text("a", 5, 20)]; // the same row: only the numbers that are drawn distinguish them
  const settings = checkConfig({ ...config, microRows: 1, lora: { rank: 2, dropout: 0.5 } });
  const whole = await steps(ONE_PROCESS, samples, settings);
  for (const half of await Promise.all(ranksHere(2).map((ranks) => steps(ranks, samples, settings)))) expect(half).toEqual(whole); // prettier-ignore
});

it("ranks without a sample take the step of the others, and all report the whole step", async () => {
  const samples = [text("a", 5, 20), text("b", 11, 3)];
  const whole = await steps(ONE_PROCESS, samples);
  for (const own of await Promise.all(ranksHere(3).map((ranks) => steps(ranks, samples)))) expect(own).toEqual(whole);
});

it("gradients are sent once to their shard and once back: 2 (P - 1) / P of their bytes", async () => {
  const [first, second] = ranksHere(2, 7);
  const parameters = [1, 2].map(() => [3, 5].map((size) => tensor(new Float32Array(size), { requiresGrad: true })));
  for (const [rank, own] of parameters.entries())
    for (const [i, parameter] of own.entries())
      if (rank + i < 2) parameter.grad = tensor(new Float32Array(parameter.size).fill(rank + 1)).keep();
  await Promise.all([first!.sumGradients(parameters[0]!), second!.sumGradients(parameters[1]!)]);
  for (const own of parameters) {
    expect(await own[0]!.grad!.data()).toEqual(new Float32Array(3).fill(3));
    expect(await own[1]!.grad!.data()).toEqual(new Float32Array(5).fill(1));
  }
  expect(first!.traffic.bytes + second!.traffic.bytes).toBe(2 * 2 * (1 / 2) * 8 * 4);
  for (const parameter of parameters.flat()) parameter.dispose();
});
