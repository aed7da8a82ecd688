/** The thin layer over the `benchmark` library: asynchronous samples, their median and spread; and the ceilings of this run. */
import Benchmark from "benchmark";
import { empty, kernel, launch, profile } from "../engine/index.ts";
import type { Device } from "../engine/index.ts";
import { full } from "../kernels/index.ts";

export interface Sample {
  readonly medianMs: number;
  /** 10th and 90th percentile. */
  readonly lowMs: number;
  readonly highMs: number;
  readonly samples: number;
}

export const percentile = (sorted: readonly number[], share: number): number =>
  sorted[Math.min(sorted.length - 1, Math.floor(share * sorted.length))]!;

/** Wall time of `fn` by the library `benchmark` (deferred), at most about `seconds`. */
export async function sampleWall(name: string, fn: () => Promise<unknown>, seconds: number): Promise<Sample> {
  let failure: Error | undefined;
  const bench = await new Promise<Benchmark>((resolve) => {
    const b = new Benchmark(name, {
      defer: true,
      minSamples: 5,
      maxTime: seconds,
      // The library does not catch a rejected promise: keep it and end the cycle.
      fn: (deferred: { resolve(): void }) => {
        fn().then(
          () => deferred.resolve(),
          (error: unknown) => {
            failure ??= error instanceof Error ? error : new Error(String(error));
            b.abort();
            deferred.resolve();
          },
        );
      },
      onComplete: () => resolve(b),
    });
    b.run({ async: true });
  });
  if (failure) throw failure;
  const ms = bench.stats.sample.map((s) => s * 1000).sort((a, b) => a - b);
  return { medianMs: percentile(ms, 0.5), lowMs: percentile(ms, 0.1), highMs: percentile(ms, 0.9), samples: ms.length };
}

/** GPU time of everything that `fn` launches, by timestamps: the median over `runs` runs after one that warms up. */
export async function sampleGpu(
  device: Device,
  fn: () => void,
  runs: number,
): Promise<Sample & { flops: number; bytes: number; launches: number }> {
  fn();
  await device.sync();
  const ms: number[] = [];
  let flops = 0;
  let bytes = 0;
  let launches = 0;
  for (let i = 0; i < runs; i++) {
    const p = await profile(fn, device);
    ms.push(p.totalMs);
    launches = p.launches.length;
    flops = p.launches.reduce((sum, l) => sum + l.flops, 0);
    bytes = p.launches.reduce((sum, l) => sum + l.bytes, 0);
  }
  ms.sort((a, b) => a - b);
  return { medianMs: percentile(ms, 0.5), lowMs: ms[0]!, highMs: ms.at(-1)!, samples: runs, flops, bytes, launches };
}

const fma = kernel("fma_loop", new URL("./fma_loop.wgsl", import.meta.url), { x: "read", y: "write" });
const stream = kernel("stream_read", new URL("./stream_read.wgsl", import.meta.url), { x: "read", y: "write" });

export interface Ceilings {
  readonly gflops: number;
  readonly gbytesPerSecond: number;
}

/** What this device reaches at best in this run: an FMA loop in f32 and a streaming read. The best of several, as ceilings should be. */
export async function measureCeilings(device: Device, runs = 12): Promise<Ceilings> {
  const software = device.capabilities.software;
  const groups = software ? 512 : 16384;
  const rounds = software ? 256 : 768; // below the operations that one dispatch may have
  const elements = software ? 8 << 20 : 256 << 20;
  using x = full([Math.min(elements, device.limits.maxStorageBufferBindingSize / 4)], 0.5, { device });
  using small = full([32], 0.5, { device });
  using y = empty([Math.max(groups * 256, x.size / 8)], { device });
  const arithmetic = await sampleGpu(
    device,
    () =>
      launch(fma, {
        buffers: { x: small, y },
        constants: { ROUNDS: rounds },
        grid: [groups],
        cost: { flops: groups * 64 * rounds * 96, bytes: 0 },
      }),
    runs,
  );
  const memory = await sampleGpu(
    device,
    () =>
      launch(stream, {
        buffers: { x, y },
        grid: [Math.min(65535, x.size / 2048)],
        cost: { flops: 0, bytes: Math.min(65535, x.size / 2048) * 8192 },
      }),
    runs,
  );
  return { gflops: arithmetic.flops / arithmetic.lowMs / 1e6, gbytesPerSecond: memory.bytes / memory.lowMs / 1e6 };
}

/** How fast an op is, and as shares of the run's ceilings: the larger share shows what bounds it. All null if no GPU time is to be trusted. */
export interface Rates {
  readonly gflops: number | null;
  readonly gbytesPerSecond: number | null;
  readonly flopShare: number | null;
  readonly byteShare: number | null;
  /** GPU time exceeds wall time, which cannot be: other work ran between the timestamps. */
  readonly isDisputed: boolean;
}

/** Rates of an op from its GPU time, if that does not exceed the wall time of the whole call. */
export function ratesOf(
  gpu: { readonly medianMs: number; readonly flops: number; readonly bytes: number } | null,
  wallMs: number,
  ceilings: Ceilings,
): Rates {
  const isDisputed = gpu !== null && gpu.medianMs > wallMs;
  if (!gpu || isDisputed || gpu.medianMs === 0)
    return { gflops: null, gbytesPerSecond: null, flopShare: null, byteShare: null, isDisputed };
  const [gflops, gbytesPerSecond] = [gpu.flops / gpu.medianMs / 1e6, gpu.bytes / gpu.medianMs / 1e6];
  return {
    gflops,
    gbytesPerSecond,
    flopShare: gflops / ceilings.gflops,
    byteShare: gbytesPerSecond / ceilings.gbytesPerSecond,
    isDisputed,
  };
}

/** Rows as an aligned text table. */
export function table(head: readonly string[], rows: readonly (readonly string[])[]): string {
  const widths = head.map((h, i) => Math.max(h.length, ...rows.map((r) => r[i]!.length)));
  return [head, ...rows]
    .map((r) => r.map((c, i) => (i ? c.padStart(widths[i]!) : c.padEnd(widths[i]!))).join("  "))
    .join("\n");
}
