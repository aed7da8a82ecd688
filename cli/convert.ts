/** `janus convert`: a checkpoint in the other layout of names, or in another dtype, in a new folder that appears whole or not at all. */
import { join } from "node:path";
import { Option } from "commander";
import type { Quantization } from "../kernels/matmul/quantized_format.ts";
import type { FloatDType } from "../model/io/cast.ts";
import type { FileSource } from "../model/io/bytes.ts";
import type { Layout } from "../model/janus/checkpoint/names.ts";
import type { Output } from "./console.ts";
import type { AddCommand, Context } from "./context.ts";
import { UsageError } from "./errors.ts";
import { formatBytes, formatDuration, indent, table } from "./format.ts";
import { MODEL_ARGUMENT, addHubOptions, resolveModel } from "./model_folder.ts";
import type { HubFlags } from "./model_folder.ts";

/** The largest side file that is taken along (a tokenizer.json has up to 10 MB); larger ones are named and left. */
const MAX_SIDE_FILE = 64 * 2 ** 20;

export interface ConvertFlags {
  readonly layout: Layout;
  readonly dtype?: FloatDType;
  readonly quantize?: Quantization;
  /** Take the averages of a training run's checkpoint for the weights that have one, in the dtype of the weights. */
  readonly ema?: boolean;
}

export const addConvert: AddCommand = (program, context) => {
  const command = program
    .command("convert")
    .summary("write a checkpoint in another layout or dtype, or quantised")
    .description(
      "Write a checkpoint to a new folder as safetensors, in the layout of transformers (hf) or of the original (deepseek), with its config, processor and tokenizer files.",
    )
    .argument("<in>", MODEL_ARGUMENT)
    .argument("<out>", "output folder; it must be empty or not exist")
    .addOption(
      new Option("--layout <layout>", "names of tensors and configs: transformers (hf) or the original (deepseek)")
        .choices(["hf", "deepseek"])
        .makeOptionMandatory(),
    )
    .addOption(
      new Option("--dtype <dtype>", "dtype of all weights (default: each keeps its own)").choices([
        "f32",
        "f16",
        "bf16",
      ]),
    )
    .addOption(
      new Option(
        "--quantize <kind>",
        "quantise the language model's layers and both heads, to 8 or 4 bits a weight (only with --layout hf)",
      ).choices(["int8", "int4"]),
    )
    .option("--json", "print one JSON object");
  addHubOptions(command).action((from: string, to: string, flags: ConvertFlags & HubFlags) =>
    convert(from, to, flags, context),
  );
};

async function convert(from: string, to: string, flags: ConvertFlags & HubFlags, context: Context): Promise<void> {
  if (flags.quantize && flags.layout !== "hf")
    throw new UsageError(`--quantize must be used with --layout hf; got --layout ${flags.layout}`);
  const { requireNewFolder } = await import("../model/node/files.ts");
  await requireNewFolder(to); // before anything is fetched
  await convertFolder(await resolveModel(from, context, flags), to, flags, context);
}

/** Writes the model of a folder to a new folder and prints a summary. */
export async function convertFolder(from: string, to: string, flags: ConvertFlags, context: Context): Promise<void> {
  const { out, signal } = context;
  const { layout, quantize, ema = false } = flags;
  const { openCheckpoint } = await import("../model/janus/checkpoint/checkpoint.ts");
  const { convertCheckpoint, planConversion } = await import("../model/janus/checkpoint/convert.ts");
  const { folderSource, writeFolderAtomic } = await import("../model/node/files.ts");
  const source = folderSource(from);
  const dtype = flags.dtype ?? (ema ? await dtypeOf(source) : undefined); // averages are f32
  const checkpoint = await openCheckpoint(source, { ema });
  const started = Date.now();
  for (const notice of checkpoint.notices) out.warn(notice);
  try {
    const sideFiles = await readSideFiles(source, out);
    const options = { layout, ...(dtype && { dtype }), ...(quantize && { quantize }) };
    const plan = planConversion(checkpoint, options);
    const small = [...sideFiles.values(), ...(plan.index ? [plan.index] : [])];
    using progress = out.progress("bytes");
    // Checks the disk space first, and leaves no files behind if the function throws.
    await writeFolderAtomic(to, plan.bytes + small.reduce((sum, file) => sum + file.length, 0), async (sink) => {
      await convertCheckpoint(checkpoint, sink, {
        ...options,
        sideFiles,
        signal,
        onNotice: (message) => out.warn(message),
        onProgress: ({ bytes: done, totalBytes: total }) => progress.report({ done, total, label: "converting" }),
      });
      signal.throwIfAborted();
    });
  } finally {
    await checkpoint.close();
  }
  const files = await filesOf(to);
  const ms = Date.now() - started;
  const bytes = files.reduce((sum, file) => sum + file.bytes, 0);
  const input = { path: checkpoint.name, layout: checkpoint.layout, format: checkpoint.format };
  out.result(
    { input, output: { path: to, layout, dtype: dtype ?? null, quantize: quantize ?? null, bytes, files }, ms },
    () =>
      [
        `${to}: ${layout} layout${dtype ? ` in ${dtype}` : ""}${quantize ? `, quantised to ${quantize}` : ""}, ${formatBytes(bytes)}, written in ${formatDuration(ms)}`,
        indent(table(files.map((file) => [file.name, formatBytes(file.bytes)]), [1])), // prettier-ignore
      ].join("\n"),
  );
}

/** Dtype of most of a model's weights. */
async function dtypeOf(source: FileSource): Promise<FloatDType> {
  const { openCheckpoint } = await import("../model/janus/checkpoint/checkpoint.ts");
  const { mainDType } = await import("../model/janus/checkpoint/side_files.ts");
  const checkpoint = await openCheckpoint(source);
  await checkpoint.close();
  return mainDType(checkpoint);
}

/** Tokenizer, processor and other small files of a checkpoint's folder. */
async function readSideFiles(source: FileSource, out: Output): Promise<Map<string, Uint8Array>> {
  const { isSideFile } = await import("../model/janus/checkpoint/side_files.ts");
  const { requireContent } = await import("../model/io/small_file.ts");
  const found = new Map<string, Uint8Array>();
  for (const name of (await source.list()).filter(isSideFile)) {
    const file = await source.open(name);
    try {
      if (file.size <= MAX_SIDE_FILE) {
        const bytes = (await file.read(0, file.size)).slice();
        if (/\.(json|jinja|txt)$/.test(name)) requireContent(bytes, file.name);
        found.set(name, bytes);
      } else
        out.warn(
          `${file.name} is not copied: it has ${formatBytes(file.size)}, and files of at most ${formatBytes(MAX_SIDE_FILE)} are`,
        );
    } finally {
      await file.close?.();
    }
  }
  return found;
}

async function filesOf(folder: string): Promise<{ name: string; bytes: number }[]> {
  const { fileSize, folderSource } = await import("../model/node/files.ts");
  const names = await folderSource(folder).list();
  return Promise.all(names.map(async (name) => ({ name, bytes: (await fileSize(join(folder, name))) ?? 0 })));
}
