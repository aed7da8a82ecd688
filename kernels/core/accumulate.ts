/** x += y in place, for the accumulation of gradients. */
import { ShapeError, elementBytes, grid1d, isFloat, kernel, launch, sameShape, scope } from "../../engine/index.ts";
import type { Tensor } from "../../engine/index.ts";
import { add } from "./arithmetic.ts";
import { standard } from "./libraries.ts";
import { copyInto } from "./copy.ts";
import { contiguousCopy, copy, map } from "./map.ts";
import { windowsOf } from "./windows.ts";

const accumulate = kernel(
  "accumulate",
  new URL("./accumulate.wgsl", import.meta.url),
  { x: "read_write", y: "read" },
  { granules: "u32" },
  standard,
);

/** x += y; `x` is bindable, the shapes are equal, both have float dtypes. */
export function accumulateInto(x: Tensor, y: Tensor): void {
  if (!sameShape(x.shape, y.shape) || !isFloat(x.dtype) || !isFloat(y.dtype))
    throw new ShapeError(
      `addInto: both tensors must be float tensors of the same shape; got ${y} into ${x}. Change one of them.`,
    );
  if (!x.isWritable) {
    // Other tensors share the last granule: add in a temporary and write it word by word.
    scope(() => copyInto(x, map(add, [x, y], { dtype: x.dtype })));
    return;
  }
  const from = contiguousCopy(y);
  for (const { count, buffers } of windowsOf("addInto", x.size, { x, y: from })) {
    const granules = Math.ceil(count / 4);
    launch(accumulate, {
      use: { x: x.dtype, y: from.dtype },
      buffers,
      params: { granules },
      grid: grid1d(Math.ceil(granules / 256)),
      cost: { flops: count, bytes: elementBytes(x.dtype, 2 * count) + elementBytes(y.dtype, count) },
    });
  }
  if (from !== y) from.dispose();
}

/** Adds a gradient to the existing one: leaves accumulate in f32; between ops the sum overwrites the first if allowed. */
export function accumulateGradient(into: Tensor | null, grad: Tensor, inPlace: boolean, leaf: boolean): Tensor {
  if (!into) return leaf ? map(copy, [grad], { dtype: "f32" }) : contiguousCopy(grad);
  if (inPlace && into.isBindable) {
    accumulateInto(into, grad);
    return into;
  }
  return map(add, [into, grad], { dtype: leaf ? "f32" : into.dtype });
}
