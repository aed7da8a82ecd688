/** Modules: state dicts by field path, strict loading, modes, freezing, what a call frees, layers against their ops. */
import { afterAll, afterEach, beforeAll, describe, expect, it } from "vitest";
import { Device, F, backward, manualSeed, nn, tally, tensor, zeroGradients } from "../../index.ts";
import type { Tensor } from "../../index.ts";

let device: Device;
beforeAll(async () => {
  device = await Device.create();
});
afterEach(() => device.sync());
afterAll(() => device.destroy());

class Inner extends nn.Module {
  readonly norm = new nn.RMSNorm(8);
  readonly proj = new nn.Linear(8, 8, { bias: false });
  readonly scale = 3;

  forward(x: Tensor): Tensor {
    return this.proj.call(this.norm.call(x));
  }
}

class Net extends nn.Module {
  readonly embed = new nn.Embedding(10, 8);
  readonly layers = [new Inner(), new Inner()];
  readonly head = new nn.Linear(8, 4);

  forward(ids: Tensor): Tensor {
    let x = this.embed.call(ids);
    for (const layer of this.layers) x = x.add(layer.call(x));
    return this.head.call(x);
  }
}

describe("Module", () => {
  it("names parameters by field path, in the order of the fields", () => {
    const net = new Net();
    expect(Object.keys(net.stateDict())).toEqual([
      "embed.weight",
      "layers.0.norm.weight",
      "layers.0.proj.weight",
      "layers.1.norm.weight",
      "layers.1.proj.weight",
      "head.weight",
      "head.bias",
    ]);
    expect(net.parameterCount()).toBe(80 + 2 * (8 + 64) + 32 + 4);
    net.dispose();
  });

  it("copies a state dict into another module and another dtype", async () => {
    manualSeed(1);
    const a = new Net();
    manualSeed(2);
    const b = new Net();
    await b.loadStateDict(a.stateDict());
    const ids = tensor(Int32Array.of(1, 2, 9));
    const [ya, yb] = [a.call(ids), b.call(ids)];
    expect(await ya.data()).toEqual(await yb.data());
    const low = new nn.Linear(8, 4, { dtype: "bf16" });
    await low.loadStateDict({ weight: a.head.weight, bias: a.head.bias! });
    const expected = await a.head.weight.cast("bf16").data();
    expect(await low.weight.data()).toEqual(expected);
    for (const m of [a, b, low]) m.dispose();
  });

  it("lists every key that does not fit and loads nothing", async () => {
    const net = new nn.Linear(3, 2);
    const before = await net.bias!.data();
    let message = "";
    try {
      await net.loadStateDict({ bias: F.zeros([5]), wieght: F.zeros([2, 3]) });
    } catch (error) {
      expect(error).toBeInstanceOf(nn.StateDictError);
      message = (error as Error).message;
    }
    expect(message).toContain("missing: weight [2, 3]");
    expect(message).toContain("unexpected: wieght [2, 3]");
    expect(message).toContain("misshapen: bias is [5], the module has [2]");
    expect(() => net.loadStateDict({ bias: F.zeros([5]) }, { strict: false })).toThrow(nn.StateDictError);
    expect(await net.bias!.data()).toEqual(before);
    await net.loadStateDict({ bias: F.full([2], 3) }, { strict: false });
    expect([...(await net.bias!.data())]).toEqual([3, 3]);
    net.dispose();
  });

  it("sets training mode and freezes below itself", () => {
    const net = new Net();
    net.eval();
    expect(net.layers[1]!.proj.training).toBe(false);
    net.train();
    expect(net.layers[1]!.norm.training).toBe(true);
    net.layers[0]!.setRequiresGrad(false);
    const loss = net.call(tensor(Int32Array.of(1, 2))).sum();
    backward(loss);
    const withGrad = [...net.namedParameters()].filter(([, p]) => p.grad).map(([name]) => name);
    expect(withGrad).toEqual([
      "embed.weight",
      "layers.1.norm.weight",
      "layers.1.proj.weight",
      "head.weight",
      "head.bias",
    ]);
    zeroGradients(net.parameters());
    net.dispose();
  });

  it("frees what forward made, except the result", () => {
    const before = device.pool.stats.liveBytes;
    const net = new Net().setRequiresGrad(false);
    const parameters = device.pool.stats.liveBytes - before;
    const ids = tensor(Int32Array.of(1, 2));
    const y = net.call(ids);
    expect(device.pool.stats.liveBytes - before).toBe(parameters + ids.storage.bytes + y.storage.bytes);
    for (const t of [ids, y, net]) t.dispose();
    expect(device.pool.stats.liveBytes).toBe(before);
  });

  it("labels launches with the module's path", () => {
    const net = new Net().setRequiresGrad(false);
    const labels = new Set<string>();
    const listener = (l: { label: string }): void => void labels.add(l.label);
    device.onLaunch(listener);
    const ids = tensor(Int32Array.of(1, 2));
    const y = net.call(ids);
    device.offLaunch(listener);
    expect([...labels]).toEqual(expect.arrayContaining(["embed", "layers.0.norm", "layers.1.proj", "head"]));
    for (const t of [ids, y, net]) t.dispose();
  });
});

describe("layers", () => {
  it("compute their op with PyTorch's shapes", async () => {
    const x = F.randn([2, 6, 8, 8]);
    const conv = new nn.Conv2d(6, 4, 3, { stride: 2, padding: [0, 1, 1, 0] });
    const norm = new nn.GroupNorm(2, 6, { swish: true });
    const layerNorm = new nn.LayerNorm(8);
    const y = conv.call(norm.call(layerNorm.call(x)));
    expect(y.shape).toEqual([2, 4, 4, 4]);
    const direct = F.conv2d(
      F.groupNorm(F.layerNorm(x, layerNorm.weight, layerNorm.bias, 1e-5), 2, norm.weight, norm.bias, {
        eps: 1e-5,
        swish: true,
      }),
      conv.weight,
      conv.bias!,
      { stride: 2, padding: [0, 1, 1, 0] },
    );
    expect(await y.data()).toEqual(await direct.data());
  });

  it("start within PyTorch's bounds", async () => {
    manualSeed(3);
    const linear = new nn.Linear(64, 32);
    const w = await linear.weight.data();
    const bound = 1 / 8;
    expect(Math.max(...w.map(Math.abs))).toBeLessThanOrEqual(bound);
    expect(Math.max(...w.map(Math.abs))).toBeGreaterThan(0.9 * bound);
    expect(tally(() => linear.call(F.zeros([1, 64])), device).launches).toBeGreaterThan(0);
  });

  it("refuse sizes that make no sense", () => {
    expect(() => new nn.Linear(0, 3)).toThrow(/inFeatures must be a whole number of at least 1; got 0/);
    expect(() => new nn.GroupNorm(3, 8)).toThrow(/got 8 channels and 3 groups/);
  });
});
