/**
 * A checkpoint: the weights of a model in one file or several, safetensors or `torch.save`, in either layout of names, with its config.
 * Opening one reads headers only and checks all of them against the config; bytes are read on demand.
 */
import { ConfigSection } from "../../io/config_section.ts";
import { EMBEDDING, HEAD, readConfig, requireUnquantised } from "../config.ts";
import type { JanusConfig } from "../config.ts";
import type { FileSource, RandomAccess } from "../../io/bytes.ts";
import { CheckpointError, ConfigError, MissingPartError, ShardIndexError, TensorMismatchError, quote, someOf } from "../../io/errors.ts"; // prettier-ignore
import { nameIn, partName, requireTensors } from "./expected.ts";
import type { OptionalPart } from "./expected.ts";
import { quantizationOf } from "./quantized.ts";
import type { Quantization } from "../../../kernels/matmul/quantized_format.ts";
import { JsonReader, parseJsonObject } from "../../io/json.ts";
import type { JsonObject } from "../../io/json.ts";
import { openGguf } from "./gguf.ts";
import { decodeMlx } from "./mlx.ts";
import { arrange, detectLayout, isUnused } from "./names.ts";
import type { Layout, TensorSource } from "./names.ts";
import { readSafetensors } from "../../io/safetensors.ts";
import { HEAD_BYTES, readTextFile, requireContent } from "../../io/small_file.ts";
import { MAX_TENSORS } from "../../io/stored.ts";
import type { StoredTensor } from "../../io/stored.ts";
import { readTorchZip } from "../../io/torch_zip.ts";

/** Tensors that the hf layout has no names for, stored in a separate file under the names of the original. */
export const EXTRA_FILE = "extra.safetensors";
/** Moving averages of the weights that a training run keeps in its checkpoints, under the names of those weights. */
export const EMA_FILE = "ema.safetensors";
const MAX_CONFIG = 2 ** 20; // bytes
const MAX_INDEX = 16 * 2 ** 20; // bytes
const MAX_SHARDS = 1024;
/** Buffers of chunks that are kept for the next tensor: those that one tensor needs. */
const MAX_SPARE = 2;
/** Looked for in this order, as transformers does. */
const WEIGHT_FILES = [
  "model.safetensors",
  "model.safetensors.index.json",
  "pytorch_model.bin",
  "pytorch_model.bin.index.json",
];

export type Format = "safetensors" | "torch" | "gguf";

/**
 * Returns the file of a folder that contains the weights or their index. Throws `CheckpointError` if there is none, or
 * more than one candidate.
 */
export function chooseWeights(files: readonly string[], where: string): string {
  const known = WEIGHT_FILES.find((name) => files.includes(name));
  if (known) return known;
  requireNoAdapter(files, where);
  const others = files.filter(
    (name) =>
      /\.(safetensors|bin)$/.test(name) &&
      name !== EXTRA_FILE &&
      !/^(training_args|optimizer|scheduler|(discriminator|ema)\.)/.test(name),
  );
  if (others.length === 1) return others[0]!;
  const gguf = files.filter((name) => /\.gguf$/i.test(name));
  if (gguf.length && !others.length)
    throw new CheckpointError(
      `${where}: weights to download must be safetensors or torch.save; got GGUF files: ${someOf(gguf)}. Download one of the language model (and the mmproj) into a folder, with the tokenizer.json of its model, and name that folder.`,
    );
  if (others.length)
    throw new CheckpointError(
      `${where}: none of ${WEIGHT_FILES.join(", ")}, but several other weight files: ${someOf(others)}; keep one, or add an index`,
    );
  throw new CheckpointError(
    `${where}: no weights in it (${WEIGHT_FILES.join(", ")}); ${files.length ? `it contains ${someOf(files)}` : "it is empty"}`,
  );
}

function requireNoAdapter(files: readonly string[], where: string): void {
  if (files.some((name) => /^adapter_(config\.json|model\.)/.test(name)))
    throw new CheckpointError(
      `${where}: it must hold a model's weights; got an adapter (adapter_config.json, adapter_model). Merge it into its base model first`,
    );
}

/** The weight files of a folder, opened, with the tensors of all of them under the names they are stored by. */
export interface Weights {
  readonly format: Format;
  readonly tensors: ReadonlyMap<string, StoredTensor>;
  /** Tensors of `EXTRA_FILE`, if the folder has one. */
  readonly extra: ReadonlyMap<string, StoredTensor>;
  readonly files: ReadonlyMap<string, RandomAccess>;
  /** Parts of the model that the files do not have, and need not have. */
  readonly missing?: readonly OptionalPart[];
  close(): Promise<void>;
}

/** Opens the weights of a folder and reads their headers. */
export async function openWeights(source: FileSource): Promise<Weights> {
  const files = new Map<string, RandomAccess>();
  const close = async (): Promise<void> => {
    for (const file of files.values()) await file.close?.();
    files.clear();
  };
  const open = async (name: string): Promise<{ format: Format; tensors: ReadonlyMap<string, StoredTensor> }> => {
    const file = await source.open(name);
    files.set(name, file);
    return readTensors(file, name);
  };
  try {
    const names = await source.list();
    const chosen = chooseWeights(names, source.name);
    const main = chosen.endsWith(".json") ? await openShards(source, chosen, names, open) : await open(chosen);
    const extra = names.includes(EXTRA_FILE) ? (await open(EXTRA_FILE)).tensors : new Map<string, StoredTensor>();
    return { ...main, extra, files, close };
  } catch (error) {
    await close();
    throw error;
  }
}

/** Reads the tensors of one file; its first bytes determine the format, not its name. */
async function readTensors(
  file: RandomAccess,
  name: string,
): Promise<{ format: Format; tensors: ReadonlyMap<string, StoredTensor> }> {
  const head = await file.read(0, Math.min(file.size, HEAD_BYTES));
  requireContent(head, file.name);
  const text = String.fromCharCode(...head);
  if (text.startsWith("PK\x03\x04") || (name.endsWith(".bin") && text[8] !== "{"))
    return { format: "torch", tensors: await readTorchZip(file, name) };
  return { format: "safetensors", tensors: (await readSafetensors(file, name)).tensors };
}

/** Tensor names and the shard of each, from an index file. */
export function parseIndex(bytes: Uint8Array, where: string): Map<string, string> {
  const map = new Map<string, string>();
  const json = new JsonReader(bytes, where);
  json.object((key) => {
    if (key !== "weight_map") return json.skip();
    json.object((name) => {
      const file = json.string();
      const isPlain = /^[^/\\\0]+\.(safetensors|bin)$/.test(file) && !file.startsWith(".");
      if (!isPlain)
        throw new ShardIndexError(
          `${where}: the shard ${quote(file)} of ${quote(name)} is not the name of a weight file beside the index`,
        );
      if (map.size >= MAX_TENSORS) throw new ShardIndexError(`${where}: more than ${MAX_TENSORS} tensors`);
      map.set(name, file);
    });
  });
  json.end();
  if (!map.size) throw new ShardIndexError(`${where}: there is no weight_map in it, or it is empty`);
  return map;
}

async function openShards(
  source: FileSource,
  index: string,
  names: readonly string[],
  open: (name: string) => Promise<{ format: Format; tensors: ReadonlyMap<string, StoredTensor> }>,
): Promise<{ format: Format; tensors: ReadonlyMap<string, StoredTensor> }> {
  const where = `${source.name}/${index}`;
  const map = parseIndex(await readTextFile(source, index, MAX_INDEX), where);
  const shards = [...new Set(map.values())];
  if (shards.length > MAX_SHARDS) throw new ShardIndexError(`${where}: ${shards.length} shards; at most ${MAX_SHARDS}`);
  const missing = shards.filter((shard) => !names.includes(shard));
  if (missing.length)
    throw new ShardIndexError(
      `${where}: ${missing.length} of ${shards.length} shards are missing: ${someOf(missing)}; load them too`,
    );
  const tensors = new Map<string, StoredTensor>();
  const twice: string[] = [];
  const misplaced: string[] = [];
  let format: Format = "safetensors";
  for (const shard of shards) {
    const part = await open(shard);
    format = part.format;
    for (const [name, tensor] of part.tensors) {
      const planned = map.get(name);
      if (tensors.has(name)) twice.push(`${quote(name)} is in two shards, ${tensors.get(name)!.file} and ${shard}`);
      else if (planned === undefined) {
        // Unused buffers that older versions of transformers saved are often not in the index.
        if (!isUnused(name)) misplaced.push(`${quote(name)} is in ${shard} but not in the index`);
      } else if (planned !== shard) misplaced.push(`${quote(name)} is in ${shard}, the index says ${planned}`);
      tensors.set(name, tensor);
    }
  }
  for (const [name, shard] of map)
    if (!tensors.has(name) && !isUnused(name))
      misplaced.push(`${quote(name)} is not in ${shard}, where the index says`);
  const problems = [...twice, ...misplaced];
  if (problems.length)
    throw new ShardIndexError(
      `${where}: index and shards disagree in ${problems.length} places:\n  ${problems.slice(0, 20).join("\n  ")}`,
    );
  return { format, tensors };
}

/** A checked checkpoint. It reads bytes from its files; `close` it after use. */
export class Checkpoint {
  /** Name of its folder. */
  readonly name: string;
  readonly layout: Layout;
  readonly format: Format;
  /** How the Llama's linear layers and both heads are quantised in the files; null if they are not. */
  readonly quantization: Quantization | null;
  /** What the model cannot do because the files lack its tensors. */
  readonly missing: readonly OptionalPart[];
  readonly config: JanusConfig;
  /** Things worth saying: keys of config.json that are not known and have no effect. */
  readonly notices: readonly string[];
  /** config.json as it stands. */
  readonly json: JsonObject;
  /** Everything in the weight files, under the names there. */
  readonly tensors: ReadonlyMap<string, StoredTensor>;
  /** The tensors that a copy of the checkpoint has: a tied tensor once, as the text embedding. */
  readonly kept: readonly StoredTensor[];
  /** Tensors that the model reads, under the names of its modules (those of the hf layout). */
  readonly parameters: ReadonlyMap<string, TensorSource>;
  /** Tensors that the model does not read but an export keeps, under the names in the file. */
  readonly unused: ReadonlyMap<string, StoredTensor>;
  private readonly weights: Weights;
  /** Buffers of `chunks` that nobody uses now. */
  private readonly spareBuffers: Uint8Array[] = [];
  /** The tied text head, if the files have it besides the embedding. */
  private readonly twin: StoredTensor | null;

  constructor(name: string, json: JsonObject, weights: Weights) {
    const layout = detectLayout(weights.tensors);
    if (!layout) {
      throw new CheckpointError(
        `${name}: not the weights of a Janus model: of language_model.model.norm.weight (DeepSeek's layout) and model.language_model.norm.weight (transformers') just one must be there; found ${someOf(weights.tensors.keys(), 3) || "no tensors"}`,
      );
    }
    requireUnquantised(new ConfigSection(json, `${name}/config.json`), `${name}/config.json`); // by its name, if the config has it
    const quantization = quantizationOf(json, `${name}/config.json`);
    if (quantization && layout !== "hf")
      throw new CheckpointError(
        `${name}: quantised weights must be in the hf layout; got the ${layout} layout. Convert the full checkpoint again`,
      );
    if (!quantization) requirePlain(weights.tensors.keys(), name);
    const all = arrange(weights.tensors.values(), layout, "hf").placed;
    const shapeOf = (hf: string): readonly number[] | undefined =>
      (all.get(hf) ?? (hf === HEAD && quantization ? all.get(partName(HEAD, "qweight")) : undefined))?.shape;
    const { config, notices } = readConfig(json, shapeOf, `${name}/config.json`);
    this.config = config;
    this.notices = notices;
    this.missing = weights.missing ?? [];
    const { kept, twin } = untied(this.config, layout, weights.tensors);
    const { placed, unused, problems } = arrange(kept, layout, "hf");
    requireTensors(this.config, layout, weights.tensors, name, { quantize: quantization, missing: this.missing });
    if (problems.length)
      throw new TensorMismatchError(`${name}: ${problems.length} tensors do not fit the ${layout} layout:`, problems);
    const strange = [...weights.extra.keys()].filter((tensor) => !isUnused(tensor));
    if (strange.length)
      throw new CheckpointError(`${name}/${EXTRA_FILE}: ${someOf(strange)} are not tensors that belong in it`);
    this.name = name;
    this.layout = layout;
    this.quantization = quantization;
    this.format = weights.format;
    this.json = json;
    this.tensors = weights.tensors;
    this.kept = kept;
    this.twin = twin;
    this.parameters = placed;
    this.unused = new Map([...weights.extra.values(), ...unused].map((tensor) => [tensor.name, tensor]));
    this.weights = weights;
  }

  /** Throws `CheckpointError` in the name of `op` if the weights are quantised. */
  requireUnquantized(op: string): void {
    if (this.quantization)
      throw new CheckpointError(
        `${op}: the checkpoint must not be quantised; got ${this.name} in ${this.quantization}. Use the full checkpoint.`,
      );
  }

  /** Throws `MissingPartError` in the name of `op` if the files lack a part of the model. */
  requireWhole(op: string): void {
    if (this.missing.length)
      throw new MissingPartError(
        `${op}: the checkpoint must have all parts of the model; got ${this.name} without those to ${this.missing.join(" and to ")}. Use the checkpoint in safetensors.`,
      );
  }

  /** Bytes `offset` to `offset + length` of a tensor; in the front of `into` if that is given. */
  async read(source: TensorSource, offset = 0, length = source.bytes - offset, into?: Uint8Array): Promise<Uint8Array> {
    if (offset < 0 || length < 0 || offset + length > source.bytes)
      throw new CheckpointError(`${source.name} has ${source.bytes} bytes; got a read of ${length} at ${offset}`);
    const out = into ?? new Uint8Array(length);
    let done = 0;
    let start = 0;
    for (const piece of source.pieces) {
      const from = offset + done - start;
      if (done < length && from < piece.bytes) {
        const part = Math.min(length - done, piece.bytes - from);
        await this.file(piece.tensor).read(
          piece.tensor.offset + piece.start + from,
          part,
          out.subarray(done, done + part),
        );
        done += part;
      }
      start += piece.bytes;
    }
    return out.subarray(0, length);
  }

  /**
   * The bytes of a tensor in order, `chunkBytes` at a time, in whole elements. The next chunk is read while one is used, into the other of
   * two buffers: use each before the next.
   */
  async *chunks(source: TensorSource, chunkBytes = 16 * 2 ** 20, signal?: AbortSignal): AsyncGenerator<Uint8Array> {
    const step = Math.max(8, chunkBytes - (chunkBytes % 8));
    const bytes = Math.min(step, source.bytes);
    const buffers = Array.from({ length: source.bytes > step ? 2 : 1 }, () => this.takeBuffer(bytes));
    const read = (at: number): Promise<Uint8Array> | null => {
      if (at >= source.bytes) return null;
      const chunk = this.read(source, at, Math.min(step, source.bytes - at), buffers[(at / step) % buffers.length]!);
      chunk.catch(() => undefined); // the error surfaces when it is awaited
      return chunk;
    };
    let next = read(0);
    try {
      for (let at = step; next; at += step) {
        signal?.throwIfAborted();
        const chunk = await next;
        next = read(at);
        yield chunk;
      }
    } finally {
      await next?.catch(() => undefined); // the file must not be closed during the read
      this.spareBuffers.push(...buffers);
      this.spareBuffers.splice(0, this.spareBuffers.length - MAX_SPARE);
    }
  }

  /** A buffer of at least `bytes`: the garbage collector would free those of earlier tensors late. */
  private takeBuffer(bytes: number): Uint8Array {
    const at = this.spareBuffers.findIndex(({ length }) => length >= bytes);
    return at < 0 ? new Uint8Array(bytes) : this.spareBuffers.splice(at, 1)[0]!;
  }

  /**
   * Throws `TensorMismatchError` if the files have a tied head besides the embedding, and its bytes are others: either could be meant. Reads both
   * then, a chunk at a time, else nothing.
   */
  async requireTied(signal?: AbortSignal): Promise<void> {
    const [embedding, { twin }] = [this.parameters.get(EMBEDDING)!, this];
    const [piece] = embedding.pieces;
    if (!twin || (piece!.tensor.file === twin.file && piece!.tensor.offset === twin.offset)) return;
    let isSame = embedding.dtype === twin.dtype;
    for (let at = 0; isSame && at < twin.bytes; at += COMPARED_BYTES) {
      signal?.throwIfAborted();
      const length = Math.min(COMPARED_BYTES, twin.bytes - at);
      const [a, b] = [await this.read(embedding, at, length), await this.read(sourceOf(twin), at, length)];
      isSame = a.every((byte, i) => byte === b[i]);
    }
    if (!isSame)
      throw new TensorMismatchError(`${this.name}: tie_word_embeddings is true, and the tied tensors differ:`, [
        `${quote(twin.name)} must be absent, or equal to ${quote(piece!.tensor.name)}; drop it, or set tie_word_embeddings to false`,
      ]);
  }

  async close(): Promise<void> {
    await this.weights.close();
  }

  private file({ file }: StoredTensor): RandomAccess {
    const open = this.weights.files.get(file);
    if (!open) throw new CheckpointError(`${this.name}: the checkpoint is closed`);
    return open;
  }
}

/** Names that the tensors of quantised weights have besides their own. */
const QUANTISED =
  /\.(absmax|nested_absmax|quant_map|SCB|qweight|qzeros|weight_scale(_inv)?|weight_packed)$|\.quant_state\./;

/** Throws `CheckpointError` for quantised weights, whose config may not say so. */
function requirePlain(names: Iterable<string>, where: string): void {
  const found = [...names].find((name) => QUANTISED.test(name));
  if (found !== undefined)
    throw new CheckpointError(
      `${where}: weights must be in bf16, f16 or f32; got quantised ones (${quote(found)}), which are not supported. Use the full checkpoint`,
    );
}

const COMPARED_BYTES = 16 * 2 ** 20;

/** Splits tied tensors, of which the files may have the head, the embedding, or both: the tensors with the embedding alone, and the head. */
function untied(
  config: JanusConfig,
  layout: Layout,
  tensors: ReadonlyMap<string, StoredTensor>,
): { readonly kept: readonly StoredTensor[]; readonly twin: StoredTensor | null } {
  const [embedding, head] = [nameIn(layout, EMBEDDING), nameIn(layout, HEAD)];
  const twin = config.language.tied && tensors.get(head);
  if (!twin) return { kept: [...tensors.values()], twin: null };
  const others = [...tensors.values()].filter((tensor) => tensor !== twin);
  return tensors.has(embedding)
    ? { kept: others, twin }
    : { kept: [...others, { ...twin, name: embedding }], twin: null };
}

/** Whole bytes of a stored tensor as a source. */
export const sourceOf = (tensor: StoredTensor): TensorSource => ({
  name: tensor.name,
  dtype: tensor.dtype,
  shape: tensor.shape,
  pieces: [{ tensor, start: 0, bytes: tensor.bytes }],
  bytes: tensor.bytes,
});

export interface OpenOptions {
  /** Take the weights that `EMA_FILE` has from there. Throws `CheckpointError` for a folder without it. */
  readonly ema?: boolean;
}

/** `weights` with those that `EMA_FILE` has from there. */
async function averaged(source: FileSource, names: readonly string[], weights: Weights): Promise<Weights> {
  if (!names.includes(EMA_FILE))
    throw new CheckpointError(`${source.name}: there is no ${EMA_FILE}; train with ema.decay to have averages`);
  const file = await source.open(EMA_FILE);
  const files = new Map([...weights.files, [EMA_FILE, file]]);
  const close = async (): Promise<void> => {
    await weights.close();
    await file.close?.();
    files.clear();
  };
  try {
    const { tensors } = await readSafetensors(file, EMA_FILE);
    const strange = [...tensors.keys()].filter((name) => !weights.tensors.has(name));
    if (strange.length)
      throw new TensorMismatchError(`${file.name}: ${strange.length} averages are not of weights here:`, strange);
    return { ...weights, tensors: new Map([...weights.tensors, ...tensors]), files, close };
  } catch (error) {
    await file.close?.();
    throw error;
  }
}

/**
 * Opens the checkpoint of a folder and checks every tensor's name, shape and dtype against its config.json; reads no weights yet.
 * Throws subclasses of `CheckpointError` that name the file or the tensors.
 */
export async function openCheckpoint(source: FileSource, options: OpenOptions = {}): Promise<Checkpoint> {
  const names = await source.list();
  if (isGgufFolder(names)) return openGgufCheckpoint(source, names, options);
  if (!names.includes("config.json")) {
    requireNoAdapter(names, source.name);
    throw new ConfigError(
      `${source.name}: there is no config.json; a model's folder needs one (${names.length ? `it contains ${someOf(names)}` : "it is empty"})`,
    );
  }
  const json = await readConfigFile(source);
  const weights = await openWeights(source);
  try {
    const plain = options.ema ? await averaged(source, names, weights) : weights;
    const decoded = decodeMlx(json, plain, source.name);
    return new Checkpoint(source.name, decoded.json, decoded.weights);
  } catch (error) {
    await weights.close();
    throw error;
  }
}

const readConfigFile = async (source: FileSource): Promise<JsonObject> =>
  parseJsonObject(await readTextFile(source, "config.json", MAX_CONFIG), `${source.name}/config.json`);

/** True for a folder whose weights are GGUF files: one that has no others. */
const isGgufFolder = (names: readonly string[]): boolean =>
  names.some((name) => /\.gguf$/i.test(name)) &&
  !names.some((name) => WEIGHT_FILES.includes(name) || /\.(safetensors|bin)$/.test(name));

async function openGgufCheckpoint(
  source: FileSource,
  names: readonly string[],
  { ema }: OpenOptions,
): Promise<Checkpoint> {
  if (ema) throw new CheckpointError(`${source.name}: there is no ${EMA_FILE}; train with ema.decay to have averages`);
  const json = names.includes("config.json") ? await readConfigFile(source) : null;
  const weights = await openGguf(source, names);
  try {
    return new Checkpoint(source.name, weights.config(json), weights);
  } catch (error) {
    await weights.close();
    throw error;
  }
}
