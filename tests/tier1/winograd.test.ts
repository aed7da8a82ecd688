/** Convolutions by Winograd's transform: strips of tiles, and which convolutions are transformed. */
import "../quick_compile.ts";
import { describe, expect, it } from "vitest";
import { Device, F, tensor } from "../../index.ts";
import type { Tensor } from "../../index.ts";
import { convVariant } from "../../kernels/conv/variants.ts";
import type { ConvGeometry } from "../../kernels/conv/variants.ts";
import { forceVariant } from "../../kernels/core/variants.ts";
import { relativeL2, tolerance } from "../harness.ts";
import { PROFILES } from "../null_runs.ts";
import { randomFrom } from "../random.ts";

describe("a device whose bindings hold one panel of tiles", () => {
  it("walks the tiles in strips", async () => {
    const device = await Device.create({ limits: { maxStorageBufferBindingSize: 1 << 18 } });
    if (!device.capabilities.subgroups?.every((n) => n === 8)) return device.destroy();
    const random = randomFrom(1);
    const draw = (shape: number[]): Tensor =>
      tensor(
        Float32Array.from({ length: shape.reduce((a, b) => a * b) }, () => random() * 2 - 1),
        { shape, device },
      );
    const [x, w, bias] = [draw([2, 3, 40, 20]), draw([5, 3, 3, 3]), draw([5])];
    const names: string[] = [];
    device.onLaunch(({ pipeline }) => void names.push(pipeline.kernel.name));
    const run = (name: string): Tensor => forceVariant("conv2d", name, () => F.conv2d(x, w, bias, { padding: 1 }));
    const got = run("winograd");
    expect(names.filter((name) => name === "conv2d_winograd")).toHaveLength(4); // 100 tiles
    const expected = run("registers");
    expect(relativeL2(await got.data(), await expected.data())).toBeLessThan(tolerance("forward", ["f32"], 27));
    device.destroy();
  });
});

it.each([
  ["a panel of tiles", 500_000, 4],
  ["less than a panel, which is convolved directly", 200_000, 0],
])("bounds the work of a launch to %s", async (_, maxDispatchWork, launches) => {
  const device = await Device.create({ maxDispatchWork });
  if (!device.capabilities.subgroups?.every((n) => n === 8)) return device.destroy();
  const random = randomFrom(2);
  const draw = (shape: number[]): Tensor =>
    tensor(
      Float32Array.from({ length: shape.reduce((a, b) => a * b) }, () => random() * 2 - 1),
      { shape, device },
    );
  const [x, w] = [draw([2, 8, 40, 20]), draw([5, 8, 3, 3])];
  const names: string[] = [];
  device.onLaunch(({ pipeline }) => void names.push(pipeline.kernel.name));
  const run = (name: string): Tensor => forceVariant("conv2d", name, () => F.conv2d(x, w, null, { padding: 1 }));
  const got = run("winograd");
  expect(names.filter((name) => name === "conv2d_winograd")).toHaveLength(launches); // 100 tiles
  const expected = run("registers");
  expect(relativeL2(await got.data(), await expected.data())).toBeLessThan(tolerance("forward", ["f32"], 72));
  device.destroy();
});

it("tiles of four rows have the bits of those of two", async () => {
  const device = await Device.create();
  if (!device.capabilities.subgroups?.every((n) => n === 8)) return device.destroy();
  const random = randomFrom(3);
  const draw = (shape: number[]): Tensor =>
    tensor(
      Float32Array.from({ length: shape.reduce((a, b) => a * b) }, () => random() * 2 - 1),
      { shape, device },
    );
  const [x, w, bias] = [draw([3, 5, 11, 18]), draw([37, 5, 3, 3]), draw([37])];
  const [tall, flat] = ["subgroup-tall", "subgroup"].map((name) =>
    forceVariant("conv2d", name, () => F.conv2d(x, w, bias, { padding: 1 })),
  );
  expect(await tall!.data()).toEqual(await flat!.data());
  device.destroy();
});

it("gives an image the same bits in any batch, also in one larger than a binding", async () => {
  const [images, image] = [12, 4 * 8 * 40 * 20]; // bytes: more than the binding
  const device = await Device.create({ limits: { maxStorageBufferBindingSize: 1 << 18 } });
  const wide = await Device.create();
  const random = randomFrom(3);
  const values = (n: number): Float32Array => Float32Array.from({ length: n }, () => random() * 2 - 1);
  const [pixels, weight] = [values((images * image) / 4), values(5 * 8 * 9)];
  const run = async (on: Device, count: number): Promise<Float32Array> => {
    const x = tensor(pixels.subarray(0, (count * image) / 4), { shape: [count, 8, 40, 20], device: on });
    const w = tensor(weight, { shape: [5, 8, 3, 3], device: on });
    const y = forceVariant("conv2d", "winograd", () => F.conv2d(x, w, null, { padding: 1 }));
    return (await y.data()) as Float32Array;
  };
  const together = await run(wide, images);
  expect(await run(wide, 1)).toEqual(together.slice(0, together.length / images));
  expect(await run(device, images)).toEqual(together);
  device.destroy();
  wide.destroy();
});

it("transforms large convolutions of rows of whole granules on software Vulkan", () => {
  const transformed = (changes: Partial<ConvGeometry>, profile = "software Vulkan"): boolean => {
    const size = { images: 1, channels: 128, height: 64, width: 64, outputs: 128, outHeight: 64, outWidth: 64 };
    const g = { ...size, kernelHeight: 3, kernelWidth: 3, stride: 1, up: 1, top: 1, left: 1, ...changes };
    const chosen = convVariant(PROFILES[profile]!, { g, x: "f32", w: "bf16" });
    return chosen.product === null && Boolean(chosen.winograd);
  };
  expect(transformed({})).toBe(true);
  expect(transformed({ outputs: 3, height: 384, width: 384, outHeight: 384, outWidth: 384 })).toBe(true);
  expect(transformed({}, "NVIDIA")).toBe(false);
  expect(transformed({ channels: 3 })).toBe(false);
  expect(transformed({ stride: 2 })).toBe(false);
  expect(transformed({ height: 16, width: 16, outHeight: 16, outWidth: 16 })).toBe(true);
  // The images of a batch do not decide.
  expect(transformed({ images: 64, height: 12, width: 12, outHeight: 12, outWidth: 12 })).toBe(false);
  expect(transformed({ images: 64 })).toBe(true);
  expect(transformed({ width: 66, outWidth: 66 })).toBe(false);
  expect(transformed({ left: 0 })).toBe(false);
  expect(transformed({ left: 1, outWidth: 60 })).toBe(false);
});
