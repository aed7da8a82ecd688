/**
 * `node scripts/run.mjs bench/size_7b.ts bf16|int8|int4`: does the 7B model run on this machine at its full shape? With random weights it draws one
 * guided token of an image and answers with one token. Prints times, the memory of the device's account and the most that the process held.
 */
import { readFileSync } from "node:fs";
import { Device, F, noGrad, scope, setDevice } from "../index.ts";
import type { Quantization, Tensor } from "../index.ts";
import { textDecoder } from "../model/generate.ts";
import { JANUS_PRO_7B } from "../model/janus/config.ts";
import { ImageGeneration } from "../model/janus/generate_images.ts";
import { JanusForConditionalGeneration } from "../model/janus/janus.ts";
import { isFlagged } from "../model/decoding.ts";
import { quantizedLayers } from "../model/nn/quantized_linear.ts";

const kind = process.argv[2] ?? "";
if (!["bf16", "int8", "int4"].includes(kind)) {
  console.error("usage: node scripts/run.mjs bench/size_7b.ts bf16|int8|int4");
  process.exit(2);
}
const peak = (): string =>
  `${((Number(/VmHWM:\s*(\d+)/.exec(readFileSync("/proc/self/status", "utf8"))?.[1] ?? 0) * 1024) / 1e9).toFixed(1)} GB`;
const CHUNK = 16 * 2 ** 20;

/** Random values; of quantised weights random words, and scales that give rows about the norm of the others. */
async function fill(model: JanusForConditionalGeneration): Promise<void> {
  const norms = new Set([...model.namedParameters()].filter(([, t]) => t.rank === 1).map(([, t]) => t as Tensor));
  for (const [, t] of model.namedParameters()) {
    const bound = norms.has(t) ? 0 : 1 / Math.sqrt(t.dim(-1));
    const flat = [t.size];
    if (t.size % 2 === 0)
      noGrad(() => scope(() => F.copyInto(t.reshape(flat), bound ? F.uniform(flat, -bound, bound, { dtype: t.dtype }) : F.full(flat, 1, { dtype: t.dtype })))); // prettier-ignore
    model.device.pool.trim();
    await model.device.sync(); // else the host queues all temporaries at once, and they take as much memory as the weights
  }
  const words = Uint32Array.from({ length: CHUNK / 4 }, () => 2 ** 32 * Math.random());
  for (const [, layer] of quantizedLayers(model)) {
    const bytes = new Uint8Array(words.buffer);
    const size = 4 * layer.qweight.size;
    for (let at = 0; at < size; at += CHUNK) {
      layer.qweight.writeBytes(bytes.subarray(0, Math.min(CHUNK, size - at)), at);
      await model.device.throttle();
    }
    const scale = 1 / Math.sqrt(layer.inFeatures) / (layer.kind === "int4" ? 8 : 128);
    noGrad(() => scope(() => F.copyInto(layer.scales, F.full(layer.scales.shape, scale, { dtype: "f16" }))));
  }
  await model.device.sync();
}

const device = await Device.create();
setDevice(device);
const seconds = async <T>(what: string, run: () => T | Promise<T>): Promise<T> => {
  const started = performance.now();
  const result = await run();
  await device.sync();
  console.log(`${what}: ${((performance.now() - started) / 1000).toFixed(1)} s; peak memory of the process ${peak()}`);
  return result;
};
const quantize = kind === "bf16" ? {} : { quantize: kind as Quantization };
const model = new JanusForConditionalGeneration(JANUS_PRO_7B, { dtype: "bf16", init: false, device, ...quantize }).setRequiresGrad(false); // prettier-ignore
await seconds(`${device.name}, 7B in ${kind}, weights filled`, () => fill(model));
console.log(`weights on the device: ${(device.pool.stats.liveBytes / 1e9).toFixed(2)} GB`);
const ids = Array.from({ length: 16 }, (_, i) => 100 + i);
{
  const image = await seconds("prompt of an image read, two rows of 16 tokens", () => new ImageGeneration(model, JANUS_PRO_7B, [ids], 0, { seed: 1, cacheDType: "bf16" })); // prettier-ignore
  image.decoder.begin();
  await seconds("a guided token of an image", () => image.decoder.step());
  const [code] = await image.decoder.tokens.data();
  if (isFlagged(code!)) throw new Error("size_7b: the logits of the image token must be finite; got a flagged token.");
  console.log(`code ${code}`);
  image.dispose();
  device.pool.trim();
}
const text = await seconds("question of 16 tokens read", () => textDecoder(model, [{ ids }], { maxNewTokens: 2, temperature: 0 })); // prettier-ignore
text.begin();
await seconds("a token of the answer", () => text.step());
const [token] = await text.tokens.data();
if (isFlagged(token!)) throw new Error("size_7b: the logits of the token must be finite; got a flagged token.");
console.log(`token ${token}; peak of the device's account ${(device.pool.stats.peakBytes / 1e9).toFixed(2)} GB`);
text.dispose();
device.destroy();
