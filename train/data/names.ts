/** Names as words for a Philox counter. */
import { sha256 } from "./sha256.ts";

/** The first 64 bits of SHA-256 of a name. */
export function nameWords(name: string): [number, number] {
  const digest = new DataView(sha256(name).buffer);
  return [digest.getUint32(0, true), digest.getUint32(4, true)];
}
