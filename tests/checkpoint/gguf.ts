// GGUF files as llama.cpp writes them, made from tensors; and the tiny checkpoint as such files. Shares nothing with the project's reader.
import { tensorsOf, tinyFiles } from "./tiny.ts";
import type { Files, Whole } from "./tiny.ts";

export type Meta = number | string | boolean | readonly string[] | readonly number[];
/** `f`: a whole number that is stored as f32. */
export type Metadata = Readonly<Record<string, Meta | { readonly f: number }>>;

export interface TestTensor {
  readonly name: string;
  readonly type: number;
  /** Outermost first. */
  readonly shape: readonly number[];
  readonly data: Uint8Array;
  /** Overrides of what the header says. */
  readonly offset?: number;
}

export const TYPE = { F32: 0, F16: 1, Q4_0: 2, Q8_0: 8, BF16: 30 } as const;

class Writer {
  readonly parts: Uint8Array[] = [];
  length = 0;
  bytes(bytes: Uint8Array): void {
    this.parts.push(bytes);
    this.length += bytes.length;
  }
  u32(value: number): void {
    this.bytes(new Uint8Array(Uint32Array.of(value).buffer));
  }
  u64(value: number | bigint): void {
    this.bytes(new Uint8Array(BigUint64Array.of(BigInt(value)).buffer));
  }
  f32(value: number): void {
    this.bytes(new Uint8Array(Float32Array.of(value).buffer));
  }
  string(text: string): void {
    const bytes = new TextEncoder().encode(text);
    this.u64(bytes.length);
    this.bytes(bytes);
  }
  value(value: Meta | { readonly f: number }): void {
    if (typeof value === "string") {
      this.u32(8);
      this.string(value);
    } else if (typeof value === "boolean") {
      this.u32(7);
      this.bytes(Uint8Array.of(Number(value)));
    } else if (typeof value === "number" && Number.isInteger(value)) {
      this.u32(4);
      this.u32(value);
    } else if (typeof value === "number" || "f" in value) {
      this.u32(6);
      this.f32(typeof value === "number" ? value : value.f);
    } else {
      this.u32(9);
      this.u32(typeof value[0] === "string" ? 8 : 6);
      this.u64(value.length);
      for (const one of value)
        if (typeof one === "string") this.string(one);
        else this.f32(one);
    }
  }
}

const padded = (length: number): number => Math.ceil(length / 32) * 32;

export function ggufBytes(metadata: Metadata, tensors: readonly TestTensor[], version = 3): Uint8Array {
  const out = new Writer();
  out.bytes(new TextEncoder().encode("GGUF"));
  out.u32(version);
  out.u64(tensors.length);
  out.u64(Object.keys(metadata).length);
  for (const [key, value] of Object.entries(metadata)) {
    out.string(key);
    out.value(value);
  }
  let at = 0;
  for (const { name, type, shape, data, offset } of tensors) {
    out.string(name);
    out.u32(shape.length);
    for (const size of [...shape].reverse()) out.u64(size);
    out.u32(type);
    out.u64(offset ?? at);
    at += padded(data.length);
  }
  out.bytes(new Uint8Array(padded(out.length) - out.length));
  for (const { data } of tensors) {
    out.bytes(data);
    out.bytes(new Uint8Array(padded(data.length) - data.length));
  }
  return new Uint8Array(Buffer.concat(out.parts));
}

export const bf16Values = (data: Uint8Array): Float32Array =>
  new Float32Array(Uint32Array.from(new Uint16Array(data.slice().buffer), (bits) => bits << 16).buffer);

/** Blocks of 32 values with f16 scale 2⁻⁶ · (1 + block % 3) and arbitrary q, of a type that has such: not what quantising would choose. */
export function blocks(type: "Q8_0" | "Q4_0", count: number): { data: Uint8Array; values: Float32Array } {
  const size = type === "Q8_0" ? 34 : 18;
  const data = new Uint8Array(count * size);
  const values = new Float32Array(count * 32);
  for (let b = 0; b < count; b++) {
    const scale = (1 + (b % 3)) * 2 ** -6;
    data.set([[0x00, 0x24], [0x00, 0x28], [0x00, 0x2a]][b % 3]!, b * size); // prettier-ignore
    for (let i = 0; i < 32; i++) {
      const q = ((b * 32 + i) * 7) % 13 - 6; // prettier-ignore
      values[b * 32 + i] = q * scale;
      if (type === "Q8_0") data[b * size + 2 + i] = q & 255;
      else data[b * size + 2 + (i % 16)]! |= (q + 8) << (i < 16 ? 0 : 4);
    }
  }
  return { data, values };
}

const NAMES: readonly (readonly [RegExp, string])[] = [
  [/^model\.language_model\.embed_tokens\.weight$/, "token_embd.weight"],
  [/^model\.language_model\.norm\.weight$/, "output_norm.weight"],
  [/^lm_head\.weight$/, "output.weight"],
  [/^model\.language_model\.layers\.(\d+)\.self_attn\.([qkv])_proj\.weight$/, "blk.$1.attn_$2.weight"],
  [/^model\.language_model\.layers\.(\d+)\.self_attn\.o_proj\.weight$/, "blk.$1.attn_output.weight"],
  [/^model\.language_model\.layers\.(\d+)\.mlp\.(\w+)_proj\.weight$/, "blk.$1.ffn_$2.weight"],
  [/^model\.language_model\.layers\.(\d+)\.input_layernorm\.weight$/, "blk.$1.attn_norm.weight"],
  [/^model\.language_model\.layers\.(\d+)\.post_attention_layernorm\.weight$/, "blk.$1.ffn_norm.weight"],
  [/^model\.aligner\.fc1\.(\w+)$/, "mm.0.$1"],
  [/^model\.aligner\.hidden_layers\.0\.(\w+)$/, "mm.1.$1"],
  [/^model\.vision_model\.embeddings\.patch_embedding\.(\w+)$/, "v.patch_embd.$1"],
  [/^model\.vision_model\.embeddings\.position_embedding\.weight$/, "v.position_embd.weight"],
  [/^model\.vision_model\.post_layernorm\.(\w+)$/, "v.post_ln.$1"],
  [/^model\.vision_model\.encoder\.layers\.(\d+)\.layer_norm(\d)\.(\w+)$/, "v.blk.$1.ln$2.$3"],
  [/^model\.vision_model\.encoder\.layers\.(\d+)\.self_attn\.([qkv])_proj\.(\w+)$/, "v.blk.$1.attn_$2.$3"],
  [/^model\.vision_model\.encoder\.layers\.(\d+)\.self_attn\.projection_layer\.(\w+)$/, "v.blk.$1.attn_out.$2"],
  [/^model\.vision_model\.encoder\.layers\.(\d+)\.mlp\.fc1\.(\w+)$/, "v.blk.$1.ffn_up.$2"],
  [/^model\.vision_model\.encoder\.layers\.(\d+)\.mlp\.fc2\.(\w+)$/, "v.blk.$1.ffn_down.$2"],
];

export const ggufName = (hf: string): string | undefined => {
  const row = NAMES.find(([pattern]) => pattern.test(hf));
  return row && hf.replace(row[0], row[1]);
};

/** Rows of each head in the order of llama.cpp: 0, D/2, 1, D/2 + 1, … */
export function rotated(data: Uint8Array, rows: number, headDim: number): Uint8Array {
  const rowBytes = data.length / rows;
  const out = new Uint8Array(data.length);
  for (let row = 0; row < rows; row++) {
    const [head, at] = [row - (row % headDim), row % headDim];
    const from = head + (at % 2) * (headDim / 2) + Math.floor(at / 2);
    out.set(data.subarray(from * rowBytes, (from + 1) * rowBytes), row * rowBytes);
  }
  return out;
}

export const LLAMA: Metadata = {
  "general.architecture": "llama",
  "llama.block_count": 3,
  "llama.context_length": 1024,
  "llama.embedding_length": 128,
  "llama.feed_forward_length": 344,
  "llama.attention.head_count": 4,
  "llama.attention.head_count_kv": 4,
  "llama.attention.layer_norm_rms_epsilon": 1e-6,
  "llama.rope.freq_base": { f: 10_000 },
  "llama.rope.dimension_count": 32,
  "tokenizer.ggml.tokens": Array.from({ length: 1280 }, (_, i) => `token ${i}`),
};
export const CLIP: Metadata = {
  "general.architecture": "clip",
  "clip.has_vision_encoder": true,
  "clip.projector_type": "janus_pro",
  "clip.use_gelu": true,
  "clip.vision.image_size": 64,
  "clip.vision.patch_size": 8,
  "clip.vision.embedding_length": 64,
  "clip.vision.feed_forward_length": 256,
  "clip.vision.block_count": 2,
  "clip.vision.attention.head_count": 4,
  "clip.vision.attention.layer_norm_epsilon": 1e-6,
  "clip.vision.projection_dim": 128,
  "clip.vision.image_mean": [0.5, 0.5, 0.5],
  "clip.vision.image_std": [0.5, 0.5, 0.5],
};

/** The tensors of the tiny checkpoint by their hf names. */
export const tinyTensors = async (): Promise<Map<string, Whole>> =>
  tensorsOf(tinyFiles("hf").get("model.safetensors")!);

/**
 * The tiny checkpoint as GGUF files in bf16: the language model and, with `mmproj`, the vision tower; beside them all files but config.json and the weights.
 * @param change replaces the tensor of an hf name; its rows are in the order of the original
 */
export async function tinyGguf(
  { mmproj = true, metadata = {} as Metadata } = {},
  change: (name: string) => { type: number; data: Uint8Array } | undefined = () => undefined,
): Promise<Files> {
  const files = tinyFiles("hf");
  files.delete("config.json");
  files.delete("model.safetensors");
  const language: TestTensor[] = [];
  const vision: TestTensor[] = [];
  for (const [hf, { shape, data }] of await tinyTensors()) {
    const name = ggufName(hf);
    if (name === undefined) continue;
    const found = change(hf) ?? { type: TYPE.BF16, data };
    const isRotated = /language_model.*[qk]_proj/.test(hf);
    const bytes = isRotated ? rotated(found.data, shape[0]!, 32) : found.data;
    (/^(v|mm)\./.test(name) ? vision : language).push({ name, type: found.type, shape, data: bytes });
  }
  files.set("model.gguf", ggufBytes({ ...LLAMA, ...metadata }, language));
  if (mmproj) files.set("mmproj.gguf", ggufBytes(CLIP, vision));
  return files;
}
