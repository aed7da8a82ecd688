/**
 * What the kernels of a device with `checks` found wrong in the values of tensors: out-of-range ids. A launch cannot throw, so it writes a record
 * of four words, which the device reads at its next synchronisation.
 */
import { ArgumentError } from "./errors.ts";
import type { BufferPool } from "./pool.ts";
import type { Queue } from "./queue.ts";
import type { Storage } from "./types.ts";

/** A check of ids: they must be from 0 to `limit` − 1, or `ignored`. */
export interface IdCheck {
  readonly op: string;
  readonly input: string;
  readonly limit: number;
  /** The ids are i32. */
  readonly isSigned: boolean;
  readonly ignored: number | null;
}

const BYTES = 16;

export class Faults {
  private record: Storage | null = null;
  private readonly pool: BufferPool;
  private readonly queue: Queue;
  /** The checks by their numbers, and the numbers by what they say. */
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
   * Takes the storage that checks write: number of the check, position of the first wrong id, the id, 1 if there is one, u32 each; the first fault
   * stays. It lives as long as the device.
   */
  readFrom(record: Storage): void {
    this.pool.exempt(record.bytes, record.label);
    this.record = record;
    this.clear(record);
  }

  /** Checks ran since the last look. */
  get isPending(): boolean {
    return this.pending;
  }

  /** Number of a check, the same for equal checks. */
  siteOf(check: IdCheck): number {
    const key = JSON.stringify(check);
    const known = this.numbers.get(key);
    if (known !== undefined) return known;
    this.numbers.set(key, this.checks.length);
    return this.checks.push(check) - 1;
  }

  /** The fault that the checks so far found, or null; forgets it. */
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
