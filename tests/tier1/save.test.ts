/** Models made from nothing and saved: what their weights are, that a folder holds them bit for bit, and what stops a save. */
import { mkdtempSync, readdirSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, afterEach, describe, expect, it, vi } from "vitest";
import { newCheckpoint } from "../../examples/new_checkpoint.ts";
import { ArgumentError, Device, F, ShapeError, encode, noGrad, scope, tensor, tensorFromBytes } from "../../index.ts";
import type { DType, Tensor } from "../../index.ts";
import { byteTokenizerFiles } from "../../model/byte_tokenizer.ts";
import { openCheckpoint, sourceOf } from "../../model/janus/checkpoint/checkpoint.ts";
import type { Checkpoint } from "../../model/janus/checkpoint/checkpoint.ts";
import { convertCheckpoint } from "../../model/janus/checkpoint/convert.ts";
import type { ConvertOptions } from "../../model/janus/checkpoint/convert.ts";
import { CheckpointError, ConfigError, TensorMismatchError } from "../../model/io/errors.ts";
import { JANUS_TINY, createModel, tinyConfig } from "../../model/janus/create.ts";
import { JanusForConditionalGeneration } from "../../model/janus/janus.ts";
import { folderSource, writeFolderAtomic } from "../../model/node/index.ts";
import { fingerprint, loadModel } from "../../model/janus/load.ts";
import { planSave, readUnused, saveModel } from "../../model/janus/save.ts";
import type { SaveOptions } from "../../model/janus/save.ts";
import { memorySink, sourceOfFiles, tinyFiles } from "../checkpoint/tiny.ts";
import type { Files } from "../checkpoint/tiny.ts";
import { hasFixtures } from "../fixtures.ts";
import { errorOf, useDevice } from "../gpu.ts";
import { isLong } from "../long.ts";

const device = useDevice();
const temporary = mkdtempSync(join(tmpdir(), "janus-save-"));
afterAll(() => rmSync(temporary, { recursive: true, force: true }));

let made: JanusForConditionalGeneration[] = [];
const keep = (model: JanusForConditionalGeneration): JanusForConditionalGeneration => (made.push(model), model);
// After each test the device is watched for what is left over, so the models must be gone by then; hooks run in reverse order.
afterEach(() => {
  for (const model of made) model.dispose();
  made = [];
});

async function saved(model: JanusForConditionalGeneration, options: SaveOptions = {}): Promise<Files> {
  const sink = memorySink();
  await saveModel(model, JANUS_TINY, sink, options);
  return sink.files;
}

async function converted(files: Files, options: ConvertOptions): Promise<Files> {
  const sink = memorySink();
  await convertCheckpoint(await openCheckpoint(sourceOfFiles(files)), sink, { sideFiles: files, ...options });
  return sink.files;
}

async function loaded(files: Files, dtype: DType): Promise<JanusForConditionalGeneration> {
  const checkpoint = await openCheckpoint(sourceOfFiles(files));
  const model = keep(new JanusForConditionalGeneration(checkpoint.config, { init: false, dtype }));
  const state: Record<string, Tensor> = {};
  for (const [name, source] of checkpoint.parameters)
    state[name] = tensorFromBytes(await checkpoint.read(source), source.shape, source.dtype as DType);
  await model.loadStateDict(state);
  for (const t of Object.values(state)) t.dispose();
  return model;
}

/** Names of the parameters whose stored values are other than the checkpoint's, by way of `data()`. */
async function differing(model: JanusForConditionalGeneration, checkpoint: Checkpoint): Promise<string[]> {
  const names: string[] = [];
  expect([...checkpoint.parameters.keys()].sort()).toEqual(Object.keys(model.stateDict()).sort());
  for (const [name, parameter] of model.namedParameters()) {
    const source = checkpoint.parameters.get(name)!;
    const [bytes, own] = [await checkpoint.read(source), encode(await parameter.data(), parameter.dtype)];
    const same = source.dtype === parameter.dtype && Buffer.compare(bytes, own) === 0;
    if (!same || source.shape.join() !== parameter.shape.join()) names.push(name);
  }
  return names;
}

const same = (a: Files, b: Files): void => {
  expect([...a.keys()].sort()).toEqual([...b.keys()].sort());
  const different = [...a].filter(([name, bytes]) => Buffer.compare(bytes, b.get(name)!) !== 0).map(([name]) => name);
  expect(different).toEqual([]);
};

describe("a new model", () => {
  it.skipIf(!hasFixtures)("of JANUS_TINY has the sizes of the fixtures", async () => {
    expect((await openCheckpoint(sourceOfFiles(tinyFiles("hf")))).config).toEqual(JANUS_TINY);
  });
  it("has the initial values that training wants", async () => {
    const config = tinyConfig({ language: { vocabulary: 4096 } });
    const model = keep(createModel(config, { seed: 3 }));
    const { language_model, vision_model, vqmodel, generation_embeddings, generation_head } = model.model;
    const moments = async (t: Tensor): Promise<[mean: number, deviation: number, largest: number]> => {
      const data = Float32Array.from(await t.data());
      const mean = data.reduce((a, b) => a + b, 0) / data.length;
      const square = data.reduce((sum, v) => sum + (v - mean) ** 2, 0);
      return [mean, Math.sqrt(square / data.length), data.reduce((most, v) => Math.max(most, Math.abs(v)), 0)];
    };
    const layer = language_model.layers[1]!;
    const normal = [
      language_model.embed_tokens.weight,
      model.lm_head.weight,
      layer.self_attn.q_proj.weight,
      layer.mlp.down_proj.weight,
      vision_model.embeddings.position_embedding.weight,
    ];
    for (const weight of normal) {
      const [mean, deviation, largest] = await moments(weight);
      // Bounds of five standard errors; a normal distribution of this many has outliers beyond 3, a uniform one ends at 1.73.
      expect(Math.abs(mean), `${weight}`).toBeLessThan((5 * 0.02) / Math.sqrt(weight.size));
      expect(Math.abs(deviation / 0.02 - 1), `${weight}`).toBeLessThan(5 / Math.sqrt(2 * weight.size));
      expect(largest, `${weight}`).toBeGreaterThan(0.06);
    }
    for (const norm of [layer.input_layernorm, layer.post_attention_layernorm, language_model.norm])
      expect(await moments(norm.weight)).toEqual([1, 0, 1]);
    const [, embedded] = await moments(generation_embeddings.weight);
    expect(Math.abs(embedded - 1)).toBeLessThan(0.1);
    const [, , head] = await moments(generation_head.vision_head.weight);
    expect(head).toBeLessThanOrEqual(1 / Math.sqrt(128));
    expect(head).toBeGreaterThan(0.99 / Math.sqrt(128));
    const codes = (await vqmodel.quantize.embedding.weight.array()) as number[][];
    for (const code of codes) expect(Math.hypot(...code)).toBeCloseTo(1, 5);
    expect(new Set(codes.map((code) => code[0])).size).toBe(256);
  });
  it("is the same for the same seed, in any dtype up to rounding, and another for another", async () => {
    const embedding = async (seed: number, dtype: "f32" | "bf16"): Promise<ArrayLike<number>> =>
      keep(createModel(JANUS_TINY, { seed, dtype })).model.language_model.embed_tokens.weight.data();
    const [a, b, rounded, other] = [await embedding(1, "f32"), await embedding(1, "f32"), await embedding(1, "bf16"), await embedding(2, "f32")]; // prettier-ignore
    expect(Array.from(a).every((v, i) => v === b[i])).toBe(true); // toEqual takes minutes to show a difference
    for (let i = 0; i < a.length; i += 97)
      expect(Math.abs(rounded[i]! - a[i]!)).toBeLessThanOrEqual(Math.abs(a[i]!) / 100);
    expect(Array.from(other).filter((v, i) => v === a[i]).length).toBeLessThan(10);
  });
  it("computes: logits of either head, codes of a picture and a picture of codes, all finite", async () => {
    const model = keep(createModel(JANUS_TINY, { seed: 4, dtype: "bf16" }));
    const results = noGrad(() =>
      scope(() => {
        const hidden = model.hidden(model.embedText(tensor([[1, 2, 3]], { dtype: "i32" })), { positions: F.arange(3) });
        const pixels = F.uniform([1, 3, 64, 64], -1, 1);
        const codes = model.model.vqmodel.encode(pixels);
        return [
          model.lm_head.call(hidden),
          model.codeLogits(hidden),
          model.model.call(pixels),
          model.model.vqmodel.decode(codes),
        ];
      }),
    );
    for (const result of results) {
      const data = await result.data();
      expect(data.every(Number.isFinite), `${result}`).toBe(true);
      expect(
        data.some((v) => v !== data[0]),
        `${result}`,
      ).toBe(true);
      result.dispose();
    }
  });
  it("refuses sizes that do not agree, before anything is on the device", async () => {
    expect(tinyConfig({ vision: { imageSize: 128 } }).vq.imageSize).toBe(128);
    expect(tinyConfig({ vq: { multipliers: [1, 2] } }).vq.imageSize).toBe(16);
    // 22 · (109 / 22) falls short of 109.
    expect(tinyConfig({ vision: { hidden: 22, heads: 2, intermediate: 109 } }).vision.intermediate).toBe(109);
    const wrong = [
      [{ vision: { imageSize: 60 } }, /images of 60 pixels do not split into patches of 8/],
      [{ language: { kvHeads: 3 } }, /4 attention heads do not share 3 key heads/],
      [{ vision: { eps: 0 } }, /layer_norm_eps/],
    ] as const;
    for (const [changes, message] of wrong) {
      const error = await errorOf(() => tinyConfig(changes));
      expect(error).toBeInstanceOf(ConfigError);
      expect(error.message).toMatch(message);
    }
    const odd = { ...JANUS_TINY, vq: { ...JANUS_TINY.vq, imageSize: 128 } };
    const before = device().pool.stats.liveBytes;
    expect(() => createModel(odd)).toThrow(/createModel: .*vq\.imageSize 128 would be read as 64/);
    expect(device().pool.stats.liveBytes).toBe(before);
  });
});

describe("saving", () => {
  it.each(isLong ? (["f32", "bf16", "f16"] as const) : (["bf16"] as const))(
    "a new model of %s keeps every bit, and it loads again",
    async (dtype) => {
      const model = keep(createModel(JANUS_TINY, { seed: 5, dtype }));
      const files = await saved(model, { chunkBytes: 1000 });
      expect([...files.keys()].sort()).toEqual(["config.json", "generation_config.json", "model.safetensors", "preprocessor_config.json", "processor_config.json"]); // prettier-ignore
      const checkpoint = await openCheckpoint(sourceOfFiles(files));
      expect(checkpoint.config).toEqual(JANUS_TINY);
      expect(await differing(model, checkpoint)).toEqual([]);
      const again = await loaded(files, dtype);
      same(await saved(again), files);
    },
  );
  it("goes to DeepSeek's layout and back with the same bytes, files of the tokenizer included", async () => {
    const model = keep(createModel(JANUS_TINY, { seed: 6, dtype: "bf16" }));
    const sideFiles = byteTokenizerFiles({ texts: ["a picture of a red circle, a red circle"] }).set("note.txt", Uint8Array.of(1, 2)); // prettier-ignore
    const files = await saved(model, { sideFiles });
    for (const name of sideFiles.keys()) expect(files.get(name), name).toEqual(sideFiles.get(name));
    const deepseek = await converted(files, { layout: "deepseek" });
    expect((await openCheckpoint(sourceOfFiles(deepseek))).layout).toBe("deepseek");
    same(await converted(deepseek, { layout: "hf" }), files);
    // At once, and in chunks that end inside q, k and v.
    same(await saved(model, { sideFiles, layout: "deepseek", chunkBytes: 1000 }), deepseek);
  });
  it.skipIf(!hasFixtures)(
    "gives back what DeepSeek's file holds, tensors that the model never reads included, in both layouts",
    async () => {
      const original = await openCheckpoint(sourceOfFiles(tinyFiles("deepseek")));
      const model = keep(await loadModel(original));
      const unused = await readUnused(original);
      expect(unused.size).toBe(3);
      for (const layout of ["deepseek", "hf"] as const) {
        const written = await openCheckpoint(sourceOfFiles(await saved(model, { layout, unused })));
        expect([...written.unused.keys()].sort()).toEqual([...original.unused.keys()].sort());
        const all = layout === "deepseek" ? [written.tensors, original.tensors] : [written.unused, original.unused];
        expect([...all[0]!.keys()].sort()).toEqual([...all[1]!.keys()].sort());
        for (const [name, tensor] of all[1]!) {
          const [now, then] = [await written.read(sourceOf(all[0]!.get(name)!)), await original.read(sourceOf(tensor))];
          expect(Buffer.compare(now, then), name).toBe(0);
        }
        expect(await fingerprint(written)).toBe(await fingerprint(original));
      }
    },
  );
  it.skipIf(!hasFixtures)("writes the published file of the fixtures, from bf16 and from f32 weights", async () => {
    const published = tinyFiles("hf");
    for (const dtype of ["bf16", "f32"] as const) {
      const model = await loaded(published, dtype);
      const files = await saved(model, { dtype: "bf16", sideFiles: published });
      expect(Buffer.compare(files.get("model.safetensors")!, published.get("model.safetensors")!), dtype).toBe(0);
      const config = JSON.parse(new TextDecoder().decode(files.get("config.json"))) as Record<string, unknown>;
      expect([config.torch_dtype, config.image_token_id]).toEqual(["bfloat16", 691]);
      expect(files.has("chat_template.jinja")).toBe(true);
    }
  });
  it("writes shards with an index, as many bytes as planned, and tells how far it is", async () => {
    const model = keep(createModel(JANUS_TINY, { dtype: "bf16" }));
    const seen: number[] = [];
    let total = 0;
    const onProgress = (p: { bytes: number; totalBytes: number }): void =>
      void ((total = p.totalBytes), seen.push(p.bytes));
    const files = await saved(model, { shardBytes: 1e6, onProgress });
    const shards = [...files].filter(([name]) => /^model-0000\d-of-0000\d\.safetensors$/.test(name));
    expect(shards.length).toBeGreaterThan(4);
    expect(files.has("model.safetensors.index.json")).toBe(true);
    expect((await planSave(model, JANUS_TINY, { shardBytes: 1e6 })).bytes).toBe(
      shards.reduce((sum, [, { length }]) => sum + length, 0),
    );
    expect(await differing(model, await openCheckpoint(sourceOfFiles(files)))).toEqual([]);
    expect([seen.at(-1), total]).toEqual([2 * model.parameterCount(), 2 * model.parameterCount()]);
  });
  it("reads back a chunk at a time", async () => {
    const model = keep(createModel(JANUS_TINY, { dtype: "bf16" }));
    const read = vi.spyOn(device(), "read");
    await saved(model, { chunkBytes: 4096 });
    const sizes = read.mock.calls.map(([{ size }]) => size);
    read.mockRestore();
    expect(Math.max(...sizes)).toBe(4096);
    expect(sizes.reduce((a, b) => a + b, 0)).toBe(2 * model.parameterCount());
  });
  it("leaves nothing behind when a step changes the model meanwhile, or when it is told to stop", async () => {
    const model = keep(createModel(JANUS_TINY, { dtype: "bf16" }));
    const folder = join(temporary, "stopped");
    const into = (options: SaveOptions): Promise<Error> =>
      errorOf(() =>
        writeFolderAtomic(folder, 6e6, async (sink) => void (await saveModel(model, JANUS_TINY, sink, options))),
      );
    const step = (): void => noGrad(() => scope(() => F.castInto(model.model.vqmodel.quant_conv.bias!, tensor([1]))));
    const changed = await into({ onProgress: ({ tensor: name }) => name.includes("language_model.norm") && step() });
    expect(changed).toBeInstanceOf(CheckpointError);
    expect(changed.message).toMatch(/model\.vqmodel\.quant_conv\.bias was changed while the model was saved/);
    const controller = new AbortController();
    expect((await into({ signal: controller.signal, onProgress: () => controller.abort() })).name).toBe("AbortError");
    expect(readdirSync(temporary)).toEqual([]);
    expect(await differing(model, await openCheckpoint(sourceOfFiles(await saved(model))))).toEqual([]);
  });
  it("refuses the config of another model, one that cannot be written, and numbers beyond a dtype, by name", async () => {
    const model = keep(createModel(JANUS_TINY));
    const files = memorySink();
    const wide = await errorOf(() => saveModel(model, tinyConfig({ language: { intermediate: 352 } }), files));
    expect(wide).toBeInstanceOf(TensorMismatchError);
    expect(wide.message).toMatch(
      /the model: 9 tensors .*\n.*misshapen: model\.language_model\.layers\.0\.mlp\.gate_proj\.weight, expected \[352, 128\], found \[344, 128\]/,
    );
    const odd = { ...JANUS_TINY, vq: { ...JANUS_TINY.vq, imageSize: 128 } };
    await expect(saveModel(model, odd, files)).rejects.toThrow(ConfigError);
    const other = byteTokenizerFiles().set("tokenizer.json", new TextEncoder().encode('{"added_tokens":[]}'));
    await expect(saveModel(model, JANUS_TINY, files, { sideFiles: other })).rejects.toThrow(
      /<image_placeholder> is not in it/,
    );
    expect([...files.files.keys()]).toEqual([]);
    noGrad(() => scope(() => F.castInto(model.lm_head.weight, tensor([1e5]))));
    await expect(saveModel(model, JANUS_TINY, files, { dtype: "f16" })).rejects.toThrow(
      /lm_head\.weight holds numbers beyond the range of f16/,
    );
  });
  it.each(["hf", "deepseek"] as const)("by the example, in the %s layout", async (layout) => {
    const out = join(temporary, layout);
    const bytes = await newCheckpoint(out, { layout, seed: 9, texts: ["red red red"], device: device() });
    const checkpoint = await openCheckpoint(folderSource(out));
    const config = tinyConfig({ language: { vocabulary: checkpoint.config.language.vocabulary } });
    expect([checkpoint.layout, checkpoint.config]).toEqual([layout, config]);
    expect(config.language.vocabulary).toBeLessThan(300); // that of the tokenizer
    const model = keep(createModel(config, { seed: 9, dtype: "bf16" }));
    expect(await differing(model, checkpoint)).toEqual([]);
    expect(bytes).toBe(2 * model.parameterCount());
    expect(checkpoint.unused.size).toBe(layout === "deepseek" ? 14 : 0);
    await checkpoint.close();
    const again = await errorOf(() => newCheckpoint(out, { device: device() }));
    expect(again.message).toMatch(/exists and is not empty/);
    rmSync(out, { recursive: true });
  });
});

describe("readBytes", () => {
  it("gives the stored bytes of any range, of views too", async () => {
    for (const dtype of ["f32", "bf16", "u8"] as const) {
      const values = Array.from({ length: 37 }, (_, i) => i + 1);
      const stored = encode(values, dtype);
      using t = tensor(values, { dtype });
      expect(await t.readBytes()).toEqual(stored);
      for (const [offset, length] of [[0, 0], [0, 1], [1, 5], [7, 30], [stored.length - 3, 3], [stored.length, 0]] as const)
        expect(await t.readBytes(offset, length), `${dtype} ${offset} ${length}`).toEqual(stored.slice(offset, offset + length)); // prettier-ignore
      using view = t.strided([5], [1], 11);
      const size = stored.length / 37;
      expect(await view.readBytes(2)).toEqual(stored.slice(11 * size + 2, 16 * size));
    }
  });
  it("refuses what has no such bytes", async () => {
    using t = tensor([[1, 2], [3, 4]]); // prettier-ignore
    using turned = t.strided([2, 2], [1, 2]);
    await expect(turned.readBytes()).rejects.toThrow(ShapeError);
    for (const [offset, length] of [[-1, 1], [0, 17], [16, 1], [0.5, 1], [20, undefined]] as const)
      await expect(t.readBytes(offset, length), `${offset} ${length}`).rejects.toThrow(ArgumentError); // prettier-ignore
    const nothing = await Device.create({ backend: "null" });
    const absent = tensor([1], { device: nothing });
    await expect(absent.readBytes()).rejects.toThrow(/null device/);
    absent.dispose();
    nothing.destroy();
  });
});
