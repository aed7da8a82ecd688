/** What a checkpoint's small files say besides sizes: each setting is obeyed, refused by its name, or named as unknown. */
import { fileURLToPath } from "node:url";
import { describe, expect, it } from "vitest";
import { byteTokenizerFiles } from "../../model/byte_tokenizer.ts";
import { openCheckpoint } from "../../model/janus/checkpoint/checkpoint.ts";
import { deepseekSideFiles, hfSideFiles } from "../../model/janus/checkpoint/side_files.ts";
import { parseConfig } from "../../model/janus/config.ts";
import type { JanusConfig } from "../../model/janus/config.ts";
import { DEFAULT_SYSTEM_PROMPT } from "../../model/janus/prompt.ts";
import { readProcessor } from "../../model/janus/processor.ts";
import type { Processor } from "../../model/janus/processor.ts";
import { answerOptions } from "../../model/janus/pipeline.ts";
import { ConfigError } from "../../model/io/errors.ts";
import { understandingPixels } from "../../model/image/preprocess.ts";
import { encodeSafetensors } from "../../model/io/safetensors.ts";
import { parseJsonObject } from "../../model/io/json.ts";
import { folderSource } from "../../model/node/files.ts";
import { changedHf, memorySink, sourceOfFiles, tensorsOf, tinyFiles } from "../checkpoint/tiny.ts";
import type { Files } from "../checkpoint/tiny.ts";
import { hasFixtures } from "../fixtures.ts";
import { convertCheckpoint } from "../../model/janus/checkpoint/convert.ts";
import { JANUS_TINY } from "../../model/janus/create.ts";

const bytes = (value: unknown): Uint8Array =>
  new TextEncoder().encode(typeof value === "string" ? value : JSON.stringify(value));
const read = (files: Record<string, unknown>, config: JanusConfig = JANUS_TINY): Promise<Processor> => {
  const own = Object.entries(files).map(([name, value]): [string, Uint8Array] => [name, bytes(value)]);
  return readProcessor(sourceOfFiles(new Map([...byteTokenizerFiles(), ...own])), config);
};
const jsonOf = (files: ReadonlyMap<string, Uint8Array>, name: string): Record<string, unknown> =>
  JSON.parse(new TextDecoder().decode(files.get(name))) as Record<string, unknown>;
const EOS = 257; // of the byte tokenizer

describe("generation_config.json", () => {
  const answers = async (json: object): Promise<object> => (await read({ "generation_config.json": json })).answers;

  it("gives the ids that end an answer, one or several", async () => {
    expect(await answers({ eos_token_id: 7 })).toEqual({ stopIds: [7] });
    expect(await answers({ eos_token_id: [7, EOS] })).toEqual({ stopIds: [7, EOS] });
    expect(await answers({ eos_token_id: null })).toEqual({});
  });
  it("decides about config.json, which decides alone without it", async () => {
    const config = { text_config: { eos_token_id: [EOS, 9], do_sample: false, max_length: 20 } };
    expect((await read({ "config.json": config })).answers.stopIds).toEqual([EOS, 9]);
    expect((await read({ "config.json": config })).answers.maxLength).toBeUndefined();
    expect((await read({ "config.json": { eos_token_id: 8, ...config } })).answers.stopIds).toEqual([8]);
    await expect(read({ "config.json": { min_length: 5 } })).rejects.toThrow(
      /config\.json: min_length must be 0 or absent/,
    );
    expect((await read({ "config.json": { max_new_tokens: 5 } })).answers.maxNewTokens).toBe(5);
    const both = await read({ "config.json": config, "generation_config.json": { eos_token_id: EOS } });
    expect(both.answers.stopIds).toEqual([EOS]);
    expect(both.notices.join()).toMatch(/config\.json: eos_token_id names 9 too/);
    const other = await read({ "config.json": config, "generation_config.json": { top_k: 5 } });
    expect(other.answers.stopIds).toEqual([EOS, 9]);
  });
  it("samples as transformers does if do_sample is true, and takes the most probable token if not", async () => {
    expect(await answers({ do_sample: true })).toEqual({ temperature: 1, topK: 50 });
    expect(await answers({ do_sample: true, temperature: 0.6, top_p: 0.95, top_k: 0 })).toEqual({
      temperature: 0.6,
      topP: 0.95,
    });
    // Filters wait for a caller's temperature.
    expect(await answers({ temperature: 0.6, top_p: 0.9, top_k: 3 })).toEqual({ topK: 3, topP: 0.9 });
    const { drawing } = await read({ "generation_config.json": { do_sample: true, top_k: 3, temperature: 0.5 } });
    expect(drawing).toEqual({ guidance: 5, temperature: 0.5, topK: 3 });
    expect((await read({ "generation_config.json": { do_sample: false } })).drawing.temperature).toBe(0);
  });
  it("sets penalties, suppressed tokens, stop strings and lengths", async () => {
    const json = { repetition_penalty: 1.2, suppress_tokens: [3], bad_words_ids: [[4]], stop_strings: "END" };
    expect(await answers({ ...json, max_new_tokens: 9 })).toEqual({
      repetitionPenalty: 1.2,
      suppressTokens: [3, 4],
      stop: ["END"],
      maxNewTokens: 9,
    });
    const processor = await read({ "generation_config.json": { max_length: 100, top_p: 0.5, do_sample: true } });
    expect(answerOptions(processor, {}, 90)).toEqual({ temperature: 1, topK: 50, topP: 0.5, maxNewTokens: 10 });
    expect(answerOptions(processor, { maxNewTokens: 200, topP: 1, temperature: 0 }, 90)).toEqual({
      temperature: 0,
      topK: 50,
      topP: 1,
      maxNewTokens: 200,
    });
    expect(() => answerOptions(processor, {}, 100)).toThrow(
      /has 100 tokens; the context is limited to 100 by max_length/,
    );
  });
  // What transformers 5.18 makes of the same file, in its own words: the processors of the logits, and the most new tokens of 5 in the prompt.
  it.each<[object, object]>([
    [
      { do_sample: true, top_k: null, top_p: null },
      { temperature: 1, topK: 50 },
    ], // TopK 50
    [{ max_length: 20 }, {}], // its default, of old files: no bound
    [{ max_length: 21 }, { maxNewTokens: 16 }],
    [{ max_new_tokens: 3, max_length: 4 }, { maxNewTokens: 3 }],
    [
      { eos_token_id: [7, 9], bad_words_ids: [[7], [8]] },
      { stopIds: [7, 9], suppressTokens: [8] },
    ], // NoBadWords spares the ends
    [
      { eos_token_id: 7, suppress_tokens: [7] },
      { stopIds: [7], suppressTokens: [7] },
    ], // SuppressTokens does not
    [{ prompt_lookup_num_tokens: 3, guidance_scale: 3, pad_token_id: -1 }, {}], // the same tokens
  ])("is taken as transformers takes it: %j", async (json, expected) => {
    const processor = await read({ "generation_config.json": json });
    expect(answerOptions(processor, {}, 5)).toEqual({ maxNewTokens: 512, ...expected });
    expect(processor.notices.join()).toMatch(
      "max_length" in json && json.max_length === 20 ? /max_length is 20/ : /^$/,
    );
  });
  it.each<[object, RegExp]>([
    [{ eos_token_id: [] }, /eos_token_id must be a token id or a list of them; got \[\]/],
    [{ num_beams: 4 }, /num_beams must be 1 or absent.*got 4/],
    [{ do_sample: true, min_p: 0.1 }, /min_p must be 0 or absent.*got 0\.1/],
    [{ no_repeat_ngram_size: 3 }, /no_repeat_ngram_size/],
    [{ forced_eos_token_id: 2 }, /forced_eos_token_id/],
    [{ bad_words_ids: [[1, 2]] }, /bad_words_ids/],
    [{ do_sample: true, temperature: 0 }, /temperature must be a number above 0/],
    [{ top_p: 1.5 }, /top_p must be a number above 0, at most 1; got 1\.5/],
    [{ do_sample: "yes" }, /do_sample must be true or false; got "yes"/],
    [{ eos_token_id: "</s>" }, /eos_token_id must be a token id or a list of them/],
    [{ eos_token_id: 1e6 }, /eos_token_id must be ids below the model's/],
  ])("refuses %j by name", async (json, message) => {
    await expect(answers(json)).rejects.toThrow(ConfigError);
    await expect(answers(json)).rejects.toThrow(message);
  });
  it("names keys that are not known", async () => {
    const { notices } = await read({ "generation_config.json": { top_kk: 3, transformers_version: "5", min_p: 0.1 } });
    expect(notices.join("\n")).toMatch(/min_p is not supported and has no effect[^]*no effect: "top_kk"/);
    const ids = await read({ "generation_config.json": { pad_token_id: 5, generation_kwargs: { boi_token_id: 260 } } });
    expect(ids.notices).toEqual(["tiny/generation_config.json: pad_token_id is 5; the tokenizer's 258 is used"]);
    const kwargs = await read({ "generation_config.json": { generation_kwargs: { num_beams: 4 } } });
    expect(kwargs.notices.join()).toMatch(/json: generation_kwargs: a key is not known and has no effect: "num_beams"/);
  });
  it("takes the pad_token_id of older configs, -1 for none", async () => {
    expect((await read({ "config.json": { text_config: { pad_token_id: -1 } } })).notices).toEqual([]);
    await expect(answers({ pad_token_id: -2 })).rejects.toThrow(/pad_token_id must be a token id/);
  });
});

describe("the image processor", () => {
  const size = JANUS_TINY.vision.imageSize;
  const images = async (json: object): Promise<Processor["images"]> =>
    (await read({ "preprocessor_config.json": { size, ...json } })).images;

  it("is obeyed", async () => {
    expect((await images({ do_rescale: false })).rescaleFactor).toBe(1);
    expect((await images({ do_normalize: false })).std).toEqual([1, 1, 1]);
    expect((await images({ background_color: [1, 2, 3] })).background).toEqual([1, 2, 3]);
    expect((await images({ size: [size, size] })).imageSize).toBe(size);
    expect((await images({ size: { height: size, width: size } })).imageSize).toBe(size);
    expect((await images({ resample: 3, do_pad: true, do_resize: null })).imageSize).toBe(size);
  });
  it.each<[object, RegExp]>([
    [{ resample: 2 }, /resample must be 3 or "bicubic".*got 2/],
    [{ do_pad: false }, /do_pad must be true/],
    [{ image_processor_type: "CLIPImageProcessor" }, /image_processor_type must be "VLMImageProcessor" or .*got "CLIP/],
    [{ do_resize: false }, /do_resize must be true/],
    [{ do_center_crop: true }, /do_center_crop must be false/],
    [{ do_rescale: "no" }, /do_rescale must be true or false; got "no"/],
    [{ do_normalize: 0 }, /do_normalize must be true or false; got 0/],
    [{ size: { shortest_edge: 64 } }, /size must be \{height, width\}/],
    [{ size: { height: 64, width: 32 } }, /size must be square/],
    [{ image_size: size + 1 }, /image_size and size must agree/],
    [{ background_color: [0, 0] }, /background_color must hold three numbers/],
  ])("refuses %j by name", async (json, message) => {
    await expect(images(json)).rejects.toThrow(ConfigError);
    await expect(images(json)).rejects.toThrow(message);
  });
  it("names keys that are not known; the settings inside processor_config.json go before the other file", async () => {
    const nested = { image_processor: { size, image_mean: [0, 0, 0], sharpen: 2 } };
    const { notices, images: found } = await read({
      "processor_config.json": nested,
      "preprocessor_config.json": { size, image_mean: [1, 1, 1] },
    });
    expect(found.mean).toEqual([0, 0, 0]);
    expect(notices.join()).toMatch(/processor_config\.json: a key is not known and has no effect: "sharpen"/);
    expect(notices.join()).toMatch(
      /preprocessor_config\.json has no effect: tiny\/processor_config\.json has the image/,
    );
  });
});

describe("the default system prompt", () => {
  const system = async (processor?: object): Promise<string> =>
    (await read(processor ? { "processor_config.json": processor } : {})).prompts.system;

  it("is used as each layout's code uses it", async () => {
    expect(await system({ sft_format: "deepseek" })).toBe(DEFAULT_SYSTEM_PROMPT);
    expect(await system({ use_default_system_prompt: true })).toBe(DEFAULT_SYSTEM_PROMPT);
    expect(await system({ use_default_system_prompt: false })).toBe("");
    expect(await system({ num_image_tokens: 64 })).toBe("");
    expect(await system()).toBe(DEFAULT_SYSTEM_PROMPT);
    const { prompts } = await read({ "processor_config.json": { use_default_system_prompt: false } });
    expect(prompts.conversation([{ role: "user", content: "Hi" }])).toBe("<|User|>: Hi\n\n<|Assistant|>:");
  });
  it("is written as transformers' converter writes it, and kept after that", () => {
    const flag = (processor?: object): unknown => {
      const files = new Map(byteTokenizerFiles());
      if (processor) files.set("processor_config.json", bytes(processor));
      return jsonOf(hfSideFiles(JANUS_TINY, "bf16", files, "x"), "processor_config.json")["use_default_system_prompt"];
    };
    expect([flag(), flag({ sft_format: "deepseek" })]).toEqual([true, true]);
    expect([flag({ use_default_system_prompt: false }), flag({ num_image_tokens: 64 })]).toEqual([false, false]);
  });
  it("is in the package's own model, which was trained with it; nothing in its files is unknown", async () => {
    const folder = folderSource(fileURLToPath(new URL("../../examples/shapes/checkpoint", import.meta.url)));
    const checkpoint = await openCheckpoint(folder);
    const processor = await readProcessor(folder, checkpoint.config);
    await checkpoint.close();
    expect(processor.prompts.system).toBe(DEFAULT_SYSTEM_PROMPT);
    expect([...checkpoint.notices, ...processor.notices]).toEqual([]);
  });
  it.each<[object, RegExp]>([
    [{ add_special_token: true }, /add_special_token must be false/],
    [{ image_tag: "<image>" }, /image_tag must be "<image_placeholder>"/],
    [{ use_default_system_prompt: "yes" }, /use_default_system_prompt must be true or false/],
    [{ sft_format: "llama-2" }, /sft_format must be "deepseek"/],
  ])("and its neighbours: %j is refused by name", async (json, message) => {
    await expect(read({ "processor_config.json": json })).rejects.toThrow(message);
  });
});

describe("chat_template", () => {
  const asked = async (files: object): Promise<string> =>
    (await read({ ...files })).prompts.conversation([{ role: "user", content: "Hi" }], { system: "" });

  it("may be several by name, of which the default is used", async () => {
    const several = [{ name: "tool_use", template: "no" }, { name: "default", template: "yes" }]; // prettier-ignore
    expect(await asked({ "chat_template.json": { chat_template: several } })).toBe("yes");
    expect(await asked({ "processor_config.json": { chat_template: { default: "yes", rag: "no" } } })).toBe("yes");
    expect(await asked({ "processor_config.json": { chat_template: null, sft_format: null } })).toMatch(/Hi/);
  });
  it.each([[[{ name: "rag", template: "no" }]], [{ rag: "no" }], [["no"]], [3]])("of another form is refused: %j", async (chat_template) => {
    const opened = asked({ "chat_template.json": { chat_template } });
    await expect(opened).rejects.toThrow(ConfigError);
    await expect(asked({ "processor_config.json": { chat_template } })).rejects.toThrow(/processor_config\.json: chat_template must be a text, or several by name with one named "default"/);
  }); // prettier-ignore
});

it.each([
  ["generation_config.json", "eos_token_id"], ["generation_config.json", "num_beams"], ["config.json", "eos_token_id"],
  ["preprocessor_config.json", "size"], ["processor_config.json", "sft_format"], ["chat_template.json", "chat_template"],
])("a value of %s that is nested 20,000 deep is refused by name: %s", async (file, key) => {
  const json = `{"${key}": ${'{"a":['.repeat(10_000)}1${"]}".repeat(10_000)}}`;
  await expect(read({ [file]: json })).rejects.toThrow(ConfigError);
  await expect(read({ [file]: json })).rejects.toThrow(`${key} must be`);
}); // prettier-ignore

describe.skipIf(!hasFixtures)("the files of a folder", () => {
  const hf = hasFixtures ? tinyFiles("hf") : new Map<string, Uint8Array>();
  const open = (files: Files) => openCheckpoint(sourceOfFiles(files));
  const config = (change: (json: Record<string, Record<string, unknown>>) => void): Files => {
    const json = jsonOf(hf, "config.json") as Record<string, Record<string, unknown>>;
    change(json);
    return new Map(hf).set("config.json", bytes(json));
  };
  const LFS = "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 123\n";

  it("names keys of config.json that nobody reads; those of the published files are known", async () => {
    expect((await open(hf)).notices).toEqual([]);
    expect((await open(tinyFiles("deepseek"))).notices).toEqual([]);
    const files = config((json) => {
      json["rotary_scale"] = 2 as never;
      json["vision_config"]!["window"] = 8;
      json["text_config"]!["attention_dropout"] = 0.1;
    });
    expect((await open(files)).notices).toEqual([
      expect.stringMatching(/keys are not known and have no effect: "rotary_scale", "text_config\.attention_dropout", "vision_config\.window"/),
    ]); // prettier-ignore
  });
  it.each<[string, (json: Record<string, Record<string, unknown>>) => void, RegExp]>([
    ["bitsandbytes", (json) => (json["quantization_config"] = { quant_method: "bitsandbytes", load_in_4bit: true }), /quantization_config must be absent.*got bitsandbytes of 4 bits/],
    ["quantised weights of another kind", (json) => (json["text_config"]!["quantization_config"] = { quant_method: "gptq", bits: 8 }), /got gptq of 8 bits/],
    ["a quantised vision tower", (json) => (json["vision_config"]!["quantization_config"] = { quant_method: "awq", bits: 4 }), /got awq of 4 bits/],
    ["scaled rotary positions beside others", (json) => Object.assign(json["text_config"]!, { rope_parameters: { rope_theta: 1e4 }, rope_scaling: { type: "linear", factor: 4 } }), /rope_scaling\.type must be "default".*got "linear"/],
    ["JanusFlow", (json) => (json["architectures"] = ["JanusFlow"] as never), /got JanusFlow, which is another model/],
    ["partial rotary positions", (json) => (json["text_config"]!["partial_rotary_factor"] = 0.5), /partial_rotary_factor must be 1.*got 0\.5/],
    ["another number of image tokens", (json) => (json["vision_config"]!["num_image_tokens"] = 32), /num_image_tokens must be 64.*got 32/],
  ])("refuses %s by name", async (_, change, message) => {
    const error: unknown = await open(config(change)).catch((e: unknown) => e);
    expect(error).toBeInstanceOf(ConfigError);
    expect((error as Error).message).toMatch(message);
  }); // prettier-ignore
  it("says what stands there for weights: quantised ones without a config that says so, an adapter", async () => {
    const tensors = await changedHf((t) => {
      const name = "model.language_model.layers.0.self_attn.q_proj.weight.absmax";
      t.set(name, { name, dtype: "f32", shape: [1], data: new Uint8Array(4) });
    });
    await expect(open(tensors)).rejects.toThrow(/got quantised ones \(".*absmax"\)/);
    const named = config((json) => (json["quantization_config"] = { load_in_4bit: true })).get("config.json")!;
    await expect(open(new Map(tensors).set("config.json", named))).rejects.toThrow(/got bitsandbytes of 4 bits/);
    const adapter = new Map(hf).set("adapter_config.json", bytes({})).set("adapter_model.safetensors", bytes(""));
    adapter.delete("model.safetensors");
    await expect(open(adapter)).rejects.toThrow(/got an adapter .* Merge it into its base model/);
    adapter.delete("config.json");
    await expect(open(adapter)).rejects.toThrow(/got an adapter .* Merge it into its base model/);
  });
  it("takes rotary buffers of older versions, in the index or not", async () => {
    const checkpoint = await open(hf);
    const sink = memorySink();
    await convertCheckpoint(checkpoint, sink, { layout: "hf", sideFiles: hf, shardBytes: 2.7e6 });
    const [first, index] = ["model-00001-of-00002.safetensors", "model.safetensors.index.json"];
    const tensors = await tensorsOf(sink.files.get(first)!);
    const buffers = ["layers.0.self_attn.rotary_emb.inv_freq", "rotary_emb.original_inv_freq", "layers.1.self_attn.rotary_emb.cos_cached"]; // prettier-ignore
    for (const buffer of buffers) {
      const name = `model.language_model.${buffer}`;
      tensors.set(name, { name, dtype: "f32", shape: [1], data: new Uint8Array(4) });
    }
    const map = jsonOf(sink.files, index) as { weight_map: Record<string, string> };
    map.weight_map[`model.language_model.layers.2.self_attn.rotary_emb.inv_freq`] = first; // in the index alone
    const files = new Map(sink.files).set(first, encodeSafetensors([...tensors.values()])).set(index, bytes(map));
    expect([...(await open(files)).unused.keys()]).toEqual(buffers.map((name) => `model.language_model.${name}`));
  });
  it("may begin with a byte order mark", async () => {
    const marked = new Map(hf);
    for (const name of ["config.json", "tokenizer.json", "processor_config.json", "generation_config.json"])
      marked.set(name, Uint8Array.from([0xef, 0xbb, 0xbf, ...hf.get(name)!]));
    const checkpoint = await open(marked);
    const { prompts } = await readProcessor(sourceOfFiles(marked), checkpoint.config);
    expect(prompts.config.imageTokens).toBe(64);
    const sink = memorySink();
    await convertCheckpoint(checkpoint, sink, { layout: "deepseek", sideFiles: marked });
    expect(jsonOf(sink.files, "processor_config.json")["sft_format"]).toBe("deepseek");
  });
  it.each(["config.json", "tokenizer.json", "tokenizer_config.json", "processor_config.json", "generation_config.json", "chat_template.jinja", "model.safetensors"])("says that %s is a pointer of Git LFS, or a web page", async (name) => {
    const opened = async (content: string): Promise<unknown> => {
      const source = sourceOfFiles(new Map(hf).set(name, bytes(content)));
      return readProcessor(source, (await openCheckpoint(source)).config);
    };
    await expect(opened(LFS)).rejects.toThrow(`tiny/${name} is a pointer of Git LFS`);
    await expect(opened("<!DOCTYPE html>\n<html>")).rejects.toThrow(`tiny/${name} is a web page`);
  }); // prettier-ignore
});

describe("a vision tower that normalises its input itself", () => {
  // As in older configs of Janus-1.3B: the processor then only rescales, or both do it.
  const json = (params: object): unknown => ({
    model_type: "multi_modality",
    aligner_config: { params: { depth: 2, input_dim: 1024, n_embed: 2048, projector_type: "mlp_gelu" } },
    gen_aligner_config: { params: { depth: 2, input_dim: 8, n_embed: 2048, projector_type: "mlp_gelu" } },
    gen_head_config: { params: { image_token_embed: 2048, image_token_size: 16384, n_embed: 2048 } },
    gen_vision_config: { params: { image_token_size: 16384, n_embed: 8 } },
    vision_config: { params: { model_name: "siglip_large_patch16_384", ...params } },
    language_config: { hidden_size: 2048, num_attention_heads: 16, intermediate_size: 5632, vocab_size: 102400 },
  });
  it("is one step with the processor's, and goes to its settings when the layout changes", async () => {
    const half = [0.5, 0.5, 0.5];
    const config = parseConfig(parseJsonObject(bytes(json({ pixel_mean: half, pixel_std: half })), "config.json"));
    const side = { image_size: 384, do_normalize: false, background_color: [127, 127, 127] };
    const { images } = await read({ "preprocessor_config.json": side }, config);
    const published = await read({ "preprocessor_config.json": { image_size: 384 } }, { ...config, inputNorm: undefined! });
    const image = { width: 2, height: 1, data: Uint8Array.of(0, 127, 255, 9, 90, 190) };
    const [once, twice] = [published.images, images].map((settings) => understandingPixels(image, settings));
    expect(twice!.every((value, i) => value === once![i])).toBe(true);
    const files = hfSideFiles(config, "bf16", new Map(byteTokenizerFiles()).set("preprocessor_config.json", bytes(side)), "x");
    expect(jsonOf(files, "preprocessor_config.json")).toMatchObject({ do_normalize: true, image_mean: half, image_std: half });
    expect(() => parseConfig(parseJsonObject(bytes(json({ pixel_mean: [1] })), "config.json"))).toThrow(/three numbers/);
  }); // prettier-ignore
});

it("conversion keeps the settings of generation", () => {
  const given = { eos_token_id: [257, 9], do_sample: true, top_p: 0.9, guidance_scale: 3, pad_token_id: 258 };
  const files = new Map([...byteTokenizerFiles(), ["generation_config.json", bytes(given)] as const]);
  const hf = hfSideFiles(JANUS_TINY, "bf16", files, "x");
  expect(jsonOf(hf, "generation_config.json")).toMatchObject({ ...given, generation_kwargs: { boi_token_id: 260 } });
  const back = deepseekSideFiles(JANUS_TINY, "bf16", hf, "x");
  expect(jsonOf(back, "generation_config.json")).toMatchObject({ eos_token_id: [257, 9], do_sample: true, top_p: 0.9 });
});
