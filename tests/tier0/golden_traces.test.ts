/** Launch traces of small programs against those kept in tests/golden/. */
import { afterAll, beforeAll, expect, it } from "vitest";
import { Device, F, scope, setDevice, traceOf, withLabel, zeroGradients } from "../../index.ts";
import type { Tensor } from "../../index.ts";
import { expectGolden, launchesIn } from "../golden.ts";

let device: Device;
beforeAll(async () => {
  device = await Device.create({ backend: "null" });
});
afterAll(() => setDevice(null));

/** Forward and backward of mean((tanh(x · w) − y)²), with a broadcast, a view, a cast and labels, and one step of plain descent. */
function step(x: Tensor, w: Tensor, y: Tensor): void {
  scope(() => {
    const hidden = withLabel("layer", () => F.tanh(F.mul(x, w)));
    const error = withLabel("loss", () => F.square(F.sub(hidden.cast("bf16").cast("f32").transpose(), y)));
    error.mean().backward();
    F.addInto(w, F.mul(w.grad!, -0.1));
  });
  zeroGradients([w]);
}

it("a small training step", () => {
  const x = F.ones([3, 8]);
  const w = F.ones([8], { requiresGrad: true });
  const y = F.zeros([8, 3]);
  const launches = launchesIn(device, () => step(x, w, y));
  expectGolden("small_step", launches);
  // The second step is the first one again.
  expect(traceOf(launchesIn(device, () => step(x, w, y)))).toEqual(traceOf(launches));
});

it("traces name storages by their order, not by their addresses", () => {
  const run = (): string[] => traceOf(launchesIn(device, () => scope(() => void F.add(F.exp(F.ones([4])), 1))));
  const lines = run();
  expect(lines).toEqual(run());
  expect(lines[1]).toMatch(/map .* \(#0:16 #0:16 #0:16 #1:16\) \[.*\] 1×1×1$/);
});

it.skipIf(process.env["JANUS_UPDATE_GOLDEN"])(
  "a difference, or a file that is not there, fails and says how to write it",
  () => {
    expect(() => expectGolden("no_such_trace", [])).toThrow(
      /no_such_trace\.txt is not there; write it with JANUS_UPDATE_GOLDEN=1/,
    );
    expect(() => expectGolden("small_step", [])).toThrow(/differs from tests\/golden\/small_step\.txt/);
  },
);
