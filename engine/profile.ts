/**
 * The profiler: GPU time by kernel and by module from timestamps around every launch, with the FLOPs and bytes that
 * each op states. While it runs, each launch has its own compute pass, so total times are longer than without it; the
 * shares are right.
 */
import { DeviceError } from "./errors.ts";
import { getDevice } from "./device.ts";
import type { Device } from "./device.ts";
import { settle } from "./platform.ts";
import { refusePromise } from "./promise.ts";
import type { Launch } from "./types.ts";
import { workOf } from "./work.ts";

export interface ProfiledLaunch {
  readonly label: string;
  readonly kernel: string;
  readonly variant: string;
  /** Start time on the GPU's clock, relative to the first launch of the profile. */
  readonly startMs: number;
  readonly ms: number;
  readonly flops: number;
  readonly bytes: number;
}

export interface ProfileRow {
  readonly name: string;
  readonly launches: number;
  readonly ms: number;
  readonly share: number;
  readonly gflops: number;
  readonly gbytesPerSecond: number;
}

/** The launches of `profile(fn)` with their GPU times, as a table and as a trace for Chrome. */
export class Profile {
  readonly launches: readonly ProfiledLaunch[];

  constructor(launches: readonly ProfiledLaunch[]) {
    this.launches = launches;
  }

  /** Sum of the launches' GPU times. */
  get totalMs(): number {
    return this.launches.reduce((sum, l) => sum + l.ms, 0);
  }

  /** Rows by kernel, most time first. */
  byKernel(): ProfileRow[] {
    return this.rows((l) => l.kernel);
  }

  /** Rows by the first `depth` names of the module path, most time first. */
  byModule(depth = 2): ProfileRow[] {
    return this.rows((l) => l.label.split(".").slice(0, depth).join(".") || "(top)");
  }

  /** Formats the rows as a text table. */
  table(rows = this.byKernel()): string {
    const head = ["name", "launches", "ms", "share", "GFLOP/s", "GB/s"];
    const body = rows.map((r) => [
      r.name,
      String(r.launches),
      r.ms.toFixed(3),
      `${(100 * r.share).toFixed(1)}%`,
      r.gflops.toFixed(1),
      r.gbytesPerSecond.toFixed(1),
    ]);
    const widths = head.map((h, i) => Math.max(h.length, ...body.map((b) => b[i]!.length)));
    return [head, ...body]
      .map((line) => line.map((c, i) => (i ? c.padStart(widths[i]!) : c.padEnd(widths[i]!))).join("  "))
      .join("\n");
  }

  /** Returns events for chrome://tracing or Perfetto. */
  chromeTrace(): { traceEvents: object[] } {
    return {
      traceEvents: this.launches.map((l) => ({
        name: l.kernel,
        cat: "gpu",
        ph: "X",
        pid: 0,
        tid: 0,
        ts: l.startMs * 1000,
        dur: l.ms * 1000,
        args: { label: l.label, variant: l.variant, flops: l.flops, bytes: l.bytes },
      })),
    };
  }

  private rows(nameOf: (l: ProfiledLaunch) => string): ProfileRow[] {
    const total = this.totalMs || 1;
    const sums = new Map<string, { launches: number; ms: number; flops: number; bytes: number }>();
    for (const l of this.launches) {
      const name = nameOf(l);
      const sum = sums.get(name) ?? { launches: 0, ms: 0, flops: 0, bytes: 0 };
      sums.set(name, {
        launches: sum.launches + 1,
        ms: sum.ms + l.ms,
        flops: sum.flops + l.flops,
        bytes: sum.bytes + l.bytes,
      });
    }
    return [...sums]
      .map(([name, s]) => ({
        name,
        launches: s.launches,
        ms: s.ms,
        share: s.ms / total,
        gflops: s.ms ? s.flops / s.ms / 1e6 : 0,
        gbytesPerSecond: s.ms ? s.bytes / s.ms / 1e6 : 0,
      }))
      .sort((a, b) => b.ms - a.ms);
  }
}

/**
 * Runs `fn` (may be asynchronous) with every launch timed, except those of replays. Throws `DeviceError` if the device has no timestamps, or if another
 * profile is running.
 */
export async function profile(fn: () => unknown, device: Device = getDevice()): Promise<Profile> {
  const gpu = device.gpu;
  if (!gpu || !device.capabilities.timestamps)
    throw new DeviceError(
      `profile: the device must have timestamps (feature timestamp-query); got ${device} without them. Measure wall time around sync().`,
    );
  const batches: Promise<{ launches: readonly Launch[]; times: BigUint64Array }>[] = [];
  device.queue.startTiming((encoder, launches, encodeOne) => {
    const count = launches.length * 2;
    const queries = gpu.createQuerySet({ type: "timestamp", count });
    for (const [i, launch] of launches.entries()) {
      const pass = encoder.beginComputePass({
        timestampWrites: { querySet: queries, beginningOfPassWriteIndex: 2 * i, endOfPassWriteIndex: 2 * i + 1 },
      });
      encodeOne(pass, launch);
      pass.end();
    }
    const resolved = gpu.createBuffer({
      size: count * 8,
      usage: GPUBufferUsage.QUERY_RESOLVE | GPUBufferUsage.COPY_SRC,
    });
    const staging = gpu.createBuffer({ size: count * 8, usage: GPUBufferUsage.MAP_READ | GPUBufferUsage.COPY_DST });
    encoder.resolveQuerySet(queries, 0, count, resolved, 0);
    encoder.copyBufferToBuffer(resolved, 0, staging, 0, count * 8);
    const read = async (): Promise<{ launches: readonly Launch[]; times: BigUint64Array }> => {
      await Promise.resolve();
      await settle(staging.mapAsync(GPUMapMode.READ), device.capabilities.software);
      const times = new BigUint64Array(staging.getMappedRange().slice(0));
      for (const buffer of [staging, resolved]) buffer.destroy();
      queries.destroy();
      return { launches, times };
    };
    batches.push(read());
  });
  try {
    await fn();
    await device.sync();
  } finally {
    device.queue.stopTiming();
  }
  const done = await Promise.all(batches);
  const first = done[0]?.times[0] ?? 0n;
  return new Profile(
    done.flatMap(({ launches, times }) =>
      launches.map((l, i) => ({
        label: l.label,
        kernel: l.pipeline.kernel.name,
        variant: l.pipeline.key,
        startMs: Number(times[2 * i]! - first) / 1e6,
        ms: Number(times[2 * i + 1]! - times[2 * i]!) / 1e6,
        flops: l.cost?.flops ?? 0,
        bytes: l.cost?.bytes ?? 0,
      })),
    ),
  );
}

/** Totals of the launches of a synchronous function. On the null device, nothing runs. */
export interface Tally {
  launches: number;
  flops: number;
  bytes: number;
  /** Distinct compiled variants. */
  pipelines: Set<string>;
  byKernel: Map<string, number>;
  /** Operations of the largest single dispatch (`workOf`), and its kernel. */
  largest: { work: number; kernel: string };
}

/** Counts the launches of `fn` (synchronous), their FLOPs and bytes. */
export function tally(fn: () => unknown, device: Device = getDevice()): Tally {
  const sum: Tally = {
    launches: 0,
    flops: 0,
    bytes: 0,
    pipelines: new Set(),
    byKernel: new Map(),
    largest: { work: 0, kernel: "" },
  };
  const listener = (l: Launch): void => {
    sum.launches++;
    sum.flops += l.cost?.flops ?? 0;
    sum.bytes += l.cost?.bytes ?? 0;
    sum.pipelines.add(l.pipeline.key);
    const work = workOf(l.cost, l.bindings);
    if (work > sum.largest.work) sum.largest = { work, kernel: l.pipeline.kernel.name };
    sum.byKernel.set(l.pipeline.kernel.name, (sum.byKernel.get(l.pipeline.kernel.name) ?? 0) + 1);
  };
  device.onLaunch(listener);
  try {
    refusePromise(fn(), "tally()");
  } finally {
    device.offLaunch(listener);
  }
  return sum;
}
