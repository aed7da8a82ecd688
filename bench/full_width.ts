/**
 * `node scripts/run.mjs bench/full_width.ts FOLDER`, then `python bench/full_width.py FOLDER` (torch and transformers): two layers at the width of
 * the 7B model, prompt and decoding step, against transformers. This program writes weights, inputs and outputs; the other compares.
 */
import { mkdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { Device, F, nn, noGrad, scope, setDevice } from "../index.ts";
import type { Tensor } from "../index.ts";
import { JANUS_PRO_7B } from "../model/janus/config.ts";
import { KvCache, LlamaModel } from "../model/llama.ts";

const folder = process.argv[2];
if (!folder) {
  console.error("usage: node scripts/run.mjs bench/full_width.ts FOLDER");
  process.exit(2);
}
const TOKENS = 7;
mkdirSync(folder, { recursive: true });
const device = await Device.create();
setDevice(device);
const config = { ...JANUS_PRO_7B.language, layers: 2, vocabulary: 4 };
const model = new LlamaModel(config, { dtype: "bf16" }).setRequiresGrad(false);
const cache = new KvCache(config, 1, TOKENS + 1);
const x = F.randn([1, TOKENS + 1, config.hidden]).keep();
const y = noGrad(() =>
  scope(() => {
    const prompt = model.call(x.slice(1, 0, TOKENS).clone(), { positions: F.arange(TOKENS), cache });
    F.advance(cache.length, TOKENS);
    const step = model.call(x.slice(1, TOKENS, TOKENS + 1).clone(), { positions: cache.length.reshape([1, 1]), cache, decode: true }); // prettier-ignore
    return F.cat([prompt, step], 1);
  }),
);
const write = async (name: string, t: Tensor): Promise<void> =>
  writeFileSync(join(folder, `${name}.f32`), new Uint8Array(((await t.data()) as Float32Array).buffer));
await write("x", x);
await write("y", y);
writeFileSync(join(folder, "weights.safetensors"), await nn.save(model));
writeFileSync(join(folder, "config.json"), JSON.stringify(config));
device.destroy();
