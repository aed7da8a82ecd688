/** No dispatch has more work than a GPU's watchdog allows: large ops are cut, other launches refused. */
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import {
  ArgumentError,
  Device,
  F,
  KernelError,
  MAX_DISPATCH_WORK,
  ShapeError,
  backward,
  empty,
  kernel,
  launch,
  scope,
  setDevice,
  tally,
} from "../../index.ts";
import type { Tally, Tensor } from "../../index.ts";
import { JANUS_PRO_7B } from "../../model/janus/config.ts";
import { errorOf } from "../gpu.ts";
import { PROFILES } from "../null_runs.ts";

const noop = kernel(
  "dispatch_work_noop",
  "@group(0) @binding(0) var<storage, read_write> y: array<f32>;\n@compute @workgroup_size(1) fn dispatch_work_noop() { y[0] = 0.0; }",
  { y: "write" },
);

describe.each(Object.entries(PROFILES))("on a device like %s", (_, capabilities) => {
  let device: Device;
  beforeAll(async () => {
    const limits = { ...capabilities.limits, maxBufferSize: 2 ** 40 }; // so that the large tensors exist
    device = await Device.create({ backend: "null", capabilities: { ...capabilities, limits } });
    setDevice(device);
  });
  afterAll(() => {
    device.destroy();
    setDevice(null);
  });

  /** Counts forward and backward of `run` over tensors of `shapes`. */
  function count(shapes: readonly (readonly number[])[], run: (inputs: readonly Tensor[]) => Tensor): Tally {
    const inputs = shapes.map((shape) => empty(shape, { dtype: "bf16", requiresGrad: true }));
    const counts = tally(() =>
      scope(() => {
        const y = run(inputs);
        backward(y, empty(y.shape, { dtype: y.dtype }));
      }),
    );
    for (const t of inputs) t.dispose();
    return counts;
  }
  const expectCut = (counts: Tally, flops: number): void => {
    expect(counts.largest.work).toBeLessThanOrEqual(MAX_DISPATCH_WORK);
    expect(counts.largest.work).toBeGreaterThan(MAX_DISPATCH_WORK / 10); // cut, not shredded
    expect(counts.flops).toBeGreaterThan(flops * 0.99);
    expect(counts.flops).toBeLessThan(flops * 1.05);
  };

  const { hidden, vocabulary } = JANUS_PRO_7B.language;
  it("the 7B model's text head over 4,096 tokens", () => {
    expectCut(
      count(
        [
          [4096, hidden],
          [vocabulary, hidden],
        ],
        ([x, w]) => F.linear(x!, w!),
      ),
      3 * 2 * 4096 * hidden * vocabulary,
    );
  });
  it("a batch of products", () => {
    expectCut(
      count(
        [
          [16, 2048, 2048],
          [16, 2048, 2048],
        ],
        ([a, b]) => F.matmul(a!, b!),
      ),
      3 * 16 * 2 * 2048 ** 3,
    );
  });
  it("attention of 8 rows of 4,096 tokens", () => {
    const heads = [8, 32, 4096, 128];
    expectCut(
      count([heads, heads, heads], ([q, k, v]) => F.attention(q!, k!, v!, { causal: true })),
      (2 + 3 + 4) * 2 * 8 * 32 * 128 * ((4096 * 4097) / 2),
    );
  });
  it("a convolution over 8 feature maps of 384 × 384, and one over a single larger one", () => {
    for (const [images, side] of [
      [8, 384],
      [1, 768],
    ] as const) {
      const flops = 2 * images * side ** 2 * 128 * 128 * 9;
      expectCut(
        count(
          [
            [images, 128, side, side],
            [128, 128, 3, 3],
          ],
          ([x, w]) => F.conv2d(x!, w!, null, { padding: 1 }),
        ),
        3 * flops,
      );
    }
  });

  it("what cannot be cut is refused by name before it is launched", async () => {
    const long = [1, 1, 40_000, 128];
    const q = empty(long);
    const before = device.stats.launches;
    const attention = await errorOf(() => F.attention(q, q, q));
    expect(attention).toBeInstanceOf(ShapeError);
    expect(attention.message).toMatch(
      /^attention: one head must take at most 1e\+11 operations, the limit of a dispatch; got 8\.2e\+11\. Use fewer tokens/,
    );
    const own = await errorOf(() => launch(noop, { buffers: { y: q }, grid: [1], cost: { flops: 1.1e11, bytes: 0 } }));
    expect(own).toBeInstanceOf(KernelError);
    expect(own.message).toMatch(
      /kernel "dispatch_work_noop": a dispatch must have at most 1\.0e\+11 operations; got 1\.1e\+11\. Split it/,
    );
    expect(device.stats.launches).toBe(before);
    q.dispose();
  });
});

it("the bound is an option of the device, and has to be one", async () => {
  await expect(Device.create({ backend: "null", maxDispatchWork: 0 })).rejects.toThrow(ArgumentError);
  await expect(Device.create({ backend: "null", maxDispatchWork: NaN })).rejects.toThrow(
    /maxDispatchWork must be a number of operations above 0; got NaN/,
  );
});
