/** Cases of guidance, and of sampling if the token does not depend on the random numbers; draws are in `tier1/sampling.test.ts`. */
import { F, Generator } from "../../index.ts";
import type { DType, Tensor } from "../../index.ts";
import type { Case, Input } from "../harness.ts";
import { argmaxRef, guidanceRef } from "../reference/sampling.ts";

const floats: readonly DType[] = ["f32", "f16", "bf16"];
type Place = Pick<Input, "shape" | "layout">;

const pairs: readonly (readonly [Place, { windows?: boolean }?])[] = [
  [{ shape: [2, 1] }],
  [{ shape: [0, 4] }],
  [{ shape: [2, 3] }],
  [{ shape: [4, 33] }],
  [{ shape: [6, 70] }],
  [{ shape: [2, 257] }],
  [{ shape: [10, 64] }],
  [{ shape: [70, 32] }, { windows: true }],
  [{ shape: [4, 6], layout: "reversed" }],
  [{ shape: [6, 5], layout: "inside" }],
];

const guidanceCases = pairs.flatMap(([place, more], i) =>
  floats.map((dtype): Case => {
    const weight = [5, 1, 0, 2.5][i % 4]!;
    return {
      op: "guidance",
      note: `weight ${weight}`,
      inputs: [{ ...place, dtype }],
      run: ([x]) => F.guidance(x!, weight),
      reference: ([x]) => guidanceRef(x!, weight),
      ...more,
    };
  }),
);

const rows: readonly (readonly [Place, { windows?: boolean }?])[] = [
  [{ shape: [1, 1] }],
  [{ shape: [0, 3] }],
  [{ shape: [1, 3] }],
  [{ shape: [3, 33] }],
  [{ shape: [5, 70] }],
  [{ shape: [2, 257] }],
  [{ shape: [33, 8] }],
  [{ shape: [70, 64] }, { windows: true }],
  [{ shape: [2, 5000] }],
  [{ shape: [1, 16384] }],
  [{ shape: [6, 5], layout: "reversed" }],
  [{ shape: [4, 12], layout: "inside" }],
];

/** Ways to sample that leave one token: none of them depends on what is drawn. */
const certain: Readonly<Record<string, (x: Tensor, generator: Generator) => Tensor>> = {
  "temperature 0": (x) => F.sampleTokens(x, { temperature: 0 }),
  "k = 1": (x, generator) => F.sampleTokens(x, { topK: 1, generator }),
  "p near 0": (x, generator) => F.sampleTokens(x, { topP: 1e-6, temperature: 2, generator }),
  "k = 5, p near 0": (x, generator) => F.sampleTokens(x, { topK: 5, topP: 1e-6, generator }),
};

const sampleCases = rows.flatMap(([place, more]) =>
  Object.entries(certain).flatMap(([note, run]) =>
    floats.map((dtype): Case => {
      const count = place.shape.reduce((a, b) => a * b, 1);
      return {
        op: "sampleTokens",
        note,
        // Few different values: the largest is there more than once.
        inputs: [
          {
            ...place,
            dtype,
            values: (random) => Array.from({ length: count }, () => Math.floor(random() * 40) / 4 - 5),
          },
        ],
        run: ([x]) => {
          const generator = new Generator(1, { device: x!.device });
          const tokens = run(x!, generator);
          generator.dispose();
          return tokens;
        },
        reference: ([x]) => argmaxRef(x!),
        exact: true,
        gradient: false,
        ...more,
      };
    }),
  ),
);

export const samplingCases: Case[] = [...guidanceCases, ...sampleCases];
