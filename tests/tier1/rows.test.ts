/** What the table of cases does not show of the row-wise ops: refusals, replays with other positions and steps, precision element by element. */
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { ArgumentError, DTypeError, Device, F, Generator, ShapeError, capture, scope, tensor } from "../../index.ts";
import type { Tensor } from "../../index.ts";
import { relativeL2, tolerance } from "../harness.ts";
import { geluRef, geluTanhRef, ropeRef, siluRef } from "../reference/rows.ts";

let device: Device;
beforeAll(async () => {
  device = await Device.create({ poison: true });
});
afterAll(() => device.destroy());

const random = (shape: readonly number[]): Tensor => F.uniform(shape, -1, 1, { device });

describe("refusals come before any work and name the op", () => {
  const generator = (): Generator => new Generator(1, { device });
  const refusals: [string, () => unknown, typeof ShapeError | typeof DTypeError | typeof ArgumentError, RegExp][] = [
    ["rmsNorm of a scalar", () => F.rmsNorm(random([])), ShapeError, /rmsNorm.*\[\.\.\., C\]/],
    [
      "rmsNorm with a weight of another length",
      () => F.rmsNorm(random([2, 4]), random([3])),
      ShapeError,
      /rmsNorm: weight must be \[4\] for x \[2, 4\]/,
    ],
    ["rmsNorm with eps 0", () => F.rmsNorm(random([2, 4]), null, 0), ArgumentError, /eps must be .*got 0/],
    [
      "layerNorm with a bias of rank 2",
      () => F.layerNorm(random([2, 4]), null, random([1, 4])),
      ShapeError,
      /layerNorm: bias/,
    ],
    ["layerNorm of integers", () => F.layerNorm(F.arange(4, undefined, 1, { device })), DTypeError, /layerNorm.*i32/],
    ["softmax of integers", () => F.softmax(F.arange(4, undefined, 1, { device })), DTypeError, /softmax.*i32/],
    [
      "softmax along a dimension that is not there",
      () => F.softmax(random([2, 3]), 2),
      ShapeError,
      /softmax: the dimension must be .*got 2/,
    ],
    ["logSoftmax of a scalar", () => F.logSoftmax(random([])), ShapeError, /logSoftmax/],
    [
      "rope with an odd head",
      () => F.rope(random([2, 3]), F.arange(2, undefined, 1, { device })),
      ShapeError,
      /rope.*must be even/,
    ],
    [
      "rope with too few positions",
      () => F.rope(random([1, 2, 5, 4]), F.arange(4, undefined, 1, { device })),
      ShapeError,
      /\[5\] or \[1, 5\]/,
    ],
    ["rope with float positions", () => F.rope(random([3, 4]), random([3])), DTypeError, /positions.*i32 or u32/],
    [
      "rope of five dimensions",
      () => F.rope(random([1, 1, 1, 3, 4]), F.arange(3, undefined, 1, { device })),
      ShapeError,
      /rope/,
    ],
    ["swiglu of two shapes", () => F.swiglu(random([2, 4]), random([4])), ShapeError, /swiglu.*same shape/],
    ["swiglu of an odd tensor", () => F.swiglu(random([2, 3])), ShapeError, /swiglu.*2F/],
    ["gelu of integers", () => F.gelu(F.arange(4, undefined, 1, { device })), DTypeError, /gelu.*i32/],
    [
      "dropout with p = 1",
      () => F.dropout(random([2]), 1, { generator: generator(), site: 0 }),
      ArgumentError,
      /dropout: p must be .*got 1/,
    ],
  ];
  it.each(refusals)("%s", (_, run, kind, message) => {
    const attempt = (): unknown => scope(() => run());
    expect(attempt).toThrow(kind);
    expect(attempt).toThrow(message);
  });
});

describe("replays read positions and steps from the GPU", () => {
  it("rope turns by the positions of the moment", async () => {
    using x = random([1, 4, 1, 64]);
    using position = tensor(Int32Array.of(0), { device });
    using step = tensor(Int32Array.of(4099), { device });
    // Each replay rotates by the next position, as a decode step does.
    const captured = await capture(
      () => {
        const y = F.rope(x, position);
        F.castInto(
          position,
          scope(() => F.add(position, step)),
        );
        return y;
      },
      { device, verify: true },
    );
    const values = { shape: [1, 4, 1, 64], data: Float64Array.from(await x.data()) };
    await device.sync();
    const start = await position.item();
    for (let n = 0; n < 4; n++) {
      captured.replay();
      const expected = ropeRef(values, { shape: [1], data: Float64Array.of(start + 4099 * n) }, 10000, 2).data;
      const got = await captured.result.data();
      expect(relativeL2(got, expected)).toBeLessThan(tolerance("forward", ["f32"], 2));
    }
    captured.result.dispose();
    captured.dispose();
  });

  it("dropout draws the mask of the generator's step", async () => {
    const generator = new Generator(3, { device });
    using x = tensor(new Float32Array(256).fill(1), { device });
    const eager = async (step: number): Promise<unknown> => {
      generator.setStep(step);
      using y = F.dropout(x, 0.5, { generator, site: 2 });
      return y.data();
    };
    const expected = [await eager(0), await eager(1)];
    generator.setStep(0);
    const captured = await capture(() => F.dropout(x, 0.5, { generator, site: 2 }), { device, verify: true });
    for (const step of [1, 0]) {
      generator.setStep(step);
      captured.replay();
      expect(await captured.result.data()).toEqual(expected[step]);
    }
    captured.result.dispose();
    captured.dispose();
    generator.dispose();
  });
});

describe("activations element by element", () => {
  // Ratios to the reference, so that a small result in the lower tail counts as much as a large one.
  it.each([
    ["gelu", F.gelu, geluRef],
    ["geluTanh", F.geluTanh, geluTanhRef],
    ["silu", F.silu, siluRef],
  ] as const)("%s has the same relative precision from -6 to 6", async (_, run, reference) => {
    const xs = Float32Array.from({ length: 4800 }, (_value, i) => (i - 2400) / 400).filter((v) => v !== 0);
    using x = tensor(xs, { device });
    using y = run(x);
    const got = await y.data();
    const ratios = Float64Array.from(xs, (v, i) => got[i]! / reference(v));
    expect(relativeL2(ratios, new Float64Array(xs.length).fill(1))).toBeLessThan(tolerance("forward", ["f32"], 1));
  });
});
