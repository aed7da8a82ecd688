/** `janus inspect`: shows the contents of a checkpoint, and the memory to run and train it. Opens no GPU and reads no weights. */
import type { JanusConfig } from "../model/janus/config.ts";
import type { Inspection } from "../model/janus/checkpoint/inspect.ts";
import type { AddCommand, Context } from "./context.ts";
import { formatBytes, formatCount, formatShare, indent, table } from "./format.ts";
import { MODEL_ARGUMENT, addHubOptions, resolveSource } from "./model_folder.ts";
import type { HubFlags } from "./model_folder.ts";

export const addInspect: AddCommand = (program, context) => {
  const command = program
    .command("inspect")
    .summary("show the contents of a checkpoint and the memory that it needs")
    .description(
      "Show a checkpoint's config, tensors, parameters by part, and the memory to run and to train it. Needs no GPU. For a model on the hub, it reads only a few megabytes: configs and headers.",
    )
    .argument("<model>", MODEL_ARGUMENT)
    .option("--json", "print one JSON object");
  addHubOptions(command).action((model: string, flags: HubFlags) => show(model, flags, context));
};

async function show(model: string, flags: HubFlags, context: Context): Promise<void> {
  const source = await resolveSource(model, context, flags);
  const { openCheckpoint } = await import("../model/janus/checkpoint/checkpoint.ts");
  const { inspect } = await import("../model/janus/checkpoint/inspect.ts");
  const checkpoint = await openCheckpoint(source);
  try {
    for (const notice of checkpoint.notices) context.out.warn(notice);
    const found = inspect(checkpoint);
    context.out.result(found, () => inspectionText(found));
  } finally {
    await checkpoint.close();
  }
}

const LAYOUTS = { hf: "hf (transformers' names)", deepseek: "deepseek (the original's names)" } as const;
const FORMATS = { safetensors: "safetensors", torch: "torch.save", gguf: "GGUF" } as const;

function inspectionText(found: Inspection): string {
  const dtypes = Object.entries(found.dtypes).map(
    ([dtype, { tensors, bytes }]) => `${formatCount(tensors)} tensors in ${dtype}, ${formatBytes(bytes)}`,
  );
  const unused = found.unused ? `; ${formatCount(found.unused)} more values that the model never reads` : "";
  return [
    found.name,
    indent(
      table([
        ["layout", LAYOUTS[found.layout]],
        ["format", FORMATS[found.format]],
        ["weights", dtypes.join("; ")],
        ...(found.quantization ? [["quantised", `language model and heads in ${found.quantization}`]] : []),
        ...found.missing.map((part) => ["missing", `the weights to ${part}`]),
        ["parameters", `${formatCount(found.parameters)}${unused}`],
      ]),
    ),
    "",
    "config",
    indent(table(configRows(found.config))),
    "",
    "parameters by part",
    indent(table(partRows(found), [1, 2])),
    "",
    "memory to run (weights in their stored dtype, one image at a time)",
    indent(table(runRows(found), [1])),
    ...(found.missing.length ? [] : trainingText(found)),
  ].join("\n");
}

/** What training needs; a model that lacks parts cannot be trained. */
const trainingText = (found: Inspection): string[] => [
  "",
  "memory to train (16 bytes per trained parameter, the rest frozen in 16 bits; plus activations)",
  indent(table(trainRows(found), [1, 2])),
];

function configRows({ vision, vq, language, aligner, generation }: JanusConfig): string[][] {
  const heads =
    language.kvHeads === language.heads
      ? `${language.heads} heads`
      : `${language.heads} heads (${language.kvHeads} for keys)`;
  return [
    [
      "language model",
      `${language.layers} layers, ${language.hidden} wide, ${heads} of ${language.headDim}, MLP ${language.intermediate}, vocabulary ${formatCount(language.vocabulary)}, up to ${formatCount(language.maxPositions)} tokens`,
    ],
    [
      "vision tower",
      `${vision.layers} layers, ${vision.hidden} wide, ${vision.heads} heads, MLP ${vision.intermediate}, images of ${vision.imageSize} in patches of ${vision.patchSize}`,
    ],
    [
      "image tokenizer",
      `${formatCount(vq.codes)} codes of ${vq.codeDim}, images of ${vq.imageSize}, channels ${vq.multipliers.map((m) => m * vq.baseChannels).join(" ")}`,
    ],
    ["aligners", `${aligner.depth} layers for understanding, ${generation.depth} for generation`],
  ];
}

function partRows({ byPart, parameters }: Inspection): string[][] {
  const found = Object.entries(byPart).filter(([, count]) => count > 0);
  return found.map(([part, count]) => [part, formatCount(count), formatShare(count, parameters)]);
}

function runRows({ needs, quantization, missing }: Inspection): string[][] {
  const { weightBytes, quantizedBytes, imageCacheBytes, decoderBytes, runBytes, cacheBytesPerToken } = needs;
  return [
    ["weights, all", formatBytes(weightBytes.all)],
    ...(quantization
      ? []
      : Object.entries(quantizedBytes).map(([kind, bytes]) => [`weights with --quantize ${kind}`, formatBytes(bytes)])),
    ...(missing.includes("understand images")
      ? []
      : [["weights to understand images", formatBytes(weightBytes.understanding)]]),
    ...(missing.includes("generate images")
      ? []
      : [["weights to generate images", formatBytes(weightBytes.generation)]]),
    ["KV cache of a token", formatBytes(cacheBytesPerToken.f32)],
    ...(missing.includes("generate images")
      ? []
      : [
          ["KV cache of an image", formatBytes(imageCacheBytes.f32)],
          ...(["bf16", "int8"] as const).map((dtype) => [`KV cache of an image with --kv-cache ${dtype}`, formatBytes(imageCacheBytes[dtype])]), // prettier-ignore
          ["image decoder", formatBytes(decoderBytes)],
        ]),
    ["total", formatBytes(runBytes)],
  ];
}

function trainRows({ needs: { training } }: Inspection): string[][] {
  const row = (name: string, { trainable, bytes }: (typeof training)["stage1"]): string[] => [
    name,
    `${formatCount(trainable)} parameters`,
    formatBytes(bytes),
  ];
  return [row("stage 1", training.stage1), row("stage 2", training.stage2), row("stage 3", training.stage3)];
}
