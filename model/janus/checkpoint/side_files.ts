/**
 * The small files beside the weights, rewritten for the other layout: config.json, and what the processors read. Sizes come from the
 * config, token ids from tokenizer.json. Everything else (tokenizer, template, licence) is copied unchanged.
 */
import type { JanusConfig } from "../config.ts";
import { imageTokens, parseConfig } from "../config.ts";
import { DRAWING_DEFAULTS } from "../processor.ts";
import { preprocessConfig, withInputNorm } from "../../image/preprocess.ts";
import { withoutMark } from "../../io/small_file.ts";
import type { FloatDType } from "../../io/cast.ts";
import type { Checkpoint } from "./checkpoint.ts";
import { ConfigError } from "../../io/errors.ts";
import { JsonReader, isJsonObject, parseJsonObject } from "../../io/json.ts";
import type { JsonObject, JsonValue } from "../../io/json.ts";
import type { Layout } from "./names.ts";
import type { StoredTensor } from "../../io/stored.ts";

type Json = null | boolean | number | string | readonly Json[] | { readonly [key: string]: Json };

const REWRITTEN = ["config.json", "processor_config.json", "preprocessor_config.json", "generation_config.json"];
/** Keys of generation_config.json that are rewritten from the tokenizer's ids; all others are kept. */
const REWRITTEN_IDS = ["bos_token_id", "pad_token_id", "boi_token_id", "generation_kwargs"];
const TORCH_DTYPES = { f32: "float32", f16: "float16", bf16: "bfloat16" } as const;
const SPECIAL = {
  image: "<image_placeholder>",
  beginImage: "<begin_of_image>",
  bos: "<｜begin▁of▁sentence｜>",
  eos: "<｜end▁of▁sentence｜>",
  pad: "<｜▁pad▁｜>",
};
/** Limits of a tokenizer.json; published ones have 100,000 keys and as many merges. */
const TOKENIZER_LIMITS = { keys: 2 ** 20, elements: 2 ** 22 };
type Ids = Partial<Record<keyof typeof SPECIAL, number>>;

/** True for files of a model's folder that a conversion needs: neither weights nor their index nor hidden files. */
export const isSideFile = (name: string): boolean =>
  !name.startsWith(".") &&
  !/^(MANIFEST|state)\.json$/.test(name) && // a training checkpoint's own
  !/\.(safetensors|bin|pt|pth|gguf|onnx|h5|msgpack)$|\.index\.json$/.test(name);

type Files = ReadonlyMap<string, Uint8Array>;

const text = (value: Json): Uint8Array => new TextEncoder().encode(`${JSON.stringify(value, null, 2)}\n`);
const read = (files: Files, name: string, where: string): JsonObject | null =>
  files.has(name) ? parseJsonObject(withoutMark(files.get(name)!), `${where}/${name}`) : null;

/** The side files of a checkpoint in the wanted layout. Throws `JsonError` or `ConfigError` when one cannot be read. */
export function convertSideFiles(
  checkpoint: Checkpoint,
  layout: Layout,
  files: Files,
  dtype?: FloatDType,
): Map<string, Uint8Array> {
  if (checkpoint.layout !== layout) {
    const { config, name } = checkpoint;
    return (layout === "hf" ? hfSideFiles : deepseekSideFiles)(config, dtype ?? mainDType(checkpoint), files, name);
  }
  const out = new Map([...files].filter(([name]) => isSideFile(name)));
  const key = checkpoint.json.has("dtype") ? "dtype" : "torch_dtype";
  const torchDtype = TORCH_DTYPES[dtype ?? mainDType(checkpoint)];
  return out.set(
    "config.json",
    text(plain(dtype ? new Map([...checkpoint.json, [key, torchDtype]]) : checkpoint.json)),
  );
}

/** The `files` that are copied unchanged when the others are rewritten. */
const kept = (files: Files): Map<string, Uint8Array> =>
  new Map([...files].filter(([name]) => isSideFile(name) && !REWRITTEN.includes(name)));

/** The same in DeepSeek's layout. */
export function deepseekSideFiles(
  config: JanusConfig,
  dtype: FloatDType,
  files: Files,
  where: string,
): Map<string, Uint8Array> {
  const out = kept(files);
  // DeepSeek's folders have no such file: it is written for what their code would do otherwise.
  const settings = ownSettings(generationOf(files, where), files, config, where);
  if (settings) out.set("generation_config.json", text(settings));
  return out
    .set("config.json", text(deepseekConfig(config, TORCH_DTYPES[dtype])))
    .set(
      "preprocessor_config.json",
      text({
        image_processor_type: "VLMImageProcessor",
        processor_class: "VLChatProcessor",
        image_size: config.vision.imageSize,
        do_normalize: true,
        ...imageSettings(config, files, where),
      }),
    )
    .set(
      "processor_config.json",
      text({
        add_special_token: false,
        ignore_id: -100,
        image_tag: SPECIAL.image,
        mask_prompt: true,
        num_image_tokens: imageTokens(config),
        processor_class: "VLChatProcessor",
        sft_format: "deepseek",
      }),
    );
}

/** The settings of generation_config.json that stand in either layout. */
function generationOf(files: Files, where: string): Record<string, Json> {
  const given = read(files, "generation_config.json", where);
  const settings = [...(given ?? [])].filter(([name]) => !REWRITTEN_IDS.includes(name));
  return Object.fromEntries(settings.map(([name, value]): [string, Json] => [name, plain(value)]));
}

/** `settings`, if they are not what DeepSeek's code does by itself; null if they are. */
function ownSettings(
  settings: Record<string, Json>,
  files: Files,
  config: JanusConfig,
  where: string,
): Record<string, Json> | null {
  const { guidance, temperature } = DRAWING_DEFAULTS;
  const eos = specialIds(files.get("tokenizer.json"), where)?.eos;
  const usual: Record<string, Json | undefined> = {
    guidance_scale: guidance,
    temperature,
    max_length: config.language.maxPositions,
    eos_token_id: eos,
    transformers_version: settings.transformers_version,
    _from_model_config: settings._from_model_config,
  };
  return Object.entries(settings).every(([name, value]) => usual[name] === value) ? null : settings;
}

/** True if questions have the original's system prompt: according to the given processor, else as in the original. */
function usesSystemPrompt(files: Files, where: string): boolean {
  const given = read(files, "processor_config.json", where);
  const flag = given?.get("use_default_system_prompt");
  return typeof flag === "boolean" ? flag : given === null || given.has("sft_format");
}

/**
 * The side files of a model in the hf layout: its configs, written from its sizes and from the ids in `tokenizer.json`, and the others of
 * `files` as they are. `where` names the model in messages. Throws `JsonError` or `ConfigError` when one of `files` cannot be read.
 */
export function hfSideFiles(
  config: JanusConfig,
  dtype: FloatDType,
  files: Files,
  where: string,
): Map<string, Uint8Array> {
  const ids = specialIds(files.get("tokenizer.json"), where);
  const side = config.vision.imageSize;
  const generation = ids && {
    bos_token_id: ids.bos!,
    eos_token_id: ids.eos!,
    pad_token_id: ids.pad!,
    generation_kwargs: { boi_token_id: ids.beginImage! },
  };
  return kept(files)
    .set("config.json", text(hfConfig(config, ids, TORCH_DTYPES[dtype])))
    .set(
      "generation_config.json",
      text({
        ...generation,
        guidance_scale: DRAWING_DEFAULTS.guidance,
        max_length: config.language.maxPositions,
        ...generationOf(files, where),
      }),
    )
    .set(
      "preprocessor_config.json",
      text({
        image_processor_type: "JanusImageProcessor",
        processor_class: "JanusProcessor",
        size: { height: side, width: side },
        resample: 3,
        do_convert_rgb: true,
        do_resize: true,
        do_pad: true,
        do_rescale: true,
        do_normalize: true,
        ...imageSettings(config, files, where),
      }),
    )
    .set(
      "processor_config.json",
      text({
        num_image_tokens: imageTokens(config),
        processor_class: "JanusProcessor",
        use_default_system_prompt: usesSystemPrompt(files, where),
      }),
    );
}

/**
 * Returns DeepSeek's config.json. It leaves out sizes that the original's code contains; others get separate keys
 * beside the model's name.
 */
export function deepseekConfig(config: JanusConfig, torchDtype: string): Json {
  const { vision, vq, language } = config;
  const h = language.hidden;
  const isLarge =
    vision.hidden === 1024 &&
    vision.layers === 24 &&
    vision.heads === 16 &&
    vision.patchSize === 16 &&
    vision.intermediate === 4096;
  const own = {
    width: vision.hidden,
    layers: vision.layers,
    heads: vision.heads,
    patch_size: vision.patchSize,
    mlp_hidden: vision.intermediate,
  };
  return {
    architectures: ["MultiModalityCausalLM"],
    model_type: "multi_modality",
    torch_dtype: torchDtype,
    aligner_config: {
      cls: "MlpProjector",
      model_type: "aligner",
      params: { depth: config.aligner.depth, input_dim: vision.hidden, n_embed: h, projector_type: "mlp_gelu" },
    },
    gen_aligner_config: {
      cls: "MlpProjector",
      model_type: "gen_aligner",
      params: { depth: config.generation.depth, input_dim: vq.codeDim, n_embed: h, projector_type: "mlp_gelu" },
    },
    gen_head_config: {
      cls: "vision_head",
      model_type: "gen_head",
      params: { image_token_embed: h, image_token_size: vq.codes, n_embed: h },
    },
    gen_vision_config: {
      cls: "VQ-16",
      model_type: "gen_vision",
      params: { image_token_size: vq.codes, n_embed: vq.codeDim },
    },
    vision_config: {
      cls: "CLIPVisionTower",
      model_type: "vision",
      params: {
        image_size: vision.imageSize,
        model_name: isLarge ? "siglip_large_patch16_384" : "siglip_custom",
        select_feature: "same",
        select_layer: -1,
        ...(isLarge ? {} : own),
      },
    },
    language_config: { model_type: "llama", ...llamaConfig(config), torch_dtype: torchDtype },
  };
}

function llamaConfig({ language }: JanusConfig): Record<string, Json> {
  return {
    hidden_size: language.hidden,
    intermediate_size: language.intermediate,
    num_hidden_layers: language.layers,
    num_attention_heads: language.heads,
    num_key_value_heads: language.kvHeads,
    ...(language.headDim * language.heads === language.hidden ? {} : { head_dim: language.headDim }),
    vocab_size: language.vocabulary,
    max_position_embeddings: language.maxPositions,
    rms_norm_eps: language.eps,
    rope_theta: language.ropeTheta,
    ...(language.tied && { tie_word_embeddings: true }),
  };
}

/** A number whose product with `b`, rounded down, is `a`: the plain quotient falls short of it for some pairs. */
const ratio = (a: number, b: number): number => (Math.floor(b * (a / b)) === a ? a / b : (a + 0.5) / b);

/** The config.json of the transformers port. */
export function hfConfig(config: JanusConfig, ids: Ids | null, torchDtype: string): Json {
  const { vision, vq, language } = config;
  return {
    architectures: ["JanusForConditionalGeneration"],
    model_type: "janus",
    torch_dtype: torchDtype,
    ...(ids ? { image_token_id: ids.image! } : {}),
    tie_word_embeddings: language.tied ?? false,
    text_config: {
      model_type: "llama",
      ...llamaConfig(config),
      head_dim: language.headDim,
      hidden_act: "silu",
      attention_bias: false,
      mlp_bias: false,
      tie_word_embeddings: language.tied ?? false,
      ...(ids ? { bos_token_id: ids.bos!, eos_token_id: ids.eos!, pad_token_id: ids.pad! } : {}),
    },
    vision_config: {
      model_type: "janus_vision_model",
      hidden_size: vision.hidden,
      num_hidden_layers: vision.layers,
      num_attention_heads: vision.heads,
      mlp_ratio: ratio(vision.intermediate, vision.hidden),
      image_size: vision.imageSize,
      patch_size: vision.patchSize,
      num_channels: 3,
      num_image_tokens: imageTokens(config),
      hidden_act: "gelu",
      layer_norm_eps: vision.eps,
      attention_bias: true,
      use_qk_norm: false,
      depth: config.aligner.depth,
      projection_dim: language.hidden,
    },
    vq_config: {
      model_type: "janus_vqgan",
      base_channels: vq.baseChannels,
      channel_multiplier: vq.multipliers,
      num_res_blocks: vq.resBlocks,
      latent_channels: vq.latentChannels,
      embed_dim: vq.codeDim,
      num_embeddings: vq.codes,
      num_patches: vision.imageSize / vision.patchSize,
      in_channels: 3,
      out_channels: 3,
      double_latent: false,
      num_hidden_layers: config.generation.depth,
      hidden_act: "gelu",
      projection_dim: language.hidden,
      image_token_embed_dim: language.hidden,
    },
  };
}

/**
 * Throws `ConfigError` unless config.json can hold `config`: what is read back from it must be the same. It is not for sizes that contradict
 * each other, such as an image tokenizer of another number of codes than the vision tower has patches.
 */
export function requireStorable(config: JanusConfig, where: string): void {
  const json = parseJsonObject(text(hfConfig(config, null, "float32")), `${where}/config.json`);
  const { inputNorm: _, ...stored } = config; // goes to the processor's settings
  const different = differences(stored, parseConfig(json, undefined, `${where}/config.json`));
  if (different.length)
    throw new ConfigError(`${where}: config.json cannot hold these sizes: ${different.join("; ")}; make them agree`);
}

function differences(a: object, b: object, path = ""): string[] {
  const keys = [...new Set([...Object.keys(a), ...Object.keys(b)])];
  return keys.flatMap((key): string[] => {
    const [x, y] = [a, b].map((side): unknown => (side as Record<string, unknown>)[key]);
    if (typeof x === "object" && x && typeof y === "object" && y) return differences(x, y, `${path}${key}.`);
    return Object.is(x, y) ? [] : [`${path}${key} ${String(x)} would be read as ${String(y)}`];
  });
}

/** Ids of the special tokens; null without a tokenizer (transformers then uses its defaults, those of the 1B model). */
function specialIds(tokenizer: Uint8Array | undefined, where: string): Ids | null {
  if (!tokenizer) return null;
  const ids = new Map<JsonValue | undefined, JsonValue | undefined>();
  const json = new JsonReader(withoutMark(tokenizer), `${where}/tokenizer.json`, TOKENIZER_LIMITS);
  json.object((key) => {
    if (key !== "added_tokens") return json.skip();
    json.array(() => {
      const token = json.value();
      if (isJsonObject(token)) ids.set(token.get("content"), token.get("id"));
    });
  });
  json.end();
  const found: Ids = {};
  for (const [key, text] of Object.entries(SPECIAL)) {
    const id = ids.get(text);
    if (typeof id !== "number")
      throw new ConfigError(`${where}/tokenizer.json: the token ${text} is not in it; is it a Janus tokenizer?`);
    found[key as keyof Ids] = id;
  }
  return found;
}

/** What the processors of both layouts share, from whichever file has it, as it takes effect; the published values otherwise. */
function imageSettings(config: JanusConfig, files: Files, where: string): Record<string, Json> {
  const preprocessor = read(files, "preprocessor_config.json", where);
  const nested = read(files, "processor_config.json", where)?.get("image_processor");
  const from = isJsonObject(nested) ? nested : preprocessor;
  const effective = preprocessConfig(from ? plain(from) : {}, `${where}/preprocessor_config.json`);
  const { minSize, rescaleFactor, mean, std, background } = withInputNorm(effective, config.inputNorm);
  return {
    min_size: minSize,
    rescale_factor: rescaleFactor,
    image_mean: mean,
    image_std: std,
    background_color: background,
  };
}

/** A tensor of a model or of a checkpoint; of the latter, with the stored one that it is read from. */
interface Typed {
  readonly dtype: string;
  readonly pieces?: readonly { readonly tensor: StoredTensor }[];
}

/** The dtype of most of the weights of a checkpoint, or of a model under its tensors' names. */
export function mainDType({ parameters }: { parameters: ReadonlyMap<string, Typed> }): FloatDType {
  const counts = { bf16: 0, f16: 0, f32: 0 };
  for (const [name, { dtype, pieces }] of parameters)
    if (!/\.(qweight|scales)$/.test(name)) counts[pieces?.[0]?.tensor.encoded?.dtype ?? (dtype as FloatDType)]++;
  return (Object.keys(counts) as FloatDType[]).reduce((a, b) => (counts[b] > counts[a] ? b : a));
}

function plain(value: JsonValue): Json {
  if (Array.isArray(value)) return value.map(plain);
  if (!isJsonObject(value)) return value;
  // fromEntries defines keys, so even "__proto__" is one like any other.
  return Object.fromEntries([...value].map(([key, item]): [string, Json] => [key, plain(item)]));
}
