/** Muon against float64: the iterations, and steps that clip, that change the rate and that are skipped. */
import { describe, expect, it } from "vitest";
import { F, tensor, zeroGradients } from "../../index.ts";
import type { Tensor } from "../../index.ts";
import { AdamW } from "../../model/nn/optim/index.ts";
import { device, seed, small, useDevices } from "../gpu.ts";
import { isLong } from "../long.ts";
import { relativeL2, round, tolerance } from "../harness.ts";
import { referenceStep, setGradient, sizeOf, uniform } from "../reference/optimizer.ts";
import type { Reference, Shaped } from "../reference/optimizer.ts";
import { randomFrom } from "../random.ts";

useDevices();

/** Rows of numbers in float64. */
type Matrix = readonly Float64Array[];

const product = (a: Matrix, b: Matrix): Matrix =>
  a.map((row) => Float64Array.from(b[0]!, (_, j) => row.reduce((sum, x, k) => sum + x * b[k]![j]!, 0)));
const turned = (a: Matrix): Matrix => Array.from(a[0]!, (_, j) => Float64Array.from(a, (row) => row[j]!));
const combine = (a: Matrix, by: number, b: Matrix, times: number): Matrix =>
  a.map((row, i) => row.map((x, j) => by * x + times * b[i]![j]!));
const matrixOf = (values: Float64Array, columns: number): Matrix =>
  Array.from({ length: values.length / columns }, (_, i) => values.slice(i * columns, (i + 1) * columns));

/** Newton–Schulz as its authors write it, without regard to which side is short. */
function referenceOrthogonal(values: Float64Array, columns: number): Float64Array {
  const norm = Math.sqrt(values.reduce((sum, x) => sum + x * x, 0)) + 1e-7;
  let x = matrixOf(
    values.map((v) => v / norm),
    columns,
  );
  for (let k = 0; k < 5; k++) {
    const squares = product(x, turned(x));
    x = combine(x, 3.4445, product(combine(squares, -4.775, product(squares, squares), 2.0315), x), 1);
  }
  return Float64Array.from(x.flatMap((row) => [...row]));
}

describe("orthogonalize", () => {
  for (const [n, rows, columns] of [
    [1, 1, 1],
    [1, 1, 9],
    [3, 5, 7],
    [2, 7, 5],
    [2, 64, 64],
    [5, 33, 70],
    [1, 96, 384],
    [1, 130, 33],
  ] as const) {
    it(`[${n}, ${rows}, ${columns}] against float64, whole matrices turned or not`, async () => {
      const random = randomFrom(seed + 50 * rows + columns);
      const parts = Array.from({ length: n }, () => uniform(rows * columns, random, 10 ** (6 * random() - 3)));
      using m = tensor(Float32Array.from(parts.flatMap((part) => [...part])), { shape: [n, rows, columns], device });
      using o = F.orthogonalize(m);
      const values = await o.data();
      for (const [i, part] of parts.entries()) {
        const got = values.subarray(i * rows * columns, (i + 1) * rows * columns) as Float32Array;
        expect(relativeL2(got, referenceOrthogonal(part, columns)), `matrix ${i}`).toBeLessThanOrEqual(
          tolerance("forward", ["f32"], 5 * Math.max(rows, columns)),
        );
      }
    });
  }

  it("brings singular values of very different size near 1, and leaves nothing nothing", async () => {
    const side = 12;
    const diagonal = Float32Array.from({ length: side * side }, (_, i) =>
      i % (side + 1) === 0 ? 0.7 ** (i / (side + 1)) : 0,
    );
    using m = tensor(diagonal, { shape: [1, side, side], device });
    using o = F.orthogonalize(m);
    const values = await o.data();
    for (let i = 0; i < side; i++)
      for (let j = 0; j < side; j++) {
        if (i !== j) expect(Math.abs(values[i * side + j]!)).toBeLessThan(1e-6);
        else expect(values[i * side + j]!).toBeGreaterThan(0.65);
        expect(values[i * side + j]!).toBeLessThan(1.25);
      }
    using zero = F.zeros([2, 3, 4], { device });
    using still = F.orthogonalize(zero);
    expect([...(await still.data())]).toEqual(Array(24).fill(0));
  });

  it("takes f32 matrices only", () => {
    for (const wrong of [F.ones([3, 4], { device }), F.ones([1, 3, 4], { device, dtype: "bf16" })]) {
      expect(() => F.orthogonalize(wrong)).toThrow(/f32 \[N, R, C\]/);
      wrong.dispose();
    }
  });
});

describe("AdamW with matrices by Muon", () => {
  const shapes: readonly Shaped[] = [
    { shape: [5, 7], dtype: "f32", decay: true },
    { shape: [7, 5], dtype: "bf16", decay: true },
    { shape: [5, 7], dtype: "f16", decay: true },
    { shape: [70, 33], dtype: "f32", decay: false },
    { shape: [33], dtype: "f32", decay: true }, // by AdamW
  ];

  it("agrees with float64 over steps that clip, that change the rate and that are skipped", async () => {
    for (const where of [device, small]) {
      const live = where.pool.stats.liveBytes;
      const random = randomFrom(seed);
      const starts = shapes.map(({ shape }) => uniform(sizeOf(shape), random));
      const tensors = shapes.map(({ shape, dtype }, i) =>
        tensor(starts[i]!, { shape, dtype, device: where, requiresGrad: true }),
      );
      const masters = tensors.map((t, i) =>
        t.dtype === "f32" ? undefined : tensor(starts[i]!, { shape: t.shape, device: where }),
      );
      const options = { lr: 0.02, weightDecay: 0.1, momentum: 0.8, maxNorm: 2, emaDecay: 0.9 };
      const optimizer = new AdamW(
        tensors.map((t, i) => ({
          name: `p${i}`,
          tensor: t,
          decay: shapes[i]!.decay,
          muon: t.rank === 2,
          ...(masters[i] && { master: masters[i] }),
        })),
        options,
      );
      for (const t of masters) t?.dispose();
      const references = starts.map((p): Reference => ({
        p: p.slice(),
        m: new Float64Array(p.length),
        v: new Float64Array(p.length),
      }));
      const averages = starts.map((p) => p.slice());
      let { lr } = options;
      for (let step = 1, taken = 0; step <= 8; step++) {
        if (step === 5) optimizer.lr = lr = lr / 3;
        const grads = starts.map((p) => uniform(p.length, random, step % 4 ? 0.1 : 0.001));
        if (step === 3) grads[1]![10] = NaN;
        tensors.forEach((t, i) => setGradient(t, grads[i]!));
        optimizer.step();
        if (step === 3) continue;
        taken++;
        const norm = Math.sqrt(grads.reduce((sum, g) => sum + g.reduce((s, x) => s + x * x, 0), 0));
        const factor = Math.min(1, options.maxNorm / (norm + 1e-6));
        for (const [i, r] of references.entries()) {
          const { shape, decay } = shapes[i]!;
          const g = grads[i]!.map((x) => x * factor);
          const lost = decay ? options.weightDecay : 0;
          if (shape.length === 1) referenceStep(r, g, taken, lr, lost, [0.9, 0.999, 1e-8]);
          else {
            const mu = options.momentum;
            r.m.forEach((m, k) => (r.m[k] = mu * m + (1 - mu) * g[k]!));
            const o = referenceOrthogonal(
              g.map((x, k) => (1 - mu) * x + mu * r.m[k]!),
              shape[1]!,
            );
            const scale = 0.2 * Math.sqrt(Math.max(...shape));
            r.p.forEach((p, k) => (r.p[k] = p * (1 - lr * lost) - lr * scale * o[k]!));
          }
          averages[i] = averages[i]!.map((x, k) => 0.9 * x + 0.1 * r.p[k]!);
        }
      }
      const dict = optimizer.stateDict();
      const allowed = tolerance("forward", ["f32"], 8 * 16);
      const moved = (values: ArrayLike<number>, i: number): number[] =>
        Array.from(values, (x, k) => x - starts[i]![k]!);
      for (const [i, t] of tensors.entries()) {
        const { p, m } = references[i]!;
        const master = await (dict[`p${i}.master`] ?? t).data();
        expect(relativeL2(moved(master, i), moved(p, i)), `movement of ${i}`).toBeLessThanOrEqual(20 * allowed);
        expect(relativeL2(await dict[`p${i}.m`]!.data(), m), `m of ${i}`).toBeLessThanOrEqual(allowed);
        expect([...(await t.data())], `what the model computes with of ${i}`).toEqual(
          [...master].map((x) => round(x, t.dtype)),
        );
        expect(
          relativeL2(moved(await optimizer.averages()[`p${i}`]!.data(), i), moved(averages[i]!, i)),
          `average of ${i}`,
        ).toBeLessThanOrEqual(20 * allowed);
      }
      expect(Object.keys(dict).filter((name) => name.endsWith(".v"))).toEqual(["p4.v"]);
      expect(await optimizer.report()).toMatchObject({ step: 7, skipped: 1, lr: Math.fround(lr) });
      zeroGradients(tensors);
      optimizer.dispose();
      for (const t of tensors) t.dispose();
      expect(where.pool.stats.liveBytes).toBe(live);
    }
  });

  it("refuses what does not fit before anything is moved", async () => {
    using state = F.adamwState(0.1, { device });
    const matrix = (...shape: number[]): { master: Tensor; m: Tensor; grad: Tensor } => ({
      master: F.ones(shape, { device }),
      m: F.zeros(shape, { device }),
      grad: F.ones(shape, { device }),
    });
    const [a, b, flat] = [matrix(3, 4), matrix(4, 3), matrix(12)];
    for (const [given, settings, message] of [
      [[a, b], {}, /same shape/],
      [[flat], {}, /must be matrices/],
      [[{ ...a, m: b.m }], {}, /same shape/],
      [[{ ...a, copy: b.m }], {}, /f16 or bf16/],
      [[a], { momentum: 1 }, /momentum/],
      [[a], { weightDecay: -1 }, /weightDecay/],
    ] as const) {
      expect(() => F.muonStep(given, state, settings)).toThrow(message);
    }
    expect([...(await a.master.data())]).toEqual(Array(12).fill(1));
    for (const { master, m, grad } of [a, b, flat]) for (const t of [master, m, grad]) t.dispose();
  });

  it("takes matrices only", async () => {
    using vector = tensor([1, 2], { device, requiresGrad: true });
    expect(() => new AdamW([{ tensor: vector, muon: true }], { lr: 0.1 })).toThrow(/must be a matrix/);
  });

  // No two matrices of the second shape go through the iterations together.
  it.each(
    isLong
      ? [
          [6, 10],
          [2, 1_100_000],
        ]
      : [[6, 10]],
  )("moves each matrix [%i, %i] the same among others and alone", async (...shape) => {
    const random = randomFrom(seed);
    const starts = [0, 1, 2].map(() => uniform(sizeOf(shape), random));
    const run = async (which: readonly number[]): Promise<Buffer[]> => {
      const tensors = which.map((i) => tensor(starts[i]!, { shape, device, requiresGrad: true }));
      const optimizer = new AdamW(
        tensors.map((t) => ({ tensor: t, muon: true })),
        { lr: 0.1 },
      );
      tensors.forEach((t, i) =>
        setGradient(
          t,
          starts[which[i]!]!.map((x) => x * x - 0.3),
        ),
      );
      optimizer.step();
      const values = await Promise.all(tensors.map(async (t) => Buffer.from((await t.data()).buffer)));
      zeroGradients(tensors);
      optimizer.dispose();
      for (const t of tensors) t.dispose();
      return values;
    };
    const together = await run([0, 1, 2]);
    for (const i of [0, 1, 2]) expect(Buffer.compare((await run([i]))[0]!, together[i]!), `matrix ${i}`).toBe(0);
  });
});
