/** AdamW of small parameters, two a launch. */
import { expect, it } from "vitest";
import { tally, tensor, zeroGradients } from "../../index.ts";
import type { Tensor } from "../../index.ts";
import { AdamW } from "../../model/nn/optim/index.ts";
import { device, seed, useDevices } from "../gpu.ts";
import { setGradient, sizeOf, uniform } from "../reference/optimizer.ts";
import { randomFrom } from "../random.ts";

useDevices();

it("moves small parameters two a launch, with the bits of single updates", async () => {
  const random = randomFrom(seed);
  const shapes = [[4], [130, 9], [33], [24, 3, 3, 3]];
  const starts = shapes.map((shape) => uniform(sizeOf(shape), random));
  const made = (): Tensor[] => starts.map((p, i) => tensor(p, { shape: shapes[i]!, device, requiresGrad: true }));
  const [joint, single] = [made(), made()];
  const settings = { lr: 0.02, weightDecay: 0.1 };
  using all = new AdamW(joint, settings);
  const each = single.map((t) => new AdamW([t], settings));
  for (let step = 0; step < 3; step++) {
    const grads = starts.map((p) => uniform(p.length, random));
    for (const tensors of [joint, single]) tensors.forEach((t, i) => setGradient(t, grads[i]!));
    const { byKernel } = tally(() => all.step(), device);
    expect([byKernel.get("adamw_pair"), byKernel.get("adamw")]).toEqual([1, 2]); // the third is no whole granules
    for (const optimizer of each) optimizer.step();
  }
  for (const [i, t] of joint.entries()) {
    const [a, b] = [all.stateDict(), each[i]!.stateDict()];
    const pairs = [[t, single[i]!], ...["m", "v"].map((key) => [a[`${i}.${key}`]!, b[`0.${key}`]!])];
    for (const [one, other] of pairs) expect(await one!.data()).toEqual(await other!.data());
  }
  for (const optimizer of each) optimizer.dispose();
  zeroGradients([...joint, ...single]);
  for (const t of [...joint, ...single]) t.dispose();
});
