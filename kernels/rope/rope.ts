/**
 * Rotary position embedding (Su et al. 2021, arXiv:2104.09864) in the half-split ("rotate-half") convention of Llama.
 *
 * Angles: position · θ_i reaches 16,383 radians, at which an f32 product is off by 1e-3 and GPUs' sin and cos by more. A table of sines would
 * have to know the largest position; instead θ_i is kept as a 64-bit fraction of a turn (made in f64), and the kernel multiplies and
 * reduces it in integers, exact for every 32-bit position (`lib/turns.wgsl`).
 */
import {
  ArgumentError,
  DTYPES,
  DTypeError,
  ShapeError,
  checkTensors,
  deviceConstant,
  elementBytes,
  empty,
  grid1d,
  isFloat,
  kernel,
  launch,
  library,
  record,
  sameShape,
  scope,
  shapeText,
  knownOptions,
} from "../../engine/index.ts";
import type { Device, Tensor } from "../../engine/index.ts";
import { philox, rowLibrary, standard } from "../core/libraries.ts";
import { asDType, contiguousCopy, copy, map } from "../core/map.ts";

export const turns = library("turns", new URL("./lib/turns.wgsl", import.meta.url), [philox]);

const rotate = kernel(
  "rope",
  new URL("./rope.wgsl", import.meta.url),
  { x: "read", positions: "read", frequencies: "read", y: "write" },
  { size: "vec4u", src: "vec4u", dst: "vec4u", positions: "vec4u", sign: "f32" },
  [...standard, turns],
);

/** Heads that one invocation rotates: few for parallelism on GPUs; on software devices all, since the angle costs as much as four heads. */
export const headsOf = (device: Device): number => (device.capabilities.software ? 16 : 4);

export interface RopeOptions {
  /** Base of the frequencies θ_i = theta^(−2i/D); the default is 10,000. */
  readonly theta?: number;
  /** The dimension of x that counts tokens: −2 (the default) for [B, H, T, D], −3 for [B, T, H, D]. */
  readonly dim?: -2 | -3;
}

/**
 * x [B, H, T, D] (or [B, T, H, D] with `dim: -3`; leading dimensions may be missing), positions [T] or [B, T] → x of the same shape and
 * dtype with each pair (i, i + D/2) of a head rotated by position · theta^(−2i/D). Positions are read on the GPU and
 * need not be in order; i32, or u32 below 2^31. x may be strided as long as its last dimension is not. Gradient: the
 * inverse rotation.
 * @throws ShapeError if D is odd or positions do not fit; DTypeError for integer x or other positions
 */
export function rope(x: Tensor, positions: Tensor, options: RopeOptions = {}): Tensor {
  knownOptions("rope", options, ["theta", "dim"]);
  const { theta = 10000, dim = -2 } = options;
  checkTensors("rope", x, positions);
  if (!isFloat(x.dtype)) throw new DTypeError(`rope: x must have a floating dtype; got ${x}. Cast it to f32 first.`);
  if (positions.dtype !== "i32" && positions.dtype !== "u32")
    throw new DTypeError(`rope: positions must be i32 or u32; got ${positions}. Cast them.`);
  if (dim !== -2 && dim !== -3)
    throw new ArgumentError(
      `rope: dim must be −2 for [B, H, T, D] or −3 for [B, T, H, D]; got ${String(dim)}. Change it.`,
    );
  if (!(theta > 0) || !Number.isFinite(theta))
    throw new ArgumentError(`rope: theta must be a finite number above 0; got ${theta}. Change it.`);
  if (x.rank < -dim || x.rank > 4)
    throw new ShapeError(
      `rope: x must be ${dim === -2 ? "[B, H, T, D], [B, T, D] or [T, D]" : "[B, T, H, D] or [T, H, D]"}; got ${x}. Reshape it.`,
    );
  if (x.shape.at(-1)! % 2)
    throw new ShapeError(`rope: the last dimension must be even for pairs (i, i + D/2); got ${x}. Change it.`);
  const tokens = x.shape.at(dim)!;
  const batches = x.rank > -dim ? x.shape[0]! : 1;
  if (!sameShape(positions.shape, [tokens]) && !sameShape(positions.shape, [batches, tokens])) {
    throw new ShapeError(
      `rope: positions must be [${tokens}] or [${batches}, ${tokens}] for x ${shapeText(x.shape)}; got ${positions}. Reshape them.`,
    );
  }
  const y = scope(() => rotated(x, positions, { theta, dim, sign: 1 }));
  return record("rope", [x], y, [positions], (g, [places]) => [rotated(g, places!, { theta, dim, sign: -1 })]);
}

/** Sizes, or strides in elements, of [batch, token, head]. */
type Triple = readonly [number, number, number];

interface Rotation extends Required<RopeOptions> {
  readonly sign: 1 | -1;
  /** A view of the shape and dtype of x, of granules of 4; a new tensor without it. */
  readonly into?: Tensor;
}

/** The launches of `rope`, or of its gradient with sign −1. */
export function rotated(x: Tensor, positions: Tensor, { theta, dim, sign, into }: Rotation): Tensor {
  const D = x.shape.at(-1)!;
  const width = D % 8 === 0 ? 4 : 1;
  const source = operand(x, width);
  const y = into ?? empty(x.shape, { dtype: source.dtype, device: x.device });
  if (y.size === 0) return asDType(y, x.dtype);
  const places = contiguousCopy(positions);
  const HEADS = headsOf(x.device);
  const table = frequencies(x.device, D, theta);
  const pad = <T>(values: readonly T[], one: T): T[] => [...Array<T>(4 - values.length).fill(one), ...values];
  const triple = (values: readonly number[], one: number): Triple => {
    const [a, b, c] = pad(values, one) as [number, number, number, number];
    return dim === -2 ? [a, c, b] : [a, b, c];
  };
  const from = triple(source.strides, 0);
  const to = triple(y.strides, 0);
  const use = { x: width === 4 ? source.dtype : rowLibrary("f32", 1), y: width === 4 ? y.dtype : rowLibrary("f32", 1) };
  const batchStride = positions.rank === 2 ? positions.shape[1]! : 0;
  const align = (t: Tensor): number => (t.device.limits.minStorageBufferOffsetAlignment * 8) / DTYPES[t.dtype].bits;
  const span = (t: Tensor, size: Triple, strides: Triple): number =>
    D + size.reduce((sum, n, i) => sum + (n - 1) * strides[i]!, 0) + align(t);

  // One launch if all parts fit a binding; else the box is cut in two along the dimension that is outermost in y.
  const part = (size: Triple, first: Triple): void => {
    const limit = x.device.limits.maxStorageBufferBindingSize - 16;
    if (
      elementBytes(source.dtype, span(source, size, from)) > limit ||
      elementBytes(y.dtype, span(y, size, to)) > limit
    ) {
      const d = size.reduce((best, n, i) => (n > 1 && (size[best] === 1 || to[i]! > to[best]!) ? i : best), 0);
      if (size[d]! > 1) {
        const head = Math.ceil(size[d]! / 2);
        part(size.with(d, head) as unknown as Triple, first);
        part(size.with(d, size[d]! - head) as unknown as Triple, first.with(d, first[d]! + head) as unknown as Triple);
        return;
      }
    }
    const window = (
      t: Tensor,
      strides: Triple,
    ): { bound: { of: Tensor; start: number; elements: number }; steps: number[] } => {
      const at = t.offset + first.reduce((sum, n, i) => sum + n * strides[i]!, 0);
      const start = Math.floor(at / align(t)) * align(t);
      const of = t.strided([(t.storage.bytes * 8) / DTYPES[t.dtype].bits], [1], 0);
      return {
        bound: { of, start, elements: span(t, size, strides) - align(t) + at - start },
        steps: [...strides, at - start].map((n) => n / width),
      };
    };
    const [xs, ys] = [window(source, from), window(y, to)];
    const half = D / 2 / width;
    launch(rotate, {
      use,
      constants: { HEADS },
      buffers: { x: xs.bound, positions: places, frequencies: table, y: ys.bound },
      params: {
        size: [...size, half],
        src: xs.steps,
        dst: ys.steps,
        positions: [first[0] * batchStride + first[1], batchStride, 0, 0],
        sign,
      },
      grid: grid1d(Math.ceil((size[0] * size[1] * Math.ceil(size[2] / HEADS) * half) / 64)),
      cost: {
        flops: 3 * size[0] * size[1] * size[2] * D,
        bytes: elementBytes(x.dtype, 2 * size[0] * size[1] * size[2] * D),
      },
    });
  };
  part(triple(x.shape, 1), [0, 0, 0]);
  return asDType(y, x.dtype);
}

/** `x` if the kernel can walk its strides in granules of `width` elements, else a contiguous copy. */
function operand(x: Tensor, width: number): Tensor {
  if (width === 1 && x.dtype !== "f32") return map(copy, [x], { dtype: "f32" });
  const walks =
    x.shape.at(-1)! === 0 ||
    (x.strides.at(-1) === 1 &&
      x.offset % width === 0 &&
      x.strides.every((s, d) => d === x.rank - 1 || x.shape[d] === 1 || s % width === 0));
  return walks ? x : map(copy, [x]);
}

/** [D/2, 2] u32: theta^(−2i/D) / 2π as a 64-bit fraction, upper word first. A constant of the device. */
export function frequencies(device: Device, D: number, theta: number): Tensor {
  return deviceConstant(device, `rope frequencies ${D} ${theta}`, () => {
    const words = new Uint32Array(D);
    for (let i = 0; i < D / 2; i++) {
      const turns = (theta ** ((-2 * i) / D) / (2 * Math.PI)) % 1;
      words[2 * i] = Math.floor(turns * 2 ** 32);
      words[2 * i + 1] = Math.floor(((turns * 2 ** 32) % 1) * 2 ** 32);
    }
    return { shape: [D / 2, 2], dtype: "u32", bytes: new Uint8Array(words.buffer) };
  });
}
