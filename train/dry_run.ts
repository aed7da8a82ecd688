/** A training run tried out: what its longest step should take, then one such step on the device, and what it did take. Nothing is written. */
import { OutOfMemoryError, now } from "../engine/index.ts";
import type { DType, Device } from "../engine/index.ts";
import { full, gemm } from "../kernels/index.ts";
import { openCheckpoint } from "../model/checkpoint/checkpoint.ts";
import type { JanusConfig } from "../model/config.ts";
import { loadModel } from "../model/load.ts";
import { folderSource } from "../model/node/files.ts";
import type { TrainConfig } from "./config.ts";
import { estimateStep, launchStep } from "./estimate.ts";
import type { StepEstimate } from "./estimate.ts";
import { Trainer } from "./trainer.ts";

export interface DryRunOptions {
  /** Folder of the model. */
  readonly model: string;
  readonly config: TrainConfig;
  readonly device: Device;
  /** Called before the step is taken. */
  readonly onEstimate?: (estimate: TimedEstimate) => void;
  readonly signal?: AbortSignal;
}

export interface TimedEstimate extends StepEstimate {
  /** FLOPs a second of the Llama's widest matrix product on this device. */
  readonly flopsPerSecond: number;
  /** FLOPs of the step at that rate: it is not quicker. */
  readonly seconds: number;
}

export interface MeasuredStep {
  /** Bytes of tensors at the moment when most were alive. */
  readonly peak: number;
  /** Bytes of the GPU's buffers after the step. */
  readonly buffers: number;
  /** Of the step; kernels are compiled in it. */
  readonly seconds: number;
}

export interface DryRun {
  readonly estimate: TimedEstimate;
  readonly measured: MeasuredStep;
}

/**
 * Estimates the longest step and takes it, with the model's weights. Throws what `estimateStep` throws, and `OutOfMemoryError` before the
 * model is loaded where the device's budget of memory does not hold the step.
 */
export async function dryRun({ model: folder, config, device, onEstimate, signal }: DryRunOptions): Promise<DryRun> {
  const checkpoint = await openCheckpoint(folderSource(folder));
  try {
    const sizes = checkpoint.config;
    const counted = await estimateStep(sizes, config, device);
    const flopsPerSecond = await matmulRate(device, sizes, config);
    const estimate = { ...counted, flopsPerSecond, seconds: counted.flops / flopsPerSecond };
    onEstimate?.(estimate);
    const { peak } = counted.memory;
    if (!counted.fits)
      throw new OutOfMemoryError(
        `a step takes ${gb(peak)} GB of memory, ${device.name} has ${gb(device.pool.budget)} GB for it; recompute=true, a smaller length or microRows, and dtype=bf16 take less`,
      );
    signal?.throwIfAborted();
    const model = await loadModel(checkpoint, { device, dtype: config.dtype, ...(signal && { signal }) });
    const trainer = new Trainer(model, sizes, config, 0);
    try {
      await device.sync();
      device.pool.resetPeak();
      const started = now();
      const { losses } = await launchStep(trainer, sizes, counted.samples);
      await device.sync();
      const seconds = (now() - started) / 1000;
      losses.dispose();
      return {
        estimate,
        measured: { peak: device.pool.stats.peakBytes, buffers: device.pool.stats.reservedBytes, seconds },
      };
    } finally {
      trainer.dispose();
      model.dispose();
    }
  } finally {
    await checkpoint.close();
  }
}

const gb = (bytes: number): string => (bytes / 1e9).toFixed(2);

const RATE_SECONDS = 0.2;

/** FLOPs a second of the product of activations [rows, hidden] with the weight [intermediate, hidden] of an MLP, the best of several. */
async function matmulRate(device: Device, { language }: JanusConfig, config: TrainConfig): Promise<number> {
  const { hidden, intermediate } = language;
  const rows = Math.min(1024, config.length * config.microRows);
  const dtype = config.dtype as DType;
  using a = full([rows, hidden], 0.5, { device });
  using b = full([intermediate, hidden], 0.5, { dtype, device });
  /** Seconds of so many products. */
  const run = async (times: number): Promise<number> => {
    const started = now();
    for (let i = 0; i < times; i++) gemm({ a, b, transB: true }).dispose();
    await device.sync();
    return (now() - started) / 1000;
  };
  await run(1); // compiles
  let best = 0;
  let spent = 0;
  for (let times = 1; spent < RATE_SECONDS; times *= 2) {
    const seconds = await run(times);
    spent += seconds;
    best = Math.max(best, (times * 2 * rows * hidden * intermediate) / seconds);
  }
  device.pool.trim();
  return best;
}
