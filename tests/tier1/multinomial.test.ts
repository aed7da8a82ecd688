/** multinomial: frequencies, weights of 0, draws without replacement, the same numbers of one generator. */
import { describe, expect, it } from "vitest";
import { ArgumentError, DTypeError, Device, F, Generator, ShapeError, manualSeed, tensor } from "../../index.ts";
import { useDevice } from "../gpu.ts";

const device = useDevice();
const WEIGHTS = [0, 1, 3, 0, 4, 2, 0];
const DRAWS = 4000;

/** How often each index was drawn, as a share. */
const shares = (tokens: ArrayLike<number>): number[] =>
  WEIGHTS.map((_, i) => Array.from(tokens).filter((t) => t === i).length / tokens.length);

describe("multinomial", () => {
  for (const replacement of [true, false]) {
    it(`draws by weight ${replacement ? "with" : "without"} replacement`, async () => {
      using generator = disposing(new Generator(7));
      const weights = replacement ? WEIGHTS : Array.from({ length: DRAWS }, () => WEIGHTS).flat();
      using x = tensor(weights, replacement ? {} : { shape: [DRAWS, WEIGHTS.length] });
      using tokens = F.multinomial(x, replacement ? DRAWS : 1, { replacement, generator: generator.it });
      const got = shares(await tokens.data());
      WEIGHTS.forEach((weight, i) => {
        if (weight === 0) expect(got[i]).toBe(0);
        // Five standard deviations of the share.
        else expect(Math.abs(got[i]! - weight / 10)).toBeLessThan(5 * Math.sqrt(0.25 / DRAWS));
      });
    });
  }

  it("draws different indices without replacement, those of positive weight first", async () => {
    using x = tensor(Array.from({ length: 50 }, () => WEIGHTS).flat(), { shape: [50, WEIGHTS.length], dtype: "bf16" });
    using tokens = F.multinomial(x, 4);
    const got = await tokens.data();
    for (let row = 0; row < 50; row++)
      expect([...got.subarray(4 * row, 4 * row + 4)].sort((a, b) => a - b)).toEqual([1, 2, 4, 5]);
  });

  it("draws the same of one generator, other numbers at other sites and calls", async () => {
    using generator = disposing(new Generator(3));
    using x = F.ones([1000]);
    const draw = async (site?: number): Promise<number[]> => {
      using tokens = F.multinomial(x, 20, site === undefined ? {} : { generator: generator.it, site });
      return [...(await tokens.data())];
    };
    expect(await draw(1)).toEqual(await draw(1));
    expect(await draw(1)).not.toEqual(await draw(2));
    manualSeed(5, device());
    const first = await draw();
    expect(await draw()).not.toEqual(first);
    manualSeed(5, device());
    expect(await draw()).toEqual(first);
    expect(new Set(first).size).toBe(20);
  });

  it("gives indices below C whatever the weights, without checks", async () => {
    const unchecked = await Device.create();
    for (const weights of [
      [0, 0, 0],
      [NaN, 1, 2],
      [Infinity, 1, 0],
      [-1, 0, 0],
    ])
      for (const replacement of [true, false]) {
        using x = tensor(weights, { device: unchecked });
        using tokens = F.multinomial(x, 3, { replacement });
        expect(Math.max(...(await tokens.data()))).toBeLessThan(3);
      }
    unchecked.destroy();
  });

  it("refuses what it cannot draw from", () => {
    using x = F.ones([3]);
    expect(() => F.multinomial(x, 4)).toThrow(ArgumentError);
    expect(() => F.multinomial(x, 0, { replacement: true })).toThrow(/from 1; got 0/);
    expect(() => F.multinomial(x, 1, { replace: true } as object)).toThrow(/Did you mean replacement\?/);
    using whole = F.ones([3], { dtype: "i32" });
    expect(() => F.multinomial(whole, 1)).toThrow(DTypeError);
    using cube = F.ones([1, 2, 3]);
    expect(() => F.multinomial(cube, 1)).toThrow(ShapeError);
  });
});

/** A generator that `using` frees. */
function disposing(it: Generator): Disposable & { readonly it: Generator } {
  return { it, [Symbol.dispose]: () => it.dispose() };
}
