/**
 * Buffers of a GPU that may run out of memory. WebGPU reports that only later: `createBuffer` returns a buffer that may turn out to be
 * invalid, and the verdict of its error scope comes with a turn of the event loop. What can be had then:
 * - The pool gives up its free buffers, and its budget becomes less than the bytes that were just too many.
 * - A buffer that nothing on the GPU refers to yet (no bind group, no upload) is created once more. If that succeeds, nothing happened.
 * - Otherwise the next `sync()` or read rejects with `OutOfMemoryError`: the size, its label, and what was alive. Launches that used the
 *   buffer did not run, so the results of that step are lost; all other tensors and the device stay usable. The same step taken again either
 *   fits after the trim, or the budget refuses it before any work.
 */
import { OutOfMemoryError } from "./errors.ts";
import { mib } from "./pool.ts";
import type { BufferPool, PoolBuffer } from "./pool.ts";

/** From this size on the table of what is alive is kept with the request; for smaller ones it is that of the verdict. */
const TABLE_BYTES = 2 ** 20;

/** A buffer that was asked for. */
interface Request {
  readonly label: string;
  readonly bytes: number;
  /** Bytes that the pool held when it was asked for, without it. */
  readonly held: number;
  readonly table: string | null;
}

export class Allocations {
  private readonly gpu: GPUDevice;
  private readonly poolOf: () => BufferPool;
  private readonly fail: (error: OutOfMemoryError) => void;
  private readonly pending = new Set<Promise<void>>();

  /**
   * @param poolOf returns the pool, which needs this object first
   * @param fail called with each request that failed for good
   */
  constructor(gpu: GPUDevice, poolOf: () => BufferPool, fail: (error: OutOfMemoryError) => void) {
    this.gpu = gpu;
    this.poolOf = poolOf;
    this.fail = fail;
  }

  private get pool(): BufferPool {
    return this.poolOf();
  }

  /** A storage buffer for `buffer`. */
  create(buffer: PoolBuffer, label: string): GPUBuffer {
    const request = this.request(label, buffer.size);
    return this.scoped(storageBuffer(buffer.size), () => this.refused(buffer, request));
  }

  /** A buffer outside the pool, e.g. for a read-back. */
  createOther(descriptor: GPUBufferDescriptor, label: string): GPUBuffer {
    const request = this.request(label, descriptor.size);
    return this.scoped(descriptor, () => {
      this.pool.trim();
      this.fail(this.error(request));
    });
  }

  /** The verdict of some buffer is not known yet. */
  get isPending(): boolean {
    return this.pending.size > 0;
  }

  /** Resolves when all verdicts are known, those of second attempts too. */
  async settled(): Promise<void> {
    while (this.pending.size) await Promise.all(this.pending);
  }

  private request(label: string, bytes: number): Request {
    return {
      label,
      bytes,
      held: this.pool.stats.reservedBytes,
      table: bytes >= TABLE_BYTES ? this.pool.table() : null,
    };
  }

  private scoped(descriptor: GPUBufferDescriptor, refused: () => void): GPUBuffer {
    this.gpu.pushErrorScope("out-of-memory");
    const made = this.gpu.createBuffer(descriptor);
    const verdict: Promise<void> = this.gpu
      .popErrorScope()
      .then((error) => {
        if (error) refused();
      })
      .catch(() => undefined) // the device is lost: its own error reports it
      .finally(() => this.pending.delete(verdict));
    this.pending.add(verdict);
    return made;
  }

  private refused(buffer: PoolBuffer, request: Request): void {
    const isHeld = this.pool.refuse(buffer, request.held);
    if (!isHeld) return; // freed meanwhile: nobody waits for it
    if (buffer.isBound) return this.fail(this.error(request));
    const held = this.pool.stats.reservedBytes;
    const second = this.scoped(storageBuffer(buffer.size), () => {
      this.pool.refuse(buffer, held);
      this.fail(this.error(request));
    });
    this.pool.restore(buffer, second);
  }

  private error({ label, bytes, held, table }: Request): OutOfMemoryError {
    return new OutOfMemoryError(
      `${label}: ${mib(bytes)} asked for, the GPU has no more memory; ${mib(held)} were held, the budget is ${mib(this.pool.budget)} from now on. ` +
        `What was computed since the last sync() may be lost: run it again with fewer tensors alive (scope, dispose), a smaller batch or checkpoint(). Alive:\n${table ?? this.pool.table()}`,
    );
  }
}

const storageBuffer = (size: number): GPUBufferDescriptor => ({
  size,
  usage: GPUBufferUsage.STORAGE | GPUBufferUsage.COPY_SRC | GPUBufferUsage.COPY_DST,
});
