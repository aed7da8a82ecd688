/**
 * Transfers between host and GPU: the bytes of uploads that wait in host memory, and the staging buffers of read-backs.
 * `writeBuffer` copies its data into staging memory at once; WebGPU frees it after the following submit. A loop that
 * uploads faster than the GPU works would queue all of its data there.
 */
import { settle } from "./platform.ts";

/** Bytes of uploads in host memory above which `Device.throttle()` waits for the GPU. */
export const MAX_QUEUED_UPLOAD_BYTES = 128 * 2 ** 20;
/** Uploaded bytes above which a submit is watched until its end. A watch costs a promise, so smaller uploads are added to the next one. */
const WATCHED_BYTES = 8 * 2 ** 20;

/** Counts the uploaded bytes that are still in host memory. */
export class Uploads {
  /** Bytes in host memory. */
  queuedBytes = 0;
  /** Highest `queuedBytes` so far. */
  peakBytes = 0;
  /** Bytes since the last watched submit. */
  private openBytes = 0;
  private readonly watched = new Set<Promise<void>>();
  private readonly gpu: GPUDevice;

  constructor(gpu: GPUDevice) {
    this.gpu = gpu;
  }

  /** Counts an upload. Returns true if the limit is reached: the caller then submits, so that the GPU can take the data. */
  add(bytes: number): boolean {
    this.queuedBytes += bytes;
    this.openBytes += bytes;
    this.peakBytes = Math.max(this.peakBytes, this.queuedBytes);
    return this.openBytes >= MAX_QUEUED_UPLOAD_BYTES;
  }

  /** Call it after each submit. */
  submitted(atLeast = WATCHED_BYTES): void {
    if (this.openBytes < atLeast) return;
    const bytes = this.openBytes;
    this.openBytes = 0;
    const done = (): void => {
      this.watched.delete(watch);
      this.queuedBytes -= bytes;
    };
    // A lost device rejects; its memory is lost, too.
    const watch: Promise<void> = this.gpu.queue.onSubmittedWorkDone().then(done, done);
    this.watched.add(watch);
  }

  /**
   * Resolves when the GPU has taken at least one more watched submit.
   * @param gently true for a software device, see `settle`
   */
  async next(gently: boolean): Promise<void> {
    await settle(Promise.race(this.watched), gently);
  }
}

/** Maximum bytes of one buffer of a read-back: copies of a GiB and more fail on some drivers. */
const MAX_READ_BYTES = 512 * 2 ** 20;
/** Staging buffers up to this size, in powers of two, are kept for the next read. */
const MAX_KEPT_BYTES = 32 * 2 ** 20;

/** One copy of a read-back. */
export interface ReadbackPart {
  readonly staging: GPUBuffer;
  readonly at: number;
  readonly size: number;
}

/** The staging buffers of read-backs. */
export class Readbacks {
  private readonly kept = new Map<number, GPUBuffer[]>();
  private readonly create: (size: number) => GPUBuffer;
  private readonly maxBytes: number;

  /** @param maxBufferSize limit of the device: larger reads are split */
  constructor(create: (size: number) => GPUBuffer, maxBufferSize: number) {
    this.create = create;
    this.maxBytes = Math.floor(Math.min(maxBufferSize, MAX_READ_BYTES) / 4) * 4;
  }

  /** Encodes the copies of `size` bytes from `offset`, both multiples of 4. A read larger than a buffer becomes several copies. */
  encode(encoder: GPUCommandEncoder, source: GPUBuffer, offset: number, size: number): ReadbackPart[] {
    const parts: ReadbackPart[] = [];
    for (let at = 0; at < size; at += this.maxBytes) {
      const bytes = Math.min(this.maxBytes, size - at);
      const staging = this.take(bytes);
      encoder.copyBufferToBuffer(source, offset + at, staging, 0, bytes);
      parts.push({ staging, at, size: bytes });
    }
    return parts;
  }

  /** Resolves to the bytes of `parts` after the encoder was submitted, and frees their buffers. */
  async read(parts: readonly ReadbackPart[], gently: boolean): Promise<Uint8Array> {
    try {
      await settle(Promise.all(parts.map(({ staging, size }) => staging.mapAsync(GPUMapMode.READ, 0, size))), gently);
      const bytes = new Uint8Array(parts.reduce((sum, { size }) => sum + size, 0));
      for (const { staging, at, size } of parts) bytes.set(new Uint8Array(staging.getMappedRange(0, size)), at);
      for (const { staging } of parts) staging.unmap();
      for (const { staging } of parts) this.keep(staging);
      return bytes;
    } catch (error) {
      for (const { staging } of parts) staging.destroy();
      throw error;
    }
  }

  private take(bytes: number): GPUBuffer {
    // Rounding up to a power of two could exceed the limit: large buffers have their exact size.
    const size =
      bytes > MAX_KEPT_BYTES ? bytes : Math.min(this.maxBytes, Math.max(256, 2 ** Math.ceil(Math.log2(bytes))));
    return this.kept.get(size)?.pop() ?? this.create(size);
  }

  private keep(staging: GPUBuffer): void {
    if (staging.size > MAX_KEPT_BYTES) return staging.destroy();
    const list = this.kept.get(staging.size);
    if (list) list.push(staging);
    else this.kept.set(staging.size, [staging]);
  }
}
