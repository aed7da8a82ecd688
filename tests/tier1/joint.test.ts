/** Ops that a layer in training is made of: the bits of the ops that they replace, and gradients that are added up where they lie. */
import { describe, expect, it } from "vitest";
import { F, ShapeError, backward, scope, tally, zeroGradients } from "../../index.ts";
import type { DType, Tensor } from "../../index.ts";
import { useDevice } from "../gpu.ts";

const device = useDevice();

/** The values of a tensor; a zero has no sign: the ops that are replaced add zeros to it. */
const values = async (t: Tensor): Promise<number[]> => Array.from(await t.data(), (v) => v + 0);
const random = (shape: readonly number[], dtype: DType = "f32"): Tensor => F.randn(shape, { dtype });
const leaf = (t: Tensor): Tensor => {
  const own = t.keep();
  own.requiresGrad = true;
  return own;
};
/** Matrices [rows, 64] that lie behind one another. */
const adjacent = (rows: readonly number[], dtype: DType = "f32"): Tensor[] =>
  scope(() => {
    const whole = random([rows.reduce((a, b) => a + b), 64], dtype);
    let first = 0;
    return rows.map((n) => {
      const part = whole.strided([n, 64], [64, 1], first * 64);
      first += n;
      return leaf(part);
    });
  });
/** Loss with other slopes in each element, backward, gradients of the leaves, which are then dropped. */
async function gradients(forward: () => Tensor, leaves: readonly Tensor[], times = 1): Promise<number[][]> {
  for (let i = 0; i < times; i++)
    scope(() => {
      const y = forward();
      const slopes = F.arange(y.size).cast("f32").sin().reshape(y.shape);
      backward(y.mul(slopes).sum());
    });
  const all: number[][] = [];
  for (const t of leaves) all.push(await values(t.grad!));
  zeroGradients(leaves);
  return all;
}

describe("jointLinear", () => {
  it.each(["f32", "bf16"] as const)(
    "has the bits of single layers with %s weights, and their gradients",
    async (dtype) => {
      const weights = adjacent([8, 12, 8], dtype);
      const x = leaf(random([2, 5, 64]));
      const single = (): Tensor => F.cat(weights.map((w) => F.linear(x, w)), 2); // prettier-ignore
      const joint = (): Tensor => F.jointLinear(x, weights);
      const [a, b] = [scope(single), scope(joint)];
      expect(await values(b)).toEqual(await values(a));
      const leaves = [x, ...weights];
      const [expected, got] = [await gradients(single, leaves, 2), await gradients(joint, leaves, 2)];
      expect(got.slice(1)).toEqual(expected.slice(1));
      const error = got[0]!.map((v, i) => Math.abs(v - expected[0]![i]!)); // one sum instead of three
      expect(Math.max(...error)).toBeLessThan(1e-5);
      for (const t of [a, b, ...leaves]) t.dispose();
    },
  );

  it("adds to gradients in one product if they lie together, else in one each", async () => {
    const weights = adjacent([8, 8]);
    const x = random([4, 64]).keep();
    const launches = (): number =>
      tally(() => scope(() => backward(F.jointLinear(x, weights).sum())), device()).launches;
    const first = launches();
    expect(weights[0]!.grad!.storage).toBe(weights[1]!.grad!.storage);
    expect(launches()).toBe(first);
    const sums = await Promise.all(weights.map((w) => values(w.grad!)));
    // Gradients of another op's making lie apart.
    zeroGradients(weights);
    for (const w of weights) scope(() => backward(F.linear(x, w).sum()));
    expect(launches()).toBe(first + 1);
    for (const [i, w] of weights.entries()) expect(await values(w.grad!)).toEqual(sums[i]);
    for (const t of [x, ...weights]) t.dispose();
  });

  it("gives a gradient to the weights that need one", async () => {
    const [a, b] = adjacent([8, 8]) as [Tensor, Tensor];
    const x = random([4, 64]).keep();
    const both = await gradients(() => F.jointLinear(x, [a, b]), [a, b]);
    a.requiresGrad = false;
    const [one] = await gradients(() => F.jointLinear(x, [a, b]), [b]);
    expect(one).toEqual(both[1]);
    expect(a.grad).toBeNull();
    for (const t of [x, a, b]) t.dispose();
  });

  it("refuses weights that lie apart", () => {
    scope(() => {
      const [x, a, b] = [random([2, 64]), random([4, 64]), random([4, 64])];
      expect(F.joinedRows([a, b])).toBeNull();
      expect(F.joinedRows([a.slice(0, 0, 2), a.slice(0, 2, 4)])!.shape).toEqual([4, 64]);
      expect(() => F.jointLinear(x, [a, b])).toThrow(ShapeError);
    });
  });
});

describe("rotaryAttention", () => {
  const sizes = { heads: 4, kvHeads: 2, headDim: 16 };
  const theta = 500;

  /** The same by single ops. */
  function single(x: Tensor, positions: Tensor, documents: Tensor | null): Tensor {
    const heads = x.reshape([x.dim(0), x.dim(1), -1, sizes.headDim]).permute([0, 2, 1, 3]);
    const [q, k, v] = [heads.slice(1, 0, 4), heads.slice(1, 4, 6), heads.slice(1, 6, 8)];
    const rotate = (t: Tensor): Tensor => F.rope(t, positions, { theta });
    const y = F.attention(rotate(q), rotate(k), v, { causal: true, ...(documents && { documents }) });
    return y.permute([0, 2, 1, 3]).reshape([x.dim(0), x.dim(1), -1]);
  }

  it.each([
    ["one list of positions", [5], false],
    ["positions of each row, and documents", [2, 5], true],
  ] as const)("has the bits of rope and attention, and their gradient: %s", async (_, shape, isPacked) => {
    const x = leaf(random([2, 5, 8 * 16]));
    const positions = scope(() => F.arange(isPacked ? 10 : 5).reshape(shape)).keep();
    const documents = isPacked ? scope(() => F.arange(10).ge(4).reshape([2, 5])).keep() : null;
    const options = { ...sizes, theta, causal: true, ...(documents && { documents }) };
    const before = await values(x);
    const joint = (): Tensor => F.rotaryAttention(x, positions, options);
    const [a, b] = [scope(() => single(x, positions, documents)), scope(joint)];
    expect(await values(b)).toEqual(await values(a));
    expect(await values(x)).toEqual(before);
    const inPlace = (): Tensor => F.rotaryAttention(x.mul(1), positions, { ...options, overwrite: true });
    const expected = await gradients(() => single(x, positions, documents), [x]);
    expect(await gradients(joint, [x])).toEqual(expected);
    expect(await gradients(inPlace, [x])).toEqual(expected);
    for (const t of [x, positions, documents, a, b]) t?.dispose();
  });

  it("refuses other sizes before any work", () => {
    scope(() => {
      const [x, positions] = [random([1, 3, 128]), F.arange(3)];
      expect(() => F.rotaryAttention(x, positions, { ...sizes, headDim: 12 })).toThrow(/headDim of 8; got 4, 2 and 12/);
      expect(() => F.rotaryAttention(x, positions, { ...sizes, kvHeads: 4 })).toThrow(ShapeError);
      expect(() => F.rotaryAttention(x, F.arange(4), sizes)).toThrow(/positions must be \[3\] or \[1, 3\]/);
    });
  });
});

describe("the weight's gradient of a convolution of 1 × 1", () => {
  it.each([
    [8, "together", 3],
    [368, "one by one", 2], // 2 · 368² values are too many to hold
  ] as const)("of %i channels is that of its images, %s", async (channels, _, images) => {
    const [x, weight] = [random([images, channels, 2, 2]).keep(), leaf(random([channels, channels, 1, 1]))];
    const [all] = await gradients(() => F.conv2d(x, weight), [weight]);
    const sum = new Float64Array(channels ** 2);
    for (let n = 0; n < images; n++) {
      // The slopes of `gradients` go by the element of the whole result.
      const alone = (): Tensor => {
        const part = F.conv2d(x.slice(0, n, n + 1), weight);
        const zeros = (count: number): Tensor => F.zeros([count, channels, 2, 2]);
        return F.cat(
          [zeros(n), part, zeros(images - n - 1)].filter((t) => t.size > 0),
          0,
        );
      };
      for (const [i, v] of (await gradients(alone, [weight]))[0]!.entries()) sum[i]! += v;
    }
    const scale = Math.sqrt(sum.reduce((s, v) => s + v * v, 0));
    const error = Math.sqrt(sum.reduce((s, v, i) => s + (v - all![i]!) ** 2, 0));
    expect(error).toBeLessThan(1e-6 * scale);
    for (const t of [x, weight]) t.dispose();
  });
});
