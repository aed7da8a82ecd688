/**
 * The buffer pool: GPU buffers by size class, reused by lowest number first. In a steady loop the same ops get the same
 * buffers at every step, and find their bind groups in the cache, because the choice depends on which buffers are free,
 * not on the order in which they were freed. Reusing the last freed buffer first would permute them at every step. Work
 * on a device runs in order, so a freed buffer may be reused at once.
 *
 * How much the pool keeps: programs whose sizes keep changing would accumulate buffers of every class. The pool counts
 * cycles (bytes in use rise to at least half of the recent peak and fall below a quarter of it: a step, or the forward
 * and backward of one micro-batch), and enforces
 *     reservedBytes ≤ max(1.25 · recent peak of bytes in use + 16 MiB, bytes of the buffers used in this cycle or the 4
 *     before). at the end of every cycle by destroying the buffers that are unused for longest. Within a cycle, beyond
 *     the slack, a free buffer of up to twice the size is reused before a new one is created. A loop that repeats
 *     within 4 cycles reuses all its buffers and creates none. Buffers "in use" are those of storages and captures;
 *     they are never trimmed. "Recent" means the last 16 to 32 cycles.
 *
 * A byte budget refuses requests before they allocate: software Vulkan does not report out-of-memory, it crashes.
 */
import { OutOfMemoryError } from "./errors.ts";

/** One GPU buffer of the pool; `gpu` is null on the null device and after destruction. Only the pool writes its public fields. */
export class PoolBuffer {
  readonly id: number;
  readonly size: number;
  gpu: GPUBuffer | null;
  /** Cycle of the pool in which the buffer was last freed. */
  lastCycle = 0;
  /** True if the GPU had no memory for it: `gpu` is invalid, and the buffer is not reused. */
  isRefused = false;
  private use = -1;
  private bound = false;
  private lists: FreeLists | null = null;

  constructor(id: number, size: number, gpu: GPUBuffer | null) {
    this.id = id;
    this.size = size;
    this.gpu = gpu;
  }

  /** Serial number of the last launch that uses it; uploads wait for that launch. */
  get lastUse(): number {
    return this.use;
  }

  /** True if a bind group or an upload refers to `gpu`. */
  get isBound(): boolean {
    return this.bound;
  }

  /** Free lists of the capture whose launches write it: a freed buffer stays there until the capture is disposed. */
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
  /** Bytes of the storages of tensors (each padded to 16). */
  liveBytes: number;
  liveCount: number;
  /** Highest `liveBytes` since the device was created, or since `resetPeak()`. */
  peakBytes: number;
  /** Bytes of existing GPU buffers, in use or free. */
  reservedBytes: number;
  /** GPU buffers created since the device was created. */
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

/** Slack beyond the recent peak of bytes in use: a share of it, plus some bytes for small programs. */
const SLACK_SHARE = 1.25;
const SLACK_BYTES = 16 * 2 ** 20;
/** Number of finished cycles whose buffers are kept at any size: consecutive tasks of a training step use different sizes. */
const KEPT_CYCLES = 4;
/**
 * Beyond the slack, a free buffer of up to this many times the needed size is used rather than a new one; its new owner
 * may keep it for good.
 */
const MAX_WASTE = 2;
/** Cycles for which a peak counts as recent: at least this many, at most twice as many. */
const RECENT_CYCLES = 16;
/**
 * A cycle ends after this many acquired buffers in any case: a long decode after a large prompt never reaches half of
 * the prompt's peak.
 */
const MAX_CYCLE_ACQUIRES = 16384;

/** Free lists, with the lowest number last. A capture has its own, so that other work does not use its buffers. */
export type FreeLists = Map<number, PoolBuffer[]>;

export class BufferPool {
  /** Maximum bytes of all buffers; `refuse` lowers it. */
  budget: number;
  readonly maxBufferSize: number;
  readonly stats: PoolStats = { liveBytes: 0, liveCount: 0, peakBytes: 0, reservedBytes: 0, created: 0 };
  private readonly backend: PoolBackend;
  private readonly shared: FreeLists = new Map();
  private free: FreeLists = this.shared;
  /** Bytes of the free buffers in the shared lists, and in the lists of captures. */
  private freeBytes = 0;
  private capturedBytes = 0;
  /** Bytes of the size classes of live storages. */
  private inUse = 0;
  private nextId = 0;
  private cycle = 0;
  /** Buffers acquired in this cycle. */
  private acquires = 0;
  /** Highest and lowest bytes in use, of this span of cycles and of the previous one. */
  private peak = 0;
  private low = 0;
  private olderPeak = 0;
  private olderLow = 0;
  /** True if the bytes in use came near the peak in this cycle. */
  private isHigh = false;
  /** Live storages for the out-of-memory table: label → [count, bytes]. */
  private readonly labels = new Map<string, { count: number; bytes: number }>();

  constructor(backend: PoolBackend, budget: number, maxBufferSize: number) {
    this.backend = backend;
    this.budget = budget;
    this.maxBufferSize = maxBufferSize;
  }

  /** Returns a buffer of at least `bytes` with undefined contents. Throws `OutOfMemoryError` beyond the budget, before it allocates. */
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

  /** Returns a buffer to the free lists. `bytes` and `label` are those of `acquire`. */
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

  /** Returns the smallest free buffer that is larger than `size`, up to a bound. */
  private takeLarger(size: number): PoolBuffer | undefined {
    let best = Infinity;
    for (const [other, list] of this.shared)
      if (other > size && other <= MAX_WASTE * size && list.length) best = Math.min(best, other);
    return this.take(this.shared, best);
  }

  private create(size: number, bytes: number, label: string): PoolBuffer {
    if (size > this.maxBufferSize) {
      throw new OutOfMemoryError(
        `${label}: one buffer must have at most ${mib(this.maxBufferSize)}, the device's limit; got ${mib(bytes)}. Split the tensor.`,
      );
    }
    const kept = this.keptBytes(this.inUse + size) - size;
    const larger = this.stats.reservedBytes > kept ? this.takeLarger(size) : undefined;
    if (larger) return larger;
    this.evict(kept, this.cycle - KEPT_CYCLES - 1);
    if (this.stats.reservedBytes + size > this.budget) this.evict(this.budget - size, Infinity);
    if (this.stats.reservedBytes + size > this.budget) {
      throw new OutOfMemoryError(
        `${label}: buffers must fit the budget of ${mib(this.budget)}; got a request for ${mib(bytes)} with ${mib(this.stats.reservedBytes)} in use. ` +
          `Free tensors (scope, dispose), use a smaller batch or checkpoint(), or raise memoryBudget. Alive:\n${this.table()}`,
      );
    }
    const buffer = new PoolBuffer(this.nextId++, size, null);
    buffer.gpu = this.backend.create(buffer, label);
    this.stats.created++;
    this.stats.reservedBytes += size;
    return buffer;
  }

  /** Returns the bytes to keep for the recent peak, or for `inUse` if that is higher, in addition to those of captures. */
  private keptBytes(inUse: number): number {
    return SLACK_SHARE * Math.max(this.peak, this.olderPeak, inUse) + SLACK_BYTES + this.capturedBytes;
  }

  /** Destroys free buffers last used in `lastCycle` or before, longest unused first, until at most `target` bytes are reserved. */
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

  /** Updates the peaks when the bytes in use rise. */
  private rise(): void {
    const { inUse } = this;
    this.peak = Math.max(this.peak, inUse);
    const low = Math.min(this.low, this.olderLow);
    if (inUse - low >= (Math.max(this.peak, this.olderPeak) - low) / 2) this.isHigh = true;
    if (++this.acquires < MAX_CYCLE_ACQUIRES) return;
    this.forgetPeak();
    this.endCycle();
  }

  /** Updates the cycle when the bytes in use fall. */
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
   * Handles that the GPU had no memory for `buffer` in addition to `held` bytes: frees unused buffers, and lowers the
   * budget below the sum, so that the next attempt fits or is refused before it allocates. Returns true if a storage
   * owns the buffer.
   */
  refuse(buffer: PoolBuffer, held: number): boolean {
    this.stats.reservedBytes -= buffer.size;
    buffer.isRefused = true;
    this.budget = Math.min(this.budget, held + buffer.size - 1);
    const isFree = [this.free, this.shared].some((lists) => lists.get(buffer.size)?.includes(buffer));
    this.trim();
    return !isFree;
  }

  /** Replaces a refused allocation with a second attempt. */
  restore(buffer: PoolBuffer, gpu: GPUBuffer | null): void {
    this.stats.reservedBytes += buffer.size;
    buffer.isRefused = false;
    buffer.gpu = gpu;
  }

  /** Begins private free lists (for a capture): freed buffers go there, and are reused from there first. Returns the lists. */
  beginPrivate(): FreeLists {
    this.free = new Map();
    return this.free;
  }

  /** Returns to the shared lists; the private ones keep their buffers until `adopt`. */
  endPrivate(): void {
    this.free = this.shared;
  }

  /** Runs `fn` with the shared lists, also inside a capture: it never acquires a buffer that the capture reuses. */
  outsideCaptures<T>(fn: () => T): T {
    const before = this.free;
    this.free = this.shared;
    try {
      return fn();
    } finally {
      this.free = before;
    }
  }

  /** Returns the buffers of a finished capture to the shared lists. */
  adopt(lists: FreeLists): void {
    for (const list of lists.values())
      for (const buffer of list) {
        this.countFree(lists, -buffer.size);
        this.giveBack(this.shared, buffer);
      }
    lists.clear();
  }

  /** Excludes a constant of the engine from the count of live bytes. */
  exempt(bytes: number, label: string): void {
    this.stats.liveBytes -= bytes;
    this.stats.liveCount--;
    this.count(label, -1, -bytes);
  }

  resetPeak(): void {
    this.stats.peakBytes = this.stats.liveBytes;
  }

  /** Formats the live storages, largest first. */
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
