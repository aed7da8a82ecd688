/** Weights from a checkpoint to the device, a chunk at a time, and a fingerprint by which the same weights are recognised. */
import { ArgumentError, construct, empty, scope, shown } from "../../engine/index.ts";
import type { DType, Device, Tensor } from "../../engine/index.ts";
import { copyInto, countNonFinite } from "../../kernels/index.ts";
import type { CacheDType } from "../../kernels/index.ts";
import { checkCacheDType } from "../request.ts";
import { isQuantization } from "../../kernels/matmul/quantized_format.ts";
import type { Quantization } from "../../kernels/matmul/quantized_format.ts";
import { castFloats } from "../io/cast.ts";
import type { FloatDType } from "../io/cast.ts";
import { Linear } from "../nn/layers.ts";
import type { LayerOptions } from "../nn/layers.ts";
import { QuantizedLinear, quantizedLayers } from "../nn/quantized_linear.ts";
import { EMBEDDING } from "./config.ts";
import type { Checkpoint } from "./checkpoint/checkpoint.ts";
import { isOfParts, isQuantizable } from "./checkpoint/expected.ts";
import { RequantizationError, ownKind, quantizedChunks } from "./checkpoint/quantized.ts";
import type { QuantizedChunk } from "./checkpoint/quantized.ts";
import { mainDType } from "./checkpoint/side_files.ts";
import { JanusForConditionalGeneration } from "./janus.ts";
import { compileAhead } from "./compile_ahead.ts";

export interface LoadProgress {
  /** Bytes of the files that are on the device. */
  readonly bytes: number;
  readonly totalBytes: number;
  /** The tensor that was read last. */
  readonly tensor: string;
}

export interface LoadOptions {
  readonly device?: Device;
  /** Dtype of the weights on the device (default: that of most of the checkpoint's weights, so bf16 stays bf16). */
  readonly dtype?: FloatDType;
  /**
   * Quantises the linear layers of the Llama and both heads while they are loaded (default: no; layers that a GGUF file has in Q8_0 or Q4_0 keep its values). All other weights keep `dtype`: vision tower, image
   * tokenizer, embeddings, aligners, norms. For inference alone.
   */
  readonly quantize?: Quantization;
  /** How caches store keys and values, in all calls that do not say. Default: f32. int8 takes 8.5 bits a value. */
  readonly cacheDType?: CacheDType;
  /** With `quantize`, false: the text head keeps `dtype`. Default: true. */
  readonly quantizeHead?: boolean;
  readonly onProgress?: (progress: LoadProgress) => void;
  /** Things worth saying: unknown keys of the checkpoint's files, tensors with values that are not finite, by name. Default: `console.warn`. */
  readonly onNotice?: (message: string) => void;
  readonly signal?: AbortSignal;
}

/** Options of `loadModel`. */
interface ModelOptions extends LoadOptions {
  /** Build the pipelines of drawing and answering in the background while the weights are read (default: false). */
  readonly compileAhead?: boolean;
}

const CHUNK_BYTES = 4 * 2 ** 20;
/** Bytes that the device has not taken yet, above which loading waits for it. */
const QUEUED_BYTES = 32 * 2 ** 20;

/**
 * Loads the model of a checkpoint with its weights onto the device. Host memory contains two chunks of 4 MiB
 * (of weights that are quantised, also as f32), in addition to pending uploads (at most 32 MiB, see `Device.throttle`). Throws the errors of the checkpoint's
 * reader; then nothing of the model remains on the device.
 *
 * Tensors with values that are not finite are loaded unchanged and reported once to `onNotice`, by name. The device
 * counts them while the next tensors are uploaded: it reads each weight once, three launches per tensor, and one number
 * per tensor is read back at the end.
 */
export async function loadModel(
  checkpoint: Checkpoint,
  options: ModelOptions = {},
): Promise<JanusForConditionalGeneration> {
  const { quantize } = options;
  if (quantize !== undefined && !isQuantization(quantize))
    throw new ArgumentError(`loadModel: quantize must be "int8" or "int4"; got ${shown(quantize)}. Use one of them.`);
  checkCacheDType("loadModel", options.cacheDType);
  if (checkpoint.quantization && quantize && quantize !== checkpoint.quantization)
    throw new ArgumentError(
      `loadModel: the checkpoint must not be quantised for quantize "${quantize}"; got one in ${checkpoint.quantization}. Leave quantize out, or load the full checkpoint.`,
    );
  if (options.quantizeHead === false && (checkpoint.quantization || !quantize))
    throw new ArgumentError(
      `loadModel: quantizeHead needs quantize and a checkpoint that is not quantised; got ${checkpoint.quantization ? `one in ${checkpoint.quantization}` : "no quantize"}. Leave it out.`,
    );
  const dtype = options.dtype ?? mainDType(checkpoint);
  const one = checkpoint.quantization ?? quantize;
  const kinds = one ? null : ownKinds(checkpoint);
  const kind = one ?? mostCommon([...kinds!.values()]);
  const create = (device?: Device): JanusForConditionalGeneration =>
    construct(() => {
      const placed = { dtype: dtype as DType, ...(device && { device }), init: false };
      const whole = new JanusForConditionalGeneration(checkpoint.config, {
        ...placed,
        ...(kind && { quantize: kind, quantizeHead: options.quantizeHead ?? true }),
      });
      if (kind && kinds) replaceOthers(whole, kinds, placed);
      whole.removeParts(checkpoint.missing);
      whole.cacheDType = options.cacheDType ?? "f32";
      return whole;
    });
  const model = create(options.device);
  try {
    if (options.compileAhead) await compileAhead(model.device, checkpoint.config, create);
    await fill(model, checkpoint, dtype, options);
  } catch (error) {
    model.dispose();
    throw error;
  }
  return model.eval();
}

/** The kinds in which the files have linear layers in our groups, by path: those of GGUF's Q8_0 and Q4_0. */
function ownKinds(checkpoint: Checkpoint): Map<string, Quantization | undefined> {
  const kinds = new Map<string, Quantization | undefined>();
  const { parameters, config } = checkpoint;
  for (const [name, source] of parameters)
    if (isQuantizable(name)) kinds.set(name.replace(/\.weight$/, ""), ownKind(source));
  if (config.language.tied) kinds.set("lm_head", ownKind(parameters.get(EMBEDDING)!));
  return kinds;
}

function mostCommon(kinds: readonly (Quantization | undefined)[]): Quantization | undefined {
  const count = (kind: Quantization): number => kinds.filter((one) => one === kind).length;
  const [int8, int4] = [count("int8"), count("int4")];
  return int8 + int4 === 0 ? undefined : int8 > int4 ? "int8" : "int4";
}

/** Puts layers of another kind, or plain ones, where a file has such: values stay those of the file. */
function replaceOthers(
  model: JanusForConditionalGeneration,
  kinds: ReadonlyMap<string, Quantization | undefined>,
  placed: LayerOptions,
): void {
  const layers = [...quantizedLayers(model)]; // all of them, before any is replaced
  for (const [path, layer] of layers) {
    const kind = kinds.get(path);
    if (kind === layer.kind) continue;
    const { inFeatures, outFeatures } = layer;
    const isTied = path === "lm_head" && model.language.tied;
    const options = { ...placed, bias: layer.bias !== null };
    const other = kind
      ? new QuantizedLinear(inFeatures, outFeatures, kind, options)
      : new Linear(inFeatures, outFeatures, {
          ...options,
          ...(isTied && { weight: model.model.language_model.embed_tokens.weight }),
        });
    const keys = path.split(".");
    const parent = keys.slice(0, -1).reduce<object>((at, key) => Reflect.get(at, key) as object, model);
    Reflect.set(parent, keys.at(-1)!, other);
    layer.dispose();
  }
}

async function fill(
  model: JanusForConditionalGeneration,
  checkpoint: Checkpoint,
  dtype: FloatDType,
  options: LoadOptions,
): Promise<void> {
  await checkpoint.requireTied(options.signal);
  const parameters = [...model.namedParameters()].filter(([name]) => !isOfParts(name, checkpoint.missing));
  using counts = empty([parameters.length], { dtype: "u32", device: model.device }).keep();
  const totalBytes = [...checkpoint.parameters.values()].reduce((sum, source) => sum + source.bytes, 0);
  let done = 0;
  const uploaded = async (bytes: number, tensor: string): Promise<void> => {
    done += bytes;
    await model.device.throttle(QUEUED_BYTES);
    options.onProgress?.({ bytes: done, totalBytes, tensor });
  };
  // A storage is counted when all of its weights are written: Dawn copies a write twice if the device has used the buffer before.
  const written: [number, Tensor][] = [];
  const count = (): void => {
    for (const [index, parameter] of written.splice(0))
      scope(() => copyInto(counts.slice(0, index, index + 1), countNonFinite(parameter).reshape([1])));
  };
  for (const [index, [name, parameter]] of parameters.entries()) {
    if (written.length && written[0]![1].storage !== parameter.storage) count();
    parameter.requiresGrad = false;
    const source = checkpoint.parameters.get(name)!; // the checkpoint was checked against the config that made the model
    let at = 0;
    for await (const chunk of checkpoint.chunks(source, CHUNK_BYTES, options.signal)) {
      const bytes = castFloats(chunk, source.dtype as FloatDType, dtype, source.name);
      parameter.writeBytes(bytes, at);
      at += bytes.length;
      await uploaded(chunk.length, name);
    }
    written.push([index, parameter]);
  }
  count();
  const requantized = new RequantizationError();
  for (const layer of quantizedLayers(model)) {
    if (isOfParts(layer[0], checkpoint.missing)) continue;
    for await (const chunk of filledQuantized(layer, checkpoint, options.signal, uploaded)) requantized.add(chunk);
  }
  await model.device.sync();
  options.signal?.throwIfAborted();
  const onNotice = options.onNotice ?? ((message: string) => console.warn(message));
  const notice = options.quantize && requantized.notice(options.quantize);
  if (notice) onNotice(notice);
  await reportNotFinite(parameters, counts, onNotice);
}

/** Fills a quantised layer from a checkpoint that is quantised, byte by byte, or by quantising its weight; gives the pieces of the latter. */
async function* filledQuantized(
  [path, layer]: readonly [string, QuantizedLinear],
  checkpoint: Checkpoint,
  signal: AbortSignal | undefined,
  uploaded: (bytes: number, tensor: string) => Promise<void>,
): AsyncGenerator<QuantizedChunk> {
  if (checkpoint.quantization) {
    for (const part of ["qweight", "scales"] as const) {
      let at = 0;
      for await (const chunk of checkpoint.chunks(checkpoint.parameters.get(`${path}.${part}`)!, CHUNK_BYTES, signal)) {
        layer[part].writeBytes(chunk, at);
        at += chunk.length;
        await uploaded(chunk.length, `${path}.${part}`);
      }
    }
    return;
  }
  // A tied head is quantised, the embedding is not.
  const source = checkpoint.parameters.get(`${path}.weight`) ?? checkpoint.parameters.get(EMBEDDING)!;
  let [atWords, atScales] = [0, 0];
  for await (const chunk of quantizedChunks(checkpoint, source, layer.kind, signal)) {
    const { words, scales, read } = chunk;
    layer.qweight.writeBytes(new Uint8Array(words.buffer), atWords);
    layer.scales.writeBytes(new Uint8Array(scales.buffer), atScales);
    atWords += words.byteLength;
    atScales += scales.byteLength;
    await uploaded(read, `${path}.weight`);
    yield chunk;
  }
}

/** Names that a notice gives. */
const MAX_NAMES = 8;

async function reportNotFinite(
  parameters: readonly (readonly [string, Tensor])[],
  counts: Tensor,
  onNotice: (message: string) => void,
): Promise<void> {
  const found = await counts.data();
  const bad = parameters.flatMap(([name, { size }], i) => (found[i]! > 0 ? [`${name} (${found[i]} of ${size})`] : []));
  if (bad.length === 0) return;
  const names =
    bad.slice(0, MAX_NAMES).join(", ") + (bad.length > MAX_NAMES ? `, and ${bad.length - MAX_NAMES} more` : "");
  onNotice(
    `${bad.length === 1 ? "a tensor has" : `${bad.length} tensors have`} values that are not finite (NaN or infinity): ${names}; answers and images will fail if they are used. Load the checkpoint again if it should be whole`,
  );
}

const SAMPLES = 16;
const SAMPLE_BYTES = 256;

/**
 * Distinguishes weights without reading all of them: SHA-256 over names (those of the hf layout), shapes and 16 evenly spaced pieces of 256
 * bytes of every tensor, in hex. It is the same for a checkpoint in either layout, sharded or not, but differs between
 * dtypes.
 */
export const fingerprint = (checkpoint: Checkpoint): Promise<string> =>
  sampledHash(checkpoint.parameters, (source, at, length) => checkpoint.read(source, at, length));

interface Sampled {
  readonly dtype: string;
  readonly shape: readonly number[];
  readonly bytes: number;
}

/** The hash of `fingerprint`, for tensors by name. `read` must return bytes that stay as they are. */
export async function sampledHash<T extends Sampled>(
  tensors: Iterable<readonly [string, T]>,
  read: (tensor: T, at: number, length: number) => Promise<Uint8Array>,
): Promise<string> {
  const parts: Uint8Array[] = [];
  for (const [name, source] of [...tensors].sort(([a], [b]) => (a < b ? -1 : 1))) {
    parts.push(new TextEncoder().encode(`${name} ${source.dtype} ${source.shape.join("x")}\n`));
    const length = Math.min(SAMPLE_BYTES, source.bytes);
    const whole = source.bytes <= SAMPLES * SAMPLE_BYTES;
    if (whole) parts.push(await read(source, 0, source.bytes));
    else {
      // At once: over a network each takes as long as a request does.
      const at = Array.from({ length: SAMPLES }, (_, i) => Math.floor(((source.bytes - length) * i) / (SAMPLES - 1)));
      parts.push(...(await Promise.all(at.map((offset) => read(source, offset, length)))));
    }
  }
  const all = new Uint8Array(parts.reduce((sum, part) => sum + part.length, 0));
  let at = 0;
  for (const part of parts) {
    all.set(part, at);
    at += part.length;
  }
  const digest = new Uint8Array(await crypto.subtle.digest("SHA-256", all));
  return Array.from(digest, (byte) => byte.toString(16).padStart(2, "0")).join("");
}
