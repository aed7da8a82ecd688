/**
 * Estimates a training step before it runs: parameters, memory, launches, FLOPs and bytes, counted on a null device
 * that is made like the real one, so that it picks the same kernels. The step is the longest that the settings allow.
 */
import {
  ArgumentError,
  Device,
  Generator,
  OutOfMemoryError,
  construct,
  noGrad,
  scope,
  withLabel,
} from "../engine/index.ts";
import type { Launch, Tensor } from "../engine/index.ts";
import { full, uniform } from "../kernels/index.ts";
import { partOf } from "../model/janus/checkpoint/inspect.ts";
import type { Part } from "../model/janus/checkpoint/inspect.ts";
import { imageTokens } from "../model/janus/config.ts";
import type { JanusConfig } from "../model/janus/config.ts";
import { JanusForConditionalGeneration } from "../model/janus/janus.ts";
import { LoraLinear, linearLayersOf } from "../model/nn/lora.ts";
import { QuantizedLinear } from "../model/nn/quantized_linear.ts";
import { VqModel } from "../model/vq.ts";
import type { TokenizerConfig, TrainConfig } from "./config.ts";
import { CODES_LABEL, ENCODED_AT_ONCE, PREFIX } from "./stage0/image_tokenizer.ts";
import { quantizedBase } from "./lora.ts";
import { needsReference } from "./objective.ts";
import { IGNORE, imageSample, textSample } from "./samples.ts";
import type { Sample, Task } from "./samples.ts";
import { Trainer } from "./trainer.ts";
import type { Accumulated } from "./step_report.ts";
import { vqOptions } from "./stage0/options.ts";
import { VqTraining } from "./stage0/trainer.ts";

/** Bytes of tensors at the moment when most are alive; the kinds add up to `peak`. */
export interface StepMemory {
  readonly weights: number;
  /** State of the optimizer, f32: master weights of 16-bit weights, moments, averages; in stage 0 also a discriminator. */
  readonly optimizer: number;
  readonly gradients: number;
  /** Tensors saved for backward, and temporaries. */
  readonly activations: number;
  readonly peak: number;
  /** Bytes of the GPU's buffers after the step: the pool rounds sizes up and keeps freed buffers. Steps with other shapes add to them. */
  readonly buffers: number;
}

/** Costs of a step of any stage. */
export interface StepCounts {
  /** Elements of each part of the model. */
  readonly parts: Readonly<Partial<Record<Part, { readonly trained: number; readonly frozen: number }>>>;
  readonly parameters: { readonly trained: number; readonly frozen: number };
  readonly memory: StepMemory;
  /** True if it fits the memory budget of the device. */
  readonly fits: boolean;
  readonly launches: number;
  /** FLOPs stated by the kernels: two per multiply-add; attention as if a row were one sample. */
  readonly flops: number;
  /** Read and written by kernels. */
  readonly bytes: number;
}

/** Estimate of a step of stages 1 to 3. */
export interface StepEstimate extends StepCounts {
  readonly rows: number;
  /** Tokens of each task, those that predict nothing too. */
  readonly tokens: Readonly<Record<Task, number>>;
  /** Those that are trained. */
  readonly targets: Readonly<Record<Task, number>>;
  /** The samples that it was counted with. */
  readonly samples: readonly Sample[];
}

const sum = (values: Iterable<number>): number => [...values].reduce((a, b) => a + b, 0);

/** Token ids that differ from each other. */
const someIds = (count: number, vocabulary: number): number[] =>
  Array.from({ length: count }, (_, i) => i % Math.max(1, vocabulary - 1));

/**
 * The samples of the longest step that the settings allow, by task, of each task as many as any step takes. Answers and texts fill a row
 * each, with as many images as fit; images to be drawn share rows, as many as fit, and their prompts fill them. All that may be trained is.
 * Throws `ArgumentError` if a row does not hold an image.
 */
export function longestBatch(sizes: JanusConfig, config: TrainConfig): Record<Task, Sample[]> {
  const { ratios, batch } = config;
  const { vocabulary, maxPositions } = sizes.language;
  const length = Math.min(config.length, maxPositions);
  const places = imageTokens(sizes);
  const share = sum(Object.values(ratios));
  const count = (task: Task): number => Math.ceil((batch * ratios[task]) / share);
  const repeat = (n: number, sample: () => Sample): Sample[] => (n ? new Array<Sample>(n).fill(sample()) : []);

  const answer = (): Sample => {
    const images = Math.floor((length - 2) / (places + 2)); // an image is enclosed in two special tokens
    const placeholder = vocabulary - 1;
    const pixels = new Float32Array(3 * sizes.vision.imageSize ** 2).map((_, i) => ((i * 7) % 256) / 128 - 1);
    const ids = someIds(length, vocabulary);
    for (let k = 0; k < images; k++) ids.fill(placeholder, k * (places + 2) + 1, k * (places + 2) + 1 + places);
    const labels = ids.map((id) => (images && id === placeholder ? IGNORE : id));
    return textSample(
      "und",
      ids,
      labels,
      new Array<Float32Array>(images).fill(pixels),
      placeholder,
      "the longest answer",
    );
  };
  const text = (): Sample => {
    const ids = someIds(length, vocabulary);
    return textSample("text", ids, ids, [], -1, "the longest text");
  };
  const imageSamples = (n: number): Sample[] => {
    const most = Math.floor(length / (places + 1)); // a prompt has two tokens, the last code is no input
    if (n && !most)
      throw new ArgumentError(
        `length ${length}: an image to generate takes at least ${places + 1} tokens; raise length, or set ratios.gen to 0`,
      );
    const codes = Array.from({ length: places }, (_, i) => (37 * i) % sizes.vq.codes);
    return Array.from({ length: n }, (_, i) => {
      const together = Math.min(most, n - Math.floor(i / most) * most); // in its row
      const tokens = Math.floor(length / together) + Number(i % most < length % together);
      return imageSample(someIds(tokens - places + 1, vocabulary), codes, null, "an image in a full row");
    });
  };
  return {
    und: repeat(count("und"), answer),
    text: repeat(count("text"), text),
    gen: imageSamples(count("gen")),
  };
}

/** With guidance, as the model's own settings mostly have it. */
export const COUNTED_DRAWING = { guidance: 5, temperature: 1 };

/** The samples as dpo and grpo train them: each with one that is preferred less, or as an image that was drawn. */
function unitsOf(byTask: Record<Task, Sample[]>, { dpo, grpo }: TrainConfig): Record<Task, Sample[]> {
  const unit = (sample: Sample): Sample => {
    if (dpo) return { ...sample, rejected: sample };
    return grpo ? { ...sample, drawn: { advantage: 1, unconditional: { ...sample } } } : sample;
  };
  return { und: byTask.und.map(unit), text: byTask.text.map(unit), gen: byTask.gen.map(unit) };
}

/**
 * Counts the longest step on a null device. With grpo it is counted without the drawing of images.
 * @param like the device that is to take it: its capabilities and its budget of memory; without it a GPU without bounds
 * Throws `ArgumentError` for settings that hold no sample, `OutOfMemoryError` for a tensor that is larger than a buffer may be.
 */
export async function estimateStep(sizes: JanusConfig, config: TrainConfig, like?: Device): Promise<StepEstimate> {
  const byTask = unitsOf(longestBatch(sizes, { ...config, batch: config.batch * (config.grpo?.group ?? 1) }), config);
  // Rows with images take most; they come last, when the gradients of all others are alive.
  const samples = [...byTask.text, ...byTask.gen, ...byTask.und];
  const { result, ...counts } = await countStep(like, (device) => {
    const create = (): JanusForConditionalGeneration => new JanusForConditionalGeneration(sizes, { dtype: config.dtype, init: false, device, ...quantizedBase(config) }); // prettier-ignore
    const [model, reference] = [create(), needsReference(config) ? create() : null];
    return {
      parameters: () => sizesOf(model),
      begin: () => {
        const trainer = new Trainer(model, sizes, config, 0, { reference, drawing: COUNTED_DRAWING });
        return { trained: trainer.trained, step: () => launchStep(trainer, sizes, samples) };
      },
    };
  });
  const tokensOf = (task: Task): number => sum(byTask[task].map(({ ids }) => ids.length));
  return {
    ...counts,
    rows: result.tokens / config.length,
    tokens: { und: tokensOf("und"), text: tokensOf("text"), gen: tokensOf("gen") },
    targets: result.counts,
    samples,
  };
}

/** Counts a step of stage 0, as `estimateStep` does those of the others. */
export async function estimateTokenizerStep(
  sizes: JanusConfig,
  config: TokenizerConfig,
  like?: Device,
): Promise<StepCounts> {
  const { result: _, ...counts } = await countStep(like, (device) => {
    const vq = new VqModel(sizes.vq, { init: false, device });
    const parameters = new Map([...vq.namedParameters()].map(([name, parameter]) => [PREFIX + name, parameter]));
    return {
      parameters: () => parameters,
      begin: () => {
        const training = new VqTraining(vq, vqOptions(config));
        const other = training.adversary?.discriminator.namedParameters() ?? [];
        return {
          trained: new Map([...parameters, ...other]),
          step: () => launchTokenizerStep(training, sizes, config, device),
        };
      },
    };
  });
  return counts;
}

interface Sized {
  readonly size: number;
}

/** The parameters of a model by name, its quantised weights too. */
function sizesOf(model: JanusForConditionalGeneration): Map<string, Sized> {
  const found = new Map<string, Sized>(model.namedParameters());
  for (const [path, layer] of linearLayersOf(model)) {
    const base = layer instanceof LoraLinear ? layer.base : layer;
    if (base instanceof QuantizedLinear) found.set(`${path}.qweight`, { size: base.outFeatures * base.inFeatures });
  }
  return found;
}

/** A model on a device, and what trains it, made only after the model has been counted. */
type Made<T> = (device: Device) => {
  /** Under their names in the model, at the moment. */
  readonly parameters: () => ReadonlyMap<string, Sized>;
  readonly begin: () => {
    readonly trained: ReadonlyMap<string, Tensor>;
    readonly step: () => Promise<T>;
  };
};

/** Counts a step on a null device; if the budget of `like` does not hold it, on a null device without a budget. */
async function countStep<T>(like: Device | undefined, make: Made<T>): Promise<StepCounts & { readonly result: T }> {
  try {
    return await countOn(like, make, true);
  } catch (error) {
    if (!(error instanceof OutOfMemoryError)) throw error;
    return await countOn(like, make, false);
  }
}

async function countOn<T>(
  like: Device | undefined,
  make: Made<T>,
  fits: boolean,
): Promise<StepCounts & { readonly result: T }> {
  const device = await Device.createCounting({
    ...(like && { capabilities: like.capabilities }),
    ...(like && fits && { memoryBudget: like.pool.budget }),
    ...(!fits && { memoryBudget: Infinity }),
  });
  try {
    const { stats } = device.pool;
    const made = construct(() => make(device));
    const parts: Partial<Record<Part, { trained: number; frozen: number }>> = {};
    const [loaded, before] = [stats.liveBytes, made.parameters()];
    const { trained, step } = made.begin();
    const parameters = made.parameters();
    const added = [...trained].filter(([name]) => parameters.has(name) && !before.has(name)); // adapters
    const weights = loaded + sum(added.map(([, { storage }]) => storage.bytes));
    for (const [name, { size }] of parameters) {
      const part = (parts[partOf(name)] ??= { trained: 0, frozen: 0 });
      part[trained.has(name) ? "trained" : "frozen"] += size;
    }
    const optimizer = stats.liveBytes - weights;
    device.pool.resetPeak();
    let peak = 0;
    let gradients = 0;
    const work = { launches: 0, flops: 0, bytes: 0 };
    const watch = (launch?: Launch): void => {
      if (launch && !launch.label.startsWith(CODES_LABEL)) {
        work.launches++;
        work.flops += launch.cost?.flops ?? 0;
        work.bytes += launch.cost?.bytes ?? 0;
      }
      if (stats.peakBytes === peak) return;
      peak = stats.peakBytes;
      const storages = new Set([...trained.values()].flatMap(({ grad }) => (grad ? [grad.storage] : [])));
      gradients = sum([...storages].map(({ bytes }) => bytes));
    };
    device.onLaunch(watch);
    const result = await step();
    watch();
    const values = Object.values(parts);
    return {
      parts,
      parameters: { trained: sum(values.map((v) => v.trained)), frozen: sum(values.map((v) => v.frozen)) },
      memory: {
        weights,
        optimizer,
        gradients,
        activations: peak - weights - optimizer - gradients,
        peak,
        buffers: stats.reservedBytes,
      },
      fits,
      ...work,
      result,
    };
  } finally {
    device.destroy();
  }
}

/**
 * Launches a step and, while its gradients are alive, what a run may launch between the rows of a step: the image tokenizer, over as many
 * images as the loader gives it at once. The caller disposes the losses.
 */
export async function launchStep(
  trainer: Trainer,
  { vq }: JanusConfig,
  samples: readonly Sample[],
): Promise<Accumulated> {
  const step = await trainer.accumulate(samples);
  const images = samples.filter(({ task }) => task === "gen").length;
  if (images) {
    const shape = [Math.min(ENCODED_AT_ONCE, images), 3, vq.imageSize, vq.imageSize];
    const { device } = trainer;
    withLabel(CODES_LABEL, () =>
      noGrad(() => scope(() => void trainer.model.model.vqmodel.encode(full(shape, 0.1, { device })))),
    );
  }
  trainer.update(step.losses);
  return step;
}

/** Launches a step of stage 0, on images that are noise. */
export async function launchTokenizerStep(
  training: VqTraining,
  { vq }: JanusConfig,
  { batch, microBatch }: TokenizerConfig,
  device: Device,
): Promise<void> {
  const parts: Tensor[] = [];
  const generator = new Generator(0, { device });
  for (let left = batch; left > 0; left -= microBatch) {
    const shape = [Math.min(left, microBatch), 3, vq.imageSize, vq.imageSize];
    parts.push(uniform(shape, -1, 1, { generator, site: left, device }));
  }
  generator.dispose();
  try {
    const { losses, codes, vectors } = await training.launch(...parts);
    for (const t of [losses, codes, vectors]) t.dispose();
  } finally {
    for (const part of parts) part.dispose();
  }
}
