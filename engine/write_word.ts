/** Writes of less than a 32-bit word: `writeBuffer` moves whole words, so the GPU merges the other bytes of the word. */
import { kernel, packParams } from "./kernel.ts";
import type { DeviceStorage } from "./storage.ts";

const merge = kernel(
  "write_word",
  new URL("./write_word.wgsl", import.meta.url),
  { x: "read_write" },
  { word: "u32", mask: "u32", value: "u32" },
);

/**
 * Writes `bytes`, all within one word, at byte `offset` of `storage`; the other bytes of the word do not change. Keeps
 * its order with other launches.
 */
export function writeWithinWord(storage: DeviceStorage, offset: number, bytes: Uint8Array): void {
  const { device } = storage;
  const align = device.limits.minStorageBufferOffsetAlignment;
  const start = Math.floor(offset / align) * align;
  const [mask, value] = [new Uint8Array(4), new Uint8Array(4)];
  mask.fill(0xff, offset % 4, (offset % 4) + bytes.length);
  value.set(bytes, offset % 4);
  const word = (of: Uint8Array): number => new DataView(of.buffer).getUint32(0, true);
  const params = packParams(merge, {
    word: Math.floor((offset - start) / 4),
    mask: word(mask),
    value: word(value),
  });
  device.queue.enqueue({
    kernel: merge,
    constants: undefined,
    uses: undefined,
    bindings: [{ storage, offset: start, size: Math.min(align, storage.bytes - start) }],
    params,
    grid: [1, 1, 1],
    cost: { flops: 0, bytes: 8 },
  });
  storage.markWritten();
}
