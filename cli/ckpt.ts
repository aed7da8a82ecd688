/** `janus ckpt`: lists, verifies, exports and compares the checkpoints of a training run. Opens no GPU. */
import { Option } from "commander";
import type { Checkpoints, Verdict } from "../train/node/run/checkpoints.ts";
import type { TensorDifference } from "../train/node/run/compare.ts";
import type { AddCommand, Context } from "./context.ts";
import { convertFolder } from "./convert.ts";
import type { ConvertFlags } from "./convert.ts";
import { EXIT } from "./errors.ts";
import { formatBytes, formatCount, indent, table } from "./format.ts";
import { wholeNumber } from "./options.ts";

const RUN_ARGUMENT = "folder of a training run";
const SHOWN = 20; // tensors that differ

export const addCkpt: AddCommand = (program, context) => {
  const ckpt = program.command("ckpt").summary("list, verify, export and compare the checkpoints of a run").description(
    "List, verify, export and compare the checkpoints of a training run. This is safe while the run is training.",
  ); // prettier-ignore
  ckpt
    .command("ls")
    .summary("list the checkpoints")
    .description("List the checkpoints of a run with their sizes, and verify each.")
    .argument("<run>", RUN_ARGUMENT)
    .option("--quick", "compare sizes with the manifest only, not every byte")
    .option("--json", "print one JSON object")
    .action((run: string, flags: { quick?: boolean }) => list(run, flags.quick === true, context));
  ckpt
    .command("verify")
    .summary("check every byte against the manifest")
    .description(
      "Check every byte of one checkpoint, or of all in a run, against its manifest. Exits with 1 if one is damaged.",
    )
    .argument("<run>", RUN_ARGUMENT)
    .argument("[step]", "step of the checkpoint (default: all)", wholeNumber())
    .option("--json", "print one JSON object")
    .action((run: string, step: number | undefined) => verify(run, step, context));
  ckpt
    .command("export")
    .summary("write the model of a checkpoint to a new folder")
    .description("Verify a checkpoint and write its model to a new folder, in the layout of transformers (hf) or of the original (deepseek).")
    .argument("<run>", RUN_ARGUMENT)
    .argument("<step>", "step of the checkpoint", wholeNumber())
    .argument("<out>", "output folder; it must be empty or not exist")
    .addOption(new Option("--layout <layout>", "names of tensors and configs").choices(["hf", "deepseek"]).default("hf"))
    .addOption(
      new Option("--dtype <dtype>", "dtype of all weights (default: each keeps its own)").choices(["f32", "f16", "bf16"]),
    )
    .option("--ema", "export the moving averages of the weights instead of the weights")
    .option("--json", "print one JSON object")
    .action((run: string, step: number, out: string, flags: ConvertFlags) =>
      exportModel(run, step, out, flags, context),
    ); // prettier-ignore
  ckpt
    .command("diff")
    .summary("compare two checkpoints tensor by tensor")
    .description("Compare all safetensors files of two folders, e.g. run/step-00000020 of two runs, tensor by tensor: equal bytes, or the relative L2 distance of the values. Exits with 1 if they differ.")
    .argument("<a>", "folder of a checkpoint or a model")
    .argument("<b>", "folder of the other checkpoint or model")
    .option("--json", "print one JSON object")
    .action((a: string, b: string) => diff(a, b, context)); // prettier-ignore
};

async function openRun(path: string): Promise<{ run: Checkpoints; steps: number[] }> {
  const { Checkpoints } = await import("../train/node/run/checkpoints.ts");
  const run = new Checkpoints(path);
  return { run, steps: await run.list() };
}

async function requireStepOf(path: string, step: number): Promise<Checkpoints> {
  const { run, steps } = await openRun(path);
  const { RunFolderError } = await import("../train/node/run/errors.ts");
  if (!steps.includes(step))
    throw new RunFolderError(
      `${path} has no checkpoint of step ${step}; ${steps.length ? `it has ${steps.join(", ")}` : "it has none"}`,
    );
  return run;
}

async function verdictsOf(
  run: Checkpoints,
  steps: readonly number[],
  hashes: boolean,
  { out, signal }: Context,
): Promise<Verdict[]> {
  using progress = out.progress("bytes");
  const verdicts: Verdict[] = [];
  for (const step of steps) {
    const onProgress = ({ bytes, totalBytes }: { bytes: number; totalBytes: number }): void =>
      progress.report({ done: bytes, total: totalBytes, label: `verifying step ${step}` });
    verdicts.push(await run.verify(step, { hashes, signal, onProgress }));
  }
  return verdicts;
}

const shownVerdicts = (verdicts: readonly Verdict[], yes: string): string =>
  [
    table(verdicts.map(({ step, bytes, verified }) => [String(step), formatBytes(bytes), verified ? yes : "DAMAGED"]), [0, 1]),
    ...verdicts.flatMap(({ step, problems }) => problems.map((problem) => `step ${step}: ${problem}`)),
  ].join("\n"); // prettier-ignore

async function list(path: string, isQuick: boolean, context: Context): Promise<void> {
  const { run, steps } = await openRun(path);
  const checkpoints = await verdictsOf(run, steps, !isQuick, context);
  context.out.result({ run: path, hashes: !isQuick, checkpoints }, () =>
    steps.length ? shownVerdicts(checkpoints, isQuick ? "sizes agree" : "verified") : `${path} has no checkpoints`,
  );
}

async function verify(path: string, step: number | undefined, context: Context): Promise<void> {
  const run = step === undefined ? await openRun(path) : { run: await requireStepOf(path, step), steps: [step] };
  const checkpoints = await verdictsOf(run.run, run.steps, true, context);
  if (checkpoints.some(({ verified }) => !verified)) context.exitCode = EXIT.checkFailed;
  context.out.result({ run: path, checkpoints }, () =>
    checkpoints.length ? shownVerdicts(checkpoints, "verified") : `${path} has no checkpoints`,
  );
}

async function exportModel(
  path: string,
  step: number,
  to: string,
  flags: ConvertFlags,
  context: Context,
): Promise<void> {
  const run = await requireStepOf(path, step);
  const { RunFolderError } = await import("../train/node/run/errors.ts");
  const { requireNewFolder } = await import("../model/node/files.ts");
  await requireNewFolder(to);
  const [verdict] = await verdictsOf(run, [step], true, context);
  if (!verdict!.verified)
    throw new RunFolderError(`${verdict!.path} is damaged, nothing is exported: ${verdict!.problems.join("; ")}`);
  await convertFolder(verdict!.path, to, flags, context);
}

async function diff(a: string, b: string, context: Context): Promise<void> {
  const { compareFolders } = await import("../train/node/run/compare.ts");
  const { out, signal } = context;
  using progress = out.progress("bytes");
  const found = await compareFolders(a, b, {
    signal,
    onProgress: ({ bytes: done, totalBytes: total, tensor }) => progress.report({ done, total, label: tensor }),
  });
  progress.stop();
  if (!found.equal) context.exitCode = EXIT.checkFailed;
  out.result({ a, b, ...found }, () => {
    const differing = found.tensors.filter(({ state }) => state !== "equal");
    const head = `${formatCount(found.tensors.length)} tensors, ${formatCount(differing.length)} differ`;
    if (!differing.length) return `equal: ${head}`;
    const shown = differing.toSorted((x, y) => (y.relativeL2 ?? Infinity) - (x.relativeL2 ?? Infinity)).slice(0, SHOWN);
    const more = differing.length - shown.length;
    return [head, indent(table(shown.map(differenceRow))), ...(more ? [`  … and ${more} more`] : [])].join("\n");
  });
}

const differenceRow = ({ file, name, state, relativeL2, specs }: TensorDifference): string[] => [
  `${file}: ${name}`,
  state === "differs"
    ? relativeL2 === null
      ? `other bytes (${specs[0]})`
      : `relative L2 ${relativeL2.toExponential(2)}`
    : state === "other shape"
      ? `${specs[0]} and ${specs[1]}`
      : state,
];
