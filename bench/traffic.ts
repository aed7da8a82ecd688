/**
 * `node scripts/run.mjs bench/traffic.ts [STAGE …] [key=value …]`: bytes and launches of each kernel in a training step of the 1B model, most bytes
 * first, from the null device. The step is that of `counts.ts` with layers recomputed; `key=value` changes its settings.
 */
import { Device } from "../index.ts";
import type { Launch } from "../index.ts";
import { JANUS_PRO_1B } from "../model/janus/config.ts";
import { JanusForConditionalGeneration } from "../model/janus/janus.ts";
import { launchStep, longestBatch } from "../train/estimate.ts";
import { loadConfig } from "../train/node/settings.ts";
import { CODES_LABEL } from "../train/stage0/image_tokenizer.ts";
import { STAGES } from "../train/stages.ts";
import { Trainer } from "../train/trainer.ts";
import { table } from "./harness.ts";

/** Kernels with less are left out. */
const LEAST_BYTES = 1e9;

interface Sum {
  launches: number;
  bytes: number;
}

/** Kernel and dtypes, without constants that tune it. */
const nameOf = ({ pipeline }: Launch): string =>
  pipeline.key
    .split(" ")
    .filter((part, i) => i === 0 || (part.includes(":") && !part.startsWith("z:") && !part.startsWith("s:")))
    .join(" ");

/** The launches of a step, but for those of the image tokenizer between its rows. */
async function trafficOf(stage: number, changes: readonly string[]): Promise<Map<string, Sum>> {
  const config = loadConfig(`stage${stage}`, ["dtype=bf16", "batch=10", "recompute=true", ...changes]);
  const device = await Device.create({ backend: "null", memoryBudget: Infinity });
  const model = new JanusForConditionalGeneration(JANUS_PRO_1B, { dtype: config.dtype, init: false, device });
  const trainer = new Trainer(model, JANUS_PRO_1B, config, 0);
  const sums = new Map<string, Sum>();
  device.onLaunch((launch) => {
    if (launch.label.startsWith(CODES_LABEL)) return;
    const name = nameOf(launch);
    const sum = sums.get(name) ?? { launches: 0, bytes: 0 };
    sums.set(name, { launches: sum.launches + 1, bytes: sum.bytes + (launch.cost?.bytes ?? 0) });
  });
  const { text, gen, und } = longestBatch(JANUS_PRO_1B, config);
  const { losses } = await launchStep(trainer, JANUS_PRO_1B, [...text, ...gen, ...und]);
  losses.dispose();
  device.destroy();
  return sums;
}

const words = process.argv.slice(2);
const changes = words.filter((word) => word.includes("="));
const stages = words.filter((word) => !word.includes("=")).map(Number);
for (const stage of stages.length ? stages : STAGES) {
  const sums = [...(await trafficOf(stage, changes))].toSorted((a, b) => b[1].bytes - a[1].bytes);
  const [launches, bytes] = (["launches", "bytes"] as const).map((key) => sums.reduce((all, [, sum]) => all + sum[key], 0)); // prettier-ignore
  console.log(`\nstage ${stage}: ${launches} launches, ${(bytes! / 1e12).toFixed(3)} TB`);
  const rows = sums.flatMap(([name, sum]) =>
    sum.bytes >= LEAST_BYTES ? [[name, String(sum.launches), (sum.bytes / 1e9).toFixed(2)]] : [],
  );
  console.log(table(["kernel", "launches", "GB"], rows));
}
