/**
 * Adapters in the layout of PEFT: `adapter_config.json` and `adapter_model.safetensors`, as files alone. Settings that change what an adapter computes and
 * that are not supported are refused by name. Which layers of a model they are for is model/janus/adapters.ts.
 */
import type { FileSource } from "./bytes.ts";
import { ConfigError, TensorMismatchError, quote, someOf } from "./errors.ts";
import { isJsonObject, parseJsonObject } from "./json.ts";
import type { JsonValue } from "./json.ts";
import { readSafetensors } from "./safetensors.ts";
import { readTextFile } from "./small_file.ts";
import { isFloatDType } from "./cast.ts";
import { specText } from "./stored.ts";
import type { StoredTensor } from "./stored.ts";
import { showJson } from "./unknown.ts";

export const ADAPTER_CONFIG = "adapter_config.json";
export const ADAPTER_WEIGHTS = "adapter_model.safetensors";
const MAX_CONFIG = 2 ** 22; // bytes

/** Beginning of the names of an adapter's tensors. */
const PREFIX = "base_model.model.";

/** Settings of an adapter. */
export interface AdapterConfig {
  readonly rank: number;
  readonly alpha: number;
  readonly dropout: number;
  readonly rslora: boolean;
  /** Name or folder of the model that it was trained on; null if the file does not say. */
  readonly base: string | null;
  /** Ranks and alphas of layers that differ, by regular expressions of the end of their paths; the first that matches counts. */
  readonly rankPattern?: ReadonlyMap<string, number>;
  readonly alphaPattern?: ReadonlyMap<string, number>;
}

/** Weights of one layer: A [rank, inFeatures], B [outFeatures, rank]. */
export interface AdapterLayer {
  readonly a: StoredTensor;
  readonly b: StoredTensor;
  readonly rank: number;
  readonly alpha: number;
}

export interface AdapterFiles {
  readonly config: AdapterConfig;
  /** By the path of the layer, as the file names it. */
  readonly layers: ReadonlyMap<string, AdapterLayer>;
}

/** Keys that say how an adapter was made or where it belongs; its tensors say what it is. */
const HARMLESS = new Set([
  "auto_mapping",
  "base_model_name_or_path",
  "inference_mode",
  "revision",
  "task_type",
  "peft_version",
  "target_modules",
  "exclude_modules",
  "layers_to_transform",
  "layers_pattern",
  "megatron_core",
  "runtime_config",
  "qalora_group_size",
]);
/** Ways in which A and B were made at first that leave the base as it is. Others move a part of the base into the adapter. */
const PLAIN_INIT: readonly unknown[] = [undefined, null, true, false, "gaussian", "orthogonal", "eva"];

/** Parses `adapter_config.json`. Throws `ConfigError` that names a setting that is not supported. `name` begins messages. */
export function parseAdapterConfig(bytes: Uint8Array, name: string): AdapterConfig {
  const { peft_type, r, lora_alpha, lora_dropout = 0, use_rslora, bias, init_lora_weights, rank_pattern, alpha_pattern, ...rest } = Object.fromEntries(parseJsonObject(bytes, name)); // prettier-ignore
  const refuse = (key: string, wanted: string, value: JsonValue | undefined): never => {
    throw new ConfigError(
      `${name}: ${key} must be ${wanted}; got ${showJson(isJsonObject(value) ? Object.fromEntries(value) : value)}, which is not supported. Merge the adapter with PEFT, and use the merged model.`,
    );
  };
  if (peft_type !== "LORA") refuse("peft_type", '"LORA"', peft_type);
  if (!isWhole(r)) refuse("r", "a whole number of at least 1", r);
  if (!isAbove0(lora_alpha)) refuse("lora_alpha", "a number above 0", lora_alpha);
  if (typeof lora_dropout !== "number" || !(lora_dropout >= 0 && lora_dropout < 1))
    refuse("lora_dropout", "a number from 0 to below 1", lora_dropout);
  if (![undefined, null, true, false].includes(use_rslora as never)) refuse("use_rslora", "true or false", use_rslora);
  if (![undefined, null, "none"].includes(bias as never)) refuse("bias", '"none"', bias);
  if (!PLAIN_INIT.includes(init_lora_weights)) refuse("init_lora_weights", "true", init_lora_weights);
  for (const [key, value] of Object.entries(rest))
    if (!HARMLESS.has(key) && !isEmpty(value)) refuse(key, "empty", value);
  if (!isPattern(rank_pattern, isWhole)) refuse("rank_pattern", "simple expressions of paths and whole numbers of at least 1", rank_pattern); // prettier-ignore
  if (!isPattern(alpha_pattern, isAbove0)) refuse("alpha_pattern", "simple expressions of paths and numbers above 0", alpha_pattern); // prettier-ignore
  const [rankPattern, alphaPattern] = [rank_pattern, alpha_pattern].map((value) => (value ?? new Map()) as ReadonlyMap<string, number>); // prettier-ignore
  const base = rest["base_model_name_or_path"];
  return {
    rank: r as number,
    alpha: lora_alpha as number,
    dropout: lora_dropout as number,
    rslora: use_rslora === true,
    base: typeof base === "string" ? base : null,
    ...(rankPattern?.size && { rankPattern }),
    ...(alphaPattern?.size && { alphaPattern }),
  };
}

/** Keys of patterns: names, and what of regular expressions needs little time whatever the file says. */
const isSimple = (pattern: string): boolean =>
  /^[\w.\\^$|()[\]?*+-]+$/.test(pattern) && !/\)[?*+]/.test(pattern) && pattern.split(/[*+]/).length <= 3;

/** The expression that PEFT makes of a key of a pattern: the end of a path, from a dot on. Null if it cannot be used. */
function expressionOf(pattern: string): RegExp | null {
  if (!isSimple(pattern)) return null;
  try {
    return new RegExp(`^(?:.*\\.)?(?:${pattern})$`);
  } catch {
    return null;
  }
}

const isPattern = (value: JsonValue | undefined, isSetting: (one: unknown) => boolean): boolean =>
  value === undefined || value === null || (isJsonObject(value) && [...value].every(([key, one]) => isSetting(one) && expressionOf(key) !== null)); // prettier-ignore

/** What a pattern says of a layer, or the default. */
function settingOf(path: string, pattern: ReadonlyMap<string, number> | undefined, otherwise: number): number {
  for (const [key, value] of pattern ?? []) if (expressionOf(key)?.test(path)) return value;
  return otherwise;
}

const isWhole = (value: unknown): boolean => Number.isInteger(value) && (value as number) >= 1;
const isAbove0 = (value: unknown): boolean =>
  typeof value === "number" && value > 0 && Number.isFinite(Math.fround(value));

/** A setting that is off: of no effect whatever it means. */
const isEmpty = (value: JsonValue): boolean =>
  value === null || value === false || value === "" || (Array.isArray(value) && value.length === 0) || (isJsonObject(value) && value.size === 0); // prettier-ignore

/** Reads the settings and the list of the weights. Throws subclasses of `CheckpointError` for files that are damaged or not supported. */
export async function readAdapter(source: FileSource): Promise<AdapterFiles> {
  const listed = await source.list();
  const missing = [ADAPTER_CONFIG, ADAPTER_WEIGHTS].find((name) => !listed.includes(name));
  if (missing)
    throw new ConfigError(
      `${source.name}: an adapter must have ${ADAPTER_CONFIG} and ${ADAPTER_WEIGHTS}; got no ${missing}${listed.includes("adapter_model.bin") ? ", but adapter_model.bin; convert it with PEFT's save_pretrained" : ""}. Name the folder of an adapter.`,
    );
  const bytes = await readTextFile(source, ADAPTER_CONFIG, MAX_CONFIG);
  const config = parseAdapterConfig(bytes, `${source.name}/${ADAPTER_CONFIG}`);
  const file = await source.open(ADAPTER_WEIGHTS);
  try {
    const { tensors } = await readSafetensors(file, ADAPTER_WEIGHTS);
    return { config, layers: layersOf(tensors.values(), config, file.name) };
  } finally {
    await file.close?.();
  }
}

function layersOf(tensors: Iterable<StoredTensor>, config: AdapterConfig, file: string): Map<string, AdapterLayer> {
  const pairs = new Map<string, { a?: StoredTensor; b?: StoredTensor }>();
  const problems: string[] = [];
  for (const tensor of tensors) {
    const [, path, part] = /^base_model\.model\.(.{1,512})\.lora_([AB])\.weight$/.exec(tensor.name) ?? [];
    if (!path || tensor.shape.length !== 2 || !isFloatDType(tensor.dtype)) {
      problems.push(`not supported: ${quote(tensor.name)} ${specText(tensor)}`);
      continue;
    }
    const pair = pairs.get(path) ?? {};
    pairs.set(path, { ...pair, [part === "A" ? "a" : "b"]: tensor });
  }
  const layers = new Map<string, AdapterLayer>();
  for (const [path, { a, b }] of pairs) {
    const rank = settingOf(path, config.rankPattern, config.rank);
    if (!a || !b) problems.push(`missing: ${path}.lora_${a ? "B" : "A"}.weight`);
    else if (a.shape[0] !== rank || b.shape[1] !== rank)
      problems.push(`misshapen: ${path} has A ${specText(a)} and B ${specText(b)}; the config says rank ${rank}`);
    else layers.set(path, { a, b, rank, alpha: settingOf(path, config.alphaPattern, config.alpha) });
  }
  if (problems.length)
    throw new TensorMismatchError(
      `${file}: it must have A and B of rank ${config.rank} for each layer${config.rankPattern ? ", or of that of rank_pattern" : ""}, and nothing else:`,
      problems,
    );
  if (layers.size === 0)
    throw new TensorMismatchError(`${file}: at least one layer is required`, ["it has no tensors"]);
  return layers;
}

/** Name in the file of a part of a layer. */
export const adapterTensorName = (path: string, part: "A" | "B"): string => `${PREFIX}${path}.lora_${part}.weight`;

/** The key of a pattern that means one path. */
export const patternKey = (path: string): string => path.replaceAll(".", "\\.");

/** `adapter_config.json` for an adapter on the layers at `paths`. */
export function adapterConfigFile(config: AdapterConfig, paths: Iterable<string>): Uint8Array {
  const json = {
    peft_type: "LORA",
    task_type: null,
    base_model_name_or_path: config.base,
    r: config.rank,
    lora_alpha: config.alpha,
    lora_dropout: config.dropout,
    use_rslora: config.rslora,
    use_dora: false,
    target_modules: [...paths],
    bias: "none",
    fan_in_fan_out: false,
    init_lora_weights: true,
    inference_mode: true,
    modules_to_save: null,
    rank_pattern: Object.fromEntries(config.rankPattern ?? []),
    alpha_pattern: Object.fromEntries(config.alphaPattern ?? []),
  };
  return new TextEncoder().encode(`${JSON.stringify(json, null, 2)}\n`);
}

/** Throws `TensorMismatchError` for layers of an adapter that a model does not have. */
export function requireLayers(name: string, unknown: readonly string[], known: Iterable<string>): void {
  if (unknown.length)
    throw new TensorMismatchError(
      `${name}: every layer must be a linear layer of the model (${someOf(known, 3)}); use the model that the adapter was trained on:`,
      unknown.map((path) => `unexpected: ${quote(path)}`),
    );
}
