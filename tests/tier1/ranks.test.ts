/** The seam for ranks: two trainers that each take half of a step, with counts and gradients summed between them, do what one does alone. */
import { expect, it } from "vitest";
import { scope, tensor } from "../../index.ts";
import type { Tensor } from "../../index.ts";
import { copyInto } from "../../kernels/index.ts";
import { createModel, tinyConfig } from "../../model/janus/create.ts";
import { checkConfig } from "../../train/config.ts";
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

/** Two ranks in this process: each passes on what it has and waits for the other. */
function pairOfRanks(): Ranks[] {
  const arrived: { values: unknown; resolve: (all: unknown[]) => void }[][] = [[], []];
  const exchange = (rank: number, values: unknown): Promise<unknown[]> => {
    const all = new Promise<unknown[]>((resolve) => arrived[rank]!.push({ values, resolve }));
    while (arrived[0]!.length && arrived[1]!.length) {
      const both = arrived.map((queue) => queue.shift()!);
      for (const { resolve } of both) resolve(both.map(({ values: own }) => own));
    }
    return all;
  };
  return [0, 1].map((rank) => ({
    once: (work) => work(),
    sumCounts: async (counts) => {
      const [a, b] = (await exchange(rank, counts)) as number[][];
      return a!.map((count, i) => count + b![i]!);
    },
    sumGradients: async (parameters) => {
      const grads = [...parameters].flatMap(({ grad }) => grad ?? []);
      const own = await Promise.all(grads.map((grad) => grad.data()));
      const [a, b] = (await exchange(rank, own)) as Float32Array[][];
      const sum = (i: number): Float32Array => a![i]!.map((x, k) => x + b![i]![k]!);
      scope(() => {
        for (const [i, grad] of grads.entries()) copyInto(grad, tensor(sum(i), { shape: grad.shape }));
      });
    },
  }));
}

async function steps(
  ranks: Ranks,
  samples: readonly Sample[],
): Promise<{ weights: Map<string, Float32Array>; norms: number[] }> {
  const model = createModel(SIZES, { seed: 3, dtype: "f32" });
  const trainer = new Trainer(model, SIZES, config, 0, ranks);
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
  const halves = await Promise.all(pairOfRanks().map((ranks, rank) => steps(ranks, [samples[rank]!])));
  expect(whole.weights.size).toBeGreaterThan(20);
  for (const half of halves) expect(half).toEqual(whole);
  expect(await steps(ONE_PROCESS, samples.slice(0, 1))).not.toEqual(whole);
});
