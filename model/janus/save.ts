/**
 * Saves a model that is on the device as a checkpoint folder. Its parameters are shown to the checkpoint reader as a folder in the hf layout
 * whose weight file is read off the device piece by piece; layouts, dtypes, shards and side files are then the conversion's work
 * (checkpoint/convert.ts), the same as for files. The other way round is load.ts.
 */
import { ArgumentError } from "../../engine/index.ts";
import type { Tensor } from "../../engine/index.ts";
import { adapterNames } from "../nn/lora.ts";
import { checkRange, fileSet } from "../io/bytes.ts";
import type { FileSource, FolderSink, RandomAccess } from "../io/bytes.ts";
import { EXTRA_FILE, openCheckpoint, sourceOf } from "./checkpoint/checkpoint.ts";
import type { Checkpoint } from "./checkpoint/checkpoint.ts";
import { convertCheckpoint, planConversion } from "./checkpoint/convert.ts";
import type { ConvertOptions, ConvertPlan } from "./checkpoint/convert.ts";
import { CheckpointError } from "../io/errors.ts";
import { layoutSafetensors, writeSafetensors } from "../io/safetensors.ts";
import { hfSideFiles, mainDType, requireStorable } from "./checkpoint/side_files.ts";
import type { Layout } from "./checkpoint/names.ts";
import type { StoredDType } from "../io/stored.ts";
import type { JanusConfig } from "./config.ts";
import type { JanusForConditionalGeneration } from "./janus.ts";

/** Options of a conversion. Defaults: the hf layout, and for each tensor its own dtype. */
export interface SaveOptions extends Omit<ConvertOptions, "layout"> {
  readonly layout?: Layout;
  /** Tensors that the model does not have and the folder is to carry, by their names in DeepSeek's layout: `readUnused` of what was loaded. */
  readonly unused?: ReadonlyMap<string, StoredContent>;
}

/** A tensor in host memory, as stored bytes. */
export interface StoredContent {
  readonly dtype: StoredDType;
  readonly shape: readonly number[];
  readonly bytes: Uint8Array;
}

/**
 * Tensors of a checkpoint that the model does not read (SigLIP's pooling head, the usage counts of the codes), to be
 * saved with the model.
 */
export async function readUnused(checkpoint: Checkpoint): Promise<Map<string, StoredContent>> {
  const unused = new Map<string, StoredContent>();
  for (const [name, tensor] of checkpoint.unused) {
    const bytes = (await checkpoint.read(sourceOf(tensor))).slice();
    unused.set(name, { dtype: tensor.dtype, shape: tensor.shape, bytes });
  }
  return unused;
}

const WEIGHTS = "model.safetensors";
/** For messages. */
const NAME = "the model";

/**
 * Writes `model` to a folder: weights (in shards with an index above `shardBytes`), config.json, what the processors read, and the given
 * side files (the tokenizer's). The bytes of a tensor are those on the device, or cast to `dtype`. Host memory contains
 * a few chunks of 16 MiB at a time. The model must not change during the write: a step taken between two chunks throws
 * `CheckpointError`, and the sink has half a folder (`writeFolderAtomic` leaves none). Throws `TensorMismatchError` for
 * a config that is not the model's, `ConfigError` for one that config.json cannot represent; both before anything is
 * written.
 */
export async function saveModel(
  model: JanusForConditionalGeneration,
  config: JanusConfig,
  sink: FolderSink,
  options: SaveOptions = {},
): Promise<ConvertPlan> {
  const { checkpoint, convert } = await opened(weightsOf(model), config, options);
  return convertCheckpoint(checkpoint, sink, convert);
}

/**
 * Writes the model of `base` as `saveModel` does, with `parameters` (by their names in the model) instead of its own:
 * for a part of a model that was trained without the rest. The other weights, and all other tensors of `base`, are
 * copied byte by byte.
 */
export async function saveOver(
  base: Checkpoint,
  parameters: ReadonlyMap<string, Tensor>,
  sink: FolderSink,
  options: Omit<SaveOptions, "unused"> = {},
): Promise<ConvertPlan> {
  const stored = [...base.parameters].map(([name, source]): [string, Weight] => [
    name,
    { dtype: source.dtype, shape: source.shape, read: (at, length) => base.read(source, at, length) },
  ]);
  const weights = new Map([...stored, ...onDevice(parameters)]);
  const unused = await readUnused(base);
  const { checkpoint, convert } = await opened(weights, base.config, { ...options, unused });
  return convertCheckpoint(checkpoint, sink, convert);
}

/** Returns the plan of `saveModel`, with its number of bytes. Throws as `saveModel` does. */
export async function planSave(
  model: JanusForConditionalGeneration,
  config: JanusConfig,
  options: SaveOptions = {},
): Promise<ConvertPlan> {
  const { checkpoint, convert } = await opened(weightsOf(model), config, options);
  return planConversion(checkpoint, convert);
}

/** A weight of the model, wherever its bytes are. */
interface Weight {
  readonly dtype: StoredDType;
  readonly shape: readonly number[];
  read(offset: number, length: number): Promise<Uint8Array>;
}

type Weights = ReadonlyMap<string, Weight>;

function weightsOf(model: JanusForConditionalGeneration): Weights {
  model.requireUnquantized("saveModel");
  model.requireWhole("saveModel");
  const adapters = adapterNames(model);
  if (adapters.length)
    throw new ArgumentError(
      `saveModel: the model must have no adapters; got ${adapters.join(", ")}. Merge them into the weights, remove them, or save them with saveAdapter.`,
    );
  return onDevice(model.namedParameters());
}

const onDevice = (parameters: Iterable<readonly [string, Tensor]>): Weights =>
  new Map(
    [...parameters].map(([name, tensor]) => [
      name,
      { dtype: tensor.dtype, shape: tensor.shape, read: reader(name, tensor) },
    ]),
  );

async function opened(
  weights: Weights,
  config: JanusConfig,
  options: SaveOptions,
): Promise<{ checkpoint: Checkpoint; convert: ConvertOptions }> {
  requireStorable(config, NAME);
  const sideFiles = hfSideFiles(config, mainDType({ parameters: weights }), options.sideFiles ?? new Map(), NAME);
  const files = new Map(sideFiles);
  if (options.unused?.size) files.set(EXTRA_FILE, await safetensorsOf(options.unused));
  const checkpoint = await openCheckpoint(modelFolder(weights, files));
  return { checkpoint, convert: { ...options, layout: options.layout ?? "hf", sideFiles } };
}

async function safetensorsOf(tensors: ReadonlyMap<string, StoredContent>): Promise<Uint8Array> {
  const contents = [...tensors].map(([name, { bytes, ...spec }]) => ({ name, ...spec, chunks: () => [bytes] }));
  const file = new Uint8Array(layoutSafetensors(contents).fileBytes);
  let at = 0;
  const write = async (bytes: Uint8Array): Promise<void> => {
    file.set(bytes, at);
    at += bytes.length;
  };
  await writeSafetensors({ write }, contents);
  return file;
}

/** The weights as a folder in the hf layout. */
function modelFolder(weights: Weights, sideFiles: ReadonlyMap<string, Uint8Array>): FileSource {
  const side = fileSet(NAME, sideFiles);
  return {
    name: NAME,
    list: async () => [...sideFiles.keys(), WEIGHTS],
    open: async (name) => (name === WEIGHTS ? weightsFile(weights) : side.open(name)),
  };
}

/** A run of bytes of the file that come from one source. */
interface Part {
  readonly start: number;
  readonly bytes: number;
  read(offset: number, length: number): Promise<Uint8Array>;
}

/** A safetensors file whose data stay where they are until they are read. */
function weightsFile(weights: Weights): RandomAccess {
  const specs = [...weights].map(([name, { dtype, shape }]) => ({ name, dtype, shape }));
  const { header, bytes, fileBytes } = layoutSafetensors(specs);
  const parts: Part[] = [
    { start: 0, bytes: header.length, read: async (at, length) => header.subarray(at, at + length) },
  ];
  for (const [i, weight] of [...weights.values()].entries()) {
    const { start, bytes: before } = parts.at(-1)!;
    parts.push({ start: start + before, bytes: bytes[i]!, read: (at, length) => weight.read(at, length) });
  }
  const file: RandomAccess = {
    name: `${NAME}/${WEIGHTS}`,
    size: fileBytes,
    read: async (offset, length, into) => {
      checkRange(file, offset, length);
      const out = into ? into.subarray(0, length) : new Uint8Array(length);
      for (let done = 0; done < length;) {
        const at = offset + done;
        const part = parts.findLast(({ start }) => start <= at)!;
        const count = Math.min(length - done, part.start + part.bytes - at);
        out.set(await part.read(at - part.start, count), done);
        done += count;
      }
      return out;
    },
  };
  return file;
}

/** Reads the present contents of a tensor; the version of its storage reveals later writes. */
function reader(name: string, tensor: Tensor): Weight["read"] {
  const { version } = tensor.storage;
  return (offset, length) => {
    if (tensor.storage.version !== version) {
      throw new CheckpointError(
        `saveModel: ${name} was changed while the model was saved, the folder would mix two states of it; save between two steps, not during one`,
      );
    }
    return tensor.readBytes(offset, length);
  };
}
