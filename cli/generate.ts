/** `janus generate`: generates images from prompts, as PNG files that record how they were made, and regenerates images from such files. */
import { Option } from "commander";
import { rm } from "node:fs/promises";
import { basename, extname, join } from "node:path";
import type { Janus } from "../model/janus/node/janus.ts";
import type { Pictures } from "../model/janus/pictures.ts";
import type { AddCommand, Context } from "./context.ts";
import { EXIT, UsageError } from "./errors.ts";
import { formatDuration } from "./format.ts";
import { numberIn, wholeNumber } from "./options.ts";
import {
  addModelOptions,
  addSamplingOptions,
  anySeed,
  openJanus,
  pictureFolder,
  samplingOf,
  savePictureIn,
  slug,
  writeFree,
} from "./session.ts";
import type { ModelFlags, SamplingFlags } from "./session.ts";

interface GenerateFlags extends ModelFlags, SamplingFlags {
  readonly prompts?: string;
  readonly n: number;
  readonly cfg?: number;
  readonly out: string;
  readonly preview?: boolean;
  readonly from?: string;
  readonly check?: boolean;
}

export const addGenerate: AddCommand = (program, context) => {
  const command = program
    .command("generate")
    .summary("generate images from a prompt")
    .description(
      "Generate images from a prompt. Each is written as a PNG file that contains the prompt, seed, settings, the model's fingerprint and the token ids; --from decodes the image from them.",
    )
    .argument("[prompt]", "what the image shows; - reads prompts from standard input, one per line")
    .option(
      "--prompts <file>",
      "read prompts from a file, one per line, instead of the argument; each uses the same seeds",
    )
    .addOption(
      new Option("--n <n>", "images per prompt, generated together; image k has the seed --seed + k")
        .argParser(wholeNumber(1, 1024))
        .default(1),
    )
    .addOption(
      new Option(
        "--cfg <w>",
        "guidance: how closely the image follows the prompt; 1 for none (default: the model's, 5 in the published ones)",
      ).argParser(numberIn()),
    )
    .option("--out <folder>", "folder for the images", ".")
    .option("--preview", "write the rows generated so far to a file that ends in -preview.png")
    .option("--from <file>", "decode the token ids of an image that this command wrote, instead of generating one")
    .option("--check", "with --from: generate the image again and report the first token that differs")
    .option("--json", "print one JSON object");
  addSamplingOptions(
    addModelOptions(command),
    "divide the logits by t; 0 takes the most probable token (default: the model's, 1 in the published ones)",
  ).action(async (prompt: string | undefined, flags: GenerateFlags) => {
    if (flags.from !== undefined) {
      const settings = ["n", "seed", "cfg", "temperature", "topK", "topP", "preview"];
      const given = settings.find((name) => command.getOptionValueSource(name) === "cli");
      if (given) {
        const flag = given.replace(/[A-Z]/g, (capital) => `-${capital.toLowerCase()}`);
        throw new UsageError(`--from takes its settings from the image; leave --${flag} out`);
      }
      if (prompt !== undefined || flags.prompts !== undefined)
        throw new UsageError("--from takes the prompt from the image; give one of the two");
      return again(flags.from, flags, context);
    }
    if (flags.check) throw new UsageError("--check needs --from and an image that this command wrote");
    await draw(await promptsOf(prompt, flags.prompts, context), flags, context);
  });
};

/** The prompts of the command line, of standard input (`-`), or of a file: one per line, empty lines left out. */
async function promptsOf(
  prompt: string | undefined,
  file: string | undefined,
  context: Context,
): Promise<readonly string[]> {
  if (prompt !== undefined && file !== undefined)
    throw new UsageError("a prompt and --prompts were given; give one of the two");
  const { PromptError } = await import("../model/request.ts");
  const { requireContent } = await import("../model/io/small_file.ts");
  const from = file ?? (prompt === "-" ? "-" : undefined);
  if (from === undefined) {
    if (prompt === undefined)
      throw new UsageError('what should the image show? For example: janus generate "a red circle"');
    if (prompt.trim() === "") throw new PromptError("the prompt is empty; say what the image should show");
    return [prompt];
  }
  const name = from === "-" ? "standard input" : from;
  const bytes = from === "-" ? await readInput(name, context) : await readPrompts(from);
  requireContent(bytes, name);
  const { decodeText } = await import("./standard_input.ts");
  const text = decodeText(bytes, name);
  const lines = text.split(/\r\n|\n|\r/).filter((line) => line.trim() !== "");
  if (lines.length === 0) throw new PromptError(`${name}: at least one prompt is required, one a line; got none`);
  return lines;
}

const MAX_PROMPTS = 16 * 2 ** 20; // bytes

/** All of standard input, until a signal comes. */
async function readInput(name: string, context: Context): Promise<Uint8Array> {
  const { PromptError } = await import("../model/request.ts");
  const { inputBytes } = await import("./standard_input.ts");
  if (context.stdin === process.stdin && process.stdin.isTTY)
    context.out.note("type prompts, one a line; Ctrl-D ends them");
  const chunks: Uint8Array[] = [];
  let bytes = 0;
  for await (const chunk of inputBytes(context)) {
    bytes += chunk.length;
    if (bytes > MAX_PROMPTS)
      throw new PromptError(`${name}: prompts must have at most ${MAX_PROMPTS} bytes; got more. Draw them in parts`);
    chunks.push(chunk);
  }
  return Buffer.concat(chunks);
}

async function readPrompts(path: string): Promise<Uint8Array> {
  const { openFile } = await import("../model/node/files.ts");
  const { readWhole } = await import("../model/io/bytes.ts");
  const file = await openFile(path);
  try {
    return await readWhole(file, MAX_PROMPTS);
  } finally {
    await file.close?.();
  }
}

interface Drawn {
  readonly prompt: string;
  readonly path: string;
  readonly seed: number;
  readonly tokenIds: readonly number[];
}

async function draw(prompts: readonly string[], flags: GenerateFlags, context: Context): Promise<void> {
  const { out } = context;
  const { checkContext } = await import("../model/request.ts");
  const { imageTokens } = await import("../model/janus/config.ts");
  const { checkSeeds } = await import("../model/request.ts");
  const seed = flags.seed ?? anySeed(flags.n);
  checkSeeds(seed, flags.n);
  const sampling = samplingOf(flags);
  await pictureFolder(flags.out);
  const { requirePart } = await import("../model/janus/checkpoint/expected.ts");
  using session = await openJanus(flags, context, ({ config, processor: { prompts: format }, missing }) => {
    requirePart(missing, "generate", "generate images");
    for (const prompt of prompts)
      checkContext(format.encode(format.generation(prompt)), imageTokens(config) - 1, config.language.maxPositions);
  });
  const { janus, loadMs } = session;
  const images: Drawn[] = [];
  const timings = { loadMs, sampleMs: 0, msPerToken: 0, decodeMs: 0 };
  for (const [at, prompt] of prompts.entries()) {
    const which = prompts.length > 1 ? `${at + 1}/${prompts.length}: ` : "";
    const { drawn, sampleMs, decodeMs } = await drawOne(janus, prompt, { flags, seed, sampling, context, which });
    const tokens = drawn[0]!.tokenIds.length;
    out.note(
      `${which}${tokens} tokens in ${formatDuration(sampleMs)} (${formatDuration(sampleMs / tokens)} each), decoded in ${formatDuration(decodeMs)}`,
    );
    for (const { path } of drawn) out.text(`${path}\n`);
    images.push(...drawn);
    timings.sampleMs += sampleMs;
    timings.decodeMs += decodeMs;
  }
  timings.msPerToken = timings.sampleMs / (prompts.length * images[0]!.tokenIds.length);
  out.result({ images, timings });
}

interface DrawOptions {
  readonly flags: GenerateFlags;
  readonly seed: number;
  readonly sampling: ReturnType<typeof samplingOf>;
  readonly context: Context;
  /** Prefix of the progress display: which of several prompts is running. */
  readonly which: string;
}

/** Draws and saves the images of one prompt. */
async function drawOne(
  janus: Janus,
  prompt: string,
  { flags, seed, sampling, context: { out, signal }, which }: DrawOptions,
): Promise<{ drawn: Drawn[]; sampleMs: number; decodeMs: number }> {
  const started = performance.now();
  const { n, cfg } = flags;
  const pictures = janus.generate(prompt, {
    n,
    seed,
    ...(cfg !== undefined && { guidance: cfg }),
    ...sampling,
    signal,
  });
  const drawn: Drawn[] = [];
  let sampleMs = 0;
  const preview = flags.preview ? new Preview(pictures, flags.out, `${slug(prompt)}-${seed}`, janus) : null;
  try {
    using progress = out.progress("tokens");
    for await (const event of pictures) {
      if (event.type === "progress") {
        sampleMs = performance.now() - started;
        const label = `${which}${n === 1 ? "drawing" : `drawing ${n} images`}`;
        progress.report({ done: event.done, total: event.total, label });
        await preview?.update(event.done, event.total);
      } else {
        const { seed: own, tokenIds } = event.picture;
        drawn.push({ prompt, path: await savePictureIn(flags.out, event.picture), seed: own, tokenIds });
      }
    }
  } finally {
    await preview?.remove();
  }
  return { drawn, sampleMs, decodeMs: performance.now() - started - sampleMs };
}

/** The rows so far as a file, while an image is drawn. Of several images the first. */
class Preview {
  private readonly pictures: Pictures;
  private readonly path: string;
  private readonly side: number;
  private shown = 0;

  constructor(pictures: Pictures, folder: string, name: string, janus: Janus) {
    this.pictures = pictures;
    this.path = join(folder, `${name}-preview.png`);
    this.side = janus.model.model.vqmodel.side;
  }

  /** Every quarter of the rows: a preview costs as much as decoding an image. */
  async update(done: number, total: number): Promise<void> {
    const rows = Math.floor(done / this.side);
    if (done === total || rows < this.shown + Math.ceil(this.side / 4)) return;
    this.shown = rows;
    const [first] = await this.pictures.preview();
    if (!first) return;
    const { encodePng } = await import("../model/node/image_file.ts");
    const { writeFileAtomic } = await import("../model/node/files.ts");
    await writeFileAtomic(this.path, await encodePng(first));
  }

  async remove(): Promise<void> {
    await rm(this.path, { force: true });
  }
}

/** A fingerprint, of whose hash the first digits show. */
const shortened = (fingerprint: string): string =>
  fingerprint.replace(/^[0-9a-f]{12}[0-9a-f]+/, (hash) => `${hash.slice(0, 12)}…`);

/** `--from`: the image of the token ids in a file, and with `--check` the tokens of its prompt and seed redrawn. */
async function again(file: string, flags: GenerateFlags, context: Context): Promise<void> {
  const { out, signal } = context;
  const { readPicture, encodePicture } = await import("../model/janus/node/janus.ts");
  const { ArgumentError } = await import("../engine/errors.ts");
  const { ImageFormatError } = await import("../model/image/image.ts");
  const how = await readPicture(file);
  await pictureFolder(flags.out);
  const { requirePart } = await import("../model/janus/checkpoint/expected.ts");
  using session = await openJanus(flags, context, ({ missing }) => requirePart(missing, "generate", "generate images"));
  const { janus, loadMs } = session;
  const isSame = janus.fingerprint === how.model;
  if (!isSame)
    out.warn(
      `${file} was made with other weights, or another --quantize or --kv-cache (${shortened(how.model)}), than those of ${flags.model} (${shortened(janus.fingerprint)})`,
    );
  const started = performance.now();
  const image = await janus.decodeImage(how.tokenIds).catch((error: unknown) => {
    throw error instanceof ArgumentError ? new ImageFormatError(`${file}: ${error.message}`) : error;
  });
  const path = await writeFree(
    flags.out,
    `${basename(file, extname(file))}-decoded`,
    await encodePicture({ ...how, image }),
  );
  const timings = { loadMs, decodeMs: performance.now() - started };
  const images = [{ path, seed: how.seed, tokenIds: how.tokenIds }];
  if (!flags.check) return out.result({ images, timings }, path);

  using progress = out.progress("tokens");
  const { topK, topP } = how;
  const run = janus.generate(how.prompt, {
    seed: how.seed,
    guidance: how.guidance,
    temperature: how.temperature,
    ...(topK !== undefined && { topK }),
    ...(topP !== undefined && { topP }),
    signal,
  });
  for await (const event of run)
    if (event.type === "progress") progress.report({ done: event.done, total: event.total, label: "drawing again" });
  const [drawn] = await run.images();
  progress.stop();
  const index = drawn!.tokenIds.findIndex((id, i) => id !== how.tokenIds[i]);
  const firstDifference = index < 0 ? null : { index, inFile: how.tokenIds[index], drawn: drawn!.tokenIds[index] };
  if (firstDifference) context.exitCode = EXIT.checkFailed;
  out.result({ images, timings, check: { pass: !firstDifference, sameModel: isSame, firstDifference } }, () =>
    firstDifference
      ? `${path}\ntoken ${index} of ${how.tokenIds.length} differs: ${firstDifference.inFile} in the file, ${firstDifference.drawn} drawn again`
      : `${path}\nall ${how.tokenIds.length} tokens equal those in the file`,
  );
}
