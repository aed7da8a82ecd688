/** sgdStep against torch.optim.SGD's rules in float64: momentum, dampening, Nesterov, coupled decay, steps that are skipped, late parameters. */
import { describe, expect, it } from "vitest";
import { ArgumentError, F, ShapeError, tensor } from "../../index.ts";
import type { Tensor } from "../../index.ts";
import { device, seed, small, useDevices } from "../gpu.ts";
import { relativeL2, round, tolerance } from "../harness.ts";
import { referenceSgd, uniform } from "../reference/optimizer.ts";
import { randomFrom } from "../random.ts";

useDevices();

const LR = 0.05;
const PLAIN = { momentum: 0, dampening: 0, nesterov: false, weightDecay: 0 };

describe("sgdStep", () => {
  for (const [name, settings, extras] of [
    ["plain", PLAIN, {}],
    ["with momentum and dampening", { ...PLAIN, momentum: 0.9, dampening: 0.3 }, {}],
    [
      "with Nesterov, decay, a copy and an average",
      { ...PLAIN, momentum: 0.9, nesterov: true, weightDecay: 0.1 },
      { copy: true, ema: 0.9 },
    ],
    ["with a step count of its own", { ...PLAIN, momentum: 0.8, dampening: 0.5 }, { own: true }],
  ] as const satisfies readonly (readonly [string, typeof PLAIN, { copy?: boolean; ema?: number; own?: boolean }])[]) {
    it(`agrees with float64 over 6 steps ${name}`, async () => {
      for (const where of "copy" in extras ? [device, small] : [device]) {
        const live = where.pool.stats.liveBytes;
        const random = randomFrom(seed);
        const shape = "copy" in extras ? [70, 33] : [33];
        const n = shape.reduce((a, b) => a * b, 1);
        const start = uniform(n, random);
        const [p, average] = [start.slice(), start.slice()];
        let momentum: Float64Array | null = null;
        const master = tensor(start, { shape, device: where });
        const m = F.zerosLike(master);
        const copy = "copy" in extras ? tensor(start, { shape, dtype: "bf16", device: where }) : null;
        const ema = "ema" in extras ? tensor(start, { shape, device: where }) : null;
        const table = "own" in extras ? F.zeros([3, 3], { device: where }) : null;
        const state = F.adamwState(LR, { device: where });
        for (let step = 1; step <= 6; step++) {
          const values = uniform(n, random);
          const isSkipped = step === 3;
          if (isSkipped) values[n >> 1] = NaN;
          // A parameter whose first gradient comes in step 2.
          const isPresent = table === null || step > 1;
          const grad = tensor(values, { shape, device: where });
          const norm = F.globalGradNorm([grad]);
          F.adamwPrepare(state, norm);
          if (isPresent) {
            if (table) F.adamwCount(table, state, 1, 1);
            const steps = table && { table, row: 1 };
            F.sgdStep({ master, m, grad, copy, ema, steps }, state, {
              ...settings,
              emaDecay: "ema" in extras ? extras.ema : 0,
            });
            if (!isSkipped) {
              momentum = referenceSgd(p, momentum, values, LR, settings);
              for (const [i, x] of p.entries()) average[i] = 0.9 * average[i]! + 0.1 * x;
            }
          }
          for (const t of [grad, norm]) t.dispose();
        }
        const allowed = tolerance("forward", ["f32"], 64);
        const got = await master.data();
        expect(relativeL2(got, p)).toBeLessThanOrEqual(allowed);
        if (momentum) expect(relativeL2(await m.data(), momentum)).toBeLessThanOrEqual(allowed);
        if (ema) expect(relativeL2(await ema.data(), average)).toBeLessThanOrEqual(allowed);
        if (copy) expect([...(await copy.data())]).toEqual([...got].map((x) => round(x, "bf16")));
        for (const t of [master, m, copy, ema, table, state]) t?.dispose();
        expect(where.pool.stats.liveBytes).toBe(live);
      }
    });
  }

  it("refuses settings and tensors that do not fit", () => {
    const master = F.zeros([4], { device });
    const [m, grad, state] = [F.zerosLike(master), F.zerosLike(master), F.adamwState(LR, { device })];
    const step = (settings: object, more: { m?: Tensor | null; state?: Tensor } = {}): (() => void) => {
      return () => F.sgdStep({ master, grad, m: more.m === undefined ? m : more.m }, more.state ?? state, settings);
    };
    expect(step({ weight_decay: 0.1 })).toThrow(/sgdStep.*got weight_decay\. Did you mean weightDecay\?/);
    expect(step({ momentum: -1 })).toThrow(ArgumentError);
    expect(step({ weightDecay: NaN })).toThrow(ArgumentError);
    expect(step({ nesterov: true })).toThrow(/nesterov needs momentum above 0/);
    expect(step({ nesterov: true, momentum: 0.9, dampening: 0.1 })).toThrow(/dampening 0\.1/);
    expect(step({ momentum: 0.9 }, { m: null })).toThrow(/m must be given/);
    expect(step({}, { state: m })).toThrow(ShapeError);
    for (const t of [master, m, grad, state]) t.dispose();
  });
});
