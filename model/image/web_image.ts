/** Images as browsers have them: ImageData, canvases and encoded files as Blobs to 8-bit RGB, and RGB to ImageData. */
import { ArgumentError, messageOf } from "../../engine/errors.ts";
import { ImageFormatError, checkImage } from "./image.ts";
import type { RgbImage } from "./image.ts";

/** `ImageData`, or an object like it: 8-bit RGBA. */
export interface ImageDataLike {
  readonly width: number;
  readonly height: number;
  readonly data: Uint8ClampedArray;
}

/** An `HTMLCanvasElement`, an `OffscreenCanvas`, or a canvas of a library for Node. */
export interface CanvasLike {
  readonly width: number;
  readonly height: number;
  getContext(kind: "2d"): unknown;
}

/** What drawing context this file uses. */
interface Context2d {
  drawImage(source: unknown, x: number, y: number): void;
  getImageData(x: number, y: number, width: number, height: number): ImageDataLike;
}

export const isImageData = (value: unknown): value is ImageDataLike =>
  isObject(value) && value["data"] instanceof Uint8ClampedArray;

export const isCanvas = (value: unknown): value is CanvasLike =>
  isObject(value) && typeof value["getContext"] === "function";

const isObject = (value: unknown): value is Readonly<Record<string, unknown>> =>
  typeof value === "object" && value !== null;

/**
 * Converts RGBA to RGB, with transparent pixels over white. Throws `ArgumentError` if the length of the data does not
 * match width and height.
 */
export function fromImageData({ width, height, data }: ImageDataLike): RgbImage {
  if (data.length !== 4 * width * height)
    throw new ArgumentError(
      `image: ${width}×${height} RGBA must have ${4 * width * height} bytes; got ${data.length}. Pass an ImageData of 8 bits.`,
    );
  const rgb = new Uint8Array(3 * width * height);
  for (let from = 0, to = 0; to < rgb.length; from += 4, to += 3) {
    const alpha = data[from + 3]!;
    for (let c = 0; c < 3; c++) rgb[to + c] = Math.round((data[from + c]! * alpha + 255 * (255 - alpha)) / 255);
  }
  return { width, height, data: rgb };
}

/** The pixels of a canvas of any kind. Throws `ImageFormatError` if the browser refuses them (an image of another site is on it). */
export function fromCanvas(canvas: CanvasLike): RgbImage {
  const { width, height } = canvas;
  if (!(width > 0 && height > 0))
    throw new ArgumentError(`image: a canvas must have pixels; got ${width}×${height}. Draw on it first.`);
  try {
    const context = canvas.getContext("2d") as Context2d | null;
    if (context) return fromImageData(context.getImageData(0, 0, width, height));
    return drawn(canvas, width, height); // a canvas of WebGL or WebGPU
  } catch (error) {
    throw new ImageFormatError(
      `image: the pixels of the canvas cannot be read: ${messageOf(error)}. Draw only images of the same site, or with CORS.`,
    );
  }
}

/**
 * Decodes an image file with the browser, upright and without colour profiles. Throws `ImageFormatError` if the browser
 * cannot decode it.
 */
export async function decodeByBrowser(file: Blob): Promise<RgbImage> {
  if (typeof createImageBitmap !== "function" || typeof OffscreenCanvas !== "function")
    throw new ArgumentError(
      "image: this runtime must decode image files; it has no createImageBitmap. Pass pixels { width, height, data }, or import janus-webgpu in Node.",
    );
  let bitmap: ImageBitmap;
  try {
    bitmap = await createImageBitmap(file, { colorSpaceConversion: "none", premultiplyAlpha: "none" });
  } catch (error) {
    throw new ImageFormatError(
      `image: the browser cannot decode ${file.size} bytes of type "${file.type}": ${messageOf(error)}. Pass a PNG, JPEG or WebP file.`,
    );
  }
  try {
    return drawn(bitmap, bitmap.width, bitmap.height);
  } finally {
    bitmap.close();
  }
}

function drawn(source: unknown, width: number, height: number): RgbImage {
  const context = new OffscreenCanvas(width, height).getContext("2d") as unknown as Context2d; // a new canvas always has one
  context.drawImage(source, 0, 0);
  return fromImageData(context.getImageData(0, 0, width, height));
}

/** Converts an image, or a result of `generate`, to `ImageData` for `putImageData`; to a similar object if there is no ImageData (Node). */
export function toImageData(image: RgbImage | { readonly image: RgbImage }): ImageData {
  const { width, height, data } = "image" in image ? image.image : image;
  checkImage("toImageData", { width, height, data });
  const rgba = new Uint8ClampedArray(4 * width * height).fill(255);
  for (let from = 0, to = 0; from < data.length; from += 3, to += 4)
    for (let c = 0; c < 3; c++) rgba[to + c] = data[from + c]!;
  if (typeof ImageData === "function") return new ImageData(rgba, width, height);
  return { width, height, data: rgba, colorSpace: "srgb" } as ImageData;
}
