/**
 * Element types: their size, their host arrays, and conversion between host numbers and stored bytes.
 * f16 and bf16 are stored two to a 32-bit word (even element in the low half), u8 four to a word; no GPU feature is needed for
 * any of them. Storage-only types of less than a byte (int4) would fit the table through `bits`.
 */
import { ArgumentError, DTypeError } from "./errors.ts";

export type DType = "f32" | "f16" | "bf16" | "i32" | "u32" | "u8";

interface DTypeInfo {
  readonly bits: number;
  readonly float: boolean;
}

export const DTYPES: Readonly<Record<DType, DTypeInfo>> = {
  f32: { bits: 32, float: true },
  f16: { bits: 16, float: true },
  bf16: { bits: 16, float: true },
  i32: { bits: 32, float: false },
  u32: { bits: 32, float: false },
  u8: { bits: 8, float: false },
};

/** True for f32, f16 and bf16. */
export const isFloat = (dtype: DType): boolean => DTYPES[dtype].float;

/** Bytes that `count` elements take in a storage, padded to 16 so that every kernel may read whole vec4 granules. */
export const storageBytes = (dtype: DType, count: number): number =>
  Math.max(16, Math.ceil((count * DTYPES[dtype].bits) / 128) * 16);

/** Bytes of `count` elements without padding. */
export const elementBytes = (dtype: DType, count: number): number => (count * DTYPES[dtype].bits) / 8;

/** Throws `DTypeError` if `dtype` is not in the table. */
export function checkDType(dtype: string): asserts dtype is DType {
  if (!Object.hasOwn(DTYPES, dtype)) {
    throw new DTypeError(
      `dtype must be one of ${Object.keys(DTYPES).join(", ")}; got ${JSON.stringify(dtype)}. Use one of them.`,
    );
  }
}

const scratchF32 = new Float32Array(1);
const scratchU32 = new Uint32Array(scratchF32.buffer);

function f32Bits(value: number): number {
  scratchF32[0] = value;
  return scratchU32[0]!;
}

function f32Value(bits: number): number {
  scratchU32[0] = bits;
  return scratchF32[0]!;
}

/** The bf16 bits nearest to `value` (ties to even; NaN stays NaN). */
export function bf16Bits(value: number): number {
  scratchF32[0] = value;
  const u = scratchU32[0]!;
  if ((u & 0x7fffffff) > 0x7f800000) return (u >>> 16) | 0x40;
  return ((u + 0x7fff + ((u >>> 16) & 1)) >>> 16) & 0xffff;
}

/** The number that bf16 `bits` stand for. */
export function bf16Value(bits: number): number {
  scratchU32[0] = bits << 16;
  return scratchF32[0]!;
}

/** The f16 bits nearest to `value` (ties to even; infinity beyond 65504). */
export function f16Bits(value: number): number {
  scratchF32[0] = value;
  const u = scratchU32[0]!;
  const sign = (u >>> 16) & 0x8000;
  const abs = u & 0x7fffffff;
  if (abs > 0x7f800000) return sign | 0x7e00;
  if (abs >= 0x477ff000) return sign | 0x7c00;
  if (abs < 0x38800000) {
    // Subnormal in f16: units of 2^-24.
    const scaled = Math.abs(scratchF32[0]!) * 16777216;
    const floor = Math.floor(scaled);
    const rest = scaled - floor;
    return sign | (rest > 0.5 || (rest === 0.5 && (floor & 1) === 1) ? floor + 1 : floor);
  }
  return sign | ((abs - 0x38000000 + 0xfff + ((abs >>> 13) & 1)) >>> 13);
}

/** The number that f16 `bits` stand for. */
export function f16Value(bits: number): number {
  const sign = bits & 0x8000 ? -1 : 1;
  const exponent = (bits >>> 10) & 31;
  const fraction = bits & 1023;
  if (exponent === 31) return fraction ? NaN : sign * Infinity;
  return exponent === 0 ? sign * fraction * 2 ** -24 : sign * (1 + fraction / 1024) * 2 ** (exponent - 15);
}

/** The largest finite number of a floating dtype. */
export const LARGEST: Readonly<Partial<Record<DType, number>>> = {
  f32: (2 - 2 ** -23) * 2 ** 127,
  f16: 65504,
  bf16: (2 - 2 ** -7) * 2 ** 127,
};

/** Rounds a number to a floating dtype (to infinity beyond its largest); returns it unchanged for integer dtypes. */
export function roundTo(value: number, dtype: DType): number {
  if (dtype === "f16") return f16Value(f16Bits(value));
  if (dtype === "bf16") return bf16Value(bf16Bits(value));
  return dtype === "f32" ? Math.fround(value) : value;
}

/** The smallest and largest value of an integer dtype; null for a floating one. */
export function integerRange(dtype: DType): readonly [number, number] | null {
  if (isFloat(dtype)) return null;
  const { bits } = DTYPES[dtype];
  return dtype === "i32" ? [-(2 ** (bits - 1)), 2 ** (bits - 1) - 1] : [0, 2 ** bits - 1];
}

/**
 * Throws `ArgumentError` if `dtype` is an integer dtype that does not represent `value` exactly. Floating dtypes round,
 * so they accept any number. Every op that takes a host number for a tensor calls this before it allocates or launches
 * anything.
 */
export function checkNumber(op: string, value: number, dtype: DType): void {
  const range = integerRange(dtype);
  if (!range || (Number.isInteger(value) && value >= range[0] && value <= range[1])) return;
  throw new ArgumentError(
    `${op}: a number for ${dtype} must be a whole number from ${range[0]} to ${range[1]}; got ${value}. Cast the tensor to f32, or use another dtype.`,
  );
}

/**
 * Returns the smallest and the largest value of a floating dtype in [low, high); null if there is none. Devices may
 * treat a subnormal f32 or bf16 as 0, so 0 is the only value below 2^−126 that counts.
 */
export function halfOpenRange(dtype: DType, low: number, high: number): readonly [number, number] | null {
  // Bit patterns in the order of their values: key 0 is zero, −key the negative of key.
  const [bits, value, sign]: [(v: number) => number, (bits: number) => number, number] =
    dtype === "f16"
      ? [f16Bits, f16Value, 0x8000]
      : dtype === "bf16"
        ? [bf16Bits, bf16Value, 0x8000]
        : [f32Bits, f32Value, 0x80000000];
  const keyOf = (v: number): number => (bits(v) >= sign ? sign - bits(v) : bits(v));
  const valueOf = (key: number): number => (key < 0 ? -value(-key) : value(key));
  let first = keyOf(low);
  while (valueOf(first) < low) first++;
  if (isSubnormal(valueOf(first))) first = first < 0 ? 0 : keyOf(MIN_NORMAL);
  let last = keyOf(high);
  while (valueOf(last) >= high) last--;
  if (isSubnormal(valueOf(last))) last = last > 0 ? 0 : keyOf(-MIN_NORMAL);
  return first <= last ? [valueOf(first), valueOf(last)] : null;
}

/** The smallest normal number of f32 and bf16. */
const MIN_NORMAL = 2 ** -126;
const isSubnormal = (value: number): boolean => value !== 0 && Math.abs(value) < MIN_NORMAL;

export type HostArray = Float32Array | Int32Array | Uint32Array | Uint8Array;

/** Converts host numbers to stored bytes. Throws `ArgumentError` for integers out of range. */
export function encode(values: ArrayLike<number>, dtype: DType): Uint8Array {
  const n = values.length;
  switch (dtype) {
    case "f32":
      return bytesOf(values instanceof Float32Array ? values : Float32Array.from(values));
    case "f16":
    case "bf16": {
      const out = new Uint16Array(n);
      const bits = dtype === "f16" ? f16Bits : bf16Bits;
      for (let i = 0; i < n; i++) out[i] = bits(values[i]!);
      return bytesOf(out);
    }
    default: {
      const kind = { i32: Int32Array, u32: Uint32Array, u8: Uint8Array }[dtype];
      if (values instanceof kind) return bytesOf(values);
      const out = new kind(n);
      for (let i = 0; i < n; i++) {
        out[i] = values[i]!;
        if (out[i] !== values[i])
          throw new ArgumentError(
            `values for dtype ${dtype} must be whole numbers from ${integerRange(dtype)!.join(" to ")}; got ${values[i]} at index ${i}. Use another dtype, or convert the values.`,
          );
      }
      return bytesOf(out);
    }
  }
}

const tables = new Map<DType, Float32Array>();

/** The numbers of all 65,536 bit patterns of a 16-bit dtype, computed once. */
function valuesOf(dtype: "f16" | "bf16"): Float32Array {
  let table = tables.get(dtype);
  if (!table) {
    const valueOf = dtype === "f16" ? f16Value : bf16Value;
    tables.set(dtype, (table = Float32Array.from({ length: 2 ** 16 }, (_, bits) => valueOf(bits))));
  }
  return table;
}

/** Converts `count` elements of stored bytes to host numbers; f16 and bf16 become a Float32Array. */
export function decode(bytes: Uint8Array, dtype: DType, count: number): HostArray {
  const copy = bytes.slice();
  switch (dtype) {
    case "f32":
      return new Float32Array(copy.buffer, 0, count);
    case "i32":
      return new Int32Array(copy.buffer, 0, count);
    case "u32":
      return new Uint32Array(copy.buffer, 0, count);
    case "u8":
      return new Uint8Array(copy.buffer, 0, count);
    default: {
      const half = new Uint16Array(copy.buffer, 0, count);
      const values = valuesOf(dtype);
      const out = new Float32Array(count);
      for (let i = 0; i < count; i++) out[i] = values[half[i]!]!;
      return out;
    }
  }
}

const bytesOf = (array: ArrayBufferView): Uint8Array =>
  new Uint8Array(array.buffer, array.byteOffset, array.byteLength);
