/** `janus ask`: a question about images, or without any. */
import { stat } from "node:fs/promises";
import { Option } from "commander";
import type { AddCommand, Context } from "./context.ts";
import { UsageError } from "./errors.ts";
import { formatDuration } from "./format.ts";
import { collect, numberIn, wholeNumber } from "./options.ts";
import { addModelOptions, addSamplingOptions, anySeed, openJanus, plainOption, samplingOf } from "./session.ts";
import type { ModelFlags, SamplingFlags } from "./session.ts";

export interface AskFlags extends ModelFlags, SamplingFlags {
  readonly system?: string;
  readonly maxNewTokens?: number;
  readonly repetitionPenalty?: number;
  readonly stop?: readonly string[];
  readonly promptLookup?: number;
}

export const addAsk: AddCommand = (program, context) => {
  const command = program
    .command("ask")
    .summary("ask about images")
    .description("Ask a question, with or without images. The answer is printed while it is generated.")
    .argument("<words...>", "image files, then the question as the last argument")
    .addOption(
      new Option(
        "--max-new-tokens <n>",
        "maximum number of tokens of the answer (default: the model's, else 512)",
      ).argParser(wholeNumber(1, 1e6)),
    )
    .option("--system <text>", 'system prompt; "" for none (default: that of the checkpoint)')
    .addOption(
      new Option(
        "--repetition-penalty <p>",
        "divide the logits of earlier tokens by p; use a value above 1 for fewer repetitions",
      ).argParser(numberIn(0.01, 100)),
    )
    .addOption(
      new Option(
        "--prompt-lookup <n>",
        "draft up to n tokens (at most 15) from the question and the answer so far, and check them in one step: the same answer, sooner where it repeats; needs --temperature 0",
      ).argParser(wholeNumber(1, 15)),
    )
    .option("--stop <text>", "end the answer before this text; may be given several times", collect)
    .addOption(plainOption())
    .option("--json", "print one JSON object");
  addSamplingOptions(
    addModelOptions(command),
    "divide the logits by t; 0 takes the most probable token (default: 0)",
  ).action((words: string[], flags: AskFlags) => ask(words, flags, context));
};

/** Names of image files, which are no questions even if there is no such file. */
const IMAGE_NAME = /^\S+\.(png|jpe?g|jfif|webp|gif|tiff?|avif|hei[cf]|bmp|jxl|svg)$/i;

const isThere = (path: string): Promise<boolean> => stat(path).then((stats) => stats.isFile(), () => false); // prettier-ignore

async function ask(words: readonly string[], flags: AskFlags, context: Context): Promise<void> {
  const { out, signal } = context;
  const question = words.at(-1)!;
  const images = words.slice(0, -1);
  if (question.trim() === "" && images.length === 0) {
    const { PromptError } = await import("../model/request.ts");
    throw new PromptError("the prompt is empty; write a question or give an image");
  }
  if (question.trim() === "-")
    throw new UsageError("- is no question; write it as one quoted argument, or send questions to janus chat, which reads standard input"); // prettier-ignore
  const { readImage } = await import("../model/node/image_file.ts");
  const { ImageError } = await import("../model/image/image.ts");
  const { checkContext } = await import("../model/request.ts");
  const { answerOptions, questionIds } = await import("../model/janus/pipeline.ts");
  // Bad images are refused before the model is loaded.
  const isFile = await isThere(question);
  const decoded = [];
  for (const image of images) {
    if (!(await isThere(image)))
      throw new ImageError(
        `there is no image ${image}; images come first, then the question as one quoted argument: janus ask ${isFile ? question : "photo.jpg"} "${isFile ? image : "What is it?"}"`,
      );
    decoded.push(await readImage(image, { plain: flags.plain ?? false }));
  }
  if (isFile || IMAGE_NAME.test(question)) {
    if (isFile) await readImage(question); // an error in the file is reported first
    throw new UsageError(`what about ${question}? The question comes after the images, as one quoted argument`);
  }
  const sampling = { ...samplingOf(flags), seed: flags.seed ?? anySeed() };
  if (flags.promptLookup !== undefined && ((flags.temperature ?? 0) > 0 || (flags.repetitionPenalty ?? 1) !== 1))
    throw new UsageError(
      "--prompt-lookup needs --temperature 0 and --repetition-penalty 1, the defaults; leave it or them out",
    );
  const limit = flags.maxNewTokens === undefined ? {} : { maxNewTokens: flags.maxNewTokens };
  const { requirePart } = await import("../model/janus/checkpoint/expected.ts");
  using session = await openJanus(flags, context, ({ config, processor, missing }) => {
    if (images.length) requirePart(missing, "ask", "understand images");
    const ids = questionIds(processor, question, images.length, flags.system);
    checkContext(ids, answerOptions(processor, limit, ids.length).maxNewTokens!, config.language.maxPositions);
  });
  const { janus, loadMs } = session;
  const lookup = { steps: 0, drafted: 0, accepted: 0 };
  const answer = janus.ask(question, {
    images: decoded,
    ...(flags.promptLookup !== undefined && {
      promptLookup: flags.promptLookup,
      onLookup: ({ drafted, accepted }) => {
        lookup.steps++;
        lookup.drafted += drafted;
        lookup.accepted += accepted;
      },
    }),
    ...limit,
    ...(flags.system !== undefined && { system: flags.system }),
    ...(flags.repetitionPenalty !== undefined && { repetitionPenalty: flags.repetitionPenalty }),
    ...(flags.stop && { stop: flags.stop }),
    ...sampling,
    signal,
  });
  let isFirst = true;
  for await (const piece of answer) {
    const text = isFirst ? piece.trimStart() : piece;
    if (text) isFirst = false;
    out.text(text);
  }
  out.text("\n");
  const { text, tokenIds, promptTokenIds, finish, timings } = await answer.result();
  out.note(
    `${promptTokenIds.length} tokens read in ${formatDuration(timings.prefillMs)}, ${tokenIds.length} generated in ${formatDuration(timings.decodeMs)}${finish === "length" ? "; cut off at --max-new-tokens" : ""}`,
  );
  if (flags.promptLookup !== undefined)
    out.note(
      `prompt lookup: ${lookup.accepted} of ${lookup.drafted} drafted tokens were right, in ${lookup.steps} steps`,
    );
  const looked = flags.promptLookup === undefined ? {} : { lookup };
  out.result({ text, tokenIds, promptTokenIds, finish, timings: { loadMs, ...timings }, ...looked });
}
