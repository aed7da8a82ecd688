/** Stored floats of one dtype as those of another, on the host, fast enough for whole checkpoints. */
import { bf16Value, f16Bits, f16Value } from "../../engine/dtype.ts";
import { CheckpointError } from "./errors.ts";

export type FloatDType = "f32" | "f16" | "bf16";
export const isFloatDType = (dtype: string): dtype is FloatDType =>
  dtype === "f32" || dtype === "f16" || dtype === "bf16";

const BYTES = { f32: 4, f16: 2, bf16: 2 } as const;
/** f32 bits of each of the 65,536 patterns of f16; bf16 needs no table. */
const f16AsF32 = once(() => new Uint32Array(Float32Array.from({ length: 65_536 }, (_, bits) => f16Value(bits)).buffer));
/** f16 bits of each bf16 pattern. */
const bf16AsF16 = once(() => Uint16Array.from({ length: 65_536 }, (_, bits) => f16Bits(bf16Value(bits))));

function once<T>(make: () => T): () => T {
  let made: T | undefined;
  return () => (made ??= make());
}

/** f32 bits as the nearest bf16 bits, ties to even; NaN stays NaN. */
const bf16OfF32 = (u: number): number =>
  (u & 0x7fffffff) > 0x7f800000 ? (u >>> 16) | 0x40 : ((u + 0x7fff + ((u >>> 16) & 1)) >>> 16) & 0xffff;

/**
 * `bytes` of dtype `from` as bytes of dtype `to`, rounded to the nearest, ties to even. Throws `CheckpointError` in the name of `name`
 * when a finite number would become infinite (f16 ends at 65504).
 */
export function castFloats(bytes: Uint8Array, from: FloatDType, to: FloatDType, name: string): Uint8Array {
  if (from === to) return bytes;
  const count = bytes.length / BYTES[from];
  // Typed arrays need an aligned start; pieces of a file in memory may have none.
  const aligned = bytes.byteOffset % BYTES[from] === 0 ? bytes : bytes.slice();
  const input =
    from === "f32"
      ? new Uint32Array(aligned.buffer, aligned.byteOffset, count)
      : new Uint16Array(aligned.buffer, aligned.byteOffset, count);
  const output = to === "f32" ? new Uint32Array(count) : new Uint16Array(count);
  if (from === "bf16" && to === "f32") for (let i = 0; i < count; i++) output[i] = input[i]! << 16;
  else if (from === "bf16") fromTable(input, output, bf16AsF16());
  else if (from === "f32" && to === "bf16") for (let i = 0; i < count; i++) output[i] = bf16OfF32(input[i]!);
  else if (from === "f32") {
    const values = new Float32Array(aligned.buffer, aligned.byteOffset, count);
    for (let i = 0; i < count; i++) output[i] = f16Bits(values[i]!);
  } else {
    const table = f16AsF32();
    if (to === "f32") fromTable(input, output, table);
    else for (let i = 0; i < count; i++) output[i] = bf16OfF32(table[input[i]!]!);
  }
  if (to !== "f32") checkFinite(input, from, output, to, name);
  return new Uint8Array(output.buffer);
}

function fromTable(
  input: Uint16Array | Uint32Array,
  output: Uint16Array | Uint32Array,
  table: Uint16Array | Uint32Array,
): void {
  for (let i = 0; i < input.length; i++) output[i] = table[input[i]!]!;
}

const INFINITY = { f32: 0x7f800000, f16: 0x7c00, bf16: 0x7f80 } as const;

function checkFinite(
  input: Uint16Array | Uint32Array,
  from: FloatDType,
  output: Uint16Array | Uint32Array,
  to: FloatDType,
  name: string,
): void {
  const magnitude = from === "f32" ? 0x7fffffff : 0x7fff;
  const [infinity, was] = [INFINITY[to], INFINITY[from]];
  for (let i = 0; i < output.length; i++) {
    if ((output[i]! & 0x7fff) === infinity && (input[i]! & magnitude) < was) {
      throw new CheckpointError(
        `${name} holds numbers beyond the range of ${to}; convert to ${to === "f16" ? "bf16 or f32" : "f32"}`,
      );
    }
  }
}
