/** Splits a product larger than a binding or a grid into launches, and binds the operands. Used by `launch.ts`. */
import { DTYPES, ShapeError, elementBytes } from "../../engine/index.ts";
import type { Bound, Device, Tensor } from "../../engine/index.ts";

/** A tensor seen through one step per dimension of the problem, in elements from `offset` of its storage. */
export interface Operand {
  readonly tensor: Tensor;
  readonly offset: number;
  readonly steps: readonly number[];
}

/** Workgroups of a dimension of a grid, at most. */
export const MAX_GROUPS = 65535;

/** The binding of a part of an operand, and the element of it at which the part starts. */
export interface BoundPart {
  readonly bound: Bound;
  readonly offset: number;
}

export interface Part {
  readonly starts: readonly number[];
  readonly sizes: readonly number[];
}

/**
 * Halves a problem of `sizes` repeatedly until the part of every operand fits one binding and `tooLong` names no
 * dimension. Parts come in order along every dimension.
 * @param granules parts of dimension d start at multiples of `granules[d]`
 */
export function partsOf(
  op: string,
  device: Device,
  sizes: readonly number[],
  operands: readonly Operand[],
  granules: readonly number[],
  tooLong: (sizes: readonly number[]) => number,
): Part[] {
  const limit = device.limits.maxStorageBufferBindingSize;
  // A binding starts up to an alignment before the part and ends up to a granule after it.
  const slack = device.limits.minStorageBufferOffsetAlignment + 16;
  const parts: Part[] = [];
  const cut = (starts: readonly number[], counts: readonly number[]): void => {
    let d = tooLong(counts);
    if (d < 0) {
      const large = operands.find((o) => elementBytes(o.tensor.dtype, span(o.steps, counts)) + slack > limit);
      if (!large) return void parts.push({ starts, sizes: counts });
      const reach = counts.map((n, i) => (n > granules[i]! ? (n - 1) * large.steps[i]! : 0));
      d = reach.indexOf(Math.max(...reach));
      if (reach[d] === 0)
        throw new ShapeError(
          `${op}: operands must split into parts that fit a binding of ${limit} bytes; got ${large.tensor}. Use smaller dimensions.`,
        );
    }
    const unit = granules[d]!;
    const head = Math.ceil(counts[d]! / 2 / unit) * unit;
    cut(starts, counts.with(d, head));
    cut(starts.with(d, starts[d]! + head), counts.with(d, counts[d]! - head));
  };
  cut(
    sizes.map(() => 0),
    sizes,
  );
  return parts;
}

/** Elements from the first to the last that a part touches. */
const span = (steps: readonly number[], sizes: readonly number[]): number =>
  sizes.reduce((sum, n, d) => sum + (n - 1) * steps[d]!, 1);

export function bindPart(operand: Operand, part: Part): BoundPart {
  const { tensor } = operand;
  const bits = DTYPES[tensor.dtype].bits;
  const align = (tensor.device.limits.minStorageBufferOffsetAlignment * 8) / bits;
  const first = part.starts.reduce((sum, n, d) => sum + n * operand.steps[d]!, operand.offset);
  const start = Math.floor(first / align) * align;
  const elements = Math.ceil((first - start + span(operand.steps, part.sizes)) / 4) * 4;
  // Bindings are flat ranges of the storage: the kernel applies the steps. The scope of the op frees the flat view.
  const flat = tensor.isContiguous ? tensor : tensor.strided([(tensor.storage.bytes * 8) / bits], [1], 0);
  return { bound: { of: flat, start: start - flat.offset, elements }, offset: first - start };
}
