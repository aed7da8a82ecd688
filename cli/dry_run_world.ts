/** `janus train … --dry-run --world P --machine NAME`: memory and time of a run on many GPUs, on paper. */
import type { TokenizerConfig, TrainConfig } from "../train/config.ts";
import type { AnySharding, Machine, ScaleCounts, ScaledStep } from "../train/scale.ts";
import type { StepMemory } from "../train/estimate.ts";
import type { Context } from "./context.ts";
import { formatFlops, formatTime } from "./dry_run.ts";
import { UsageError } from "./errors.ts";
import { formatBytes, formatCount, formatDuration, indent, table } from "./format.ts";

interface Row {
  readonly sharding: AnySharding;
  readonly memory: Omit<StepMemory, "buffers">;
  readonly fits: boolean;
  readonly step: ScaledStep;
  readonly tokensPerSecond: number;
  readonly seconds: number;
}

export async function dryRunWorld(
  model: string,
  config: TrainConfig | TokenizerConfig,
  { world, machine: name }: { readonly world: number; readonly machine: string },
  { out }: Context,
): Promise<void> {
  if (config.stage === 0) throw new UsageError("--world: stage 0 trains on one GPU; leave --world out");
  const { loadMachine } = await import("../train/node/settings.ts");
  const machine = loadMachine(name);
  const { SHARDINGS, countForScale, scaledMemory, scaledStep } = await import("../train/scale.ts");
  const { openCheckpoint } = await import("../model/janus/checkpoint/checkpoint.ts");
  const { folderSource } = await import("../model/node/files.ts");
  const checkpoint = await openCheckpoint(folderSource(model));
  await checkpoint.close();
  checkpoint.requireUnquantized("train");
  const counts = await countForScale(checkpoint.config, config);
  const steps = Math.min(config.steps, config.stopAt ?? config.steps);
  const rows = SHARDINGS.map((sharding): Row => {
    const memory = scaledMemory(counts, sharding, world);
    const step = scaledStep(counts, machine, sharding, world);
    const tokensPerSecond = (counts.rows * config.length) / step.total;
    return { sharding, memory, fits: memory.peak <= machine.memory, step, tokensPerSecond, seconds: steps * step.total }; // prettier-ignore
  });
  const result = {
    world,
    machine: { name, ...machine },
    steps,
    rows: counts.rows,
    flops: counts.flops,
    shardings: rows,
  };
  out.result(result, () => worldText({ world, name, machine, counts, steps, rows }));
}

interface Shown {
  readonly world: number;
  readonly name: string;
  readonly machine: Machine;
  readonly counts: ScaleCounts;
  readonly steps: number;
  readonly rows: readonly Row[];
}

function worldText({ world, name, machine, counts, steps, rows }: Shown): string {
  const { flops, efficiency, memory } = machine;
  const heads = rows.map(({ sharding }) => sharding);
  const line = (title: string, text: (row: Row) => string): string[] => [title, ...rows.map(text)];
  const columns = rows.map((_, i) => i + 1);
  const time = (seconds: number): string => formatDuration(1000 * seconds);
  return [
    `${formatCount(world)} × ${name}: ${formatFlops(flops)}/s, of which a step reaches ${(100 * efficiency).toFixed(1)} %; ${formatBytes(memory)}`,
    `the longest step: ${formatCount(counts.rows)} rows of ${formatCount(counts.config.length)} tokens, ${formatFlops(counts.flops.saved)}; with layers recomputed ${formatFlops(counts.flops.recomputed)}`,
    "",
    "memory of a GPU, by sharding",
    indent(
      table(
        [
          ["", ...heads],
          line("weights", (row) => formatBytes(row.memory.weights)),
          line("masters, moments, averages", (row) => formatBytes(row.memory.optimizer)),
          line("gradients", (row) => formatBytes(row.memory.gradients)),
          line("activations and temporaries", (row) => formatBytes(row.memory.activations)),
          line("total", (row) => formatBytes(row.memory.peak)),
          line("fits", (row) => (row.fits ? "yes" : "no")),
        ],
        columns,
      ),
    ),
    "",
    "a step",
    indent(
      table(
        [
          ["", ...heads],
          line("rows in turn", (row) => formatCount(row.step.rounds)),
          line("forward and backward", (row) => time(row.step.compute)),
          line("messages and copies", (row) => time(row.step.messages)),
          line("of that not hidden", (row) => time(row.step.exposed)),
          line("optimizer", (row) => time(row.step.update)),
          line("total", (row) => time(row.step.total)),
          line("sent by a GPU", (row) => formatBytes(row.step.sent)),
          line("between GPU and host", (row) => formatBytes(row.step.host)),
          line("tokens a second", (row) => formatCount(Math.round(row.tokensPerSecond))),
          line(`${formatCount(steps)} steps`, (row) => formatTime(row.seconds)),
        ],
        columns,
      ),
    ),
  ].join("\n");
}
