/** Cases of einsum, triangles, the identity, repetitions and pooling. */
import { F } from "../../index.ts";
import type { DType } from "../../index.ts";
import type { Case, Input } from "../harness.ts";
import { ref } from "../reference.ts";
import { einsumRef, poolRef, repeatRef, triangleRef } from "../reference/matrices.ts";
import { distinct } from "./sorting.ts";

type Place = Pick<Input, "shape" | "layout" | "dtype">;

/** Equation, shapes, and the same equation in letters alone if it is not. */
const sums: readonly (readonly [string, readonly (readonly number[])[], string?, DType?])[] = [
  ["i->", [[1]]],
  ["ij,jk->ik", [[3, 0], [0, 5]]],
  ["ij,jk->ik", [[3, 4], [4, 5]]],
  ["bij,bkj->bik", [[2, 3, 5], [2, 4, 5]]],
  ["ij->ji", [[3, 33]]],
  ["ii->i", [[5, 5]]],
  ["ii", [[3, 3]], "ii->"],
  ["i,j->ij", [[7], [3]]],
  ["bhqd, bhkd -> bhqk", [[1, 2, 3, 8], [1, 2, 5, 8]], "bhqd,bhkd->bhqk"],
  ["ij,ij->", [[3, 7], [3, 7]]],
  ["...ij,...jk", [[2, 3, 4], [4, 5]], "aij,jk->aik"],
  ["...i,...i->...", [[2, 1, 3], [4, 3]], "abi,bi->ab"],
  ["ij,jk,kl->il", [[2, 3], [3, 4], [4, 2]]],
  ["bi,ijk,bj->bk", [[2, 3], [3, 4, 5], [2, 4]]],
  ["ij,j->", [[3, 1], [5]]],
  ["ij,kj->ki", [[3, 5], [4, 5]], undefined, "bf16"],
]; // prettier-ignore

const einsumCases = sums.map(([equation, shapes, letters = equation, dtype = "f32"]): Case => ({
  op: "einsum",
  note: equation,
  inputs: shapes.map((shape) => ({ shape, dtype })),
  run: (inputs) => F.einsum(equation, ...inputs),
  reference: (inputs) => einsumRef(letters, inputs),
  terms: 64,
}));

const triangles: readonly (readonly [Place, number, boolean?])[] = [
  [{ shape: [1, 1] }, 0],
  [{ shape: [0, 3] }, 0],
  [{ shape: [3, 3] }, 0],
  [{ shape: [5, 3] }, 1],
  [{ shape: [3, 7] }, -1],
  [{ shape: [2, 3, 33] }, 2],
  [{ shape: [2, 2, 5, 5] }, -3],
  [{ shape: [4, 4] }, 1e9],
  [{ shape: [3, 5], dtype: "f16" }, 0],
  [{ shape: [4, 8], dtype: "bf16" }, -1],
  [{ shape: [3, 5], dtype: "i32" }, 1],
  [{ shape: [6, 5], layout: "reversed" }, 0],
  [{ shape: [48, 40] }, 0, true],
];

const triangleCases = (["tril", "triu"] as const).flatMap((op) =>
  triangles
    .filter(([{ dtype }]) => dtype !== (op === "tril" ? "f16" : "bf16"))
    .map(([place, diagonal, windows = false]): Case => ({
      op,
      note: `from ${diagonal}`,
      inputs: [{ ...place }],
      run: ([x]) => F[op](x!, diagonal),
      reference: ([x]) => triangleRef(x!, diagonal, op === "tril"),
      exact: true,
      windows,
    })),
);

const identities: readonly (readonly [number, number | undefined, DType?])[] = [
  [1, undefined],
  [0, 3],
  [3, undefined],
  [5, 3],
  [3, 7],
  [33, undefined],
  [3, 4],
  [5, 5, "bf16"],
  [4, 3],
  [3, 3, "u8"],
];
const eyeCases = identities.map(([rows, columns, dtype = "f32"]): Case => ({
  op: "eye",
  note: `${rows}×${columns ?? rows} ${dtype}`,
  inputs: [{ shape: [1], constant: true }],
  run: ([x]) => F.eye(rows, columns, { dtype, device: x!.device }),
  reference: () =>
    triangleRef(
      triangleRef(ref([rows, columns ?? rows], new Float64Array(rows * (columns ?? rows)).fill(1)), 0, true),
      0,
      false,
    ),
  exact: true,
  gradient: false,
}));

const repetitions: readonly (readonly [Place, readonly number[]])[] = [
  [{ shape: [] }, []],
  [{ shape: [] }, [3]],
  [{ shape: [1] }, [5]],
  [{ shape: [3] }, [0]],
  [{ shape: [3, 5] }, [1, 1]],
  [{ shape: [3, 5] }, [2, 3]],
  [{ shape: [3, 33] }, [2, 1, 2]],
  [{ shape: [2, 3], dtype: "f16" }, [3, 2]],
  [{ shape: [2, 4], dtype: "bf16" }, [1, 3]],
  [{ shape: [6, 5], layout: "reversed" }, [2, 2]],
  [{ shape: [3, 5], layout: "inside" }, [1, 2]],
  [{ shape: [2, 3, 2, 3, 2] }, [2, 2, 2, 2, 2]],
  [{ shape: [2, 3, 2, 2, 2, 2], layout: "reversed" }, [2, 1, 2, 1, 2, 1]],
];
const repeatCases = repetitions.map(([place, sizes]): Case => ({
  op: "repeat",
  note: `by ${sizes.join(",")}`,
  inputs: [{ ...place }],
  run: ([x]) => F.repeat(x!, sizes),
  reference: ([x]) => repeatRef(x!, sizes),
  exact: true,
  terms: 8,
}));

interface PoolRow extends Place {
  readonly kernel: readonly [number, number];
  readonly stride?: readonly [number, number];
  readonly padding?: readonly [number, number];
  readonly dilation?: readonly [number, number];
  readonly ceilMode?: boolean;
  readonly countIncludePad?: boolean;
  readonly windows?: boolean;
}

const pools: readonly PoolRow[] = [
  { shape: [1, 1, 1], kernel: [1, 1] },
  { shape: [0, 2, 4, 4], kernel: [2, 2] },
  { shape: [1, 2, 4, 4], kernel: [2, 2] },
  { shape: [2, 3, 7, 5], kernel: [3, 3], stride: [2, 2], padding: [1, 1] },
  { shape: [3, 6, 7], kernel: [2, 3], stride: [1, 2] },
  { shape: [1, 2, 7, 8], kernel: [3, 2], ceilMode: true },
  { shape: [1, 2, 6, 6], kernel: [4, 4], stride: [3, 3], padding: [2, 1], ceilMode: true, countIncludePad: false },
  { shape: [1, 1, 9, 8], kernel: [3, 2], stride: [2, 1], dilation: [2, 3], padding: [1, 0] },
  { shape: [1, 2, 5, 7], kernel: [2, 2], dtype: "f16" },
  { shape: [2, 1, 4, 8], kernel: [2, 2], dtype: "bf16" },
  { shape: [1, 2, 5, 6], kernel: [2, 2], layout: "reversed" },
  { shape: [1, 3, 5, 6], kernel: [3, 3], stride: [1, 1], padding: [1, 1], layout: "inside" },
  { shape: [2, 4, 16, 16], kernel: [2, 2], windows: true },
];

const poolCases = (["maxPool2d", "avgPool2d"] as const).flatMap((op) =>
  pools
    .filter(({ dilation }) => op === "maxPool2d" || !dilation)
    .concat(op === "avgPool2d" ? [{ shape: [2, 3, 5], kernel: [2, 2], padding: [1, 1], countIncludePad: false }] : [])
    .map(({ shape, layout, dtype, kernel, windows = false, countIncludePad, ...options }): Case => {
      const include = countIncludePad ?? true;
      const stride = options.stride ?? kernel;
      return {
        op,
        note: `${kernel.join("×")} ${JSON.stringify({ ...options, countIncludePad })}`,
        inputs: [
          {
            shape,
            ...(layout && { layout }),
            ...(dtype && { dtype }),
            ...(op === "maxPool2d" && { values: distinct(shape.reduce((a, b) => a * b, 1)) }),
          },
        ],
        run: ([x]) =>
          op === "maxPool2d"
            ? F.maxPool2d(x!, kernel, options)
            : F.avgPool2d(x!, kernel, countIncludePad === undefined ? options : { ...options, countIncludePad }),
        reference: ([x]) =>
          poolRef(x!, { ...options, kernel, stride, countIncludePad: op === "maxPool2d" ? null : include }),
        exact: op === "maxPool2d",
        terms: 16,
        windows,
      };
    }),
);

export const matricesCases: Case[] = [...einsumCases, ...triangleCases, ...eyeCases, ...repeatCases, ...poolCases];
