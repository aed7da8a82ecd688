/** A second model on the same base: a plain Llama in the layout of transformers, in f32. Generation accepts any `CausalModel`. */
import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { F, construct, nn, scope, tensor, tensorFromBytes } from "../../index.node.ts";
import type { Device, Tensor } from "../../index.node.ts";
import type { CausalConfig, CausalModel } from "../../model/causal.ts";
import { castFloats } from "../../model/io/cast.ts";
import type { FloatDType } from "../../model/io/cast.ts";
import { ConfigError } from "../../model/io/errors.ts";
import { parseJsonObject } from "../../model/io/json.ts";
import type { JsonObject } from "../../model/io/json.ts";
import { readSafetensors } from "../../model/io/safetensors.ts";
import { LlamaModel } from "../../model/llama.ts";
import type { LlamaConfig, Sequence } from "../../model/llama.ts";
import { openFile } from "../../model/node/index.ts";
import { TextTokenizer } from "../../model/tokenizer.ts";

export type Config = LlamaConfig & CausalConfig;

/** Supported values of config keys; other values are refused. */
const EXPECTED = { model_type: "llama", hidden_act: "silu", attention_bias: false, attention_dropout: 0, mlp_bias: false, pretraining_tp: 1, tie_word_embeddings: false, rope_type: "default" }; // prettier-ignore
/** Keys that change nothing here; the tokenizer says which tokens begin and end a text. */
const HARMLESS = ["architectures", "bos_token_id", "dtype", "eos_token_id", "initializer_range", "pad_token_id", "rope_parameters", "rope_scaling", "torch_dtype", "transformers_version", "use_cache"]; // prettier-ignore

/** Sizes of a config.json of transformers. Throws `ConfigError` for what this model does not compute, and for keys it does not know. */
export function readConfig(bytes: Uint8Array): Config {
  const json = parseJsonObject(bytes, "config.json");
  const all = new Map([...json, ...((json.get("rope_parameters") ?? json.get("rope_scaling") ?? []) as JsonObject)]);
  const known = new Set([...HARMLESS, ...Object.keys(EXPECTED)]);
  const refuse = (text: string): never => {
    throw new ConfigError(`config.json: ${text}`);
  };
  for (const [key, value] of Object.entries(EXPECTED))
    if ((all.get(key) ?? value) !== value)
      refuse(`${key} is ${JSON.stringify(all.get(key))}; this example computes ${value}`);
  const size = (key: string, absent?: number): number => {
    const value = known.add(key) && (all.get(key) ?? absent);
    return typeof value === "number" && value > 0 ? value : refuse(`${key} must be a number above 0`);
  };
  const [hidden, heads] = [size("hidden_size"), size("num_attention_heads")];
  // prettier-ignore
  const config = {
    hidden, heads, vocabulary: size("vocab_size"), intermediate: size("intermediate_size"), layers: size("num_hidden_layers"),
    kvHeads: size("num_key_value_heads", heads), headDim: size("head_dim", hidden / heads), eps: size("rms_norm_eps"),
    ropeTheta: size("rope_theta"), maxPositions: size("max_position_embeddings"),
  };
  const unknown = [...all.keys()].filter((key) => !known.has(key));
  return unknown.length > 0
    ? refuse(`unknown keys: ${unknown.join(", ")}; this example does not compute them`)
    : config;
}

/** Fields are the tensor names of the checkpoint. */
export class LlamaForCausalLM extends nn.Module<readonly [Tensor, Sequence]> implements CausalModel {
  readonly model: LlamaModel;
  readonly lm_head: nn.Linear;
  readonly language: Config;
  readonly device: Device;

  constructor(config: Config, device: Device) {
    super();
    this.language = config;
    this.device = device;
    this.model = new LlamaModel(config, { device });
    this.lm_head = new nn.Linear(config.hidden, config.vocabulary, { device, bias: false });
  }

  /** embeddings [B, T, hidden] → logits [B, T, vocabulary]. */
  forward = (embeddings: Tensor, sequence: Sequence): Tensor => this.logits(this.hidden(embeddings, sequence));
  embedText = (ids: Tensor): Tensor => this.model.embed_tokens.call(ids);
  hidden = (embeddings: Tensor, sequence: Sequence): Tensor => this.model.call(embeddings, sequence);
  logits = (hidden: Tensor): Tensor => this.lm_head.call(hidden);

  /** Cross-entropy of each next token, summed over a text. */
  loss(ids: readonly number[]): Tensor {
    const { device } = this;
    return scope(() => {
      const input = tensor(Int32Array.from(ids.slice(0, -1)), { shape: [1, ids.length - 1], device });
      const positions = F.arange(0, ids.length - 1, 1, { device });
      const hidden = this.hidden(this.embedText(input), { positions }).reshape([-1, this.language.hidden]);
      const targets = tensor(Int32Array.from(ids.slice(1)), { device });
      return F.linearCrossEntropy(hidden, this.lm_head.weight, targets, { reduction: "sum" });
    });
  }
}

/** Loads the model and the tokenizer of a folder. Names and shapes of all tensors must match the config. */
export async function loadLlama(folder: string, device: Device) {
  const read = (name: string): Promise<Buffer> => readFile(join(folder, name));
  const config = readConfig(await read("config.json"));
  const [text, declared] = [await read("tokenizer.json"), await read("tokenizer_config.json")];
  const tokenizer = new TextTokenizer({ tokenizer: text.toString(), config: declared.toString() });
  const model = construct(() => new LlamaForCausalLM(config, device));
  const file = await openFile(join(folder, "model.safetensors"));
  const state: Record<string, Tensor> = {};
  try {
    for (const [name, { dtype, shape, offset, bytes }] of (await readSafetensors(file)).tensors) {
      const values = castFloats(await file.read(offset, bytes), dtype as FloatDType, "f32", name);
      state[name] = tensorFromBytes(values, shape, "f32", device);
    }
    await model.loadStateDict(state);
  } catch (error) {
    model.dispose();
    throw error;
  } finally {
    await file.close?.();
    for (const t of Object.values(state)) t.dispose();
  }
  return { model, tokenizer };
}
