/**
 * Plans a fine-tuning for a given memory: which method, dtype, rows at once and recomputation fit, counted on the null device exactly as a step runs. Methods are
 * tried from the one that can learn most to the one that takes least; the first that fits is taken.
 */
import { OutOfMemoryError } from "../engine/index.ts";
import type { Device } from "../engine/index.ts";
import type { JanusConfig } from "../model/janus/config.ts";
import { imageTokens } from "../model/janus/config.ts";
import { checkConfig, TrainConfigError } from "./config.ts";
import type { TrainConfig } from "./config.ts";
import { estimateStep } from "./estimate.ts";
import type { StepEstimate } from "./estimate.ts";
import { TASKS } from "./samples.ts";
import type { Task } from "./samples.ts";

/** From the one that takes most memory to the one that takes least; `full int8` keeps the moments of AdamW in 8 bits and no f32 masters. */
export const METHODS = ["full", "full int8", "LoRA", "QLoRA int8", "QLoRA int4"] as const;
export type Method = (typeof METHODS)[number];

export interface PlanRequest {
  readonly sizes: JanusConfig;
  /** Bytes of the GPU's memory that may be used. */
  readonly memory: number;
  /** Good records of each task. */
  readonly records: Readonly<Record<Task, number>>;
  /** Tokens of the longest record. */
  readonly longest: number;
  /** How often each record is read. */
  readonly epochs: number;
  /** Only this method. */
  readonly method?: Method;
  /** The device that is to train: its capabilities, of which the choice of kernels depends. */
  readonly like?: Device;
}

/** A way to train that was counted. */
export interface Candidate {
  readonly method: Method;
  readonly recompute: boolean;
  readonly microRows: number;
  /** Bytes of the buffers of the longest step; null: not even a single tensor fits. */
  readonly bytes: number | null;
  readonly fits: boolean;
}

export interface Plan {
  readonly method: Method;
  readonly config: TrainConfig;
  /** Count of the longest step of two groups of rows. */
  readonly estimate: StepEstimate;
  /** FLOPs of one step. */
  readonly flops: number;
  /** All that was counted, in order; the last is the one that was taken. */
  readonly tried: readonly Candidate[];
}

/** Part of the memory that is left to the driver, its shaders and the screen. */
const SPARE = 0.06;
const RANK = 16;
const MAX_BATCH = 16;
/** Rows are whole numbers of these tokens. */
const ROW_STEP = 64;
const MAX_ROW = 4096;
/** Rows at once, from the most on: more rows use the GPU better, but beyond a few nothing is gained. */
const ROWS = [4, 2, 1];
/** Learning rates that are usual for the methods (Hu et al. 2021, Dettmers et al. 2023). */
const RATES = { full: 2e-5, adapter: 2e-4 };

/** Returns the first plan that fits. Throws `TrainConfigError` that lists what was counted if none does. */
export async function planFinetune(request: PlanRequest): Promise<Plan> {
  const { sizes, memory, like } = request;
  const tried: Candidate[] = [];
  const budget = memory * (1 - SPARE);
  for (const method of request.method ? [request.method] : METHODS)
    for (const recompute of [false, true]) {
      // One row that does not fit makes counts of more needless; if it fits, more may.
      const count = async (microRows: number): Promise<Plan | null> => {
        const config = configOf(request, { method, recompute, microRows });
        const found = await counted(sizes, config, like);
        const bytes = found?.memory.buffers ?? null;
        const fits = bytes !== null && bytes <= budget;
        tried.push({ method, recompute, microRows, bytes, fits });
        if (!found || !fits) return null;
        return { method, config, estimate: found, flops: found.flops * (config.batch / found.samples.length), tried };
      };
      let best = await count(1);
      if (!best) continue;
      for (const microRows of ROWS.slice(0, -1)) {
        if (microRows > best.config.batch) continue;
        const more = await count(microRows);
        if (more) {
          best = more;
          break;
        }
      }
      return { ...best, tried };
    }
  throw new TrainConfigError(
    `finetune: a step must fit ${gb(memory)} GB of memory, ${Math.round(SPARE * 100)} % of it spare; got at least ${gb(Math.min(...tried.map(({ bytes }) => bytes ?? Infinity)))} GB. Use a GPU with more, shorter records, or a smaller model:\n  ${tried.map(candidateText).join("\n  ")}`,
  );
}

const gb = (bytes: number): string => (bytes / 1e9).toFixed(1);

/** `LoRA, blocks recomputed, 2 rows at once: 7.3 GB` */
export const candidateText = ({ method, recompute, microRows, bytes }: Candidate): string =>
  `${method}, blocks ${recompute ? "" : "not "}recomputed, ${microRows} ${microRows === 1 ? "row" : "rows"} at once: ${bytes === null ? "a tensor is larger than a buffer" : `${gb(bytes)} GB`}`;

/** Counts the longest step of two groups of rows, the second of which meets the gradients of the first. Null if it has a tensor that no buffer holds. */
async function counted(
  sizes: JanusConfig,
  config: TrainConfig,
  like: Device | undefined,
): Promise<StepEstimate | null> {
  const perRow = Math.floor(config.length / (imageTokens(sizes) + 1)); // images to be drawn share rows
  const has = (task: Task): number => Number(config.ratios[task] > 0);
  const ratios = { und: has("und"), text: has("text"), gen: has("gen") * Math.max(1, perRow) };
  const batch = 2 * config.microRows * (ratios.und + ratios.text + ratios.gen);
  try {
    return await estimateStep(sizes, { ...config, batch, ratios }, like);
  } catch (error) {
    if (error instanceof OutOfMemoryError) return null;
    throw error;
  }
}

/** Settings of a way to train. */
function configOf(
  { sizes, records, longest, epochs }: PlanRequest,
  { method, recompute, microRows }: Pick<Candidate, "method" | "recompute" | "microRows">,
): TrainConfig {
  const total = TASKS.reduce((sum, task) => sum + records[task], 0);
  if (total === 0)
    throw new TrainConfigError(
      "finetune: the data must have at least one good record; got none. Run janus data preview on it.",
    );
  const batch = Math.min(MAX_BATCH, total);
  const steps = Math.max(1, Math.ceil((epochs * total) / batch));
  const needed = Math.max(longest, records.gen ? imageTokens(sizes) + ROW_STEP : 0);
  const most = Math.min(MAX_ROW, sizes.language.maxPositions);
  const isFull = method === "full" || method === "full int8";
  return checkConfig(
    {
      stage: 2,
      batch,
      length: Math.min(most, ROW_STEP * Math.ceil(needed / ROW_STEP)),
      steps,
      ratios: ratiosOf(records, batch),
      optimizer: {
        lr: isFull ? RATES.full : RATES.adapter,
        warmup: Math.min(100, Math.ceil(steps / 20)),
        ...(method === "full int8" && { moments: "int8", masters: "bf16" }),
      },
      microRows,
      recompute,
      dtype: "bf16",
      ...(!isFull && { lora: { rank: RANK, ...(method !== "LoRA" && { quantize: method.slice("QLoRA ".length) }) } }),
      data: { truncate: true },
      save: { every: Math.max(1, Math.min(500, Math.ceil(steps / 4))) },
    },
    "finetune",
  );
}

/** Samples of each task in a step, as near to their share of the records as whole numbers of at least 1 come. */
function ratiosOf(records: Readonly<Record<Task, number>>, batch: number): Record<Task, number> {
  const total = TASKS.reduce((sum, task) => sum + records[task], 0);
  const share = (task: Task): number =>
    records[task] === 0 ? 0 : Math.max(1, Math.round((batch * records[task]) / total));
  return { und: share("und"), text: share("text"), gen: share("gen") };
}
