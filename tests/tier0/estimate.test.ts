/** What a training step should take, from the null device: the longest batch, memory in whatever order, FLOPs against arithmetic from the config. */
import { describe, expect, it } from "vitest";
import { ArgumentError, Device, OutOfMemoryError, getDevice, nullCapabilities, setDevice } from "../../index.ts";
import { JANUS_PRO_1B, imageTokens } from "../../model/janus/config.ts";
import type { JanusConfig } from "../../model/janus/config.ts";
import { JANUS_TINY } from "../../model/janus/create.ts";
import { JanusForConditionalGeneration } from "../../model/janus/janus.ts";
import { checkConfig } from "../../train/config.ts";
import type { TrainConfig } from "../../train/config.ts";
import { estimateStep, longestBatch } from "../../train/estimate.ts";
import { TASKS, layRows, packSamples, trainedTokens } from "../../train/samples.ts";
import { Trainer } from "../../train/trainer.ts";
import { errorOf } from "../gpu.ts";

const settings = (more: Record<string, unknown> = {}): TrainConfig =>
  checkConfig({
    stage: 2,
    batch: 10,
    length: 224,
    steps: 100,
    ratios: { und: 2, text: 3, gen: 5 },
    optimizer: { lr: 1e-3 },
    ...more,
  });

it("a device that is created meanwhile becomes the default one", async () => {
  setDevice(null);
  const [, device] = await Promise.all([estimateStep(JANUS_TINY, settings()), Device.create({ backend: "null" })]);
  expect(getDevice()).toBe(device);
  device.destroy();
});

describe("the longest batch", () => {
  it("fills every row, with as many images as fit, and trains all that may be", () => {
    const config = settings();
    const { und, text, gen } = longestBatch(JANUS_TINY, config);
    expect([und.length, text.length, gen.length]).toEqual([2, 3, 5]);
    const packed = packSamples([...gen, ...und, ...text], 224);
    expect(packed.map((row) => row.length)).toEqual([3, 2, 1, 1, 1, 1, 1]); // three pictures of 65 tokens to a row of 224
    const rows = layRows(packed, 224, 0, 64);
    expect(rows.padding).toBe(0);
    expect(rows.images).toHaveLength(2 * 3);
    expect(und[0]!.places.filter((place) => place >= 0)).toEqual(Int32Array.from({ length: 3 * 64 }, (_, i) => i));
    expect(trainedTokens(und[0]!)).toBe(224 - 3 * 64 - 1); // all that follows something and is no image
    expect(trainedTokens(text[0]!)).toBe(223);
    expect(gen.map(trainedTokens)).toEqual([64, 64, 64, 64, 64]);
  });

  it("has no sample that is longer than the positions of the model", () => {
    const sizes = { ...JANUS_TINY, language: { ...JANUS_TINY.language, maxPositions: 100 } };
    for (const samples of Object.values(longestBatch(sizes, settings())))
      for (const { ids } of samples) expect(ids.length).toBeLessThanOrEqual(100);
  });

  it("has of each task as many samples as any step", () => {
    const counts = (batch: number, ratios: object): number[] =>
      Object.values(longestBatch(JANUS_TINY, settings({ batch, ratios }))).map((samples) => samples.length);
    expect(counts(4, { und: 1, text: 0, gen: 3 })).toEqual([1, 0, 3]);
    expect(counts(1, { und: 1, text: 1, gen: 2 })).toEqual([1, 1, 1]);
  });

  it("holds no image where none fits, and refuses rows without room for a picture that is to be drawn", async () => {
    expect(
      longestBatch(JANUS_TINY, settings({ length: 65, ratios: { und: 1, text: 0, gen: 1 } })).und[0]!.images,
    ).toEqual([]);
    const short = settings({ length: 64 });
    expect(() => longestBatch(JANUS_TINY, short)).toThrow(ArgumentError);
    expect((await errorOf(() => estimateStep(JANUS_TINY, short))).message).toMatch(/length 64: an image .* 65 tokens/);
  });
});

describe("memory", () => {
  it("is that of the costliest rows, whatever comes first", async () => {
    for (const { sizes = JANUS_TINY, ...more } of [
      {
        sizes: JANUS_PRO_1B,
        batch: 3,
        ratios: { und: 1, text: 0, gen: 2 },
        length: 1280,
        stage: 3,
        recompute: true,
        dtype: "bf16",
      },
      { batch: 10, microRows: 2, stage: 3, length: 600 },
    ]) {
      const config = settings(more);
      const { memory, samples } = await estimateStep(sizes, config);
      const kinds = TASKS.map((task) => samples.filter((sample) => sample.task === task));
      const peaks: number[] = [];
      for (const order of [
        [0, 1, 2],
        [1, 2, 0],
        [2, 0, 1],
      ]) {
        const device = await Device.create({ backend: "null" });
        const model = new JanusForConditionalGeneration(sizes, { dtype: config.dtype, init: false, device });
        const trainer = new Trainer(model, sizes, config, 0);
        trainer.update((await trainer.accumulate(order.flatMap((k) => kinds[k]!))).losses);
        peaks.push(device.pool.stats.peakBytes);
        device.destroy();
      }
      expect(Math.abs(Math.max(...peaks) / memory.peak - 1)).toBeLessThan(0.01);
    }
  });

  it("is of weights, masters, moments and gradients what their dtypes say", async () => {
    const { memory, parameters } = await estimateStep(JANUS_TINY, settings({ dtype: "bf16", length: 600 }));
    const near = (bytes: number, expected: number): void => {
      expect(bytes).toBeGreaterThanOrEqual(expected);
      expect(bytes).toBeLessThan(expected * 1.01 + 4096); // each tensor is rounded up to 16 bytes
    };
    near(memory.weights, 2 * (parameters.trained + parameters.frozen));
    near(memory.optimizer, 12 * parameters.trained);
    expect(memory.gradients).toBeGreaterThan(0);
    expect(memory.gradients).toBeLessThan(4 * parameters.trained * 1.01 + 4096);
    expect(memory.weights + memory.optimizer + memory.gradients + memory.activations).toBe(memory.peak);
    expect(memory.buffers).toBeGreaterThan(memory.peak);
  });

  it("that the device does not have is told all the same; a tensor that no buffer holds is refused", async () => {
    const capabilities = nullCapabilities();
    const wide = await Device.create({ backend: "null", capabilities });
    const narrow = await Device.create({ backend: "null", capabilities, memoryBudget: 16 << 20 });
    const { fits, ...rest } = await estimateStep(JANUS_TINY, settings(), narrow);
    expect(fits).toBe(false);
    expect({ fits: true, ...rest }).toEqual(await estimateStep(JANUS_TINY, settings(), wide));
    expect(rest.memory.peak).toBeGreaterThan(16 << 20);
    const small = await Device.create({
      backend: "null",
      capabilities: nullCapabilities({ limits: { maxBufferSize: 1 << 19 } }),
    });
    expect(await errorOf(() => estimateStep(JANUS_TINY, settings(), small))).toBeInstanceOf(OutOfMemoryError);
    for (const device of [wide, narrow, small]) device.destroy();
  });
});

/**
 * FLOPs of a step with one row of each task: two a multiply-add, products and attention alone.
 * @param documents lengths of the samples of all rows, and of their padding: tokens see their own sample only
 * @param images that the row of the answer sees
 * @param pictures that the row of pictures draws
 * @param targets tokens that the text head predicts, row by row
 */
function arithmetic(
  sizes: JanusConfig,
  { stage, length, recompute }: TrainConfig,
  {
    documents,
    images,
    pictures,
    targets,
  }: {
    documents: readonly number[];
    images: number;
    pictures: number;
    targets: readonly number[];
  },
): number {
  const { hidden, intermediate, layers, heads, headDim, vocabulary } = sizes.language;
  const { vision, vq } = sizes;
  const places = imageTokens(sizes);
  const [isTrained, again] = [Number(stage > 1), Number(recompute)];
  // Through the Llama: forward, gradients of the inputs, and, if it is trained, of the weights. Attention's backward has seven products, its forward two.
  const linear = 2 * length * layers * (4 * hidden * heads * headDim + 3 * hidden * intermediate);
  const repeated = linear - 2 * length * layers * hidden * intermediate; // a layer's last product is not repeated
  const pairs = documents.reduce((sum, n) => sum + (n * (n + 1)) / 2, 0);
  const attention = 4 * layers * pairs * heads * headDim;
  const textHead = (3 + isTrained) * 2 * vocabulary * hidden; // makes its logits again in backward
  const tower = 2 * places * vision.layers * (4 * vision.hidden ** 2 + 2 * vision.hidden * vision.intermediate);
  const towerAttention = 4 * vision.layers * places ** 2 * vision.hidden;
  const towerAgain = tower - 2 * places * vision.layers * vision.hidden * vision.intermediate;
  const seen = stage === 3 ? 3 * tower + again * towerAgain + (4.5 + again) * towerAttention : tower + towerAttention;
  const first = 2 * places * vision.hidden * hidden; // of the aligner's first layer: what comes before it gets gradients in stage 3 alone
  const aligner = 3 * (first + 2 * places * hidden ** 2) - (stage === 3 ? 0 : first);
  const codes = 3 * 2 * length * (vq.codeDim * hidden + hidden ** 2); // at every place of the row
  const codeHead = 3 * 2 * places * (hidden ** 2 + hidden * vq.codes);
  return (
    (targets.length + 1) * ((2 + isTrained) * linear + again * repeated) +
    (4.5 + again) * attention +
    textHead * targets.reduce((a, b) => a + b) +
    images * (seen + aligner) +
    codes +
    pictures * codeHead
  );
}

it.each([
  [1, false],
  [1, true],
  [2, false],
  [2, true],
  [3, false],
  [3, true],
] as const)("FLOPs of the 1B model in stage %i are those of arithmetic (recomputed: %s)", async (stage, recompute) => {
  const text = Number(stage > 1);
  const config = settings({
    stage,
    recompute,
    dtype: "bf16",
    length: 1280,
    batch: 3 + text,
    ratios: { und: 1, text, gen: 2 },
  });
  const { flops, rows, samples } = await estimateStep(JANUS_PRO_1B, config);
  const targets = [1280 - 2 * 576 - 1, ...(text ? [1279] : [])];
  expect(rows).toBe(2 + text);
  const drawn = samples.filter(({ task }) => task === "gen").map(({ ids }) => ids.length);
  const padding = 1280 - drawn.reduce((a, b) => a + b, 0);
  const documents = [...targets.map(() => 1280), ...drawn, padding];
  const expected = arithmetic(JANUS_PRO_1B, config, { documents, images: 2, pictures: 2, targets });
  expect(flops).toBeGreaterThan(expected);
  expect(flops).toBeLessThan(expected * 1.005); // norms, activations, the optimizer and the like come on top
});
