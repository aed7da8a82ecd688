/** Ops that are cut to bound the work of a dispatch give the same bits as in one launch. */
import "../quick_compile.ts";
import { afterAll, beforeAll, expect, it } from "vitest";
import { Device, F, backward, scope, tally, tensor } from "../../index.ts";
import type { DType, HostArray, Tensor } from "../../index.ts";

const MAX_WORK = 200_000;
let whole: Device;
let cut: Device;
beforeAll(async () => {
  whole = await Device.create({ poison: true });
  cut = await Device.create({ poison: true, maxDispatchWork: MAX_WORK });
});
afterAll(() => {
  whole.destroy();
  cut.destroy();
});

interface Op {
  readonly name: string;
  readonly shapes: readonly (readonly number[])[];
  readonly run: (inputs: readonly Tensor[]) => Tensor;
}

const OPS: readonly Op[] = [
  {
    name: "matmul",
    shapes: [
      [90, 68],
      [68, 76],
    ],
    run: ([a, b]) => F.matmul(a!, b!),
  },
  {
    name: "matmul of batches",
    shapes: [
      [3, 2, 36, 40],
      [3, 2, 40, 33],
    ],
    run: ([a, b]) => F.matmul(a!, b!),
  },
  { name: "linear with bias", shapes: [[70, 64], [100, 64], [100]], run: ([x, w, b]) => F.linear(x!, w!, b!) },
  {
    name: "linear of one row",
    shapes: [
      [1, 512],
      [400, 512],
    ],
    run: ([x, w]) => F.linear(x!, w!),
  },
  {
    name: "causal attention",
    shapes: [
      [2, 4, 27, 32],
      [2, 2, 27, 32],
      [2, 2, 27, 32],
    ],
    run: ([q, k, v]) => F.attention(q!, k!, v!, { causal: true }),
  },
  {
    name: "conv2d over images",
    shapes: [[4, 6, 12, 12], [20, 6, 3, 3], [20]],
    run: ([x, w, b]) => F.conv2d(x!, w!, b!, { padding: 1 }),
  },
  {
    name: "conv2d over outputs",
    shapes: [[1, 6, 16, 12], [44, 6, 3, 3], [44]],
    run: ([x, w, b]) => F.conv2d(x!, w!, b!, { padding: 1 }),
  },
  {
    name: "conv2d with stride 2",
    shapes: [[2, 8, 16, 16], [36, 8, 3, 3], [36]],
    run: ([x, w, b]) => F.conv2d(x!, w!, b!, { stride: 2, padding: [0, 1, 1, 0] }),
  },
];

async function results(
  { shapes, run }: Op,
  dtype: DType,
  device: Device,
): Promise<{ values: HostArray[]; launches: number; largest: number }> {
  let state = 5; // values from the host: drawing them would be refused at this bound
  const random = (): number => (state = (state * 16807) % 2147483647) / 2147483647 - 0.5;
  const inputs = shapes.map((shape) =>
    tensor(Float32Array.from({ length: shape.reduce((a, b) => a * b, 1) }, random), { shape, dtype, device }),
  );
  for (const t of inputs) t.requiresGrad = true;
  let y: Tensor | undefined;
  const { launches, largest } = tally(() => {
    y = scope(() => run(inputs));
    backward(y, F.full(y.shape, 0.5, { dtype: y.dtype, device }));
  }, device);
  const values = [await y!.data(), ...(await Promise.all(inputs.map((t) => t.grad!.data())))];
  for (const t of [y!, ...inputs]) t.dispose();
  return { values, launches, largest: largest.work };
}

it.each(OPS.flatMap((op) => (["f32", "bf16"] as const).map((dtype) => [op.name, dtype, op] as const)))(
  "%s, %s",
  async (_, dtype, op) => {
    const [one, many] = [await results(op, dtype, whole), await results(op, dtype, cut)];
    expect(one.largest).toBeGreaterThan(MAX_WORK);
    expect(many.largest).toBeLessThanOrEqual(MAX_WORK);
    expect(many.launches).toBeGreaterThan(one.launches);
    expect(many.values).toEqual(one.values);
  },
);
