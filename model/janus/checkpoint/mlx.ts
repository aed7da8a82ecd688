/**
 * Checkpoints that MLX quantised: `quantization: { group_size, bits }` in config.json, and three tensors for each quantised weight (`model/io/mlx.ts`), under
 * the names of either layout. The published ones of Janus-Pro have the whole language model in 4 bits, embedding included. They are read as
 * checkpoints in f32 whose weights are decoded when they are read.
 */
import { ConfigError, TensorMismatchError } from "../../io/errors.ts";
import { isJsonObject } from "../../io/json.ts";
import type { JsonObject, JsonValue } from "../../io/json.ts";
import { decodedFile } from "../../io/decoded.ts";
import { MLX_BITS, MLX_GROUPS, mlxProblem, mlxTensor } from "../../io/mlx.ts";
import type { MlxFormat, MlxParts } from "../../io/mlx.ts";
import type { StoredTensor } from "../../io/stored.ts";
import { showJson } from "../../io/unknown.ts";
import type { Weights } from "./checkpoint.ts";

const [KEY, COPY] = ["quantization", "quantization_config"] as const;

/** Formats by the path of a module; null: not quantised. */
interface MlxConfig {
  readonly usual: MlxFormat;
  readonly special: ReadonlyMap<string, MlxFormat | null>;
}

/** Config and weights with decoded tensors in the place of quantised ones; unchanged for a config that does not name MLX's quantisation. */
export function decodeMlx(
  json: JsonObject,
  weights: Weights,
  where: string,
): { readonly json: JsonObject; readonly weights: Weights } {
  const config = mlxConfig(json, `${where}/config.json`);
  if (!config) return { json, weights };
  const tensors = withLanguagePrefix(weights.tensors);
  const { found, problems } = findWeights(tensors, config);
  if (problems.length)
    throw new TensorMismatchError(`${where}: ${problems.length} quantised tensors do not fit config.json:`, problems);
  const name = "the decoded weights";
  const read = (tensor: StoredTensor, offset: number, length: number): Promise<Uint8Array> =>
    weights.files.get(tensor.file)!.read(tensor.offset + offset, length);
  const decoded = decodedFile(
    name,
    found.map(({ parts, format }) => mlxTensor(parts, format, read)),
  );
  const parts = new Set(found.flatMap(({ parts: { scales, biases } }) => [scales.name, biases.name]));
  const rest = [...tensors].filter(([key]) => !parts.has(key));
  const files = new Map([...weights.files, [name, decoded.file]]);
  return {
    json: new Map([...json].filter(([key]) => key !== KEY && key !== COPY)),
    weights: {
      ...weights,
      tensors: new Map([...rest, ...decoded.tensors]),
      files,
      close: async () => {
        files.clear();
        await weights.close();
      },
    },
  };
}

/** What config.json says of MLX's quantisation; null if it says nothing. Throws `ConfigError` for what is not read. */
function mlxConfig(json: JsonObject, file: string): MlxConfig | null {
  const copy = json.get(COPY);
  const isCopy = isJsonObject(copy ?? null) && !(copy as JsonObject).has("quant_method") && (copy as JsonObject).has("group_size"); // prettier-ignore
  const section = json.get(KEY) ?? (isCopy ? copy : undefined);
  if (section === undefined || section === null) return null;
  const refuse = (key: string, needed: string, value: unknown): never => {
    throw new ConfigError(
      `${file}: ${key} must be ${needed}; got ${showJson(value)}. Use a checkpoint in ${MLX_BITS.join(", ")} bits with mode affine, or in bf16`,
    );
  };
  if (!isJsonObject(section)) return refuse(KEY, "an object", section);
  if (isCopy && json.has(KEY) && showJson(plainOf(copy)) !== showJson(plainOf(section)))
    refuse(COPY, `equal to ${KEY}`, plainOf(copy));
  const formatOf = (from: JsonObject, at: string): MlxFormat => {
    const [bits, groupSize, mode] = [from.get("bits"), from.get("group_size"), from.get("mode") ?? "affine"];
    if (!MLX_BITS.includes(bits as number)) refuse(`${at}.bits`, MLX_BITS.join(" or "), bits);
    if (!MLX_GROUPS.includes(groupSize as number)) refuse(`${at}.group_size`, MLX_GROUPS.join(" or "), groupSize);
    if (mode !== "affine") refuse(`${at}.mode`, '"affine"', mode);
    return { bits: bits as number, groupSize: groupSize as number };
  };
  const special = new Map<string, MlxFormat | null>();
  for (const [key, value] of section) {
    if (["bits", "group_size", "mode"].includes(key)) continue;
    if (value !== false && value !== true && !isJsonObject(value))
      refuse(`${KEY}.${key}`, "the format of a layer, true or false", value);
    if (value !== true) special.set(key, isJsonObject(value) ? formatOf(value, `${KEY}.${key}`) : null);
  }
  return { usual: formatOf(section, KEY), special };
}

const plainOf = (value: JsonValue | undefined): unknown =>
  isJsonObject(value ?? null)
    ? Object.fromEntries([...(value as JsonObject)].sort(([a], [b]) => (a < b ? -1 : 1)))
    : value;

/** The quantised weights of a checkpoint, and one line for each tensor or setting that does not fit. */
function findWeights(
  tensors: ReadonlyMap<string, StoredTensor>,
  { usual, special }: MlxConfig,
): { readonly found: { readonly parts: MlxParts; readonly format: MlxFormat }[]; readonly problems: string[] } {
  const found: { parts: MlxParts; format: MlxFormat }[] = [];
  const problems: string[] = [];
  const unused = new Set([...special].flatMap(([path, format]) => (format ? [path] : [])));
  for (const [name, scales] of tensors) {
    if (!name.endsWith(".scales")) continue;
    const path = name.slice(0, -".scales".length);
    const [weight, biases] = [tensors.get(`${path}.weight`), tensors.get(`${path}.biases`)];
    const own = special.get(path);
    unused.delete(path);
    if (!weight || !biases) problems.push(`missing: ${path}.${weight ? "biases" : "weight"}, beside ${name}`);
    else if (own === null) problems.push(`unexpected: ${name}, config.json says that it is not quantised`);
    else {
      const format = own ?? usual;
      const problem = mlxProblem({ weight, scales, biases }, format);
      if (problem) problems.push(problem);
      else found.push({ parts: { weight, scales, biases }, format });
    }
  }
  for (const path of unused) problems.push(`missing: ${path}.scales, of a layer that config.json names`);
  if (found.length + problems.length === 0) problems.push("missing: all of them (X.scales, X.biases)");
  return { found, problems };
}

/** MLX programs may leave out the prefix of the language model of the original's layout. */
function withLanguagePrefix(tensors: ReadonlyMap<string, StoredTensor>): ReadonlyMap<string, StoredTensor> {
  if (!tensors.has("model.norm.weight")) return tensors;
  return new Map(
    [...tensors].map(([key, tensor]) => {
      const name = /^(model\.(embed_tokens|layers|norm)|lm_head)\./.test(key) ? `language_model.${key}` : key;
      return [name, { ...tensor, name }];
    }),
  );
}
