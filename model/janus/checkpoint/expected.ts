/** The tensors that a config requires, with the names and shapes of either layout, and their comparison with a checkpoint. */
import { shapeText } from "../../../engine/errors.ts";
import { EMBEDDING, HEAD } from "../config.ts";
import type { JanusConfig } from "../config.ts";
import { MissingPartError, TensorMismatchError, quote } from "../../io/errors.ts";
import { partShapes } from "./quantized.ts";
import type { Quantization } from "../../../kernels/matmul/quantized_format.ts";
import { deepseekName, deepseekShape, isUnused } from "./names.ts";
import type { Layout } from "./names.ts";
import { specText } from "../../io/stored.ts";
import type { StoredDType, TensorSpec } from "../../io/stored.ts";

export type ShapeMap = ReadonlyMap<string, readonly number[]>;
type Add = (name: string, ...shape: number[]) => void;

/** Statistics of use that training of the image tokenizer kept. */
const CODEBOOK_USED = 65_536;
const FLOATS: readonly StoredDType[] = ["f32", "f16", "bf16"];

/** The tensors that the model reads, in the order of its modules; a tied head is not among them. Names and shapes of the hf layout. */
export function modelTensors(config: JanusConfig): Map<string, readonly number[]> {
  const found = new Map<string, readonly number[]>();
  const add: Add = (name, ...shape) => found.set(name, shape);
  const linear = (name: string, inputs: number, outputs: number): void => {
    add(`${name}.weight`, outputs, inputs);
    add(`${name}.bias`, outputs);
  };
  const mlp = (name: string, inputs: number, depth: number): void => {
    linear(`${name}.fc1`, inputs, hidden);
    for (let i = 0; i < depth - 1; i++) linear(`${name}.hidden_layers.${i}`, hidden, hidden);
  };
  const { hidden } = config.language;
  addVision(config, add);
  mlp("model.aligner", config.vision.hidden, config.aligner.depth);
  addVq(config, add);
  add("model.generation_embeddings.weight", config.vq.codes, config.vq.codeDim);
  mlp("model.generation_aligner", config.vq.codeDim, config.generation.depth);
  linear("model.generation_head.proj_out", hidden, hidden);
  linear("model.generation_head.vision_head", hidden, config.vq.codes);
  addLanguage(config, add);
  return found;
}

function addNorm(add: Add, name: string, size: number): void {
  add(`${name}.weight`, size);
  add(`${name}.bias`, size);
}

function addVision({ vision }: JanusConfig, add: Add): void {
  const { hidden, intermediate, patchSize, imageSize } = vision;
  const at = "model.vision_model";
  const linear = (name: string, inputs: number, outputs: number): void => {
    add(`${name}.weight`, outputs, inputs);
    add(`${name}.bias`, outputs);
  };
  add(`${at}.embeddings.patch_embedding.weight`, hidden, 3, patchSize, patchSize);
  add(`${at}.embeddings.patch_embedding.bias`, hidden);
  add(`${at}.embeddings.position_embedding.weight`, (imageSize / patchSize) ** 2, hidden);
  for (let i = 0; i < vision.layers; i++) {
    const layer = `${at}.encoder.layers.${i}`;
    addNorm(add, `${layer}.layer_norm1`, hidden);
    for (const name of ["q_proj", "k_proj", "v_proj", "projection_layer"])
      linear(`${layer}.self_attn.${name}`, hidden, hidden);
    addNorm(add, `${layer}.layer_norm2`, hidden);
    linear(`${layer}.mlp.fc1`, hidden, intermediate);
    linear(`${layer}.mlp.fc2`, intermediate, hidden);
  }
  addNorm(add, `${at}.post_layernorm`, hidden);
}

function addVq({ vq }: JanusConfig, add: Add): void {
  const { baseChannels, multipliers, resBlocks, latentChannels, codeDim, codes } = vq;
  const at = "model.vqmodel";
  const conv = (name: string, inputs: number, outputs: number, kernel: number): void => {
    add(`${name}.weight`, outputs, inputs, kernel, kernel);
    add(`${name}.bias`, outputs);
  };
  const res = (name: string, inputs: number, outputs: number): void => {
    addNorm(add, `${name}.norm1`, inputs);
    conv(`${name}.conv1`, inputs, outputs, 3);
    addNorm(add, `${name}.norm2`, outputs);
    conv(`${name}.conv2`, outputs, outputs, 3);
    if (inputs !== outputs) conv(`${name}.nin_shortcut`, inputs, outputs, 1);
  };
  const attention = (name: string, channels: number): void => {
    addNorm(add, `${name}.norm`, channels);
    for (const part of ["q", "k", "v", "proj_out"]) conv(`${name}.${part}`, channels, channels, 1);
  };
  const middle = (name: string, channels: number): void => {
    res(`${name}.block_1`, channels, channels);
    attention(`${name}.attn_1`, channels);
    res(`${name}.block_2`, channels, channels);
  };
  const widths = multipliers.map((m) => m * baseChannels);
  const [first, last] = [widths[0]!, widths.at(-1)!];
  conv(`${at}.encoder.conv_in`, 3, baseChannels, 3);
  for (const [i, width] of widths.entries()) {
    const level = `${at}.encoder.down.${i}`;
    for (let j = 0; j < resBlocks; j++) res(`${level}.block.${j}`, j ? width : (widths[i - 1] ?? baseChannels), width);
    if (i === widths.length - 1) for (let j = 0; j < resBlocks; j++) attention(`${level}.attn.${j}`, width);
    else conv(`${level}.downsample.conv`, width, width, 3);
  }
  middle(`${at}.encoder.mid`, last);
  addNorm(add, `${at}.encoder.norm_out`, last);
  conv(`${at}.encoder.conv_out`, last, latentChannels, 3);
  conv(`${at}.quant_conv`, latentChannels, codeDim, 1);
  add(`${at}.quantize.embedding.weight`, codes, codeDim);
  conv(`${at}.post_quant_conv`, codeDim, latentChannels, 1);
  conv(`${at}.decoder.conv_in`, latentChannels, last, 3);
  middle(`${at}.decoder.mid`, last);
  // The decoder's levels are in the order in which they run, from the smallest image on.
  const reversed = [...widths].reverse();
  for (const [i, width] of reversed.entries()) {
    const level = `${at}.decoder.up.${i}`;
    for (let j = 0; j <= resBlocks; j++) res(`${level}.block.${j}`, j ? width : (reversed[i - 1] ?? last), width);
    if (i === 0) for (let j = 0; j <= resBlocks; j++) attention(`${level}.attn.${j}`, width);
    if (i < reversed.length - 1) conv(`${level}.upsample.conv`, width, width, 3);
  }
  addNorm(add, `${at}.decoder.norm_out`, first);
  conv(`${at}.decoder.conv_out`, first, 3, 3);
}

function addLanguage({ language }: JanusConfig, add: Add): void {
  const { hidden, intermediate, layers, heads, kvHeads, headDim, vocabulary, tied } = language;
  const at = "model.language_model";
  add(`${at}.embed_tokens.weight`, vocabulary, hidden);
  for (let i = 0; i < layers; i++) {
    const layer = `${at}.layers.${i}`;
    add(`${layer}.self_attn.q_proj.weight`, heads * headDim, hidden);
    add(`${layer}.self_attn.k_proj.weight`, kvHeads * headDim, hidden);
    add(`${layer}.self_attn.v_proj.weight`, kvHeads * headDim, hidden);
    add(`${layer}.self_attn.o_proj.weight`, hidden, heads * headDim);
    add(`${layer}.mlp.gate_proj.weight`, intermediate, hidden);
    add(`${layer}.mlp.up_proj.weight`, intermediate, hidden);
    add(`${layer}.mlp.down_proj.weight`, hidden, intermediate);
    add(`${layer}.input_layernorm.weight`, hidden);
    add(`${layer}.post_attention_layernorm.weight`, hidden);
  }
  add(`${at}.norm.weight`, hidden);
  if (!tied) add(HEAD, vocabulary, hidden);
}

/** True for the weights, by their hf names, that a quantised model has in 8 or 4 bits: the Llama's linear layers and both heads. */
export const isQuantizable = (hf: string): boolean =>
  /^(model\.language_model\.layers\.\d+\.\w+\.\w+_proj|model\.generation_head\.\w+|lm_head)\.weight$/.test(hf);

/** Parts that a file may lack, by what the model cannot do without them, and the beginnings of their tensors' hf names. */
export const OPTIONAL_PARTS = {
  "understand images": ["model.vision_model.", "model.aligner."],
  "generate images": [
    "model.vqmodel.",
    "model.generation_embeddings.",
    "model.generation_aligner.",
    "model.generation_head.",
  ],
} as const;
export type OptionalPart = keyof typeof OPTIONAL_PARTS;

/** Throws `MissingPartError` in the name of `op` if `part` is among those that a checkpoint lacks. */
export function requirePart(missing: readonly OptionalPart[], op: string, part: OptionalPart): void {
  if (!missing.includes(part)) return;
  const advice =
    part === "generate images"
      ? "never have them. Use the checkpoint in safetensors, e.g. deepseek-ai/Janus-Pro-1B"
      : "have them only with an mmproj file. Put that of this model beside the other file";
  throw new MissingPartError(
    `${op}: the checkpoint must have the weights to ${part}; got GGUF files, which ${advice}.`,
  );
}

/** True for the hf names of tensors of one of `parts`. */
export const isOfParts = (hf: string, parts: readonly OptionalPart[]): boolean =>
  parts.some((part) => OPTIONAL_PARTS[part].some((prefix) => hf.startsWith(prefix)));

/** The tensors of DeepSeek's files that the model never reads: SigLIP's pooling head and the use of the codes. */
export function unusedTensors({ vision: { hidden, intermediate } }: JanusConfig): Map<string, readonly number[]> {
  const at = "vision_model.vision_tower.attn_pool";
  const shapes: [string, number[]][] = [
    [`${at}.latent`, [1, 1, hidden]],
    [`${at}.q.weight`, [hidden, hidden]],
    [`${at}.q.bias`, [hidden]],
    [`${at}.kv.weight`, [2 * hidden, hidden]],
    [`${at}.kv.bias`, [2 * hidden]],
    [`${at}.proj.weight`, [hidden, hidden]],
    [`${at}.proj.bias`, [hidden]],
    [`${at}.norm.weight`, [hidden]],
    [`${at}.norm.bias`, [hidden]],
    [`${at}.mlp.fc1.weight`, [intermediate, hidden]],
    [`${at}.mlp.fc1.bias`, [intermediate]],
    [`${at}.mlp.fc2.weight`, [hidden, intermediate]],
    [`${at}.mlp.fc2.bias`, [hidden]],
    ["gen_vision_model.quantize.codebook_used", [CODEBOOK_USED]],
  ];
  return new Map(shapes);
}

/** Names and shapes of a checkpoint in one layout. For `deepseek`, `unused` adds those that the published files carry besides. */
export function expectedTensors(
  config: JanusConfig,
  layout: Layout,
  options: { unused?: boolean; quantize?: Quantization | null } = {},
): Map<string, readonly number[]> {
  const hf = modelTensors(config);
  if (options.quantize) return withQuantized(hf, config, options.quantize);
  if (layout === "hf") return hf;
  const found = new Map<string, readonly number[]>();
  for (const [hfName, shape] of hf) {
    const { name, part } = deepseekName(hfName)!;
    const own = deepseekShape(hfName, shape);
    found.set(name, part === undefined ? own : [3 * own[0]!, ...own.slice(1)]);
  }
  if (options.unused) for (const [name, shape] of unusedTensors(config)) found.set(name, shape);
  return found;
}

/** The tensors of the hf layout with the parts of quantised weights in their place; a tied head has parts of its own. */
function withQuantized(
  hf: ReadonlyMap<string, readonly number[]>,
  config: JanusConfig,
  kind: Quantization,
): Map<string, readonly number[]> {
  const { tied, vocabulary, hidden } = config.language;
  const all = [...hf, ...(tied ? [[HEAD, [vocabulary, hidden]] as const] : [])];
  return new Map(
    all.flatMap(([name, shape]): [string, readonly number[]][] =>
      isQuantizable(name)
        ? Object.entries(partShapes(shape as [number, number], kind)).map(([part, own]) => [partName(name, part), own])
        : [[name, shape]],
    ),
  );
}

/** `X.weight` → `X.qweight` or `X.scales`. */
export const partName = (name: string, part: string): string => name.replace(/weight$/, part);

/** The name in `layout` of a tensor that both layouts have whole. */
export const nameIn = (layout: Layout, hf: string): string => (layout === "hf" ? hf : deepseekName(hf)!.name);

const dtypesOf = (name: string, quantize: Quantization | null): readonly string[] =>
  quantize && name.endsWith(".qweight") ? ["u32"] : quantize && name.endsWith(".scales") ? ["f16"] : FLOATS;

/** What else decides which tensors a checkpoint must have: its quantisation, and parts that it may lack (hf layout). */
export interface RequiredTensors {
  readonly quantize?: Quantization | null;
  readonly missing?: readonly OptionalPart[];
}

/** One line for each tensor that is missing, misshapen, of a dtype that is not computed with, or not of this model. */
export function tensorProblems(
  config: JanusConfig,
  layout: Layout,
  tensors: ReadonlyMap<string, TensorSpec>,
  { quantize = null, missing = [] }: RequiredTensors = {},
): string[] {
  const expected = expectedTensors(config, layout, { quantize });
  for (const name of expected.keys()) if (isOfParts(name, missing)) expected.delete(name);
  if (config.language.tied && !quantize) {
    // Files have the tied tensor under either name, or both.
    const [embedding, head] = [EMBEDDING, HEAD].map((name) => nameIn(layout, name)) as [string, string];
    const shape = expected.get(embedding)!;
    if (tensors.has(head) && !tensors.has(embedding)) expected.delete(embedding);
    if (tensors.has(head)) expected.set(head, shape);
  }
  const problems: string[] = [];
  for (const [name, shape] of expected) {
    const found = tensors.get(name);
    if (!found) problems.push(`missing: ${name}, expected ${shapeText(shape)}`);
    else if (shapeText(found.shape) !== shapeText(shape))
      problems.push(`misshapen: ${name}, expected ${shapeText(shape)}, found ${shapeText(found.shape)}`);
    else if (!dtypesOf(name, quantize).includes(found.dtype))
      problems.push(`dtype: ${name}, expected ${dtypesOf(name, quantize).join(", ")}, found ${found.dtype}`);
  }
  for (const [name, spec] of tensors) {
    if (!expected.has(name) && !isUnused(name)) problems.push(`unexpected: ${quote(name)} ${specText(spec)}`);
  }
  return problems;
}

/** Throws `TensorMismatchError` if the tensors are not those that the config requires. `where` names the checkpoint. */
export function requireTensors(
  config: JanusConfig,
  layout: Layout,
  tensors: ReadonlyMap<string, TensorSpec>,
  where: string,
  required: RequiredTensors = {},
): void {
  const problems = tensorProblems(config, layout, tensors, required);
  if (problems.length)
    throw new TensorMismatchError(
      `${where}: ${problems.length} tensors do not fit config.json (${layout} layout):`,
      problems,
    );
}
