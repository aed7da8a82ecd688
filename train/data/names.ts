/** Names as words for a Philox counter. */
import { sha256 } from "@noble/hashes/sha2.js";

/** The first 64 bits of SHA-256 of a name. Synchronous, which WebCrypto is not, and for browsers too. */
export function nameWords(name: string): [number, number] {
  const digest = sha256(new TextEncoder().encode(name));
  const words = new DataView(digest.buffer, digest.byteOffset);
  return [words.getUint32(0, true), words.getUint32(4, true)];
}
