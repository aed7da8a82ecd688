/**
 * Products whose operands are packed into panels: sizes and layouts at which a panel is not its operand, with the bits of `register-lanes`. Taller
 * tiles and symmetric products have those, too.
 */
import "../quick_compile.ts";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { Device, F, noGrad, tensor } from "../../index.ts";
import type { Tensor } from "../../index.ts";
import { forceVariant } from "../../kernels/core/variants.ts";
import { randomFrom } from "../random.ts";

const random = randomFrom(1);
const draw = (device: Device, shape: number[]): Tensor =>
  tensor(
    Float32Array.from({ length: shape.reduce((a, b) => a * b) }, () => random() * 2 - 1),
    { shape, device },
  );

async function expectSameBits(
  options: Parameters<typeof F.gemm>[0],
  variant: "panels" | "tall" = "panels",
): Promise<void> {
  const [got, expected] = [`register-lanes-${variant}`, "register-lanes"].map((name) =>
    forceVariant("matmul", name, () => F.gemm(options)),
  );
  expect(await got!.data()).toEqual(await expected!.data());
}

describe("on a device of full size", () => {
  let device: Device;
  beforeAll(async () => {
    device = await Device.create();
  });
  afterAll(() => device.destroy());

  it("a single term, whose weight has steps of 1 both ways", () =>
    expectSameBits({ a: draw(device, [70, 1]), b: draw(device, [33, 1]), transB: true }));

  it("more panels than a grid has workgroups along one dimension, of rows or of terms", async () => {
    const long = draw(device, [262148, 4]);
    await expectSameBits({ a: long, b: draw(device, [4, 4]) });
    await expectSameBits({ a: draw(device, [262148, 36]), b: long, transA: true });
  });

  it("biases of 16 bits and none, with activations and residuals", async () => {
    const [a, b, residual] = [draw(device, [70, 20]), draw(device, [45, 20]), draw(device, [70, 45])];
    for (const bias of [null, F.cast(draw(device, [45]), "bf16"), F.cast(draw(device, [45]), "f16")])
      await expectSameBits({ a, b, transB: true, bias, activation: "gelu", residual });
  });

  it("biases of 32 bits cost no launch", () => {
    const [a, b, bias] = [draw(device, [70, 20]), draw(device, [45, 20]), draw(device, [45])];
    const launches = (options: { bias?: Tensor }): number => {
      const before = device.stats.launches;
      forceVariant("matmul", "register-lanes-panels", () => F.gemm({ a, b, transB: true, ...options })).dispose();
      return device.stats.launches - before;
    };
    expect(launches({ bias })).toBe(launches({}));
  });

  it("taller tiles, as operands lie", async () => {
    for (const [transA, transB] of [[false, false], [false, true], [true, false]] as const) // prettier-ignore
      await expectSameBits({ a: draw(device, transA ? [36, 70] : [70, 36]), b: draw(device, transB ? [44, 36] : [36, 44]), transA, transB, alpha: 0.3, bias: draw(device, [44]), activation: "silu" }, "tall"); // prettier-ignore
  });

  it("half of a symmetric product is the other half", async () => {
    const a = draw(device, [2, 132, 20]);
    for (const name of ["tall", "8"]) {
      const [half, whole] = [true, false].map((symmetric) =>
        forceVariant("matmul", `register-lanes-${name}`, () => F.gemm({ a, b: a, transB: true, symmetric })),
      );
      expect(await half!.data()).toEqual(await whole!.data());
    }
    expect(() => F.gemm({ a, b: a.slice(1, 0, 16), transB: true, symmetric: true })).toThrow(/must be square/);
  });

  it("an RMS norm before a product is not left to panels", async () => {
    const [x, gain, weight] = [draw(device, [5, 64]), draw(device, [64]), draw(device, [48, 64])];
    const run = (): Tensor => noGrad(() => F.normLinear(x, gain, weight, { gated: true }));
    const expected = await forceVariant("matmul", "naive", run).data();
    const got = await forceVariant("matmul", "register-lanes-panels", run).data();
    got.forEach((v, i) => expect(v).toBeCloseTo(expected[i]!, 4));
  });
});

it("panels fit bindings that their operands fill", async () => {
  const device = await Device.create({ limits: { maxStorageBufferBindingSize: 1 << 17 } });
  for (const [m, n, k] of [
    [65, 40, 800],
    [40, 9, 3000],
    [65, 300, 401],
  ] as const)
    // prettier-ignore
    await expectSameBits({ a: draw(device, [m, k]), b: draw(device, [n, k]), transB: true });
  device.destroy();
});
