/** `janus train … --dry-run`: an estimate of a run, and with --measure-step its longest step measured; nothing is written. */
import type { TokenizerConfig, TrainConfig } from "../train/config.ts";
import type { DryRun, MeasuredStep, Timed } from "../train/node/dry_run.ts";
import type { StepCounts, StepEstimate } from "../train/estimate.ts";
import type { Task } from "../train/samples.ts";
import type { Context } from "./context.ts";
import { openDevice } from "./device.ts";
import { formatBytes, formatCount, formatDuration, indent, table } from "./format.ts";

type AnyConfig = TrainConfig | TokenizerConfig;
type Rows = readonly (readonly string[])[];

/** Parts of an estimate that differ between the stages: a description of the step, and lines about the step and the whole run. */
interface Shown {
  readonly step: string;
  readonly ofStep: Rows;
  readonly ofRun: (steps: number) => Rows;
}

interface DryRunFlags {
  readonly adapter?: string | number;
  readonly measureStep?: boolean;
}

export async function dryRun(model: string, config: AnyConfig, flags: DryRunFlags, context: Context): Promise<void> {
  const { out, signal } = context;
  const measure = flags.measureStep === true;
  const { dryRun: run, dryRunTokenizer } = await import("../train/node/dry_run.ts");
  const device = await openDevice(flags.adapter, context);
  const { budget } = device.pool;
  const show = (found: Timed<StepCounts>, shown: Shown): void => {
    out.text(`${estimateText(found, shown, config, budget)}\n`);
    if (found.fits && measure) out.note(`taking one such step on ${device.name}`);
  };
  const common = { model, device, signal, measure };
  try {
    if (config.stage === 0) {
      const { batch, microBatch } = config;
      const found = await dryRunTokenizer({ ...common, config, onEstimate: (e) => show(e, tokenizerShown(config)) });
      const pictures = { pictures: batch, atOnce: Math.min(batch, microBatch) };
      result(found, pictures, (steps) => ({ pictures: batch * steps }));
    } else {
      const found = await run({ ...common, config, onEstimate: (e) => show(e, packedShown(e, config)) });
      const { samples, tokens } = found.estimate;
      result(found, { samples: samples.length }, (steps) => ({ tokens: times(tokens, steps) }));
    }
  } finally {
    device.destroy();
  }

  function result({ estimate, measured }: DryRun<StepCounts>, step: object, run: (steps: number) => object): void {
    const steps = stepsOf(config);
    const { flops, seconds } = estimate;
    const content = {
      estimate: { ...estimate, ...step },
      run: { steps, ...run(steps), flops: flops * steps, seconds: seconds * steps },
      budgetBytes: Number.isFinite(budget) ? budget : null,
      measured,
    };
    const unmeasured = "no step was taken; --measure-step takes the longest one, and compares it with the estimate";
    out.result(content, () => (measured ? measuredText(measured, estimate) : unmeasured));
  }
}

/** Steps until the run ends. */
const stepsOf = ({ steps, stopAt = steps }: AnyConfig): number => Math.min(steps, stopAt);

const times = (tokens: Readonly<Record<Task, number>>, factor: number): Record<Task, number> => ({
  und: tokens.und * factor,
  text: tokens.text * factor,
  gen: tokens.gen * factor,
});

const packedShown = ({ samples, rows, tokens, targets }: StepEstimate, { length }: TrainConfig): Shown => ({
  step: `the longest step: ${formatCount(samples.length)} samples in ${formatCount(rows)} rows of ${formatCount(length)} tokens`,
  ofStep: [
    ["tokens", tokensText(tokens)],
    ["trained", tokensText(targets)],
  ],
  ofRun: (steps) => [["tokens", tokensText(times(tokens, steps))]],
});

const tokenizerShown = ({ batch, microBatch }: TokenizerConfig): Shown => ({
  step: `a step: ${formatCount(batch)} images, ${formatCount(Math.min(batch, microBatch))} at once`,
  ofStep: [],
  ofRun: (steps) => [["images", formatCount(batch * steps)]],
});

/** `1,800 (und 600, text 900, gen 300)` */
const tokensText = (tokens: Readonly<Record<Task, number>>): string =>
  `${formatCount(tokens.und + tokens.text + tokens.gen)} (${Object.entries(tokens)
    .filter(([, n]) => n > 0)
    .map(([task, n]) => `${task} ${formatCount(n)}`)
    .join(", ")})`;

const DAY = 86_400;
export const formatTime = (seconds: number): string =>
  seconds < 2 * DAY ? formatDuration(1000 * seconds) : `${formatCount(Math.round(seconds / DAY))} days`;

export function formatFlops(flops: number): string {
  const units = ["FLOP", "kFLOP", "MFLOP", "GFLOP", "TFLOP", "PFLOP", "EFLOP", "ZFLOP"];
  const unit = Math.min(units.length - 1, Math.max(0, Math.floor(Math.log10(Math.max(1, flops)) / 3)));
  return `${(flops / 1000 ** unit).toFixed(2)} ${units[unit]}`;
}

function estimateText(estimate: Timed<StepCounts>, shown: Shown, config: AnyConfig, budget: number): string {
  const { parts, parameters, memory, launches, flops, bytes } = estimate;
  const steps = stepsOf(config);
  const allowed = Number.isFinite(budget) ? `, of ${formatBytes(budget)} that the device has for it` : "";
  return [
    "parameters",
    indent(
      table(
        [
          ["", "trained", "frozen"],
          ...Object.entries({ ...parts, total: parameters }).map(([part, { trained, frozen }]) => [
            part,
            formatCount(trained),
            formatCount(frozen),
          ]),
        ],
        [1, 2],
      ),
    ),
    "",
    `memory at its highest${allowed}`,
    indent(
      table(
        [
          ["weights", formatBytes(memory.weights)],
          ["masters, moments, averages", formatBytes(memory.optimizer)],
          ["gradients", formatBytes(memory.gradients)],
          ["activations and temporaries", formatBytes(memory.activations)],
          ["total", formatBytes(memory.peak)],
          ["in buffers of the pool", formatBytes(memory.buffers)],
        ],
        [1],
      ),
    ),
    "",
    shown.step,
    indent(
      table([
        ...shown.ofStep,
        ["launches", formatCount(launches)],
        ["work", `${formatFlops(flops)}, ${formatBytes(bytes)} read and written`],
        [
          "time",
          `${formatTime(estimate.seconds)} at the ${formatFlops(estimate.flopsPerSecond)}/s of a matrix product here`,
        ],
      ]),
    ),
    "",
    `the run: at most ${formatCount(steps)} such steps`,
    indent(
      table([
        ...shown.ofRun(steps),
        ["work", formatFlops(flops * steps)],
        ["time", formatTime(estimate.seconds * steps)],
      ]),
    ),
    "",
  ].join("\n");
}

const against = (measured: number, estimated: number): string =>
  `${((100 * measured) / estimated).toFixed(1)} % of the estimate`;

function measuredText(
  { peak, buffers, seconds }: MeasuredStep,
  { memory, seconds: expected }: Timed<StepCounts>,
): string {
  return [
    "measured: one such step",
    indent(
      table([
        ["memory at its highest", formatBytes(peak), against(peak, memory.peak)],
        ["in buffers of the pool", formatBytes(buffers), against(buffers, memory.buffers)],
        ["time", formatTime(seconds), against(seconds, expected)],
      ]),
    ),
  ].join("\n");
}
