/** How fast is training: an optimizer step of each stage, the longest that the settings allow, on random weights. */
import { ArgumentError } from "../index.ts";
import type { Device } from "../index.ts";
import { JANUS_PRO_1B } from "../model/janus/config.ts";
import type { JanusConfig } from "../model/janus/config.ts";
import { JANUS_TINY, createModel } from "../model/janus/create.ts";
import { JanusForConditionalGeneration } from "../model/janus/janus.ts";
import { checkConfig } from "../train/config.ts";
import type { TrainConfig } from "../train/config.ts";
import { estimateStep } from "../train/estimate.ts";
import type { StepEstimate } from "../train/estimate.ts";
import { Trainer } from "../train/trainer.ts";
import type { BenchOptions } from "./bench.ts";
import type { Probes } from "./ceilings.ts";
import { measureJobs } from "./measure.ts";
import type { Job } from "./measure.ts";
import type { RowResult, WrongRow } from "./results.ts";

const SIZES: Readonly<Record<"tiny" | "1B", { readonly config: JanusConfig; readonly settings: object }>> = {
  tiny: { config: JANUS_TINY, settings: { batch: 3, length: 160, dtype: "f32" } },
  "1B": { config: JANUS_PRO_1B, settings: { batch: 3, length: 1024, dtype: "bf16" } },
};
export type TrainSize = keyof typeof SIZES;
const STAGES = [1, 2, 3] as const;

export interface TrainOptions extends BenchOptions {
  readonly sizes: readonly TrainSize[];
  readonly dtype?: "f32" | "f16" | "bf16";
}

export const trainRowName = (size: TrainSize, stage: number, dtype: string): string =>
  `${size} ${dtype}: step of stage ${stage}`;

/** Rows that are asked for, without doing any work. */
export const trainRows = ({ sizes, dtype, filter }: Pick<TrainOptions, "sizes" | "dtype" | "filter">) =>
  sizes
    .flatMap((size) => STAGES.map((stage) => ({ size, stage, config: settingsOf(size, stage, dtype) })))
    .map((row) => ({ ...row, name: trainRowName(row.size, row.stage, row.config.dtype) }))
    .filter(({ name }) => name.toLowerCase().includes(filter.filter?.toLowerCase() ?? ""));

const settingsOf = (size: TrainSize, stage: 1 | 2 | 3, dtype?: TrainOptions["dtype"]): TrainConfig =>
  checkConfig({
    stage,
    steps: 1_000_000,
    ratios: { und: 1, text: stage === 1 ? 0 : 1, gen: stage === 1 ? 2 : 1 },
    optimizer: { lr: 1e-4 },
    ...SIZES[size].settings,
    ...(dtype && { dtype }),
  });

export async function benchTrain(
  device: Device,
  probes: Probes | null,
  options: TrainOptions,
): Promise<{ rows: RowResult[]; wrong: WrongRow[] }> {
  const rows: RowResult[] = [];
  const wrong: WrongRow[] = [];
  const wanted = trainRows(options);
  if (!wanted.length)
    throw new ArgumentError(`bench: --filter must name a row of training; got ${JSON.stringify(options.filter.filter)}. See janus bench train --list.`); // prettier-ignore
  for (const { size, config, name } of wanted) {
    options.signal?.throwIfAborted();
    const estimate = await estimateStep(SIZES[size].config, config, device);
    if (!estimate.fits)
      throw new ArgumentError(`bench: ${name} needs ${(estimate.memory.peak / 1e9).toFixed(1)} GB of the device; its budget is ${(device.pool.budget / 1e9).toFixed(1)} GB. Leave --shapes ${size} out.`); // prettier-ignore
    using job = await stepJob(device, probes, { size, config, name, estimate });
    if ("reasons" in job) {
      wrong.push(job.reasons);
      options.onRow?.(job.reasons);
    } else rows.push(...(await measureJobs(device, [job], probes, options)));
  }
  return { rows, wrong };
}

interface Step {
  readonly size: TrainSize;
  readonly config: TrainConfig;
  readonly name: string;
  readonly estimate: StepEstimate;
}

/** A step that is taken again and again. The first one must have a finite loss and gradient; what they are is compared by the tests. */
async function stepJob(
  device: Device,
  probes: Probes | null,
  { size, config, name, estimate }: Step,
): Promise<Job | (Disposable & { reasons: WrongRow })> {
  const sizes = SIZES[size].config;
  const { dtype } = config;
  const model =
    size === "tiny"
      ? createModel(sizes, { seed: 1, dtype, device })
      : new JanusForConditionalGeneration(sizes, { dtype, init: true, device });
  const trainer = new Trainer(model, sizes, config, 0);
  const dispose = (): void => {
    trainer.optimizer.dispose();
    model.dispose();
    device.pool.trim();
  };
  const { samples, launches, flops, bytes, memory } = estimate;
  const { loss, gradNorm } = await trainer.take(samples);
  if (!Number.isFinite(loss) || !Number.isFinite(gradNorm)) {
    const reasons = [`loss ${loss}, gradient norm ${gradNorm}: both must be finite`];
    return { reasons: { kind: "wrong", name, reasons }, [Symbol.dispose]: dispose };
  }
  const tokens = Object.values(estimate.tokens).reduce((a, b) => a + b, 0);
  return {
    name,
    op: "train",
    set: size,
    dtype,
    launches,
    flops,
    bytes,
    eager: () => trainer.take(samples),
    replay: null,
    extraOf: (ms) => ({
      "tokens/s": (1000 * tokens) / ms,
      ...(probes && { "MFU %": (100 * flops) / ms / 1e6 / probes.ceilings.gflops }),
      "peak MB": memory.peak / 1e6,
    }),
    [Symbol.dispose]: dispose,
  };
}
