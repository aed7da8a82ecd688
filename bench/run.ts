/**
 * `npm run bench -- [--filter NAME] [--size small|1B] [--backward] [--seconds N] [--out FILE]`: how fast each op is, as a share of the ceilings of the same run.
 * GPU time by timestamps if the device has them, wall time of whole calls by the library `benchmark`.
 */
import { mkdirSync, writeFileSync } from "node:fs";
import { dirname } from "node:path";
import { parseArgs } from "node:util";
import { Device } from "../index.ts";
import { benchCases, runBench } from "./ops.ts";
import type { BenchResult } from "./ops.ts";
import { measureCeilings, table } from "./harness.ts";
import { measureLaunches } from "./launches.ts";

const { values } = parseArgs({
  options: {
    filter: { type: "string", default: "" },
    size: { type: "string" },
    backward: { type: "boolean", default: false },
    seconds: { type: "string", default: "1" },
    out: { type: "string" },
    list: { type: "boolean", default: false },
  },
});

const rows = benchCases().filter(
  (c) => c.name.toLowerCase().includes(values.filter.toLowerCase()) && (!values.size || c.size === values.size),
);
if (values.list || rows.length === 0) {
  console.log((rows.length ? rows : benchCases()).map((c) => c.name).join("\n"));
  process.exit(rows.length ? 0 : 1);
}
const device = await Device.create();
const ceilings = await measureCeilings(device);
console.log(`${device.name}`);
console.log(
  `ceilings of this run: ${ceilings.gflops.toFixed(1)} GFLOP/s f32 FMA, ${ceilings.gbytesPerSecond.toFixed(1)} GB/s streaming read`,
);
const launches = await measureLaunches(device);
console.log(
  `a launch: ${launches.recordUs.toFixed(2)} µs recorded, ${launches.encodeUs.toFixed(2)} µs encoded and submitted, ${launches.replayUs.toFixed(2)} µs replayed\n`,
);
const results: BenchResult[] = [];
for (const row of rows) {
  try {
    results.push(await runBench(device, row, Number(values.seconds), ceilings, values.backward));
  } catch (error) {
    console.log(`${row.name}: ${error instanceof Error ? error.message.split("\n")[0] : String(error)}`);
  }
}
const fixed = (v: number | null, digits = 2): string => (v === null ? "-" : v.toFixed(digits));
const percent = (share: number | null): string => (share === null ? "-" : `${(100 * share).toFixed(0)}%`);
console.log(
  table(
    ["case", "launches", "GPU ms", "wall ms", "p10", "p90", "GFLOP/s", "of FMA", "GB/s", "of read", ""],
    results.map(({ name, launches: count, gpuMs, wall, rates }) => [
      name,
      String(count),
      fixed(gpuMs, 3),
      fixed(wall.medianMs, 3),
      fixed(wall.lowMs, 3),
      fixed(wall.highMs, 3),
      fixed(rates.gflops, 1),
      percent(rates.flopShare),
      fixed(rates.gbytesPerSecond, 1),
      percent(rates.byteShare),
      rates.isDisputed ? "GPU > wall" : "",
    ]),
  ),
);
if (results.some(({ rates }) => rates.isDisputed))
  console.log(
    "GPU > wall: the GPU time of these rows exceeds the wall time of the call, so other work ran between the timestamps; no rate is given. Run again on a quiet machine.",
  );
if (values.out) {
  mkdirSync(dirname(values.out), { recursive: true });
  writeFileSync(values.out, `${JSON.stringify({ adapter: device.name, ceilings, launches, results }, null, 2)}\n`);
}
device.destroy();
