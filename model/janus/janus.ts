/**
 * Janus-Pro: one Llama that understands images through SigLIP and generates them as VQ codes. Field paths are the
 * tensor names of the Hugging Face layout. Heads and embeddings of the two directions share nothing but the Llama
 * between them.
 */
import { ArgumentError, gradEnabled, scope } from "../../engine/index.ts";
import type { Device, Tensor } from "../../engine/index.ts";
import { gelu, linear } from "../../kernels/index.ts";
import type { CacheDType } from "../../kernels/index.ts";
import { embedMixed } from "../causal.ts";
import type { CausalModel } from "../causal.ts";
import type { JanusConfig } from "./config.ts";
import { Embedding, Linear } from "../nn/layers.ts";
import type { LayerOptions } from "../nn/layers.ts";
import { LlamaModel } from "../llama.ts";
import type { Sequence } from "../llama.ts";
import { LoraLinear, linearLayersOf } from "../nn/lora.ts";
import { Module } from "../nn/module.ts";
import { QuantizedLinear, linearLayer } from "../nn/quantized_linear.ts";
import { requirePart } from "./checkpoint/expected.ts";
import type { OptionalPart } from "./checkpoint/expected.ts";
import type { AnyLinear, QuantizableOptions } from "../nn/quantized_linear.ts";
import type { Quantization } from "../../kernels/matmul/quantized_format.ts";
import { SiglipVisionModel } from "../siglip.ts";
import { VqModel } from "../vq.ts";

/** gelu(layer(x)); without gradients in the layer's launch, with the same bits. */
function withGelu(layer: AnyLinear, x: Tensor): Tensor {
  const isPlain = (layer.constructor === Linear || layer.constructor === QuantizedLinear) && !layer.isHooked;
  if (gradEnabled() || !isPlain || x.dtype !== "f32") return gelu(layer.call(x));
  const weight = layer instanceof QuantizedLinear ? layer.quantizedWeight : layer.weight;
  return scope(() => linear(x, weight, layer.bias, { activation: "gelu" }));
}

/** x [..., inFeatures] → [..., hidden]: linear layers with exact GELU between them. */
class Aligner extends Module {
  readonly fc1: Linear;
  readonly hidden_layers: readonly Linear[];

  constructor(inFeatures: number, hidden: number, depth: number, options: LayerOptions) {
    super();
    this.fc1 = new Linear(inFeatures, hidden, options);
    this.hidden_layers = Array.from({ length: depth - 1 }, () => new Linear(hidden, hidden, options));
  }

  forward(x: Tensor): Tensor {
    const [first, ...rest] = [this.fc1, ...this.hidden_layers];
    const last = rest.pop();
    if (!last) return first!.call(x);
    return last.call(rest.reduce((h, layer) => withGelu(layer, h), withGelu(first!, x)));
  }
}

/** hidden states [..., hidden] (after the Llama's last norm) → logits of the image codes [..., codes]. */
class GenerationHead extends Module {
  readonly proj_out: AnyLinear;
  readonly vision_head: AnyLinear;

  constructor(hidden: number, codes: number, options: QuantizableOptions) {
    super();
    this.proj_out = linearLayer(hidden, hidden, options);
    this.vision_head = linearLayer(hidden, codes, options);
  }

  forward(x: Tensor): Tensor {
    return this.vision_head.call(withGelu(this.proj_out, x));
  }
}

/** The parts of Janus-Pro, named as in the checkpoint; how they work together is in `Janus`. */
export class JanusModel extends Module {
  readonly vision_model: SiglipVisionModel;
  readonly aligner: Aligner;
  readonly vqmodel: VqModel;
  readonly generation_embeddings: Embedding;
  readonly generation_aligner: Aligner;
  readonly generation_head: GenerationHead;
  readonly language_model: LlamaModel;

  constructor(config: JanusConfig, quantizable: QuantizableOptions) {
    super();
    const { quantize: _, quantizeHead: _head, ...options } = quantizable;
    const { hidden } = config.language;
    this.vision_model = new SiglipVisionModel(config.vision, options);
    this.aligner = new Aligner(config.vision.hidden, hidden, config.aligner.depth, options);
    this.vqmodel = new VqModel(config.vq, options);
    this.generation_embeddings = new Embedding(config.vq.codes, config.vq.codeDim, options);
    this.generation_aligner = new Aligner(config.vq.codeDim, hidden, config.generation.depth, options);
    this.generation_head = new GenerationHead(hidden, config.vq.codes, quantizable);
    this.language_model = new LlamaModel(config.language, quantizable);
  }

  /** pixels [N, 3, S, S] → image embeddings [N, patches, hidden]. */
  forward(pixels: Tensor): Tensor {
    return this.aligner.call(this.vision_model.call(pixels));
  }
}

/** The whole model: embeddings in, hidden states and the logits of either head out. */
export class JanusForConditionalGeneration extends Module<readonly [Tensor, Sequence]> implements CausalModel {
  /** Sizes of the language model. */
  readonly language: JanusConfig["language"];
  readonly model: JanusModel;
  readonly lm_head: AnyLinear;
  /** How caches store keys and values if a call does not say. */
  cacheDType: CacheDType = "f32";
  private removed: readonly OptionalPart[] = [];

  /** @param options.quantize of the Llama's linear layers and both heads, for inference; all else keeps `dtype` */
  constructor(config: JanusConfig, options: QuantizableOptions = {}) {
    super();
    this.language = config.language;
    this.model = new JanusModel(config, options);
    const { hidden, vocabulary, tied } = config.language;
    const weight = this.model.language_model.embed_tokens.weight;
    const { quantize, quantizeHead = true, ...rest } = options;
    const head = { ...rest, ...(quantize && quantizeHead && { quantize }), bias: false, ...(tied && { weight }) };
    this.lm_head = linearLayer(hidden, vocabulary, head);
  }

  get device(): Device {
    return this.model.language_model.norm.weight.device;
  }

  /** How the Llama's linear layers and the heads are quantised; null if they are not. */
  get quantization(): Quantization | null {
    for (const [, layer] of linearLayersOf(this)) {
      const base = layer instanceof LoraLinear ? layer.base : layer;
      if (base instanceof QuantizedLinear) return base.kind;
    }
    return null;
  }

  /** What the model cannot do because the checkpoint lacks its weights. */
  get missing(): readonly OptionalPart[] {
    return this.removed;
  }

  /** Frees the modules of parts that have no weights. */
  removeParts(parts: readonly OptionalPart[]): void {
    const { vision_model, aligner, vqmodel, generation_embeddings, generation_aligner, generation_head } = this.model;
    const modules = {
      "understand images": [vision_model, aligner],
      "generate images": [vqmodel, generation_embeddings, generation_aligner, generation_head],
    } satisfies Record<OptionalPart, unknown>;
    for (const module of parts.flatMap((part): { dispose(): void }[] => modules[part])) module.dispose();
    this.removed = parts;
  }

  /** Throws `MissingPartError` in the name of `op` if the model cannot do this. */
  requirePart(op: string, part: OptionalPart): void {
    requirePart(this.removed, op, part);
  }

  /** Throws `MissingPartError` in the name of `op` if the model lacks a part. */
  requireWhole(op: string): void {
    for (const part of this.removed) requirePart(this.removed, op, part);
  }

  /** Throws `ArgumentError` in the name of `op` if the model is quantised. */
  requireUnquantized(op: string): void {
    if (this.quantization)
      throw new ArgumentError(
        `${op}: the model must not be quantised; got one in ${this.quantization}, which is for inference. Load it without quantize.`,
      );
  }

  /** embeddings [B, T, hidden] → text logits [B, T, vocabulary]. */
  forward(embeddings: Tensor, sequence: Sequence): Tensor {
    return this.logits(this.hidden(embeddings, sequence));
  }

  /** embeddings [B, T, hidden] → hidden states [B, T, hidden] after the last norm, the input of either head. */
  hidden(embeddings: Tensor, sequence: Sequence): Tensor {
    return this.model.language_model.call(embeddings, sequence);
  }

  /** ids [B, T] (i32 or u32) → text embeddings [B, T, hidden]. */
  embedText(ids: Tensor): Tensor {
    return this.model.language_model.embed_tokens.call(ids);
  }

  /** code indices [...] → embeddings [..., hidden] as the Llama takes them; with `copies` above 1 [..., copies, hidden], all alike. */
  embedCodes(codes: Tensor, copies = 1): Tensor {
    return scope(() => {
      const table = this.model.generation_embeddings.call(codes); // [..., codeDim]
      const { shape } = table;
      const rows = copies === 1 ? table : table.unsqueeze(-2).expand([...shape.slice(0, -1), copies, shape.at(-1)!]);
      return this.model.generation_aligner.call(rows);
    });
  }

  /** ids [B, T] with image embeddings [N, P, hidden] in the positions of the image placeholders: see `embedMixed`. */
  embedMixed(ids: Tensor, images: Tensor, places: Tensor): Tensor {
    return embedMixed(this, ids, images, places);
  }

  /** hidden states [..., hidden] → text logits [..., vocabulary]. */
  logits(hidden: Tensor): Tensor {
    return this.lm_head.call(hidden);
  }

  /** The matrices inside the Llama and the vision tower, which Muon may move: all but embeddings, aligners and heads. */
  innerMatrices(): Set<Tensor> {
    const { language_model, vision_model } = this.model;
    const layers = [...language_model.layers, ...vision_model.encoder.layers];
    return new Set(layers.flatMap((layer) => layer.parameters().filter(({ rank }) => rank === 2)));
  }

  /** hidden states [..., hidden] → logits of the image codes [..., codes]. */
  codeLogits(hidden: Tensor): Tensor {
    return this.model.generation_head.call(hidden);
  }
}
