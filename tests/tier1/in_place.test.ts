/** What writes in place, under the ops: addInto, castInto, copyInto, fillInto, `map` into a tensor; and sumTo, zerosLike, expressions of one's own. */
import { describe, expect, it } from "vitest";
import { F, isFloat, scope, tensor } from "../../index.ts";
import type { DType, Tensor } from "../../index.ts";
import { copy } from "../../kernels/core/map.ts";
import { useDevice } from "../gpu.ts";

useDevice();

const shapes: readonly (readonly number[])[] = [
  [],
  [0],
  [1],
  [3],
  [4],
  [33],
  [70],
  [257],
  [5, 7],
  [2, 3, 4],
  [1, 9, 1],
];
const dtypes: readonly DType[] = ["f32", "f16", "bf16", "i32", "u32", "u8"];
const sizeOf = (shape: readonly number[]): number => shape.reduce((a, b) => a * b, 1);
const values = async (t: Tensor): Promise<number[]> => [...(await t.data())];
/** 1, 2, 3 … below 100, exact in every dtype. */
const counting = (shape: readonly number[], dtype: DType): Tensor =>
  tensor(
    Array.from({ length: sizeOf(shape) }, (_, i) => 1 + (i % 99)),
    { shape, dtype },
  );

describe.each(dtypes)("%s", (dtype) => {
  it.each(shapes.map((s) => [s]))("fillInto, copyInto and castInto of %j", async (shape) => {
    using x = counting(shape, dtype);
    using y = F.zerosLike(x);
    expect([y.shape, y.dtype]).toEqual([x.shape, x.dtype]);
    expect(await values(y)).toEqual(Array(x.size).fill(0));
    F.fillInto(y, 7);
    expect(await values(y)).toEqual(Array(x.size).fill(7));
    const whole =
      dtype === "f32" || dtype === "i32" || dtype === "u32" || (shape.at(-1) ?? 1) % (dtype === "u8" ? 4 : 2) === 0;
    if (whole) {
      F.copyInto(y, x);
      expect(await values(y)).toEqual(await values(x));
    }
  });
});

describe("addInto", () => {
  it.each(shapes.map((s) => [s]))("of %j, every pair of floating dtypes", async (shape) => {
    for (const a of dtypes.filter(isFloat)) {
      for (const b of dtypes.filter(isFloat)) {
        using x = counting(shape, a);
        using y = counting(shape, b);
        const { version } = x.storage;
        F.addInto(x, y);
        expect(await values(x)).toEqual((await values(y)).map((v) => 2 * v));
        if (x.size) expect(x.storage.version).toBeGreaterThan(version);
      }
    }
  });
  it("of a strided view", async () => {
    using x = F.zeros([3, 2]);
    using y = tensor([
      [1, 2, 3],
      [4, 5, 6],
    ]);
    scope(() => F.addInto(x, y.transpose()));
    expect(await x.array()).toEqual([
      [1, 4],
      [2, 5],
      [3, 6],
    ]);
  });
});

describe("castInto", () => {
  it("casts and broadcasts", async () => {
    using x = F.zeros([2, 4], { dtype: "bf16" });
    using row = tensor([1, 2, 3, 4.5]);
    F.castInto(x, row);
    expect(await x.array()).toEqual([
      [1, 2, 3, 4.5],
      [1, 2, 3, 4.5],
    ]);
    using one = tensor(9, { dtype: "i32" });
    F.castInto(x, one);
    expect(await values(x)).toEqual(Array(8).fill(9));
    using column = tensor([[5], [6]]);
    F.castInto(x, column);
    expect(await x.array()).toEqual([
      [5, 5, 5, 5],
      [6, 6, 6, 6],
    ]);
  });
  it("writes to a part, also through select, and leaves the rest", async () => {
    using x = F.zeros([3, 4, 2]);
    using row = tensor([
      [1, 2],
      [3, 4],
      [5, 6],
    ]);
    scope(() => F.castInto(x.select(1, 2), row));
    scope(() => F.castInto(x.slice(1, 0, 1).squeeze(1).transpose(), tensor([7, 8, 9])));
    expect(await x.array()).toEqual([
      [
        [7, 7],
        [0, 0],
        [1, 2],
        [0, 0],
      ],
      [
        [8, 8],
        [0, 0],
        [3, 4],
        [0, 0],
      ],
      [
        [9, 9],
        [0, 0],
        [5, 6],
        [0, 0],
      ],
    ]);
  });
});

describe("copyInto", () => {
  it("between every kind of view", async () => {
    const kinds: ((t: Tensor) => Tensor)[] = [
      (t) => t,
      (t) => t.transpose(),
      (t) => t.slice(0, 1, 3),
      (t) => t.slice(1, 0, 4, 2),
      (t) => t.permute([1, 0]).slice(0, 1, 3),
    ];
    for (const kind of kinds) {
      using a = counting([4, 4], "i32");
      using b = F.zeros([4, 4], { dtype: "i32" });
      scope(() => F.copyInto(kind(b), kind(a)));
      const [from, to] = [await values(a), await values(b)];
      const touched = to.filter((v) => v !== 0);
      using part = scope(() => kind(a).clone());
      expect(touched.toSorted((x, y) => x - y)).toEqual((await values(part)).toSorted((x, y) => x - y));
      to.forEach((v, i) => v !== 0 && expect(v).toBe(from[i]));
    }
  });
  it("of 16-bit rows at even places, leaving the neighbours", async () => {
    using x = F.ones([3, 6], { dtype: "bf16" });
    using y = F.full([3, 2], 5, { dtype: "bf16" });
    scope(() => F.copyInto(x.slice(1, 2, 4), y));
    expect(await x.array()).toEqual(Array(3).fill([1, 1, 5, 5, 1, 1]));
  });
});

describe("map", () => {
  it("into a tensor that is there", async () => {
    using x = counting([5, 7], "f32");
    using y = F.zeros([5, 7]);
    expect(F.map(copy, [x], { into: y })).toBe(y);
    expect(await values(y)).toEqual(await values(x));
  });
  it("of an expression of one's own, with scalars and broadcasting", async () => {
    const blend = F.expression("in_place_test_blend", "a * s.x + b * s.y + c");
    using a = tensor([
      [1, 2],
      [3, 4],
    ]);
    using b = tensor([10, 20]);
    using c = tensor([[100], [200]]);
    using y = F.map(blend, [a, b, c], { scalars: [2, 0.5] });
    expect(await y.array()).toEqual([
      [107, 114],
      [211, 218],
    ]);
    // Declared again with another formula, as when its module is loaded again: the new one is computed.
    using other = F.map(F.expression("in_place_test_blend", "a + c"), [a, b, c]);
    expect(await other.array()).toEqual([
      [101, 102],
      [203, 204],
    ]);
  });
});

describe("sumTo", () => {
  it("undoes each broadcast", async () => {
    using g = F.ones([2, 3, 4]);
    for (const shape of [[2, 3, 4], [3, 4], [4], [], [1, 3, 1], [2, 1, 4], [1], [3, 1], [1, 1, 1]]) {
      const y = scope(() => F.sumTo(g, shape));
      expect(y.shape).toEqual(shape);
      expect(await values(y)).toEqual(Array(sizeOf(shape)).fill(24 / sizeOf(shape)));
      if (y !== g) y.dispose();
    }
  });
});
