/** Quantised weights as values and in the model: rows keep their bits, what is refused, loading, generation, errors against bf16. */
import "../quick_compile.ts";
import { existsSync, readFileSync, writeFileSync } from "node:fs";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { ArgumentError, Device, DTypeError, F, QuantizedWeight, ShapeError, nn, noGrad, scope, setDevice, tensor } from "../../index.ts"; // prettier-ignore
import type { Tensor } from "../../index.ts";
import { quantizationErrors } from "../../bench/quantization.ts";
import { dequantizeRows, quantizeRows } from "../../model/io/quantize.ts";
import { openCheckpoint } from "../../model/janus/checkpoint/checkpoint.ts";
import { convertCheckpoint, planConversion } from "../../model/janus/checkpoint/convert.ts";
import { inspect } from "../../model/janus/checkpoint/inspect.ts";
import { folderSource, writeFolderAtomic } from "../../model/node/files.ts";
import { Janus } from "../../model/janus/node/janus.ts";
import { loadConfig } from "../../train/node/settings.ts";
import { Trainer } from "../../train/trainer.ts";
import { hasFixtures } from "../fixtures.ts";
import { isLong } from "../long.ts";
import { randomFrom } from "../random.ts";

const TINY = fileURLToPath(new URL("../../../shared/fixtures/tiny/hf", import.meta.url));
const KINDS = ["int8", "int4"] as const;

let device: Device;
beforeAll(async () => {
  device = await Device.create();
  setDevice(device);
});
afterAll(() => device.destroy());

const random = randomFrom(3);
const values = (n: number): Float32Array => Float32Array.from({ length: n }, () => random() - 0.5);

function weightOf(w: Float32Array, columns: number, kind: (typeof KINDS)[number]): QuantizedWeight {
  const { words, scales } = quantizeRows(w, columns, kind);
  const rows = w.length / columns;
  const stored = tensor(new Float32Array(scales.length), { shape: [rows, scales.length / rows], dtype: "f16" });
  stored.writeBytes(new Uint8Array(scales.buffer));
  return new QuantizedWeight(tensor(words, { shape: [rows, words.length / rows] }), stored, columns);
}

async function linear(x: Float32Array, columns: number, weight: Tensor | QuantizedWeight): Promise<Float32Array> {
  using y = noGrad(() => scope(() => F.linear(tensor(x, { shape: [x.length / columns, columns] }), weight)));
  return (await y.data()) as Float32Array;
}

describe.each(KINDS)("a weight in %s", (kind) => {
  // Rows of 512 have whole loads of scales.
  it.each([64, 512])(
    "gives a row of %i the same bits in any number of rows, close to the dequantised product",
    async (k) => {
      const n = 12;
      const w = values(n * k);
      const weight = weightOf(w, k, kind);
      const x = values(520 * k); // as many are dequantised once, on software devices
      const all = await linear(x, k, weight);
      for (const m of [1, 2, 3, 17]) expect(await linear(x.slice(0, m * k), k, weight)).toEqual(all.slice(0, m * n));
      const plain = tensor(dequantizeRows(quantizeRows(w, k, kind), k, kind), { shape: [n, k] });
      const expected = await linear(x, k, plain);
      expect(Math.max(...all.map((v, i) => Math.abs(v - expected[i]!)))).toBeLessThan(1e-5 * Math.sqrt(k / 64));
    },
  );

  it("gives NaN for a row with NaN or infinity, and no other row", async () => {
    const k = 64;
    const weight = weightOf(values(8 * k), k, kind);
    const y = await linear(
      values(3 * k)
        .with(5, NaN)
        .with(2 * k + 63, Infinity),
      k,
      weight,
    );
    expect(Array.from(y.slice(0, 8), Number.isNaN)).toEqual(new Array<boolean>(8).fill(true));
    expect(y.slice(8, 16).every(Number.isFinite)).toBe(true);
    expect(y.slice(16).some(Number.isFinite)).toBe(false);
  });
});

it("refuses other shapes and other dtypes by name", () => {
  const weight = weightOf(values(8 * 32), 32, "int4");
  const x = tensor(values(32), { shape: [1, 32], requiresGrad: true });
  expect(() => F.linear(x.detach().strided([1, 28], [32, 1]), weight)).toThrow(ShapeError);
  expect(() => F.linear(tensor(new Int32Array(32), { shape: [1, 32] }), weight)).toThrow(DTypeError);
  expect(() => F.linear(x.detach(), weight, tensor(values(7)))).toThrow(ShapeError);
  expect(() => new QuantizedWeight(weight.words, weight.scales, 30)).toThrow(ArgumentError);
  expect(() => new QuantizedWeight(weight.words, weight.scales, 36)).toThrow(ShapeError);
});

it("a layer has its parts in the state dict, and they survive a file bit for bit", async () => {
  const [layer, other] = [new nn.QuantizedLinear(36, 8, "int8"), new nn.QuantizedLinear(36, 8, "int8")];
  const { words, scales } = quantizeRows(values(8 * 36), 36, "int8");
  layer.qweight.writeBytes(new Uint8Array(words.buffer));
  layer.scales.writeBytes(new Uint8Array(scales.buffer));
  expect(Object.entries(layer.stateDict()).map(([name, t]) => [name, t.dtype, t.shape])).toEqual([
    ["qweight", "u32", [8, 16]],
    ["scales", "f16", [8, 2]],
    ["bias", "f32", [8]],
  ]);
  await nn.load(other, await nn.save(layer));
  expect(await other.qweight.readBytes()).toEqual(new Uint8Array(words.buffer));
  expect(await other.scales.readBytes()).toEqual(new Uint8Array(scales.buffer));
  expect(() => layer.weight).toThrow(
    /QuantizedLinear: the layer must have a weight that is not quantised; got one in int8/,
  );
});

describe.skipIf(!hasFixtures)("the tiny model", () => {
  it("errors against bf16 weights are small in int8 and bounded in int4", async () => {
    // The weights are random: every error counts.
    const most = { int8: 2e-3, int4: 0.3 };
    const kinds = isLong ? KINDS : (["int4"] as const);
    const changes = [...kinds.map((quantize) => ({ quantize })), { cacheDType: "int8" } as const];
    const errors = await quantizationErrors(TINY, device, changes, isLong);
    console.log(...errors);
    for (const { change, textKl, codesKl, weightBytes, bf16Bytes } of errors) {
      const bound = most[change.quantize ?? "int8"];
      expect(textKl).toBeGreaterThan(0);
      expect(textKl).toBeLessThan(bound);
      expect(codesKl).toBeLessThan(bound);
      if (change.quantize) expect(weightBytes).toBeLessThan(bf16Bytes);
      else expect(weightBytes).toBe(bf16Bytes);
    }
  });

  it("draws the same codes captured and eager, answers, and cannot be trained", async () => {
    const janus = await Janus.fromPretrained(TINY, { quantize: "int4" });
    // `verify` compares captured with eager steps.
    const [picture] = await janus.generate("a red square", { seed: 2, verify: true }).images();
    expect(picture!.tokenIds.length).toBe(64);
    expect((await janus.ask("What is this?", { maxNewTokens: 3 }).result()).tokenIds.length).toBeGreaterThan(0);
    expect(janus.fingerprint).toMatch(/-int4$/);
    expect(() => new Trainer(janus.model, janus.config, loadConfig("stage3"), 0)).toThrow(
      /Trainer: the model must not be quantised; got one in int4/,
    );
    janus.dispose();
  });

  it("loads a converted checkpoint with the bits of quantising while loading, and refuses what does not fit it", async () => {
    const parent = await mkdtemp(join(tmpdir(), "janus-quantised-"));
    const folder = join(parent, "out");
    try {
      const checkpoint = await openCheckpoint(folderSource(TINY));
      const sideFiles = new Map(["config.json", "tokenizer.json", "processor_config.json", "preprocessor_config.json"].flatMap((name) => existsSync(join(TINY, name)) ? [[name, new Uint8Array(readFileSync(join(TINY, name)))] as const] : [])); // prettier-ignore
      await writeFolderAtomic(
        folder,
        0,
        async (sink) => void (await convertCheckpoint(checkpoint, sink, { layout: "hf", quantize: "int4", sideFiles })),
      );
      await checkpoint.close();
      const [own, converted] = [
        await Janus.fromPretrained(TINY, { quantize: "int4" }),
        await Janus.fromPretrained(folder),
      ];
      expect(converted.model.quantization).toBe("int4");
      const theirs = converted.model.stateDict();
      for (const [name, t] of Object.entries(own.model.stateDict()))
        expect(Buffer.compare(await t.readBytes(), await theirs[name]!.readBytes()), name).toBe(0);
      own.dispose();
      converted.dispose();
      await expect(Janus.fromPretrained(folder, { quantize: "int8" })).rejects.toThrow(
        /loadModel: the checkpoint must not be quantised for quantize "int8"; got one in int4/,
      );
      const again = await openCheckpoint(folderSource(folder));
      expect(inspect(again).quantization).toBe("int4");
      expect(() => planConversion(again, { layout: "hf" })).toThrow(/convert: the checkpoint must not be quantised/);
      await again.close();
      const config = JSON.parse(readFileSync(join(folder, "config.json"), "utf8")) as { quantization_config: object };
      expect(config.quantization_config).toEqual({ quant_method: "janus-webgpu", bits: 4, group_size: 32 });
      writeFileSync(
        join(folder, "config.json"),
        JSON.stringify({ ...config, quantization_config: { ...config.quantization_config, bits: 8 } }),
      );
      await expect(openCheckpoint(folderSource(folder))).rejects.toThrow(
        /misshapen: model.language_model.layers.0.self_attn.q_proj.qweight, expected \[128, 32\], found \[128, 16\]/,
      );
    } finally {
      await rm(parent, { recursive: true });
    }
  });

  it("an unknown kind is refused before anything is loaded", async () => {
    await expect(Janus.fromPretrained(TINY, { quantize: "int3" as never })).rejects.toThrow(
      /quantize must be "int8" or "int4"; got int3/,
    );
  });
});
