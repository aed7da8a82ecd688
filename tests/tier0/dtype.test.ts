/** Conversions between host numbers and stored bytes, over every bit pattern of the 16-bit types. */
import { describe, expect, it } from "vitest";
import {
  ArgumentError,
  DTYPES,
  DTypeError,
  bf16Bits,
  bf16Value,
  checkDType,
  checkNumber,
  decode,
  elementBytes,
  encode,
  f16Bits,
  f16Value,
  isFloat,
  storageBytes,
} from "../../index.ts";
import type { DType } from "../../index.ts";

const halves = {
  f16: { bits: f16Bits, value: f16Value, infinity: 0x7c00, quiet: 0x0200 },
  bf16: { bits: bf16Bits, value: bf16Value, infinity: 0x7f80, quiet: 0x0040 },
} as const;
const patterns = Array.from({ length: 65536 }, (_, i) => i);

describe.each(Object.entries(halves))("%s", (dtype, { bits, value, infinity, quiet }) => {
  const isNaNPattern = (p: number): boolean => (p & 0x7fff) > infinity;
  const finite = patterns.filter((p) => (p & 0x7fff) < infinity);

  it("takes every one of the 65,536 patterns to its number and back", () => {
    const wrong = patterns.filter((p) =>
      isNaNPattern(p) ? !Number.isNaN(value(p)) || !isNaNPattern(bits(value(p))) : bits(value(p)) !== p,
    );
    expect(wrong).toEqual([]);
  });

  it("keeps a NaN a quiet NaN", () => {
    expect(bits(NaN) & 0x7fff).toBeGreaterThan(infinity);
    expect(bits(NaN) & quiet).toBe(quiet);
  });

  it("grows with the pattern and is odd in the sign", () => {
    const positive = finite.filter((p) => p < 0x8000);
    for (const p of positive.slice(1)) expect(value(p)).toBeGreaterThan(value(p - 1));
    for (const p of positive) if (value(p | 0x8000) !== -value(p)) expect.fail(`pattern ${p}`);
  });

  it("rounds to the nearest, ties to even, between all neighbours", () => {
    const wrong: number[] = [];
    for (let p = 0; p + 1 < infinity; p++) {
      const [low, high] = [value(p), value(p + 1)];
      const half = (low + high) / 2; // exact in f64, and in f32
      const even = p % 2 === 0 ? p : p + 1;
      const step = Math.max(half * 2 ** -23, 2 ** -149); // one unit of f32, about
      if (
        bits(half) !== even ||
        bits(half - step) !== p ||
        bits(half + step) !== p + 1 ||
        bits(-half) !== (even | 0x8000)
      )
        wrong.push(p);
    }
    expect(wrong).toEqual([]);
  });

  it("goes to infinity from half a step beyond the largest", () => {
    const [largest, before] = [value(infinity - 1), value(infinity - 2)];
    const limit = largest + (largest - before) / 2;
    expect(bits(limit)).toBe(infinity);
    expect(bits(-limit)).toBe(infinity | 0x8000);
    expect(bits(limit * (1 - 2 ** -20))).toBe(infinity - 1);
    expect(bits(Infinity)).toBe(infinity);
  });

  it("encodes and decodes arrays", () => {
    const values = finite.map(value);
    const bytes = encode(values, dtype as DType);
    expect(bytes.byteLength).toBe(2 * values.length);
    expect(decode(bytes, dtype as DType, values.length)).toEqual(Float32Array.from(values));
    expect([...new Uint16Array(bytes.buffer)]).toEqual(finite);
  });
});

it("knows constants by heart", () => {
  expect(f16Bits(1)).toBe(0x3c00);
  expect(f16Bits(65504)).toBe(0x7bff);
  expect(f16Bits(-2)).toBe(0xc000);
  expect(f16Bits(2 ** -24)).toBe(0x0001);
  expect(f16Bits(2 ** -25)).toBe(0x0000);
  expect(f16Value(0x3555)).toBe(0.333251953125);
  expect(bf16Bits(1)).toBe(0x3f80);
  expect(bf16Bits(-0)).toBe(0x8000);
  expect(bf16Value(0x4049)).toBe(3.140625);
});

describe("integers", () => {
  const ranges = { i32: [-2147483648, 2147483647], u32: [0, 4294967295], u8: [0, 255] } as const;
  it.each(Object.entries(ranges))("%s keeps its range and refuses what is outside", (name, [low, high]) => {
    const dtype = name as DType;
    expect([...decode(encode([low, 0, 1, high], dtype), dtype, 4)]).toEqual([low, 0, 1, high]);
    for (const value of [low - 1, high + 1, 0.5, NaN, Infinity]) {
      expect(() => encode([0, value], dtype), String(value)).toThrow(ArgumentError);
      expect(() => encode([0, value], dtype)).toThrow(`${value} at index 1`);
    }
  });
  it("copies no typed array of the same type, and checks those of others", () => {
    const values = Int32Array.from([-1, 2]);
    expect(encode(values, "i32").buffer).toBe(values.buffer);
    expect(() => encode(values, "u32")).toThrow(ArgumentError);
    expect(() => encode(Uint32Array.from([256]), "u8")).toThrow(ArgumentError);
  });
});

it("f32 is stored as it is", () => {
  const values = Float32Array.from([0.1, -0, Infinity, 1e-45]);
  expect(encode(values, "f32").buffer).toBe(values.buffer);
  expect(decode(encode([0.1], "f32"), "f32", 1)[0]).toBe(Math.fround(0.1));
  expect(Object.is(decode(encode([-0], "f32"), "f32", 1)[0], -0)).toBe(true);
});

it("decodes a part of a larger buffer", () => {
  const bytes = new Uint8Array(12);
  bytes.set(encode([7], "u32"), 5);
  expect([...decode(bytes.subarray(5, 9), "u32", 1)]).toEqual([7]);
});

it("counts bytes: elements as they are, storages in whole granules of 16", () => {
  expect(elementBytes("bf16", 3)).toBe(6);
  expect(elementBytes("u8", 5)).toBe(5);
  for (const dtype of Object.keys(DTYPES) as DType[]) {
    for (const n of [0, 1, 3, 4, 5, 16, 17, 1000]) {
      const bytes = storageBytes(dtype, n);
      expect(bytes % 16).toBe(0);
      expect(bytes).toBeGreaterThanOrEqual(Math.max(16, elementBytes(dtype, n)));
      expect(bytes).toBeLessThan(elementBytes(dtype, n) + 17);
    }
  }
});

it("names its dtypes", () => {
  expect(() => checkDType("f64")).toThrow(DTypeError);
  expect(() => checkDType("f64")).toThrow(/must be one of f32, f16, bf16, i32, u32, u8; got "f64"/);
  expect(() => checkDType("toString")).toThrow(DTypeError);
  expect((Object.keys(DTYPES) as DType[]).filter(isFloat)).toEqual(["f32", "f16", "bf16"]);
});

describe("checkNumber", () => {
  const takes = {
    i32: [0, -0, -(2 ** 31), 2 ** 31 - 1, 16777217],
    u32: [0, 2 ** 32 - 1, 16777217],
    u8: [0, 255],
    f32: [0.5, NaN, 1e300],
    f16: [1e6],
    bf16: [-Infinity],
  } as const;
  const refuses = {
    i32: [2 ** 31, -(2 ** 31) - 1, 0.5, NaN, Infinity],
    u32: [-1, 2 ** 32, 0.5, NaN],
    u8: [-1, 256, 300, 1.5, -Infinity],
  } as const;

  it.each(Object.entries(takes))("takes what %s represents, and rounds for floating dtypes", (dtype, values) => {
    for (const value of values) expect(() => checkNumber("op", value, dtype as DType), String(value)).not.toThrow();
  });

  it.each(Object.entries(refuses))(
    "refuses what %s does not represent, with the value, the dtype and its range",
    (dtype, values) => {
      for (const value of values)
        expect(() => checkNumber("op", value, dtype as DType), String(value)).toThrow(ArgumentError);
      expect(() => checkNumber("op", 300, "u8")).toThrow(
        "op: a number for u8 must be a whole number from 0 to 255; got 300. Cast the tensor to f32, or use another dtype.",
      );
    },
  );
});
