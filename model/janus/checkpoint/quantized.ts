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
import { dequantizeRows, quantizeRows, requantizeInt4, widenToInt8 } from "../../io/quantize.ts";
import type { QuantizedRows } from "../../io/quantize.ts";
import { OWN_METHOD } from "../config.ts";
import type { Encoding } from "../../io/stored.ts";
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

const CHUNK_BYTES = 4 * 2 ** 20;

/** How the file of a weight stores it, if its values are decoded; undefined for plain floats. A part of a weight has none of its own. */
export const encodingOf = ({ pieces: [piece, ...others] }: TensorSource): Encoding | undefined =>
  piece && !others.length && piece.bytes === piece.tensor.bytes ? piece.tensor.encoded : undefined;

/** The kind in which a weight has the values of its file: that of the file if its groups are ours. */
export const ownKind = (source: TensorSource): Quantization | undefined => encodingOf(source)?.packed?.kind;

/** Rows of a weight in our format. */
export interface QuantizedChunk extends QuantizedRows {
  /** Bytes of the files behind them. */
  readonly read: number;
  /** Sums of squares of the errors and of the values, for a weight that its file has in another quantised format. */
  readonly error?: { readonly squares: number; readonly of: number };
}

/**
 * A float weight of a checkpoint in `kind`, about 4 MiB of whole rows at a time. Groups of a file that are ours are copied, int4 also as int8; others
 * are quantised. Throws `QuantizationError` in the name of the stored tensor.
 */
export async function* quantizedChunks(
  checkpoint: ChunkReader,
  source: TensorSource,
  kind: Quantization,
  signal?: AbortSignal,
): AsyncGenerator<QuantizedChunk> {
  const [rows, columns] = source.shape as [number, number];
  const rowBytes = source.bytes / rows;
  const step = Math.max(1, Math.floor(CHUNK_BYTES / rowBytes));
  const encoded = encodingOf(source);
  const packed = encoded?.packed;
  if (packed && (packed.kind === kind || kind === "int8")) {
    for (let first = 0; first < rows; first += step) {
      signal?.throwIfAborted();
      const count = Math.min(step, rows - first);
      const groups = await packed.rows(first, count);
      yield { ...(packed.kind === kind ? groups : widenToInt8(groups)), read: count * rowBytes };
    }
    return;
  }
  const stored = source.pieces[0]?.tensor ?? source;
  let first = 0;
  for await (const chunk of checkpoint.chunks(source, step * rowBytes, signal)) {
    const bytes = castFloats(chunk, stored.dtype as FloatDType, "f32", stored.name);
    const aligned = bytes.byteOffset % 4 ? bytes.slice() : bytes;
    const values = new Float32Array(aligned.buffer, aligned.byteOffset, aligned.length / 4);
    const count = values.length / columns;
    const steps = kind === "int4" && columns % GROUP === 0 ? await encoded?.steps?.(first, count) : undefined;
    const groups = steps
      ? requantizeInt4(values, steps, stored.name)
      : quantizeRows(values, columns, kind, stored.name);
    yield { ...groups, read: chunk.length, ...(encoded && { error: errorOf(values, groups, columns, kind) }) };
    first += count;
  }
}

function errorOf(
  values: Float32Array,
  groups: QuantizedRows,
  columns: number,
  kind: Quantization,
): NonNullable<QuantizedChunk["error"]> {
  const back = dequantizeRows(groups, columns, kind);
  let [squares, of] = [0, 0];
  for (let i = 0; i < values.length; i++) {
    squares += (back[i]! - values[i]!) ** 2;
    of += values[i]! ** 2;
  }
  return { squares, of };
}

/** Relative error of weights that were quantised again; null if none was. */
export class RequantizationError {
  private squares = 0;
  private of = 0;

  add({ error }: QuantizedChunk): void {
    this.squares += error?.squares ?? 0;
    this.of += error?.of ?? 0;
  }

  /** For people; null if no weight was quantised again. */
  notice(kind: Quantization): string | null {
    if (this.of === 0) return null;
    const share = Math.sqrt(this.squares / this.of);
    return `weights that the file has in another quantised format were quantised again to ${kind}: their relative error against the file is ${(100 * share).toPrecision(2)} %`;
  }
}
