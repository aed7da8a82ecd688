/**
 * Adapters of Janus-Pro as files: PEFT's layout to layers of the model and back. Names in the file are those of the transformers port; those of the
 * original's modules are read too, but for the vision tower's joint q, k and v.
 */
import { ArgumentError, knownOptions } from "../../engine/index.ts";
import type { Tensor } from "../../engine/index.ts";
import type { FileSource, FolderSink } from "../io/bytes.ts";
import { castFloats } from "../io/cast.ts";
import type { FloatDType } from "../io/cast.ts";
import { TensorMismatchError, quote } from "../io/errors.ts";
import { ADAPTER_CONFIG, ADAPTER_WEIGHTS, adapterConfigFile, adapterTensorName, patternKey, readAdapter, requireLayers } from "../io/peft.ts"; // prettier-ignore
import type { AdapterConfig, AdapterLayer } from "../io/peft.ts";
import { layoutSafetensors, writeSafetensors } from "../io/safetensors.ts";
import type { TensorContent } from "../io/safetensors.ts";
import { specText } from "../io/stored.ts";
import type { StoredTensor } from "../io/stored.ts";
import { addAdapter, linearLayersOf, linearSize, loraLayersOf, removeAdapters, requireWeight } from "../nn/lora.ts";
import type { AnyModule } from "../nn/module.ts";
import { hfNames } from "./checkpoint/names.ts";
import { sampledHash } from "./load.ts";

export interface LoadAdapterOptions {
  /** Name by which it is switched (default: "default"). */
  readonly name?: string;
  /** Factor of its update (default: 1). */
  readonly weight?: number;
}

export interface LoadedAdapter {
  readonly name: string;
  readonly config: AdapterConfig;
  /** Layers that it is on. */
  readonly layers: number;
}

const CHUNK_BYTES = 16 * 2 ** 20;

/**
 * Loads an adapter in PEFT's layout and puts it on the layers of `model`, in f32. Throws subclasses of `CheckpointError` for files that are damaged, not
 * supported, or made for another model; then the model is as before.
 */
export async function loadAdapter(
  model: AnyModule,
  source: FileSource,
  options: LoadAdapterOptions = {},
): Promise<LoadedAdapter> {
  knownOptions("loadAdapter", options, ["name", "weight"]);
  const { name = "default", weight = 1 } = options;
  requireWeight("loadAdapter", name, weight);
  const { config, layers } = await readAdapter(source);
  const placed = placeLayers(model, layers, source.name);
  const { dropout, rslora } = config;
  addAdapter(
    model,
    name,
    [...placed].map(([path, { rank, alpha }]) => [path, { rank, alpha, dropout, rslora, init: false }]),
  );
  const own = [...loraLayersOf(model)].filter(([, layer]) => layer.names.includes(name));
  try {
    for (const [, layer] of own) layer.setWeight(name, 0); // calls that come before its values are as without it
    await fillAdapter(model, source, { name, layers: placed });
    for (const [, layer] of own) layer.setWeight(name, weight);
  } catch (error) {
    removeAdapters(model, name);
    throw error;
  }
  return { name, config, layers: placed.size };
}

/** Reads the values of an adapter that is on `model` from files of one of the same layers and rank. Throws as `loadAdapter` does. */
export async function reloadAdapter(model: AnyModule, source: FileSource, name: string): Promise<void> {
  const { layers } = await readAdapter(source);
  const placed = placeLayers(model, layers, source.name);
  const own = [...loraLayersOf(model)].filter(([, layer]) => layer.names.includes(name));
  const problems = [
    ...own.flatMap(([path]) => (placed.has(path) ? [] : [`missing: ${path}`])),
    ...[...placed].flatMap(([path, { rank }]) =>
      own.some(([other, layer]) => other === path && layer.optionsOf(name)!.rank === rank)
        ? []
        : [`unexpected: ${path} of rank ${rank}`],
    ),
  ];
  if (problems.length)
    throw new TensorMismatchError(
      `${source.name}: it must have the layers of the adapter that trains; resume with the same settings:`,
      problems,
    );
  await fillAdapter(model, source, { name, layers: placed });
}

/** The layers of an adapter by their paths in the model. Throws `TensorMismatchError` for layers that it does not have, and for other shapes. */
function placeLayers(
  model: AnyModule,
  layers: ReadonlyMap<string, AdapterLayer>,
  name: string,
): Map<string, AdapterLayer> {
  const known = new Map(linearLayersOf(model));
  const placed = new Map<string, AdapterLayer>();
  const unknown: string[] = [];
  const problems: string[] = [];
  for (const [path, layer] of layers) {
    const own = known.has(path) ? path : originalPath(path);
    const target = own === null ? undefined : known.get(own);
    if (own === null || !target) {
      unknown.push(path);
      continue;
    }
    const [outFeatures, inFeatures] = linearSize(target);
    if (layer.a.shape[1] !== inFeatures || layer.b.shape[0] !== outFeatures)
      problems.push(
        `misshapen: ${path} has A ${specText(layer.a)} and B ${specText(layer.b)}; the model's layer is [${outFeatures}, ${inFeatures}]`,
      );
    if (placed.has(own)) problems.push(`twice: ${own}, by its name here and by that of the original's modules`);
    placed.set(own, layer);
  }
  requireLayers(name, unknown, known.keys());
  if (problems.length)
    throw new TensorMismatchError(`${name}: shapes must be those of the model; use the one that the adapter was trained on:`, problems); // prettier-ignore
  return placed;
}

/** Path in the transformers port of a layer of the original; null if there is no single one. */
function originalPath(path: string): string | null {
  const names = hfNames(`${path}.weight`);
  return names.length === 1 ? names[0]!.replace(/\.weight$/, "") : null;
}

async function fillAdapter(
  model: AnyModule,
  source: FileSource,
  { name, layers }: { readonly name: string; readonly layers: ReadonlyMap<string, AdapterLayer> },
): Promise<void> {
  const adapted = new Map(loraLayersOf(model));
  const file = await source.open(ADAPTER_WEIGHTS);
  try {
    const fill = async (into: Tensor, stored: StoredTensor): Promise<void> => {
      const bytes = await file.read(stored.offset, stored.bytes);
      const values = castFloats(bytes, stored.dtype as FloatDType, "f32", stored.name);
      requireFinite(values, stored, file.name);
      into.writeBytes(values);
      await into.device.throttle();
    };
    for (const [path, { a, b }] of layers) {
      await fill(adapted.get(path)!.lora_A.get(name)!.weight, a);
      await fill(adapted.get(path)!.lora_B.get(name)!.weight, b);
    }
  } finally {
    await file.close?.();
  }
}

/** Throws `TensorMismatchError` for values that would make everything that the layer computes NaN, merged weights too. `values` are f32. */
function requireFinite(values: Uint8Array, { name }: StoredTensor, file: string): void {
  const view = new Float32Array(values.buffer, values.byteOffset, values.byteLength / 4);
  const bad = view.findIndex((v) => !Number.isFinite(v));
  if (bad >= 0)
    throw new TensorMismatchError(`${file}: values must be finite; load the adapter again, or train it again:`, [
      `not finite: ${quote(name)} has ${view[bad]} at ${bad}`,
    ]);
}

/** Distinguishes an adapter from others, as `fingerprint` does weights: by its settings and samples of its tensors. */
export async function adapterFingerprint(source: FileSource): Promise<string> {
  const { config, layers } = await readAdapter(source);
  const file = await source.open(ADAPTER_WEIGHTS);
  try {
    const scaled = [...layers.values()].flatMap(({ a, b, rank, alpha }) =>
      [a, b].map((tensor) => [`${alpha / (config.rslora ? Math.sqrt(rank) : rank)} ${tensor.name}`, tensor] as const),
    );
    return await sampledHash(scaled, (tensor, at, length) => file.read(tensor.offset + at, length));
  } finally {
    await file.close?.();
  }
}

export interface SaveAdapterOptions {
  /** Name of the adapter on the model (default: "default"). */
  readonly name?: string;
  /** Name or folder of the model that it is for. */
  readonly base?: string | null;
}

/** Tensors of the files of an adapter, by their names there. Throws `ArgumentError` if the model has no adapter `name`. */
function tensorsOf(
  model: AnyModule,
  name: string,
): { config: Omit<AdapterConfig, "base">; paths: string[]; tensors: Map<string, Tensor> } {
  // prettier-ignore
  const layers = [...loraLayersOf(model)].filter(([, layer]) => layer.names.includes(name));
  const options = layers[0]?.[1].optionsOf(name);
  if (!options)
    throw new ArgumentError(
      `saveAdapter: the model must have an adapter "${name}"; got none. Add it, or name another.`,
    );
  const tensors = new Map<string, Tensor>();
  const [rankPattern, alphaPattern] = [new Map<string, number>(), new Map<string, number>()];
  for (const [path, layer] of layers) {
    const own = layer.optionsOf(name)!;
    if (own.rslora !== options.rslora || own.dropout !== options.dropout)
      throw new ArgumentError(
        `saveAdapter: all layers must have one rslora and dropout; got ${own.rslora} and ${own.dropout} at ${path}, ${options.rslora} and ${options.dropout} before. Save them as several adapters.`,
      );
    if (own.rank !== options.rank) rankPattern.set(patternKey(path), own.rank);
    if (own.alpha !== options.alpha) alphaPattern.set(patternKey(path), own.alpha);
    tensors.set(adapterTensorName(path, "A"), layer.lora_A.get(name)!.weight);
    tensors.set(adapterTensorName(path, "B"), layer.lora_B.get(name)!.weight);
  }
  const { rank, alpha, dropout, rslora } = options;
  const patterns = { ...(rankPattern.size && { rankPattern }), ...(alphaPattern.size && { alphaPattern }) };
  return { config: { rank, alpha, dropout, rslora, ...patterns }, paths: layers.map(([path]) => path), tensors };
}

/** Bytes of the files that `saveAdapter` writes, without the settings. */
export function adapterBytes(model: AnyModule, name = "default"): number {
  const { tensors } = tensorsOf(model, name);
  return layoutSafetensors([...tensors].map(([key, { shape }]) => ({ name: key, dtype: "f32", shape }))).fileBytes;
}

/**
 * Writes an adapter of `model` in PEFT's layout: `adapter_config.json` and `adapter_model.safetensors`, f32, sorted by name. The same values give the same
 * bytes. The adapter must not change during the write.
 */
export async function saveAdapter(model: AnyModule, sink: FolderSink, options: SaveAdapterOptions = {}): Promise<void> {
  knownOptions("saveAdapter", options, ["name", "base"]);
  const { name = "default", base = null } = options;
  const { config, paths, tensors } = tensorsOf(model, name);
  const contents = [...tensors]
    .sort(([a], [b]) => (a < b ? -1 : 1))
    .map(([key, tensor]): TensorContent => ({ name: key, dtype: "f32", shape: tensor.shape, chunks: () => chunksOf(tensor) })); // prettier-ignore
  await sink.write(ADAPTER_CONFIG, adapterConfigFile({ ...config, base }, paths));
  await sink.write(ADAPTER_WEIGHTS, (file) => writeSafetensors(file, contents));
}

async function* chunksOf(tensor: Tensor): AsyncGenerator<Uint8Array> {
  const bytes = 4 * tensor.size;
  for (let at = 0; at < bytes; at += CHUNK_BYTES) yield await tensor.readBytes(at, Math.min(CHUNK_BYTES, bytes - at));
}
