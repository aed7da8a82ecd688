/** The image tokenizer for training data: its codes from pixels, and its weights alone from a checkpoint. */
import { tensor, tensorFromBytes, withLabel } from "../../engine/index.ts";
import type { Device, Tensor } from "../../engine/index.ts";
import { castFloats } from "../../model/io/cast.ts";
import type { FloatDType } from "../../model/io/cast.ts";
import type { Checkpoint } from "../../model/janus/checkpoint/checkpoint.ts";
import { encodePictures } from "../../model/janus/image_codes.ts";
import { VqModel } from "../../model/vq.ts";

/** Prefix of the names of the tokenizer's weights in the model. */
export const PREFIX = "model.vqmodel.";
/** Label of the launches that compute codes, which run between other work of the device. */
export const CODES_LABEL = "codes";

/** Images that the image tokenizer gets at once, by default. */
export const ENCODED_AT_ONCE = 8;
/** Pixels [3, S, S] of some images → the codes of each. */
export type EncodeCodes = (pixels: Float32Array[]) => Promise<number[][]>;

/** Dtype of the tokenizer's weights in the checkpoint. */
export const storedDType = (checkpoint: Checkpoint): FloatDType =>
  [...checkpoint.parameters].find(([name]) => name.startsWith(PREFIX))![1].dtype as FloatDType;

/** The tokenizer of a checkpoint alone, frozen. @param dtype on the device; without it the checkpoint's */
export async function loadTokenizer(
  checkpoint: Checkpoint,
  device: Device,
  dtype = storedDType(checkpoint),
): Promise<VqModel> {
  const sources = [...checkpoint.parameters].filter(([name]) => name.startsWith(PREFIX));
  const vq = new VqModel(checkpoint.config.vq, { device, dtype, init: false });
  const state: Record<string, Tensor> = {};
  try {
    for (const [name, source] of sources) {
      state[name.slice(PREFIX.length)] = tensorFromBytes(
        castFloats(await checkpoint.read(source), source.dtype as FloatDType, dtype, source.name),
        source.shape,
        dtype,
        device,
      );
      await device.throttle();
    }
    await vq.loadStateDict(state);
  } catch (error) {
    vq.dispose();
    throw error;
  } finally {
    for (const t of Object.values(state)) t.dispose();
  }
  for (const parameter of vq.parameters()) parameter.requiresGrad = false;
  return vq.eval();
}

/** The codes of images [3, S, S] by a tokenizer. An image has the same codes in any batch. Throws `NotFiniteError` as `encodePictures`. */
export function vqEncoder(vq: VqModel, imageSize: number): EncodeCodes {
  return async (pixels) => {
    const all = new Float32Array(pixels.length * 3 * imageSize ** 2);
    for (const [i, picture] of pixels.entries()) all.set(picture, i * 3 * imageSize ** 2);
    const { device } = vq.parameters()[0]!;
    const shape = [pixels.length, 3, imageSize, imageSize];
    using input = tensor(all, { shape, device });
    const ids = await withLabel(CODES_LABEL, () => encodePictures(vq, input)); // launches all before its first await
    const tokens = ids.length / pixels.length;
    return pixels.map((_, i) => ids.slice(i * tokens, (i + 1) * tokens));
  };
}
