/** Bytes between host and GPU: exact writes, reads of any size, and a bound on what waits in host memory. */
import { describe, expect, it } from "vitest";
import { ArgumentError, CaptureError, Device, F, capture, elementBytes, empty, tensorFromBytes } from "../../index.ts";
import type { DType } from "../../index.ts";
import { errorOf, useDevice } from "../gpu.ts";

const device = useDevice();
const MiB = 2 ** 20;

const pattern = (length: number, from: number): Uint8Array =>
  Uint8Array.from({ length }, (_, i) => (i * 37 + from) % 251);

describe("writeBytes", () => {
  const dtypes: readonly DType[] = ["u8", "bf16", "f16", "f32"];
  it.each(dtypes)("writes exactly the bytes asked for: %s", async (dtype) => {
    const elements = 13; // u8, bf16 and f16 end within a word
    const all = elementBytes(dtype, elements);
    const step = elementBytes(dtype, 1);
    for (let offset = 0; offset <= all; offset += step) {
      for (let length = 0; offset + length <= all; length += step) {
        const wanted = pattern(all, 1);
        using t = tensorFromBytes(wanted, [elements], dtype, device());
        const bytes = pattern(length, 100);
        t.writeBytes(bytes, offset);
        wanted.set(bytes, offset);
        expect(await t.readBytes(), `${length} bytes at ${offset}`).toEqual(wanted);
      }
    }
  });

  it("leaves the neighbours of a view as they are", async () => {
    const wanted = pattern(40, 1);
    using whole = tensorFromBytes(wanted, [40], "u8", device());
    for (const [start, count, offset, length] of [
      [3, 7, 0, 7],
      [5, 2, 1, 1],
      [9, 20, 4, 11],
      [38, 2, 0, 2],
      [1, 1, 0, 1],
    ] as const) {
      using view = whole.strided([count], [1], start);
      const bytes = pattern(length, 60 + start);
      view.writeBytes(bytes, offset);
      wanted.set(bytes, start + offset);
    }
    expect(await whole.readBytes()).toEqual(wanted);
  });

  it("comes in order with launches before and after it", async () => {
    using t = F.full([6], 1, { dtype: "bf16" });
    using before = F.mul(t, 2);
    t.writeBytes(Uint8Array.of(0x40, 0x40), 2); // 3
    using after = F.mul(t, 2);
    expect([...(await before.data())]).toEqual([2, 2, 2, 2, 2, 2]);
    expect([...(await after.data())]).toEqual([2, 6, 2, 2, 2, 2]);
  });

  it("is refused outside the tensor and inside a capture, before anything is written", async () => {
    using t = tensorFromBytes(pattern(8, 1), [8], "u8", device());
    for (const [bytes, offset] of [
      [1, 8],
      [9, 0],
      [1, -1],
      [1, 0.5],
    ] as const) {
      const error = await errorOf(() => t.writeBytes(new Uint8Array(bytes), offset));
      expect(error).toBeInstanceOf(ArgumentError);
      expect(error.message).toMatch(
        /^writeBytes: the range must be within the 8 bytes of .* got \d bytes at .* Write to a range inside it/,
      );
    }
    await expect(capture(() => t.writeBytes(Uint8Array.of(1), 3))).rejects.toThrow(CaptureError);
    expect(await t.readBytes()).toEqual(pattern(8, 1));
  });
});

describe("reading", () => {
  it("takes a tensor above half of the largest power of two below maxBufferSize", async () => {
    const small = await Device.create({ limits: { maxBufferSize: 40 * MiB } });
    const t = F.full([(36 * MiB) / 4], 1.5, { device: small });
    const values = await t.data();
    expect([values.length, values[0], values.at(-1), values.every((v) => v === 1.5)]).toEqual([
      9 * MiB,
      1.5,
      1.5,
      true,
    ]);
    const tail = await t.readBytes(36 * MiB - 6, 6);
    expect([...tail]).toEqual([0xc0, 0x3f, 0, 0, 0xc0, 0x3f]);
    t.dispose();
    small.destroy();
  });

  it("goes in parts where it is larger than a read-back buffer", async () => {
    const t = F.arange(9 * MiB);
    await device().sync();
    const { Readbacks } = await import("../../engine/transfer.ts");
    const gpu = device().gpu!;
    const sizes: number[] = [];
    const create = (size: number): GPUBuffer => {
      sizes.push(size);
      return gpu.createBuffer({ size, usage: GPUBufferUsage.MAP_READ | GPUBufferUsage.COPY_DST });
    };
    const readbacks = new Readbacks(create, 10 * MiB + 2);
    const encoder = gpu.createCommandEncoder();
    const parts = readbacks.encode(encoder, t.storage.live().gpu!, 16, 36 * MiB - 16);
    gpu.queue.submit([encoder.finish()]);
    const bytes = await readbacks.read(parts, true);
    expect(bytes.length).toBe(36 * MiB - 16);
    const values = new Int32Array(bytes.buffer);
    expect(values.findIndex((v, i) => v !== i + 4)).toBe(-1);
    expect(Math.max(...sizes)).toBeLessThanOrEqual(10 * MiB);
    expect(parts.length).toBe(4);
    t.dispose();
  });
});

describe("uploads", () => {
  it("wait in host memory only up to the bound where the loop throttles", async () => {
    const own = await Device.create();
    const [bound, chunk] = [128 * MiB, 16 * MiB];
    const bytes = new Uint8Array(chunk).fill(7);
    const target = empty([chunk / 4], { device: own });
    const work = F.full([1024, 1024], 0.5, { device: own });
    for (let i = 0; i < 10; i++) F.matmul(work, work).dispose(); // the GPU takes no upload before these
    for (let i = 0; i < 40; i++) {
      target.writeBytes(bytes);
      await own.throttle();
      expect(own.stats.queuedUploadBytes).toBeLessThanOrEqual(bound);
    }
    expect(own.stats.peakQueuedUploadBytes).toBeLessThanOrEqual(bound + chunk);
    expect(own.stats.peakQueuedUploadBytes).toBeGreaterThan(bound);
    await own.sync();
    expect((await target.readBytes(0, 4))[0]).toBe(7);
    own.destroy();
  });

  it("without throttle() are handed to the GPU all the same", async () => {
    const own = await Device.create();
    const chunk = 32 * MiB;
    const target = empty([chunk / 4], { device: own });
    const bytes = new Uint8Array(chunk);
    for (let i = 0; i < 10; i++) target.writeBytes(bytes);
    await own.sync();
    await own.throttle();
    expect(own.stats.queuedUploadBytes).toBeLessThanOrEqual(128 * MiB);
    own.destroy();
  });
});
