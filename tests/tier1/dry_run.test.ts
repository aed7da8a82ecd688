/** The estimate of a dry run against the measured cost of the step on this device. */
import { mkdtempSync, readdirSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { newCheckpoint } from "../../examples/new_checkpoint.ts";
import { Device, OutOfMemoryError, setDevice } from "../../index.ts";
import type { ConfigChanges } from "../../model/janus/create.ts";
import { checkConfig, checkTokenizerConfig } from "../../train/config.ts";
import type { TrainConfig } from "../../train/config.ts";
import { estimateStep, launchStep } from "../../train/estimate.ts";
import type { StepEstimate } from "../../train/estimate.ts";
import { JANUS_PRO_7B } from "../../model/janus/config.ts";
import { JanusForConditionalGeneration } from "../../model/janus/janus.ts";
import { quantizedBase } from "../../train/lora.ts";
import { Trainer } from "../../train/trainer.ts";
import { dryRun, dryRunTokenizer } from "../../train/node/dry_run.ts";
import { addTrain } from "../../cli/train.ts";
import { runCli, runHere } from "../cli.ts";
import { errorOf } from "../gpu.ts";
import { isLong } from "../long.ts";

const home = mkdtempSync(join(tmpdir(), "janus-dry-run-"));
const model = join(home, "model");
let device: Device;
/** Thinner and flatter than the tiny model, with as many tokens a picture. */
const SMALLER: ConfigChanges = {
  vision: { layers: 1 },
  vq: { resBlocks: 1 },
  language: { hidden: 64, intermediate: 128, layers: 2, heads: 2, kvHeads: 2 },
};

beforeAll(async () => {
  device = await Device.create();
  setDevice(device);
  await newCheckpoint(model, { device, changes: isLong ? {} : SMALLER });
});
afterAll(() => {
  device.destroy();
  rmSync(home, { recursive: true, force: true });
});

const settings = (more: Record<string, unknown>): TrainConfig =>
  checkConfig({
    stage: 1,
    batch: 8,
    length: 224,
    steps: 100,
    ratios: { und: 1, text: 1, gen: 2 },
    optimizer: { lr: 1e-3 },
    ...more,
  });

const WAYS = [
  { dtype: "f32" },
  { dtype: "f32", recompute: true },
  { dtype: "bf16", microRows: 2 },
  { dtype: "bf16", microRows: 3, recompute: true, ema: { decay: 0.99 } },
  { dtype: "f16", microRows: 2, recompute: true },
  { dtype: "bf16", recompute: true, lora: { rank: 4 }, optimizer: { lr: 1e-3, moments: "int8" } },
  { dtype: "bf16", microRows: 2, lora: { rank: 8, dropout: 0.1, quantize: "int4" } },
];

describe.each([1, 2, 3] as const)("stage %i", (stage) => {
  // In the short form each way in one stage.
  it.each(WAYS.filter((_, at) => isLong || at % 3 === stage % 3))("with %j takes what was estimated", async (more) => {
    const live = device.pool.stats.liveBytes;
    device.pool.trim();
    const { estimate, measured } = await dryRun({ model, config: settings({ stage, ...more }), device });
    if (!measured) throw new Error("no step was taken");
    const { memory, samples, rows } = estimate;
    expect(Math.abs(memory.peak / measured.peak - 1)).toBeLessThan(0.1);
    expect(Math.abs(memory.buffers / measured.buffers - 1)).toBeLessThan(0.1);
    expect([samples.length, rows]).toEqual([8, 6]);
    expect(measured.seconds).toBeGreaterThan(0);
    expect(device.pool.stats.liveBytes, device.pool.table()).toBe(live);
  });
});

/** Layers of the 7B model's widths, of which a step holds the frozen weights in int4 and in bf16. */
it.runIf(isLong).each([
  [1, "int4", false],
  [2, "int4", true],
  [1, undefined, false],
] as const)("%d layers as wide as those of the 7B model, quantised to %s, take what was estimated", async (layers, quantize, recompute) => {
  const { language, vision } = JANUS_PRO_7B;
  const sizes = { ...JANUS_PRO_7B, language: { ...language, layers, vocabulary: 8192 }, vision: { ...vision, layers: 1 } };
  const lora = { rank: 16, ...(quantize && { quantize }) };
  const config = settings({ stage: 2, batch: 2, length: 192, ratios: { und: 0, text: 1, gen: 0 }, dtype: "bf16", recompute, lora });
  const own = await Device.create();
  try {
    const { memory, samples } = await estimateStep(sizes, config, own);
    const wide = new JanusForConditionalGeneration(sizes, { dtype: "bf16", init: false, device: own, ...quantizedBase(config) });
    const trainer = new Trainer(wide, sizes, config, 0);
    own.pool.resetPeak();
    const { losses } = await launchStep(trainer, sizes, samples);
    await losses.data();
    const { peakBytes, reservedBytes } = own.pool.stats;
    console.log(`${layers} layers, ${quantize ?? "bf16"}: peak ${(peakBytes / 1e9).toFixed(3)} GB, counted ${(memory.peak / 1e9).toFixed(3)}; buffers ${(reservedBytes / 1e9).toFixed(3)} GB, counted ${(memory.buffers / 1e9).toFixed(3)}`);
    expect(Math.abs(memory.peak / peakBytes - 1)).toBeLessThan(0.1);
    expect(Math.abs(memory.buffers / reservedBytes - 1)).toBeLessThan(0.1);
  } finally {
    own.destroy();
  }
}, 600_000); // prettier-ignore

describe("stage 0", () => {
  const SETTINGS = [
    { batch: 5, microBatch: 2, reseed: { every: 0 } },
    { batch: 3, microBatch: 2, adversarial: { weight: 0.5, from: 0 } },
    { batch: 4, microBatch: 4 },
  ];
  it.each(isLong ? SETTINGS : SETTINGS.slice(0, 2))("with %j takes what was estimated", async (more) => {
    const config = checkTokenizerConfig({ stage: 0, steps: 10, optimizer: { lr: 1e-3 }, rateWeight: 0.01, ...more });
    const live = device.pool.stats.liveBytes;
    device.pool.trim();
    const { estimate, measured } = await dryRunTokenizer({ model, config, device });
    if (!measured) throw new Error("no step was taken");
    const { memory, parts, parameters, launches, flops } = estimate;
    expect(Object.keys(parts).sort()).toEqual(["image codebook", "image decoder", "image encoder"]);
    expect(parameters.frozen).toBe(0);
    expect(Math.abs(memory.peak / measured.peak - 1)).toBeLessThan(0.1);
    expect(Math.abs(memory.buffers / measured.buffers - 1)).toBeLessThan(0.1);
    expect(memory.weights + memory.optimizer + memory.gradients + memory.activations).toBe(memory.peak);
    expect([launches > 500, flops > 1e8, measured.seconds > 0]).toEqual([true, true, true]);
    expect(device.pool.stats.liveBytes, device.pool.table()).toBe(live);
  });
});

it("a step that does not fit into the memory of the device is refused before the model is loaded", async () => {
  const config = settings({ stage: 3 });
  const narrow = await Device.create({ memoryBudget: 8 << 20 });
  const told: StepEstimate[] = [];
  const error = await errorOf(() =>
    dryRun({ model, config, device: narrow, onEstimate: (estimate) => told.push(estimate) }),
  );
  expect(error).toBeInstanceOf(OutOfMemoryError);
  expect(error.message).toMatch(
    /a step takes 0\.\d+ GB of memory, .* has 0\.01 GB for it; recompute=true, .* take less/,
  );
  expect(told.map(({ fits }) => fits)).toEqual([false]);
  expect(narrow.pool.stats.peakBytes).toBeLessThan(told[0]!.memory.weights);
  narrow.destroy();
});

it("janus train --dry-run estimates, takes a step if asked, and leaves the run alone", async () => {
  const run = join(home, "run");
  const command = ["train", "stage2", "--model", model, "--run", run, "--data", "nothing.jsonl", "--dry-run"];
  const changes = ["--set", "batch=10", "length=224", "steps=40", "stopAt=30"];
  const { code, stdout, stderr } = await runCli([...command, "--measure-step", ...changes, "--json"], { cwd: home });
  expect(code, stderr).toBe(0);
  const { estimate, run: whole, measured } = JSON.parse(stdout) as Record<string, Record<string, number>>;
  expect(estimate).toMatchObject({ samples: 10, rows: 7, tokens: { und: 448, text: 672, gen: 448 } });
  expect(whole).toMatchObject({ steps: 30, tokens: { und: 30 * 448 }, flops: 30 * estimate!["flops"]! });
  expect(Object.keys(measured!)).toEqual(["peak", "buffers", "seconds"]);
  const { peak } = (estimate as unknown as { memory: { peak: number } }).memory; // a table of tables
  expect(measured!["peak"]! / peak).toBeCloseTo(1, 3);
  expect(readdirSync(home)).toEqual(["model"]);
  const text = await runHere(addTrain, [...command, ...changes]);
  expect(text.stdout).toMatch(
    /parameters\n +trained +frozen\n(.|\n)*memory at its highest(.|\n)*the longest step: 10 samples in 7 rows of 224 tokens\n(.|\n)*the run: at most 30 such steps\n(.|\n)*no step was taken; --measure-step/,
  );
  expect(readdirSync(home)).toEqual(["model"]);
});
