/** Files of small adapters in PEFT's layout, for tests of those who read them. */
import type { FileSource } from "../model/io/bytes.ts";
import { castFloats } from "../model/io/cast.ts";
import type { FloatDType } from "../model/io/cast.ts";
import { encodeSafetensors } from "../model/io/safetensors.ts";
import { sourceOfFiles } from "./checkpoint/tiny.ts";

/** The files of an adapter of rank 2 on layers with `width` inputs and outputs, in f32 or another dtype. */
export async function adapterFiles(
  tensors: readonly (readonly [path: string, a: Float32Array, b: Float32Array])[],
  {
    width,
    dtype = "f32",
    ...config
  }: Readonly<Record<string, unknown>> & { readonly width: number; readonly dtype?: FloatDType },
): Promise<FileSource> {
  const stored = ([path, a, b]: (typeof tensors)[number]): [string, readonly number[], Float32Array][] => [
    [`base_model.model.${path}.lora_A.weight`, [a.length / width, width], a],
    [`base_model.model.${path}.lora_B.weight`, [width, b.length / width], b],
  ];
  const file = encodeSafetensors(tensors.flatMap(stored).map(([name, shape, data]) => ({ name, dtype, shape, data: castFloats(new Uint8Array(data.buffer), "f32", dtype, name).slice() }))); // prettier-ignore
  const json = { peft_type: "LORA", r: 2, lora_alpha: 4, bias: "none", ...config };
  return sourceOfFiles(new Map([["adapter_config.json", new TextEncoder().encode(JSON.stringify(json))], ["adapter_model.safetensors", file]])); // prettier-ignore
}
