/** Legal but unusual uses that once went wrong: writes through views, checkpoints with captured tensors, gradients that belong to others, NaN. */
import { describe, expect, it } from "vitest";
import {
  ArgumentError,
  AutogradError,
  DTypeError,
  Device,
  F,
  Generator,
  ShapeError,
  backward,
  checkpoint,
  record,
  scope,
  tensor,
  zeros,
} from "../../index.ts";
import type { Tensor } from "../../index.ts";
import { copy } from "../../kernels/core/map.ts";
import { f16Bits, f16Value } from "../../engine/dtype.ts";
import { errorOf, useDevice } from "../gpu.ts";

useDevice({ poison: true });

const values = async (t: Tensor): Promise<number[]> => Array.from(await t.data());
const first = (n: number, count: number, value: number): number[] =>
  Array.from({ length: n }, (_, i) => (i < count ? value : 0));

describe("gradients of var and std", () => {
  it("with a correction above the number of values are finite, as in PyTorch", async () => {
    for (const [op, expected] of [
      [F.var, [1, 0, -1]],
      [F.std, [0, 0, 0]],
    ] as const) {
      const x = tensor([1, 2, 3], { requiresGrad: true });
      scope(() => backward(op(x, 0, { correction: 5 })));
      expect((await values(x.grad!)).map((v) => v + 0)).toEqual(expected);
      x.grad!.dispose();
      x.dispose();
    }
  });
});

describe("windows of maxPool2d", () => {
  it("without an element of the image are −∞, as in PyTorch", async () => {
    using y = scope(() => F.maxPool2d(F.full([1, 4, 4], 5), 2, { dilation: 5, padding: 1, stride: 1 }));
    expect(await values(y)).toEqual([-Infinity]);
  });
});

describe("a write through a view leaves its neighbours alone", () => {
  it.each<[string, (view: Tensor) => void]>([
    ["addInto", (view) => F.addInto(view, F.full([5], 3))],
    ["fillInto", (view) => F.fillInto(view, 3)],
    ["castInto", (view) => F.castInto(view, F.full([5], 3))],
    ["map into", (view) => void F.map(copy, [F.full([5], 3)], { into: view })],
  ])("%s", async (_, write) => {
    const x = zeros([12]);
    scope(() => write(x.slice(0, 0, 5)));
    expect(await values(x)).toEqual(first(12, 5, 3));
    scope(() => write(x.slice(0, 4, 9)));
    const overlap = (await values(x)).slice(9);
    expect(overlap).toEqual([0, 0, 0]);
    x.dispose();
  });

  it("16-bit views move in whole words or not at all", async () => {
    const x = F.zeros([8], { dtype: "bf16" });
    scope(() => F.castInto(x.slice(0, 0, 4), F.full([4], 3)));
    expect(await values(x)).toEqual(first(8, 4, 3));
    expect(await errorOf(() => scope(() => F.castInto(x.slice(0, 0, 5), F.full([5], 9))))).toBeInstanceOf(ShapeError);
    expect(await values(x)).toEqual(first(8, 4, 3));
    x.dispose();
  });

  it("an expanded tensor is refused", async () => {
    const x = zeros([1]);
    expect(await errorOf(() => scope(() => F.castInto(x.expand([4]), F.ones([4]))))).toBeInstanceOf(ArgumentError);
    x.dispose();
  });
});

describe("checkpoint", () => {
  it("refuses a captured result that needs a gradient, and names it", async () => {
    const [w, x] = [tensor([1, 2, 3], { requiresGrad: true }), tensor([1, 1, 1], { requiresGrad: true })];
    const error = await errorOf(() =>
      scope(() => {
        const h = w.mul(2);
        backward(
          checkpoint((a) => a.mul(h), x)
            .sum()
            .add(h.sum()),
        );
      }),
    );
    expect(error).toBeInstanceOf(AutogradError);
    expect(error.message).toMatch(/checkpoint: .*mulScalar.*Pass that tensor to checkpoint\(\) as an input/);
    w.dispose();
    x.dispose();
  });

  it("leaves a captured parameter a leaf when the function returns it", async () => {
    const [w, x] = [tensor([1, 2], { requiresGrad: true }), tensor([5, 6], { requiresGrad: true })];
    scope(() =>
      backward(
        checkpoint((a: Tensor) => (a.size ? w : a), x)
          .mul(x)
          .sum(),
      ),
    );
    expect(w.isLeaf).toBe(true);
    expect(await values(w.grad!)).toEqual([5, 6]);
    expect(await values(x.grad!)).toEqual([1, 2]);
    w.dispose();
    x.dispose();
  });
});

describe("what a checkpointed function reads", () => {
  const refused = async (
    fn: (x: Tensor) => Tensor,
    change: () => void,
    why = /checkpoint: .*unchanged until backward; got one that was changed in place/,
  ): Promise<void> => {
    using x = tensor([1, 3], { requiresGrad: true });
    const error = await errorOf(() =>
      scope(() => {
        const y = checkpoint((t: Tensor) => fn(t), x);
        change();
        backward(y.sum());
      }),
    );
    expect(error).toBeInstanceOf(AutogradError);
    expect(error.message).toMatch(why);
    expect(x.grad).toBeNull();
  };
  const OTHERWISE = /checkpoint: .*must compute the same again/;

  it("may not change before backward: a parameter", async () => {
    using w = tensor([2, 2], { requiresGrad: true });
    await refused(
      (t) => t.mul(w),
      () => F.castInto(w, tensor([5, 5])),
    );
  });

  it("may not change before backward: a constant tensor", async () => {
    using mask = tensor([1, 0]);
    await refused(
      (t) => t.mul(mask),
      () => F.fillInto(mask, 1),
    );
  });

  it("may not change before backward: a generator", async () => {
    const generator = new Generator(1);
    await refused(
      (t) => F.dropout(t, 0.5, { generator, site: 0 }),
      () => generator.setStep(9),
    );
    generator.dispose();
  });

  it("may change after backward", async () => {
    using w = tensor([2, 2], { requiresGrad: true });
    using x = tensor([1, 3], { requiresGrad: true });
    for (const by of [2, 5]) {
      scope(() => F.castInto(w, F.full([2], by)));
      scope(() => backward(checkpoint((t: Tensor) => t.mul(w), x).sum()));
      expect(await values(x.grad!)).toEqual([by, by]);
      x.grad!.dispose();
      x.grad = null;
    }
  });

  it("may not be another tensor in backward", async () => {
    using first = tensor([2, 2]);
    using second = tensor([50, 50]);
    let w = first;
    await refused((t) => t.mul(w), () => (w = second), OTHERWISE); // prettier-ignore
  });

  it("may not be another number in backward", async () => {
    let factor = 2;
    await refused((t) => t.mul(factor), () => (factor = 50), OTHERWISE); // prettier-ignore
  });

  it("may not be in another mode in backward", async () => {
    const generator = new Generator(1);
    let training = true;
    await refused((t) => (training ? F.dropout(t, 0.5, { generator, site: 0 }) : t.mul(1)), () => (training = false), OTHERWISE); // prettier-ignore
    generator.dispose();
  });

  it("is compared on devices other than the default one", async () => {
    const device = await Device.create({ poison: true });
    const w = tensor([1, 2], { device, requiresGrad: true });
    const error = await errorOf(() =>
      scope(() => {
        const y = checkpoint(() => w.mul(w));
        F.castInto(w, tensor([10, 20], { device }));
        backward(y.sum());
      }),
    );
    expect(error).toBeInstanceOf(AutogradError);
    w.dispose();
    await device.sync();
    device.destroy();
  });

  it("may hold a linear layer with an activation, which gradients compute in two launches", async () => {
    using w = tensor([[1, 2], [3, 4]], { requiresGrad: true }); // prettier-ignore
    const run = async (wrap: boolean): Promise<number[]> => {
      using x = tensor([[1, -1]], { requiresGrad: true });
      const layer = (t: Tensor): Tensor => F.linear(t, w, null, { activation: "gelu" });
      scope(() => backward((wrap ? checkpoint(layer, x) : layer(x)).sum()));
      return values(x.grad!);
    };
    expect(await run(true)).toEqual(await run(false));
  });

  it("is drawn again as it was drawn, and later draws are others", async () => {
    using x = F.ones([64], { requiresGrad: true });
    const [y, after] = scope(() => {
      const drawn = checkpoint((t: Tensor) => t.mul(F.randn([64])), x);
      const next = F.randn([64]);
      backward(drawn.sum());
      return [drawn.detach(), [next, F.randn([64])]] as const;
    });
    expect(await values(x.grad!)).toEqual(await values(y));
    const [next, last] = [await values(after[0]!), await values(after[1]!)];
    expect(next).not.toEqual(last);
    expect(next).not.toEqual(await values(y));
    for (const t of [y, ...after]) t.dispose();
  });
});

it("a gradient that an op hands out stays its owner's", async () => {
  const [k, x] = [tensor([1, 2, 3]), tensor([1, 1, 1], { requiresGrad: true })];
  for (let i = 0; i < 2; i++) scope(() => backward(record("foreign", [x], x.clone(), [], () => [k]).sum()));
  expect(await values(x.grad!)).toEqual([2, 4, 6]);
  expect(await values(k)).toEqual([1, 2, 3]);
  k.dispose();
  x.dispose();
});

describe("values at the edge", () => {
  it("NaN comes through, large arguments are cut off", async () => {
    const of = async (v: number, fn: (x: Tensor) => Tensor): Promise<number> => {
      const y = scope(() => fn(tensor(v)));
      const out = await y.item();
      y.dispose();
      return out;
    };
    for (const fn of [F.exp, F.relu, F.sigmoid, F.tanh, (x: Tensor) => F.clamp(x, 0, 1)])
      expect(await of(NaN, fn)).toBeNaN();
    expect(await of(1000, F.exp)).toBeGreaterThan(3e38);
    expect(await of(1000, F.tanh)).toBe(1);
    expect(await of(-1000, F.sigmoid)).toBe(0);
  });

  it("whole powers take any base", async () => {
    for (const [x, n, y] of [
      [-2, 4, 16],
      [-2, 3, -8],
      [-2, 1, -2],
      [-2, 0, 1],
      [-2, -1, -0.5],
      [0, 0, 1],
    ] as const) {
      const power = scope(() => F.pow(tensor(x), n));
      expect(await power.item()).toBeCloseTo(y, 5);
      power.dispose();
    }
  });

  it("f16 stores what is beyond it as infinity and NaN as NaN, as the host does", async () => {
    const values = [
      65504,
      65519.99,
      65520,
      -65519.99,
      -65520,
      1e5,
      -1e30,
      3e38,
      Infinity,
      -Infinity,
      NaN,
      2 ** -24,
      2 ** -25,
      1.5,
      -0,
    ];
    using x = tensor(values);
    using h = F.cast(x, "f16");
    expect([...(await h.data())]).toEqual(values.map((v) => f16Value(f16Bits(v))));
  });

  it("u8 saturates, argmax takes integers, mixed integers are refused", async () => {
    const bytes = scope(() => tensor([-1, 300, 3.7]).cast("u8"));
    expect(await values(bytes)).toEqual([0, 255, 3]);
    const best = scope(() => tensor(Int32Array.of(3, 9, 2)).argmax());
    expect(await best.item()).toBe(1);
    expect(await errorOf(() => scope(() => tensor(Uint32Array.of(1)).lt(tensor(Int32Array.of(-1)))))).toBeInstanceOf(
      DTypeError,
    );
    bytes.dispose();
    best.dispose();
  });
});
