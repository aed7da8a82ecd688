/**
 * References: each op's forward in float64 by plain loops, nothing shared with the engine. A `Ref` is a contiguous array of doubles.
 * The families are in `reference/`; here is what they share.
 */
export interface Ref {
  readonly shape: readonly number[];
  readonly data: Float64Array;
}

export const sizeOf = (shape: readonly number[]): number => shape.reduce((a, b) => a * b, 1);

export const ref = (shape: readonly number[], data: ArrayLike<number> = new Float64Array(sizeOf(shape))): Ref => ({
  shape: [...shape],
  data: data instanceof Float64Array ? data : Float64Array.from(data),
});

/** Row-major strides. */
export function stridesOf(shape: readonly number[]): number[] {
  const strides: number[] = new Array<number>(shape.length);
  let step = 1;
  for (let d = shape.length - 1; d >= 0; d--) {
    strides[d] = step;
    step *= shape[d]!;
  }
  return strides;
}

/** `fn` of each row of the last dimension; it gives as many numbers as it takes. */
export function alongRows(x: Ref, fn: (row: Float64Array) => ArrayLike<number>): Ref {
  const columns = x.shape.at(-1)!;
  const data = new Float64Array(x.data.length);
  for (let at = 0; at < data.length; at += columns) data.set(fn(x.data.subarray(at, at + columns)), at);
  return ref(x.shape, data);
}

/** Calls `fn` with each index of `shape` in row-major order. */
export function eachIndex(shape: readonly number[], fn: (index: readonly number[], flat: number) => void): void {
  const index = new Array<number>(shape.length).fill(0);
  const n = sizeOf(shape);
  for (let flat = 0; flat < n; flat++) {
    fn(index, flat);
    for (let d = shape.length - 1; d >= 0; d--) {
      if (++index[d]! < shape[d]!) break;
      index[d] = 0;
    }
  }
}

/** Elementwise with broadcasting. */
export function mapRef(fn: (...values: number[]) => number, ...inputs: readonly Ref[]): Ref {
  const rank = Math.max(...inputs.map((r) => r.shape.length));
  const shape = Array.from({ length: rank }, (_, d) => {
    const sizes = inputs.map((r) => r.shape[d - rank + r.shape.length] ?? 1);
    return sizes.find((n) => n !== 1) ?? 1;
  });
  const strides = inputs.map((r) => {
    const own = stridesOf(r.shape);
    return shape.map((_, d) => {
      const at = d - rank + r.shape.length;
      return at < 0 || r.shape[at] === 1 ? 0 : own[at]!;
    });
  });
  const out = ref(shape);
  eachIndex(shape, (index, flat) => {
    out.data[flat] = fn(...inputs.map((r, i) => r.data[index.reduce((sum, v, d) => sum + v * strides[i]![d]!, 0)]!));
  });
  return out;
}

/** Dimensions in another order. */
export function permuteRef(x: Ref, dims: readonly number[]): Ref {
  const strides = stridesOf(x.shape);
  const out = ref(dims.map((d) => x.shape[d]!));
  eachIndex(out.shape, (index, flat) => {
    out.data[flat] = x.data[index.reduce((sum, v, i) => sum + v * strides[dims[i]!]!, 0)]!;
  });
  return out;
}

export const reshapeRef = (x: Ref, shape: readonly number[]): Ref => ref(shape, x.data);
