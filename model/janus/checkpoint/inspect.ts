/** Contents of a checkpoint, and the memory to run and train it: computed from headers and config alone, without a GPU. */
import { gridSize } from "../config.ts";
import type { JanusConfig } from "../config.ts";
import type { Checkpoint } from "./checkpoint.ts";
import { expectedTensors, isOfParts, isQuantizable } from "./expected.ts";
import type { OptionalPart } from "./expected.ts";
import type { TensorSource } from "./names.ts";
import { ownKind } from "./quantized.ts";
import { mainDType } from "./side_files.ts";
import { CACHE_DTYPES, cacheBytesPerToken } from "../../../kernels/attention/cache_format.ts";
import type { CacheDType } from "../../../kernels/attention/cache_format.ts";
import { quantizedBytes } from "../../../kernels/matmul/quantized_format.ts";
import type { Quantization } from "../../../kernels/matmul/quantized_format.ts";
import { elementCount, storedElementBytes } from "../../io/stored.ts";

/** Parts of the model by the first name that fits. */
const PARTS = [
  ["vision tower", "model.vision_model."],
  ["aligner", "model.aligner."],
  ["generation embedding", "model.generation_embeddings."],
  ["generation aligner", "model.generation_aligner."],
  ["generation head", "model.generation_head."],
  ["image encoder", "model.vqmodel.encoder."],
  ["image encoder", "model.vqmodel.quant_conv."],
  ["image codebook", "model.vqmodel.quantize."],
  ["image decoder", "model.vqmodel.post_quant_conv."],
  ["image decoder", "model.vqmodel.decoder."],
  ["text embedding", "model.language_model.embed_tokens."],
  ["language model", "model.language_model."],
  ["text head", "lm_head."],
] as const;

export type Part = (typeof PARTS)[number][0];

/** The part of the model that a tensor of the hf layout belongs to. */
export function partOf(hfName: string): Part {
  return PARTS.find(([, prefix]) => hfName.startsWith(prefix))![0];
}

/** Elements of each part; 0 for those of `missing`. */
export function countParts(config: JanusConfig, missing: readonly OptionalPart[] = []): Record<Part, number> {
  const counts = Object.fromEntries(PARTS.map(([part]) => [part, 0])) as Record<Part, number>;
  for (const [name, shape] of expectedTensors(config, "hf"))
    if (!isOfParts(name, missing)) counts[partOf(name)] += elementCount(shape);
  return counts;
}

const sum = (counts: Record<Part, number>, parts: readonly Part[]): number =>
  parts.reduce((total, part) => total + counts[part], 0);
const ALL = [...new Set(PARTS.map(([part]) => part))];
const LANGUAGE: Part[] = ["text embedding", "language model", "text head"];
const UNDERSTANDING: Part[] = ["vision tower", "aligner", ...LANGUAGE];
const GENERATION: Part[] = [
  "generation embedding",
  "generation aligner",
  "generation head",
  "image codebook",
  "image decoder",
  "text embedding",
  "language model",
];
const STAGE_1: Part[] = ["aligner", "generation embedding", "generation aligner", "generation head"];
const STAGE_2: Part[] = [...STAGE_1, ...LANGUAGE];
const STAGE_3: Part[] = [...STAGE_2, "vision tower"];

/** 16-bit weights and gradients, f32 master weights and two moments. */
const TRAINED_BYTES = 16;
/** Tokens of a prompt in addition to the image, for estimates. */
const PROMPT = 32;

export interface TrainingNeed {
  readonly trainable: number;
  /** Weights, gradients and optimizer of the trainable part (16 B each) and the frozen rest in bf16; activations come on top. */
  readonly bytes: number;
}

export interface Needs {
  /** Weights alone, in the dtype of the estimate. */
  readonly weightBytes: { readonly all: number; readonly understanding: number; readonly generation: number };
  /** All weights if the model is quantised while it is loaded; the rest in the dtype of the estimate. */
  readonly quantizedBytes: Readonly<Record<Quantization, number>>;
  /** Keys and values of one token in one row. */
  readonly cacheBytesPerToken: Readonly<Record<CacheDType, number>>;
  /** Keys and values of one guided image: two rows. */
  readonly imageCacheBytes: Readonly<Record<CacheDType, number>>;
  /** The image decoder's widest feature maps: three at a time, f32. */
  readonly decoderBytes: number;
  /** All of the above: the whole model and one image at a time, with a cache of f32. */
  readonly runBytes: number;
  readonly training: { readonly stage1: TrainingNeed; readonly stage2: TrainingNeed; readonly stage3: TrainingNeed };
}

/** Memory that a model of this config, without the parts of `missing`, needs; `elementBytes` is that of a weight, 2 for bf16. */
export function needsOf(config: JanusConfig, elementBytes = 2, missing: readonly OptionalPart[] = []): Needs {
  const counts = countParts(config, missing);
  const { language, vq } = config;
  const weights = (parts: readonly Part[]): number => sum(counts, parts) * elementBytes;
  const train = (parts: readonly Part[]): TrainingNeed => {
    const trainable = sum(counts, parts);
    return { trainable, bytes: trainable * TRAINED_BYTES + (sum(counts, ALL) - trainable) * 2 };
  };
  const ofCaches = (positions: number): Record<CacheDType, number> =>
    Object.fromEntries(CACHE_DTYPES.map((dtype) => [dtype, positions * cacheBytesPerToken(language, dtype)])) as Record<
      CacheDType,
      number
    >;
  const isDrawing = !missing.includes("generate images");
  const imageCacheBytes = ofCaches(isDrawing ? 2 * (gridSize(config) ** 2 + PROMPT) : 0);
  const decoderBytes = isDrawing ? 3 * 4 * vq.baseChannels * vq.imageSize ** 2 : 0;
  return {
    weightBytes: { all: weights(ALL), understanding: weights(UNDERSTANDING), generation: weights(GENERATION) },
    quantizedBytes: {
      int8: quantizedWeights(config, elementBytes, "int8", missing),
      int4: quantizedWeights(config, elementBytes, "int4", missing),
    },
    cacheBytesPerToken: ofCaches(1),
    imageCacheBytes,
    decoderBytes,
    runBytes: weights(ALL) + imageCacheBytes.f32 + decoderBytes,
    training: { stage1: train(STAGE_1), stage2: train(STAGE_2), stage3: train(STAGE_3) },
  };
}

function quantizedWeights(
  config: JanusConfig,
  elementBytes: number,
  kind: Quantization,
  missing: readonly OptionalPart[],
): number {
  const { tied, vocabulary, hidden } = config.language;
  const of = ([name, shape]: [string, readonly number[]]): number =>
    isQuantizable(name) ? quantizedBytes(shape[0]!, shape[1]!, kind) : elementCount(shape) * elementBytes;
  // A tied head is quantised beside the embedding.
  const head = tied ? quantizedBytes(vocabulary, hidden, kind) : 0;
  const tensors = [...expectedTensors(config, "hf")].filter(([name]) => !isOfParts(name, missing));
  return tensors.reduce((total, tensor) => total + of(tensor), head);
}

export interface Inspection {
  readonly name: string;
  readonly layout: Checkpoint["layout"];
  readonly format: Checkpoint["format"];
  readonly config: JanusConfig;
  /** How the language model's linear layers and both heads are quantised in the files; null if they are not. */
  readonly quantization: Quantization | null;
  /** In the weight files, unused ones included. */
  readonly tensors: number;
  readonly bytes: number;
  /** Elements that the model reads. */
  readonly parameters: number;
  readonly byPart: Record<Part, number>;
  /** Elements that it never reads: pooling head and statistics. */
  readonly unused: number;
  /** Bytes in the files by dtype, or by the format of tensors that are decoded when they are read: Q4_K, MLX 4-bit. */
  readonly dtypes: Readonly<Record<string, { tensors: number; bytes: number }>>;
  /** What the model cannot do because the files lack its tensors. */
  readonly missing: readonly OptionalPart[];
  readonly needs: Needs;
}

/** Bytes of a tensor on the device if it is loaded as the file has it. */
function heldBytes(name: string, source: TensorSource): number {
  const kind = isQuantizable(name) ? ownKind(source) : undefined;
  if (kind) return quantizedBytes(source.shape[0]!, source.shape[1]!, kind);
  return elementCount(source.shape) * storedElementBytes(source.pieces[0]?.tensor.encoded?.dtype ?? source.dtype);
}

/** Everything that `janus inspect` shows. */
export function inspect(checkpoint: Checkpoint): Inspection {
  const { config } = checkpoint;
  const stored = new Map([...checkpoint.tensors, ...checkpoint.unused]);
  const dtypes: Record<string, { tensors: number; bytes: number }> = {};
  let bytes = 0;
  for (const { dtype, bytes: decoded, encoded } of stored.values()) {
    const size = encoded?.bytes ?? decoded;
    bytes += size;
    const of = (dtypes[encoded?.format ?? dtype] ??= { tensors: 0, bytes: 0 });
    of.tensors++;
    of.bytes += size;
  }
  const byPart = countParts(config, checkpoint.missing);
  const parameters = sum(byPart, ALL);
  const weightBytes = [...checkpoint.parameters].reduce((total, [name, source]) => total + heldBytes(name, source), 0);
  // The rest of a model that is quantised while loading has one dtype, whatever the files have.
  const { quantizedBytes } = needsOf(config, storedElementBytes(mainDType(checkpoint)), checkpoint.missing);
  return {
    name: checkpoint.name,
    layout: checkpoint.layout,
    format: checkpoint.format,
    config,
    quantization: checkpoint.quantization,
    tensors: stored.size,
    bytes,
    parameters,
    byPart,
    unused: [...checkpoint.unused.values()].reduce((total, { shape }) => total + elementCount(shape), 0),
    dtypes,
    missing: checkpoint.missing,
    needs: { ...needsOf(config, weightBytes / parameters, checkpoint.missing), quantizedBytes },
  };
}
