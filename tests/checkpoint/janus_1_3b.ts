// The small files of deepseek-ai/Janus-1.3B: its configs as published, and a tokenizer with its special tokens at their ids.
import { byteTokenizerFiles } from "../../model/byte_tokenizer.ts";

const bytes = (value: unknown): Uint8Array => new TextEncoder().encode(JSON.stringify(value));
const projector = (name: string, inputs: number) => ({
  cls: "MlpProjector",
  model_type: name,
  params: { depth: 2, input_dim: inputs, n_embed: 2048, projector_type: "mlp_gelu" },
});

export const CONFIG_1_3B = {
  aligner_config: projector("aligner", 1024),
  architectures: ["MultiModalityCausalLM"],
  gen_aligner_config: projector("gen_aligner", 8),
  gen_head_config: {
    cls: "vision_head",
    model_type: "gen_head",
    params: { image_token_embed: 2048, image_token_size: 16384, n_embed: 2048 },
  },
  gen_vision_config: { cls: "VQ-16", model_type: "gen_vision", params: { image_token_size: 16384, n_embed: 8 } },
  language_config: {
    hidden_size: 2048,
    intermediate_size: 5632,
    max_position_embeddings: 16384,
    model_type: "llama",
    num_attention_heads: 16,
    num_hidden_layers: 24,
    num_key_value_heads: 16,
    torch_dtype: "bfloat16",
    vocab_size: 102400,
  },
  model_type: "multi_modality",
  torch_dtype: "bfloat16",
  transformers_version: "4.33.1",
  vision_config: {
    cls: "CLIPVisionTower",
    model_type: "vision",
    params: { image_size: 384, model_name: "siglip_large_patch16_384", select_feature: "same", select_layer: -1 },
  },
};

const PREPROCESSOR = {
  background_color: [127, 127, 127],
  do_normalize: true,
  image_mean: [0.5, 0.5, 0.5],
  image_processor_type: "VLMImageProcessor",
  image_size: 384,
  image_std: [0.5, 0.5, 0.5],
  min_size: 14,
  processor_class: "VLChatProcessor",
  rescale_factor: 0.00392156862745098,
};
const PROCESSOR = {
  add_special_token: false,
  ignore_id: -100,
  image_tag: "<image_placeholder>",
  mask_prompt: true,
  num_image_tokens: 576,
  processor_class: "VLChatProcessor",
  sft_format: "deepseek",
};
const BOS = "<｜begin▁of▁sentence｜>";
const EOS = "<｜end▁of▁sentence｜>";
/** An early version gave no pad token here, which broke guidance for those who trusted it. */
const TOKENIZER_CONFIG = {
  add_bos_token: true,
  add_eos_token: false,
  bos_token: BOS,
  clean_up_tokenization_spaces: false,
  eos_token: EOS,
  model_max_length: 16384,
  pad_token: null,
  sp_model_kwargs: {},
  tokenizer_class: "LlamaTokenizerFast",
  unk_token: null,
  use_default_system_prompt: true,
};

/** Special tokens by their ids; the 576 between the two ends of an image have no names that are known. */
const ADDED: readonly (readonly [id: number, content: string, special: boolean])[] = [
  [100_000, BOS, true],
  [100_001, EOS, true],
  ...Array.from("øöúÿõ÷ûýÀùÁþü", (c, i) => [100_002 + i, c, false] as const),
  [100_015, "<｜▁pad▁｜>", true],
  [100_016, "<begin_of_image>", true],
  ...Array.from({ length: 576 }, (_, i) => [100_017 + i, `<reserved_${i}>`, true] as const),
  [100_593, "<end_of_image>", true],
  [100_594, "<image_placeholder>", true],
  [100_595, "<patch_placeholder>", true],
  ...["<|ref|>", "<|/ref|>", "<|det|>", "<|/det|>", "<|grounding|>", "<|User|>", "<|Assistant|>"].map((content, i) => [100_596 + i, content, true] as const),
]; // prettier-ignore

/** All files but the weights. The vocabulary below 100,000 is that of bytes. */
export function janus13bFiles(): Map<string, Uint8Array> {
  const tokenizer = JSON.parse(new TextDecoder().decode(byteTokenizerFiles().get("tokenizer.json"))) as {
    added_tokens: object[];
  };
  const flags = { single_word: false, lstrip: false, rstrip: false, normalized: false };
  tokenizer.added_tokens = ADDED.map(([id, content, special]) => ({ id, content, ...flags, special }));
  return new Map([
    ["config.json", bytes(CONFIG_1_3B)],
    ["preprocessor_config.json", bytes(PREPROCESSOR)],
    ["processor_config.json", bytes(PROCESSOR)],
    ["tokenizer_config.json", bytes(TOKENIZER_CONFIG)],
    ["special_tokens_map.json", bytes({ bos_token: BOS, eos_token: EOS, pad_token: "<｜▁pad▁｜>" })],
    ["tokenizer.json", bytes(tokenizer)],
  ]);
}
