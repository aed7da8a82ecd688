/** `janus verify`: computes every value of a golden folder anew and holds them against each other. */
import { Option } from "commander";
import type { Device } from "../engine/device.ts";
import type { FloatDType } from "../model/checkpoint/cast.ts";
import type { Checkpoint } from "../model/checkpoint/checkpoint.ts";
import type { AddCommand, Context } from "./context.ts";
import { openDevice } from "./device.ts";
import { EXIT } from "./errors.ts";
import { formatCount, table } from "./format.ts";
import type { Row } from "./golden/compare.ts";
import { MODEL_ARGUMENT, resolveModel } from "./model_folder.ts";
import { adapter } from "./options.ts";

interface VerifyFlags {
  readonly model: string;
  readonly golden: string;
  readonly dtype?: FloatDType;
  readonly adapter?: string | number;
}

export const addVerify: AddCommand = (program, context) => {
  program
    .command("verify")
    .summary("compare a model with golden values")
    .description(
      "Compute every value of a golden folder (golden.safetensors, golden.json, image0.png, …) anew and compare: preprocessing, prompts, both encoders, logits, greedy text and pictures. The bounds are those of float32, whatever the weights are.",
    )
    .requiredOption("--model <model>", MODEL_ARGUMENT)
    .requiredOption("--golden <folder>", "the golden folder")
    .addOption(
      new Option("--dtype <dtype>", "of the weights on the device; without it their own").choices([
        "f32",
        "f16",
        "bf16",
      ]),
    )
    .addOption(
      new Option("--adapter <adapter>", "its place in the list of janus doctor, or a part of its name").argParser(
        adapter,
      ),
    )
    .option("--json", "print one JSON object")
    .action((flags: VerifyFlags) => verify(flags, context, () => openDevice(flags.adapter, context)));
};

/** The command. `open` opens the device; it is called once all files are checked, and the device is destroyed at the end. */
export async function verify(flags: VerifyFlags, context: Context, open: () => Promise<Device>): Promise<void> {
  const { out, signal } = context;
  const { openCheckpoint } = await import("../model/checkpoint/checkpoint.ts");
  const { folderSource } = await import("../model/node/files.ts");
  const { readProcessor } = await import("../model/processor.ts");
  const { loadModel } = await import("../model/load.ts");
  const { Verification, checkGolden } = await import("./golden/entries.ts");
  const { Golden } = await import("./golden/file.ts");
  const { GoldenInputs } = await import("./golden/inputs.ts");
  const { GoldenModel } = await import("./golden/model.ts");

  await using golden = await Golden.open(folderSource(flags.golden));
  const source = folderSource(await resolveModel(flags.model, context));
  const checkpoint = await openCheckpoint(source);
  let device: Device | null = null;
  try {
    const { config } = checkpoint;
    const processor = await readProcessor(source, config);
    checkGolden(golden, config);
    device = await open();
    using progress = out.progress("rows");
    const model = await loadModel(checkpoint, { device, dtype: flags.dtype ?? ownDType(checkpoint), signal });
    const run = new Verification(
      new GoldenInputs(golden, config, processor),
      new GoldenModel(model, config, processor, signal),
    );
    const rows: Row[] = [];
    const total = run.count;
    for await (const row of run.rows()) {
      signal.throwIfAborted();
      rows.push(row);
      progress.report({ done: Math.min(rows.length, total), total, label: "verifying" });
    }
    model.dispose();
    progress.stop();
    if (rows.some(({ pass }) => pass === false)) context.exitCode = EXIT.checkFailed;
    const { trainStage } = await import("./golden/train.ts");
    out.result({ entries: rows }, () => text(rows, trainStage));
  } finally {
    device?.destroy();
    await checkpoint.close();
  }
}

/** The dtype that loses nothing: that of the weights, f32 where they have several. */
function ownDType({ parameters }: Checkpoint): FloatDType {
  const [one, another] = new Set([...parameters.values()].map(({ dtype }) => dtype as FloatDType));
  return another === undefined ? one! : "f32";
}

const short = (value: number | null): string => (value === null ? "" : value === 0 ? "0" : value.toExponential(1));

/** A line a row, but one for each stage of training; then what it comes to. */
function text(rows: readonly Row[], stageOf: (row: Row) => string | null): string {
  const stages = new Map<string, number>();
  const lines = [["entry", "shape", "max |d|", "rel. L2", "equal", "", ""]];
  for (const row of rows) {
    const stage = stageOf(row);
    if (stage !== null) {
      stages.set(stage, (stages.get(stage) ?? 0) + 1);
      continue;
    }
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
  for (const [stage, count] of stages)
    lines.push([
      `${stage}.*`,
      `${formatCount(count)} values`,
      "",
      "",
      "",
      "-",
      rows.find((row) => stageOf(row) === stage)!.note!,
    ]);
  const [passed, wrong, rest] = [true, false, null].map(
    (state) => rows.filter(({ pass }) => pass === state).length,
  ) as [number, number, number];
  return `${table(lines, [2, 3, 4])}\n\n${wrong ? "FAIL" : "pass"}: ${formatCount(passed + wrong)} values checked, ${formatCount(passed)} pass, ${formatCount(wrong)} fail; ${formatCount(rest)} not computed\n`;
}

/** 1 is shown only where all are equal. */
const share = (part: number): string => (part === 1 ? "100 %" : `${(Math.floor(part * 1000) / 10).toFixed(1)} %`);
