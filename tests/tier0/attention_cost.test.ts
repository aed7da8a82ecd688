/** FLOPs that attention states: those of the pairs that queries see, for packed rows if the host made the documents. */
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { Device, F, backward, empty, scope, setDevice, tensor } from "../../index.ts";
import type { Launch } from "../../index.ts";
import type { AttentionOptions } from "../../kernels/index.ts";
import { layRows, textSample } from "../../train/samples.ts";
import type { Sample } from "../../train/samples.ts";
import { taskLosses, totalLoss } from "../../train/loss.ts";
import { setStage } from "../../train/stages.ts";
import { JanusForConditionalGeneration } from "../../model/janus/janus.ts";
import { JANUS_TINY } from "../../model/janus/create.ts";

let device: Device;
beforeAll(async () => {
  device = await Device.create({ backend: "null" });
  setDevice(device);
});
afterAll(() => setDevice(null));

const [HEADS, D] = [16, 128];

/** FLOPs of the attention kernels themselves, forward and backward. */
function flops(batch: number, queries: number, keys: number, options: AttentionOptions): number {
  const shape = (tokens: number): number[] => [batch, HEADS, tokens, D];
  const inputs = [shape(queries), shape(keys), shape(keys)].map((s) => empty(s, { requiresGrad: true }));
  let sum = 0;
  const listener: Parameters<typeof device.onLaunch>[0] = (l) => {
    if (/^attention_(?!delta|mask)/.test(l.pipeline.kernel.name)) sum += l.cost?.flops ?? 0;
  };
  device.onLaunch(listener);
  scope(() => {
    const y = F.attention(inputs[0]!, inputs[1]!, inputs[2]!, options);
    backward(y, empty(y.shape));
  });
  device.offLaunch(listener);
  for (const t of inputs) t.dispose();
  return sum;
}
/** Pairs of a token and one that it sees in a document of so many tokens. */
const of = (tokens: number): number => (tokens * (tokens + 1)) / 2;
/** Two products forward, three for the queries' gradient, four for the keys' and values'. */
const ofPairs = (pairs: number): number => 9 * 2 * HEADS * D * pairs;

describe("attention", () => {
  it("without documents counts what causality leaves, exactly", () => {
    expect(flops(2, 64, 64, {})).toBe(ofPairs(2 * 64 * 64));
    expect(flops(2, 64, 64, { causal: true })).toBe(ofPairs(2 * ((64 * 65) / 2)));
    expect(flops(1, 8, 64, { causal: true }), "8 queries behind 56 keys").toBe(ofPairs(8 * 56 + 36));
    expect(flops(1, 64, 8, { causal: true }), "56 queries that see nothing").toBe(ofPairs(36));
  });
  it("of packed rows counts the pairs within documents if the host made them, else an upper bound", () => {
    const documents = tensor(
      Int32Array.from({ length: 4096 }, (_, i) => Math.floor(i / 640)),
      { shape: [1, 4096] },
    );
    let exact = 0;
    for (let i = 0; i < 4096; i++) exact += (i % 640) + 1;
    expect(flops(1, 4096, 4096, { causal: true, documents }), "documents made from host data").toBe(ofPairs(exact));
    expect(flops(1, 4096, 4096, { documents })).toBe(ofPairs(6 * 640 ** 2 + 256 ** 2));
    F.castInto(documents, F.clone(documents));
    const bound = flops(1, 4096, 4096, { causal: true, documents });
    expect(bound).toBe(ofPairs((4096 * 4097) / 2));
    expect(bound / ofPairs(exact)).toBeGreaterThan(6.6);
    documents.dispose();
  });
  it("knows the documents of a large batch: 24 rows of 4096 tokens, with an id that comes twice in a row", () => {
    const ids = Int32Array.from({ length: 24 * 4096 }, (_, i) => Math.floor((i % 4096) / 1024) % 3); // 0, 1, 2, 0
    const documents = tensor(ids, { shape: [24, 4096] });
    const pairs = 24 * (of(2048) + 2 * of(1024));
    expect(flops(24, 4096, 4096, { causal: true, documents })).toBe(ofPairs(pairs));
    documents.dispose();
  });
});

describe("training", () => {
  const text = (tokens: number): Sample => {
    const ids = Array.from({ length: tokens }, (_, i) => i);
    return textSample("text", ids, ids);
  };

  it.each([false, true])("states the FLOPs of the samples, not of whole rows (layers recomputed: %s)", (recompute) => {
    const { layers, heads, headDim } = JANUS_TINY.language;
    const model = new JanusForConditionalGeneration(JANUS_TINY, { device, init: false });
    model.model.language_model.recompute = recompute;
    setStage(model, 2);
    const rows = layRows([[text(40), text(30), text(20)]], 100, 0, 64);
    let sum = 0;
    const listener = ({ pipeline, cost }: Launch): void => {
      if (/^attention_(?!delta|mask)/.test(pipeline.kernel.name)) sum += cost!.flops;
    };
    device.onLaunch(listener);
    scope(() => backward(totalLoss(taskLosses(model, rows, JANUS_TINY.vision.imageSize), 87)!));
    device.offLaunch(listener);
    model.dispose();
    const products = recompute ? 2 + 9 : 9;
    expect(sum).toBe(layers * products * 2 * heads * headDim * (of(40) + of(30) + of(20) + of(10)));
  });
});
