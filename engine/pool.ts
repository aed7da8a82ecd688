/**
 * The buffer pool: GPU buffers by size class, the lowest number first, so that a steady loop gives the same buffers to the same ops
 * step after step (and finds their bind groups in the cache): what a step gets depends on which buffers are free, not on the order in
 * which they were freed. Last freed first would permute them at every step. Work on a device runs in order, so a freed buffer may be
 * reused at once.
 *
 * How much is held: programs whose sizes keep changing would pile up buffers of every class. The pool counts cycles (bytes in use rise to
 * half of the recent peak or more and fall below a quarter of it: a step, or the forward and backward of one micro-batch), and keeps
 *     reservedBytes ≤ max(1.25 · recent peak of bytes in use + 16 MiB, bytes of the buffers used in this cycle or the 4 before).
 * at the end of every cycle: what is beyond goes, longest unused first. Within a cycle, beyond the slack, a free buffer of up to twice the
 * size is taken before a new one is created. A loop that repeats within 4 cycles finds all its buffers again and creates none.
 * "In use" are buffers that storages hold and those of captures; neither is ever trimmed. "Recent" are 16 to 32 cycles.
 *
 * A byte budget refuses before it allocates: software Vulkan never reports out-of-memory, it dies.
 */
import { OutOfMemoryError } from "./errors.ts";

/** One GPU buffer of the pool; `gpu` is null on the null device and after destruction. Only the pool writes its public fields. */
export class PoolBuffer {
  readonly id: number;
  readonly size: number;
  gpu: GPUBuffer | null;
  /** The pool's cycle in which it was freed last. */
  lastCycle = 0;
  /** The GPU had no memory for it: `gpu` is invalid, and it is not reused. */
  isRefused = false;
  private use = -1;
  private bound = false;
  private lists: FreeLists | null = null;

  constructor(id: number, size: number, gpu: GPUBuffer | null) {
    this.id = id;
    this.size = size;
    this.gpu = gpu;
  }

  /** Serial of the last launch that uses it; uploads wait for that launch. */
  get lastUse(): number {
    return this.use;
  }

  /** A bind group or an upload refers to `gpu`. */
  get isBound(): boolean {
    return this.bound;
  }

  /** Lists of the capture whose launches write it: a freed buffer waits there until the capture is disposed. */
  get home(): FreeLists | null {
    return this.lists;
  }

  markUsed(serial: number): void {
    this.use = serial;
  }

  markBound(): void {
    this.bound = true;
  }

  setHome(lists: FreeLists | null): void {
    this.lists = lists;
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
  create(buffer: PoolBuffer, label: string): GPUBuffer | null;
  destroy(buffer: PoolBuffer): void;
}

/** Kept beyond the recent peak of bytes in use: a share of it, and a little for small programs. */
const SLACK_SHARE = 1.25;
const SLACK_BYTES = 16 * 2 ** 20;
/** Buffers used in so many finished cycles are kept whatever they take: tasks of a training step that follow one another have sizes of their own. */
const KEPT_CYCLES = 4;
/** Beyond the slack a free buffer up to so many times as large as needed is taken rather than a new one; it may then be held for good. */
const MAX_WASTE = 2;
/** Cycles over which a peak is recent: at least so many, at most twice. */
const RECENT_CYCLES = 16;
/** Buffers acquired after which a cycle ends in any case: a long decode behind a large prompt never rises to half of the prompt's peak. */
const MAX_CYCLE_ACQUIRES = 16384;

/** Free lists, the lowest number last. A capture brings its own, so that what it recorded stays its own. */
export type FreeLists = Map<number, PoolBuffer[]>;

export class BufferPool {
  /** Bytes that buffers may take in all; `refuse` lowers it. */
  budget: number;
  readonly maxBufferSize: number;
  readonly stats: PoolStats = { liveBytes: 0, liveCount: 0, peakBytes: 0, reservedBytes: 0, created: 0 };
  private readonly backend: PoolBackend;
  private readonly shared: FreeLists = new Map();
  private free: FreeLists = this.shared;
  /** Bytes of the buffers in the shared lists, and in the lists of captures. */
  private freeBytes = 0;
  private capturedBytes = 0;
  /** Bytes of the size classes that live storages need. */
  private inUse = 0;
  private nextId = 0;
  private cycle = 0;
  /** Buffers acquired in this cycle. */
  private acquires = 0;
  /** Highest and lowest bytes in use of this span of cycles and of the one before. */
  private peak = 0;
  private low = 0;
  private olderPeak = 0;
  private olderLow = 0;
  /** Bytes in use have come near the peak in this cycle. */
  private isHigh = false;
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
    const buffer = this.take(this.free, size) ?? this.take(this.shared, size) ?? this.create(size, bytes, label);
    this.stats.liveBytes += bytes;
    this.stats.liveCount++;
    this.stats.peakBytes = Math.max(this.stats.peakBytes, this.stats.liveBytes);
    this.count(label, 1, bytes);
    this.inUse += size;
    this.rise();
    return buffer;
  }

  /** Gives a buffer back. `bytes` and `label` as in `acquire`. */
  release(buffer: PoolBuffer, bytes: number, label: string): void {
    this.stats.liveBytes -= bytes;
    this.stats.liveCount--;
    this.count(label, -1, -bytes);
    this.inUse -= sizeClass(bytes);
    this.giveBack(buffer.home ?? this.free, buffer);
    this.fall();
  }

  /** Destroys the free buffers. */
  trim(): void {
    this.evict(0, Infinity);
  }

  private take(lists: FreeLists, size: number): PoolBuffer | undefined {
    const buffer = lists.get(size)?.pop();
    if (buffer) this.countFree(lists, -size);
    return buffer?.isRefused ? this.take(lists, size) : buffer;
  }

  /** The smallest free buffer that is larger than `size`, within reason. */
  private takeLarger(size: number): PoolBuffer | undefined {
    let best = Infinity;
    for (const [other, list] of this.shared)
      if (other > size && other <= MAX_WASTE * size && list.length) best = Math.min(best, other);
    return this.take(this.shared, best);
  }

  private create(size: number, bytes: number, label: string): PoolBuffer {
    if (size > this.maxBufferSize) {
      throw new OutOfMemoryError(
        `${label}: ${mib(bytes)} asked for in one buffer, the device allows ${mib(this.maxBufferSize)}; split the tensor`,
      );
    }
    const kept = this.keptBytes(this.inUse + size) - size;
    const larger = this.stats.reservedBytes > kept ? this.takeLarger(size) : undefined;
    if (larger) return larger;
    this.evict(kept, this.cycle - KEPT_CYCLES - 1);
    if (this.stats.reservedBytes + size > this.budget) this.evict(this.budget - size, Infinity);
    if (this.stats.reservedBytes + size > this.budget) {
      throw new OutOfMemoryError(
        `${label}: ${mib(bytes)} asked for, ${mib(this.stats.reservedBytes)} of the budget of ${mib(this.budget)} in use; ` +
          `free tensors (scope, dispose), use a smaller batch or checkpoint(), or raise memoryBudget. Alive:\n${this.table()}`,
      );
    }
    const buffer = new PoolBuffer(this.nextId++, size, null);
    buffer.gpu = this.backend.create(buffer, label);
    this.stats.created++;
    this.stats.reservedBytes += size;
    return buffer;
  }

  /** Bytes that may be held for the recent peak, or for `inUse` if that is higher, beside what captures hold. */
  private keptBytes(inUse: number): number {
    return SLACK_SHARE * Math.max(this.peak, this.olderPeak, inUse) + SLACK_BYTES + this.capturedBytes;
  }

  /** Destroys free buffers last used in `lastCycle` or before, longest unused first, until no more than `target` bytes are reserved. */
  private evict(target: number, lastCycle: number): void {
    if (this.stats.reservedBytes <= target || this.freeBytes === 0) return;
    const old = [...this.shared.values()].flat().filter((buffer) => buffer.lastCycle <= lastCycle);
    old.sort((a, b) => a.lastCycle - b.lastCycle || b.size - a.size || a.id - b.id);
    const gone = new Set<PoolBuffer>();
    for (const buffer of old) {
      if (this.stats.reservedBytes <= target) break;
      gone.add(buffer);
      this.destroy(buffer);
    }
    for (const [size, list] of this.shared) {
      const left = list.filter((buffer) => !gone.has(buffer));
      if (left.length) this.shared.set(size, left);
      else this.shared.delete(size);
    }
  }

  /** Follows the bytes in use upwards. */
  private rise(): void {
    const { inUse } = this;
    this.peak = Math.max(this.peak, inUse);
    const low = Math.min(this.low, this.olderLow);
    if (inUse - low >= (Math.max(this.peak, this.olderPeak) - low) / 2) this.isHigh = true;
    if (++this.acquires < MAX_CYCLE_ACQUIRES) return;
    this.forgetPeak();
    this.endCycle();
  }

  /** Follows the bytes in use downwards. */
  private fall(): void {
    const { inUse } = this;
    this.low = Math.min(this.low, inUse);
    const low = Math.min(this.low, this.olderLow);
    if (!this.isHigh || inUse - low > (Math.max(this.peak, this.olderPeak) - low) / 4) return;
    this.isHigh = false;
    this.endCycle();
  }

  private endCycle(): void {
    this.acquires = 0;
    if (++this.cycle % RECENT_CYCLES === 0) this.forgetPeak();
    this.evict(this.keptBytes(this.inUse), this.cycle - KEPT_CYCLES - 1);
  }

  private forgetPeak(): void {
    [this.olderPeak, this.olderLow] = [this.peak, this.low];
    this.peak = this.low = this.inUse;
  }

  /**
   * Takes note that the GPU had no memory for `buffer` beside the `held` bytes of then: frees what nothing uses, and lowers the budget below
   * the sum, so that the next attempt fits or is refused before it allocates. Returns whether a storage holds the buffer.
   */
  refuse(buffer: PoolBuffer, held: number): boolean {
    this.stats.reservedBytes -= buffer.size;
    buffer.isRefused = true;
    this.budget = Math.min(this.budget, held + buffer.size - 1);
    const isFree = [this.free, this.shared].some((lists) => lists.get(buffer.size)?.includes(buffer));
    this.trim();
    return !isFree;
  }

  /** Replaces a refused allocation by a second attempt. */
  restore(buffer: PoolBuffer, gpu: GPUBuffer | null): void {
    this.stats.reservedBytes += buffer.size;
    buffer.isRefused = false;
    buffer.gpu = gpu;
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

  /** Runs `fn` with the shared lists, also inside a capture: what it acquires is never a buffer that the capture reuses. */
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
    for (const list of lists.values())
      for (const buffer of list) {
        this.countFree(lists, -buffer.size);
        this.giveBack(this.shared, buffer);
      }
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
    const lines = sorted
      .slice(0, rows)
      .map(([label, v]) => `  ${mib(v.bytes).padStart(12)}  ${String(v.count).padStart(5)} × ${label}`);
    if (sorted.length > rows) lines.push(`  … and ${sorted.length - rows} more kinds`);
    return lines.join("\n");
  }

  private giveBack(lists: FreeLists, buffer: PoolBuffer): void {
    if (buffer.isRefused) return;
    buffer.lastCycle = this.cycle;
    push(lists, buffer);
    this.countFree(lists, buffer.size);
  }

  private countFree(lists: FreeLists, bytes: number): void {
    if (lists === this.shared) this.freeBytes += bytes;
    else this.capturedBytes += bytes;
  }

  private destroy(buffer: PoolBuffer): void {
    if (!buffer.isRefused) this.stats.reservedBytes -= buffer.size;
    this.freeBytes -= buffer.size;
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

export const mib = (bytes: number): string =>
  bytes < 1048576 ? `${(bytes / 1024).toFixed(1)} KiB` : `${(bytes / 1048576).toFixed(1)} MiB`;
