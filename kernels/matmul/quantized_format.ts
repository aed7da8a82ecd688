/** Names and sizes of the formats of quantised weights; `model/io/quantize.ts` describes and makes them. */

export type Quantization = "int8" | "int4";
/** Bits of a weight, without its share of the scale. */
export const QUANTIZED_BITS = { int8: 8, int4: 4 } as const satisfies Record<Quantization, number>;
/** Weights of a row that share a scale. */
export const GROUP = 32;

export const isQuantization = (value: unknown): value is Quantization =>
  typeof value === "string" && Object.hasOwn(QUANTIZED_BITS, value);

/** Bytes of a matrix of `rows` × `columns`: 0.5625 a weight in int4, 1.0625 in int8. */
export const quantizedBytes = (rows: number, columns: number, kind: Quantization): number =>
  rows * Math.ceil(columns / GROUP) * ((GROUP * QUANTIZED_BITS[kind]) / 8 + 2);
