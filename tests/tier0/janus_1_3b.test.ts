/**
 * Janus-1.3B, the predecessor: a made checkpoint of its exact names, shapes, dtype and configs at full size (zeros that are made as they are read) is
 * opened, and its model runs in both directions on the null device. Its numbers are those of Janus-Pro-1B; see tests/tier1/janus_1_3b.test.ts.
 */
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { Device, construct, noGrad, scope, setDevice } from "../../engine/index.ts";
import type { Tensor } from "../../engine/index.ts";
import { empty } from "../../index.ts";
import type { FileSource, RandomAccess } from "../../model/io/bytes.ts";
import { layoutSafetensors } from "../../model/io/safetensors.ts";
import { textDecoder } from "../../model/generate.ts";
import { ImageGeneration } from "../../model/janus/generate_images.ts";
import { JanusForConditionalGeneration } from "../../model/janus/janus.ts";
import { expectedTensors } from "../../model/janus/checkpoint/expected.ts";
import { openCheckpoint } from "../../model/janus/checkpoint/checkpoint.ts";
import type { Checkpoint } from "../../model/janus/checkpoint/checkpoint.ts";
import { JANUS_PRO_1B } from "../../model/janus/config.ts";
import { readProcessor } from "../../model/janus/processor.ts";
import type { Processor } from "../../model/janus/processor.ts";
import { questionIds } from "../../model/janus/pipeline.ts";
import { janus13bFiles } from "../checkpoint/janus_1_3b.ts";

/** A folder whose weights are zeros that nobody stores. */
function fullSize(): FileSource {
  const tensors = expectedTensors(JANUS_PRO_1B, "deepseek", { unused: true });
  const { header, fileBytes } = layoutSafetensors(
    [...tensors].map(([name, shape]) => ({ name, shape, dtype: "bf16" })),
  );
  const weights: RandomAccess = {
    name: "Janus-1.3B/model.safetensors",
    size: fileBytes,
    read: async (offset, length, into) => {
      const out = into?.subarray(0, length).fill(0) ?? new Uint8Array(length);
      if (offset < header.length) out.set(header.subarray(offset, offset + length));
      return out;
    },
  };
  const small = janus13bFiles();
  return {
    name: "Janus-1.3B",
    list: async () => [...small.keys(), "model.safetensors"],
    open: async (name) => {
      const bytes = small.get(name);
      if (!bytes) return weights;
      return { name, size: bytes.length, read: async (at, length) => bytes.subarray(at, at + length) };
    },
  };
}

describe("a checkpoint of Janus-1.3B's names, shapes and configs", () => {
  let checkpoint: Checkpoint;
  let processor: Processor;
  let device: Device;
  beforeAll(async () => {
    device = await Device.create({ backend: "null" });
    checkpoint = await openCheckpoint(fullSize());
    processor = await readProcessor(fullSize(), checkpoint.config);
  });
  afterAll(() => {
    device.destroy();
    setDevice(null);
  });

  it("opens with its 882 tensors and nothing to remark", () => {
    expect([checkpoint.layout, checkpoint.format, checkpoint.tensors.size]).toEqual(["deepseek", "safetensors", 882]);
    expect(checkpoint.config).toEqual(JANUS_PRO_1B);
    expect([...checkpoint.tensors.values()].reduce((sum, { bytes }) => sum + bytes, 0)).toBe(4_178_595_094);
    expect([...checkpoint.notices, ...processor.notices]).toEqual([]);
  });
  it("has the token ids of Janus-Pro-7B, a pad token that its config leaves out, and plain words for roles", () => {
    const { tokenizer, prompts } = processor;
    expect(tokenizer.size).toBe(100_603);
    expect(tokenizer.specials).toEqual({
      bos: 100_000,
      eos: 100_001,
      pad: 100_015,
      beginOfImage: 100_016,
      endOfImage: 100_593,
      imagePlaceholder: 100_594,
      user: 100_601,
      assistant: 100_602,
    });
    expect(prompts.generation("a cat")).toBe("User: a cat\n\nAssistant:<begin_of_image>");
    expect(prompts.conversation([{ role: "user", content: "<image_placeholder>\nWhat?" }])).toMatch(
      /natural language\.\n\nUser: <image_placeholder>\nWhat\?\n\nAssistant:$/,
    );
    const ids = questionIds(processor, "What?", 1);
    expect(ids.filter((id) => id === 100_594).length).toBe(576);
  });
  it("runs in both directions on the null device", async () => {
    const model = construct(() => new JanusForConditionalGeneration(checkpoint.config, { device, dtype: "bf16", init: false })).eval(); // prettier-ignore
    let launches = 0;
    device.onLaunch(() => void launches++);
    // A question about an image: vision tower, aligner, prefill, a token.
    const embeddings = noGrad(() => scope((): Tensor => model.model.call(empty([1, 3, 384, 384], { device })).flatten(0, 1))).keep(); // prettier-ignore
    const ids = questionIds(processor, "What?", 1);
    const answer = textDecoder(model, [{ ids, images: { embeddings, placeholder: 100_594 } }], { maxNewTokens: 2 });
    answer.begin();
    answer.step();
    expect(answer.tokens.shape).toEqual([1]);
    answer.dispose();
    expect(launches).toBeGreaterThan(800);
    // An image: guided prefill, a code, the image decoder.
    const rows = [processor.prompts.encode(processor.prompts.generation("a cat"))];
    const drawing = new ImageGeneration(model, checkpoint.config, rows, processor.tokenizer.specials.pad);
    drawing.decoder.begin();
    drawing.decoder.step();
    expect([drawing.tokens, drawing.count]).toEqual([576, 1]);
    drawing.dispose();
    const codes = empty([1, 576], { dtype: "i32", device });
    const pixels = noGrad(() => scope(() => model.model.vqmodel.decode(codes)));
    expect(pixels.shape).toEqual([1, 3, 384, 384]);
    model.dispose();
  });
});
