/**
 * Counter-based random numbers (Philox 4×32-10, Salmon et al. 2011): a value is a function of seed, step, site and index, so there is no
 * state to save, and any value can be had again. The kernels compute the same in `kernels/core/lib/philox.wgsl`.
 */
import { ArgumentError } from "./errors.ts";
import { getDevice } from "./device.ts";
import type { Device } from "./device.ts";
import { knownOptions } from "./options.ts";
import { tensor } from "./tensor.ts";
import type { Tensor } from "./tensor.ts";

/** Four 32-bit words for a 128-bit counter and a 64-bit key. */
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

/** A 32-bit word as a number in [0, 1): its upper 24 bits. */
export const unitFloat = (word: number): number => (word >>> 8) / 16777216;

/**
 * Source of random numbers for ops: a seed and a step that live in a GPU buffer, so that captured programs can advance to the
 * next step by a write to it. Ops add a `site` (which op of the program) and the element's index.
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

  /** Moves to a step of the program; the same seed and step give the same numbers again. */
  setStep(step: number, sample = 0): void {
    if (!isWord(step))
      throw new ArgumentError(`Generator.setStep: step ${step} is not a whole number from 0 to 2^32 − 1`);
    if (!isWord(sample))
      throw new ArgumentError(`Generator.setStep: sample ${sample} is not a whole number from 0 to 2^32 − 1`);
    const words: [number, number, number, number] = [this.words[0], this.words[1], step, sample];
    this.state.device.write(
      { storage: this.state.storage, offset: 0, size: 16 },
      new Uint8Array(Uint32Array.from(words).buffer),
    );
    this.words = words; // a refused write has thrown by now
  }

  dispose(): void {
    this.state.dispose();
  }
}

/** State of the draws without a generator: their seed and how many there were. */
export interface DefaultDraws {
  readonly seed: number;
  readonly calls: number;
}

let defaults: ReadonlyMap<Device, DefaultDraws> = new Map();

/** Sets the state of the draws of `device`; a device that is gone is forgotten. */
function putDraws(device: Device, draws: DefaultDraws): void {
  defaults = new Map([...defaults].filter(([other]) => !other.isGone)).set(device, draws);
}

/** State of the draws of all devices. */
export const allDraws = (): ReadonlyMap<Device, DefaultDraws> => defaults;

/** State of the draws of `device` without a generator; seed 0 at first. */
export const defaultDraws = (device: Device): DefaultDraws => defaults.get(device) ?? { seed: 0, calls: 0 };

/** Sets the seed of the numbers that random ops draw without a generator, and starts at the first of them again. */
export function manualSeed(seed: number, device = getDevice()): void {
  seedWords(seed);
  putDraws(device, { seed, calls: 0 });
}

/** What an op without a generator draws from: the default seed, another site each time. The caller disposes the generator. */
export function defaultDraw(device: Device): { generator: Generator; site: number } {
  const { seed, calls } = defaultDraws(device);
  const generator = new Generator(seed, { device }); // may be refused: then nothing was drawn
  putDraws(device, { seed, calls: calls + 1 });
  return { generator, site: calls };
}

/** Runs `fn` with the draws without a generator reset to `from`, so that it repeats the draws made from there. Restores their state afterwards. */
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

/** Throws `ArgumentError` unless `site`, which says what op of the program draws, is a 32-bit word. */
export function checkSite(op: string, site: number): void {
  if (!isWord(site)) throw new ArgumentError(`${op}: site ${site}; a whole number from 0 to 2^32 − 1`);
}

/** A seed as two 32-bit words, low first. */
export function seedWords(seed: number): [number, number] {
  if (!Number.isSafeInteger(seed) || seed < 0)
    throw new ArgumentError(`seed ${seed} is not a whole number from 0 to 2^53 − 1`);
  return [seed % 2 ** 32, Math.floor(seed / 2 ** 32)];
}
