// Golden folders of training, in memory, and the rows that `janus verify` makes of them.
import type { Comparison } from "../verify/compare.ts";
import { Golden } from "../verify/file.ts";
import { GoldenInputs } from "../verify/inputs.ts";
import { Training } from "../verify/training.ts";
import type { Device } from "../index.ts";
import { fileSet } from "../model/io/bytes.ts";
import type { FileSource } from "../model/io/bytes.ts";
import { openCheckpoint } from "../model/janus/checkpoint/checkpoint.ts";
import { encodeSafetensors } from "../model/io/safetensors.ts";
import type { JanusForConditionalGeneration } from "../model/janus/janus.ts";
import { loadModel } from "../model/janus/load.ts";
import { readProcessor } from "../model/janus/processor.ts";
import type { Whole } from "./checkpoint/tiny.ts";

export const failures = (rows: readonly Comparison[]): string[] =>
  rows.filter(({ pass }) => pass === false).map(({ entry }) => entry);

export interface Settings {
  lr: number;
  betas: number[];
  eps: number;
  clip: number | null;
  weight_decay?: number;
  steps: { loss: number; per_task: Record<string, { loss: number; tokens: number }>; grad_norm: number }[];
  final_loss: number;
  trainable: string[];
  no_grad: string[];
  [key: string]: unknown;
}
export interface Json {
  train: Record<string, Settings>;
  train_rows: { task: string; input_ids: number[]; labels: number[] }[];
}

export const whole = (name: string, shape: readonly number[], values: ArrayLike<number>): Whole => {
  const data = Float32Array.from(values);
  return { name, shape, dtype: "f32", data: new Uint8Array(data.buffer) };
};

export const folderOf = (tensors: ReadonlyMap<string, Whole>, json: unknown): Promise<Golden> =>
  Golden.open(
    fileSet(
      "golden",
      new Map([
        ["golden.safetensors", encodeSafetensors([...tensors.values()])],
        ["golden.json", new TextEncoder().encode(JSON.stringify(json))],
      ]),
    ),
  );

/** The training rows of a golden folder. `spoil` may change the model that has been loaded. */
export async function rowsOf(
  golden: Golden,
  source: FileSource,
  device: () => Device,
  spoil: (model: JanusForConditionalGeneration) => void = () => undefined,
): Promise<Comparison[]> {
  const checkpoint = await openCheckpoint(source);
  const processor = await readProcessor(source, checkpoint.config);
  const load = async (): Promise<JanusForConditionalGeneration> => {
    const model = await loadModel(checkpoint, { device: device(), dtype: "f32" });
    spoil(model);
    return model;
  };
  const rows: Comparison[] = [];
  for await (const row of new Training(new GoldenInputs(golden, checkpoint.config, processor), load).rows())
    rows.push(row);
  await checkpoint.close();
  await golden[Symbol.asyncDispose]();
  return rows;
}
