/**
 * The understanding encoder: SigLIP, a vision transformer whose 576 patch features are all used (in Janus-Pro without
 * class token and pooling).
 */
import { checkpoint, checkTensors, lastOp, ShapeError, shapeText } from "../engine/index.ts";
import type { Tensor } from "../engine/index.ts";
import { attention, gelu, linear } from "../kernels/index.ts";
import { Conv2d, Embedding, LayerNorm, Linear } from "./nn/layers.ts";
import type { LayerOptions } from "./nn/layers.ts";
import { Module } from "./nn/module.ts";

export interface SiglipConfig {
  readonly imageSize: number;
  readonly patchSize: number;
  readonly hidden: number;
  readonly layers: number;
  readonly heads: number;
  readonly intermediate: number;
  readonly eps: number;
}

class Embeddings extends Module {
  readonly patch_embedding: Conv2d;
  readonly position_embedding: Embedding;

  constructor(config: SiglipConfig, options: LayerOptions) {
    super();
    this.patch_embedding = new Conv2d(3, config.hidden, config.patchSize, { ...options, stride: config.patchSize });
    this.position_embedding = new Embedding((config.imageSize / config.patchSize) ** 2, config.hidden, options);
  }

  forward(pixels: Tensor): Tensor {
    const patches = this.patch_embedding.call(pixels).flatten(2).permute([0, 2, 1]); // [B, T, C], row-major patches
    return patches.add(this.position_embedding.weight);
  }
}

class SelfAttention extends Module {
  readonly q_proj: Linear;
  readonly k_proj: Linear;
  readonly v_proj: Linear;
  readonly projection_layer: Linear;
  private readonly heads: number;

  constructor({ hidden, heads }: SiglipConfig, options: LayerOptions) {
    super();
    this.q_proj = new Linear(hidden, hidden, options);
    this.k_proj = new Linear(hidden, hidden, options);
    this.v_proj = new Linear(hidden, hidden, options);
    this.projection_layer = new Linear(hidden, hidden, options);
    this.heads = heads;
  }

  forward(x: Tensor): Tensor {
    return this.projection_layer.call(this.mixed(x));
  }

  /** What the last product projects. */
  mixed(x: Tensor): Tensor {
    const split = (t: Tensor): Tensor => t.reshape([t.dim(0), t.dim(1), this.heads, -1]).permute([0, 2, 1, 3]); // [B, H, T, D]
    const mixed = attention(split(this.q_proj.call(x)), split(this.k_proj.call(x)), split(this.v_proj.call(x)));
    return mixed.permute([0, 2, 1, 3]).reshape(x.shape);
  }
}

class Mlp extends Module {
  readonly fc1: Linear;
  readonly fc2: Linear;

  constructor({ hidden, intermediate }: SiglipConfig, options: LayerOptions) {
    super();
    this.fc1 = new Linear(hidden, intermediate, options);
    this.fc2 = new Linear(intermediate, hidden, options);
  }

  forward(x: Tensor): Tensor {
    return this.fc2.call(gelu(this.fc1.call(x)));
  }
}

/** @param isCheckpoint the layer is all that a `checkpoint` recomputes: its result is not read then */
class EncoderLayer extends Module<readonly [Tensor, boolean?]> {
  readonly layer_norm1: LayerNorm;
  readonly self_attn: SelfAttention;
  readonly layer_norm2: LayerNorm;
  readonly mlp: Mlp;

  constructor(config: SiglipConfig, options: LayerOptions) {
    super();
    const norm = { ...options, eps: config.eps };
    this.layer_norm1 = new LayerNorm(config.hidden, norm);
    this.self_attn = new SelfAttention(config, options);
    this.layer_norm2 = new LayerNorm(config.hidden, norm);
    this.mlp = new Mlp(config, options);
  }

  forward(x: Tensor, isCheckpoint = false): Tensor {
    const joint = this.training ? this.joint(x, isCheckpoint) : null;
    if (joint) return joint;
    const h = x.add(this.self_attn.call(this.layer_norm1.call(x)));
    return h.add(this.mlp.call(this.layer_norm2.call(h)));
  }

  /** A layer in training: residuals are added in the epilogue of products. Null if a module inside has hooks or was replaced. */
  private joint(x: Tensor, isCheckpoint: boolean): Tensor | null {
    const { self_attn: attn, mlp } = this;
    const isOurs = attn.constructor === SelfAttention && mlp.constructor === Mlp && !attn.isHooked && !mlp.isHooked;
    const last = [attn.projection_layer, mlp.fc2].filter((m) => m.constructor === Linear && !m.isHooked);
    if (!isOurs || last.length < 2) return null;
    const project = (t: Tensor, { weight, bias }: Linear, residual: Tensor): Tensor =>
      linear(t, weight, bias, { residual });
    const h = project(attn.mixed(this.layer_norm1.call(x)), last[0]!, x);
    const inner = gelu(mlp.fc1.call(this.layer_norm2.call(h)));
    const result = (): Tensor => project(inner, last[1]!, h);
    return isCheckpoint && !this.isHooked ? lastOp(result) : result();
  }
}

class SiglipEncoder extends Module {
  readonly layers: readonly EncoderLayer[];
  /** As in `LlamaModel`. */
  recompute = false;

  constructor(config: SiglipConfig, options: LayerOptions) {
    super();
    this.layers = Array.from({ length: config.layers }, () => new EncoderLayer(config, options));
  }

  forward(x: Tensor): Tensor {
    return this.layers.reduce(
      (h, layer) => (this.recompute ? checkpoint((t) => layer.call(t, true), h) : layer.call(h)),
      x,
    );
  }
}

/** pixels [B, 3, S, S] in −1 … 1 → features [B, (S / patch)², hidden], after the last layer norm. Source: Janus-Pro's SigLIP-L/16-384. */
export class SiglipVisionModel extends Module {
  readonly embeddings: Embeddings;
  readonly encoder: SiglipEncoder;
  readonly post_layernorm: LayerNorm;
  private readonly imageSize: number;

  constructor(config: SiglipConfig, options: LayerOptions = {}) {
    super();
    this.embeddings = new Embeddings(config, options);
    this.encoder = new SiglipEncoder(config, options);
    this.post_layernorm = new LayerNorm(config.hidden, { ...options, eps: config.eps });
    this.imageSize = config.imageSize;
  }

  forward(pixels: Tensor): Tensor {
    checkTensors("SiglipVisionModel", pixels);
    const s = this.imageSize;
    if (pixels.rank !== 4 || pixels.dim(1) !== 3 || pixels.dim(2) !== s || pixels.dim(3) !== s) {
      throw new ShapeError(
        `SiglipVisionModel: pixels ${shapeText(pixels.shape)}; takes [B, 3, ${s}, ${s}] (positions are not interpolated), see understandingPixels()`,
      );
    }
    return this.post_layernorm.call(this.encoder.call(this.embeddings.call(pixels)));
  }
}
