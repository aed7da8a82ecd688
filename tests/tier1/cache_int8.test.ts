/** A model whose caches are int8, on the tiny fixture: as an option of the model or of a call, with what it draws told apart and nothing wrong hidden. */
import { fileURLToPath } from "node:url";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { Device, NotFiniteError, setDevice } from "../../index.ts";
import { Janus } from "../../model/janus/node/index.ts";
import { cacheFor } from "../../model/decoding.ts";
import { hasFixtures } from "../fixtures.ts";
import { errorOf } from "../gpu.ts";

const TINY = fileURLToPath(new URL("../../../shared/fixtures/tiny/hf", import.meta.url));

describe.skipIf(!hasFixtures)("a cache of int8", () => {
  let device: Device;
  let janus: Janus;
  beforeAll(async () => {
    device = await Device.create({ poison: true });
    setDevice(device);
    janus = await Janus.fromPretrained(TINY, { device, cacheDType: "int8" });
  });
  afterAll(() => device.destroy());

  it("is that of the model if a call does not say, and takes 27 % of the bytes of f32", () => {
    const bytesOf = (cacheDType?: "f32"): number => {
      const before = device.pool.stats.liveBytes;
      const cache = cacheFor(janus.model, 2, 64, { ...(cacheDType && { cacheDType }) });
      const { liveBytes } = device.pool.stats;
      cache.dispose();
      return liveBytes - before;
    };
    const { layers, kvHeads, headDim } = janus.config.language;
    // Heads of 32: a byte a value and a word of scales, in place of 4 bytes a value.
    expect(bytesOf("f32") - bytesOf()).toBe(2 * layers * 2 * kvHeads * 64 * (4 * headDim - (headDim + 4)));
  });

  it("draws the same codes captured and eager, by the model's option and the call's, and says so in the fingerprint", async () => {
    const plain = await Janus.fromPretrained(TINY, { device });
    const [own] = await janus.generate("a red square", { seed: 2, verify: true }).images();
    const [asked] = await plain.generate("a red square", { seed: 2, cacheDType: "int8", eager: true }).images();
    const [full] = await plain.generate("a red square", { seed: 2 }).images();
    expect(asked!.tokenIds).toEqual(own!.tokenIds);
    expect(own!.model).toBe(`${plain.fingerprint}-kv_int8`);
    expect([asked!.model, full!.model]).toEqual([own!.model, plain.fingerprint]);
    plain.dispose();
  });

  it("hides no key or value that is not finite", async () => {
    for (const part of ["k_proj", "v_proj"] as const) {
      const broken = await Janus.fromPretrained(TINY, { device, cacheDType: "int8" });
      broken.model.model.language_model.layers[0]!.self_attn[part].weight.writeBytes(Uint8Array.of(0xc0, 0x7f));
      const error = await errorOf(() => broken.generate("a red square", { seed: 2 }).images());
      expect(error, part).toBeInstanceOf(NotFiniteError);
      broken.dispose();
    }
  });

  it("is refused by name if there is none such", async () => {
    const error = await errorOf(() => Janus.fromPretrained(TINY, { device, cacheDType: "int4" as never }));
    expect(error.message).toBe("loadModel: cacheDType must be f32, f16, bf16 or int8; got int4. Use one of them.");
  });
});
