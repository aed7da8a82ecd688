/** Counts the infinite and NaN elements of tensors, for loaders, samplers and failed training steps. */
import {
  DTypeError,
  checkTensors,
  elementBytes,
  empty,
  grid1d,
  isFloat,
  kernel,
  launch,
  scope,
} from "../../engine/index.ts";
import type { DType, Tensor } from "../../engine/index.ts";
import { grid } from "../core/libraries.ts";
import { fillInto } from "../core/copy.ts";
import { contiguousCopy } from "../core/map.ts";
import { windowsOf } from "../core/windows.ts";

const countKernel = kernel(
  "count_nonfinite",
  new URL("./count_nonfinite.wgsl", import.meta.url),
  { x: "read", count: "read_write" },
  { elements: "u32", invocations: "u32" },
  [grid],
);

/** Bits of the exponent in a word's low element; all are set if it is not finite. */
const EXPONENTS: Readonly<Partial<Record<DType, number>>> = { f32: 0x7f800000, bf16: 0x7f80, f16: 0x7c00 };

/** Granules that one invocation reads at least, and the most invocations of a launch. */
const GRANULES = 16;
const MAX_INVOCATIONS = 2 ** 18;

/**
 * x [...] of f32, f16 or bf16 → u32 []: the number of elements that are infinite or NaN. Reads x once; not recorded on the tape.
 * Throws `DTypeError` for integers, which are always finite.
 */
export function countNonFinite(x: Tensor): Tensor {
  const device = checkTensors("countNonFinite", x);
  if (!isFloat(x.dtype))
    throw new DTypeError(`countNonFinite: x must be f32, f16 or bf16; got ${x}. Integers are always finite.`);
  return scope(() => {
    const count = empty([], { dtype: "u32", device });
    fillInto(count, 0);
    const from = contiguousCopy(x.detach());
    for (const { count: elements, buffers } of windowsOf("countNonFinite", x.size, { x: from })) {
      const bytes = elementBytes(x.dtype, elements);
      const invocations = Math.min(MAX_INVOCATIONS, Math.ceil(bytes / 16 / GRANULES));
      launch(countKernel, {
        constants: { HALVES: x.dtype !== "f32", EXPONENT: EXPONENTS[x.dtype]! },
        buffers: { ...buffers, count },
        params: { elements, invocations },
        grid: grid1d(Math.ceil(invocations / 64)),
        cost: { flops: elements, bytes },
      });
    }
    return count;
  });
}
