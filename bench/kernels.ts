/** How fast is each op: rows are made, checked against float64, captured, and handed to the measurement in groups that memory holds. */
import { backward, capture, empty, scope, sizeOf, zeroGradients } from "../index.ts";
import type { Captured, Device, Tensor } from "../index.ts";
import { copyInto } from "../kernels/index.ts";
import { measureJobs, workOfCall } from "./measure.ts";
import type { Job, MeasureOptions, Rotation } from "./measure.ts";
import type { Probes } from "./ceilings.ts";
import type { RowResult, WrongRow } from "./results.ts";
import { dtypeOf, makeInputs, readHost, wrongParts } from "./rows/row.ts";
import type { Row } from "./rows/row.ts";
import { randomFrom } from "../tests/random.ts";

/** Bytes of inputs of rows that are measured together, interleaved. */
const GROUP_BYTES = 512e6;
/** Sets of inputs that cold calls rotate through at most: smaller inputs are bounded by the cost of a launch, not by caches. */
const MAX_SETS = 256;

export interface KernelOptions extends MeasureOptions {
  /** Bytes that cold calls rotate through; 0 measures none. */
  readonly coldBytes: number;
}

/** Measures rows. Wrong ones are reported, not timed. */
export async function benchKernels(
  device: Device,
  rows: readonly Row[],
  probes: Probes | null,
  options: KernelOptions,
): Promise<{ rows: RowResult[]; wrong: WrongRow[] }> {
  const found: RowResult[] = [];
  const wrong: WrongRow[] = [];
  for (const group of inGroups(rows)) {
    const jobs: Job[] = [];
    try {
      for (const row of group) {
        options.signal?.throwIfAborted();
        options.onProgress?.(found.length + wrong.length, rows.length, `${row.name}: checking`);
        const made = await prepare(row, device, options);
        if (!("kind" in made)) jobs.push(made);
        else {
          wrong.push(made);
          options.onRow?.(made);
        }
      }
      found.push(...(await measureJobs(device, jobs, probes, options)));
    } finally {
      for (const job of jobs) job[Symbol.dispose]();
      device.pool.trim();
    }
  }
  return { rows: found, wrong };
}

const bytesOf = ({ inputs }: Row): number => inputs.reduce((sum, { shape }) => sum + 4 * sizeOf(shape), 0);

function inGroups(rows: readonly Row[]): Row[][] {
  const groups: Row[][] = [];
  let used = Infinity;
  for (const row of rows) {
    if (used + bytesOf(row) > GROUP_BYTES) {
      groups.push([]);
      used = 0;
    }
    groups.at(-1)!.push(row);
    used += bytesOf(row);
  }
  return groups;
}

/** A call of a row: forward, and if the row has gradients backward from its last input. Gradients are dropped. */
export function callOf(row: Row, inputs: readonly Tensor[]): () => void {
  const leaves = (row.gradients ?? []).map((i) => inputs[i]!);
  return () => {
    scope(() => {
      const results = row.run(inputs);
      if (leaves.length) backward(results[0]!, inputs.at(-1)!);
    });
    if (leaves.length) zeroGradients(leaves);
  };
}

/** The results of one call, kept; then the gradients. */
function resultsOf(row: Row, inputs: readonly Tensor[]): Tensor[] {
  const results = scope(() => {
    const made = row.run(inputs);
    if (row.gradients) backward(made[0]!, inputs.at(-1)!);
    return [...made];
  });
  return [...results, ...(row.gradients ?? []).map((i) => inputs[i]!.grad!)];
}

/** A row's job, or why it cannot be timed. */
async function prepare(row: Row, device: Device, options: KernelOptions): Promise<Job | WrongRow> {
  const inputs: Tensor[] = [];
  try {
    inputs.push(...makeInputs(row, device, options.seed));
    for (const i of row.gradients ?? []) inputs[i]!.requiresGrad = true;
    const reasons = await check(row, inputs, device, options.seed);
    if (reasons.length) throw new WrongResult(reasons);
    return await jobOf(row, inputs, device, options.coldBytes);
  } catch (error) {
    for (const t of inputs) t.dispose();
    if (options.signal?.aborted) throw error;
    const reasons =
      error instanceof WrongResult
        ? error.reasons
        : [`could not run: ${error instanceof Error ? error.message.split("\n")[0]! : String(error)}`];
    return { kind: "wrong", name: row.name, reasons };
  }
}

class WrongResult extends Error {
  readonly reasons: readonly string[];
  constructor(reasons: readonly string[]) {
    super(reasons.join("; "));
    this.reasons = reasons;
  }
}

/** What is not right about the results of a row, which are computed `under` a function such as one that forces a variant; nothing if all is. */
export async function check(
  row: Row,
  inputs: readonly Tensor[],
  device: Device,
  seed: number,
  under: <T>(fn: () => T) => T = (fn) => fn(),
): Promise<readonly string[]> {
  if (row.fromCase) return row.fromCase.failures(device, seed);
  const before = await Promise.all(inputs.map(readHost)); // some rows change their inputs
  const outputs = under(() => resultsOf(row, inputs));
  try {
    const found = await Promise.all(outputs.map(readHost));
    const parts = row.check(before, found, randomFrom(seed ^ 0x5bd1e995));
    return wrongParts(parts, [...inputs, ...outputs].map((t) => t.dtype), row.gradients !== undefined); // prettier-ignore
  } finally {
    for (const t of outputs) if (!inputs.includes(t)) t.dispose();
    zeroGradients((row.gradients ?? []).map((i) => inputs[i]!));
  }
}

async function jobOf(row: Row, inputs: readonly Tensor[], device: Device, coldBytes: number): Promise<Job> {
  const eager = callOf(row, inputs);
  const captured = await capturedCall(row, inputs, device);
  const work = workOfCall(eager, device);
  return {
    name: row.name,
    op: row.op,
    set: row.set,
    dtype: dtypeOf(row),
    ...work,
    eager,
    replay: captured && (() => captured.replay()),
    rotate: () =>
      row.fromCase || row.isPure === false || !coldBytes ? null : rotation(row, inputs, device, coldBytes),
    [Symbol.dispose]: () => {
      captured?.dispose();
      for (const t of inputs) t.dispose();
    },
  };
}

/** The capture of a call; null if a call reads host data. A replay that differs from the eager run is a wrong result. */
async function capturedCall(row: Row, inputs: readonly Tensor[], device: Device): Promise<Captured<unknown> | null> {
  try {
    if (row.fromCase || row.gradients || row.isPure === false) return await capture(callOf(row, inputs), { device });
    using eager = disposing(resultsOf(row, inputs));
    const captured = await capture(() => [...row.run(inputs)], { device });
    captured.replay();
    for (const [i, t] of captured.result.entries()) {
      const [a, b] = [await t.data(), await eager.tensors[i]!.data()];
      if (asBytes(a).equals(asBytes(b))) continue;
      const at = a.findIndex((v, k) => !Object.is(v, b[k]));
      if (at >= 0) throw new WrongResult([`replayed: element ${at} is ${a[at]}, run eagerly ${b[at]}`]);
    }
    return withResult(captured);
  } catch (error) {
    if (error instanceof Error && error.name === "CaptureError") return null;
    throw error;
  }
}

const asBytes = ({ buffer, byteOffset, byteLength }: ArrayBufferView): Buffer =>
  Buffer.from(buffer, byteOffset, byteLength);

const disposing = (tensors: readonly Tensor[]) => ({
  tensors,
  [Symbol.dispose]: () => {
    for (const t of tensors) t.dispose();
  },
});

/** A capture that frees its result too. */
function withResult(captured: Captured<readonly Tensor[]>): Captured<unknown> {
  const dispose = captured.dispose.bind(captured);
  captured.dispose = () => {
    for (const t of captured.result) t.dispose();
    dispose();
  };
  return captured;
}

/** Copies of the inputs, more bytes together than the caches hold, a set a call in turn. Results go to the same few buffers. */
function rotation(row: Row, inputs: readonly Tensor[], device: Device, coldBytes: number): Rotation | null {
  const bytes = inputs.reduce((sum, t) => sum + t.storage.bytes, 0);
  const sets = Math.max(2, Math.ceil(coldBytes / bytes));
  if (sets > MAX_SETS || sets * bytes > (device.pool.budget - device.pool.stats.liveBytes) / 2) return null;
  const copies = Array.from({ length: sets }, () =>
    inputs.map((t) => {
      const copy = empty(t.shape, { dtype: t.dtype, device }).keep();
      copyInto(copy, t);
      copy.requiresGrad = t.requiresGrad;
      return copy;
    }),
  );
  const calls = copies.map((set) => callOf(row, set));
  let next = 0;
  return {
    call: () => calls[next++ % sets]!(),
    [Symbol.dispose]: () => {
      for (const t of copies.flat()) t.dispose();
      device.pool.trim();
    },
  };
}
