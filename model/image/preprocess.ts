/**
 * From images to the model's pixels and back, as DeepSeek's processor computes them: inputs of SigLIP (long side
 * fitted, padded), inputs of the VQ tokenizer (short side fitted, cropped), and generated pixels as 8-bit RGB. Decoding
 * files is model/node/image_file.ts.
 */
import { ArgumentError } from "../../engine/errors.ts";
import { ConfigError } from "../io/errors.ts";
import { checkImage } from "./image.ts";
import type { RgbImage } from "./image.ts";
import { resizeBicubic, resizeWindow } from "./resize.ts";
import { isObject, showJson, unknownKeys } from "../io/unknown.ts";

type Rgb = readonly [number, number, number];

/** The image half of a checkpoint's processor. */
export interface PreprocessConfig {
  /** Side of the square that the model takes, pixels. */
  readonly imageSize: number;
  /** The short side is at least this long after resizing, pixels. */
  readonly minSize: number;
  readonly rescaleFactor: number;
  readonly mean: Rgb;
  readonly std: Rgb;
  /** Colour of the area that the image does not cover, 0 to 255. */
  readonly background: Rgb;
}

/** Keys that are used or checked below, and those without effect: names of classes, how transformers computes and what it returns. */
const KNOWN_KEYS: ReadonlySet<string> = new Set([
  "image_size", "size", "min_size", "resample", "do_resize", "do_pad", "do_rescale", "rescale_factor", "do_normalize",
  "image_mean", "image_std", "background_color", "do_center_crop", "do_crop", "do_convert_rgb", "do_flip_channel_order",
  "image_processor_type", "processor_class", "_processor_class", "feature_extractor_type", "auto_map", "image_processor",
  "crop_size", "pad_size", "model_input_names", "data_format", "input_data_format", "return_tensors", "device",
  "disable_grouping", "image_seq_length", "default_to_square", "transformers_version", "_valid_processor_keys",
]); // prettier-ignore
/** Settings that must be as the vision tower needs them: squares of one size, in RGB. null counts as absent. */
const NEEDED: readonly (readonly [key: string, allowed: readonly unknown[], why: string])[] = [
  ["do_resize", [true], "images of other sizes do not fit the vision tower"],
  ["do_pad", [true], "images that are not square do not fit the vision tower"],
  ["do_center_crop", [false], "images are padded, not cropped"],
  ["do_crop", [false], "images are padded, not cropped"],
  ["do_flip_channel_order", [false], "the vision tower takes RGB"],
  ["resample", [3, "bicubic"], "only bicubic resizing is supported"],
  [
    "image_processor_type",
    [undefined, "VLMImageProcessor", "JanusImageProcessor", "JanusImageProcessorFast", "JanusImageProcessorPil"],
    "others crop and pad differently",
  ],
];

/** The settings in a parsed file: those under `image_processor` in transformers' layout. */
function settingsIn(json: unknown, fail: (what: string, value: unknown) => never): Record<string, unknown> {
  const top = isObject(json) ? json : fail("the top must be an object", json);
  return isObject(top.image_processor) ? top.image_processor : top;
}

/**
 * Reads the parsed `preprocessor_config.json` (DeepSeek's layout) or `processor_config.json` (transformers' layout, in which the same keys
 * stand under `image_processor` and the size is `{height, width}`). Absent keys take the values of the published models.
 * Throws `ConfigError` for values of the wrong kind and for settings that the vision tower cannot take.
 */
export function preprocessConfig(json: unknown, file = "preprocessor_config.json"): PreprocessConfig {
  const fail = (what: string, value: unknown): never => {
    throw new ConfigError(`${file}: ${what}; got ${showJson(value)}`);
  };
  const keys = settingsIn(json, fail);
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
  const flag = (name: string): boolean => {
    const value = keys[name] ?? true;
    return typeof value === "boolean" ? value : fail(`${name} must be true or false`, value);
  };
  for (const [name, allowed, why] of NEEDED) {
    const value = keys[name] ?? allowed[0];
    if (!allowed.includes(value))
      fail(
        `${name} must be ${allowed
          .filter((one) => one !== undefined)
          .map(showJson)
          .join(" or ")}, as ${why}`,
        value,
      );
  }
  const imageSize = number("image_size", sideOf(keys, fail), 1, 8192, true);
  const mean = three("image_mean", keys.image_mean ?? 0.5, -10, 10);
  const std = three("image_std", keys.image_std ?? 0.5, 1e-6, 10);
  const factor = number("rescale_factor", keys.rescale_factor ?? 1 / 255, 1e-6, 1, false);
  const isNormalised = flag("do_normalize");
  return {
    imageSize,
    minSize: number("min_size", keys.min_size ?? 14, 1, imageSize, true),
    rescaleFactor: flag("do_rescale") ? factor : 1,
    mean: isNormalised ? mean : [0, 0, 0],
    std: isNormalised ? std : [1, 1, 1],
    background: three("background_color", keys.background_color ?? mean.map((m) => Math.trunc(m * 255)), 0, 255),
  };
}

/** `config` followed by (x − mean) / std by channel, which the vision tower of some checkpoints does itself: one step instead of two. */
export function withInputNorm(
  config: PreprocessConfig,
  norm: { readonly mean: readonly number[]; readonly std: readonly number[] } | undefined,
): PreprocessConfig {
  if (!norm) return config;
  const each = (value: (channel: number) => number): Rgb => [value(0), value(1), value(2)];
  return {
    ...config,
    mean: each((c) => config.mean[c]! + config.std[c]! * norm.mean[c]!),
    std: each((c) => config.std[c]! * norm.std[c]!),
  };
}

/** The side of the square: `image_size`, or `size` as a number, `[height, width]` or `{height, width}`; both must agree. */
function sideOf(keys: Record<string, unknown>, fail: (what: string, value: unknown) => never): unknown {
  const size = keys.size ?? undefined;
  let [height, width]: unknown[] = [size, size];
  if (Array.isArray(size)) {
    if (size.length !== 2) fail("size must be [height, width]", size);
    [height, width] = size as unknown[];
  } else if (isObject(size)) {
    const strange = Object.keys(size).filter((key) => key !== "height" && key !== "width" && size[key] !== null);
    if (strange.length || size.height === undefined || size.width === undefined)
      fail("size must be {height, width}, the only form that the vision tower takes", size);
    [height, width] = [size.height, size.width];
  }
  if (height !== width) fail("size must be square", size);
  const named = keys.image_size ?? undefined;
  if (named !== undefined && height !== undefined && named !== height)
    fail(`image_size and size must agree, image_size is ${showJson(named)}`, size);
  return named ?? height ?? 384;
}

/** Names the keys of an image processor's settings that are not known. */
export const preprocessNotices = (json: unknown, file: string): string[] =>
  isObject(json) ? unknownKeys(isObject(json.image_processor) ? json.image_processor : json, KNOWN_KEYS, file) : [];

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

/** An image on a square canvas, centred; if the rest is odd, the extra pixel goes to the bottom or right. */
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

/** Returns the input of the understanding tower: float32 [3, S, S] with S = `imageSize`; the long side fills S, the rest is background. */
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
 * Returns the input of the VQ encoder: float32 [3, S, S] in [−1, 1]; the short side fills S, the long side is cropped
 * in the middle. The original's crop is not published; this is the project's choice.
 */
export function generationPixels(image: RgbImage, imageSize: number): Float32Array {
  checkImage("generationPixels", image);
  const short = Math.min(image.width, image.height);
  const fit = (side: number): number => (side === short ? imageSize : Math.round((side * imageSize) / short));
  const [width, height] = [fit(image.width), fit(image.height)];
  const left = Math.floor((width - imageSize) / 2);
  const top = Math.floor((height - imageSize) / 2);
  // Only the crop is computed: an image of 3000×1 would become 1,152,000×384 first.
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
