/**
 * Which variants of kernels are fastest on this device? For the rows of the bench, each variant that runs is checked against float64 and timed
 * in turn with the others, by class of problem. The result is a table for `Device.create` (`engine/tuned.ts`).
 */
import { capture, now } from "../index.ts";
import type { Captured, Device, Tensor, TunedVariants } from "../index.ts";
import { forceVariant, observeVariants } from "../kernels/core/variants.ts";
import type { Choice } from "../kernels/core/variants.ts";
import { callOf, check } from "./kernels.ts";
import { makeInputs } from "./rows/row.ts";
import type { Row } from "./rows/row.ts";
import { median } from "./stats.ts";

export interface TuneOptions {
  /** Ends the search; the classes that were measured by then are kept. */
  readonly seconds: number;
  readonly seed: number;
  /** Only these families; all if absent. */
  readonly families?: readonly string[];
  readonly signal?: AbortSignal;
  readonly onProgress?: (done: number, total: number, label: string) => void;
}

/** A variant on a class of problems. */
export interface Candidate {
  readonly variant: string;
  /** Milliseconds of a replayed call, median of the rounds; null if it was not timed. */
  readonly ms: number | null;
  /** Why it was not timed: it is wrong, or does not run. */
  readonly problem?: string;
}

export interface Measured {
  readonly family: string;
  /** Class of the problem. */
  readonly problem: string;
  /** Row of the bench that stood for it. */
  readonly row: string;
  /** What the package prefers, and what was the fastest beyond noise. */
  readonly preferred: string;
  readonly best: string;
  readonly candidates: readonly Candidate[];
}

export interface TuneResult {
  readonly measured: readonly Measured[];
  /** Classes for which the time did not suffice. */
  readonly left: number;
}

const ROUNDS = 9;
/** Milliseconds of a burst of calls before the device is waited for. */
const BURST_MS = 10;
/** A variant replaces the preferred one if it takes at most this share of its time, in nearly all rounds. */
const GAIN = 0.95;

/** Measures the variants of the classes of problems that `rows` have, in their order. The device must have been created with `tuned: false`. */
export async function tune(device: Device, rows: readonly Row[], options: TuneOptions): Promise<TuneResult> {
  const end = now() + 1000 * options.seconds;
  const measured = new Map<string, Measured>();
  const left = new Set<string>();
  for (const [i, row] of rows.entries()) {
    options.signal?.throwIfAborted();
    options.onProgress?.(i, rows.length, row.name);
    if (row.fromCase || row.isPure === false) continue;
    const inputs = makeInputs(row, device, options.seed);
    try {
      for (const n of row.gradients ?? []) inputs[n]!.requiresGrad = true;
      for (const choice of choicesOf(row, inputs, options.families)) {
        const key = `${choice.family} ${choice.problem}`;
        if (measured.has(key)) continue;
        if (now() > end) left.add(key);
        else measured.set(key, await measure(device, row, inputs, choice, options));
      }
    } finally {
      for (const t of inputs) t.dispose();
      device.pool.trim();
    }
  }
  return { measured: [...measured.values()], left: left.size };
}

/** The choices of a call that have an alternative. */
function choicesOf(row: Row, inputs: readonly Tensor[], families: readonly string[] | undefined): Choice[] {
  return observeVariants(callOf(row, inputs)).filter(
    ({ family, candidates }) => candidates.length > 1 && (!families || families.includes(family)),
  );
}

interface Runner {
  readonly variant: string;
  readonly captured: Captured<void>;
  readonly calls: number;
  readonly ms: number[];
}

async function measure(
  device: Device,
  row: Row,
  inputs: readonly Tensor[],
  { family, problem, chosen, candidates }: Choice,
  { seed, signal }: TuneOptions,
): Promise<Measured> {
  const runners: Runner[] = [];
  const wrong: Candidate[] = [];
  try {
    for (const variant of candidates) {
      signal?.throwIfAborted();
      const under = <T>(fn: () => T): T => forceVariant(family, variant, fn, problem);
      const runner = await prepare(device, row, inputs, { variant, under, seed });
      if ("captured" in runner) runners.push(runner);
      else wrong.push(runner);
    }
    const rounds = dropSlow(runners, chosen);
    for (let round = 0; round < ROUNDS; round++)
      for (const runner of rounds) {
        signal?.throwIfAborted();
        runner.ms.push(await burst(device, runner.captured, runner.calls));
      }
    const timed = runners.map((r): Candidate => ({ variant: r.variant, ms: median(r.ms) }));
    return { family, problem, row: row.name, preferred: chosen, best: bestOf(rounds, chosen), candidates: [...timed, ...wrong] }; // prettier-ignore
  } finally {
    for (const { captured } of runners) captured.dispose();
  }
}

/** A variant ready to be timed, or why it cannot be. */
async function prepare(
  device: Device,
  row: Row,
  inputs: readonly Tensor[],
  { variant, under, seed }: { variant: string; under: <T>(fn: () => T) => T; seed: number },
): Promise<Runner | Candidate> {
  try {
    const reasons = await check(row, inputs, device, seed, under);
    if (reasons.length) return { variant, ms: null, problem: reasons.join("; ") };
    const captured = await capture(() => under(callOf(row, inputs)), { device });
    await device.sync();
    const once = await burst(device, captured, 1);
    return { variant, captured, calls: Math.max(1, Math.round(BURST_MS / once)), ms: [once] };
  } catch (error) {
    return { variant, ms: null, problem: error instanceof Error ? error.message.split("\n")[0]! : String(error) };
  }
}

/** The variants worth more rounds: those whose first call took less than three times the fastest, and the preferred one. */
function dropSlow(runners: readonly Runner[], chosen: string): Runner[] {
  const fastest = Math.min(...runners.map(({ ms }) => ms[0]!));
  return runners.filter(({ variant, ms }) => variant === chosen || ms[0]! < 3 * fastest);
}

async function burst(device: Device, captured: Captured<void>, calls: number): Promise<number> {
  const start = now();
  for (let i = 0; i < calls; i++) captured.replay();
  await device.sync();
  return (now() - start) / calls;
}

/** The fastest variant, if it beats the preferred one in nearly all rounds; else the preferred one. The first call does not count. */
export function bestOf(runners: readonly Pick<Runner, "variant" | "ms">[], chosen: string): string {
  const own = runners.find(({ variant }) => variant === chosen);
  if (!own) return chosen;
  const faster = runners
    .filter(({ variant, ms }) => variant !== chosen && ms.length > 1 && beats(ms.slice(1), own.ms.slice(1)))
    .sort((a, b) => median(a.ms.slice(1)) - median(b.ms.slice(1)));
  return faster[0]?.variant ?? chosen;
}

function beats(ms: readonly number[], others: readonly number[]): boolean {
  const wins = ms.filter((v, i) => v < others[i]! * GAIN).length;
  return wins >= Math.ceil(0.8 * ms.length) && median(ms) < GAIN * median(others);
}

/** `before` with what was measured: classes in which the preferred variant is best need no entry. */
export function mergedVariants(before: TunedVariants, measured: readonly Measured[]): TunedVariants {
  const families: Record<string, Record<string, string>> = {};
  for (const [family, names] of Object.entries(before)) families[family] = { ...names };
  for (const { family, problem, preferred, best } of measured) {
    const names = (families[family] ??= {});
    if (best === preferred) delete names[problem];
    else names[problem] = best;
  }
  return Object.fromEntries(Object.entries(families).filter(([, names]) => Object.keys(names).length));
}
