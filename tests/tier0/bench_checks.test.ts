/** The checks of the bench's rows: what is right passes, and a wrong tile is seen wherever it is. */
import { describe, expect, it } from "vitest";
import {
  attentionGradientParts,
  attentionParts,
  convParts,
  linearParts,
  matmulParts,
} from "../../bench/rows/checks.ts";
import { exact, plain, times, transpose } from "../../bench/rows/products.ts";
import type { Host } from "../../bench/rows/products.ts";
import { someOf, wrongParts } from "../../bench/rows/row.ts";
import type { Part } from "../../bench/rows/row.ts";
import { randomFrom } from "../random.ts";
import { ref, sizeOf } from "../reference.ts";
import type { Ref } from "../reference.ts";
import { attentionRef } from "../reference/attention.ts";
import { conv2dRef } from "../reference/image.ts";
import { matmulRef, transposedRef } from "../reference/matmul.ts";

const random = randomFrom(3);
const draw = (...shape: number[]): Host => ({
  shape,
  data: Float32Array.from({ length: sizeOf(shape) }, () => 2 * random() - 1),
});
const wrong = (parts: readonly Part[]): string[] => wrongParts(parts, ["f32"], false);

/** A copy in which a square of 4 elements from [row, column] on of the last two dimensions of slice 0 is zero. */
function withHole({ shape, data }: Host, row: number, column: number): Host {
  const broken = data.slice();
  const columns = shape.at(-1)!;
  for (let i = 0; i < 2; i++) broken.fill(0, (row + i) * columns + column, (row + i) * columns + column + 2);
  return { shape, data: broken };
}

describe("matrix products", () => {
  const [a, b] = [draw(13, 9), draw(9, 11)];
  const product = matmulRef(exact(a), exact(b));
  const forms = {
    plain: [plain(a), plain(b)],
    A·Bᵗ: [plain(a), transpose(plain(transposedRef(exact(b))))],
    Aᵗ·B: [transpose(plain(transposedRef(exact(a)))), plain(b)],
  } as const;
  it.each(["plain", "A·Bᵗ", "Aᵗ·B"] as const)("%s: right ones pass, a hole outside the rows that are computed is seen", (form) => {
    const [x, y] = forms[form];
    expect(wrong(matmulParts(x, y, product, randomFrom(1)))).toEqual([]); // all rows
    const few = (z: Host): Part[] => matmulParts(x, y, z, randomFrom(1), 0);
    expect(few(product).map(({ name, got }) => [name, got.length])).toEqual([["rows", 22], ["product with a vector", 13]]);
    expect(wrong(few(product))).toEqual([]);
    expect(wrong(few(withHole(product, 5, 4)))).toEqual([expect.stringMatching(/^product with a vector/)]);
  }); // prettier-ignore
  it("of a linear layer, and its first and last row", () => {
    const weight = draw(7, 9);
    const y = matmulRef(exact(a), transposedRef(exact(weight)));
    expect(wrong(linearParts(a, weight, y, randomFrom(1)))).toEqual([]);
    expect(wrong(linearParts(a, weight, withHole(y, 11, 5), randomFrom(1)))).toHaveLength(1);
  });
  it("have all sums, whatever the remainders of four and two are", () => {
    for (const [m, k, n] of [[1, 1, 1], [4, 5, 2], [6, 7, 3], [9, 4, 5]] as const) {
      const [x, y] = [exact(draw(m, k)), exact(draw(k, n))];
      const expected = matmulRef(x, y).data;
      for (const z of [plain(y), transpose(plain(transposedRef(y)))])
        for (const [i, v] of times(x.data, z).entries()) expect(v).toBeCloseTo(expected[i]!, 12);
    }
  }); // prettier-ignore
});

describe("convolutions", () => {
  it.each([
    [1, [1, 1, 1, 1], 3],
    [2, [0, 1, 1, 0], 3],
    [1, [0, 0, 0, 0], 1],
    [2, [1, 0, 0, 2], 2],
  ] as const)("with stride %i, padding %j, kernel %i", (stride, padding, kernel) => {
    const [x, w, bias] = [draw(1, 3, 7, 6), draw(5, 3, kernel, kernel), draw(5)];
    const y = conv2dRef(exact(x), exact(w), exact(bias), stride, padding);
    const check = (z: Host): Part[] => convParts([x, w, bias], z, { stride, padding }, randomFrom(1));
    expect(wrong(check(y))).toEqual([]);
    expect(wrong(check(withHole(y, 1, 1))).map((text) => text.split(":")[0])).toEqual(["channels", "sum of channels"]);
  });
});

describe("attention", () => {
  const inputs = [draw(1, 2, 6, 4), draw(1, 2, 6, 4), draw(1, 2, 6, 4), draw(1, 2, 6, 4)] as const;
  const [q, k, v, dy] = inputs.map(exact) as [Ref, Ref, Ref, Ref];
  it.each([true, false])("causal: %s", (causal) => {
    const y = attentionRef(q, k, v, { causal });
    expect(wrong(attentionParts(inputs, y, causal, randomFrom(1)))).toEqual([]);
    expect(wrong(attentionParts(inputs, withHole(y, 9, 1), causal, randomFrom(1)))).toHaveLength(1);
  });
  it("gradients are the slopes of the reference", () => {
    const loss = (x: readonly Ref[]): number =>
      attentionRef(x[0]!, x[1]!, x[2]!, { causal: true }).data.reduce((sum, value, i) => sum + value * dy.data[i]!, 0);
    const step = 1e-4;
    const gradients = [0, 1, 2].map((input) => {
      const moved = (i: number, by: number): number =>
        loss([q, k, v].map((x, j) => (j === input ? ref(x.shape, x.data.with(i, x.data[i]! + by)) : x)));
      return ref(
        q.shape,
        Array.from(q.data, (_, i) => (moved(i, step) - moved(i, -step)) / (2 * step)),
      );
    });
    expect(wrong(attentionGradientParts(inputs, gradients, randomFrom(1)))).toEqual([]);
    const holes = gradients.map((g) => withHole(withHole(g, 2, 1), 8, 1)); // in both heads
    expect(wrong(attentionGradientParts(inputs, holes, randomFrom(1)))).toHaveLength(3);
  });
});

it("choices are spread: one in each run, the first and the last among them", () => {
  expect(someOf(5, 8, randomFrom(1))).toEqual([0, 1, 2, 3, 4]);
  const at = someOf(100, 10, randomFrom(1));
  expect([at[0], at.at(-1)]).toEqual([0, 99]);
  expect(at.map((i) => Math.floor(i / 10))).toEqual([0, 1, 2, 3, 4, 5, 6, 7, 8, 9]);
  expect(someOf(100, 1, randomFrom(1))).toHaveLength(1);
});
