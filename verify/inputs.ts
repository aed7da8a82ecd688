/**
 * Inputs of the computations of `janus verify`: the golden folder's own inputs if it has them, else those derived from
 * its prompts and images. Everything is checked here, so that a strange value fails the rows that need it and
 * nothing else.
 */
import { ArgumentError, ShapeError, shapeText } from "../engine/errors.ts";
import { imageTokens } from "../model/janus/config.ts";
import type { JanusConfig } from "../model/janus/config.ts";
import { understandingPixels } from "../model/image/preprocess.ts";
import type { Processor } from "../model/janus/processor.ts";
import { PromptError } from "../model/request.ts";
import { leftPad } from "../model/janus/prompt.ts";
import type { PromptBatch } from "../model/janus/prompt.ts";
import { GoldenError } from "./file.ts";
import type { Golden, Values } from "./file.ts";

/** A value that another one is computed from cannot be used. It fails the row, not the run. */
export class UnusableInput extends GoldenError {}

/** Golden values that make a computation impossible give a failed row with this note. Errors of the device, or our own, end the run. */
export function whyImpossible(error: unknown): string {
  const isTheirs = [GoldenError, PromptError, ShapeError, ArgumentError].some((kind) => error instanceof kind);
  if (!isTheirs) throw error;
  return `cannot be computed: ${(error as Error).message}`;
}

export interface Ids {
  readonly shape: readonly number[];
  readonly data: Int32Array;
}

/** Questions, left-padded: ids [B, T]. */
export interface Questions {
  readonly ids: Int32Array;
  readonly rows: number;
  readonly length: number;
  /** First real token of each row. */
  readonly starts: Int32Array;
  /** Images [N, 3, S, S], in the order of the placeholders; null for none. */
  readonly pixels: Values | null;
}

/** The rows of a batch without their padding. */
export const unpadded = ({ ids, rows, length, starts }: Omit<Questions, "pixels">): number[][] =>
  Array.from({ length: rows }, (_, r) => Array.from(ids.subarray(r * length + starts[r]!, (r + 1) * length)));

export class GoldenInputs {
  readonly golden: Golden;
  readonly config: JanusConfig;
  readonly processor: Processor;
  private readonly preprocessed = new Map<number, Values>();

  constructor(golden: Golden, config: JanusConfig, processor: Processor) {
    this.golden = golden;
    this.config = config;
    this.processor = processor;
  }

  // ---- text

  /** `text` as ids; it says itself how many images it has. */
  encode(text: string): number[] {
    const { tokenizer, prompts } = this.processor;
    return prompts.encode(
      text,
      tokenizer.encode(text).filter((id) => id === tokenizer.specials.imagePlaceholder).length,
    );
  }

  /** The questions of golden.json; null if it has none. */
  promptBatch(): PromptBatch | null {
    const { understandPrompts } = this.golden.json;
    return (
      understandPrompts &&
      leftPad(
        understandPrompts.map((text) => this.encode(text)),
        this.processor.tokenizer.specials.pad,
      )
    );
  }

  /** Token ids [rows, tokens] of the file. */
  async ids(name: string): Promise<Ids> {
    const found = await this.golden.read(name);
    if (!found) throw new UnusableInput(`${name} is missing`);
    const { vocabulary, maxPositions } = this.config.language;
    return indices(
      name,
      found,
      vocabulary,
      ({ length, 1: tokens }) => length === 2 && tokens! > 0 && tokens! <= maxPositions,
      `[rows, tokens] with at most ${maxPositions} tokens`,
    );
  }

  /** The ids of prompt i. */
  async prompt(i: number): Promise<number[]> {
    const name = `gen${i}.input_ids`;
    const text = this.golden.json.generatePrompts[i];
    if (!this.golden.tensors.has(name) && text !== undefined) return this.encode(text);
    const { shape, data } = await this.ids(name);
    if (shape[0] !== 1) throw new UnusableInput(`${name} is ${shapeText(shape)}; one prompt, [1, tokens]`);
    return Array.from(data);
  }

  // ---- images and codes

  /** Returns the vision tower's input for `image{i}.png`. */
  picture(i: number): Values {
    const found = this.preprocessed.get(i);
    if (found) return found;
    const { images } = this.processor;
    const values = {
      shape: [3, images.imageSize, images.imageSize],
      data: understandingPixels(this.golden.pictures.get(i)!, images),
    };
    this.preprocessed.set(i, values);
    return values;
  }

  /** The first `count` images of the folder, or all. */
  firstPictures(count?: number): Values {
    return this.stack([...this.golden.pictures.keys()].slice(0, count));
  }

  stack(pictures: readonly number[]): Values {
    const side = this.processor.images.imageSize;
    const data = new Float32Array(pictures.length * 3 * side * side);
    for (const [at, i] of pictures.entries()) data.set(this.picture(i).data, at * 3 * side * side);
    return { shape: [pictures.length, 3, side, side], data };
  }

  /** Returns the inputs of the rows of the vision tower and the image tokenizer. */
  async pixels(): Promise<Values> {
    return (await this.pixelsOf("vision.pixels")) ?? this.firstPictures();
  }

  /** Images [N, 3, S, S] of the file; those of a batch [B, n, 3, S, S] one after the other. */
  async pixelsOf(name: string): Promise<Values | null> {
    const found = await this.golden.read(name);
    if (!found) return null;
    const { shape, data } = found;
    const side = this.config.vision.imageSize;
    const isPictures =
      (shape.length === 4 || shape.length === 5) && shape.slice(-3).join() === `3,${side},${side}` && data.length > 0;
    if (!isPictures)
      throw new UnusableInput(`${name} is ${shapeText(shape)}; it must be [images, 3, ${side}, ${side}]`);
    return { shape: [shape.slice(0, -3).reduce((a, b) => a * b, 1), 3, side, side], data };
  }

  /** Image codes [N, tokens] of the file; null if it has none. */
  async codes(name: string): Promise<Ids | null> {
    const found = await this.golden.read(name);
    const tokens = imageTokens(this.config);
    return (
      found &&
      indices(
        name,
        found,
        this.config.vq.codes,
        (shape) => shape.length === 2 && shape[0]! > 0 && shape[1] === tokens,
        `[images, ${tokens}]`,
      )
    );
  }

  // ---- questions about images

  async questions(): Promise<Questions> {
    const prompts = this.promptBatch();
    const found = this.golden.tensors.has("und.input_ids") ? await this.ids("und.input_ids") : null;
    const mask = await this.golden.read("und.attention_mask");
    if (!found && !prompts)
      throw new UnusableInput("und.input_ids is missing, and golden.json has no understand_prompts");
    const { shape, data: ids } = found ?? { shape: [prompts!.rows, prompts!.length], data: prompts!.inputIds };
    const [rows, length] = shape as [number, number];
    if (mask && mask.shape.join() !== shape.join())
      throw new UnusableInput(`und.attention_mask is ${shapeText(mask.shape)}, the ids are ${shapeText(shape)}`);
    // Without a mask of the file, padding is what its id says.
    const { pad } = this.processor.tokenizer.specials;
    const seen = mask?.data ?? ids.map((id) => (id === pad ? 0 : 1));
    const part = <T extends Values["data"]>(data: T, r: number): T => data.subarray(r * length, (r + 1) * length) as T;
    const starts = Int32Array.from({ length: rows }, (_, r) => part(seen, r).indexOf(1));
    const isLeft = (r: number): boolean =>
      starts[r]! >= 0 && (!mask || part(seen, r).every((m, t) => m === (t < starts[r]! ? 0 : 1)));
    if (!Array.from(starts, (_, r) => isLeft(r)).every(Boolean))
      throw new UnusableInput("und.attention_mask is not 0 on the left of each row and 1 on the rest of it");
    const batch = { ids, rows, length, starts };
    return { ...batch, pixels: await this.questionPixels(unpadded(batch)) };
  }

  private async questionPixels(rows: readonly (readonly number[])[]): Promise<Values | null> {
    const { imagePlaceholder } = this.processor.tokenizer.specials;
    const tokens = imageTokens(this.config);
    const places = rows.map((ids) => ids.filter((id) => id === imagePlaceholder).length);
    if (!places.every((n) => n % tokens === 0))
      throw new UnusableInput(
        `und.input_ids has ${places.join(", ")} image placeholders in its rows; an image takes ${tokens}`,
      );
    const wanted = places.reduce((a, b) => a + b, 0) / tokens;
    if (wanted === 0) return null;
    const pixels = (await this.pixelsOf("und.pixels")) ?? this.firstPictures(wanted);
    if (pixels.shape[0] !== wanted)
      throw new UnusableInput(`und.input_ids names ${wanted} images, there are ${pixels.shape[0]}`);
    return pixels;
  }
}

/** Values that are to be indices below `limit`, in a shape that `fits`. */
function indices(
  name: string,
  { shape, data }: Values,
  limit: number,
  fits: (shape: readonly number[]) => boolean,
  needed: string,
): Ids {
  if (!fits(shape)) throw new UnusableInput(`${name} is ${shapeText(shape)}; it must be ${needed}`);
  for (const value of data)
    if (!Number.isInteger(value) || value < 0 || value >= limit)
      throw new UnusableInput(`${name} holds ${value}; whole numbers from 0 to ${limit - 1}`);
  return { shape, data: Int32Array.from(data) };
}
