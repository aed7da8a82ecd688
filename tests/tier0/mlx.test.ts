/** Checkpoints that MLX quantised: values, conversion, quantising again, and what is refused. */
import { describe, expect, it } from "vitest";
import { ConfigError, QuantizationError, TensorMismatchError } from "../../model/io/errors.ts";
import { dequantizeRows, quantizeRows, requantizeInt4 } from "../../model/io/quantize.ts";
import { encodeSafetensors } from "../../model/io/safetensors.ts";
import { openCheckpoint } from "../../model/janus/checkpoint/checkpoint.ts";
import type { Checkpoint } from "../../model/janus/checkpoint/checkpoint.ts";
import { convertCheckpoint } from "../../model/janus/checkpoint/convert.ts";
import { inspect } from "../../model/janus/checkpoint/inspect.ts";
import { hfNames } from "../../model/janus/checkpoint/names.ts";
import { mainDType } from "../../model/janus/checkpoint/side_files.ts";
import { asMlx, plainTensors, withConfig } from "../checkpoint/mlx.ts";
import type { MlxFiles } from "../checkpoint/mlx.ts";
import { memorySink, sourceOfFiles, tensorsOf, tinyFiles } from "../checkpoint/tiny.ts";
import type { Files } from "../checkpoint/tiny.ts";
import { hasFixtures } from "../fixtures.ts";
import { randomFrom } from "../random.ts";

const usual = hasFixtures ? asMlx(tinyFiles("hf")) : null;

const open = (files: Files): Promise<Checkpoint> => openCheckpoint(sourceOfFiles(files));

async function expectValues(checkpoint: Checkpoint, values: MlxFiles["values"]): Promise<void> {
  for (const [name, expected] of values) {
    const source = checkpoint.parameters.get(name)!;
    expect([source.dtype, source.shape.at(-1)], name).toEqual(["f32", 128]);
    expect(Buffer.compare(await checkpoint.read(source), new Uint8Array(expected.buffer)), name).toBe(0);
  }
}

describe.skipIf(!hasFixtures)("the tiny checkpoint as MLX stores it", () => {
  it.each([
    [4, 64],
    [8, 32],
    [2, 128],
  ])("%i bits, groups of %i: every weight is scale · q + bias", async (bits, group) => {
    const { files, values } = bits === 4 ? await usual! : await asMlx(tinyFiles("hf"), bits, group);
    expect(values.size).toBe(20); // all but the three of 344 columns
    const checkpoint = await open(files);
    await expectValues(checkpoint, values);
    expect([checkpoint.quantization, mainDType(checkpoint), checkpoint.notices]).toEqual([null, "bf16", []]);
    const { dtypes, bytes } = inspect(checkpoint);
    expect(dtypes[`MLX ${bits}-bit, groups of ${group}`]!.tensors).toBe(20);
    expect(bytes).toBeLessThan(files.get("model.safetensors")!.length);
    await checkpoint.close();
  });

  it("is read under the names of the original, also without the prefix that MLX programs drop", async () => {
    const sink = memorySink();
    await convertCheckpoint(await open(tinyFiles("hf")), sink, { layout: "deepseek", sideFiles: tinyFiles("hf") });
    const { files, values } = await asMlx(sink.files);
    const short = (await plainTensors(files)).map((tensor) => ({
      ...tensor,
      name: tensor.name.replace(/^language_model\.(?=model\.|lm_head\.)/, ""),
    }));
    for (const one of [files, new Map([...files, ["model.safetensors", encodeSafetensors(short)]])]) {
      const checkpoint = await open(one);
      expect(checkpoint.layout).toBe("deepseek");
      await expectValues(checkpoint, new Map([...values].map(([name, weight]) => [hfNames(name)[0]!, weight])));
      await checkpoint.close();
    }
  });

  it("converts to float weights and to our format, and states the error of quantising again", async () => {
    const { files, values } = await usual!;
    const checkpoint = await open(files);
    const plain = memorySink();
    await convertCheckpoint(checkpoint, plain, { layout: "hf", dtype: "f32", sideFiles: files });
    const again = await open(plain.files);
    await expectValues(again, values);
    expect([...again.json.keys()].filter((key) => key.startsWith("quantization"))).toEqual([]);
    const notices: string[] = [];
    const int4 = memorySink();
    await convertCheckpoint(checkpoint, int4, { layout: "hf", quantize: "int4", sideFiles: files, onNotice: (m) => void notices.push(m) }); // prettier-ignore
    expect((await open(int4.files)).quantization).toBe("int4");
    expect(notices.length).toBe(1);
    expect(notices[0]).toMatch(
      /^weights .* were quantised again to int4: their relative error against the file is [\d.]+ %$/,
    );
    const written = await tensorsOf(int4.files.get("model.safetensors")!);
    const [words, scales] = ["qweight", "scales"].map((part) => written.get(`lm_head.${part}`)!.data.slice().buffer);
    const back = dequantizeRows({ words: new Uint32Array(words!), scales: new Uint16Array(scales!) }, 128, "int4");
    expect(relative(back, values.get("lm_head.weight")!)).toBeLessThan(0.1);
  });

  const configs: [string, object, RegExp][] = [
    ["3 bits", { quantization: { group_size: 64, bits: 3 }, quantization_config: null }, /quantization.bits must be 2 or 4 or 8; got 3/], // prettier-ignore
    ["groups of 16", { quantization: { group_size: 16, bits: 4 }, quantization_config: null }, /group_size must be 32 or 64 or 128; got 16/], // prettier-ignore
    ["another mode", { quantization: { group_size: 64, bits: 4, mode: "mxfp4" }, quantization_config: null }, /mode must be "affine"; got "mxfp4"/], // prettier-ignore
    ["a setting that is not known", { quantization: { group_size: 64, bits: 4, zero: 1 }, quantization_config: null }, /quantization.zero must be the format of a layer/], // prettier-ignore
    ["two settings that differ", { quantization_config: { group_size: 32, bits: 4 } }, /quantization_config must be equal to quantization/], // prettier-ignore
  ];
  it.each(configs)("refuses %s by name", async (_, json, message) => {
    const files = withConfig((await usual!).files, json);
    await expect(open(files)).rejects.toThrow(ConfigError);
    await expect(open(files)).rejects.toThrow(message);
  });

  it("refuses other groups than config.json says, a missing part, and layers that config.json excludes", async () => {
    const { files } = await usual!;
    const as = (format: object): Files => withConfig(files, { quantization: format, quantization_config: format });
    const wrong = as({ group_size: 32, bits: 4 });
    await expect(open(wrong)).rejects.toThrow(TensorMismatchError);
    await expect(open(wrong)).rejects.toThrow(/20 quantised tensors do not fit config.json/);
    const tensors = (await plainTensors(files)).filter(({ name }) => name !== "lm_head.biases");
    await expect(open(new Map([...files, ["model.safetensors", encodeSafetensors(tensors)]]))).rejects.toThrow(
      "missing: lm_head.biases, beside lm_head.scales",
    );
    await expect(open(as({ group_size: 64, bits: 4, lm_head: false }))).rejects.toThrow(
      "unexpected: lm_head.scales, config.json says that it is not quantised",
    );
    await expect(open(as({ group_size: 64, bits: 4, other: { group_size: 64, bits: 8 } }))).rejects.toThrow(
      "missing: other.scales, of a layer that config.json names",
    );
  });
});

const relative = (a: Float32Array, b: Float32Array): number =>
  Math.sqrt(a.reduce((sum, v, i) => sum + (v - b[i]!) ** 2, 0) / b.reduce((sum, v) => sum + v ** 2, 0));

describe("int4 again", () => {
  const random = randomFrom(5);
  const step = 2 ** -7;
  const steps = new Float32Array(64).fill(step);

  it("loses nothing of groups whose values are few enough multiples of a step, in either direction", () => {
    for (const [low, high] of [
      [-8, 7],
      [-7, 8],
      [0, 5],
    ] as const) {
      // prettier-ignore
      const values = Float32Array.from({ length: 64 * 32 }, () => step * (low + Math.floor(random() * (high - low + 1))));
      const { words, scales } = requantizeInt4(values, steps);
      expect(Array.from(dequantizeRows({ words, scales }, 64, "int4"), (v) => v + 0)).toEqual(Array.from(values, (v) => v + 0)); // prettier-ignore
    }
  });

  it.each([
    ["17 multiples", () => Math.floor(random() * 16 - 10.5)],
    ["one multiple beyond the range, often", () => (random() < 0.5 ? -9 : -2)],
    ["a step that is too small", () => 100 * random() - 50],
  ])("is never worse than plain int4: %s", (_, multiple) => {
    const values = Float32Array.from({ length: 64 * 32 }, () => step * multiple());
    const plain = dequantizeRows(quantizeRows(values, 64, "int4"), 64, "int4");
    const again = dequantizeRows(requantizeInt4(values, steps), 64, "int4");
    expect(relative(again, values)).toBeLessThanOrEqual(relative(plain, values));
  });

  it("refuses what is not finite, by name", () => {
    const values = new Float32Array(64 * 32).fill(step).with(70, NaN);
    expect(() => requantizeInt4(values, steps, "lm_head.weight")).toThrow(QuantizationError);
    expect(() => requantizeInt4(values, steps, "lm_head.weight")).toThrow("lm_head.weight: weights must be finite");
  });
});
