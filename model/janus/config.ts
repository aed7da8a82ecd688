/**
 * The sizes of a Janus model, in one form for both kinds of config.json: DeepSeek's original (`multi_modality`), which leaves much to
 * the defaults of its code, and the transformers port's (`janus`). Token ids are not here: they come from the tokenizer.
 * The defaults are those of transformers' configuration_janus.py and configuration_llama.py.
 */
import { ConfigSection } from "../io/config_section.ts";
import { isJsonObject } from "../io/json.ts";
import type { JsonObject, JsonValue } from "../io/json.ts";
import { isGenerationKey } from "../generation_config.ts";
import { unknownNames } from "../io/unknown.ts";
import { ConfigError, quote } from "../io/errors.ts";
import type { LlamaConfig } from "../llama.ts";
import type { SiglipConfig } from "../siglip.ts";
import type { VqConfig } from "../vq.ts";

export interface JanusConfig {
  /** The understanding encoder. */
  readonly vision: SiglipConfig;
  /** Linear layers from vision features to the language model. */
  readonly aligner: { readonly depth: number };
  /** Linear layers from image codes to the language model. */
  readonly generation: { readonly depth: number };
  /** The image tokenizer. */
  readonly vq: VqConfig;
  /**
   * Normalisation (x − mean) / std per channel that the vision tower of some older checkpoints applies to its input,
   * after the processor.
   */
  readonly inputNorm?: { readonly mean: readonly number[]; readonly std: readonly number[] };
  readonly language: LlamaConfig & {
    readonly maxPositions: number;
    /** The text head's weight is the text embedding: one parameter, under both names. Absent in the published models. */
    readonly tied?: true;
  };
}

const SIGLIP_LARGE: SiglipConfig = {
  imageSize: 384,
  patchSize: 16,
  hidden: 1024,
  layers: 24,
  heads: 16,
  intermediate: 4096,
  eps: 1e-6,
};
const VQ_16: VqConfig = {
  imageSize: 384,
  baseChannels: 128,
  multipliers: [1, 1, 2, 2, 4],
  resBlocks: 2,
  latentChannels: 256,
  codeDim: 8,
  codes: 16_384,
};
const LANGUAGE = { vocabulary: 102_400, headDim: 128, eps: 1e-6, ropeTheta: 10_000, maxPositions: 16_384 };

/** deepseek-ai/Janus-Pro-1B, and Janus-1.3B. */
export const JANUS_PRO_1B: JanusConfig = {
  vision: SIGLIP_LARGE,
  aligner: { depth: 2 },
  generation: { depth: 2 },
  vq: VQ_16,
  language: { ...LANGUAGE, hidden: 2048, intermediate: 5632, layers: 24, heads: 16, kvHeads: 16 },
};

/** deepseek-ai/Janus-Pro-7B. */
export const JANUS_PRO_7B: JanusConfig = {
  ...JANUS_PRO_1B,
  language: { ...LANGUAGE, hidden: 4096, intermediate: 11_008, layers: 30, heads: 32, kvHeads: 32 },
};

/** Shapes of the tensors at hand, by their names in the hf layout. */
export type Shapes = (hfName: string) => readonly number[] | undefined;

/** Keys without effect here, at any level: names, where values came from, how transformers computes, ids (the tokenizer has them). */
const HARMLESS: ReadonlySet<string> = new Set([
  "architectures", "auto_map", "_name_or_path", "name_or_path", "transformers_version", "torch_dtype", "dtype",
  "model_type", "cls", "_attn_implementation", "_attn_implementation_autoset", "attn_implementation", "use_cache",
  "initializer_range", "initializer_factor", "gradient_checkpointing", "pretraining_tp", "head_dim", "num_patches",
  "image_token_id", "image_token_index", "bos_token_id", "eos_token_id", "pad_token_id", "sep_token_id", "unk_token_id",
  "decoder_start_token_id", "tokenizer_class", "prefix", "return_dict", "output_hidden_states", "output_attentions",
  "torchscript", "use_bfloat16", "tf_legacy_loss", "pruned_heads", "chunk_size_feed_forward", "is_encoder_decoder",
  "is_decoder", "cross_attention_hidden_size", "add_cross_attention", "tie_encoder_decoder", "id2label", "label2id",
  "finetuning_task", "problem_type", "task_specific_params", "output_scores", "return_dict_in_generate",
  "max_length", "min_length", "remove_invalid_values", "begin_suppress_tokens", "typical_p", "base_model_tp_plan",
  "ignore_keys_at_rope_validation", "use_return_dict", "_commit_hash", "rope_interleaved", "tie_word_embeddings",
]); // prettier-ignore
/** Keys that have no effect at these values. Training here has no dropout. */
const ZERO = [
  "attention_dropout",
  "hidden_dropout_rate",
  "projection_dropout",
  "hidden_dropout",
  "dropout",
  "layerdrop",
];

/** A config, and the names of its unused keys. */
export interface ReadConfig {
  readonly config: JanusConfig;
  readonly notices: readonly string[];
}

/** `parseConfig`, with a notice that names the keys that are not known. */
export function readConfig(json: JsonObject, shapes: Shapes = () => undefined, file = "config.json"): ReadConfig {
  const top = new ConfigSection(json, file);
  const config = parseTop(top, shapes, file);
  const isZero = (path: string): boolean => {
    const keys = path.split(".");
    const value = keys.reduce<JsonValue | undefined>((at, key) => (isJsonObject(at ?? null) ? (at as JsonObject).get(key) : at), json); // prettier-ignore
    return ZERO.includes(keys.at(-1)!) && (value === 0 || value === null);
  };
  const names = top.unknown(HARMLESS).filter((path) => !isZero(path) && !isGenerationKey(path.split(".").at(-1)!));
  return { config, notices: unknownNames(names, file) };
}

/**
 * The config of either layout. What DeepSeek's file leaves to its code (everything of the image tokenizer, the sizes of an encoder that
 * is not SigLIP-L) is read off `shapes`; without them it is that of the published models. Throws `ConfigError` with the key, what was
 * found and what is needed.
 */
export const parseConfig = (json: JsonObject, shapes?: Shapes, file?: string): JanusConfig =>
  readConfig(json, shapes, file).config;

/** Parts of both layouts besides the language model. */
const OTHER_PARTS = ["vision_config", "vq_config", "aligner_config", "gen_vision_config", "gen_head_config", "gen_aligner_config"]; // prettier-ignore

function parseTop(top: ConfigSection, shapes: Shapes, file: string): JanusConfig {
  const type = top.text("model_type", "");
  if (type !== "multi_modality" && type !== "janus") {
    throw new ConfigError(
      `${file}: model_type is ${quote(type)}; a Janus model has "multi_modality" or "janus", is this its folder?`,
    );
  }
  const language = top.section(type === "janus" ? "text_config" : "language_config");
  requireUnquantised(top, file);
  requireArchitecture(top, file);
  const config = type === "janus" ? parseHf(top) : parseDeepseek(top, shapes);
  checkConfig(config, file);
  const isTied = parseTied(top, language!, shapes);
  return isTied ? { ...config, language: { ...config.language, tied: true } } : config;
}

/** `quant_method` of checkpoints in our own format (checkpoint/quantized.ts). */
export const OWN_METHOD = "janus-webgpu";

/** Throws `ConfigError` that names the method of quantised weights, of the whole model or of a part, if it is not ours. */
export function requireUnquantised(top: ConfigSection, file: string): void {
  const parts = ["text_config", "language_config", ...OTHER_PARTS].map((key) => top.section(key));
  for (const section of [top, ...parts]) if (section) requireNoMethod(section, top, file);
}

function requireNoMethod(section: ConfigSection, top: ConfigSection, file: string): void {
  const found = ["quantization_config", "compression_config"].map((key) => [key, section.value(key)] as const);
  for (const [key, value] of found) {
    if (value === null) continue;
    const json = isJsonObject(value) ? value : new Map<string, JsonValue>();
    if (section === top && key === "quantization_config" && json.get("quant_method") === OWN_METHOD) continue;
    const method = json.get("quant_method") ?? (json.has("load_in_4bit") || json.has("load_in_8bit") ? "bitsandbytes" : "an unnamed method"); // prettier-ignore
    const bits = json.get("load_in_4bit") === true ? 4 : json.get("load_in_8bit") === true ? 8 : json.get("bits");
    throw new ConfigError(
      `${file}: ${key} must be absent, quantised weights are not supported; got ${typeof method === "string" ? method : "an unnamed method"}${typeof bits === "number" ? ` of ${bits} bits` : ""}. Use the checkpoint in bf16, f16 or f32`,
    );
  }
}

/** Throws `ConfigError` for a relative of Janus that only shares its model_type. */
function requireArchitecture(top: ConfigSection, file: string): void {
  const names = top.value("architectures");
  const list: JsonValue[] = Array.isArray(names) ? names : [names];
  if (
    list.some((name) => typeof name === "string" && /flow/i.test(name)) ||
    top.value("vision_gen_enc_config") !== null
  )
    throw new ConfigError(
      `${file}: architectures must be MultiModalityCausalLM or JanusForConditionalGeneration; got JanusFlow, which is another model and is not supported`,
    );
}

/** Names in the hf layout of the text embedding, and of the text head that may be the same tensor. */
export const EMBEDDING = "model.language_model.embed_tokens.weight";
export const HEAD = "lm_head.weight";

/**
 * The language model's own `tie_word_embeddings` decides, as in transformers, while the key at the top may say true for heads that are not tied.
 * Without it, weights that have no head are tied unless the top says false.
 */
function parseTied(top: ConfigSection, language: ConfigSection, shapes: Shapes): boolean {
  const isHeadless = shapes(EMBEDDING) !== undefined && shapes(HEAD) === undefined;
  const [own, above] = [language.flag("tie_word_embeddings"), top.flag("tie_word_embeddings")];
  return own ?? (isHeadless && (above ?? true));
}

function parseLanguage(
  section: ConfigSection,
  defaults: { layers: number; vocabulary?: number; maxPositions: number },
): JanusConfig["language"] {
  const hidden = section.whole("hidden_size", 4096);
  const heads = section.whole("num_attention_heads", 32, 1024);
  section.require("model_type", ["llama", null]);
  section.require("hidden_act", ["silu", null]);
  for (const key of ["attention_bias", "mlp_bias"]) section.require(key, [false, null]);
  const ropes = ["rope_parameters", "rope_scaling"].map((key) => section.section(key));
  for (const each of ropes) for (const key of ["rope_type", "type"]) each?.require(key, ["default", null]);
  const rope = ropes[0] ?? ropes[1];
  for (const part of [section, rope]) part?.require("partial_rotary_factor", [1, null]);
  section.require("sliding_window", [null]);
  return {
    vocabulary: section.whole("vocab_size", defaults.vocabulary),
    hidden,
    intermediate: section.whole("intermediate_size", 11_008),
    layers: section.whole("num_hidden_layers", defaults.layers, 1024),
    heads,
    kvHeads: section.whole("num_key_value_heads", heads, 1024),
    headDim: section.whole("head_dim", Math.max(1, Math.floor(hidden / heads))),
    eps: section.positive("rms_norm_eps", 1e-6),
    ropeTheta: section.positive("rope_theta", rope?.positive("rope_theta", 10_000) ?? 10_000),
    maxPositions: section.whole("max_position_embeddings", defaults.maxPositions),
  };
}

function parseHf(top: ConfigSection): JanusConfig {
  const [text, vision, vq] = [top.need("text_config"), top.need("vision_config"), top.need("vq_config")];
  vision.require("hidden_act", ["gelu", null]);
  vision.require("attention_bias", [true, null]);
  vision.require("use_qk_norm", [false, null]);
  vision.require("num_channels", [3, null]);
  vq.require("double_latent", [false, null]);
  vq.require("in_channels", [3, null]);
  vq.require("out_channels", [3, null]);
  vq.require("hidden_act", ["gelu", null]);
  const language = parseLanguage(text, { layers: 32, vocabulary: 32_000, maxPositions: 2048 });
  const hidden = vision.whole("hidden_size", 1024);
  const [imageSize, patchSize] = [vision.whole("image_size", 384), vision.whole("patch_size", 16)];
  vision.require("projection_dim", [language.hidden], 2048);
  const grid = imageSize / patchSize; // sizes that do not divide are refused later, as such
  if (Number.isInteger(grid)) vq.require("num_patches", [grid, null]);
  vision.require("num_image_tokens", [Number.isInteger(grid) ? grid ** 2 : vision.value("num_image_tokens"), null]);
  vq.require("projection_dim", [language.hidden], 2048);
  vq.require("image_token_embed_dim", [language.hidden], 2048);
  const multipliers = vq.wholes("channel_multiplier", VQ_16.multipliers);
  return {
    vision: {
      imageSize,
      patchSize,
      hidden,
      layers: vision.whole("num_hidden_layers", 24, 1024),
      heads: vision.whole("num_attention_heads", 16, 1024),
      intermediate: Math.floor(hidden * vision.positive("mlp_ratio", 4)),
      eps: vision.positive("layer_norm_eps", 1e-6),
    },
    aligner: { depth: vision.whole("depth", 2, 8) },
    generation: { depth: vq.whole("num_hidden_layers", 2, 8) },
    vq: {
      imageSize: Math.floor(imageSize / patchSize) * 2 ** (multipliers.length - 1),
      baseChannels: vq.whole("base_channels", 128),
      multipliers,
      resBlocks: vq.whole("num_res_blocks", 2, 16),
      latentChannels: vq.whole("latent_channels", 256),
      codeDim: vq.whole("embed_dim", 8),
      codes: vq.whole("num_embeddings", 16_384),
    },
    language,
  };
}

/** The classes of DeepSeek's code that its config names. */
const CLASSES = {
  vision_config: "CLIPVisionTower",
  aligner_config: "MlpProjector",
  gen_vision_config: "VQ-16",
  gen_aligner_config: "MlpProjector",
  gen_head_config: "vision_head",
} as const;

function parseDeepseek(top: ConfigSection, shapes: Shapes): JanusConfig {
  const params = (key: keyof typeof CLASSES): ConfigSection => {
    top.need(key).require("cls", [CLASSES[key], null]);
    return top.need(key).need("params");
  };
  const language = parseLanguage(top.need("language_config"), { layers: 32, vocabulary: 32_000, maxPositions: 2048 });
  const vision = parseDeepseekVision(params("vision_config"), shapes);
  const [aligner, genAligner] = [params("aligner_config"), params("gen_aligner_config")];
  const [genHead, genVision] = [params("gen_head_config"), params("gen_vision_config")];
  const [codes, codeDim] = [genVision.whole("image_token_size", 16_384), genVision.whole("n_embed", 8)];
  for (const projector of [aligner, genAligner]) {
    projector.require("projector_type", ["mlp_gelu"]);
    projector.require("n_embed", [language.hidden]);
  }
  aligner.require("input_dim", [vision.hidden]);
  genAligner.require("input_dim", [codeDim]);
  genHead.require("n_embed", [language.hidden]);
  genHead.require("image_token_embed", [language.hidden]);
  genHead.require("image_token_size", [codes]);
  const vq = { ...vqSizes(shapes), codes, codeDim };
  const inputNorm = parseInputNorm(params("vision_config"));
  return {
    ...(inputNorm && { inputNorm }),
    vision,
    aligner: { depth: aligner.whole("depth", 1, 8) },
    generation: { depth: genAligner.whole("depth", 1, 8) },
    vq: { ...vq, imageSize: Math.floor(vision.imageSize / vision.patchSize) * 2 ** (vq.multipliers.length - 1) },
    language,
  };
}

/** `pixel_mean` and `pixel_std` of the tower: either has no effect without the other, as in the original. */
function parseInputNorm(params: ConfigSection): JanusConfig["inputNorm"] {
  const [mean, std] = [params.three("pixel_mean", -10), params.three("pixel_std", 1e-6)];
  return mean && std ? { mean, std } : undefined;
}

/** Model names stand for sizes that the original keeps in its code. */
function parseDeepseekVision(params: ConfigSection, shapes: Shapes): SiglipConfig {
  params.require("select_feature", ["same", null]);
  const name = params.text("model_name", "siglip_large_patch16_384");
  const isLarge = name === "siglip_large_patch16_384";
  const patches = isLarge ? undefined : shapes("model.vision_model.embeddings.patch_embedding.weight");
  const fc1 = isLarge ? undefined : shapes("model.vision_model.encoder.layers.0.mlp.fc1.weight");
  // select_layer −1 keeps all layers, −2 leaves out the last one, whose weights then are not in the file either.
  const selected = params.integer("select_layer", -1);
  const layers = isLarge ? (selected > 0 ? selected : SIGLIP_LARGE.layers + selected + 1) : countLayers(shapes);
  const known = (value: number | undefined): number | undefined => (isLarge ? value : undefined);
  return {
    imageSize: params.whole("image_size", known(384)),
    patchSize: params.whole("patch_size", patches?.[2] ?? known(16)),
    hidden: params.whole("width", patches?.[0] ?? known(1024)),
    layers: params.whole("layers", layers > 0 ? layers : undefined, 1024),
    heads: params.whole("heads", known(16), 1024),
    intermediate: params.whole("mlp_hidden", fc1?.[0] ?? known(4096)),
    eps: 1e-6,
  };
}

function countLayers(shapes: Shapes): number {
  let n = 0;
  while (n < 1024 && shapes(`model.vision_model.encoder.layers.${n}.layer_norm1.weight`)) n++;
  return n;
}

/** The tokenizer is always "VQ-16" in DeepSeek's file; another size shows in the tensors alone. One odd tensor does not make another size. */
function vqSizes(shapes: Shapes): Omit<VqConfig, "codes" | "codeDim" | "imageSize"> {
  const { baseChannels, multipliers, resBlocks, latentChannels } = VQ_16;
  const standard = { baseChannels, multipliers, resBlocks, latentChannels };
  const encoder = (rest: string): readonly number[] | undefined => shapes(`model.vqmodel.encoder.${rest}`);
  const base = encoder("conv_in.bias")?.[0];
  const latent = shapes("model.vqmodel.post_quant_conv.bias")?.[0];
  if (!base || !latent || base > 2 ** 20) return standard;
  const found: number[] = [];
  for (let i = 0; i < 8; i++) {
    const width = encoder(`down.${i}.block.0.conv1.bias`)?.[0];
    if (!width || width % base) break;
    found.push(width / base);
  }
  let blocks = 0;
  while (blocks < 16 && encoder(`down.0.block.${blocks}.conv1.bias`)) blocks++;
  if (!found.length || !blocks) return standard;
  const other = { baseChannels: base, multipliers: found, resBlocks: blocks, latentChannels: latent };
  // Both ends must agree that the size is another one.
  const end = shapes("model.vqmodel.decoder.norm_out.bias")?.[0];
  const middle = shapes("model.vqmodel.decoder.mid.block_1.norm1.bias")?.[0];
  return end === base * found[0]! && middle === base * found.at(-1)! ? other : standard;
}

function checkConfig({ vision, vq, language }: JanusConfig, file: string): void {
  const fail = (message: string): never => {
    throw new ConfigError(`${file}: ${message}`);
  };
  if (vision.imageSize % vision.patchSize)
    fail(`images of ${vision.imageSize} pixels do not split into patches of ${vision.patchSize}`);
  if (vision.hidden % vision.heads)
    fail(`the vision tower's width ${vision.hidden} does not split into ${vision.heads} heads`);
  if (language.heads % language.kvHeads)
    fail(`${language.heads} attention heads do not share ${language.kvHeads} key heads`);
  if (language.headDim % 2) fail(`a head size of ${language.headDim}; rotary positions need an even one`);
  if (vq.multipliers.some((m) => m * vq.baseChannels > 2 ** 20)) fail("the image tokenizer is too wide");
}

/** Side of the image's grid of codes, 24 in the published models. */
export const gridSize = ({ vision }: JanusConfig): number => vision.imageSize / vision.patchSize;

/** Image tokens of an image: its positions in a prompt, and the codes that are generated for one. */
export const imageTokens = (config: JanusConfig): number => gridSize(config) ** 2;
