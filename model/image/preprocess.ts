/**
 * From pictures to the model's pixels and back, as DeepSeek's processor computes it: what SigLIP sees (long side fitted, padded), what the VQ tokenizer sees (short side fitted, cropped), and generated pixels as 8-bit RGB.
 * Decoding files is model/node/image_file.ts.
 */
import { ArgumentError } from "../../engine/errors.ts";
import { ConfigError } from "../io/errors.ts";
import { checkImage } from "./image.ts";
import type { RgbImage } from "./image.ts";
import { resizeBicubic, resizeWindow } from "./resize.ts";
import { isObject } from "../io/unknown.ts";

type Rgb = readonly [number, number, number];

/** The picture half of a checkpoint's processor. */
export interface PreprocessConfig {
  /** Side of the square that the model takes, pixels. */
  readonly imageSize: number;
  /** The short side is at least this long after resizing, pixels. */
  readonly minSize: number;
  readonly rescaleFactor: number;
  readonly mean: Rgb;
  readonly std: Rgb;
  /** Fills what the picture does not cover, 0 to 255. */
  readonly background: Rgb;
}

/**
 * Reads the parsed `preprocessor_config.json` (DeepSeek's layout) or `processor_config.json` (transformers' layout, in which the same keys
 * stand under `image_processor` and the size is `{height, width}`). Absent keys take the values of the published models.
 * Throws `ConfigError`.
 */
export function preprocessConfig(json: unknown, file = "preprocessor_config.json"): PreprocessConfig {
  const fail = (what: string, value: unknown): never => {
    throw new ConfigError(`${file}: ${what}, got ${JSON.stringify(value)}`);
  };
  const top = isObject(json) ? json : fail("the top must be an object", json);
  const keys = isObject(top.image_processor) ? top.image_processor : top;
  const number = (name: string, value: unknown, low: number, high: number, whole: boolean): number =>
    typeof value === "number" && value >= low && value <= high && (!whole || Number.isInteger(value))
      ? value
      : fail(`${name} must be ${whole ? "a whole number" : "a number"} from ${low} to ${high}`, value);
  const three = (name: string, value: unknown, low: number, high: number): Rgb => {
    const list = Array.isArray(value) ? (value as unknown[]) : [value, value, value];
    if (list.length !== 3) fail(`${name} must hold three numbers`, value);
    const [r, g, b] = list.map((item) => number(name, item, low, high, false));
    return [r!, g!, b!];
  };

  let side: unknown = keys.image_size ?? keys.size ?? 384;
  if (isObject(side)) {
    if (side.height !== side.width) fail("size must be square", side);
    side = side.height;
  }
  const normalise = keys.do_normalize !== false;
  const imageSize = number("image_size", side, 1, 8192, true);
  const mean = three("image_mean", keys.image_mean ?? 0.5, -10, 10);
  return {
    imageSize,
    minSize: number("min_size", keys.min_size ?? 14, 1, imageSize, true),
    rescaleFactor: number("rescale_factor", keys.rescale_factor ?? 1 / 255, 1e-6, 1, false),
    mean: normalise ? mean : [0, 0, 0],
    std: normalise ? three("image_std", keys.image_std ?? 0.5, 1e-6, 10) : [1, 1, 1],
    background: three("background_color", keys.background_color ?? mean.map((m) => Math.trunc(m * 255)), 0, 255),
  };
}

/** `image` [H, W, 3] through one table a channel → float32 [3, H, W]. */
function planes(image: RgbImage, value: (level: number, channel: number) => number): Float32Array {
  const { width, height, data } = image;
  const pixels = new Float32Array(3 * width * height);
  for (let channel = 0; channel < 3; channel++) {
    const table = Float32Array.from({ length: 256 }, (_, level) => value(level, channel));
    const plane = pixels.subarray(channel * width * height, (channel + 1) * width * height);
    for (let i = 0; i < plane.length; i++) plane[i] = table[data[i * 3 + channel]!]!;
  }
  return pixels;
}

/** A picture on a square canvas, centred; if the rest is odd, the extra pixel goes to the bottom or right. */
function padToSquare(image: RgbImage, side: number, background: Rgb): RgbImage {
  if (image.width === side && image.height === side) return image;
  const data = new Uint8Array(side * side * 3);
  for (let i = 0; i < data.length; i++) data[i] = background[i % 3]!;
  const left = Math.floor((side - image.width) / 2);
  const top = Math.floor((side - image.height) / 2);
  for (let y = 0; y < image.height; y++) {
    data.set(image.data.subarray(y * image.width * 3, (y + 1) * image.width * 3), ((top + y) * side + left) * 3);
  }
  return { width: side, height: side, data };
}

/** What the understanding tower sees of `image`: float32 [3, S, S] with S = `imageSize`; the long side fills S, the rest is background. */
export function understandingPixels(image: RgbImage, config: PreprocessConfig): Float32Array {
  checkImage("understandingPixels", image);
  const { imageSize, minSize, rescaleFactor, mean, std } = config;
  const long = Math.max(image.width, image.height);
  // Truncated, not rounded, in this order of operations.
  const fit = (side: number): number => Math.max(Math.trunc((side / long) * imageSize), minSize);
  const resized = resizeBicubic(image, fit(image.width), fit(image.height));
  return planes(
    padToSquare(resized, imageSize, config.background),
    (level, channel) => (level * rescaleFactor - mean[channel]!) / std[channel]!,
  );
}

/**
 * What the VQ encoder sees of `image`: float32 [3, S, S] in [−1, 1]; the short side fills S, the long side is cropped in the middle.
 * The original's crop is not published; this is the project's choice.
 */
export function generationPixels(image: RgbImage, imageSize: number): Float32Array {
  checkImage("generationPixels", image);
  const short = Math.min(image.width, image.height);
  const fit = (side: number): number => (side === short ? imageSize : Math.round((side * imageSize) / short));
  const [width, height] = [fit(image.width), fit(image.height)];
  const left = Math.floor((width - imageSize) / 2);
  const top = Math.floor((height - imageSize) / 2);
  // Only the crop is computed: a picture of 3000×1 would become 1,152,000×384 first.
  const crop = resizeWindow(image, width, height, { left, top, width: imageSize, height: imageSize });
  return planes(crop, (level) => level / 127.5 - 1);
}

/** The decoder's pixels [3, H, W] in about [−1, 1] as 8-bit RGB: clipped, then truncated (not rounded), in float32 like the original. */
export function pixelsToRgb(pixels: Float32Array, width: number, height: number): RgbImage {
  const area = width * height;
  if (pixels.length !== 3 * area) {
    throw new ArgumentError(`pixelsToRgb: [3, ${height}, ${width}] needs ${3 * area} values, got ${pixels.length}`);
  }
  const data = new Uint8Array(3 * area);
  for (let channel = 0; channel < 3; channel++) {
    for (let i = 0; i < area; i++) {
      const level = Math.fround(Math.fround(Math.fround(pixels[channel * area + i]! + 1) / 2) * 255);
      data[i * 3 + channel] = Math.min(Math.max(level, 0), 255);
    }
  }
  return { width, height, data };
}
