/** Common parts of the commands that run a model: flags, opening the device and the model, and paths of images. */
import { access, constants, mkdir, stat } from "node:fs/promises";
import { basename, join, resolve } from "node:path";
import { Option } from "commander";
import type { Command } from "commander";
import type { CacheDType } from "../kernels/attention/cache_format.ts";
import type { Quantization } from "../kernels/matmul/quantized_format.ts";
import type { FloatDType } from "../model/io/cast.ts";
import type { Janus, Ready } from "../model/janus/node/janus.ts";
import type { Picture } from "../model/janus/pictures.ts";
import type { Context } from "./context.ts";
import { openDevice } from "./device.ts";
import { UsageError } from "./errors.ts";
import { MODEL_ARGUMENT, addHubOptions, resolveModel } from "./model_folder.ts";
import type { HubFlags } from "./model_folder.ts";
import {
  adapterOption,
  dtypeOption,
  loraOption,
  kvCacheOption,
  numberIn,
  quantizeOption,
  wholeNumber,
} from "./options.ts";
import type { LoraFlag } from "./options.ts";

export const DEFAULT_MODEL = "deepseek-ai/Janus-Pro-1B";
const MAX_SEED = 0xffffffff;

export interface ModelFlags extends HubFlags {
  readonly model: string;
  readonly dtype?: FloatDType;
  readonly quantize?: Quantization;
  readonly kvCache?: CacheDType;
  readonly lora?: readonly LoraFlag[];
  readonly adapter?: string | number;
  readonly plain?: boolean;
  readonly verbose?: boolean;
}

/** Options of a command that runs the language model, which can be quantised, can have adapters, and has a cache. */
export const addModelOptions = (command: Command): Command =>
  addWeightOptions(command).addOption(quantizeOption()).addOption(loraOption()).addOption(kvCacheOption());

/** Options of a command that loads a model. */
export function addWeightOptions(command: Command): Command {
  return addHubOptions(command)
    .addOption(new Option("--model <model>", MODEL_ARGUMENT).env("JANUS_MODEL").default(DEFAULT_MODEL))
    .addOption(dtypeOption())
    .addOption(adapterOption())
    .option("--verbose", "print which generation settings come from the model's files");
}

export const plainOption = (): Option =>
  new Option("--plain", "read images as the original code does: stored pixels without EXIF rotation, alpha dropped");

export interface SamplingFlags {
  readonly temperature?: number;
  readonly topK?: number;
  readonly topP?: number;
  readonly seed?: number;
}

export function addSamplingOptions(command: Command, temperature: string): Command {
  return command
    .addOption(new Option("--temperature <t>", temperature).argParser(numberIn(0, 1000)))
    .addOption(new Option("--top-k <k>", "sample only from the k most probable tokens").argParser(wholeNumber(1)))
    .addOption(
      new Option("--top-p <p>", "sample from the smallest set of tokens whose probabilities add up to p").argParser(
        numberIn(0, 1),
      ),
    )
    .addOption(
      new Option("--seed <n>", "seed of the random draws (default: a different one in each run)").argParser(
        wholeNumber(0, MAX_SEED),
      ),
    );
}

/** The flags that were given, as options of the library. */
export function samplingOf({ temperature, topK, topP }: SamplingFlags): {
  temperature?: number;
  topK?: number;
  topP?: number;
} {
  if (topP === 0)
    throw new UsageError(
      "--top-p 0 leaves no token to sample; give a number above 0, or --temperature 0 for the most probable token",
    );
  return {
    ...(temperature !== undefined && { temperature }),
    ...(topK !== undefined && { topK }),
    ...(topP !== undefined && { topP }),
  };
}

/** A seed for a run that was given none, with room for `count` in a row. */
export const anySeed = (count = 1): number => Math.floor(Math.random() * (MAX_SEED - count + 2));

export interface Session extends Disposable {
  readonly janus: Janus;
  readonly loadMs: number;
}

/**
 * Opens the model on a device; both are freed at the end of a `using` block.
 * @param check throws for what the model cannot be asked, before its weights are loaded
 */
export async function openJanus(
  flags: ModelFlags,
  context: Context,
  check: (ready: Ready) => void = () => undefined,
): Promise<Session> {
  const folder = await resolveModel(flags.model, context, flags);
  const started = performance.now();
  const { checkReady, Janus } = await import("../model/janus/node/janus.ts");
  const { describeGeneration } = await import("../model/janus/processor.ts");
  const ready = await checkReady(folder);
  await checkAdapters(flags.lora ?? [], [flags.model, folder], context);
  check(ready); // what can be wrong with the folder is said before the device is opened
  if (flags.verbose) for (const line of describeGeneration(ready.processor)) context.out.note(line);
  const device = await openDevice(flags.adapter, context);
  try {
    using progress = context.out.progress("bytes");
    const janus = await Janus.fromPretrained(folder, {
      device,
      signal: context.signal,
      ...(flags.dtype && { dtype: flags.dtype }),
      ...(flags.quantize && { quantize: flags.quantize }),
      ...(flags.kvCache && { cacheDType: flags.kvCache }),
      pictures: { plain: flags.plain ?? false },
      onNotice: (message) => context.out.warn(message),
      onProgress: ({ bytes, totalBytes }) => progress.report({ done: bytes, total: totalBytes, label: "loading" }),
    });
    for (const [i, { folder: path, weight }] of (flags.lora ?? []).entries())
      await janus.loadAdapter(path, { name: `adapter-${i + 1}`, weight });
    const close = (): void => {
      janus.dispose();
      device.destroy();
    };
    return { janus, loadMs: performance.now() - started, [Symbol.dispose]: close };
  } catch (error) {
    device.destroy();
    throw error;
  }
}

/** Throws for adapters that cannot be read, and warns of those that name another model: what they change is then not what they were trained to. */
export async function checkAdapters(
  adapters: readonly LoraFlag[],
  models: readonly [name: string, folder: string],
  { out }: Context,
): Promise<void> {
  const { readAdapter } = await import("../model/io/peft.ts");
  const { folderSource } = await import("../model/node/files.ts");
  const nameOf = (path: string): string => basename(resolve(path)).toLowerCase();
  for (const { folder } of adapters) {
    const { base } = (await readAdapter(folderSource(folder))).config;
    if (base !== null && !models.map(nameOf).includes(nameOf(base)))
      out.warn(`${folder} says that it was trained on ${base}; the model is ${models[0]}`);
  }
}

/** A prompt as the beginning of a file name. */
export function slug(prompt: string): string {
  // Marks stay with their letters: vowels of Indic scripts are marks, and "é" may be a letter and a mark.
  const words = prompt
    .normalize("NFC")
    .toLowerCase()
    .replace(/[^\p{L}\p{M}\p{N}]+/gu, "-");
  return (
    Array.from(words)
      .slice(0, 48)
      .join("")
      .replace(/^-+|-+$/g, "") || "picture"
  );
}

/** Makes the folder for images; throws `FileError` before any work when nothing can be written there. */
export async function pictureFolder(folder: string): Promise<void> {
  if (folder === "") throw new UsageError('--out: a folder is required; got "". Use . for the current one');
  const { FileError, fileError, requireRoom } = await import("../model/node/files.ts");
  const there = await stat(folder).catch(() => null);
  if (there && !there.isDirectory())
    throw new FileError(`${folder} is a file, not a folder; name another one`, "ENOTDIR");
  try {
    await mkdir(folder, { recursive: true });
    await access(folder, constants.W_OK);
  } catch (error) {
    throw fileError(error, folder);
  }
  await requireRoom(folder, 16 * 2 ** 20);
}

/** Writes `folder/name.png`, or the first of `name-2.png`, `name-3.png`, … that is not there yet, even if two write at once. */
export async function writeFree(folder: string, name: string, content: Uint8Array): Promise<string> {
  const { writeNewFile } = await import("../model/node/files.ts");
  for (let k = 1; ; k++) {
    const path = join(folder, `${name}${k === 1 ? "" : `-${k}`}.png`);
    if (await writeNewFile(path, content)) return path;
  }
}

/** Writes an image under a name made of its prompt and seed. */
export async function savePictureIn(folder: string, picture: Picture): Promise<string> {
  const { encodePicture } = await import("../model/janus/node/janus.ts");
  return writeFree(folder, `${slug(picture.prompt)}-${picture.seed}`, await encodePicture(picture));
}
