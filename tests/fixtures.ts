/** The reference values of `fixtures/tiny` beside the repository (its README says what they are), and the deterministic fill of synthetic data. */
import { existsSync, readFileSync } from "node:fs";

const root = new URL("../../shared/fixtures/tiny/", import.meta.url);

/** False in a checkout that has no fixtures beside it: tests that need them are skipped. */
export const hasFixtures = existsSync(root);

export const fixtureBytes = (path: string): Uint8Array => new Uint8Array(readFileSync(new URL(path, root)));
export const fixtureText = (path: string): string => readFileSync(new URL(path, root), "utf8");
export const fixtureJson = (path: string): unknown => JSON.parse(fixtureText(path));

export interface GoldenTensor {
  readonly shape: readonly number[];
  readonly data: Float32Array | Int32Array;
}

/** A tensor of golden.safetensors (float32 or int32). Shares nothing with the project's reader. */
export function golden(name: string): GoldenTensor {
  const file = fixtureBytes("golden.safetensors");
  const headerBytes = Number(new DataView(file.buffer, file.byteOffset).getBigUint64(0, true));
  const header = JSON.parse(new TextDecoder().decode(file.subarray(8, 8 + headerBytes))) as Record<
    string,
    { dtype: string; shape: number[]; data_offsets: [number, number] }
  >;
  const entry = header[name];
  if (!entry) throw new Error(`no ${name} in golden.safetensors`);
  const [from, to] = entry.data_offsets.map((offset) => 8 + headerBytes + offset);
  const bytes = file.slice(from, to).buffer;
  return { shape: entry.shape, data: entry.dtype === "I32" ? new Int32Array(bytes) : new Float32Array(bytes) };
}

/** FNV-1a, 32 bits. */
export function fnv1a(bytes: Uint8Array): number {
  let hash = 0x811c9dc5;
  for (const byte of bytes) hash = Math.imul(hash ^ byte, 0x01000193);
  return hash >>> 0;
}

/** `count` numbers in [−1, 1) from a name: always the same ones. */
export function fill(name: string, count: number): Float64Array {
  const seed = fnv1a(new TextEncoder().encode(name));
  return Float64Array.from({ length: count }, (_, i) => {
    let u = (seed + Math.imul(i, 2654435761)) >>> 0;
    u ^= u >>> 16;
    u = Math.imul(u, 0x045d9f3b);
    u ^= u >>> 16;
    return ((u >>> 0) / 2 ** 32) * 2 - 1;
  });
}

/** Bytes from a name. */
export const fillBytes = (name: string, count: number): Uint8Array =>
  Uint8Array.from(fill(name, count), (r) => Math.floor(((r + 1) / 2) * 256));
