/** Imitates the degradation by a small image tokenizer, to measure the judge before there is a tokenizer. */
import type { RgbImage } from "../../model/image/image.ts";
import type { Dice } from "./dice.ts";

export interface Degradation {
  /** Number of times that each 8×8 block is blurred with weights 1 2 1 (default: 2). Blocks are blurred separately, so that seams show. */
  readonly blur?: number;
  /** Largest change of a block's level, of 255. 8. */
  readonly block?: number;
  /** Largest change of a channel of the whole image, of 255. 10. */
  readonly shift?: number;
  /** Largest change of each value, as a share of 255. 0.12. */
  readonly noise?: number;
}

const BLOCK = 8;

/** The image, blurred in blocks, shifted in colour and noisy. JPEG is the caller's to add. */
export function degrade(image: RgbImage, dice: Dice, options: Degradation = {}): RgbImage {
  const { blur = 2, block = 8, shift = 10, noise = 0.12 } = options;
  const { width, height } = image;
  let from = Float32Array.from(image.data);
  for (let round = 0; round < blur; round++) {
    for (const stride of [3, width * 3]) {
      const to = new Float32Array(from.length);
      for (let i = 0; i < width * height; i++) {
        const place = stride === 3 ? i % width : Math.floor(i / width);
        const before = place % BLOCK === 0 ? 0 : -stride;
        const after = place % BLOCK === BLOCK - 1 || place === (stride === 3 ? width : height) - 1 ? 0 : stride;
        for (let k = i * 3; k < i * 3 + 3; k++) to[k] = (from[k + before]! + 2 * from[k]! + from[k + after]!) / 4;
      }
      from = to;
    }
  }
  const shifts = [0, 1, 2].map(() => dice.between(-shift, shift));
  const across = Math.ceil(width / BLOCK);
  const blocks = Float32Array.from({ length: across * Math.ceil(height / BLOCK) * 3 }, () =>
    dice.between(-block, block),
  );
  const data = new Uint8ClampedArray(from.length);
  for (let i = 0; i < width * height; i++) {
    const at = (Math.floor(Math.floor(i / width) / BLOCK) * across + Math.floor((i % width) / BLOCK)) * 3;
    for (let c = 0; c < 3; c++) {
      const grain = noise === 0 ? 0 : dice.between(-noise, noise) * 255;
      data[i * 3 + c] = from[i * 3 + c]! + shifts[c]! + blocks[at + c]! + grain;
    }
  }
  return { width, height, data: new Uint8Array(data.buffer) };
}
