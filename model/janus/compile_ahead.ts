/** The pipelines that drawing and answering need, built in the background while the weights are read. */
import { Device, JanusError, noGrad, scope, sleep } from "../../engine/index.ts";
import { zeros } from "../../kernels/index.ts";
import { textDecoder } from "../generate.ts";
import { imageTokens } from "./config.ts";
import type { JanusConfig } from "./config.ts";
import { ImageGeneration } from "./generate_images.ts";
import type { JanusForConditionalGeneration } from "./janus.ts";

/** Tokens of a short description, and of a question behind an image. */
const TEXT_TOKENS = 20;

/**
 * Starts to build, on `device`, the pipelines that a model launches for one guided image and one answer about an image. The same work on a null
 * device, with the model that `create` makes there, lists them in some hundred milliseconds. Pipelines that only other sizes need, such as longer
 * prompts or several images, are built by their first launch. Work that the model cannot do is left out.
 */
export async function compileAhead(
  device: Device,
  config: JanusConfig,
  create: (device: Device) => JanusForConditionalGeneration,
): Promise<void> {
  const counting = await Device.createCounting({ capabilities: device.capabilities, memoryBudget: Infinity });
  try {
    const model = create(counting);
    for (const work of [draw, answer]) {
      await sleep(0); // for the page's other tasks
      try {
        noGrad(() => scope(() => work(model, config)));
      } catch (error) {
        // E.g. the context has no room for an image: drawing one will throw this, loading must not.
        if (!(error instanceof JanusError)) throw error;
      }
    }
    void device.compileAhead(counting);
  } finally {
    counting.destroy();
  }
}

const idsOf = (count: number): number[] => new Array<number>(count).fill(0);

function draw(model: JanusForConditionalGeneration, config: JanusConfig): void {
  if (model.missing.includes("generate images")) return;
  const room = config.language.maxPositions - imageTokens(config);
  const prompt = idsOf(Math.max(1, Math.min(TEXT_TOKENS, room)));
  const { decoder } = new ImageGeneration(model, config, [prompt], 0, { seed: 0 });
  decoder.begin();
  decoder.step();
  model.model.vqmodel.decode(zeros([1, imageTokens(config)], { dtype: "i32", device: model.device }));
  decoder.dispose();
}

function answer(model: JanusForConditionalGeneration, config: JanusConfig): void {
  const { imageSize } = config.vision;
  const [text, placeholder] = [idsOf(TEXT_TOKENS), 1];
  const seesImages = !model.missing.includes("understand images");
  const pixels = zeros([1, 3, imageSize, imageSize], { device: model.device });
  const embeddings = seesImages && model.model.call(pixels).flatten(0, 1); // [T, hidden]
  const prompt = embeddings
    ? { ids: [...text, ...new Array<number>(embeddings.dim(0)).fill(placeholder)], images: { embeddings, placeholder } }
    : { ids: text };
  const decoder = textDecoder(model, [prompt], { maxNewTokens: 2 });
  decoder.begin();
  decoder.step();
  decoder.dispose();
}
