/** `janus train … --dry-run`: what a run should take, and what its longest step does take; nothing is written. */
import type { TrainConfig } from "../train/config.ts";
import type { DryRun, MeasuredStep, TimedEstimate } from "../train/dry_run.ts";
import type { Task } from "../train/samples.ts";
import type { Context } from "./context.ts";
import { openDevice } from "./device.ts";
import { formatBytes, formatCount, formatDuration, indent, table } from "./format.ts";

export async function dryRun(
  model: string,
  config: TrainConfig,
  adapter: string | number | undefined,
  context: Context,
): Promise<void> {
  const { out, signal } = context;
  const { dryRun: run } = await import("../train/dry_run.ts");
  const device = await openDevice(adapter, context);
  const { budget } = device.pool;
  try {
    const { estimate, measured } = await run({
      model,
      config,
      device,
      signal,
      onEstimate: (found) => {
        out.text(`${estimateText(found, config, budget)}\n`);
        if (found.fits) out.note(`taking one such step on ${device.name}`);
      },
    });
    out.result({ ...resultOf(estimate, config, budget), measured }, () => measuredText(measured, estimate));
  } finally {
    device.destroy();
  }
}

/** Steps until the run ends. */
const stepsOf = ({ steps, stopAt = steps }: TrainConfig): number => Math.min(steps, stopAt);

const times = (tokens: Readonly<Record<Task, number>>, factor: number): Record<Task, number> => ({
  und: tokens.und * factor,
  text: tokens.text * factor,
  gen: tokens.gen * factor,
});

function resultOf({ samples, ...estimate }: DryRun["estimate"], config: TrainConfig, budget: number): object {
  const steps = stepsOf(config);
  const { tokens, flops, seconds } = estimate;
  return {
    estimate: { ...estimate, samples: samples.length },
    run: { steps, tokens: times(tokens, steps), flops: flops * steps, seconds: seconds * steps },
    budgetBytes: Number.isFinite(budget) ? budget : null,
  };
}

/** `1,800 (und 600, text 900, gen 300)` */
const tokensText = (tokens: Readonly<Record<Task, number>>): string =>
  `${formatCount(tokens.und + tokens.text + tokens.gen)} (${Object.entries(tokens)
    .filter(([, n]) => n > 0)
    .map(([task, n]) => `${task} ${formatCount(n)}`)
    .join(", ")})`;

const DAY = 86_400;
const formatTime = (seconds: number): string =>
  seconds < 2 * DAY ? formatDuration(1000 * seconds) : `${formatCount(Math.round(seconds / DAY))} days`;

function formatFlops(flops: number): string {
  const units = ["FLOP", "kFLOP", "MFLOP", "GFLOP", "TFLOP", "PFLOP", "EFLOP", "ZFLOP"];
  const unit = Math.min(units.length - 1, Math.max(0, Math.floor(Math.log10(Math.max(1, flops)) / 3)));
  return `${(flops / 1000 ** unit).toFixed(2)} ${units[unit]}`;
}

function estimateText(estimate: TimedEstimate, config: TrainConfig, budget: number): string {
  const { parts, parameters, memory, rows, samples, tokens, targets, launches, flops, bytes } = estimate;
  const steps = stepsOf(config);
  const allowed = Number.isFinite(budget) ? `, of ${formatBytes(budget)} that the device has for it` : "";
  return [
    "parameters",
    indent(
      table(
        [
          ["", "trained", "frozen"],
          ...Object.entries({ ...parts, "in all": parameters }).map(([part, { trained, frozen }]) => [
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
          ["in all", formatBytes(memory.peak)],
          ["in buffers of the pool", formatBytes(memory.buffers)],
        ],
        [1],
      ),
    ),
    "",
    `the longest step: ${formatCount(samples.length)} samples in ${formatCount(rows)} rows of ${formatCount(config.length)} tokens`,
    indent(
      table([
        ["tokens", tokensText(tokens)],
        ["trained", tokensText(targets)],
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
        ["tokens", tokensText(times(tokens, steps))],
        ["work", formatFlops(flops * steps)],
        ["time", formatTime(estimate.seconds * steps)],
      ]),
    ),
    "",
  ].join("\n");
}

const against = (measured: number, estimated: number): string =>
  `${((100 * measured) / estimated).toFixed(1)} % of the estimate`;

function measuredText({ peak, buffers, seconds }: MeasuredStep, { memory, seconds: expected }: TimedEstimate): string {
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
