/** Images on the host: 8-bit RGB, and their errors. */
import { ArgumentError, JanusError } from "../../engine/errors.ts";

/** 8-bit RGB, interleaved, row by row from the top: `data` [height, width, 3]. */
export interface RgbImage {
  readonly width: number;
  readonly height: number;
  readonly data: Uint8Array;
}

/** An image that cannot be used. Base of the two below. */
export class ImageError extends JanusError {}

/** More bytes or pixels than the limits allow. Nothing was decoded. */
export class ImageLimitError extends ImageError {}

/** Bytes that are no image of a known format, or a damaged one. */
export class ImageFormatError extends ImageError {}

/** Throws `ArgumentError` if the sizes are not positive integers, or if the data has another length than they require. */
export function checkImage(op: string, { width, height, data }: RgbImage): void {
  if (!(Number.isInteger(width) && Number.isInteger(height) && width > 0 && height > 0)) {
    throw new ArgumentError(`${op}: width and height must be positive integers, got ${width}×${height}`);
  }
  if (data.length !== width * height * 3) {
    throw new ArgumentError(
      `${op}: ${width}×${height} RGB needs ${width * height * 3} bytes, got ${data.length}; data is [height, width, 3] of 8 bits`,
    );
  }
}
