/** A model whose caches are int8, on the tiny fixture: as an option of the model or of a call, with a fingerprint of its own; and what is not finite in it. */
import { fileURLToPath } from "node:url";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { Device, F, scope, setDevice, tensor } from "../../index.ts";
import { cacheStorage } from "../../kernels/attention/cache_format.ts";
import { Janus } from "../../model/janus/node/index.ts";
import { cacheFor } from "../../model/decoding.ts";
import { hasFixtures } from "../fixtures.ts";
import { errorOf, useDevice } from "../gpu.ts";

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

  it("is refused by name if there is none such", async () => {
    const error = await errorOf(() => Janus.fromPretrained(TINY, { device, cacheDType: "int4" as never }));
    expect(error.message).toBe("loadModel: cacheDType must be f32, f16, bf16 or int8; got int4. Use one of them.");
  });
});

describe("a value of a cache of int8 that is not finite", () => {
  const device = useDevice();
  const [tokens, d] = [3, 72];

  /** Attention of a query to 3 keys, one of whose parts has `special` in element 40 of the second. */
  async function attend(part: "key" | "value", special: number): Promise<Float32Array> {
    const values = (of: string): Float32Array => {
      const data = Float32Array.from({ length: tokens * d }, (_, i) => Math.sin(i));
      return of === part ? data.with(d + 40, special) : data;
    };
    const y = scope(() => {
      const [k, v] = ["key", "value"].map((of) => tensor(values(of), { shape: [1, 1, tokens, d], device: device() }));
      const { dtype, columns } = cacheStorage("int8", d);
      const [keys, held] = [k!, v!].map(() => F.zeros([1, 1, tokens, columns], { dtype, device: device() }));
      F.cacheWrite(keys!, held!, k!, v!, tensor(Uint32Array.of(0), { device: device() }));
      return F.attentionDecode(
        k!.slice(2, 0, 1),
        keys!,
        held!,
        tensor(Uint32Array.of(tokens - 1), { device: device() }),
      );
    });
    return y.data().finally(() => y.dispose()) as Promise<Float32Array>;
  }

  it.each([NaN, Infinity, -Infinity, 1e39])(
    "%s: NaN in all that shares its scale, all else as before",
    async (special) => {
      expect((await attend("key", special)).every(Number.isNaN)).toBe(true);
      const [broken, whole] = [await attend("value", special), await attend("value", Math.sin(d + 40))];
      expect([...broken].map(Number.isNaN)).toEqual(Array.from({ length: d }, (_, i) => i >= 32 && i < 64));
      expect([...broken].filter((_, i) => i < 32 || i >= 64)).toEqual([...whole].filter((_, i) => i < 32 || i >= 64));
    },
  );
});
