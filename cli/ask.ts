/** `janus ask`: a question about pictures, or about nothing in particular. */
import { stat } from "node:fs/promises";
import { Option } from "commander";
import type { AddCommand, Context } from "./context.ts";
import { UsageError } from "./errors.ts";
import { formatDuration } from "./format.ts";
import { numberIn, wholeNumber } from "./options.ts";
import { addModelOptions, addSamplingOptions, anySeed, openJanus, plainOption, samplingOf } from "./session.ts";
import type { ModelFlags, SamplingFlags } from "./session.ts";

export interface AskFlags extends ModelFlags, SamplingFlags {
  readonly system?: string;
  readonly maxNewTokens?: number;
  readonly repetitionPenalty?: number;
  readonly stop?: readonly string[];
}

export const addAsk: AddCommand = (program, context) => {
  const command = program
    .command("ask")
    .summary("ask about pictures")
    .description("Ask a question about pictures, or without any. The answer is written as it comes.")
    .argument("<words...>", "files of pictures, then the question as the last word")
    .addOption(
      new Option("--max-new-tokens <n>", "the answer's most tokens (default: the model's, else 512)").argParser(
        wholeNumber(1, 1e6),
      ),
    )
    .option("--system <text>", 'stands before the conversation; "" for none (default: the model\'s)')
    .addOption(new Option("--repetition-penalty <p>", "above 1 for fewer repetitions").argParser(numberIn(0.01, 100)))
    .option("--stop <text...>", "end the answer before any of these")
    .addOption(plainOption())
    .option("--json", "print one JSON object");
  addSamplingOptions(
    addModelOptions(command),
    "divides the logits; 0 takes the most probable token (default: 0)",
  ).action((words: string[], flags: AskFlags) => ask(words, flags, context));
};

async function ask(words: readonly string[], flags: AskFlags, context: Context): Promise<void> {
  const { out, signal } = context;
  const question = words.at(-1)!;
  const images = words.slice(0, -1);
  if (words.length === 1 && /\.(png|jpe?g|webp|gif|tiff?|avif)$/i.test(question))
    throw new UsageError(`what about ${question}? The question comes after the pictures`);
  if (question.trim() === "" && images.length === 0) {
    const { PromptError } = await import("../model/request.ts");
    throw new PromptError("the prompt is empty; write a question or give an image");
  }
  const { readImage } = await import("../model/node/image_file.ts");
  const { ImageError } = await import("../model/image/image.ts");
  const { checkContext } = await import("../model/request.ts");
  const { answerOptions, questionIds } = await import("../model/janus/pipeline.ts");
  // Bad pictures are refused before the model is loaded.
  const pictures = [];
  for (const image of images) {
    if (!(await stat(image).catch(() => null))) {
      const swapped = await stat(question).catch(() => null);
      throw new ImageError(
        `there is no picture ${image}; pictures come first, then the question as one quoted word: janus ask ${swapped ? question : "photo.jpg"} "${swapped ? image : "What is it?"}"`,
      );
    }
    pictures.push(await readImage(image, { plain: flags.plain ?? false }));
  }
  const sampling = { ...samplingOf(flags), seed: flags.seed ?? anySeed() };
  const limit = flags.maxNewTokens === undefined ? {} : { maxNewTokens: flags.maxNewTokens };
  using session = await openJanus(flags, context, ({ config, processor }) => {
    const ids = questionIds(processor, question, images.length, flags.system);
    checkContext(ids, answerOptions(processor, limit, ids.length).maxNewTokens!, config.language.maxPositions);
  });
  const { janus, loadMs } = session;
  const answer = janus.ask(question, {
    images: pictures,
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
    `${promptTokenIds.length} tokens read in ${formatDuration(timings.prefillMs)}, ${tokenIds.length} written in ${formatDuration(timings.decodeMs)}${finish === "length" ? "; cut off at --max-new-tokens" : ""}`,
  );
  out.result({ text, tokenIds, promptTokenIds, finish, timings: { loadMs, ...timings } });
}
