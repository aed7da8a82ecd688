/** Compensated arithmetic on the device: drivers reassociate too. Software Vulkan's did, before `opaque`: geluTanh was off by 61 · 2^-24. */
import { describe, expect, it } from "vitest";
import { F, tensor } from "../../index.ts";
import type { Tensor } from "../../index.ts";
import { useDevice } from "../gpu.ts";

useDevice();

const N = 4096;
const spread = (low: number, high: number): Float32Array =>
  Float32Array.from({ length: N }, (_, i) => low + ((i + 0.37) * (high - low)) / N);

async function compare(
  op: (x: Tensor) => Tensor,
  xs: Float32Array,
  exact: (x: number) => number,
): Promise<{ y: number; exact: number }[]> {
  using x = tensor(xs);
  using y = op(x);
  const values = await y.data();
  return [...xs].map((v, i) => ({ y: values[i]!, exact: exact(v) }));
}

// A division may be off by 2.5 units of the last place on a GPU, which are 5 of these.
const UNITS = 16 * 2 ** -24;

describe("keeps its digits", () => {
  it("geluTanh in the lower tail, relative to its value", async () => {
    const found = await compare(
      F.geluTanh,
      spread(-9.3, 6),
      (x) => x / (1 + Math.exp(-2 * Math.sqrt(2 / Math.PI) * (x + 0.044715 * x ** 3))),
    );
    for (const { y, exact } of found)
      if (Math.abs(y - exact) > UNITS * Math.abs(exact)) expect.fail(`${y} for ${exact}`);
  });

  it.each([
    ["sin", F.sin, Math.sin],
    ["cos", F.cos, Math.cos],
  ] as const)("%s of arguments up to 2000", async (_, op, exact) => {
    const found = await compare(op, spread(-2000, 2000), exact);
    for (const { y, exact: due } of found) if (Math.abs(y - due) > UNITS) expect.fail(`${y} for ${due}`);
  });

  it("layerNorm of rows whose mean is 1000 times their deviation", async () => {
    // Sixteenths around 1000, which f32 has exactly.
    const xs = Float32Array.from({ length: N }, (_, i) => 1000 + ((i * 7919) % 33) / 16 - 1);
    const mean = xs.reduce((sum, v) => sum + v, 0) / N;
    const deviation = Math.sqrt(xs.reduce((sum, v) => sum + (v - mean) ** 2, 0) / N + 1e-5);
    const found = await compare(
      (x) => F.layerNorm(x),
      xs,
      (x) => (x - mean) / deviation,
    );
    for (const { y, exact } of found) if (Math.abs(y - exact) > UNITS) expect.fail(`${y} for ${exact}`);
  });
});
