/** Containers, hooks, options and learning-rate schedules: what needs no numbers from a device. */
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { ArgumentError, Device, F, ShapeError, nn, scope, setDevice } from "../../index.ts";
import type { Tensor } from "../../index.ts";

let device: Device;
beforeAll(async () => {
  device = await Device.create({ backend: "null" });
  setDevice(device);
});
afterAll(() => device.destroy());

describe("containers", () => {
  it("have PyTorch's keys", () => {
    const net = new nn.Sequential(new nn.Linear(2, 3), new nn.ReLU(), new nn.BatchNorm1d(3));
    expect(Object.keys(net.stateDict())).toEqual([
      "0.weight",
      "0.bias",
      "2.weight",
      "2.bias",
      "2.running_mean",
      "2.running_var",
      "2.num_batches_tracked",
    ]);
    expect([...net.namedParameters()].map(([name]) => name)).toEqual(["0.weight", "0.bias", "2.weight", "2.bias"]);
    expect([...net.namedBuffers()].map(([name]) => name)).toEqual([
      "2.running_mean",
      "2.running_var",
      "2.num_batches_tracked",
    ]);
    const inner = new nn.ModuleList([new nn.Linear(2, 2)]);
    const dict = new nn.ModuleDict<nn.AnyModule>({ a: new nn.Linear(2, 3), b: inner });
    expect(Object.keys(dict.stateDict())).toEqual(["a.weight", "a.bias", "b.0.weight", "b.0.bias"]);
    expect(dict.keys()).toEqual(["a", "b"]);
    for (const m of [net, dict]) m.dispose();
  });

  it("are searched for modes, and label the launches of modules added after a call", () => {
    class Net extends nn.Module {
      readonly layers = new nn.ModuleList([new nn.Linear(2, 2)]);
      readonly heads = new nn.ModuleDict({ main: new nn.Linear(2, 2) });

      forward(x: Tensor): Tensor {
        let y = x;
        for (const layer of this.layers) y = layer.call(y);
        return this.heads.get("main")!.call(y);
      }
    }
    const net = new Net();
    const labels = new Set<string>();
    const listener = ({ label }: { label: string }): void => void labels.add(label);
    device.onLaunch(listener);
    scope(() => net.call(F.zeros([1, 2])));
    net.layers.append(new nn.Linear(2, 2));
    scope(() => net.call(F.zeros([1, 2])));
    device.offLaunch(listener);
    expect([...labels]).toEqual(expect.arrayContaining(["layers.0", "layers.1", "heads.main"]));
    net.eval();
    expect([net.layers.length, net.layers.at(-1)!.training, net.heads.get("main")!.training]).toEqual([
      2,
      false,
      false,
    ]);
    net.dispose();
  });

  it("refuse what is no module, and names that cannot be", () => {
    const linear = new nn.Linear(2, 2);
    expect(() => new nn.Sequential([linear] as never)).toThrow(/got an array. Spread it/);
    expect(() => new nn.ModuleList([F.relu as never])).toThrow(
      /ModuleList: modules must be Module objects; got a function/,
    );
    expect(() => new nn.ModuleDict({ training: linear })).toThrow(/"training" is the name of a field/);
    expect(() => new nn.ModuleDict({ "a.b": linear })).toThrow(/without a dot/);
    const list = new nn.ModuleList([linear]);
    expect(() => list.call()).toThrow(/no forward/);
    linear.dispose();
  });
});

describe("forward hooks", () => {
  it("see and replace arguments and results until they are removed", () => {
    const linear = new nn.Linear(2, 3);
    const seen: string[] = [];
    const before = linear.registerForwardPreHook((module, [x]) => {
      seen.push(`${module === linear} ${x.shape}`);
      return [F.zeros([5, 2])];
    });
    const after = linear.registerForwardHook((_, [x], y) => {
      seen.push(`${x.shape} ${y.shape}`);
      return y.reshape([3, 5]);
    });
    scope(() => {
      const x = F.zeros([4, 2]);
      expect(linear.call(x).shape).toEqual([3, 5]);
      before.remove();
      before.remove();
      after.remove();
      expect(linear.call(x).shape).toEqual([4, 3]);
    });
    expect(seen).toEqual(["true 4,2", "5,2 5,3"]);
    linear.dispose();
  });

  it("refuse what is no hook", () => {
    const linear = new nn.Linear(2, 3);
    expect(() => linear.registerForwardHook("x" as never)).toThrow(/a hook must be a function; got x/);
    using _ = linear.registerForwardPreHook(((_m: unknown, [x]: [Tensor]) => x) as never);
    expect(() => scope(() => linear.call(F.zeros([4, 2])))).toThrow(/must return the arguments as an array/);
    linear.dispose();
  });
});

describe("options", () => {
  it("that are not known are refused by every layer and optimizer", () => {
    const cases: Readonly<Record<string, (options: never) => unknown>> = {
      Linear: (o) => new nn.Linear(2, 2, o),
      Embedding: (o) => new nn.Embedding(2, 2, o),
      RMSNorm: (o) => new nn.RMSNorm(2, o),
      LayerNorm: (o) => new nn.LayerNorm(2, o),
      GroupNorm: (o) => new nn.GroupNorm(1, 2, o),
      Conv2d: (o) => new nn.Conv2d(2, 2, 1, o),
      BatchNorm1d: (o) => new nn.BatchNorm1d(2, o),
      BatchNorm2d: (o) => new nn.BatchNorm2d(2, o),
      GELU: (o) => new nn.GELU(o),
      Dropout: (o) => new nn.Dropout(0.5, o),
      AdamW: (o) => new nn.AdamW([F.zeros([1])], o),
      SGD: (o) => new nn.SGD([F.zeros([1])], o),
      Optimizer: (o) => new nn.Optimizer([{ tensor: F.zeros([1]), rule: nn.adamw() }], o),
      adamw: nn.adamw,
      muon: nn.muon,
      sgd: nn.sgd,
      constantSchedule: nn.constantSchedule,
      linearSchedule: nn.linearSchedule,
      cosineSchedule: nn.cosineSchedule,
    };
    scope(() => {
      for (const [op, make] of Object.entries(cases)) {
        expect(() => make({ weight_decaay: 1 } as never), op).toThrow(ArgumentError);
        expect(() => make({ weight_decaay: 1 } as never), op).toThrow(
          new RegExp(`^${op}: options must be .*got weight_decaay`),
        );
        expect(() => make(false as never), op).toThrow(/options must be an object/);
      }
      const w = F.zeros([1]);
      expect(() => new nn.AdamW([w], { weight_decay: 0.1 } as never)).toThrow(/Did you mean weightDecay/);
      expect(() => new nn.AdamW([{ tensor: w, lr: 1 } as never])).toThrow(/AdamW: parameter 0: .*got lr/);
      expect(() => new nn.AdamW([{ tensor: w, lrScale: -1 }])).toThrow(/lrScale must be/);
      expect(() => new nn.AdamW([w], { lossScaling: { growth: 2 } as never })).toThrow(/growth/);
    });
  });

  it("of optimizers may be left out; parameters that are none are refused", () => {
    const net = new nn.Linear(2, 2);
    using optimizer = new nn.AdamW(net.parameters());
    expect(optimizer.lr).toBe(1e-3);
    for (const wrong of [net, undefined, [], [[net.weight]], net.stateDict(), [3]])
      expect(() => new nn.AdamW(wrong as never)).toThrow(/AdamW: parameter.*Pass model.parameters\(\)/);
    net.dispose();
  });

  it("of layers must be in range", () => {
    expect(() => new nn.Dropout(1)).toThrow(/Dropout: p must be .* got 1/);
    expect(() => new nn.Dropout(0.5, { site: 1 })).toThrow(/site needs a generator/);
    expect(() => new nn.GELU({ approximate: "erf" as never })).toThrow(/none or tanh/);
    expect(() => new nn.BatchNorm2d(2, { momentum: 2 })).toThrow(/momentum must be from 0 to 1/);
    expect(() => nn.sgd({ nesterov: true })).toThrow(/nesterov needs momentum/);
    const norm = new nn.BatchNorm2d(3);
    scope(() => {
      expect(() => norm.call(F.zeros([2, 3]))).toThrow(ShapeError);
      expect(() => norm.call(F.zeros([2, 4, 1, 1]))).toThrow(/x must be \[N, 3, H, W\]; got/);
      expect(() => norm.call(F.zeros([1, 3, 1, 1]))).toThrow(/more than one value a channel/);
      expect(norm.eval().call(F.zeros([1, 3, 1, 1])).shape).toEqual([1, 3, 1, 1]);
    });
    expect(() => (norm.running_mean!.requiresGrad = true)).toThrow(/buffer/);
    norm.train().setRequiresGrad(true);
    norm.dispose();
  });
});

describe("learning-rate schedules", () => {
  const values = (schedule: nn.Schedule, count: number): number[] =>
    Array.from({ length: count }, (_, i) => schedule(i));

  // torch.optim.lr_scheduler.CosineAnnealingLR(T_max=8, eta_min=0.1), LinearLR(1, 0, total_iters=8), LinearLR(0.25, total_iters=3), at lr 0.5
  it("equal PyTorch's", () => {
    const cosine = values(nn.cosineSchedule({ lr: 0.5, steps: 8, end: 0.1 }), 9);
    const expected = [0.5, 0.48477590650225, 0.441421356237309, 0.376536686473018, 0.3, 0.223463313526982, 0.158578643762691, 0.115224093497743, 0.1]; // prettier-ignore
    for (const [i, value] of cosine.entries()) expect(value).toBeCloseTo(expected[i]!, 13);
    expect(values(nn.linearSchedule({ lr: 0.5, steps: 8 }), 9)).toEqual([0.5, 0.4375, 0.375, 0.3125, 0.25, 0.1875, 0.125, 0.0625, 0]); // prettier-ignore
    expect(values(nn.constantSchedule({ lr: 0.5, warmup: 4 }), 6)).toEqual([0.125, 0.25, 0.375, 0.5, 0.5, 0.5]);
  });

  it("warm up, and end", () => {
    expect(values(nn.linearSchedule({ lr: 1, warmup: 2, steps: 6, end: 0.5 }), 8)).toEqual([0.5, 1, 1, 0.875, 0.75, 0.625, 0.5, 0.5]); // prettier-ignore
    expect(values(nn.cosineSchedule({ lr: 1, warmup: 2, steps: 4 }), 5)).toEqual([0.5, 1, 1, 0.5, 0]);
    expect(values(nn.constantSchedule({ lr: 1, warmup: 4, cooldown: 1, steps: 4 }), 4)).toEqual([0.25, 0.5, 0.75, 0.5]);
  });

  it("refuse what makes no sense", () => {
    expect(() => nn.constantSchedule({ lr: 1, cooldown: 3 })).toThrow(/steps must be given with cooldown/);
    expect(() => nn.cosineSchedule({ lr: 1, warmup: 5, steps: 5 })).toThrow(/warmup must be below steps/);
    expect(() => nn.linearSchedule({ lr: NaN, steps: 5 })).toThrow(/lr must be a finite number/);
    expect(() => nn.linearSchedule({ lr: 1, steps: 1.5 })).toThrow(/steps must be a whole number/);
  });
});
