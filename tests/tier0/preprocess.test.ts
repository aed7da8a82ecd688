/** Pictures to pixels and back: Pillow's bicubic to the last bit, the understanding and generation preprocessing, and their configs. */
import { describe, expect, it } from "vitest";
import { ArgumentError } from "../../engine/errors.ts";
import { ConfigError } from "../../model/io/errors.ts";
import { generationPixels, pixelsToRgb, preprocessConfig, understandingPixels } from "../../model/image/preprocess.ts";
import { resizeBicubic, resizeWindow } from "../../model/image/resize.ts";
import { readImage } from "../../model/node/image_file.ts";
import { fillBytes, fixtureBytes, fixtureJson, fnv1a, golden, hasFixtures } from "../fixtures.ts";
import { pillowBicubic } from "../reference/pillow.ts";

const image = (width: number, height: number, name = "input.image") => ({
  width,
  height,
  data: fillBytes(name, width * height * 3),
});
const published = preprocessConfig({});
const maxDifference = (a: ArrayLike<number>, b: ArrayLike<number>): number => {
  let most = a.length === b.length ? 0 : Infinity;
  for (let i = 0; i < a.length; i++) most = Math.max(most, Math.abs(a[i]! - b[i]!));
  return most;
};

describe("resizeBicubic", () => {
  // From Pillow 12.3, `Image.resize(size, BICUBIC)` on the deterministic fill: width, height, new width, new height, FNV-1a of the result.
  const pillow = [
    [500, 333, 384, 255, 0xfa37be8e],
    [1, 1, 384, 384, 0x9a209dc5],
    [1, 9, 14, 384, 0x3af8b439],
    [2000, 3, 384, 14, 0x8c20fcf6],
    [3, 200, 14, 384, 0x01f0681a],
    [64, 64, 64, 64, 0xbdaa19ca],
    [640, 480, 384, 288, 0x11856048],
    [480, 640, 288, 384, 0x7803e91e],
    [383, 385, 382, 384, 0x73f72237],
    [100, 100, 384, 384, 0x1dd54c9e],
    [133, 71, 64, 34, 0x5e0ec1f3],
    [50, 97, 32, 64, 0x77703ddb],
    [301, 17, 64, 14, 0x5685b4ab],
    [17, 13, 5, 29, 0xef051ed1],
    [1000, 1, 1, 1, 0xc87e9c19],
    [7, 640, 7, 3, 0xe48643d8],
    [97, 5, 31, 5, 0x48e3177b],
  ] as const;
  it.each(pillow)("takes %i×%i to %i×%i as Pillow does", (width, height, newWidth, newHeight, hash) => {
    const resized = resizeBicubic(image(width, height), newWidth, newHeight);
    expect([resized.width, resized.height, resized.data.length]).toEqual([
      newWidth,
      newHeight,
      newWidth * newHeight * 3,
    ]);
    expect(fnv1a(resized.data).toString(16)).toBe(hash.toString(16));
  });

  const seed = Math.floor(Math.random() * 2 ** 31);
  it(`agrees with the reference on random sizes, up and down (seed ${seed})`, () => {
    let state = seed;
    const next = (n: number): number => 1 + (((state = (Math.imul(state, 1103515245) + 12345) >>> 0) >>> 8) % n);
    const sizes = Array.from({ length: 40 }, () => [next(90), next(90), next(90), next(90)] as const);
    const strips = [[1, 1, 14, 3], [1, 50, 40, 1], [300, 1, 7, 14], [2, 300, 14, 40], [60, 60, 60, 3], [60, 60, 3, 60]] as const; // prettier-ignore
    for (const [width, height, newWidth, newHeight] of [...sizes, ...strips]) {
      const from = image(width, height, `${seed}.${width}`);
      // Sharp edges overshoot most: half of the pictures have only black and white.
      if (width % 2 === 0) from.data.forEach((value, i) => (from.data[i] = value < 128 ? 0 : 255));
      const difference = maxDifference(
        resizeBicubic(from, newWidth, newHeight).data,
        pillowBicubic(from.data, width, height, newWidth, newHeight),
      );
      if (difference !== 0) expect.fail(`${width}×${height} to ${newWidth}×${newHeight} differs by ${difference}`);
    }
  });

  it("refuses sizes and data that do not fit", () => {
    expect(() => resizeBicubic(image(2, 2), 0, 3)).toThrow(ArgumentError);
    expect(() => resizeBicubic(image(2, 2), 2.5, 3)).toThrow(ArgumentError);
    expect(() => resizeBicubic({ width: 2, height: 2, data: new Uint8Array(16) }, 2, 3)).toThrow(
      /2×2 RGB needs 12 bytes, got 16/,
    );
  });
});

describe("understandingPixels", () => {
  it("gives the golden values of the 500×333 picture", () => {
    const from = image(500, 333);
    expect([...from.data.slice(0, 3), ...from.data.slice(-3)]).toEqual([56, 117, 245, 0, 24, 207]);
    const resized = resizeBicubic(from, 384, 255);
    const rgb = (row: number, column: number): number[] =>
      Array.from(resized.data.subarray((row * 384 + column) * 3, (row * 384 + column) * 3 + 3));
    expect([rgb(0, 0), rgb(100, 200), rgb(254, 383)]).toEqual([[75, 158, 196], [154, 70, 106], [76, 36, 176]]); // prettier-ignore

    const pixels = understandingPixels(from, published);
    const at = (row: number, column: number): number[] =>
      [0, 1, 2].map((c) => Number(pixels[(c * 384 + row) * 384 + column]!.toFixed(5)));
    expect(at(64, 0)).toEqual([-0.41176, 0.23922, 0.53725]);
    expect(at(164, 200)).toEqual([0.20784, -0.45098, -0.16863]);
    expect(at(0, 0)).toEqual([-0.00392, -0.00392, -0.00392]);
    expect(at(319, 383)).toEqual([-0.00392, -0.00392, -0.00392]); // 255 rows from row 64 on
    expect(at(318, 383)).not.toEqual([-0.00392, -0.00392, -0.00392]);
    expect(pixels.reduce((sum, x) => sum + x, 0) / pixels.length).toBeCloseTo(-0.00192721, 7);
  });

  it.skipIf(!hasFixtures).each([0, 1, 2, 3])(
    "equals the original on image%i.png, in both layouts' configs",
    async (i) => {
      const picture = await readImage(fixtureBytes(`image${i}.png`));
      const plain = await readImage(fixtureBytes(`image${i}.png`), { plain: true });
      const expected = golden(`preprocess.pixels${i}`).data;
      for (const file of ["deepseek/preprocessor_config.json", "hf/processor_config.json"]) {
        const config = preprocessConfig(fixtureJson(file));
        expect(config.imageSize).toBe(64);
        expect(maxDifference(understandingPixels(picture, config), expected)).toBe(0);
        expect(maxDifference(understandingPixels(plain, config), expected)).toBe(0);
      }
    },
  );

  it("truncates the short side, keeps it at least min_size, and puts the odd pixel below or right", () => {
    const white = (width: number, height: number) => ({
      width,
      height,
      data: new Uint8Array(width * height * 3).fill(255),
    });
    const rowsOf = (pixels: Float32Array): string => {
      const inside = Array.from({ length: 384 }, (_, y) => pixels[y * 384 + 191] === 1);
      return `${inside.indexOf(true)}-${inside.lastIndexOf(true)}`;
    };
    expect(rowsOf(understandingPixels(white(500, 333), published))).toBe("64-318"); // 255.7 becomes 255
    expect(rowsOf(understandingPixels(white(3840, 2), published))).toBe("185-198"); // 14 rows
    expect(rowsOf(understandingPixels(white(1, 1), published))).toBe("0-383");
  });
});

describe("preprocessConfig", () => {
  it("takes the published values for absent keys", () => {
    expect(published).toEqual({
      imageSize: 384,
      minSize: 14,
      rescaleFactor: 1 / 255,
      mean: [0.5, 0.5, 0.5],
      std: [0.5, 0.5, 0.5],
      background: [127, 127, 127],
    });
    expect(preprocessConfig({ do_normalize: false }).std).toEqual([1, 1, 1]);
    expect(preprocessConfig({ do_normalize: false }).background).toEqual([127, 127, 127]);
  });
  const wrong: [string, unknown, RegExp][] = [
    ["a list", [], /must be an object/],
    ["a size of text", { image_size: "384" }, /image_size must be a whole number from 1 to 8192; got "384"/],
    ["a size that is not square", { size: { height: 384, width: 383 } }, /square/],
    ["a std of zero", { image_std: [0.5, 0, 0.5] }, /image_std/],
    ["two means", { image_processor: { image_mean: [0.5, 0.5] } }, /three numbers/],
    ["NaN", { rescale_factor: NaN }, /rescale_factor/],
    ["a min_size beyond the size", { image_size: 64, min_size: 65 }, /min_size/],
  ];
  it.each(wrong)("refuses %s by name", (_, json, message) => {
    expect(() => preprocessConfig(json, "x.json")).toThrow(ConfigError);
    expect(() => preprocessConfig(json, "x.json")).toThrow(message);
  });
});

describe("resizeWindow", () => {
  it.each([
    [37, 91, 64, 157], [91, 37, 157, 64], [150, 64, 150, 64], [300, 200, 48, 32], [5, 40, 33, 264], [33, 7, 33, 60], [7, 33, 60, 33],
  ])("is a part of the whole, bit for bit: %d×%d to %d×%d", (width, height, newWidth, newHeight) => {
    const from = image(width, height);
    const whole = resizeBicubic(from, newWidth, newHeight);
    for (const share of [0, 0.3, 0.5, 1]) {
      const [w, h] = [Math.ceil(newWidth / 3), Math.ceil(newHeight / 2)];
      const [left, top] = [Math.floor((newWidth - w) * share), Math.floor((newHeight - h) * share)];
      const part = resizeWindow(from, newWidth, newHeight, { left, top, width: w, height: h });
      const rows = Array.from({ length: h }, (_, y) =>
        whole.data.subarray(((top + y) * newWidth + left) * 3, ((top + y) * newWidth + left + w) * 3),
      );
      expect([part.width, part.height, part.data]).toEqual([w, h, new Uint8Array(Buffer.concat(rows))]);
    }
  }); // prettier-ignore
  it("refuses windows outside the new size", () => {
    for (const part of [{ left: 1 }, { top: -1 }, { left: 0.5, width: 2 }])
      expect(() => resizeWindow(image(2, 2), 4, 4, { left: 0, top: 0, width: 4, height: 4, ...part })).toThrow(
        /resizeWindow: the window must lie in 4×4/,
      );
  });
});

describe("generationPixels", () => {
  it.each([[100_000, 1], [1, 100_000], [3000, 1]])("takes a strip of %d×%d with the memory of its crop", (width, height) => {
    const before = process.memoryUsage().arrayBuffers;
    const pixels = generationPixels({ width, height, data: new Uint8Array(width * height * 3).fill(51) }, 384);
    expect(process.memoryUsage().arrayBuffers - before).toBeLessThan(64e6); // the whole would have 44 GB
    expect(new Set(pixels)).toEqual(new Set([Math.fround(51 / 127.5 - 1)]));
  }); // prettier-ignore
  it("fits the short side and crops the long one in the middle", () => {
    const from = image(150, 64);
    const pixels = generationPixels(from, 64);
    expect(pixels.length).toBe(3 * 64 * 64);
    for (const [y, x] of [[0, 0], [63, 63], [10, 50]] as const) {
      for (let c = 0; c < 3; c++) {
        expect(pixels[(c * 64 + y) * 64 + x]).toBe(Math.fround(from.data[(y * 150 + x + 43) * 3 + c]! / 127.5 - 1));
      }
    } // prettier-ignore
    const tall = image(37, 91);
    const resized = pillowBicubic(tall.data, 37, 91, 64, 157); // 157.4
    const cropped = generationPixels(tall, 64);
    expect(cropped[0]).toBe(Math.fround(resized[46 * 64 * 3]! / 127.5 - 1));
    expect(cropped.at(-1)).toBe(Math.fround(resized[(109 * 64 + 63) * 3 + 2]! / 127.5 - 1));
  });
  it("reaches −1 and 1, and comes back as the same picture", () => {
    const from = image(64, 64);
    from.data.set([0, 255]);
    const pixels = generationPixels(from, 64);
    expect([pixels[0], pixels[64 * 64]]).toEqual([-1, 1]);
    // Truncation may lose one level of what float32 rounded down, never more.
    expect(maxDifference(pixelsToRgb(pixels, 64, 64).data, from.data)).toBeLessThanOrEqual(1);
  });
});

describe("pixelsToRgb", () => {
  it("gives the golden bytes of the VQ decoder", () => {
    const pixels = Float32Array.of(0.06886, 0.37435, 0.19784, -0.02307, 0.61792, 0.2451, -0.29736, -0.01521, -0.1792);
    expect([...pixelsToRgb(pixels, 3, 1).data]).toEqual([136, 124, 89, 175, 206, 125, 152, 158, 104]);
  });
  it("clips, then truncates", () => {
    const levels = [-5, -1, -0.999, 0, 0.9999, 1, 7, Infinity, -Infinity, NaN];
    const pixels = Float32Array.from([...levels, ...levels, ...levels]);
    const reds = pixelsToRgb(pixels, 10, 1).data.filter((_, i) => i % 3 === 0);
    expect([...reds]).toEqual([0, 0, 0, 127, 254, 255, 255, 255, 0, 0]);
    expect(() => pixelsToRgb(pixels, 3, 1)).toThrow(ArgumentError);
  });
});
