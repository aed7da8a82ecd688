/** SHA-256 (FIPS 180-4) at once and without Node, for names and other short texts. Files and weights are hashed by the platform. */

/** First 32 bits of the fractional parts of the `count` first primes' roots: square roots start the state, cube roots are the constants. */
function primeRoots(count: number, root: (prime: number) => number): Uint32Array {
  const primes: number[] = [];
  for (let n = 2; primes.length < count; n++) if (primes.every((prime) => n % prime)) primes.push(n);
  return Uint32Array.from(primes, (prime) => (root(prime) % 1) * 2 ** 32);
}

const START = primeRoots(8, Math.sqrt);
const CONSTANTS = primeRoots(64, Math.cbrt);

const rotate = (x: number, bits: number): number => (x >>> bits) | (x << (32 - bits));

/** The hash of a text's UTF-8: 32 bytes. */
export function sha256(text: string): Uint8Array {
  const bytes = new TextEncoder().encode(text);
  const padded = new DataView(new ArrayBuffer((((bytes.length + 8) >> 6) + 1) << 6));
  new Uint8Array(padded.buffer).set(bytes);
  padded.setUint8(bytes.length, 0x80);
  padded.setBigUint64(padded.byteLength - 8, BigInt(bytes.length) * 8n);
  const state = START.slice();
  for (let at = 0; at < padded.byteLength; at += 64) compress(state, padded, at);
  const digest = new DataView(new ArrayBuffer(32));
  for (const [i, word] of state.entries()) digest.setUint32(4 * i, word);
  return new Uint8Array(digest.buffer);
}

function compress(state: Uint32Array, block: DataView, at: number): void {
  const w = new Uint32Array(64);
  for (let t = 0; t < 64; t++) {
    if (t < 16) {
      w[t] = block.getUint32(at + 4 * t);
      continue;
    }
    const [x, y] = [w[t - 15]!, w[t - 2]!];
    const near = rotate(x, 7) ^ rotate(x, 18) ^ (x >>> 3);
    const far = rotate(y, 17) ^ rotate(y, 19) ^ (y >>> 10);
    w[t] = w[t - 16]! + near + w[t - 7]! + far;
  }
  let [a, b, c, d, e, f, g, h] = state as unknown as [number, number, number, number, number, number, number, number];
  for (let t = 0; t < 64; t++) {
    const one = (rotate(e, 6) ^ rotate(e, 11) ^ rotate(e, 25)) >>> 0;
    const chosen = ((e & f) ^ (~e & g)) >>> 0;
    const first = (h + one + chosen + CONSTANTS[t]! + w[t]!) >>> 0;
    const zero = (rotate(a, 2) ^ rotate(a, 13) ^ rotate(a, 22)) >>> 0;
    const majority = ((a & b) ^ (a & c) ^ (b & c)) >>> 0;
    [h, g, f, e, d, c, b, a] = [g, f, e, (d + first) >>> 0, c, b, a, (first + zero + majority) >>> 0];
  }
  for (const [i, word] of [a, b, c, d, e, f, g, h].entries()) state[i]! += word;
}
