/** `janus verify`: recomputes every value of a golden folder and compares. */

import type { Device } from "../engine/device.ts";
import type { FloatDType } from "../model/io/cast.ts";
import type { Checkpoint } from "../model/janus/checkpoint/checkpoint.ts";
import type { JanusForConditionalGeneration } from "../model/janus/janus.ts";
import type { AddCommand, Context } from "./context.ts";
import { openDevice } from "./device.ts";
import { EXIT } from "./errors.ts";
import { formatCount, table } from "./format.ts";
import type { Comparison } from "../verify/compare.ts";
import { MODEL_ARGUMENT, addHubOptions, resolveModel } from "./model_folder.ts";
import type { HubFlags } from "./model_folder.ts";
import { adapterOption, dtypeOption } from "./options.ts";

interface VerifyFlags extends HubFlags {
  readonly model: string;
  readonly golden: string;
  readonly dtype?: FloatDType;
  readonly adapter?: string | number;
}

export const addVerify: AddCommand = (program, context) => {
  const command = program
    .command("verify")
    .summary("compare a model with golden values")
    .description(
      "Recompute every value of a golden folder (golden.safetensors, golden.json, image0.png, …) and compare: preprocessing, prompts, both encoders, logits, greedy text and images, and the losses, gradients and optimizer steps of training (always in f32). The tolerances are those of f32, whatever the dtype of the weights.",
    )
    .requiredOption("--model <model>", MODEL_ARGUMENT)
    .requiredOption("--golden <folder>", "the golden folder")
    .addOption(dtypeOption())
    .addOption(adapterOption())
    .option("--json", "print one JSON object");
  addHubOptions(command).action((flags: VerifyFlags) =>
    verify(flags, context, () => openDevice(flags.adapter, context)),
  );
};

/** The command. `open` opens the device; it is called once all files are checked, and the device is destroyed at the end. */
export async function verify(flags: VerifyFlags, context: Context, open: () => Promise<Device>): Promise<void> {
  const { out, signal } = context;
  const { openCheckpoint } = await import("../model/janus/checkpoint/checkpoint.ts");
  const { folderSource } = await import("../model/node/files.ts");
  const { readProcessor } = await import("../model/janus/processor.ts");
  const { loadModel } = await import("../model/janus/load.ts");
  const { Verification, checkGolden } = await import("../verify/entries.ts");
  const { Golden } = await import("../verify/file.ts");
  const { GoldenInputs } = await import("../verify/inputs.ts");
  const { GoldenModel } = await import("../verify/model.ts");
  const { Training, trainStage, worst } = await import("../verify/training.ts");

  await using golden = await Golden.open(folderSource(flags.golden));
  const source = folderSource(await resolveModel(flags.model, context, flags));
  const checkpoint = await openCheckpoint(source);
  let device: Device | null = null;
  try {
    const { config } = checkpoint;
    checkpoint.requireWhole("verify");
    const processor = await readProcessor(source, config);
    checkGolden(golden, config);
    device = await open();
    using progress = out.progress("rows");
    const model = await loadModel(checkpoint, {
      device,
      dtype: flags.dtype ?? ownDType(checkpoint),
      signal,
      onNotice: (message) => out.warn(message),
    });
    const inputs = new GoldenInputs(golden, config, processor);
    const run = new Verification(inputs, new GoldenModel(model, config, processor, signal));
    const onDevice = device;
    const fresh = (): Promise<JanusForConditionalGeneration> =>
      loadModel(checkpoint, { device: onDevice, dtype: "f32", signal, onNotice: () => undefined }); // the first one has said it
    const training = new Training(inputs, fresh, signal);
    const rows: Comparison[] = [];
    const total = run.count + training.count;
    const take = async (source: AsyncIterable<Comparison>, label: string): Promise<void> => {
      progress.report({ done: Math.min(rows.length, total), total, label });
      for await (const row of source) {
        signal.throwIfAborted();
        rows.push(row);
        progress.report({ done: Math.min(rows.length, total), total, label });
      }
    };
    await take(run.rows(), "verifying");
    model.dispose(); // training uses its own models
    await take(training.rows(), "training");
    rows.push(...run.others());
    progress.stop();
    if (rows.some(({ pass }) => pass === false)) context.exitCode = EXIT.checkFailed;
    out.result({ entries: rows }, () => text(rows, trainStage, worst));
  } finally {
    device?.destroy();
    await checkpoint.close();
  }
}

/** The dtype that loses nothing: that of the weights, f32 if they have several. */
function ownDType({ parameters }: Checkpoint): FloatDType {
  const [one, another] = new Set([...parameters.values()].map(({ dtype }) => dtype as FloatDType));
  return another === undefined ? one! : "f32";
}

const short = (value: number | null): string => (value === null ? "" : value === 0 ? "0" : value.toExponential(1));

/** Prints a line per row, except for training, which has one line per stage and one per failed row; then the summary. */
function text(
  rows: readonly Comparison[],
  stageOf: (row: Comparison) => string | null,
  worst: (rows: readonly Comparison[]) => string,
): string {
  const stages = new Map<string, Comparison[]>();
  for (const row of rows) {
    const stage = row.pass === null ? null : stageOf(row);
    if (stage !== null) stages.set(stage, [...(stages.get(stage) ?? []), row]);
  }
  const lines = [["entry", "shape", "max |d|", "rel. L2", "equal", "", ""]];
  const shown = new Set<string>();
  for (const row of rows) {
    const stage = stageOf(row);
    const all = stages.get(stage ?? "");
    if (stage !== null && all && !shown.has(stage)) {
      shown.add(stage);
      const wrong = all.filter(({ pass }) => !pass).length;
      const note = wrong ? `${formatCount(wrong)} fail, which follow` : worst(all);
      lines.push([`${stage}.*`, `${formatCount(all.length)} values`, "", "", "", wrong ? "FAIL" : "pass", note]);
    }
    if (stage !== null && row.pass === true) continue;
    const { entry, shape, maxAbs, relativeL2, equalShare, pass, note = "" } = row;
    lines.push([
      entry,
      shape?.join("×") ?? "",
      short(maxAbs),
      short(relativeL2),
      equalShare === null ? "" : share(equalShare),
      pass === null ? "-" : pass ? "pass" : "FAIL",
      note,
    ]);
  }
  const [passed, wrong, rest] = [true, false, null].map(
    (state) => rows.filter(({ pass }) => pass === state).length,
  ) as [number, number, number];
  return `${table(lines, [2, 3, 4])}\n\n${wrong ? "FAIL" : "pass"}: ${formatCount(passed + wrong)} values checked, ${formatCount(passed)} pass, ${formatCount(wrong)} fail; ${formatCount(rest)} not computed\n`;
}

/** 1 is shown only if all are equal. */
const share = (part: number): string => (part === 1 ? "100 %" : `${(Math.floor(part * 1000) / 10).toFixed(1)} %`);
