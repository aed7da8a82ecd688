/** Generated images as a stream that runs once, with the data to generate them again. */
import type { RgbImage } from "../image/image.ts";
import { Once } from "../streams.ts";

/** A generated image and all that it takes to make it again. */
export interface Picture {
  readonly image: RgbImage;
  readonly prompt: string;
  readonly seed: number;
  readonly guidance: number;
  readonly temperature: number;
  readonly topK: number | undefined;
  readonly topP: number | undefined;
  /** `Janus.fingerprint` of the model that made it. */
  readonly model: string;
  /** The codes, in raster order. */
  readonly tokenIds: readonly number[];
}

export type GenerateEvent =
  | { readonly type: "progress"; readonly done: number; readonly total: number }
  | { readonly type: "picture"; readonly index: number; readonly picture: Picture };

/** Images as they come. */
export class Pictures extends Once<GenerateEvent, Picture[]> {
  private readonly look: () => Promise<(RgbImage | null)[]>;

  constructor(run: AsyncGenerator<GenerateEvent, Picture[]>, look: () => Promise<(RgbImage | null)[]>) {
    super(run);
    this.look = look;
  }

  images(): Promise<Picture[]> {
    return this.result();
  }

  /**
   * The rows so far of each image (null before its first row); empty while no codes are sampled, before and after. Costs as much as
   * decoding whole images.
   */
  preview(): Promise<(RgbImage | null)[]> {
    return this.look();
  }
}
