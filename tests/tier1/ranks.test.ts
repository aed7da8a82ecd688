/** The seam for ranks: two or three trainers that share a step, with counts and gradients summed between them, do what one does alone. */
import { createHash } from "node:crypto";
import { describe, expect, it } from "vitest";
import { tensor } from "../../index.ts";
import type { Tensor } from "../../index.ts";
import { createModel, tinyConfig } from "../../model/janus/create.ts";
import { checkConfig } from "../../train/config.ts";
import type { TrainConfig } from "../../train/config.ts";
import { ONE_PROCESS } from "../../train/ranks.ts";
import type { Ranks } from "../../train/ranks.ts";
import { imageSample, textSample } from "../../train/samples.ts";
import type { Sample } from "../../train/samples.ts";
import { needsReference } from "../../train/objective.ts";
import { Trainer } from "../../train/trainer.ts";
import { useDevice } from "../gpu.ts";
import { isLong } from "../long.ts";
import { ranksHere } from "../ranks_here.ts";
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

/** An image and an answer about it. */
function picture(name: string, first: number): Sample {
  const placeholder = 599;
  const ids = [1, ...new Array<number>(16).fill(placeholder), 2, 3, 4, 5, 6].map((id) =>
    id === placeholder ? id : id + first,
  );
  const pixels = Float32Array.from({ length: 3 * 32 * 32 }, (_, i) => ((i * 7 + first) % 256) / 128 - 1);
  return textSample("und", ids, ids.map((id, i) => (i > 18 ? id : -100)), [pixels], placeholder, name); // prettier-ignore
}

async function steps(
  ranks: Ranks,
  samples: readonly Sample[],
  settings = config,
): Promise<{ weights: Map<string, string>; norms: number[]; elements: number; measures: Record<string, number>[] }> {
  const model = createModel(SIZES, { seed: 3, dtype: settings.dtype });
  const reference = needsReference(settings) ? createModel(SIZES, { seed: 4, dtype: settings.dtype }) : null;
  const drawing = settings.grpo ? { guidance: 2, temperature: 1 } : null;
  const trainer = new Trainer(model, SIZES, settings, 0, { ranks, reference, ...(drawing && { drawing }) });
  try {
    const norms: number[] = [];
    const measures: Record<string, number>[] = [];
    for (let step = 0; step < 2; step++) {
      const report = await trainer.take(samples);
      norms.push(report.gradNorm);
      measures.push({ ...report.measures });
    }
    const hash = async (weight: Tensor): Promise<string> =>
      createHash("sha256")
        .update(await weight.readBytes())
        .digest("hex");
    const weights = new Map<string, string>();
    await trainer.whole(async () => {
      for (const [name, weight] of trainer.trained) weights.set(name, await hash(weight));
    });
    const elements = [...trainer.trained.values()].reduce((sum, { size }) => sum + size, 0);
    return { weights, norms, elements, measures };
  } finally {
    trainer.dispose();
    model.dispose();
    reference?.dispose();
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

/** Four samples of all tasks, one for each of four ranks, and settings that train them. */
const MIXED: readonly Sample[] = [
  text("a", 5, 20),
  picture("b", 7),
  imageSample(
    [3, 9, 27, 4],
    Array.from({ length: 16 }, (_, i) => (11 * i) % 64),
    null,
    "c",
  ),
  text("d", 11, 3),
];
const mixed = (more: Record<string, unknown>): TrainConfig =>
  checkConfig({ ...config, batch: 4, ratios: { und: 1, text: 2, gen: 1 }, ...more });

const SHARDINGS = ["none", "optimizer", "gradients", "parameters"] as const;
/** Stages and dtypes, and how many ranks share a step: short forms take the fewest that meet everything. */
const GRID = [1, 2, 3].flatMap((stage) =>
  ["f32", "bf16"].flatMap((dtype) => [2, 4].map((ranks) => ({ stage, dtype, ranks }))),
);
const SHORT = GRID.filter(({ stage, dtype, ranks }) => (stage === 2 && dtype === "f32" && ranks === 4) || (stage === 3 && dtype === "bf16" && ranks === 2)); // prettier-ignore

describe.each(isLong ? GRID : SHORT)("stage $stage, $dtype, $ranks ranks", ({ stage, dtype, ranks }) => {
  // As many samples as ranks: one process adds up their rows in the order of the ranks.
  const samples = MIXED.slice(0, ranks);
  const settings = (sharding: string): TrainConfig => mixed({ stage, dtype, sharding, ema: { decay: 0.5 } });
  let whole: Awaited<ReturnType<typeof steps>>;

  it.each(SHARDINGS)("sharding: %s gives the bits of one process", async (sharding) => {
    whole ??= await steps(ONE_PROCESS, samples, settings("none"));
    const world = ranksHere(ranks);
    for (const own of await Promise.all(world.map((one) => steps(one, samples, settings(sharding)))))
      expect(own).toEqual(whole);
    // Of two steps; with all four tasks every parameter has a gradient.
    const sent = world.reduce((sum, { traffic }) => sum + traffic.bytes, 0) / ranks / 2;
    if (sharding === "none" && ranks === MIXED.length)
      expect(sent / (((2 * (ranks - 1)) / ranks) * 4 * whole.elements)).toBeCloseTo(1, 2);
  });
});

it("gradients of several rows wait in host memory, and add up as without sharding", async () => {
  const samples = [text("a", 5, 20), text("b", 11, 3), text("c", 2, 9)]; // rank 0 has two rows, rank 1 has one
  const run = (sharding: string): Promise<object[]> =>
    Promise.all(ranksHere(2).map((ranks) => steps(ranks, samples, checkConfig({ ...config, sharding }))));
  const none = await run("none");
  for (const sharding of ["gradients", "parameters"]) expect(await run(sharding)).toEqual(none);
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

// Where weights are divided every rank needs the others to skip; the other way is in the long form.
it.each(isLong ? ["none", "parameters"] : ["parameters"])(
  "a sample of one rank that is not finite skips the step in all, which name it (sharding: %s)",
  async (sharding) => {
    const bad = picture("bad", 7);
    bad.images[0]![5] = NaN;
    const samples = [text("a", 5, 20), bad, text("d", 11, 3), text("e", 2, 9)]; // rank 1 of 3 has the bad one
    const ended = await Promise.all(
      ranksHere(3).map(async (ranks) => {
        const model = createModel(SIZES, { seed: 3 });
        const trainer = new Trainer(model, SIZES, mixed({ sharding, ema: { decay: 0.5 } }), 0, { ranks });
        const lmHead = (): Promise<Uint8Array> =>
          trainer.whole(async () => (await model.lm_head.weight.readBytes()).slice());
        try {
          const before = await lmHead();
          const { communication: _, ...skipped } = await trainer.take(samples);
          expect(await lmHead()).toEqual(before);
          const next = await trainer.take(samples.filter((one) => one !== bad));
          expect(await lmHead()).not.toEqual(before);
          return { skipped, loss: next.loss, norm: next.gradNorm };
        } finally {
          trainer.dispose();
          model.dispose();
        }
      }),
    );
    expect(ended[0]!.skipped).toMatchObject({ skipped: true, notFinite: { tasks: ["und"], samples: ["bad"] }, cause: { kind: "images", samples: ["bad"] } }); // prettier-ignore
    expect(ended[0]!.norm).toBeGreaterThan(0);
    for (const own of ended.slice(1)) expect(own).toEqual(ended[0]);
  },
);

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

/** Pairs of texts of unequal lengths. */
const PAIRS: readonly Sample[] = [3, 20, 11, 7].map((trained, i) => ({
  ...text(`chosen ${i}`, 5 + i, trained),
  rejected: text(`rejected ${i}`, 40 + i, 21 - trained),
}));
const LORA = { rank: 2, targets: ["q_proj", "down_proj"] };

describe("preferences on two ranks", () => {
  /** Weights and norms have the bits of one process; measures are sums of f32 there, of f64 over ranks. */
  async function expectBits(pairs: readonly Sample[], settings: TrainConfig): Promise<void> {
    const { measures, ...whole } = await steps(ONE_PROCESS, pairs, checkConfig({ ...settings, sharding: "none" }));
    expect(Object.keys(measures[1]!)).toEqual(["accuracy", "margin"]);
    expect(measures[1]!["margin"]).not.toBe(0);
    for (const own of await Promise.all(ranksHere(2).map((one) => steps(one, pairs, settings)))) {
      expect({ ...own, measures }).toEqual({ ...whole, measures });
      for (const [step, all] of measures.entries())
        for (const [name, value] of Object.entries(all))
          expect(Math.abs(own.measures[step]![name]! - value)).toBeLessThanOrEqual(2 ** -23 * Math.abs(value));
    }
  }
  const settings = (more: object): TrainConfig => checkConfig({ ...config, conditioningDropout: 0, dpo: {}, ...more });

  const WAYS = [
    ["an adapter", { lora: LORA }],
    ["a reference and sharding: optimizer", { sharding: "optimizer" }],
    ["a reference", {}],
  ] as const;
  it.each(isLong ? WAYS : WAYS.slice(0, 2))("with %s have the bits of one process", async (_, more) => {
    await expectBits(PAIRS.slice(0, 2), settings(more)); // a group for each rank
  });

  it("have measures though a rank has no pair", async () => {
    await expectBits(PAIRS.slice(0, 1), settings({ lora: LORA }));
  });
});
