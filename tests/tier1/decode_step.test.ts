/** A decoding step of a layer: in five launches it has the bits of one module after the other, for any weights and any number of rows. */
import "../quick_compile.ts";
import { expect, it } from "vitest";
import { F, noGrad, scope, tensor } from "../../index.ts";
import type { Tensor } from "../../index.ts";
import type { CacheDType } from "../../kernels/index.ts";
import { forceVariant } from "../../kernels/core/variants.ts";
import { KvCache, LlamaModel } from "../../model/llama.ts";
import { quantizedLayers } from "../../model/nn/quantized_linear.ts";
import { useDevice } from "../gpu.ts";
import { launchesIn } from "../golden.ts";
import { isLong } from "../long.ts";
import { randomFrom } from "../random.ts";

const device = useDevice();
const config = { vocabulary: 8, hidden: 64, intermediate: 128, layers: 1, heads: 4, kvHeads: 2, headDim: 32, eps: 1e-6, ropeTheta: 1e4 }; // prettier-ignore
const LENGTHS = [3, 70, 0, 64, 129];

function modelOf(quantize: "int8" | "int4" | null): LlamaModel {
  const model = new LlamaModel(config, { dtype: "bf16", ...(quantize && { quantize }) }).setRequiresGrad(false);
  const random = randomFrom(5);
  for (const [, layer] of quantizedLayers(model)) {
    layer.qweight.writeBytes(Uint8Array.from({ length: 4 * layer.qweight.size }, () => 256 * random()));
    const scales = Uint16Array.from({ length: layer.scales.size }, () => 0x1c00 + 1024 * random()); // about 1/200 in f16
    layer.scales.writeBytes(new Uint8Array(scales.buffer));
  }
  return model;
}

/** Bits of the states and caches of the first `rows` rows after a step. */
async function step(model: LlamaModel, rows: number, cacheDType: CacheDType): Promise<Uint32Array[]> {
  const cache = new KvCache(config, rows, 130, { dtype: cacheDType });
  const y = noGrad(() =>
    scope(() => {
      const random = randomFrom(7);
      const values = (shape: number[]): Tensor =>
        tensor(
          Float32Array.from({ length: shape.reduce((a, b) => a * b) }, () => 2 * random() - 1),
          { shape },
        );
      const x = values([5, 1, config.hidden]).slice(0, 0, rows).clone();
      const [keys, held] = [0, 1].map(() => values([5, 2, 130, 32]).slice(0, 0, rows));
      F.cacheWrite(cache.keys[0]!, cache.values[0]!, keys!, held!, cache.length); // a cache has no tokens at first
      F.copyInto(cache.length, tensor(Uint32Array.from(LENGTHS.slice(0, rows))));
      return model.call(x, { positions: cache.length.reshape([rows, 1]), cache, decode: true });
    }),
  );
  const all = [y, cache.keys[0]!, cache.values[0]!];
  const bits = await Promise.all(all.map(async (t) => new Uint32Array((await t.readBytes()).buffer)));
  cache.dispose();
  y.dispose();
  return bits;
}

const fused = <T>(fn: () => T): T => forceVariant("norm_linear", "fused", fn);
const withGpuVariants = <T>(fn: () => T): T =>
  forceVariant("rms_norm", "workgroup", () => forceVariant("matmul", "vector", () => forceVariant("matmul_quantized", "vector", fn))); // prettier-ignore

const ROWS = [
  ["bf16", null, "f32", false],
  ["int4", "int4", "bf16", false],
  ["bf16 with a cache of int8", null, "int8", false],
  ["int8", "int8", "f32", false],
  ["bf16 by the kernels of GPUs", null, "f32", true],
  ["int8 with a cache of int8, by the kernels of GPUs", "int8", "int8", true],
] as const;

it.each(isLong ? ROWS : ROWS.slice(0, 3))("%s", async (_, quantize, cacheDType, asGpu) => {
  const model = modelOf(quantize);
  const run = (rows: number): Promise<Uint32Array[]> =>
    fused(() => (asGpu ? withGpuVariants(() => step(model, rows, cacheDType)) : step(model, rows, cacheDType)));
  let own: Uint32Array[] = [];
  const counted: Promise<void>[] = [];
  const launches = launchesIn(device(), () => void counted.push(run(2).then((bits) => void (own = bits))));
  await Promise.all(counted);
  const kernels = launches.map(({ pipeline }) => pipeline.kernel.name).filter((name) => /^(matmul|rope|norm|attention)/.test(name)); // prettier-ignore
  expect(kernels).toHaveLength(6); // the layer's five and the last norm
  const hook = model.layers[0]!.mlp.registerForwardHook(() => undefined);
  expect(await run(2)).toEqual(own);
  hook.remove();
  const many = await run(LENGTHS.length);
  for (const [i, bits] of many.entries()) expect(bits.slice(0, own[i]!.length)).toEqual(own[i]);
  model.dispose();
});
