/** Images alone, as the image tokenizer takes them: of a pair its image, of a conversation one of those that it shows. */
import type { RgbImage } from "../../model/image/image.ts";
import { generationPixels } from "../../model/image/preprocess.ts";
import type { SampleEncoder, SampleId } from "../data/encode.ts";
import { SampleError } from "../data/errors.ts";
import type { RawSample } from "../data/raw_sample.ts";

export interface Picture {
  /** float32 [3, S, S] in −1 … 1. */
  readonly pixels: Float32Array;
  /** Name of the record in messages. */
  readonly name: string;
}

/** A record is one image: of several, each epoch takes the next one. */
export class PictureEncoder implements SampleEncoder<Picture> {
  private readonly imageSize: number;
  private readonly readImage: (path: string) => Promise<RgbImage>;

  /**
   * @param imageSize S
   * @param readImage the pixels of an image that a record names; throws `ImageError` for one that cannot be read
   */
  constructor(imageSize: number, readImage: (path: string) => Promise<RgbImage>) {
    this.imageSize = imageSize;
    this.readImage = readImage;
  }

  /** Throws `SampleError` for a record without an image, `ImageError` for one that cannot be read. */
  async encode(raw: RawSample, { epoch, name }: SampleId): Promise<Picture> {
    const images = raw.task === "gen" ? [raw.image] : raw.task === "und" ? raw.images : [];
    const path = images[epoch % images.length];
    if (path === undefined) throw new SampleError("it has no image");
    return { pixels: generationPixels(await this.readImage(path), this.imageSize), name };
  }
}
