/**
 * For every test file: typed arrays with the same bytes are equal at once. Vitest compares element by element, 3 µs each, which is most of the time
 * of tests that compare weights. Arrays with other bytes go on to Vitest, which knows that NaN is NaN, and says what differs.
 */
import { expect } from "vitest";

const bytesOf = ({ buffer, byteOffset, byteLength }: ArrayBufferView): Uint8Array =>
  new Uint8Array(buffer, byteOffset, byteLength);

/** True if both are typed arrays of one type with the same bytes; else undecided. */
export function haveEqualBytes(a: unknown, b: unknown): true | undefined {
  if (!ArrayBuffer.isView(a) || !ArrayBuffer.isView(b) || a.constructor !== b.constructor) return undefined;
  return Buffer.compare(bytesOf(a), bytesOf(b)) === 0 || undefined;
}

expect.addEqualityTesters([haveEqualBytes]);
