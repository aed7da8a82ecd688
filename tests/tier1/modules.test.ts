/** What a module finds in its fields, what it refuses, and parameters with several paths (tied weights). */
import { afterAll, afterEach, beforeAll, describe, expect, it } from "vitest";
import {
  ArgumentError,
  Device,
  DisposedError,
  F,
  backward,
  checkpoint,
  manualSeed,
  noGrad,
  nn,
  scope,
  tensor,
} from "../../index.ts";
import type { Tensor } from "../../index.ts";
import { adjacentLinears, joined } from "../../model/nn/layers.ts";
import { AdamW } from "../../train/node/index.ts";

let device: Device;
beforeAll(async () => {
  device = await Device.create();
});
afterEach(() => device.sync());
afterAll(() => device.destroy());

const ones = (...shape: number[]): Tensor => F.ones(shape);
const linear = (): nn.Linear => new nn.Linear(2, 2, { bias: false });
/** A module of these fields whose forward is the product of all weights below it. */
class Holder extends nn.Module {
  constructor(fields: object) {
    super();
    Object.assign(this, fields);
  }
  forward(x: Tensor): Tensor {
    return this.parameters().reduce((y, p) => F.linear(y, p), x);
  }
}

describe("modules in containers", () => {
  const rows: readonly (readonly [string, () => object, readonly string[]])[] = [
    [
      "plain objects",
      () => ({ heads: { text: linear(), image: { deep: linear() } } }),
      ["heads.text.weight", "heads.image.deep.weight"],
    ],
    [
      "an object without a prototype",
      () => ({ heads: Object.assign(Object.create(null) as object, { a: linear() }) }),
      ["heads.a.weight"],
    ],
    [
      "nested arrays",
      () => ({ grid: [[linear()], [linear(), null, linear()]] }),
      ["grid.0.0.weight", "grid.1.0.weight", "grid.1.2.weight"],
    ],
    [
      "Maps with string keys",
      () => ({
        experts: new Map([
          ["a", linear()],
          ["b", linear()],
        ]),
      }),
      ["experts.a.weight", "experts.b.weight"],
    ],
    [
      "parameters in arrays, objects and Maps",
      () => ({
        list: [new nn.Parameter(ones(2, 2))],
        by: { k: new nn.Parameter(ones(2, 2)) },
        map: new Map([["m", [new nn.Parameter(ones(2, 2))]]]),
      }),
      ["list.0", "by.k", "map.m.0"],
    ],
  ];
  it.each(rows)("%s: named by path, trained, saved, loaded", async (_, fields, names) => {
    const [net, other] = [new Holder(fields()), new Holder(fields())];
    expect([...net.namedParameters()].map(([name]) => name)).toEqual(names);
    expect(Object.keys(net.stateDict())).toEqual(names);
    expect(net.parameterCount()).toBe(4 * names.length);
    const optimizer = new AdamW(
      [...net.namedParameters()].map(([name, tensor]) => ({ name, tensor })),
      { lr: 0.1 },
    );
    const before = await Promise.all(net.parameters().map((p) => p.data()));
    backward(net.call(ones(3, 2)).sum());
    optimizer.step();
    for (const [i, p] of net.parameters().entries()) expect(await p.data()).not.toEqual(before[i]);
    await other.loadStateDict(net.stateDict());
    for (const [i, p] of other.parameters().entries())
      expect(await p.data()).toEqual(await net.parameters()[i]!.data());
    for (const one of [net, other, optimizer]) one.dispose();
  });

  it("modes, freezing and labels reach them", () => {
    const net = new Holder({ heads: { a: new nn.Linear(2, 2) }, experts: new Map([["x", [linear()]]]) });
    net.eval().setRequiresGrad(false);
    expect([...net.children()].map(([name, child]) => [name, child.training])).toEqual([
      ["heads.a", false],
      ["experts.x.0", false],
    ]);
    expect(net.parameters().some((p) => p.requiresGrad)).toBe(false);
    net.dispose();
  });

  it("other values, cycles and back references are passed over", () => {
    const cycle: Record<string, unknown> = {
      n: 1,
      list: [1, "two", null, undefined, new Float32Array(3), new Date(), ones(2)],
    };
    cycle["self"] = cycle;
    const net = new Holder({
      cycle,
      set: new Set([1, 2]),
      byNumber: new Map([[1, "a"]]),
      "a.b": 3,
      fn: () => 1,
      child: linear(),
    });
    Object.assign(net, { back: { net }, again: net });
    expect(Object.keys(net.stateDict())).toEqual(["child.weight"]);
    net.eval();
    expect([...net.children()].find(([name]) => name === "child")![1].training).toBe(false);
    net.dispose();
  });

  const refused: readonly (readonly [string, () => object, RegExp])[] = [
    ["a Set", () => ({ experts: new Set([linear()]) }), /Holder\.experts: .*Linear under none \(a Set\)/],
    [
      "a Set of parameters, deep inside",
      () => ({ a: { b: [new Set([new nn.Parameter(ones(1))])] } }),
      /Holder\.a\.b\.0: .*Parameter under none \(a Set\)/,
    ],
    ["a Map with number keys", () => ({ experts: new Map([[3, linear()]]) }), /Holder\.experts: .*Linear under 3\./],
    [
      "a Map with keys that have a dot",
      () => ({ experts: new Map([["a.b", [linear()]]]) }),
      /Holder\.experts: .*under "a\.b"/,
    ],
    ["a field with a dot", () => ({ "a.b": linear() }), /Holder: .*under "a\.b"/],
    ["a symbol", () => ({ [Symbol("hidden")]: linear() }), /Holder: .*Symbol\(hidden\)/],
    [
      "a symbol in a plain object",
      () => ({ heads: { [Symbol("hidden")]: linear() } }),
      /Holder\.heads: .*Symbol\(hidden\)/,
    ],
  ];
  it.each(refused)("%s is refused by name", (_, fields, message) => {
    const net = new Holder(fields());
    for (const ask of [() => net.parameters(), () => net.stateDict(), () => net.call(ones(1, 2))]) {
      expect(ask).toThrow(ArgumentError);
      expect(ask).toThrow(message);
    }
  });
});

class Hidden extends nn.Module {
  readonly seen = linear();
  readonly #inner = linear();
  forward(x: Tensor): Tensor {
    return this.#inner.call(this.seen.call(x));
  }
}
class PlainBlock {
  readonly inner = linear();
}
class InObject extends nn.Module {
  readonly block = new PlainBlock();
  forward(x: Tensor): Tensor {
    return checkpoint((h) => this.block.inner.call(h!), x);
  }
}
class HiddenParameter extends nn.Module {
  readonly #weight = new nn.Parameter(ones(2, 2));
  forward(x: Tensor): Tensor {
    return F.linear(x, this.#weight.mul(2));
  }
}
class Around extends nn.Module {
  readonly inner: nn.Module;
  constructor(inner: nn.Module) {
    super();
    this.inner = inner;
  }
  forward(x: Tensor): Tensor {
    return this.inner.call(x);
  }
}

describe("parameters that a search cannot find", () => {
  it.each([
    ["a module in a #private field", () => new Hidden()],
    ["a parameter in a #private field", () => new HiddenParameter()],
    ["a module in an object of a class, in checkpoint()", () => new InObject()],
    ["one further down", () => new Around(new Hidden())],
  ])("%s: refused when forward uses it", (_, make) => {
    const net = make();
    const live = device.pool.stats.liveBytes;
    const x = ones(1, 2);
    const use = (): void => scope(() => backward(net.call(x).sum()));
    expect(use).toThrow(ArgumentError);
    expect(use).toThrow(/parameter .*\[2, 2\].*neither trained nor saved.*#private/s);
    x.dispose();
    expect(device.pool.stats.liveBytes, "nothing is left").toBe(live);
  });

  class Noise extends nn.Module {
    forward(x: Tensor): Tensor {
      return this.training ? x.mul(100) : x;
    }
  }
  class HiddenNoise extends nn.Module {
    readonly own = linear();
    readonly #noise = new Noise();
    forward(x: Tensor): Tensor {
      return this.#noise.call(this.own.call(x));
    }
  }
  class NoiseInObject extends nn.Module {
    readonly box = new (class Box {
      readonly noise = new Noise();
    })();
    forward(x: Tensor): Tensor {
      return checkpoint((h) => this.box.noise.call(h!), x);
    }
  }
  class HiddenFrozen extends nn.Module {
    readonly own = linear();
    readonly #frozen = linear().setRequiresGrad(false);
    forward(x: Tensor): Tensor {
      return this.#frozen.call(this.own.call(x));
    }
  }

  it.each([
    ["without parameters, in a #private field", () => new HiddenNoise(), "Noise"],
    ["without parameters, in an object of a class, in checkpoint()", () => new NoiseInObject(), "Noise"],
    ["with frozen parameters", () => new HiddenFrozen(), "Linear"],
    ["further down", () => new Around(new HiddenNoise()), "Noise"],
  ])("modules %s: refused when forward calls them, with gradients and without", (_, make, name) => {
    const net = make();
    net.eval();
    for (const use of [
      () => scope(() => net.call(ones(1, 2))),
      () => noGrad(() => scope(() => net.call(ones(1, 2)))),
    ]) {
      expect(use).toThrow(ArgumentError);
      expect(use).toThrow(
        new RegExp(`^${net.constructor.name}: .*got .*${name}.*train\\(\\) and eval\\(\\) do not reach it`),
      );
    }
    net.dispose();
  });

  it("what has moved away since the last call is refused, what has come is found", () => {
    const net = new (class extends nn.Module {
      layer: { call(x: Tensor): Tensor } = linear();
      later: nn.Linear | null = null;
      forward(x: Tensor): Tensor {
        this.later ??= linear();
        return this.later.call(this.layer.call(x));
      }
    })();
    const use = (): Tensor => scope(() => net.call(ones(1, 2)));
    expect(use).not.toThrow();
    const { layer } = net;
    net.layer = { call: (x) => layer.call(x) };
    for (const run of [use, () => noGrad(use)]) expect(run).toThrow(/got .*Linear/);
    const weight = (layer as nn.Linear).weight;
    net.layer = { call: (x) => F.linear(x, weight) };
    expect(use).toThrow(/got .*parameter .*\[2, 2\]/);
    net.dispose();
  });

  it.each([
    ["a field", (list: nn.Linear[]) => ({ layer: list[0]! }), (h: { layer?: unknown }) => delete h.layer],
    ["an array", (list: nn.Linear[]) => ({ list }), (h: { list: unknown[] }) => void h.list.pop()],
    [
      "a Map",
      (list: nn.Linear[]) => ({ map: new Map([["a", list[0]!]]) }),
      (h: { map: Map<string, unknown> }) => h.map.clear(),
    ],
    [
      "a plain object below",
      (list: nn.Linear[]) => ({ below: new Holder({ o: { a: { b: list[0]! } } }) }),
      (h: { below: { o: { a: { b?: unknown } } } }) => (h.below.o.a.b = 1),
    ],
    [
      "an array in a Map",
      (list: nn.Linear[]) => ({ o: new Map([["x", [list[0]!]]]) }),
      (h: { o: Map<string, unknown> }) => h.o.set("x", [1]),
    ],
  ] as readonly (readonly [string, (list: nn.Linear[]) => object, (holder: never) => unknown])[])(
    "what leaves %s between two calls is refused, and found once it is back",
    (_, fields, remove) => {
      const used = linear();
      class User extends Holder {
        override forward(x: Tensor): Tensor {
          return closure(x);
        }
      }
      const closure = (x: Tensor): Tensor => used.call(x);
      const holder = new User(fields([used]));
      scope(() => void holder.call(ones(1, 2)));
      scope(() => void holder.call(ones(1, 2)));
      remove(holder as never);
      expect(() => holder.call(ones(1, 2))).toThrow(/that is in none of its fields/);
      Object.assign(holder, { back: [used] });
      scope(() => void holder.call(ones(1, 2)));
      used.dispose();
    },
  );
  it("are no fault if they are not recorded, an argument, or replaced", () => {
    const teacher = linear();
    class Student extends nn.Module<readonly [Tensor, ...unknown[]]> {
      readonly own = linear();
      readonly #frozen = ones(2, 2);
      forward(x: Tensor, ...given: unknown[]): Tensor {
        const target = noGrad(() => teacher.call(x));
        const [other, { weight }] = given as [nn.Linear, { weight: nn.Parameter }];
        return F.linear(F.linear(other.call(this.own.call(x)), weight), this.#frozen).sub(target);
      }
    }
    const net = new Student();
    const y = net.call(ones(1, 2), linear(), { weight: new nn.Parameter(ones(2, 2)) });
    net.call(
      ones(1, 2),
      linear(),
      { weight: new nn.Parameter(ones(2, 2)) },
      new Set([linear()]),
      new Map([[1, linear()]]),
    );
    Object.assign(net.own, { weight: new nn.Parameter(ones(2, 2)) }); // the first one is dropped
    backward(
      net
        .call(ones(1, 2), linear(), { weight: new nn.Parameter(ones(2, 2)) })
        .add(y)
        .sum(),
    );
    expect(() => noGrad(() => net.call(ones(1, 2), linear(), { weight: new nn.Parameter(ones(2, 2)) }))).not.toThrow();
  });
});

class Tied extends nn.Module {
  readonly tok = new nn.Embedding(5, 4);
  readonly head = new nn.Linear(4, 5, { bias: false });
  constructor() {
    super();
    Object.assign(this.head, { weight: this.tok.weight });
  }
  forward(ids: Tensor): Tensor {
    return this.head.call(this.tok.call(ids));
  }
}

describe("tied parameters", () => {
  it("count once, and are named as in PyTorch", () => {
    const net = new Tied();
    expect([...net.namedParameters()].map(([name]) => name)).toEqual(["tok.weight"]);
    expect(net.parameters()).toEqual([net.tok.weight]);
    expect(net.parameterCount()).toBe(20);
    expect(Object.keys(net.stateDict())).toEqual(["tok.weight", "head.weight"]);
    const twice = new Holder({ a: net.head, b: [net.head] }); // a module with two paths
    expect([...twice.namedParameters()].map(([name]) => name)).toEqual(["a.weight"]);
    expect([...twice.children()].map(([name]) => name)).toEqual(["a"]);
    expect(Object.keys(twice.stateDict())).toEqual(["a.weight", "b.0.weight"]);
    net.dispose();
  });

  it("two parameters made of one tensor count once, have both names, and are trained by the first only", async () => {
    const a = new nn.Parameter(ones(2));
    const net = new Holder({ a, b: new nn.Parameter(a) });
    expect(net.parameters()).toEqual([a]);
    expect(net.parameterCount()).toBe(2);
    expect(Object.keys(net.stateDict())).toEqual(["a", "b"]);
    await net.loadStateDict({ b: F.full([2], 3) });
    expect([...(await a.data())]).toEqual([3, 3]);
    await expect(net.loadStateDict({ a: F.full([2], 1), b: F.full([2], 2) })).rejects.toThrow(
      /a and b are one parameter/,
    );
    const use = (name: "a" | "b"): nn.Module =>
      Object.assign(new Holder(net), { forward: (x: Tensor) => x.mul(net.stateDict()[name]!).sum() });
    expect(() => scope(() => use("a").call(ones(2)))).not.toThrow();
    expect(() => scope(() => use("b").call(ones(2)))).toThrow(/two parameters.*one storage.*same Parameter/s);
    net.setRequiresGrad(false);
    expect(net.stateDict()["b"]!.requiresGrad).toBe(false);
    net.dispose();
    expect(() => net.stateDict()["b"]!.check()).toThrow(DisposedError);
  });

  it("parameters that overlap in one storage are refused by name, those apart in it are not", () => {
    const p = new nn.Parameter(ones(8));
    const part = (from: number, n: number): nn.Parameter => new nn.Parameter(p.detach().slice(0, from, from + n));
    const net = new Holder({ p, q: [part(4, 4)] });
    for (const ask of [() => net.parameters(), () => net.stateDict(), () => net.loadStateDict({})]) {
      expect(ask).toThrow(ArgumentError);
      expect(ask).toThrow(/"p" and "q\.0"/);
    }
    expect(new Holder({ a: part(0, 4), b: part(4, 4) }).parameterCount()).toBe(8);
  });

  it("are stepped once: AdamW moves by lr, the norm counts them once", async () => {
    const weight = new nn.Parameter(ones(2));
    const net = new Holder({ a: weight, b: weight });
    const optimizer = new AdamW(net.parameters(), { lr: 0.1, emaDecay: 0.5 });
    expect(Object.keys(optimizer.averages())).toHaveLength(1);
    backward(weight.sum());
    optimizer.step();
    expect((await optimizer.report()).gradNorm).toBeCloseTo(Math.SQRT2, 6);
    expect([...(await weight.data())].map((v) => Number(v.toFixed(6)))).toEqual([0.9, 0.9]);
    for (const one of [net, optimizer]) one.dispose();
  });

  it("the optimizer refuses one tensor twice, and two views of one storage", () => {
    const p = new nn.Parameter(ones(4));
    const view = p.strided([2], [1]);
    view.requiresGrad = true;
    for (const list of [
      [p, p],
      [p, view],
      [p, new nn.Parameter(p)],
    ]) {
      expect(() => new AdamW(list, { lr: 0.1 })).toThrow(ArgumentError);
      expect(() => new AdamW(list, { lr: 0.1 })).toThrow(/"0" and "1" share one storage/);
    }
    p.dispose();
  });

  it("the optimizer steps parts of one storage as if they were apart", async () => {
    const step = async (parameters: nn.Parameter[]): Promise<number[]> => {
      const optimizer = new AdamW(parameters, { lr: 0.1 });
      scope(() => backward(parameters[0]!.sum().add(F.mul(parameters[1]!, -2).sum())));
      optimizer.step();
      const found: number[] = [];
      for (const p of parameters) found.push(...(await p.data()));
      for (const one of [optimizer, ...parameters]) one.dispose();
      return found;
    };
    const parts = scope(() => {
      const whole = ones(128);
      return [0, 64].map((first) => new nn.Parameter(whole.strided([64], [1], first)));
    });
    expect(await step(parts)).toEqual(await step([new nn.Parameter(ones(64)), new nn.Parameter(ones(64))]));
  });

  it("linear layers lie behind one another where sizes allow it, and are one product", async () => {
    manualSeed(5);
    const [a, b] = adjacentLinears(32, [64, 96], {}) as [nn.Linear, nn.Linear];
    manualSeed(5);
    const [c, d] = [nn.Linear, nn.Linear].map((L, i) => new L(32, [64, 96][i]!, { bias: false })) as [
      nn.Linear,
      nn.Linear,
    ];
    for (const [one, other] of [
      [a, c],
      [b, d],
    ] as const)
      expect(await one.weight.data()).toEqual(await other.weight.data());
    const both = joined([a, b])!;
    expect(both.shape).toEqual([160, 32]);
    expect([...(await both.data())]).toEqual([...(await c.weight.data()), ...(await d.weight.data())]);
    expect(joined([b, a])).toBeNull();
    expect(joined([a, d])).toBeNull();
    const odd = adjacentLinears(3, [5, 7], {});
    expect(joined(odd)).toBeNull();
    for (const one of [a, b, c, d, both, ...odd]) one.dispose();
  });

  it("load from either name or both, and refuse two values", async () => {
    const net = new Tied();
    const values = (first: number): Tensor =>
      F.arange(first, first + 20)
        .reshape([5, 4])
        .cast("f32");
    const states: nn.StateDict[] = [
      { "tok.weight": values(1) },
      { "head.weight": values(2) },
      { "tok.weight": values(3), "head.weight": values(3) },
    ];
    for (const state of states) {
      await net.loadStateDict(state);
      expect(await net.head.weight.data()).toEqual(await Object.values(state)[0]!.data());
    }
    await net.loadStateDict(new Tied().stateDict());
    const kept = await net.tok.weight.data();
    const two = net.loadStateDict({ "tok.weight": values(1), "head.weight": values(2) });
    await expect(two).rejects.toThrow(nn.StateDictError);
    await expect(two).rejects.toThrow(/tied: tok.weight and head.weight are one parameter/);
    expect(await net.tok.weight.data(), "nothing is loaded").toEqual(kept);
    expect(() => net.loadStateDict({})).toThrow(/missing: tok.weight or head.weight \[5, 4\]/);
    expect(() => net.loadStateDict({ "tok.weight": values(1), "head.weight": ones(2) })).toThrow(
      /misshapen: head.weight/,
    );
    net.dispose();
  });

  it("two NaNs of the same bits are the same value; the dtypes may differ", async () => {
    const net = new Holder({ a: new nn.Parameter(ones(3)), b: null });
    Object.assign(net, { b: (net as unknown as { a: nn.Parameter }).a });
    const nan = (): Tensor => tensor([1, NaN, 3]);
    await net.loadStateDict({ a: nan(), b: nan() });
    await net.loadStateDict({ a: tensor([1, 2, 3], { dtype: "bf16" }), b: tensor([1, 2, 3]) });
    await expect(
      net.loadStateDict({ a: tensor([1, 2.001, 3], { dtype: "f32" }), b: tensor([1, 2.001, 3], { dtype: "bf16" }) }),
    ).rejects.toThrow(/tied/);
    net.dispose();
  });
});
