/** Arithmetic at its edges: powers, division by numbers, promotion of dtypes, integers beyond 2^24, infinities of activations. */
import "../quick_compile.ts";
import { describe, expect, it } from "vitest";
import { ArgumentError, DTypeError, F, backward, scope, tensor } from "../../index.ts";
import type { DType, Tensor } from "../../index.ts";
import { errorOf, useDevice } from "../gpu.ts";

useDevice({ poison: true });

const values = async (t: Tensor): Promise<number[]> => {
  const data = [...(await t.data())];
  t.dispose();
  return data;
};
const I = Infinity;
const FLOATS = ["f32", "f16", "bf16"] as const;

describe("pow", () => {
  // C's and PyTorch's results.
  const rows: readonly (readonly [number, number, number])[] = [
    [0, -1, I],
    [0, 2.5, 0],
    [0, 0, 1],
    [NaN, 0, 1],
    [1, NaN, 1],
    [NaN, 2, NaN],
    [2, NaN, NaN],
    [-2, 3, -8],
    [-2, 2, 4],
    [-2, -3, -0.125],
    [-2, 0.5, NaN],
    [I, 2, I],
    [I, -2, 0],
    [-I, 3, -I],
    [-I, 2, I],
    [-I, -3, 0],
    [2, I, I],
    [2, -I, 0],
    [0.5, I, 0],
    [0.5, -I, I],
    [-1, I, 1],
  ];
  const close = (got: number, expected: number): void =>
    Number.isFinite(expected) ? expect(got).toBeCloseTo(expected, 5) : expect(got).toBe(expected);

  it.each(rows)("%d to the power %d is %d, by tensor and by number", async (a, b, expected) => {
    close((await values(scope(() => F.pow(tensor([a]), tensor([b])))))[0]!, expected);
    if (Number.isFinite(b)) close((await values(scope(() => F.pow(tensor([a]), b))))[0]!, expected);
  });

  it("has gradients at negative numbers and at 0", async () => {
    const [a, b] = [tensor([-2, 0, 3], { requiresGrad: true }), tensor([3, 2, 0])];
    scope(() => backward(F.pow(a, b).sum()));
    expect([...(await a.grad!.data())].map((v) => Math.round(v * 1e4) / 1e4)).toEqual([12, 0, 0]);
    for (const t of [a, b]) t.dispose();
  });
});

describe("division by a number", () => {
  it("is that by a tensor of it, bit for bit", async () => {
    const x = Float32Array.from({ length: 257 }, (_, i) => (i + 1) * 0.7123);
    for (const by of [3, 7, 49, 0.1, 1e20]) {
      const [number, tensors] = scope(() => [F.div(tensor(x), by), F.div(tensor(x), tensor([by]))]);
      expect(await values(number)).toEqual(await values(tensors));
    }
  });

  it("is as exact as WGSL's to the ends of the divisors for which that is specified, 2^-126 and 2^126", async () => {
    for (const [x, by] of [
      [1.5 * 2 ** -125, 2 ** -126],
      [1.1e-37, 1.2e-38],
      [1.5 * 2 ** 127, 2 ** 126],
      [3e38, 8e37],
    ] as const) {
      const [got] = await values(scope(() => F.div(tensor([x]), by)));
      expect(Math.abs(got! / (Math.fround(x) / Math.fround(by)) - 1)).toBeLessThanOrEqual(2.5 * 2 ** -23);
    }
  });

  it("does not go through a reciprocal that overflows", async () => {
    // Only subnormal divisors have one, and devices may take those for 0.
    const [product] = await values(scope(() => F.mul(tensor([1e-39]), tensor([1e10]))));
    const [quotient] = await values(scope(() => F.div(tensor([2e-38]), 1e-39)));
    if (product === 0) expect([20, Infinity]).toContain(Math.round(quotient!));
    else expect(quotient).toBeCloseTo(20, 4);
  });
});

describe("dtype of a result", () => {
  const binary = { add: F.add, sub: F.sub, mul: F.mul, div: F.div, maximum: F.maximum, minimum: F.minimum, pow: F.pow };
  const dtypeOf = (fn: () => Tensor): DType => scope(() => fn().dtype);

  it.each(Object.entries(binary))(
    "%s: equal floats keep theirs, others give f32, numbers take the tensor's",
    (_, op) => {
      for (const a of FLOATS) {
        for (const b of FLOATS)
          expect(dtypeOf(() => op(tensor([1, 2], { dtype: a }), tensor([1, 2], { dtype: b })))).toBe(
            a === b ? a : "f32",
          );
        expect(dtypeOf(() => op(tensor([1, 2], { dtype: a }), 1.5))).toBe(a);
      }
    },
  );

  it.each(Object.entries(binary))("%s: an integer tensor meets no other dtype", async (_, op) => {
    for (const other of ["f32", "u32", "u8"] as const) {
      expect(
        await errorOf(() => scope(() => op(tensor(Int32Array.of(1)), tensor([1], { dtype: other })))),
      ).toBeInstanceOf(DTypeError);
    }
  });

  it.each(FLOATS)("a number is compared as %s", async (dtype) => {
    expect(await values(scope(() => F.eq(tensor([0.1], { dtype }), 0.1)))).toEqual([1]);
    expect(await values(scope(() => F.ne(tensor([0.1], { dtype }), 0.1)))).toEqual([0]);
    expect(await values(scope(() => F.le(tensor([0.1], { dtype }), 0.1)))).toEqual([1]);
  });
});

describe("integers beyond 2^24", () => {
  const large = [16777217, 16777216, 16777219, -16777217];

  it("are summed exactly, and beyond their range to the nearest", async () => {
    expect(await values(scope(() => F.sum(tensor(Int32Array.from(large)))))).toEqual([large.reduce((a, b) => a + b)]);
    expect(await values(scope(() => F.sum(tensor(Uint32Array.from({ length: 300 }, () => 14316557)))))).toEqual([
      300 * 14316557,
    ]);
    expect(await values(scope(() => F.sum(tensor(Uint32Array.of(0xffffffff, 0xffffffff)))))).toEqual([0xffffffff]);
    expect(await values(scope(() => F.sum(tensor(Int32Array.of(2 ** 31 - 1, 5)))))).toEqual([2 ** 31 - 1]);
    expect(await values(scope(() => F.sum(tensor(Int32Array.of(-(2 ** 31), -5)))))).toEqual([-(2 ** 31)]);
    // What overflows on the way but not in the end is exact.
    expect(
      await values(scope(() => F.sum(tensor(Int32Array.of(2 ** 31 - 1, 2 ** 31 - 1, -(2 ** 31), -(2 ** 31) + 7))))),
    ).toEqual([5]);
  });

  it("are reduced over rows and columns, u8 as u32", async () => {
    const x = Int32Array.from({ length: 70 * 6 }, (_, i) => 16777217 + i);
    const [rows, columns] = scope(() => [
      F.sum(tensor(x, { shape: [70, 6] }), 1),
      F.max(tensor(x, { shape: [70, 6] }), 0),
    ]);
    expect(rows.dtype).toBe("i32");
    expect(await values(rows)).toEqual(
      Array.from({ length: 70 }, (_, r) => [...x.subarray(r * 6, r * 6 + 6)].reduce((a, b) => a + b)),
    );
    expect(await values(columns)).toEqual([...x.subarray(69 * 6)]);
    const bytes = scope(() => F.sum(tensor(new Uint8Array(1000).fill(255))));
    expect(bytes.dtype).toBe("u32");
    expect(await values(bytes)).toEqual([255000]);
  });

  it("have exact extremes and places of extremes", async () => {
    const x = Int32Array.from(large);
    expect(await values(scope(() => F.max(tensor(x))))).toEqual([16777219]);
    expect(await values(scope(() => F.min(tensor(x))))).toEqual([-16777217]);
    expect(await values(scope(() => F.argmax(tensor(x))))).toEqual([2]);
    expect(await values(scope(() => F.argmin(tensor(x))))).toEqual([3]);
    expect(await values(scope(() => F.argmax(tensor(Uint32Array.of(0xfffffffe, 0xffffffff, 0xfffffffd)))))).toEqual([
      1,
    ]);
    expect(await values(scope(() => F.maximum(tensor(x), tensor(Int32Array.of(16777216, 16777217, 0, 0)))))).toEqual([
      16777217, 16777217, 16777219, 0,
    ]);
  });
});

describe("mean of integers", () => {
  const meanOf = async (
    x: Int32Array | Uint32Array | Uint8Array,
    shape: number[],
    dims?: number | number[],
  ): Promise<[DType, number[]]> => {
    const y = scope(() => F.mean(tensor(x, { shape }), dims));
    return [y.dtype, await values(y)];
  };

  it("is their exact sum, divided", async () => {
    expect(await meanOf(Int32Array.of(2147483647, -2147483640), [2])).toEqual(["f32", [3.5]]);
    expect(await meanOf(Int32Array.of(2147483647, 2147483647, -1), [3])).toEqual(["f32", [Math.fround(1431655764.33)]]);
    expect(await meanOf(Int32Array.of(-2147483648, -2147483648, 4), [3])).toEqual(["f32", [Math.fround(-1431655764)]]);
    expect(
      await meanOf(
        Uint32Array.from({ length: 300 }, () => 0xffffffff),
        [300],
      ),
    ).toEqual(["f32", [2 ** 32]]);
    // Divided, not multiplied by 1 / 49; over columns, in more than one stage over 4096.
    expect(
      await meanOf(
        Int32Array.from({ length: 98 }, (_, i) => 1 + (i % 2)),
        [49, 2],
        0,
      ),
    ).toEqual(["f32", [1, 2]]);
    expect(
      await meanOf(
        Int32Array.from({ length: 8192 }, (_, i) => 16777217 * (i % 2 ? 1 : -1)),
        [4096, 2],
        0,
      ),
    ).toEqual(["f32", [Math.fround(-16777217), Math.fround(16777217)]]);
  });

  it("is f32 over a dimension of size 1 and over none", async () => {
    for (const x of [Int32Array.of(-3, 7), Uint32Array.of(3, 7), Uint8Array.of(3, 7)]) {
      expect(await meanOf(x, [2, 1], 1)).toEqual(["f32", [...x]]);
      expect(await meanOf(x, [2], [])).toEqual(["f32", [...x]]);
    }
  });
});

describe("gradients at the edges", () => {
  it("div: of a quotient whose divisor squared overflows or underflows", async () => {
    for (const [a, c, expected] of [
      [1e38, 1e20, -0.01],
      [1e-35, 1e-25, -1e15],
    ] as const) {
      const [x, y] = [tensor([a]), tensor([c], { requiresGrad: true })];
      scope(() => backward(F.sum(F.div(x, y))));
      expect((await y.grad!.data())[0]! / expected).toBeCloseTo(1, 4);
      for (const t of [x, y]) t.dispose();
    }
  });

  it.each(FLOATS)("clamp: what equals a bound as %s has one", async (dtype) => {
    const x = tensor([0.1, 0.2, 0.3], { dtype, requiresGrad: true });
    scope(() => backward(F.sum(F.clamp(x, 0.1, 0.2))));
    expect([...(await x.grad!.data())]).toEqual([1, 1, 0]);
    x.dispose();
  });
});

describe("numbers beyond a dtype", () => {
  const largest = { f32: 3.4028234663852886e38, f16: 65504, bf16: 3.3895313892515355e38 } as const;

  it.each(FLOATS)("nanToNum refuses a replacement that %s does not hold", async (dtype) => {
    const x = tensor([I, NaN], { dtype });
    for (const options of [{ posinf: 1e300 }, { neginf: -1e300 }, { nan: 1e300 }, { posinf: largest[dtype] * 1.001 }]) {
      expect(await errorOf(() => scope(() => F.nanToNum(x, options)))).toBeInstanceOf(ArgumentError);
    }
    expect(await values(scope(() => F.nanToNum(x, { posinf: largest[dtype], nan: 1 })))).toEqual([largest[dtype], 1]);
    x.dispose();
  });

  it.each(FLOATS)("arange refuses values that %s does not hold", async (dtype) => {
    const beyond = largest[dtype] * 1.002;
    expect(await errorOf(() => scope(() => F.arange(beyond, beyond * 3, beyond, { dtype })))).toBeInstanceOf(
      ArgumentError,
    );
    expect(await errorOf(() => scope(() => F.arange(0, beyond * 1.01, beyond / 2, { dtype })))).toBeInstanceOf(
      ArgumentError,
    );
    expect(
      await values(scope(() => F.arange(largest[dtype], largest[dtype] * 1.01, largest[dtype] / 2, { dtype }))),
    ).toEqual([largest[dtype]]);
  });

  it("arange rounds whole numbers once", async () => {
    const y = await values(scope(() => F.arange(16777217, 16777227, 3, { dtype: "f32" })));
    expect(y).toEqual([16777217, 16777220, 16777223, 16777226].map(Math.fround));
    const down = await values(scope(() => F.arange(-16777217, -2147483648, -715827877, { dtype: "f32" })));
    expect(down).toEqual([-16777217, -732605094, -1448432971].map(Math.fround));
    // Between the bf16 numbers 2^24 + 2^17 and 2^24, just above their middle: rounded to f32 first it would go down.
    expect(
      await values(scope(() => F.arange(16777216 + 65536 + 1, 16777216 + 65536 + 2, 1, { dtype: "bf16" }))),
    ).toEqual([16777216 + 131072]);
    expect(await values(scope(() => F.arange(-16777216 - 65536 - 1, -16777216 - 65536, 1, { dtype: "bf16" })))).toEqual(
      [-16777216 - 131072],
    );
  });
});

describe("sin and cos of large numbers", () => {
  const large = [
    9999,
    10001,
    1e5,
    123456.789,
    1e6,
    5e6,
    2 ** 24,
    1e8,
    1e10,
    2 ** 40,
    1e15,
    1e20,
    16367173 * 2 ** 72,
    1e25,
    1e30,
    1e38,
    3.4028234663852886e38,
  ].map(Math.fround);

  it("are those of the host", async () => {
    const x = Float32Array.from([
      ...large,
      ...large.map((v) => -v),
      ...Array.from({ length: 900 }, (_, i) => 1e4 * 1.08 ** i * (i % 2 ? 1 : -1)).filter((v) => Math.abs(v) < 3e38),
    ]);
    for (const [op, expected] of [
      [F.sin, Math.sin],
      [F.cos, Math.cos],
    ] as const) {
      const y = await values(scope(() => op(tensor(x))));
      // Within 4 units of the last place of the result, even if it is near 0.
      const wrong = y.flatMap((v, i) =>
        Math.abs(v - expected(x[i]!)) <= 2.5e-7 * Math.max(Math.abs(expected(x[i]!)), Math.abs(x[i]!) > 1e4 ? 0 : 1e-3)
          ? []
          : [[x[i], v, expected(x[i]!)]],
      );
      expect(wrong).toEqual([]);
    }
  });

  it("have gradients there", async () => {
    const x = tensor(Float32Array.from(large), { requiresGrad: true });
    scope(() => backward(F.sum(F.sin(x))));
    [...(await x.grad!.data())].forEach((v, i) => expect(v).toBeCloseTo(Math.cos(large[i]!), 5));
    x.dispose();
  });

  it("of what is not finite are NaN", async () => {
    for (const op of [F.sin, F.cos])
      expect(await values(scope(() => op(tensor([I, -I, NaN]))))).toEqual([NaN, NaN, NaN]);
  });
});

describe("floats as integers", () => {
  it("saturate; NaN is 0", async () => {
    const x = [1.9, -1.9, 3e9, -3e9, 1e20, -1e20, I, -I, NaN];
    expect(await values(scope(() => F.cast(tensor(x), "i32")))).toEqual([
      1,
      -1,
      2 ** 31 - 1,
      -(2 ** 31),
      2 ** 31 - 1,
      -(2 ** 31),
      2 ** 31 - 1,
      -(2 ** 31),
      0,
    ]);
    expect(await values(scope(() => F.cast(tensor(x), "u32")))).toEqual([
      1,
      0,
      3e9,
      0,
      2 ** 32 - 1,
      0,
      2 ** 32 - 1,
      0,
      0,
    ]);
    expect(await values(scope(() => F.cast(tensor(x), "u8")))).toEqual([1, 0, 255, 0, 255, 0, 255, 0, 0]);
  });
});

describe("first NaN of a row", () => {
  it.each([0x7fc00000, 0xffc00000])(
    "argmax and argmin give its place, wherever it is, for the bits %i",
    async (bits) => {
      for (const n of [3, 64, 200]) {
        for (const at of [0, n >> 1, n - 1]) {
          const x = Float32Array.from({ length: n }, (_, i) => Math.sin(i) * 1e3);
          new Uint32Array(x.buffer)[at] = bits;
          expect(await values(scope(() => F.argmax(tensor(x))))).toEqual([at]);
          expect(await values(scope(() => F.argmin(tensor(x))))).toEqual([at]);
        }
      }
    },
  );
});
