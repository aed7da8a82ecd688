/**
 * Guard bands: every storage buffer is made longer and filled with a pattern, and every binding reaches to the buffer's new end. Dawn is told to
 * clamp each index to its binding in the shader, so that whatever a kernel reads or writes outside of its own binding, however far, falls into
 * the band (or into the rest of a storage, for a binding that is a part of one): a write breaks the pattern, a read brings it into the result.
 */
import { createRequire } from "node:module";
import { dirname, join } from "node:path";
import type { Device } from "../index.ts";

/** Bytes behind each buffer. */
const BAND = 256;

/** NaN as f32, f16 and bf16, and a large integer. */
export const NAN_PATTERN = 0x7fff7fff;

interface Guarded {
  readonly gpu: GPUDevice;
  /** Bytes with the band. */
  readonly size: number;
  readonly pattern: number;
  /** End of what was bound or written by the host: all behind it must keep the pattern. */
  end: number;
}

const guarded = new Map<GPUBuffer, Guarded>();
let pattern = 0;

/** What new buffers are filled with, and their bands. */
export function setPattern(word: number): void {
  pattern = word;
}

const reached = (buffer: GPUBuffer, end: number): void => {
  const g = guarded.get(buffer);
  if (g) g.end = Math.max(g.end, end);
};

/** Puts `by(original)` in the place of a method. */
function wrap<T extends object, K extends keyof T>(prototype: T, name: K, by: (original: T[K]) => T[K]): void {
  prototype[name] = by(prototype[name]);
}

function guardBuffers({ GPUDevice: D, GPUBuffer: B, GPUQueue: Q }: typeof globalThis): void {
  const fill = Object.getOwnPropertyDescriptor(Q.prototype, "writeBuffer")!.value as GPUQueue["writeBuffer"];
  wrap(
    D.prototype,
    "createBuffer",
    (create) =>
      function (this: GPUDevice, descriptor) {
        if (!(descriptor.usage & 0x80)) return create.call(this, descriptor); // not GPUBufferUsage.STORAGE
        const size = descriptor.size + BAND;
        const buffer = create.call(this, { ...descriptor, size });
        fill.call(this.queue, buffer, 0, new Uint32Array(Math.floor(size / 4)).fill(pattern));
        guarded.set(buffer, { gpu: this, size, pattern, end: 0 });
        return buffer;
      },
  );
  wrap(
    B.prototype,
    "destroy",
    (destroy) =>
      function (this: GPUBuffer) {
        guarded.delete(this);
        return destroy.call(this);
      },
  );
}

function followHost({ GPUQueue: Q, GPUCommandEncoder: E }: typeof globalThis): void {
  wrap(
    Q.prototype,
    "writeBuffer",
    (write) =>
      function (this: GPUQueue, buffer, offset, data, from = 0, size?: number) {
        const unit = "BYTES_PER_ELEMENT" in data ? (data.BYTES_PER_ELEMENT as number) : 1;
        reached(buffer, offset + (size === undefined ? data.byteLength - from * unit : size * unit));
        return write.call(this, buffer, offset, data as GPUAllowSharedBufferSource, from, size);
      },
  );
  wrap(
    E.prototype,
    "copyBufferToBuffer",
    (copy) =>
      function (this: GPUCommandEncoder, ...args: unknown[]) {
        const [, , to, at, bytes] = args as [GPUBuffer, number, GPUBuffer, number, number];
        reached(to, at + bytes);
        return (copy as (...a: unknown[]) => undefined).apply(this, args);
      },
  );
  wrap(
    E.prototype,
    "clearBuffer",
    (clear) =>
      function (this: GPUCommandEncoder, buffer, offset = 0, size = Infinity) {
        reached(buffer, Math.min(offset + size, (guarded.get(buffer)?.size ?? 0) - BAND));
        return clear.call(this, buffer, offset, size === Infinity ? undefined : size);
      },
  );
}

function widenBindings({ GPUDevice: D }: typeof globalThis): void {
  wrap(
    D.prototype,
    "createBindGroup",
    (create) =>
      function (this: GPUDevice, descriptor) {
        const buffers = [...descriptor.entries].map((e) => (e.resource as GPUBufferBinding).buffer);
        const entries = [...descriptor.entries].map((e) => {
          const { buffer, offset = 0, size = 0 } = e.resource as GPUBufferBinding;
          const g = guarded.get(buffer);
          reached(buffer, offset + size);
          // Bindings of one buffer may not overlap if one is written: those stay as they are.
          const isAlone = buffers.filter((b) => b === buffer).length === 1;
          return g && isAlone ? { ...e, resource: { buffer, offset, size: g.size - offset } } : e;
        });
        return create.call(this, { ...descriptor, entries });
      },
  );
}

/** Call this before the first device of the process. */
export async function guard(): Promise<void> {
  const require = createRequire(import.meta.url);
  const folder = dirname(require.resolve("webgpu"));
  const dawn = require(join(folder, "dist", `${process.platform}-${process.arch}`, "dawn.node")) as {
    create: (flags: string[]) => GPU;
  };
  const { create } = dawn;
  // The package takes `create` from this object when it is loaded.
  dawn.create = (flags) => create(flags.map(withClamps));
  const { globals } = (await import("webgpu")) as unknown as { globals: typeof globalThis };
  guardBuffers(globals);
  followHost(globals);
  widenBindings(globals);
}

const withClamps = (flag: string): string =>
  flag.startsWith("disable-dawn-features=") ? `${flag},vulkan_use_buffer_robust_access_2` : flag;

/** Bytes outside of what was bound and written that lost their pattern, a line for each buffer of `device`. */
export async function broken(device: Device): Promise<string[]> {
  const gpu = device.gpu!;
  const mine = [...guarded].filter(([, g]) => g.gpu === gpu);
  const places: { at: number; start: number; g: Guarded }[] = [];
  let total = 0;
  const encoder = gpu.createCommandEncoder();
  for (const [, g] of mine) {
    const start = Math.ceil(g.end / 4) * 4;
    places.push({ at: total, start, g });
    total += g.size - start;
  }
  const staging = gpu.createBuffer({
    size: Math.max(4, total),
    usage: GPUBufferUsage.MAP_READ | GPUBufferUsage.COPY_DST,
  });
  for (const [i, [buffer, g]] of mine.entries()) {
    const { at, start } = places[i]!;
    encoder.copyBufferToBuffer(buffer, start, staging, at, g.size - start);
  }
  gpu.queue.submit([encoder.finish()]);
  await staging.mapAsync(GPUMapMode.READ);
  const words = new Uint32Array(staging.getMappedRange());
  const lines = places.flatMap(({ at, start, g }) => {
    const band = words.subarray(at / 4, (at + g.size - start) / 4);
    const wrong = band.findIndex((word) => word !== g.pattern);
    return wrong < 0 ? [] : [`byte ${start + 4 * wrong} of a buffer of ${g.size - BAND}, bound up to ${g.end}`];
  });
  staging.destroy();
  return lines;
}
