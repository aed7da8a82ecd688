/**
 * The order of samples: a keyed permutation of n items, computed at any position without a table. Nothing is shuffled and nothing is saved:
 * a key and a position say which item it is, on every machine, for ever (the values are committed in the tests).
 * A Feistel network over the smallest even power of two from n on, with cycle walking (Black and Rogaway 2002), Philox as round function.
 */
import { createHash } from "node:crypto";
import { ArgumentError } from "../../engine/errors.ts";
import { philox, seedWords } from "../../engine/random.ts";

/** What chooses a permutation: two 32-bit words. */
export type OrderKey = readonly [number, number];

/** Of at most so many items: halves of 26 bits, whose product is still a whole number. */
const MOST = 2 ** 52;
/** Four are enough for large domains; in those of a few items the order is not yet even then. */
const ROUNDS = 8;

/** The first 64 bits of SHA-256 of a name, as words for a Philox counter. */
export function nameWords(name: string): [number, number] {
  const digest = createHash("sha256").update(name).digest();
  return [digest.readUInt32LE(0), digest.readUInt32LE(4)];
}

/** The key of an epoch's order: another one for each seed, name (of a task or source) and epoch. */
export function orderKey(seed: number, name: string, epoch: number): OrderKey {
  const [low, high] = philox([...nameWords(name), ...seedWords(epoch)], seedWords(seed));
  return [low, high];
}

/** Which of `n` items stands at position `i`: over all positions, each item once. */
export function permute(key: OrderKey, n: number, i: number): number {
  if (!Number.isInteger(n) || n < 1 || n > MOST)
    throw new ArgumentError(`permute: ${n} items; a whole number from 1 to 2^52`);
  if (!Number.isInteger(i) || i < 0 || i >= n)
    throw new ArgumentError(`permute: position ${i} of ${n} items; a whole number from 0 to ${n - 1}`);
  let bits = 1; // of a half
  while (4 ** bits < n) bits++;
  const half = 2 ** bits;
  let at = i;
  do at = encipher(key, half, at);
  while (at >= n); // the domain has at most 4 n − 3 places: four turns on average at the most
  return at;
}

/** A permutation of 0 … half² − 1. */
function encipher(key: OrderKey, half: number, at: number): number {
  let left = Math.floor(at / half);
  let right = at % half;
  for (let round = 0; round < ROUNDS; round++) {
    const [word] = philox([right, round, half, 0], key);
    [left, right] = [right, (left ^ (word & (half - 1))) >>> 0];
  }
  return left * half + right;
}
