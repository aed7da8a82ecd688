/** The pieces of work that using Janus-Pro is made of, each as a function that can be counted on the null device and timed on others. */
import { noGrad, scope, tensor } from "../index.ts";
import { full } from "../kernels/index.ts";
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
}

export interface Workloads extends Disposable {
  readonly list: readonly Workload[];
  /** Decoders whose next step can be replayed: two rows of a guided image, one row of text behind the long prompt. */
  readonly image: TokenDecoder;
  readonly text: TokenDecoder;
}

const ids = (count: number): number[] => Array.from({ length: count }, (_, i) => i % 256);

export function workloads(model: JanusForConditionalGeneration, config: JanusConfig): Workloads {
  const side = config.vq.imageSize;
  const pixels = full([1, 3, side, side], 0.1).keep();
  const codes = tensor(
    Int32Array.from({ length: imageTokens(config) }, (_, i) => (37 * i) % config.vq.codes),
    { shape: [1, imageTokens(config)] },
  ).keep();
  const quietly = (run: () => unknown) => (): void =>
    noGrad(() =>
      scope(() => {
        run();
      }),
    );
  const image = new ImageGeneration(model, config, [ids(PROMPT_TOKENS)], 0, { seed: 1 }).decoder;
  const text = textDecoder(model, [{ ids: ids(PREFILL_TOKENS) }], { maxNewTokens: 64 });
  for (const decoder of [image, text]) decoder.begin();
  const prefill = (): void => textDecoder(model, [{ ids: ids(PREFILL_TOKENS) }], { maxNewTokens: 1 }).dispose();
  return {
    list: [
      { name: "guided image token (two rows)", run: () => image.step() },
      { name: `text token behind ${PREFILL_TOKENS}`, run: () => text.step() },
      { name: `prefill of ${PREFILL_TOKENS} tokens`, run: prefill },
      { name: "vision tower and aligner, one image", run: quietly(() => model.model.call(pixels)) },
      { name: "VQ encoder, one image", run: quietly(() => model.model.vqmodel.encode(pixels)) },
      { name: "VQ decoder, one image", run: quietly(() => model.model.vqmodel.decode(codes)) },
    ],
    image,
    text,
    [Symbol.dispose]: () => {
      for (const held of [image, text, pixels, codes]) held.dispose();
    },
  };
}
