/**
 * `Janus`: a checkpoint ready to be used. Answers about images, and images from prompts, as streams and as promises for
 * those who wait; below it the bare model. Works on files from anywhere; the names of the hub and paths of Node are in
 * `node/`.
 */
import { ArgumentError, getDevice, knownOptions, noGrad, optionNames, scope, tensor } from "../../engine/index.ts";
import type { Device, Tensor } from "../../engine/index.ts";
import { cat } from "../../kernels/index.ts";
import type { CacheDType } from "../../kernels/index.ts";
import type { FileSource } from "../io/bytes.ts";
import { fileSourceOf } from "../io/file_sources.ts";
import type { Files } from "../io/file_sources.ts";
import { openCheckpoint } from "./checkpoint/checkpoint.ts";
import type { Checkpoint } from "./checkpoint/checkpoint.ts";
import type { JanusConfig } from "./config.ts";
import { ImageGeneration } from "./generate_images.ts";
import type { ImageOptions } from "./generate_images.ts";
import { generateAnswers } from "../answers.ts";
import type { PromptRow } from "../causal.ts";
import type { AnswerOptions } from "../answers.ts";
import { understandingPixels } from "../image/preprocess.ts";
import { checkImage } from "../image/image.ts";
import type { RgbImage } from "../image/image.ts";
import { decodeByBrowser, fromCanvas, fromImageData, isCanvas, isImageData } from "../image/web_image.ts";
import { decodePicture, decodePictures, reconstruct } from "./image_codes.ts";
import type { Reconstruction } from "./image_codes.ts";
import type { JanusForConditionalGeneration } from "./janus.ts";
import { removeAdapters, setAdapters } from "../nn/lora.ts";
import { adapterFingerprint, loadAdapter } from "./adapters.ts";
import type { LoadAdapterOptions } from "./adapters.ts";
import { fingerprint, loadModel } from "./load.ts";
import type { LoadOptions } from "./load.ts";
import { readProcessor } from "./processor.ts";
import type { Processor } from "./processor.ts";
import type { Message } from "./prompt.ts";
import { imagesOf } from "./message_images.ts";
import type { ImageInput } from "./message_images.ts";
import { defined } from "../generation_config.ts";
import { showJson } from "../io/unknown.ts";
import { PromptError, checkSignal } from "../request.ts";
import { Pictures } from "./pictures.ts";
import type { GenerateEvent, Picture } from "./pictures.ts";
import { Answer } from "../streams.ts";
import type { AnswerResult } from "../streams.ts";

export type { ImageInput } from "./message_images.ts";

export interface AskOptions extends AnswerOptions {
  /**
   * In the order of their placeholders and of image parts without their own image; without either, they come before the
   * question.
   */
  readonly images?: readonly ImageInput[];
  /** System message (default: the original's), "" for none. */
  readonly system?: string;
}

export interface GenerateOptions extends ImageOptions {}

const DECODING = { cacheDType: true, eager: true, verify: true, signal: true } as const;
const SAMPLING = { temperature: true, topK: true, topP: true, seed: true } as const;
const ANSWER_OPTIONS = optionNames<Omit<AskOptions, "images">>({
  ...SAMPLING,
  ...DECODING,
  system: true,
  maxNewTokens: true,
  stop: true,
  stopIds: true,
  repetitionPenalty: true,
  suppressTokens: true,
  promptLookup: true,
  onLookup: true,
});
const GENERATE_OPTIONS = optionNames<GenerateOptions>({ ...SAMPLING, ...DECODING, n: true, guidance: true });
/** Names of `LoadOptions`. */
export const LOAD_OPTIONS = optionNames<LoadOptions>({
  device: true,
  dtype: true,
  quantize: true,
  quantizeHead: true,
  cacheDType: true,
  onProgress: true,
  onNotice: true,
  signal: true,
});

/**
 * A Janus-Pro model that is ready to be used: `ask` answers about images, `generate` draws them, both as streams and as
 * promises. `model` is the bare model.
 */
export class Janus {
  /** Name of its folder. */
  readonly name: string;
  readonly config: JanusConfig;
  /** The bare model: its submodules are callable with tensors. */
  readonly model: JanusForConditionalGeneration;
  readonly processor: Processor;
  private readonly hash: string;
  /** Adapters by name, with their fingerprints and the factors of their updates. */
  private readonly loaded = new Map<string, { readonly hash: string; readonly weight: number }>();

  constructor(
    name: string,
    config: JanusConfig,
    model: JanusForConditionalGeneration,
    processor: Processor,
    hash: string,
  ) {
    this.name = name;
    this.config = config;
    this.model = model;
    this.processor = processor;
    this.hash = hash;
  }

  /**
   * Loads a checkpoint of either layout from its files: `File`s that a person chose, bytes or Blobs by name, the URL of a folder on a server, or a source
   * of your own. Everything is checked before the first byte goes to the device. Throws `ArgumentError`, subclasses of `IoError`.
   */
  static async fromFiles(files: Files, options: LoadOptions = {}): Promise<Janus> {
    knownOptions("fromFiles", options, LOAD_OPTIONS);
    return new this(...(await this.parts(fileSourceOf("fromFiles", files), options)));
  }

  /** The entries of the package have it: from folders and the hub in Node (node/), from the hub in browsers (web/). Throws `ArgumentError`. */
  static fromPretrained(directoryOrName: string, _options: object = {}): Promise<Janus> {
    return Promise.reject(
      new ArgumentError(
        `fromPretrained: it needs the Janus of the package's entry, janus-webgpu; got "${directoryOrName}" for the one of janus-webgpu/model. Import it from there, or use Janus.fromFiles.`,
      ),
    );
  }

  /** Throws if the device cannot have the model, before weights are read. In Node the pool refuses what does not fit. */
  protected static requireFit(_checkpoint: Checkpoint, _device: Device, _options: LoadOptions): void {}

  protected static async parts(source: FileSource, options: LoadOptions): Promise<ConstructorParameters<typeof Janus>> {
    const checkpoint = await openCheckpoint(source);
    try {
      const processor = await readProcessor(source, checkpoint.config);
      options.signal?.throwIfAborted();
      const device = options.device ?? getDevice();
      this.requireFit(checkpoint, device, options);
      const hash =
        (await fingerprint(checkpoint)) + (options.quantize && !checkpoint.quantization ? `-${options.quantize}` : "");
      const warn = options.onNotice ?? ((message: string) => console.warn(message));
      for (const notice of [...checkpoint.notices, ...processor.notices]) warn(notice);
      // On software devices this would gain nothing: they compile a pipeline when it first runs.
      const compileAhead = !device.capabilities.software;
      const model = await loadModel(checkpoint, { ...options, device, compileAhead });
      return [source.name, checkpoint.config, model, processor, hash];
    } finally {
      await checkpoint.close();
    }
  }

  get device(): Device {
    return this.model.device;
  }

  /** Distinguishes these weights from others, in either layout (see `fingerprint`), with the adapters that are switched on and the dtype of caches. */
  get fingerprint(): string {
    return this.fingerprintWith(this.model.cacheDType);
  }

  /** The fingerprint of what is made with caches of a dtype. */
  private fingerprintWith(cacheDType: CacheDType): string {
    const on = [...this.loaded.values()].filter(({ weight }) => weight !== 0);
    return [
      this.hash + (cacheDType === "f32" ? "" : `-kv_${cacheDType}`),
      ...on.map(({ hash, weight }) => `${hash.slice(0, 16)}*${weight}`).sort(),
    ].join("+");
  }

  /** The loaded adapters by name, with the factors of their updates. */
  get adapters(): Readonly<Record<string, number>> {
    return Object.fromEntries([...this.loaded].map(([name, { weight }]) => [name, weight]));
  }

  /**
   * Loads an adapter in PEFT's layout from its files, beside those that are loaded, and switches it on. Throws `ArgumentError` for a name that is taken,
   * subclasses of `CheckpointError` for files that are damaged, not supported, or made for another model.
   */
  async loadAdapter(files: Files, options: LoadAdapterOptions = {}): Promise<void> {
    const source = fileSourceOf("loadAdapter", files);
    const hash = await adapterFingerprint(source);
    const { name } = await loadAdapter(this.model, source, options);
    this.loaded.set(name, { hash, weight: options.weight ?? 1 });
  }

  /** Sets the factors of the updates of the adapters; those that are not named are switched off. Throws `ArgumentError` for a name that is not loaded. */
  setAdapters(weights: Readonly<Record<string, number>>): void {
    setAdapters(this.model, weights);
    for (const [name, one] of this.loaded) this.loaded.set(name, { ...one, weight: weights[name] ?? 0 });
  }

  /** Frees the adapter `name`, or all adapters. */
  removeAdapters(name?: string): void {
    removeAdapters(this.model, name);
    for (const own of this.loaded.keys()) if (name === undefined || own === name) this.loaded.delete(own);
  }

  /**
   * Answers a question, with or without images. Takes the most probable tokens if `temperature` is not above 0, here or
   * in the checkpoint's generation_config.json, whose settings hold if the options do not say otherwise.
   * @param question text, in which `<image_placeholder>` may stand for images; or the messages of a conversation, the last of the user
   */
  ask(question: string | readonly Message[], options: AskOptions = {}): Answer {
    knownOptions("ask", options, ["images", ...ANSWER_OPTIONS]);
    checkSignal("ask", options.signal);
    return new Answer(this.answer(question, options));
  }

  /** Answers several questions at once, each as it would be answered alone with seed `seed` + its index. Each has its own images. */
  async askAll(
    questions: readonly { readonly question: string | readonly Message[]; readonly images?: readonly ImageInput[] }[],
    options: Omit<AskOptions, "images"> = {},
  ): Promise<AnswerResult[]> {
    knownOptions("askAll", options, ANSWER_OPTIONS);
    checkSignal("askAll", options.signal);
    for (const [i, one] of questions.entries()) knownOptions(`askAll: question ${i}`, one, ["question", "images"]);
    const asked = await Promise.all(
      questions.map(({ question, images }) => this.encode(question, { ...options, images: images ?? [] })),
    );
    const run = this.decode(asked, options);
    for (;;) {
      const step = await run.next();
      if (step.done) return step.value;
    }
  }

  /** Images of a prompt, or `n` of each of several. */
  generate(prompt: string | readonly string[], options: GenerateOptions = {}): Pictures {
    knownOptions("generate", options, GENERATE_OPTIONS);
    checkSignal("generate", options.signal);
    const prompts = typeof prompt === "string" ? [prompt] : prompt;
    if (!Array.isArray(prompts) || !prompts.every((one) => typeof one === "string"))
      throw new PromptError(`generate: the prompt must be a text or a list of texts; got ${showJson(prompt)}`);
    this.model.requirePart("generate", "generate images");
    const state: { generation: ImageGeneration | null } = { generation: null };
    return new Pictures(this.draw(prompts, options, state), async () => {
      const codes = (await state.generation?.codes()) ?? [];
      const pictures: (RgbImage | null)[] = [];
      for (const so of codes) pictures.push(await decodePicture(this.model.model.vqmodel, so));
      return pictures;
    });
  }

  /** The image of image codes in raster order. */
  async decodeImage(tokenIds: readonly number[]): Promise<RgbImage> {
    this.model.requirePart("decodeImage", "generate images");
    const { vqmodel } = this.model.model;
    const picture = tokenIds.length === vqmodel.side ** 2 ? await decodePicture(vqmodel, tokenIds) : null;
    if (!picture)
      throw new ArgumentError(
        `decodeImage: an image must have ${vqmodel.side ** 2} codes; got ${tokenIds.length}. Pass all codes of one image.`,
      );
    return picture;
  }

  /** Encodes and decodes an image with the image tokenizer. */
  async reconstruct(input: ImageInput): Promise<Reconstruction> {
    this.model.requirePart("reconstruct", "generate images");
    return reconstruct(this.model.model.vqmodel, await this.image(input));
  }

  /** Frees the weights. */
  dispose(): void {
    this.model.dispose();
  }

  [Symbol.dispose](): void {
    this.dispose();
  }

  /** An input image as pixels. In Node `node/janus.ts` reads files itself. */
  protected async image(input: ImageInput): Promise<RgbImage> {
    if (isCanvas(input)) return fromCanvas(input);
    if (isImageData(input)) return fromImageData(input);
    if (input instanceof Uint8Array) return decodeByBrowser(new Blob([input as BlobPart]));
    if (input instanceof Blob) return decodeByBrowser(input);
    if (typeof input === "object" && input?.data instanceof Uint8Array) {
      checkImage("image", input);
      return input;
    }
    throw new ArgumentError(
      `image: it must be { width, height, data } of 8-bit RGB, ImageData, a canvas, a Blob or the bytes of a file; got ${typeof input === "string" ? `"${input}"` : typeof input}. Fetch or decode it first.`,
    );
  }

  /** A question as token ids and the pixels of its images. */
  private async encode(question: string | readonly Message[], { images = [], system }: AskOptions): Promise<Asked> {
    const settings = this.processor.images;
    const inputs = imagesOf(question, images, this.placeholder);
    if (inputs.length) this.model.requirePart("ask", "understand images");
    const ids = questionIds(this.processor, question, inputs.length, system);
    const pixels: Float32Array[] = [];
    for (const input of inputs) pixels.push(understandingPixels(await this.image(input), settings));
    return { ids, pixels };
  }

  private async *answer(
    question: string | readonly Message[],
    options: AskOptions,
  ): AsyncGenerator<string, AnswerResult> {
    const asked = await this.encode(question, options);
    const [result] = yield* this.decode([asked], options);
    return result!;
  }

  private get placeholder(): string {
    const { tokenizer } = this.processor;
    return tokenizer.tokenOf(tokenizer.specials.imagePlaceholder)!;
  }

  /** Answers to encoded questions; gives the text of the first one as it comes. */
  private async *decode(asked: readonly Asked[], given: AskOptions): AsyncGenerator<string, AnswerResult[]> {
    const options = answerOptions(this.processor, given, Math.max(0, ...asked.map(({ ids }) => ids.length)));
    const { imagePlaceholder: placeholder } = this.processor.tokenizer.specials;
    const embeddings: Tensor[] = [];
    const rows = (): PromptRow[] => {
      const pixels = asked.flatMap((one) => one.pixels);
      if (pixels.length === 0) return asked.map(({ ids }) => ({ ids }));
      const all = this.embedImages(pixels);
      embeddings.push(all);
      const each = all.dim(0) / pixels.length;
      let next = 0;
      return asked.map(({ ids, pixels: { length } }) => {
        if (length === 0) return { ids };
        const own = noGrad(() => all.slice(0, next * each, (next + length) * each).keep());
        next += length;
        embeddings.push(own);
        return { ids, images: { embeddings: own, placeholder } };
      });
    };
    try {
      return yield* generateAnswers(this.model, this.processor.tokenizer, { prompts: asked, rows }, options);
    } finally {
      for (const t of embeddings) t.dispose();
      this.device.pool.trim(); // prompts of other lengths need buffers of other sizes
    }
  }

  /**
   * float32 [3, S, S] pixels of N images (see `understandingPixels`) → embeddings [N · P, hidden]: one image at a time, on software devices as many as
   * have `PIXELS` pixels; the bits are the same there. The caller disposes them.
   */
  embedImages(pixels: readonly Float32Array[]): Tensor {
    const { device } = this;
    const side = this.config.vision.imageSize;
    const atOnce = device.capabilities.software ? Math.max(1, Math.floor(PIXELS / side ** 2)) : 1;
    const embed = (from: number): Tensor => {
      const some = pixels.slice(from, from + atOnce);
      const all = new Float32Array(some.length * 3 * side ** 2);
      for (const [i, picture] of some.entries()) all.set(picture, i * picture.length);
      return this.model.model.call(tensor(all, { shape: [some.length, 3, side, side], device })).flatten(0, 1);
    };
    const starts = Array.from({ length: Math.ceil(pixels.length / atOnce) }, (_, i) => i * atOnce);
    return noGrad(() => scope(() => cat(starts.map(embed)))).keep();
  }

  private async *draw(
    prompts: readonly string[],
    options: GenerateOptions,
    state: { generation: ImageGeneration | null },
  ): AsyncGenerator<GenerateEvent, Picture[]> {
    const { prompts: format, tokenizer, drawing } = this.processor;
    const { n = 1, guidance, temperature, topK, topP } = { ...drawing, ...defined(options) };
    const rows = prompts.map((prompt) => format.encode(format.generation(prompt)));
    const generation = (state.generation = new ImageGeneration(this.model, this.config, rows, tokenizer.specials.pad, {
      ...options,
      guidance,
      temperature,
      ...(topK !== undefined && { topK }),
      ...(topP !== undefined && { topP }),
    }));
    let codes: number[][];
    try {
      for await (const done of generation.run()) yield { type: "progress", done, total: generation.tokens };
      codes = await generation.codes();
    } finally {
      state.generation = null;
      generation.dispose();
    }
    // Decoding needs as much memory as the cache did: it gets that one's instead of more.
    this.device.pool.trim();
    const pictures: Picture[] = [];
    options.signal?.throwIfAborted();
    for await (const image of decodePictures(this.model.model.vqmodel, codes, (index) => `image ${index}`)) {
      const index = pictures.length;
      const tokenIds = codes[index]!;
      const picture: Picture = {
        image,
        prompt: prompts[Math.floor(index / n)]!,
        seed: generation.seeds[index]!,
        guidance,
        temperature,
        topK,
        topP,
        model: this.fingerprintWith(options.cacheDType ?? this.model.cacheDType),
        tokenIds,
      };
      pictures.push(picture);
      yield { type: "picture", index, picture };
      if (pictures.length < codes.length) options.signal?.throwIfAborted();
    }
    return pictures;
  }
}

/**
 * Options of an answer with the checkpoint's own where `given` says nothing. Throws `PromptError` for a prompt that leaves no room within the
 * checkpoint's `max_length`.
 */
export function answerOptions({ answers }: Processor, given: AnswerOptions, promptTokens: number): AnswerOptions {
  const { maxLength = Infinity, maxNewTokens = 512, ...own } = answers;
  const options = { ...own, ...defined(given) };
  if (options.maxNewTokens !== undefined) return options;
  // As in transformers, a number of new tokens goes before a length of all.
  if (answers.maxNewTokens !== undefined) return { ...options, maxNewTokens };
  if (promptTokens >= maxLength)
    throw new PromptError(
      `the prompt has ${promptTokens} tokens; the context is limited to ${maxLength} by max_length of generation_config.json. Shorten the prompt, or pass maxNewTokens`,
    );
  return { ...options, maxNewTokens: Math.min(maxNewTokens, maxLength - promptTokens) };
}

/** The ids of a question with its images expanded. Throws `PromptError` if it cannot be asked. */
export function questionIds(
  { prompts, tokenizer }: Processor,
  question: string | readonly Message[],
  images: number,
  system?: string,
): number[] {
  const placeholder = tokenizer.tokenOf(tokenizer.specials.imagePlaceholder)!;
  const isPlain = typeof question === "string" && !question.includes(placeholder);
  const content = isPlain ? `${placeholder}\n`.repeat(images) + question : question;
  const messages: readonly Message[] = typeof content === "string" ? [{ role: "user", content }] : content;
  for (const [i, message] of messages.entries()) {
    const strange = Object.keys(message).find((key) => key !== "role" && key !== "content");
    if (strange !== undefined)
      throw new PromptError(`message ${i}: the field ${JSON.stringify(strange)} is not supported; a message has role and content`); // prettier-ignore
  }
  return prompts.encode(prompts.conversation(messages, system === undefined ? {} : { system }), images);
}

/** Pixels that the vision tower sees at once on software devices: launches of small images take longer than their pixels. */
const PIXELS = 2 ** 14;

interface Asked {
  readonly ids: readonly number[];
  /** float32 [3, S, S] each. */
  readonly pixels: readonly Float32Array[];
}
