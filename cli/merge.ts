/** `janus merge`: adds adapters to the weights of a model and writes it to a new folder. */
import type { FloatDType } from "../model/io/cast.ts";
import type { AddCommand, Context } from "./context.ts";
import { filesOf, readSideFiles } from "./convert.ts";
import { openDevice } from "./device.ts";
import { UsageError } from "./errors.ts";
import { formatBytes, indent, table } from "./format.ts";
import { MODEL_ARGUMENT, addHubOptions, resolveModel } from "./model_folder.ts";
import type { HubFlags } from "./model_folder.ts";
import { adapterOption, dtypeOption, loraOption } from "./options.ts";
import { checkAdapters } from "./session.ts";
import type { LoraFlag } from "./options.ts";

interface MergeFlags extends HubFlags {
  readonly lora?: readonly LoraFlag[];
  readonly dtype?: FloatDType;
  readonly ema?: boolean;
  readonly adapter?: string | number;
}

export const addMerge: AddCommand = (program, context) => {
  const command = program
    .command("merge")
    .summary("add LoRA adapters to the weights of a model")
    .description(
      "Add one or several LoRA adapters to the weights of the model that they were trained on, and write the model to a new folder in the layout of transformers. Each weight is rounded once, to its own dtype.",
    )
    .argument("<model>", MODEL_ARGUMENT)
    .argument("<out>", "output folder; it must be empty or not exist")
    .addOption(loraOption())
    .option("--ema", "take the moving averages of the adapters; they must be checkpoints of runs with ema")
    .addOption(dtypeOption())
    .addOption(adapterOption())
    .option("--json", "print one JSON object");
  addHubOptions(command).action((model: string, to: string, flags: MergeFlags) => merge(model, to, flags, context));
};

async function merge(name: string, to: string, flags: MergeFlags, context: Context): Promise<void> {
  const { out } = context;
  const adapters = flags.lora ?? [];
  if (!adapters.length)
    throw new UsageError("at least one adapter is required: janus merge <model> <out> --lora <folder>");
  const { folderSource, requireNewFolder, writeFolderAtomic } = await import("../model/node/files.ts");
  const { readAdapter } = await import("../model/io/peft.ts");
  await requireNewFolder(to);
  for (const { folder } of adapters) await readAdapter(folderSource(folder)); // before a model is fetched
  const { loadMerged } = await import("../model/janus/merge.ts");
  const { planSave, saveModel } = await import("../model/janus/save.ts");
  const folder = await resolveModel(name, context, flags);
  await checkAdapters(adapters, [name, folder], context);
  const device = await openDevice(flags.adapter, context);
  try {
    using progress = out.progress("bytes");
    const source = folderSource(folder);
    const { model, config, unused } = await loadMerged(source, {
      device,
      adapters: adapters.map(({ folder: path, weight }) => ({ source: folderSource(path), weight })),
      ema: flags.ema ?? false,
      ...(flags.dtype && { dtype: flags.dtype }),
      signal: context.signal,
      onNotice: (message) => out.warn(message),
      onProgress: ({ bytes, totalBytes }) => progress.report({ done: bytes, total: totalBytes, label: "loading" }),
    });
    const options = { sideFiles: await readSideFiles(source, out), unused, signal: context.signal };
    const { bytes } = await planSave(model, config, options);
    await writeFolderAtomic(to, bytes, async (sink) => void (await saveModel(model, config, sink, options)));
    model.dispose();
  } finally {
    device.destroy();
  }
  const files = await filesOf(to);
  out.result({ model: folder, adapters, output: { path: to, files } }, () =>
    [
      `${to}: ${name} with ${adapters.length === 1 ? "an adapter" : `${adapters.length} adapters`} merged`,
      indent(table(files.map((file) => [file.name, formatBytes(file.bytes)]), [1])), // prettier-ignore
    ].join("\n"),
  );
}
