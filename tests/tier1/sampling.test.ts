/** Draws: exact tokens against the reference with the same random words, distributions, ties, seeds, steps and captured loops. */
import { describe, expect, it } from "vitest";
import { F, Generator, capture, seedWords, tensor } from "../../index.ts";
import type { DType, Tensor } from "../../index.ts";
import type { SampleOptions } from "../../kernels/index.ts";
import { device, seed, small, useDevices } from "../gpu.ts";
import { round } from "../harness.ts";
import { drawRef } from "../reference/sampling.ts";
import { randomFrom } from "../random.ts";

useDevices();

/** Logits about as peaked as those of a model. */
const randomLogits = (count: number, dtype: DType, random: () => number): Float64Array =>
  Float64Array.from({ length: count }, () => round(8 * random() ** 3 - 2, dtype));

async function draw(logits: Tensor, options: SampleOptions): Promise<number[]> {
  const tokens = F.sampleTokens(logits, options);
  const values = await tokens.data();
  tokens.dispose();
  return [...values];
}

describe("tokens against the reference", () => {
  const settings: Pick<SampleOptions, "temperature" | "topK" | "topP">[] = [
    {},
    { temperature: 0.7 },
    { topK: 5 },
    { topP: 0.8 },
    { temperature: 1.5, topK: 20, topP: 0.6 },
    { temperature: 0.3, topP: 0.95 },
  ];
  const shapes = [
    [1, 1],
    [33, 3],
    [70, 64],
    [5, 257],
    [20, 1000],
    [2, 16384],
  ] as const;
  for (const [rows, columns] of shapes) {
    for (const dtype of ["f32", "bf16", "f16"] as const) {
      it(`[${rows},${columns}] ${dtype}`, async () => {
        const random = randomFrom(seed + columns);
        const values = randomLogits(rows * columns, dtype, random);
        for (const where of rows * columns === 70 * 64 ? [device, small] : [device]) {
          const live = where.pool.stats.liveBytes;
          const logits = tensor(values, { shape: [rows, columns], dtype, device: where });
          const generator = new Generator(seed * 4099, { device: where });
          generator.setStep(3, 17);
          for (const s of settings) {
            const got = await draw(logits, { ...s, generator, site: 9 });
            const expected = Array.from({ length: rows }, (_, r) =>
              drawRef(values.subarray(r * columns, (r + 1) * columns), {
                temperature: 1,
                ...s,
                key: seedWords(seed * 4099),
                counter: [17 + r, 3, 9],
              }),
            );
            // What rounding could decide is taken as it came; of many rows these are few.
            expect(got, `${JSON.stringify(s)}, seed ${seed}`).toEqual(
              expected.map((e, r) => (e.sure ? e.token : got[r])),
            );
            expect(expected.filter((e) => e.sure).length).toBeGreaterThanOrEqual(Math.floor(rows / 5) - 1);
          }
          generator.dispose();
          logits.dispose();
          expect(where.pool.stats.liveBytes).toBe(live);
        }
      });
    }
  }

  it("of a text vocabulary, [2,102400] with k = 50 and p = 0.9", async () => {
    const values = randomLogits(2 * 102400, "f32", randomFrom(seed));
    using logits = tensor(values, { shape: [2, 102400], device });
    const generator = new Generator(seed, { device });
    for (const s of [{ topK: 50 }, { topK: 50, topP: 0.9 }, { topP: 0.9 }, {}]) {
      const got = await draw(logits, { ...s, generator });
      const expected = [0, 1].map((r) =>
        drawRef(values.subarray(r * 102400, (r + 1) * 102400), {
          temperature: 1,
          ...s,
          key: [seed, 0],
          counter: [r, 0, 0],
        }),
      );
      expect(got, `${JSON.stringify(s)}, seed ${seed}`).toEqual(expected.map((e, r) => (e.sure ? e.token : got[r])));
    }
    generator.dispose();
  });
});

describe("seeds and steps", () => {
  it("gives the same tokens for the same seed, step and site, and others for another", async () => {
    using logits = F.zeros([40, 500], { device });
    const generator = new Generator(12, { device });
    const first = await draw(logits, { generator });
    expect(await draw(logits, { generator })).toEqual(first);
    expect(await draw(logits, { generator, site: 1 })).not.toEqual(first);
    generator.setStep(1);
    const second = await draw(logits, { generator });
    expect(second).not.toEqual(first);
    generator.setStep(0);
    using position = tensor(Uint32Array.of(1), { device });
    expect(await draw(logits, { generator, position })).toEqual(second);
    generator.dispose();
    const other = new Generator(13, { device });
    expect(await draw(logits, { generator: other })).not.toEqual(first);
    other.dispose();
    // Rows of one batch are draws of their own.
    expect(new Set(first).size).toBeGreaterThan(20);
  });

  it("draws row k of a batch with seeds [s + k] as a single row with seed s + k", async () => {
    const random = randomFrom(seed);
    const values = randomLogits(5 * 70, "f32", random);
    using logits = tensor(values, { shape: [5, 70], device });
    using seeds = tensor(
      Uint32Array.from({ length: 5 }, (_, k) => (seed + k) >>> 0),
      { device },
    );
    const any = new Generator(99, { device });
    any.setStep(4);
    const batch = await draw(logits, { generator: any, seeds, topK: 30 });
    for (let k = 0; k < 5; k++) {
      using row = tensor(values.slice(k * 70, (k + 1) * 70), { shape: [1, 70], device });
      using one = tensor(Uint32Array.of((seed + k) >>> 0), { device });
      expect(await draw(row, { generator: any, seeds: one, topK: 30 })).toEqual([batch[k]]);
      const own = new Generator(seed + k, { device });
      own.setStep(4);
      expect(await draw(row, { generator: own, topK: 30 })).toEqual([batch[k]]);
      own.dispose();
    }
    any.dispose();
  });

  it("draws each row with its own settings as that row alone, whatever the others have", async () => {
    const values = randomLogits(6 * 70, "f32", randomFrom(seed));
    using logits = tensor(values, { shape: [6, 70], device });
    const rows = [
      { seed: 3, position: 0, temperature: 1, topP: 1 },
      { seed: 3, position: 5, temperature: 0.4, topP: 0.7 },
      { seed: 0xffffffff, position: 900, temperature: 3, topP: 0.3 },
      { seed: 4, position: 1, temperature: 0, topP: 0.01 },
      { seed: 5, position: 2, temperature: 1.5, topP: 1 },
      { seed: 6, position: 3, temperature: 0, topP: 1 },
    ];
    using settings = tensor(Uint32Array.from(rows.flatMap(F.rowSettings)), { shape: [6, 4], device });
    const generator = new Generator(99, { device });
    for (const topK of [undefined, 20]) {
      const limit = topK === undefined ? {} : { topK };
      const alone = async (r: number, hasTopP: boolean): Promise<number> => {
        const { seed: own, position: at, temperature, topP } = rows[r]!;
        using row = tensor(values.slice(r * 70, (r + 1) * 70), { shape: [1, 70], device });
        using seeds = tensor(Uint32Array.of(own), { device });
        using position = tensor(Uint32Array.of(at), { device });
        const filter = hasTopP && topP < 1 ? { topP } : {};
        return (await draw(row, { generator, seeds, position, temperature, ...filter, ...limit }))[0]!;
      };
      for (const hasTopP of [true, false])
        expect(await draw(logits, { generator, rows: { settings, hasTopP }, ...limit }), `${topK} ${hasTopP}`).toEqual(
          await Promise.all(rows.map((_, r) => alone(r, hasTopP))),
        );
    }
    expect(() => F.sampleTokens(logits, { generator, rows: { settings, hasTopP: true }, temperature: 1 })).toThrow(/without temperature/); // prettier-ignore
    using few = tensor(new Uint32Array(5), { device });
    expect(() => F.sampleTokens(logits, { generator, rows: { settings: few, hasTopP: false } })).toThrow(/rows.settings must be u32 \[6, 4\]/); // prettier-ignore
    generator.dispose();
  });

  it("goes on in a captured loop whose position lives on the device", async () => {
    using logits = tensor(randomLogits(3 * 64, "f32", randomFrom(seed)), { shape: [3, 64], device });
    const generator = new Generator(7, { device });
    const eager: number[][] = [];
    for (let step = 1; step <= 5; step++) {
      generator.setStep(step);
      eager.push(await draw(logits, { generator, topP: 0.9 }));
    }
    generator.setStep(0);
    using position = tensor(Uint32Array.of(0), { device });
    const loop = await capture(
      () => {
        F.castInto(position, F.add(position, 1));
        return F.sampleTokens(logits, { generator, topP: 0.9, position });
      },
      { device, verify: true },
    );
    const replayed: number[][] = [[...(await loop.result.data())]];
    for (let step = 2; step <= 5; step++) {
      loop.replay();
      replayed.push([...(await loop.result.data())]);
    }
    expect(replayed).toEqual(eager);
    loop.result.dispose();
    loop.dispose();
    generator.dispose();
  });

  it("draws from guided logits, into a tensor and a history, as without them", async () => {
    const random = randomFrom(seed);
    const [rows, classes, columns] = [3, 68, 5];
    using logits = tensor(randomLogits(2 * rows * classes, "f32", random), { shape: [2 * rows, classes] });
    using guided = F.guidance(logits, 5);
    const generator = new Generator(4);
    const position = tensor(Uint32Array.of(2));
    const into = F.full([rows], 0, { dtype: "u32" });
    const history = F.full([rows, columns], 7, { dtype: "u32" });
    const expected = await draw(guided, { generator, position });
    for (const options of [{}, { topK: classes }]) {
      const tokens = F.sampleTokens(logits, { generator, position, guidance: 5, into, history, ...options });
      expect(tokens).toBe(into);
      expect([...(await into.data())]).toEqual(expected);
      const written = Array.from({ length: rows * columns }, (_, i) => (i % columns === 2 ? expected[Math.floor(i / columns)] : 7)); // prettier-ignore
      expect([...(await history.data())]).toEqual(written);
    }
    expect(() => F.sampleTokens(logits, { guidance: 5, into: history })).toThrow(
      /sampleTokens: into must be u32 \[3\]/,
    );
    expect(() => F.sampleTokens(logits, { guidance: 5, history })).toThrow(
      /sampleTokens: history must be .* without one/,
    );
    for (const t of [generator, position, into, history]) t.dispose();
  });

  it("draws other tokens each call without a generator", async () => {
    using logits = F.zeros([8, 300], { device });
    expect(await draw(logits, {})).not.toEqual(await draw(logits, {}));
  });
});

describe("distributions", () => {
  const ROWS = 8192;
  const logits = [1, -1, 0.5, 2, 0, 1.5];

  /** χ² of draws from equal rows against `probabilities`; infinite if a token of probability 0 was drawn. */
  async function chiSquared(options: SampleOptions, probabilities: readonly number[]): Promise<number> {
    using row = tensor([logits], { device });
    using many = F.expand(row, [ROWS, logits.length]);
    const generator = new Generator(seed, { device });
    const counts = new Array<number>(logits.length).fill(0);
    for (const token of await draw(many, { ...options, generator })) counts[token]!++;
    generator.dispose();
    const total = probabilities.reduce((a, b) => a + b, 0);
    return counts.reduce((sum, n, i) => {
      const expected = (ROWS * probabilities[i]!) / total;
      return n === 0 && expected === 0 ? sum : sum + (n - expected) ** 2 / expected;
    }, 0);
  }

  // With 5 degrees of freedom χ² exceeds 35 once in 700,000 runs.
  it("is softmax(logits / temperature)", async () => {
    for (const temperature of [1, 0.5, 3]) {
      expect(
        await chiSquared(
          { temperature },
          logits.map((l) => Math.exp(l / temperature)),
        ),
        `temperature ${temperature}, seed ${seed}`,
      ).toBeLessThan(35);
    }
  });

  it("keeps to the k most probable tokens", async () => {
    expect(
      await chiSquared(
        { topK: 3 },
        logits.map((l) => (l >= 1 ? Math.exp(l) : 0)),
      ),
      `seed ${seed}`,
    ).toBeLessThan(35);
  });

  it("keeps to the most probable tokens that reach p", async () => {
    // Probabilities in descending order: 0.39, 0.24, 0.14, …: two tokens reach 0.6.
    expect(
      await chiSquared(
        { topP: 0.6 },
        logits.map((l) => (l >= 1.5 ? Math.exp(l) : 0)),
      ),
      `seed ${seed}`,
    ).toBeLessThan(35);
  });
});

describe("ties and bounds", () => {
  /** Tokens that 1,024 draws from equal logits give. */
  async function support(columns: number, options: SampleOptions): Promise<number[]> {
    using logits = F.full([1024, columns], 0.25, { device });
    const generator = new Generator(seed, { device });
    const tokens = new Set(await draw(logits, { ...options, generator }));
    generator.dispose();
    return [...tokens].sort((a, b) => a - b);
  }

  it("takes the lowest indices of equal tokens", async () => {
    expect(await support(10, { topK: 1 })).toEqual([0]);
    expect(await support(10, { topK: 3 })).toEqual([0, 1, 2]);
    expect(await support(33, { topK: 32 })).toEqual([...Array(32).keys()]);
    expect(await support(10, { topK: 10 })).toEqual([...Array(10).keys()]);
    expect(await support(10, { topK: 99 })).toEqual([...Array(10).keys()]);
  });

  it("takes the fewest tokens that reach p, at least one", async () => {
    expect(await support(10, { topP: 1e-9 })).toEqual([0]);
    expect(await support(10, { topP: 0.3 })).toEqual([0, 1, 2]);
    expect(await support(10, { topP: 0.31 })).toEqual([0, 1, 2, 3]);
    expect(await support(10, { topP: 1 })).toEqual([...Array(10).keys()]);
    expect(await support(10, { topK: 4, topP: 0.5 })).toEqual([0, 1]);
  });

  it("keeps tokens above a tie and the first of the tie", async () => {
    using row = tensor([[1, 3, 1, 2, 1, 3, 1, 0]], { device });
    using many = F.expand(row, [1024, 8]);
    const generator = new Generator(seed, { device });
    const sorted = async (options: SampleOptions): Promise<number[]> =>
      [...new Set(await draw(many, { ...options, temperature: 4, generator }))].sort((a, b) => a - b);
    expect(await sorted({ topK: 1 })).toEqual([1]);
    expect(await sorted({ topK: 2 })).toEqual([1, 5]);
    expect(await sorted({ topK: 5 })).toEqual([0, 1, 2, 3, 5]);
    // Weights of the five kept by k: e^¾ twice, e^½, e^¼ twice: the mass reaches 0.8 with the first e^¼.
    expect(await sorted({ topK: 5, topP: 0.8 })).toEqual([0, 1, 3, 5]);
    generator.dispose();
  });

  it("takes negative zero as equal to zero, and masked logits never", async () => {
    using row = tensor([[-1, -0, 0, -3e38, -3e38]], { device });
    using many = F.expand(row, [512, 5]);
    const generator = new Generator(seed, { device });
    expect(new Set(await draw(many, { topK: 1, generator }))).toEqual(new Set([1]));
    expect(Math.max(...(await draw(many, { generator })))).toBe(2);
    expect(Math.max(...(await draw(many, { generator, topP: 0.9999 })))).toBe(2);
    generator.dispose();
  });
});

describe("a tie is cut after the exact token", () => {
  it.each([33, 4096, 9000])("of %i equal tokens", async (columns) => {
    using logits = F.full([1, columns], 0.25, { device });
    for (let s = 0; s < 6; s++) {
      const generator = new Generator(seed + s, { device });
      const [winner] = (await draw(logits, { generator })) as [number]; // among all
      expect(await draw(logits, { generator, topK: winner + 1 })).toEqual([winner]);
      expect(await draw(logits, { generator, topP: (winner + 1) / columns, temperature: 1 })).toEqual([winner]);
      const topK = Math.min(winner + 9, columns);
      expect(await draw(logits, { generator, topK, topP: (winner + 1) / topK })).toEqual([winner]);
      if (winner > 0) {
        expect((await draw(logits, { generator, topK: winner }))[0]).toBeLessThan(winner);
        expect((await draw(logits, { generator, topP: winner / columns }))[0]).toBeLessThan(winner);
        expect((await draw(logits, { generator, topK, topP: winner / topK }))[0]).toBeLessThan(winner);
      }
      generator.dispose();
    }
  });
});

it("counts the mass of many improbable tokens", async () => {
  // One token of weight 1 and 400,000 of 1.5e-6, 0.6 in all: of the sum of 1.6, p leaves the first 200,000 of them.
  const values = new Float32Array(400_001).fill(Math.log(1.5e-6));
  values[0] = 0;
  using logits = tensor(values, { shape: [1, values.length], device });
  const generator = new Generator(seed, { device });
  const drawn: number[] = [];
  for (let step = 0; step < 40; step++) {
    generator.setStep(step);
    drawn.push(...(await draw(logits, { generator, topP: 1.3 / 1.6 })));
  }
  generator.dispose();
  const last = Math.max(...drawn);
  expect(last, `seed ${seed}`).toBeGreaterThan(50_000);
  expect(last, `seed ${seed}`).toBeLessThan(200_100);
});

describe("logits that are not finite", () => {
  const ways: SampleOptions[] = [
    { temperature: 0 },
    {},
    { topK: 5 },
    { topP: 0.9 },
    { temperature: 0.7, topK: 20, topP: 0.6 },
    { topK: 1 },
    { topP: 1e-6 },
  ];

  /** Rows of random logits; row 2k + 1 has `bad` at its first, middle or last token, or all over. */
  function rowsWith(columns: number, dtype: DType, bad: number): Float64Array {
    const values = randomLogits(8 * columns, dtype, randomFrom(seed + columns));
    for (const [i, at] of [0, columns >> 1, columns - 1].entries()) values[(2 * i + 1) * columns + at] = bad;
    values.fill(bad, 7 * columns, 8 * columns);
    return values;
  }

  for (const dtype of ["f32", "f16", "bf16"] as const) {
    it.each([1, 5, 33, 64, 257, 9000])(
      `give token 0, flagged where asked, and leave other rows alone: %i tokens ${dtype}`,
      async (columns) => {
        const generator = new Generator(seed, { device });
        using good = tensor(randomLogits(8 * columns, dtype, randomFrom(seed + columns)), {
          shape: [8, columns],
          dtype,
          device,
        });
        for (const bad of [NaN, Infinity]) {
          using logits = tensor(rowsWith(columns, dtype, bad), { shape: [8, columns], dtype, device });
          for (const way of ways) {
            const name = `${bad} ${JSON.stringify(way)}`;
            const expected = (await draw(good, { ...way, generator })).map((token, row) => (row % 2 ? 0 : token));
            expect(await draw(logits, { ...way, generator }), name).toEqual(expected);
            expect(await draw(logits, { ...way, generator, flagged: true }), name).toEqual(
              expected.map((token, row) => (row % 2 ? F.NOT_FINITE_FLAG : token)),
            );
          }
        }
        generator.dispose();
      },
    );

    it(`−Inf masks a token and is never drawn; a row of nothing else is not finite: ${dtype}`, async () => {
      const generator = new Generator(seed, { device });
      const columns = 70;
      const values = randomLogits(64 * columns, dtype, randomFrom(seed)).map((v, i) =>
        i % columns < 60 ? -Infinity : v,
      );
      values.fill(-Infinity, 0, columns);
      values.fill(-Infinity, columns, 2 * columns).fill(3, 2 * columns - 1, 2 * columns);
      using logits = tensor(values, { shape: [64, columns], dtype, device });
      for (const way of [...ways, { topK: 65 }, { topP: 0.9999 }]) {
        const [none, one, ...others] = await draw(logits, { ...way, generator, flagged: true });
        expect([none, one], JSON.stringify(way)).toEqual([F.NOT_FINITE_FLAG, columns - 1]);
        for (const token of others) expect(token, JSON.stringify(way)).toBeGreaterThanOrEqual(60);
      }
      generator.dispose();
    });
  }

  it("finite logits stay finite at any temperature", async () => {
    using logits = tensor([[-3e38, 3e37, 3e38, 1e38, -3.4e38]], { device });
    const generator = new Generator(seed, { device });
    for (const way of ways)
      expect(await draw(logits, { ...way, generator, flagged: true }), JSON.stringify(way)).toEqual([2]);
    // Logit / temperature is beyond f32: these are equal.
    for (const way of [{ temperature: 1e-6 }, { temperature: 1e-6, topP: 0.5, topK: 3 }])
      expect([1, 2, 3], JSON.stringify(way)).toContain((await draw(logits, { ...way, generator, flagged: true }))[0]);
    generator.dispose();
  });
});

it("says what is wrong", () => {
  using logits = F.zeros([2, 4], { device });
  using ids = tensor(Int32Array.of(1, 2), { device });
  const bad: [SampleOptions, RegExp][] = [
    [{ temperature: -1 }, /temperature must be .*got -1/],
    [{ temperature: NaN }, /temperature must be .*got NaN/],
    [{ topK: 0 }, /topK must be .*got 0/],
    [{ topK: 2.5 }, /topK must be .*got 2.5/],
    [{ topP: 0 }, /topP must be .*got 0/],
    [{ topP: 1.5 }, /topP must be .*got 1.5/],
    [{ seeds: ids }, /seeds/],
    [{ position: ids }, /position/],
  ];
  for (const [options, message] of bad) expect(() => F.sampleTokens(logits, options)).toThrow(message);
  expect(() => F.sampleTokens(ids)).toThrow(/floating/);
  expect(() => F.guidance(ids, 2)).toThrow(/floating/);
  using odd = F.zeros([3, 4], { device });
  expect(() => F.guidance(odd, 2)).toThrow(/\[2N, V\]/);
});
