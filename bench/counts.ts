/** `node scripts/run.mjs bench/counts.ts`: launches, FLOPs and bytes of the 1B and the 7B model's work, from the null device: no GPU, no weights. */
import { Device, setDevice, tally } from "../index.ts";
import { JANUS_PRO_1B, JANUS_PRO_7B } from "../model/config.ts";
import type { JanusConfig } from "../model/config.ts";
import { JanusForConditionalGeneration } from "../model/janus.ts";
import { table } from "./harness.ts";
import { workloads } from "./workloads.ts";

export interface Count {
  readonly name: string;
  readonly launches: number;
  readonly flops: number;
  readonly bytes: number;
  readonly pipelines: number;
  /** Of all tensors alive, weights included. */
  readonly peakBytes: number;
}

/** Counts with bf16 weights and an f32 cache. */
export async function countWork(config: JanusConfig): Promise<Count[]> {
  const device = await Device.create({ backend: "null" });
  setDevice(device);
  const model = new JanusForConditionalGeneration(config, { dtype: "bf16", init: false, device }).setRequiresGrad(
    false,
  );
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

export async function printCounts(): Promise<void> {
  for (const [size, config] of [
    ["1B", JANUS_PRO_1B],
    ["7B", JANUS_PRO_7B],
  ] as const) {
    const rows = await countWork(config);
    console.log(`\nJanus-Pro-${size}, bf16 weights, on the null device`);
    console.log(
      table(
        ["work", "launches", "GFLOP", "GB", "pipelines", "peak GB"],
        rows.map((r) => [
          r.name,
          String(r.launches),
          (r.flops / 1e9).toFixed(1),
          (r.bytes / 1e9).toFixed(2),
          String(r.pipelines),
          (r.peakBytes / 1e9).toFixed(2),
        ]),
      ),
    );
  }
}

if (process.argv[1]?.endsWith("counts.ts")) await printCounts();
