/** The VQ-16 image tokenizer (LlamaGen's design): a convolutional encoder, a codebook of l2-normalised vectors, a decoder. */
import { ArgumentError, ShapeError, checkTensors, scope } from "../engine/index.ts";
import type { Tensor } from "../engine/index.ts";
import { attention, codebookLookup, contiguous, l2Normalize, upsampleNearest2x } from "../kernels/index.ts";
import { Conv2d, Embedding, GroupNorm } from "./nn/layers.ts";
import type { LayerOptions } from "./nn/layers.ts";
import { Module } from "./nn/module.ts";

export interface VqConfig {
  readonly imageSize: number;
  readonly baseChannels: number;
  readonly multipliers: readonly number[];
  /** Residual blocks of an encoder level; a decoder level has one more. */
  readonly resBlocks: number;
  readonly latentChannels: number;
  readonly codeDim: number;
  readonly codes: number;
}

const GROUPS = 32;
const EPS = 1e-6;

/** Applies `module` to h and disposes h, so that its memory can be reused. The tape has its own handles. */
function pass(h: Tensor, module: Module): Tensor {
  const next = module.call(h);
  h.dispose();
  return next;
}

class ResBlock extends Module {
  readonly norm1: GroupNorm;
  readonly conv1: Conv2d;
  readonly norm2: GroupNorm;
  readonly conv2: Conv2d;
  readonly nin_shortcut: Conv2d | null;

  constructor(inChannels: number, outChannels: number, options: LayerOptions) {
    super();
    const norm = { ...options, eps: EPS, swish: true };
    this.norm1 = new GroupNorm(GROUPS, inChannels, norm);
    this.conv1 = new Conv2d(inChannels, outChannels, 3, { ...options, padding: 1 });
    this.norm2 = new GroupNorm(GROUPS, outChannels, norm);
    this.conv2 = new Conv2d(outChannels, outChannels, 3, { ...options, padding: 1 });
    this.nin_shortcut = inChannels === outChannels ? null : new Conv2d(inChannels, outChannels, 1, options);
  }

  forward(x: Tensor): Tensor {
    const h = pass(this.norm1.call(x), this.conv1);
    const branch = pass(pass(h, this.norm2), this.conv2);
    return (this.nin_shortcut ? this.nin_shortcut.call(x) : x).add(branch);
  }
}

/** Attention of one head over all positions. */
class AttnBlock extends Module {
  readonly norm: GroupNorm;
  readonly q: Conv2d;
  readonly k: Conv2d;
  readonly v: Conv2d;
  readonly proj_out: Conv2d;

  constructor(channels: number, options: LayerOptions) {
    super();
    this.norm = new GroupNorm(GROUPS, channels, { ...options, eps: EPS });
    this.q = new Conv2d(channels, channels, 1, options);
    this.k = new Conv2d(channels, channels, 1, options);
    this.v = new Conv2d(channels, channels, 1, options);
    this.proj_out = new Conv2d(channels, channels, 1, options);
  }

  forward(x: Tensor): Tensor {
    // Channels last: what attention reads, and 1 × 1 convolutions keep.
    const h = contiguous(this.norm.call(x).permute([0, 2, 3, 1])).permute([0, 3, 1, 2]);
    const rows = (t: Tensor): Tensor => t.flatten(2).permute([0, 2, 1]).unsqueeze(1); // [B, 1, H·W, C]
    const mixed = attention(rows(this.q.call(h)), rows(this.k.call(h)), rows(this.v.call(h)));
    return x.add(this.proj_out.call(mixed.squeeze(1).permute([0, 2, 1]).reshape(x.shape)));
  }
}

class Downsample extends Module {
  readonly conv: Conv2d;

  constructor(channels: number, options: LayerOptions) {
    super();
    // Zeros on the right and at the bottom only.
    this.conv = new Conv2d(channels, channels, 3, { ...options, stride: 2, padding: [0, 1, 1, 0] });
  }

  forward(x: Tensor): Tensor {
    return this.conv.call(x);
  }
}

class Upsample extends Module {
  readonly conv: Conv2d;

  constructor(channels: number, options: LayerOptions) {
    super();
    this.conv = new Conv2d(channels, channels, 3, { ...options, padding: 1 });
  }

  forward(x: Tensor): Tensor {
    return this.conv.call(upsampleNearest2x(x));
  }
}

/** One resolution: residual blocks, each followed by attention if the level has it, then a change of resolution if it has one. */
class Level extends Module {
  readonly block: readonly ResBlock[];
  readonly attn: readonly AttnBlock[];
  readonly downsample: Downsample | null;
  readonly upsample: Upsample | null;

  constructor(
    inChannels: number,
    outChannels: number,
    blocks: number,
    withAttention: boolean,
    change: "down" | "up" | null,
    options: LayerOptions,
  ) {
    super();
    this.block = Array.from(
      { length: blocks },
      (_, i) => new ResBlock(i ? outChannels : inChannels, outChannels, options),
    );
    this.attn = withAttention ? this.block.map(() => new AttnBlock(outChannels, options)) : [];
    this.downsample = change === "down" ? new Downsample(outChannels, options) : null;
    this.upsample = change === "up" ? new Upsample(outChannels, options) : null;
  }

  forward(x: Tensor): Tensor {
    const change = this.downsample ?? this.upsample;
    const steps = [...this.block.flatMap((block, i) => [block, this.attn[i]]), change].filter(
      (step) => step !== undefined && step !== null,
    );
    return steps.slice(1).reduce(pass, steps[0]!.call(x));
  }
}

class Middle extends Module {
  readonly block_1: ResBlock;
  readonly attn_1: AttnBlock;
  readonly block_2: ResBlock;

  constructor(channels: number, options: LayerOptions) {
    super();
    this.block_1 = new ResBlock(channels, channels, options);
    this.attn_1 = new AttnBlock(channels, options);
    this.block_2 = new ResBlock(channels, channels, options);
  }

  forward(x: Tensor): Tensor {
    return pass(pass(this.block_1.call(x), this.attn_1), this.block_2);
  }
}

/** pixels [B, 3, S, S] → latents [B, latent, S / f, S / f], f = 2^(levels − 1). */
class VqEncoder extends Module {
  readonly conv_in: Conv2d;
  readonly down: readonly Level[];
  readonly mid: Middle;
  readonly norm_out: GroupNorm;
  readonly conv_out: Conv2d;

  constructor({ baseChannels, multipliers, resBlocks, latentChannels }: VqConfig, options: LayerOptions) {
    super();
    const widths = multipliers.map((m) => m * baseChannels);
    const last = widths.length - 1;
    this.conv_in = new Conv2d(3, baseChannels, 3, { ...options, padding: 1 });
    this.down = widths.map(
      (w, i) =>
        new Level(i ? widths[i - 1]! : baseChannels, w, resBlocks, i === last, i === last ? null : "down", options),
    );
    this.mid = new Middle(widths[last]!, options);
    this.norm_out = new GroupNorm(GROUPS, widths[last]!, { ...options, eps: EPS, swish: true });
    this.conv_out = new Conv2d(widths[last]!, latentChannels, 3, { ...options, padding: 1 });
  }

  forward(pixels: Tensor): Tensor {
    const h = [...this.down, this.mid, this.norm_out].reduce(pass, this.conv_in.call(pixels));
    return pass(h, this.conv_out);
  }
}

/** latents [B, latent, h, w] → pixels [B, 3, f · h, f · w], nominally −1 … 1. Levels are stored in the order in which they run. */
class VqDecoder extends Module {
  readonly conv_in: Conv2d;
  readonly mid: Middle;
  readonly up: readonly Level[];
  readonly norm_out: GroupNorm;
  readonly conv_out: Conv2d;

  constructor({ baseChannels, multipliers, resBlocks, latentChannels }: VqConfig, options: LayerOptions) {
    super();
    const widths = multipliers.map((m) => m * baseChannels).reverse();
    const last = widths.length - 1;
    this.conv_in = new Conv2d(latentChannels, widths[0]!, 3, { ...options, padding: 1 });
    this.mid = new Middle(widths[0]!, options);
    this.up = widths.map(
      (w, i) => new Level(i ? widths[i - 1]! : w, w, resBlocks + 1, i === 0, i === last ? null : "up", options),
    );
    this.norm_out = new GroupNorm(GROUPS, widths[last]!, { ...options, eps: EPS, swish: true });
    this.conv_out = new Conv2d(widths[last]!, 3, 3, { ...options, padding: 1 });
  }

  forward(latents: Tensor): Tensor {
    const h = [this.mid, ...this.up, this.norm_out].reduce(pass, this.conv_in.call(latents));
    return pass(h, this.conv_out);
  }
}

class Quantizer extends Module {
  readonly embedding: Embedding;

  constructor({ codes, codeDim }: VqConfig, options: LayerOptions) {
    super();
    this.embedding = new Embedding(codes, codeDim, options);
  }

  /** rows [M, codeDim] → indices u32 [M] of the nearest code by cosine. */
  forward(rows: Tensor): Tensor {
    return codebookLookup(rows, this.embedding.weight).indices;
  }

  /** indices [...] → l2-normalised code vectors [..., codeDim]. */
  lookup(indices: Tensor): Tensor {
    return scope(() => l2Normalize(this.embedding.call(indices)));
  }
}

/** The image tokenizer: images to codes and back. Source: Janus-Pro's VQ-16 (LlamaGen, Sun et al. 2024). */
export class VqModel extends Module {
  readonly encoder: VqEncoder;
  readonly quant_conv: Conv2d;
  readonly quantize: Quantizer;
  readonly post_quant_conv: Conv2d;
  readonly decoder: VqDecoder;
  private readonly config: VqConfig;

  constructor(config: VqConfig, options: LayerOptions = {}) {
    super();
    for (const m of config.multipliers) {
      if ((m * config.baseChannels) % GROUPS)
        throw new ArgumentError(`VqModel: ${m * config.baseChannels} channels do not split into ${GROUPS} groups`);
    }
    this.config = config;
    this.encoder = new VqEncoder(config, options);
    this.quant_conv = new Conv2d(config.latentChannels, config.codeDim, 1, options);
    this.quantize = new Quantizer(config, options);
    this.post_quant_conv = new Conv2d(config.codeDim, config.latentChannels, 1, options);
    this.decoder = new VqDecoder(config, options);
  }

  /** Pixels of a side of the image. */
  get imageSize(): number {
    return this.config.imageSize;
  }

  /** Codes of a side of the image: imageSize / 2^(levels − 1). */
  get side(): number {
    return this.config.imageSize / 2 ** (this.config.multipliers.length - 1);
  }

  /** pixels [B, 3, S, S] in −1 … 1 → reconstruction [B, 3, S, S]. */
  forward(pixels: Tensor): Tensor {
    return this.decode(this.encode(pixels));
  }

  /** pixels [B, 3, S, S] in −1 … 1 → vectors before quantisation [B, codeDim, s, s]. */
  encodeVectors(pixels: Tensor): Tensor {
    return scope(() => this.quant_conv.call(this.encoder.call(pixels)));
  }

  /** pixels [B, 3, S, S] in −1 … 1 → code indices u32 [B, s·s], row-major. */
  encode(pixels: Tensor): Tensor {
    checkTensors("VqModel.encode", pixels);
    return scope(() => this.nearest(this.encodeVectors(pixels)));
  }

  /** vectors before quantisation [B, codeDim, s, s] → indices u32 [B, s·s] of the nearest codes, row-major. */
  nearest(vectors: Tensor): Tensor {
    const [batch, dim] = [vectors.dim(0), vectors.dim(1)];
    return scope(() =>
      this.quantize.call(vectors.flatten(2).permute([0, 2, 1]).reshape([-1, dim])).reshape([batch, -1]),
    );
  }

  /** code indices [B, s·s] (i32 or u32) → pixels [B, 3, S, S]. */
  decode(codes: Tensor): Tensor {
    checkTensors("VqModel.decode", codes);
    const s = this.side;
    if (codes.rank !== 2 || codes.dim(1) !== s * s)
      throw new ShapeError(
        `VqModel.decode: codes must be [B, ${s * s}] (${s} × ${s} positions, row by row); got ${codes}`,
      );
    return scope(() =>
      this.decodeVectors(
        this.quantize
          .lookup(codes)
          .permute([0, 2, 1])
          .reshape([codes.dim(0), this.config.codeDim, s, s]),
      ),
    );
  }

  /** quantised vectors [B, codeDim, s, s] → pixels [B, 3, S, S]. */
  decodeVectors(vectors: Tensor): Tensor {
    return scope(() => this.decoder.call(this.post_quant_conv.call(vectors)));
  }
}
