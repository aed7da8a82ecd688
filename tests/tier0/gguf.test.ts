/** GGUF: blocks against the Python package gguf, headers that are refused, and the tiny checkpoint as llama.cpp would store it. */
import { readFileSync } from "node:fs";
import { describe, expect, it } from "vitest";
import { bytesFile } from "../../model/io/bytes.ts";
import { CheckpointError, ConfigError, GgufError, MissingPartError, QuantizationError, TensorMismatchError } from "../../model/io/errors.ts"; // prettier-ignore
import { GGML_TYPES, decodeBlocks, repackBlocks } from "../../model/io/ggml.ts";
import { readGguf } from "../../model/io/gguf.ts";
import { dequantizeRows } from "../../model/io/quantize.ts";
import { openCheckpoint } from "../../model/janus/checkpoint/checkpoint.ts";
import type { Checkpoint } from "../../model/janus/checkpoint/checkpoint.ts";
import { planConversion } from "../../model/janus/checkpoint/convert.ts";
import { inspect } from "../../model/janus/checkpoint/inspect.ts";
import { ownKind, quantizedChunks } from "../../model/janus/checkpoint/quantized.ts";
import { mainDType } from "../../model/janus/checkpoint/side_files.ts";
import { fingerprint } from "../../model/janus/load.ts";
import { LLAMA, TYPE, bf16Values, blocks, ggufBytes, ggufName, tinyGguf, tinyTensors } from "../checkpoint/gguf.ts";
import type { Metadata, TestTensor } from "../checkpoint/gguf.ts";
import { sourceOfFiles } from "../checkpoint/tiny.ts";
import type { Files } from "../checkpoint/tiny.ts";
import { hasFixtures } from "../fixtures.ts";

interface Cases {
  readonly types: Readonly<Record<string, { readonly blocks: string; readonly values: string }>>;
}
const { types } = JSON.parse(readFileSync(new URL("../ggml_blocks.json", import.meta.url), "utf8")) as Cases;
const u32 = (values: Float32Array): Uint32Array => new Uint32Array(values.buffer, values.byteOffset, values.length);

describe("blocks", () => {
  it.each(Object.entries(types))("of %s have the bits that the Python package gives", (name, { blocks, values }) => {
    const type = [...GGML_TYPES.values()].find((one) => one.name === name)!;
    const bytes = new Uint8Array(Buffer.from(blocks, "base64"));
    const expected = new Uint32Array(new Uint8Array(Buffer.from(values, "base64")).buffer);
    expect(bytes.length % type.bytes).toBe(0);
    expect(u32(decodeBlocks(bytes, type))).toEqual(expected);
    if (!type.packed) return;
    expect(u32(dequantizeRows(repackBlocks(bytes, type.packed), 32, type.packed))).toEqual(expected);
  });

  it("a scale that is not finite is refused with the name of the tensor", () => {
    const bytes = new Uint8Array(34);
    bytes[1] = 0x7c;
    expect(() => repackBlocks(bytes, "int8", "blk.0.attn_q.weight")).toThrow(QuantizationError);
    expect(() => repackBlocks(bytes, "int8", "blk.0.attn_q.weight")).toThrow(
      "blk.0.attn_q.weight: scales must be finite; got Infinity in group 0",
    );
  });
});

describe("a header", () => {
  const one: TestTensor = { name: "a", type: TYPE.F32, shape: [2, 4], data: new Uint8Array(32) };
  const two: TestTensor = { ...one, name: "b" };
  const good = ggufBytes({ "general.architecture": "llama", list: ["x", "y"], flag: true, number: 1.5 }, [one, two]);
  const changed = (at: number, bytes: readonly number[]): Uint8Array => {
    const copy = good.slice();
    copy.set(bytes, at);
    return copy;
  };
  const read = (bytes: Uint8Array): ReturnType<typeof readGguf> => readGguf(bytesFile("m.gguf", bytes));

  it("gives metadata and the positions of tensors, in version 2 too", async () => {
    for (const bytes of [good, changed(4, [2])]) {
      const { metadata, tensors } = await read(bytes);
      expect(Object.fromEntries(metadata)).toMatchObject({ list: { length: 2 }, flag: true, number: 1.5 });
      expect([...tensors.values()].map(({ name, shape, bytes: n }) => [name, shape, n])).toEqual([
        ["a", [2, 4], 32],
        ["b", [2, 4], 32],
      ]);
      expect(tensors.get("b")!.offset).toBe(bytes.length - 32);
    }
  });

  const huge = [0, 0, 0, 0, 0, 0, 0, 0x40];
  const typed = (type: number, shape = [256], data = new Uint8Array(16)): Uint8Array =>
    ggufBytes({ "general.architecture": "llama" }, [{ name: "t", type, shape, data }]);
  const cases: [string, Uint8Array, string][] = [
    ["no bytes", new Uint8Array(0), 'it does not begin with "GGUF"'],
    ["another magic", changed(0, [0x67]), 'it does not begin with "GGUF"'],
    ["version 1", changed(4, [1]), "GGUF must have version 2 or 3, little-endian; got version 1"],
    ["a big-endian file", changed(4, [0, 0, 0, 3]), "little-endian; got a big-endian file"],
    ["2^62 tensors", changed(8, huge), "it has 4611686018427388000 tensors; at most 16384"],
    ["2^62 entries", changed(16, huge), "it has 4611686018427388000 metadata; at most 4096"],
    ["a key of 2^62 bytes", changed(24, huge), "4611686018427388000 bytes at 32 are beyond its end"],
    ["a file cut in its header", good.subarray(0, 60), "are beyond its end at 60"],
    ["a file cut in its data", good.subarray(0, good.length - 1), 'tensor "b" needs 32 bytes at'],
    ["an unknown type", typed(99), 'tensor "t" must have one of the types F32, F16, Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, Q2_K, Q3_K, Q4_K, Q5_K, Q6_K, BF16; got type 99'], // prettier-ignore
    ["a type that is not read", typed(20), "got IQ4_NL. Use a file of another quantisation"],
    ["rows of half a block", typed(12, [2, 128], new Uint8Array(144)), "has [2, 128] weights in Q4_K, of 256 a block"],
    ["no weights", typed(0, [0]), 'tensor "t" has [0] weights'],
    ["2^80 weights", typed(0, [2 ** 40, 2 ** 40]), 'tensor "t" has ['],
    ["five dimensions", typed(0, [1, 1, 1, 1, 1]), 'tensor "t" has 5 dimensions (1 to 4)'],
    ["one name twice", ggufBytes({}, [one, one]), 'two tensors named "a"'],
    ["tensors that overlap", ggufBytes({}, [one, { ...two, offset: 0 }]), 'tensor "a" overlaps "b"'],
    ["a tensor off its alignment", ggufBytes({}, [one, { ...two, offset: 33 }]), 'tensor "b" is not aligned to 32'],
    ["an alignment of 1", ggufBytes({ "general.alignment": 1 }, [one]), "general.alignment must be a multiple of 8"],
    ["a name of Object.prototype", ggufBytes({}, [{ ...one, name: "toString" }]), "a name that JavaScript gives"],
  ];
  it.each(cases)("with %s is refused", async (_, bytes, message) => {
    await expect(read(bytes)).rejects.toThrow(GgufError);
    await expect(read(bytes)).rejects.toThrow(message);
  });

  it("refuses arrays of hostile lengths and of unknown types", async () => {
    const at = Buffer.from(good).indexOf("list") + 4;
    await expect(read(changed(at + 8, huge))).rejects.toThrow('the array "list" has 4611686018427388000 elements');
    await expect(read(changed(at + 4, [77]))).rejects.toThrow('the array "list" has elements of the unknown type 77');
    await expect(read(changed(at, [77]))).rejects.toThrow('metadata "list" has the unknown type 77');
  });
});

describe.skipIf(!hasFixtures)("the tiny checkpoint as GGUF", () => {
  const open = (files: Files): Promise<Checkpoint> => openCheckpoint(sourceOfFiles(files));

  it("has the bytes of the original, with the rows of q and k in its order", async () => {
    const checkpoint = await open(await tinyGguf());
    expect([checkpoint.layout, checkpoint.format, checkpoint.missing]).toEqual(["hf", "gguf", ["generate images"]]);
    expect(checkpoint.config.language).toMatchObject({ hidden: 128, layers: 3, heads: 4, vocabulary: 1280, eps: 1e-6 });
    expect(mainDType(checkpoint)).toBe("bf16");
    let count = 0;
    for (const [name, { data }] of await tinyTensors()) {
      if (ggufName(name) === undefined) continue;
      const source = checkpoint.parameters.get(name)!;
      const bytes = await checkpoint.read(source);
      if (source.dtype === "f32")
        expect(u32(new Float32Array(bytes.slice().buffer)), name).toEqual(u32(bf16Values(data)));
      else expect(Buffer.compare(bytes, data), name).toBe(0);
      count++;
    }
    expect(count).toBe(checkpoint.parameters.size);
    // A range inside a tensor that is decoded.
    const q = checkpoint.parameters.get("model.language_model.layers.1.self_attn.q_proj.weight")!;
    expect((await checkpoint.read(q)).slice(4001, 9003)).toEqual(await checkpoint.read(q, 4001, 5002));
    expect(await fingerprint(checkpoint)).toMatch(/^[0-9a-f]{64}$/);
    await checkpoint.close();
  });

  it.each(["Q8_0", "Q4_0"] as const)("%s goes into our groups without a change of value", async (type) => {
    const values = new Map<string, Float32Array>();
    const shapes = new Map([...(await tinyTensors())].map(([name, { shape }]) => [name, shape]));
    const files = await tinyGguf({ mmproj: false }, (name) => {
      if (!/language_model\.layers\.0\.(self_attn\.[qo]|mlp\.up)_proj/.test(name)) return undefined;
      const made = blocks(type, shapes.get(name)!.reduce((a, b) => a * b, 1) / 32);
      values.set(name, made.values);
      return { type: TYPE[type], data: made.data };
    });
    const checkpoint = await open(files);
    expect(checkpoint.missing).toEqual(["understand images", "generate images"]);
    expect(values.size).toBe(3);
    const kind = type === "Q8_0" ? "int8" : "int4";
    for (const [name, expected] of values) {
      const source = checkpoint.parameters.get(name)!;
      expect(ownKind(source), name).toBe(kind);
      for (const wanted of type === "Q8_0" ? (["int8"] as const) : (["int4", "int8"] as const)) {
        const parts: number[] = [];
        for await (const chunk of quantizedChunks(checkpoint, source, wanted)) parts.push(...dequantizeRows(chunk, source.shape[1]!, wanted)); // prettier-ignore
        expect(parts.map((v) => v + 0), name).toEqual(Array.from(expected, (v) => v + 0)); // prettier-ignore
      }
    }
    const found = inspect(checkpoint);
    expect(found.dtypes[type]!.tensors).toBe(3);
    expect(found.bytes).toBeLessThan(files.get("model.gguf")!.length);
    expect(found.byPart["generation head"] + found.byPart["vision tower"]).toBe(0);
    await checkpoint.close();
  });

  it("cannot be converted, and says what is missing", async () => {
    const checkpoint = await open(await tinyGguf());
    expect(() => planConversion(checkpoint, { layout: "hf" })).toThrow(MissingPartError);
    expect(() => planConversion(checkpoint, { layout: "hf" })).toThrow(
      "convert: the checkpoint must have all parts of the model; got tiny without those to generate images. Use the checkpoint in safetensors.",
    );
    await checkpoint.close();
  });

  const metadata: [string, Metadata, RegExp][] = [
    [
      "another architecture",
      { "general.architecture": "qwen2" },
      /general.architecture must be "llama" .* got "qwen2"/,
    ],
    ["scaled positions", { "llama.rope.scaling.type": "yarn" }, /"llama.rope.scaling.type" must be absent or "none"; got "yarn"/], // prettier-ignore
    ["part of a model", { "split.count": 3 }, /the model must be in one file; got one of 3 parts/],
    ["no heads", { "llama.attention.head_count": 0 }, /"llama.attention.head_count" must be a whole number from 1 to 1024; got 0/], // prettier-ignore
    ["heads that do not fit", { "llama.attention.head_count": 3, "llama.attention.head_count_kv": 3 }, /tensor "blk.0.attn_[qk].weight" must have rows for 3 heads; got \[128, 128\]/], // prettier-ignore
    ["another size of heads", { "llama.attention.key_length": 64 }, /"llama.rope.dimension_count" must be absent or 64; got 32/], // prettier-ignore
    ["experts", { "llama.expert_count": 8 }, /"llama.expert_count" must be absent or 0; got 8/],
  ];
  it.each(metadata)("of %s is refused", async (_, changes, message) => {
    await expect(open(await tinyGguf({ metadata: changes }))).rejects.toThrow(message);
  });

  it("refuses other sizes, other tensors, and two models in a folder", async () => {
    await expect(open(await tinyGguf({ metadata: { "llama.block_count": 4 } }))).rejects.toThrow(
      /missing: model.language_model.layers.3.self_attn.q_proj.weight/,
    );
    const files = await tinyGguf();
    const extra = { name: "rope_freqs.weight", type: TYPE.F32, shape: [4], data: new Uint8Array(16) };
    await expect(open(new Map([["m.gguf", ggufBytes(LLAMA, [extra])]]))).rejects.toThrow(TensorMismatchError);
    await expect(open(new Map([...files, ["other.gguf", files.get("model.gguf")!]]))).rejects.toThrow(CheckpointError);
    await expect(open(new Map([...files, ["other.gguf", files.get("model.gguf")!]]))).rejects.toThrow(
      /one GGUF file of the language model .* got 2 and 1: "model.gguf", "mmproj.gguf", "other.gguf"/,
    );
  });

  it("obeys a config.json beside it, and refuses one that says otherwise", async () => {
    const files = await tinyGguf();
    const config = JSON.parse(Buffer.from(readTinyConfig()).toString()) as { text_config: object };
    const withConfig = (text: object): Files => new Map([...files, ["config.json", Buffer.from(JSON.stringify({ ...config, text_config: { ...config.text_config, ...text } }))]]); // prettier-ignore
    const checkpoint = await open(withConfig({}));
    expect(checkpoint.config.vq.codes).toBe(256);
    await checkpoint.close();
    await expect(open(withConfig({ rope_theta: 5e5 }))).rejects.toThrow(ConfigError);
    await expect(open(withConfig({ rope_theta: 5e5 }))).rejects.toThrow(
      /sizes must be those of config.json; got language.ropeTheta 10000 instead of 500000/,
    );
  });
});

const readTinyConfig = (): Uint8Array =>
  new Uint8Array(readFileSync(new URL("../../../shared/fixtures/tiny/hf/config.json", import.meta.url)));
