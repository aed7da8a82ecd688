/** Triangles of matrices, elements in the opposite order, and repetitions. */
import { ArgumentError, ShapeError, checkTensors, record, scope } from "../../engine/index.ts";
import type { Tensor } from "../../engine/index.ts";
import { expression, map } from "../core/map.ts";
import { arange } from "./create.ts";
import { contiguous, expand, reshape } from "./views.ts";

// a: the matrix, b: its rows' indices, c: those of its columns.
const lower = expression("tril", "select(V4_y(), V4_y(a), c - b <= V4_c(i32(s.x)))");
const upper = expression("triu", "select(V4_y(), V4_y(a), c - b >= V4_c(i32(s.x)))");

/** x [..., R, C] with zeros above diagonal `diagonal` (0 is the main one, 1 the next above it), of x's dtype. */
export const tril = (x: Tensor, diagonal = 0): Tensor => triangle("tril", x, diagonal);

/** x [..., R, C] with zeros below diagonal `diagonal`, of x's dtype. */
export const triu = (x: Tensor, diagonal = 0): Tensor => triangle("triu", x, diagonal);

function triangle(op: "tril" | "triu", x: Tensor, diagonal: number): Tensor {
  checkTensors(op, x);
  if (x.rank < 2) throw new ShapeError(`${op}: x must be [..., R, C]; got ${x}. Reshape it.`);
  if (!Number.isInteger(diagonal))
    throw new ArgumentError(`${op}: diagonal must be a whole number; got ${diagonal}. Use 0 for the main one.`);
  const [rows, columns] = x.shape.slice(-2) as [number, number];
  const held = Math.max(-rows, Math.min(columns, diagonal)); // all beyond is the same
  const cut = (t: Tensor): Tensor =>
    scope(() => {
      const at = { dtype: "i32", device: t.device } as const;
      const row = arange(0, rows, 1, at).strided([rows, 1], [1, 1]);
      return map(op === "tril" ? lower : upper, [t, row, arange(0, columns, 1, at)], {
        scalars: [held],
        shape: t.shape,
      });
    });
  return record(op, [x], cut(x), [], (g) => [cut(g)]);
}

/** x repeated `sizes[d]` times along each dimension, as PyTorch's `repeat`: more sizes than dimensions add dimensions in front. */
export function repeat(x: Tensor, sizes: readonly number[]): Tensor {
  checkTensors("repeat", x);
  if (!Array.isArray(sizes) || !sizes.every((n) => Number.isInteger(n) && n >= 0))
    throw new ArgumentError(
      `repeat: sizes must be whole numbers of at least 0, one a dimension; got ${JSON.stringify(sizes)}. Pass an array.`,
    );
  if (sizes.length < x.rank)
    throw new ShapeError(
      `repeat: sizes must name each dimension of x; got ${sizes.length} for ${x}. Put 1 for those that stay.`,
    );
  const shape = [...new Array<number>(sizes.length - x.rank).fill(1), ...x.shape];
  return scope(() => {
    const repeated = [...sizes.keys()].filter((d) => sizes[d] !== 1);
    // Three dimensions at a time, of contiguous ones: a copy takes views of eight dimensions at most.
    let y = reshape(repeated.length + x.rank > 8 ? contiguous(x) : x, shape);
    for (let at = 0; at < repeated.length; at += 3) {
      const now = repeated.slice(at, at + 3);
      const times = (d: number): number => (now.includes(d) ? sizes[d]! : 1);
      const apart = reshape(
        y,
        y.shape.flatMap((n) => [1, n]),
      );
      const wide = expand(
        apart,
        y.shape.flatMap((n, d) => [times(d), n]),
      );
      y = reshape(
        wide,
        y.shape.map((n, d) => n * times(d)),
      );
    }
    return y;
  });
}
