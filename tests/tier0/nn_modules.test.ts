/** Containers, hooks, options and learning-rate schedules: what needs no numbers from a device. */
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { ArgumentError, Device, F, ShapeError, nn, save as saveBytes, scope, setDevice } from "../../index.ts";
import { save } from "../../index.node.ts";
import type { Tensor } from "../../index.ts";

let device: Device;
beforeAll(async () => {
  device = await Device.create({ backend: "null" });
  setDevice(device);
});
afterAll(() => device.destroy());

describe("arguments that no layer has", () => {
  const rows: [string, () => unknown][] = [
    ["ReLU: there must be no further argument; got an object", () => new nn.ReLU({ inplace: true } as never)],
    ["Identity: there must be no further argument; got 54", () => new nn.Identity(54 as never)],
    ["LeakyReLU: there must be no further argument; got true", () => new nn.LeakyReLU(0.1, true as never)],
    ["Softmax: there must be no further argument; got 2", () => new nn.Softmax(1, 2 as never)],
    ["Flatten: there must be no further argument; got 3", () => new nn.Flatten(1, 2, 3 as never)],
    ["adamwState: options must be scale, device; got lr", () => F.adamwState(0.1, { lr: 1 } as never)],
    ["adamwState: options must be an object", () => F.adamwState(0.1, 2 as never)],
  ];
  it.each(rows)("are refused: %s", (message, call) => {
    expect(call).toThrow(ArgumentError);
    expect(call).toThrow(message);
  });
  it("are refused by save", async () => {
    const net = new nn.Linear(1, 1);
    const saveAny: (...args: unknown[]) => unknown = save as never;
    expect(() => saveAny(net, "x.safetensors", { dtype: "f16" })).toThrow(/save: .*got an object of class Object too/);
    await expect(saveBytes(net, "x.safetensors" as never)).rejects.toThrow(
      /Files are for save of janus-webgpu in Node/,
    );
    net.dispose();
  });
});

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
    expect(() => new nn.ModuleList(linear as never)).toThrow(
      /ModuleList: modules must be an array of Module objects; got an object of class Linear/,
    );
    expect(() => new nn.ModuleDict([["a", linear]] as never)).toThrow(/ModuleDict: modules must be an object or a Map/);
    expect(new nn.ModuleDict(new Map([["a", linear]])).keys()).toEqual(["a"]);
    const list = new nn.ModuleList([linear]);
    expect(() => list.call()).toThrow(/no forward/);
    linear.dispose();
  });
});

describe("replace", () => {
  /** A layer beside another one, as adapters are. */
  class Beside extends nn.Module {
    readonly base: nn.Module;
    readonly more = new nn.Linear(2, 2);
    constructor(base: nn.Module) {
      super();
      this.base = base;
    }
    forward(x: Tensor): Tensor {
      return F.add(this.base.call(x), this.more.call(x));
    }
  }
  const inner = (): nn.Module => new nn.Sequential(new nn.Linear(2, 2), new nn.ReLU());
  class Net extends nn.Module {
    readonly layers = new nn.ModuleList([inner(), inner()]);
    readonly heads = new Map([["a", new nn.Linear(2, 2) as nn.Module]]);
    forward(x: Tensor): Tensor {
      const y = [...this.layers].reduce((h, layer) => layer.call(h), x);
      return this.heads.get("a")!.call(y);
    }
  }
  const labelsOf = (net: nn.Module): string[] => {
    const labels: string[] = [];
    const note = ({ label }: { readonly label: string }): void => void labels.push(label);
    device.onLaunch(note);
    scope(() => void net.call(F.ones([1, 2])));
    device.offLaunch(note);
    return [...new Set(labels)].filter((label) => label !== "");
  };

  it("puts a module in the place of another one, whose labels and keys it takes", () => {
    const net = new Net();
    expect(labelsOf(net)).toContain("layers.1.0");
    for (const path of ["layers.1.0", "heads.a"]) {
      const old = (path === "heads.a" ? net.heads.get("a") : net.layers[1]![0 as never]) as nn.Module;
      expect(net.replace(path, new Beside(old))).toBe(old);
    }
    expect(labelsOf(net)).toEqual(expect.arrayContaining(["layers.0.0", "layers.1.0.base", "layers.1.0.more", "layers.1.0", "layers.1.1", "heads.a.base"])); // prettier-ignore
    expect(Object.keys(net.stateDict())).toContain("layers.1.0.base.weight");
    const whole = inner();
    const before = net.replace("layers.1", whole);
    expect(net.layers.at(-1)).toBe(whole);
    expect(labelsOf(net)).toContain("layers.1.0");
    for (const m of [net, before]) m.dispose();
  });

  it("refuses paths without a module, and what is no module", () => {
    const net = new Net();
    for (const path of ["", "layer.1", "layers.2", "layers.1.0.weight", "training", "heads.b", "layers.length"])
      expect(() => net.replace(path, net)).toThrow(
        /replace: the path must be one of a module of Net; got ".*Use a path like layers/,
      );
    expect(() => net.replace("layers.1", F.relu as never)).toThrow(
      /replace: the module must be a Module object; got a function/,
    );
    net.dispose();
  });
});

describe("fields of modules", () => {
  it("may have the names that Module uses itself", () => {
    class Net extends nn.Module {
      constructor() {
        super();
        for (const name of ["label", "named", "hooks", "compare", "refuse"])
          Object.assign(this, { [name]: new nn.Linear(2, 2) });
      }
      forward(x: Tensor): Tensor {
        return [...this.children()].reduce((y, [, layer]) => (layer as nn.Module).call(y), x);
      }
    }
    const net = new nn.Sequential(new Net());
    for (const _ of [1, 2]) scope(() => expect(net.call(F.ones([1, 2])).shape).toEqual([1, 2]));
    expect(net.parameters().length).toBe(10);
    expect(Object.keys(net.stateDict())).toContain("0.label.weight");
    net.dispose();
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

  it("may return null for nothing", () => {
    const linear = new nn.Linear(2, 3);
    linear.registerForwardPreHook(() => null as never);
    linear.registerForwardHook(() => null as never);
    scope(() => expect(linear.call(F.zeros([4, 2])).shape).toEqual([4, 3]));
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

  it("of optimizers must be in range, and parameters leaves of a floating dtype", () => {
    const linear = new nn.Linear(2, 2);
    for (const maxNorm of [0, NaN, "1"])
      expect(() => new nn.SGD(linear.parameters(), { maxNorm: maxNorm as number })).toThrow(/maxNorm must be a number/);
    const rule = "adamw" as never;
    expect(() => new nn.Optimizer([{ tensor: linear.weight, rule }])).toThrow(/a rule must be made by adamw/);
    scope(() => {
      const [ids, scaled] = [F.zeros([2], { dtype: "i32" }), F.mul(linear.weight, 2)];
      expect(() => new nn.SGD([ids])).toThrow(/must be a leaf of a floating dtype; got .*i32/);
      expect(() => new nn.SGD([scaled])).toThrow(/must be a leaf of a floating dtype; got .*made by mul/);
    });
    linear.dispose();
  });

  it("of state dicts: what is no object of tensors is refused", () => {
    const linear = new nn.Linear(2, 2);
    expect(() => linear.loadStateDict(undefined as never)).toThrow(/must be an object of tensors by path; got nothing/);
    expect(() => linear.loadStateDict({ weight: [1, 2] } as never)).toThrow(/"weight" must be a Tensor; got an array/);
    linear.dispose();
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
    expect(values(nn.constantSchedule({ lr: 1, cooldown: 1, steps: 2 }), 4)).toEqual([1, 0.5, 0, 0]);
  });

  it("refuse what makes no sense", () => {
    expect(() => nn.constantSchedule({ lr: 1, cooldown: 3 })).toThrow(/steps must be given with cooldown/);
    expect(() => nn.cosineSchedule({ lr: 1, warmup: 5, steps: 5 })).toThrow(/warmup must be below steps/);
    expect(() => nn.linearSchedule({ lr: NaN, steps: 5 })).toThrow(/lr must be a finite number/);
    expect(() => nn.linearSchedule({ lr: 1, steps: 1.5 })).toThrow(/steps must be a whole number/);
  });
});
