/** NaN and infinities through every op, in every variant and dtype: what they go into, they come out of. */
import "../quick_compile.ts";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { Device, F, backward, scope, tensor } from "../../index.ts";
import type { Tensor } from "../../index.ts";
import { forceVariant } from "../../kernels/core/variants.ts";
import { cases } from "../cases.ts";
import type { Case } from "../harness.ts";
import { isLong } from "../long.ts";
import { kindOf, runSpecial, selectCases } from "../nonfinite.ts";
import type { Form } from "../nonfinite.ts";

const form: Form = isLong ? "long" : "short";

/** Rows of the table by op. */
function groupByOp(rows: readonly Case[]): Map<string, Case[]> {
  const groups = new Map<string, Case[]>();
  for (const c of rows) groups.set(c.op, [...(groups.get(c.op) ?? []), c]);
  return groups;
}

const byOp = groupByOp(selectCases(cases, form));
let device: Device;
let checks = 0;

beforeAll(async () => {
  device = await Device.create({ poison: true });
});
afterAll(() => console.log(`${checks} checks in ${[...byOp.values()].flat().length} cases of ${byOp.size} ops`));

describe("NaN, +Inf and -Inf in each input", () => {
  it.each([...byOp])("%s", async (_, rows) => {
    const problems: string[] = [];
    for (const row of rows) {
      const { checks: made, failures } = await runSpecial(row, device, 1, form);
      checks += made;
      problems.push(...failures);
    }
    await device.sync();
    expect(problems.length, problems.slice(0, 12).join("\n")).toBe(0);
  });
});

const N = NaN;
const I = Infinity;

/** Gradients that PyTorch gives: of a loss of `x` ("all" elements NaN, or each). */
const GRADIENTS: readonly {
  readonly name: string;
  readonly x: readonly number[];
  readonly loss: (x: Tensor) => Tensor;
  readonly gradient: "all NaN" | readonly number[];
}[] = [
  {
    name: "crossEntropy, NaN elsewhere",
    x: [1, N, 2],
    loss: (x) => F.crossEntropy(F.reshape(x, [1, 3]), tensor(Int32Array.of(0))),
    gradient: "all NaN",
  },
  {
    name: "crossEntropy, NaN at the target",
    x: [1, N, 2],
    loss: (x) => F.crossEntropy(F.reshape(x, [1, 3]), tensor(Int32Array.of(1))),
    gradient: "all NaN",
  },
  {
    name: "crossEntropy, +Inf",
    x: [1, I, 2],
    loss: (x) => F.crossEntropy(F.reshape(x, [1, 3]), tensor(Int32Array.of(0))),
    gradient: "all NaN",
  },
  {
    name: "crossEntropy, −Inf",
    x: [1, -I, 2],
    loss: (x) => F.crossEntropy(F.reshape(x, [1, 3]), tensor(Int32Array.of(0))),
    gradient: [-0.7311, 0, 0.7311],
  },
  {
    name: "crossEntropy, −Inf at the target",
    x: [1, -I, 2],
    loss: (x) => F.crossEntropy(F.reshape(x, [1, 3]), tensor(Int32Array.of(1))),
    gradient: [0.2689, -1, 0.7311],
  },
  {
    name: "linearCrossEntropy, NaN elsewhere",
    x: [1, N, 2],
    loss: (x) => F.linearCrossEntropy(tensor([[1]]), F.reshape(x, [3, 1]), tensor(Int32Array.of(0))),
    gradient: "all NaN",
  },
  { name: "softmax, NaN", x: [1, N, 2], loss: (x) => F.select(F.softmax(x), 0, 0), gradient: "all NaN" },
  { name: "softmax, +Inf", x: [1, I, 2], loss: (x) => F.select(F.softmax(x), 0, 0), gradient: "all NaN" },
  { name: "softmax, −Inf", x: [1, -I, 2], loss: (x) => F.select(F.softmax(x), 0, 0), gradient: [0.1966, 0, -0.1966] },
  { name: "logSoftmax, NaN", x: [1, N, 2], loss: (x) => F.select(F.logSoftmax(x), 0, 0), gradient: "all NaN" },
  { name: "max, NaN", x: [1, N, 2, 2], loss: (x) => F.max(x), gradient: "all NaN" },
  { name: "max, +Inf", x: [1, I, 2, 2], loss: (x) => F.max(x), gradient: [0, 1, 0, 0] },
  { name: "min, NaN", x: [1, N, 2, 2], loss: (x) => F.min(x), gradient: "all NaN" },
  { name: "maximum, NaN", x: [1, N], loss: (x) => F.sum(F.maximum(x, tensor([N, 2]))), gradient: [1, 1] },
  { name: "clamp, NaN", x: [1, N], loss: (x) => F.sum(F.clamp(x, -1, 1)), gradient: [1, 0] },
  { name: "relu, NaN", x: [1, N], loss: (x) => F.sum(F.relu(x)), gradient: [1, 1] },
  { name: "l2Normalize, NaN", x: [1, N], loss: (x) => F.sum(F.l2Normalize(x)), gradient: "all NaN" },
  { name: "l2Normalize, Inf", x: [1, I], loss: (x) => F.sum(F.l2Normalize(x)), gradient: "all NaN" },
  { name: "pow 0, NaN", x: [2, N], loss: (x) => F.sum(F.pow(x, 0)), gradient: [0, 0] },
  { name: "pow −1 at 0", x: [2, 0], loss: (x) => F.sum(F.pow(x, -1)), gradient: [-0.25, -I] },
];

describe("gradients of what is not finite", () => {
  it.each(GRADIENTS)("$name", async ({ x: values, loss, gradient }) => {
    using x = tensor(Float32Array.from(values), { device, requiresGrad: true });
    scope(() => backward(loss(x)));
    const got = [...(await x.grad!.data())];
    if (gradient === "all NaN") expect(got.map(kindOf)).toEqual(got.map(() => "NaN"));
    else
      got.forEach((v, i) =>
        Number.isFinite(gradient[i]!) ? expect(v).toBeCloseTo(gradient[i]!, 3) : expect(v).toBe(gradient[i]!),
      );
  });

  describe.each(["naive", "tiled", "register", "register-single"])("attention %s", (variant) => {
    const [T, D] = [3, 4];
    const run = async (
      at: "q" | "k" | "v" | "none",
      special: number,
    ): Promise<Record<"y" | "q" | "k" | "v", string[]>> => {
      const make = (name: string): Tensor => {
        const values = Float32Array.from({ length: T * D }, (_, i) => Math.sin(i + name.length));
        if (name === at) values[D + 1] = special; // row 1
        return tensor(values, { shape: [1, 1, T, D], device, requiresGrad: true });
      };
      const inputs = { q: make("q"), k: make("k"), v: make("v") };
      const y = forceVariant("attention", variant, () => scope(() => F.attention(inputs.q, inputs.k, inputs.v)));
      forceVariant("attention", variant, () => scope(() => backward(F.sum(y))));
      const rows = async (t: Tensor): Promise<string[]> => {
        const kinds = [...(await t.data())].map(kindOf);
        return Array.from({ length: T }, (_, r) =>
          kinds.slice(r * D, (r + 1) * D).includes("NaN") ? "NaN" : "finite",
        );
      };
      const result = {
        y: await rows(y),
        q: await rows(inputs.q.grad!),
        k: await rows(inputs.k.grad!),
        v: await rows(inputs.v.grad!),
      };
      for (const t of [y, ...Object.values(inputs)]) t.dispose();
      return result;
    };
    const all = ["NaN", "NaN", "NaN"];
    const second = ["finite", "NaN", "finite"];

    it("is finite without", async () =>
      expect(await run("none", 0)).toEqual({
        y: ["finite", "finite", "finite"],
        q: ["finite", "finite", "finite"],
        k: ["finite", "finite", "finite"],
        v: ["finite", "finite", "finite"],
      }));
    it("NaN in a query reaches its row, and the gradients of all keys", async () =>
      expect(await run("q", NaN)).toEqual({ y: second, q: second, k: all, v: all }));
    it("NaN in a key reaches all rows", async () =>
      expect(await run("k", NaN)).toEqual({ y: all, q: all, k: all, v: all }));
    it("NaN in a value reaches all rows", async () => expect((await run("v", NaN)).y).toEqual(all));
  });
});
