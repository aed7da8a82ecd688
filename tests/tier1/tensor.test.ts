/** Tensors: making them from host data, reading them back, printing, views. */
import { describe, expect, it, vi } from "vitest";
import {
  ArgumentError,
  F,
  ShapeError,
  bf16Bits,
  contiguousStrides,
  empty,
  encode,
  f16Bits,
  scope,
  tensor,
  tensorFromBytes,
} from "../../index.ts";
import type { DType, Tensor } from "../../index.ts";
import { useDevice } from "../gpu.ts";

useDevice();

const values = async (t: Tensor): Promise<number[]> => [...(await t.data())];

describe("creation", () => {
  it.each([
    [5, [], [5]],
    [[], [0], []],
    [[1, 2, 3], [3], [1, 2, 3]],
    [
      [
        [1, 2],
        [3, 4],
        [5, 6],
      ],
      [3, 2],
      [1, 2, 3, 4, 5, 6],
    ],
    [[[], []], [2, 0], []],
    [[[[7]]], [1, 1, 1], [7]],
  ])("from nested arrays %j", async (nested, shape, flat) => {
    using t = tensor(nested);
    expect([t.shape, t.dtype, t.size, t.rank]).toEqual([shape, "f32", flat.length, shape.length]);
    expect(await values(t)).toEqual(flat);
    expect(await t.array()).toEqual(nested);
  });
  it.each([
    [Float32Array.of(0.5, -1), "f32"],
    [Float64Array.of(0.5, -1), "f32"],
    [Int32Array.of(-7, 2147483647), "i32"],
    [Uint32Array.of(7, 4294967295), "u32"],
    [Uint8Array.of(7, 255, 3), "u8"],
  ])("from %o, whose dtype it takes", async (array, dtype) => {
    using t = tensor(array);
    expect(t.dtype).toBe(dtype);
    expect(await values(t)).toEqual([...array]);
    using row = tensor(array, { shape: [1, array.length] });
    expect(row.shape).toEqual([1, array.length]);
  });
  it.each(["f32", "f16", "bf16", "i32", "u32", "u8"] as DType[])("as %s of odd lengths", async (dtype) => {
    for (const n of [1, 2, 3, 5, 17, 33]) {
      using t = tensor(
        Array.from({ length: n }, (_, i) => i + 1),
        { dtype },
      );
      expect(await values(t)).toEqual(Array.from({ length: n }, (_, i) => i + 1));
    }
  });
  it("rounds to f16 and bf16", async () => {
    using h = tensor([0.1, 65519, 70000], { dtype: "f16" });
    expect(await values(h)).toEqual([0.0999755859375, 65504, Infinity]);
    using b = tensor([0.1, 3.14159], { dtype: "bf16" });
    expect(await values(b)).toEqual([0.10009765625, 3.140625]);
  });
  it("takes stored bytes as they are", async () => {
    const bytes = new Uint8Array(Uint16Array.of(bf16Bits(1.5), bf16Bits(-2), bf16Bits(3)).buffer);
    using t = tensorFromBytes(bytes, [3], "bf16");
    expect(await values(t)).toEqual([1.5, -2, 3]);
    using part = tensorFromBytes(new Uint8Array([0, 0, ...encode([9], "u32")]).subarray(2), [1], "u32");
    expect(await values(part)).toEqual([9]);
    using half = tensorFromBytes(new Uint8Array(Uint16Array.of(f16Bits(0.5)).buffer), [1], "f16");
    expect(await values(half)).toEqual([0.5]);
  });
  it("copies the host's array, and its shape", async () => {
    const host = Float32Array.of(1, 2);
    const shape = [2];
    using t = tensor(host, { shape });
    host[0] = 9;
    shape[0] = 7;
    expect(await values(t)).toEqual([1, 2]);
    expect(t.shape).toEqual([2]);
  });
  it("fills: zeros, ones, full, arange in every dtype", async () => {
    for (const dtype of ["f32", "f16", "bf16", "i32", "u32", "u8"] as DType[]) {
      using z = F.zeros([3], { dtype });
      using o = F.ones([2, 2], { dtype });
      using f = F.full([5], 7, { dtype });
      using a = F.arange(5, undefined, 1, { dtype });
      expect([await values(z), await values(o), await values(f), await values(a)]).toEqual([
        [0, 0, 0],
        [1, 1, 1, 1],
        [7, 7, 7, 7, 7],
        [0, 1, 2, 3, 4],
      ]);
    }
    using down = F.arange(5, 0, -2);
    using steps = F.arange(0, 1, 0.25);
    expect([await values(down), down.dtype, await values(steps), steps.dtype]).toEqual([
      [5, 3, 1],
      "i32",
      [0, 0.25, 0.5, 0.75],
      "f32",
    ]);
  });
  it.each([
    ["i32 beyond 2^24", [16777217, 16777221, 1, "i32"], [16777217, 16777218, 16777219, 16777220]],
    ["i32 up to the largest", [2 ** 31 - 2, 2 ** 31, 1, "i32"], [2 ** 31 - 2, 2 ** 31 - 1]],
    ["i32 down to the smallest", [-(2 ** 31) + 5, -(2 ** 31) - 1, -5, "i32"], [-(2 ** 31) + 5, -(2 ** 31)]],
    ["i32 in steps beyond 2^24", [-50331651, 50331652, 50331651, "i32"], [-50331651, 0, 50331651]],
    ["i32 across its whole range", [-(2 ** 31), 2 ** 31, 2 ** 32 - 1, "i32"], [-(2 ** 31), 2 ** 31 - 1]],
    ["u32 up to the largest", [2 ** 32 - 2, 2 ** 32, 1, "u32"], [2 ** 32 - 2, 2 ** 32 - 1]],
    ["u32 downwards", [5, -1, -2, "u32"], [5, 3, 1]],
    ["u8 up to the largest", [253, 256, 1, "u8"], [253, 254, 255]],
    ["a start whose one step leads out of the dtype", [250, 251, 1000, "u8"], [250]],
  ] as const)("arange is exact: %s", async (_, [start, end, step, dtype], expected) => {
    using y = F.arange(start, end, step, { dtype });
    expect(await values(y)).toEqual(expected);
  });
  it("random numbers repeat by seed, have the mean and spread they should, and fill odd sizes", async () => {
    F.manualSeed(1);
    using a = F.randn([10_001]);
    using u = F.uniform([10_001], 2, 4);
    F.manualSeed(1);
    using b = F.randn([10_001]);
    expect(await values(a)).toEqual(await values(b));
    const mean = (v: number[]): number => v.reduce((s, x) => s + x, 0) / v.length;
    const [n, m] = [await values(a), await values(u)];
    expect(Math.abs(mean(n))).toBeLessThan(0.05);
    expect(mean(n.map((x) => x * x))).toBeCloseTo(1, 1);
    expect(Math.abs(mean(m) - 3)).toBeLessThan(0.03);
    expect(Math.min(...m)).toBeGreaterThanOrEqual(2);
    expect(Math.max(...m)).toBeLessThan(4);
    F.manualSeed(2);
    using c = F.randn([10_001]);
    expect(await values(c)).not.toEqual(n);
  });
});

describe("reading", () => {
  it("a number", async () => {
    using t = tensor([[4.5]]);
    expect(await t.item()).toBe(4.5);
    using two = tensor([1, 2]);
    await expect(two.item()).rejects.toThrow(ShapeError);
  });
  it("every kind of view, in every dtype, is as by hand", async () => {
    for (const dtype of ["f32", "bf16", "u8", "i32"] as DType[]) {
      using x = tensor([...Array(24).keys()], { shape: [2, 3, 4], dtype });
      const views = scope(() => [
        x.transpose(0, 2),
        x.slice(1, 1, 3),
        x.select(2, 3),
        x.slice(2, 0, 4, 3),
        x.permute([1, 2, 0]).select(0, 2),
        x.unsqueeze(1).expand([2, 2, 3, 4]),
        x.slice(0, 1, 1),
      ]);
      const at = (v: Tensor): number[] => {
        const out: number[] = [];
        const walk = (d: number, from: number): void => {
          if (d === v.rank) out.push(from);
          else for (let i = 0; i < v.shape[d]!; i++) walk(d + 1, from + i * v.strides[d]!);
        };
        walk(0, v.offset);
        return out;
      };
      for (const v of views) {
        expect(v.storage).toBe(x.storage);
        expect(await values(v)).toEqual(at(v));
        using copy = v.clone();
        expect(copy.isContiguous).toBe(true);
        expect(await values(copy)).toEqual(at(v));
        v.dispose();
      }
    }
  });
  it("indexing: slice, select, negative positions", async () => {
    using x = tensor([
      [1, 2, 3],
      [4, 5, 6],
      [7, 8, 9],
    ]);
    const [last, corner, empty0] = scope(() => [x.select(0, -1), x.slice(0, -2).slice(1, 1), x.slice(0, 2, 1)]);
    expect(await last!.array()).toEqual([7, 8, 9]);
    expect(await corner!.array()).toEqual([
      [5, 6],
      [8, 9],
    ]);
    expect(await empty0!.array()).toEqual([]);
    expect(empty0!.shape).toEqual([0, 3]);
    for (const t of [last, corner, empty0]) t!.dispose();
    expect(() => x.select(0, 3)).toThrow(/select: index: dimension 3|select.*3/);
    expect(x.dim(-1)).toBe(3);
  });
  it("several at once, and in any order", async () => {
    const all = scope(() => Array.from({ length: 20 }, (_, i) => F.full([i + 1], i)));
    const read = await Promise.all(all.map(values));
    expect(read.map((r) => [r.length, r[0]])).toEqual(all.map((_, i) => [i + 1, i]));
    for (const t of all) t.dispose();
  });
  it("a tensor disposed right after the read began", async () => {
    const x = tensor([1, 2, 3]);
    const reading = x.data();
    x.dispose();
    using other = F.full([3], 9);
    expect([...(await reading)]).toEqual([1, 2, 3]);
    expect(await values(other)).toEqual([9, 9, 9]);
  });
});

describe("printing", () => {
  it("says shape and dtype, and the values after print()", async () => {
    using x = tensor([
      [1, 2.5],
      [-3, 0.1],
    ]);
    expect(String(x)).toBe("Tensor([2, 2] f32)");
    const log = vi.spyOn(console, "log").mockImplementation(() => undefined);
    expect(await x.print()).toBe(x);
    expect(log).toHaveBeenCalledWith(String(x));
    log.mockRestore();
    expect(String(x)).toBe("Tensor([2, 2] f32) [[1, 2.5000],\n [-3, 0.10000]]");
  });
  it("shortens long dimensions and knows scalars and nothing", async () => {
    const log = vi.spyOn(console, "log").mockImplementation(() => undefined);
    const printed = async (t: Tensor): Promise<string> => {
      await t.print();
      const text = String(t);
      t.dispose();
      return text;
    };
    expect(await printed(F.arange(100))).toBe("Tensor([100] i32) [0, 1, 2, …, 97, 98, 99]");
    expect(await printed(tensor(3))).toBe("Tensor([] f32) 3");
    expect(await printed(tensor([]))).toBe("Tensor([0] f32) []");
    expect((await printed(F.zeros([20, 20]))).split("\n")).toHaveLength(7);
    log.mockRestore();
  });
  it("says that it was disposed", () => {
    const x = tensor([1]);
    x.dispose();
    expect(String(x)).toBe("Tensor([1] f32, disposed)");
  });
});

describe("views", () => {
  it("know whether they are contiguous and bindable", () => {
    scope(() => {
      const x = F.zeros([4, 64]);
      expect([x.isContiguous, x.isBindable, x.isLeaf]).toEqual([true, true, true]);
      expect(x.transpose().isContiguous).toBe(false);
      expect(x.slice(1, 0, 3).isContiguous).toBe(false);
      expect(x.slice(0, 1, 3)).toMatchObject({ isContiguous: true, offset: 64 });
      expect(x.select(1, 0).unsqueeze(0).isContiguous).toBe(false);
      expect(F.zeros([1, 5]).transpose().isContiguous).toBe(true);
      expect(F.zeros([0, 5]).transpose().isContiguous).toBe(true);
      expect(x.slice(0, 0, 1).slice(1, 1, 3).isBindable).toBe(false);
    });
  });
  it("share their storage until the last one goes", async () => {
    const x = tensor([1, 2, 3, 4]);
    const v = x.slice(0, 2);
    x.dispose();
    expect(await values(v)).toEqual([3, 4]);
    expect(v.storage.isLive).toBe(true);
    v.dispose();
    expect(v.storage.isLive).toBe(false);
  });
  it("reshape is a view where it can be, a copy where it cannot", async () => {
    const [a, b] = scope(() => {
      const x = tensor([
        [1, 2, 3],
        [4, 5, 6],
      ]);
      const flat = x.reshape([-1]);
      expect(flat.storage).toBe(x.storage);
      const turned = x.transpose().reshape([6]);
      expect(turned.storage).not.toBe(x.storage);
      return [flat, turned];
    });
    expect([await values(a!), await values(b!)]).toEqual([
      [1, 2, 3, 4, 5, 6],
      [1, 4, 2, 5, 3, 6],
    ]);
    a!.dispose();
    b!.dispose();
  });
  it("strides are row-major", () => {
    expect(contiguousStrides([2, 3, 4])).toEqual([12, 4, 1]);
    expect(contiguousStrides([])).toEqual([]);
  });
});

describe("what is refused", () => {
  it.each([
    [
      "ragged arrays",
      () => tensor([[1, 2], [3]]),
      ShapeError,
      /nested arrays must have equal lengths; got shape \[2\] for element 0 and \[1\] for element 1/,
    ],
    [
      "a shape that does not hold the values",
      () => tensor([1, 2, 3], { shape: [2, 2] }),
      ShapeError,
      /shape \[2, 2\] must have as many elements as there are values; got 4 and 3/,
    ],
    ["a negative size", () => empty([2, -1]), ShapeError, /must be whole numbers ≥ 0; got \[2, -1\]/],
    ["a fraction as a size", () => empty([1.5]), ShapeError, /must be whole numbers ≥ 0; got \[1\.5\]/],
    [
      "bytes that do not fill the shape",
      () => tensorFromBytes(new Uint8Array(7), [2], "f32"),
      ShapeError,
      /\[2\] f32 must have 8 bytes; got 7/,
    ],
    [
      "values outside the dtype",
      () => tensor([300], { dtype: "u8" }),
      ArgumentError,
      /dtype u8 must be whole numbers .*got 300 at index 0/,
    ],
  ])("%s", (_, fn, kind, message) => {
    expect(fn).toThrow(kind);
    expect(fn).toThrow(message);
  });
});
