/**
 * How jobs are measured: rounds over all of them, so that whatever the machine does meanwhile meets each; in every round the ceilings, then of
 * each job GPU time by timestamps and wall times of whole calls, run op by op and replayed.
 */
import { profile, tally } from "../engine/index.ts";
import type { Device } from "../engine/index.ts";
import type { Ceilings, Probes } from "./ceilings.ts";
import { sampleWall } from "./harness.ts";
import { flagsOf, ratesOf, wallOf } from "./results.ts";
import type { RowResult, RowWork, Settings, WrongRow } from "./results.ts";
import { median, spreadOf } from "./stats.ts";
import type { Spread } from "./stats.ts";

/** Something to be timed, checked already. */
export interface Job extends RowWork, Disposable {
  /** Records the launches of a call; what it frees it frees itself. */
  readonly eager: () => unknown;
  /** Records them from a capture. */
  readonly replay: (() => unknown) | null;
  /** Calls with other inputs each time, for cold caches; null if the inputs are too small or too large for that. */
  readonly rotate?: () => Rotation | null;
  readonly extraOf?: (ms: number) => Readonly<Record<string, number>>;
}

export interface Rotation extends Disposable {
  readonly call: () => unknown;
}

export interface MeasureOptions extends Settings {
  readonly signal?: AbortSignal;
  readonly onProgress?: (done: number, total: number, label: string) => void;
  /** Called with each row once it is measured, or known to be wrong; when the run is stopped, with those that were measured in some rounds. */
  readonly onRow?: (row: RowResult | WrongRow) => void;
}

/** Calls are put behind each other until they take so long, then the device is waited for: the wait itself is up to a millisecond. */
const BURST_MS = { software: 20, hardware: 5 };
const MAX_BURST = 500;
/** A round goes on taking GPU times for so long. */
const GPU_SAMPLING_MS = 50;

/** Launches, FLOPs and bytes of a call. */
export function workOfCall(run: () => unknown, device: Device): { launches: number; flops: number; bytes: number } {
  const { launches, flops, bytes } = tally(run, device);
  return { launches, flops, bytes };
}

interface Times {
  readonly job: Job;
  readonly calls: number;
  readonly gpu: number[][];
  readonly eager: number[][];
  readonly captured: number[][];
  readonly probes: Ceilings[];
}

/** Measures jobs together. If that is stopped or fails, the rows of the rounds so far are reported before the error is thrown. */
export async function measureJobs(
  device: Device,
  jobs: readonly Job[],
  probes: Probes | null,
  options: MeasureOptions,
): Promise<RowResult[]> {
  const all: Times[] = [];
  const rows: RowResult[] = [];
  const add = (times: Times, cold: Spread | null): void => {
    const row = rowOf(times, probes, cold);
    rows.push(row);
    options.onRow?.(row);
  };
  try {
    for (const job of jobs) all.push(await warmUp(device, job));
    await measureRounds(device, all, probes, options);
    for (const times of all) {
      options.signal?.throwIfAborted();
      add(times, await measureCold(device, times, options));
    }
  } catch (error) {
    for (const times of all.slice(rows.length)) if (times.eager.length) add(times, null);
    throw error;
  }
  return rows;
}

async function measureRounds(
  device: Device,
  all: readonly Times[],
  probes: Probes | null,
  options: MeasureOptions,
): Promise<void> {
  for (let round = 0; round < options.rounds; round++) {
    const now = await probes?.measure();
    for (const [i, times] of all.entries()) {
      options.signal?.throwIfAborted();
      options.onProgress?.(round * all.length + i, options.rounds * all.length, times.job.name);
      await measureRound(device, times, options);
      if (now) times.probes.push(now);
    }
  }
}

/** A burst of calls and the wait for them. */
const burst = (device: Device, call: () => unknown, calls: number) => async (): Promise<void> => {
  for (let i = 0; i < calls; i++) await call();
  await device.sync();
};

async function warmUp(device: Device, job: Job): Promise<Times> {
  const once = burst(device, job.eager, 1);
  await once();
  const started = performance.now();
  await once();
  const ms = performance.now() - started;
  const least = BURST_MS[device.capabilities.software ? "software" : "hardware"];
  let calls = Math.max(1, Math.min(MAX_BURST, Math.ceil(least / ms)));
  if (calls > 1) {
    // A single call is mostly its wait: the count comes from a burst.
    const begin = performance.now();
    await burst(device, job.eager, calls)();
    calls = Math.max(1, Math.min(MAX_BURST, Math.ceil((calls * least) / (performance.now() - begin))));
  }
  if (job.replay) await burst(device, job.replay, 1)();
  return { job, calls, gpu: [], eager: [], captured: [], probes: [] };
}

/** Adds a round to the times, or if it fails nothing. */
async function measureRound(device: Device, times: Times, { rounds, seconds }: Settings): Promise<void> {
  const { job, calls } = times;
  const wall = async (call: () => unknown): Promise<number[]> => {
    const ms = await sampleWall(job.name, burst(device, call, calls), { seconds: seconds / rounds });
    return ms.map((one) => one / calls);
  };
  const gpu = device.capabilities.timestamps ? await gpuMs(device, job.eager) : null;
  const eager = await wall(job.eager);
  const captured = job.replay ? await wall(job.replay) : null;
  if (gpu) times.gpu.push(gpu);
  times.eager.push(eager);
  if (captured) times.captured.push(captured);
}

/** GPU times of a few calls: up to five, of long ones one. */
async function gpuMs(device: Device, call: () => unknown): Promise<number[]> {
  const found: number[] = [];
  const begin = performance.now();
  while (found.length === 0 || (found.length < 5 && performance.now() - begin < GPU_SAMPLING_MS))
    found.push((await profile(call, device)).totalMs);
  return found;
}

/** Calls with cold caches, after the rounds: other buffers in every call, which take more memory than all jobs together may. */
async function measureCold(device: Device, { job, calls }: Times, settings: Settings): Promise<Spread | null> {
  using rotation = job.rotate?.() ?? null;
  if (!rotation) return null;
  const few = Math.min(calls, 8);
  const samples = await sampleWall(job.name, burst(device, rotation.call, few), {
    seconds: settings.seconds / 4,
    minSamples: 3,
  });
  return spreadOf([samples.map((ms) => ms / few)]);
}

function rowOf(times: Times, probes: Probes | null, cold: Spread | null): RowResult {
  const { job } = times;
  const { name, op, set, dtype, launches, flops, bytes } = job;
  const eager = spreadOf(times.eager);
  const captured = times.captured.length ? spreadOf(times.captured) : null;
  const gpu = times.gpu.length ? spreadOf(times.gpu) : null;
  const wall = wallOf({ eager, captured });
  const row: Omit<RowResult, "rates"> = {
    kind: "row",
    name,
    op,
    set,
    dtype,
    launches,
    flops,
    bytes,
    gpu,
    eager,
    captured,
    cold,
    probes: { gflops: times.probes.map((p) => p.gflops), readGbs: times.probes.map((p) => p.readGbs) },
    flags: flagsOf(gpu, wall),
    ...(job.extraOf && { extra: job.extraOf(median(wall.rounds)) }),
  };
  return { ...row, rates: probes ? ratesOf(row, probes.ceilings) : null };
}
