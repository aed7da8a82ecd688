/**
 * Checkpoints that are quantised in our format: in the hf layout, with `X.qweight` (u32) and `X.scales` (f16) for each quantised `X.weight`, and
 * `quantization_config: { quant_method: "janus-webgpu", bits, group_size }` in config.json. `model/io/quantize.ts` describes the values.
 */
import { GROUP, QUANTIZED_BITS } from "../../../kernels/matmul/quantized_format.ts";
import type { Quantization } from "../../../kernels/matmul/quantized_format.ts";
import { castFloats } from "../../io/cast.ts";
import type { FloatDType } from "../../io/cast.ts";
import { ConfigError } from "../../io/errors.ts";
import { isJsonObject } from "../../io/json.ts";
import type { JsonObject } from "../../io/json.ts";
import { quantizeRows } from "../../io/quantize.ts";
import type { QuantizedRows } from "../../io/quantize.ts";
import { OWN_METHOD } from "../config.ts";
import type { TensorSource } from "./names.ts";

export const KEY = "quantization_config";

/** What config.json says of a checkpoint quantised to `kind`. */
export const quantizationConfig = (kind: Quantization): Record<string, string | number> => ({
  quant_method: OWN_METHOD,
  bits: QUANTIZED_BITS[kind],
  group_size: GROUP,
});

/** The kind in which config.json says that the weights are; null if it does not name our method. Throws `ConfigError` for another format of ours. */
export function quantizationOf(json: JsonObject, file: string): Quantization | null {
  const section = json.get(KEY);
  if (!isJsonObject(section) || section.get("quant_method") !== OWN_METHOD) return null;
  const kind = (["int8", "int4"] as const).find((one) => QUANTIZED_BITS[one] === section.get("bits"));
  const strange = [...section.keys()].filter((key) => !["quant_method", "bits", "group_size"].includes(key));
  if (!kind || section.get("group_size") !== GROUP || strange.length)
    throw new ConfigError(
      `${file}: ${KEY} must have bits 8 or 4, group_size ${GROUP} and nothing else; got ${JSON.stringify(Object.fromEntries(section))}. Convert the full checkpoint again`,
    );
  return kind;
}

/** The two tensors of a quantised weight [rows, columns]: names end in these. */
export const partShapes = (
  [rows, columns]: readonly [number, number],
  kind: Quantization,
): { readonly qweight: readonly number[]; readonly scales: readonly number[] } => {
  const groups = Math.ceil(columns / GROUP);
  return { qweight: [rows, groups * QUANTIZED_BITS[kind]], scales: [rows, groups] };
};

/** What reads tensors: a `Checkpoint`. */
interface ChunkReader {
  chunks(source: TensorSource, chunkBytes: number, signal?: AbortSignal): AsyncIterable<Uint8Array>;
}

const CHUNK_BYTES = 16 * 2 ** 20;

/**
 * Quantises a float weight of a checkpoint, about 16 MiB of whole rows at a time; `read` are the bytes of the files behind each piece. Throws
 * `QuantizationError` in the name of the stored tensor.
 */
export async function* quantizedChunks(
  checkpoint: ChunkReader,
  source: TensorSource,
  kind: Quantization,
  signal?: AbortSignal,
): AsyncGenerator<QuantizedRows & { readonly read: number }> {
  const [rows, columns] = source.shape as [number, number];
  const rowBytes = source.bytes / rows;
  const step = Math.max(1, Math.floor(CHUNK_BYTES / rowBytes)) * rowBytes;
  const stored = source.pieces[0]?.tensor ?? source;
  for await (const chunk of checkpoint.chunks(source, step, signal)) {
    const bytes = castFloats(chunk, stored.dtype as FloatDType, "f32", stored.name);
    const aligned = bytes.byteOffset % 4 ? bytes.slice() : bytes;
    const values = new Float32Array(aligned.buffer, aligned.byteOffset, aligned.length / 4);
    yield { ...quantizeRows(values, columns, kind, stored.name), read: chunk.length };
  }
}
