/**
 * The names of the two layouts: the transformers port's (`hf`), which the modules carry, and DeepSeek's original (`deepseek`).
 * Between them lie names, the vision tower's q, k and v (one matrix in the original, split by rows in the port), and a leading
 * dimension of 1 of its positions. Nothing is transposed.
 */
import { quote } from "../../io/errors.ts";
import { specText } from "../../io/stored.ts";
import type { StoredTensor, TensorSpec } from "../../io/stored.ts";

export type Layout = "hf" | "deepseek";
export const LAYOUTS: readonly Layout[] = ["hf", "deepseek"];

/** `#` is a number, `*` is weight or bias, `~` any rest; they stand in the same order on both sides. The first row that fits counts. */
const RENAMING: readonly (readonly [deepseek: string, hf: string, part?: number])[] = [
  ...rows("vision_model.vision_tower", "model.vision_model", [
    ["pos_embed", "embeddings.position_embedding.weight"],
    ["patch_embed.proj.*", "embeddings.patch_embedding.*"],
    ["blocks.#.norm1.*", "encoder.layers.#.layer_norm1.*"],
    ["blocks.#.attn.qkv.*", "encoder.layers.#.self_attn.q_proj.*", 0],
    ["blocks.#.attn.qkv.*", "encoder.layers.#.self_attn.k_proj.*", 1],
    ["blocks.#.attn.qkv.*", "encoder.layers.#.self_attn.v_proj.*", 2],
    ["blocks.#.attn.proj.*", "encoder.layers.#.self_attn.projection_layer.*"],
    ["blocks.#.norm2.*", "encoder.layers.#.layer_norm2.*"],
    ["blocks.#.mlp.fc1.*", "encoder.layers.#.mlp.fc1.*"],
    ["blocks.#.mlp.fc2.*", "encoder.layers.#.mlp.fc2.*"],
    ["norm.*", "post_layernorm.*"],
  ]),
  ...mlpRows("aligner", "model.aligner"),
  ...mlpRows("gen_aligner", "model.generation_aligner"),
  ["gen_head.output_mlp_projector.*", "model.generation_head.proj_out.*"],
  ["gen_head.vision_head.*", "model.generation_head.vision_head.*"],
  ["gen_embed.weight", "model.generation_embeddings.weight"],
  ...rows("gen_vision_model", "model.vqmodel", [
    ["encoder.conv_blocks.#.res.#.~", "encoder.down.#.block.#.~"],
    ["encoder.conv_blocks.#.attn.#.~", "encoder.down.#.attn.#.~"],
    ["encoder.conv_blocks.#.downsample.~", "encoder.down.#.downsample.~"],
    ["decoder.conv_blocks.#.res.#.~", "decoder.up.#.block.#.~"],
    ["decoder.conv_blocks.#.attn.#.~", "decoder.up.#.attn.#.~"],
    ["decoder.conv_blocks.#.upsample.~", "decoder.up.#.upsample.~"],
    ...["encoder", "decoder"].flatMap((side): [string, string][] => [
      [`${side}.mid.0.~`, `${side}.mid.block_1.~`],
      [`${side}.mid.1.~`, `${side}.mid.attn_1.~`],
      [`${side}.mid.2.~`, `${side}.mid.block_2.~`],
      [`${side}.conv_in.*`, `${side}.conv_in.*`],
      [`${side}.norm_out.*`, `${side}.norm_out.*`],
      [`${side}.conv_out.*`, `${side}.conv_out.*`],
    ]),
    ["quant_conv.*", "quant_conv.*"],
    ["quantize.embedding.weight", "quantize.embedding.weight"],
    ["post_quant_conv.*", "post_quant_conv.*"],
  ]),
  ["language_model.model.~", "model.language_model.~"],
  ["language_model.lm_head.weight", "lm_head.weight"],
];

function rows(
  deepseek: string,
  hf: string,
  table: readonly (readonly [string, string, number?])[],
): [string, string, number?][] {
  return table.map(([a, b, part]) => [`${deepseek}.${a}`, `${hf}.${b}`, part]);
}

/** A Sequential counts its activations, a ModuleList of hidden layers does not: layers 2, 4, … are hidden layers 0, 1, … */
function mlpRows(deepseek: string, hf: string): [string, string][] {
  const hidden = [0, 1, 2, 3, 4, 5, 6].map((i): [string, string] => [`layers.${2 * i + 2}.*`, `hidden_layers.${i}.*`]);
  return rows(deepseek, hf, [["layers.0.*", "fc1.*"], ...hidden]).map(([a, b]) => [a, b]);
}

/** Tensors of published files that the model never reads. They are kept for export. */
const UNUSED = [
  /^vision_model\.vision_tower\.attn_pool\./,
  /^gen_vision_model\.quantize\.codebook_used$/,
  /^(language_model\.model|model\.language_model)\.(layers\.\d+\.self_attn\.)?rotary_emb\.((original_)?inv_freq|cos_cached|sin_cached)$/,
  /^model\.vision_model\.embeddings\.position_ids$/,
];
export const isUnused = (name: string): boolean => UNUSED.some((pattern) => pattern.test(name));

const HF_POSITIONS = "model.vision_model.embeddings.position_embedding.weight";

const toPattern = (row: string): RegExp =>
  new RegExp(
    `^${row.replaceAll(".", "\\.").replaceAll("#", "(\\d+)").replaceAll("*", "(weight|bias)").replaceAll("~", "(.+)")}$`,
  );
const COMPILED = RENAMING.map(([deepseek, hf, part]) => ({
  deepseek,
  hf,
  part,
  isDeepseek: toPattern(deepseek),
  isHf: toPattern(hf),
}));

function fill(row: string, values: readonly string[]): string {
  let i = 0;
  return row.replace(/[#*~]/g, () => values[i++]!);
}

/** The name in the hf layout of a tensor of the original, or three for q, k and v; none for a name that the layout does not know. */
export function hfNames(deepseek: string): string[] {
  const found = COMPILED.filter(({ isDeepseek }) => isDeepseek.test(deepseek));
  const wanted = found[0]?.part === undefined ? found.slice(0, 1) : found;
  return wanted.map(({ isDeepseek, hf }) => fill(hf, isDeepseek.exec(deepseek)!.slice(1)));
}

/** Name in the original layout of a tensor of the hf layout; `part` is the third of the rows it takes, if it is one of q, k and v. */
export function deepseekName(hf: string): { name: string; part: number | undefined } | null {
  const row = COMPILED.find(({ isHf }) => isHf.test(hf));
  return row ? { name: fill(row.deepseek, row.isHf.exec(hf)!.slice(1)), part: row.part } : null;
}

/** The shape in the original of a tensor of the hf layout (of one part, for q, k and v). */
export const deepseekShape = (hf: string, shape: readonly number[]): readonly number[] =>
  hf === HF_POSITIONS ? [1, ...shape] : shape;

/** The layout of a set of names; null when it is neither, or both. */
export function detectLayout(names: { has(name: string): boolean }): Layout | null {
  const [deepseek, hf] = [names.has("language_model.model.norm.weight"), names.has("model.language_model.norm.weight")];
  return deepseek === hf ? null : deepseek ? "deepseek" : "hf";
}

/** Bytes of a stored tensor. */
export interface Piece {
  readonly tensor: StoredTensor;
  /** First byte, from the start of the tensor. */
  readonly start: number;
  readonly bytes: number;
}

/** A tensor of one layout as bytes of the tensors of another: its content is that of the pieces, one after the other. */
export interface TensorSource extends TensorSpec {
  readonly pieces: readonly Piece[];
  readonly bytes: number;
}

export interface Arrangement {
  readonly placed: Map<string, TensorSource>;
  readonly unused: StoredTensor[];
  readonly problems: string[];
}

const wholeOf = (tensor: StoredTensor): Piece => ({ tensor, start: 0, bytes: tensor.bytes });

/**
 * The tensors of a checkpoint under the names and shapes of another layout (or the same), those that the model does not read, and
 * one line for each name that the layout does not know and each part that does not fit the others.
 */
export function arrange(tensors: Iterable<StoredTensor>, from: Layout, to: Layout): Arrangement {
  const placed = new Map<string, TensorSource>();
  const unused: StoredTensor[] = [];
  const problems: string[] = [];
  const parts = new Map<string, StoredTensor[]>();
  const place = (tensor: StoredTensor, name: string, shape: readonly number[], pieces: readonly Piece[]): void => {
    if (placed.has(name)) problems.push(`unexpected: ${quote(tensor.name)} is a second ${name}`);
    placed.set(name, { name, dtype: tensor.dtype, shape, pieces, bytes: pieces.reduce((sum, p) => sum + p.bytes, 0) });
  };
  const toHf = (tensor: StoredTensor): void => {
    const names = hfNames(tensor.name);
    const { shape, bytes } = tensor;
    if (names.length === 1) {
      const squeezed = names[0] === HF_POSITIONS && shape[0] === 1;
      place(tensor, names[0]!, squeezed ? shape.slice(1) : shape, [wholeOf(tensor)]);
    } else if (names.length === 0) problems.push(`unexpected: ${quote(tensor.name)} ${specText(tensor)}`);
    else if (shape.length === 0 || shape[0]! % 3) {
      problems.push(`misshapen: ${quote(tensor.name)} is ${specText(tensor)}; its rows do not split into q, k and v`);
    } else {
      const third = [shape[0]! / 3, ...shape.slice(1)];
      for (const [i, name] of names.entries())
        place(tensor, name, third, [{ tensor, start: (i * bytes) / 3, bytes: bytes / 3 }]);
    }
  };
  const toDeepseek = (tensor: StoredTensor): void => {
    const own = deepseekName(tensor.name);
    if (!own) problems.push(`unexpected: ${quote(tensor.name)} ${specText(tensor)}`);
    else if (own.part === undefined)
      place(tensor, own.name, deepseekShape(tensor.name, tensor.shape), [wholeOf(tensor)]);
    else {
      const known = parts.get(own.name) ?? [];
      known[own.part] = tensor;
      parts.set(own.name, known);
    }
  };
  for (const tensor of tensors) {
    if (isUnused(tensor.name)) unused.push(tensor);
    else if (from === to) place(tensor, tensor.name, tensor.shape, [wholeOf(tensor)]);
    else if (to === "hf") toHf(tensor);
    else toDeepseek(tensor);
  }
  for (const [name, [q, k, v]] of parts) {
    if (!q || !k || !v) problems.push(`missing: ${name} needs q_proj, k_proj and v_proj`);
    else if (!q.shape.length || specText(q) !== specText(k) || specText(q) !== specText(v))
      problems.push(`misshapen: q, k and v of ${name} are ${[q, k, v].map(specText).join(", ")}`);
    else {
      placed.set(name, {
        name,
        dtype: q.dtype,
        shape: [3 * q.shape[0]!, ...q.shape.slice(1)],
        pieces: [q, k, v].map(wholeOf),
        bytes: 3 * q.bytes,
      });
    }
  }
  return { placed, unused, problems };
}
