/** Names of options: known ones pass, others are refused with the nearest known one. */
import { describe, expect, it } from "vitest";
import { ArgumentError, knownOptions } from "../../index.ts";

const KNOWN = ["lr", "weightDecay", "beta1", "guidance"];
const refused = (options: unknown, known = KNOWN): string => {
  try {
    knownOptions("op", options as object, known);
  } catch (error) {
    expect(error).toBeInstanceOf(ArgumentError);
    return (error as Error).message;
  }
  return expect.fail("no error was raised");
};

describe("knownOptions", () => {
  it("passes known names, an empty object, objects of no prototype and names that are undefined", () => {
    knownOptions("op", {}, KNOWN);
    knownOptions("op", { lr: 1, guidance: undefined }, KNOWN);
    knownOptions("op", Object.assign(Object.create(null) as object, { lr: 1 }), KNOWN);
  });

  it("suggests the nearest known name", () => {
    expect(refused({ lr: 1, weight_decay: 0.1 })).toBe(
      "op: options must be lr, weightDecay, beta1, guidance; got weight_decay. Did you mean weightDecay?",
    );
    expect(refused({ guidence: 3 })).toMatch(/got guidence\. Did you mean guidance\?$/);
    expect(refused({ guid: 3 })).toMatch(/Did you mean guidance\?$/);
    expect(refused({ lrOfStep: 3, weight: 1 })).toMatch(/got lrOfStep\. Remove it\.$/);
    expect(refused({ BETA1: 3 })).toMatch(/Did you mean beta1\?$/);
  });

  it("suggests none that is far", () => expect(refused({ nesterov: true })).toMatch(/got nesterov\. Remove it\.$/));

  it("refuses what is not a plain object", () => {
    expect(refused(3)).toBe(
      "op: options must be an object like { lr }; got 3. Known options: lr, weightDecay, beta1, guidance.",
    );
    expect(refused(null)).toMatch(/got null\./);
    expect(refused([1])).toMatch(/got an array\./);
    expect(refused(new Map())).toMatch(/got an object of class Map\./);
    expect(refused(() => 1)).toMatch(/got a function\./);
  });

  it("says that an op has no options", () => {
    expect(refused({ a: 1 }, [])).toBe("op: options must be none; got a. Remove it.");
  });
});
