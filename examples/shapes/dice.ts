/** Random numbers of the shapes: counter-based, so that sample n of a seed is the same whichever samples were made before it. */
import { philox, seedWords, unitFloat } from "../../engine/random.ts";

/** A sequence of random numbers that depends only on seed, stream (purpose) and index (sample). */
export class Dice {
  private readonly key: readonly [number, number];
  private readonly stream: number;
  private readonly index: number;
  private block = 0;
  private words: readonly number[] = [];
  private used = 4;

  /** @param seed a whole number from 0 to 2^53 − 1; @param stream and index whole numbers below 2^32 */
  constructor(seed: number, stream = 0, index = 0) {
    this.key = seedWords(seed);
    this.stream = stream;
    this.index = index;
  }

  /** In [0, 1). */
  unit(): number {
    if (this.used === 4) {
      this.words = philox([this.block++, this.index, this.stream, 0x5ca1e], this.key);
      this.used = 0;
    }
    return unitFloat(this.words[this.used++]!);
  }

  /** A whole number from 0 to n − 1. */
  int(n: number): number {
    return Math.floor(this.unit() * n);
  }

  /** In [low, high). */
  between(low: number, high: number): number {
    return low + (high - low) * this.unit();
  }

  chance(probability: number): boolean {
    return this.unit() < probability;
  }

  pick<T>(list: readonly T[]): T {
    if (list.length === 0) throw new RangeError("Dice.pick: the list is empty");
    return list[this.int(list.length)]!;
  }

  /** A new list in random order. */
  shuffle<T>(list: readonly T[]): T[] {
    const out = [...list];
    for (let i = out.length - 1; i > 0; i--) {
      const j = this.int(i + 1);
      [out[i], out[j]] = [out[j]!, out[i]!];
    }
    return out;
  }
}
