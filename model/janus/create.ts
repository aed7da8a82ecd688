/** New models: initial weights for training from scratch, and a small config for demos and tests. */
import { construct, getDevice, noGrad, scope } from "../../engine/index.ts";
import type { Device, Tensor } from "../../engine/index.ts";
import { castInto, l2Normalize, manualSeed, mul, randn, uniform } from "../../kernels/index.ts";
import type { FloatDType } from "../io/cast.ts";
import { requireStorable } from "./checkpoint/side_files.ts";
import type { JanusConfig } from "./config.ts";
import { JanusForConditionalGeneration } from "./janus.ts";

/**
 * The whole structure of Janus-Pro in 2.65 M parameters: 64×64 images, 64 image tokens, three Llama layers. Widths of the image tokenizer
 * are multiples of 32, the groups of its norms.
 */
export const JANUS_TINY: JanusConfig = {
  vision: { imageSize: 64, patchSize: 8, hidden: 64, layers: 2, heads: 4, intermediate: 256, eps: 1e-6 },
  aligner: { depth: 2 },
  generation: { depth: 2 },
  vq: {
    imageSize: 64,
    baseChannels: 32,
    multipliers: [1, 1, 2, 2],
    resBlocks: 2,
    latentChannels: 32,
    codeDim: 8,
    codes: 256,
  },
  language: {
    vocabulary: 1280,
    hidden: 128,
    intermediate: 344,
    layers: 3,
    heads: 4,
    kvHeads: 4,
    headDim: 32,
    eps: 1e-6,
    ropeTheta: 10_000,
    maxPositions: 1024,
  },
};

/** Sizes to change, part by part. That of the image tokenizer's images follows from the others. */
export interface ConfigChanges {
  readonly vision?: Partial<JanusConfig["vision"]>;
  readonly aligner?: Partial<JanusConfig["aligner"]>;
  readonly generation?: Partial<JanusConfig["generation"]>;
  readonly vq?: Partial<Omit<JanusConfig["vq"], "imageSize">>;
  readonly language?: Partial<JanusConfig["language"]>;
}

/** `JANUS_TINY` with some sizes changed. Throws `ConfigError` when they do not agree with the others. */
export function tinyConfig(changes: ConfigChanges = {}): JanusConfig {
  const vision = { ...JANUS_TINY.vision, ...changes.vision };
  const vq = { ...JANUS_TINY.vq, ...changes.vq };
  // Each level but the last halves the image, down to one code for a patch of the vision tower.
  const imageSize = Math.floor(vision.imageSize / vision.patchSize) * 2 ** (vq.multipliers.length - 1);
  const config = {
    vision,
    aligner: { ...JANUS_TINY.aligner, ...changes.aligner },
    generation: { ...JANUS_TINY.generation, ...changes.generation },
    vq: { ...vq, imageSize },
    language: { ...JANUS_TINY.language, ...changes.language },
  };
  requireStorable(config, "tinyConfig");
  return config;
}

export interface CreateOptions {
  /** A whole number from 0; the same one gives the same weights. It also becomes the seed of the device's random ops. */
  readonly seed?: number;
  /** Dtype of all weights (default: f32). */
  readonly dtype?: FloatDType;
  readonly device?: Device;
}

/** Standard deviation of a Llama's matrices (the `initializer_range` of transformers' LlamaForCausalLM) and of a ViT's positions (timm). */
const DEVIATION = 0.02;

/**
 * A model with fresh weights. The Llama's matrices, the text embedding and head and the vision tower's positions are N(0, 0.02); the
 * codebook is U(−1/K, 1/K) of K codes, its rows then scaled to length 1 (LlamaGen); all else is as the layers begin (aligners and generation
 * head U(−1/√inputs, 1/√inputs), code embedding N(0, 1), norms 1). Throws `ConfigError` for sizes that do not agree, `ArgumentError` for an
 * image tokenizer whose widths are no multiples of 32.
 */
export function createModel(config: JanusConfig, options: CreateOptions = {}): JanusForConditionalGeneration {
  const { seed = 0, dtype = "f32", device = getDevice() } = options;
  requireStorable(config, "createModel");
  manualSeed(seed, device);
  const janus = construct(() => new JanusForConditionalGeneration(config, { dtype, device }));
  const { language_model, vision_model, vqmodel } = janus.model;
  noGrad(() => {
    const matrices = language_model.parameters().filter(({ rank }) => rank === 2); // the norms stay 1
    const drawn = [...matrices, janus.lm_head.weight, vision_model.embeddings.position_embedding.weight];
    for (const weight of new Set(drawn)) {
      refill(weight, () => mul(randn(weight.shape, { dtype, device }), DEVIATION));
    }
    const codebook = vqmodel.quantize.embedding.weight;
    const bound = 1 / config.vq.codes;
    refill(codebook, () => l2Normalize(uniform(codebook.shape, -bound, bound, { device })));
  });
  return janus;
}

/** The values of what `make` gives, rounded to the weight's dtype. */
const refill = (weight: Tensor, make: () => Tensor): void => scope(() => castInto(weight, make()));
