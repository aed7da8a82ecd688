/**
 * Buffers of a GPU that may run out of memory. WebGPU reports this late: `createBuffer` may return an invalid buffer,
 * and its error scope resolves a turn of the event loop later. If the GPU had no memory:
 * - The pool frees its unused buffers, and its budget drops below the number of bytes that failed.
 * - A buffer that nothing on the GPU refers to yet (no bind group, no upload) is created a second time. If that
 *   succeeds, the failure has no effect.
 * - Otherwise the next `sync()` or read rejects with `OutOfMemoryError`, which has the size, the label, and a table of
 *   live tensors. Launches that used the buffer did not run, so the results of that step are lost; all other tensors
 *   and the device stay usable. If the step is repeated, either it fits after the trim, or the budget refuses it before
 *   any work.
 */
import { OutOfMemoryError } from "./errors.ts";
import { mib } from "./pool.ts";
import type { BufferPool, PoolBuffer } from "./pool.ts";

/** Bytes from which a request keeps the table of live tensors of its own time; smaller ones report the table at the time of the verdict. */
const TABLE_BYTES = 2 ** 20;

/** A requested buffer. */
interface Request {
  readonly label: string;
  readonly bytes: number;
  /** Bytes reserved by the pool at the time of the request, without this buffer. */
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
   * @param fail called with each request that failed on the second attempt, too
   */
  constructor(gpu: GPUDevice, poolOf: () => BufferPool, fail: (error: OutOfMemoryError) => void) {
    this.gpu = gpu;
    this.poolOf = poolOf;
    this.fail = fail;
  }

  private get pool(): BufferPool {
    return this.poolOf();
  }

  /** Creates the storage buffer of `buffer`. */
  create(buffer: PoolBuffer, label: string): GPUBuffer {
    const request = this.request(label, buffer.size);
    return this.scoped(storageBuffer(buffer.size), () => this.refused(buffer, request));
  }

  /** Creates a buffer outside the pool, e.g. for a read-back. */
  createOther(descriptor: GPUBufferDescriptor, label: string): GPUBuffer {
    const request = this.request(label, descriptor.size);
    return this.scoped(descriptor, () => {
      this.pool.trim();
      this.fail(this.error(request));
    });
  }

  /** True while the verdict on some buffer is not known. */
  get isPending(): boolean {
    return this.pending.size > 0;
  }

  /** Resolves when all verdicts are known, including those on second attempts. */
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
    if (buffer.isBound) return this.fail(this.error(request)); // even if it is freed in the meantime: work that used it was refused
    if (!isHeld) return;
    const held = this.pool.stats.reservedBytes;
    const second = this.scoped(storageBuffer(buffer.size), () => {
      this.pool.refuse(buffer, held);
      this.fail(this.error(request));
    });
    this.pool.restore(buffer, second);
  }

  private error({ label, bytes, held, table }: Request): OutOfMemoryError {
    return new OutOfMemoryError(
      `${label}: the GPU must have ${mib(bytes)} of free memory; got an out-of-memory error with ${mib(held)} in use. The budget is now ${mib(this.pool.budget)}. ` +
        `Results since the last sync() may be lost: compute them again with fewer live tensors (scope, dispose), a smaller batch or checkpoint(). Alive:\n${table ?? this.pool.table()}`,
    );
  }
}

const storageBuffer = (size: number): GPUBufferDescriptor => ({
  size,
  usage: GPUBufferUsage.STORAGE | GPUBufferUsage.COPY_SRC | GPUBufferUsage.COPY_DST,
});
