/** How fast is the model: a step of decoding, prefill, vision tower, image tokenizer, each eager and captured. */
import { ArgumentError, capture } from "../index.ts";
import type { Captured, Device } from "../index.ts";
import { forceVariant } from "../kernels/core/variants.ts";
import { JANUS_PRO_1B, JANUS_PRO_7B } from "../model/janus/config.ts";
import type { JanusConfig } from "../model/janus/config.ts";
import { JANUS_TINY, createModel } from "../model/janus/create.ts";
import { JanusForConditionalGeneration } from "../model/janus/janus.ts";
import { relativeL2, tolerance } from "../tests/harness.ts";
import type { BenchOptions } from "./bench.ts";
import type { Probes } from "./ceilings.ts";
import { countWork } from "./counts.ts";
import { measureJobs, workOfCall } from "./measure.ts";
import type { Job } from "./measure.ts";
import type { RowResult, WrongRow } from "./results.ts";
import { workloads } from "./workloads.ts";
import type { Workload } from "./workloads.ts";

export const MODEL_SIZES = { tiny: JANUS_TINY, "1B": JANUS_PRO_1B, "7B": JANUS_PRO_7B } as const;
export type ModelSize = keyof typeof MODEL_SIZES;

/** Longest sum behind a value of a whole model, for the bound of its check. */
const TERMS = 2 ** 16;
const DECODERS = /token behind|guided image token/;

export interface ModelOptions extends BenchOptions {
  readonly sizes: readonly ModelSize[];
  readonly dtype?: "f32" | "f16" | "bf16";
}

/** Throws `ArgumentError` if the device has no memory for a size. */
export async function requireRoom(device: Device, sizes: readonly ModelSize[]): Promise<void> {
  for (const size of sizes) {
    if (size === "tiny") continue;
    const needed = Math.max(...(await countWork(MODEL_SIZES[size])).map(({ peakBytes }) => peakBytes));
    if (needed > device.pool.budget)
      throw new ArgumentError(
        `bench: --shapes ${size} needs ${(needed / 1e9).toFixed(1)} GB of the device; its budget is ${(device.pool.budget / 1e9).toFixed(1)} GB. Leave it out.`,
      );
  }
}

export async function benchModel(
  device: Device,
  probes: Probes | null,
  options: ModelOptions,
): Promise<{ rows: RowResult[]; wrong: WrongRow[] }> {
  await requireRoom(device, options.sizes);
  const rows: RowResult[] = [];
  const wrong: WrongRow[] = [];
  for (const size of options.sizes) {
    const done = await benchSize(device, probes, size, options);
    rows.push(...done.rows);
    wrong.push(...done.wrong);
  }
  if (!rows.length && !wrong.length)
    throw new ArgumentError(`bench: --filter must name a row of the model; got ${JSON.stringify(options.filter.filter)}. See janus bench model --list.`); // prettier-ignore
  return { rows, wrong };
}

/** What rows of the model are called, for `--list`. */
export const modelRowName = (size: ModelSize, dtype: string, name: string): string => `${size} ${dtype}: ${name}`;

async function benchSize(
  device: Device,
  probes: Probes | null,
  size: ModelSize,
  options: ModelOptions,
): Promise<{ rows: RowResult[]; wrong: WrongRow[] }> {
  const config = MODEL_SIZES[size];
  const dtype = options.dtype ?? (size === "tiny" ? "f32" : "bf16");
  const model = modelOf(size, config, dtype, device);
  const wrong: WrongRow[] = [];
  const jobs: Job[] = [];
  try {
    using work = workloads(model, config);
    const wanted = options.filter.filter?.toLowerCase() ?? "";
    for (const workload of work.list) {
      const name = modelRowName(size, dtype, workload.name);
      if (!name.toLowerCase().includes(wanted)) continue;
      options.onProgress?.(0, work.list.length, `${name}: checking`);
      const reasons = size === "tiny" ? await check(workload, dtype) : [];
      if (reasons.length) {
        wrong.push({ kind: "wrong", name, reasons });
        options.onRow?.(wrong.at(-1)!);
      } else jobs.push(await jobOf(workload, name, { size, dtype, device, work }));
    }
    return { rows: await measureJobs(device, jobs, probes, options), wrong };
  } finally {
    for (const job of jobs) job[Symbol.dispose]();
    model.dispose();
    device.pool.trim();
  }
}

/** Random weights; at full size what lies in memory, for filling them takes long and changes no time. */
const modelOf = (
  size: ModelSize,
  config: JanusConfig,
  dtype: "f32" | "f16" | "bf16",
  device: Device,
): JanusForConditionalGeneration =>
  (size === "tiny"
    ? createModel(config, { seed: 1, dtype, device })
    : new JanusForConditionalGeneration(config, { dtype, init: false, device })
  ).setRequiresGrad(false);

/** With the reference variants of the hot kernels, which the tests hold to float64. */
const withReferenceKernels = <T>(fn: () => T): T =>
  forceVariant("matmul", "naive", () => forceVariant("attention", "naive", () => forceVariant("conv2d", "naive", fn)));

/** Against the same computation by the reference variants; tokens must be equal. */
async function check(workload: Workload, dtype: "f32" | "f16" | "bf16"): Promise<string[]> {
  using got = workload.result();
  using expected = withReferenceKernels(workload.result);
  const [a, b] = [await got.data(), await expected.data()];
  if (workload.tokens) {
    const at = a.findIndex((token, i) => token !== b[i]);
    return at < 0 ? [] : [`token ${at} is ${a[at]}, by the reference kernels ${b[at]}`];
  }
  const error = relativeL2(a, b);
  const allowed = tolerance("forward", [dtype], TERMS);
  return error <= allowed ? [] : [`relative L2 distance ${error.toExponential(1)} to the reference kernels, at most ${allowed.toExponential(1)} is right`]; // prettier-ignore
}

interface JobOptions {
  readonly size: ModelSize;
  readonly dtype: string;
  readonly device: Device;
  readonly work: ReturnType<typeof workloads>;
}

async function jobOf(
  { name, run, tokens, isCapturable }: Workload,
  rowName: string,
  { size, dtype, device, work }: JobOptions,
): Promise<Job> {
  const decoder = DECODERS.test(name) ? (name.startsWith("guided") ? work.image : work.text) : null;
  // A step of decoding is taken back, so that any number of them fits the cache.
  const call = decoder ? () => (run(), decoder.stepBack()) : run;
  let captured: Captured<void> | null = null;
  if (isCapturable) captured = await capture(call, { device });
  return {
    name: rowName,
    op: "model",
    set: size,
    dtype,
    ...workOfCall(run, device),
    eager: call,
    replay: captured && (() => captured.replay()),
    ...(tokens && { extraOf: (ms: number) => ({ "tokens/s": (1000 * tokens) / ms }) }),
    [Symbol.dispose]: () => captured?.dispose(),
  };
}
