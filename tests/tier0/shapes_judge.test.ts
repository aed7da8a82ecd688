/** The demo's judge, which sees pixels only, against pictures whose content is known: what it gets right, and what it must not believe. */
import { describe, expect, it } from "vitest";
import { KINDS } from "../../examples/shapes/captions.ts";
import type { Prompt } from "../../examples/shapes/captions.ts";
import { degrade } from "../../examples/shapes/degrade.ts";
import { Dice } from "../../examples/shapes/dice.ts";
import { detect, judge } from "../../examples/shapes/judge.ts";
import { measure, nonsense, worn } from "../../examples/shapes/measure.ts";
import { render } from "../../examples/shapes/scene.ts";
import type { Colour, Scene, SceneObject, Shape } from "../../examples/shapes/scene.ts";
import { colourOf } from "../../examples/shapes/segment.ts";

const seed = Number(process.env["JANUS_TEST_SEED"] ?? 1);
const object = (colour: Colour, shape: Shape, x: number, y: number, size = 20): SceneObject => ({ shape, colour, x, y, size }); // prettier-ignore
const picture = (objects: readonly SceneObject[], background: Scene["background"] = "white") => render({ background, objects }); // prettier-ignore
const asks = (include: Prompt["include"], exclude: Prompt["exclude"] = []) => ({ include, exclude });

describe("measured", () => {
  it("sees clean pictures of every kind, and those of another prompt for what they are", async () => {
    const { accuracy, falsePositives, mistakes } = await measure(seed, 25, (image) => image);
    expect(mistakes, `seed ${seed}`).toEqual([]);
    for (const kind of KINDS) expect([accuracy[kind], falsePositives[kind]], kind).toEqual([1, 0]);
  });

  it("sees pictures with blocks, noise, shifted colours and JPEG", async () => {
    const { accuracy, falsePositives, mistakes } = await measure(seed, 60, worn); // one false positive of 25 is more than 2 %
    for (const kind of KINDS) {
      expect(accuracy[kind], `${kind}, seed ${seed}: ${mistakes.join("\n")}`).toBeGreaterThanOrEqual(0.88); // 97 % and more in the long run
      expect(falsePositives[kind], `${kind}, seed ${seed}`).toBeLessThanOrEqual(0.02);
    }
  });

  it("names no shape in noise, in empty pictures, in broken and in foreign shapes", () => {
    const { blocks, ...others } = nonsense(seed, 10);
    expect(Object.keys(others).length).toBeGreaterThan(8);
    for (const [name, share] of Object.entries(others)) expect(share, `${name}, seed ${seed}`).toBe(0);
    const noise = Uint8Array.from({ length: 64 * 64 * 3 }, () => Math.floor(Math.random() * 256));
    expect(detect({ width: 64, height: 64, data: noise }).problem).toBe("no plain background");
    expect(blocks).toBeLessThan(0.4); // some flat 8×8 blocks lie together as a square does
  });
});

describe("GenEval's rules", () => {
  it("a shape that is missing, or of another colour", () => {
    const image = picture([object("red", "circle", 20, 20), object("blue", "square", 44, 44)]);
    expect(judge(image, asks([{ shape: "circle", count: 1, colour: "red" }]))).toMatchObject({
      correct: true,
      exact: false,
    });
    expect(judge(image, asks([{ shape: "circle", count: 1, colour: "blue" }]))).toMatchObject({ correct: false, reason: "expected a blue circle, found it red" }); // prettier-ignore
    expect(judge(image, asks([{ shape: "ring", count: 1 }])).reason).toBe("expected one ring, found 0");
    const both = asks([{ shape: "circle", count: 1, colour: "red" }, { shape: "square", count: 1, colour: "blue" }]); // prettier-ignore
    expect(judge(image, both)).toMatchObject({ correct: true, exact: true, reason: "as asked" });
    const swapped = asks([{ shape: "circle", count: 1, colour: "blue" }, { shape: "square", count: 1, colour: "red" }]); // prettier-ignore
    expect(judge(image, swapped).correct).toBe(false);
  });

  it("one more than was counted is wrong only where it is excluded", () => {
    const three = picture([object("red", "cross", 14, 14), object("red", "cross", 44, 14), object("red", "cross", 30, 46)]); // prettier-ignore
    const two = [{ shape: "cross", count: 2 }] as const;
    expect(judge(three, asks(two)).correct).toBe(true);
    expect(judge(three, asks(two, [{ shape: "cross", count: 3 }])).correct).toBe(false);
    expect(judge(three, asks([{ shape: "cross", count: 3 }], [{ shape: "cross", count: 4 }])).exact).toBe(true);
    expect(judge(three, asks([{ shape: "cross", count: 4 }])).reason).toBe("expected four crosses, found 3");
  });

  it("positions are told from the target, and must be clear", () => {
    const at = (x: number, y: number) => picture([object("green", "circle", 32, 32, 16), object("red", "diamond", x, y, 16)]); // prettier-ignore
    const relation = (x: number, y: number) =>
      (["left of", "right of", "above", "below"] as const).filter(
        (name) => judge(at(x, y), asks([{ shape: "circle", count: 1 }, { shape: "diamond", count: 1, position: [name, 0] }])).correct, // prettier-ignore
      );
    expect(relation(10, 32)).toEqual(["left of"]);
    expect(relation(54, 34)).toEqual(["right of"]);
    expect(relation(32, 54)).toEqual(["below"]);
    expect(relation(34, 10)).toEqual(["above"]);
    expect(relation(12, 12)).toEqual(["left of", "above"]); // a diagonal is both, as in GenEval
  });

  it("objects that touch are told apart by colour, and pictures of other sizes are seen", () => {
    const touching = picture([object("red", "square", 21, 32), object("blue", "square", 41, 32)]);
    expect(detect(touching).seen.map(({ shape, colour }) => `${colour} ${shape}`).sort()).toEqual(["blue square", "red square"]); // prettier-ignore
    const large = render({ background: "black", objects: [object("pink", "ring", 30, 40)] }, 384);
    expect(detect(large).seen).toMatchObject([{ shape: "ring", colour: "pink" }]);
    expect(detect(large).seen[0]!.x).toBeCloseTo(30, 0);
  });

  it("a colour that is none of the palette's is none", () => {
    expect(colourOf([128, 128, 128])).toBeUndefined();
    expect(colourOf([250, 250, 250])).toBeUndefined();
    expect(colourOf([90, 50, 10])).toBeUndefined(); // brown
    expect(colourOf([225, 40, 40])).toBe("red");
  });

  it("a degraded picture is another one, the same for the same seed", async () => {
    const image = picture([object("red", "circle", 20, 20)]);
    expect(await worn(image, new Dice(1))).toEqual(await worn(image, new Dice(1)));
    expect(await worn(image, new Dice(1))).not.toEqual(await worn(image, new Dice(2)));
    const grain = degrade(image, new Dice(3), { blur: 0, block: 0, shift: 0, noise: 0.12 }).data;
    const largest = Math.max(...grain.map((level, i) => Math.abs(level - image.data[i]!)));
    expect(largest).toBeGreaterThan(25);
    expect(largest).toBeLessThanOrEqual(31);
  });
});
