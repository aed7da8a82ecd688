/**
 * DPO and GRPO on a GPU: losses and gradients against float64 formulas over those of the losses of tokens, which have references of their own; whole runs,
 * stopped and resumed bit for bit; rewards that rise.
 */
import "../quick_compile.ts";
import { mkdirSync, mkdtempSync, readFileSync, readdirSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { newCheckpoint } from "../../examples/new_checkpoint.ts";
import { ArgumentError, backward, noGrad, scope, tensor } from "../../index.ts";
import type { Tensor } from "../../index.ts";
import { encodePng } from "../../model/janus/node/index.ts";
import { ImageGeneration } from "../../model/janus/generate_images.ts";
import { createModel, tinyConfig } from "../../model/janus/create.ts";
import type { JanusForConditionalGeneration } from "../../model/janus/janus.ts";
import { imageTokens } from "../../model/janus/config.ts";
import { loraLayersOf } from "../../model/nn/lora.ts";
import { checkConfig } from "../../train/config.ts";
import type { TrainConfig } from "../../train/config.ts";
import { Preferences } from "../../train/dpo.ts";
import { RewardedImages, drawnSample } from "../../train/grpo.ts";
import { hiddenStates } from "../../train/loss.ts";
import { taskLosses } from "../../train/loss.ts";
import { RewardError } from "../../train/policy.ts";
import type { RewardFunction } from "../../train/policy.ts";
import { imageSample, layRows, targetsOf, textSample } from "../../train/samples.ts";
import type { PackedRows, Sample } from "../../train/samples.ts";
import { train } from "../../train/node/train.ts";
import type { RunOptions, RunResult } from "../../train/node/train.ts";
import { Trainer } from "../../train/trainer.ts";
import { errorOf, useDevice } from "../gpu.ts";
import { tolerance } from "../harness.ts";
import { isLong } from "../long.ts";
import { randomFrom } from "../random.ts";
import { SMALL } from "../small_model.ts";

const device = useDevice();
const SIZES = tinyConfig(SMALL);
const LENGTH = 80;
const settings = (more: object): TrainConfig =>
  checkConfig({
    stage: 2,
    batch: 2,
    length: LENGTH,
    steps: 4,
    ratios: { und: 0, text: 0, gen: 1 },
    optimizer: { lr: 1e-3 },
    conditioningDropout: 0,
    save: { every: 100, keep: 5 },
    report: { every: 0 },
    ...more,
  });

const random = randomFrom(11);
const whole = (n: number, below: number): number[] => Array.from({ length: n }, () => Math.floor(random() * below));

/** Gives the adapters an update that is not 0. */
function moveAdapters(model: JanusForConditionalGeneration, by: number): void {
  for (const [, layer] of loraLayersOf(model)) {
    const { weight } = layer.lora_B.get("default")!;
    weight.writeBytes(new Uint8Array(Float32Array.from({ length: weight.size }, () => by * (random() - 0.5)).buffer));
  }
}

async function gradientsOf(trainer: Trainer): Promise<Map<string, Float32Array>> {
  const found = new Map<string, Float32Array>();
  for (const [name, parameter] of trainer.trained) {
    if (!parameter.grad) continue;
    found.set(name, (await parameter.grad.data()) as Float32Array);
    parameter.grad.dispose();
    parameter.grad = null;
  }
  return found;
}

/** Gradients of Σ factor · −log p over the trained tokens of the rows. */
async function weighted(
  trainer: Trainer,
  rows: PackedRows,
  task: "text" | "gen",
  factors: Float32Array,
): Promise<Map<string, Float32Array>> {
  scope(() => {
    const losses = taskLosses(trainer.model, rows, SIZES.vision.imageSize, "none")[task]!;
    backward(losses.mul(tensor(factors)).sum());
  });
  return gradientsOf(trainer);
}

function expectGradients(found: ReadonlyMap<string, Float32Array>, wanted: ReadonlyMap<string, Float32Array>): void {
  expect([...found.keys()].sort()).toEqual([...wanted.keys()].sort());
  expect(found.size).toBeGreaterThan(3);
  const sum = (of: (f: number, w: number) => number): number =>
    [...wanted].reduce((all, [name, w]) => all + w.reduce((s, v, i) => s + of(found.get(name)![i]!, v), 0), 0);
  const error = Math.sqrt(sum((f, w) => (f - w) ** 2) / sum((_, w) => w ** 2));
  expect(error).toBeLessThan(tolerance("gradient", ["f32"], 4 * LENGTH * SIZES.language.intermediate));
}

const data = async (t: Tensor): Promise<Float64Array> => Float64Array.from((await t.data()) as Float32Array);

describe("dpo", () => {
  const text = (n: number): Sample => textSample("text", whole(n, 600), whole(n, 600), [], -1, "a text");
  const prompt = whole(5, 600);
  const pairs = (): Sample[] => [
    { ...text(9), rejected: text(12) },
    { ...imageSample(prompt, whole(16, 64)), rejected: imageSample(prompt, whole(16, 64)) },
    { ...text(20), rejected: text(4) },
  ];

  it.each(["an adapter", "a reference"] as const)(
    "with %s has the loss and the gradient of its formula in float64",
    async (kind) => {
      const lora = kind === "an adapter" ? { lora: { rank: 2, targets: ["q_proj", "down_proj", "vision_head"] } } : {};
      const model = createModel(SIZES, { seed: 3 });
      const reference = lora.lora ? null : createModel(SIZES, { seed: 4 });
      const beta = 0.3;
      const config = settings({ ratios: { und: 0, text: 2, gen: 1 }, batch: 3, dpo: { beta }, weights: { text: 2 }, ...lora }); // prettier-ignore
      const trainer = new Trainer(model, SIZES, config, 0, { reference });
      if (lora.lora) moveAdapters(model, 0.5);
      const samples = pairs();
      const accumulated = await trainer.accumulate(samples);
      const found = await gradientsOf(trainer);
      let loss = 0;
      const sums = [0, 0];
      const wanted = new Map<string, Float32Array>();
      for (const sample of samples) {
        const rows = layRows([[sample], [sample.rejected!]], LENGTH, 0, imageTokens(SIZES));
        const task = sample.task as "text" | "gen";
        const at = (one: JanusForConditionalGeneration): Tensor =>
          noGrad(() => scope(() => taskLosses(one, rows, SIZES.vision.imageSize, "none")[task]!)).keep();
        using now = at(model);
        let base: Tensor;
        if (reference) base = at(reference);
        else {
          for (const [, layer] of loraLayersOf(model)) layer.setWeight("default", 0);
          base = at(model);
          for (const [, layer] of loraLayersOf(model)) layer.setWeight("default", 1);
        }
        const [own, before] = [await data(now), await data(base)];
        base.dispose();
        const chosen = targetsOf(rows).get(sample)!.at.length;
        const z = beta * own.reduce((sum, v, i) => sum + (i < chosen ? -1 : 1) * (v - before[i]!), 0);
        const weight = (task === "text" ? 2 : 1) / samples.length;
        loss += weight * Math.log1p(Math.exp(-z));
        sums[0]! += Number(z > 0);
        sums[1]! += z;
        const slope = (weight * beta) / (1 + Math.exp(z));
        const factors = Float32Array.from(own, (_, i) => (i < chosen ? slope : -slope));
        for (const [name, grad] of await weighted(trainer, rows, task, factors))
          wanted.set(
            name,
            grad.map((v, i) => v + (wanted.get(name)?.[i] ?? 0)),
          );
      }
      expectGradients(found, wanted);
      const totals = await data(accumulated.losses);
      const total = accumulated.parts.reduce((sum, { task }, i) => sum + ((task === "text" ? 2 : 1) * totals[i]!) / samples.length, 0); // prettier-ignore
      expect(total).toBeCloseTo(loss, 4);
      const measures = await data(accumulated.measures!);
      expect(measures[0]).toBe(sums[0]);
      expect(measures[1]).toBeCloseTo(sums[1]!, 3);
      expect(accumulated.counts).toEqual({ und: 0, text: 2, gen: 1 });
      accumulated.losses.dispose();
      accumulated.measures!.dispose();
      const report = await trainer.take(samples);
      expect(report.measures!["margin"]).toBeCloseTo(sums[1]! / 3, 4);
      for (const one of [trainer, model, ...(reference ? [reference] : [])]) one.dispose();
    },
  );

  it("needs a reference without lora, refuses one with it, and samples without a pair", async () => {
    const model = createModel(SIZES);
    const trainer = (more: object, options = {}): Trainer => new Trainer(model, SIZES, settings({ dpo: {}, ...more }), 0, options); // prettier-ignore
    expect(() => trainer({})).toThrow(/reference must be a frozen copy of the model/);
    expect(() => trainer({ lora: {} }, { reference: model })).toThrow(/reference must be absent with lora/);
    const one = trainer({ lora: { rank: 1 } });
    await expect(one.take([text(5)])).rejects.toThrow(ArgumentError);
    one.dispose();
    model.dispose();
  });
});

describe("grpo", () => {
  it.each([[1, 1], [1.7, 0.8]] as const)("at guidance %d and temperature %d has the gradient of its formula in float64, also where ratios are clipped", async (guidance, temperature) => {
    const model = createModel(SIZES, { seed: 3 });
    const [beta, clip] = [0.5, 0.02];
    const config = settings({ grpo: { beta, clip, updates: 2 }, lora: { rank: 2, targets: ["q_proj", "down_proj", "vision_head"] }, microRows: 8 }); // prettier-ignore
    const trainer = new Trainer(model, SIZES, config, 0, { drawing: { guidance, temperature } });
    const prompt = { ids: whole(5, 600), name: "a prompt" };
    const samples = [1.2, -0.7].map((advantage) => drawnSample(prompt, whole(16, 64), { advantage, guidance, pad: 0 }));
    const rows = layRows([samples.flatMap((one) => [one, ...(one.drawn!.unconditional ? [one.drawn!.unconditional] : [])])], LENGTH, 0, imageTokens(SIZES)); // prettier-ignore

    /** Logits that codes are drawn from, in float64, with the losses' log-probabilities. */
    const state = async (): Promise<{ readonly log: number[]; readonly p: Float64Array[] }> => {
      const logits = noGrad(() => scope(() => model.codeLogits(hiddenStates(model, rows, SIZES.vision.imageSize).reshape([LENGTH, -1])))).keep(); // prettier-ignore
      const all = await data(logits);
      logits.dispose();
      const V = SIZES.vq.codes;
      const targets = targetsOf(rows);
      const [log, p]: [number[], Float64Array[]] = [[], []];
      for (const sample of samples) {
        const { at, to } = targets.get(sample)!;
        const other = sample.drawn!.unconditional ? targets.get(sample.drawn!.unconditional)!.at : null;
        for (const [i, token] of at.entries()) {
          const row = Float64Array.from({ length: V }, (_, v) => {
            const c = all[token * V + v]!;
            const u = other ? all[other[i]! * V + v]! : c;
            return (u + guidance * (c - u)) / temperature;
          });
          const top = Math.max(...row);
          const lse = top + Math.log(row.reduce((sum, v) => sum + Math.exp(v - top), 0));
          log.push(row[to[i]!]! - lse);
          p.push(row.map((v) => Math.exp(v - lse)));
        }
      }
      return { log, p };
    };

    const base = await state(); // without the adapter, whose update is 0
    moveAdapters(model, 0.3);
    const old = await state();
    const first = await trainer.accumulate(samples);
    await gradientsOf(trainer);
    moveAdapters(model, 0.4);
    const now = await state();
    const accumulated = await trainer.accumulate(samples); // of the same step: against the probabilities of the first
    const found = await gradientsOf(trainer);

    const codes = now.log.length;
    const advantage = (i: number): number => samples[Math.floor((i * samples.length) / codes)]!.drawn!.advantage;
    let [loss, kl, clipped] = [0, 0, 0];
    const slopes = now.log.map((log, i) => {
      const [ratio, d, a] = [Math.exp(log - old.log[i]!), base.log[i]! - log, advantage(i)];
      const bounded = Math.min(1 + clip, Math.max(1 - clip, ratio));
      loss += beta * (Math.exp(d) - d - 1) - Math.min(ratio * a, bounded * a);
      kl += Math.exp(d) - d - 1;
      clipped += Number(bounded !== ratio);
      const isFlat = ratio * a > bounded * a;
      return (beta * (1 - Math.exp(d)) - (isFlat ? 0 : a * ratio)) / codes; // by log p
    });
    expect(clipped).toBeGreaterThan(3);
    expect(clipped).toBeLessThan(codes);
    // Through the logits of the head: d log p / d logits = onehot − p, with the guidance of each row.
    const targets = targetsOf(rows);
    const V = SIZES.vq.codes;
    const flow = new Float32Array(LENGTH * V);
    let i = 0;
    for (const sample of samples) {
      const { at, to } = targets.get(sample)!;
      const other = sample.drawn!.unconditional ? targets.get(sample.drawn!.unconditional)!.at : null;
      for (const [k, token] of at.entries()) {
        for (let v = 0; v < V; v++) {
          const g = (slopes[i]! * (Number(v === to[k]) - now.p[i]![v]!)) / temperature;
          flow[token * V + v]! += g * (other ? guidance : 1);
          if (other) flow[other[k]! * V + v]! += g * (1 - guidance);
        }
        i++;
      }
    }
    scope(() => {
      const logits = model.codeLogits(hiddenStates(model, rows, SIZES.vision.imageSize).reshape([LENGTH, -1]));
      backward(logits.mul(tensor(flow, { shape: [LENGTH, V] })).sum());
    });
    expectGradients(found, await gradientsOf(trainer));
    expect((await data(accumulated.losses))[0]! / codes).toBeCloseTo(loss / codes, 4);
    const measures = await data(accumulated.measures!);
    expect(measures[0]! / codes).toBeCloseTo(kl / codes, 4);
    expect(measures[1]).toBe(clipped);
    for (const one of [first, accumulated]) {
      one.losses.dispose();
      one.measures!.dispose();
    }
    await trainer.take(samples); // frees what the step has kept
    trainer.dispose();
    model.dispose();
  }); // prettier-ignore
});

describe("codes that are drawn", () => {
  it.each([1, 1.7])("at guidance %d and temperature 0 are those that training finds certain at a temperature near 0", async (guidance) => {
    const model = createModel(SIZES, { seed: 5 });
    const prompts = [5, 8].map((n) => whole(n, 600));
    const generation = new ImageGeneration(model.eval(), SIZES, prompts, 0, { guidance, temperature: 0 });
    for await (const _ of generation.run()); // until all are drawn
    const drawn = await generation.codes();
    generation.dispose();
    const samples = drawn.map((codes, i) => drawnSample({ ids: prompts[i]!, name: `prompt ${i}` }, codes, { advantage: 1, guidance, pad: 0 })); // prettier-ignore
    const config = settings({ grpo: { beta: 0, updates: 2 } }).grpo!;
    const objective = new RewardedImages({ model: model.train(), imageSize: SIZES.vision.imageSize, reference: null }, config, { guidance, temperature: 1e-6 }); // prettier-ignore
    const [group] = objective.groupsOf(samples, { length: 2 * LENGTH, microRows: 1 });
    noGrad(() => scope(() => void objective.lossesOf(layRows(group!, 2 * LENGTH, 0, imageTokens(SIZES)), 0)));
    const log = (await objective["kept"].get(0)!.old.data()) as Float32Array;
    expect(log.length).toBe(2 * imageTokens(SIZES));
    expect(Math.min(...log)).toBeGreaterThan(-1);
    expect(new Set(drawn.flat()).size).toBeGreaterThan(2);
    objective.endStep();
    model.dispose();
  }); // prettier-ignore
});

describe("runs", () => {
  const home = mkdtempSync(join(tmpdir(), "janus-preferences-"));
  const at = (...names: string[]): string => join(home, ...names);
  beforeAll(async () => {
    await newCheckpoint(at("model"), {
      device: device(),
      changes: SMALL,
      texts: ["a red square. a blue square. green"],
    });
    mkdirSync(at("data"));
    const write = (name: string, rows: readonly object[]): void => writeFileSync(at("data", name), rows.map((row) => `${JSON.stringify(row)}\n`).join("")); // prettier-ignore
    const colours = { red: [220, 30, 30], green: [30, 200, 40], blue: [40, 60, 220] };
    for (const [name, rgb] of Object.entries(colours)) {
      const pixels = Uint8Array.from({ length: 3 * 32 * 32 }, (_, i) => rgb[i % 3]! + (i % 9));
      writeFileSync(at("data", `${name}.png`), await encodePng({ width: 32, height: 32, data: pixels }));
    }
    const names = Object.keys(colours);
    const others = names.flatMap((a) => names.filter((b) => b !== a).map((b) => [a, b] as const));
    write("images.jsonl", others.map(([a, b]) => ({ prompt: `a ${a} square`, chosen_image: `${a}.png`, rejected_image: `${b}.png` }))); // prettier-ignore
    write("answers.jsonl", others.map(([a, b]) => ({ prompt: "what colour?", image: `${a}.png`, chosen: a, rejected: b }))); // prettier-ignore
    write("prompts.jsonl", names.map((name) => ({ prompt: `a ${name} square` }))); // prettier-ignore
  });
  afterAll(() => rmSync(home, { recursive: true, force: true }));

  const go = (run: string, config: TrainConfig, sources: readonly string[], more: Partial<RunOptions> = {}): Promise<RunResult> =>
    train({ model: at("model"), run: at(run), config, sources: sources.map((name) => ({ path: at("data", name) })), cache: at("cache"), device: device(), ceiling: 1e9, ...more }); // prettier-ignore

  type Line = { readonly loss: number; readonly measures: Record<string, number> };
  const logOf = (run: string): Line[] =>
    readFileSync(at(run, "log.jsonl"), "utf8")
      .trim()
      .split("\n")
      .map((line) => {
        const { loss, gradNorm, measures, tasks } = JSON.parse(line) as Line & Record<string, unknown>;
        return { loss, gradNorm, measures, tasks };
      });

  function expectEqualRuns(a: string, b: string, step: string): void {
    expect(logOf(a)).toEqual(logOf(b));
    const files = readdirSync(at(a, step)).sort();
    expect(readdirSync(at(b, step)).sort()).toEqual(files);
    for (const name of files) expect(Buffer.compare(readFileSync(at(a, step, name)), readFileSync(at(b, step, name))), name).toBe(0); // prettier-ignore
  }

  /** More red than blue, and a little of what the prompt says. */
  const redness: RewardFunction = async (images) =>
    images.map(({ image: { data: pixels } }) => pixels.reduce((sum, v, i) => sum + (i % 3 === 0 ? v : i % 3 === 2 ? -v : 0), 0) / pixels.length); // prettier-ignore

  const RUNS = [
    [
      "dpo with a reference",
      { dpo: { beta: 0.5 }, batch: 4, length: 256, ratios: { und: 1, text: 0, gen: 1 } },
      ["images.jsonl", "answers.jsonl"],
      false,
    ],
    [
      "dpo on int4 weights",
      { dpo: {}, lora: { rank: 2, dropout: 0.1, quantize: "int4" }, batch: 3 },
      ["images.jsonl"],
      false,
    ],
    [
      "grpo of an adapter",
      { grpo: { group: 3, updates: 2 }, lora: { rank: 2 }, microRows: 4, dtype: "bf16" },
      ["prompts.jsonl"],
      true,
    ],
    ["grpo with a reference", { grpo: { group: 3, guidance: 1 }, microRows: 4 }, ["prompts.jsonl"], true],
  ] as const;
  it.each(RUNS.filter(([name]) => isLong || !["dpo on int4 weights", "grpo with a reference"].includes(name)))("of %s end with the same bytes if they are stopped and resumed, and refuse another model", async (name, more, sources, isRewarded) => {
    const config = (stopAt: number): TrainConfig => settings({ ...more, steps: 2, stopAt });
    const rewarded = isRewarded ? { reward: redness } : {};
    await go(`${name} straight`, config(2), sources, rewarded);
    await go(`${name} stopped`, config(1), sources, rewarded);
    const { steps, checkpoint } = await go(`${name} stopped`, config(2), sources, rewarded);
    expect(steps).toBe(2);
    expectEqualRuns(`${name} straight`, `${name} stopped`, "step-00000002");
    const measures = Object.keys(logOf(`${name} stopped`)[1]!.measures);
    expect(measures).toEqual(isRewarded ? ["reward", "flat", "kl", "clipped"] : ["accuracy", "margin"]);
    const other = "lora" in more ? at("other") : checkpoint;
    if ("lora" in more) await newCheckpoint(other, { device: device(), changes: SMALL, seed: 9, texts: ["a"] }).catch(() => undefined); // prettier-ignore
    const error = await errorOf(() => go(`${name} stopped`, settings({ ...more, steps: 3 }), sources, { ...rewarded, model: other }));
    expect(error.message).toMatch(/the model must be the one that .* began with/);
  }); // prettier-ignore

  it("of dpo prefer what they are trained to", async () => {
    await go("learned", settings({ dpo: { beta: 0.5 }, steps: 12, batch: 6, microRows: 12 }), ["images.jsonl"]);
    const log = logOf("learned");
    expect(log[0]!.measures).toEqual({ accuracy: 0, margin: 0 }); // the model is its reference
    expect(log[0]!.loss).toBeCloseTo(Math.log(2), 5);
    expect(log.at(-1)!.measures["accuracy"]).toBe(1);
    expect(log.at(-1)!.loss).toBeLessThan(0.3);
  });

  it.runIf(isLong)("of grpo earn more reward", async () => {
    await go("rewarded", settings({ grpo: { group: 12, guidance: 1, temperature: 1, beta: 0 }, steps: 10, microRows: 24, optimizer: { lr: 5e-3 } }), ["prompts.jsonl"], { reward: redness }); // prettier-ignore
    const rewards = logOf("rewarded").map(({ measures }) => measures["reward"]!);
    expect(rewards.at(-1)! - rewards[0]!).toBeGreaterThan(0);
  });

  it("refuse rewards that are missing, too few or not finite, and data of another use, with the steps before them kept", async () => {
    const grpo = settings({ grpo: { group: 2 }, lora: { rank: 1 } });
    const refused = (sources: string, more: Partial<RunOptions> = {}, config = grpo): Promise<Error> => errorOf(() => go("refused", config, [sources], more)); // prettier-ignore
    expect((await refused("prompts.jsonl")).message).toMatch(/grpo needs one reward, .* got none/);
    expect((await refused("images.jsonl", { reward: redness })).message).toMatch(/need prompts .* got records of kind image_preferences/); // prettier-ignore
    expect((await refused("prompts.jsonl", {}, settings({ dpo: {}, lora: {} }))).message).toMatch(/need preferences/);
    expect((await refused("prompts.jsonl", {}, settings({}))).message).toMatch(/need records to imitate/);
    let calls = 0;
    const broken: RewardFunction = async (images) => (calls++ ? images.map(() => NaN) : redness(images));
    const error = await refused("prompts.jsonl", { reward: broken }, { ...grpo, save: { every: 1, keep: 1 } });
    expect(error).toBeInstanceOf(RewardError);
    expect(error.message).toMatch(/one finite number for each of 4 images; got NaN for image 0/);
    expect(readdirSync(at("refused"))).toContain("step-00000001");
    const few = await refused("prompts.jsonl", { reward: async () => [1] });
    expect(few.message).toMatch(/for each of 4 images; got 1\. Correct/);
    const silent = await errorOf(() => go("silent", settings({ grpo: { group: 2, reward: "exit 3" }, lora: { rank: 1 } }), ["prompts.jsonl"])); // prettier-ignore
    expect(silent.message).toMatch(/must print 4 numbers; got 0, then it ended with code 3/);
  });
});

it("objectives refuse samples that are not theirs", () => {
  const of = { model: null as never, imageSize: 32, reference: null };
  const sample = imageSample([1, 2], [3, 4]);
  expect(() => new Preferences(of, 0.1).groupsOf([sample], settings({}))).toThrow(/every sample must have one that is preferred less/); // prettier-ignore
  const { grpo } = settings({ grpo: {} });
  expect(() => new RewardedImages(of, grpo!, { guidance: 1, temperature: 1 }).groupsOf([sample], settings({}))).toThrow(/every sample must be an image that was drawn/); // prettier-ignore
});
