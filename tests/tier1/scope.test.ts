/** Who frees what: scopes, `using`, keep, and the garbage collector as a safety net that counts. */
import { setFlagsFromString } from "node:v8";
import { runInNewContext } from "node:vm";
import { describe, expect, it } from "vitest";
import { ArgumentError, DisposedError, F, empty, openScope, scope, tensor, tensorsIn, withLabel } from "../../index.ts";
import type { Tensor } from "../../index.ts";
import { useDevice } from "../gpu.ts";

const device = useDevice();
const live = (): number => device().pool.stats.liveCount;

describe("scope()", () => {
  it("frees what was made in it, except its result", async () => {
    const before = live();
    const made: Tensor[] = [];
    using y = scope(() => {
      const a = F.ones([4]);
      const b = a.add(1);
      made.push(a, b);
      return b.mul(2);
    });
    expect(made.map((t) => t.disposed)).toEqual([true, true]);
    expect(y.disposed).toBe(false);
    expect(live() - before).toBe(1);
    expect([...(await y.data())]).toEqual([4, 4, 4, 4]);
  });

  it("finds results in arrays, plain objects, maps and sets, not in class instances", () => {
    class Holder {
      readonly inside: Tensor;
      constructor(inside: Tensor) {
        this.inside = inside;
      }
    }
    const held: Tensor[] = [];
    const out = scope(() => {
      const t = Array.from({ length: 6 }, (_, i) => F.full([1], i));
      held.push(t[5]!);
      return {
        list: [t[0], [t[1]]],
        map: new Map([["x", t[2]]]),
        set: new Set([t[3]]),
        nested: { deep: { t: t[4] } },
        holder: new Holder(t[5]!),
        n: 3,
        s: "x",
        nothing: null,
      };
    });
    const found = [...tensorsIn(out)];
    expect(found).toHaveLength(5);
    expect(found.every((t) => !t.disposed)).toBe(true);
    expect(held[0]!.disposed).toBe(true);
    for (const t of found) t.dispose();
  });

  it("finds results in circles without end", () => {
    const out = scope(() => {
      const circle: { t: Tensor; self?: unknown } = { t: F.ones([1]) };
      circle.self = circle;
      return circle;
    });
    expect(out.t.disposed).toBe(false);
    out.t.dispose();
  });

  it("hands its result to the scope around it", () => {
    const before = live();
    let inner: Tensor | undefined;
    scope(() => {
      inner = scope(() => F.ones([1]).add(1));
      expect(inner.disposed).toBe(false);
      expect(live() - before).toBe(1);
    });
    expect(inner!.disposed).toBe(true);
    expect(live()).toBe(before);
  });

  it("keeps a view's storage alive when what it views is freed", async () => {
    using row = scope(() =>
      tensor([
        [1, 2],
        [3, 4],
      ]).select(0, 1),
    );
    expect([...(await row.data())]).toEqual([3, 4]);
  });

  it("leaves alone what was made outside, also when it is returned", () => {
    using x = F.ones([1]);
    expect(scope(() => x)).toBe(x);
    expect(x.disposed).toBe(false);
  });

  it("allows an early dispose, and a keep", () => {
    const before = live();
    let kept: Tensor | undefined;
    scope(() => {
      F.ones([1]).dispose();
      scope(() => {
        kept = F.ones([1]).keep();
      });
    });
    expect(kept!.disposed).toBe(false);
    expect(live() - before).toBe(1);
    kept!.dispose();
    kept!.dispose();
    expect(live()).toBe(before);
  });

  it("frees everything when the function throws, and the scopes around it still work", () => {
    const before = live();
    scope(() => {
      F.ones([1]);
      expect(() =>
        scope(() => {
          F.ones([2]);
          scope(() => {
            F.ones([3]);
            throw new Error("inside");
          });
        }),
      ).toThrow("inside");
      expect(live() - before).toBe(1);
    });
    expect(live()).toBe(before);
  });

  it("takes no asynchronous function, and frees what it began with", () => {
    const before = live();
    expect(() => scope(async () => void F.ones([1]))).toThrow(ArgumentError);
    expect(() => scope(async () => void F.ones([1]))).toThrow(
      /scope\(\): the function must be synchronous.*Await outside/,
    );
    expect(live()).toBe(before);
  });

  it("frees what a forgotten openScope() inside it holds", () => {
    const before = live();
    scope(() => {
      openScope();
      F.ones([1]);
    });
    expect(live()).toBe(before);
    scope(() => void F.ones([1]));
    expect(live()).toBe(before);
    using after = F.ones([1]);
    expect(live() - before).toBe(1);
    expect(after.disposed).toBe(false);
  });
});

describe("using", () => {
  it("frees a tensor at the end of its block", () => {
    const before = live();
    let seen: Tensor | undefined;
    {
      using t = F.ones([1]);
      seen = t;
    }
    expect(seen.disposed).toBe(true);
    expect(live()).toBe(before);
  });

  it("openScope() frees what was made after it, not what was kept", () => {
    const before = live();
    let kept: Tensor | undefined;
    {
      using s = openScope();
      F.ones([1]);
      kept = s.keep(F.ones([2]));
      const also = F.ones([3]);
      also.dispose();
    }
    expect(live() - before).toBe(1);
    kept.dispose();
  });

  it("openScope() inside scope() gives what it keeps to that scope", () => {
    const before = live();
    scope(() => {
      let kept: Tensor;
      {
        using s = openScope();
        kept = s.keep(F.ones([1]));
      }
      expect(kept.disposed).toBe(false);
    });
    expect(live()).toBe(before);
  });

  it("openScope() ends when its block throws", () => {
    const before = live();
    expect(() => {
      using _ = openScope();
      F.ones([1]);
      throw new Error("inside");
    }).toThrow("inside");
    expect(live()).toBe(before);
  });
});

describe("a disposed tensor", () => {
  it("is refused by name where it is used", async () => {
    const x = scope(() => {
      const t = F.ones([2, 3]);
      return [t.shape, t] as const;
    })[1];
    x.dispose();
    expect(() => F.exp(x)).toThrow(DisposedError);
    expect(() => F.exp(x)).toThrow(
      /exp: tensor 1 must not be disposed; got Tensor\(\[2, 3\] f32, disposed\)\. Keep it out of the scope, or return it/,
    );
    await expect(x.data()).rejects.toThrow(DisposedError);
    expect(() => withLabel("block", () => x.strided([1], [1]))).toThrow(/\(in block\)/);
  });

  it("takes its gradient with it", () => {
    const before = live();
    const x = F.ones([2], { requiresGrad: true });
    scope(() => x.mul(2).sum().backward());
    expect(live() - before).toBe(2);
    x.dispose();
    expect(live()).toBe(before);
  });
});

describe("the garbage collector", () => {
  setFlagsFromString("--expose-gc");
  const gc = runInNewContext("gc") as () => void;
  /** Runs the collector until the safety net has caught `count` more tensors, at most 50 times. */
  const collect = async (count: number): Promise<number> => {
    const before = device().stats.caughtByCollector;
    for (let i = 0; i < 50 && device().stats.caughtByCollector - before < count; i++) {
      gc();
      await new Promise((resolve) => setTimeout(resolve, 5));
    }
    return device().stats.caughtByCollector - before;
  };

  it("gives back what was never disposed, and counts it", async () => {
    const before = live();
    (() => {
      for (let i = 0; i < 10; i++) empty([64]);
    })();
    expect(live() - before).toBe(10);
    expect(await collect(10)).toBe(10);
    expect(live()).toBe(before);
  });

  it("gives back a whole graph that was dropped without backward", async () => {
    using x = F.ones([64], { requiresGrad: true });
    const before = live();
    (() => {
      scope(() => x.exp().sin().square());
    })();
    expect(live()).toBeGreaterThan(before);
    await collect(1);
    expect(live()).toBe(before);
  });

  it("finds nothing where scopes and dispose were used", async () => {
    for (let i = 0; i < 10; i++) {
      const y = scope(() => F.ones([16]).add(1).exp());
      y.dispose();
    }
    gc();
    await new Promise((resolve) => setTimeout(resolve, 20));
    gc();
    expect(await collect(1)).toBe(0);
  });
});
