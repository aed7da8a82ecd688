/** The pieces of work that using Janus-Pro is made of, each as a function that can be counted on the null device and timed on others. */
import { noGrad, scope, tensor } from "../index.ts";
import type { Tensor } from "../index.ts";
import { copyInto, full } from "../kernels/index.ts";
import type { TokenDecoder } from "../model/decoding.ts";
import { imageTokens } from "../model/janus/config.ts";
import type { JanusConfig } from "../model/janus/config.ts";
import { ImageGeneration } from "../model/janus/generate_images.ts";
import { textDecoder } from "../model/generate.ts";
import type { JanusForConditionalGeneration } from "../model/janus/janus.ts";

/** Tokens of the long prompt: an image and a short question. */
export const PREFILL_TOKENS = 600;
/** Tokens of a short description. */
const PROMPT_TOKENS = 20;

export interface Workload {
  readonly name: string;
  readonly run: () => void;
  /** Computes the result and keeps it. */
  readonly result: () => Tensor;
  /** Tokens that a call makes or reads; 0 for pictures. */
  readonly tokens: number;
  /** False if a call uploads what its prompt is. */
  readonly isCapturable: boolean;
}

export interface Workloads extends Disposable {
  readonly list: readonly Workload[];
  /** Decoders whose next step can be replayed: two rows of a guided image, one row of text behind the long prompt. */
  readonly image: TokenDecoder;
  readonly text: TokenDecoder;
}

const NAMES = {
  image: "guided image token (two rows)",
  text: `text token behind ${PREFILL_TOKENS}`,
  prefill: `prefill of ${PREFILL_TOKENS} tokens`,
  vision: "vision tower and aligner, one picture",
  encoder: "VQ encoder, one picture",
  decoder: "VQ decoder, one picture",
} as const;
/** Names of the work, in its order. */
export const WORK_NAMES: readonly string[] = Object.values(NAMES);

const ids = (count: number): number[] => Array.from({ length: count }, (_, i) => i % 256);

/** Work of a model, on its device. */
export function workloads(model: JanusForConditionalGeneration, config: JanusConfig): Workloads {
  const side = config.vq.imageSize;
  const { device } = model;
  const pixels = full([1, 3, side, side], 0.1, { device }).keep();
  const codes = tensor(
    Int32Array.from({ length: imageTokens(config) }, (_, i) => (37 * i) % config.vq.codes),
    { shape: [1, imageTokens(config)], device },
  ).keep();
  const image = new ImageGeneration(model, config, [ids(PROMPT_TOKENS)], 0, { seed: 1 }).decoder;
  const text = textDecoder(model, [{ ids: ids(PREFILL_TOKENS) }], { maxNewTokens: 64 });
  for (const decoder of [image, text]) decoder.begin();
  const prefill = (): TokenDecoder =>
    textDecoder(model, [{ ids: ids(PREFILL_TOKENS) }], { maxNewTokens: 1, temperature: 0 });

  const picture = (name: string, compute: () => Tensor): Workload => ({
    name,
    run: () => noGrad(() => scope(() => void compute())),
    result: () => noGrad(() => scope(compute)).keep(),
    tokens: 0,
    isCapturable: true,
  });
  const step = (name: string, decoder: TokenDecoder): Workload => ({
    name,
    run: () => decoder.step(),
    result: () => {
      using before = decoder.tokens.clone();
      decoder.step();
      decoder.stepBack();
      const tokens = decoder.tokens.clone().keep();
      copyInto(decoder.tokens, before);
      return tokens;
    },
    tokens: 1,
    isCapturable: true,
  });
  return {
    list: [
      step(NAMES.image, image),
      step(NAMES.text, text),
      {
        name: NAMES.prefill,
        run: () => prefill().dispose(),
        result: () => {
          const decoder = prefill();
          decoder.begin();
          const tokens = decoder.tokens.clone().keep();
          decoder.dispose();
          return tokens;
        },
        tokens: PREFILL_TOKENS,
        isCapturable: false,
      },
      picture(NAMES.vision, () => model.model.call(pixels)),
      picture(NAMES.encoder, () => model.model.vqmodel.encode(pixels)),
      picture(NAMES.decoder, () => model.model.vqmodel.decode(codes)),
    ],
    image,
    text,
    [Symbol.dispose]: () => {
      for (const held of [image, text, pixels, codes]) held.dispose();
    },
  };
}
