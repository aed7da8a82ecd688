/** A checkpoint as MLX would store it, made here: shares nothing with the reader. */
import { encodeSafetensors } from "../../model/io/safetensors.ts";
import { randomFrom } from "../random.ts";
import { tensorsOf } from "./tiny.ts";
import type { Files, Whole } from "./tiny.ts";

export const bf16 = (v: number): number => Math.fround(v) && new Float32Array(Uint32Array.of(new Uint32Array(Float32Array.of(v).buffer)[0]! & 0xffff0000).buffer)[0]!; // prettier-ignore
export const bf16Bytes = (values: Float32Array): Uint8Array =>
  new Uint8Array(Uint16Array.from(values, (v) => new Uint32Array(Float32Array.of(v).buffer)[0]! >>> 16).buffer);

export interface MlxFiles {
  readonly files: Files;
  /** Values of the quantised weights by the names in the file. */
  readonly values: ReadonlyMap<string, Float32Array>;
}

export const plainTensors = async (files: Files): Promise<Whole[]> => [
  ...(await tensorsOf(files.get("model.safetensors")!)).values(),
];

/**
 * A checkpoint with its language model as MLX would store it, with random q, scales and biases in bf16; columns that are no multiple of the group stay
 * as they are.
 */
export async function asMlx(source: Files, bits = 4, group = 64): Promise<MlxFiles> {
  const random = randomFrom(bits + group);
  const values = new Map<string, Float32Array>();
  const out: Whole[] = [];
  for (const tensor of await plainTensors(source)) {
    const [rows, columns] = tensor.shape as [number, number];
    const isIn = /^(model\.)?(language_model|lm_head)\./.test(tensor.name) && tensor.shape.length === 2;
    if (!isIn || columns % group) {
      out.push(tensor);
      continue;
    }
    const scales = new Float32Array((rows * columns) / group).map(() => bf16(0.001 + 0.01 * random()));
    const biases = scales.map((s) => bf16(-s * (6 + 4 * random())));
    const weight = new Float32Array(rows * columns);
    const words = new Uint32Array((rows * columns * bits) / 32);
    for (let i = 0; i < weight.length; i++) {
      const [q, g] = [Math.floor(random() * 2 ** bits), Math.floor(i / group)];
      weight[i] = scales[g]! * q + biases[g]!;
      words[Math.floor((i * bits) / 32)]! |= q << ((i * bits) % 32);
    }
    values.set(tensor.name, weight);
    const path = tensor.name.replace(/\.weight$/, "");
    const part = (end: string, list: Float32Array): Whole => ({ name: `${path}.${end}`, dtype: "bf16", shape: [rows, columns / group], data: bf16Bytes(list) }); // prettier-ignore
    out.push({ ...tensor, dtype: "u32", shape: [rows, (columns * bits) / 32], data: new Uint8Array(words.buffer) });
    out.push(part("scales", scales), part("biases", biases));
  }
  const quantization = { group_size: group, bits };
  return { values, files: withConfig(new Map([...source, ["model.safetensors", encodeSafetensors(out)]]), { quantization, quantization_config: quantization }) }; // prettier-ignore
}

export function withConfig(files: Files, json: object): Files {
  const config = JSON.parse(Buffer.from(files.get("config.json")!).toString()) as object;
  return new Map([...files, ["config.json", new Uint8Array(Buffer.from(JSON.stringify({ ...config, ...json })))]]);
}
