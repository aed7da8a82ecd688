/**
 * Runs the product's decoder on golden codes, to get the logits of generation at each step (prefill, cache, captured
 * steps, guidance); while a free run would only show which code it chose.
 */
import { tensor } from "../engine/index.ts";
import type { Tensor } from "../engine/index.ts";
import { arange, copyInto, full, guidance as guide, indexSelect, where } from "../kernels/index.ts";
import { TokenDecoder } from "../model/decoding.ts";
import type { Head } from "../model/decoding.ts";
import type { JanusForConditionalGeneration } from "../model/janus/janus.ts";

/** Writes down the guided logits of each step and answers with the golden code. */
class ForcedHead implements Head {
  /** f32 [T, codes] */
  readonly logits: Tensor;
  private readonly model: JanusForConditionalGeneration;
  private readonly weight: number;
  private readonly codes: Tensor;
  private readonly places: Tensor;

  constructor(model: JanusForConditionalGeneration, codes: readonly number[], weight: number) {
    const { vision_head: head } = model.model.generation_head;
    const { device } = head.weight;
    this.model = model;
    this.weight = weight;
    this.codes = tensor(Uint32Array.from(codes), { device }).keep();
    this.places = arange(0, codes.length, 1, { dtype: "u32", device }).keep();
    this.logits = full([codes.length, head.weight.dim(0)], 0, { device }).keep();
  }

  sample(hidden: Tensor, step: Tensor): Tensor {
    const logits = guide(this.model.codeLogits(hidden), this.weight); // [1, codes]
    copyInto(this.logits, where(this.places.eq(step).unsqueeze(1), logits, this.logits));
    return indexSelect(this.codes, 0, step);
  }

  embed(tokens: Tensor): Tensor {
    const row = this.model.embedCodes(tokens).unsqueeze(1); // [1, 1, hidden]
    return row.expand([2, 1, row.dim(2)]);
  }

  dispose(): void {
    for (const t of [this.logits, this.codes, this.places]) t.dispose();
  }
}

/** Guided logits [T, codes] before each of `codes` [T]. `pair` is the prompt's conditional and its unconditional row. */
export async function forcedSteps(
  model: JanusForConditionalGeneration,
  pair: readonly (readonly number[])[],
  codes: readonly number[],
  weight: number,
): Promise<Float32Array> {
  const head = new ForcedHead(model, codes, weight);
  const prompts = pair.map((ids) => ({ ids }));
  const decoder = TokenDecoder.prefill(model, head, { prompts, order: [0, 1], samples: 1, room: codes.length });
  try {
    decoder.begin();
    for (let step = 1; step < codes.length; step++) await decoder.next();
    return (await head.logits.data()) as Float32Array;
  } finally {
    decoder.dispose();
  }
}
