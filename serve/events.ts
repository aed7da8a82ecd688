/** Values that one side pushes and another iterates over, and bounds on how many do something at once and on the bytes that they hold. */
import { ApiError } from "./errors.ts";

/** An endless list in order; iteration ends with `end`, or throws what `fail` gave. */
export class EventQueue<T> implements AsyncIterable<T> {
  private readonly values: T[] = [];
  private ended: { readonly error: Error | null } | null = null;
  private wake: (() => void) | null = null;

  /** Values that nobody has taken yet. */
  get size(): number {
    return this.values.length;
  }

  push(value: T): void {
    if (this.ended) return;
    this.values.push(value);
    this.wake?.();
  }

  end(): void {
    this.ended ??= { error: null };
    this.wake?.();
  }

  fail(error: unknown): void {
    this.ended ??= { error: error instanceof Error ? error : new Error(String(error)) };
    this.wake?.();
  }

  async *[Symbol.asyncIterator](): AsyncGenerator<T> {
    for (;;) {
      while (this.values.length) yield this.values.shift()!;
      if (this.ended) {
        if (this.ended.error !== null) throw this.ended.error;
        return;
      }
      await new Promise<void>((resolve) => (this.wake = resolve));
    }
  }
}

/** A bound on the bytes that all requests hold. */
export class Budget {
  private readonly most: number;
  private readonly full: string;
  private held = 0;

  /** @param full says what there is too much of */
  constructor(most: number, full: string) {
    this.most = most;
    this.full = full;
  }

  /** Counts bytes until the returned function is called. Throws `ApiError` 429 if they do not fit. */
  take(bytes: number): () => void {
    if (this.held + bytes > this.most)
      throw new ApiError(429, `${this.full}. Send the request again later.`, { type: "rate_limit_error", code: "too_many_bytes", retryAfterS: 2 }); // prettier-ignore
    this.held += bytes;
    return () => (this.held -= bytes);
  }
}

/** At most `count` tasks at once; others wait in order. */
export class Semaphore {
  private readonly waiting: (() => void)[] = [];
  private free: number;

  constructor(count: number) {
    this.free = count;
  }

  async run<T>(task: () => Promise<T>): Promise<T> {
    if (this.free > 0) this.free--;
    else await new Promise<void>((resolve) => this.waiting.push(resolve));
    try {
      return await task();
    } finally {
      const next = this.waiting.shift();
      if (next) next();
      else this.free++;
    }
  }
}
