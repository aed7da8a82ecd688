/**
 * Checkpoints in GGUF, as llama.cpp converts them: a file of the language model, and possibly one of the vision tower with its aligner (mmproj). No such
 * file has the parts that generate images. Names, the order of the rows of q and k, and the config are brought into the hf layout; quantised
 * tensors are decoded when they are read, and those whose groups are ours can be loaded without a change (Q8_0, Q4_0).
 */
import type { FileSource, RandomAccess } from "../../io/bytes.ts";
import { decodedFile } from "../../io/decoded.ts";
import type { EncodedTensor } from "../../io/decoded.ts";
import { CheckpointError, GgufError, TensorMismatchError, quote, someOf } from "../../io/errors.ts";
import { decodeBlocks, repackBlocks } from "../../io/ggml.ts";
import { readGguf } from "../../io/gguf.ts";
import type { GgufFile, GgufTensor } from "../../io/gguf.ts";
import { parseJsonObject } from "../../io/json.ts";
import type { JsonObject } from "../../io/json.ts";
import type { StoredTensor } from "../../io/stored.ts";
import { EMBEDDING, JANUS_PRO_1B, readConfig } from "../config.ts";
import type { JanusConfig } from "../config.ts";
import type { Weights } from "./checkpoint.ts";
import type { OptionalPart } from "./expected.ts";
import { GgufMetadata } from "./gguf_metadata.ts";
import { hfConfig } from "./side_files.ts";

/** `#` is the number of a layer; `*` is weight or bias. */
const LANGUAGE: readonly (readonly [gguf: string, hf: string])[] = [
  ["token_embd.weight", EMBEDDING],
  ["output_norm.weight", "model.language_model.norm.weight"],
  ["output.weight", "lm_head.weight"],
  ...(
    [
      ["attn_norm", "input_layernorm"],
      ["attn_q", "self_attn.q_proj"],
      ["attn_k", "self_attn.k_proj"],
      ["attn_v", "self_attn.v_proj"],
      ["attn_output", "self_attn.o_proj"],
      ["ffn_norm", "post_attention_layernorm"],
      ["ffn_gate", "mlp.gate_proj"],
      ["ffn_up", "mlp.up_proj"],
      ["ffn_down", "mlp.down_proj"],
    ] as const
  ).map(([gguf, hf]) => [`blk.#.${gguf}.weight`, `model.language_model.layers.#.${hf}.weight`] as const),
];
const VISION: readonly (readonly [gguf: string, hf: string])[] = [
  ["v.patch_embd.*", "model.vision_model.embeddings.patch_embedding.*"],
  ["v.position_embd.weight", "model.vision_model.embeddings.position_embedding.weight"],
  ["v.post_ln.*", "model.vision_model.post_layernorm.*"],
  ["mm.0.*", "model.aligner.fc1.*"],
  ["mm.1.*", "model.aligner.hidden_layers.0.*"],
  ...(
    [
      ["ln1", "layer_norm1"],
      ["attn_q", "self_attn.q_proj"],
      ["attn_k", "self_attn.k_proj"],
      ["attn_v", "self_attn.v_proj"],
      ["attn_out", "self_attn.projection_layer"],
      ["ln2", "layer_norm2"],
      ["ffn_up", "mlp.fc1"],
      ["ffn_down", "mlp.fc2"],
    ] as const
  ).map(([gguf, hf]) => [`v.blk.#.${gguf}.*`, `model.vision_model.encoder.layers.#.${hf}.*`] as const),
];

/** The hf name of a tensor of a GGUF file; null for one that the model does not have. */
export function hfNameOfGguf(name: string): string | null {
  for (const [gguf, hf] of [...LANGUAGE, ...VISION]) {
    const pattern = gguf.replaceAll(".", "\\.").replace("#", "(?<layer>\\d+)").replace("*", "(?<part>weight|bias)");
    const found = new RegExp(`^${pattern}$`).exec(name);
    if (found) return hf.replace("#", found.groups?.layer ?? "").replace("*", found.groups?.part ?? "");
  }
  return null;
}

export interface GgufWeights extends Weights {
  /** config.json of the folder, checked against the files, or one made from them. */
  config(json: JsonObject | null): JsonObject;
}

interface OpenFile {
  readonly name: string;
  readonly file: RandomAccess;
  readonly header: GgufFile;
  readonly metadata: GgufMetadata;
}

/** Opens the GGUF files of a folder. Throws `GgufError`, `TensorMismatchError`. */
export async function openGguf(source: FileSource, names: readonly string[]): Promise<GgufWeights> {
  const files = new Map<string, RandomAccess>();
  const close = async (): Promise<void> => {
    const open = [...files.values()];
    files.clear();
    for (const file of open) await file.close?.();
  };
  try {
    const opened: OpenFile[] = [];
    for (const name of names.filter((one) => /\.gguf$/i.test(one))) {
      const file = await source.open(name);
      files.set(name, file);
      const header = await readGguf(file);
      opened.push({ name, file, header, metadata: new GgufMetadata(header.metadata, file.name) });
    }
    return weightsOf(opened, source.name, files, close);
  } catch (error) {
    await close();
    throw error;
  }
}

function weightsOf(
  opened: readonly OpenFile[],
  where: string,
  files: Map<string, RandomAccess>,
  close: () => Promise<void>,
): GgufWeights {
  const { language, vision } = roles(opened, where);
  const heads = language.metadata.heads();
  const tensors = new Map<string, StoredTensor>();
  const encoded: EncodedTensor[] = [];
  const problems: string[] = [];
  for (const { name: fileName, file, header } of vision ? [language, vision] : [language])
    for (const tensor of header.tensors.values()) {
      const name = hfNameOfGguf(tensor.name);
      const isSecond = name !== null && (tensors.has(name) || encoded.some((one) => one.name === name));
      if (name === null || isSecond) problems.push(`unexpected: ${quote(tensor.name)} of ${fileName}`);
      else {
        const rotated = /language_model.*\.(q|k)_proj\./.exec(name)?.[1] as "q" | "k" | undefined;
        const { float: dtype } = tensor.type;
        const { shape, offset, bytes } = tensor;
        if (dtype && !rotated) tensors.set(name, { name, dtype, shape, file: fileName, offset, bytes });
        else encoded.push(encodedTensor(name, tensor, file, rotated ? heads[rotated] : null));
      }
    }
  if (problems.length)
    throw new TensorMismatchError(`${where}: ${problems.length} tensors are not those of a Janus model:`, problems);
  const decoded = decodedFile("the decoded weights", encoded);
  files.set(decoded.file.name, decoded.file);
  return {
    format: "gguf",
    tensors: new Map([...tensors, ...decoded.tensors]),
    extra: new Map(),
    files,
    missing: ["generate images", ...(vision ? [] : ["understand images" as const])].sort().reverse() as OptionalPart[],
    close,
    config: (json) =>
      json
        ? checkedConfig(json, language.metadata, vision?.metadata ?? null, where)
        : madeConfig(language.metadata, vision?.metadata ?? null, {
            isTied: !language.header.tensors.has("output.weight"),
            where,
          }),
  };
}

/** The file of the language model and that of the vision tower, which may be absent. */
function roles(opened: readonly OpenFile[], where: string): { language: OpenFile; vision: OpenFile | undefined } {
  const of = (architecture: string): OpenFile[] =>
    opened.filter(({ metadata }) => metadata.architecture === architecture);
  const [language, vision] = [of("llama"), of("clip")];
  const strange = opened.find(({ metadata }) => !["llama", "clip"].includes(metadata.architecture));
  if (strange)
    throw new GgufError(
      `${where}/${strange.name}: general.architecture must be "llama" (language model) or "clip" (mmproj); got ${quote(strange.metadata.architecture)}. Use the GGUF files of a Janus-Pro model.`,
    );
  if (language.length !== 1 || vision.length > 1)
    throw new CheckpointError(
      `${where}: the folder must have one GGUF file of the language model and at most one of the vision tower (mmproj); got ${language.length} and ${vision.length}: ${someOf(opened.map(({ name }) => name))}. Keep one of each.`,
    );
  return { language: language[0]!, vision: vision[0] };
}

/** A tensor that is decoded when it is read. `heads`: its rows are those of so many heads, in the order of llama.cpp's rotary embedding. */
function encodedTensor(name: string, tensor: GgufTensor, file: RandomAccess, heads: number | null): EncodedTensor {
  const { type, shape } = tensor;
  const rows = shape.slice(0, -1).reduce((a, b) => a * b, 1);
  const rowBytes = tensor.bytes / rows;
  const read = (first: number, count: number): Promise<Uint8Array> =>
    file.read(tensor.offset + first * rowBytes, count * rowBytes);
  if (heads !== null && (rows % heads || (rows / heads) % 2))
    throw new GgufError(
      `${file.name}: tensor ${quote(tensor.name)} must have rows for ${heads} heads; got [${shape.join(", ")}]. Download the file again.`,
    );
  const ordered = heads === null ? read : rotaryRows(read, rows / heads, rowBytes);
  const { packed } = type;
  return {
    name,
    shape,
    encoded: {
      format: type.name,
      bytes: tensor.bytes,
      dtype: type.float ?? "f16",
      ...(packed && {
        packed: {
          kind: packed,
          rows: async (first, count) => repackBlocks(await ordered(first, count), packed, tensor.name),
        },
      }),
    },
    rows: async (first, count) => decodeBlocks(await ordered(first, count), type),
  };
}

/**
 * llama.cpp rotates neighbours and therefore stores the rows of a head of q and k as 0, D/2, 1, D/2 + 1, …: row t · D/2 + j is its row 2j + t. Reads
 * rows in the order of the original.
 */
function rotaryRows(
  read: (first: number, count: number) => Promise<Uint8Array>,
  headDim: number,
  rowBytes: number,
): (first: number, count: number) => Promise<Uint8Array> {
  return async (first, count) => {
    const start = first - (first % headDim);
    const end = Math.ceil((first + count) / headDim) * headDim;
    const heads = await read(start, end - start);
    const out = new Uint8Array(count * rowBytes);
    for (let row = first; row < first + count; row++) {
      const inHead = row % headDim;
      const [t, j] = [Math.floor((2 * inHead) / headDim), inHead % (headDim / 2)];
      const from = (row - inHead + 2 * j + t - start) * rowBytes;
      out.set(heads.subarray(from, from + rowBytes), (row - first) * rowBytes);
    }
    return out;
  };
}

/** The folder's config.json, which must agree with the files. */
function checkedConfig(
  json: JsonObject,
  language: GgufMetadata,
  vision: GgufMetadata | null,
  where: string,
): JsonObject {
  const { config } = readConfig(json, () => undefined, `${where}/config.json`);
  const llama = language.llama();
  language.requireSame("language", config.language, llama);
  if (vision) vision.requireSame("vision", config.vision, vision.siglip(llama.hidden));
  return json;
}

/** A config of the hf layout with the sizes of the files; those of parts without a file are the published ones. */
function madeConfig(
  language: GgufMetadata,
  vision: GgufMetadata | null,
  { isTied, where }: { readonly isTied: boolean; readonly where: string },
): JsonObject {
  const llama = language.llama();
  const config: JanusConfig = {
    ...JANUS_PRO_1B,
    vision: vision?.siglip(llama.hidden) ?? JANUS_PRO_1B.vision,
    language: { ...llama, ...(isTied && { tied: true }) },
  };
  return parseJsonObject(new TextEncoder().encode(JSON.stringify(hfConfig(config, null, "float16"))), where);
}
