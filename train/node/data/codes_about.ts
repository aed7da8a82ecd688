/** What the codes of a checkpoint's image tokenizer depend on, its weights by their hash. */
import { createHash } from "node:crypto";
import { castFloats } from "../../../model/io/cast.ts";
import type { FloatDType } from "../../../model/io/cast.ts";
import type { Checkpoint } from "../../../model/janus/checkpoint/checkpoint.ts";
import { PREFIX, storedDType } from "../../stage0/image_tokenizer.ts";
import type { CodesAbout } from "./codes.ts";

/** Weights that codes depend on. */
const ENCODING = ["encoder.", "quant_conv.", "quantize."].map((name) => PREFIX + name);
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
