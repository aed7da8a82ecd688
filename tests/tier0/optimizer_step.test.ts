/** `optimizer.step(fn)` and `zeroGrad`: what a training step frees, and what it refuses. Its numbers are in tier1/optimizer.test.ts. */
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { ArgumentError, AutogradError, Device, F, nn, setDevice, tensor } from "../../index.ts";
import type { Tensor } from "../../index.ts";

let device: Device;
let net: nn.Linear;
let optimizer: nn.SGD;
let x: Tensor;
beforeAll(async () => {
  device = await Device.create({ backend: "null" });
  setDevice(device);
  net = new nn.Linear(2, 1);
  optimizer = new nn.SGD(net.parameters(), { lr: 0.1 });
  x = tensor([[1, 2], [3, 4]]); // prettier-ignore
});
afterAll(() => device.destroy());

const loss = (): Tensor => net.call(x).square().mean();

describe("optimizer.step with a function", () => {
  it("returns the loss, outside of the tape, and frees everything else but the gradients", () => {
    optimizer.step(loss).dispose();
    const live = device.pool.stats.liveBytes;
    const value = optimizer.step(loss);
    expect([value.shape, value.requiresGrad]).toEqual([[], false]);
    value.dispose();
    expect(device.pool.stats.liveBytes).toBe(live);
    expect(net.weight.grad).not.toBeNull();
  });

  it("clears gradients of before, and those of a step that throws", () => {
    loss().backward();
    expect(() =>
      optimizer.step(() => {
        expect(net.weight.grad).toBeNull();
        loss().backward();
        throw new RangeError("from the function");
      }),
    ).toThrow("from the function");
    expect(net.weight.grad).toBeNull();
  });

  it.each<[string, new (message: string) => Error, () => unknown]>([
    ["Optimizer.step: the function must return the loss, a tensor; got nothing", ArgumentError, () => undefined],
    ["the function must be synchronous", ArgumentError, async () => loss()],
    ["backward: the gradient must have the shape of the loss", Error, () => net.call(x)],
    ["backward: the loss must depend on a tensor that requires a gradient", AutogradError, () => F.ones([])],
  ])("refuses: %s", (message, kind, fn) => {
    expect(() => optimizer.step(fn as () => Tensor)).toThrow(message);
    expect(() => optimizer.step(fn as () => Tensor)).toThrow(kind);
    expect(net.weight.grad).toBeNull();
  });
});

it("zeroGrad frees the gradients of the optimizer's parameters, and no others", () => {
  const other = new nn.Linear(1, 1);
  net.call(x).sum().add(other.call(F.ones([1, 1])).sum()).backward(); // prettier-ignore
  optimizer.zeroGrad();
  expect(net.parameters().map((p) => p.grad)).toEqual([null, null]);
  expect(other.weight.grad).not.toBeNull();
  other.dispose();
});
