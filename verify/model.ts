/**
 * The computations of the model for a golden folder, each piece once. Pieces start from golden inputs, so that one
 * wrong value shows in its own row and not in all later ones; if the product has a separate path (generation), that
 * path runs.
 */
import { noGrad, scope, tensor } from "../engine/index.ts";
import type { Device, Tensor } from "../engine/index.ts";
import { arange, cat, guidance as guide } from "../kernels/index.ts";
import type { PromptRow } from "../model/causal.ts";
import type { JanusConfig } from "../model/janus/config.ts";
import { ImageGeneration } from "../model/janus/generate_images.ts";
import { generateText } from "../model/generate.ts";
import type { JanusForConditionalGeneration } from "../model/janus/janus.ts";
import type { Processor } from "../model/janus/processor.ts";
import { unconditionalRow } from "../model/janus/prompt.ts";
import type { Values } from "./file.ts";
import { unpadded } from "./inputs.ts";
import type { Questions } from "./inputs.ts";
import { forcedSteps } from "./steps.ts";

/** Guidance weight of all golden images. */
export const GUIDANCE = 5;

/** Logits after each golden prefix of an image. */
export interface ForcedCodes {
  /** [2, codes]: conditional and unconditional logits of the first step. */
  readonly first: Values;
  /** [T, codes]: guided logits of all steps. */
  readonly guided: Values;
}

/** Questions with the embeddings [N, places, hidden] of their images, in the order of the placeholders; null for none. */
export interface Embedded extends Omit<Questions, "pixels"> {
  readonly images: Values | null;
}

export class GoldenModel {
  readonly config: JanusConfig;
  readonly device: Device;
  private readonly model: JanusForConditionalGeneration;
  private readonly processor: Processor;
  private readonly signal: AbortSignal | undefined;

  constructor(model: JanusForConditionalGeneration, config: JanusConfig, processor: Processor, signal?: AbortSignal) {
    this.model = model;
    this.config = config;
    this.processor = processor;
    this.device = model.lm_head.weight.device;
    this.signal = signal;
  }

  /** Runs `fn` without a tape and reads its result; frees everything. */
  private async read(fn: () => Tensor): Promise<Values> {
    this.signal?.throwIfAborted();
    const y = noGrad(() => scope(fn));
    try {
      const data = await y.data();
      return { shape: y.shape, data: data instanceof Float32Array ? data : Int32Array.from(data) };
    } finally {
      y.dispose();
    }
  }

  private upload({ data, shape }: Values): Tensor {
    return tensor(data instanceof Int32Array ? data : Float32Array.from(data), { shape, device: this.device });
  }

  /** `run` on each [1, …] of x [N, …], one at a time to bound memory → [N, …]. */
  private async each(x: Values, run: (one: Tensor) => Tensor): Promise<Values> {
    const [count, ...rest] = x.shape as [number, ...number[]];
    const size = rest.reduce((a, b) => a * b, 1);
    const parts: Values[] = [];
    for (let i = 0; i < count; i++) {
      const one = { shape: [1, ...rest], data: x.data.slice(i * size, (i + 1) * size) };
      parts.push(await this.read(() => run(this.upload(one))));
    }
    return { shape: [count, ...(parts[0]?.shape.slice(1) ?? [])], data: joined(parts.map(({ data }) => data)) };
  }

  visionTower(pixels: Values): Promise<Values> {
    return this.each(pixels, (one) => this.model.model.vision_model.call(one));
  }

  imageEmbeddings(pixels: Values): Promise<Values> {
    return this.each(pixels, (one) => this.model.model.call(one));
  }

  codeVectors(pixels: Values): Promise<Values> {
    return this.each(pixels, (one) => this.model.model.vqmodel.encodeVectors(one));
  }

  codes(pixels: Values): Promise<Values> {
    return this.each(pixels, (one) => this.model.model.vqmodel.encode(one));
  }

  /** codes [N, tokens] → pixels before clipping. */
  decoded(codes: Values): Promise<Values> {
    return this.each(codes, (one) => this.model.model.vqmodel.decode(one));
  }

  /**
   * How much nearer the nearest code is than the next, as squared distance after both were scaled to length 1: z [N, D, s, s] → [N, s · s].
   * In float64 on the host: on the device nothing computes it.
   */
  async codeMargins(z: Values): Promise<Values> {
    const book = (await this.model.model.vqmodel.quantize.embedding.weight.data()) as Float32Array;
    const [count, dim, height, width] = z.shape as [number, number, number, number];
    const area = height * width;
    const codes = this.config.vq.codes;
    const unit = (at: (d: number) => number): Float64Array => {
      const v = Float64Array.from({ length: dim }, (_, d) => at(d));
      const length = Math.max(Math.hypot(...v), 1e-12);
      return v.map((x) => x / length);
    };
    const units = Array.from({ length: codes }, (_, k) => unit((d) => book[k * dim + d]!));
    const margins = Float64Array.from({ length: count * area }, (_, at) => {
      const from = Math.floor(at / area) * dim * area + (at % area);
      const v = unit((d) => z.data[from + d * area]!);
      let [nearest, next] = [Infinity, Infinity];
      for (const code of units) {
        let distance = 0;
        for (let d = 0; d < dim; d++) distance += (v[d]! - code[d]!) ** 2;
        if (distance < nearest) [nearest, next] = [distance, nearest];
        else if (distance < next) next = distance;
      }
      return next - nearest;
    });
    return { shape: [count, area], data: margins };
  }

  /** ids [B, T] without padding → text logits [B, T, vocabulary]. */
  textLogits(ids: Values): Promise<Values> {
    return this.read(() =>
      this.model.call(this.model.embedText(this.upload(ids)), {
        positions: arange(0, ids.shape[1]!, 1, { device: this.device }),
      }),
    );
  }

  /** Text logits of padded questions run as one batch: of the last position of all rows [B, V], or of the real positions of one row [n, V]. */
  async questionLogits(questions: Embedded, row: number | "last"): Promise<Values> {
    const { ids, rows, length, starts, images } = questions;
    const { device, model } = this;
    return this.read(() => {
      const shape = [rows, length];
      const positions = Int32Array.from(ids, (_, i) => Math.max(0, (i % length) - starts[Math.floor(i / length)]!));
      const hidden = model.hidden(this.embedded(ids, shape, images), {
        positions: tensor(positions, { shape, device }),
        starts: tensor(starts, { device }),
      });
      return model.lm_head.call(
        row === "last" ? hidden.select(1, -1) : hidden.select(0, row).slice(0, starts[row]!, length),
      );
    });
  }

  /** The greedy continuation of each question by `count` tokens, as the product makes it: no padding, no end token. */
  async answers(questions: Embedded, count: number): Promise<number[][]> {
    const { eos, imagePlaceholder: placeholder } = this.processor.tokenizer.specials;
    const { images } = questions;
    const embeddings =
      images &&
      noGrad(() =>
        this.upload({ shape: [images.shape[0]! * images.shape[1]!, images.shape[2]!], data: images.data }).keep(),
      );
    try {
      let next = 0;
      const rows = unpadded(questions).map((ids): PromptRow => {
        const places = ids.filter((id) => id === placeholder).length;
        next += places;
        return places && embeddings
          ? { ids, images: { embeddings: embeddings.slice(0, next - places, next), placeholder } }
          : { ids };
      });
      const tokens: number[][] = rows.map(() => []);
      for await (const step of generateText(this.model, rows, {
        maxNewTokens: count,
        suppressTokens: [eos],
        ...(this.signal && { signal: this.signal }),
      })) {
        for (const [r, token] of step.entries()) tokens[r]!.push(token);
      }
      for (const { images: own } of rows) own?.embeddings.dispose();
      return tokens;
    } finally {
      embeddings?.dispose();
    }
  }

  /** Text logits [T, V] after the question of `row` and each prefix of `tokens` [T], the end token's out of reach. */
  async forcedAnswer(questions: Embedded, row: number, tokens: readonly number[]): Promise<Values> {
    const { eos, imagePlaceholder: placeholder } = this.processor.tokenizer.specials;
    const all = unpadded(questions);
    const ids = Int32Array.from([...all[row]!, ...tokens.slice(0, -1)]);
    const places = (rows: readonly (readonly number[])[]): number =>
      rows.flat().filter((id) => id === placeholder).length;
    const [from, count, hidden] = [places(all.slice(0, row)), places([all[row]!]), questions.images?.shape[2] ?? 0];
    const images =
      questions.images && count
        ? { shape: [1, count, hidden], data: questions.images.data.slice(from * hidden, (from + count) * hidden) }
        : null;
    const logits = await this.read(() => {
      const states = this.model.hidden(this.embedded(ids, [1, ids.length], images), {
        positions: arange(0, ids.length, 1, { device: this.device }),
      });
      return this.model.lm_head.call(states.select(0, 0).slice(0, ids.length - tokens.length, ids.length));
    });
    const vocabulary = logits.shape[1]!;
    for (let t = 0; t < tokens.length; t++) logits.data[t * vocabulary + eos] = -Infinity;
    return logits;
  }

  /** The codes of the image of a prompt, as the product draws it: captured steps, guidance, the best code of each step. */
  async drawn(prompt: readonly number[]): Promise<number[]> {
    const options = { temperature: 0, guidance: GUIDANCE, ...(this.signal && { signal: this.signal }) };
    const generation = new ImageGeneration(
      this.model,
      this.config,
      [prompt],
      this.processor.tokenizer.specials.pad,
      options,
    );
    try {
      for await (const _ of generation.run()) continue;
      return (await generation.codes())[0]!;
    } finally {
      generation.dispose();
    }
  }

  /** Code logits after the prompt and each prefix of `codes` [T], all positions at once. */
  async forcedCodes(prompt: readonly number[], codes: readonly number[]): Promise<ForcedCodes> {
    const { device, model } = this;
    const both = [...prompt, ...unconditionalRow(prompt, this.processor.tokenizer.specials.pad)];
    const [steps, start] = [codes.length, prompt.length - 1];
    this.signal?.throwIfAborted();
    const [first, guided] = noGrad(() =>
      scope(() => {
        const text = model.embedText(tensor(Int32Array.from(both), { shape: [2, prompt.length], device }));
        const drawn =
          steps > 1
            ? model.embedCodes(tensor(Int32Array.from(codes.slice(0, -1)), { shape: [1, steps - 1], device }))
            : null; // [1, T − 1, hidden]
        const input = drawn ? cat([text, cat([drawn, drawn])], 1) : text;
        const hidden = model.hidden(input, { positions: arange(0, start + steps, 1, { device }) });
        const logits = model.codeLogits(hidden.slice(1, start, start + steps)); // [2, T, codes]
        const pairs = logits.permute([1, 0, 2]).reshape([2 * steps, -1]);
        return [logits.select(1, 0).clone(), guide(pairs, GUIDANCE)] as const;
      }),
    );
    try {
      return {
        first: { shape: first.shape, data: (await first.data()) as Float32Array },
        guided: { shape: guided.shape, data: (await guided.data()) as Float32Array },
      };
    } finally {
      first.dispose();
      guided.dispose();
    }
  }

  /** The guided logits [T, codes] of the same steps out of the product's decoder. */
  async steppedCodes(prompt: readonly number[], codes: readonly number[]): Promise<Values> {
    this.signal?.throwIfAborted();
    const pair = [prompt, unconditionalRow(prompt, this.processor.tokenizer.specials.pad)];
    const data = await forcedSteps(this.model, pair, codes, GUIDANCE);
    return { shape: [codes.length, this.config.vq.codes], data };
  }

  /** ids with image embeddings in the places of their placeholders → [B, T, hidden]. In a scope. */
  private embedded(ids: Int32Array, shape: readonly number[], images: Values | null): Tensor {
    const input = tensor(ids, { shape, device: this.device });
    if (!images) return this.model.embedText(input);
    const { imagePlaceholder: placeholder } = this.processor.tokenizer.specials;
    let next = 0;
    const places = Int32Array.from(ids, (id) => (id === placeholder ? next++ : -1));
    return this.model.embedMixed(input, this.upload(images), tensor(places, { shape, device: this.device }));
  }
}

function joined(parts: readonly Values["data"][]): Values["data"] {
  const length = parts.reduce((sum, part) => sum + part.length, 0);
  const all = parts.some((part) => part instanceof Float32Array || part instanceof Float64Array)
    ? new Float32Array(length)
    : new Int32Array(length);
  let at = 0;
  for (const part of parts) {
    all.set(part, at);
    at += part.length;
  }
  return all;
}
