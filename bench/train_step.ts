/**
 * `node scripts/run.mjs bench/train_step.ts DIR SETTINGS [key=value …]`: one optimizer step at full size on this machine, the longest that a
 * preset or a YAML file with changes allows: what the null device says of it, then seconds of forward, of forward and backward, of the
 * optimizer, and the most memory. `examples/new_checkpoint.ts DIR --size 1B` makes a checkpoint of random weights.
 */
import { readFileSync } from "node:fs";
import { Device, scope } from "../index.ts";
import { openCheckpoint } from "../model/janus/checkpoint/checkpoint.ts";
import { imageTokens } from "../model/janus/config.ts";
import { loadModel } from "../model/janus/load.ts";
import { folderSource } from "../model/node/index.ts";
import { loadConfig } from "../train/node/settings.ts";
import { estimateStep } from "../train/estimate.ts";
import { taskLosses } from "../train/loss.ts";
import { TASKS, layRows, packSamples } from "../train/samples.ts";
import { Trainer } from "../train/trainer.ts";
import type { Accumulated } from "../train/step_report.ts";

const [folder, settings, ...changes] = process.argv.slice(2);
if (!folder || !settings) {
  console.error("usage: node scripts/run.mjs bench/train_step.ts DIR SETTINGS [key=value …]");
  process.exit(2);
}
/** The most memory that the process has held, GB; Linux only. On a software device the GPU's memory is in it. */
const resident = (): string =>
  ((Number(/VmHWM:\s*(\d+)/.exec(readFileSync("/proc/self/status", "utf8"))?.[1] ?? 0) * 1024) / 1e9).toFixed(2);
const gb = (bytes: number): string => (bytes / 1e9).toFixed(2);

const config = loadConfig(settings, changes);
const device = await Device.create();
const checkpoint = await openCheckpoint(folderSource(folder));
const sizes = checkpoint.config;
const { memory, fits, launches, flops, rows, tokens, targets, samples } = await estimateStep(sizes, config, device);
console.log(
  `${device.name}\n${rows} rows of ${config.length}: tokens ${JSON.stringify(tokens)}, trained ${JSON.stringify(targets)}`,
);
console.log(
  `estimated: ${launches} launches, ${(flops / 1e12).toFixed(2)} TFLOP, GB ${Object.entries(memory)
    .map(([kind, bytes]) => `${kind} ${gb(bytes)}`)
    .join(", ")}`,
);
if (!fits) throw new Error(`that is more than the ${gb(device.pool.budget)} GB of this device`);

const seconds = async (what: string, run: () => unknown): Promise<void> => {
  const started = performance.now();
  await run();
  await device.sync();
  console.log(
    `${what}: ${((performance.now() - started) / 1000).toFixed(1)} s; peak of tensors ${gb(device.pool.stats.peakBytes)} GB, buffers ${gb(device.pool.stats.reservedBytes)} GB, process ${resident()} GB`,
  );
};
const model = await loadModel(checkpoint, { device, dtype: config.dtype });
await checkpoint.close();
const trainer = new Trainer(model, sizes, config, 0);
await seconds("loaded", () => undefined);
const packed = packSamples(samples, config.length);
for (let r = 0; r < packed.length; r += config.microRows) {
  const batch = layRows(packed.slice(r, r + config.microRows), config.length, 0, imageTokens(sizes));
  const tasks = [...new Set(batch.samples.flat().map(({ task }) => task))].join(", ");
  await seconds(`forward of rows ${r} … (${tasks})`, () =>
    scope(() => void taskLosses(model, batch, sizes.vision.imageSize)),
  );
}
device.pool.trim();
let step: Accumulated | undefined;
await seconds("forward and backward", async () => (step = await trainer.accumulate(samples)));
const { losses, parts, counts } = step!;
await seconds("optimizer", () => trainer.update(losses));
const sums = await losses.data();
for (const task of TASKS) {
  const sum = parts.reduce((all, part, i) => (part.task === task ? all + sums[i]! : all), 0);
  if (counts[task]) console.log(`loss of ${task}: ${(sum / counts[task]).toFixed(3)}`);
}
console.log(`gradient norm ${(await trainer.optimizer.report()).gradNorm.toPrecision(4)}`);
device.destroy();
