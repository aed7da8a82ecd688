/** Whole checkpoints: the tiny fixture in both layouts, names, configs, conversion, shards, and what does not fit. */
import { createHash } from "node:crypto";
import { mkdtempSync, readdirSync, rmSync, statfsSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { afterAll, describe, expect, it } from "vitest";
import { ArgumentError } from "../../engine/errors.ts";
import { blobFile } from "../../model/io/bytes.ts";
import { openCheckpoint } from "../../model/janus/checkpoint/checkpoint.ts";
import type { Checkpoint } from "../../model/janus/checkpoint/checkpoint.ts";
import { convertCheckpoint } from "../../model/janus/checkpoint/convert.ts";
import type { ConvertOptions } from "../../model/janus/checkpoint/convert.ts";
import { CheckpointError, ConfigError, ShardIndexError, TensorMismatchError } from "../../model/io/errors.ts";
import { inspect } from "../../model/janus/checkpoint/inspect.ts";
import { deepseekName, hfNames } from "../../model/janus/checkpoint/names.ts";
import { encodeSafetensors } from "../../model/io/safetensors.ts";
import { FileError, folderSource, writeFileAtomic, writeFolderAtomic } from "../../model/node/files.ts";
import { changedHf, memorySink, sourceOfFiles, tensorsOf, tinyFiles, tinyFolder } from "../checkpoint/tiny.ts";
import type { Files, Whole } from "../checkpoint/tiny.ts";

const open = (files: Files): Promise<Checkpoint> => openCheckpoint(sourceOfFiles(files));
const sha = (bytes: Uint8Array): string => createHash("sha256").update(bytes).digest("hex");
const hf = tinyFiles("hf");
const deepseek = tinyFiles("deepseek");
const temporary = mkdtempSync(join(tmpdir(), "janus-checkpoint-"));
afterAll(() => rmSync(temporary, { recursive: true, force: true }));

async function convert(files: Files, options: ConvertOptions): Promise<Files> {
  const sink = memorySink();
  const checkpoint = await open(files);
  await convertCheckpoint(checkpoint, sink, { sideFiles: files, ...options });
  return sink.files;
}

describe("the tiny checkpoint", () => {
  it("is the same in both layouts, tensor by tensor", async () => {
    const [a, b] = [await open(hf), await open(deepseek)];
    expect([a.layout, a.format, b.layout, b.format]).toEqual(["hf", "safetensors", "deepseek", "torch"]);
    expect(b.config).toEqual(a.config);
    expect([...b.parameters.keys()].sort()).toEqual([...a.parameters.keys()].sort());
    expect([a.tensors.size, b.tensors.size, a.unused.size, [...b.unused.keys()].length]).toEqual([375, 370, 0, 3]);
    for (const [name, one] of a.parameters) {
      const other = b.parameters.get(name)!;
      expect([other.dtype, other.shape], name).toEqual([one.dtype, one.shape]);
      expect(sha(await b.read(other)), name).toBe(sha(await a.read(one)));
    }
  });
  it("is read from a folder and from blobs, in chunks and by ranges", async () => {
    const folder = await openCheckpoint(folderSource(fileURLToPath(tinyFolder("deepseek"))));
    const name = "model.vision_model.encoder.layers.1.self_attn.k_proj.weight";
    const key = folder.parameters.get(name)!;
    const whole = (await folder.read(key)).slice();
    const same = await open(hf);
    expect(sha(whole)).toBe(sha(await same.read(same.parameters.get(name)!)));
    const chunks: Uint8Array[] = [];
    for await (const chunk of folder.chunks(key, 1000)) {
      expect(chunk.length % 8).toBe(0);
      chunks.push(chunk.slice());
    }
    expect(chunks.length).toBe(Math.ceil(whole.length / 1000));
    expect(sha(Buffer.concat(chunks))).toBe(sha(whole));
    expect(await folder.read(key, 100, 50)).toEqual(whole.slice(100, 150));
    await expect(folder.read(key, whole.length - 1, 2)).rejects.toThrow(CheckpointError);
    await folder.close();
    await expect(folder.read(key)).rejects.toThrow(/closed/);
    const blob = blobFile("b", new Blob([hf.get("model.safetensors")! as Uint8Array<ArrayBuffer>]));
    expect(await blob.read(3, 5)).toEqual(hf.get("model.safetensors")!.slice(3, 8));
    await expect(blob.read(blob.size, 1)).rejects.toThrow(/ends early/);
  });
  it("is what the table of parts says", async () => {
    const found = inspect(await open(deepseek));
    expect(found).toMatchObject({ layout: "deepseek", format: "torch", tensors: 370, unused: 65_536 + 64 + 64 * 64 });
    expect(found.dtypes).toEqual({ bf16: { tensors: 370, bytes: found.bytes } });
    expect(found.parameters).toBe([...(await open(hf)).parameters.values()].reduce((n, { bytes }) => n + bytes / 2, 0));
    expect(found.bytes).toBe(2 * (found.parameters + found.unused));
    expect(found.needs.weightBytes.all).toBe(2 * found.parameters);
  });
});

describe("names", () => {
  it("go both ways for every tensor of the fixture", async () => {
    const [a, b] = [await open(hf), await open(deepseek)];
    for (const name of a.tensors.keys()) {
      const { name: original, part } = deepseekName(name)!;
      expect(b.tensors.has(original), name).toBe(true);
      expect(hfNames(original)[part ?? 0]).toBe(name);
      expect(hfNames(original).length).toBe(part === undefined ? 1 : 3);
    }
  });
  it("knows no others", () => {
    for (const name of [
      "",
      "x",
      "model.vision_model.foo.weight",
      "vision_model.vision_tower.blocks.x.norm1.weight",
      "aligner.layers.1.weight",
      "gen_embed.bias",
      "lm_head.bias",
    ]) {
      expect([hfNames(name), deepseekName(name)], name).toEqual([[], null]);
    }
  });
});

describe("conversion", () => {
  it("gives the published hf file from DeepSeek's, byte by byte", async () => {
    const out = await convert(deepseek, { layout: "hf" });
    expect(sha(out.get("model.safetensors")!)).toBe(sha(hf.get("model.safetensors")!));
    expect([...(await tensorsOf(out.get("extra.safetensors")!)).keys()]).toEqual([
      "gen_vision_model.quantize.codebook_used",
      "vision_model.vision_tower.attn_pool.latent",
      "vision_model.vision_tower.attn_pool.q.weight",
    ]);
  });
  it("comes back from hf to DeepSeek's names with the same bytes, unused tensors included", async () => {
    const back = await convert(await convert(deepseek, { layout: "hf" }), { layout: "deepseek" });
    expect(back.has("extra.safetensors")).toBe(false);
    const [was, is] = [await open(deepseek), await open(back)];
    expect(is.layout).toBe("deepseek");
    expect([...is.tensors.keys()].sort()).toEqual([...was.tensors.keys()].sort());
    const written = await tensorsOf(back.get("model.safetensors")!);
    for (const [name, tensor] of was.tensors) {
      const bytes = deepseek.get("pytorch_model.bin")!.subarray(tensor.offset, tensor.offset + tensor.bytes);
      expect([written.get(name)!.dtype, written.get(name)!.shape], name).toEqual([tensor.dtype, tensor.shape]);
      expect(sha(written.get(name)!.data), name).toBe(sha(bytes));
    }
    // The same from the format of its own, without a change of layout.
    const same = await convert(deepseek, { layout: "deepseek" });
    expect(sha(same.get("model.safetensors")!)).toBe(sha(back.get("model.safetensors")!));
  });
  it("writes configs that read as the same sizes, and the ids of the tokenizer", async () => {
    const config = (await open(hf)).config;
    const toHf = await convert(deepseek, { layout: "hf" });
    const toDeepseek = await convert(hf, { layout: "deepseek" });
    expect((await open(toHf)).config).toEqual(config);
    expect((await open(toDeepseek)).config).toEqual(config);
    const json = (files: Files, name: string): Record<string, unknown> =>
      JSON.parse(new TextDecoder().decode(files.get(name))) as Record<string, unknown>;
    const published = json(hf, "config.json");
    for (const part of ["text_config", "vision_config", "vq_config"])
      expect(published[part], part).toMatchObject(withoutTheta(json(toHf, "config.json")[part]));
    expect(json(toHf, "config.json").image_token_id).toBe(published.image_token_id);
    expect(json(toHf, "generation_config.json")).toEqual(
      omit(json(hf, "generation_config.json"), "transformers_version"),
    );
    expect(json(toDeepseek, "processor_config.json")).toEqual(json(deepseek, "processor_config.json"));
    expect(json(toDeepseek, "preprocessor_config.json")).toEqual(json(deepseek, "preprocessor_config.json"));
    expect(sha(toHf.get("tokenizer.json")!)).toBe(sha(deepseek.get("tokenizer.json")!));
    // Without a tokenizer the ids are left to transformers; one that lacks them is refused.
    const bare = new Map([...deepseek].filter(([name]) => name !== "tokenizer.json"));
    expect(json(await convert(bare, { layout: "hf" }), "config.json")).not.toHaveProperty("image_token_id");
    const wrong = new Map(deepseek).set("tokenizer.json", new TextEncoder().encode('{"added_tokens":[]}'));
    await expect(convert(wrong, { layout: "hf" })).rejects.toThrow(ConfigError);
  });
  it("changes dtypes, exactly where nothing is lost, and says so in the config", async () => {
    const wide = await convert(hf, { layout: "hf", dtype: "f32" });
    const narrow = await convert(wide, { layout: "hf", dtype: "bf16" });
    expect(sha(narrow.get("model.safetensors")!)).toBe(sha(hf.get("model.safetensors")!));
    expect([...(await open(wide)).tensors.values()].every(({ dtype }) => dtype === "f32")).toBe(true);
    expect(new TextDecoder().decode(wide.get("config.json"))).toContain('"torch_dtype": "float32"');
  });
  it("writes shards with an index, and reads them", async () => {
    const sharded = await convert(deepseek, { layout: "hf", shardBytes: 1e6 });
    const shards = [...sharded.keys()].filter((name) => /^model-0000\d-of-0000\d\.safetensors$/.test(name));
    expect(shards.length).toBeGreaterThan(4);
    for (const name of shards) expect(sharded.get(name)!.length).toBeLessThan(1.05e6);
    const whole = await open(sharded);
    expect(whole.tensors.size).toBe(375);
    expect(inspect(whole).parameters).toBe(inspect(await open(hf)).parameters);
    const joined = await convert(sharded, { layout: "hf" });
    expect(sha(joined.get("model.safetensors")!)).toBe(sha(hf.get("model.safetensors")!));
    expect(joined.has("model.safetensors.index.json")).toBe(false);
  });
  it("reports progress to the end, and stops when told", async () => {
    const seen: number[] = [];
    let total = 0;
    const controller = new AbortController();
    await convert(hf, {
      layout: "deepseek",
      chunkBytes: 4096,
      onProgress: ({ bytes, totalBytes }) => ((total = totalBytes), seen.push(bytes)),
    });
    expect(seen).toEqual([...seen].sort((a, b) => a - b));
    expect(seen.at(-1)).toBe(total);
    const aborted = convert(hf, {
      layout: "deepseek",
      signal: controller.signal,
      onProgress: () => controller.abort(),
    });
    await expect(aborted).rejects.toThrow(/abort/i);
  });
  it("refuses what it does not know", async () => {
    await expect(convert(hf, { layout: "gguf" as "hf" })).rejects.toThrow(ArgumentError);
    await expect(convert(hf, { layout: "hf", dtype: "f64" as "f32" })).rejects.toThrow(ArgumentError);
  });
  it("keeps memory low: a chunk at a time", async () => {
    let largest = 0;
    const sink = memorySink();
    const watched = { write: (name: string, content: Parameters<typeof sink.write>[1]) =>
      sink.write(name, content instanceof Uint8Array ? content : (out) => content({ write: (bytes) => ((largest = Math.max(largest, bytes.length)), out.write(bytes)) })) }; // prettier-ignore
    await convertCheckpoint(await open(hf), watched, { layout: "deepseek", chunkBytes: 4096 });
    expect(largest).toBeLessThan(70_000); // the header
  });
});

const withoutTokenizer = (tensors: Map<string, Whole>): void => {
  for (const name of tensors.keys()) if (name.includes("vqmodel")) tensors.delete(name);
};
const omit = (value: Record<string, unknown>, key: string): Record<string, unknown> =>
  Object.fromEntries(Object.entries(value).filter(([k]) => k !== key));
/** Transformers 5 has moved the base of the rotary positions into an object of its own; both forms are read by it and by us. */
const withoutTheta = (value: unknown): Record<string, unknown> => omit(value as Record<string, unknown>, "rope_theta");

describe("tensors that do not fit", () => {
  const key = "model.aligner.fc1.weight";
  const changes: [string, (tensors: Map<string, Whole>) => void, RegExp][] = [
    ["a missing one", (t) => void t.delete(key), /missing: model\.aligner\.fc1\.weight, expected \[128, 64\]/],
    ["one of another shape", (t) => void t.set(key, { ...t.get(key)!, shape: [64, 128] }), /misshapen: model\.aligner\.fc1\.weight, expected \[128, 64\], found \[64, 128\]/],
    ["one of another dtype", (t) => void t.set(key, { ...t.get(key)!, dtype: "i16" }), /dtype: model\.aligner\.fc1\.weight, expected f32, f16, bf16, found i16/],
    ["one too many", (t) => void t.set("model.lora", { name: "model.lora", dtype: "u8", shape: [1], data: new Uint8Array(1) }), /unexpected: "model\.lora" u8 \[1\]/],
    ["one odd convolution of the image tokenizer", (t) => void t.set("model.vqmodel.encoder.conv_in.weight", { name: "model.vqmodel.encoder.conv_in.weight", dtype: "u8", shape: [1], data: new Uint8Array(1) }), /misshapen: model\.vqmodel\.encoder\.conv_in\.weight, expected \[32, 3, 3, 3\]/],
  ]; // prettier-ignore
  it.each(changes)("%s", async (_, change, message) => {
    const error: unknown = await open(await changedHf(change)).catch((e: unknown) => e);
    expect(error).toBeInstanceOf(TensorMismatchError);
    expect((error as TensorMismatchError).message).toMatch(message);
    expect((error as TensorMismatchError).problems.length).toBe(1);
  });
  it("many at once are counted, and the first ones shown", async () => {
    const error: unknown = await open(await changedHf(withoutTokenizer)).catch((e: unknown) => e);
    expect(error).toBeInstanceOf(TensorMismatchError);
    expect((error as TensorMismatchError).problems.length).toBeGreaterThan(200);
    expect((error as Error).message).toMatch(/… and \d+ more/);
  });
  it("in DeepSeek's layout under DeepSeek's names", async () => {
    const files = await convert(deepseek, { layout: "deepseek" });
    const tensors = await tensorsOf(files.get("model.safetensors")!);
    const name = "vision_model.vision_tower.blocks.0.attn.qkv.weight";
    for (const shape of [
      [191, 64],
      [64, 192],
    ]) {
      // prettier-ignore
      const bytes = shape.reduce((a, b) => a * b, 2);
      tensors.set(name, { ...tensors.get(name)!, shape, data: new Uint8Array(bytes) });
      const changed = new Map(files).set("model.safetensors", encodeSafetensors([...tensors.values()]));
      await expect(open(changed)).rejects.toThrow(
        `misshapen: ${name}, expected [192, 64], found [${shape.join(", ")}]`,
      );
    }
  });
  it("of neither layout, or of both", async () => {
    const renamed = await changedHf((t) => {
      const norm = t.get("model.language_model.norm.weight")!;
      t.delete(norm.name);
      t.set("transformer.norm.weight", { ...norm, name: "transformer.norm.weight" });
    });
    await expect(open(renamed)).rejects.toThrow(/not the weights of a Janus model/);
    const both = await changedHf(
      (t) =>
        void t.set("language_model.model.norm.weight", {
          ...t.get("model.language_model.norm.weight")!,
          name: "language_model.model.norm.weight",
        }),
    );
    await expect(open(both)).rejects.toThrow(/just one must be there/);
  });
  it("rotary tables of old files are passed over and kept", async () => {
    const name = "model.language_model.layers.0.self_attn.rotary_emb.inv_freq";
    const files = await changedHf((t) => void t.set(name, { name, dtype: "f32", shape: [1], data: new Uint8Array(4) }));
    expect([...(await open(files)).unused.keys()]).toEqual([name]);
  });
  it("in the side file, if it holds anything else", async () => {
    const extra = encodeSafetensors([{ name: "x", dtype: "u8", shape: [1], data: new Uint8Array(1) }]);
    await expect(open(new Map(hf).set("extra.safetensors", extra))).rejects.toThrow(
      /"x" are not tensors that belong in it/,
    );
  });
});

describe("folders", () => {
  const text = (value: string): Uint8Array => new TextEncoder().encode(value);
  const without = (files: Files, ...names: string[]): Files =>
    new Map([...files].filter(([name]) => !names.includes(name)));
  const wrong: [string, () => Files, abstract new (...args: never[]) => Error, RegExp][] = [
    ["nothing", () => new Map(), ConfigError, /no config\.json.*it is empty/],
    ["no config", () => without(hf, "config.json"), ConfigError, /no config\.json/],
    ["no weights", () => without(hf, "model.safetensors"), CheckpointError, /no weights in it .*it contains "chat_template\.jinja"/],
    ["two unknown weight files", () => without(hf, "model.safetensors").set("a.bin", text("")).set("b.bin", text("")), CheckpointError, /several other weight files: "a\.bin", "b\.bin"/],
    ["a pointer of Git LFS", () => new Map(hf).set("model.safetensors", text("version https://git-lfs.github.com/spec/v1\noid sha256:1\nsize 1\n")), CheckpointError, /pointer of Git LFS/],
    ["a web page", () => new Map(hf).set("model.safetensors", text("<!DOCTYPE html><html></html>")), CheckpointError, /web page/],
    ["an empty weight file", () => new Map(hf).set("model.safetensors", text("")), CheckpointError, /too few/],
    ["the config of another model", () => new Map(hf).set("config.json", text('{"model_type":"llava"}')), ConfigError, /model_type is "llava"/],
    ["a config of 2 MB", () => new Map(hf).set("config.json", text(" ".repeat(2 ** 21))), CheckpointError, /at most 1048576/],
  ]; // prettier-ignore
  it.each(wrong)("with %s", async (_, files, kind, message) => {
    const error: unknown = await open(files()).catch((e: unknown) => e);
    expect(error).toBeInstanceOf(kind);
    expect((error as Error).message).toMatch(message);
  });
  it("prefer safetensors, and take a single file of any name and either format", async () => {
    expect((await open(new Map([...deepseek, ...hf]))).format).toBe("safetensors");
    const renamed = without(deepseek, "pytorch_model.bin").set("janus.bin", deepseek.get("pytorch_model.bin")!);
    expect((await open(renamed)).format).toBe("torch");
    const misnamed = without(hf, "model.safetensors").set("pytorch_model.bin", hf.get("model.safetensors")!);
    expect((await open(misnamed)).format).toBe("safetensors");
  });
});

describe("shards", () => {
  const sharded = convert(hf, { layout: "hf", shardBytes: 2.7e6 });
  const INDEX = "model.safetensors.index.json";
  const shard = (i: number): string => `model-0000${i}-of-00002.safetensors`;
  type Index = { weight_map: Record<string, string> };
  const changed = async (change: (index: Index, files: Files) => void): Promise<Files> => {
    const files = new Map(await sharded);
    const index = JSON.parse(new TextDecoder().decode(files.get(INDEX))) as Index;
    change(index, files);
    return files.set(INDEX, new TextEncoder().encode(JSON.stringify(index)));
  };
  const cases: [string, (index: Index, files: Files) => void, RegExp][] = [
    ["missing shards", (_, files) => void files.delete(shard(2)), /1 of 2 shards are missing: "model-00002-of-00002\.safetensors"/],
    ["a tensor in another shard than the index says", (index) => void (index.weight_map["lm_head.weight"] = shard(2)), /"lm_head\.weight" is in model-00001-of-00002\.safetensors, the index says model-00002/],
    ["a tensor that the index does not list", (index) => void delete index.weight_map["lm_head.weight"], /"lm_head\.weight" is in model-00001-of-00002\.safetensors but not in the index/],
    ["a tensor that only the index lists", (index) => void (index.weight_map.ghost = shard(1)), /"ghost" is not in model-00001/],
    ["the same shard twice under two names", (index, files) => {
      files.set("copy.safetensors", files.get(shard(1))!);
      index.weight_map["lm_head.weight"] = "copy.safetensors";
    }, /is in two shards/],
  ]; // prettier-ignore
  it.each(cases)("%s", async (_, change, message) => {
    const error: unknown = await open(await changed(change)).catch((e: unknown) => e);
    expect(error).toBeInstanceOf(ShardIndexError);
    expect((error as Error).message).toMatch(message);
  });
  it("right ones", async () => {
    expect((await open(await changed(() => undefined))).tensors.size).toBe(375);
  });
});

describe("files", () => {
  it("appear whole or not at all", async () => {
    const path = join(temporary, "file.bin");
    await writeFileAtomic(path, Uint8Array.of(1, 2, 3));
    const failing = writeFileAtomic(path, async (sink) => {
      await sink.write(Uint8Array.of(9));
      throw new CheckpointError("half-way");
    });
    await expect(failing).rejects.toThrow("half-way");
    const folder = join(temporary, "made/out");
    await expect(writeFolderAtomic(folder, 0, async (sink) => {
      await sink.write("a", Uint8Array.of(1));
      throw new CheckpointError("half-way");
    })).rejects.toThrow("half-way"); // prettier-ignore
    expect(readdirSync(temporary).sort()).toEqual(["file.bin", "made"]);
    expect(readdirSync(join(temporary, "made"))).toEqual([]);
  });
  it("of a converted checkpoint are read from the disk as from memory", async () => {
    const out = join(temporary, "converted");
    const checkpoint = await openCheckpoint(folderSource(fileURLToPath(tinyFolder("deepseek"))));
    await writeFolderAtomic(
      out,
      6e6,
      async (sink) => void (await convertCheckpoint(checkpoint, sink, { layout: "hf" })),
    );
    await checkpoint.close();
    expect(readdirSync(out).sort()).toEqual([
      "config.json",
      "extra.safetensors",
      "generation_config.json",
      "model.safetensors",
      "preprocessor_config.json",
      "processor_config.json",
    ]);
    const back = await openCheckpoint(folderSource(out));
    expect(back.config).toEqual((await open(hf)).config);
    await back.close();
    await expect(writeFolderAtomic(out, 0, async () => undefined)).rejects.toThrow(/exists and is not empty/);
    const { bavail, bsize } = statfsSync(temporary);
    await expect(writeFolderAtomic(join(temporary, "big"), 2 * bavail * bsize, async () => undefined)).rejects.toThrow(
      /make room/,
    );
  });
  it("that are not there, or folders, are named", async () => {
    writeFileSync(join(temporary, "plain"), "x");
    const cases: [string, RegExp][] = [[join(temporary, "absent"), /absent does not exist/], [join(temporary, "plain"), /plain is not a folder/]]; // prettier-ignore
    for (const [path, message] of cases) {
      const error: unknown = await openCheckpoint(folderSource(path)).catch((e: unknown) => e);
      expect(error).toBeInstanceOf(FileError);
      expect((error as Error).message).toMatch(message);
    }
    expect(() => folderSource(temporary).open("../x")).toThrow(FileError);
  });
});
