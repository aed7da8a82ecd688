/**
 * Writes a checkpoint in either layout of names and any float dtype, as safetensors, in chunks. Tensors whose dtype stays are copied
 * byte by byte. Tensors that the hf layout has no names for (SigLIP's pooling head, the usage counts of the codes) go
 * to `extra.safetensors` beside it, under the original's names, and comes back from there: deepseek → hf → deepseek
 * gives the same bytes.
 */
import { ArgumentError } from "../../../engine/errors.ts";
import type { ByteSink, FolderSink } from "../../io/bytes.ts";
import { castFloats, isFloatDType } from "../../io/cast.ts";
import type { FloatDType } from "../../io/cast.ts";
import { EXTRA_FILE, sourceOf } from "./checkpoint.ts";
import type { Checkpoint } from "./checkpoint.ts";
import { TensorMismatchError } from "../../io/errors.ts";
import { isQuantization } from "../../../kernels/matmul/quantized_format.ts";
import type { Quantization } from "../../../kernels/matmul/quantized_format.ts";
import { EMBEDDING, HEAD } from "../config.ts";
import { isQuantizable, partName } from "./expected.ts";
import { KEY, RequantizationError, partShapes, quantizationConfig, quantizedChunks } from "./quantized.ts";
import { LAYOUTS, arrange } from "./names.ts";
import type { Layout, TensorSource } from "./names.ts";
import { layoutSafetensors, writeSafetensors } from "../../io/safetensors.ts";
import type { TensorContent } from "../../io/safetensors.ts";
import { convertSideFiles } from "./side_files.ts";
import { elementCount, storedElementBytes } from "../../io/stored.ts";

export interface ConvertOptions {
  readonly layout: Layout;
  /** Dtype of all floating-point tensors (default: each keeps its own). */
  readonly dtype?: FloatDType;
  /** Quantise the Llama's linear layers and both heads (hf layout only); `dtype` is that of all other tensors. */
  readonly quantize?: Quantization;
  /** Weights of more bytes are written in several files with an index; 5 GB, as the published ones are. */
  readonly shardBytes?: number;
  /** Tokenizer, processor and other files of the folder, by name; see `convertSideFiles`. */
  readonly sideFiles?: ReadonlyMap<string, Uint8Array>;
  readonly chunkBytes?: number;
  readonly onProgress?: (done: { bytes: number; totalBytes: number; tensor: string }) => void;
  /** Things worth saying: the error of weights that were quantised in another format. */
  readonly onNotice?: (message: string) => void;
  readonly signal?: AbortSignal;
}

/** A tensor of the output; of a part of a quantised weight, its source and which part it is. */
interface PlannedTensor extends TensorSource {
  readonly quantized?: {
    readonly source: TensorSource;
    readonly kind: Quantization;
    readonly part: "qweight" | "scales";
  };
}

interface PlannedFile {
  readonly name: string;
  readonly tensors: readonly PlannedTensor[];
  readonly bytes: number;
}

export interface ConvertPlan {
  readonly files: readonly PlannedFile[];
  /** Bytes of all weight files. */
  readonly bytes: number;
  /** File of each tensor, if the weights are in several files. */
  readonly index: Uint8Array | null;
}

/** Plan of a conversion. Throws before anything is written if the conversion is not possible. */
export function planConversion(checkpoint: Checkpoint, options: ConvertOptions): ConvertPlan {
  const { layout, dtype, quantize, shardBytes = 5e9 } = options;
  checkQuantize(checkpoint, options);
  if (!LAYOUTS.includes(layout))
    throw new ArgumentError(`convert: layout must be ${LAYOUTS.join(" or ")}; got ${JSON.stringify(layout)}`);
  if (dtype !== undefined && !isFloatDType(dtype))
    throw new ArgumentError(`convert: dtype must be f32, f16 or bf16; got ${JSON.stringify(dtype)}`);
  const { placed, problems } = arrange(checkpoint.kept, checkpoint.layout, layout);
  if (problems.length)
    throw new TensorMismatchError(`convert: ${checkpoint.name} does not fit the ${layout} layout:`, problems);
  const retyped = (tensor: TensorSource): TensorSource => {
    const own = dtype ?? tensor.pieces[0]?.tensor.encoded?.dtype;
    return own && isFloatDType(tensor.dtype) ? { ...tensor, dtype: own } : tensor;
  };
  const byName = (a: TensorSource, b: TensorSource): number => (a.name < b.name ? -1 : 1);
  const unused = [...checkpoint.unused.values()].map(sourceOf).map(retyped).sort(byName);
  const plain = [...placed.values()].map(retyped);
  const main = quantize ? quantizedTensors(checkpoint, plain, quantize) : plain;
  const weights = shards(layout === "deepseek" ? [...main, ...unused].sort(byName) : main.sort(byName), shardBytes);
  const extra = layout === "hf" && unused.length ? [planFile(EXTRA_FILE, unused)] : [];
  const files = [...weights, ...extra];
  return {
    files,
    bytes: files.reduce((sum, file) => sum + file.bytes, 0),
    index: weights.length > 1 ? indexOf(weights) : null,
  };
}

/** Throws `ArgumentError` or `CheckpointError` for a conversion to or from quantised weights that there is not. */
function checkQuantize(checkpoint: Checkpoint, { layout, quantize }: ConvertOptions): void {
  checkpoint.requireUnquantized("convert");
  checkpoint.requireWhole("convert");
  if (quantize !== undefined && !isQuantization(quantize))
    throw new ArgumentError(
      `convert: quantize must be "int8" or "int4"; got ${JSON.stringify(quantize)}. Use one of them.`,
    );
  if (quantize && layout !== "hf")
    throw new ArgumentError(`convert: quantised weights must be in the hf layout; got ${layout}. Use layout "hf".`);
}

/** The tensors of the hf layout with the parts of quantised weights in their place; a tied head gets parts of its own. */
function quantizedTensors(
  checkpoint: Checkpoint,
  tensors: readonly TensorSource[],
  kind: Quantization,
): PlannedTensor[] {
  const embedding = tensors.find(({ name }) => name === EMBEDDING);
  const head = checkpoint.config.language.tied && embedding ? [{ ...embedding, name: HEAD }] : [];
  return [...tensors, ...head].flatMap((source): PlannedTensor[] => {
    if (!isQuantizable(source.name)) return [source];
    const shapes = partShapes(source.shape as [number, number], kind);
    const part = (name: "qweight" | "scales", dtype: "u32" | "f16"): PlannedTensor => ({
      ...source,
      name: partName(source.name, name),
      dtype,
      shape: shapes[name],
      quantized: { source, kind, part: name },
    });
    return [part("qweight", "u32"), part("scales", "f16")];
  });
}

const tensorBytes = ({ shape, dtype }: TensorSource): number => elementCount(shape) * storedElementBytes(dtype);
const planFile = (name: string, tensors: readonly PlannedTensor[]): PlannedFile => ({
  name,
  tensors,
  bytes: layoutSafetensors(tensors).fileBytes,
});

function shards(tensors: readonly PlannedTensor[], limit: number): PlannedFile[] {
  const parts: PlannedTensor[][] = [[]];
  let bytes = 0;
  for (const tensor of tensors) {
    const size = tensorBytes(tensor);
    if (bytes + size > limit && bytes > 0) {
      parts.push([]);
      bytes = 0;
    }
    parts.at(-1)!.push(tensor);
    bytes += size;
  }
  const digits = (n: number): string => String(n).padStart(5, "0");
  return parts.map((part, i) =>
    planFile(
      parts.length === 1 ? "model.safetensors" : `model-${digits(i + 1)}-of-${digits(parts.length)}.safetensors`,
      part,
    ),
  );
}

function indexOf(files: readonly PlannedFile[]): Uint8Array {
  const totalSize = files.reduce((sum, file) => sum + file.tensors.reduce((s, t) => s + tensorBytes(t), 0), 0);
  const places = files.flatMap(({ name, tensors }) => tensors.map((tensor): [string, string] => [tensor.name, name]));
  const json = { metadata: { total_size: totalSize }, weight_map: Object.fromEntries(places) };
  return new TextEncoder().encode(`${JSON.stringify(json, null, 2)}\n`);
}

/**
 * Writes a checkpoint to a folder: weights, config.json and the side files of the wanted layout. In memory is one chunk at a time
 * (default: 16 MiB). The sink decides what happens to a folder that is not finished; `writeFolderAtomic` leaves none.
 */
export async function convertCheckpoint(
  checkpoint: Checkpoint,
  sink: FolderSink,
  options: ConvertOptions,
): Promise<ConvertPlan> {
  const plan = planConversion(checkpoint, options);
  await checkpoint.requireTied(options.signal);
  const side = convertSideFiles(checkpoint, options.layout, options.sideFiles ?? new Map(), options.dtype);
  const requantized = new RequantizationError();
  let done = 0;
  const report = (bytes: number, tensor: string): void => {
    done += bytes;
    options.onProgress?.({ bytes: done, totalBytes: inputBytes(plan), tensor });
  };
  for (const file of plan.files) {
    const contents = file.tensors.map((tensor): TensorContent => ({ ...tensor, chunks: () => converted(tensor) }));
    await sink.write(file.name, (out: ByteSink) => writeSafetensors(out, contents));
  }
  async function* converted(tensor: PlannedTensor): AsyncGenerator<Uint8Array> {
    if (tensor.quantized) {
      // Once for each part: both at a time would keep one of them in memory.
      const { source, kind, part } = tensor.quantized;
      for await (const chunk of quantizedChunks(checkpoint, source, kind, options.signal)) {
        yield new Uint8Array(part === "qweight" ? chunk.words.buffer : chunk.scales.buffer);
        if (part === "qweight") requantized.add(chunk);
        report(chunk.read, tensor.name);
      }
      return;
    }
    const from = tensor.pieces[0]?.tensor.dtype ?? tensor.dtype;
    for await (const chunk of checkpoint.chunks(tensor, options.chunkBytes, options.signal)) {
      yield isFloatDType(from) && isFloatDType(tensor.dtype)
        ? castFloats(chunk, from, tensor.dtype, tensor.name)
        : chunk;
      report(chunk.length, tensor.name);
    }
  }
  if (plan.index) await sink.write("model.safetensors.index.json", plan.index);
  for (const [name, content] of side)
    await sink.write(
      name,
      options.quantize && name === "config.json" ? namingQuantization(content, options.quantize) : content,
    );
  const notice = options.quantize && requantized.notice(options.quantize);
  if (notice) options.onNotice?.(notice);
  return plan;
}

/** config.json with the method of its quantised weights. */
function namingQuantization(config: Uint8Array, kind: Quantization): Uint8Array {
  const json = JSON.parse(new TextDecoder().decode(config)) as Record<string, unknown>;
  return new TextEncoder().encode(`${JSON.stringify({ ...json, [KEY]: quantizationConfig(kind) }, null, 2)}\n`);
}

const inputBytes = (plan: ConvertPlan): number =>
  plan.files.reduce((sum, file) => sum + file.tensors.reduce((s, t) => s + t.bytes, 0), 0);
