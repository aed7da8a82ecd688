/** Models of other programs' quantised files on a device: layers keep the values of the file, and what a file lacks is refused. */
import "../quick_compile.ts";
import { fileURLToPath } from "node:url";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { Device, noGrad, scope, setDevice, tensor } from "../../index.ts";
import { layerErrors, layerTable } from "../../bench/quantization_layers.ts";
import { checkConfig } from "../../train/config.ts";
import { Trainer } from "../../train/trainer.ts";
import { MissingPartError } from "../../model/io/errors.ts";
import { openCheckpoint } from "../../model/janus/checkpoint/checkpoint.ts";
import type { Checkpoint } from "../../model/janus/checkpoint/checkpoint.ts";
import { loadModel } from "../../model/janus/load.ts";
import { loadMerged } from "../../model/janus/merge.ts";
import { saveModel } from "../../model/janus/save.ts";
import { Janus } from "../../model/janus/pipeline.ts";
import { saveAdapter } from "../../model/janus/adapters.ts";
import { addAdapter, isTarget, linearLayersOf, loraLayersOf, mergeAdapters } from "../../model/nn/lora.ts";
import { quantizedLayers } from "../../model/nn/quantized_linear.ts";
import { dequantizeRows } from "../../model/io/quantize.ts";
import { TYPE, blocks, tinyGguf, tinyTensors } from "../checkpoint/gguf.ts";
import { asMlx } from "../checkpoint/mlx.ts";
import { memorySink, sourceOfFiles, tinyFiles } from "../checkpoint/tiny.ts";
import type { Files } from "../checkpoint/tiny.ts";
import { hasFixtures } from "../fixtures.ts";

const TINY = fileURLToPath(new URL("../../../shared/fixtures/tiny/hf", import.meta.url));

let device: Device;
beforeAll(async () => {
  device = await Device.create();
  setDevice(device);
});
afterAll(() => device.destroy());

/** The tiny checkpoint with q of each layer in Q8_0, o in Q4_0, and all else in bf16. */
async function mixed(values: Map<string, Float32Array>): Promise<Files> {
  const shapes = new Map([...(await tinyTensors())].map(([name, { shape }]) => [name, shape]));
  const files = await tinyGguf({ mmproj: false }, (name) => {
    const found = /language_model.*\.self_attn\.([qo])_proj/.exec(name);
    if (!found) return undefined;
    const type = found[1] === "q" ? "Q8_0" : "Q4_0";
    const made = blocks(type, shapes.get(name)!.reduce((a, b) => a * b, 1) / 32);
    values.set(name.replace(/\.weight$/, ""), made.values);
    return { type: TYPE[type], data: made.data };
  });
  return files.set("config.json", tinyFiles("hf").get("config.json")!); // the files do not say the sizes of the vision tower
}

it.skipIf(!hasFixtures)("the error of each layer is printed in a table", async () => {
  const errors = (await layerErrors(TINY, device, ["a red square"], ["int4"])).get("int4")!;
  expect(errors.size).toBe(3 * 7 + 3);
  for (const [path, error] of errors) {
    expect(error, path).toBeGreaterThan(0.005);
    expect(error, path).toBeLessThan(0.2);
  }
  const lines = layerTable(errors).split("\n");
  expect(lines.map((line) => line.split(/\s+/)[0])).toEqual(["layer", "0", "1", "2", "heads", ""]);
  expect(lines[1]!.split(/\s+/).length).toBe(8);
});

describe.skipIf(!hasFixtures)("a GGUF model with layers of several types", () => {
  const values = new Map<string, Float32Array>();
  let checkpoint: Checkpoint;
  beforeAll(async () => {
    checkpoint = await openCheckpoint(sourceOfFiles(await mixed(values)));
  });
  afterAll(() => checkpoint.close());

  it("has each layer in the kind of the file, with its values, and answers", async () => {
    const janus = await Janus.fromFiles(await mixed(new Map()));
    const layers = [...quantizedLayers(janus.model)];
    expect(layers.map(([path]) => path).sort()).toEqual([...values.keys()].sort());
    for (const [path, layer] of layers) {
      expect(layer.kind).toBe(path.endsWith("q_proj") ? "int8" : "int4");
      const [words, scales] = [await layer.qweight.readBytes(), await layer.scales.readBytes()];
      const rows = { words: new Uint32Array(words.slice().buffer), scales: new Uint16Array(scales.slice().buffer) };
      const back = dequantizeRows(rows, 128, layer.kind);
      expect(
        Array.from(back, (v) => v + 0),
        path,
      ).toEqual(Array.from(values.get(path)!, (v) => v + 0));
    }
    expect(janus.model.quantization).not.toBeNull();
    const { tokenIds } = await janus.ask("What is this?", { maxNewTokens: 3, temperature: 0 }).result();
    expect(tokenIds.length).toBeGreaterThan(0);
    expect(() => janus.generate("a red square")).toThrow(MissingPartError);
    expect(() => janus.generate("a red square")).toThrow(
      "generate: the checkpoint must have the weights to generate images; got GGUF files, which never have them. Use the checkpoint in safetensors, e.g. deepseek-ai/Janus-Pro-1B.",
    );
    const picture = { width: 1, height: 1, data: new Uint8Array(3) };
    await expect(janus.reconstruct(picture)).rejects.toThrow(MissingPartError);
    await expect(janus.ask("?", { images: [picture] }).result()).rejects.toThrow(/have them only with an mmproj file/);
    janus.dispose();
  });

  it("takes an adapter that was made for the full model, switches it, and cannot be merged with it", async () => {
    const full = await openCheckpoint(sourceOfFiles(tinyFiles("hf")));
    const model = await loadModel(full, {});
    await full.close();
    const paths = [...linearLayersOf(model)].map(([path]) => path).filter((path) => isTarget(path, "language_model.*.self_attn.*")); // prettier-ignore
    addAdapter(model, "default", paths.map((path) => [path, { rank: 2 }] as const)); // prettier-ignore
    for (const [, layer] of loraLayersOf(model)) {
      const { weight } = layer.lora_B.get("default")!;
      weight.writeBytes(new Uint8Array(Float32Array.from({ length: weight.size }, (_, i) => Math.sin(i)).buffer));
    }
    const sink = memorySink();
    await saveAdapter(model, sink);
    model.dispose();

    const janus = await Janus.fromFiles(await mixed(new Map()));
    const logits = async (): Promise<Float32Array> => {
      using y = noGrad(() =>
        scope(() => {
          const { embed_tokens } = janus.model.model.language_model;
          const ids = tensor(Int32Array.of(5, 9, 11, 2), { shape: [1, 4] });
          return janus.model.call(embed_tokens.call(ids), { positions: tensor(Int32Array.of(0, 1, 2, 3), { shape: [1, 4] }) });
        }).keep(),
      ); // prettier-ignore
      return (await y.data()) as Float32Array;
    };
    const before = await logits();
    await janus.loadAdapter(Object.fromEntries(sink.files));
    const after = await logits();
    expect(Math.hypot(...after.map((v, i) => v - before[i]!)) / Math.hypot(...before)).toBeGreaterThan(0.01);
    janus.setAdapters({});
    expect(await logits()).toEqual(before);
    expect(() => mergeAdapters(janus.model)).toThrow(/adapters must be merged into weights that are not quantised/);
    expect(() => checkpoint.requireWhole("train")).toThrow(/train: the checkpoint must have all parts of the model/);
    janus.dispose();
  });

  it("is all in one kind if that is asked for, and frees everything", async () => {
    const before = device.pool.stats.liveBytes;
    const notices: string[] = [];
    const model = await loadModel(checkpoint, { quantize: "int4", onNotice: (message) => void notices.push(message) });
    expect(new Set([...quantizedLayers(model)].map(([, { kind }]) => kind))).toEqual(new Set(["int4"]));
    // Of the files, only q is in another quantised format.
    expect(notices).toEqual([
      expect.stringMatching(/were quantised again to int4: their relative error .* is [\d.]+ %/),
    ]);
    model.dispose();
    expect(device.pool.stats.liveBytes).toBe(before);
  });
});

it.skipIf(!hasFixtures)("an MLX model takes an adapter as its decoded weights do, and is merged with it to a model that is not quantised", async () => {
  const { files } = await asMlx(tinyFiles("hf"));
  const sink = memorySink();
  const checkpoint = await openCheckpoint(sourceOfFiles(files));
  const model = await loadModel(checkpoint, {});
  const paths = [...linearLayersOf(model)].map(([path]) => path).filter((path) => isTarget(path, "language_model.*.self_attn.*"));
  addAdapter(model, "default", paths.map((path) => [path, { rank: 2 }] as const)); // prettier-ignore
  for (const [, layer] of loraLayersOf(model)) {
    const { weight } = layer.lora_B.get("default")!;
    weight.writeBytes(new Uint8Array(Float32Array.from({ length: weight.size }, (_, i) => 2 * Math.sin(i)).buffer));
  }
  await saveAdapter(model, sink);
  model.dispose();
  await checkpoint.close();
  const adapter = sourceOfFiles(sink.files);
  const { model: merged, config, unused } = await loadMerged(sourceOfFiles(files), { dtype: "f32", adapters: [{ source: adapter, weight: 1 }] }); // prettier-ignore
  const out = memorySink();
  await saveModel(merged, config, out, { unused });
  merged.dispose();
  expect(new TextDecoder().decode(out.files.get("config.json"))).not.toMatch(/quantization/);
  const saved = ["config.json", "model.safetensors"].map((name) => [name, out.files.get(name)!] as const);
  const answers: (readonly number[])[] = [];
  for (const [from, withAdapter] of [[files, true], [new Map([...files, ...saved]), false], [files, false]] as const) {
    const janus = await Janus.fromFiles(from, { dtype: "f32" });
    if (withAdapter) await janus.loadAdapter(Object.fromEntries(sink.files));
    answers.push((await janus.ask("What is this?", { maxNewTokens: 12, temperature: 0 }).result()).tokenIds);
    janus.dispose();
  }
  expect(answers[0]).toEqual(answers[1]);
  expect(answers[0]).not.toEqual(answers[2]);
}); // prettier-ignore

it.skipIf(!hasFixtures)("a GGUF model in 16 bits, which lacks parts, is not merged, saved or trained", async () => {
  const files = await tinyGguf({ mmproj: false }, () => undefined);
  files.set("config.json", tinyFiles("hf").get("config.json")!);
  const checkpoint = await openCheckpoint(sourceOfFiles(files));
  const model = await loadModel(checkpoint, {});
  expect([model.quantization, checkpoint.quantization]).toEqual([null, null]);
  const merge = loadMerged(sourceOfFiles(files), { adapters: [] });
  await expect(merge).rejects.toThrow(/merge: the checkpoint must have all parts of the model/);
  await expect(saveModel(model, checkpoint.config, memorySink())).rejects.toThrow(MissingPartError);
  const config = checkConfig({ stage: 3, batch: 1, length: 32, steps: 1, ratios: { und: 0, text: 1, gen: 0 }, optimizer: { lr: 1 }, lora: { rank: 1 } }); // prettier-ignore
  expect(() => new Trainer(model, checkpoint.config, config, 0)).toThrow(MissingPartError);
  model.dispose();
  await checkpoint.close();
});
