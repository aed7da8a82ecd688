/** `janus chat`: a conversation with images in both directions. Reads lines from a terminal or a pipe. */
import { createInterface } from "node:readline";
import { UsageError } from "./errors.ts";
import { typedPath } from "./typed_path.ts";
import type { RgbImage } from "../model/image/image.ts";
import type { Janus } from "../model/janus/node/janus.ts";
import type { ContentPart, Message } from "../model/janus/prompt.ts";
import type { AddCommand, Context } from "./context.ts";
import { EXIT, exitCodeOf } from "./errors.ts";
import { formatDuration } from "./format.ts";
import { wholeNumber } from "./options.ts";
import {
  addModelOptions,
  addSamplingOptions,
  anySeed,
  openJanus,
  pictureFolder,
  plainOption,
  samplingOf,
  savePictureIn,
} from "./session.ts";
import type { ModelFlags, SamplingFlags } from "./session.ts";

interface ChatFlags extends ModelFlags, SamplingFlags {
  readonly system?: string;
  readonly maxNewTokens?: number;
  readonly out: string;
}

const HELP = `/image FILE      add an image to the next question
/imagine PROMPT  draw an image
/seed N          set the seed of the next answers and images
/reset           forget the conversation
/quit            leave (or Ctrl-D)`;

export const addChat: AddCommand = (program, context) => {
  const command = program
    .command("chat")
    .summary("talk with the model")
    .description(
      `Talk with the model. Ctrl-C stops an answer. Lines from a pipe are answered one after another; an error in one is reported by the exit code.\n\n${HELP}`,
    )
    .option(
      "--max-new-tokens <n>",
      "maximum number of tokens of an answer (default: the model's, else 512)",
      wholeNumber(1, 1e6),
    )
    .option("--system <text>", 'system prompt; "" for none (default: that of the checkpoint)')
    .option("--out <folder>", "folder for generated images", ".")
    .addOption(plainOption());
  addSamplingOptions(
    addModelOptions(command),
    "divide the logits of answers by t; 0 takes the most probable token (default: 0)",
  ).action(async (flags: ChatFlags) => {
    const { requireInput } = await import("./standard_input.ts");
    requireInput(context);
    await pictureFolder(flags.out);
    samplingOf(flags);
    using session = await openJanus(flags, context);
    await new Chat(session.janus, flags, context).run();
  });
};

class Chat {
  private readonly janus: Janus;
  private readonly flags: ChatFlags;
  private readonly context: Context;
  private readonly isTerminal = process.stdin.isTTY === true && process.stdout.isTTY === true;
  private messages: Message[] = [];
  private images: RgbImage[] = [];
  /** Images for the next question. */
  private waiting: RgbImage[] = [];
  /** Files that could not be read: the next question is about them too, and is not answered without them. */
  private missing: string[] = [];
  private seed: number;
  /** Stops the running computation; null if there is none. */
  private running: AbortController | null = null;

  constructor(janus: Janus, flags: ChatFlags, context: Context) {
    this.janus = janus;
    this.flags = flags;
    this.context = context;
    this.seed = flags.seed ?? anySeed();
  }

  async run(): Promise<void> {
    const { signal } = this.context;
    const { inputLines } = await import("./standard_input.ts");
    signal.addEventListener("abort", () => this.running?.abort(signal.reason));
    for await (const line of this.isTerminal ? this.typedLines() : inputLines(this.context)) {
      signal.throwIfAborted();
      if (!(await this.answer(line.trim()))) break;
    }
    signal.throwIfAborted();
  }

  private async *typedLines(): AsyncGenerator<string> {
    const { out, signal } = this.context;
    const lines = createInterface({ input: process.stdin, output: process.stdout, terminal: true, prompt: "> " });
    // In a terminal readline takes Ctrl-C: it ends an answer, or the conversation if there is none.
    lines.on("SIGINT", () => (this.running ? this.running.abort() : lines.close()));
    signal.addEventListener("abort", () => lines.close());
    out.note(`${HELP}\n`);
    lines.prompt();
    for await (const line of lines) {
      yield line;
      lines.prompt();
    }
    lines.close();
  }

  /** Takes a line; false to leave. What goes wrong with one line does not end the conversation. */
  private async answer(line: string): Promise<boolean> {
    if (line === "") return true;
    if (line === "/quit" || line === "/exit") return false;
    const { JanusError, NotFiniteError } = await import("../engine/errors.ts");
    this.running = new AbortController();
    try {
      await (line.startsWith("/") ? this.command(line) : this.question(line));
    } catch (error) {
      this.context.signal.throwIfAborted();
      if (this.running.signal.aborted) this.context.out.note("(stopped)");
      else if (error instanceof JanusError) {
        this.context.out.error(error.message);
        if (error instanceof NotFiniteError) this.context.exitCode = EXIT.notFinite; // the next answers will be no better
        else if (!this.isTerminal) this.context.exitCode ||= await exitCodeOf(error); // no one reads the message
        if (/context holds/.test(error.message) && this.messages.length)
          this.context.out.note("/reset forgets the conversation so far");
      } else throw error;
    } finally {
      this.running = null;
    }
    return true;
  }

  private async command(line: string): Promise<void> {
    const { out } = this.context;
    const [, name, rest] = /^\/(\S*)\s*(.*)$/s.exec(line)!;
    switch (name) {
      case "image": {
        const image = await this.readImage(rest!);
        this.waiting.push(image);
        // A person who types another path after an error means it instead; a script cannot.
        if (this.isTerminal) this.missing.pop();
        return out.note(`${image.width} × ${image.height}; ask about it`);
      }
      case "imagine":
        return this.imagine(rest!);
      case "seed":
        if (/^\d+$/.test(rest!) && Number(rest) <= 0xffffffff) this.seed = Number(rest);
        else throw new UsageError(`/seed: a whole number from 0 to 4294967295 is required; got "${rest}"`);
        return;
      case "reset":
        this.messages = [];
        this.images = [];
        this.waiting = [];
        this.missing = [];
        return out.note("the conversation is forgotten");
      case "help":
        return out.note(HELP);
      default:
        throw new UsageError(`there is no command /${name}; these are known:\n${HELP}`);
    }
  }

  private async readImage(typed: string): Promise<RgbImage> {
    const { readImage } = await import("../model/node/image_file.ts");
    if (typed === "") throw new UsageError("/image: the path of a file is required; got none");
    try {
      return await readImage(await typedPath(typed), { plain: this.flags.plain ?? false });
    } catch (error) {
      this.missing.push(typed);
      throw error;
    }
  }

  /** Throws if an image of the next question could not be read. */
  private async requireImages(): Promise<void> {
    if (this.missing.length === 0) return;
    const { ImageError } = await import("../model/image/image.ts");
    const todo = this.isTerminal ? "give the right path with /image, or remove it with /reset" : "correct its path, or remove it with /reset"; // prettier-ignore
    throw new ImageError(`the question is not answered without the image ${this.missing.join(", ")}, which could not be read; ${todo}`); // prettier-ignore
  }

  private async question(text: string): Promise<void> {
    await this.requireImages();
    const { out } = this.context;
    const content: ContentPart[] = [
      ...this.waiting.map((): ContentPart => ({ type: "image" })),
      { type: "text", text },
    ];
    const messages: Message[] = [...this.messages, { role: "user", content }];
    const images = [...this.images, ...this.waiting];
    const answer = this.janus.ask(messages, {
      images,
      ...(this.flags.maxNewTokens !== undefined && { maxNewTokens: this.flags.maxNewTokens }),
      ...(this.flags.system !== undefined && { system: this.flags.system }),
      ...samplingOf(this.flags),
      seed: this.seed,
      signal: this.running!.signal,
    });
    let isFirst = true;
    try {
      for await (const piece of answer) {
        const shown = isFirst ? piece.trimStart() : piece;
        if (shown) isFirst = false;
        out.text(shown);
      }
    } finally {
      out.text("\n");
    }
    const { text: said } = await answer.result();
    this.messages = [...messages, { role: "assistant", content: said.trim() }];
    this.images = images;
    this.waiting = [];
  }

  private async imagine(prompt: string): Promise<void> {
    const { out } = this.context;
    const started = performance.now();
    const run = this.janus.generate(prompt, { seed: this.seed, signal: this.running!.signal });
    using progress = out.progress("tokens");
    for await (const event of run) {
      if (event.type === "progress") progress.report({ done: event.done, total: event.total, label: "drawing" });
      else out.text(`${await savePictureIn(this.flags.out, event.picture)}\n`);
    }
    out.note(`seed ${this.seed}, ${formatDuration(performance.now() - started)}`);
    this.seed = this.seed === 0xffffffff ? 0 : this.seed + 1;
  }
}
