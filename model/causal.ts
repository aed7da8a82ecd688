/** The interface of a causal language model for decoding and generation. */
import { ShapeError, checkTensors, scope } from "../engine/index.ts";
import type { Device, Tensor } from "../engine/index.ts";
import { indexSelect, where } from "../kernels/index.ts";
import type { CacheDType } from "../kernels/index.ts";
import type { CacheConfig, KvCache, Sequence } from "./llama.ts";

/** Sizes of a causal model: of its caches, its vocabulary and its context. A `LlamaConfig` with `maxPositions` is one. */
export interface CausalConfig extends CacheConfig {
  /** Rows of the token embedding. */
  readonly vocabulary: number;
  /** Tokens of a prompt and its continuation together. */
  readonly maxPositions: number;
}

/** Token ids in, hidden states out, logits from hidden states: a Llama with a head, or a model around one. */
export interface CausalModel {
  /** Sizes of the language model. */
  readonly language: CausalConfig;
  readonly device: Device;
  /** How caches store keys and values if a call does not say. Default: f32. */
  readonly cacheDType?: CacheDType;
  /** ids [B, T] (i32 or u32) → embeddings [B, T, hidden]. */
  embedText(ids: Tensor): Tensor;
  /** embeddings [B, T, hidden] → hidden states [B, T, hidden] after the last norm. Reads and writes `sequence.cache`. */
  hidden(embeddings: Tensor, sequence: Sequence): Tensor;
  /** hidden states [..., hidden] → logits [..., vocabulary]. */
  logits(hidden: Tensor): Tensor;
}

/** A prompt: token ids and, for the positions that hold `placeholder`, image embeddings [positions, hidden] in order. */
export interface PromptRow {
  readonly ids: readonly number[];
  readonly images?: { readonly embeddings: Tensor; readonly placeholder: number };
  /** The beginning that other prompts share, so that it is computed once. */
  readonly prefix?: Prefix;
}

/** The first ids of prompts, and where their keys and values come from. */
export interface Prefix {
  /** Number of ids; all images are among them, and at least one id follows. */
  readonly length: number;
  /** Keys and values in row 0 of a cache (see `prefillPrefix`). Called when the prompt runs, and read before the next prompt's is called. */
  cache(): KvCache;
}

/**
 * ids [B, T] as embeddings [B, T, hidden], with image embeddings in the positions of the image placeholders.
 * @param images image embeddings [N, P, hidden], in the order of the placeholders of the rows
 * @param places i32 [B, T]: which of the N · P image rows stands here, −1 for text
 */
export function embedMixed(model: Pick<CausalModel, "embedText">, ids: Tensor, images: Tensor, places: Tensor): Tensor {
  checkTensors("embedMixed", ids, images, places);
  if (places.shape.join() !== ids.shape.join())
    throw new ShapeError(`embedMixed: places must have the shape of ids ${ids}; got ${places}`);
  return scope(() => {
    const [batch, length] = [ids.dim(0), ids.dim(1)];
    const rows = images.reshape([-1, images.dim(2)]);
    const taken = indexSelect(rows, 0, places.maximum(0).flatten()).reshape([batch, length, -1]); // [B, T, hidden]
    return where(places.ge(0).unsqueeze(2), taken, model.embedText(ids));
  });
}
