/**
 * The whole Janus-Pro forward against what independent implementations compute with the tiny fixtures, from both checkpoint layouts, in f32
 * and with the weights left in bf16. Bounds are those of the fixtures' README.
 */
import { fileURLToPath } from "node:url";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { Device, F, noGrad, scope, tensor, tensorFromBytes } from "../../index.ts";
import type { DType, Tensor } from "../../index.ts";
import { openCheckpoint } from "../../model/janus/checkpoint/checkpoint.ts";
import { JanusForConditionalGeneration } from "../../model/janus/janus.ts";
import { KvCache } from "../../model/llama.ts";
import type { LlamaConfig } from "../../model/llama.ts";
import { folderSource } from "../../model/node/index.ts";
import { fixtureJson, golden, hasFixtures } from "../fixtures.ts";
import { relativeL2 } from "../harness.ts";
import { isLong } from "../long.ts";

const at = (name: string): Tensor => {
  const { data, shape } = golden(name);
  return tensor(data, { shape });
};

async function expectGolden(run: () => Tensor, name: string): Promise<void> {
  const y = noGrad(() => scope(run));
  const got = await y.data();
  const expected = golden(name).data;
  expect(got.length).toBe(expected.length);
  expect(relativeL2(got, expected), `${name}: relative L2`).toBeLessThanOrEqual(1e-4);
  expect(
    Math.max(...Array.from(expected, (v, i) => Math.abs(v - got[i]!))),
    `${name}: largest difference`,
  ).toBeLessThanOrEqual(2e-3);
  y.dispose();
}

// In the short form verify.test.ts computes all values of the other layout.
const MODELS = [["hf", "f32"], ["hf", "bf16"], ...(isLong ? ([["deepseek", "f32"]] as const) : [])] as const;

describe.skipIf(!hasFixtures).each(MODELS)("tiny, %s layout, %s weights", (layout, dtype: DType) => {
  let device: Device;
  let janus: JanusForConditionalGeneration;
  let language: LlamaConfig;
  let placeholder: number;

  beforeAll(async () => {
    device = await Device.create();
    const checkpoint = await openCheckpoint(
      folderSource(fileURLToPath(new URL(`../../../shared/fixtures/tiny/${layout}/`, import.meta.url))),
    );
    janus = new JanusForConditionalGeneration(checkpoint.config, { init: false, dtype });
    language = checkpoint.config.language;
    const state: Record<string, Tensor> = {};
    for (const [name, source] of checkpoint.parameters)
      state[name] = tensorFromBytes(await checkpoint.read(source), source.shape, source.dtype as DType);
    await janus.loadStateDict(state);
    for (const t of Object.values(state)) t.dispose();
    await checkpoint.close();
    placeholder = (fixtureJson("hf/config.json") as { image_token_id: number }).image_token_id;
  });
  afterAll(() => device.destroy());

  it("vision tower and aligner", async () => {
    await expectGolden(() => janus.model.vision_model.call(at("vision.pixels")), "vision.last_hidden");
    await expectGolden(() => janus.model.call(at("vision.pixels")), "vision.aligned");
  });

  it("image tokenizer: vectors, codes, reconstruction", async () => {
    const vq = janus.model.vqmodel;
    await expectGolden(() => vq.encodeVectors(at("vision.pixels")), "vq.z");
    await expectGolden(() => vq.decode(at("vq.codes")), "vq.reconstruction");
    const codes = noGrad(() => scope(() => vq.encode(at("vision.pixels"))));
    const margins = golden("vq.margin").data;
    const [got, expected] = [await codes.data(), golden("vq.codes").data];
    const wrong = Array.from(expected).filter((code, i) => margins[i]! > 1e-4 && got[i] !== code);
    expect(wrong).toEqual([]);
    codes.dispose();
  });

  it("text logits", async () => {
    await expectGolden(() => {
      const ids = at("text.input_ids");
      return janus.call(janus.embedText(ids), { positions: F.arange(ids.dim(1)) });
    }, "text.logits");
  });

  it("two image questions, left-padded: logits of the last position", async () => {
    const { data: mask, shape } = golden("und.attention_mask");
    const ids = golden("und.input_ids").data;
    const [rows, length] = shape as [number, number];
    const starts = Int32Array.from({ length: rows }, (_, b) => mask.subarray(b * length, (b + 1) * length).indexOf(1));
    const positions = Int32Array.from(ids, (_, i) => Math.max(0, (i % length) - starts[Math.floor(i / length)]!));
    let next = 0;
    const places = Int32Array.from(ids, (id) => (id === placeholder ? next++ : -1));
    await expectGolden(() => {
      const embeddings = janus.embedMixed(
        at("und.input_ids"),
        janus.model.call(at("und.pixels")),
        tensor(places, { shape: [rows, length] }),
      );
      return janus
        .call(embeddings, { positions: tensor(positions, { shape: [rows, length] }), starts: tensor(starts) })
        .select(1, -1);
    }, "und.last_logits");
  });

  /** Logits of token t of the text, behind those in the cache. */
  const decodeToken = (t: number, cache: KvCache): Tensor =>
    noGrad(() =>
      scope(() =>
        janus.call(janus.embedText(tensor(golden("text.input_ids").data.slice(t, t + 1), { shape: [1, 1] })), {
          positions: tensor(Int32Array.of(t)),
          cache,
          decode: true,
        }),
      ),
    );

  it("a token at a time against the cache gives the logits of the whole", async () => {
    const length = golden("text.input_ids").shape[1]!;
    const cache = new KvCache(language, 1, length);
    const expected = golden("text.logits");
    const vocabulary = expected.shape[2]!;
    for (let t = 0; t < length; t++) {
      const logits = decodeToken(t, cache);
      F.advance(cache.length, 1);
      expect(
        relativeL2(await logits.data(), expected.data.subarray(t * vocabulary, (t + 1) * vocabulary)),
        `token ${t}`,
      ).toBeLessThanOrEqual(1e-4);
      logits.dispose();
    }
    cache.dispose();
  });

  it("decodes a layer in fewer launches than its modules, with the same bits; modules with hooks are called", async () => {
    const layers = [...janus.model.language_model.layers];
    const decode = async (): Promise<{ logits: Float32Array; launches: number }> => {
      const cache = new KvCache(language, 1, 3);
      let launches = 0;
      const count = (): void => void launches++;
      janus.device.onLaunch(count);
      const logits: number[] = [];
      for (let t = 0; t < 3; t++) {
        using one = decodeToken(t, cache);
        F.advance(cache.length, 1);
        logits.push(...(await one.data()));
      }
      janus.device.offLaunch(count);
      cache.dispose();
      return { logits: Float32Array.from(logits), launches };
    };
    const fused = await decode();
    let called = 0;
    const hooks = layers.map((layer) => layer.mlp.registerForwardHook(() => void called++));
    const apart = await decode();
    for (const hook of hooks) hook.remove();
    expect(apart.logits).toEqual(fused.logits);
    expect(called).toBe(3 * layers.length);
    expect(fused.launches).toBeLessThan(apart.launches - 3 * 7 * layers.length);
    expect((await decode()).launches, "without hooks again").toBe(fused.launches);
  });
});
