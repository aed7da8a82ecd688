/**
 * Counter-based random numbers (Philox 4×32-10, Salmon et al. 2011): each value is a function of seed, step, site and
 * index, so there is no state to save, and any value can be computed again. The kernels compute the same values in
 * `kernels/core/lib/philox.wgsl`.
 */
import { ArgumentError } from "./errors.ts";
import { getDevice } from "./device.ts";
import type { Device } from "./device.ts";
import { knownOptions } from "./options.ts";
import { tensor } from "./tensor.ts";
import type { Tensor } from "./tensor.ts";

/** Returns four 32-bit words for a 128-bit counter and a 64-bit key. */
export function philox(
  counter: readonly [number, number, number, number],
  key: readonly [number, number],
): [number, number, number, number] {
  let [c0, c1, c2, c3] = counter;
  let [k0, k1] = key;
  for (let round = 0; round < 10; round++) {
    const [h0, l0] = mulWide(0xd2511f53, c0);
    const [h1, l1] = mulWide(0xcd9e8d57, c2);
    [c0, c1, c2, c3] = [(h1 ^ c1 ^ k0) >>> 0, l1, (h0 ^ c3 ^ k1) >>> 0, l0];
    k0 = (k0 + 0x9e3779b9) >>> 0;
    k1 = (k1 + 0xbb67ae85) >>> 0;
  }
  return [c0, c1, c2, c3];
}

function mulWide(a: number, b: number): [number, number] {
  const al = a & 0xffff;
  const ah = a >>> 16;
  const bl = b & 0xffff;
  const bh = b >>> 16;
  const low = al * bl;
  const mid = ah * bl + (low >>> 16);
  const mid2 = al * bh + (mid & 0xffff);
  const high = ah * bh + Math.floor(mid / 65536) + (mid2 >>> 16);
  return [high >>> 0, ((mid2 << 16) | (low & 0xffff)) >>> 0];
}

/** Converts the upper 24 bits of a 32-bit word to a number in [0, 1). */
export const unitFloat = (word: number): number => (word >>> 8) / 16777216;

/**
 * Source of random numbers for ops: a seed and a step in a GPU buffer, so that captured programs advance to the next
 * step with a write to it. Ops add a `site` (the number of the op in the program) and the index of the element.
 */
export class Generator {
  /** u32 [4]: seed low, seed high, step, sample. */
  readonly state: Tensor;
  private words: [number, number, number, number];

  /** @param seed a whole number from 0 to 2^53 − 1 */
  constructor(seed: number, options: { device?: Device } = {}) {
    knownOptions("Generator", options, ["device"]);
    this.words = [...seedWords(seed), 0, 0];
    this.state = tensor(Uint32Array.from(this.words), options).keep();
  }

  get seed(): number {
    return this.words[1] * 2 ** 32 + this.words[0];
  }

  get step(): number {
    return this.words[2];
  }

  /**
   * Sets the step, and the sample within it; the same seed, step and sample give the same numbers. Throws
   * `ArgumentError` if one is not a 32-bit word.
   */
  setStep(step: number, sample = 0): void {
    if (!isWord(step))
      throw new ArgumentError(
        `Generator.setStep: step must be a whole number from 0 to 2^32 − 1; got ${step}. Change it.`,
      );
    if (!isWord(sample))
      throw new ArgumentError(
        `Generator.setStep: sample must be a whole number from 0 to 2^32 − 1; got ${sample}. Change it.`,
      );
    const words: [number, number, number, number] = [this.words[0], this.words[1], step, sample];
    this.state.device.write(
      { storage: this.state.storage, offset: 0, size: 16 },
      new Uint8Array(Uint32Array.from(words).buffer),
    );
    this.words = words; // after the write: a refused one throws
  }

  dispose(): void {
    this.state.dispose();
  }
}

/** State of the draws without a generator: their seed and number so far. */
export interface DefaultDraws {
  readonly seed: number;
  readonly calls: number;
}

let defaults: ReadonlyMap<Device, DefaultDraws> = new Map();

/** Sets the state of the draws of `device`; removes it if the device is destroyed. */
function putDraws(device: Device, draws: DefaultDraws): void {
  defaults = new Map([...defaults].filter(([other]) => !other.isGone)).set(device, draws);
}

/** Returns the state of the draws of all devices. */
export const allDraws = (): ReadonlyMap<Device, DefaultDraws> => defaults;

/** Returns the state of the draws of `device` without a generator; initially seed 0. */
export const defaultDraws = (device: Device): DefaultDraws => defaults.get(device) ?? { seed: 0, calls: 0 };

/** Seeds the draws of random ops without a generator, and restarts them. */
export function manualSeed(seed: number, device = getDevice()): void {
  seedWords(seed);
  putDraws(device, { seed, calls: 0 });
}

/** Returns the generator for an op without one: the default seed, and a new site each time. The caller disposes it. */
export function defaultDraw(device: Device): { generator: Generator; site: number } {
  const { seed, calls } = defaultDraws(device);
  const generator = new Generator(seed, { device }); // may throw, and then nothing was drawn
  putDraws(device, { seed, calls: calls + 1 });
  return { generator, site: calls };
}

/**
 * Runs `fn` with the state of the draws without a generator set to `from`, so that it repeats those draws. Restores the
 * state afterwards.
 */
export function withDraws<T>(from: ReadonlyMap<Device, DefaultDraws>, fn: () => T): T {
  const before = defaults;
  defaults = from;
  try {
    return fn();
  } finally {
    defaults = before;
  }
}

const isWord = (value: number): boolean => Number.isInteger(value) && value >= 0 && value <= 0xffffffff;

/** Throws `ArgumentError` if `site`, the number of the op in the program, is not a 32-bit word. */
export function checkSite(op: string, site: number): void {
  if (!isWord(site))
    throw new ArgumentError(`${op}: site must be a whole number from 0 to 2^32 − 1; got ${site}. Change it.`);
}

/** Splits a seed into two 32-bit words, low word first. Throws `ArgumentError` if it is not a whole number from 0 to 2^53 − 1. */
export function seedWords(seed: number): [number, number] {
  if (!Number.isSafeInteger(seed) || seed < 0)
    throw new ArgumentError(`seed must be a whole number from 0 to 2^53 − 1; got ${seed}. Change it.`);
  return [seed % 2 ** 32, Math.floor(seed / 2 ** 32)];
}
