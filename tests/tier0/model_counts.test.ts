/** What the 1B and the 7B model's work takes, counted on the null device, against arithmetic from the configs and figures known from elsewhere. */
import { afterAll, describe, expect, it } from "vitest";
import { countTraining, countWork } from "../../bench/counts.ts";
import { Device, setDevice, tally } from "../../index.ts";
import type { PromptRow } from "../../model/causal.ts";
import { prefillPrefix } from "../../model/decoding.ts";
import { textDecoder } from "../../model/generate.ts";
import { JanusForConditionalGeneration } from "../../model/janus/janus.ts";
import { needsOf } from "../../model/janus/checkpoint/inspect.ts";
import { JANUS_PRO_1B, JANUS_PRO_7B } from "../../model/janus/config.ts";

afterAll(() => setDevice(null));

// Counts of the specification (2 FLOPs a multiply-add; matmul, convolution and attention only), in GF; `stage2` is a whole step.
const KNOWN = {
  "1B": {
    config: JANUS_PRO_1B,
    vision: 381.4 + 7.25,
    encoder: 312.5 + 0.15,
    decoder: 570.1,
    layers: 2.466,
    context: 196_608e-9,
    textHead: 0.419,
    imageHead: 0.0755,
    aligner: 0.00842,
    layerBytes: 2.47e9,
    trained: 1_701_064_704,
    stage2: 1.8e7,
  },
  "7B": {
    config: JANUS_PRO_7B,
    vision: 381.4 + 24.16,
    encoder: 312.5 + 0.15,
    decoder: 570.1,
    layers: 12.143,
    context: 491_520e-9,
    textHead: 0.839,
    imageHead: 0.1678,
    aligner: 0.0336,
    layerBytes: 12.14e9,
    trained: 7_032_201_216,
    stage2: 8.1e7,
  },
};

describe.each(["1B", "7B"] as const)("%s", (size) => {
  const known = KNOWN[size];
  it("FLOPs, bytes, launches and memory of each piece of work", async () => {
    const rows = await countWork(known.config);
    const of = (name: string): (typeof rows)[number] => rows.find((row) => row.name.startsWith(name))!;
    const gflop = (name: string): number => of(name).flops / 1e9;
    // Attention counts its whole grid, that of the cache's capacity.
    const [imageContext, textContext] = [20 + 575, 600 + 64];
    const expected: Record<string, number> = {
      guided: 2 * (known.layers + known.context * imageContext + known.imageHead) + known.aligner,
      text: known.layers + known.context * textContext + known.textHead,
      prefill: 600 * (known.layers + known.context * 300) + known.textHead,
      vision: known.vision,
      "VQ encoder": known.encoder,
      "VQ decoder": known.decoder,
    };
    for (const [name, gf] of Object.entries(expected)) {
      expect(gflop(name), name).toBeGreaterThan(gf * 0.99);
      expect(gflop(name), name).toBeLessThan(gf * 1.04); // norms, activations and the like come on top
    }
    // A token reads the layers' weights once, whatever else it reads.
    for (const name of ["guided", "text"]) {
      expect(of(name).bytes, name).toBeGreaterThan(known.layerBytes);
      expect(of(name).bytes, name).toBeLessThan(known.layerBytes * 1.3);
      expect(of(name).launches, name).toBeLessThanOrEqual(5 * known.config.language.layers + 9);
    }
    const weights = 2 * (size === "1B" ? 2_076_636_811 : 7_407_773_323);
    for (const { name, peakBytes } of rows) {
      expect(peakBytes, name).toBeGreaterThan(weights);
      expect(peakBytes, name).toBeLessThan(weights * 1.36);
    }
  });

  it("a question behind a shared beginning costs its own tokens, and both together what the whole prompt does", async () => {
    const device = await Device.create({ backend: "null" });
    setDevice(device);
    const model = new JanusForConditionalGeneration(known.config, { dtype: "bf16", init: false, device }).setRequiresGrad(false); // prettier-ignore
    const [tokens, shared] = [608, 582]; // POPE: the image and what is before it, then 26 tokens
    const ids = Array.from({ length: tokens }, (_, i) => i);
    const beginning = { ids: ids.slice(0, shared) };
    const cache = prefillPrefix(model, beginning);
    const ask = (prompt: PromptRow): number => tally(() => textDecoder(model, [prompt], { maxNewTokens: 1 }).dispose(), device).flops; // prettier-ignore
    const [whole, rest] = [ask({ ids }), ask({ ids, prefix: { length: shared, cache: () => cache } })];
    const once = tally(() => prefillPrefix(model, beginning).dispose(), device).flops;
    expect((once + rest) / whole).toBeCloseTo(1, 3);
    expect(rest / whole).toBeLessThan(1.03 * (1 - shared / tokens));
    cache.dispose();
    device.destroy();
  });

  it.each(["int8", "int4"] as const)("a token takes as many launches in %s", async (quantize) => {
    for (const { name, launches } of (await countWork(known.config, quantize)).slice(0, 2))
      expect(launches, name).toBeLessThanOrEqual(5 * known.config.language.layers + 9);
  });

  it.each(["bf16", "int8"] as const)(
    "a token with a cache of %s: as many launches, fewer bytes by those of the cache",
    async (dtype) => {
      const before = (await countWork(known.config)).slice(0, 2);
      const counted = (await countWork(known.config, undefined, dtype)).slice(0, 2);
      const { cacheBytesPerToken } = needsOf(known.config);
      // A kernel counts its whole grid, that of the cache's capacity: a guided image's two rows, or a text's one.
      for (const [i, positions] of [2 * (20 + 575), 600 + 64].entries()) {
        const saved = positions * (cacheBytesPerToken.f32 - cacheBytesPerToken[dtype]);
        expect(counted[i]!.launches, counted[i]!.name).toBe(before[i]!.launches);
        expect(before[i]!.bytes - counted[i]!.bytes, counted[i]!.name).toBe(saved);
        expect(before[i]!.peakBytes - counted[i]!.peakBytes, counted[i]!.name).toBeGreaterThan(0);
      }
    },
  );

  it("parameters, FLOPs and memory of a step of stage 2", async () => {
    const [kept, anew] = [await countTraining(known.config, 2, false), await countTraining(known.config, 2, true)];
    // The specification's step has 512 rows; it counts the text head three times, not four, and attention within samples, not within rows.
    const expected = (known.stage2 / 512) * kept.rows * 1e9;
    expect(kept.flops).toBeGreaterThan(expected);
    expect(kept.flops).toBeLessThan(expected * 1.25);
    // The forward once more, without the last product of each layer.
    const { hidden: width, intermediate, layers: depth } = known.config.language;
    const last = (2 * width * intermediate * depth) / 1e9;
    const llama = kept.rows * 4096 * (known.layers - last + known.context * 2048) * 1e9;
    expect((anew.flops - kept.flops) / llama).toBeCloseTo(1, 1);
    for (const { parameters, memory, parts } of [kept, anew]) {
      // What only images to draw train has no gradient yet, if the peak is in a row of text, which comes first.
      const late = Object.entries(parts).reduce((sum, [part, { trained }]) => sum + (part.startsWith("generation") ? trained : 0), 0); // prettier-ignore
      const alive = [known.trained, known.trained - late].map((count) => memory.gradients / count);
      expect(parameters.trained).toBe(known.trained);
      expect(memory.optimizer / known.trained).toBeCloseTo(12, 2); // f32 master and two moments
      expect(Math.min(...alive.map((bytes) => Math.abs(bytes - 4)))).toBeLessThan(0.05);
      expect(memory.weights + memory.optimizer + memory.gradients + memory.activations).toBe(memory.peak);
    }
    // What each layer keeps is gone but its input.
    const { layers, hidden } = known.config.language;
    expect(anew.memory.activations).toBeLessThan(kept.memory.activations / 5);
    expect(anew.memory.activations).toBeGreaterThan(layers * 4096 * hidden * 4);
  });
});
