/** The encoder of samples whose images are files. */
import type { Processor } from "../../../model/janus/processor.ts";
import { readImage } from "../../../model/node/image_file.ts";
import type { ReadImageOptions } from "../../../model/node/image_file.ts";
import { RecordEncoder as AnyEncoder } from "../../data/encode.ts";
import type { EncoderOptions as AnyEncoderOptions } from "../../data/encode.ts";

export interface EncoderOptions extends AnyEncoderOptions {
  /** How image files are read; default: as a person sees them. */
  readonly pictures?: ReadImageOptions;
}

/** The encoder of samples whose images are files. */
export class RecordEncoder extends AnyEncoder {
  constructor(processor: Processor, { pictures, ...options }: EncoderOptions) {
    super(processor, { readImage: (path) => readImage(path, pictures), ...options });
  }
}
