/**
 * Image generation: samples all codes of a batch of images without a read-back, with classifier-free guidance, then
 * runs the VQ decoder. Source: janus-pro's generation loop; rows alternate conditional and unconditional, as in the
 * original.
 */
import { ArgumentError, construct } from "../../engine/index.ts";
import type { Device, Tensor } from "../../engine/index.ts";
import { full } from "../../kernels/index.ts";
import { checkCacheDType, checkContext, checkIds, checkSampling, checkSeeds } from "../request.ts";
import { imageTokens } from "./config.ts";
import type { JanusConfig } from "./config.ts";
import { TokenDecoder, isFlagged, stepsAhead } from "../decoding.ts";
import type { DecodingOptions, Head } from "../decoding.ts";
import { Sampler } from "../sampling.ts";
import type { SamplingOptions } from "../request.ts";
import type { JanusForConditionalGeneration } from "./janus.ts";
import { unconditionalRow } from "./prompt.ts";
import { DRAWING_DEFAULTS } from "./processor.ts";

export interface ImageOptions extends SamplingOptions, DecodingOptions {
  /**
   * Images per prompt (default: 1). Images of a prompt are adjacent. Image k of the whole batch uses the same draws as
   * a single image with seed `seed` + k: no two share their draws. It is the same token for token as long as all images
   * of the batch are at most 16 (32 without guidance; software devices have no such bound): beyond, sums are rounded
   * otherwise.
   */
  readonly n?: number;
  /** Weight w of u + w · (c − u) over the logits with and without the prompt; 1 for none (default: 5; in `Janus.generate` the model's own). */
  readonly guidance?: number;
}

/** An image of a batch, if the images have seeds of their own: the index of its prompt, and its seed. */
export interface BatchImage {
  readonly prompt: number;
  readonly seed: number;
}

/** Maximum images of one prompt in one batch; the caches of more do not fit any device. */
const MAX_PICTURES = 4096;

/** Steps of one submit, and submits that the host may be ahead of a GPU. */
const STEPS = 4;
const SUBMITS_AHEAD = 3;

class ImageHead implements Head {
  /** u32 [N, tokens]: the codes so far, flagged if not finite; the rest is 0. */
  readonly codes: Tensor;
  private readonly model: JanusForConditionalGeneration;
  private readonly sampler: Sampler;
  private readonly weight: number;

  constructor(
    model: JanusForConditionalGeneration,
    tokens: number,
    seeds: readonly number[],
    options: ImageOptions,
    device: Device,
  ) {
    this.model = model;
    this.weight = options.guidance ?? DRAWING_DEFAULTS.guidance;
    this.sampler = new Sampler(
      { ...options, temperature: options.temperature ?? DRAWING_DEFAULTS.temperature },
      seeds,
      device,
    );
    this.codes = full([seeds.length, tokens], 0, { dtype: "u32", device }).keep();
  }

  sample(hidden: Tensor, step: Tensor, into: Tensor): Tensor {
    const logits = this.model.codeLogits(hidden); // [R, codes]
    const guided = this.weight === 1 ? {} : { guidance: this.weight };
    return this.sampler.sample(logits, step, { into, history: this.codes, ...guided });
  }

  embed(tokens: Tensor): Tensor {
    const copies = this.weight === 1 ? 1 : 2; // both rows of a pair
    return this.model.embedCodes(tokens, copies).reshape([copies * tokens.size, 1, -1]);
  }

  dispose(): void {
    this.sampler.dispose();
    this.codes.dispose();
  }
}

/** Generation of `n` images of each prompt; images of one prompt are adjacent. Dispose it when done. */
export class ImageGeneration {
  /** Images. */
  readonly count: number;
  /** Codes of an image. */
  readonly tokens: number;
  /** Seed of each image, in the order of the images. */
  readonly seeds: readonly number[];
  /** Codes of each image that are sampled and enqueued. */
  done = 0;
  readonly decoder: TokenDecoder;
  private readonly head: ImageHead;
  private readonly signal: AbortSignal | undefined;

  /**
   * Runs the prompts; throws `PromptError` and `ArgumentError` before any work.
   * @param prompts token ids, the last of each being begin-of-image
   * @param pad id that replaces a prompt's inner tokens in its unconditional row
   * @param options `images` in place of `n` and `seed`: which image is of which prompt, each with its own seed
   */
  constructor(
    model: JanusForConditionalGeneration,
    config: JanusConfig,
    prompts: readonly (readonly number[])[],
    pad: number,
    options: ImageOptions & { readonly images?: readonly BatchImage[] } = {},
  ) {
    const { n = 1, guidance = DRAWING_DEFAULTS.guidance, seed = 0 } = options;
    if (!Number.isInteger(n) || n < 1 || n > MAX_PICTURES)
      throw new ArgumentError(`generate: n must be a whole number from 1 to ${MAX_PICTURES}; got ${n}`);
    if (!Number.isFinite(Math.fround(guidance)))
      throw new ArgumentError(`generate: guidance must be a finite number (1: none); got ${guidance}`);
    if (prompts.length === 0) throw new ArgumentError("generate: prompts must hold at least one; got none");
    checkSampling("generate", options, n * prompts.length);
    for (const image of options.images ?? []) checkSeeds(image.seed, 1);
    checkCacheDType("generate", options.cacheDType);
    this.tokens = imageTokens(config);
    for (const ids of prompts) {
      checkIds(ids, config.language.vocabulary);
      checkContext(ids, this.tokens - 1, config.language.maxPositions);
    }
    this.signal = options.signal;
    this.signal?.throwIfAborted();
    const images = options.images ?? Array.from({ length: n * prompts.length }, (_, k) => ({ prompt: Math.floor(k / n), seed: seed + k })); // prettier-ignore
    this.count = images.length;
    this.seeds = images.map((image) => image.seed);
    const { device } = model;
    const pair = guidance === 1 ? 1 : 2;
    const rows = prompts.flatMap((ids) => [{ ids }, { ids: unconditionalRow(ids, pad) }].slice(0, pair));
    const order = images.flatMap(({ prompt }) => Array.from({ length: pair }, (_, i) => pair * prompt + i));
    [this.head, this.decoder] = construct(() => {
      const head = new ImageHead(model, this.tokens, this.seeds, options, device);
      const batch = { prompts: rows, order, samples: this.count, room: this.tokens - 1 };
      return [head, TokenDecoder.prefill(model, head, batch, options)];
    });
  }

  /**
   * Samples all codes; yields how many of each image the device has computed, as it becomes known. Throws `NotFiniteError` if the first code shows
   * that weights are damaged, as most do; for the others `codes` does.
   */
  async *run(): AsyncGenerator<number> {
    const { device } = this.decoder;
    const waits: Promise<number>[] = [];
    const ahead = stepsAhead(device, SUBMITS_AHEAD);
    try {
      while (this.done < this.tokens) {
        this.signal?.throwIfAborted();
        const isFirst = this.done === 0;
        if (isFirst) this.decoder.begin();
        this.done += isFirst ? 1 : await this.decoder.several(ahead ? Math.min(STEPS, this.tokens - this.done) : 1);
        const { done } = this;
        const computed = (isFirst ? this.checkFirst() : device.sync()).then(() => done);
        computed.catch(() => undefined); // the error surfaces when it is awaited
        waits.push(computed);
        while (waits.length > ahead) yield await waits.shift()!;
      }
      while (waits.length) yield await waits.shift()!;
    } finally {
      await Promise.allSettled(waits);
    }
  }

  /** Checks the first codes while the next are computed. */
  private async checkFirst(): Promise<void> {
    await this.checkCodes(Array.from(await this.decoder.tokens.data(), (code) => [code]));
  }

  /** The codes sampled so far, one array per image. Throws `NotFiniteError` if the logits of one are not finite. */
  async codes(): Promise<number[][]> {
    const done = this.done;
    const all = await this.head.codes.data();
    const codes = Array.from({ length: this.count }, (_, k) =>
      Array.from(all.subarray(k * this.tokens, k * this.tokens + done)),
    );
    await this.checkCodes(codes);
    return codes;
  }

  /** Throws for the first code that is flagged: the flags travel with the codes, so that no step reads back. */
  private async checkCodes(codes: readonly (readonly number[])[]): Promise<void> {
    const steps = codes.map((row) => row.findIndex(isFlagged));
    const step = Math.min(...steps.filter((at) => at >= 0));
    if (step === Infinity) return;
    const place = `code ${step} of image ${steps.indexOf(step)}`;
    throw await this.decoder.notFinite({ op: "generate", head: "image head (gen_head)", place, step });
  }

  dispose(): void {
    this.decoder.dispose();
  }
}
