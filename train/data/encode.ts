/**
 * From a raw sample to tokens with what is trained: of conversations the assistant's texts and the end token behind each, of plain texts all
 * but the first token, of images their codes. Says why if a sample cannot be one. Packing is train/samples.ts.
 */
import { ArgumentError } from "../../engine/errors.ts";
import { knownOptions, optionNames } from "../../engine/options.ts";
import { philox, seedWords, unitFloat } from "../../engine/random.ts";
import { quote } from "../../model/io/errors.ts";
import { understandingPixels } from "../../model/image/preprocess.ts";
import type { RgbImage } from "../../model/image/image.ts";
import type { Processor } from "../../model/janus/processor.ts";
import type { Message } from "../../model/janus/prompt.ts";
import { IGNORE, imageSample, promptSample, textSample, trainedTokens } from "../samples.ts";
import type { Sample } from "../samples.ts";
import { SampleError } from "./errors.ts";
import { MAX_WHOLE, encodeText } from "./long_text.ts";
import { nameWords } from "./names.ts";
import type { RawSample } from "./raw_sample.ts";

/** What a run makes of records: samples to imitate, preferences (DPO), prompts to draw from (GRPO). */
export type RecordUse = "samples" | "preferences" | "prompts";

/** The VQ codes of an image file, in raster order. */
export type CodeSource = (path: string) => Promise<Uint16Array | number[]>;

export interface EncoderOptions {
  /** Seed of the prompts that are dropped. */
  readonly seed: number;
  /** Codes of images of the task gen (default: such samples are refused). */
  readonly codes?: CodeSource;
  /** The share of prompts that become padding, for guidance. */
  readonly drop?: number;
  /** Tokens of the longest sample (default: any number). */
  readonly maxTokens?: number;
  /** Whether plain texts that are too long are cut and conversations lose whole turns at their end (default: both are refused). Answers are never cut. */
  readonly truncate?: boolean;
  /** System prompt of conversations without one (default: the original's), "" for none. */
  readonly system?: string;
  /** What is made of records (default: samples); of others `encode` throws `SampleError`. */
  readonly use?: RecordUse;
  /** Returns the pixels of an image of the task und; throws `ImageError` for one that cannot be read (default: images are refused). */
  readonly readImage?: (path: string) => Promise<RgbImage>;
}

const ENCODER_OPTIONS = optionNames<EncoderOptions>({
  seed: true,
  codes: true,
  drop: true,
  maxTokens: true,
  truncate: true,
  system: true,
  use: true,
  readImage: true,
});

/** Which sample it is: an id that stays the same on every machine, the epoch, and a name for messages. */
export interface SampleId {
  readonly id: string;
  readonly epoch: number;
  readonly name: string;
}

/** Whether the prompt of a sample is dropped in an epoch: the same answer each time it is asked. */
export function isDropped(seed: number, { id, epoch }: Pick<SampleId, "id" | "epoch">, share: number): boolean {
  const [word] = philox([...nameWords(`drop ${id}`), ...seedWords(epoch)], seedWords(seed));
  return unitFloat(word) < share;
}

/** What the loader needs of an encoder. It throws `SampleError`, `PromptError` or `ImageError` for what cannot be a sample. */
export interface SampleEncoder<T = Sample> {
  encode(raw: RawSample, of: SampleId): Promise<T>;
}

interface Labelled {
  readonly ids: number[];
  readonly labels: number[];
}

/** Turns raw samples into tokens, with what is trained of them. */
export class RecordEncoder {
  private readonly processor: Processor;
  private readonly options: EncoderOptions;
  /** Strings that become special tokens wherever they stand. */
  private readonly specials: readonly string[];

  constructor(processor: Processor, options: EncoderOptions) {
    knownOptions("RecordEncoder", options, ENCODER_OPTIONS);
    const { drop = 0.1, maxTokens = Infinity } = options;
    if (!(drop >= 0 && drop <= 1))
      throw new ArgumentError(`RecordEncoder: drop must be a share from 0 to 1; got ${drop}`);
    if (options.use === "preferences" && options.truncate)
      throw new ArgumentError("RecordEncoder: truncate must be false with preferences, whose answers it would cut; got true. Leave it out."); // prettier-ignore
    if (!(maxTokens >= 2)) throw new ArgumentError(`RecordEncoder: maxTokens must be at least 2; got ${maxTokens}`);
    this.processor = processor;
    this.options = options;
    const { tokenizer } = processor;
    this.specials = Object.values(tokenizer.specials as unknown as Record<string, number | undefined>).flatMap((id) =>
      id === undefined ? [] : [tokenizer.tokenOf(id)!],
    );
    const found = this.specials.find((special) => options.system?.includes(special));
    if (found !== undefined)
      throw new ArgumentError(
        `RecordEncoder: the system prompt contains ${quote(found)}, a special token of the model`,
      );
  }

  /** Throws `SampleError`, `PromptError` or `ImageError` if it cannot be a sample; the loader sets those aside. */
  async encode(raw: RawSample, of: SampleId): Promise<Sample> {
    const { use = "samples" } = this.options;
    const found = useOfRaw(raw);
    if (found !== use) throw new SampleError(`it is one of ${found}, and the run needs ${use}; change the data or the settings`); // prettier-ignore
    if (use === "prompts" && raw.task === "gen") return promptSample(this.promptIds(raw.prompt), raw.prompt, of.name);
    const sample = await this.sample(raw, of);
    if (trainedTokens(sample) === 0) throw new SampleError("no token of it is trained");
    const other = rejectedOf(raw);
    if (!other) return sample;
    const rejected = await this.sample(other, of);
    return { ...sample, rejected: { ...rejected, images: sample.images } };
  }

  private async sample(raw: RawSample, of: SampleId): Promise<Sample> {
    if (raw.task === "gen") return this.drawn(raw.prompt, raw.image, of);
    if ("text" in raw) return await this.plain(raw.text, of);
    const images = raw.task === "und" ? raw.images : [];
    const { placeholder } = this;
    const { kept, ids, labels } = await this.fitted(raw);
    const pixels: Float32Array[] = [];
    for (const path of images.slice(0, imagesIn(kept)))
      pixels.push(understandingPixels(await this.readImage(path), this.processor.images));
    return textSample(raw.task, ids, labels, pixels, placeholder, of.name);
  }

  /** Tokens of the sample that `encode` would make, of a preference those of both, without a look at its images. Throws `SampleError` or `PromptError` if its texts cannot be one. */
  async tokens(raw: RawSample): Promise<number> {
    const other = rejectedOf(raw);
    if (other) return (await this.tokens(chosenOf(raw))) + (await this.tokens(other));
    if (raw.task === "gen" && raw.image === "") return this.promptIds(raw.prompt).length;
    if (raw.task === "gen") return this.promptIds(raw.prompt).length + this.processor.prompts.config.imageTokens - 1;
    if ("text" in raw) return (await this.textIds(raw.text)).length;
    return (await this.fitted(raw)).ids.length;
  }

  private readImage(path: string): Promise<RgbImage> {
    const { readImage } = this.options;
    if (!readImage)
      throw new ArgumentError("RecordEncoder: images of the task und need a reader; give one as `readImage`");
    return readImage(path);
  }

  private get placeholder(): number {
    return this.processor.tokenizer.specials.imagePlaceholder;
  }

  private get maxTokens(): number {
    return this.options.maxTokens ?? Infinity;
  }

  private async drawn(prompt: string, image: string, of: SampleId): Promise<Sample> {
    const { tokenizer } = this.processor;
    const { codes: source, seed, drop = 0.1 } = this.options;
    const ids = this.promptIds(prompt);
    if (!source)
      throw new ArgumentError("RecordEncoder: images of the task gen need their codes; give a CodeSource as `codes`");
    const codes = await source(image);
    const tokens = ids.length + codes.length - 1;
    if (tokens > this.maxTokens) throw this.tooLong("prompt with its image", tokens);
    return imageSample(ids, codes, isDropped(seed, of, drop) ? tokenizer.specials.pad : null, of.name);
  }

  private promptIds(prompt: string): number[] {
    const { prompts } = this.processor;
    this.requirePlain(prompt);
    const ids = prompts.encode(prompts.generation(prompt));
    if (ids.length > this.maxTokens) throw this.tooLong("prompt", ids.length);
    return ids;
  }

  private async plain(text: string, of: SampleId): Promise<Sample> {
    const ids = await this.textIds(text);
    const labels = ids.map((id, i) => (i === 0 ? IGNORE : id));
    return textSample("text", ids, labels, [], -1, of.name);
  }

  private async textIds(text: string): Promise<number[]> {
    const { tokenizer } = this.processor;
    this.requirePlain(text);
    if (text.trim() === "") throw new SampleError("the text is empty");
    const { ids, isComplete } = await encodeText(tokenizer, text, this.maxTokens);
    ids.push(tokenizer.specials.eos);
    if (ids.length > this.maxTokens) {
      if (!this.options.truncate) throw this.tooLong("text", ids.length, { isCut: true, isComplete });
      ids.length = this.maxTokens; // without an end, which is elsewhere
    }
    return ids;
  }

  /** A conversation, or with `truncate` as many of its turns as fit. */
  private async fitted({
    messages,
    system = this.options.system,
    untrained = [],
  }: Extract<RawSample, { messages: unknown }>): Promise<Labelled & { readonly kept: readonly Message[] }> {
    for (const text of messages.flatMap(textsOf)) this.requirePlain(text);
    if (system !== undefined) this.requirePlain(system);
    for (let kept = messages; ; kept = kept.slice(0, -2)) {
      const least = await this.leastTokens(kept);
      const isBeyond = least > this.maxTokens;
      const labelled = isBeyond ? null : this.conversation(kept, system, untrained);
      if (labelled && labelled.ids.length <= this.maxTokens) return { ...labelled, kept };
      if (!this.options.truncate || kept.length <= 2)
        throw this.tooLong("conversation", labelled?.ids.length ?? least, {
          isCut: kept.length > 2,
          isComplete: !isBeyond,
        });
    }
  }

  /** Tokens that messages have at least: 0 for those that are encoded at once, else those of their texts up to one beyond `maxTokens`. */
  private async leastTokens(messages: readonly Message[]): Promise<number> {
    const texts = messages.flatMap(textsOf);
    if (texts.reduce((sum, { length }) => sum + length, 0) <= MAX_WHOLE || this.maxTokens === Infinity) return 0;
    let sum = 0;
    for (const text of texts) {
      if (sum > this.maxTokens) break;
      sum += (await encodeText(this.processor.tokenizer, text, this.maxTokens - sum)).ids.length - 1; // no begin of sentence
    }
    return sum;
  }

  /**
   * The ids of a conversation and their labels. Encoded piece by piece, from the end of a question to the end of its answer, and compared
   * with the ids of the whole: pieces must not merge at their borders, or the model would be trained on other tokens than it meets.
   */
  private conversation(
    messages: readonly Message[],
    system: string | undefined,
    untrained: readonly number[],
  ): Labelled {
    const { prompts } = this.processor;
    const written = (count: number): string =>
      prompts.conversation(messages.slice(0, count), {
        answer: count % 2 === 1,
        ...(system !== undefined && { system }),
      });
    const ids: number[] = [];
    const labels: number[] = [];
    let before = "";
    for (let count = 1; count <= messages.length; count++) {
      const text = written(count);
      if (!text.startsWith(before))
        throw new SampleError(`message ${count - 1} changes the text before it; is the chat template right?`);
      const images = count % 2 === 1 ? imagesIn([messages[count - 1]!]) : 0;
      const piece = prompts.encode(text.slice(before.length), images).slice(before === "" ? 0 : 1);
      const isTrained = count % 2 === 0 && !untrained.includes(count - 1);
      for (const id of piece) {
        ids.push(id);
        labels.push(isTrained ? id : IGNORE);
      }
      before = text;
    }
    const whole = prompts.encode(before, imagesIn(messages));
    const at = whole.findIndex((id, i) => id !== ids[i]);
    if (at >= 0 || whole.length !== ids.length)
      throw new SampleError(
        `its tokens run over the border of a question and an answer (token ${at < 0 ? whole.length : at}); reword it there`,
      );
    if (ids.at(-1) !== this.processor.tokenizer.specials.eos)
      throw new SampleError("its last answer is not closed by the end token; is the chat template right?");
    return { ids, labels };
  }

  private requirePlain(text: string): void {
    if (/\p{Surrogate}/u.test(text))
      throw new SampleError("its text contains half of a surrogate pair (\\ud800 to \\udfff alone), which is no character; take that out"); // prettier-ignore
    const found = this.specials.find((special) => text.includes(special));
    if (found !== undefined)
      throw new SampleError(`its text contains ${quote(found)}, a special token of the model; take that out`);
  }

  private tooLong(
    what: string,
    tokens: number,
    {
      isCut = false,
      isComplete = true,
    }: { /** Whether `truncate` would help. */ isCut?: boolean; isComplete?: boolean } = {},
  ): SampleError {
    const or = isCut && !this.options.truncate ? "; shorten it, or train with data.truncate=true" : "; shorten it";
    const count = isComplete ? `${tokens}` : `at least ${tokens}`;
    return new SampleError(`the ${what} has ${count} tokens, at most ${this.maxTokens} fit${or}`);
  }
}

/** The same record with what is preferred less in place of what is preferred; null if it is no preference. */
function rejectedOf(raw: RawSample): RawSample | null {
  if (!("rejected" in raw) || raw.rejected === undefined) return null;
  const { rejected, ...rest } = raw;
  if (rest.task === "gen") return { ...rest, image: rejected };
  return { ...rest, messages: [...rest.messages.slice(0, -1), { role: "assistant", content: rejected }] };
}

/** The same record without what is preferred less. */
function chosenOf(raw: RawSample): RawSample {
  if (!("rejected" in raw)) return raw;
  const { rejected: _, ...rest } = raw;
  return rest;
}

function useOfRaw(raw: RawSample): RecordUse {
  if ("rejected" in raw && raw.rejected !== undefined) return "preferences";
  return raw.task === "gen" && raw.image === "" ? "prompts" : "samples";
}

const textsOf = ({ content }: Message): string[] =>
  typeof content === "string" ? [content] : content.flatMap((part) => (part.type === "text" ? [part.text] : []));

const imagesIn = (messages: readonly Message[]): number =>
  messages.reduce(
    (sum, { content }) =>
      sum + (typeof content === "string" ? 0 : content.filter(({ type }) => type === "image").length),
    0,
  );
