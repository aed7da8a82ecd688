/** The image tokenizer for training data: its codes from pixels, its weights' hash, and its weights alone from a checkpoint. */
import { createHash } from "node:crypto";
import { tensor, tensorFromBytes, withLabel } from "../../engine/index.ts";
import type { Device, Tensor } from "../../engine/index.ts";
import { castFloats } from "../../model/io/cast.ts";
import type { FloatDType } from "../../model/io/cast.ts";
import type { Checkpoint } from "../../model/janus/checkpoint/checkpoint.ts";
import { encodePictures } from "../../model/janus/image_codes.ts";
import { VqModel } from "../../model/vq.ts";
import type { CodesAbout, EncodeCodes } from "../node/data/codes.ts";

/** Of the names of the tokenizer's weights in the model. */
export const PREFIX = "model.vqmodel.";
/** What codes depend on. */
const ENCODING = ["encoder.", "quant_conv.", "quantize."].map((name) => PREFIX + name);
/** Label of the launches that compute codes, beside whatever else the device does. */
export const CODES_LABEL = "codes";
const CHUNK_BYTES = 4 * 2 ** 20;

/**
 * SHA-256 over names, shapes and all bytes of the weights that codes depend on, as numbers of `dtype`, in hex: the same for either layout, and
 * for any checkpoint whose weights are the same numbers on the device. Throws `CheckpointError` for one beyond the range of `dtype`.
 */
export async function tokenizerHash(checkpoint: Checkpoint, dtype = storedDType(checkpoint)): Promise<string> {
  const hash = createHash("sha256");
  for (const [name, source] of [...checkpoint.parameters].sort(([a], [b]) => (a < b ? -1 : 1))) {
    if (!ENCODING.some((prefix) => name.startsWith(prefix))) continue;
    hash.update(`${name} ${dtype} ${source.shape.join("x")}\n`);
    for await (const chunk of checkpoint.chunks(source, CHUNK_BYTES))
      hash.update(castFloats(chunk, source.dtype as FloatDType, dtype, source.name));
  }
  return hash.digest("hex");
}

/** Of the tokenizer's weights in the checkpoint. */
const storedDType = (checkpoint: Checkpoint): FloatDType =>
  [...checkpoint.parameters].find(([name]) => name.startsWith(PREFIX))![1].dtype as FloatDType;

/**
 * What the codes of a checkpoint's tokenizer depend on.
 * @param plain as in `ReadImageOptions`
 * @param dtype of the weights on the device; without it the checkpoint's, as `loadTokenizer` has them
 */
export async function codesAbout(
  checkpoint: Checkpoint,
  plain: boolean,
  dtype = storedDType(checkpoint),
): Promise<CodesAbout> {
  const { vq } = checkpoint.config;
  const side = vq.imageSize / 2 ** (vq.multipliers.length - 1);
  const weights = await tokenizerHash(checkpoint, dtype);
  return { weights, dtype, imageSize: vq.imageSize, tokens: side * side, codes: vq.codes, plain };
}

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

/** The codes of pictures [3, S, S] by a tokenizer. A picture has the same codes in any batch. Throws `NotFiniteError` as `encodePictures`. */
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
