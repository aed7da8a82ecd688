/** The tape: who gets which gradient, what is kept and freed, what is refused. */
import { describe, expect, it } from "vitest";
import {
  AutogradError,
  F,
  ShapeError,
  backward,
  checkpoint,
  enableGrad,
  gradEnabled,
  lastOp,
  noGrad,
  onGrad,
  record,
  scope,
  tally,
  tensor,
} from "../../index.ts";
import type { Tensor } from "../../index.ts";
import { useDevice } from "../gpu.ts";

const device = useDevice();

const leaf = (values: number | number[] | number[][], dtype: "f32" | "bf16" | "f16" = "f32"): Tensor =>
  tensor(values, { dtype, requiresGrad: true });
const values = async (t: Tensor | null): Promise<number[]> => [...(await t!.data())];
const dispose = (...tensors: Tensor[]): void => tensors.forEach((t) => t.dispose());

describe("gradients", () => {
  it("add up over the uses of a tensor", async () => {
    const x = leaf([1, 2, 3]);
    scope(() => {
      const square = x.mul(x);
      square.add(x).add(square).sum().backward(); // 2x² + x
    });
    expect(await values(x.grad)).toEqual([5, 9, 13]);
    dispose(x);
  });

  it("reach a leaf used many times in many ways, in a fixed order", async () => {
    const run = async (): Promise<number[]> => {
      const x = leaf([0.1, 0.7, -0.3]);
      scope(() => {
        let y = x.mul(1);
        for (let i = 0; i < 10; i++) y = y.add(x.sin()).mul(x.add(i));
        y.sum().backward();
      });
      const g = await values(x.grad);
      dispose(x);
      return g;
    };
    expect(await run()).toEqual(await run());
  });

  it("may be added up by a backward itself, for an input that occurs once", async () => {
    const double = (a: Tensor, b: Tensor): Tensor =>
      record(
        "double",
        [a, b],
        scope(() => a.detach().add(b.detach())),
        [],
        (g, _, needs, priors) =>
          [0, 1].map((i) => {
            if (!needs[i]) return null;
            const prior = priors.take(i);
            seen.push(prior ? (prior.sum ? (prior.inPlace ? "in place" : "sum") : "none") : "refused");
            return prior?.sum ? g.add(prior.sum) : g.mul(1);
          }),
      );
    const seen: string[] = [];
    const [x, y] = [leaf([1, 2]), leaf([3, 4])];
    for (let i = 0; i < 2; i++) scope(() => double(x, y).sum().backward());
    expect(seen.splice(0)).toEqual(["none", "none", "in place", "in place"]);
    scope(() => double(x, x).sum().backward());
    expect(seen.splice(0)).toEqual(["refused", "refused"]);
    scope(() => {
      const z = x.mul(2); // an op's result has a sum too, which its other gradient may share
      double(z, y).add(z).sum().backward();
    });
    expect(seen.splice(0)).toEqual(["sum", "in place"]);
    expect(await values(x.grad)).toEqual([8, 8]);
    expect(await values(y.grad)).toEqual([3, 3]);
    dispose(x, y);
  });

  it("accumulate in a leaf over several backward calls", async () => {
    const x = leaf([1, 2]);
    for (let i = 1; i <= 3; i++) {
      scope(() => x.mul(x).sum().backward());
      expect(await values(x.grad)).toEqual([2 * i, 4 * i]);
    }
    dispose(x);
  });

  it("of bf16 and f16 leaves are f32 and keep small steps", async () => {
    for (const dtype of ["bf16", "f16"] as const) {
      const x = leaf([1, 1], dtype);
      for (let i = 0; i < 10; i++)
        scope(() =>
          x
            .cast("f32")
            .mul(1 + 2 ** -12)
            .sum()
            .backward(),
        );
      expect(x.grad!.dtype).toBe("f32");
      if (dtype === "f16") for (const g of await values(x.grad)) expect(g).toBeCloseTo(10, 1);
      scope(() => x.mul(x).sum().backward());
      expect(x.grad!.dtype).toBe("f32");
      dispose(x);
    }
  });

  it("are not computed for what needs none", async () => {
    const x = leaf([1, 2]);
    const w = tensor([3, 4]);
    const z = leaf([5, 6]);
    const both = tally(() => scope(() => F.mul(x, z).sum().backward()));
    dispose(x.grad!);
    x.grad = null;
    const one = tally(() => scope(() => F.mul(x, w).sum().backward()));
    expect(one.launches).toBeLessThan(both.launches);
    expect(w.grad).toBeNull();
    expect(await values(x.grad)).toEqual([3, 4]);
    dispose(x, w, z);
  });

  it("stay null for a leaf that the loss does not depend on", () => {
    const [x, z] = [leaf([1]), leaf([2])];
    scope(() => x.mul(3).sum().backward());
    expect(z.grad).toBeNull();
    dispose(x, z);
  });

  it("take a gradient for a result of any shape, also a strided one", async () => {
    const x = leaf([
      [1, 2, 3],
      [4, 5, 6],
    ]);
    const g = tensor([
      [1, 2],
      [3, 4],
      [5, 6],
    ]);
    scope(() => backward(x.mul(2), g.transpose()));
    expect(await values(x.grad)).toEqual([2, 6, 10, 4, 8, 12]);
    expect(await values(g)).toEqual([1, 2, 3, 4, 5, 6]);
    dispose(x, g);
  });

  it("of a leaf itself are the gradient given, copied", async () => {
    const x = leaf([1, 2]);
    const g = tensor([3, 4]);
    backward(x, g);
    backward(x, g);
    expect(await values(x.grad)).toEqual([6, 8]);
    expect(await values(g)).toEqual([3, 4]);
    dispose(x, g);
  });
});

describe("gradients through views", () => {
  const cases: [string, (x: Tensor) => Tensor, number[]][] = [
    ["slice with a step", (x) => x.slice(1, 0, 3, 2), [1, 0, 1, 1, 0, 1]],
    [
      "permute and reshape",
      (x) =>
        x
          .transpose()
          .reshape([6])
          .mul(tensor([1, 2, 3, 4, 5, 6])),
      [1, 3, 5, 2, 4, 6],
    ],
    ["expand", (x) => x.unsqueeze(0).expand([4, 2, 3]), [4, 4, 4, 4, 4, 4]],
    ["select", (x) => x.select(0, 1), [0, 0, 0, 1, 1, 1]],
    ["overlapping slices", (x) => F.cat([x.slice(1, 0, 2), x.slice(1, 1, 3)], 1), [1, 2, 1, 1, 2, 1]],
    [
      "chunks put together in another order",
      (x) =>
        F.cat(x.chunk(2).reverse(), 0).mul(
          tensor([
            [1, 2, 3],
            [4, 5, 6],
          ]),
        ),
      [4, 5, 6, 1, 2, 3],
    ],
    ["stack of itself", (x) => F.stack([x, x.mul(2)], 2), [3, 3, 3, 3, 3, 3]],
    ["a view of a view of a view", (x) => x.transpose().slice(0, 1, 3).transpose().select(0, 0), [0, 1, 1, 0, 0, 0]],
    ["pad", (x) => F.pad(x, [[1, 2]], 9), [1, 1, 1, 1, 1, 1]],
    ["contiguous of a transposed view", (x) => x.transpose().contiguous().slice(0, 0, 1), [1, 0, 0, 1, 0, 0]],
  ];
  it.each(cases)("%s", async (_, fn, expected) => {
    const x = leaf([
      [1, 2, 3],
      [4, 5, 6],
    ]);
    scope(() => fn(x).sum().backward());
    expect(await values(x.grad)).toEqual(expected);
    expect(x.grad!.shape).toEqual([2, 3]);
    dispose(x);
  });
});

describe("recording", () => {
  it("stops inside noGrad, and starts again inside enableGrad", () => {
    const x = leaf([1]);
    scope(() => {
      noGrad(() => {
        expect(gradEnabled()).toBe(false);
        expect(x.mul(2).requiresGrad).toBe(false);
        enableGrad(() => expect(x.mul(2).requiresGrad).toBe(true));
      });
      expect(gradEnabled()).toBe(true);
      expect(x.mul(2).requiresGrad).toBe(true);
    });
    dispose(x);
  });
  it("comes back after an exception, and noGrad takes no asynchronous function", () => {
    expect(() =>
      noGrad(() => {
        throw new Error("x");
      }),
    ).toThrow("x");
    expect(gradEnabled()).toBe(true);
    expect(() => noGrad(async () => undefined)).toThrow(/noGrad\(\): the function must be synchronous/);
    expect(gradEnabled()).toBe(true);
  });
  it("is cut by detach", async () => {
    const x = leaf([2, 3]);
    scope(() => {
      const y = x.mul(x);
      const cut = y.detach();
      expect(cut.requiresGrad).toBe(false);
      expect(cut.storage).toBe(y.storage);
      cut.mul(x).sum().backward();
    });
    expect(await values(x.grad)).toEqual([4, 9]);
    dispose(x);
  });
  it("is not done for constants", () => {
    scope(() => {
      const y = F.ones([2]).mul(3);
      expect([y.requiresGrad, y.node, y.isLeaf]).toEqual([false, null, true]);
    });
  });
});

describe("memory", () => {
  it("what the tape saved is freed by backward, before the loss is disposed", () => {
    const x = leaf([
      [1, 2],
      [3, 4],
    ]);
    const live = device().pool.stats.liveBytes;
    const loss = scope(() => x.sin().exp().square().sum());
    expect(device().pool.stats.liveBytes).toBeGreaterThan(live + 16);
    loss.backward();
    expect(device().pool.stats.liveBytes).toBe(live + 16 + 16); // the loss and the gradient
    dispose(loss, x);
  });
  it("what the tape saved is freed with the result when backward is never called", () => {
    const x = leaf([
      [1, 2],
      [3, 4],
    ]);
    const live = device().pool.stats.liveBytes;
    const y = scope(() => x.sin().exp().square());
    y.dispose();
    expect(device().pool.stats.liveBytes).toBe(live);
    dispose(x);
  });
  it("saved tensors outlive a dispose by the user", async () => {
    const x = leaf([0.5]);
    const y = x.exp();
    const z = y.mul(y);
    y.dispose();
    z.backward();
    expect((await values(x.grad))[0]).toBeCloseTo(2 * Math.exp(1), 4);
    dispose(z, x);
  });
  it("nothing is left when a backward fails half way", () => {
    const x = leaf([1, 2]);
    const failing = (t: Tensor): Tensor =>
      record("failing", [t], t.detach(), [t], (g) => {
        F.mul(g, 2);
        throw new Error("on purpose");
      });
    const live = device().pool.stats.liveBytes;
    scope(() => {
      expect(() => failing(x.exp()).mul(3).sum().backward()).toThrow("on purpose");
    });
    expect(device().pool.stats.liveBytes).toBe(live);
    expect(gradEnabled()).toBe(true);
    dispose(x);
  });
});

describe("hooks", () => {
  it("see the gradient, and replace it", async () => {
    const x = leaf([1, 2]);
    const seen: Promise<ArrayLike<number>>[] = [];
    scope(() => {
      const y = x.mul(3);
      onGrad(y, (g) => void seen.push(g.data()));
      onGrad(y, (g) => g.mul(10).add(0));
      onGrad(y, (g) => void seen.push(g.data()));
      y.mul(2).sum().backward();
    });
    expect((await Promise.all(seen)).map((a) => [...(a as Float32Array)])).toEqual([
      [2, 2],
      [20, 20],
    ]);
    expect(await values(x.grad)).toEqual([60, 60]);
    dispose(x);
  });
  it("leave nothing behind, and do not free what is not theirs", async () => {
    const x = leaf([1, 2]);
    const mine = tensor([7, 8]);
    const y = scope(() => {
      const t = x.mul(3);
      onGrad(t, () => mine);
      return t.sum();
    });
    y.backward();
    y.dispose();
    expect(await values(x.grad)).toEqual([21, 24]);
    expect(await values(mine)).toEqual([7, 8]);
    dispose(x, mine);
  });
  it("must give a gradient of the same shape", () => {
    const x = leaf([1, 2]);
    scope(() => {
      const y = x.mul(3);
      onGrad(y, (g) => g.sum());
      expect(() => y.sum().backward()).toThrow(ShapeError);
    });
    dispose(x);
  });
  it("are for results of ops", () => {
    const x = leaf([1]);
    expect(() => onGrad(x, () => undefined)).toThrow(/onGrad: the tensor must be the result of an op/);
    dispose(x);
  });
});

describe("checkpoint", () => {
  const make = (): { x: Tensor; w: Tensor[] } => ({
    x: F.randn([32, 64], { requiresGrad: true }),
    w: Array.from({ length: 8 }, () => F.randn([64], { requiresGrad: true })),
  });
  const block = (x: Tensor, w: Tensor): Tensor => x.mul(w).sin().exp().tanh().add(x);
  const run = async (
    through: (fn: (t: Tensor) => Tensor, x: Tensor) => Tensor,
  ): Promise<{ grads: number[][]; peak: number }> => {
    F.manualSeed(3);
    const { x, w } = make();
    device().pool.resetPeak();
    const before = device().pool.stats.peakBytes;
    scope(() => {
      let y = x;
      for (const weight of w) y = through((t) => block(t, weight), y);
      y.square().sum().backward();
    });
    const grads = await Promise.all([x, ...w].map((t) => values(t.grad)));
    const peak = device().pool.stats.peakBytes - before;
    dispose(x, ...w);
    return { grads, peak };
  };

  it("gives the same gradients bit for bit with fewer bytes alive", async () => {
    const plain = await run((fn, x) => scope(() => fn(x)));
    const saved = await run((fn, x) => checkpoint(fn, x));
    expect(saved.grads).toEqual(plain.grads);
    expect(saved.peak).toBeLessThan(0.65 * plain.peak);
  });
  it("leaves out the launches of its function's last op when it recomputes, not those of a checkpoint inside", async () => {
    const x = leaf([1, 2]);
    const last = (t: Tensor): Tensor => lastOp(() => t.mul(3));
    const launches = (fn: (t: Tensor) => Tensor): number =>
      tally(() => scope(() => checkpoint(fn, x).sum().backward()), device()).launches;
    launches((t) => t.exp()); // from here on there is a gradient to add to
    const all = launches((t) => t.exp().mul(3));
    expect(launches((t) => last(t.exp()))).toBe(all - 1);
    const inside = (t: Tensor): Tensor => checkpoint((u) => last(u.exp()), t).mul(2);
    expect(launches(inside)).toBe(launches((t) => checkpoint((u) => u.exp().mul(3), t).mul(2)) - 1);
    const grad = await values(x.grad);
    for (const [i, v] of [1, 2].entries()) expect(grad[i]).toBeCloseTo(19 * Math.exp(v), 2); // 1 + 3 + 3 + 6 + 6
    dispose(x);
  });

  it("may stand inside another", async () => {
    const plain = await run((fn, x) => fn(x));
    const nested = await run((fn, x) => checkpoint((t) => checkpoint((s) => fn(s), t), x));
    expect(nested.grads).toEqual(plain.grads);
  });
  it("takes several inputs, and gives none for those that need none", async () => {
    const [a, b, c] = [leaf([1, 2]), tensor([3, 4]), leaf([5, 6])];
    scope(() =>
      checkpoint((x, y, z) => x.mul(y).add(z.square()), a, b, c)
        .sum()
        .backward(),
    );
    expect(await values(a.grad)).toEqual([3, 4]);
    expect(await values(c.grad)).toEqual([10, 12]);
    expect(b.grad).toBeNull();
    dispose(a, b, c);
  });
  it("may return its input, or a view of it", async () => {
    const x = leaf([
      [1, 2],
      [3, 4],
    ]);
    scope(() =>
      checkpoint((t) => t, x)
        .mul(2)
        .sum()
        .backward(),
    );
    scope(() =>
      checkpoint((t) => t.transpose(), x)
        .slice(0, 0, 1)
        .sum()
        .backward(),
    );
    expect(await values(x.grad)).toEqual([3, 2, 3, 2]);
    dispose(x);
  });
  it("does nothing of its own inside noGrad", () => {
    const x = leaf([1]);
    scope(() => noGrad(() => expect(checkpoint((t) => t.exp(), x).requiresGrad).toBe(false)));
    dispose(x);
  });
  it("sees an input that was changed in place", () => {
    const x = leaf([1, 2]);
    scope(() => {
      const h = x.mul(1);
      const y = checkpoint((t) => t.exp(), h);
      F.addInto(h, h.mul(1));
      expect(() => y.sum().backward()).toThrow(/saved by "checkpoint" must be unchanged.*changed in place/);
    });
    dispose(x);
  });
});

describe("what it refuses", () => {
  it("a second backward through the same graph", () => {
    const x = leaf([1, 2]);
    scope(() => {
      const y = x.square();
      const [a, b] = [y.sum(), y.mul(3).sum()];
      a.backward();
      expect(() => a.backward()).toThrow(AutogradError);
      expect(() => a.backward()).toThrow(/must not have been used before.*Run the forward again/);
      expect(() => b.backward()).toThrow(/must not have been used before; got one through "square"/);
    });
    dispose(x);
  });
  it("a saved tensor that was changed in place, naming the op", () => {
    const x = leaf([1, 2]);
    scope(() => {
      const y = x.exp();
      const loss = y.sum();
      F.fillInto(y, 0);
      expect(() => loss.backward()).toThrow(/saved by "exp" must be unchanged.*changed in place/);
    });
    scope(() => {
      const loss = x.square().sum();
      F.addInto(x, F.ones([2]));
      expect(() => loss.backward()).toThrow(/saved by "square" must be unchanged.*changed in place/);
    });
    dispose(x);
  });
  it("but not one that was changed after its backward, or that was not saved", async () => {
    const x = leaf([1, 2]);
    scope(() => {
      const y = x.mul(2).add(1);
      const loss = y.sum();
      F.fillInto(y, 0);
      loss.backward();
      F.addInto(x, x.grad!.mul(1));
    });
    scope(() => x.square().sum().backward());
    expect(await values(x.grad)).toEqual([8, 10]);
    dispose(x);
  });
  it("gradients of gradients", () => {
    const x = leaf([1, 2]);
    scope(() => {
      x.square().sum().backward();
      expect(x.grad!.requiresGrad).toBe(false);
      expect(() => x.grad!.sum().backward()).toThrow(/must depend on a tensor that requires a gradient/);
    });
    dispose(x);
  });
  it("a loss of several elements without a gradient, or with one of another shape", () => {
    const x = leaf([1, 2]);
    scope(() => {
      expect(() => x.square().backward()).toThrow(ShapeError);
      expect(() => x.square().backward()).toThrow(/must have the shape of the loss, \[2\]; got none/);
      expect(() => backward(x.square(), F.ones([3]))).toThrow(/must have the shape of the loss, \[2\]; got .*\[3\]/);
    });
    dispose(x);
  });
  it("a gradient that backward gives in the wrong shape", () => {
    const x = leaf([1, 2]);
    scope(() => {
      const y = record("wrong", [x], x.detach(), [], () => [F.ones([3])]);
      expect(() => y.sum().backward()).toThrow(
        /backward of "wrong": gradient 0 must have the shape of its input, \[2\]; got \[3\]/,
      );
    });
    dispose(x);
  });
  it("gradients for integers, and taking them from results", () => {
    using i = tensor([1, 2], { dtype: "i32" });
    expect(() => (i.requiresGrad = true)).toThrow(/must be f32, f16 or bf16/);
    const x = leaf([1]);
    scope(() => {
      const y = x.mul(2);
      expect(() => (y.requiresGrad = false)).toThrow(/Use detach\(\)/);
    });
    dispose(x);
  });
});
