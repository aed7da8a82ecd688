/**
 * Scaled dot-product attention in the flash style (Dao et al. 2022): online softmax, memory linear in the tokens, backward recomputes
 * the probabilities from the saved log-sum-exp. Which kernels run is in `variants.ts`; decoding is in `attention_decode.ts`.
 */
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
  launch,
  record,
  scope,
  shapeText,
  knownOptions,
} from "../../engine/index.ts";
import type { Tensor } from "../../engine/index.ts";
import { grid, standard } from "../core/libraries.ts";
import { attentionVariant } from "./variants.ts";
import { emptyHeads, emptyLike, overHeads, readable } from "./windows.ts";
import type { HeadRange } from "./windows.ts";
import { fillInto } from "../core/copy.ts";
import { contiguousCopy } from "../core/map.ts";
import { pad, slice } from "../views/views.ts";

const delta = kernel(
  "attention_delta",
  new URL("./attention_delta.wgsl", import.meta.url),
  { o: "read", g: "read", lse: "read", stats: "write" },
  { rows: "u32", queries: "u32", heads: "u32", granules: "u32", o: "vec4u", g: "vec4u", lse: "vec4u", stats: "vec4u" },
  standard,
);

const joinMasks = kernel(
  "attention_mask",
  new URL("./attention_mask.wgsl", import.meta.url),
  { starts: "read", documents: "read", mask: "write" },
  { batch: "u32", words: "u32" },
  [grid],
);

export interface AttentionOptions {
  /** Multiplies the scores; D^−0.5 by default. */
  readonly scale?: number;
  /** Query i sees the keys up to position Tk − Tq + i. */
  readonly causal?: boolean;
  /** [B] i32 or u32: first key of each row that any query sees (left-padded batches). */
  readonly starts?: Tensor;
  /**
   * [B, T] i32 or u32, Tq = Tk = T: queries see the keys with their own id only (packed rows). The cost counts the pairs within documents if
   * they were made from host data (`tensor()`); otherwise, and with `starts`, it is an upper bound.
   */
  readonly documents?: Tensor;
}

/** The masks that a launch applies, and their position. */
export interface Masks {
  /** CAUSAL 1, STARTS 2, DOCUMENTS 4, as in `lib/attention_keys.wgsl`. */
  readonly flags: number;
  /** Starts, then documents; null if there are none. */
  readonly words: Tensor | null;
  /** Pairs of a query and a key that it sees, over the batch; and without starts and documents, as the kernels may visit them. */
  readonly pairs: number;
  readonly mostPairs: number;
}

/**
 * softmax(scale · q kᵀ + mask) v: q [B, Hq, Tq, D], k, v [B, Hkv, Tk, D] → [B, Hq, Tq, D] of q's dtype. Hq is a multiple of Hkv: query
 * head h reads key head ⌊h · Hkv / Hq⌋. k and v may have another dtype than q. A query without visible keys gives
 * zeros.
 *
 * Inputs may be views: contiguous rows of D elements are read in place (a permuted [B, T, H, D] is not copied). The
 * result is a permuted view of [B, Tq, Hq, D] in memory, so that `permute(y, [0, 2, 1, 3])` then `reshape` to [B, Tq,
 * Hq · D] copies nothing; gradients have the memory layout of their inputs. D should be a multiple of 4; others are
 * padded. Heads above 128 recompute their scores for each 128 of their columns.
 */
export function attention(q: Tensor, k: Tensor, v: Tensor, options: AttentionOptions = {}): Tensor {
  knownOptions("attention", options, ["scale", "causal", "starts", "documents"]);
  checkTensors("attention", q, k, v, options.starts ?? null, options.documents ?? null);
  checkHeads("attention", q, k, v);
  checkMasks(q, k, options);
  const d = q.shape[3]!;
  const scale = scaleOf("attention", options.scale, d);
  if (d % 4 === 0) return scope(() => run(q, k, v, scale, masksOf(q, k, options)));
  return scope(() => {
    const wide = [q, k, v].map((t) => pad(t, [[0, 4 - (d % 4)]]));
    return slice(run(wide[0]!, wide[1]!, wide[2]!, scale, masksOf(q, k, options)), 3, 0, d);
  });
}

function run(q: Tensor, k: Tensor, v: Tensor, scale: number, masks: Masks): Tensor {
  const [b, h, t] = q.shape as [number, number, number];
  const y = emptyHeads(q.shape, q.dtype, q);
  if (q.size === 0 || k.size === 0) {
    fillInto(y.strided([y.size], [1]), 0);
    return record("attention", [q, k, v], y, [q, k, v], (_, saved, needs) =>
      saved.map((s, i) => (needs[i] ? zeros(s) : null)),
    );
  }
  const lse = empty([b, h, t, 1], { device: q.device });
  forward(q, k, v, y, lse, scale, masks);
  const saved = [q, k, v, y, lse, ...(masks.words ? [masks.words] : [])];
  return record("attention", [q, k, v], y, saved, (g, [sq, sk, sv, sy, sl, words], needs) =>
    backward({ q: sq!, k: sk!, v: sv!, y: sy!, lse: sl!, g }, scale, { ...masks, words: words ?? null }, needs),
  );
}

function zeros(like: Tensor): Tensor {
  const y = empty(like.shape, { dtype: like.dtype, device: like.device });
  fillInto(y, 0);
  return y;
}

/** FLOPs of `products` products over the visible pairs of all query heads. */
const flopsOf = (products: number, q: Tensor, pairs: number): number =>
  products * 2 * q.shape[1]! * q.shape[3]! * pairs;

/** Pairs that causality alone leaves of one row. */
function causalPairs(queries: number, keys: number): number {
  const seeing = Math.min(queries, keys); // if there are more queries than keys, the first see none
  return seeing * (keys - seeing) + (seeing * (seeing + 1)) / 2;
}
const bytesOf = (...tensors: readonly Tensor[]): number =>
  tensors.reduce((sum, t) => sum + elementBytes(t.dtype, t.size), 0);

/** The launches of the forward: y [B, Hq, Tq, D] of q's dtype, lse f32 [B, Hq, Tq, 1]. */
export function forward(q: Tensor, k: Tensor, v: Tensor, y: Tensor, lse: Tensor, scale: number, masks: Masks): void {
  const [batch, kvHeads, keys] = k.shape as [number, number, number];
  const [queries, d] = q.shape.slice(2) as [number, number];
  const group = q.shape[1]! / kvHeads;
  const variant = attentionVariant(q.device.capabilities, { d, q: q.dtype, k: k.dtype, work: q.size * keys });
  const operands = {
    q: { tensor: readable(q, group), perHead: group, unit: 4 },
    k: { tensor: readable(k, 1), perHead: 1, unit: 4 },
    v: { tensor: readable(v, 1), perHead: 1, unit: 4 },
    o: { tensor: y, perHead: group, unit: 4 },
    lse: { tensor: lse, perHead: group, unit: 1 },
  };
  const work = flopsOf(2, q, masks.mostPairs) / (batch * kvHeads);
  overHeads({ op: "attention", rows: batch, heads: kvHeads, work }, operands, ({ first, rows, heads, buffers, at }) => {
    const { rows: work, groups } = variant.split.work(rows * heads * group, queries);
    launch(variant.forward, {
      use: { q: q.dtype, k: k.dtype, o: y.dtype, ...variant.use },
      constants: variant.split.constants,
      buffers: { ...buffers, mask: masks.words ?? buffers.q },
      params: {
        rows: work,
        queries,
        keys,
        heads: heads * group,
        group,
        batch,
        first,
        flags: masks.flags,
        slices: variant.split.slices,
        granules: d / 4,
        scale: scale * Math.LOG2E,
        q: at.q,
        k: at.k,
        v: at.v,
        o: at.o,
        lse: at.lse,
      },
      grid: grid1d(groups),
      cost: {
        flops: (flopsOf(2, q, masks.pairs) * rows * heads) / (batch * kvHeads),
        bytes: (bytesOf(q, k, v, y) * rows * heads) / (batch * kvHeads),
      },
    });
  });
}

interface Saved {
  readonly q: Tensor;
  readonly k: Tensor;
  readonly v: Tensor;
  readonly y: Tensor;
  readonly lse: Tensor;
  readonly g: Tensor;
}

/** Tensors in which gradients are written; others are made, in the memory layout of their inputs. */
type Targets = Readonly<Partial<Record<"dq" | "dv", Tensor>>>;

/** The launches of the backward of all inputs: writes the gradients of q and v to `into`, returns that of k. */
export function attentionGradients(s: Saved, scale: number, masks: Masks, into: Required<Targets>): Tensor {
  return backward(s, scale, masks, [true, true, true], into)[1]!;
}

function backward(
  s: Saved,
  scale: number,
  masks: Masks,
  needs: readonly boolean[],
  into: Targets = {},
): (Tensor | null)[] {
  const [batch, kvHeads, keys, d] = s.k.shape as [number, number, number, number];
  const queries = s.q.shape[2]!;
  const group = s.q.shape[1]! / kvHeads;
  const variant = attentionVariant(s.q.device.capabilities, {
    d,
    q: s.q.dtype,
    k: s.k.dtype,
    g: s.g.dtype,
    work: s.q.size * keys,
  });
  const granules = (tensor: Tensor, perHead: number): { tensor: Tensor; perHead: number; unit: number } => ({
    tensor,
    perHead,
    unit: 4,
  });
  const lse = { tensor: s.lse, perHead: group, unit: 1 };
  const stats = { tensor: empty([...s.lse.shape.slice(0, 3), 2], { device: s.q.device }), perHead: group, unit: 1 };
  const g = granules(readable(s.g, group), group);
  const o = granules(s.y, group);
  const walk = (products: number): HeadRange => ({
    op: "attention",
    rows: batch,
    heads: kvHeads,
    work: flopsOf(products, s.q, masks.mostPairs) / (batch * kvHeads),
  });
  overHeads(walk(0), { o, g, lse, stats }, ({ rows: count, heads, buffers, at }) => {
    const rows = count * heads * group * queries;
    launch(delta, {
      use: { o: s.y.dtype, g: s.g.dtype },
      buffers,
      params: { rows, queries, heads: heads * group, granules: d / 4, ...at },
      grid: grid1d(Math.ceil(rows / 64)),
      cost: { flops: 2 * rows * d, bytes: (bytesOf(s.y, s.g) * rows) / (s.q.size / d) },
    });
  });

  const inputs = {
    q: granules(readable(s.q, group), group),
    k: granules(readable(s.k, 1), 1),
    v: granules(readable(s.v, 1), 1),
    g,
    stats,
  };
  const use = { q: s.q.dtype, k: s.k.dtype, g: s.g.dtype, ...variant.gradientUse };
  const numbers = {
    queries,
    keys,
    group,
    batch,
    flags: masks.flags,
    granules: d / 4,
    scale: scale * Math.LOG2E,
    slope: scale,
  };
  const share = (rows: number, heads: number): number => (rows * heads) / (batch * kvHeads);

  const dq = needs[0] ? (into.dq ?? emptyLike(s.q)) : null;
  if (dq) {
    overHeads(walk(3), { ...inputs, dq: granules(dq, group) }, ({ first, rows, heads, buffers, at }) => {
      const { rows: work, groups } = variant.querySplit.work(rows * heads * group, queries);
      launch(variant.query, {
        use,
        constants: variant.querySplit.constants,
        buffers: { ...buffers, mask: masks.words ?? buffers.q },
        params: { ...numbers, slices: variant.querySplit.slices, rows: work, heads: heads * group, first, ...at },
        grid: grid1d(groups),
        cost: {
          flops: flopsOf(3, s.q, masks.pairs) * share(rows, heads),
          bytes: bytesOf(s.q, s.k, s.v, s.g, dq) * share(rows, heads),
        },
      });
    });
  }
  if (!needs[1] && !needs[2]) return [dq, null, null];
  const [dk, dv] = [emptyLike(s.k), into.dv ?? emptyLike(s.v)];
  overHeads(walk(4), { ...inputs, dk: granules(dk, 1), dv: granules(dv, 1) }, ({ first, rows, heads, buffers, at }) => {
    const { rows: work, groups } = variant.keySplit.work(rows * heads, keys);
    launch(variant.key, {
      use,
      constants: variant.keySplit.constants,
      buffers: { ...buffers, mask: masks.words ?? buffers.q },
      params: { ...numbers, slices: variant.keySplit.slices, rows: work, heads, first, ...at },
      grid: grid1d(groups),
      cost: {
        flops: flopsOf(4, s.q, masks.pairs) * share(rows, heads),
        bytes: bytesOf(s.q, s.k, s.v, s.g, dk, dv) * share(rows, heads),
      },
    });
  });
  return [dq, needs[1] ? dk : null, needs[2] ? dv : null];
}

/** Checks the shapes [B, H, T, D] and dtypes of q, k and v; also used for decoding. Throws `ShapeError` or `DTypeError`. */
export function checkHeads(op: string, q: Tensor, k: Tensor, v: Tensor): void {
  const got = `got q ${q}, k ${k}, v ${v}`;
  if (q.rank !== 4 || k.rank !== 4 || v.rank !== 4)
    throw new ShapeError(`${op}: q, k and v must be [B, H, T, D]; ${got}. Reshape them.`);
  if (shapeText(k.shape) !== shapeText(v.shape))
    throw new ShapeError(`${op}: k and v must have the same shape; ${got}. Make them equal.`);
  if (q.shape[0] !== k.shape[0] || q.shape[3] !== k.shape[3])
    throw new ShapeError(`${op}: batch and head size of q and k must be equal; ${got}. Change one of them.`);
  if (k.shape[1] === 0 ? q.shape[1] !== 0 : q.shape[1]! % k.shape[1]! !== 0)
    throw new ShapeError(
      `${op}: the number of heads of q must be a multiple of that of k; ${got}. Change one of them.`,
    );
  if (q.shape[3] === 0) throw new ShapeError(`${op}: the head size must be at least 1; ${got}. Check the shapes.`);
  if (!isFloat(q.dtype) || !isFloat(k.dtype) || k.dtype !== v.dtype)
    throw new DTypeError(`${op}: dtypes must be f32, f16 or bf16, and the same for k and v; ${got}. Cast one of them.`);
}

/** Returns the given scale, or D^−0.5. Throws `ArgumentError` if it is not finite. */
export function scaleOf(op: string, scale: number | undefined, d: number): number {
  const value = scale ?? d ** -0.5;
  if (!Number.isFinite(value))
    throw new ArgumentError(`${op}: scale must be a finite number; got ${value}. Change it.`);
  return value;
}

/** Checks that `t` has the shape `shape` and the dtype i32 or u32. Throws `ShapeError` or `DTypeError`. */
export function checkIntegers(op: string, name: string, t: Tensor, shape: readonly number[]): void {
  if (shapeText(t.shape) !== shapeText(shape))
    throw new ShapeError(`${op}: ${name} must have shape ${shapeText(shape)}; got ${t}. Reshape it.`);
  if (t.dtype !== "i32" && t.dtype !== "u32")
    throw new DTypeError(`${op}: ${name} must be i32 or u32; got ${t}. Cast it.`);
}

/** Checks the shapes and dtypes of starts and documents. Throws `ShapeError` or `DTypeError`. */
export function checkMasks(q: Tensor, k: Tensor, { starts, documents }: AttentionOptions): void {
  if (starts) checkIntegers("attention", "starts", starts, [q.shape[0]!]);
  if (!documents) return;
  if (q.shape[2] !== k.shape[2])
    throw new ShapeError(
      `attention: documents need as many queries as keys; got ${q.shape[2]} in q ${q} and ${k.shape[2]} in k ${k}. Leave documents out.`,
    );
  checkIntegers("attention", "documents", documents, [q.shape[0]!, q.shape[2]!]);
}

function mostPairs(q: Tensor, k: Tensor, causal: boolean): number {
  const [queries, keys] = [q.shape[2]!, k.shape[2]!];
  return q.shape[0]! * (causal ? causalPairs(queries, keys) : queries * keys);
}

/** Pairs of a query and a key of one document, if the host knows the documents. */
function documentPairs(documents: Tensor | undefined, causal: boolean): number | null {
  const ids = documents?.storage.hostValues;
  if (!documents || !ids || ids.length !== documents.size || !documents.isContiguous) return null;
  const [rows, tokens] = documents.shape as [number, number];
  let pairs = 0;
  for (let r = 0; r < rows; r++) {
    const lengths = new Map<number, number>();
    // Documents are runs of tokens, most often one each.
    for (let t = r * tokens, end = t + tokens; t < end;) {
      const [id, start] = [ids[t]!, t];
      while (t < end && ids[t] === id) t++;
      lengths.set(id, (lengths.get(id) ?? 0) + t - start);
    }
    for (const n of lengths.values()) pairs += causal ? (n * (n + 1)) / 2 : n * n;
  }
  return pairs;
}

/** The masks of the options for the kernels, and the pairs that they leave. */
export function masksOf(q: Tensor, k: Tensor, { causal = false, starts, documents }: AttentionOptions): Masks {
  const flags = (causal ? 1 : 0) | (starts ? 2 : 0) | (documents ? 4 : 0);
  const most = mostPairs(q, k, causal);
  const counts = { flags, pairs: (starts ? null : documentPairs(documents, causal)) ?? most, mostPairs: most };
  if (q.size === 0 || k.size === 0) return { ...counts, words: null };
  if (!starts || !documents)
    return { ...counts, words: starts ? contiguousCopy(starts) : documents ? contiguousCopy(documents) : null };
  const words = empty([starts.size + documents.size], { dtype: "u32", device: q.device });
  launch(joinMasks, {
    buffers: { starts: contiguousCopy(starts), documents: contiguousCopy(documents), mask: words },
    params: { batch: starts.size, words: words.size },
    grid: grid1d(Math.ceil(words.size / 64)),
    cost: { flops: 0, bytes: 8 * words.size },
  });
  return { ...counts, words };
}
