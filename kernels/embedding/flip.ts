/** Elements in the opposite order along dimensions. */
import { ArgumentError, checkTensors, dimArray, noGrad, normalizeDim, record, scope } from "../../engine/index.ts";
import type { Tensor } from "../../engine/index.ts";
import { arange } from "../views/create.ts";
import { clone } from "../views/views.ts";
import { entriesAt } from "./embedding.ts";

/** x with its elements in the opposite order along `dims`, a copy of x's shape and dtype. */
export function flip(x: Tensor, dims: number | readonly number[]): Tensor {
  checkTensors("flip", x);
  const list = dimArray("flip", dims).map((d) => normalizeDim(d, x.rank, "flip"));
  if (new Set(list).size !== list.length)
    throw new ArgumentError(
      `flip: dims must name each dimension once; got ${JSON.stringify(dims)} for ${x}. Leave one out.`,
    );
  return record("flip", [x], reversed(x, list), [], (g) => [reversed(g, list)]);
}

const reversed = (x: Tensor, dims: readonly number[]): Tensor =>
  noGrad(() =>
    scope(() => {
      const long = dims.filter((d) => x.shape[d]! > 1);
      if (!long.length || x.size === 0) return clone(x);
      return long.reduce((y, d) => {
        const n = x.shape[d]!;
        return entriesAt(y, d, arange(n - 1, -1, -1, { dtype: "i32", device: x.device }));
      }, x);
    }),
  );
