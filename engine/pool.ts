/**
 * The buffer pool: GPU buffers by size class, the lowest number first, so that a steady loop hands the same buffers to the same ops
 * step after step (and finds their bind groups in the cache): what a step gets depends on which buffers are free, not on the order in
 * which they were freed. Last freed first would permute them at every step. Work on a device runs in order, so a freed buffer may be
 * reused at once.
 * A byte budget refuses before it allocates: software Vulkan never reports out-of-memory, it dies.
 */
import { OutOfMemoryError } from "./errors.ts";

/** One GPU buffer of the pool; `gpu` is null on the null device and after destruction. */
export class PoolBuffer {
  readonly id: number;
  readonly size: number;
  gpu: GPUBuffer | null;
  /** Serial of the last recorded launch that uses it; uploads wait for it. */
  lastUse = -1;

  constructor(id: number, size: number, gpu: GPUBuffer | null) {
    this.id = id;
    this.size = size;
    this.gpu = gpu;
  }
}

export interface PoolStats {
  /** Bytes of storages that tensors hold (padded to 16 each). */
  liveBytes: number;
  liveCount: number;
  /** Highest `liveBytes` since the device began or `resetPeak()`. */
  peakBytes: number;
  /** Bytes of GPU buffers that exist, in use or free. */
  reservedBytes: number;
  /** GPU buffers created since the device began. */
  created: number;
}

/** Rounds up to the pool's size classes: 256-byte steps, then eighths of a power of two (at most 12.5 % waste). */
export function sizeClass(bytes: number): number {
  const step = Math.max(256, 2 ** (Math.floor(Math.log2(Math.max(bytes, 1))) - 3));
  return Math.ceil(bytes / step) * step;
}

export interface PoolBackend {
  create(size: number): GPUBuffer | null;
  destroy(buffer: PoolBuffer): void;
}

/** Where freed buffers wait, the lowest number last. A capture brings its own, so that what it recorded stays its own. */
export type FreeLists = Map<number, PoolBuffer[]>;

export class BufferPool {
  readonly budget: number;
  readonly maxBufferSize: number;
  readonly stats: PoolStats = { liveBytes: 0, liveCount: 0, peakBytes: 0, reservedBytes: 0, created: 0 };
  private readonly backend: PoolBackend;
  private readonly shared: FreeLists = new Map();
  private free: FreeLists = this.shared;
  private nextId = 0;
  /** What is alive, for the out-of-memory table: label → [count, bytes]. */
  private readonly labels = new Map<string, { count: number; bytes: number }>();

  constructor(backend: PoolBackend, budget: number, maxBufferSize: number) {
    this.backend = backend;
    this.budget = budget;
    this.maxBufferSize = maxBufferSize;
  }

  /** A buffer of at least `bytes`, contents undefined. Throws `OutOfMemoryError` beyond the budget, before it allocates. */
  acquire(bytes: number, label: string): PoolBuffer {
    const size = sizeClass(bytes);
    let buffer = this.free.get(size)?.pop() ?? this.shared.get(size)?.pop();
    if (!buffer) {
      if (size > this.maxBufferSize) {
        throw new OutOfMemoryError(`${label}: ${mib(bytes)} asked for in one buffer, the device allows ${mib(this.maxBufferSize)}; split the tensor`);
      }
      if (this.stats.reservedBytes + size > this.budget) this.trim();
      if (this.stats.reservedBytes + size > this.budget) {
        throw new OutOfMemoryError(
          `${label}: ${mib(bytes)} asked for, ${mib(this.stats.reservedBytes)} of the budget of ${mib(this.budget)} in use; ` +
            `free tensors (scope, dispose), use a smaller batch or checkpoint(), or raise memoryBudget. Alive:\n${this.table()}`,
        );
      }
      buffer = new PoolBuffer(this.nextId++, size, this.backend.create(size));
      this.stats.created++;
      this.stats.reservedBytes += size;
    }
    this.stats.liveBytes += bytes;
    this.stats.liveCount++;
    this.stats.peakBytes = Math.max(this.stats.peakBytes, this.stats.liveBytes);
    this.count(label, 1, bytes);
    return buffer;
  }

  /** Gives a buffer back. `bytes` and `label` as in `acquire`. */
  release(buffer: PoolBuffer, bytes: number, label: string): void {
    this.stats.liveBytes -= bytes;
    this.stats.liveCount--;
    this.count(label, -1, -bytes);
    push(this.free, buffer);
  }

  /** Destroys the free buffers. */
  trim(): void {
    for (const list of this.shared.values()) for (const buffer of list) this.destroy(buffer);
    this.shared.clear();
  }

  /** From now on freed buffers go to lists of their own (a capture's), which are drawn from first; returns them. */
  beginPrivate(): FreeLists {
    this.free = new Map();
    return this.free;
  }

  /** Back to the shared lists; the private ones keep their buffers until `adopt`. */
  endPrivate(): void {
    this.free = this.shared;
  }

  /** Runs `fn` with the shared lists, also inside a capture: what it acquires is never a buffer that the capture hands out again. */
  outsideCaptures<T>(fn: () => T): T {
    const before = this.free;
    this.free = this.shared;
    try {
      return fn();
    } finally {
      this.free = before;
    }
  }

  /** Takes the buffers of a finished capture back. */
  adopt(lists: FreeLists): void {
    for (const list of lists.values()) for (const buffer of list) push(this.shared, buffer);
    lists.clear();
  }

  /** Takes a constant of the engine out of the count of live bytes. */
  exempt(bytes: number, label: string): void {
    this.stats.liveBytes -= bytes;
    this.stats.liveCount--;
    this.count(label, -1, -bytes);
  }

  resetPeak(): void {
    this.stats.peakBytes = this.stats.liveBytes;
  }

  /** What is alive, largest first. */
  table(rows = 12): string {
    const sorted = [...this.labels].filter(([, v]) => v.count > 0).sort((a, b) => b[1].bytes - a[1].bytes);
    const lines = sorted.slice(0, rows).map(([label, v]) => `  ${mib(v.bytes).padStart(12)}  ${String(v.count).padStart(5)} × ${label}`);
    if (sorted.length > rows) lines.push(`  … and ${sorted.length - rows} more kinds`);
    return lines.join("\n");
  }

  private destroy(buffer: PoolBuffer): void {
    this.stats.reservedBytes -= buffer.size;
    this.backend.destroy(buffer);
    buffer.gpu = null;
  }

  private count(label: string, count: number, bytes: number): void {
    const entry = this.labels.get(label);
    if (entry) {
      entry.count += count;
      entry.bytes += bytes;
    } else this.labels.set(label, { count, bytes });
  }
}

function push(lists: FreeLists, buffer: PoolBuffer): void {
  const list = lists.get(buffer.size);
  if (!list) {
    lists.set(buffer.size, [buffer]);
    return;
  }
  let [low, high] = [0, list.length];
  while (low < high) {
    const middle = (low + high) >>> 1;
    if (list[middle]!.id > buffer.id) low = middle + 1;
    else high = middle;
  }
  list.splice(low, 0, buffer);
}

const mib = (bytes: number): string => (bytes < 1048576 ? `${(bytes / 1024).toFixed(1)} KiB` : `${(bytes / 1048576).toFixed(1)} MiB`);
