/** Converts images on the host to codes of the image tokenizer and back. It uses no other part of the model. */
import { ArgumentError, NotFiniteError, noGrad, scope, tensor } from "../../engine/index.ts";
import type { Tensor } from "../../engine/index.ts";
import { cat, countNonFinite } from "../../kernels/index.ts";
import { generationPixels, pixelsToRgb } from "../image/preprocess.ts";
import type { RgbImage } from "../image/image.ts";
import type { VqModel } from "../vq.ts";

export interface Reconstruction {
  readonly tokenIds: readonly number[];
  /** Input of the image tokenizer: short side fitted, cropped to a square. */
  readonly original: RgbImage;
  readonly image: RgbImage;
  /** Peak signal-to-noise ratio of the 8-bit pixels, dB; infinite for equal images. */
  readonly psnr: number;
}

/**
 * The image of `codes`, in raster order. Of the first codes of an image it shows the whole rows that they make; the decoder
 * sees the rest as copies of the last one, and what it shows near the lower edge will still change. Null below one row. Throws
 * `NotFiniteError` if a pixel is not finite.
 * @param name of the image, for that error
 */
export async function decodePicture(
  vq: VqModel,
  codes: readonly number[],
  name = "the image",
): Promise<RgbImage | null> {
  const { side: rowCodes, imageSize: side } = vq;
  const tokens = rowCodes ** 2;
  const rows = Math.floor(codes.length / rowCodes);
  if (rows === 0) return null;
  checkCodes(vq, codes);
  const whole = Array.from({ length: tokens }, (_, i) => codes[Math.min(i, codes.length - 1)]!);
  const picture = pictureOf((await decodeTogether(vq, [whole]))[0]!, side, name);
  const height = (rows * side) / rowCodes;
  return height === side ? picture : { width: side, height, data: picture.data.slice(0, 3 * side * height) };
}

/** Pixels that are decoded together on software devices, where launches of small images take longer than their pixels, and the bits are the same. */
const PIXELS = 2 ** 14;

/** Images whose codes are whole, in their order. Throws as `decodePicture` does, for an image that is not finite after those before it. */
export async function* decodePictures(
  vq: VqModel,
  codes: readonly (readonly number[])[],
  nameOf: (index: number) => string,
): AsyncGenerator<RgbImage> {
  const { software } = vq.quantize.embedding.weight.device.capabilities;
  const atOnce = software ? Math.max(1, Math.floor(PIXELS / vq.imageSize ** 2)) : 1;
  for (let from = 0; from < codes.length; from += atOnce) {
    const some = codes.slice(from, from + atOnce);
    for (const one of some) checkCodes(vq, one, vq.side ** 2);
    for (const [i, levels] of (await decodeTogether(vq, some)).entries())
      yield pictureOf(levels, vq.imageSize, nameOf(from + i));
  }
}

function checkCodes(vq: VqModel, codes: readonly number[], least = 0): void {
  const tokens = vq.side ** 2;
  const count = vq.quantize.embedding.weight.dim(0);
  const strange = codes.findIndex((code) => !Number.isInteger(code) || code < 0 || code >= count);
  if (strange >= 0 || codes.length > tokens || codes.length < least)
    throw new ArgumentError(
      `decodePicture: ${strange < 0 ? `${codes.length} codes` : `code ${codes[strange]}`}; an image has ${tokens} codes from 0 to ${count - 1}`,
    );
}

/** float32 [3, S, S] of each image. */
async function decodeTogether(vq: VqModel, codes: readonly (readonly number[])[]): Promise<Float32Array[]> {
  const { device } = vq.quantize.embedding.weight;
  const whole = Int32Array.from(codes.flat());
  const pixels = noGrad(() => scope(() => vq.decode(tensor(whole, { shape: [codes.length, vq.side ** 2], device }))));
  try {
    const all = (await pixels.data()) as Float32Array;
    const each = 3 * vq.imageSize ** 2;
    return codes.map((_, i) => all.subarray(i * each, (i + 1) * each));
  } finally {
    pixels.dispose();
    device.pool.trim(); // a gigabyte of feature maps that nothing else has a use for
  }
}

function pictureOf(levels: Float32Array, side: number, name: string): RgbImage {
  if (!levels.every(Number.isFinite)) throw new NotFiniteError("decodePicture", "VQ decoder", name);
  return pixelsToRgb(levels, side, side);
}

/**
 * pixels [B, 3, S, S] in −1 … 1 → the codes of all images, one after the other. Throws `NotFiniteError` if the encoder's vectors are not
 * finite: each would have some nearest code all the same.
 */
export async function encodePictures(vq: VqModel, pixels: Tensor): Promise<number[]> {
  // The count is read with the codes.
  const read = noGrad(() =>
    scope(() => {
      const vectors = vq.encodeVectors(pixels);
      return cat([vq.nearest(vectors).flatten(), countNonFinite(vectors).reshape([1])]);
    }),
  );
  try {
    const codes = Array.from(await read.data());
    if (codes.pop()! > 0)
      throw new NotFiniteError(
        "encodePictures",
        "VQ encoder",
        pixels.dim(0) === 1 ? "the image" : `a batch of ${pixels.dim(0)} images`,
      );
    return codes;
  } finally {
    read.dispose();
  }
}

/** An image and its reconstruction by the image tokenizer. */
export async function reconstruct(vq: VqModel, picture: RgbImage): Promise<Reconstruction> {
  const side = vq.imageSize;
  const { device } = vq.quantize.embedding.weight;
  const pixels = generationPixels(picture, side);
  using input = tensor(pixels, { shape: [1, 3, side, side], device });
  const tokenIds = await encodePictures(vq, input);
  const image = (await decodePicture(vq, tokenIds))!;
  // x = u8 / 127.5 − 1 and back: half a level up, against truncation.
  const original: RgbImage = {
    width: side,
    height: side,
    data: Uint8Array.from({ length: 3 * side * side }, (_, i) =>
      Math.round((pixels[(i % 3) * side * side + Math.floor(i / 3)]! + 1) * 127.5),
    ),
  };
  const squares = original.data.reduce((sum, level, i) => sum + (level - image.data[i]!) ** 2, 0);
  return { tokenIds, original, image, psnr: 10 * Math.log10((255 ** 2 * original.data.length) / squares) };
}
