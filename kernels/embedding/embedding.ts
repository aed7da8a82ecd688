/** Rows of a table by their ids, and the deterministic sum of their gradients. `indexSelect` is the same along any dimension. */
import {
  ArgumentError,
  DTYPES,
  DTypeError,
  ShapeError,
  checkTensors,
  elementBytes,
  empty,
  grid1d,
  isFloat,
  kernel,
  launch,
  library,
  normalizeDim,
  record,
  scope,
  sizeOf,
  knownOptions,
} from "../../engine/index.ts";
import type { DType, Device, Library, Prior, Tensor } from "../../engine/index.ts";
import { checkIdRange } from "../core/check_ids.ts";
import { fillInto } from "../core/copy.ts";
import { grid, rowLibrary, standard } from "../core/libraries.ts";
import { asDType, contiguousCopy, copy, map } from "../core/map.ts";
import { granulesOf, rowOperand, viewAs } from "../core/rows.ts";
import { windowsOf } from "../core/windows.ts";
import { permute, reshape } from "../views/views.ts";

const forward = kernel(
  "embedding",
  new URL("./embedding.wgsl", import.meta.url),
  { weight: "read", ids: "read", y: "write" },
  { rows: "u32", granules: "u32", steps: "u32", position: "u32", first: "u32", count: "u32" },
  standard,
);

const linked = kernel(
  "embedding_links",
  new URL("./embedding_links.wgsl", import.meta.url),
  { ids: "read", links: "write" },
  { count: "u32", position: "u32" },
  [grid],
);

const backwardKernel = kernel(
  "embedding_backward",
  new URL("./embedding_backward.wgsl", import.meta.url),
  { g: "read", ids: "read", links: "read", dweight: "read_write" },
  { rows: "u32", granules: "u32", position: "u32", first: "u32", count: "u32" },
  standard,
);

// One 32-bit integer per granule, copied unchanged.
const word = library(
  "word",
  "alias Pack_T = u32;\nalias V4_T = vec4u;\nconst W_T = 1u;\nfn unpack_T(p: Pack_T) -> V4_T { return vec4u(p, 0u, 0u, 0u); }\nfn pack_T(v: V4_T) -> Pack_T { return v.x; }",
);

/** Granules that one invocation of the forward copies; the kernel's constant. */
const GRANULES = 4;

/**
 * Positions whose gradients one launch adds. A multiple of 128, so that a block of 16-bit rows starts where a binding may start. Backward of
 * 30,000 random ids on software Vulkan: 71 ms at 256, 122 at 512, 169 at 1024, 176 at 2048; fewer positions are more launches, which cost
 * other devices more.
 */
export const BLOCK = 512;

/** Throws `DTypeError` if `ids` is not i32 or u32. */
export function checkIds(op: string, ids: Tensor): void {
  if (ids.dtype !== "i32" && ids.dtype !== "u32")
    throw new DTypeError(`${op}: the indices must be i32 or u32; got ${ids}. Cast them.`);
}

export interface EmbeddingOptions {
  /** Dtype of the result, `"f32"` or the weight's own (the default). */
  readonly dtype?: DType;
}

/**
 * Rows of a table: weight [V, C], ids i32 or u32 [...] → [..., C].
 * An id outside 0 … V − 1 (a negative one too) gives a row of zeros and no gradient; a device with `checks` reports it as an error. Check ids
 * on the host, where they come from.
 * The gradient is f32 [V, C]; rows of one id are added in the order of their positions.
 */
export function embedding(weight: Tensor, ids: Tensor, options: EmbeddingOptions = {}): Tensor {
  checkTensors("embedding", weight, ids);
  knownOptions("embedding", options, ["dtype"]);
  checkIds("embedding", ids);
  if (weight.rank !== 2) throw new ShapeError(`embedding: the weight must be [V, C]; got ${weight}. Reshape it.`);
  const dtype = options.dtype ?? weight.dtype;
  if (dtype !== weight.dtype && dtype !== "f32")
    throw new ArgumentError(
      `embedding: dtype must be f32 or that of the weight, ${weight.dtype}; got ${dtype}. Change it.`,
    );
  if (dtype !== weight.dtype && !isFloat(weight.dtype))
    throw new DTypeError(`embedding: weight must have a floating dtype; got ${weight}. Cast it to f32 first.`);
  checkIdRange("embedding", "ids", ids, weight.shape[0]!);
  return rowsAt(weight, ids, dtype);
}

/** `embedding` without its checks: ids outside the table are intended, or impossible. */
export function rowsAt(weight: Tensor, ids: Tensor, dtype: DType): Tensor {
  const [vocabulary, columns] = weight.shape as [number, number];
  const shape = [...ids.shape, columns];
  const y = scope(() => viewAs(lookUp(weight, contiguousCopy(ids), dtype), shape));
  return record("embedding", [weight], y, [ids], (g, [saved], _, priors) => [
    scatterRows(g, contiguousCopy(saved!), vocabulary, columns, priors.take(0)),
  ]);
}

/** Rows of `weight` [V, C] at `ids` (bindable) → [ids, C]. */
function lookUp(weight: Tensor, ids: Tensor, dtype: DType): Tensor {
  const [vocabulary, columns] = weight.shape as [number, number];
  const narrow = DTYPES[weight.dtype].bits < 32 && columns % 4 !== 0;
  if (narrow) {
    // Rows do not fall on whole words: wider, and back.
    const wide = lookUp(
      map(copy, [weight], { dtype: isFloat(weight.dtype) ? "f32" : "u32" }),
      ids,
      isFloat(weight.dtype) ? "f32" : "u32",
    );
    return asDType(wide, dtype);
  }
  const table = contiguousCopy(weight);
  const y = empty([ids.size, columns], { dtype, device: weight.device });
  if (y.size === 0) return y;
  if (vocabulary === 0) {
    fillInto(y, 0);
    return y;
  }
  const libraryOf = (d: DType): Library | DType =>
    d === "i32" || d === "u32" ? (columns % 4 ? word : "u32") : rowLibrary(d, columns);
  const granules = granulesOf(columns);
  const steps = Math.ceil(granules / GRANULES);
  for (const rows of windowsOf("embedding", ids.size, { y })) {
    for (const part of windowsOf("embedding", vocabulary, { weight: table })) {
      launch(forward, {
        use: { w: libraryOf(weight.dtype), y: libraryOf(dtype) },
        buffers: { ...part.buffers, ...rows.buffers, ids },
        params: { rows: rows.count, granules, steps, position: rows.start, first: part.start, count: part.count },
        grid: grid1d(Math.ceil((rows.count * steps) / 64)),
        cost: {
          flops: 0,
          bytes: elementBytes(weight.dtype, rows.count * columns) + elementBytes(dtype, rows.count * columns),
        },
      });
    }
  }
  return y;
}

/** The gradient so far, f32 [V, C], to be added to; zeros if there is none. */
function beginRows(vocabulary: number, columns: number, prior: Prior | null, device: Device): Tensor {
  const sum = prior?.sum ?? null;
  if (sum) return prior!.inPlace && sum.isWritable && sum.dtype === "f32" ? sum : map(copy, [sum], { dtype: "f32" });
  const dweight = empty([vocabulary, columns], { device });
  fillInto(dweight, 0);
  return dweight;
}

/**
 * dweight [V, C], f32: the rows of `g` [ids, C] added to the rows that their ids name, in the order of the ids (contiguous), and to the gradient
 * so far. A launch takes a block of positions, so that its work is bounded however many there are, and one id at all of them too. Not recorded
 * on the tape.
 */
export function scatterRows(
  g: Tensor,
  ids: Tensor,
  vocabulary: number,
  columns: number,
  prior: Prior | null = null,
): Tensor {
  const dweight = beginRows(vocabulary, columns, prior, g.device);
  if (g.size === 0 || vocabulary === 0) return dweight;
  const from = rowOperand(g, columns);
  for (const rows of windowsOf("embedding backward", ids.size, { g: from })) {
    const links = empty([rows.count], { dtype: "u32", device: g.device });
    launch(linked, {
      constants: { BLOCK },
      buffers: { ids, links },
      params: { count: rows.count, position: rows.start },
      grid: grid1d(Math.ceil(rows.count / 64)),
      cost: { flops: 0, bytes: 4 * rows.count * Math.min(BLOCK, rows.count) },
    });
    for (let first = 0; first < rows.count; first += BLOCK)
      addBlock(dweight, from, ids, links, {
        first,
        start: rows.start + first,
        count: Math.min(BLOCK, rows.count - first),
      });
  }
  return dweight;
}

/** Adds the rows of `g` at positions `start` … `start + count` − 1; `first` is the block's offset in `links`. */
function addBlock(
  dweight: Tensor,
  g: Tensor,
  ids: Tensor,
  links: Tensor,
  block: { readonly first: number; readonly start: number; readonly count: number },
): void {
  const [vocabulary, columns] = dweight.shape as [number, number];
  const granules = granulesOf(columns);
  const { first, start, count } = block;
  for (const part of windowsOf("embedding backward", vocabulary, { dweight })) {
    launch(backwardKernel, {
      use: { g: rowLibrary(g.dtype, columns), y: rowLibrary("f32", columns) },
      buffers: {
        g: { of: g, start: start * columns, elements: count * columns },
        ids,
        links: { of: links, start: first, elements: count },
        ...part.buffers,
      },
      params: { rows: count, granules, position: start, first: part.start, count: part.count },
      grid: grid1d(Math.ceil((count * granules) / 64)),
      cost: { flops: count * columns, bytes: elementBytes(g.dtype, count * columns) + 8 * count * columns },
    });
  }
}

/**
 * Entries of dimension `dim`: x [A, N, B], index i32 or u32 [K] → [A, K, B]. An index outside 0 … N − 1 (a negative one too) gives zeros
 * and no gradient; a device with `checks` reports it as an error.
 * Gradients of entries taken twice are added in the order of `index`.
 */
export function indexSelect(x: Tensor, dim: number, index: Tensor): Tensor {
  checkTensors("indexSelect", x, index);
  checkIds("indexSelect", index);
  const d = normalizeDim(dim, x.rank, "indexSelect");
  if (index.rank !== 1)
    throw new ShapeError(`indexSelect: the index must have one dimension; got ${index}. Flatten it.`);
  checkIdRange("indexSelect", "index", index, x.shape[d]!);
  return entriesAt(x, d, index);
}

/** `indexSelect` without its checks. */
export function entriesAt(x: Tensor, d: number, index: Tensor): Tensor {
  const rest = x.shape.toSpliced(d, 1);
  const order = [d, ...x.shape.keys()].filter((k, i) => i === 0 || k !== d);
  const back = [...x.shape.keys()].map((k) => order.indexOf(k));
  return scope(() => {
    const table = reshape(permute(x, order), [x.shape[d]!, sizeOf(rest)]);
    return permute(reshape(rowsAt(table, index, table.dtype), [index.size, ...rest]), back);
  });
}
