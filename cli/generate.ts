/** `janus generate`: pictures of a prompt, as PNG files that say how they were made; and what such a file says, made again. */
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
    .summary("draw pictures of a prompt")
    .description(
      "Draw pictures of a prompt. Each is written as a PNG file that carries the prompt, seed, settings, the model's fingerprint and its token ids; --from makes it again from them.",
    )
    .argument("[prompt]", "what the picture shows")
    .addOption(
      new Option("--n <n>", "pictures, drawn at once; picture k has the seed --seed + k")
        .argParser(wholeNumber(1, 1024))
        .default(1),
    )
    .addOption(
      new Option(
        "--cfg <w>",
        "guidance: how closely the prompt is followed, 1 for none (default: the model's, 5 in the published ones)",
      ).argParser(numberIn()),
    )
    .option("--out <folder>", "where the pictures go", ".")
    .option("--preview", "write the rows so far to a file that ends in -preview.png while the picture is drawn")
    .option("--from <file>", "decode the token ids of a picture that this command wrote, instead of drawing")
    .option("--check", "with --from: draw the picture again and report the first token that differs")
    .option("--json", "print one JSON object");
  addSamplingOptions(
    addModelOptions(command),
    "divides the logits; 0 takes the most probable token (default: the model's, 1 in the published ones)",
  ).action(async (prompt: string | undefined, flags: GenerateFlags) => {
    if (flags.from !== undefined) {
      const settings = ["n", "seed", "cfg", "temperature", "topK", "topP", "preview"];
      const given = settings.find((name) => command.getOptionValueSource(name) === "cli");
      if (given) {
        const flag = given.replace(/[A-Z]/g, (capital) => `-${capital.toLowerCase()}`);
        throw new UsageError(`--from takes its settings from the picture; leave --${flag} out`);
      }
      if (prompt !== undefined) throw new UsageError("--from takes the prompt from the picture; give one of the two");
      return again(flags.from, flags, context);
    }
    if (flags.check) throw new UsageError("--check needs --from and a picture that this command wrote");
    if (prompt === undefined)
      throw new UsageError('what should the picture show? For example: janus generate "a red circle"');
    await draw(prompt, flags, context);
  });
};

async function draw(prompt: string, flags: GenerateFlags, context: Context): Promise<void> {
  const { out, signal } = context;
  if (prompt.trim() === "") {
    const { PromptError } = await import("../model/request.ts");
    throw new PromptError("the prompt is empty; say what the picture should show");
  }
  const { checkContext } = await import("../model/request.ts");
  const { imageTokens } = await import("../model/janus/config.ts");
  const { checkSeeds } = await import("../model/request.ts");
  const seed = flags.seed ?? anySeed(flags.n);
  checkSeeds(seed, flags.n);
  const sampling = samplingOf(flags);
  await pictureFolder(flags.out);
  using session = await openJanus(flags, context, ({ config, processor: { prompts } }) => {
    checkContext(prompts.encode(prompts.generation(prompt)), imageTokens(config) - 1, config.language.maxPositions);
  });
  const { janus, loadMs } = session;
  const started = performance.now();
  const pictures = janus.generate(prompt, {
    n: flags.n,
    seed,
    ...(flags.cfg !== undefined && { guidance: flags.cfg }),
    ...sampling,
    signal,
  });
  const images: { path: string; seed: number; tokenIds: readonly number[] }[] = [];
  let sampledMs = 0;
  const preview = flags.preview ? new Preview(pictures, flags.out, `${slug(prompt)}-${seed}`, janus) : null;
  try {
    using progress = out.progress("tokens");
    for await (const event of pictures) {
      if (event.type === "progress") {
        sampledMs = performance.now() - started;
        progress.report({
          done: event.done,
          total: event.total,
          label: flags.n === 1 ? "drawing" : `drawing ${flags.n} pictures`,
        });
        await preview?.update(event.done, event.total);
      } else {
        const path = await savePictureIn(flags.out, event.picture);
        images.push({ path, seed: event.picture.seed, tokenIds: event.picture.tokenIds });
      }
    }
  } finally {
    await preview?.remove();
  }
  const tokens = images[0]!.tokenIds.length;
  const timings = {
    loadMs,
    sampleMs: sampledMs,
    msPerToken: sampledMs / tokens,
    decodeMs: performance.now() - started - sampledMs,
  };
  out.note(
    `${tokens} tokens in ${formatDuration(sampledMs)} (${formatDuration(timings.msPerToken)} each), decoded in ${formatDuration(timings.decodeMs)}`,
  );
  out.result({ images, timings }, () => images.map(({ path }) => path).join("\n"));
}

/** The rows so far as a file, while the picture is drawn. Of several pictures the first. */
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

  /** Every quarter of the rows: a preview costs as much as decoding a picture. */
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

/** `--from`: the picture of the token ids in a file, and with `--check` the tokens of its prompt and seed redrawn. */
async function again(file: string, flags: GenerateFlags, context: Context): Promise<void> {
  const { out, signal } = context;
  const { readPicture, encodePicture } = await import("../model/janus/node/janus.ts");
  const { ArgumentError } = await import("../engine/errors.ts");
  const { ImageFormatError } = await import("../model/image/image.ts");
  const how = await readPicture(file);
  await pictureFolder(flags.out);
  using session = await openJanus(flags, context);
  const { janus, loadMs } = session;
  const isSame = janus.fingerprint === how.model;
  if (!isSame)
    out.warn(
      `${file} was made with other weights (${how.model.slice(0, 12)}…) than those of ${flags.model} (${janus.fingerprint.slice(0, 12)}…)`,
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
      : `${path}\nall ${how.tokenIds.length} tokens are drawn again as they are in the file`,
  );
}
