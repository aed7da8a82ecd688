/** Adapters on a GPU: gradients against float64, no update with B = 0, merging, files, training on the fixture beside full fine-tuning. */
import "../quick_compile.ts";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { describe, expect, it } from "vitest";
import { F, backward, nn, noGrad, scope, tensor } from "../../index.ts";
import type { Tensor } from "../../index.ts";
import { generateText } from "../../model/generate.ts";
import type { FileSource } from "../../model/io/bytes.ts";
import { castFloats } from "../../model/io/cast.ts";
import { LiveText } from "../../model/live_text.ts";
import { dequantizeRows, quantizeRows } from "../../model/io/quantize.ts";
import { loadAdapter, reloadAdapter, saveAdapter } from "../../model/janus/adapters.ts";
import { openCheckpoint } from "../../model/janus/checkpoint/checkpoint.ts";
import { createModel, tinyConfig } from "../../model/janus/create.ts";
import { loadModel } from "../../model/janus/load.ts";
import { readProcessor } from "../../model/janus/processor.ts";
import { isTarget, linearLayersOf, loraLayersOf } from "../../model/nn/lora.ts";
import { folderSource, writeFolderAtomic } from "../../model/node/files.ts";
import { checkConfig } from "../../train/config.ts";
import type { TrainConfig } from "../../train/config.ts";
import { quantizedBase } from "../../train/lora.ts";
import { taskLosses } from "../../train/loss.ts";
import { layRows, textSample } from "../../train/samples.ts";
import type { Sample } from "../../train/samples.ts";
import { Trainer } from "../../train/trainer.ts";
import { Golden } from "../../verify/file.ts";
import { GoldenInputs } from "../../verify/inputs.ts";
import { goldenBatches } from "../../verify/train_batch.ts";
import { adapterFiles } from "../adapter_files.ts";
import { memorySink, sourceOfFiles, tinyFolder } from "../checkpoint/tiny.ts";
import { hasFixtures } from "../fixtures.ts";
import { isLong } from "../long.ts";
import { errorOf, useDevice } from "../gpu.ts";
import { tolerance } from "../harness.ts";
import { randomFrom } from "../random.ts";
import { SMALL } from "../small_model.ts";

const device = useDevice();
const random = randomFrom(5);
const values = (n: number): Float32Array => Float32Array.from({ length: n }, () => random() - 0.5);

/** Rows of the product of [m, k] and [k, n], in float64. */
function product(a: ArrayLike<number>, b: ArrayLike<number>, m: number, k: number, n: number): Float64Array {
  const y = new Float64Array(m * n);
  for (let i = 0; i < m; i++)
    for (let p = 0; p < k; p++) for (let j = 0; j < n; j++) y[i * n + j]! += a[i * k + p]! * b[p * n + j]!;
  return y;
}
const transposed = (a: ArrayLike<number>, rows: number, columns: number): Float64Array =>
  Float64Array.from({ length: rows * columns }, (_, i) => a[(i % rows) * columns + Math.floor(i / rows)]!);

function expectClose(found: ArrayLike<number>, wanted: ArrayLike<number>, terms: number, what: string): void {
  const norm = (of: (i: number) => number): number => Math.sqrt(Array.from(wanted, (_, i) => of(i) ** 2).reduce((a, b) => a + b, 0)); // prettier-ignore
  expect(found.length, what).toBe(wanted.length);
  expect(norm((i) => found[i]! - wanted[i]!) / norm((i) => wanted[i]!), what).toBeLessThan(tolerance("gradient", ["f32"], terms)); // prettier-ignore
}

const [M, K, N, R] = [5, 36, 20, 3];

describe.each(["f32", "int8", "int4"] as const)("an adapter on weights in %s", (kind) => {
  it("has the output and the gradients of its formula in float64, with two adapters and weights", async () => {
    const [x, w, bias, g] = [values(M * K), values(N * K), values(N), values(M * N)];
    const layer = kind === "f32" ? new nn.Linear(K, N) : new nn.QuantizedLinear(K, N, kind);
    let exact: ArrayLike<number> = w;
    if (layer instanceof nn.QuantizedLinear) {
      const rows = quantizeRows(w, K, layer.kind);
      layer.qweight.writeBytes(new Uint8Array(rows.words.buffer));
      layer.scales.writeBytes(new Uint8Array(rows.scales.buffer));
      exact = dequantizeRows(rows, K, layer.kind);
    } else layer.weight.writeBytes(new Uint8Array(w.buffer));
    layer.bias!.writeBytes(new Uint8Array(bias.buffer));
    const net = new nn.Sequential(layer).setRequiresGrad(false);
    nn.addAdapter(net, "one", [["0", { rank: R, alpha: 5 }]]);
    nn.addAdapter(net, "two", [["0", { rank: R, alpha: 2, rslora: true }]]);
    nn.setAdapters(net, { one: 1, two: 0.25 });
    const [, adapted] = [...loraLayersOf(net)][0]!;
    const scales = { one: 5 / R, two: (0.25 * 2) / Math.sqrt(R) };
    const parts = Object.entries(scales).map(([name, scale]) => {
      const [a, b] = [values(R * K), values(N * R)];
      adapted.lora_A.get(name)!.weight.writeBytes(new Uint8Array(a.buffer));
      adapted.lora_B.get(name)!.weight.writeBytes(new Uint8Array(b.buffer));
      return { name, scale, a, b };
    });
    using input = tensor(x, { shape: [M, K], requiresGrad: true }).keep();
    using y = net.call(input).keep();
    const wanted = product(x, transposed(exact, N, K), M, K, N).map((v, i) => v + bias[i % N]!);
    const dx = product(g, exact, M, N, K);
    scope(() => backward(y.mul(tensor(g, { shape: [M, N] })).sum()));
    for (const { name, scale, a, b } of parts) {
      const h = product(x, transposed(a, R, K), M, K, R); // x Aᵗ
      const update = product(h, transposed(b, N, R), M, R, N);
      for (const [i, v] of update.entries()) wanted[i]! += scale * v;
      const dh = product(g, b, M, N, R).map((v) => v * scale);
      for (const [i, v] of product(dh, a, M, R, K).entries()) dx[i]! += v;
      const grad = async (t: Tensor): Promise<Float32Array> => (await t.grad!.data()) as Float32Array;
      expectClose(await grad(adapted.lora_A.get(name)!.weight), product(transposed(dh, M, R), x, R, M, K), M * N, `dA ${name}`); // prettier-ignore
      const db = product(transposed(g, M, N), h, N, M, R).map((v) => v * scale);
      expectClose(await grad(adapted.lora_B.get(name)!.weight), db, M * K, `dB ${name}`);
    }
    expectClose((await y.data()) as Float32Array, wanted, K, "y");
    expectClose((await input.grad!.data()) as Float32Array, dx, N, "dx");
    input.grad!.dispose();
    for (const { grad } of net.parameters()) grad?.dispose();
    net.dispose();
  });
});

it("B = 0 changes no bit, and merged weights give what the adapters gave", async () => {
  const config = tinyConfig(SMALL);
  const model = createModel(config);
  const x = values(3 * config.language.hidden);
  const run = async (): Promise<Float32Array> => {
    using y = noGrad(() =>
      scope(() => {
        const h = model.hidden(tensor(x, { shape: [1, 3, config.language.hidden] }), { positions: tensor(Int32Array.of(0, 1, 2)) }); // prettier-ignore
        return F.cat([model.codeLogits(h), model.logits(h)], 2);
      }).keep(),
    );
    return (await y.data()) as Float32Array;
  };
  const before = await run();
  const paths = [...linearLayersOf(model)].filter(([path]) => isTarget(path, "language_model.*") || isTarget(path, "generation_head.*")); // prettier-ignore
  nn.addAdapter(model, "a", paths.map(([path]) => [path, { rank: 4 }])); // prettier-ignore
  expect(new Uint8Array((await run()).buffer)).toEqual(new Uint8Array(before.buffer));
  for (const [, layer] of loraLayersOf(model)) {
    const { weight } = layer.lora_B.get("a")!;
    weight.writeBytes(new Uint8Array(values(weight.size).map((v) => v / 8).buffer));
  }
  const adapted = await run();
  expect(Math.hypot(...adapted.map((v, i) => v - before[i]!)) / Math.hypot(...before)).toBeGreaterThan(0.01);
  nn.mergeAdapters(model);
  expect(nn.adapterNames(model)).toEqual([]);
  expectClose(await run(), adapted, config.language.intermediate, "merged");
  model.dispose();
});

it("an adapter survives its files bit for bit, and fits no other model", async () => {
  const home = await mkdtemp(join(tmpdir(), "janus-adapter-"));
  const config = tinyConfig(SMALL);
  const [model, other] = [createModel(config), createModel(config)];
  const narrow = createModel(tinyConfig({ ...SMALL, language: { ...SMALL.language, intermediate: 64 } }));
  try {
    const paths = [...linearLayersOf(model)].map(([path]) => path).filter((path) => isTarget(path, "mlp.*"));
    nn.addAdapter(model, "mine", paths.map((path) => [path, { rank: 2, alpha: 3, dropout: 0.5, rslora: true }])); // prettier-ignore
    const folder = join(home, "a");
    await writeFolderAtomic(folder, 0, (sink) => saveAdapter(model, sink, { name: "mine", base: "some/model" }));
    const loaded = await loadAdapter(other, folderSource(folder), { name: "theirs", weight: 0.5 });
    expect(loaded).toEqual({
      name: "theirs",
      config: { rank: 2, alpha: 3, dropout: 0.5, rslora: true, base: "some/model" },
      layers: paths.length,
    });
    const theirs = new Map(loraLayersOf(other));
    for (const [path, layer] of loraLayersOf(model))
      for (const part of ["lora_A", "lora_B"] as const)
        expect(await theirs.get(path)![part].get("theirs")!.weight.readBytes()).toEqual(
          await layer[part].get("mine")!.weight.readBytes(),
        );
    await reloadAdapter(model, folderSource(folder), "mine");
    const message = (await errorOf(() => loadAdapter(narrow, folderSource(folder)))).message;
    expect(message).toMatch(/shapes must be those of the model/);
    expect(nn.adapterNames(narrow)).toEqual([]);
    expect((await errorOf(() => loadAdapter(other, folderSource(home)))).message).toMatch(/got no adapter_config.json/);
  } finally {
    for (const one of [model, other, narrow]) one.dispose();
    await rm(home, { recursive: true });
  }
});

describe("adapters of one layer from files", () => {
  const PATH = "model.language_model.layers.0.self_attn.q_proj";
  const config = tinyConfig(SMALL);
  const width = config.language.hidden;
  const [a, b] = [values(2 * width), values(2 * width)];

  it("are refused, with nothing left, if a value is not finite or two tensors mean one layer", async () => {
    const model = createModel(config);
    const broken = b.map((v, i) => (i === 7 ? NaN : v));
    const other = PATH.replace("model.language_model.", "language_model.model.");
    for (const [source, message] of [
      [
        await adapterFiles([[PATH, a, broken]], { width }),
        /values must be finite.*\n.*q_proj.lora_B.weight" has NaN at 7/,
      ],
      [
        await adapterFiles(
          [
            [PATH, a, b],
            [other, a, b],
          ],
          { width },
        ),
        /twice: model.language_model.layers.0.self_attn.q_proj/,
      ],
      [await adapterFiles([[PATH, a, b]], { width, rank_pattern: { q_proj: 3 } }), /the config says rank 3/],
    ] as const) {
      // prettier-ignore
      expect((await errorOf(() => loadAdapter(model, source))).message).toMatch(message);
      expect(nn.adapterNames(model)).toEqual([]);
    }
    model.dispose();
  });

  it("are read in every dtype, with alpha and rank of their patterns, and written back so", async () => {
    const model = createModel(config);
    const patterns = { rank_pattern: { "k_proj|q_proj": 2 }, alpha_pattern: { "^model.language_model.layers.0.*.q_proj": 9 } }; // prettier-ignore
    for (const dtype of ["f16", "bf16"] as const) {
      await loadAdapter(model, await adapterFiles([[PATH, a, b]], { width, dtype, r: 1, ...patterns }));
      const layer = new Map(loraLayersOf(model)).get(PATH)!;
      expect(layer.optionsOf("default")).toMatchObject({ rank: 2, alpha: 9 });
      const bytes = castFloats(new Uint8Array(a.buffer), "f32", dtype, "A").slice();
      expect(await layer.lora_A.get("default")!.weight.readBytes()).toEqual(castFloats(bytes, dtype, "f32", "A"));
      nn.removeAdapters(model);
    }
    nn.addAdapter(model, "default", [[PATH.replace("q_proj", "v_proj"), { rank: 1, alpha: 3 }], [PATH, { rank: 2, alpha: 5 }]]); // prettier-ignore
    const sink = memorySink();
    await saveAdapter(model, sink);
    nn.removeAdapters(model);
    await loadAdapter(model, sourceOfFiles(sink.files));
    expect([...loraLayersOf(model)].map(([, layer]) => layer.optionsOf("default"))).toMatchObject([{ rank: 2, alpha: 5 }, { rank: 1, alpha: 3 }]); // prettier-ignore
    nn.removeAdapters(model);
    nn.addAdapter(model, "default", [[PATH, { rank: 2, rslora: true }], [PATH.replace("q_proj", "v_proj"), { rank: 2 }]]); // prettier-ignore
    expect((await errorOf(() => saveAdapter(model, memorySink()))).message).toMatch(/must have one rslora and dropout/);
    model.dispose();
  });

  it("change no call before all of their values are there", async () => {
    const model = createModel(config);
    const source = await adapterFiles([[PATH, a, b]], { width });
    const seen: number[] = [];
    const weights = (): number[] => [...loraLayersOf(model)].map(([, layer]) => layer.weightOf("default")!);
    const open: FileSource["open"] = async (name) => {
      const file = await source.open(name);
      return { ...file, size: file.size, name: file.name, read: (at, length) => (seen.push(...weights()), file.read(at, length)) };
    }; // prettier-ignore
    await loadAdapter(model, { ...source, open }, { weight: 0.5 });
    expect([seen.length > 0, new Set(seen), weights()]).toEqual([true, new Set([0]), [0.5]]);
    model.dispose();
  });
});

it("steps that were captured take another weight of an adapter, and its removal, from the next token on", async () => {
  const model = createModel(tinyConfig(SMALL)).eval();
  const paths = [...linearLayersOf(model)].map(([path]) => path).filter((path) => isTarget(path, "language_model.*"));
  nn.addAdapter(model, "a", paths.map((path) => [path, { rank: 4, alpha: 64 }])); // prettier-ignore
  for (const [, layer] of loraLayersOf(model)) {
    const { weight } = layer.lora_B.get("a")!;
    weight.writeBytes(new Uint8Array(values(weight.size).buffer));
  }
  const ids = [3, 9, 27, 4, 9, 27];
  const rowsOf = (eager: boolean): LiveText => new LiveText(model, { rows: 1, capacity: 64, eager });
  const [kept, eager] = [rowsOf(false), rowsOf(true)];
  const answer = async (live: LiveText): Promise<number[]> => {
    const { row, first } = live.join({ ids });
    const tokens = [await first];
    for (let i = 0; i < 4; i++) tokens.push((await (await live.step()).tokens)[0]!);
    live.leave(row);
    return tokens;
  };
  /** An answer whose adapters change behind its second token. */
  const changed = async (how: object): Promise<number[]> => {
    nn.setAdapters(model, { a: 1 });
    const tokens: number[] = [];
    for await (const id of generateText(model, [{ ids }], { maxNewTokens: 5, temperature: 0, ...how })) {
      tokens.push(id[0]!);
      if (tokens.length === 2) nn.setAdapters(model, {});
    }
    return tokens;
  };
  const answers = new Set<string>();
  for (const change of [() => undefined, () => nn.setAdapters(model, { a: -1 }), () => nn.removeAdapters(model)]) {
    if (nn.adapterNames(model).length && answers.size === 1)
      for (const how of [{}, { promptLookup: 3 }]) expect(await changed(how)).toEqual(await changed({ ...how, eager: true })); // prettier-ignore
    change();
    const tokens = await answer(kept);
    expect(tokens).toEqual(await answer(eager));
    answers.add(tokens.join());
  }
  expect(answers.size).toBe(3);
  for (const one of [kept, eager, model]) one.dispose();
});

it("an adapter of the text head counts in the loss", async () => {
  const config = tinyConfig(SMALL);
  const model = createModel(config);
  const ids = Array.from({ length: 12 }, (_, i) => (7 * i) % 600);
  const rows = layRows([[textSample("text", ids, ids, [], -1, "a text")]], 16, 0, 16);
  const loss = async (): Promise<number> => {
    using sum = noGrad(() => scope(() => taskLosses(model, rows, 32).text!.keep()));
    return (await sum.data())[0]!;
  };
  const before = await loss();
  nn.addAdapter(model, "a", [["lm_head", { rank: 2 }]]);
  const { weight } = [...loraLayersOf(model)][0]![1].lora_B.get("a")!;
  weight.writeBytes(new Uint8Array(values(weight.size).buffer));
  const adapted = await loss();
  nn.mergeAdapters(model);
  expectClose([await loss()], [adapted], 128, "loss");
  expect(Math.abs(adapted / before - 1)).toBeGreaterThan(0.01);
  model.dispose();
});

describe("training", () => {
  const settings = (more: object): TrainConfig =>
    checkConfig({
      stage: 2,
      batch: 3,
      length: 84,
      steps: 100,
      ratios: { und: 1, text: 1, gen: 1 },
      optimizer: { lr: 1e-3 },
      ...more,
    });

  it("with dropout draws the same masks when blocks are recomputed", async () => {
    const config = tinyConfig(SMALL);
    const ids = Array.from({ length: 30 }, (_, i) => (7 * i) % 600);
    const sample = textSample("text", ids, ids, [], -1, "a text");
    const after = async (recompute: boolean): Promise<number[]> => {
      const model = createModel(config);
      const lora = { rank: 2, dropout: 0.5, targets: ["q_proj", "down_proj"] };
      const trainer = new Trainer(model, config, settings({ recompute, lora, seed: 3, microRows: 1 }), 0);
      const losses = [];
      for (let step = 0; step < 3; step++) losses.push((await trainer.take([sample, sample])).loss);
      trainer.dispose();
      model.dispose();
      return losses;
    };
    const losses = await after(false);
    expect(await after(true)).toEqual(losses);
    expect(new Set(losses).size).toBe(3);
  });

  describe.skipIf(!hasFixtures)("on the fixture", () => {
    const source = folderSource(fileURLToPath(tinyFolder("hf")));
    const STEPS = isLong ? 20 : 3;
    /** Layers whose inputs are hidden states. */
    const TARGETS = ["q_proj", "k_proj", "v_proj", "gate_proj", "up_proj", "proj_out", "generation_head.vision_head"];

    async function losses(
      config: TrainConfig,
      steps: number,
      isWhole = false,
    ): Promise<{ losses: number[]; unchanged: boolean }> {
      const checkpoint = await openCheckpoint(source);
      const processor = await readProcessor(source, checkpoint.config);
      await using golden = await Golden.open(folderSource(fileURLToPath(new URL("../", tinyFolder("hf")))));
      const [batch] = await goldenBatches(new GoldenInputs(golden, checkpoint.config, processor));
      const model = await loadModel(checkpoint, { device: device(), dtype: config.dtype, ...quantizedBase(config) });
      const trainer = new Trainer(model, checkpoint.config, config, processor.tokenizer.specials.pad);
      // Full rank: A is the unit matrix and stays, so that B moves as the weight does. Full fine-tuning trains the weights of the same layers.
      const { hidden } = checkpoint.config.language;
      const unit = Float32Array.from({ length: hidden ** 2 }, (_, i) => Number(i % (hidden + 1) === 0));
      const targets = (name: string): boolean =>
        TARGETS.some((target) => isTarget(name.replace(/\.weight$/, ""), target));
      for (const [name, one] of trainer.trained) {
        if (name.includes("lora_A") && isWhole) one.writeBytes(new Uint8Array(unit.buffer));
        one.requiresGrad = config.lora
          ? !(name.includes("lora_A") && isWhole)
          : name.endsWith(".weight") && targets(name);
      }
      const state = model.stateDict();
      const path = "model.language_model.layers.0.mlp.down_proj";
      const probe = state[`${path}.weight`] ?? state[`${path}.qweight`]!;
      const bytes = (): Promise<Uint8Array> => probe.readBytes();
      const before = await bytes();
      const found: number[] = [];
      for (let step = 0; step < steps; step++) found.push((await trainer.take(batch!.samples as Sample[])).loss);
      const unchanged = Buffer.compare(before, await bytes()) === 0;
      trainer.dispose();
      model.dispose();
      await checkpoint.close();
      return { losses: found, unchanged };
    }

    it("full rank follows full fine-tuning within 2 %, and the weights stay as they are", async () => {
      const lora = { rank: 128, targets: TARGETS };
      const full = await losses(settings({}), STEPS);
      const low = await losses(settings({ lora }), STEPS, true);
      console.log(`full ${full.losses.join(" ")}\nLoRA ${low.losses.join(" ")}`);
      expect(low.unchanged).toBe(true);
      expect(full.losses.at(-1)!).toBeLessThan(0.8 * full.losses[0]!);
      expect(low.losses[0]).toBe(full.losses[0]);
      for (const [i, loss] of low.losses.entries())
        expect(Math.abs(loss / full.losses[i]! - 1), `step ${i}`).toBeLessThan(0.02);
    });

    it.runIf(isLong)("an adapter on a quantised base learns, and the base stays as it is", async () => {
      const lora = { rank: 8, alpha: 64, targets: TARGETS, quantize: "int8" };
      const quantized = await losses(settings({ lora }), STEPS);
      console.log(`QLoRA of rank 8 ${quantized.losses.join(" ")}`);
      expect(quantized.unchanged).toBe(true);
      expect(quantized.losses.at(-1)!).toBeLessThan(0.8 * quantized.losses[0]!);
    });
  });
});
