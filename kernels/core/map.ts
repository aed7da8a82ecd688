/**
 * The elementwise mechanism: an expression over up to three tensors and four scalars, applied flat to contiguous tensors of one shape, or
 * through strides (broadcasting, views). Ops that use it are in `elementwise.ts` and `views.ts`.
 */
import {
  DTYPES,
  ShapeError,
  broadcastShapes,
  contiguousStrides,
  elementBytes,
  empty,
  fuseLaunches,
  grid1d,
  isFloat,
  kernel,
  launch,
  library,
  sameShape,
  shapeText,
  sizeOf,
} from "../../engine/index.ts";
import type { DType, Library, Shape, Tensor } from "../../engine/index.ts";
import { collapse } from "./collapse.ts";
import { copyWords, inFours } from "./copy_words.ts";
import { fusionRule } from "./fuse.ts";
import { standard } from "./libraries.ts";
import { windowsOf } from "./windows.ts";

/** An elementwise formula; `expression()` makes it, `map()` applies it. */
export interface Expression {
  /** Name in launches, traces and messages. */
  readonly name: string;
  readonly library: Library;
}

/** The function `apply_T` of each expression. */
const formulas = new WeakMap<Library, string>();

/**
 * An elementwise formula in WGSL over `a`, `b`, `c` (vec4 of the inputs' arithmetic types) and `s` (vec4f of scalars). The result is
 * converted to the output's type.
 * @param name unique
 * @param libraries the libraries of the functions that the formula calls
 */
export function expression(name: string, wgsl: string, ...libraries: readonly Library[]): Expression {
  const uses = libraries.map((l) => `//#use ${l.name}\n`).join("");
  const text = `fn apply_T(a: V4_a, b: V4_b, c: V4_c, s: vec4f) -> V4_y { return V4_y(${wgsl}); }`;
  const declared = library(name, uses + text, libraries);
  formulas.set(declared, text);
  return { name, library: declared };
}

/** The identity, with conversion to the dtype of the result. */
export const copy = expression("copy", "a");
const truncate = expression("truncate", "truncate_y(a)");

const flat = kernel(
  "map",
  new URL("./map.wgsl", import.meta.url),
  { a: "read", b: "read", c: "read", y: "write" },
  { granules: "u32", scalars: "vec4f" },
  [...standard, copy.library],
);

fuseLaunches(flat, fusionRule(formulas));

const strided = kernel(
  "map_strided",
  new URL("./map_strided.wgsl", import.meta.url),
  { a: "read", b: "read", c: "read", y: "write" },
  {
    elements: "u32",
    start: "u32",
    offsets: "vec4u",
    shape0: "vec4u",
    shape1: "vec4u",
    a0: "vec4u",
    a1: "vec4u",
    b0: "vec4u",
    b1: "vec4u",
    c0: "vec4u",
    c1: "vec4u",
    scalars: "vec4f",
  },
  [...standard, copy.library],
);

const MAX_DIMENSIONS = 8;

export interface MapOptions {
  /** Dtype of the result; the default is that of the first input. */
  readonly dtype?: DType;
  readonly scalars?: readonly number[];
  /** Shape of the result; the default is that of the inputs broadcast together. */
  readonly shape?: Shape;
  /** Write here instead of into a new tensor: contiguous, of the result's shape, in another storage than the inputs. */
  readonly into?: Tensor;
}

/** y = formula(inputs…), elementwise with broadcasting. Not recorded on the tape. */
export function map(formula: Expression, inputs: readonly Tensor[], options: MapOptions = {}): Tensor {
  const [a] = inputs;
  const shape =
    options.shape ?? inputs.slice(1).reduce((s: Shape, t) => broadcastShapes(formula.name, s, t.shape), a!.shape);
  if (options.into && !options.into.isWritable) {
    // Other tensors share the granules at its ends: compute in a temporary and copy word by word.
    const { into, ...rest } = options;
    const own = map(formula, inputs, { ...rest, dtype: into.dtype, shape: into.shape });
    copyWords(into, own);
    own.dispose();
    return into;
  }
  const y = options.into ?? empty(shape, { dtype: options.dtype ?? a!.dtype, device: a!.device });
  const operands = [a!, inputs[1] ?? a!, inputs[2] ?? a!] as const;
  const use = {
    a: operands[0].dtype,
    b: operands[1].dtype,
    c: operands[2].dtype,
    y: y.dtype,
    f: (formula === copy && isFloat(a!.dtype) && !isFloat(y.dtype) ? truncate : formula).library,
  };
  const scalars = [0, 1, 2, 3].map((i) => options.scalars?.[i] ?? 0);
  if (y.size === 0) return y;
  const cost = {
    flops: y.size,
    bytes: inputs.reduce((sum, t) => sum + elementBytes(t.dtype, t.size), elementBytes(y.dtype, y.size)),
  };
  if (operands.every((t) => sameShape(t.shape, y.shape) && t.isBindable)) {
    const [first, second, third] = operands;
    for (const { count, buffers } of windowsOf(formula.name, y.size, { a: first, b: second, c: third, y })) {
      const granules = Math.ceil(count / 4);
      launch(flat, {
        use,
        buffers,
        params: { granules, scalars },
        grid: grid1d(Math.ceil(granules / 256)),
        cost: { flops: (cost.flops * count) / y.size, bytes: (cost.bytes * count) / y.size },
      });
    }
    return y;
  }
  if (formula === copy && y.dtype === a!.dtype && sameShape(y.shape, a!.shape) && inFours(y, a!)) copyWords(y, a!);
  else mapStrided(use, operands, y, scalars, cost);
  return y;
}

interface View {
  readonly tensor: Tensor;
  readonly offset: number;
  readonly strides: readonly number[];
}

/** The strided path: collapses dimensions, then splits until each operand's part fits one binding. */
function mapStrided(
  use: Record<"a" | "b" | "c" | "y", DType> & { readonly f: Library },
  operands: readonly [Tensor, Tensor, Tensor],
  y: Tensor,
  scalars: readonly number[],
  cost: { flops: number; bytes: number },
): void {
  const views = operands.map((t): View => ({
    tensor: t,
    offset: t.offset,
    strides: y.shape.map((n, d) => (n === 1 ? 0 : broadcastStride(t, d - y.rank + t.rank))),
  }));
  const { shape, strides } = collapse(
    y.shape,
    views.map((v) => v.strides),
  );
  if (shape.length > MAX_DIMENSIONS) {
    throw new ShapeError(
      `${use.f.name}: a view must have at most ${MAX_DIMENSIONS} dimensions that cannot be merged; got ${shape.length} in ${shapeText(y.shape)}. Make the input contiguous first.`,
    );
  }
  split(
    y,
    0,
    shape,
    views.map((v, i) => ({ ...v, strides: strides[i]! })),
  );

  // One launch if all parts fit a binding; else the box is cut in two along the dimension that reaches farthest in what does not fit.
  function split(target: Tensor, start: number, part: readonly number[], at: readonly View[]): void {
    const limit = y.device.limits.maxStorageBufferBindingSize;
    const slack = y.device.limits.minStorageBufferOffsetAlignment + 16;
    const size = sizeOf(part);
    const large = at.find(
      (v) =>
        elementBytes(v.tensor.dtype, 1 + part.reduce((sum, n, d) => sum + (n - 1) * v.strides[d]!, 0)) + slack > limit,
    );
    if (!large && elementBytes(y.dtype, size) <= limit) return launchPart(target, start, part, at, size);
    const outer = part.findIndex((n) => n > 1);
    const d = large
      ? part.reduce(
          (best, n, i) => ((n - 1) * large.strides[i]! > (part[best]! - 1) * large.strides[best]! ? i : best),
          outer,
        )
      : outer;
    // In whole alignments of y, so that either half can be bound, or copied by words.
    const inner = sizeOf(part.slice(d + 1));
    const align = (y.device.limits.minStorageBufferOffsetAlignment * 8) / DTYPES[y.dtype].bits;
    let head = Math.ceil(part[d]! / 2);
    if (d === outer) while (head < part[d]! && (start + head * inner) % align !== 0) head++;
    else head += head % 4 && head + 4 - (head % 4) < part[d]! ? 4 - (head % 4) : 0;
    if (d < 0 || head >= part[d]!) {
      throw new ShapeError(
        `${use.f.name}: a view must split into parts that fit a binding of ${limit} bytes; got ${shapeText(y.shape)}. Make the input contiguous along its last dimension first.`,
      );
    }
    for (const [first, count] of [
      [0, head],
      [head, part[d]! - head],
    ] as const) {
      const half = part.with(d, count);
      const views = at.map((v) => ({ ...v, offset: v.offset + first * v.strides[d]! }));
      if (d === outer) {
        split(target, start + first * inner, half, views);
        continue;
      }
      // A cut across the rows of y: the half is made on its own and copied to its position.
      const own = empty(half, { dtype: y.dtype, device: y.device });
      split(own, 0, half, views);
      const place = target.strided(half, contiguousStrides(part), target.offset + start + first * inner);
      copyWords(place, own);
      place.dispose();
      own.dispose();
    }
  }

  function launchPart(target: Tensor, start: number, part: readonly number[], at: readonly View[], size: number): void {
    const align = y.device.limits.minStorageBufferOffsetAlignment * 8;
    const bound = at.map((v) => {
      const bits = DTYPES[v.tensor.dtype].bits;
      const first = Math.floor((v.offset * bits) / align) * (align / bits);
      const elements = v.offset - first + 1 + part.reduce((sum, n, d) => sum + (n - 1) * v.strides[d]!, 0);
      // Bound as a flat range of the storage: the kernel applies the strides.
      return { of: flatOf(v.tensor), first, elements, inside: v.offset - first };
    });
    const range = (i: number): { of: Tensor; start: number; elements: number } => {
      const b = bound[i]!;
      return { of: b.of, start: b.first, elements: b.elements };
    };
    const reversed = (values: readonly number[], fill: number): [number[], number[]] => {
      const last = [...values].reverse();
      const padded = Array.from({ length: 8 }, (_, i) => last[i] ?? fill);
      return [padded.slice(0, 4), padded.slice(4)];
    };
    const [shape0, shape1] = reversed(part, 1);
    const [a0, a1] = reversed(at[0]!.strides, 0);
    const [b0, b1] = reversed(at[1]!.strides, 0);
    const [c0, c1] = reversed(at[2]!.strides, 0);
    const share = size / y.size;
    launch(strided, {
      use,
      buffers: { a: range(0), b: range(1), c: range(2), y: { of: target, start, elements: size } },
      params: {
        elements: size,
        start: 0,
        offsets: [bound[0]!.inside, bound[1]!.inside, bound[2]!.inside, part.length],
        shape0,
        shape1,
        a0,
        a1,
        b0,
        b1,
        c0,
        c1,
        scalars,
      },
      grid: grid1d(Math.ceil(size / 256)),
      cost: { flops: cost.flops * share, bytes: cost.bytes * share },
    });
    for (const b of bound) b.of.dispose();
  }
}

/** The whole storage of a view as one row of elements, for binding ranges of it. */
function flatOf(t: Tensor): Tensor {
  return t.strided([(t.storage.bytes * 8) / DTYPES[t.dtype].bits], [1], 0);
}

const broadcastStride = (t: Tensor, d: number): number => (d < 0 || t.shape[d] === 1 ? 0 : t.strides[d]!);

/** A contiguous tensor that starts where a binding may start: `x` itself if it is one, else a copy. Not recorded on the tape. */
export function contiguousCopy(x: Tensor): Tensor {
  return x.isBindable ? x : map(copy, [x]);
}

/** Returns `x` itself if it has the dtype, else a cast copy. Not recorded on the tape. */
export const asDType = (x: Tensor, dtype: DType): Tensor => (x.dtype === dtype ? x : map(copy, [x], { dtype }));
