/** Layers and SGD against values made by PyTorch (tests/nn_values.json); modules as files. */
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { describe, expect, it } from "vitest";
import {
  F,
  Generator,
  backward,
  checkpoint,
  load,
  manualSeed,
  nn,
  save,
  scope,
  tensor,
  zeroGradients,
} from "../../index.node.ts";
import type { Tensor } from "../../index.node.ts";
import { SafetensorsError } from "../../model/io/errors.ts";
import { errorOf, useDevice } from "../gpu.ts";
import { relativeL2, tolerance } from "../harness.ts";

interface Norm {
  y: number[];
  dx: number[];
  dw: number[];
  db: number[];
  mean: number[];
  var: number[];
  n: number;
  eval: number[];
}
interface Values extends Readonly<Record<"bn1" | "bn1l" | "bn2", Norm>> {
  cumulative: Pick<Norm, "mean" | "var" | "eval">;
  ln: number[];
  gn: number[];
  sgd: { kw: Record<string, number | boolean>; p: number[][] }[];
}
const values = JSON.parse(readFileSync(new URL("../nn_values.json", import.meta.url), "utf8")) as Values;
const activations = values as unknown as Readonly<Record<string, Pick<Norm, "y" | "dx">>>;
const device = useDevice();

const wave = (count: number): Float32Array =>
  Float32Array.from({ length: count }, (_, i) => (((i * 37 + 11) % 23) - 11) / 7);
const sized = (shape: readonly number[]): number => shape.reduce((a, b) => a * b, 1);

async function near(t: Tensor | null, expected: readonly number[], what: string): Promise<void> {
  const got = await t!.data();
  expect(relativeL2(got, expected), what).toBeLessThanOrEqual(tolerance("gradient", ["f32"], expected.length));
}

async function affine(layer: nn.Module): Promise<void> {
  using weight = tensor([0.5, 1.5, -2]);
  using bias = tensor([0.1, -0.2, 0.3]);
  await layer.loadStateDict({ weight, bias }, { strict: false });
}

describe("batch normalisation", () => {
  const cases = [
    ["bn1", [4, 3], nn.BatchNorm1d],
    ["bn1l", [2, 3, 5], nn.BatchNorm1d],
    ["bn2", [2, 3, 2, 3], nn.BatchNorm2d],
  ] as const;
  for (const [name, shape, Layer] of cases) {
    it(`of [${shape}] equals PyTorch's in training, backward and evaluation`, async () => {
      const expected = values[name];
      const layer = new Layer(3);
      await affine(layer);
      const x = tensor(wave(sized(shape)), { shape, requiresGrad: true });
      const half = sized(shape) / shape[0]!;
      const rows = Array.from({ length: shape[0]! }, (_, i) => wave(sized(shape)).slice(i * half, (i + 1) * half));
      const weights = tensor(Float32Array.from(rows.toReversed().flatMap((row) => [...row])), { shape });
      const y = layer.call(x);
      scope(() => backward(y.mul(weights).sum()));
      scope(() => void layer.call(x.detach().mul(2).add(1)));
      layer.eval();
      const after = layer.call(x);
      await near(y, expected.y, "y");
      await near(after, expected.eval, "after eval()");
      await near(layer.running_mean, expected.mean, "running mean");
      await near(layer.running_var, expected.var, "running variance");
      expect(await layer.num_batches_tracked!.item()).toBe(expected.n);
      await near(x.grad, expected.dx, "gradient of x");
      await near(layer.weight!.grad, expected.dw, "gradient of the weight");
      for (const t of [x, weights, y, after, layer]) t.dispose();
    });
  }

  it("inside checkpoint() moves the running statistics once", async () => {
    const [layer, other] = [new nn.BatchNorm1d(3), new nn.BatchNorm1d(3)];
    const x = tensor(wave(12), { shape: [4, 3], requiresGrad: true });
    scope(() =>
      backward(
        checkpoint((t) => layer.call(t), x)
          .square()
          .sum(),
      ),
    );
    const found = [...(await x.grad!.data())];
    zeroGradients([x]);
    scope(() => backward(other.call(x).square().sum()));
    expect(found).toEqual([...(await x.grad!.data())]);
    expect(await layer.num_batches_tracked!.item()).toBe(1);
    for (const name of ["running_mean", "running_var"] as const)
      expect([...(await layer[name]!.data())]).toEqual([...(await other[name]!.data())]);
    for (const t of [x, layer, other]) t.dispose();
  });

  it("with momentum null averages over all batches", async () => {
    const layer = new nn.BatchNorm1d(3, { momentum: null });
    const x = tensor(wave(12), { shape: [4, 3] });
    scope(() => {
      layer.call(x);
      layer.call(x.mul(2).add(1));
    });
    const y = layer.eval().call(x);
    await near(layer.running_mean, values.cumulative.mean, "mean");
    await near(layer.running_var, values.cumulative.var, "variance");
    await near(y, values.cumulative.eval, "y");
    for (const t of [x, y, layer]) t.dispose();
  });
});

describe("layers", () => {
  it("LayerNorm and GroupNorm have PyTorch's eps", async () => {
    const x = tensor(
      wave(8).map((v) => v * 0.002),
      { shape: [2, 4] },
    );
    const [layer, group] = [new nn.LayerNorm(4), new nn.GroupNorm(2, 4)];
    const [a, b] = [layer.call(x), group.call(x)];
    await near(a, values.ln, "LayerNorm");
    await near(b, values.gn, "GroupNorm");
    const [c, d] = [F.layerNorm(x), F.groupNorm(x, 2)];
    await near(c, values.ln, "F.layerNorm");
    await near(d, values.gn, "F.groupNorm");
    for (const t of [x, a, b, c, d, layer, group]) t.dispose();
  });

  const makers: Readonly<Record<string, () => nn.Module>> = {
    ReLU: () => new nn.ReLU(),
    LeakyReLU: () => new nn.LeakyReLU(),
    LeakyReLU02: () => new nn.LeakyReLU(0.2),
    GELU: () => new nn.GELU(),
    GELUtanh: () => new nn.GELU({ approximate: "tanh" }),
    SiLU: () => new nn.SiLU(),
    Tanh: () => new nn.Tanh(),
    Sigmoid: () => new nn.Sigmoid(),
    Softmax: () => new nn.Softmax(),
    LogSoftmax: () => new nn.LogSoftmax(),
  };
  it("activations equal PyTorch's, forward and backward", async () => {
    const weights = tensor([1, 2, 3, 4, 5, 6]);
    for (const [name, make] of Object.entries(makers)) {
      const x = tensor([-2, -0.5, 0, 0.25, 1, 3], { requiresGrad: true });
      const y = make().call(x);
      scope(() => backward(y.mul(weights).sum()));
      await near(y, activations[name]!.y, name);
      await near(x.grad, activations[name]!.dx, `gradient of ${name}`);
      for (const t of [x, y]) t.dispose();
    }
    weights.dispose();
  });

  it("Dropout drops in training, repeats by seed, and does nothing after eval()", async () => {
    const x = tensor(new Float32Array(256).fill(1));
    const generator = new Generator(3);
    const drawn = async (layer: nn.Dropout): Promise<number[]> => {
      const y = layer.call(x);
      const data = [...(await y.data())];
      if (y !== x) y.dispose();
      return data;
    };
    const layer = new nn.Dropout(0.25);
    manualSeed(5);
    const [first, second] = [await drawn(layer), await drawn(layer)];
    manualSeed(5);
    expect(await drawn(layer)).toEqual(first);
    expect(second).not.toEqual(first);
    expect(new Set(first)).toEqual(new Set([0, Math.fround(1 / 0.75)]));
    const kept = first.filter((v) => v > 0).length;
    expect(kept).toBeGreaterThan(150);
    expect(kept).toBeLessThan(235);
    const sited = new nn.Dropout(0.25, { generator, site: 2 });
    expect(await drawn(sited)).toEqual(await drawn(sited));
    expect(new Set(await drawn(sited.eval()))).toEqual(new Set([1]));
    for (const t of [x, generator]) t.dispose();
  });

  it("Sequential calls its modules in order and trains", async () => {
    manualSeed(1);
    const net = new nn.Sequential(new nn.Flatten(), new nn.Linear(4, 3), new nn.Tanh(), new nn.Identity(), new nn.Linear(3, 1)); // prettier-ignore
    const x = tensor(wave(24), { shape: [6, 2, 2] });
    using optimizer = new nn.SGD(net.parameters(), { lr: 0.1, momentum: 0.9 });
    const losses: number[] = [];
    for (let step = 0; step < 6; step++) {
      const loss = scope(() => net.call(x).sub(1).square().mean());
      backward(loss);
      optimizer.step();
      zeroGradients(net.parameters());
      losses.push(await loss.item());
      loss.dispose();
    }
    expect(losses.at(-1)!).toBeLessThan(0.6 * losses[0]!);
    for (const t of [x, net]) t.dispose();
  });
});

describe("SGD", () => {
  const camel = (key: string): string => key.replace(/_(.)/g, (_, letter: string) => letter.toUpperCase());
  it("equals torch.optim.SGD", async () => {
    for (const { kw, p: expected } of values.sgd) {
      const p = tensor([1, -2, 3, 0.5], { requiresGrad: true });
      const slopes = tensor([0.5, 1, -0.25, 2]);
      const options = Object.fromEntries(Object.entries(kw).map(([key, value]) => [camel(key), value]));
      using optimizer = new nn.SGD([p], options);
      for (const after of expected) {
        scope(() => backward(p.mul(p).mul(slopes).sum()));
        optimizer.step();
        zeroGradients([p]);
        await near(p, after, JSON.stringify(kw));
      }
      for (const t of [p, slopes]) t.dispose();
    }
  });
});

describe("parameter groups", () => {
  it("have rules and learning rates of their own in one optimizer", async () => {
    const make = (shape: readonly number[]): Tensor => tensor(wave(sized(shape)), { shape, requiresGrad: true });
    const [a, b, c, d] = [make([4]), make([4]), make([2, 2]), make([2, 2])];
    const [plain, matrix] = [nn.sgd({ momentum: 0.9 }), nn.muon()];
    const together = new nn.Optimizer(
      [
        { tensor: a, rule: plain },
        { tensor: b, rule: plain, lrScale: 0.5 },
        { tensor: c, rule: matrix, lrScale: 0.25 },
        { tensor: d, rule: matrix },
      ],
      { lr: 0.5 },
    );
    const [e, f] = [make([4]), make([2, 2])];
    const alone = new nn.Optimizer([{ tensor: e, rule: plain }], { lr: 0.25 });
    const alone2 = new nn.Optimizer([{ tensor: f, rule: matrix }], { lr: 0.125 });
    for (let step = 0; step < 2; step++) {
      const all = [a, b, c, d, e, f];
      for (const t of all) scope(() => backward(t.mul(t).sum()));
      for (const optimizer of [together, alone, alone2]) optimizer.step();
      zeroGradients(all);
    }
    expect(await b.data()).toEqual(await e.data());
    expect(await c.data()).toEqual(await f.data());
    expect(await a.data()).not.toEqual(await b.data());
    expect(await d.data()).not.toEqual(await c.data());
    for (const t of [a, b, c, d, e, f, together, alone, alone2]) t.dispose();
  });
});

describe("save and load", () => {
  const make = (): nn.Sequential => new nn.Sequential(new nn.Linear(2, 3), new nn.BatchNorm1d(3), new nn.Linear(3, 3));

  it("carry a module, buffers included, through bytes and through a file", async () => {
    const folder = mkdtempSync(join(tmpdir(), "janus-state-"));
    try {
      const [a, b] = [make(), make()];
      scope(() => void a.call(tensor(wave(8), { shape: [4, 2] })));
      const file = join(folder, "net.safetensors");
      await save(a, file);
      const bytes = await save(a);
      expect(new Uint8Array(readFileSync(file))).toEqual(bytes);
      for (const source of [file, bytes, new Blob([bytes as BlobPart])]) {
        await load(b, source);
        const [x, y] = [a.stateDict(), b.stateDict()];
        for (const name of Object.keys(x)) expect(await y[name]!.data(), name).toEqual(await x[name]!.data());
      }
      writeFileSync(file, bytes.subarray(0, bytes.length - 4));
      expect(await errorOf(() => load(b, file))).toBeInstanceOf(SafetensorsError);
      for (const t of [a, b]) t.dispose();
    } finally {
      rmSync(folder, { recursive: true, force: true });
    }
  });

  it("write tied parameters once, cast dtypes, and carry an optimizer", async () => {
    const shared = new nn.Linear(2, 2, { bias: false });
    const tied = new nn.Sequential(shared, new nn.Linear(2, 2, { bias: false, weight: shared.weight }));
    const bytes = await save(tied);
    expect(new TextDecoder().decode(bytes.subarray(0, 120))).not.toContain("1.weight");
    await load(tied, bytes);
    const low = new nn.Sequential(new nn.Linear(2, 2, { bias: false, dtype: "bf16" }));
    await load(low, bytes);
    const expected = scope(() => shared.weight.detach().cast("bf16"));
    expect(await low.stateDict()["0.weight"]!.data()).toEqual(await expected.data());
    const options = { lr: 0.5 };
    using first = new nn.AdamW([shared.weight], options);
    shared.weight.grad = tensor([1, 2, 3, 4], { shape: [2, 2] });
    first.step();
    using second = new nn.AdamW([shared.weight], { lr: 0.1 });
    await load(second, await save(first));
    expect(second.lr).toBe(0.5);
    expect(await second.stateDict()["0.m"]!.data()).toEqual(await first.stateDict()["0.m"]!.data());
    zeroGradients([shared.weight]);
    for (const t of [tied, low, expected]) t.dispose();
  });

  it("refuse what does not fit and change nothing", async () => {
    const [net, other] = [make(), new nn.Linear(2, 3)];
    const before = await net.stateDict()["0.weight"]!.data();
    const error = await errorOf(async () => load(net, await save(other)));
    expect(error).toBeInstanceOf(nn.StateDictError);
    expect(error.message).toMatch(/missing: 0.weight[^]*unexpected: weight/);
    await load(net, await save(other), { strict: false });
    expect(await net.stateDict()["0.weight"]!.data()).toEqual(before);
    expect((await errorOf(() => load(net, 3 as never))).message).toMatch(/bytes of a safetensors file/);
    expect((await errorOf(() => save(before as never))).message).toMatch(/a module or an optimizer/);
    for (const t of [net, other]) t.dispose();
    await device().sync();
  });
});
