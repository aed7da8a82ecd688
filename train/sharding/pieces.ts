/** Which elements of a parameter belong to which rank: one range each, of nearly equal size. */

/** Pieces begin at multiples of this many elements, so that kernels can bind them and write them in place. */
const UNIT = 256;

/** Elements of a tensor, in row-major order. */
export interface Range {
  readonly start: number;
  readonly count: number;
}

/** The range of rank `rank` of `ranks`; empty for some ranks if the tensor is small. Rank 0 has some of every tensor. */
export function pieceOf(size: number, rank: number, ranks: number): Range {
  const share = UNIT * Math.ceil(Math.ceil(size / UNIT) / ranks);
  const start = Math.min(size, rank * share);
  return { start, count: Math.min(size - start, share) };
}

/** The elements that two ranges have in common; a count of 0 if there are none. */
export function overlap(a: Range, b: Range): Range {
  const start = Math.max(a.start, b.start);
  return { start, count: Math.max(0, Math.min(a.start + a.count, b.start + b.count) - start) };
}

/** One array of all bytes of `parts`. */
export function joined(parts: readonly Uint8Array[]): Uint8Array {
  if (parts.length === 1) return parts[0]!;
  const all = new Uint8Array(parts.reduce((sum, { length }) => sum + length, 0));
  let at = 0;
  for (const part of parts) {
    all.set(part, at);
    at += part.length;
  }
  return all;
}

/** The first items together of at most `limit` bytes, at least one; then the next, and so on. */
export function batchesOf<T>(items: readonly T[], bytesOf: (item: T) => number, limit: number): T[][] {
  const batches: T[][] = [];
  let room = 0;
  for (const item of items) {
    if (!batches.length || bytesOf(item) > room) {
      batches.push([]);
      room = limit;
    }
    batches.at(-1)!.push(item);
    room -= bytesOf(item);
  }
  return batches;
}
