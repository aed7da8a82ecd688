/** The encoder of stage 0 for images that are files. */
import { readImage } from "../../../model/node/image_file.ts";
import { PictureEncoder as AnyPictureEncoder } from "../../stage0/pictures.ts";

export type { Picture } from "../../stage0/pictures.ts";

export class PictureEncoder extends AnyPictureEncoder {
  /** @param imageSize S */
  constructor(imageSize: number) {
    super(imageSize, (path) => readImage(path));
  }
}
