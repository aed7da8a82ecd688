/** Configs of both layouts at the published sizes, the tensors they ask for, and the figures that follow. */
import { describe, expect, it } from "vitest";
import { ConfigError } from "../../model/io/errors.ts";
import { expectedTensors, tensorProblems } from "../../model/janus/checkpoint/expected.ts";
import { countParts, needsOf } from "../../model/janus/checkpoint/inspect.ts";
import { parseJsonObject } from "../../model/io/json.ts";
import { LAYOUTS, deepseekName, hfNames, isUnused } from "../../model/janus/checkpoint/names.ts";
import type { Layout } from "../../model/janus/checkpoint/names.ts";
import { deepseekConfig, hfConfig } from "../../model/janus/checkpoint/side_files.ts";
import { JANUS_PRO_1B, JANUS_PRO_7B, imageTokens, parseConfig } from "../../model/janus/config.ts";
import type { JanusConfig, Shapes } from "../../model/janus/config.ts";

const read = (json: unknown, shapes?: Shapes): JanusConfig =>
  parseConfig(parseJsonObject(new TextEncoder().encode(JSON.stringify(json)), "config.json"), shapes);
const total = (tensors: ReadonlyMap<string, readonly number[]>): number =>
  [...tensors.values()].reduce((n, shape) => n + shape.reduce((a, b) => a * b, 1), 0);

/** As published: what is not listed is left to the code that reads it. */
const published = (h: number, language: object): Record<string, unknown> => ({
  model_type: "multi_modality",
  torch_dtype: "bfloat16",
  aligner_config: {
    cls: "MlpProjector",
    model_type: "aligner",
    params: { depth: 2, input_dim: 1024, n_embed: h, projector_type: "mlp_gelu" },
  },
  gen_aligner_config: {
    cls: "MlpProjector",
    model_type: "gen_aligner",
    params: { depth: 2, input_dim: 8, n_embed: h, projector_type: "mlp_gelu" },
  },
  gen_head_config: {
    cls: "vision_head",
    model_type: "gen_head",
    params: { image_token_embed: h, image_token_size: 16384, n_embed: h },
  },
  gen_vision_config: { cls: "VQ-16", model_type: "gen_vision", params: { image_token_size: 16384, n_embed: 8 } },
  vision_config: {
    cls: "CLIPVisionTower",
    model_type: "vision",
    params: { image_size: 384, model_name: "siglip_large_patch16_384", select_feature: "same", select_layer: -1 },
  },
  language_config: {
    max_position_embeddings: 16384,
    model_type: "llama",
    torch_dtype: "bfloat16",
    vocab_size: 102400,
    ...language,
  },
});
const published1B = published(2048, {
  hidden_size: 2048,
  intermediate_size: 5632,
  num_attention_heads: 16,
  num_key_value_heads: 16,
  num_hidden_layers: 24,
});
const published7B = published(4096, { num_hidden_layers: 30 });

describe("the published configs", () => {
  it("of DeepSeek, with the defaults that they leave out", () => {
    expect(read(published1B)).toEqual(JANUS_PRO_1B);
    expect(read(published7B)).toEqual(JANUS_PRO_7B);
    expect(imageTokens(JANUS_PRO_1B)).toBe(576);
  });
  it("of transformers, all written out or only what differs from its defaults", () => {
    const text = {
      hidden_size: 2048,
      intermediate_size: 5632,
      num_attention_heads: 16,
      num_hidden_layers: 24,
      max_position_embeddings: 16384,
      vocab_size: 102400,
    };
    expect(read({ model_type: "janus", text_config: text, vision_config: {}, vq_config: {} })).toEqual(JANUS_PRO_1B);
    const ids = { image: 1, beginImage: 2, bos: 3, eos: 4, pad: 5 };
    for (const config of [JANUS_PRO_1B, JANUS_PRO_7B]) {
      expect(read(hfConfig(config, ids, "bfloat16"))).toEqual(config);
      expect(read(hfConfig(config, null, "bfloat16"))).toEqual(config);
      expect(read(deepseekConfig(config, "bfloat16"))).toEqual(config);
    }
    expect(JSON.stringify(deepseekConfig(JANUS_PRO_1B, "bfloat16"))).not.toContain("patch_size");
  });
  it("of other sizes come back from both forms", () => {
    const { vision, vq, language } = JANUS_PRO_1B;
    const other: JanusConfig = {
      vision: { ...vision, imageSize: 96, patchSize: 12, hidden: 48, layers: 3, heads: 6, intermediate: 96 },
      aligner: { depth: 3 },
      generation: { depth: 1 },
      vq: {
        ...vq,
        baseChannels: 32,
        multipliers: [1, 2, 4],
        resBlocks: 1,
        latentChannels: 16,
        codeDim: 4,
        codes: 64,
        imageSize: 32,
      },
      language: {
        ...language,
        hidden: 96,
        intermediate: 80,
        layers: 2,
        heads: 6,
        kvHeads: 3,
        headDim: 32,
        vocabulary: 300,
        maxPositions: 64,
        eps: 1e-5,
        ropeTheta: 5000,
      },
    };
    expect(read(hfConfig(other, null, "float32"))).toEqual(other);
    const shapes = expectedTensors(other, "hf");
    expect(read(deepseekConfig(other, "float32"), (name) => shapes.get(name))).toEqual(other);
  });
});

describe("the tensors of the published models", () => {
  const sizes: [string, JanusConfig, Layout, number, number, number][] = [
    ["1B original", JANUS_PRO_1B, "deepseek", 882, 2_089_232_011, 65_536],
    ["1B hf", JANUS_PRO_1B, "hf", 964, 2_076_636_811, 0],
    ["7B original", JANUS_PRO_7B, "deepseek", 936, 7_420_368_523, 65_536],
    ["7B hf", JANUS_PRO_7B, "hf", 1018, 7_407_773_323, 0],
  ];
  it.each(sizes)("%s", (_, config, layout, count, parameters, buffer) => {
    const tensors = expectedTensors(config, layout, { unused: true });
    expect(tensors.size).toBe(count);
    expect(total(tensors)).toBe(parameters + buffer);
    const specs = new Map([...tensors].map(([name, shape]) => [name, { name, shape, dtype: "bf16" as const }]));
    expect(tensorProblems(config, layout, specs)).toEqual([]);
    expect(tensorProblems(config === JANUS_PRO_1B ? JANUS_PRO_7B : JANUS_PRO_1B, layout, specs).length).toBeGreaterThan(
      50,
    );
  });
  it("have shapes and names as in the tables", () => {
    const original = expectedTensors(JANUS_PRO_7B, "deepseek", { unused: true });
    const hf = expectedTensors(JANUS_PRO_7B, "hf");
    const rows: [string, string | null, number[]][] = [
      ["vision_model.vision_tower.pos_embed", null, [1, 576, 1024]],
      [
        "vision_model.vision_tower.patch_embed.proj.weight",
        "model.vision_model.embeddings.patch_embedding.weight",
        [1024, 3, 16, 16],
      ],
      ["vision_model.vision_tower.blocks.23.attn.qkv.bias", null, [3072]],
      [
        "vision_model.vision_tower.blocks.0.attn.proj.weight",
        "model.vision_model.encoder.layers.0.self_attn.projection_layer.weight",
        [1024, 1024],
      ],
      [
        "vision_model.vision_tower.blocks.7.mlp.fc2.weight",
        "model.vision_model.encoder.layers.7.mlp.fc2.weight",
        [1024, 4096],
      ],
      ["vision_model.vision_tower.norm.bias", "model.vision_model.post_layernorm.bias", [1024]],
      ["vision_model.vision_tower.attn_pool.kv.weight", null, [2048, 1024]],
      ["aligner.layers.2.weight", "model.aligner.hidden_layers.0.weight", [4096, 4096]],
      ["gen_aligner.layers.0.weight", "model.generation_aligner.fc1.weight", [4096, 8]],
      ["gen_head.output_mlp_projector.bias", "model.generation_head.proj_out.bias", [4096]],
      ["gen_head.vision_head.weight", "model.generation_head.vision_head.weight", [16384, 4096]],
      ["gen_embed.weight", "model.generation_embeddings.weight", [16384, 8]],
      [
        "language_model.model.layers.29.mlp.down_proj.weight",
        "model.language_model.layers.29.mlp.down_proj.weight",
        [4096, 11008],
      ],
      ["language_model.lm_head.weight", "lm_head.weight", [102400, 4096]],
      [
        "gen_vision_model.encoder.conv_blocks.2.res.0.nin_shortcut.weight",
        "model.vqmodel.encoder.down.2.block.0.nin_shortcut.weight",
        [256, 128, 1, 1],
      ],
      [
        "gen_vision_model.encoder.conv_blocks.4.attn.1.proj_out.bias",
        "model.vqmodel.encoder.down.4.attn.1.proj_out.bias",
        [512],
      ],
      [
        "gen_vision_model.encoder.conv_blocks.3.downsample.conv.weight",
        "model.vqmodel.encoder.down.3.downsample.conv.weight",
        [256, 256, 3, 3],
      ],
      ["gen_vision_model.decoder.mid.1.q.weight", "model.vqmodel.decoder.mid.attn_1.q.weight", [512, 512, 1, 1]],
      [
        "gen_vision_model.decoder.conv_blocks.0.attn.2.norm.weight",
        "model.vqmodel.decoder.up.0.attn.2.norm.weight",
        [512],
      ],
      [
        "gen_vision_model.decoder.conv_blocks.3.res.0.conv1.weight",
        "model.vqmodel.decoder.up.3.block.0.conv1.weight",
        [128, 256, 3, 3],
      ],
      ["gen_vision_model.decoder.conv_out.weight", "model.vqmodel.decoder.conv_out.weight", [3, 128, 3, 3]],
      ["gen_vision_model.quantize.codebook_used", null, [65536]],
    ];
    for (const [name, hfName, shape] of rows) {
      expect(original.get(name), name).toEqual(shape);
      if (hfName) expect([hfNames(name), hf.get(hfName)]).toEqual([[hfName], shape]);
    }
    expect(hf.get("model.vision_model.embeddings.position_embedding.weight")).toEqual([576, 1024]);
    expect(hf.get("model.vision_model.encoder.layers.3.self_attn.v_proj.weight")).toEqual([1024, 1024]);
  });
  it("map onto each other without loss", () => {
    const [original, hf] = LAYOUTS.map((layout) => expectedTensors(JANUS_PRO_1B, layout)).reverse() as [
      Map<string, readonly number[]>,
      Map<string, readonly number[]>,
    ];
    expect(new Set([...original.keys()].flatMap(hfNames))).toEqual(new Set(hf.keys()));
    expect(new Set([...hf.keys()].map((name) => deepseekName(name)!.name))).toEqual(new Set(original.keys()));
    expect([...original.keys(), ...hf.keys()].filter(isUnused)).toEqual([]);
  });
});

describe("figures", () => {
  it("by part, as in the table", () => {
    const [a, b] = [countParts(JANUS_PRO_1B), countParts(JANUS_PRO_7B)];
    expect(a).toEqual({
      "vision tower": 303_688_704,
      aligner: 6_295_552,
      "generation embedding": 131_072,
      "generation aligner": 4_214_784,
      "generation head": 37_767_168,
      "image encoder": 29_298_176 + 2056,
      "image codebook": 131_072,
      "image decoder": 2304 + 42_449_795,
      "text embedding": 209_715_200,
      "language model": 1_233_223_680 + 2048,
      "text head": 209_715_200,
    });
    expect([b.aligner, b["generation aligner"], b["generation head"], b["language model"]]).toEqual([
      20_979_712,
      16_818_176,
      83_906_560,
      6_071_500_800 + 4096,
    ]);
  });
  it("of memory to run and to train", () => {
    const [a, b] = [needsOf(JANUS_PRO_1B), needsOf(JANUS_PRO_7B)];
    expect([a.weightBytes.understanding, b.weightBytes.understanding]).toEqual([2 * 1_962_640_384, 2 * 7_235_034_112]);
    expect([a.weightBytes.generation, b.weightBytes.generation]).toEqual([2 * 1_527_637_123, 2 * 6_634_374_275]);
    expect([a.cacheBytesPerToken.bf16, b.cacheBytesPerToken.bf16]).toEqual([196_608, 491_520]);
    // Of 128 values each: 512, 256 or, in 8 bits with 4 scales, 136 bytes.
    expect(a.cacheBytesPerToken).toEqual({ f32: 393_216, f16: 196_608, bf16: 196_608, int8: 104_448 });
    expect([a, b].map(({ imageCacheBytes: { f32 } }) => Math.round(f32 / 1e6))).toEqual([478, 1195]);
    expect(a.runBytes - b.runBytes).toBe(a.weightBytes.all + a.imageCacheBytes.f32 - b.weightBytes.all - b.imageCacheBytes.f32); // prettier-ignore
    expect(a.decoderBytes).toBe(3 * 75_497_472);
    const stages = ({ training: { stage1, stage2, stage3 } }: typeof a): number[] =>
      [stage1, stage2, stage3].map(({ trainable }) => trainable);
    expect(stages(a)).toEqual([48_408_576, 1_701_064_704, 2_004_753_408]);
    expect(stages(b)).toEqual([121_835_520, 7_032_201_216, 7_335_889_920]);
    expect(a.training.stage3.bytes).toBe(16 * 2_004_753_408 + 2 * (2_076_636_811 - 2_004_753_408));
  });
});

describe("refuses", () => {
  type Json = Record<string, unknown>;
  /** A copy with one value changed; `undefined` takes the key out. */
  const set = (path: string, value: unknown, of: Json = published1B): Json => {
    const copy = structuredClone(of);
    const keys = path.split(".");
    const last = keys.pop()!;
    const at = keys.reduce((object, key) => object[key] as Json, copy);
    if (value === undefined) delete at[last];
    else at[last] = value;
    return copy;
  };
  const hf = hfConfig(JANUS_PRO_1B, null, "bfloat16") as Json;
  const cases: [string, Json, RegExp][] = [
    ["no model_type", set("model_type", undefined), /model_type is ""/],
    ["a number as model_type", set("model_type", 7), /model_type must be a string.*; got 7/],
    ["JanusFlow, which has no image tokenizer", set("gen_vision_config", undefined), /gen_vision_config is missing/],
    ["no params", set("aligner_config.params", undefined), /aligner_config\.params is missing/],
    ["params that are a list", set("aligner_config.params", [1]), /aligner_config\.params must be an object.*; got a list of 1/],
    ["another projector", set("aligner_config.params.projector_type", "low_high_hybrid_split_mlp_gelu"), /projector_type must be "mlp_gelu".*; got "low_high.*"/],
    ["an aligner of another width", set("aligner_config.params.n_embed", 4096), /aligner_config\.params\.n_embed must be 2048.*; got 4096/],
    ["an aligner from another tower", set("aligner_config.params.input_dim", 2048), /input_dim must be 1024.*; got 2048/],
    ["a generation aligner of other codes", set("gen_aligner_config.params.input_dim", 16), /input_dim must be 8.*; got 16/],
    ["a head of other codes", set("gen_head_config.params.image_token_size", 8192), /image_token_size must be 16384.*; got 8192/],
    ["a depth of 0", set("aligner_config.params.depth", 0), /depth must be a whole number from 1 to 8.*; got 0/],
    ["a depth of a million", set("aligner_config.params.depth", 1e6), /depth must be .*; got 1000000/],
    ["a million layers", set("language_config.num_hidden_layers", 1e6), /num_hidden_layers must be a whole number from 1 to 1024.*; got 1000000/],
    ["1.5 layers", set("language_config.num_hidden_layers", 1.5), /num_hidden_layers must be .*; got 1\.5/],
    ["a hidden size of 2^40", set("language_config.hidden_size", 2 ** 40), /hidden_size must be .*; got 1099511627776/],
    ["a negative size", set("language_config.intermediate_size", -1), /intermediate_size must be .*; got -1/],
    ["a string as a size", set("language_config.vocab_size", "102400"), /vocab_size must be a whole number.*; got "102400"/],
    ["scaled rotary positions", set("language_config.rope_scaling", { type: "linear", factor: 4 }), /rope_scaling\.type must be "default" or absent.*; got "linear"/],
    ["yarn", set("language_config.rope_scaling", { rope_type: "yarn" }), /rope_type must be .*; got "yarn"/],
    ["biases in attention", set("language_config.attention_bias", true), /attention_bias must be false or absent.*; got true/],
    ["another activation", set("language_config.hidden_act", "gelu"), /hidden_act must be "silu".*; got "gelu"/],
    ["another language model", set("language_config.model_type", "qwen2"), /model_type must be "llama".*; got "qwen2"/],
    ["an eps of 0", set("language_config.rms_norm_eps", 0), /rms_norm_eps must be a number above 0.*; got 0/],
    ["key heads that do not divide", set("language_config.num_key_value_heads", 3), /16 attention heads do not share 3 key heads/],
    ["an odd head size", set("language_config.head_dim", 127), /head size of 127/],
    ["another feature", set("vision_config.params.select_feature", "cls_patch"), /select_feature must be .*; got "cls_patch"/],
    ["a tower that normalises two channels", set("vision_config.params.pixel_mean", [0.5, 0.5]), /pixel_mean must be a list of three numbers.*; got a list of 2/],
    ["a tower whose heads nobody knows", set("vision_config.params.model_name", "siglip_custom"), /layers is missing|patch_size is missing/],
    ["patches that do not fill the picture", set("vision_config.params.image_size", 390), /390 pixels do not split into patches of 16/],
    ["tanh GELU", set("vision_config.hidden_act", "gelu_pytorch_tanh", hf), /hidden_act must be "gelu".*; got "gelu_pytorch_tanh"/],
    ["q and k norms", set("vision_config.use_qk_norm", true, hf), /use_qk_norm must be .*; got true/],
    ["heads that do not split the width", set("vision_config.num_attention_heads", 15, hf), /width 1024 does not split into 15 heads/],
    ["a projection to another width", set("vision_config.projection_dim", 1024, hf), /projection_dim must be 2048.*; got 1024/],
    ["a default projection to another width", set("text_config.hidden_size", 4096, set("vision_config.projection_dim", undefined, hf)), /projection_dim must be 4096.*; got 2048/],
    ["a doubled latent", set("vq_config.double_latent", true, hf), /double_latent must be .*; got true/],
    ["no multipliers", set("vq_config.channel_multiplier", [], hf), /channel_multiplier must be .*; got a list of 0/],
    ["100 multipliers", set("vq_config.channel_multiplier", Array.from({ length: 100 }, () => 1), hf), /list of 1 to 8/],
    ["a multiplier of 0", set("vq_config.channel_multiplier", [1, 0], hf), /channel_multiplier must be .*; got a list of 2/],
    ["an enormous tokenizer", set("vq_config.base_channels", 2 ** 23, hf), /too wide/],
    ["no text_config", set("text_config", undefined, hf), /text_config is missing/],
    ["null for vision_config", set("vision_config", null, hf), /vision_config is missing/],
  ]; // prettier-ignore
  it.each(cases)("%s", (_, json, message) => {
    expect(() => read(json)).toThrow(ConfigError);
    expect(() => read(json)).toThrow(message);
  });
  it("none of the configs that these are made from", () => {
    expect(read(set("unknown_key", 1))).toEqual(JANUS_PRO_1B);
    expect(read(set("unknown_key", 1, hf))).toEqual(JANUS_PRO_1B);
  });
});
