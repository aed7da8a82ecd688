/** The format of quantised weights: every group equals the float64 reference; round trips, padding, refusals. */
import { describe, expect, it } from "vitest";
import { Device } from "../../index.ts";
import { ConfigError, QuantizationError } from "../../model/io/errors.ts";
import { parseJsonObject } from "../../model/io/json.ts";
import { quantizationOf } from "../../model/janus/checkpoint/quantized.ts";
import { needsOf } from "../../model/janus/checkpoint/inspect.ts";
import { JANUS_PRO_1B, JANUS_PRO_7B } from "../../model/janus/config.ts";
import { JanusForConditionalGeneration } from "../../model/janus/janus.ts";
import { dequantizeRows, quantizeRows } from "../../model/io/quantize.ts";
import { quantizedBytes } from "../../kernels/matmul/quantized_format.ts";
import { f16Number, quantizedGroup } from "../reference/quantize.ts";
import { randomFrom } from "../random.ts";

const KINDS = [
  ["int8", 8],
  ["int4", 4],
] as const;

/** Rows of normal-like weights of several sizes, with a group of zeros and one of powers of two. */
function weights(rows: number, columns: number, seed: number): Float32Array {
  const random = randomFrom(seed);
  const w = Float32Array.from({ length: rows * columns }, (_, i) => {
    const size = 10 ** -(Math.floor(i / 32) % 4);
    return size * (random() + random() + random() - 1.5);
  });
  w.fill(0, 0, 32);
  for (let i = 32; i < Math.min(64, columns); i++) w[i] = 2 ** -(i % 12) * (i % 2 ? 1 : -1);
  return w;
}

describe.each(KINDS)("%s", (kind, bits) => {
  it.each([32, 64, 344, 4, 100])("%i columns: scales, values and words are those of the definition", (columns) => {
    const w = weights(5, columns, columns);
    const { words, scales } = quantizeRows(w, columns, kind);
    const groups = Math.ceil(columns / 32);
    expect([words.length, scales.length]).toEqual([5 * groups * bits, 5 * groups]);
    expect(words.byteLength + scales.byteLength).toBe(quantizedBytes(5, columns, kind));
    const back = dequantizeRows({ words, scales }, columns, kind);
    for (let n = 0; n < 5; n++)
      for (let g = 0; g < groups; g++) {
        const at = n * columns + 32 * g;
        const end = Math.min(at + 32, (n + 1) * columns);
        const { scale, q } = quantizedGroup([...w.subarray(at, end)], bits);
        expect(f16Number(scales[n * groups + g]!)).toBe(scale);
        expect(Array.from(back.subarray(at, end), (v) => v + 0)).toEqual(q.map((v) => v * scale + 0)); // −0 is 0
      }
  });

  it("a second round trip gives the same bits", () => {
    const w = weights(4, 96, 7);
    const first = quantizeRows(w, 96, kind);
    expect(quantizeRows(dequantizeRows(first, 96, kind), 96, kind)).toEqual(first);
  });

  it.each([NaN, Infinity, -Infinity])("%d is refused with the name of the tensor", (bad) => {
    const w = weights(2, 64, 1).with(70, bad);
    expect(() => quantizeRows(w, 64, kind, "lm_head.weight")).toThrow(QuantizationError);
    expect(() => quantizeRows(w, 64, kind, "lm_head.weight")).toThrow(
      `lm_head.weight: weights must be finite to be quantised; got ${bad}`,
    );
  });

  it("a weight beyond the range of the scale is refused; the largest within is not", () => {
    expect(() => quantizeRows(new Float32Array(32).fill(1e7), 32, kind, "w")).toThrow(
      /w: weights must be at most 65504/,
    );
    expect(quantizeRows(new Float32Array(32).fill(65504 * 8), 32, kind).scales[0]! & 0x7c00).not.toBe(0x7c00);
  });

  it("weights whose scale rounds to 0 become zeros", () => {
    const { words, scales } = quantizeRows(new Float32Array(32).fill(1e-9), 32, kind);
    expect([...scales]).toEqual([0]);
    expect([...dequantizeRows({ words, scales }, 32, kind)]).toEqual(new Array<number>(32).fill(0));
  });
});

it("stores the first value in the lowest bits", () => {
  const w = Float32Array.from({ length: 32 }, (_, i) => (i === 0 ? -8 : i % 8));
  expect(quantizeRows(w, 32, "int4")).toEqual({
    words: Uint32Array.of(0xfedcba90, 0xfedcba98, 0xfedcba98, 0xfedcba98),
    scales: Uint16Array.of(0x3c00),
  });
  const bytes = Float32Array.from({ length: 32 }, (_, i) => [127, -1, 2, -127][i % 4]!);
  expect(quantizeRows(bytes, 32, "int8")).toEqual({
    words: new Uint32Array(8).fill(0x8102ff7f),
    scales: Uint16Array.of(0x3c00),
  });
});

/** Bytes of the weights on the null device, in GB: what the pool counts for the model with random weights. */
const HELD = {
  "1B": [JANUS_PRO_1B, { bf16: 4.15, int8: 2.77, int4: 2.02 }],
  "7B": [JANUS_PRO_7B, { bf16: 14.82, int8: 8.65, int4: 5.36 }],
} as const;

it.each(Object.entries(HELD))("the weights of the %s model take what inspect says", async (_, [config, gigabytes]) => {
  const device = await Device.create({ backend: "null" });
  const needs = needsOf(config);
  for (const kind of ["bf16", "int8", "int4"] as const) {
    const quantize = kind === "bf16" ? undefined : kind;
    const model = new JanusForConditionalGeneration(config, { dtype: "bf16", init: false, device, ...(quantize && { quantize }) }); // prettier-ignore
    const { liveBytes } = device.pool.stats;
    expect(model.quantization).toBe(quantize ?? null);
    expect(liveBytes / (quantize ? needs.quantizedBytes[quantize] : needs.weightBytes.all)).toBeCloseTo(1, 3);
    expect(liveBytes / 1e9).toBeCloseTo(gigabytes[kind], 2);
    if (kind === "int4") expect(liveBytes).toBeLessThan(6e9);
    model.dispose();
  }
  device.destroy();
});

describe("quantization_config of a checkpoint", () => {
  const read = (section: object): unknown =>
    quantizationOf(
      parseJsonObject(new TextEncoder().encode(JSON.stringify({ quantization_config: section })), "config.json"),
      "config.json",
    );

  it("names one of our kinds, or a method that is not ours", () => {
    expect(read({ quant_method: "janus-webgpu", bits: 8, group_size: 32 })).toBe("int8");
    expect(read({ quant_method: "janus-webgpu", bits: 4, group_size: 32 })).toBe("int4");
    expect(read({ quant_method: "gptq", bits: 4 })).toBeNull();
  });

  it.each([
    { bits: 3, group_size: 32 },
    { bits: 4, group_size: 64 },
    { bits: 4, group_size: 32, zero: true },
  ])("%j is refused", (rest) => {
    expect(() => read({ quant_method: "janus-webgpu", ...rest })).toThrow(ConfigError);
  });
});
