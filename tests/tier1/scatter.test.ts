/** The gradients of rows and elements picked by index: bounded work a launch, and the same bits as adding in order of the positions. */
import { describe, expect, it } from "vitest";
import { Device, F, backward, noGrad, scope, tally, tensor } from "../../index.ts";
import type { Launch, Tensor } from "../../index.ts";
import { useDevice } from "../gpu.ts";

// Ids are outside the tables too: without checks they have no effect.
useDevice({ checks: false });

/** A repeatable sequence of whole numbers below `n`. */
const dice = (seed: number) => {
  let state = seed;
  return (n: number): number => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return Math.floor((state / 2 ** 32) * n);
  };
};

/** dweight [V, C] by adding the rows of g in the order of their positions, each sum rounded to f32. */
function addedInOrder(g: Float32Array, ids: ArrayLike<number>, vocabulary: number, columns: number): Float32Array {
  const sums = new Float32Array(vocabulary * columns);
  for (let i = 0; i < ids.length; i++) {
    if (ids[i]! < 0 || ids[i]! >= vocabulary) continue;
    for (let c = 0; c < columns; c++) sums[ids[i]! * columns + c]! += g[i * columns + c]!;
  }
  return sums;
}

/** The gradient that `op` gives its input for the gradient `g` of its result. */
async function gradientOf(x: Tensor, g: Float32Array, op: (x: Tensor) => Tensor): Promise<Float32Array> {
  x.requiresGrad = true;
  using loss = scope(() => {
    const y = op(x);
    return F.sum(F.mul(y, tensor(g, { shape: y.shape })));
  });
  backward(loss);
  return (await x.grad!.data()) as Float32Array;
}

const random = (count: number, seed: number): Float32Array => {
  const next = dice(seed);
  return Float32Array.from({ length: count }, () => next(2 ** 24) / 2 ** 23 - 1);
};

describe("embedding backward has the bits of a sum in order", () => {
  it.each([
    ["random ids", 5000, 300, 8, (next: (n: number) => number) => next(304) - 2],
    ["one id at all positions", 5000, 7, 4, () => 3],
    ["runs and a padding id", 4099, 50, 3, (next: (n: number) => number, i: number) => (i % 3 ? 0 : next(50))],
    ["as many positions as a block", 1024, 20, 4, (next: (n: number) => number) => next(20)],
    ["one position more", 1025, 20, 4, (next: (n: number) => number) => next(20)],
  ] as const)("%s", async (_, n, vocabulary, columns, idAt) => {
    const next = dice(5);
    const ids = Int32Array.from({ length: n }, (__, i) => idAt(next, i));
    const g = random(n * columns, 9);
    using weight = F.zeros([vocabulary, columns]);
    using at = tensor(ids);
    expect(await gradientOf(weight, g, (w) => F.embedding(w, at))).toEqual(addedInOrder(g, ids, vocabulary, columns));
  });
});

describe("gather backward has the bits of a sum in order", () => {
  it.each([
    ["many picks of a row", 1, 900, 5000],
    ["more picks than a block in each of several rows", 3, 40, 1500],
    ["few picks", 30, 500, 7],
  ] as const)("%s", async (_, rows, n, picks) => {
    const next = dice(6);
    const index = Int32Array.from({ length: rows * picks }, () => next(n + 4) - 2);
    const g = random(rows * picks, 8);
    const flat = index.map((k, i) => (k < 0 || k >= n ? -1 : Math.floor(i / picks) * n + k));
    using x = F.zeros([rows, n]);
    using at = tensor(index, { shape: [rows, picks] });
    expect(await gradientOf(x, g, (t) => F.gather(t, 1, at))).toEqual(addedInOrder(g, flat, rows * n, 1));
  });
});

describe("the work of a launch is bounded, by the null device's count", () => {
  /** The bytes that the largest launch of a backward moves, and those of all of them. */
  async function work(run: (paper: Device) => Tensor): Promise<{ largest: number; total: number }> {
    const paper = await Device.create({ backend: "null" });
    let largest = 0;
    using loss = scope(() => F.sum(run(paper)));
    paper.onLaunch((l: Launch) => (largest = Math.max(largest, l.cost?.bytes ?? 0)));
    const { bytes } = tally(() => noGrad(() => backward(loss)), paper);
    return { largest, total: bytes };
  }
  const picked =
    (n: number) =>
    (paper: Device): Tensor => {
      const weight = F.zeros([16384, 64], { device: paper, requiresGrad: true });
      return F.embedding(weight, F.zeros([n], { dtype: "i32", device: paper }));
    };
  const gathered =
    (n: number) =>
    (paper: Device): Tensor => {
      const x = F.zeros([1, n], { device: paper, requiresGrad: true });
      return F.gather(x, 1, F.zeros([1, n], { dtype: "i32", device: paper }));
    };

  it.each([
    ["embedding", picked],
    ["gather", gathered],
  ] as const)("%s: 300,000 positions, and twice the work for twice as many", async (_, run) => {
    const [one, two] = [await work(run(300_000)), await work(run(600_000))];
    expect(one.largest).toBeLessThan(2e9);
    expect(two.total / one.total).toBeLessThan(2.1);
  });
});

it("300,000 positions of one id, on the device", async () => {
  const n = 300_000;
  using weight = F.zeros([16, 4], { requiresGrad: true });
  using ids = F.full([n], 5, { dtype: "i32" });
  using loss = scope(() => F.sum(F.embedding(weight, ids)));
  backward(loss);
  expect([...(await weight.grad!.data())]).toEqual(Array.from({ length: 64 }, (_, i) => (i >> 2 === 5 ? n : 0)));
});
