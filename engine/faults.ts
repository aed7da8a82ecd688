/**
 * Faults that kernels find in the values of tensors on a device with `checks`: out-of-range ids. A launch cannot throw,
 * so it writes a record of four words, which the device reads at its next synchronisation.
 */
import { ArgumentError } from "./errors.ts";
import type { BufferPool } from "./pool.ts";
import type { Queue } from "./queue.ts";
import type { Storage } from "./types.ts";

/** A check of ids: each must be in 0 … `limit` − 1, or equal `ignored`. */
export interface IdCheck {
  readonly op: string;
  readonly input: string;
  readonly limit: number;
  /** True if the ids are i32. */
  readonly isSigned: boolean;
  readonly ignored: number | null;
}

const BYTES = 16;

export class Faults {
  private record: Storage | null = null;
  private readonly pool: BufferPool;
  private readonly queue: Queue;
  /** The checks by number, and the numbers by content. */
  private readonly checks: IdCheck[] = [];
  private readonly numbers = new Map<string, number>();
  private pending = false;

  constructor(pool: BufferPool, queue: Queue) {
    this.pool = pool;
    this.queue = queue;
    // Replays of captures launch checks too.
    queue.onLaunch(({ bindings }) => {
      this.pending ||= bindings.some(({ storage }) => storage === this.record);
    });
  }

  /**
   * Creates the storage that checks write, four u32: number of the check, position of the first wrong id, the id, 1 if
   * there is a fault. The first fault stays. The storage lives as long as the device.
   */
  readFrom(record: Storage): void {
    this.pool.exempt(record.bytes, record.label);
    this.record = record;
    this.clear(record);
  }

  /** True if checks ran since the last `take`. */
  get isPending(): boolean {
    return this.pending;
  }

  /** Returns the number of a check; equal checks have equal numbers. */
  siteOf(check: IdCheck): number {
    const key = JSON.stringify(check);
    const known = this.numbers.get(key);
    if (known !== undefined) return known;
    this.numbers.set(key, this.checks.length);
    return this.checks.push(check) - 1;
  }

  /** Returns the first fault found so far, or null, and clears it. */
  async take(): Promise<ArgumentError | null> {
    const { queue } = this;
    this.pending = false;
    if (!this.record) return null;
    const storage = this.record;
    const parts = queue.startRead({ storage, offset: 0, size: BYTES });
    this.clear(this.record); // after the copy, before later launches
    const bytes = await queue.finishRead(parts);
    const [site, position, word, isSet] = new Uint32Array(bytes.buffer, bytes.byteOffset, 4);
    const check = this.checks[site!];
    if (!isSet || !check) return null;
    const { op, input, limit, isSigned, ignored } = check;
    const allowed = limit === 0 ? "empty, as there is nothing to choose from" : `from 0 to ${limit - 1}`;
    return new ArgumentError(
      `${op}: ${input} must be ${allowed}${ignored === null ? "" : ` or ${ignored}`}; got ${isSigned ? word! | 0 : word} at position ${position}. Check the ids on the host, where they come from.`,
    );
  }

  private clear(record: Storage): void {
    this.queue.upload(record.live(), 0, new Uint8Array(BYTES));
  }
}
