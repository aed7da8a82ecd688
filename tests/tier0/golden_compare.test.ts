// What `janus verify` counts as equal: numbers within the bounds, ids, greedy tokens if the model is sure.
import { describe, expect, it } from "vitest";
import {
  BOUNDS,
  close,
  equal,
  equalTokens,
  gradient,
  greedy,
  isNoise,
  marginsOf,
  sameNames,
  stepped,
} from "../../verify/compare.ts";
import type { Comparison } from "../../verify/compare.ts";
import type { Values } from "../../verify/file.ts";

describe("what counts as equal", () => {
  const row = (...data: number[]): Values => ({ shape: [1, data.length], data: Float32Array.from(data) });

  it("numbers: both bounds, the shape, something to compare, nothing that is not finite", () => {
    expect(close("x", row(100, 200), row(100.0015, 200))).toMatchObject({
      pass: true,
      relativeL2: expect.closeTo(6.7e-6, 6) as number,
    });
    expect(close("x", row(100, 200), row(100.0025, 200)).pass).toBe(false); // max |d|
    expect(close("x", row(0.01, 0.02), row(0.0101, 0.02)).pass).toBe(false); // relative L2
    expect(close("x", row(0.01), row(0.0101), BOUNDS.margin)).toMatchObject({ pass: true, relativeL2: null });
    expect(close("x", row(1, NaN), row(1, NaN))).toMatchObject({ pass: false, note: "1 of 2 values are not finite" });
    expect(close("x", row(Infinity), row(Infinity)).pass).toBe(false);
    expect(close("x", row(1, 2), { shape: [2, 1], data: Float32Array.of(1, 2) }).pass).toBe(false);
    expect(close("x", row(), row())).toMatchObject({ pass: false, note: "it contains no values" });
    expect(equal("x", [0], [], []).pass).toBe(false);
    expect(equal("x", [2], ["a", "b"], ["a"])).toMatchObject({ pass: false, equalShare: 0.5 });
  });

  // Logits after each golden prefix: the best code is 0 at both steps; at the second one, 1 is near.
  const logits: Values = { shape: [2, 4], data: Float32Array.of(5, 1, 2, 3, 4, 3.995, 1, 0) };
  const judge = async (golden: number[], free: number[], forced = logits): Promise<Comparison> =>
    greedy("x", { shape: [1, 2], data: Int32Array.from(golden) }, [{ golden, free, forced: async () => forced }]);

  it("greedy tokens: another one only where the two are near each other", async () => {
    expect(await judge([0, 0], [0, 0])).toMatchObject({ pass: true, equalShare: 1 });
    expect(await judge([0, 1], [0, 0])).toMatchObject({
      pass: true,
      equalShare: 0.5,
      note: "leaves where two tokens are within 0.01",
    });
    expect(await judge([0, 0], [0, 1])).toMatchObject({ pass: true, equalShare: 0.5 });
    expect((await judge([0, 2], [0, 0])).note).toBe("would take others at 1"); // far from the best, though the best two are near
    expect((await judge([3, 0], [0, 0])).note).toBe("would take others at 0");
    // The model agrees with the file when it is fed with it, and yet generation went elsewhere: its cache or its captured step is wrong.
    expect(await judge([0, 0], [2, 0])).toMatchObject({ pass: false, note: "at 0 the free run takes 2, 0 is better" });
    expect((await judge([0, 0], [0, 0], { shape: [2, 4], data: Float32Array.of(5, 1, 2, 3, 4, NaN, 1, 0) })).pass).toBe(
      false,
    );
    expect(
      (
        await greedy("x", { shape: [1, 1], data: Int32Array.of(0) }, [
          { golden: [0], free: [0, 0], forced: async () => logits },
        ])
      ).pass,
    ).toBe(false);
  });

  it("codes: others only where they are excused", () => {
    const excused = (at: number): boolean => at === 2;
    const codes = (...data: number[]): Values => ({ shape: [1, data.length], data: Int32Array.from(data) });
    expect(equalTokens("x", codes(1, 2, 3), codes(1, 2, 9), excused, "where it is close")).toMatchObject({
      pass: true,
      equalShare: expect.closeTo(2 / 3, 9) as number,
      note: "1 differ where it is close",
    });
    expect(equalTokens("x", codes(1, 2, 3), codes(1, 9, 9), excused)).toMatchObject({
      pass: false,
      note: "1 differ, the first at 1",
    });
  });

  it("margins: the second best may be as good as the best, or stand before it", () => {
    const margins = marginsOf({ shape: [4, 3], data: Float32Array.of(1, 5, 3, 7, 7, 0, 2, 1, NaN, -3, -1, -2) });
    expect(margins).toEqual([2, 0, NaN, 1]);
  });

  it("gradients: the bound of each, but for what is less than the rounding of all", () => {
    expect(gradient("x", row(1, 2), row(1.001, 2.001), 3).pass).toBe(true);
    expect(gradient("x", row(1, 2), row(1.002, 2.003), 3).pass).toBe(false);
    expect(gradient("x", row(1e-9, -2e-9), row(-3e-9, 0), 1)).toMatchObject({
      pass: true,
      relativeL2: null,
      note: "differs by less than the rounding of all gradients",
    });
    expect(gradient("x", row(1e-9, -2e-9), row(2e-7, 0), 1).pass).toBe(false);
    expect(gradient("x", row(0, 0), row(0, 0), 0).pass).toBe(true);
    expect(gradient("x", row(0, 0), row(0, 1e-12), 0).pass).toBe(false);
    expect(gradient("x", row(1e-9, 0), row(NaN, 0), 1)).toMatchObject({ pass: false });
    expect(gradient("x", row(1e-9, 0), row(1e-9), 1)).toMatchObject({ pass: false });
    expect([isNoise([1e-7], 1), isNoise([1e-7, 1e-7], 1), isNoise([0], 0), isNoise([NaN], 1)]).toEqual([
      true,
      false,
      true,
      false,
    ]);
  });

  it("parameters after steps: themselves, and what has changed of them", () => {
    const from = Float32Array.of(1, -1, 1, -1);
    const judge = (theirs: number[], ours: number[], isNoise = false): Comparison =>
      stepped("x", row(...theirs.map((d, i) => from[i]! + d)), {
        before: from,
        after: row(...ours.map((d, i) => from[i]! + d)),
        steps: 2,
        lr: 1e-3,
        isNoise,
      });
    const step = [2e-3, -2e-3, 2e-3, 1e-3];
    expect(judge(step, step).pass).toBe(true);
    expect(judge(step, [2e-3, -2e-3, 2e-3, 0.995e-3]).pass).toBe(true);
    // 1.4 % of the steps: 5e-5 of the parameters, within their bound.
    expect(judge(step, [2e-3, -2e-3, 2e-3, 0.9e-3])).toMatchObject({
      pass: false,
      note: expect.stringMatching(/^of what the steps have changed, the relative L1 is 1\.4e-2$/) as string,
    });
    expect(judge(step, [2e-3, -2e-3, 2e-3, -1e-3])).toMatchObject({
      pass: false,
      maxAbs: expect.closeTo(2e-3, 6) as number,
    });
    expect(judge([0, 0, 0, 0], [0, 0, 0, 1e-4]).pass).toBe(false);
    // Steps as small as the rounding of the parameter: no difference is measurable.
    expect(judge([1.2e-7, 0, 0, 0], [2.4e-7, 0, 0, 0]).pass).toBe(true);
    // Steps of chance may go apart, but no further than steps go.
    expect(judge(step, [-1.9e-3, 2e-3, -2e-3, 0], true)).toMatchObject({
      pass: true,
      note: "its gradient is rounding",
    });
    expect(judge(step, [-2.1e-3, 2e-3, -2e-3, 0], true).pass).toBe(false);
    expect(judge(step, [NaN, 2e-3, -2e-3, 0], true).pass).toBe(false);
  });

  it("names: the same ones, in any order", () => {
    expect(sameNames("x", ["a", "b"], ["b", "a"])).toMatchObject({ pass: true, equalShare: 1, shape: [2] });
    expect(sameNames("x", [], [])).toMatchObject({ pass: true, equalShare: 1 });
    expect(sameNames("x", ["a", "b"], ["b", "c", "d", "e", "f"])).toMatchObject({
      pass: false,
      equalShare: expect.closeTo(1 / 6, 9) as number,
      note: "only in the file: a; only computed: c, d, e and 1 more",
    });
  });
});
