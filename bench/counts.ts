/**
 * `node scripts/run.mjs bench/counts.ts`: launches, FLOPs and bytes of the 1B and the 7B model's work, and memory of a step of their training,
 * from the null device: no GPU, no weights.
 */
import { Device, tally } from "../index.ts";
import type { Quantization } from "../index.ts";
import type { CacheDType } from "../kernels/index.ts";
import { JANUS_PRO_1B, JANUS_PRO_7B } from "../model/janus/config.ts";
import type { JanusConfig } from "../model/janus/config.ts";
import { JanusForConditionalGeneration } from "../model/janus/janus.ts";
import { loadConfig } from "../train/node/settings.ts";
import { STAGES } from "../train/stages.ts";
import { estimateStep } from "../train/estimate.ts";
import type { StepEstimate } from "../train/estimate.ts";
import { table } from "./harness.ts";
import { workloads } from "./workloads.ts";

export interface Count {
  readonly name: string;
  readonly launches: number;
  readonly flops: number;
  readonly bytes: number;
  readonly pipelines: number;
  /** Peak bytes of all tensors alive, weights included. */
  readonly peakBytes: number;
}

/** Counts with bf16 weights, some of them quantised if `quantize` is given. */
export async function countWork(
  config: JanusConfig,
  quantize?: Quantization,
  cacheDType: CacheDType = "f32",
): Promise<Count[]> {
  const device = await Device.create({ backend: "null" });
  const options = { dtype: "bf16", init: false, device, ...(quantize && { quantize }) } as const;
  const model = new JanusForConditionalGeneration(config, options).setRequiresGrad(false);
  model.cacheDType = cacheDType;
  const counts: Count[] = [];
  {
    using work = workloads(model, config);
    for (const { name, run } of work.list) {
      device.pool.resetPeak();
      const { launches, flops, bytes, pipelines } = tally(run, device);
      counts.push({ name, launches, flops, bytes, pipelines: pipelines.size, peakBytes: device.pool.stats.peakBytes });
    }
  }
  device.destroy();
  return counts;
}

/** The longest step that a stage's preset allows, of ten samples instead of its batch: one row at a time, bf16 weights, f32 masters. */
export const countTraining = (config: JanusConfig, stage: number, recompute: boolean): Promise<StepEstimate> =>
  estimateStep(config, loadConfig(`stage${stage}`, ["dtype=bf16", "batch=10", `recompute=${recompute}`]));

async function printTraining(config: JanusConfig): Promise<void> {
  const rows: string[][] = [];
  for (const stage of STAGES)
    for (const recompute of [false, true]) {
      const step = await countTraining(config, stage, recompute);
      const { weights, optimizer, gradients, activations, peak } = step.memory;
      rows.push([
        `stage ${stage}${recompute ? ", layers recomputed" : ""}`,
        String(step.rows),
        String(step.launches),
        (step.flops / 1e12).toFixed(1),
        (step.bytes / 1e12).toFixed(2),
        ...[weights, optimizer, gradients, activations, peak].map((bytes) => (bytes / 1e9).toFixed(2)),
      ]);
    }
  const head = [
    "step",
    "rows",
    "launches",
    "TFLOP",
    "TB",
    "weights",
    "optimizer",
    "gradients",
    "activations",
    "peak GB",
  ];
  console.log(table(head, rows));
}

function printWork(counts: readonly Count[]): void {
  const rows = counts.map((r) => [
    r.name,
    String(r.launches),
    (r.flops / 1e9).toFixed(1),
    (r.bytes / 1e9).toFixed(2),
    String(r.pipelines),
    (r.peakBytes / 1e9).toFixed(2),
  ]);
  console.log(table(["work", "launches", "GFLOP", "GB", "pipelines", "peak GB"], rows));
}

export async function printCounts(): Promise<void> {
  for (const [size, config] of [
    ["1B", JANUS_PRO_1B],
    ["7B", JANUS_PRO_7B],
  ] as const) {
    for (const quantize of [undefined, "int8", "int4"] as const) {
      console.log(`\nJanus-Pro-${size}, ${quantize ?? "bf16"} weights, on the null device`);
      printWork(await countWork(config, quantize));
    }
    console.log(`\nA step of its training: ten samples in rows of 4,096 tokens, one row at a time`);
    await printTraining(config);
  }
}

if (process.argv[1]?.endsWith("counts.ts")) await printCounts();
