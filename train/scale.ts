/**
 * A training run on many devices, on paper: memory of each by kind, and the time of a step from the null device's counts and an alpha-beta
 * model of the messages (a latency and a rate). It follows what sharding/ does: gradients go through host memory, are summed by their
 * owners, and come back.
 */
import type { JanusConfig } from "../model/janus/config.ts";
import { imageTokens } from "../model/janus/config.ts";
import type { TrainConfig } from "./config.ts";
import { estimateStep, longestBatch } from "./estimate.ts";
import type { StepEstimate, StepMemory } from "./estimate.ts";
import { TASKS } from "./samples.ts";
import type { Task } from "./samples.ts";

export const SHARDINGS = ["none", "optimizer", "gradients", "parameters"] as const;
export type AnySharding = (typeof SHARDINGS)[number];

/** A GPU and its surroundings; rates a second, in bytes unless said otherwise (presets/machines.yaml). */
export interface Machine {
  readonly flops: number;
  readonly efficiency: number;
  readonly memory: number;
  readonly memoryBandwidth: number;
  readonly gpus: number;
  readonly shared: number;
  readonly network: number;
  readonly latency: number;
  readonly message: number;
  readonly readback: number;
  readonly upload: number;
}

/** Counts of the longest step of a whole run, whatever the number of devices. */
export interface ScaleCounts {
  readonly config: TrainConfig;
  /** Packed rows of a step over all devices, and FLOPs of their forward and backward: with activations saved, and with layers recomputed. */
  readonly rows: number;
  readonly flops: { readonly saved: number; readonly recomputed: number };
  /** Memory of one device with everything, the same two ways. */
  readonly memory: { readonly saved: StepMemory; readonly recomputed: StepMemory };
  readonly trained: number;
  /** Trained parameters of a layer, and of all that is in no layer. */
  readonly layer: number;
  readonly rest: number;
  readonly layers: number;
  /** Bytes of a weight. */
  readonly weightBytes: number;
}

/** Elements of a bucket of gradients, and how many buckets wait while backward is launched: as in sharding/. */
const BUCKET_BYTES = 25 * 2 ** 20;
const BUCKETS_BEHIND = 8;
/** Parts of a step's work that are backward, without and with recomputation. */
const BACKWARD = { saved: 2 / 3, recomputed: 3 / 4 };
/** Bytes of memory that the optimizer reads and writes for a parameter: gradient, master and two moments, twice all but the first; and the norm. */
const UPDATE_BYTES = 32;

/** Counts the rows and memory of a step on null devices: one row of each task, and two groups of rows for memory. */
export async function countForScale(sizes: JanusConfig, config: TrainConfig): Promise<ScaleCounts> {
  const perRow = Math.max(1, Math.floor(config.length / (imageTokens(sizes) + 1))); // images to be drawn share rows
  const has = (task: Task): number => Number(config.ratios[task] > 0);
  const all = longestBatch(sizes, config);
  const rowsOf = (task: Task): number => Math.ceil(all[task].length / (task === "gen" ? perRow : 1));
  const oneRow = (task: Task, recompute: boolean): Promise<StepEstimate> =>
    estimateStep(sizes, { ...config, recompute, microRows: 1, batch: task === "gen" ? perRow : 1, ratios: { und: 0, text: 0, gen: 0, [task]: 1 } }); // prettier-ignore
  const flopsOf = async (recompute: boolean): Promise<number> => {
    let flops = 0;
    for (const task of TASKS) if (has(task)) flops += rowsOf(task) * (await oneRow(task, recompute)).flops;
    return flops;
  };
  // Two groups of the rows that take most memory: those of images that are drawn take less than texts and answers.
  const isDrawn = !has("und") && !has("text");
  const ratios = { und: has("und"), text: has("text"), gen: isDrawn ? perRow : 0 };
  const batch = config.microRows * (isDrawn ? 2 * perRow : 2);
  const memoryOf = (recompute: boolean): Promise<StepEstimate> =>
    estimateStep(sizes, { ...config, recompute, batch, ratios });
  const [saved, recomputed] = [await memoryOf(false), await memoryOf(true)];
  const { hidden, intermediate, layers, heads, kvHeads, headDim } = sizes.language;
  const trained = saved.parameters.trained;
  const layer = config.stage === 1 ? 0 : hidden * headDim * (2 * heads + 2 * kvHeads) + 3 * hidden * intermediate + 2 * hidden; // prettier-ignore
  return {
    config,
    rows: TASKS.reduce((sum, task) => sum + (has(task) ? rowsOf(task) : 0), 0),
    flops: { saved: await flopsOf(false), recomputed: await flopsOf(true) },
    memory: { saved: saved.memory, recomputed: recomputed.memory },
    trained,
    layer,
    rest: trained - layers * layer,
    layers,
    weightBytes: config.dtype === "f32" ? 4 : 2,
  };
}

/** True if layers are run one at a time and recomputed, as `gradients` and `parameters` do. */
const isSegmented = (sharding: AnySharding, { config }: ScaleCounts): "saved" | "recomputed" =>
  sharding === "gradients" || sharding === "parameters" || config.recompute ? "recomputed" : "saved";

/**
 * Memory of a device by kind, of `ranks`. Divided by their number: state of the optimizer; with `gradients` also gradients, beside those of a layer, of
 * the buckets that are on their way, and of what is in no layer; with `parameters` also trained weights, beside those of a layer and of what is
 * in no layer.
 */
export function scaledMemory(counts: ScaleCounts, sharding: AnySharding, ranks: number): Omit<StepMemory, "buffers"> {
  const { trained, layer, rest, weightBytes } = counts;
  const whole = counts.memory[isSegmented(sharding, counts)];
  const kind = ranks === 1 ? "none" : sharding;
  const share = trained / ranks;
  const gradients = 4 * trained;
  const weights =
    kind === "parameters" ? whole.weights - weightBytes * (trained - share - layer - rest) : whole.weights;
  const kept = Math.min(gradients, 4 * (share + layer + rest) + BUCKETS_BEHIND * BUCKET_BYTES);
  const memory = {
    weights: Math.min(whole.weights, weights),
    optimizer: kind === "none" ? whole.optimizer : whole.optimizer / ranks,
    gradients: kind === "none" ? gradients : kind === "optimizer" ? gradients + 4 * share : kept,
    activations: whole.activations,
  };
  return { ...memory, peak: memory.weights + memory.optimizer + memory.gradients + memory.activations };
}

export interface ScaledStep {
  /** Seconds of forward and backward, of messages and copies through host memory, of those that no work hides, of the optimizer. */
  readonly compute: number;
  readonly messages: number;
  readonly exposed: number;
  readonly update: number;
  readonly total: number;
  /** Bytes that a device sends, and that go between it and its host. */
  readonly sent: number;
  readonly host: number;
  /** Rows one after the other on the device that has most. */
  readonly rounds: number;
}

/** Time of a step on `ranks` devices. Messages are hidden by backward: those of gradients by that of the last rows, those of weights by all work. */
export function scaledStep(counts: ScaleCounts, machine: Machine, sharding: AnySharding, ranks: number): ScaledStep {
  const { trained, rows, layers, weightBytes, config } = counts;
  const way = isSegmented(sharding, counts);
  const rounds = Math.ceil(rows / ranks / config.microRows);
  const rate = machine.flops * machine.efficiency;
  const compute = ((counts.flops[way] / rows) * Math.min(rows, rounds * config.microRows)) / rate;
  const update = (UPDATE_BYTES * trained) / (ranks > 1 && sharding !== "none" ? ranks : 1) / machine.memoryBandwidth;
  if (ranks === 1)
    return { compute, messages: 0, exposed: 0, update, total: compute + update, sent: 0, host: 0, rounds };
  const others = (ranks - 1) / ranks;
  const [gradients, weights] = [4 * trained, weightBytes * trained];
  const isDivided = sharding !== "none";
  const gathers = sharding === "parameters" ? 2 * rounds : sharding === "none" ? 0 : 1;
  // Gradients: to their owners, read and uploaded; the sums: back to all, or together for the norm.
  const sums = { sent: gradients * others * (isDivided ? 1 + 1 / ranks : 2), host: gradients * (isDivided ? 2 + 4 / ranks : 3 + 1 / ranks) }; // prettier-ignore
  const waiting = way === "recomputed" && isDivided && sharding !== "optimizer" ? 2 * gradients * (rounds - 1) : 0;
  const gathered = { sent: gathers * weights * others, host: gathers * weights * (1 + 1 / ranks) };
  const collectives = 3 * Math.ceil(gradients / BUCKET_BYTES) + gathers * (layers + 1);
  const seconds = (sent: number, host: number): number => linkSeconds(machine, ranks, sent) + host / ((machine.readback + machine.upload) / 2); // prettier-ignore
  const latency = collectives * (machine.latency + (ranks - 1) * machine.message);
  const ofSums = seconds(sums.sent, sums.host) + latency;
  const ofRounds = seconds(sharding === "parameters" ? gathered.sent : 0, waiting + (sharding === "parameters" ? gathered.host : 0)); // prettier-ignore
  const atEnd = sharding === "parameters" ? 0 : seconds(gathered.sent, gathered.host);
  const lastBackward = (compute / rounds) * BACKWARD[way];
  const exposed = Math.max(0, ofSums - lastBackward) + Math.max(0, ofRounds - (compute - lastBackward)) + atEnd;
  return {
    compute,
    messages: ofSums + ofRounds + atEnd,
    exposed,
    update,
    total: compute + exposed + update,
    sent: sums.sent + gathered.sent,
    host: sums.host + gathered.host + waiting,
    rounds,
  };
}

/** Time in which a device sends `bytes`, spread evenly over all others: those of its machine and those beyond it at the same time. */
function linkSeconds({ gpus, shared, network }: Machine, ranks: number, bytes: number): number {
  const near = Math.min(gpus, ranks) - 1;
  const nearBytes = (bytes * near) / (ranks - 1);
  return Math.max(nearBytes / shared, (bytes - nearBytes) / network);
}
