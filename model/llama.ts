/** The language model: a Llama (Touvron et al. 2023) with rotary positions and SwiGLU, over embeddings that may come from text or images. */
import { checkpoint, lastOp, noGrad, onGrad, scope } from "../engine/index.ts";
import type { DType, Device, Tensor } from "../engine/index.ts";
import { attention, attentionDecode, cacheWrite, copyInto, full, joinedRows, jointLinear, linear, normLinear, rope, ropeAttention, rotaryAttention, swiglu } from "../kernels/index.ts"; // prettier-ignore
import { cacheStorage } from "../kernels/attention/cache_format.ts";
import type { CacheDType } from "../kernels/attention/cache_format.ts";
import { Embedding, Linear, RMSNorm } from "./nn/layers.ts";
import { Module } from "./nn/module.ts";
import { QuantizedLinear, joinedWeight, linearLayer, linearLayers } from "./nn/quantized_linear.ts";
import type { AnyLinear, QuantizableOptions } from "./nn/quantized_linear.ts";

export interface LlamaConfig {
  readonly vocabulary: number;
  readonly hidden: number;
  readonly intermediate: number;
  readonly layers: number;
  readonly heads: number;
  readonly kvHeads: number;
  readonly headDim: number;
  readonly eps: number;
  readonly ropeTheta: number;
}

/** u32 numbers from one part of a tensor to the next that a launch may bind. */
const COUNTERS = 64;

/** Sizes of a cache of keys and values. */
export type CacheConfig = Pick<LlamaConfig, "layers" | "kvHeads" | "headDim">;

/**
 * Keys and values of the positions so far, for every layer. The length of each row is on the GPU, so that a captured
 * step can be replayed; rows have separate lengths, so that prompts of different lengths need no padding, and a row
 * computes the same bits whatever the other rows are.
 */
export class KvCache {
  /** [B, kvHeads, capacity, headDim], one per layer; of int8 as `cacheStorage` says. */
  readonly keys: readonly Tensor[];
  readonly values: readonly Tensor[];
  /** u32 [B]: positions that are filled. */
  readonly length: Tensor;
  /** u32 [1]: steps of decoding, for who decodes; 0 at first. */
  readonly position: Tensor;
  /** u32: `length` and `position` are parts of it, so that one launch advances both. */
  readonly counters: Tensor;
  readonly batch: number;
  readonly capacity: number;

  constructor(
    config: CacheConfig,
    batch: number,
    capacity: number,
    options: { dtype?: CacheDType; device?: Device } = {},
  ) {
    const { dtype, columns } = cacheStorage(options.dtype ?? "f32", config.headDim);
    const make = (): Tensor => full([batch, config.kvHeads, capacity, columns], 0, { ...options, dtype }).keep();
    this.keys = Array.from({ length: config.layers }, make);
    this.values = Array.from({ length: config.layers }, make);
    const behind = Math.ceil(batch / COUNTERS) * COUNTERS;
    this.counters = full([behind + 1], 0, { ...options, dtype: "u32" }).keep();
    const part = (at: number, count: number): Tensor => noGrad(() => scope(() => this.counters.slice(0, at, at + count)).keep()); // prettier-ignore
    [this.length, this.position] = [part(0, batch), part(behind, 1)];
    this.batch = batch;
    this.capacity = capacity;
  }

  /** Copies the first `tokens` positions of row `from` of `other` (or of this cache) to row `row`. */
  copyRow(row: number, other: KvCache, from: number, tokens: number): void {
    scope(() => {
      const part = (t: Tensor, at: number): Tensor => t.slice(0, at, at + 1).slice(2, 0, tokens);
      const source = (t: Tensor): Tensor => (other === this ? part(t, from).clone() : part(t, from)); // never onto itself
      for (const [i, keys] of this.keys.entries()) {
        copyInto(part(keys, row), source(other.keys[i]!));
        copyInto(part(this.values[i]!, row), source(other.values[i]!));
      }
      if (other === this) return;
      copyInto(this.length.slice(0, row, row + 1), other.length.slice(0, from, from + 1));
    });
  }

  dispose(): void {
    for (const t of [...this.keys, ...this.values, this.length, this.position, this.counters]) t.dispose();
  }
}

/** The rows of a cache that a step reads and writes: all, or the first of them. */
export type CachedRows = Pick<KvCache, "keys" | "values" | "length">;

/** Positions and masks of a batch of rows. */
export interface Sequence {
  /** i32 or u32 [T] or [B, T]: position of each token in its row. */
  readonly positions: Tensor;
  /** i32 or u32 [B]: first real token of each left-padded row. */
  readonly starts?: Tensor;
  /** i32 or u32 [B, T]: document of each token in a packed row. */
  readonly documents?: Tensor;
  /** Write keys and values here. With `decode`, also read the earlier ones from it. */
  readonly cache?: CachedRows;
  /** The tokens continue those in the cache (a few at a time); else they begin the rows, or come behind `past`. */
  readonly decode?: boolean;
  /** Without `decode`: positions that the cache has already, which the tokens (any number) continue. Default: 0. */
  readonly past?: number;
  /** The layer is all that a `checkpoint` recomputes: its result is not read then. */
  readonly isCheckpoint?: boolean;
  /** As `LlamaModel.inner`. */
  readonly inner?: DType;
}

type Three = [AnyLinear, AnyLinear, AnyLinear];

class LlamaAttention extends Module<readonly [Tensor, Sequence]> {
  readonly q_proj: AnyLinear;
  readonly k_proj: AnyLinear;
  readonly v_proj: AnyLinear;
  readonly o_proj: AnyLinear;
  readonly config: LlamaConfig;
  readonly layer: number;

  constructor(config: LlamaConfig, layer: number, options: QuantizableOptions) {
    super();
    const [queries, keys] = [config.heads * config.headDim, config.kvHeads * config.headDim];
    [this.q_proj, this.k_proj, this.v_proj] = linearLayers(config.hidden, [queries, keys, keys], options) as Three;
    this.o_proj = linearLayer(queries, config.hidden, { ...options, bias: false });
    this.config = config;
    this.layer = layer;
  }

  forward(x: Tensor, { positions, starts, documents, cache, decode, past }: Sequence): Tensor {
    const { headDim, ropeTheta: theta } = this.config;
    const split = (t: Tensor): Tensor => t.reshape([x.dim(0), x.dim(1), -1, headDim]).permute([0, 2, 1, 3]); // [B, H, T, D]
    const q = rope(split(this.q_proj.call(x)), positions, { theta });
    const k = rope(split(this.k_proj.call(x)), positions, { theta });
    const v = split(this.v_proj.call(x));
    const [keys, values] = [cache?.keys[this.layer], cache?.values[this.layer]];
    if (cache) cacheWrite(keys!, values!, k, v, cache.length);
    const all = (t: Tensor): Tensor => t.slice(2, 0, past! + x.dim(1));
    const [seenKeys, seenValues] = cache && past ? [all(keys!), all(values!)] : [k, v];
    // A cache of another dtype is read as it is stored.
    const mixed =
      cache && (decode || (past && keys!.dtype !== q.dtype))
        ? attentionDecode(q, keys!, values!, cache.length, starts ? { starts } : {})
        : attention(q, seenKeys, seenValues, {
            causal: true,
            ...(starts && { starts }),
            ...(documents && { documents }),
          });
    return this.o_proj.call(mixed.permute([0, 2, 1, 3]).reshape([x.dim(0), x.dim(1), -1]));
  }
}

class LlamaMlp extends Module {
  readonly gate_proj: AnyLinear;
  readonly up_proj: AnyLinear;
  readonly down_proj: AnyLinear;

  constructor({ hidden, intermediate }: LlamaConfig, options: QuantizableOptions) {
    super();
    [this.gate_proj, this.up_proj] = linearLayers(hidden, [intermediate, intermediate], options) as [
      AnyLinear,
      AnyLinear,
    ];
    this.down_proj = linearLayer(intermediate, hidden, { ...options, bias: false });
  }

  forward(x: Tensor): Tensor {
    return this.down_proj.call(swiglu(this.gate_proj.call(x), this.up_proj.call(x)));
  }
}

/** True if nothing but a product happens in a layer. */
const isPlain = (layer: AnyLinear): boolean =>
  (layer.constructor === Linear || layer.constructor === QuantizedLinear) && !layer.isHooked;

/** True for a linear layer without bias, in which nothing else happens. */
const isPlainMatrix = (layer: AnyLinear): layer is Linear =>
  layer.constructor === Linear && !layer.bias && !layer.isHooked;

class LlamaLayer extends Module<readonly [Tensor, Sequence]> {
  readonly input_layernorm: RMSNorm;
  readonly self_attn: LlamaAttention;
  readonly post_attention_layernorm: RMSNorm;
  readonly mlp: LlamaMlp;

  constructor(config: LlamaConfig, layer: number, options: QuantizableOptions) {
    super();
    const { quantize: _, quantizeHead: _head, ...plain } = options;
    const norm = { ...plain, eps: config.eps };
    this.input_layernorm = new RMSNorm(config.hidden, norm);
    this.self_attn = new LlamaAttention(config, layer, options);
    this.post_attention_layernorm = new RMSNorm(config.hidden, norm);
    this.mlp = new LlamaMlp(config, options);
  }

  forward(x: Tensor, sequence: Sequence): Tensor {
    const fused = sequence.decode ? this.fused(x, sequence) : null;
    if (fused) return fused;
    const joint = this.training && !sequence.cache ? this.joint(x, sequence) : null;
    if (joint) return joint;
    const h = x.add(this.self_attn.call(this.input_layernorm.call(x), sequence));
    return h.add(this.mlp.call(this.post_attention_layernorm.call(h)));
  }

  /**
   * A layer in training with fewer launches and less traffic: products of one input are one, heads are rotated in place, and residuals are added in the
   * epilogue of products. The same bits unless `inner` is given. Null if the weights do not lie together, or a module inside has hooks or was replaced.
   */
  private joint(x: Tensor, { positions, starts, documents, isCheckpoint, inner }: Sequence): Tensor | null {
    const { self_attn: attn, mlp } = this;
    const { heads, kvHeads, headDim, ropeTheta: theta } = attn.config;
    const linears = [attn.q_proj, attn.k_proj, attn.v_proj, attn.o_proj, mlp.gate_proj, mlp.up_proj, mlp.down_proj].filter(isPlainMatrix); // prettier-ignore
    const isOurs = attn.constructor === LlamaAttention && mlp.constructor === LlamaMlp;
    if (!isOurs || attn.isHooked || mlp.isHooked || linears.length < 7 || headDim % 8) return null;
    const [q, k, v, o, gate, up, down] = linears.map(({ weight }) => weight) as [Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]; // prettier-ignore
    if (!joinedRows([q, k, v]) || !joinedRows([gate, up])) return null;
    const masks = { causal: true, ...(starts && { starts }), ...(documents && { documents }) };
    const qkv = jointLinear(this.input_layernorm.call(x), [q, k, v]);
    const mixed = rotaryAttention(qkv, positions, { heads, kvHeads, headDim, theta, overwrite: true, ...masks });
    const h = linear(mixed, o, null, { residual: x });
    const gated = swiglu(jointLinear(this.post_attention_layernorm.call(h), [gate, up], { dtype: inner ?? h.dtype }));
    const last = (): Tensor => linear(gated, down, null, { residual: h, dtype: h.dtype });
    return isCheckpoint && !this.isHooked ? lastOp(last) : last();
  }

  /**
   * A decoding step in five launches, with the same bits: norm and products of queries, keys and values; rotation, cache and attention; output and residual;
   * norm, gate and up, and SwiGLU; down and residual. Weights of one product lie behind one another. Null if a module inside has hooks or was replaced.
   */
  private fused(x: Tensor, { positions, starts, cache }: Sequence): Tensor | null {
    const { self_attn: attn, mlp } = this;
    const { layer, config } = attn;
    const norms = [this.input_layernorm, this.post_attention_layernorm];
    const isOurs = attn.constructor === LlamaAttention && mlp.constructor === LlamaMlp && norms.every((m) => m.constructor === RMSNorm && !m.isHooked); // prettier-ignore
    const inside = [attn.q_proj, attn.k_proj, attn.v_proj, attn.o_proj, mlp.gate_proj, mlp.up_proj, mlp.down_proj];
    if (!cache || !isOurs || attn.isHooked || mlp.isHooked || !inside.every(isPlain)) return null;
    const [qkv, o_proj, gateUp, down_proj] = [inside.slice(0, 3), [attn.o_proj], inside.slice(4, 6), [mlp.down_proj]].map(joinedWeight); // prettier-ignore
    if (!qkv || !o_proj || !gateUp || !down_proj) return null;
    const [b, t] = [x.dim(0), x.dim(1)];
    const { input_layernorm: first, post_attention_layernorm: second } = this;
    const heads = normLinear(x, first.weight, qkv, { eps: first.eps }).reshape([b, t, -1, config.headDim]);
    const { length } = cache;
    const caches = { keys: cache.keys[layer]!, values: cache.values[layer]!, length };
    const mixed = ropeAttention(heads, positions, caches, { theta: config.ropeTheta, ...(starts && { starts }) });
    const h = linear(mixed.permute([0, 2, 1, 3]).reshape([b, t, -1]), o_proj, null, { residual: x });
    const gated = normLinear(h, second.weight, gateUp, { eps: second.eps, gated: true });
    return linear(gated, down_proj, null, { residual: h });
  }
}

/** embeddings [B, T, hidden] → hidden states [B, T, hidden] after the last norm. The surrounding model applies the heads. */
export class LlamaModel extends Module<readonly [Tensor, Sequence]> {
  readonly embed_tokens: Embedding;
  readonly layers: readonly LlamaLayer[];
  readonly norm: RMSNorm;
  /** In training, recompute each layer in backward instead of saving its activations; the bits are the same. Not with a cache. */
  recompute = false;
  /** In training, the dtype of values and gradients between the products of the MLPs; null: that of the hidden states. Not with a cache. */
  inner: DType | null = null;

  /** Called in backward when the gradients of layer `index` and of those after it are complete; null: nothing is called. */
  onLayerGradients: ((index: number) => void) | null = null;

  /** @param options.quantize of the linear layers; embedding and norms keep `dtype` */
  constructor(config: LlamaConfig, options: QuantizableOptions = {}) {
    super();
    const { quantize: _, quantizeHead: _head, ...plain } = options;
    this.embed_tokens = new Embedding(config.vocabulary, config.hidden, plain);
    this.layers = Array.from({ length: config.layers }, (_, i) => new LlamaLayer(config, i, options));
    this.norm = new RMSNorm(config.hidden, { ...plain, eps: config.eps });
  }

  forward(embeddings: Tensor, sequence: Sequence): Tensor {
    const { positions, starts, documents } = sequence;
    const inner = this.inner && { inner: this.inner };
    const { onLayerGradients: onGradients } = this;
    const run = (h: Tensor, layer: LlamaLayer, index: number): Tensor => {
      if (onGradients && h.node) onGrad(h, () => onGradients(index));
      if (!this.recompute || sequence.cache) return layer.call(h, inner ? { ...sequence, ...inner } : sequence);
      // What the layer reads besides h must outlive this call too: it goes through the tape as inputs.
      const rest = [...(starts ? [starts] : []), ...(documents ? [documents] : [])];
      return checkpoint(
        (x, at, ...more) => {
          const [from, of] = [starts && more[0], documents && more.at(-1)];
          return layer.call(x!, {
            positions: at!,
            isCheckpoint: true,
            ...inner,
            ...(from && { starts: from }),
            ...(of && { documents: of }),
          });
        },
        h,
        positions,
        ...rest,
      );
    };
    return scope(() => this.norm.call(this.layers.reduce(run, embeddings)));
  }
}
