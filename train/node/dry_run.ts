/**
 * The dry run of a training run: an estimate of its longest step and, optionally, a measurement of one such step on the
 * device. Nothing is written.
 */
import { OutOfMemoryError, now } from "../../engine/index.ts";
import type { DType, Device } from "../../engine/index.ts";
import { full, gemm } from "../../kernels/index.ts";
import { openCheckpoint } from "../../model/janus/checkpoint/checkpoint.ts";
import type { Checkpoint } from "../../model/janus/checkpoint/checkpoint.ts";
import type { JanusForConditionalGeneration } from "../../model/janus/janus.ts";
import { loadModel } from "../../model/janus/load.ts";
import { folderSource } from "../../model/node/files.ts";
import type { TokenizerConfig, TrainConfig } from "../config.ts";
import { loadTokenizer } from "../stage0/image_tokenizer.ts";
import { quantizedBase } from "../lora.ts";
import { needsReference } from "../objective.ts";
import { COUNTED_DRAWING, estimateStep, estimateTokenizerStep, launchStep, launchTokenizerStep } from "../estimate.ts";
import type { StepCounts, StepEstimate } from "../estimate.ts";
import { Trainer } from "../trainer.ts";
import { vqOptions } from "../stage0/options.ts";
import { VqTraining } from "../stage0/trainer.ts";

export interface DryRunOptions<Config = TrainConfig, Estimate extends StepCounts = StepEstimate> {
  /** Folder of the model. */
  readonly model: string;
  readonly config: Config;
  readonly device: Device;
  /** Take the step (default: true). On software Vulkan a step of the 1B model takes hours. */
  readonly measure?: boolean;
  /** Called before the step is taken. */
  readonly onEstimate?: (estimate: Timed<Estimate>) => void;
  readonly signal?: AbortSignal;
}

export type Timed<Estimate extends StepCounts> = Estimate & {
  /** FLOPs a second of a matrix product on this device, of the size that the model has most of. */
  readonly flopsPerSecond: number;
  /** FLOPs of the step at that rate: it is not quicker. */
  readonly seconds: number;
};

export interface MeasuredStep {
  /** Bytes of tensors at the moment when most were alive. */
  readonly peak: number;
  /** Bytes of the GPU's buffers after the step. */
  readonly buffers: number;
  /** Seconds of the step; kernels are compiled in it. */
  readonly seconds: number;
}

export interface DryRun<Estimate extends StepCounts = StepEstimate> {
  readonly estimate: Timed<Estimate>;
  /** Null if no step was taken. */
  readonly measured: MeasuredStep | null;
}

/**
 * Estimates the longest step and takes it, with the model's weights (`measure: false` estimates only). Throws what `estimateStep` throws, and `OutOfMemoryError` before the
 * model is loaded if the device's budget of memory does not hold the step.
 */
export const dryRun = (options: DryRunOptions): Promise<DryRun> =>
  tryOut(options, {
    estimate: ({ config: sizes }, { config, device }) => estimateStep(sizes, config, device),
    product: ({ config: { language } }, { config }) => ({
      rows: Math.min(1024, config.length * config.microRows),
      inner: language.hidden,
      outer: language.intermediate,
    }),
    less: "recompute=true, a smaller length or microRows, and dtype=bf16 take less",
    begin: async (checkpoint, { config, device, signal }, { samples }) => {
      const load = (): Promise<JanusForConditionalGeneration> =>
        loadModel(checkpoint, { device, dtype: config.dtype, ...quantizedBase(config), ...(signal && { signal }) });
      const model = await load();
      const reference = needsReference(config) ? await load() : null;
      const trainer = new Trainer(model, checkpoint.config, config, 0, { reference, drawing: COUNTED_DRAWING });
      return {
        step: async () => {
          const { losses, measures } = await launchStep(trainer, checkpoint.config, samples);
          losses.dispose();
          measures?.dispose();
        },
        dispose: () => {
          for (const one of [trainer, model, reference]) one?.dispose();
        },
      };
    },
  });

/** Tries a step of stage 0, as `dryRun` does those of the others. */
export const dryRunTokenizer = (options: DryRunOptions<TokenizerConfig, StepCounts>): Promise<DryRun<StepCounts>> =>
  tryOut(options, {
    estimate: ({ config: sizes }, { config, device }) => estimateTokenizerStep(sizes, config, device),
    // A 3 × 3 convolution with the channels of the innermost level.
    product: ({ config: { vq } }, { config }) => ({
      rows: Math.min(1024, Math.min(config.batch, config.microBatch) * vq.imageSize ** 2),
      inner: 9 * vq.baseChannels * vq.multipliers.at(-1)!,
      outer: vq.baseChannels * vq.multipliers.at(-1)!,
    }),
    less: "a smaller microBatch takes less",
    begin: async (checkpoint, { config, device }) => {
      const vq = await loadTokenizer(checkpoint, device, config.dtype);
      const training = new VqTraining(vq, vqOptions(config));
      return {
        step: () => launchTokenizerStep(training, checkpoint.config, config, device),
        dispose: () => {
          training.dispose();
          vq.dispose();
        },
      };
    },
  });

/** A matrix product [rows, inner] · [inner, outer]. */
interface Product {
  readonly rows: number;
  readonly inner: number;
  readonly outer: number;
}

/** Parts that differ between the stages. */
interface Kind<Options, Estimate extends StepCounts> {
  readonly estimate: (checkpoint: Checkpoint, options: Options) => Promise<Estimate>;
  readonly product: (checkpoint: Checkpoint, options: Options) => Product;
  /** Settings that take less memory. */
  readonly less: string;
  readonly begin: (
    checkpoint: Checkpoint,
    options: Options,
    estimate: Estimate,
  ) => Promise<{ readonly step: () => Promise<void>; readonly dispose: () => void }>;
}

async function tryOut<Config extends { readonly dtype: string }, Estimate extends StepCounts>(
  options: DryRunOptions<Config, Estimate>,
  kind: Kind<DryRunOptions<Config, Estimate>, Estimate>,
): Promise<DryRun<Estimate>> {
  const { model: folder, config, device, onEstimate, signal } = options;
  const checkpoint = await openCheckpoint(folderSource(folder));
  try {
    checkpoint.requireUnquantized("train");
    checkpoint.requireWhole("train");
    const counted = await kind.estimate(checkpoint, options);
    signal?.throwIfAborted();
    const flopsPerSecond = await matmulRate(device, config.dtype as DType, kind.product(checkpoint, options));
    const estimate = { ...counted, flopsPerSecond, seconds: counted.flops / flopsPerSecond };
    onEstimate?.(estimate);
    const { peak } = counted.memory;
    if (!counted.fits)
      throw new OutOfMemoryError(
        `a step takes ${gb(peak)} GB of memory, ${device.name} has ${gb(device.pool.budget)} GB for it; ${kind.less}`,
      );
    signal?.throwIfAborted();
    if (options.measure === false) return { estimate, measured: null };
    const { step, dispose } = await kind.begin(checkpoint, options, counted);
    try {
      await device.sync();
      signal?.throwIfAborted();
      device.pool.resetPeak();
      const started = now();
      await step();
      await device.sync();
      const seconds = (now() - started) / 1000;
      const { peakBytes, reservedBytes } = device.pool.stats;
      return { estimate, measured: { peak: peakBytes, buffers: reservedBytes, seconds } };
    } finally {
      dispose();
    }
  } finally {
    await checkpoint.close();
  }
}

const gb = (bytes: number): string => (bytes / 1e9).toFixed(2);

const RATE_SECONDS = 0.2;

/** FLOPs a second of a product, the best of several. */
async function matmulRate(device: Device, dtype: DType, { rows, inner, outer }: Product): Promise<number> {
  using a = full([rows, inner], 0.5, { device });
  using b = full([outer, inner], 0.5, { dtype, device });
  /** Seconds for this many products. */
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
    best = Math.max(best, (times * 2 * rows * inner * outer) / seconds);
  }
  device.pool.trim();
  return best;
}
