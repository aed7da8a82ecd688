/** The thin layer over the `benchmark` library, which drives the sampling: wall times of asynchronous work. */
import Benchmark from "benchmark";

export { percentile } from "./stats.ts";

export interface SampleOptions {
  /** Samples are taken for about so long. */
  readonly seconds: number;
  readonly minSamples?: number;
}

/** Wall times of `fn`, ms each, by the library `benchmark` (deferred): at least `minSamples`, and for `seconds`. */
export async function sampleWall(
  name: string,
  fn: () => Promise<unknown>,
  { seconds, minSamples = 1 }: SampleOptions,
): Promise<number[]> {
  let failure: Error | undefined;
  const bench = await new Promise<Benchmark>((resolve) => {
    const b = new Benchmark(name, {
      defer: true,
      minSamples,
      maxTime: seconds,
      // A sample is one call of `fn`, which is long enough for the clock: the library need not look for a count.
      initCount: 1,
      minTime: 1e-6,
      delay: 0,
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
  return bench.stats.sample.map((s) => s * 1000);
}

/** Rows as an aligned text table; all columns but the first are flush right. */
export function table(head: readonly string[], rows: readonly (readonly string[])[]): string {
  const widths = head.map((h, i) => Math.max(h.length, ...rows.map((r) => r[i]!.length)));
  return [head, ...rows]
    .map((r) =>
      r
        .map((c, i) => (i ? c.padStart(widths[i]!) : c.padEnd(widths[i]!)))
        .join("  ")
        .trimEnd(),
    )
    .join("\n");
}
