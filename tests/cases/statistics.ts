/** Cases of variance, standard deviation, log-sum-exp and the losses of elements. */
import { F } from "../../index.ts";
import type { Case, Input } from "../harness.ts";
import { logsumexpRef, lossRef, stdRef, varianceRef } from "../reference/statistics.ts";

type Place = Pick<Input, "shape" | "layout" | "dtype">;

/** x, dimensions, correction, keepdim. */
const rows: readonly (readonly [Place, readonly number[], number, boolean, boolean?])[] = [
  [{ shape: [2] }, [0], 1, false],
  [{ shape: [0, 4] }, [1], 1, true],
  [{ shape: [33] }, [0], 0, false],
  [{ shape: [5, 2] }, [1], 1.5, false],
  [{ shape: [5, 7] }, [0], 1, true],
  [{ shape: [3, 70] }, [1], 1, false],
  [{ shape: [2, 3, 5] }, [0, 2], 0, false],
  [{ shape: [2, 3, 4] }, [0, 1, 2], 2, true],
  [{ shape: [3, 257] }, [1], 1, false],
  [{ shape: [4, 8], dtype: "f16" }, [1], 1, false],
  [{ shape: [3, 33], dtype: "bf16" }, [1], 0, false],
  [{ shape: [6, 5], layout: "reversed" }, [0], 1, false],
  [{ shape: [64, 64] }, [1], 1, false, true],
];

const momentCases = (["var", "std"] as const).flatMap((op) =>
  rows
    .filter(([{ dtype }]) => dtype !== (op === "var" ? "bf16" : "f16"))
    .map(([place, dims, correction, keepdim, windows = false]): Case => ({
      op,
      note: `over ${dims.join(",")}${correction === 1 ? "" : `, correction ${correction}`}`,
      inputs: [{ ...place, low: 1, high: 3 }],
      run: ([x]) => F[op](x!, dims, { correction, keepdim }),
      reference: ([x]) => (op === "var" ? varianceRef : stdRef)(x!, dims, correction, keepdim),
      terms: 64 * 257, // the mean is taken away: a difference of numbers ten times its size
      windows,
    })),
);

const logsumexpCases: Case[] = rows
  .filter(([{ dtype }]) => dtype !== "f16")
  .map(([place, dims, , keepdim, windows = false], i) => ({
    op: "logsumexp",
    note: `over ${dims.join(",")}`,
    inputs: [{ ...place, ...(i % 3 === 2 && { low: -90, high: 90 }) }],
    run: ([x]) => F.logsumexp(x!, dims, keepdim),
    reference: ([x]) => logsumexpRef(x!, dims, keepdim),
    terms: 64 * 257,
    windows,
  }));

const lossRows: readonly (readonly [Place, "mean" | "sum" | "none", boolean?])[] = [
  [{ shape: [] }, "mean"],
  [{ shape: [0] }, "sum"],
  [{ shape: [1] }, "none"],
  [{ shape: [33] }, "mean"],
  [{ shape: [5, 7] }, "none"],
  [{ shape: [2, 3, 70] }, "sum"],
  [{ shape: [4, 8], dtype: "f16" }, "none"],
  [{ shape: [3, 33], dtype: "bf16" }, "mean"],
  [{ shape: [6, 5], layout: "reversed" }, "none"],
  [{ shape: [4, 6], layout: "inside" }, "sum"],
  [{ shape: [64, 48] }, "none", true],
];
const RANGES = {
  mseLoss: {},
  binaryCrossEntropy: { low: 0.05, high: 0.95 },
  binaryCrossEntropyWithLogits: { low: -6, high: 6 },
} as const;

const lossCases = (["mseLoss", "binaryCrossEntropy", "binaryCrossEntropyWithLogits"] as const).flatMap((op) =>
  lossRows
    .filter(([{ dtype }]) => dtype !== (op === "mseLoss" ? "bf16" : "f16"))
    .map(([place, reduction, windows = false]): Case => ({
      op,
      note: reduction,
      inputs: [
        { ...place, ...RANGES[op] },
        { ...place, low: 0, high: op === "mseLoss" ? -3 : 1 },
      ],
      run: ([x, t]) => F[op](x!, t!, { reduction }),
      reference: ([x, t]) => lossRef(op, x!, t!, reduction),
      terms: 420,
      windows,
    })),
);

export const statisticsCases: Case[] = [...momentCases, ...logsumexpCases, ...lossCases];
