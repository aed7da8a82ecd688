/** Attention over the heads that a joined product leaves in one tensor, with rotary positions: one op instead of two rotations, views and attention. */
import {
  ArgumentError,
  DTypeError,
  ShapeError,
  checkTensors,
  elementBytes,
  empty,
  grid1d,
  isFloat,
  kernel,
  knownOptions,
  launch,
  record,
  sameShape,
  scope,
} from "../../engine/index.ts";
import type { Tensor } from "../../engine/index.ts";
import { attentionGradients, checkMasks, forward, masksOf, scaleOf } from "../attention/attention.ts";
import type { AttentionOptions, Masks } from "../attention/attention.ts";
import { emptyHeads } from "../attention/windows.ts";
import { standard } from "../core/libraries.ts";
import { contiguousCopy, copy, map } from "../core/map.ts";
import { windowsOf } from "../core/windows.ts";
import { frequencies, headsOf, rotated, turns } from "./rope.ts";

const rotate = kernel(
  "rope_heads",
  new URL("./rope_heads.wgsl", import.meta.url),
  { positions: "read", frequencies: "read", x: "read_write" },
  { size: "vec4u", width: "u32", half: "u32", sign: "f32" },
  [...standard, turns],
);

export interface RotaryAttentionOptions extends AttentionOptions {
  /** Query heads, key heads (as many as of the values) and elements of a head, a multiple of 8. */
  readonly heads: number;
  readonly kvHeads: number;
  readonly headDim: number;
  /** Base of the frequencies, as of `rope`. Default: 10,000. */
  readonly theta?: number;
  /** True if x may be overwritten: nothing else reads it. Default: false, it is copied. */
  readonly overwrite?: boolean;
}

const OPTIONS: readonly (keyof RotaryAttentionOptions)[] = ["heads", "kvHeads", "headDim", "theta", "overwrite", "scale", "causal", "starts", "documents"]; // prettier-ignore

/**
 * x [B, T, (heads + 2 · kvHeads) · headDim], the queries, keys and values of each token behind one another; positions [T] or [B, T] (i32, or u32 below
 * 2^31) → [B, T, heads · headDim], of x's dtype: `attention` of the queries and keys that `rope` has rotated, with the same bits. Gradient: of x.
 * @throws ShapeError if sizes do not fit; DTypeError for integer x or other positions; ArgumentError for headDim
 */
export function rotaryAttention(x: Tensor, positions: Tensor, options: RotaryAttentionOptions): Tensor {
  knownOptions("rotaryAttention", options, OPTIONS);
  const { heads, kvHeads, headDim, theta = 10000, overwrite = false, ...rest } = options;
  checkTensors("rotaryAttention", x, positions, rest.starts ?? null, rest.documents ?? null);
  checkOperands(x, positions, options);
  const scale = scaleOf("rotaryAttention", rest.scale, headDim);
  return scope(() => {
    const own = overwrite && x.isBindable ? x.detach() : map(copy, [x]);
    const sizes = { heads, kvHeads, headDim };
    rotateHeads(own, positions, { heads: heads + kvHeads, headDim, theta, sign: 1 });
    const { q, k, v } = split(own, sizes);
    checkMasks(q, k, rest);
    const masks = masksOf(q, k, rest);
    const y = emptyHeads(q.shape, x.dtype, x);
    const lse = empty([...q.shape.slice(0, 3), 1], { device: x.device });
    if (x.size > 0) forward(q, k, v, y, lse, scale, masks);
    const saved = [own, y, lse, positions, ...(masks.words ? [masks.words] : [])];
    const settings = { ...sizes, theta, scale, masks };
    return record("rotaryAttention", [x], byToken(y), saved, (g, kept) => [gradient(g, kept, settings)]);
  });
}

function checkOperands(
  x: Tensor,
  positions: Tensor,
  { heads, kvHeads, headDim, theta = 10000 }: RotaryAttentionOptions,
): void {
  // prettier-ignore
  if (!isFloat(x.dtype))
    throw new DTypeError(`rotaryAttention: x must have a floating dtype; got ${x}. Cast it to f32 first.`);
  if (positions.dtype !== "i32" && positions.dtype !== "u32")
    throw new DTypeError(`rotaryAttention: positions must be i32 or u32; got ${positions}. Cast them.`);
  if (![heads, kvHeads, headDim].every((n) => Number.isInteger(n) && n > 0) || heads % kvHeads || headDim % 8)
    throw new ArgumentError(
      `rotaryAttention: heads must be a multiple of kvHeads, and headDim of 8; got ${heads}, ${kvHeads} and ${headDim}. Use rope() and attention().`,
    );
  if (!(theta > 0) || !Number.isFinite(theta))
    throw new ArgumentError(`rotaryAttention: theta must be a finite number above 0; got ${theta}. Change it.`);
  const width = (heads + 2 * kvHeads) * headDim;
  if (x.rank !== 3 || x.shape[2] !== width)
    throw new ShapeError(`rotaryAttention: x must be [B, T, ${width}]; got ${x}. Reshape it.`);
  const [b, t] = x.shape as [number, number, number];
  if (!sameShape(positions.shape, [t]) && !sameShape(positions.shape, [b, t]))
    throw new ShapeError(`rotaryAttention: positions must be [${t}] or [${b}, ${t}]; got ${positions}. Reshape them.`);
}

interface Heads {
  readonly heads: number;
  readonly kvHeads: number;
  readonly headDim: number;
}

/** Views [B, H, T, D] of queries, keys and values in x, contiguous. */
function split(x: Tensor, { heads, kvHeads, headDim: d }: Heads): Record<"q" | "k" | "v", Tensor> {
  const [b, t, width] = x.shape as [number, number, number];
  const part = (count: number, first: number): Tensor =>
    x.strided([b, count, t, d], [t * width, d, width, 1], x.offset + first * d);
  return { q: part(heads, 0), k: part(kvHeads, heads), v: part(kvHeads, heads + kvHeads) };
}

/** y [B, H, T, D] as [B, T, H · D]; a copy only if it does not lie by tokens. */
function byToken(y: Tensor): Tensor {
  const [b, h, t, d] = y.shape as [number, number, number, number];
  const [sb, sh, st, sd] = y.strides as [number, number, number, number];
  const flat = contiguousCopy(y.strided([b, t, h, d], [sb, st, sh, sd]));
  return flat.strided([b, t, h * d], [t * h * d, h * d, 1]);
}

interface Rotation {
  /** The first of each row, which are rotated. */
  readonly heads: number;
  readonly headDim: number;
  readonly theta: number;
  readonly sign: 1 | -1;
}

/** Rotates heads of x [B, T, width], bindable, in place. */
function rotateHeads(x: Tensor, positions: Tensor, { heads, headDim, theta, sign }: Rotation): void {
  const [b, t, width] = x.shape as [number, number, number];
  const HEADS = headsOf(x.device);
  const half = headDim / 8;
  const places = contiguousCopy(positions);
  for (const { start, count, buffers } of windowsOf("rotaryAttention", b * t, { x })) {
    launch(rotate, {
      use: { x: x.dtype },
      constants: { HEADS, PER_ROW: positions.rank === 2 },
      buffers: { ...buffers, positions: places, frequencies: frequencies(x.device, headDim, theta) },
      params: { size: [count, start, t, heads], width: width / 4, half, sign },
      grid: grid1d(Math.ceil((count * Math.ceil(heads / HEADS) * half) / 64)),
      cost: { flops: 3 * count * heads * headDim, bytes: elementBytes(x.dtype, 2 * count * heads * headDim) },
    });
  }
}

interface Settings extends Heads {
  readonly theta: number;
  readonly scale: number;
  readonly masks: Masks;
}

/** The gradient of x: queries' and values' are written to their places, keys' are rotated back on their way there. */
function gradient(g: Tensor, kept: readonly Tensor[], { theta, scale, masks, ...sizes }: Settings): Tensor {
  const [x, y, lse, positions, words = null] = kept as [Tensor, Tensor, Tensor, Tensor, Tensor?];
  const { heads, headDim: d } = sizes;
  const [b, t] = x.shape as [number, number];
  const dx = empty(x.shape, { dtype: x.dtype, device: x.device });
  if (x.size === 0) return dx;
  const into = split(dx, sizes);
  const flat = contiguousCopy(g);
  const slope = flat.strided([b, heads, t, d], [t * heads * d, d, heads * d, 1]);
  const operands = { ...split(x, sizes), y, lse, g: slope };
  const dk = attentionGradients(operands, scale, { ...masks, words }, { dq: into.q, dv: into.v });
  rotateHeads(dx, positions, { heads, headDim: d, theta, sign: -1 });
  rotated(dk, positions, { theta, dim: -2, sign: -1, into: into.k });
  return dx;
}
