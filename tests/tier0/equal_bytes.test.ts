/** Comparisons of typed arrays in tests see what they saw before they were made fast. */
import { expect, it } from "vitest";
import { haveEqualBytes } from "../equal_bytes.ts";

const FLOATS = [0.5, NaN, -0, Infinity];

it("equal bytes are equal, also within objects and maps", () => {
  expect(haveEqualBytes(Float32Array.from(FLOATS), Float32Array.from(FLOATS))).toBe(true);
  expect(new Map([["a", { x: Float32Array.from(FLOATS) }]])).toEqual(
    new Map([["a", { x: Float32Array.from(FLOATS) }]]),
  );
  expect(new Float32Array([9, ...FLOATS]).subarray(1)).toEqual(Float32Array.from(FLOATS));
});

it("one element, one more, another type or another sign of zero is a difference", () => {
  for (const other of [
    Float32Array.from([...FLOATS.slice(0, 3), 2]),
    Float32Array.from([...FLOATS, 0]),
    Float64Array.from(FLOATS),
    Float32Array.from([0.5, NaN, 0, Infinity]),
  ])
    expect(Float32Array.from(FLOATS)).not.toEqual(other);
  expect(Uint8Array.of(1, 2)).not.toEqual(Int8Array.of(1, 2));
});

it("NaN is NaN in any bits", () => {
  const [a, b] = [0x7fc00000, 0x7fc00001].map((bits) => new Float32Array(Uint32Array.of(bits).buffer));
  expect(haveEqualBytes(a, b)).toBeUndefined();
  expect(a).toEqual(b);
});
