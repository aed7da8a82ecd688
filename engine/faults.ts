/**
 * Faults that kernels find in the values of tensors on a device with `checks`: out-of-range ids, and weights that are no probabilities. A launch cannot throw,
 * so it writes a record of four words, which the device reads at its next synchronisation.
 */
import { ArgumentError } from "./errors.ts";
import type { BufferPool } from "./pool.ts";
import type { Queue } from "./queue.ts";
import type { Storage } from "./types.ts";

/** A check of words: each must be in 0 … `limit` − 1, or equal `ignored`. */
export interface IdCheck {
  readonly op: string;
  readonly input: string;
  readonly limit: number;
  /** How the words are read. */
  readonly dtype: "i32" | "u32" | "f32";
  readonly ignored: number | null;
  /** Set if the words are not ids: the parts of the message after "must be" and "got", with `{value}` and `{position}`. */
  readonly text?: { readonly required: string; readonly got: string };
}

/** A word as a number of a dtype. */
function numberOf(word: number, dtype: IdCheck["dtype"]): number {
  if (dtype === "f32") return new Float32Array(Uint32Array.of(word).buffer)[0]!;
  return dtype === "i32" ? word | 0 : word;
}

function messageOf({ op, input, limit, dtype, ignored, text }: IdCheck, word: number, position: number): string {
  const value = String(numberOf(word, dtype));
  if (text) {
    const got = text.got.replace("{value}", value).replace("{position}", String(position));
    return `${op}: ${input} must be ${text.required}; got ${got}. Check them on the host, where they come from.`;
  }
  const allowed = limit === 0 ? "empty, as there is nothing to choose from" : `from 0 to ${limit - 1}`;
  return `${op}: ${input} must be ${allowed}${ignored === null ? "" : ` or ${ignored}`}; got ${value} at position ${position}. Check the ids on the host, where they come from.`;
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
    return new ArgumentError(messageOf(check, word!, position!));
  }

  private clear(record: Storage): void {
    this.queue.upload(record.live(), 0, new Uint8Array(BYTES));
  }
}
