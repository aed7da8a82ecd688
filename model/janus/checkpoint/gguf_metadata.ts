/** What the metadata of GGUF files says of a Janus model. Settings that would change what the model computes are obeyed or refused. */
import { ConfigError, GgufError, quote } from "../../io/errors.ts";
import type { GgufValue } from "../../io/gguf.ts";
import { showJson } from "../../io/unknown.ts";
import type { SiglipConfig } from "../../siglip.ts";
import type { JanusConfig } from "../config.ts";

const MAX_SIZE = 2 ** 24;
const MAX_LAYERS = 1024;

export class GgufMetadata {
  readonly architecture: string;
  private readonly values: ReadonlyMap<string, GgufValue>;
  private readonly file: string;

  constructor(values: ReadonlyMap<string, GgufValue>, file: string) {
    this.values = values;
    this.file = file;
    const architecture = values.get("general.architecture");
    if (typeof architecture !== "string") this.refuse("general.architecture", "a text", architecture);
    this.architecture = architecture as string;
    const parts = values.get("split.count") ?? 0;
    if ((parts as number) > 1)
      throw new GgufError(
        `${file}: the model must be in one file; got one of ${showJson(parts)} parts. Join them with llama-gguf-split --merge.`,
      );
  }

  /** Heads of q and of k. */
  heads(): { readonly q: number; readonly k: number } {
    const q = this.whole("llama.attention.head_count", MAX_LAYERS);
    return { q, k: this.whole("llama.attention.head_count_kv", MAX_LAYERS, q) };
  }

  /** Sizes of the language model. Throws `GgufError`. */
  llama(): JanusConfig["language"] {
    const hidden = this.whole("llama.embedding_length", MAX_SIZE);
    const { q: heads, k: kvHeads } = this.heads();
    const headDim = this.whole("llama.attention.key_length", MAX_SIZE, Math.max(1, Math.floor(hidden / heads)));
    this.require("llama.attention.value_length", [undefined, headDim]);
    this.require("llama.rope.dimension_count", [undefined, headDim]);
    this.require("llama.rope.scaling.type", [undefined, "none"]);
    this.require("llama.rope.scaling.factor", [undefined, 1, 0]);
    this.require("llama.rope.scale_linear", [undefined, 1, 0]);
    this.require("llama.expert_count", [undefined, 0]);
    this.require("llama.attention.sliding_window", [undefined, 0]);
    return {
      vocabulary: this.vocabulary(),
      hidden,
      intermediate: this.whole("llama.feed_forward_length", MAX_SIZE),
      layers: this.whole("llama.block_count", MAX_LAYERS),
      heads,
      kvHeads,
      headDim,
      eps: this.positive("llama.attention.layer_norm_rms_epsilon"),
      ropeTheta: this.positive("llama.rope.freq_base", 10_000),
      maxPositions: this.whole("llama.context_length", MAX_SIZE),
    };
  }

  /** Sizes of the vision tower whose aligner goes to `hidden`. Throws `GgufError`. */
  siglip(hidden: number): SiglipConfig {
    this.require("clip.has_vision_encoder", [undefined, true]);
    this.require(this.values.has("clip.projector_type") ? "clip.projector_type" : "clip.vision.projector_type", [
      "janus_pro",
    ]);
    this.require("clip.use_gelu", [true]);
    this.require("clip.vision.projection_dim", [undefined, hidden]);
    for (const key of ["clip.vision.image_mean", "clip.vision.image_std"]) {
      const value = this.values.get(key) ?? [0.5, 0.5, 0.5];
      if (!Array.isArray(value) || value.length !== 3 || value.some((v) => v !== 0.5))
        this.refuse(key, "[0.5, 0.5, 0.5]", value);
    }
    return {
      imageSize: this.whole("clip.vision.image_size", 4096),
      patchSize: this.whole("clip.vision.patch_size", 4096),
      hidden: this.whole("clip.vision.embedding_length", MAX_SIZE),
      layers: this.whole("clip.vision.block_count", MAX_LAYERS),
      heads: this.whole("clip.vision.attention.head_count", MAX_LAYERS),
      intermediate: this.whole("clip.vision.feed_forward_length", MAX_SIZE),
      eps: this.positive("clip.vision.attention.layer_norm_epsilon"),
    };
  }

  /** Throws `ConfigError` unless each size of the files is that of config.json. */
  requireSame<T extends object>(part: string, config: T, found: T): void {
    const different = Object.entries(found).filter(([key, value]) => !isClose(config[key as keyof T], value));
    if (different.length)
      throw new ConfigError(
        `${this.file}: sizes must be those of config.json; got ${different.map(([key, value]) => `${part}.${key} ${showJson(value)} instead of ${showJson(config[key as keyof T])}`).join(", ")}. Use the config.json of this model, or remove it.`,
      );
  }

  private vocabulary(): number {
    const tokens = this.values.get("tokenizer.ggml.tokens");
    const count = typeof tokens === "object" && !Array.isArray(tokens) ? tokens.length : undefined;
    return this.whole("llama.vocab_size", MAX_SIZE, count);
  }

  private whole(key: string, most: number, fallback?: number): number {
    const value = this.values.get(key) ?? fallback;
    if (typeof value !== "number" || !Number.isInteger(value) || value < 1 || value > most)
      this.refuse(key, `a whole number from 1 to ${most}`, value);
    return value as number;
  }

  private positive(key: string, fallback?: number): number {
    const value = this.values.get(key) ?? fallback;
    if (typeof value !== "number" || !(value > 0 && value < Infinity)) this.refuse(key, "a number above 0", value);
    return Number((value as number).toPrecision(7)); // f32 in the file: 1e-6 is 9.99999997e-7 there
  }

  private require(key: string, allowed: readonly (GgufValue | undefined)[]): void {
    const value = this.values.get(key);
    if (!allowed.includes(value)) {
      const named = allowed.map((one) => (one === undefined ? "absent" : showJson(one)));
      this.refuse(key, named.join(" or "), value);
    }
  }

  private refuse(key: string, needed: string, value: unknown): void {
    throw new GgufError(
      `${this.file}: ${quote(key)} must be ${needed}; got ${value === undefined ? "nothing" : showJson(value)}. Use the GGUF files of a Janus-Pro model.`,
    );
  }
}

/** Metadata has f32, so 1e-6 is not the number of config.json. */
const isClose = (a: unknown, b: unknown): boolean =>
  a === b || (typeof a === "number" && typeof b === "number" && Math.fround(a) === Math.fround(b));
